//! What the benches share: a device, a median, and the lines that `benches/peers` reads.

use std::time::Instant;

use criterion::Throughput;
use lighterage_allocator::{Config, Pool};
use lighterage_device::{Cost, Device, Host, HostConfig, Ledger, Purpose, StreamKind};
use lighterage_ops::Queue;
use lighterage_testkit::Rng;

/// Device memory of a bench.
const BYTES: u64 = 2 << 30;

/// A queue on the host; `--threads N` beside `--figures` on the command line, by default one thread for each core.
pub(crate) fn queue() -> Queue<Host> {
    let host =
        Host::new(HostConfig { threads: threads(), ..HostConfig::default() }).expect("the host is there");
    let device = Device::new(host, Ledger::new(BYTES), Ledger::new(BYTES));
    let stream = device.stream(StreamKind::Compute).expect("a stream");
    let config = Config { purpose: Purpose::Activations, reserve_bytes: BYTES };
    Queue::new(Pool::new(&stream, config).expect("a pool"))
}

fn threads() -> usize {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--threads");
    arguments.nth(1).map_or(0, |count| count.parse().expect("--threads takes a number"))
}

/// Whether only the figures for `benches/peers` are wanted, without criterion: `--figures`.
pub(crate) fn figures_only() -> bool {
    std::env::args().any(|argument| argument == "--figures")
}

/// Prints what criterion does not: the work of one launch, its median time, and what that makes per second.
pub(crate) fn figure(name: &str, cost: Cost, mut launch: impl FnMut()) {
    launch();
    let mut seconds: Vec<f64> = (0..7)
        .map(|_| {
            let start = Instant::now();
            launch();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    #[expect(clippy::print_stdout, reason = "what a bench is for")]
    {
        println!(
            "figure {name} {median:.6} s {:.1} GFLOP/s, {:.2} GFLOP, {:.1} MB, {:.1} GB/s",
            cost.flops / median / 1e9,
            cost.flops / 1e9,
            cost.bytes / 1e6,
            cost.bytes / median / 1e9
        );
    }
}

/// Values like those of activations and weights: normal, scaled. Never zeros, which some machines multiply faster.
pub(crate) fn values(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    // A sum of four uniform values is close enough to normal, and drawn ten times as fast.
    let mut value = || (0..4).map(|_| rng.unit() - 0.5).sum::<f64>() * 1.7;
    #[expect(clippy::cast_possible_truncation, reason = "rounded on purpose")]
    (0..count).map(|_| value() as f32 * scale).collect()
}

/// FLOPs of a launch as criterion counts them.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number below 2^53")]
pub(crate) fn flops(cost: Cost) -> Throughput {
    Throughput::Elements(cost.flops as u64)
}
