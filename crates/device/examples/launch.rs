//! A kernel of one's own: `y = a * x + y` on [`Host`], and its cost on [`Sim`].
//!
//! `cargo run -p lighterage-device --example launch`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use bytemuck::{Pod, Zeroable};
use lighterage_device::{
    Backend, Cost, Device, Error, Host, HostConfig, Kernel, Ledger, Purpose, Reservation, Result, Sim,
    SimConfig, Stream, StreamKind, View, Workers,
};
use lighterage_shape::{DType, Layout};

/// `y[i] = scale * x[i] + y[i]`.
struct Axpy;

/// What the device gets, byte for byte: addresses as numbers, padding spelled out.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AxpyParams {
    x: u64, // [count]
    y: u64, // [count]
    count: u32,
    scale: f32,
}

/// Elements of one task: cut by size alone, so that the number of threads changes no result.
const TASK: usize = 4096;

impl Kernel for Axpy {
    type Params = AxpyParams;
    const NAME: &'static str = "axpy_f32";

    unsafe fn host(params: &AxpyParams, workers: &Workers) {
        let AxpyParams { x, y, count, scale } = *params;
        let count = count as usize;
        workers.for_each(count.div_ceil(TASK), move |task| {
            let (from, length) = (task * TASK, TASK.min(count - task * TASK));
            let floats = |address: u64| {
                let start =
                    std::ptr::with_exposed_provenance_mut::<f32>(usize::try_from(address).unwrap_or(0));
                start.wrapping_add(from)
            };
            // SAFETY: `x` holds `count` floats, and nothing writes them while the kernel runs.
            let x = unsafe { std::slice::from_raw_parts(floats(x), length) };
            // SAFETY: `y` holds `count` floats apart from `x`, and this task alone touches `from..from + length`.
            let y = unsafe { std::slice::from_raw_parts_mut(floats(y), length) };
            for (y, x) in y.iter_mut().zip(x) {
                *y += scale * x;
            }
        });
    }

    fn cost(params: &AxpyParams) -> Cost {
        let count = f64::from(params.count);
        Cost { flops: 2.0 * count, bytes: 12.0 * count }
    }
}

/// Checks what the kernel relies on, then launches it: the part that makes a safe call of an unsafe one.
fn axpy<B: Backend>(stream: &Stream<B>, scale: f32, x: View<'_>, y: View<'_>) -> Result<()> {
    for view in [x, y] {
        stream.check_owner("axpy", view)?;
        if !view.layout().is_contiguous() || view.dtype() != DType::F32 {
            return Err(Error::NotContiguous { call: "axpy", layout: Box::new(*view.layout()) });
        }
    }
    let (expected, got) = (y.layout().bytes() as u64, x.layout().bytes() as u64);
    if expected != got || x.overlaps(&y) {
        return Err(Error::Size { call: "axpy", expected, got });
    }
    let count = u32::try_from(y.layout().elements()).map_err(|_| Error::Size {
        call: "axpy",
        expected: u64::from(u32::MAX),
        got,
    })?;
    let params = AxpyParams { x: x.address().0, y: y.address().0, count, scale };
    // SAFETY: both views are contiguous f32 of `count` elements, do not overlap, and this stream orders them, all checked above.
    unsafe { stream.launch::<Axpy>(&params) }
}

const COUNT: usize = 10_000;

/// Memory for two vectors.
fn memory<B: Backend>(device: &Device<B>) -> Result<Reservation<B>> {
    let range = device.reserve(2 * 4 * COUNT as u64)?;
    range.map(0, &device.create(Purpose::Activations, range.bytes())?)?;
    range.set_access(0, range.bytes())?;
    Ok(range)
}

/// Runs the kernel; the first and the last value, where there are values.
fn run<B: Backend>(device: &Device<B>) -> Result<Option<[f32; 2]>> {
    let range = memory(device)?;
    let stream = device.stream(StreamKind::Compute)?;
    let layout = Layout::contiguous(DType::F32, &[COUNT]);
    // SAFETY: the range holds two vectors and outlives the stream's work, for which `read` waits; this stream alone uses it.
    let x = unsafe { View::new(range.address(), layout, stream.id()) };
    // SAFETY: as above.
    let y = unsafe { View::new(range.address().offset(4 * COUNT as u64), layout, stream.id()) };
    stream.upload(x, &[2_f32; COUNT])?;
    stream.upload(y, &[1_f32; COUNT])?;
    axpy(&stream, 3.0, x, y)?;
    let values = stream.read::<f32>(y)?;
    Ok(values.and_then(|values| Some([*values.first()?, *values.last()?])))
}

fn main() -> Result<()> {
    let host = Device::new(Host::new(HostConfig::default())?, Ledger::new(1 << 20), Ledger::new(0));
    println!("{}: {:?}", host.info().name, run(&host)?);

    let sim = Device::new(Sim::new(SimConfig::default())?, Ledger::new(1 << 30), Ledger::new(0));
    println!("{}: {:?}, {:?}", sim.info().name, run(&sim)?, sim.backend().counters());
    Ok(())
}
