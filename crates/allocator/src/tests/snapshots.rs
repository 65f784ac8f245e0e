//! Snapshots: what PyTorch's viewer does with them, done here.

use std::collections::{BTreeMap, BTreeSet};

use lighterage_testkit::Rng;

use super::{Bench, PAGE};
use crate::trace::{Pickled, Value};
use crate::{Action, BlockState, Handle, Op, Settings, Tag, Trace};

/// Some hundred operations on four streams, in so little memory that pages move.
fn busy(rng: &mut Rng, trace_events: usize) -> Bench {
    let bench = Bench::new(48, 4, Settings { trace_events, ..Bench::small_chunks() });
    let tags = ["hidden", "scores", "weights \"q\""].map(|name| bench.allocator.tag(name));
    let mut live: Vec<(usize, Handle)> = Vec::new();
    for number in 0..600 {
        let stream = usize::try_from(rng.below(4)).unwrap();
        match rng.below(20) {
            0..11 => {
                let bytes = if rng.below(2) == 0 { rng.below(PAGE) } else { (1 << 20) + rng.below(4 * PAGE) };
                let tag = tags[usize::try_from(rng.below(3)).unwrap()];
                live.extend(bench.streams[stream].allocate(bytes, tag).ok().map(|handle| (stream, handle)));
            }
            11..17 if !live.is_empty() => {
                let (owner, handle) =
                    live.swap_remove(usize::try_from(rng.below(live.len() as u64)).unwrap());
                bench.clock.launch(owner, handle.address(), handle.bytes());
                bench.allocator.used_on(handle, bench.streams[stream].stream()).unwrap();
                bench.clock.launch(stream, handle.address(), handle.bytes());
                bench.allocator.free(handle).unwrap();
            }
            17 => bench.clock.finish(stream),
            18 => drop(bench.allocator.trim().unwrap()),
            _ => bench.allocator.mark(number),
        }
    }
    bench
}

/// What `MemoryViz.js` keeps: runs of addresses, and blocks with whether their end was asked for.
#[derive(Debug, Default)]
struct Viewer {
    segments: BTreeMap<u64, u64>,
    blocks: BTreeMap<u64, (u64, bool)>,
}

fn int(pickled: &Pickled<'_>, value: &Value<'_>, key: &str) -> u64 {
    match pickled.get(value, key) {
        Some(Value::Int(int)) => u64::try_from(*int).unwrap(),
        found => panic!("{key} is {found:?}"),
    }
}

fn text<'a>(pickled: &Pickled<'a>, value: &Value<'_>, key: &str) -> &'a str {
    match pickled.get(value, key) {
        Some(Value::Text(text)) => std::str::from_utf8(text).unwrap(),
        found => panic!("{key} is {found:?}"),
    }
}

fn list<'p, 'a>(pickled: &'p Pickled<'a>, value: &Value<'_>, key: &str) -> Vec<&'p Value<'a>> {
    pickled.get(value, key).and_then(|list| pickled.items(list)).unwrap_or_else(|| panic!("no list {key}"))
}

impl Viewer {
    /// The state that the segments show. Blocks tile them: the viewer finds addresses by adding up.
    fn at_the_end(pickled: &Pickled<'_>) -> Self {
        let mut viewer = Self::default();
        for segment in list(pickled, pickled.root(), "segments") {
            let (start, bytes) = (int(pickled, segment, "address"), int(pickled, segment, "total_size"));
            viewer.segments.insert(start, bytes);
            let mut at = start;
            for block in list(pickled, segment, "blocks") {
                assert_eq!(int(pickled, block, "address"), at, "blocks tile their segment");
                let requested = int(pickled, block, "requested_size");
                match text(pickled, block, "state") {
                    "inactive" => assert_eq!(requested, 0),
                    state => {
                        let is_pending = state == "active_pending_free";
                        assert!(is_pending || state == "active_allocated");
                        viewer.blocks.insert(at, (requested, is_pending));
                    }
                }
                at += int(pickled, block, "size");
            }
            assert_eq!(at, start + bytes, "blocks tile their segment");
            assert!(at < 1 << 53, "the viewer's numbers are doubles");
        }
        viewer
    }

    /// Undoes an event.
    fn back(&mut self, pickled: &Pickled<'_>, event: &Value<'_>) {
        let action = text(pickled, event, "action");
        let bytes = int(pickled, event, "size");
        if action == "oom" {
            int(pickled, event, "device_free");
            return;
        }
        let at = int(pickled, event, "addr");
        match action {
            "alloc" => assert_eq!(self.blocks.remove(&at), Some((bytes, false)), "handed out at {at:#x}"),
            "free_requested" => {
                let block = self.blocks.get_mut(&at).unwrap_or_else(|| panic!("nothing ends at {at:#x}"));
                assert!(std::mem::replace(&mut block.1, false), "ended once");
            }
            "free_completed" => {
                assert!(self.covers(at, bytes), "a block at {at:#x} lies in no segment");
                assert_eq!(self.blocks.insert(at, (bytes, true)), None);
            }
            "segment_unmap" => self.map(at, bytes),
            "segment_map" => self.unmap(at, bytes),
            action => panic!("the viewer knows no {action}"),
        }
    }

    fn covers(&self, at: u64, bytes: u64) -> bool {
        let segment = self.segments.range(..=at).next_back();
        segment.is_some_and(|(start, length)| at + bytes <= start + length)
    }

    fn map(&mut self, at: u64, bytes: u64) {
        let (mut start, mut end) = (at, at + bytes);
        if let Some((before, length)) = self.segments.range(..at).next_back() {
            assert!(before + length <= at, "{at:#x} is mapped already");
            start = if before + length == at { *before } else { start };
        }
        if let Some(length) = self.segments.remove(&end) {
            end += length;
        }
        self.segments.insert(start, end - start);
    }

    fn unmap(&mut self, at: u64, bytes: u64) {
        assert!(self.covers(at, bytes), "{bytes} bytes at {at:#x} were mapped, and are not now");
        assert!(self.blocks.range(at..at + bytes).next().is_none(), "blocks in what is not there yet");
        let (start, length) =
            self.segments.range(..=at).next_back().map(|(start, length)| (*start, *length)).unwrap();
        self.segments.remove(&start);
        for (from, to) in [(start, at), (at + bytes, start + length)] {
            if from < to {
                self.segments.insert(from, to - from);
            }
        }
    }
}

/// Opcodes that `MemoryViz.js` knows, by their bytes and arguments: what `pickletools` calls them is beside.
fn assert_opcodes(bytes: &[u8]) {
    let mut at = 0;
    let number = |bytes: &[u8], count: usize| {
        let mut whole = [0; 8];
        whole[..count].copy_from_slice(&bytes[..count]);
        usize::try_from(u64::from_le_bytes(whole)).unwrap()
    };
    let mut depth = 0;
    while at < bytes.len() {
        let rest = &bytes[at + 1..];
        at += 1 + match bytes[at] {
            0x80 => 1, // PROTO
            b'(' => {
                depth += 1;
                0
            } // MARK
            b'.' | b'}' | b']' | 0x86 | 0x88 | 0x89 => 0, // STOP, EMPTY_DICT, EMPTY_LIST, TUPLE2, NEWTRUE, NEWFALSE
            b'u' | b'e' => {
                depth -= 1;
                0
            } // SETITEMS, APPENDS
            b'K' | b'q' | b'h' => 1,                      // BININT1, BINPUT, BINGET
            b'M' => 2,                                    // BININT2
            b'J' | b'r' | b'j' => 4,                      // BININT, LONG_BINPUT, LONG_BINGET
            b'G' => 8,                                    // BINFLOAT
            0x8a => {
                let length = number(rest, 1);
                assert!(length <= 8);
                1 + length
            } // LONG1
            b'X' => 4 + number(rest, 4),                  // BINUNICODE
            opcode => panic!("the viewer knows no opcode {opcode:#x}, at {at}"),
        };
    }
    assert_eq!((at, depth), (bytes.len(), 0));
}

#[test]
fn the_viewer_goes_back_to_a_state_that_was() {
    let mut rng = Rng::from_env(16);
    for round in 0..60 {
        let events = [1 << 14, 64, 1000][round % 3];
        let bench = busy(&mut rng, events);
        let bytes = bench.allocator.snapshot().to_pickle();
        assert_opcodes(&bytes);
        let pickled = Pickled::parse(&bytes).unwrap();
        let mut viewer = Viewer::at_the_end(&pickled);
        let traces = list(&pickled, pickled.root(), "device_traces");
        let events = pickled.items(traces[0]).unwrap();
        for event in events.iter().rev() {
            viewer.back(&pickled, event);
        }
        if bench.allocator.trace().0 == 0 {
            assert!(
                viewer.segments.is_empty() && viewer.blocks.is_empty(),
                "at first there was nothing: {viewer:?}"
            );
        }
        for key in ["device", "stream", "allocated_size", "active_size", "requested_size"] {
            list(&pickled, pickled.root(), "segments")
                .iter()
                .for_each(|segment| assert!(int(&pickled, segment, key) < 1 << 53));
        }
    }
}

#[test]
fn a_snapshot_shows_what_statistics_count() {
    let mut rng = Rng::from_env(17);
    let mut states = BTreeSet::new();
    for _ in 0..20 {
        let bench = busy(&mut rng, 4096);
        let snapshot = bench.allocator.snapshot();
        let blocks = || snapshot.segments.iter().flat_map(|segment| &segment.blocks);
        let sum = |state| blocks().filter(|block| block.state == state).map(|block| block.bytes).sum::<u64>();
        let all = snapshot.statistics.all;
        assert_eq!(sum(BlockState::Allocated), all.allocated_bytes.current);
        assert_eq!(sum(BlockState::Allocated) + sum(BlockState::Pending), all.active_bytes.current);
        let mapped: u64 = snapshot.segments.iter().map(|segment| segment.bytes).sum();
        assert_eq!(mapped + snapshot.statistics.idle_chunk_bytes, all.reserved_bytes.current);
        assert_eq!(snapshot.statistics, bench.allocator.statistics());
        states.extend(blocks().map(|block| format!("{:?}", block.state)));
    }
    assert_eq!(states.len(), 3, "{states:?}");
}

#[test]
fn an_event_takes_less_than_sixty_bytes() {
    let bench = Bench::new(64, 1, Settings { trace_events: 1 << 15, ..Bench::small_chunks() });
    let tag = bench.allocator.tag("a name of a usual length");
    for number in 0..16_384 {
        let handle = bench.streams[0].allocate(1000 + number * 100, tag).unwrap();
        bench.allocator.free(handle).unwrap();
    }
    let bytes = bench.allocator.snapshot().to_pickle().len();
    // An end that is not waited for is two of the viewer's events.
    let events = 3 * 16_384_u32;
    assert!(bytes < 60 * events as usize, "{} bytes an event", bytes as f64 / f64::from(events));
}

#[test]
fn what_a_snapshot_says_is_read_as_the_same_requests() {
    let mut rng = Rng::from_env(18);
    for _ in 0..20 {
        let bench = busy(&mut rng, 1 << 14);
        let snapshot = bench.allocator.snapshot();
        let trace = Trace::from_snapshot(&snapshot.to_pickle()).unwrap();
        assert_eq!(Trace::from_rmm_csv(&snapshot.to_rmm_csv()).as_ref(), Ok(&trace));
        let sizes = |action: Action| {
            let events = snapshot.events.iter().filter(move |event| event.action == action);
            events.map(|event| event.bytes).collect::<Vec<_>>()
        };
        let allocated: Vec<u64> = trace
            .ops()
            .iter()
            .filter_map(|op| if let Op::Alloc { bytes, .. } = op { Some(*bytes) } else { None })
            .collect();
        assert_eq!(allocated, sizes(Action::Alloc));
        assert_eq!(trace.peak_bytes(), snapshot.statistics.all.requested_bytes.peak);
        // Whatever the ring lost, what is alive at the end is alive at the end.
        let short = busy(&mut rng, 64);
        let trace = Trace::from_snapshot(&short.allocator.snapshot().to_pickle()).unwrap();
        let mut alive = BTreeMap::new();
        for op in trace.ops() {
            match *op {
                Op::Alloc { id, bytes, .. } => drop(alive.insert(id, bytes)),
                Op::Free { id } => drop(alive.remove(&id)),
            }
        }
        let requested = short.allocator.statistics().all.requested_bytes.current;
        assert_eq!(alive.values().sum::<u64>(), requested);
    }
}

#[test]
fn damaged_snapshots_and_logs_are_answered() {
    let mut rng = Rng::from_env(19);
    let snapshot = busy(&mut rng, 256).allocator.snapshot();
    let (pickle, log) = (snapshot.to_pickle(), snapshot.to_rmm_csv().into_bytes());
    for _ in 0..3000 {
        let mut damaged = [&pickle, &log][usize::try_from(rng.below(2)).unwrap()].clone();
        for _ in 0..=rng.below(4) {
            let place = usize::try_from(rng.below(damaged.len() as u64)).unwrap();
            damaged[place] = u8::try_from(rng.below(256)).unwrap();
        }
        damaged.truncate(usize::try_from(rng.below(2 * damaged.len() as u64)).unwrap());
        // Neither panics nor asks for memory beyond the length of the file.
        let _ = Trace::from_snapshot(&damaged).map(|trace| trace.peak_bytes());
        let _ = Trace::from_rmm_csv(&String::from_utf8_lossy(&damaged)).map(|trace| trace.peak_bytes());
        let _ = Trace::from_binary(&damaged).map(|trace| trace.peak_bytes());
        let _ = Trace::from_columns(&damaged).map(|trace| trace.peak_bytes());
    }
}

/// `torch.cuda.memory_stats` of torch 2.15.
#[test]
fn statistics_have_every_name_of_pytorch() {
    let bench = Bench::new(32, 1, Bench::small_chunks());
    bench.streams[0].allocate(3000, Tag::NONE).unwrap();
    let map = bench.allocator.statistics().by_name();
    for metric in [
        "allocation",
        "segment",
        "active",
        "inactive_split",
        "allocated_bytes",
        "reserved_bytes",
        "active_bytes",
        "inactive_split_bytes",
        "requested_bytes",
    ] {
        for pool in ["all", "small_pool", "large_pool"] {
            for key in ["current", "peak", "allocated", "freed"] {
                assert!(map.contains_key(&format!("{metric}.{pool}.{key}")), "{metric}.{pool}.{key}");
            }
            let of = |pool: &str, key: &str| map[&format!("{metric}.{pool}.{key}")];
            assert_eq!(of("all", "current"), of("small_pool", "current") + of("large_pool", "current"));
            assert_eq!(of(pool, "current"), of(pool, "allocated") - of(pool, "freed"), "{metric}.{pool}");
        }
    }
    for key in [
        "num_alloc_retries",
        "num_ooms",
        "num_sync_all_streams",
        "num_device_alloc",
        "num_device_free",
        "num_oom_rejections",
    ] {
        assert!(map.contains_key(key), "{key}");
    }
    for metric in ["oversize_allocations", "oversize_segments"] {
        assert_eq!(map[&format!("{metric}.peak")], 0);
    }
    assert_eq!(map["requested_bytes.all.current"], 3000);
    assert_eq!(map["allocated_bytes.small_pool.current"], 3072);
}
