//! Every driver call made to fail, once, in each way.

use lighterage_testkit::Rng;

use super::probe::Fault;
use super::{Bench, PAGE};
use crate::{Handle, Tag};

const PAGES: u64 = 24;

/// About 200 operations that need every kind of driver call. Refusals are answers; panics and leaks are not.
fn run(bench: &Bench, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut live: Vec<Handle> = Vec::new();
    let mut failed = 0;
    for _ in 0..200 {
        let stream = usize::try_from(rng.below(3)).unwrap();
        match rng.below(10) {
            0..5 => {
                let bytes = if rng.below(2) == 0 { rng.below(PAGE) } else { (1 << 20) + rng.below(4 * PAGE) };
                match bench.streams[stream].allocate(bytes, Tag::NONE) {
                    Ok(handle) => live.push(handle),
                    Err(_) => failed += 1,
                }
            }
            5..8 if !live.is_empty() => {
                let index = usize::try_from(rng.below(live.len() as u64)).unwrap();
                let handle = live.swap_remove(index);
                bench.allocator.used_on(handle, bench.streams[stream].stream()).unwrap();
                bench.allocator.free(handle).unwrap();
            }
            8 => bench.clock.finish(stream),
            _ => failed += u64::from(bench.allocator.trim().is_err()),
        }
        bench.allocator.audit().unwrap();
    }
    live.into_iter().for_each(|handle| bench.allocator.free(handle).unwrap());
    failed
}

#[test]
fn any_driver_call_may_fail_once() {
    let seed = Rng::from_env(2).bits();
    let whole = Bench::new(PAGES, 3, Bench::small_chunks());
    run(&whole, seed);
    let calls = whole.device.backend().calls();
    assert!(calls > 100, "only {calls} driver calls");
    whole.assert_clean();
    for fault in Fault::ALL {
        for call in 0..calls {
            let bench = Bench::failing(PAGES, 3, Bench::small_chunks(), Some((call, fault)));
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
fn a_smaller_device_lowers_the_limit() {
    // The device has a quarter of what the ledger would grant: someone else has the rest.
    let ledger = lighterage_device::Ledger::new(64 * PAGE);
    let probe = super::probe::Probe::new(PAGE, 16 * PAGE, &ledger, None);
    let device = lighterage_device::Device::new(probe, ledger, lighterage_device::Ledger::new(0));
    let allocator = crate::Allocator::new(&device, Bench::small_chunks()).unwrap();
    let on = allocator.on(&device.stream(lighterage_device::StreamKind::Compute).unwrap()).unwrap();
    let first = on.allocate(15 * PAGE, Tag::NONE).unwrap();
    let error = on.allocate(4 * PAGE, Tag::NONE).unwrap_err().to_string();
    assert!(error.contains("device out of memory"), "{error}");
    assert!(device.ledger().limit_bytes() <= 16 * PAGE);
    allocator.free(first).unwrap();
    assert!(on.allocate(14 * PAGE, Tag::NONE).is_ok(), "what is there is used");
    allocator.trim().unwrap();
    assert_eq!(device.ledger().limit_bytes(), 64 * PAGE, "a trim asks again");
}
