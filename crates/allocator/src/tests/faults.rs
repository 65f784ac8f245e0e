//! Every driver call made to fail, once and for ever, in each way, while work is in flight.

use std::sync::Mutex;

use lighterage_device::{Device, Ledger, StreamKind};
use lighterage_testkit::Rng;

use super::probe::{Failing, Fault, Probe};
use super::{Bench, PAGE};
use crate::{Allocator, Handle, Need, OnStream, Settings, Tag};

const PAGES: u64 = 24;

/// About 200 operations that need every kind of driver call, with work on everything that is handed out. Refusals are answers; panics, leaks, and memory that
/// others still use are not: the probe asserts that nothing is unmapped under running work.
fn run(bench: &Bench, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut live: Vec<(usize, Handle)> = Vec::new();
    let mut failed = 0;
    for _ in 0..200 {
        let stream = usize::try_from(rng.below(3)).unwrap();
        match rng.below(10) {
            0..5 => {
                let bytes = if rng.below(2) == 0 { rng.below(PAGE) } else { (1 << 20) + rng.below(4 * PAGE) };
                match bench.streams[stream].allocate(bytes, Tag::NONE) {
                    Ok(handle) => {
                        let users = bench.clock.users(stream, handle.address(), handle.bytes());
                        assert!(users.is_empty(), "I7: handed to stream {stream} while {users:?} use it");
                        bench.clock.launch(stream, handle.address(), handle.bytes());
                        live.push((stream, handle));
                    }
                    Err(_) => failed += 1,
                }
            }
            5..8 if !live.is_empty() => {
                let (owner, handle) =
                    live.swap_remove(usize::try_from(rng.below(live.len() as u64)).unwrap());
                bench.allocator.used_on(handle, bench.streams[stream].stream()).unwrap();
                for user in [owner, stream] {
                    bench.clock.launch(user, handle.address(), handle.bytes());
                }
                bench.allocator.free(handle).unwrap();
            }
            8 => bench.clock.finish(stream),
            _ => failed += u64::from(bench.allocator.trim().is_err()),
        }
        bench.allocator.audit().unwrap();
    }
    live.into_iter().for_each(|(_, handle)| bench.allocator.free(handle).unwrap());
    failed
}

/// The calls of a run without a fault.
fn calls(seed: u64) -> u64 {
    let whole = Bench::new(PAGES, 3, Bench::small_chunks());
    run(&whole, seed);
    let calls = whole.device.backend().calls();
    assert!(calls > 100, "only {calls} driver calls");
    let events = whole.allocator.statistics().events;
    let kinds = [events.creates, events.destroys, events.maps, events.grants, events.unmaps, events.records];
    assert!(
        kinds.iter().all(|count| *count > 0) && events.host_waits + events.cross_stream_waited > 0,
        "{events:?}"
    );
    whole.clock.finish_all();
    whole.assert_clean();
    calls
}

#[test]
fn any_driver_call_may_fail_once() {
    let seed = Rng::from_env(2).bits();
    let calls = calls(seed);
    for fault in Fault::ALL {
        for call in 0..calls {
            let bench = Bench::failing(PAGES, 3, Bench::small_chunks(), Some(Failing::Once(call, fault)));
            run(&bench, seed);
            bench.clock.finish_all();
            // What was deferred is reported once; what someone else took of the device may be back.
            let _ = bench.allocator.trim();
            bench.allocator.audit().unwrap();
            assert_eq!(bench.clock.failures(), 1, "call {call} of {calls}, {fault:?}");
            let fits = bench.streams[0].allocate((PAGES - 4) * PAGE, Tag::NONE);
            assert!(fits.is_ok(), "after call {call} failed with {fault:?}: {fits:?}");
            bench.assert_clean();
        }
    }
}

#[test]
fn a_kind_of_call_may_fail_for_ever() {
    let seed = Rng::from_env(3).bits();
    let calls = calls(seed);
    let names = [
        "reserve",
        "create",
        "destroy",
        "map",
        "set_access",
        "unmap",
        "event",
        "record",
        "query",
        "wait",
        "synchronize_event",
    ];
    let mut failures = 0;
    for fault in Fault::ALL {
        for name in names {
            for first in (0..calls).step_by(17) {
                let bench =
                    Bench::failing(PAGES, 3, Bench::small_chunks(), Some(Failing::From(first, name, fault)));
                run(&bench, seed);
                bench.clock.finish_all();
                let _ = bench.allocator.trim();
                bench.allocator.audit().unwrap();
                failures += bench.clock.failures();
                bench.assert_clean();
            }
        }
    }
    assert!(failures > 1000, "only {failures} calls failed");
}

/// A device with a quarter of what the ledger would grant, which is 64 pages: someone else has the rest.
fn smaller_device(settings: Settings) -> (Device<Probe>, Allocator<Probe>, OnStream<Probe>) {
    let ledger = Ledger::new(64 * PAGE);
    let probe = Probe::new(PAGE, 16 * PAGE, &ledger, None);
    let device = Device::new(probe, ledger, Ledger::new(0));
    let allocator = Allocator::new(&device, settings).unwrap();
    let on = allocator.on(&device.stream(StreamKind::Compute).unwrap()).unwrap();
    (device, allocator, on)
}

/// What the device refuses is taken from where nothing lies, and the request is counted by that rung.
#[test]
fn a_request_that_the_device_refused_memory_is_counted_by_its_rung() {
    let (device, allocator, on) = smaller_device(Settings { big_chunk_pages: 1, ..Settings::default() });
    let [first, _between, last] = [7, 2, 7].map(|pages| on.allocate(pages * PAGE, Tag::NONE).unwrap());
    [first, last].into_iter().for_each(|handle| on.free(handle).unwrap());
    on.allocate(10 * PAGE, Tag::NONE).unwrap();
    assert_eq!(allocator.statistics().events.rungs, [0, 0, 3, 0, 0, 0, 1, 0]);
    assert_eq!(device.ledger().limit_bytes(), 16 * PAGE);
}

/// Also where it was served in a later round only, after a handler had given something back.
#[test]
fn a_request_that_the_device_refused_before_is_counted_by_that_rung() {
    let (_device, allocator, on) = smaller_device(Bench::small_chunks());
    let held = Mutex::new(Some(on.allocate(15 * PAGE, Tag::NONE).unwrap()));
    let giver = allocator.clone();
    let _registration = allocator.on_pressure(0, move |need: Need| {
        held.lock().unwrap().take().map_or(0, |handle| {
            giver.free(handle).unwrap();
            need.bytes
        })
    });
    on.allocate(4 * PAGE, Tag::NONE).unwrap();
    let events = allocator.statistics().events;
    assert_eq!((events.rungs, events.pressure_calls), ([0, 0, 1, 0, 0, 0, 1, 0], 1));
}

/// Also where another stream's memory serves it: behind a wait of the stream, for which nothing is given back first, or behind one of the host.
#[test]
fn a_request_that_the_device_refused_is_counted_by_its_rung_whoever_serves_it() {
    for (kind, retries) in [(StreamKind::Compute, 0), (StreamKind::Copy, 1)] {
        let (device, allocator, on) = smaller_device(Bench::small_chunks());
        let other = allocator.on(&device.stream(kind).unwrap()).unwrap();
        let handle = on.allocate(15 * PAGE, Tag::NONE).unwrap();
        device.backend().clock().launch(0, handle.address(), PAGE);
        on.free(handle).unwrap();
        other.allocate(4 * PAGE, Tag::NONE).unwrap();
        let events = allocator.statistics().events;
        assert_eq!((events.rungs, events.retries), ([0, 0, 1, 0, 0, 0, 1, 0], retries), "{kind:?}");
    }
}

#[test]
fn a_smaller_device_lowers_the_limit() {
    let (device, allocator, on) = smaller_device(Bench::small_chunks());
    let first = on.allocate(15 * PAGE, Tag::NONE).unwrap();
    let error = on.allocate(4 * PAGE, Tag::NONE).unwrap_err().to_string();
    assert!(error.contains("device out of memory"), "{error}");
    assert!(device.ledger().limit_bytes() <= 16 * PAGE);
    allocator.free(first).unwrap();
    assert!(on.allocate(14 * PAGE, Tag::NONE).is_ok(), "what is there is used");
    allocator.trim().unwrap();
    assert_eq!(device.ledger().limit_bytes(), 64 * PAGE, "a trim asks again");
}
