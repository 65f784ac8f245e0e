//! What a launch says it costs: the planner and every roofline believe it.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail")]

use lighterage_allocator::{Config, Pool};
use lighterage_device::{Device, Ledger, Purpose, Sim, SimConfig, StreamKind};
use lighterage_ops::{
    Activation, ActivationKind, Add, Cast, Embedding, EulerStep, GatedUpdate, Geglu, GroupNorm, LayerNorm,
    MeanAbsDiff, Modulation, NormMod, Patchify, QkNormRope, QkWeights, Queue, Result, RmsNorm, Sinusoid,
    Tensor, Unpatchify, Upsample, group_norm_workspace, mean_abs_diff_workspace,
};
use lighterage_shape::DType;

/// A queue whose device counts the bytes that kernels name.
fn queue() -> Queue<Sim> {
    let device = Device::new(Sim::new(SimConfig::default()).unwrap(), Ledger::new(1 << 40), Ledger::new(0));
    let stream = device.stream(StreamKind::Compute).unwrap();
    Queue::new(Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 40 }).unwrap())
}

/// Fails unless one launch names the bytes of the tensors, each as often as it is read or written, and some work for each element if it
/// has any.
fn check(launch: impl Fn(&Queue<Sim>) -> Result<Vec<(Tensor<Sim>, u32)>>, computes: bool) {
    let queue = queue();
    let tensors = launch(&queue).unwrap();
    let expected: f64 =
        tensors.iter().map(|(tensor, times)| tensor.layout().bytes() as f64 * f64::from(*times)).sum();
    let counters = queue.device().backend().counters();
    assert_eq!((counters.launches, counters.bytes), (1, expected), "{tensors:?}");
    let elements = tensors.iter().map(|(tensor, _)| tensor.layout().elements()).max().unwrap_or(0) as f64;
    assert_eq!(
        counters.flops >= elements / 2.0,
        computes,
        "{} operations on {elements} elements",
        counters.flops
    );
}

const HALF: DType = DType::Bf16;

#[test]
fn elementwise_ops_move_each_byte_once() {
    check(
        |queue| {
            let (x, out) = (queue.tensor(HALF, &[64, 96], "x")?, queue.tensor(HALF, &[64, 96], "out")?);
            let kind = ActivationKind::GeluTanh;
            lighterage_ops::activation(queue, &Activation { x: x.view(), kind, out: out.view() })?;
            Ok(vec![(x, 1), (out, 1)])
        },
        true,
    );
    for rows in [1, 64] {
        check(
            |queue| {
                let (a, b) = (queue.tensor(HALF, &[64, 96], "a")?, queue.tensor(HALF, &[rows, 96], "b")?);
                lighterage_ops::add(queue, &Add { a: a.view(), b: b.view(), scale: 1.0, out: a.view() })?;
                Ok(vec![(a, 2), (b, 1)])
            },
            true,
        );
    }
    check(
        |queue| {
            let (x, out) = (queue.tensor(HALF, &[96], "x")?, queue.tensor(DType::F32, &[96], "out")?);
            lighterage_ops::cast(queue, &Cast { x: x.view(), out: out.view() })?;
            Ok(vec![(x, 1), (out, 1)])
        },
        false,
    );
    check(
        |queue| {
            let (x, velocity) = (queue.tensor(HALF, &[96], "x")?, queue.tensor(HALF, &[96], "velocity")?);
            lighterage_ops::euler_step(
                queue,
                &EulerStep { x: x.view(), velocity: velocity.view(), delta: -0.1 },
            )?;
            Ok(vec![(x, 2), (velocity, 1)])
        },
        true,
    );
    check(
        |queue| {
            let (x, out) = (queue.tensor(HALF, &[64, 96], "x")?, queue.tensor(HALF, &[64, 48], "out")?);
            lighterage_ops::geglu(queue, &Geglu { x: x.view(), out: out.view() })?;
            Ok(vec![(x, 1), (out, 1)])
        },
        true,
    );
    check(
        |queue| {
            let (a, b) = (queue.tensor(HALF, &[960], "a")?, queue.tensor(HALF, &[960], "b")?);
            let out = queue.tensor(DType::F32, &[1], "out")?;
            let workspace = queue.tensor(DType::F32, &[mean_abs_diff_workspace(960)], "workspace")?;
            let (a_view, b_view, workspace) = (a.view(), b.view(), workspace.view());
            let args = MeanAbsDiff { a: a_view, b: b_view, out: out.view(), workspace };
            lighterage_ops::mean_abs_diff(queue, &args)?;
            Ok(vec![(a, 1), (b, 1), (out, 1)])
        },
        true,
    );
}

#[test]
fn norms_move_each_byte_once() {
    check(
        |queue| {
            let (x, weight) = (queue.tensor(HALF, &[64, 96], "x")?, queue.tensor(HALF, &[96], "weight")?);
            lighterage_ops::rms_norm(
                queue,
                &RmsNorm { x: x.view(), weight: weight.view(), eps: 1e-6, out: x.view() },
            )?;
            Ok(vec![(x, 2), (weight, 1)])
        },
        true,
    );
    check(
        |queue| {
            let (x, weight) = (queue.tensor(HALF, &[64, 96], "x")?, queue.tensor(HALF, &[96], "weight")?);
            let bias = queue.tensor(HALF, &[96], "bias")?;
            let (weight_view, bias_view) = (weight.view(), bias.view());
            let args =
                LayerNorm { x: x.view(), weight: weight_view, bias: bias_view, eps: 1e-6, out: x.view() };
            lighterage_ops::layer_norm(queue, &args)?;
            Ok(vec![(x, 2), (weight, 1), (bias, 1)])
        },
        true,
    );
    check(
        |queue| {
            let (x, weight) = (queue.tensor(HALF, &[64, 96], "x")?, queue.tensor(HALF, &[96], "weight")?);
            let bias = queue.tensor(HALF, &[96], "bias")?;
            let numbers = group_norm_workspace(64, 96, 32);
            let workspace = queue.tensor(DType::F32, &[numbers], "workspace")?;
            let (weight_view, bias_view, activation) =
                (weight.view(), bias.view(), Some(ActivationKind::Silu));
            let out = x.view();
            let args = GroupNorm {
                x: x.view(),
                weight: weight_view,
                bias: bias_view,
                groups: 32,
                eps: 1e-6,
                activation,
                out,
                workspace: workspace.view(),
            };
            lighterage_ops::group_norm(queue, &args)?;
            Ok(vec![(x, 2), (weight, 1), (bias, 1)])
        },
        true,
    );
}

/// The vectors of a range without rows are not read.
#[test]
fn modulation_counts_the_ranges_that_have_rows() {
    for (split, update) in [(0, false), (10, false), (64, false), (0, true), (10, true)] {
        check(
            |queue| {
                let (x, out) = (queue.tensor(HALF, &[64, 96], "x")?, queue.tensor(HALF, &[64, 96], "out")?);
                let (y, v) = (queue.tensor(HALF, &[64, 96], "y")?, queue.tensor(HALF, &[96], "v")?);
                let modulation = Modulation { shift: v.view(), scale: v.view() };
                let gated = GatedUpdate { y: y.view(), first_gate: v.view(), second_gate: v.view() };
                let args = NormMod {
                    x: x.view(),
                    out: out.view(),
                    update: update.then_some(gated),
                    split,
                    first: modulation,
                    second: modulation,
                    eps: 1e-6,
                };
                lighterage_ops::norm_mod(queue, &args)?;
                let ranges = if split == 10 { 2 } else { 1 };
                let (vectors, times) = if update { (3, 2) } else { (2, 1) };
                Ok(vec![(x, times), (out, 1), (y, times - 1), (v, ranges * vectors)])
            },
            true,
        );
    }
}

#[test]
fn rotation_counts_q_and_k_twice() {
    for (split, ranges) in [(0, 1), (10, 2), (64, 1)] {
        check(
            |queue| {
                let (q, k) = (queue.tensor(HALF, &[64, 3, 16], "q")?, queue.tensor(HALF, &[64, 3, 16], "k")?);
                let (w, angles) =
                    (queue.tensor(HALF, &[16], "w")?, queue.tensor(DType::F32, &[64, 8], "angles")?);
                let weights = QkWeights { q: w.view(), k: w.view() };
                let args = QkNormRope {
                    q: q.view(),
                    k: k.view(),
                    split,
                    first: weights,
                    second: weights,
                    cos: angles.view(),
                    sin: angles.view(),
                    eps: 1e-6,
                };
                lighterage_ops::qk_norm_rope(queue, &args)?;
                Ok(vec![(q, 2), (k, 2), (w, 2 * ranges), (angles, 2)])
            },
            true,
        );
    }
}

#[test]
fn gathers_and_images_move_each_byte_once() {
    check(
        |queue| {
            let (ids, out) = (queue.tensor(DType::I32, &[64], "ids")?, queue.tensor(HALF, &[64, 96], "out")?);
            let table = queue.tensor(HALF, &[1000, 96], "table")?;
            lighterage_ops::embedding(
                queue,
                &Embedding { ids: ids.view(), table: table.view(), out: out.view() },
            )?;
            // The rows that are read are as many as those that are written.
            Ok(vec![(ids, 1), (out, 2)])
        },
        false,
    );
    check(
        |queue| {
            let (values, out) =
                (queue.tensor(DType::F32, &[4], "values")?, queue.tensor(HALF, &[4, 256], "out")?);
            lighterage_ops::sinusoid(queue, &Sinusoid { values: values.view(), out: out.view() })?;
            Ok(vec![(values, 1), (out, 1)])
        },
        true,
    );
    check(
        |queue| {
            let (image, tokens) =
                (queue.tensor(HALF, &[16, 8, 12], "image")?, queue.tensor(HALF, &[24, 64], "tokens")?);
            let args = Patchify { image: image.view(), multiply: 1.0, add: 0.0, tokens: tokens.view() };
            lighterage_ops::patchify(queue, &args)?;
            Ok(vec![(image, 1), (tokens, 1)])
        },
        true,
    );
    check(
        |queue| {
            let (image, tokens) =
                (queue.tensor(HALF, &[16, 8, 12], "image")?, queue.tensor(HALF, &[24, 64], "tokens")?);
            let args = Unpatchify { tokens: tokens.view(), multiply: 1.0, add: 0.0, image: image.view() };
            lighterage_ops::unpatchify(queue, &args)?;
            Ok(vec![(image, 1), (tokens, 1)])
        },
        true,
    );
    check(
        |queue| {
            let (x, out) = (queue.tensor(HALF, &[4, 5, 8], "x")?, queue.tensor(HALF, &[8, 10, 8], "out")?);
            lighterage_ops::upsample(queue, &Upsample { x: x.view(), out: out.view() })?;
            Ok(vec![(x, 1), (out, 1)])
        },
        false,
    );
}
