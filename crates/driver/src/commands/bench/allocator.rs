use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use lighterage_allocator::{Allocator, Handle, OnStream, Op, Plan, Settings, Tag, Trace};
use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};
use serde::Serialize;

use super::timing;
use crate::failure::{Failure, Result};
use crate::json;
use crate::table::{self, Align};

/// Time the caching allocator on a simulated device, and see how much memory it needs on traces of real models.
///
/// Times are medians of 11 rounds. With --torch PyTorch's own allocator does the same in turns with it, times and memory:
/// benches/peers/torch-allocator/README.md says how to build that program.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder of traces, compressed with zstd.
    #[arg(long, value_name = "DIR", default_value = "benches/traces")]
    traces: PathBuf,
    /// The traces to replay, by the names of their files; those of models, if none is named.
    #[arg(long, value_name = "NAME")]
    trace: Vec<String>,
    /// Program that runs PyTorch's allocator.
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

/// Tenths of a per cent over what is live beyond which the least limit is not sought.
const LEAST_MAX: u64 = 64;

/// Traces of models.
const MODELS: [&str; 7] =
    ["llm_gen", "llm_train", "llm_train_ckpt", "sd_resident", "sd_offload", "sd_offload_2s", "llm_gen_2s"];

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
    /// Per cent over what is live, without a limit.
    reserved: f64,
    /// Per cent over what is live: the least limit without a refusal, with chunks of a page and with the ladder. None: more than [`LEAST_MAX`].
    least_pages: Option<f64>,
    least_ladder: Option<f64>,
    /// PyTorch's figures, if it was to run.
    torch: Option<Torch>,
    /// Per cent over what is live: an arena for the whole trace, planned, in whole pages.
    planned: f64,
    planner_milliseconds: f64,
    /// Calls that map, open or unmap, in a pass after the first at 2 % over what is live.
    calls_tight: u64,
}

/// What PyTorch needs for a trace, in the same units.
#[derive(Debug, Serialize)]
struct Torch {
    nanoseconds: f64,
    reserved: f64,
    least: Option<f64>,
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
                torch_nanoseconds: torch_time(
                    torch,
                    &["pair", &size, &cached.to_string()],
                    "median ",
                    " ns",
                )?,
            });
        }
    }
    let per_thread = two_threads(64 << 10)?;
    pairs.push(Pair {
        what: "64 KiB, two threads on two streams, each pair".to_owned(),
        nanoseconds: per_thread,
        torch_nanoseconds: torch_time(torch, &["mt", "65536", "2"], ": ", " ns/pair/thread")?,
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
    Ok(timing::median((0..ROUNDS).map(|_| round()).collect::<Result<Vec<_>>>()?))
}

/// Runs the peer, if there is one, and reads the time between two marks of what it prints.
fn torch_time(torch: Option<&Path>, arguments: &[&str], before: &str, after: &str) -> Result<Option<f64>> {
    torch.map(|program| number_in(&ask(program, arguments, DEVICE_BYTES)?, before, after)).transpose()
}

/// Runs the peer with expandable segments on a device of so many bytes; what it prints.
fn ask(program: &Path, arguments: &[&str], device_bytes: u64) -> Result<String> {
    let mebibytes = (device_bytes >> 20).to_string();
    let output = Command::new(program)
        .args(arguments)
        .env("FAKE_TOTAL_MB", mebibytes)
        .env("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        .output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Refused(format!("{} ended with {}: {said}", program.display(), output.status)))
}

/// The number between two marks.
fn number_in(text: &str, before: &str, after: &str) -> Result<f64> {
    text.split_once(before)
        .and_then(|(_, rest)| rest.split_once(after))
        .and_then(|(number, _)| number.trim().parse().ok())
        .ok_or_else(|| Failure::Refused(format!("no number after {before:?} in {text:?}")))
}

fn traces(arguments: &Arguments) -> Result<Vec<Replayed>> {
    let models = MODELS.map(str::to_owned);
    let names = if arguments.trace.is_empty() { &models[..] } else { &arguments.trace[..] };
    names.iter().map(|name| replayed(arguments, name)).collect()
}

fn replayed(arguments: &Arguments, name: &str) -> Result<Replayed> {
    let path = arguments.traces.join(format!("{name}.bin.zst"));
    let bytes = unpack(&path)?;
    let trace = Trace::from_binary(&bytes)?;
    let live = trace.peak_bytes();
    let over = |bytes: u64| percent_over(live, bytes as f64);
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
        trace: name.to_owned(),
        events: trace.ops().len(),
        live_mib: live as f64 / MIB,
        nanoseconds,
        reserved: over(free.allocator.statistics().all.reserved_bytes.peak),
        least_pages: least(&trace, 1)?.map(over),
        least_ladder: least(&trace, Settings::default().big_chunk_pages)?.map(over),
        torch: arguments.torch.as_deref().map(|program| torch_replay(program, &bytes, live)).transpose()?,
        planned: over(plan.bytes().next_multiple_of(page)),
        planner_milliseconds,
        calls_tight: tight.calls() - before,
    })
}

/// The same on PyTorch's allocator: passes without a limit, and fresh ones on ever smaller devices.
fn torch_replay(program: &Path, trace: &[u8], live: u64) -> Result<Torch> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(trace)?;
    let path = file.path().display().to_string();
    // Times are of all passes but the first.
    let passes = (ROUNDS + 1).to_string();
    let text = ask(program, &["replay", &path, &passes], DEVICE_BYTES)?;
    let least = least_limit(live, |limit| {
        let text = ask(program, &["replay", &path, "1"], limit)?;
        Ok(number_in(&text, "skipped=", " ")? == 0.0)
    })?;
    Ok(Torch {
        nanoseconds: number_in(&text, "steady ", " ns/ev")?,
        reserved: percent_over(live, number_in(&text, "reserved_peak=", " ")? * MIB),
        least: least.map(|bytes| percent_over(live, bytes as f64)),
    })
}

fn percent_over(live: u64, bytes: f64) -> f64 {
    (bytes / live as f64 - 1.0) * 100.0
}

fn unpack(path: &Path) -> Result<Vec<u8>> {
    let file =
        std::fs::File::open(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    let mut bytes = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(file)?;
    std::io::Read::read_to_end(&mut decoder, &mut bytes)?;
    Ok(bytes)
}

/// The least limit under which a fresh allocator refuses nothing.
fn least(trace: &Trace, big_chunk_pages: u64) -> Result<Option<u64>> {
    let settings = Settings { big_chunk_pages, ..Settings::default() };
    least_limit(trace.peak_bytes(), |limit| {
        let mut replay = Replay::new(trace, limit, settings.clone())?;
        replay.pass()?;
        Ok(replay.refused == 0)
    })
}

/// The least limit that works, sought by halving in steps of a thousandth of what is live; none up to [`LEAST_MAX`] steps.
fn least_limit(live: u64, works: impl Fn(u64) -> Result<bool>) -> Result<Option<u64>> {
    let limit = |steps: u64| live + live / 1000 * steps;
    if !works(limit(LEAST_MAX))? {
        return Ok(None);
    }
    let (mut low, mut high) = (0, LEAST_MAX);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if works(limit(middle))? { high = middle } else { low = middle }
    }
    Ok(Some(limit(high)))
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
    writeln!(out, "\ntraces; memory in per cent over what is live, torch's in brackets")?;
    let head = [
        "trace",
        "live MiB",
        "ns/event",
        "torch",
        "ratio",
        "reserved",
        "least, pages",
        "least, ladder",
        "planned",
        "planner ms",
        "calls at +2 %",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.traces.iter().map(|trace| {
        let torch = trace.torch.as_ref();
        vec![
            trace.trace.clone(),
            format!("{:.0}", trace.live_mib),
            format!("{:.1}", trace.nanoseconds),
            number(torch.map(|torch| torch.nanoseconds)),
            ratio(torch.map(|torch| torch.nanoseconds), trace.nanoseconds),
            format!("{:+.2}{}", trace.reserved, bracketed(torch, |torch| Some(torch.reserved))),
            format!("{}{}", percent(trace.least_pages), bracketed(torch, |torch| torch.least)),
            percent(trace.least_ladder),
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

/// PyTorch's figure beside ours, if it was measured.
fn bracketed(torch: Option<&Torch>, figure: impl Fn(&Torch) -> Option<f64>) -> String {
    torch.map_or_else(String::new, |torch| format!(" ({})", percent(figure(torch))))
}

/// A figure of [`least_limit`].
fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| format!("> {:+.1}", LEAST_MAX as f64 / 10.0), |value| format!("{value:+.1}"))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn ratio(theirs: Option<f64>, ours: f64) -> String {
    theirs.map_or_else(|| "-".to_owned(), |theirs| format!("{:.1}", theirs / ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_what_the_peer_prints() {
        let text = "reserved_peak=8290.0 util(req/res)=0.66 ooms=0 skipped=12 | first 300.0 ns/ev steady 203.5 ns/ev";
        let number = |before, after| number_in(text, before, after).unwrap();
        assert_eq!((number("reserved_peak=", " "), number("skipped=", " ")), (8290.0, 12.0));
        assert_eq!(number("steady ", " ns/ev"), 203.5);
        assert!(number_in("nothing", "steady ", " ns/ev").is_err());
    }

    #[test]
    fn a_least_limit_is_tried_before_it_is_reported() {
        let least = |needed| least_limit(100_000, |limit| Ok(limit >= needed)).unwrap();
        assert_eq!(least(100_050), Some(100_100));
        assert_eq!(least(103_001), Some(103_100));
        assert_eq!(least(106_400), Some(106_400));
        assert_eq!(least(106_401), None);
    }
}
