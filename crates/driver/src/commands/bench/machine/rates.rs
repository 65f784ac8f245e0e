//! Copies, fills, the link to the host, a product, and what the host needs to queue something.

use std::time::Instant;

use half::bf16;
use lighterage_device::{Backend, Device};
use lighterage_ops::{Linear, Queue, linear};
use lighterage_shape::DType;
use serde::Serialize;

use super::super::timing::{median, seconds};
use crate::failure::Result;

#[derive(Debug, Serialize)]
pub(super) struct Rates {
    pub(super) copy_bytes_per_second: Option<f64>,
    pub(super) fill_bytes_per_second: Option<f64>,
    pub(super) pinned_to_device_bytes_per_second: Option<f64>,
    pub(super) pageable_to_device_bytes_per_second: Option<f64>,
    pub(super) device_to_host_bytes_per_second: Option<f64>,
    /// Page-locking memory, zeroed: what streamed weights wait for when they are first copied.
    pub(super) page_locking_bytes_per_second: Option<f64>,
    pub(super) gemm_bf16_flops_per_second: Option<f64>,
    pub(super) queue_seconds: f64,
}

pub(super) fn measure<B: Backend>(device: &Device<B>, copy_bytes: u64, size: usize) -> Result<Rates> {
    let queue = super::queue(device)?;
    let stream = queue.stream();
    // Two ranges, so that a copy goes from one to the other.
    let bytes = copy_bytes.max(1 << 20);
    let rate = |seconds: f64, moved: u64| (seconds > 0.0).then(|| moved as f64 / seconds);
    let elements = usize::try_from(bytes / 2)?;
    let buffer = || queue.zeros(DType::Bf16, &[elements], "bench");
    let (a, b) = (buffer()?, buffer()?);
    let copy = seconds(stream, |_| Ok(stream.copy(a.view(), b.view())?))?;
    let fill = seconds(stream, |_| Ok(stream.fill(a.view(), 1)?))?;
    let mut host = vec![0_u8; usize::try_from(bytes)?];
    let pageable = seconds(stream, |_| Ok(stream.upload(a.view(), &host)?))?;
    // Into memory that is there and was touched: what the system needs to give it is not the link's.
    let back = seconds(stream, |_| Ok(stream.read_into(&mut host, a.view()).map(drop)?))?;
    drop(host);
    let pinned = pinned(&queue, bytes)?;
    let queued = queue_seconds(&queue)?;
    drop((a, b));
    Ok(Rates {
        copy_bytes_per_second: rate(copy, 2 * bytes),
        fill_bytes_per_second: rate(fill, bytes),
        pinned_to_device_bytes_per_second: pinned.and_then(|seconds| rate(seconds, bytes)),
        pageable_to_device_bytes_per_second: rate(pageable, bytes),
        device_to_host_bytes_per_second: rate(back, bytes),
        page_locking_bytes_per_second: locking_seconds(device, bytes)
            .and_then(|seconds| rate(seconds, bytes)),
        gemm_bf16_flops_per_second: gemm(&queue, size)?,
        queue_seconds: queued,
    })
}

/// Page-locked memory to the device; none where it cannot be pinned.
pub(in super::super) fn pinned<B: Backend>(queue: &Queue<B>, bytes: u64) -> Result<Option<f64>> {
    let Ok(source) = queue.device().pin(bytes) else { return Ok(None) };
    let target = queue.zeros(DType::U8, &[usize::try_from(bytes)?], "bench")?;
    let copy = |_| Ok(queue.stream().copy_from_pinned(target.view(), &source)?);
    Ok(Some(seconds(queue.stream(), copy)?))
}

/// What page-locking so many bytes takes; none where they cannot be, or need not.
fn locking_seconds<B: Backend>(device: &Device<B>, bytes: u64) -> Option<f64> {
    let once = || {
        let start = Instant::now();
        let pinned = device.pin(bytes).ok()?;
        let took = start.elapsed().as_secs_f64();
        drop(pinned);
        Some(took)
    };
    if !device.backend().prefers_pinned() {
        return None;
    }
    (0..5).map(|_| once()).collect::<Option<Vec<_>>>().map(median)
}

/// What the host needs to queue one small piece of work.
fn queue_seconds<B: Backend>(queue: &Queue<B>) -> Result<f64> {
    let stream = queue.stream();
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

/// A square product in bf16; none where the device has no image for it.
pub(in super::super) fn gemm<B: Backend>(queue: &Queue<B>, size: usize) -> Result<Option<f64>> {
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
    Ok(flops_per_second(size, one))
}

pub(super) fn flops_per_second(size: usize, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| 2.0 * (size as f64).powi(3) / seconds)
}

/// Numbers between -1 and 1, never zeros: those take less power and run faster. With a period of 251: on a large card most of a bench would else be the
/// host's arithmetic.
pub(in super::super) fn numbers(count: usize) -> Vec<bf16> {
    let period: [bf16; 251] =
        std::array::from_fn(|index| bf16::from_f32(((index * 7919) % 251) as f32 / 125.0 - 1.0));
    let mut numbers = period.repeat(count.div_ceil(period.len()));
    numbers.truncate(count);
    numbers
}
