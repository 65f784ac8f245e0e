//! Work whose length is known: it sleeps, and it notes when its turn came. It touches no memory of the device.
#![expect(unsafe_code, reason = "a kernel of the bench's own is launched, as ops do")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytemuck::{Pod, Zeroable};
use lighterage_device::{Cost, Host, Kernel, Stream, Workers};

use crate::failure::Result;

/// What can be noted in one run.
pub(super) const NOTES: usize = 1 << 14;
static TIMES: [AtomicU64; NOTES] = [const { AtomicU64::new(0) }; NOTES];
static START: OnceLock<Instant> = OnceLock::new();

/// Notes the time at its beginning, then does nothing for a while.
struct Busy;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BusyParams {
    note: u64,
    nanoseconds: u64,
}

impl Kernel for Busy {
    type Params = BusyParams;
    const NAME: &'static str = "busy";

    unsafe fn host(params: &BusyParams, _: &Workers) {
        let now = Instant::now();
        let since = now.duration_since(*START.get_or_init(|| now));
        let note = usize::try_from(params.note).unwrap_or(0) % NOTES;
        TIMES[note].store(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let end = now + Duration::from_nanos(params.nanoseconds);
        // A sleep returns late by some fifty microseconds: the rest is waited for awake.
        thread::sleep(
            end.saturating_duration_since(Instant::now()).saturating_sub(Duration::from_micros(200)),
        );
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    }

    fn cost(_: &BusyParams) -> Cost {
        Cost::default()
    }
}

/// Queues it.
pub(super) fn launch(stream: &Stream<Host>, note: usize, seconds: f64) -> Result<()> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some milliseconds")]
    let nanoseconds = (seconds * 1e9) as u64;
    let params = BusyParams { note: (note % NOTES) as u64, nanoseconds };
    // SAFETY: the kernel reads and writes no memory of the device.
    Ok(unsafe { stream.launch::<Busy>(&params) }?)
}

/// Seconds at which a launch with that note began, after it was waited for.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn noted(note: usize) -> f64 {
    TIMES[note % NOTES].load(Ordering::Relaxed) as f64 * 1e-9
}
