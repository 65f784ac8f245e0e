//! What the rule for slack ([`Settings::slack_permille`]) does on traces that it was not chosen by: those of `benches/traces` with other sizes, backwards, in
//! another order, one behind the other and beside each other; and random ones.
//!
//! `figures.rs` holds the traces that it was chosen by.

#![expect(clippy::unwrap_used, reason = "a test that fails")]

use std::collections::BTreeMap;

use lighterage_allocator::{Allocator, Op, Replay, Settings, Trace};
use lighterage_device::{Device, Ledger, Sim, SimConfig};
use lighterage_testkit::{MODEL_TRACES, RANDOM_TRACES, Rng, trace_bytes};

/// Passes of each: most of what is left behind is left in the first few.
const PASSES: usize = 10;

/// A request from its beginning to its end; times are numbers of ops.
#[derive(Clone, Copy, Debug)]
struct Life {
    start: f64,
    end: f64,
    stream: u8,
    bytes: u64,
}

fn lives(name: &str) -> Vec<Life> {
    let trace = Trace::from_columns(&trace_bytes(name)).unwrap();
    let last = trace.ops().len() as f64;
    let mut alive = BTreeMap::new();
    let mut lives: Vec<Life> = Vec::new();
    for (op, time) in trace.ops().iter().zip(0_u32..) {
        match *op {
            Op::Alloc { id, stream, bytes } => {
                alive.insert(id, lives.len());
                lives.push(Life { start: f64::from(time), end: last, stream, bytes });
            }
            Op::Free { id } => lives[alive.remove(&id).unwrap()].end = f64::from(time),
        }
    }
    lives
}

fn trace_of(lives: &[Life]) -> Trace {
    let mut ops: Vec<(f64, Op)> = Vec::new();
    for (life, id) in lives.iter().zip(0_u32..) {
        ops.push((life.start, Op::Alloc { id, stream: life.stream, bytes: life.bytes }));
        ops.push((life.end, Op::Free { id }));
    }
    // What ends when something begins ends first; the order of the rest is that of the lives.
    let is_alloc = |op: &Op| matches!(op, Op::Alloc { .. });
    ops.sort_by(|(a, left), (b, right)| a.total_cmp(b).then(is_alloc(left).cmp(&is_alloc(right))));
    Trace::new(ops.into_iter().map(|(_, op)| op))
}

/// Every size by a factor of its own between 0.7 and 1.4: what was the sum of others is it no more.
fn resized(name: &str, seed: u64) -> Trace {
    let (mut rng, mut factors) = (Rng::new(seed), BTreeMap::new());
    let mut lives = lives(name);
    for life in &mut lives {
        let permille = *factors.entry(life.bytes).or_insert_with(|| 700 + rng.below(701));
        life.bytes = (life.bytes * permille / 1000).max(1);
    }
    trace_of(&lives)
}

/// What began last ends first.
fn backwards(name: &str) -> Trace {
    let lives = lives(name).into_iter().map(|life| Life { start: -life.end, end: -life.start, ..life });
    trace_of(&lives.collect::<Vec<_>>())
}

/// Beginnings and ends move by some ops, as with other schedules and collectors.
fn jittered(name: &str, seed: u64) -> Trace {
    let mut rng = Rng::new(seed);
    let moved = lives(name).into_iter().map(|life| {
        let mut shift = || 20.0 * (rng.unit() - 0.5);
        let start = life.start + shift();
        Life { start, end: (life.end + shift()).max(start + 0.5), ..life }
    });
    trace_of(&moved.collect::<Vec<_>>())
}

/// One program behind another, and the first again.
fn phases(first: &str, second: &str) -> Trace {
    let (first, second) = (lives(first), lives(second));
    let length = |lives: &[Life]| lives.iter().map(|life| life.end).fold(0.0, f64::max) + 1.0;
    let later = |lives: &[Life], by: f64| {
        lives
            .iter()
            .map(|life| Life { start: life.start + by, end: life.end + by, ..*life })
            .collect::<Vec<_>>()
    };
    let (one, two) = (length(&first), length(&second));
    trace_of(&[first.clone(), later(&second, one), later(&first, one + two)].concat())
}

/// Two programs at a time, on two streams, in turns.
fn beside(first: &str, second: &str) -> Trace {
    let (first, second) = (lives(first), lives(second));
    let share = first.len() as f64 / second.len() as f64;
    let other = second.iter().map(|life| Life {
        start: life.start * share,
        end: life.end * share,
        stream: 1,
        bytes: life.bytes,
    });
    trace_of(&first.into_iter().map(|life| Life { stream: 0, ..life }).chain(other).collect::<Vec<_>>())
}

fn held_out() -> Vec<(String, Trace)> {
    let mut traces = Vec::new();
    for (name, seed) in MODEL_TRACES.into_iter().zip(1..) {
        traces.push((format!("{name}, other sizes"), resized(name, seed)));
        traces.push((format!("{name}, other sizes again"), resized(name, 100 + seed)));
        traces.push((format!("{name}, backwards"), backwards(name)));
        traces.push((format!("{name}, another order"), jittered(name, 200 + seed)));
    }
    for (first, second) in
        [("llm_gen", "sd_resident"), ("llm_train", "sd_offload"), ("sd_offload", "llm_gen")]
    {
        traces.push((format!("{first}, {second}, {first}"), phases(first, second)));
        traces.push((format!("{first} beside {second}"), beside(first, second)));
    }
    for name in RANDOM_TRACES {
        traces.push((name.to_owned(), Trace::from_columns(&trace_bytes(name)).unwrap()));
    }
    traces
}

fn allocator(limit: u64, settings: &Settings) -> Allocator<Sim> {
    let sim = Sim::new(SimConfig { capacity_bytes: 256 << 30, ..SimConfig::default() }).unwrap();
    Allocator::new(&Device::new(sim, Ledger::new(limit), Ledger::new(0)), settings.clone()).unwrap()
}

/// What was reserved at most without a limit, in per cent over what is alive, and calls that map or unmap in a pass after the others.
fn outcome(trace: &Trace, settings: &Settings) -> (f64, u64) {
    let allocator = allocator(256 << 30, settings);
    let mut replay = Replay::new(trace, &allocator).unwrap();
    let calls = || allocator.device().backend().memory_calls().map_type();
    let mut before = 0;
    for _ in 0..PASSES {
        before = calls();
        assert_eq!(replay.pass(), Ok(0));
    }
    let reserved = allocator.statistics().all.reserved_bytes.peak;
    ((reserved as f64 / trace.peak_bytes() as f64 - 1.0) * 100.0, calls() - before)
}

/// Requests that are refused so many thousandths over what is alive.
fn refused(trace: &Trace, settings: &Settings, permille: u64) -> usize {
    let live = trace.peak_bytes();
    let allocator = allocator(live + live * permille / 1000, settings);
    let refused = Replay::new(trace, &allocator).unwrap().pass().unwrap();
    allocator.audit().unwrap();
    refused
}

/// The rule beside others, on both kinds of traces: for whoever wants to change it.
#[test]
#[ignore = "a table, in half a minute"]
fn slack_of_other_rules() {
    let rules = [Some(0), Some(5), Some(10), Some(15), Some(20), Some(30), Some(50), None];
    let chosen_by =
        MODEL_TRACES.map(|name| (name.to_owned(), Trace::from_columns(&trace_bytes(name)).unwrap()));
    for (kind, traces) in [("chosen by", chosen_by.to_vec()), ("held out", held_out())] {
        for rule in rules {
            let settings = Settings { slack_permille: rule, ..Settings::default() };
            let lines = traces.iter().map(|(name, trace)| (outcome(trace, &settings), name));
            let mut lines: Vec<_> = lines.collect();
            lines.sort_by(|left, right| left.0.0.total_cmp(&right.0.0));
            let mean = lines.iter().map(|((share, _), _)| share).sum::<f64>() / lines.len() as f64;
            let calls: u64 = lines.iter().map(|((_, calls), _)| calls).sum();
            let ((worst, _), name) = lines[lines.len() - 1];
            let refused = traces.iter().filter(|(_, trace)| refused(trace, &settings, 20) > 0).count();
            let above = lines.iter().filter(|((share, _), _)| *share > 2.0).count();
            println!(
                "{kind} {rule:?}: {mean:+.2} % in the mean, {above} of {} above 2 %, {worst:+.2} % at most ({name}); {calls} calls; {refused} refused within 2 %",
                lines.len()
            );
        }
    }
}

/// In thousandths over what is alive: the least limit under which nothing is refused, up to 64.
fn least(trace: &Trace, settings: &Settings) -> Option<u64> {
    let works = |permille| refused(trace, settings, permille) == 0;
    let (mut low, mut high) = (0, 64);
    if !works(high) {
        return None;
    }
    while high - low > 1 {
        let middle = (low + high) / 2;
        if works(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

#[test]
#[ignore = "a table, in half a minute"]
fn least_limits() {
    for (name, trace) in held_out() {
        let pages = Settings { big_chunk_pages: 1, ..Settings::default() };
        let [pages, ladder] = [pages, Settings::default()].map(|settings| least(&trace, &settings));
        println!("{name}: least {pages:?} with chunks of a page, {ladder:?} with the ladder");
    }
}

/// What is reserved without a limit. The traces that the rule was chosen by hold 2 % (4 % on two streams); these do not: 2.2 % in the mean, and 15 of 36 more than 2 %.
#[test]
fn little_more_is_reserved_than_is_alive_on_other_traces() {
    let (mut shares, mut above) = (Vec::new(), 0);
    for (name, trace) in held_out() {
        let (share, calls) = outcome(&trace, &Settings::default());
        println!("{name}: {share:+.2} %, {calls} calls in a later pass");
        let bound = match name.as_str() {
            "rmm_10000_64" => 7.5,
            _ if trace.streams() > 1 => 7.0,
            _ => 4.5,
        };
        assert!(share <= bound, "{name}: {share:+.2} %");
        above += usize::from(share > 2.0);
        shares.push(share);
    }
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    println!("{mean:+.2} % in the mean, {above} above 2 %");
    assert!(mean <= 2.2 && above <= 16, "{mean:+.2} % in the mean, {above} of {} above 2 %", shares.len());
}

/// What is refused under a limit. The traces of `figures.rs` need 0.5 % over what is alive with chunks of a page and 2 % with the ladder; of these 25 and 30 of 36 do, and all
/// but the small random one 2 % and 5 %.
#[test]
fn few_other_traces_are_refused_little_over_what_is_alive() {
    let pages = Settings { big_chunk_pages: 1, ..Settings::default() };
    let ladder = Settings::default();
    let traces = held_out();
    for (settings, permille, served_min) in
        [(&pages, 5, 25), (&pages, 20, 35), (&ladder, 20, 30), (&ladder, 50, 35)]
    {
        let refusing: Vec<_> = traces
            .iter()
            .filter(|(_, trace)| refused(trace, settings, permille) > 0)
            .map(|(name, _)| name)
            .collect();
        assert!(
            traces.len() - refusing.len() >= served_min,
            "{permille} per mille, {settings}: {refusing:?}"
        );
    }
}
