//! What a device reaches, whatever is computed: the ceilings that everything else is held against, what the driver's calls cost, and whether it keeps what
//! this program builds on.

mod backlog;
mod beside;
mod chain;
mod events;
mod graphs;
mod joined;
mod memory;
mod paged;
mod pieces;
mod rates;
mod show;

use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_device::{Backend, Device, Purpose, Stream, StreamKind};
use lighterage_ops::Queue;
use serde::Serialize;

use super::PRODUCTS;
use super::tune::{self, TuneArguments};
use crate::device::{DeviceArguments, Work};
use crate::failure::Result;
use crate::size::Size;
use crate::{json, range};
use beside::BesideWork;
use events::Events;
use graphs::Graphs;
use memory::{MappingRun, MemoryCalls};
use pieces::Pieces;
use rates::Rates;
pub(super) use rates::{gemm, numbers, pinned};

/// Measure copy, GEMM and link rates of a device, what its memory and event calls cost, and whether graphs do what streams do.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage bench machine --device cuda --json > card.json        (for plan --gpu card.json)
  lighterage bench machine --device host --only rates --copy 64MiB --gemm 1024
  lighterage bench machine --device cuda --tune gemm.tsv           (for generate --gemm-table gemm.tsv)")]
pub(crate) struct Arguments {
    /// Measure only this part; may be given several times.
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// Bytes of each copy, 1MiB to 64GiB.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = range::bytes(1 << 20..=64 << 30))]
    copy: Size,
    /// Rows, columns and inner size of the product, 1 to 65536.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = range::whole(PRODUCTS))]
    gemm: usize,
    /// Pieces of memory that exist when the cost of more is measured, at most.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = range::whole(0..=1_000_000_usize))]
    handles: usize,
    /// Bytes of a copy on memory of small and of large pieces; each of three kinds of memory takes twice as much.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = range::bytes(1 << 20..=1 << 40))]
    pieces: Size,
    /// Launches of the sequence that is recorded as a graph, about.
    #[arg(long, value_name = "N", default_value_t = 320, value_parser = range::whole(1..=100_000_usize))]
    graph_launches: usize,
    /// How often two graphs are launched that wait for each other.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = range::whole(1..=1_000_000_u32))]
    graph_replays: u32,
    /// Weights of the step that is streamed, half of them in every turn.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = range::whole(2..=10_000_usize))]
    graph_units: usize,
    /// Bytes of each of them.
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = range::bytes(4 << 10..=1 << 30))]
    graph_unit_bytes: Size,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tune: TuneArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Copies, fills, the link, a product.
    Rates,
    /// Creating, mapping, opening, unmapping and destroying memory.
    Memory,
    /// Recording, asking and waiting for events.
    Events,
    /// Whether memory calls wait for kernels.
    Beside,
    /// Copies and products on memory of small and of large pieces.
    Pieces,
    /// Graphs: bits, times, order (CUDA).
    Graphs,
}

/// Parts that were not asked for are missing, or null; so is what the device does not have.
#[derive(Debug, Serialize)]
struct Report {
    device: String,
    isa: String,
    #[serde(flatten)]
    rates: Option<Rates>,
    memory_calls: Option<Vec<MemoryCalls>>,
    mapping_runs: Option<Vec<MappingRun>>,
    events: Option<Events>,
    beside_work: Option<Vec<BesideWork>>,
    pieces: Option<Vec<Pieces>>,
    graphs: Option<Graphs>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(path) = &arguments.tune.tune {
        return tune::run(&arguments.tune, &arguments.device, path, arguments.json);
    }
    let report = arguments.device.run(Measure(arguments))?;
    if arguments.json {
        return json::print(&report);
    }
    report.print()
}

struct Measure<'a>(&'a Arguments);

impl Measure<'_> {
    /// What a part measures, if it was asked for.
    fn part<T>(&self, part: Part, measure: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let Self(Arguments { only, .. }) = self;
        (only.is_empty() || only.contains(&part)).then(measure).transpose()
    }
}

impl Work for Measure<'_> {
    type Output = Report;

    fn run<B: Backend>(self, device: &Device<B>) -> Result<Report> {
        let Self(arguments) = self;
        let Arguments { copy, gemm, handles, .. } = *arguments;
        let pieces = (arguments.pieces.0, gemm);
        Ok(Report {
            device: device.info().name.clone(),
            isa: device.info().isa.clone(),
            // Each part gives its memory back before the next begins.
            rates: self.part(Part::Rates, || rates::measure(device, copy.0, gemm))?,
            memory_calls: self.part(Part::Memory, || memory::calls(device, handles))?,
            mapping_runs: self.part(Part::Memory, || memory::runs(device))?,
            events: self.part(Part::Events, || events::measure(device, copy.0))?,
            beside_work: self.part(Part::Beside, || beside::measure(device, copy.0))?,
            pieces: self.part(Part::Pieces, || pieces::measure(device, pieces.0, pieces.1))?,
            graphs: self.part(Part::Graphs, || graphs::measure(device, arguments))?.flatten(),
        })
    }
}

/// A compute stream with a pool of its own.
fn queue<B: Backend>(device: &Device<B>) -> Result<Queue<B>> {
    on(&device.stream(StreamKind::Compute)?)
}

fn on<B: Backend>(stream: &Stream<B>) -> Result<Queue<B>> {
    let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 40 };
    Ok(Queue::new(Pool::new(stream, config)?))
}
