//! What recordings and statistics say about an allocator's work.

use std::collections::BTreeMap;

use lighterage_device::{Counter, Detail, Device, Ledger, Sim, SimConfig, StreamKind};

use super::{Bench, PAGE};
use crate::{Allocator, Settings, Tag};

#[test]
fn a_recording_has_what_is_in_use_pending_reserved_and_idle() {
    let bench = Bench::new(16, 3, Bench::small_chunks());
    bench.device.record(Detail::Everything);
    let on = &bench.streams[0];
    let [first, second] = [on.allocate(2 * PAGE, Tag::NONE).unwrap(), on.allocate(1000, Tag::NONE).unwrap()];
    bench.allocator.used_on(first, bench.streams[2].stream()).unwrap();
    bench.clock.launch(2, first.address(), first.bytes());
    bench.allocator.free(first).unwrap();
    bench.allocator.free(second).unwrap();
    bench.clock.finish_all();
    bench.allocator.trim().unwrap();
    let recording = bench.device.take_recording().unwrap();
    let mut said: BTreeMap<Counter, Vec<u64>> = BTreeMap::new();
    for sample in &recording.samples {
        let values = said.entry(sample.counter).or_default();
        if values.last() != Some(&sample.bytes) {
            values.push(sample.bytes);
        }
    }
    let all = 2 * PAGE + 1024;
    assert_eq!(said[&Counter::Allocated], [0, 2 * PAGE, all, 1024, 0]);
    assert_eq!(said[&Counter::Pending], [0, 2 * PAGE, 0]);
    let reserved = &said[&Counter::Reserved];
    assert!(reserved.iter().max() >= Some(&all) && reserved.last() == Some(&0), "{reserved:?}");
    assert_eq!(said[&Counter::Idle].last(), Some(&0));
}

#[test]
fn nobody_records_and_nothing_is_told() {
    let bench = Bench::new(16, 1, Bench::small_chunks());
    bench.streams[0].allocate(1000, Tag::NONE).unwrap();
    assert!(bench.device.take_recording().is_none());
}

#[test]
fn calls_are_timed_where_that_is_asked_for() {
    let device = Device::new(Sim::new(SimConfig::default()).unwrap(), Ledger::new(1 << 30), Ledger::new(0));
    for times in [false, true] {
        let allocator = Allocator::new(&device, Settings { times, ..Settings::default() }).unwrap();
        let on = allocator.on(&device.stream(StreamKind::Compute).unwrap()).unwrap();
        for _ in 0..5 {
            on.free(on.allocate(1000, Tag::NONE).unwrap()).unwrap();
        }
        let statistics = allocator.statistics();
        let counts = |times: crate::Times| times.iter().map(|(_, count)| count).sum::<u64>();
        let expected = if times { (5, 5) } else { (0, 0) };
        assert_eq!((counts(statistics.allocate_times), counts(statistics.free_times)), expected);
        if times {
            // Its clock stands still.
            assert_eq!(statistics.free_times.iter().collect::<Vec<_>>(), [(0, 5)]);
            assert_eq!(statistics.by_name()["allocate_ns.0"], 5);
        }
    }
}
