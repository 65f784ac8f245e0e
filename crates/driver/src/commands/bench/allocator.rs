use std::io::Write;
use std::time::Instant;

use lighterage_allocator::{Config, Pool};
use lighterage_device::{Device, Ledger, Purpose, Sim, SimConfig, StreamKind};
use serde::Serialize;

use crate::failure::Result;
use crate::json;
use crate::table::{self, Align};

/// Time the allocator on a simulated device: an allocation and its free, warm.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Pair {
    bytes: u64,
    nanoseconds: f64,
}

const SIZES: [u64; 3] = [512, 64 << 10, 4 << 20];
const ROUNDS: usize = 11;
const PAIRS: u32 = 200_000;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let pairs = SIZES.into_iter().map(pair).collect::<Result<Vec<_>>>()?;
    if arguments.json {
        return json::print(&pairs);
    }
    let rows: Vec<_> = pairs
        .iter()
        .map(|pair| vec![pair.bytes.to_string(), format!("{:.1} ns", pair.nanoseconds)])
        .collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "allocation and free, warm, one thread, median of {ROUNDS}")?;
    table::print(&mut out, &[Align::Right; 2], &rows)?;
    Ok(())
}

fn pair(bytes: u64) -> Result<Pair> {
    let device = Device::new(Sim::new(SimConfig::default())?, Ledger::new(1 << 36), Ledger::new(0));
    let stream = device.stream(StreamKind::Compute)?;
    let pool = Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 37 })?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..PAIRS {
            drop(pool.allocate(bytes, "bench")?);
        }
        rounds.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(PAIRS));
    }
    rounds.sort_by(f64::total_cmp);
    Ok(Pair { bytes, nanoseconds: rounds[ROUNDS / 2] })
}
