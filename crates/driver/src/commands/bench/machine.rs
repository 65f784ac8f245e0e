//! What a device reaches, whatever is computed: the ceilings that everything else is held against.

use std::io::Write;
use std::time::Instant;

use half::bf16;
use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_device::{Backend, Device, Purpose, Stream, StreamKind};
use lighterage_ops::{Linear, Queue, linear};
use lighterage_shape::DType;
use serde::Serialize;

use super::timing::{median, seconds};
use super::tune::{self, TuneArguments};
use crate::device::{DeviceArguments, Work};
use crate::failure::Result;
use crate::json;
use crate::size::Size;
use crate::table::{self, Align};

/// Measure copy, GEMM and link rates of a device, and what its memory calls cost.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Bytes of each copy.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    copy: Size,
    /// Rows, columns and inner size of the product.
    #[arg(long, value_name = "N", default_value_t = 8192)]
    gemm: usize,
    /// Pieces of memory that exist when the cost of more is measured, at most.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    handles: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tune: TuneArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Debug, Serialize)]
struct Report {
    device: String,
    isa: String,
    copy_bytes_per_second: Option<f64>,
    fill_bytes_per_second: Option<f64>,
    pinned_to_device_bytes_per_second: Option<f64>,
    pageable_to_device_bytes_per_second: Option<f64>,
    device_to_host_bytes_per_second: Option<f64>,
    gemm_bf16_flops_per_second: Option<f64>,
    queue_seconds: f64,
    memory_calls: Vec<MemoryCalls>,
    unmap_beside_work: UnmapBesideWork,
}

/// Seconds of each call, median, at a size and with so many pieces there already.
#[derive(Debug, Serialize)]
struct MemoryCalls {
    bytes: u64,
    handles: usize,
    create_seconds: f64,
    map_seconds: f64,
    set_access_seconds: f64,
    unmap_seconds: f64,
    destroy_seconds: f64,
}

/// Whether unmapping memory that nobody uses waits for work on other memory.
#[derive(Debug, Serialize)]
struct UnmapBesideWork {
    /// What was left of the work when the unmapping began.
    work_seconds: f64,
    idle_unmap_seconds: f64,
    unmap_seconds: f64,
    waits: bool,
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

impl Work for Measure<'_> {
    type Output = Report;

    fn run<B: Backend>(self, device: &Device<B>) -> Result<Report> {
        let Self(arguments) = self;
        let stream = device.stream(StreamKind::Compute)?;
        // Two ranges, so that a copy goes from one to the other.
        let bytes = arguments.copy.0.max(1 << 20);
        let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 40 };
        let queue = Queue::new(Pool::new(&stream, config)?);
        let rate = |seconds: f64, moved: u64| (seconds > 0.0).then(|| moved as f64 / seconds);
        let elements = usize::try_from(bytes / 2)?;
        let buffer = || queue.zeros(DType::Bf16, &[elements], "bench");
        let (a, b) = (buffer()?, buffer()?);
        let copy = seconds(&stream, |_| Ok(stream.copy(a.view(), b.view())?))?;
        let fill = seconds(&stream, |_| Ok(stream.fill(a.view(), 1)?))?;
        let mut host = vec![0_u8; usize::try_from(bytes)?];
        let pageable = seconds(&stream, |_| Ok(stream.upload(a.view(), &host)?))?;
        // Into memory that is there and was touched: what the system needs to give it is not the link's.
        let back = seconds(&stream, |_| Ok(stream.read_into(&mut host, a.view()).map(drop)?))?;
        drop(host);
        let pinned = pinned(device, &stream, &queue, bytes)?;
        let queued = queue_seconds(&stream, &queue)?;
        drop((a, b));
        Ok(Report {
            device: device.info().name.clone(),
            isa: device.info().isa.clone(),
            copy_bytes_per_second: rate(copy, 2 * bytes),
            fill_bytes_per_second: rate(fill, bytes),
            pinned_to_device_bytes_per_second: pinned.and_then(|seconds| rate(seconds, bytes)),
            pageable_to_device_bytes_per_second: rate(pageable, bytes),
            device_to_host_bytes_per_second: rate(back, bytes),
            gemm_bf16_flops_per_second: gemm(&queue, arguments.gemm)?,
            queue_seconds: queued,
            memory_calls: memory_calls(device, arguments.handles)?,
            unmap_beside_work: unmap_beside_work(device, &stream, &queue)?,
        })
    }
}

/// Seconds of a copy of page-locked memory to the device; none where it cannot be pinned.
pub(super) fn pinned<B: Backend>(
    device: &Device<B>,
    stream: &Stream<B>,
    queue: &Queue<B>,
    bytes: u64,
) -> Result<Option<f64>> {
    let Ok(source) = device.pin(bytes) else { return Ok(None) };
    let target = queue.zeros(DType::U8, &[usize::try_from(bytes)?], "bench")?;
    let copy = |_| Ok(stream.copy_from_pinned(target.view(), &source)?);
    Ok(Some(seconds(stream, copy)?))
}

/// What the host needs to queue one small piece of work.
fn queue_seconds<B: Backend>(stream: &Stream<B>, queue: &Queue<B>) -> Result<f64> {
    let small = queue.zeros(DType::U8, &[256], "bench")?;
    let mut times = Vec::new();
    for _ in 0..101 {
        stream.synchronize()?;
        let start = Instant::now();
        for _ in 0..64 {
            stream.fill(small.view(), 0)?;
        }
        times.push(start.elapsed().as_secs_f64() / 64.0);
    }
    stream.synchronize()?;
    Ok(median(times))
}

/// Numbers between -1 and 1, with a period of 251: on a large card most of a bench would else be the host's arithmetic.
pub(super) fn numbers(count: usize) -> Vec<bf16> {
    let period: [bf16; 251] =
        std::array::from_fn(|index| bf16::from_f32(((index * 7919) % 251) as f32 / 125.0 - 1.0));
    let mut numbers = period.repeat(count.div_ceil(period.len()));
    numbers.truncate(count);
    numbers
}

/// A square product in bf16; none where the device has no image for it.
pub(super) fn gemm<B: Backend>(queue: &Queue<B>, size: usize) -> Result<Option<f64>> {
    let numbers = numbers(size * size);
    let matrix = || queue.upload(&numbers, &[size, size], "bench");
    let (x, weight) = (matrix()?, matrix()?);
    let out = queue.tensor(DType::Bf16, &[size, size], "bench")?;
    let args = Linear {
        x: x.view(),
        weight: weight.view(),
        bias: None,
        activation: None,
        residual: None,
        out: out.view(),
    };
    let one = seconds(queue.stream(), |_| Ok(linear(queue, &args)?))?;
    Ok((one > 0.0).then(|| 2.0 * (size as f64).powi(3) / one))
}

/// Sizes from the smallest piece to 128 of them, with few and with many other pieces there.
fn memory_calls<B: Backend>(device: &Device<B>, handles_max: usize) -> Result<Vec<MemoryCalls>> {
    let page = device.info().page_bytes;
    let free = device.ledger().free_bytes();
    let mut lines = Vec::new();
    for pages in [1, 4, 16, 64, 128].into_iter().filter(|pages| pages * page <= free / 4) {
        lines.push(calls_at(device, pages * page, 0)?);
    }
    let most = handles_max.min(usize::try_from(free / 2 / page)?);
    let fewer = [100, 1000, 10_000].into_iter().filter(|handles| *handles < most);
    for handles in fewer.chain((most > 0).then_some(most)) {
        let others = (0..handles).map(|_| device.create(Purpose::Activations, page));
        let others = others.collect::<std::result::Result<Vec<_>, _>>()?;
        lines.push(calls_at(device, page, others.len())?);
    }
    Ok(lines)
}

fn calls_at<B: Backend>(device: &Device<B>, bytes: u64, handles: usize) -> Result<MemoryCalls> {
    let range = device.reserve(bytes)?;
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..21 {
        let mut lap = Instant::now();
        let mut note = |index: usize| {
            times[index].push(lap.elapsed().as_secs_f64());
            lap = Instant::now();
        };
        let chunk = device.create(Purpose::Activations, bytes)?;
        note(0);
        range.map(0, &chunk)?;
        note(1);
        range.set_access(0, bytes)?;
        note(2);
        range.unmap(0, bytes)?;
        note(3);
        drop(chunk);
        note(4);
    }
    let [create, map, set_access, unmap, destroy] = times.map(median);
    Ok(MemoryCalls {
        bytes,
        handles,
        create_seconds: create,
        map_seconds: map,
        set_access_seconds: set_access,
        unmap_seconds: unmap,
        destroy_seconds: destroy,
    })
}

fn unmap_beside_work<B: Backend>(
    device: &Device<B>,
    stream: &Stream<B>,
    queue: &Queue<B>,
) -> Result<UnmapBesideWork> {
    let page = device.info().page_bytes;
    // Copies large enough that queueing them takes a small part of their time.
    let size = device.ledger().free_bytes().min(256 << 20) / 4;
    let (a, b) = (
        queue.zeros(DType::U8, &[usize::try_from(size)?], "bench")?,
        queue.zeros(DType::U8, &[usize::try_from(size)?], "bench")?,
    );
    let unmap = |copies: u32| -> Result<(f64, f64)> {
        let range = device.reserve(page)?;
        range.map(0, &device.create(Purpose::Activations, page)?)?;
        range.set_access(0, page)?;
        stream.synchronize()?;
        for _ in 0..copies {
            stream.copy(a.view(), b.view())?;
        }
        let queued = Instant::now();
        range.unmap(0, page)?;
        let unmapped = queued.elapsed().as_secs_f64();
        stream.synchronize()?;
        Ok((queued.elapsed().as_secs_f64(), unmapped))
    };
    let medians = |copies: u32| -> Result<(f64, f64)> {
        let pairs = (0..11).map(|_| unmap(copies)).collect::<Result<Vec<_>>>()?;
        let (work, unmapped): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        Ok((median(work), median(unmapped)))
    };
    let (_, idle) = medians(0)?;
    let (work, beside) = medians(64)?;
    // Half of what was left: an unmap that waits lasts as long as all of it.
    Ok(UnmapBesideWork {
        work_seconds: work,
        idle_unmap_seconds: idle,
        unmap_seconds: beside,
        waits: beside > work / 2.0,
    })
}

impl Report {
    fn print(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let giga = |rate: Option<f64>, unit: &str| {
            rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1} {unit}", rate / 1e9))
        };
        let rows = [
            ("copy on the device, read and written", giga(self.copy_bytes_per_second, "GB/s")),
            ("fill", giga(self.fill_bytes_per_second, "GB/s")),
            ("page-locked memory to device", giga(self.pinned_to_device_bytes_per_second, "GB/s")),
            ("other memory to device", giga(self.pageable_to_device_bytes_per_second, "GB/s")),
            ("device to other memory", giga(self.device_to_host_bytes_per_second, "GB/s")),
            ("bf16 product", giga(self.gemm_bf16_flops_per_second, "GFLOP/s")),
            ("queueing a fill", micro(self.queue_seconds)),
        ];
        writeln!(out, "{}", self.device)?;
        let rows: Vec<_> = rows.into_iter().map(|(what, figure)| vec![what.to_owned(), figure]).collect();
        table::print(&mut out, &[Align::Left, Align::Right], &rows)?;
        let head = ["memory", "pieces there", "create", "map", "set access", "unmap", "destroy"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.memory_calls.iter().map(MemoryCalls::row));
        table::print(&mut out, &[Align::Right; 7], &rows)?;
        let beside = &self.unmap_beside_work;
        writeln!(
            out,
            "unmap: {} idle, {} beside {} of copies: it {}",
            micro(beside.idle_unmap_seconds),
            micro(beside.unmap_seconds),
            micro(beside.work_seconds),
            if beside.waits { "waits for them" } else { "does not wait for them" }
        )?;
        Ok(())
    }
}

impl MemoryCalls {
    fn row(&self) -> Vec<String> {
        let times = [
            self.create_seconds,
            self.map_seconds,
            self.set_access_seconds,
            self.unmap_seconds,
            self.destroy_seconds,
        ];
        let mut row = vec![Size(self.bytes).to_string(), self.handles.to_string()];
        row.extend(times.map(micro));
        row
    }
}

fn micro(seconds: f64) -> String {
    format!("{:.2} us", seconds * 1e6)
}
