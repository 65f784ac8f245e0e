//! Several threads: shuttle chooses the order, or the machine does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};
use lighterage_testkit::Rng;

use super::Bench;
use super::probe::Probe;
use crate::sync::Lock;
use crate::sync::tested::UNDER_SHUTTLE;
use crate::{Allocator, Error, Handle, Magazines, OnStream, Settings, Tag};

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
    fn clear_with(&mut self, on: &OnStream<Sim>);
}

impl ClearWith for Vec<Handle> {
    fn clear_with(&mut self, on: &OnStream<Sim>) {
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

/// Whether a magazine gave it out: the first bit of a generation says so.
fn is_kept(handle: Handle) -> bool {
    handle.generation() >> 63 == 1
}

/// Pages for [`exchange`]: two of its large blocks and some small ones.
const EXCHANGE_PAGES: u64 = 56;

/// Sizes that come again, two threads on one stream and one on another, each giving back what any of them got, while one looks at the books and trims. How many
/// small and how many large requests magazines served.
fn exchange(
    operations: u64,
    magazines: Magazines,
    spawn: impl Fn(Box<dyn FnOnce() + Send>) -> Box<dyn FnOnce()>,
) -> [u64; 2] {
    let sim = Sim::new(SimConfig { page_bytes: PAGE, ..SimConfig::default() }).unwrap();
    let device = Device::new(sim, Ledger::new(EXCHANGE_PAGES * PAGE), Ledger::new(0));
    let settings = Settings { big_chunk_pages: 2, event_every: 4, magazines, ..Settings::default() };
    let allocator = Allocator::new(&device, settings).unwrap();
    let streams = [(); 2].map(|()| device.stream(StreamKind::Compute).unwrap());
    let ons = streams.each_ref().map(|stream| allocator.on(stream).unwrap());
    let held = Arc::new(Lock::new(Vec::<Handle>::new()));
    let kept = Arc::new([const { AtomicU64::new(0) }; 2]);
    let joins: Vec<_> = (0..3)
        .map(|number: usize| {
            let on = ons[number / 2].clone();
            let (other, held, kept) = (streams[1].clone(), Arc::clone(&held), Arc::clone(&kept));
            spawn(Box::new(move || {
                let mut rng = Rng::new(number as u64);
                for _ in 0..operations {
                    match rng.below(32) {
                        0 => on.allocator().audit().unwrap(),
                        1 => drop(on.allocator().trim().unwrap()),
                        2 => {
                            let statistics = on.allocator().statistics();
                            assert!(statistics.all.reserved_bytes.current <= EXCHANGE_PAGES * PAGE);
                        }
                        3..18 => {
                            let bytes = [500, 1000, PAGE, 3 << 19][usize::try_from(rng.below(4)).unwrap()];
                            let Ok(handle) = on.allocate(bytes, Tag::NONE) else { continue };
                            kept[usize::from(bytes > 1 << 20)]
                                .fetch_add(u64::from(is_kept(handle)), Ordering::Relaxed);
                            let (start, end) = (handle.address().0, handle.address().0 + bytes);
                            let mut held = held.lock();
                            for other in held.iter() {
                                let (from, to) = (other.address().0, other.address().0 + other.bytes());
                                assert!(end <= from || to <= start, "I1: handed out twice");
                            }
                            held.push(handle);
                        }
                        _ => {
                            let Some(handle) = held.lock().pop() else { continue };
                            if rng.below(8) == 0 {
                                on.allocator().used_on(handle, &other).unwrap();
                            }
                            on.free(handle).unwrap();
                            let again = on.free(handle).unwrap_err();
                            assert!(matches!(again, Error::StaleHandle { .. }), "I9: {again}");
                        }
                    }
                }
            }))
        })
        .collect();
    joins.into_iter().for_each(|join| join());
    allocator.audit().unwrap();
    held.lock().drain(..).for_each(|handle| allocator.free(handle).unwrap());
    let counts = allocator.statistics().all;
    assert_eq!((counts.allocation.current, counts.requested_bytes.current), (0, 0));
    allocator.audit().unwrap();
    allocator.trim().unwrap();
    assert_eq!(device.ledger().granted_bytes(), 0);
    kept.each_ref().map(|count| count.load(Ordering::Relaxed))
}

#[test]
fn shuttle_finds_no_bad_order_where_threads_keep_blocks() {
    for magazines in [Magazines::Always, Magazines::Contended] {
        let served = Arc::new([const { AtomicU64::new(0) }; 2]);
        let sums = Arc::clone(&served);
        let body = move || {
            UNDER_SHUTTLE.set(true);
            let counts = exchange(24, magazines, |task| {
                let thread = shuttle::thread::spawn(task);
                Box::new(move || thread.join().unwrap())
            });
            UNDER_SHUTTLE.set(false);
            sums.iter().zip(counts).for_each(|(sum, count)| {
                sum.fetch_add(count, Ordering::Relaxed);
            });
        };
        shuttle::check_random(body.clone(), 200);
        shuttle::check_pct(body, 200, 3);
        let served = served.each_ref().map(|count| count.load(Ordering::Relaxed));
        assert!(
            served.into_iter().all(|count| count > 0),
            "{magazines:?}: {served:?} requests served by magazines"
        );
    }
}

#[test]
fn threads_of_the_machine_agree_where_they_keep_blocks() {
    let served = exchange(20_000, Magazines::Always, |task| {
        let thread = std::thread::spawn(task);
        Box::new(move || thread.join().unwrap())
    });
    assert!(served.into_iter().all(|count| count > 0), "{served:?}");
}

fn keeping(pages: u64, streams: usize) -> Bench {
    Bench::new(pages, streams, Settings { magazines: Magazines::Always, ..Settings::default() })
}

#[test]
fn what_an_ended_thread_kept_is_found_before_anything_is_refused() {
    for (stream, bytes) in [(0, PAGE), (2, PAGE), (0, 24 * PAGE), (2, 24 * PAGE)] {
        let bench = keeping(4 * bytes / PAGE, 3);
        let first = bench.streams[0].clone();
        std::thread::spawn(move || {
            let handles = [(); 4].map(|()| first.allocate(bytes, Tag::NONE).unwrap());
            handles.into_iter().for_each(|handle| first.free(handle).unwrap());
        })
        .join()
        .unwrap();
        bench.allocator.audit().unwrap();
        // All of the budget, on the same stream and on another one.
        let all = bench.streams[stream].allocate(4 * bytes, Tag::NONE).unwrap();
        bench.allocator.audit().unwrap();
        bench.allocator.free(all).unwrap();
        assert_eq!(bench.allocator.statistics().events.ooms, 0);
        bench.allocator.trim().unwrap();
        assert_eq!(bench.device.ledger().granted_bytes(), 0, "a trim takes it back too");
        bench.assert_clean();
    }
}

/// A block that went round in a magazine, so that the books do not know its handle.
fn kept_block(bench: &Bench, bytes: u64) -> Handle {
    let on = &bench.streams[0];
    on.free(on.allocate(bytes, Tag::NONE).unwrap()).unwrap();
    let handle = on.allocate(bytes, Tag::NONE).unwrap();
    assert!(is_kept(handle));
    handle
}

/// Lets the books have so many bytes free: whoever takes of these makes nothing grow, for which everything would be taken back.
fn grow(on: &OnStream<Probe>, bytes: u64) {
    on.free(on.allocate(bytes, Tag::NONE).unwrap()).unwrap();
}

#[test]
fn a_request_is_counted_as_made_before_the_books_have_its_block() {
    for bytes in [1024, 4 << 20] {
        let bench = keeping(4 * (4 << 20) / PAGE, 1);
        let (on, scope) = (&bench.streams[0], bench.allocator.scope());
        // Blocks of one size, of which the first request needs a little less.
        let rounds = [bytes - 511, bytes - 511];
        rounds.into_iter().for_each(|less| on.free(on.allocate(less, Tag::NONE).unwrap()).unwrap());
        let handle = on.allocate(bytes, Tag::NONE).unwrap();
        assert!(is_kept(handle));
        bench.allocator.used_on(handle, on.stream()).unwrap();
        assert_eq!(scope.peak_bytes(), bytes);
        let requested = bench.allocator.statistics().all.requested_bytes;
        assert_eq!((requested.current, requested.freed), (bytes, rounds.into_iter().sum()));
        on.free(handle).unwrap();
    }
}

#[test]
fn large_blocks_are_kept_too_up_to_so_many_bytes_in_all() {
    const BYTES: u64 = 4 << 20;
    let bench = keeping(128 * BYTES / PAGE, 1);
    let on = &bench.streams[0];
    grow(on, 80 * BYTES);
    let maps = || bench.allocator.statistics().events.maps;
    let grown = maps();
    let mut kept = 0_usize;
    let held: Vec<Handle> = (0..80)
        .map(|_| {
            on.free(on.allocate(BYTES, Tag::NONE).unwrap()).unwrap();
            let handle = on.allocate(BYTES, Tag::NONE).unwrap();
            bench.allocator.audit().unwrap();
            kept += usize::from(is_kept(handle));
            handle
        })
        .collect();
    // At the first sight of the size the books take it.
    assert_eq!(kept, 80 - 1);
    // Nothing but the most that may be lent, which the audit knows, had anything taken back.
    assert_eq!(maps(), grown);
    let reserved = bench.allocator.statistics().all.reserved_bytes.current;
    assert!(reserved < 82 * BYTES, "{reserved} bytes for {} blocks", held.len());
    held.into_iter().for_each(|handle| on.free(handle).unwrap());
    bench.allocator.audit().unwrap();
    let all = on.allocate(128 * BYTES, Tag::NONE).unwrap();
    on.free(all).unwrap();
    bench.allocator.trim().unwrap();
    bench.assert_clean();
}

/// Near the most that may be lent, too: what no magazine takes is no reason to take everything back.
#[test]
fn a_block_that_no_magazine_takes_leaves_the_others_alone() {
    const BYTES: u64 = 4 << 20;
    let bench = keeping(128 * BYTES / PAGE, 1);
    let on = &bench.streams[0];
    grow(on, 90 * BYTES);
    // The first is longer than all that a magazine holds, and the second of a size that was not seen before.
    let others = [9, 7].map(|blocks| on.allocate(blocks * BYTES, Tag::NONE).unwrap());
    on.free(on.allocate(BYTES, Tag::NONE).unwrap()).unwrap();
    let mut held: Vec<Handle> = (0..60).map(|_| kept_block(&bench, BYTES)).collect();
    on.free(held.pop().unwrap()).unwrap();
    for other in others {
        on.free(other).unwrap();
        bench.allocator.audit().unwrap();
        let again = on.allocate(BYTES, Tag::NONE).unwrap();
        assert!(is_kept(again), "taken back for {} bytes", other.bytes());
        on.free(again).unwrap();
    }
    held.into_iter().for_each(|handle| on.free(handle).unwrap());
    bench.allocator.trim().unwrap();
    bench.assert_clean();
}

#[test]
fn a_stale_handle_is_an_error_whoever_gave_it_out() {
    let bench = keeping(4, 1);
    let on = &bench.streams[0];
    let first = on.allocate(1000, Tag::NONE).unwrap();
    on.free(first).unwrap();
    let kept = on.allocate(1000, Tag::NONE).unwrap();
    assert_eq!((kept.address(), is_kept(kept)), (first.address(), true));
    let is_stale = |handle| matches!(on.free(handle), Err(Error::StaleHandle { .. }));
    assert!(is_stale(first), "the books gave it out");
    assert_eq!(bench.allocator.find(kept.address().offset(999)), Some(kept), "the books know it now");
    on.free(kept).unwrap();
    assert!(is_stale(kept) && is_stale(first));
    let again = on.allocate(1000, Tag::NONE).unwrap();
    on.free(again).unwrap();
    assert!(is_stale(again) && is_stale(kept) && is_stale(first));
}

#[test]
fn what_another_stream_uses_does_not_go_back_into_a_magazine() {
    let bench = keeping(4, 3);
    let kept = kept_block(&bench, 1000);
    bench.allocator.used_on(kept, bench.streams[2].stream()).unwrap();
    bench.clock.launch(2, kept.address(), kept.bytes());
    bench.allocator.free(kept).unwrap();
    bench.allocator.audit().unwrap();
    let counts = bench.allocator.statistics().all;
    assert_eq!(counts.active.current - counts.allocation.current, 1, "it waits for the other stream");
    let next = bench.streams[0].allocate(1000, Tag::NONE).unwrap();
    assert_ne!(next.address(), kept.address());
    bench.allocator.free(next).unwrap();
    bench.clock.finish_all();
}

#[test]
fn what_magazines_do_is_counted_and_their_blocks_have_tags() {
    let bench = keeping(4, 1);
    let on = &bench.streams[0];
    let tag = bench.allocator.tag("kept");
    for _ in 0..10 {
        on.free(on.allocate(1000, tag).unwrap()).unwrap();
    }
    let held = on.allocate(900, tag).unwrap();
    assert!(is_kept(held));
    let counts = bench.allocator.statistics().all;
    let requested = counts.requested_bytes;
    assert_eq!((requested.current, requested.allocated, requested.freed), (900, 10_900, 10_000));
    let allocated = counts.allocated_bytes;
    assert_eq!((allocated.current, allocated.peak, allocated.allocated), (1024, 1024, 11 * 1024));
    assert_eq!(counts.allocation.allocated, 11);
    assert_eq!(counts.sizes.iter().collect::<Vec<_>>(), [(512, 11)]);
    let report = on.allocate(8 * PAGE, Tag::NONE).unwrap_err().to_string();
    assert!(report.contains("kept"), "{report}");
    on.free(held).unwrap();
}

/// Two threads that find each other in the books keep blocks of their own from then on; one that meets someone who reads statistics does not.
#[test]
fn contention_begins_it_and_reading_does_not() {
    let bench = Bench::new(64, 2, Settings::default());
    let ends = AtomicU64::new(0);
    let pairs = |on: &OnStream<_>| {
        (0..10_000).any(|_| {
            let handle = on.allocate(1000, Tag::NONE).unwrap();
            on.free(handle).unwrap();
            is_kept(handle)
        })
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while ends.load(Ordering::Relaxed) == 0 {
                let _ = bench.allocator.statistics();
            }
        });
        assert!(!(0..10).any(|_| pairs(&bench.streams[0])));
        ends.store(1, Ordering::Relaxed);
    });
    let found = |on: &OnStream<_>| (0..1000).any(|_| pairs(on));
    let both = std::thread::scope(|scope| {
        let threads = bench.streams.iter().map(|on| scope.spawn(|| found(on))).collect::<Vec<_>>();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(both.contains(&true));
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
