//! What went wrong elsewhere, by name.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};

use super::{Bench, PAGE};
use crate::{Allocator, Error, Need, Settings, Tag, Urgency};

/// pytorch: the limit is checked by the request's size, the mapping rounds up to pages of 20 MiB, so more is reserved than allowed.
#[test]
fn the_limit_is_not_overshot_by_a_page() {
    let bench = Bench::new(10, 1, Bench::small_chunks());
    let mut held = Vec::new();
    while let Ok(handle) = bench.streams[0].allocate(PAGE / 3, Tag::NONE) {
        held.push(handle);
        assert!(bench.device.ledger().granted_bytes() <= 10 * PAGE);
    }
    assert_eq!(bench.device.ledger().peak_bytes(), 10 * PAGE);
    assert!(held.len() >= 29, "{} blocks", held.len());
}

/// pytorch #189504: after giving memory back it asks the device again, but does not look at its own free blocks.
#[test]
fn a_block_freed_by_the_last_rung_is_found() {
    let bench = Bench::new(32, 1, Bench::small_chunks());
    let on = &bench.streams[0];
    let kept = Arc::new(Mutex::new(Some(on.allocate(30 * PAGE, Tag::NONE).unwrap())));
    let (allocator, held) = (bench.allocator.clone(), Arc::clone(&kept));
    let _registration = bench.allocator.on_pressure(0, move |need: Need| {
        let Some(handle) = held.lock().unwrap().take() else { return 0 };
        allocator.free(handle).unwrap();
        need.bytes
    });
    assert!(on.allocate(30 * PAGE, Tag::NONE).is_ok());
    assert_eq!(bench.allocator.statistics().events.pressure_calls, 1);
}

/// A search looks at eight blocks of a class; the one that fits is the ninth, and no memory is left to create.
#[test]
fn a_block_behind_eight_shorter_ones_is_found() {
    let bench = Bench::new(16, 1, Bench::small_chunks());
    let on = &bench.streams[0];
    // Both sizes are of one class; a crumb behind each keeps them apart.
    let [short, long] = [80 * 512, 81 * 512];
    let held: Vec<_> = [long, short, short, short, short, short, short, short, short]
        .into_iter()
        .map(|bytes| {
            let handle = on.allocate(bytes, Tag::NONE).unwrap();
            on.allocate(512, Tag::NONE).unwrap();
            handle
        })
        .collect();
    while on.allocate(512, Tag::NONE).is_ok() {}
    held.into_iter().for_each(|handle| on.free(handle).unwrap());
    assert_eq!(on.allocate(long, Tag::NONE).map(|handle| handle.bytes()), Ok(long));
}

/// Two free blocks with bare addresses between them: the place that misses the fewest pages ends within an empty big chunk, whose other pages are the ones missing.
#[test]
fn an_empty_chunk_that_the_place_cuts_is_no_obstacle() {
    let bench = Bench::new(200, 1, Bench::small_chunks());
    let on = &bench.streams[0];
    let [low, between, high] = [20, 17, 20].map(|pages| on.allocate(pages * PAGE, Tag::NONE).unwrap());
    on.free(between).unwrap();
    assert_eq!(bench.allocator.set_budget(40 * PAGE), Ok(0));
    on.free(low).unwrap();
    on.free(high).unwrap();
    let before = bench.allocator.statistics().events;
    let all = on.allocate(38 * PAGE, Tag::NONE).map(|handle| handle.address());
    assert_eq!(all, Ok(low.address()), "what stays mapped is used where it is");
    bench.allocator.audit().unwrap();
    let events = bench.allocator.statistics().events;
    // The chunks behind the edge, which do not suffice, then the one at the edge; nothing is created or destroyed for it.
    let changed =
        [events.unmaps - before.unmaps, events.creates - before.creates, events.demotions - before.demotions];
    assert_eq!(changed, [2, 0, 0]);
    assert!(bench.device.ledger().peak_bytes() <= 57 * PAGE);
}

/// Work that ends between two looks at its event is waited for by nobody; what it used is found all the same.
#[test]
fn work_that_ends_during_the_search_is_noticed() {
    for (streams, query) in (1..=3).flat_map(|streams| (1..=6).map(move |query| (streams, query))) {
        let bench = Bench::new(40, streams, Bench::small_chunks());
        let on = &bench.streams[0];
        let [low, _wall] = [20, 17].map(|pages| on.allocate(pages * PAGE, Tag::NONE).unwrap());
        bench.clock.launch(0, low.address(), low.bytes());
        on.free(low).unwrap();
        bench.clock.finish_at_query(query);
        let got = on.allocate(22 * PAGE, Tag::NONE);
        assert!(got.is_ok(), "{streams} streams, ends at query {query}: {got:?}");
        bench.allocator.audit().unwrap();
    }
}

/// pytorch #171771: for two missing MiB everything is flushed.
#[test]
fn no_more_is_taken_than_is_missing() {
    let bench = Bench::new(64, 1, Settings { big_chunk_pages: 1, ..Settings::default() });
    let on = &bench.streams[0];
    // 20 pages each, kept apart by two that stay.
    let held: Vec<_> = [20, 2, 20, 2, 20].map(|pages| on.allocate(pages * PAGE, Tag::NONE).unwrap()).into();
    for index in [0, 2, 4] {
        bench.allocator.free(held[index]).unwrap();
    }
    on.allocate(23 * PAGE, Tag::NONE).unwrap();
    let events = bench.allocator.statistics().events;
    assert!(events.remaps <= 23 && events.creates == 64, "{events:?}");
}

/// pytorch #192269: two reserves of 9/8 of the memory for each of many streams used up all addresses.
#[test]
fn streams_share_their_addresses() {
    let bench = Bench::new(64, 40, Bench::small_chunks());
    for on in &bench.streams {
        let handles = [PAGE / 2, 17 * PAGE].map(|bytes| on.allocate(bytes, Tag::NONE).unwrap());
        handles.into_iter().for_each(|handle| bench.allocator.free(handle).unwrap());
        bench.clock.finish_all();
    }
    let addresses = bench.allocator.statistics().address_bytes;
    assert!(addresses <= 2 * 64 * PAGE * 9 / 8, "{addresses} bytes of addresses");
}

/// pytorch #196258: memory was unmapped under running kernels of another device's stream. The probe asserts on it.
#[test]
fn nothing_is_unmapped_under_running_work() {
    let bench = Bench::new(32, 2, Bench::small_chunks());
    let on = &bench.streams[0];
    let handle = on.allocate(24 * PAGE, Tag::NONE).unwrap();
    bench.clock.launch(0, handle.address(), 24 * PAGE);
    bench.allocator.free(handle).unwrap();
    assert_eq!(bench.allocator.trim().unwrap() / PAGE, 0, "the work still runs");
    // A copy stream may not wait for compute by itself, so the host does.
    bench.streams[1].allocate(28 * PAGE, Tag::NONE).unwrap();
    let events = bench.allocator.statistics().events;
    assert!(events.host_waits > 0 && events.cross_stream_waited == 0, "{events:?}");
}

/// pytorch #71616: one queue for all pending blocks, and the head of it never completes.
#[test]
fn a_stream_that_never_ends_holds_up_nobody_else() {
    let bench = Bench::new(32, 4, Bench::small_chunks());
    let [main, _, stuck, quick] = [0, 1, 2, 3].map(|number| &bench.streams[number]);
    let [first, second] = [10, 10].map(|pages| main.allocate(pages * PAGE, Tag::NONE).unwrap());
    for (handle, other) in [(first, stuck), (second, quick)] {
        bench.allocator.used_on(handle, other.stream()).unwrap();
        bench.clock.launch(usize::from(other.number()) - 1, handle.address(), PAGE);
        bench.allocator.free(handle).unwrap();
    }
    bench.clock.finish(3);
    let third = main.allocate(20 * PAGE, Tag::NONE).unwrap();
    let events = bench.allocator.statistics().events;
    assert_eq!(events.host_waits, 0, "the quick stream's block sufficed: {events:?}");
    bench.allocator.free(third).unwrap();
}

/// vllm #49151, pytorch #159674: memory in one pool is lost for the others.
#[test]
fn heaps_lend_each_other_pages() {
    let bench = Bench::new(40, 1, Bench::small_chunks());
    let on = &bench.streams[0];
    let crumbs: Vec<_> = (0..70).map(|_| on.allocate(PAGE / 2, Tag::NONE).unwrap()).collect();
    crumbs.into_iter().for_each(|handle| bench.allocator.free(handle).unwrap());
    let large = on.allocate(38 * PAGE, Tag::NONE).unwrap();
    bench.allocator.free(large).unwrap();
    let crumbs: Vec<_> = (0..70).map(|_| on.allocate(PAGE / 2, Tag::NONE)).collect();
    assert!(crumbs.iter().all(Result::is_ok));
}

/// Big chunks that are empty are no obstacle for the small heap.
#[test]
fn empty_big_chunks_serve_crumbs() {
    let settings = Settings { big_chunk_pages: 8, headroom_permille: 0, ..Settings::default() };
    let bench = Bench::new(24, 1, settings);
    let on = &bench.streams[0];
    let large = on.allocate(24 * PAGE, Tag::NONE).unwrap();
    bench.allocator.free(large).unwrap();
    let crumbs: Vec<_> = (0..48).map(|_| on.allocate(PAGE / 2, Tag::NONE)).collect();
    assert!(crumbs.iter().all(Result::is_ok));
}

/// A block that was just given back is kept as it is: so it comes back, and so it may not stand in the way of what its neighbours would make together.
#[test]
fn what_was_just_given_back_is_joined_before_a_refusal() {
    let bench = Bench::new(16, 1, Bench::small_chunks());
    let on = &bench.streams[0];
    let [first, second] = [300 << 10, 500 << 10].map(|bytes| on.allocate(bytes, Tag::NONE).unwrap());
    on.free(first).unwrap();
    let again = on.allocate(300 << 10, Tag::NONE).unwrap();
    assert_eq!(again.address(), first.address());
    on.free(again).unwrap();
    on.free(second).unwrap();
    bench.allocator.audit().unwrap();
    assert!(on.allocate(1 << 20, Tag::NONE).is_ok(), "all of the memory in one piece");
}

/// pytorch #173049: the report advises an option that is on already. Ours has no advice, and the limit that holds now.
#[test]
fn a_report_tells_how_things_are_now() {
    let bench = Bench::new(32, 1, Bench::small_chunks());
    bench.allocator.set_budget(20 * PAGE).unwrap();
    let error = bench.streams[0].allocate(25 * PAGE, Tag::NONE).unwrap_err();
    let Error::OutOfBudget(report) = &error else { panic!("{error}") };
    assert_eq!((report.limit, report.missing), (20 * PAGE, 5 * PAGE));
}

#[test]
fn a_handler_learns_the_exact_need_and_may_not_allocate() {
    let bench = Bench::new(32, 1, Settings { big_chunk_pages: 1, ..Settings::default() });
    let on = bench.streams[0].clone();
    let kept = on.allocate(30 * PAGE, Tag::NONE).unwrap();
    let needs = Arc::new(Mutex::new(Vec::new()));
    let (seen, inside) = (Arc::clone(&needs), on.clone());
    let registration = bench.allocator.on_pressure(5, move |need: Need| {
        seen.lock().unwrap().push(need);
        for requested in [0, 1, u64::MAX] {
            assert_eq!(inside.allocate(requested, Tag::NONE), Err(Error::Reentrant { requested }));
        }
        0
    });
    let error = on.allocate(19 * PAGE, Tag::NONE).unwrap_err();
    let Error::OutOfBudget(report) = &error else { panic!("{error}") };
    assert_eq!((report.missing, report.allocated), (17 * PAGE, 30 * PAGE));
    assert_eq!(*needs.lock().unwrap(), [Need { bytes: 17 * PAGE, urgency: Urgency::Now }]);
    drop(registration);
    bench.allocator.free(kept).unwrap();
    assert_eq!(on.allocate(19 * PAGE, Tag::NONE).map(|_| ()), Ok(()));
    assert_eq!(needs.lock().unwrap().len(), 1, "a dropped registration is asked no more");
}

/// The numbers are those that were asked for, and nobody gives anything back for what can never be had.
#[test]
fn a_request_longer_than_the_limit_names_its_bytes_and_asks_no_handler() {
    let bench = Bench::new(32, 1, Settings { big_chunk_pages: 1, ..Settings::default() });
    let on = &bench.streams[0];
    let kept = on.allocate(30 * PAGE, Tag::NONE).unwrap();
    let _registration = bench.allocator.on_pressure(0, |need: Need| panic!("asked for {need:?}"));
    for requested in [33 * PAGE, (1 << 52) + 1, u64::MAX - 1, u64::MAX] {
        let error = on.allocate(requested, Tag::NONE).unwrap_err();
        let Error::OutOfBudget(report) = &error else { panic!("{error}") };
        assert_eq!((report.requested, report.allocated), (requested, 30 * PAGE));
        assert!(report.missing > requested / 2 && report.missing <= requested, "{error}");
        // Nor are there addresses reserved for it, through whose pages a search would go.
        assert_eq!(bench.device.backend().usage().reservations, 1);
    }
    assert!(on.buffer::<u64>(usize::MAX, Tag::NONE).is_err());
    bench.allocator.free(kept).unwrap();
    bench.allocator.audit().unwrap();
}

/// Also where there is memory for the part of it that is calculated with.
#[test]
fn a_request_too_long_to_calculate_with_is_refused_by_any_device() {
    let sim = Sim::new(SimConfig { capacity_bytes: 1 << 53, ..SimConfig::default() }).unwrap();
    let device = Device::new(sim, Ledger::new(1 << 53), Ledger::new(0));
    let allocator = Allocator::new(&device, Settings::default()).unwrap();
    let on = allocator.on(&device.stream(StreamKind::Compute).unwrap()).unwrap();
    let _registration = allocator.on_pressure(0, |need: Need| panic!("asked for {need:?}"));
    let error = on.allocate(u64::MAX, Tag::NONE).unwrap_err();
    let Error::OutOfBudget(report) = &error else { panic!("{error}") };
    assert_eq!((report.requested, report.missing), (u64::MAX, u64::MAX));
}

#[test]
fn handlers_are_asked_by_priority() {
    let bench = Bench::new(8, 1, Bench::small_chunks());
    let order = Arc::new(Mutex::new(Vec::new()));
    let _registrations: Vec<_> = [(1, 'b'), (9, 'a'), (-3, 'c')]
        .into_iter()
        .map(|(priority, name)| {
            let order = Arc::clone(&order);
            bench.allocator.on_pressure(priority, move |_: Need| {
                order.lock().unwrap().push(name);
                0
            })
        })
        .collect();
    bench.streams[0].allocate(7 * PAGE, Tag::NONE).unwrap();
    bench.streams[0].allocate(2 * PAGE, Tag::NONE).unwrap_err();
    assert_eq!(*order.lock().unwrap(), ['a', 'b', 'c']);
}

#[test]
fn a_lowered_budget_becomes_pressure() {
    let bench = Bench::new(32, 1, Settings { big_chunk_pages: 1, ..Settings::default() });
    let on = &bench.streams[0];
    let [kept, spare, idle] = [8, 8, 16].map(|pages| on.allocate(pages * PAGE, Tag::NONE).unwrap());
    bench.allocator.free(idle).unwrap();
    let freed = Arc::new(AtomicU64::new(0));
    let (count, allocator, spare) = (Arc::clone(&freed), bench.allocator.clone(), Mutex::new(Some(spare)));
    let _registration = bench.allocator.on_pressure(0, move |need: Need| {
        if need.urgency == Urgency::Lowered {
            count.fetch_add(need.bytes, Ordering::Relaxed);
        }
        spare.lock().unwrap().take().map_or(0, |handle| {
            allocator.free(handle).unwrap();
            handle.bytes()
        })
    });
    assert_eq!(bench.allocator.set_budget(20 * PAGE), Ok(0), "what holds nothing suffices");
    assert_eq!(freed.load(Ordering::Relaxed), 0);
    assert_eq!(bench.allocator.set_budget(10 * PAGE), Ok(0), "the handler gives the rest");
    assert_eq!(freed.load(Ordering::Relaxed), 6 * PAGE);
    assert_eq!(bench.allocator.set_budget(4 * PAGE), Ok(4 * PAGE), "what is in use stays");
    assert!(on.allocate(1, Tag::NONE).is_err());
    bench.allocator.free(kept).unwrap();
    assert_eq!(bench.allocator.set_budget(4 * PAGE), Ok(0));
}

#[test]
fn the_report_names_every_number() {
    let bench = Bench::new(32, 1, Settings { big_chunk_pages: 1, ..Settings::default() });
    let on = &bench.streams[0];
    let (hidden, scores) = (bench.allocator.tag("hidden"), bench.allocator.tag("scores"));
    let _held = [(20, hidden), (4, scores)].map(|(pages, tag)| on.allocate(pages * PAGE, tag).unwrap());
    let text = on.allocate(17 * PAGE, scores).unwrap_err().to_string();
    for part in [
        "no memory for 1114112 bytes (scores), 589824 bytes missing under the limit of 2097152",
        "granted: activations 2097152",
        "1572864 bytes handed out",
        "idle 524288, pending 0, pinned 0",
        "held by: hidden 1310720, scores 262144",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

/// Two devices give out the same addresses and numbers: the handle of one would free memory of the other.
#[test]
fn a_handle_of_another_allocator_frees_nothing() {
    let [ours, theirs] = [(); 2].map(|()| Bench::new(32, 2, Bench::small_chunks()));
    let [kept, foreign] = [&ours, &theirs].map(|bench| bench.streams[0].allocate(PAGE, Tag::NONE).unwrap());
    assert_eq!((kept.address(), kept.generation()), (foreign.address(), foreign.generation()));
    for outcome in [
        ours.allocator.free(foreign),
        ours.streams[0].free(foreign),
        ours.allocator.used_on(foreign, ours.streams[1].stream()),
    ] {
        assert_eq!(outcome, Err(Error::ForeignHandle { bytes: PAGE }));
    }
    assert_eq!(ours.allocator.find(kept.address()), Some(kept), "it is still held");
    // cuCascade #189: events of several devices in one pool. Nor is a stream of another device taken.
    assert_eq!(ours.allocator.on(theirs.streams[0].stream()).map(|_| ()), Err(Error::ForeignStream));
    assert_eq!(
        ours.allocator.used_on(kept, &theirs.device.stream(StreamKind::Copy).unwrap()),
        Err(Error::ForeignStream)
    );
}

#[test]
fn a_pointer_finds_its_memory() {
    let bench = Bench::new(32, 1, Bench::small_chunks());
    let handle = bench.streams[0].allocate(3000, Tag::NONE).unwrap();
    assert_eq!(bench.allocator.find(handle.address().offset(2999)), Some(handle));
    bench.allocator.free(handle).unwrap();
    assert_eq!(bench.allocator.find(handle.address()), None);
}

/// What a request needed is told by the highest rung that it climbed to, and each request is counted once.
#[test]
fn every_request_is_counted_by_its_rung() {
    let bench = Bench::new(4, 3, Bench::small_chunks());
    let rungs = || {
        let statistics = bench.allocator.statistics();
        let events = statistics.events;
        let served: u64 = events.rungs[1..7].iter().sum();
        assert_eq!(served, statistics.all.allocation.allocated, "{events:?}");
        assert_eq!(events.rungs[7], events.ooms);
        events.rungs
    };
    let [first, _, other] = &bench.streams[..] else { panic!("three streams") };
    let grown = first.allocate(4 * PAGE, Tag::NONE).unwrap();
    assert_eq!(rungs(), [0, 0, 1, 0, 0, 0, 0, 0]);
    bench.clock.launch(0, grown.address(), PAGE);
    bench.allocator.free(grown).unwrap();
    let behind = other.allocate(4 * PAGE, Tag::NONE).unwrap();
    assert_eq!(rungs(), [0, 0, 1, 1, 0, 0, 0, 0]);
    bench.clock.launch(2, behind.address(), PAGE);
    bench.allocator.free(behind).unwrap();
    // Copy streams wait for nobody: the host does.
    let waited = bench.streams[1].allocate(4 * PAGE, Tag::NONE).unwrap();
    assert_eq!(rungs()[4], 1);
    let held = Mutex::new(Some(waited));
    let allocator = bench.allocator.clone();
    let registration = bench.allocator.on_pressure(0, move |need: Need| {
        held.lock().unwrap().take().map_or(0, |handle| {
            allocator.free(handle).unwrap();
            need.bytes
        })
    });
    let pressed = first.allocate(4 * PAGE, Tag::NONE).unwrap();
    assert_eq!(rungs()[5], 1);
    assert!(other.allocate(PAGE, Tag::NONE).is_err());
    assert_eq!(rungs()[7], 1);
    bench.allocator.free(pressed).unwrap();
    bench.clock.finish_all();
    drop(registration);
}

/// Memory whose work is done is anybody's, and who takes it without a wait is counted.
#[test]
fn memory_of_other_streams_that_is_done_with_is_counted() {
    let bench = Bench::new(4, 3, Bench::small_chunks());
    let first = bench.streams[0].allocate(4 * PAGE, Tag::NONE).unwrap();
    bench.clock.launch(0, first.address(), PAGE);
    bench.allocator.free(first).unwrap();
    bench.clock.finish_all();
    bench.streams[2].allocate(4 * PAGE, Tag::NONE).unwrap();
    let events = bench.allocator.statistics().events;
    assert_eq!((events.cross_stream_free, events.cross_stream_waited, events.host_waits), (1, 0, 0));
}

#[test]
fn scopes_know_their_peaks() {
    let bench = Bench::new(32, 1, Bench::small_chunks());
    let on = &bench.streams[0];
    let pulse = |pages: u64| bench.allocator.free(on.allocate(pages * PAGE, Tag::NONE).unwrap()).unwrap();
    pulse(10);
    let outer = bench.allocator.scope();
    pulse(4);
    let inner = bench.allocator.scope();
    pulse(6);
    assert_eq!(inner.peak_bytes(), 6 * PAGE);
    drop(inner);
    pulse(2);
    assert_eq!(outer.peak_bytes(), 6 * PAGE);
    drop(outer);
    assert_eq!(bench.allocator.statistics().all.allocated_bytes.peak, 10 * PAGE);
}

#[test]
fn prepared_chunks_are_used_first() {
    let bench = Bench::new(32, 1, Settings { big_chunk_pages: 1, ..Settings::default() });
    assert_eq!(bench.allocator.prepare(20 * PAGE), Ok(20 * PAGE));
    bench.streams[0].allocate(18 * PAGE, Tag::NONE).unwrap();
    assert_eq!(bench.allocator.statistics().events.creates, 20);
    assert_eq!(bench.allocator.prepare(u64::MAX), Ok(12 * PAGE), "the limit holds");
}
