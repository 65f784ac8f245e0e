//! What is said about the caching allocator, against a device that watches every call.

mod faults;
mod machine;
mod named;
mod plans;
#[expect(unsafe_code, reason = "a backend's calls are unsafe: it hands them on")]
mod probe;
mod snapshots;
mod threads;
mod told;

use lighterage_device::{Device, Ledger, StreamKind};

use self::probe::{Clock, Failing, Probe};
use crate::{Allocator, OnStream, Settings};

const PAGE: u64 = 1 << 16;

/// A device with an allocator and some streams on it; the second stream is a copy stream.
struct Bench {
    device: Device<Probe>,
    allocator: Allocator<Probe>,
    clock: Clock,
    streams: Vec<OnStream<Probe>>,
}

impl Bench {
    fn new(pages: u64, streams: usize, settings: Settings) -> Self {
        Self::failing(pages, streams, settings, None)
    }

    fn failing(pages: u64, streams: usize, settings: Settings, fail: Option<Failing>) -> Self {
        let ledger = Ledger::new(pages * PAGE);
        let probe = Probe::new(PAGE, 4 * pages * PAGE, &ledger, fail);
        let clock = probe.clock();
        let device = Device::new(probe, ledger, Ledger::new(0));
        let allocator = Allocator::new(&device, settings).unwrap();
        let kind = |number| if number == 1 { StreamKind::Copy } else { StreamKind::Compute };
        let on = |number| allocator.on(&device.stream(kind(number)).unwrap()).unwrap();
        let streams = (0..streams).map(on).collect();
        Self { device, allocator, clock, streams }
    }

    fn small_chunks() -> Settings {
        Settings { big_chunk_pages: 4, event_every: 8, trace_events: 64, ..Settings::default() }
    }

    /// Everything given back: nothing is left on the device.
    fn assert_clean(self) {
        let Self { device, allocator, streams, .. } = self;
        drop((streams, allocator));
        let usage = device.backend().usage();
        assert_eq!((usage.bytes, usage.chunks, usage.maps, usage.reservations), (0, 0, 0, 0), "I12");
        assert_eq!(device.ledger().granted_bytes(), 0, "I12");
    }
}
