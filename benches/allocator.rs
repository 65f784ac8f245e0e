//! The caching allocator on `Sim`: pairs of an allocation and its free, and the traces of `benches/traces` again and again. Right first: the books are audited.
//!
//! `lighterage bench allocator` has memory, driver calls and PyTorch's allocator beside these times.

use criterion::{BenchmarkId, Criterion, Throughput};
use lighterage_allocator::{Allocator, OnStream, Plan, Replay, Settings, Tag, Trace};
use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};
use lighterage_testkit::{MODEL_TRACES, RANDOM_TRACES, trace_bytes};

const DEVICE_BYTES: u64 = 256 << 30;

fn allocator() -> Allocator<Sim> {
    let sim = Sim::new(SimConfig { capacity_bytes: DEVICE_BYTES, ..SimConfig::default() }).expect("a page");
    let device = Device::new(sim, Ledger::new(DEVICE_BYTES), Ledger::new(0));
    Allocator::new(&device, Settings::default()).expect("an allocator")
}

fn on_compute(allocator: &Allocator<Sim>) -> OnStream<Sim> {
    let stream = allocator.device().stream(StreamKind::Compute).expect("a stream");
    allocator.on(&stream).expect("a stream of its device")
}

fn trace(name: &str) -> Trace {
    Trace::from_columns(&trace_bytes(name)).expect("a trace")
}

fn pairs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allocator_pair");
    for bytes in [512_u64, 64 << 10, 4 << 20] {
        let allocator = allocator();
        let on = on_compute(&allocator);
        group.bench_with_input(BenchmarkId::from_parameter(bytes), &bytes, |bencher, bytes| {
            bencher.iter(|| {
                let handle = on.allocate(*bytes, Tag::NONE).expect("memory");
                on.free(handle).expect("it is held");
            });
        });
        allocator.audit().expect("the invariants hold");
    }
}

fn replays(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allocator_replay");
    group.sample_size(11);
    for name in MODEL_TRACES.into_iter().chain(RANDOM_TRACES) {
        let trace = trace(name);
        let allocator = allocator();
        let mut replay = Replay::new(&trace, &allocator).expect("streams");
        replay.pass().expect("all is held");
        allocator.audit().expect("the invariants hold");
        group.throughput(Throughput::Elements(trace.ops().len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| replay.pass()));
    }
}

fn plans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allocator_plan");
    group.sample_size(11);
    for name in ["llm_train", "llm_train_ckpt"] {
        let trace = trace(name);
        group.bench_function(name, |bencher| bencher.iter(|| Plan::new(&trace)));
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    pairs(&mut criterion);
    replays(&mut criterion);
    plans(&mut criterion);
    criterion.final_summary();
}
