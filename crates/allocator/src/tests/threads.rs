//! Several threads: shuttle chooses the order, or the machine does.

use std::sync::Arc;

use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};
use lighterage_testkit::Rng;

use crate::sync::tested::UNDER_SHUTTLE;
use crate::{Allocator, Error, Settings, Tag};

const PAGE: u64 = 1 << 16;

/// Two streams, so little memory that they take it from each other, and an audit at the end.
fn work(threads: u64, operations: u64, spawn: impl Fn(Box<dyn FnOnce() + Send>) -> Box<dyn FnOnce()>) {
    let sim = Sim::new(SimConfig { page_bytes: PAGE, ..SimConfig::default() }).unwrap();
    let device = Device::new(sim, Ledger::new(24 * PAGE), Ledger::new(0));
    let settings = Settings { big_chunk_pages: 4, event_every: 4, ..Settings::default() };
    let allocator = Allocator::new(&device, settings).unwrap();
    let joins: Vec<_> = (0..threads)
        .map(|number| {
            let on = allocator.on(&device.stream(StreamKind::Compute).unwrap()).unwrap();
            spawn(Box::new(move || {
                let mut rng = Rng::new(number);
                let mut held = Vec::new();
                for _ in 0..operations {
                    if rng.below(3) > 0 {
                        match on.allocate(rng.below(8 * PAGE) + (rng.below(2) << 20), Tag::NONE) {
                            Ok(handle) => held.push(handle),
                            Err(Error::OutOfBudget(_)) => held.clear_with(&on),
                            Err(error) => panic!("{error}"),
                        }
                    } else if let Some(handle) = held.pop() {
                        on.free(handle).unwrap();
                    }
                }
                held.clear_with(&on);
            }))
        })
        .collect();
    joins.into_iter().for_each(|join| join());
    allocator.audit().unwrap();
    assert_eq!(allocator.statistics().all.allocation.current, 0);
    allocator.trim().unwrap();
    assert_eq!(device.ledger().granted_bytes(), 0);
}

trait ClearWith {
    fn clear_with(&mut self, on: &crate::OnStream<Sim>);
}

impl ClearWith for Vec<crate::Handle> {
    fn clear_with(&mut self, on: &crate::OnStream<Sim>) {
        self.drain(..).for_each(|handle| on.free(handle).unwrap());
    }
}

#[test]
fn shuttle_finds_no_bad_order() {
    let body = || {
        UNDER_SHUTTLE.set(true);
        work(3, 12, |task| {
            let thread = shuttle::thread::spawn(task);
            Box::new(move || thread.join().unwrap())
        });
        UNDER_SHUTTLE.set(false);
    };
    shuttle::check_random(body, 300);
    shuttle::check_pct(body, 300, 3);
}

#[test]
fn threads_of_the_machine_agree_too() {
    work(4, 5000, |task| {
        let thread = std::thread::spawn(task);
        Box::new(move || thread.join().unwrap())
    });
}

#[test]
fn buffers_give_their_memory_back_on_any_thread() {
    let device = Device::new(Sim::new(SimConfig::default()).unwrap(), Ledger::new(1 << 30), Ledger::new(0));
    let allocator = Allocator::new(&device, Settings::default()).unwrap();
    let on = allocator.on(&device.stream(StreamKind::Compute).unwrap()).unwrap();
    let buffer = Arc::new(on.buffer::<f32>(1000, Tag::NONE).unwrap());
    assert_eq!((buffer.len(), buffer.is_empty(), buffer.owner()), (1000, false, on.stream().id()));
    let theirs = Arc::clone(&buffer);
    drop(buffer);
    std::thread::spawn(move || drop(theirs)).join().unwrap();
    assert_eq!(allocator.statistics().all.allocation.current, 0);
}
