//! The caching allocator: its speed and its memory, on `Sim` beside PyTorch's, or with the calls of a real driver.

mod log;
mod on_device;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use lighterage_allocator::{Allocator, Handle, OnStream, Plan, Replay, Settings, Tag, Trace};
use lighterage_device::{Device, Ledger, MemoryCosts, Sim, SimConfig, StreamKind};
use serde::Serialize;

use super::timing;
use crate::device::{DeviceArguments, DeviceName};
use crate::failure::{Failure, Result};
use crate::interrupt::{self, Scratch};
use crate::json;
use crate::table::{self, Align};
use log::Log;
use on_device::{Calls, Measure, OnDevice};

/// Time the caching allocator on a simulated device, and see how much memory it needs on traces of real models.
///
/// With another --device the traces run on that, with the driver's calls, those that it has room for; nothing else is measured then.
/// Times are medians of 11 rounds. With --torch PyTorch's own allocator does the same in turns with it, times and memory:
/// benches/peers/torch-allocator/README.md says how to build that program. Figures of it with a star were taken once, with torch 2.15 on a quiet
/// machine: memory is the same everywhere, times are not.
#[derive(Debug, clap::Args)]
#[command(mut_arg("device", |argument| argument.default_value("sim")), after_help = "\
Examples:
  lighterage bench allocator --pairs
  lighterage bench allocator --trace llm_train --settings slack_permille:20")]
pub(crate) struct Arguments {
    /// Folder of traces, compressed with zstd.
    #[arg(long, value_name = "DIR", default_value = "benches/traces")]
    traces: PathBuf,
    /// The traces to replay, by the names of their files; those of models, if none is named. Or files: memory snapshots of PyTorch or of ours
    /// (.pickle), logs of RMM (.csv), traces (.bin, .columns, both also with .zst).
    #[arg(long, value_name = "NAME|FILE")]
    trace: Vec<String>,
    /// Program that runs PyTorch's allocator.
    #[arg(long, value_name = "PROGRAM")]
    torch: Option<PathBuf>,
    /// How ours behaves, in the form of `PYTORCH_CUDA_ALLOC_CONF`, as `slack_permille:20,large_segment_size_mb:32`.
    #[arg(long, value_name = "KEY:VALUE,...", default_value = "", value_parser = settings)]
    settings: Settings,
    /// Only time pairs, no traces.
    #[arg(long)]
    pairs: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArguments,
}

const ROUNDS: usize = 11;
const PAIRS: u32 = 200_000;
/// Of each of two threads, as many as the peer does.
const PAIRS_OF_THREADS: u32 = 500_000;
const MIB: f64 = 1_048_576.0;
const DEVICE_BYTES: u64 = 256 << 30;

/// Tenths of a per cent over what is live beyond which the least limit is not sought.
const LEAST_MAX: u64 = 64;

/// Traces of models.
const MODELS: [&str; 7] =
    ["llm_gen", "llm_train", "llm_train_ckpt", "sd_resident", "sd_offload", "sd_offload_2s", "llm_gen_2s"];

fn settings(text: &str) -> Result<Settings, String> {
    Settings::parse(text).map_err(|error| error.to_string())
}

/// PyTorch 2.15 with expandable segments on the stand-in, per cent over what is live: reserved without a limit, and the least that serves.
const TORCH_MEMORY: [(&str, f64, f64); 9] = [
    ("llm_gen", 2.4, 1.9),
    ("llm_train", 4.3, 0.7),
    ("llm_train_ckpt", 5.9, 1.0),
    ("sd_resident", 5.4, 0.5),
    ("sd_offload", 1.8, 1.9),
    ("sd_offload_2s", 51.0, 1.5),
    ("llm_gen_2s", 24.8, 2.5),
    ("rmm_10000_64", 10.8, 10.2),
    ("rmm_10000_4096", 61.0, 0.9),
];

#[derive(Debug, Serialize)]
struct Report {
    pairs: Vec<Pair>,
    /// What a trace ring costs, and what is in it.
    log: Log,
    traces: Vec<Replayed>,
}

/// An allocation and its free.
#[derive(Debug, Serialize)]
struct Pair {
    what: String,
    nanoseconds: f64,
    torch_nanoseconds: Option<f64>,
    /// PyTorch's, once, on a quiet machine.
    torch_recorded_nanoseconds: f64,
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
    /// Those of its memory that were taken once, if they were: reserved, and least.
    torch_recorded: Option<(f64, f64)>,
    /// Per cent over what is live: an arena for the whole trace, planned, in whole pages.
    planned: f64,
    planner_milliseconds: f64,
    /// Calls that create, map, open or unmap, in a pass after the first at 2 % over what is live.
    calls_tight: u64,
    /// What the calls of the first pass there would take an A100's driver, by published figures.
    driver_milliseconds: f64,
}

/// What PyTorch needs for a trace, in the same units.
#[derive(Debug, Serialize)]
struct Torch {
    nanoseconds: f64,
    reserved: f64,
    least: Option<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.device.place.device != DeviceName::Sim {
        let report = arguments.device.run(Measure(arguments))?;
        return if arguments.json { json::print(&report) } else { print_on_device(&report) };
    }
    let torch = arguments.torch.as_deref();
    let pairs = pairs(torch, &arguments.settings)?;
    let traces = if arguments.pairs { Vec::new() } else { traces(arguments)? };
    let report = Report { pairs, log: log::measure(&arguments.settings)?, traces };
    if arguments.json { json::print(&report) } else { print(&report) }
}

fn pairs(torch: Option<&Path>, settings: &Settings) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for (bytes, name, recorded) in [
        (512, "512 B", [274.0, 447.0]),
        (64 << 10, "64 KiB", [283.0, 447.0]),
        (4 << 20, "4 MiB", [284.0, 447.0]),
    ] {
        for ((cached, with), torch_recorded_nanoseconds) in
            [(0, ""), (4000, ", 2,000 free blocks cached")].into_iter().zip(recorded)
        {
            let size = bytes.to_string();
            pairs.push(Pair {
                what: format!("{name}{with}"),
                nanoseconds: pair(settings, bytes, cached)?,
                torch_recorded_nanoseconds,
                torch_nanoseconds: torch_time(
                    torch,
                    &["pair", &size, &cached.to_string()],
                    "median ",
                    " ns",
                )?,
            });
        }
    }
    for (bytes, name) in [(512, "512 B"), (64 << 10, "64 KiB"), (4 << 20, "4 MiB")] {
        pairs.push(on_two_threads(torch, settings, (bytes, name))?);
    }
    Ok(pairs)
}

/// Pairs on two threads with a stream each, ours and the peer's in turns: what two threads take hangs on where they run, and on who else does.
fn on_two_threads(torch: Option<&Path>, settings: &Settings, (bytes, name): (u64, &str)) -> Result<Pair> {
    let allocator = allocator(DEVICE_BYTES, settings)?;
    let ons = [on_compute(&allocator)?, on_compute(&allocator)?];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(two_threads(&ons, bytes)?);
        theirs.extend(torch_time(torch, &["mt", &bytes.to_string(), "2"], ": ", " ns/pair/thread")?);
    }
    Ok(Pair {
        what: format!("{name}, two threads on two streams, each pair"),
        nanoseconds: timing::median(ours),
        torch_nanoseconds: (!theirs.is_empty()).then(|| timing::median(theirs)),
        torch_recorded_nanoseconds: 1181.0,
    })
}

fn device(limit: u64) -> Result<Device<Sim>> {
    let memory_costs = Some(MemoryCosts::A100);
    let sim = Sim::new(SimConfig { capacity_bytes: DEVICE_BYTES, memory_costs, ..SimConfig::default() })?;
    Ok(Device::new(sim, Ledger::new(limit), Ledger::new(0)))
}

fn allocator(limit: u64, settings: &Settings) -> Result<Allocator<Sim>> {
    Ok(Allocator::new(&device(limit)?, settings.clone())?)
}

fn on_compute(allocator: &Allocator<Sim>) -> Result<OnStream<Sim>> {
    Ok(allocator.on(&allocator.device().stream(StreamKind::Compute)?)?)
}

fn pair(settings: &Settings, bytes: u64, cached: u64) -> Result<f64> {
    let allocator = allocator(DEVICE_BYTES, settings)?;
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

/// From the start of both threads to the end of the later one, as the peer does it.
fn two_threads(ons: &[OnStream<Sim>; 2], bytes: u64) -> Result<f64> {
    let start = Instant::now();
    thread::scope(|scope| {
        let threads = ons.each_ref().map(|on| {
            scope.spawn(move || {
                (0..PAIRS_OF_THREADS)
                    .try_for_each(|_| on.allocate(bytes, Tag::NONE).and_then(|handle| on.free(handle)))
            })
        });
        threads.into_iter().try_for_each(|thread| thread.join().expect("the thread does not panic"))
    })?;
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(PAIRS_OF_THREADS))
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
    names(arguments).iter().map(|name| replayed(arguments, name)).collect()
}

/// The traces that were asked for.
fn names(arguments: &Arguments) -> Vec<String> {
    if arguments.trace.is_empty() { MODELS.map(str::to_owned).to_vec() } else { arguments.trace.clone() }
}

fn replayed(arguments: &Arguments, name: &str) -> Result<Replayed> {
    let trace = load(arguments, name)?;
    let settings = &arguments.settings;
    let live = trace.peak_bytes();
    let over = |bytes: u64| percent_over(live, bytes as f64);
    let free = allocator(DEVICE_BYTES, settings)?;
    let mut replay = Replay::new(&trace, &free)?;
    replay.pass()?;
    let nanoseconds = median(|| {
        let start = Instant::now();
        replay.pass()?;
        Ok(start.elapsed().as_secs_f64() * 1e9 / trace.ops().len() as f64)
    })?;
    let start = Instant::now();
    let plan = Plan::new(&trace);
    let planner_milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let page = free.device().info().page_bytes;
    let tight = allocator(live + live / 50, settings)?;
    let calls = || tight.device().backend().memory_calls();
    let mut replay = Replay::new(&trace, &tight)?;
    replay.pass()?;
    let first = calls();
    replay.pass()?;
    let torch = arguments.torch.as_deref();
    Ok(Replayed {
        trace: name.to_owned(),
        events: trace.ops().len(),
        live_mib: live as f64 / MIB,
        nanoseconds,
        reserved: over(free.statistics().all.reserved_bytes.peak),
        least_pages: least(&trace, &Settings { big_chunk_pages: 1, ..settings.clone() })?.map(over),
        least_ladder: least(&trace, settings)?.map(over),
        torch: torch.map(|program| torch_replay(program, &trace, live)).transpose()?,
        torch_recorded: TORCH_MEMORY
            .iter()
            .find(|(trace, ..)| *trace == name)
            .map(|(_, reserved, least)| (*reserved, *least)),
        planned: over(plan.bytes().next_multiple_of(page)),
        planner_milliseconds,
        calls_tight: calls().map_type() + calls().creates - first.map_type() - first.creates,
        driver_milliseconds: first.seconds * 1e3,
    })
}

/// A trace by the name of one in the folder, or by its file.
fn load(arguments: &Arguments, name: &str) -> Result<Trace> {
    let named = Path::new(name);
    let path =
        if named.is_file() { named.to_owned() } else { arguments.traces.join(format!("{name}.columns.zst")) };
    let packed = path.extension().is_some_and(|extension| extension == "zst");
    let (bytes, unpacked) =
        if packed { (unpack(&path)?, path.with_extension("")) } else { (read(&path)?, path.clone()) };
    let trace = match unpacked.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
        "pickle" => Trace::from_snapshot(&bytes),
        "csv" => Trace::from_rmm_csv(&String::from_utf8_lossy(&bytes)),
        "columns" => Trace::from_columns(&bytes),
        _ => Trace::from_binary(&bytes),
    };
    let unread = |error| Failure::Usage(format!("{}: {error}", path.display()));
    match trace.map_err(unread)? {
        trace if trace.peak_bytes() == 0 => {
            Err(Failure::Usage(format!("{}: nothing is allocated in it", path.display())))
        }
        trace => Ok(trace),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// The same on PyTorch's allocator: passes without a limit, and fresh ones on ever smaller devices.
fn torch_replay(program: &Path, trace: &Trace, live: u64) -> Result<Torch> {
    let folder = Scratch::inside(&std::env::temp_dir())?;
    let path = folder.path().join("trace");
    interrupt::undisturbed(|| std::fs::write(&path, trace.to_binary()))?;
    let path = path.display().to_string();
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
fn least(trace: &Trace, settings: &Settings) -> Result<Option<u64>> {
    least_limit(trace.peak_bytes(), |limit| {
        let allocator = allocator(limit, settings)?;
        Ok(Replay::new(trace, &allocator)?.pass()? == 0)
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

fn print(report: &Report) -> Result<()> {
    let mut out = crate::output::stdout();
    writeln!(out, "an allocation and its free, warm, ns, median of {ROUNDS}")?;
    let head = ["what", "ours", "torch", "ratio"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    rows.extend(report.pairs.iter().map(|pair| {
        vec![
            pair.what.clone(),
            format!("{:.1}", pair.nanoseconds),
            pair.torch_nanoseconds.map_or_else(
                || format!("{:.0}*", pair.torch_recorded_nanoseconds),
                |time| format!("{time:.1}"),
            ),
            ratio(pair.torch_nanoseconds, pair.nanoseconds),
        ]
    }));
    table::print(&mut out, &[Align::Left, Align::Right, Align::Right, Align::Right], &rows)?;
    let Log { event_nanoseconds, events, snapshot_seconds, exports } = &report.log;
    let exports: Vec<_> = exports
        .iter()
        .map(|line| {
            format!("{} {:.0} ms, {:.1} MB", line.format, line.seconds * 1e3, line.bytes as f64 / 1e6)
        })
        .collect();
    writeln!(
        out,
        "\ntrace ring: {event_nanoseconds:.1} ns an event; {events} of them: copied out in {:.0} ms, as {}",
        snapshot_seconds * 1e3,
        exports.join(", as ")
    )?;
    if report.traces.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\ntraces; memory in per cent over what is live, torch's in brackets (*: not of this run)"
    )?;
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
        "driver ms",
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
            format!(
                "{:+.2}{}",
                trace.reserved,
                bracketed(torch.map(|torch| Some(torch.reserved)), trace.torch_recorded.map(|pair| pair.0))
            ),
            format!(
                "{}{}",
                percent(trace.least_pages),
                bracketed(torch.map(|torch| torch.least), trace.torch_recorded.map(|pair| pair.1))
            ),
            percent(trace.least_ladder),
            format!("{:+.2}", trace.planned),
            format!("{:.0}", trace.planner_milliseconds),
            trace.calls_tight.to_string(),
            format!("{:.0}", trace.driver_milliseconds),
        ]
    }));
    let mut columns = vec![Align::Left];
    columns.resize(12, Align::Right);
    table::print(&mut out, &columns, &rows)?;
    Ok(())
}

fn print_on_device(report: &OnDevice) -> Result<()> {
    let mut out = crate::output::stdout();
    writeln!(out, "{}; in brackets calls of a pass that create, map, open, unmap or destroy", report.device)?;
    let head = ["trace", "live MiB", "first pass ms", "ns/event", "reserved", "ns/event at +2 %", "refused"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let with = |figure: String, calls: Calls| format!("{figure} ({})", calls.of_memory());
    rows.extend(report.traces.iter().map(|line| {
        let mut row = vec![line.trace.clone(), format!("{:.0}", line.live_mib)];
        match &line.replayed {
            Some(replayed) => row.extend([
                with(format!("{:.1}", replayed.first_seconds * 1e3), replayed.first_calls),
                with(format!("{:.1}", replayed.nanoseconds), replayed.calls),
                format!("{:+.2}", replayed.reserved),
                with(format!("{:.1}", replayed.tight_nanoseconds), replayed.tight_calls),
                replayed.tight_refused.to_string(),
            ]),
            None => row.push("does not fit".to_owned()),
        }
        row
    }));
    let mut columns = vec![Align::Left];
    columns.resize(head.len(), Align::Right);
    Ok(table::print(&mut out, &columns, &rows)?)
}

/// PyTorch's figure beside ours: of this run, or else the one that was taken once.
fn bracketed(measured: Option<Option<f64>>, recorded: Option<f64>) -> String {
    match (measured, recorded) {
        (Some(measured), _) => format!(" ({})", percent(measured)),
        (None, Some(recorded)) => format!(" ({recorded:+.1}*)"),
        (None, None) => String::new(),
    }
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
    fn figures_of_this_run_come_before_those_that_were_taken_once() {
        assert_eq!(bracketed(Some(Some(1.25)), Some(2.0)), " (+1.2)");
        assert_eq!(bracketed(Some(None), Some(2.0)), " (> +6.4)");
        assert_eq!(bracketed(None, Some(2.0)), " (+2.0*)");
        assert_eq!(bracketed(None, None), "");
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
