//! `Host` with the emulated kernels: the launches of an op, its failures, its threads.

use bytemuck::{Pod, Zeroable};
use half::bf16;
use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_device::{
    Cost, Device, Emulation, Host, HostConfig, Kernel, Ledger, Purpose, StreamKind, Workers,
};
use lighterage_kernels::launch::{Arch, Grid, Launch, Launches, Target};
use lighterage_ops::{Queue, RmsNorm, rms_norm};
use lighterage_shape::DType;
use lighterage_testkit::Rng;

/// A device that emulates, with so many threads.
pub(crate) fn emulating(arch: Arch, checks: bool, threads: usize) -> Device<Host> {
    let emulate = Some(Emulation { target: Target::typical(arch), checks });
    let host = Host::new(HostConfig { emulate, threads, ..HostConfig::default() }).expect("a host");
    Device::new(host, Ledger::new(1 << 30), Ledger::new(0))
}

/// A queue with a pool on a stream of its own.
pub(crate) fn queue(device: &Device<Host>) -> Queue<Host> {
    let stream = device.stream(StreamKind::Compute).expect("a stream");
    let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 30 };
    Queue::new(Pool::new(&stream, config).expect("a pool"))
}

#[test]
fn an_op_launches_what_a_gpu_would_get() {
    let (rows, columns) = (130, 200);
    let mut rng = Rng::from_env(31);
    let (x, weight) = (rng.normals(rows * columns, 1.0), rng.normals(columns, 1.0));
    let run = |device: &Device<Host>| {
        let queue = queue(device);
        let x = queue.upload_as(DType::Bf16, &x, &[rows, columns], "x").expect("room");
        let weight = queue.upload_as(DType::Bf16, &weight, &[columns], "weight").expect("room");
        let out = queue.tensor(DType::Bf16, &[rows, columns], "out").expect("room");
        rms_norm(&queue, &RmsNorm { x: x.view(), weight: weight.view(), eps: 1e-6, out: out.view() })
            .expect("an image");
        queue.read::<bf16>(out.view()).expect("clean").expect("the host has bytes")
    };
    let checked = run(&emulating(Arch::Sm80, true, 2));
    for threads in [1, 2, 5] {
        for arch in Arch::ALL {
            assert_eq!(run(&emulating(arch, false, threads)), checked, "{arch}, {threads} threads");
        }
    }
}

#[test]
fn f32_has_no_image() {
    let device = emulating(Arch::Sm90a, false, 1);
    let queue = queue(&device);
    let one = queue.upload(&[1.0_f32; 4], &[1, 4], "x").expect("room");
    let x = one.view();
    let refused = rms_norm(&queue, &RmsNorm { x, weight: x.reshape(&[4]).expect("whole"), eps: 0.0, out: x });
    assert_eq!(
        refused.expect_err("no image").to_string(),
        "rms_norm: weight overlaps out, which is written",
        "an op checks before it asks for an image"
    );
    let (weight, out) = (queue.zeros(DType::F32, &[4], "w").expect("room"), one.view());
    let refused = rms_norm(&queue, &RmsNorm { x, weight: weight.view(), eps: 0.0, out });
    let message = refused.expect_err("no image").to_string();
    assert_eq!(message, "no image of kernel rms_norm_f32 for host (1 threads, emulated sm_90a)");
    // Nothing was launched, and the stream goes on.
    assert_eq!(queue.read_f32(x).expect("no failure"), Some(vec![1.0; 4]));
}

#[test]
fn what_the_emulator_finds_fails_the_stream() {
    // Mistake 1 is a missing barrier: only the checks see it.
    for checks in [true, false] {
        let queue = queue(&emulating(Arch::Sm80, checks, 2));
        let x = queue.zeros(DType::F32, &[3, 128], "x").expect("room");
        let out = queue.zeros(DType::F32, &[3, 128], "out").expect("room");
        let params = Params { x: x.view().address().0, out: out.view().address().0, count: 3, padding: 0 };
        // SAFETY: both tensors have three rows of 128 floats, and only this stream uses them.
        unsafe { queue.stream().launch::<Exchange<1>>(&params) }.expect("queued");
        let outcome = queue.stream().synchronize().map_err(|error| error.to_string());
        let is_named = |text: &String| text.contains(" in test_exchange_1, block (0, 0, 0), thread ");
        assert_eq!(outcome.as_ref().err().is_some_and(is_named), checks, "{outcome:?}");
        assert_eq!(queue.stream().synchronize().is_err(), checks, "the stream stays failed");
    }
}

#[test]
fn a_read_past_what_is_mapped_is_out_of_bounds() {
    let device = emulating(Arch::Sm80, true, 1);
    let stream = device.stream(StreamKind::Compute).expect("a stream");
    let range = device.reserve(2 * device.info().page_bytes).expect("addresses");
    let page = device.create(Purpose::Activations, device.info().page_bytes).expect("memory");
    range.map(0, &page).expect("free");
    range.set_access(0, page.bytes()).expect("mapped");
    // Of the row's 128 floats the first 64 are mapped.
    let start = range.address().0;
    let params = Params { x: start + page.bytes() - 256, out: start, count: 1, padding: 0 };
    // SAFETY: with checks an access outside of what is mapped ends the launch before it is made.
    unsafe { stream.launch::<Exchange<0>>(&params) }.expect("queued");
    let message = stream.synchronize().expect_err("found").to_string();
    assert!(message.contains("OutOfBounds in test_exchange_0"), "{message}");
}

#[test]
fn fresh_memory_is_no_zero_where_accesses_are_checked() {
    let device = emulating(Arch::Sm80, true, 1);
    let queue = queue(&device);
    let fresh = queue.tensor(DType::F32, &[64], "fresh").expect("room");
    assert!(queue.read_f32(fresh.view()).expect("read").expect("bytes").iter().all(|value| value.is_nan()));
}

/// `kernels/emu/tests/params.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x: u64,
    out: u64,
    count: u32,
    padding: u32,
}

/// `test_exchange_N`: reverses rows of 128 floats through shared memory, without a mistake for 0.
struct Exchange<const MISTAKE: u32>;

impl<const MISTAKE: u32> Kernel for Exchange<MISTAKE> {
    type Params = Params;

    const NAME: &'static str = "exchange";

    unsafe fn host(_: &Params, _: &Workers) {
        unreachable!("it is emulated");
    }

    fn cost(_: &Params) -> Cost {
        Cost::default()
    }

    fn launches(p: &Params, _: Target) -> Launches {
        let image = if MISTAKE == 0 { "test_exchange_0" } else { "test_exchange_1" };
        Launches::of(&[Launch::new(image, Grid::line(p.count, 128))])
    }
}
