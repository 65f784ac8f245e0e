//! Memory and driver calls on the model traces of `benches/traces`: these figures depend on no clock, so they are held here. What `lighterage bench allocator`
//! measures beside them is time.

#![expect(clippy::unwrap_used, reason = "a test that fails")]

use std::io::Read;
use std::path::Path;

use lighterage_allocator::{
    Allocator, AllocatorStatistics, Handle, OnStream, Op, Plan, Settings, Tag, Trace,
};
use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};

/// A trace, and what is reserved at most without a limit, in thousandths over what is alive.
const MODELS: [(&str, u64); 7] = [
    ("llm_gen", 20),
    // The goal is 20 for a single stream: these two and `sd_resident` miss it without a plan, and meet it with one.
    ("llm_train", 44),
    ("llm_train_ckpt", 60),
    ("sd_resident", 53),
    ("sd_offload", 20),
    ("sd_offload_2s", 40),
    ("llm_gen_2s", 40),
];

fn trace(name: &str) -> Trace {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../benches/traces/{name}.bin.zst"));
    let file = std::fs::File::open(&path).unwrap();
    let mut bytes = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(file).unwrap().read_to_end(&mut bytes).unwrap();
    Trace::from_binary(&bytes).unwrap()
}

struct Replay<'a> {
    trace: &'a Trace,
    allocator: Allocator<Sim>,
    ons: Vec<OnStream<Sim>>,
    handles: Vec<Option<Handle>>,
    refused: usize,
}

impl<'a> Replay<'a> {
    fn new(trace: &'a Trace, limit: u64, settings: Settings) -> Self {
        let sim = Sim::new(SimConfig { capacity_bytes: 256 << 30, ..SimConfig::default() }).unwrap();
        let device = Device::new(sim, Ledger::new(limit), Ledger::new(0));
        let allocator = Allocator::new(&device, settings).unwrap();
        let on = |_| allocator.on(&device.stream(StreamKind::Compute).unwrap()).unwrap();
        let ons = (0..trace.streams()).map(on).collect();
        Self { trace, allocator, ons, handles: vec![None; trace.ids()], refused: 0 }
    }

    fn pass(&mut self) {
        for op in self.trace.ops() {
            match *op {
                Op::Alloc { id, stream, bytes } => {
                    let handle = self.ons[usize::from(stream)].allocate(bytes, Tag::NONE);
                    self.refused += usize::from(handle.is_err());
                    self.handles[id as usize] = handle.ok();
                }
                Op::Free { id } => self.give(id as usize),
            }
        }
        (0..self.handles.len()).for_each(|id| self.give(id));
    }

    fn give(&mut self, id: usize) {
        if let Some(handle) = self.handles[id].take() {
            self.allocator.free(handle).unwrap();
        }
    }

    fn statistics(&self) -> AllocatorStatistics {
        self.allocator.statistics()
    }
}

fn over(live: u64, permille: u64) -> u64 {
    live + live * permille / 1000
}

#[test]
fn no_model_is_refused_half_a_per_cent_over_what_is_alive_with_chunks_of_a_page() {
    check_least(5, &Settings { big_chunk_pages: 1, ..Settings::default() });
}

#[test]
fn no_model_is_refused_two_per_cent_over_what_is_alive() {
    check_least(20, &Settings::default());
}

fn check_least(permille: u64, settings: &Settings) {
    for (name, _) in MODELS {
        let trace = trace(name);
        let limit = over(trace.peak_bytes(), permille);
        let mut replay = Replay::new(&trace, limit, settings.clone());
        replay.pass();
        let peak = replay.allocator.device().ledger().peak_bytes();
        assert_eq!(replay.refused, 0, "{name} at {limit}");
        assert!(peak <= limit, "{name}: {peak} bytes granted under a limit of {limit}");
        replay.allocator.audit().unwrap();
    }
}

#[test]
fn little_more_is_reserved_than_is_alive() {
    for (name, permille) in MODELS {
        let trace = trace(name);
        let live = trace.peak_bytes();
        let mut replay = Replay::new(&trace, 256 << 30, Settings::default());
        (0..2).for_each(|_| replay.pass());
        let reserved = replay.statistics().all.reserved_bytes.peak;
        let share = (reserved as f64 / live as f64 - 1.0) * 100.0;
        println!("{name}: {share:+.2} %");
        assert!(reserved <= over(live, permille), "{name}: {share:+.2} %");
    }
}

#[test]
fn a_planned_arena_is_hardly_longer_than_what_is_alive() {
    for name in ["llm_train", "llm_train_ckpt", "sd_resident"] {
        let trace = trace(name);
        let bytes = Plan::new(&trace).bytes().next_multiple_of(2 << 20);
        assert!(bytes <= over(trace.peak_bytes(), 1), "{name}: {bytes} for {}", trace.peak_bytes());
    }
}

/// PyTorch's allocator: 8,403 calls and 49 waits for the device, half a per cent tighter.
#[test]
fn weights_that_come_and_go_need_few_calls_and_no_wait() {
    let trace = trace("sd_offload_2s");
    let mut replay = Replay::new(&trace, over(trace.peak_bytes(), 20), Settings::default());
    replay.pass();
    let sim = |replay: &Replay<'_>| replay.allocator.device().backend().memory_calls();
    let before = sim(&replay);
    (0..3).for_each(|_| replay.pass());
    let after = sim(&replay);
    let calls = after.map_type() - before.map_type();
    println!("{calls} map-type calls in three passes after warm-up, {} before", before.map_type());
    assert!(calls <= 200, "{calls} calls");
    assert_eq!((after.host_waits, replay.refused), (0, 0));
}
