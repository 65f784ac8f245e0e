use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use lighterage_allocator::{Allocator, Handle, OnStream, Op, Plan, Settings, Tag, Trace};
use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::json;
use crate::table::{self, Align};

/// Time the caching allocator on a simulated device, and see how much memory it needs on traces of real models.
///
/// Times are medians of 11 rounds. With --torch PyTorch's own allocator runs beside it, in turns: benches/peers/torch-allocator/README.md
/// says how to build that program.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder of traces, compressed with zstd.
    #[arg(long, value_name = "DIR", default_value = "benches/traces")]
    traces: PathBuf,
    /// The traces to replay; all that PyTorch's figures are known for, if none is named.
    #[arg(long, value_name = "NAME")]
    trace: Vec<String>,
    /// Program that runs PyTorch's allocator: its folder is where it finds its libraries.
    #[arg(long, value_name = "PROGRAM")]
    torch: Option<PathBuf>,
    /// Only time pairs, no traces.
    #[arg(long)]
    pairs: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

const ROUNDS: usize = 11;
const PAIRS: u32 = 200_000;
const MIB: f64 = 1_048_576.0;
const DEVICE_BYTES: u64 = 256 << 30;

/// Traces of models, and what PyTorch 2.15 with expandable segments needs for them: peak reserved and least memory, per cent over what is
/// live (measured with benches/peers/torch-allocator, section `memory` of its README).
const MODELS: [(&str, f64, f64); 7] = [
    ("llm_gen", 2.4, 1.9),
    ("llm_train", 4.3, 0.7),
    ("llm_train_ckpt", 5.9, 1.0),
    ("sd_resident", 5.4, 0.5),
    ("sd_offload", 1.8, 1.9),
    ("sd_offload_2s", 51.0, 1.5),
    ("llm_gen_2s", 24.8, 2.5),
];

#[derive(Debug, Serialize)]
struct Report {
    pairs: Vec<Pair>,
    traces: Vec<Replayed>,
}

/// An allocation and its free.
#[derive(Debug, Serialize)]
struct Pair {
    what: String,
    nanoseconds: f64,
    torch_nanoseconds: Option<f64>,
}

/// A trace, again and again.
#[derive(Debug, Serialize)]
struct Replayed {
    trace: String,
    events: usize,
    live_mib: f64,
    /// Nanoseconds an event, in passes after the first.
    nanoseconds: f64,
    torch_nanoseconds: Option<f64>,
    /// Per cent over what is live, without a limit.
    reserved: f64,
    torch_reserved: f64,
    /// Per cent over what is live: the least limit without a refusal, with chunks of a page and with the ladder.
    least_pages: f64,
    least_ladder: f64,
    torch_least: f64,
    /// Per cent over what is live: an arena for the whole trace, planned, in whole pages.
    planned: f64,
    planner_milliseconds: f64,
    /// Calls that map, open or unmap, in a pass after the first at 2 % over what is live.
    calls_tight: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let torch = arguments.torch.as_deref();
    let pairs = pairs(torch)?;
    let traces = if arguments.pairs { Vec::new() } else { traces(arguments)? };
    let report = Report { pairs, traces };
    if arguments.json { json::print(&report) } else { print(&report) }
}

fn pairs(torch: Option<&Path>) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for (bytes, name) in [(512, "512 B"), (64 << 10, "64 KiB"), (4 << 20, "4 MiB")] {
        for (cached, with) in [(0, ""), (4000, ", 2,000 free blocks cached")] {
            let size = bytes.to_string();
            pairs.push(Pair {
                what: format!("{name}{with}"),
                nanoseconds: pair(bytes, cached)?,
                torch_nanoseconds: ask(torch, &["pair", &size, &cached.to_string()], "median ", " ns")?,
            });
        }
    }
    let per_thread = two_threads(64 << 10)?;
    pairs.push(Pair {
        what: "64 KiB, two threads on two streams, each pair".to_owned(),
        nanoseconds: per_thread,
        torch_nanoseconds: ask(torch, &["mt", "65536", "2"], ": ", " ns/pair/thread")?,
    });
    Ok(pairs)
}

fn device(limit: u64) -> Result<Device<Sim>> {
    let sim = Sim::new(SimConfig { capacity_bytes: DEVICE_BYTES, ..SimConfig::default() })?;
    Ok(Device::new(sim, Ledger::new(limit), Ledger::new(0)))
}

fn on_compute(allocator: &Allocator<Sim>) -> Result<OnStream<Sim>> {
    Ok(allocator.on(&allocator.device().stream(StreamKind::Compute)?)?)
}

fn pair(bytes: u64, cached: u64) -> Result<f64> {
    let allocator = Allocator::new(&device(DEVICE_BYTES)?, Settings::default())?;
    let on = on_compute(&allocator)?;
    let _kept = cache(&on, bytes, cached)?;
    median(|| {
        let start = Instant::now();
        for _ in 0..PAIRS {
            on.free(on.allocate(bytes, Tag::NONE)?)?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(PAIRS))
    })
}

/// Blocks of random sizes, every other one given back, as the peer does it.
fn cache(on: &OnStream<Sim>, bytes: u64, count: u64) -> Result<Vec<Handle>> {
    let unit = if bytes <= 1 << 20 { 256 } else { 1024 };
    let mut state = 1_u64;
    let mut kept = Vec::new();
    let mut given = Vec::new();
    for number in 0..count {
        // Knuth's generator: only the spread matters.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let handle = on.allocate(((state >> 33) % 4096 + 1) * unit, Tag::NONE)?;
        if number % 2 == 0 { given.push(handle) } else { kept.push(handle) }
    }
    given.into_iter().try_for_each(|handle| on.free(handle))?;
    Ok(kept)
}

fn two_threads(bytes: u64) -> Result<f64> {
    let allocator = Allocator::new(&device(DEVICE_BYTES)?, Settings::default())?;
    let ons = [on_compute(&allocator)?, on_compute(&allocator)?];
    median(|| {
        let start = Instant::now();
        thread::scope(|scope| {
            let threads = ons.each_ref().map(|on| {
                scope.spawn(move || {
                    (0..PAIRS)
                        .try_for_each(|_| on.allocate(bytes, Tag::NONE).and_then(|handle| on.free(handle)))
                })
            });
            threads.into_iter().try_for_each(|thread| thread.join().expect("the thread does not panic"))
        })?;
        Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(PAIRS))
    })
}

fn median(mut round: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut rounds = (0..ROUNDS).map(|_| round()).collect::<Result<Vec<_>>>()?;
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}

/// Runs the peer and reads the number between two marks of what it prints.
fn ask(torch: Option<&Path>, arguments: &[&str], before: &str, after: &str) -> Result<Option<f64>> {
    let Some(program) = torch else { return Ok(None) };
    let output = Command::new(program).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text
        .split_once(before)
        .and_then(|(_, rest)| rest.split_once(after))
        .and_then(|(number, _)| number.trim().parse().ok());
    match number {
        Some(number) => Ok(Some(number)),
        None => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Failure::Refused(format!("{} said: {text} {said}", program.display())))
        }
    }
}

fn traces(arguments: &Arguments) -> Result<Vec<Replayed>> {
    let wanted = |name: &str| arguments.trace.is_empty() || arguments.trace.iter().any(|known| known == name);
    let models = MODELS.iter().filter(|(name, ..)| wanted(name));
    models.map(|model| replayed(arguments, model)).collect()
}

fn replayed(
    arguments: &Arguments,
    (name, torch_reserved, torch_least): &(&str, f64, f64),
) -> Result<Replayed> {
    let path = arguments.traces.join(format!("{name}.bin.zst"));
    let bytes = unpack(&path)?;
    let trace = Trace::from_binary(&bytes)?;
    let live = trace.peak_bytes();
    let over = |bytes: u64| (bytes as f64 / live as f64 - 1.0) * 100.0;
    let mut free = Replay::new(&trace, DEVICE_BYTES, Settings::default())?;
    free.pass()?;
    let nanoseconds = median(|| {
        let start = Instant::now();
        free.pass()?;
        Ok(start.elapsed().as_secs_f64() * 1e9 / trace.ops().len() as f64)
    })?;
    let start = Instant::now();
    let plan = Plan::new(&trace);
    let planner_milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let page = free.allocator.device().info().page_bytes;
    let mut tight = Replay::new(&trace, live + live / 50, Settings::default())?;
    tight.pass()?;
    let before = tight.calls();
    tight.pass()?;
    Ok(Replayed {
        trace: (*name).to_owned(),
        events: trace.ops().len(),
        live_mib: live as f64 / MIB,
        nanoseconds,
        torch_nanoseconds: torch_replay(arguments.torch.as_deref(), &bytes)?,
        reserved: over(free.allocator.statistics().all.reserved_bytes.peak),
        torch_reserved: *torch_reserved,
        least_pages: over(least(&trace, 1)?),
        least_ladder: over(least(&trace, Settings::default().big_chunk_pages)?),
        torch_least: *torch_least,
        planned: over(plan.bytes().next_multiple_of(page)),
        planner_milliseconds,
        calls_tight: tight.calls() - before,
    })
}

fn torch_replay(torch: Option<&Path>, trace: &[u8]) -> Result<Option<f64>> {
    if torch.is_none() {
        return Ok(None);
    }
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(trace)?;
    let path = file.path().display().to_string();
    ask(torch, &["replay", &path, "11"], "steady ", " ns/ev")
}

fn unpack(path: &Path) -> Result<Vec<u8>> {
    let file =
        std::fs::File::open(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    let mut bytes = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(file)?;
    std::io::Read::read_to_end(&mut decoder, &mut bytes)?;
    Ok(bytes)
}

/// The least limit under which a fresh allocator refuses nothing: sought in steps of 0.1 %.
fn least(trace: &Trace, big_chunk_pages: u64) -> Result<u64> {
    let live = trace.peak_bytes();
    let step = live / 1000;
    let settings = Settings { big_chunk_pages, ..Settings::default() };
    let works = |steps: u64| -> Result<bool> {
        let mut replay = Replay::new(trace, live + steps * step, settings.clone())?;
        replay.pass()?;
        Ok(replay.refused == 0)
    };
    let (mut low, mut high) = (0, 64);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if works(middle)? { high = middle } else { low = middle }
    }
    Ok(live + high * step)
}

/// A trace on an allocator.
struct Replay<'a> {
    trace: &'a Trace,
    allocator: Allocator<Sim>,
    ons: Vec<OnStream<Sim>>,
    handles: Vec<Option<Handle>>,
    refused: usize,
}

impl<'a> Replay<'a> {
    fn new(trace: &'a Trace, limit: u64, settings: Settings) -> Result<Self> {
        let allocator = Allocator::new(&device(limit)?, settings)?;
        let ons = (0..trace.streams()).map(|_| on_compute(&allocator)).collect::<Result<_>>()?;
        Ok(Self { trace, allocator, ons, handles: vec![None; trace.ids()], refused: 0 })
    }

    /// All of the trace; what it leaves alive is given back at the end.
    fn pass(&mut self) -> Result<()> {
        for op in self.trace.ops() {
            match *op {
                Op::Alloc { id, stream, bytes } => {
                    let handle = self.ons[usize::from(stream)].allocate(bytes, Tag::NONE);
                    self.refused += usize::from(handle.is_err());
                    self.handles[id as usize] = handle.ok();
                }
                Op::Free { id } => self.give(id as usize)?,
            }
        }
        (0..self.handles.len()).try_for_each(|id| self.give(id))
    }

    fn give(&mut self, id: usize) -> Result<()> {
        if let Some(handle) = self.handles[id].take() {
            self.allocator.free(handle)?;
        }
        Ok(())
    }

    fn calls(&self) -> u64 {
        let events = self.allocator.statistics().events;
        events.maps + events.grants + events.unmaps + events.creates
    }
}

fn print(report: &Report) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "an allocation and its free, warm, ns, median of {ROUNDS}")?;
    let head = ["what", "ours", "torch", "ratio"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    rows.extend(report.pairs.iter().map(|pair| {
        vec![
            pair.what.clone(),
            format!("{:.1}", pair.nanoseconds),
            number(pair.torch_nanoseconds),
            ratio(pair.torch_nanoseconds, pair.nanoseconds),
        ]
    }));
    table::print(&mut out, &[Align::Left, Align::Right, Align::Right, Align::Right], &rows)?;
    if report.traces.is_empty() {
        return Ok(());
    }
    writeln!(out, "\ntraces; memory in per cent over what is live, torch 2.15's in brackets")?;
    let head = [
        "trace",
        "live MiB",
        "ns/event",
        "torch",
        "ratio",
        "reserved",
        "least, pages",
        "least, ladder",
        "calls at +2 %",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.traces.iter().map(|trace| {
        vec![
            trace.trace.clone(),
            format!("{:.0}", trace.live_mib),
            format!("{:.1}", trace.nanoseconds),
            number(trace.torch_nanoseconds),
            ratio(trace.torch_nanoseconds, trace.nanoseconds),
            format!("{:+.2} ({:+.1})", trace.reserved, trace.torch_reserved),
            format!("{:+.1} ({:+.1})", trace.least_pages, trace.torch_least),
            format!("{:+.1}", trace.least_ladder),
            format!("{:+.2}", trace.planned),
            format!("{:.0}", trace.planner_milliseconds),
            trace.calls_tight.to_string(),
        ]
    }));
    let mut columns = vec![Align::Left];
    columns.resize(11, Align::Right);
    table::print(&mut out, &columns, &rows)?;
    Ok(())
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn ratio(theirs: Option<f64>, ours: f64) -> String {
    theirs.map_or_else(|| "-".to_owned(), |theirs| format!("{:.1}", theirs / ours))
}
