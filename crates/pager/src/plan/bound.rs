use crate::plan::goal::{Cycle, Link};
use crate::plan::tape::Tape;
use crate::plan::timing::as_f64;

/// No turn of the cycle takes less, whatever is resident, in whatever order bytes come, with `memory_bytes` for weights.
///
/// A turn takes all of its launches. And for every window of neighbouring visits: when its first visit begins, at most the memory's bytes of the window's units are on
/// the device; the rest crosses the link before its last visit begins, and the last visit and all that are outside of the window take their time after that. The
/// windows go around the end of the cycle.
pub(crate) fn lower_bound(tape: &Tape, link: &Link, cycle: &Cycle, memory_bytes: u64) -> f64 {
    let visits = &cycle.visits;
    let total = cycle.seconds();
    let mut bound = total;
    // A unit counts once for each window, however often it is visited in it.
    let mut seen_in = vec![usize::MAX; tape.spans.len()];
    for first in 0..visits.len() {
        let (mut bytes, mut inside) = (0, 0.0);
        for step in 0..visits.len() {
            let visit = &visits[(first + step) % visits.len()];
            let Some(place) = tape.place(visit.unit) else { continue };
            if std::mem::replace(&mut seen_in[place], first) != first {
                bytes += tape.spans[place].bytes;
            }
            if bytes > memory_bytes {
                let crossing = as_f64(bytes - memory_bytes) / link.bytes_per_second;
                bound = bound.max(crossing + total - inside);
            }
            inside += visit.seconds();
        }
    }
    bound
}
