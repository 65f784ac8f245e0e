//! `softmax.cu` and `transpose.cu`, and attention made of them and `linear_sm80.cu`, as wide heads take it.

use lighterage_kernels::gemm::{linear, transpose};
use lighterage_kernels::launch::{Arch, Launches, Target};
use lighterage_kernels::norm::softmax;
use lighterage_kernels::params::{AttentionParams, LinearParams, SoftmaxParams, TransposeParams};
use lighterage_testkit::Rng;

use crate::buffer::Floats;
use crate::late;
use crate::numerics::{FLUX_ROWS, SIZES, count, relative, round, round_exact};
use crate::product::{Exact, Matrix, assert_near};
use crate::runs::{self, Config, Region};

/// As the model's target: any.
fn target() -> Target {
    Target::typical(Arch::Sm80)
}

#[test]
fn ragged_columns() {
    for columns in [1, 15, 16, 17, 127, 128, 129, 512, 2055] {
        check([2, columns], 0, 1.0, &normals);
    }
}

#[test]
fn any_number_of_rows() {
    for rows in SIZES {
        compare([rows, 20], 0, 1.0, &normals, &[Config::default()]);
    }
    compare([FLUX_ROWS, 20], 0, 1.0, &normals, &[Config { checks: false, ..Config::default() }]);
}

#[test]
fn strided_rows() {
    check([3, 100], 4, 0.5, &normals);
    check([3, 77], 3, 0.5, &normals);
}

#[test]
fn scores_of_a_thousand() {
    check([2, 300], 0, 300.0, &normals);
    check([2, 300], 0, -300.0, &normals);
}

#[test]
fn equal_scores_and_masked_ones() {
    check([2, 256], 0, 1.0, &|_, _| 40.0);
    // The first row begins with so much that is masked that some threads see nothing else.
    check([2, 600], 0, 1.0, &|_, i| if i < 550 { f32::NEG_INFINITY } else { 0.25 * (i % 7) as f32 });
}

#[test]
fn a_long_row() {
    compare([1, 16384], 0, 1.0, &normals, &[Config::default()]);
}

/// Rows that are held in registers: the shortest and the longest, with eights that some threads lack; and their neighbours, which are not.
#[test]
fn rows_in_registers() {
    for columns in [4096, 4104, 14400, 16376, 16384, 16392] {
        compare([2, columns], 0, 0.7, &normals, &[Config::default()]);
    }
    compare([2, 4105], 0, 0.7, &normals, &[Config::default()]);
    check([2, 4104], 8, 1.0, &normals);
    check([2, 4104], 3, 1.0, &normals);
    check([2, 4104], 0, 300.0, &normals);
    check([2, 4104], 0, -300.0, &normals);
    check([2, 4104], 0, 1.0, &|_, i| if i < 4000 { f32::NEG_INFINITY } else { 0.25 * (i % 7) as f32 });
}

/// The scores of the bundled model's attention in its last step and decoder, whose heads are too narrow for this kernel there.
#[test]
fn scores_of_the_model() {
    for seen in late::launches("attention_bf16") {
        let p: AttentionParams = seen.parameters();
        let head = |address, rows, stride| seen.rows(address, [rows, p.head_dim], stride);
        let (q, k) = (head(p.q, p.queries, p.q_row_stride), head(p.k, p.keys, p.k_row_stride));
        let width = p.head_dim as usize;
        let dot = |q: &[f32], k: &[f32]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>();
        let scores: Vec<f32> =
            q.chunks(width).flat_map(|q| k.chunks(width).map(move |k| dot(q, k))).collect();
        compare_on(&scores, p.keys as usize, 0, p.scale, &[Config::default()]);
    }
}

fn normals(rng: &mut Rng, _: usize) -> f32 {
    rng.normal()
}

type Value<'a> = &'a dyn Fn(&mut Rng, usize) -> f32;

fn check(shape: [usize; 2], gap: usize, scale: f32, value: Value<'_>) {
    compare(shape, gap, scale, value, &runs::all().collect::<Vec<_>>());
}

fn compare([rows, columns]: [usize; 2], gap: usize, scale: f32, value: Value<'_>, configs: &[Config]) {
    let mut rng = Rng::from_env(6);
    let x: Vec<f32> = (0..rows * columns).map(|i| value(&mut rng, i)).collect();
    compare_on(&x, columns, gap, scale, configs);
}

fn compare_on(x: &[f32], columns: usize, gap: usize, scale: f32, configs: &[Config]) {
    let rows = x.len() / columns;
    let half: Vec<f32> = x.iter().map(|x| round(*x)).collect();
    let (expected, expected_half) = (exact(x, columns, scale), exact(&half, columns, scale));
    for config in configs {
        let mut single = Floats::of(x);
        let mut matrix = Matrix::of(&half, columns, gap, 0);
        let name = format!("{rows} x {columns} times {scale}, {config:?}");
        let got = soften(
            single.address(),
            columns as u64,
            single.region(),
            [rows, columns],
            gap,
            scale,
            softmax::launches_from_f32,
            *config,
        );
        assert_near(&name, &got, &expected, columns);
        let (address, stride, region) = (matrix.address(), matrix.stride(), matrix.region());
        let got = soften(address, stride, region, [rows, columns], gap, scale, softmax::launches, *config);
        assert_near(&name, &got, &expected_half, columns);
    }
}

/// Runs the kernel on rows of either type.
#[expect(clippy::too_many_arguments, reason = "two callers, side by side")]
fn soften(
    x: u64,
    x_stride: u64,
    region: Region,
    [rows, columns]: [usize; 2],
    gap: usize,
    scale: f32,
    launches: fn(&SoftmaxParams, Target) -> Launches,
    config: Config,
) -> Vec<f32> {
    let mut out = Matrix::of(&vec![f32::NAN; rows * columns], columns, gap, 0);
    let params = SoftmaxParams {
        x,
        out: out.address(),
        x_stride,
        out_stride: out.stride(),
        rows: count(rows),
        columns: count(columns),
        scale,
        padding: 0,
    };
    runs::launch(&launches(&params, runs::target()), &params, &[region, out.region()], config);
    out.values()
}

/// The formula in f64, and what may be off: x times scale is rounded in fp32, 2^-24 of it, and is the exponent; the sum of n
/// exponentials, each to 2^-20, is off by n 2^-24 at most.
fn exact(x: &[f32], columns: usize, scale: f32) -> Vec<Exact> {
    let mut all = Vec::new();
    for row in x.chunks(columns) {
        let scores: Vec<f64> = row.iter().map(|x| f64::from(*x) * f64::from(scale)).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let reach = scores
            .iter()
            .filter(|score| score.is_finite())
            .fold(0.0, |most: f64, score| most.max(score.abs()));
        let relative =
            4.0 * reach * 2.0_f64.powi(-24) + (columns + 16) as f64 * 2.0_f64.powi(-24) + 2.0_f64.powi(-19);
        // Below the smallest normal number of fp32 the exponential is flushed to zero.
        let flushed = 2.0_f64.powi(-125);
        all.extend(weights.iter().map(|weight| {
            let value = weight / sum;
            Exact { value, bound: value * (relative + 1.0 / 256.0) + flushed }
        }));
    }
    all
}

#[test]
fn transposed_matrices() {
    let some = [(1, 1, 0), (64, 64, 0), (65, 63, 3), (17, 129, 0), (128, 15, 1)];
    let some = some.map(|shape| (shape, usize::MAX));
    let sized = SIZES.into_iter().flat_map(|size| [(size, 9, 0), (10, size, 0)]);
    // Values of a picture of 1024 x 1024, a few of their 512 columns.
    let sized = sized.chain([(16_384, 8, 0)]).map(|shape| (shape, 1));
    for ((rows, columns, gap), times) in some.into_iter().chain(sized) {
        let (mut x, values) = Matrix::random(&mut Rng::from_env(7), [rows, columns], 1.0, gap, 0);
        for config in runs::all().take(times) {
            let mut out = Matrix::of(&vec![f32::NAN; values.len()], rows, gap, 0);
            transposed(&mut x, &mut out, [rows, columns], config);
            let expected: Vec<f32> =
                (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect();
            assert_eq!(out.values(), expected, "{rows} x {columns}, {config:?}");
        }
    }
}

fn transposed(x: &mut Matrix, out: &mut Matrix, [rows, columns]: [usize; 2], config: Config) {
    let params = TransposeParams {
        x: x.address(),
        out: out.address(),
        x_stride: x.stride(),
        out_stride: out.stride(),
        rows: count(rows),
        columns: count(columns),
    };
    runs::launch(&transpose::launches(&params, target()), &params, &[x.region(), out.region()], config);
}

#[test]
fn attention_of_a_wide_head() {
    const HEAD_DIM: usize = 512;
    for (queries, keys, factor) in [(70, 130, 1.0), (17, 136, 3.0)] {
        let mut rng = Rng::from_env(8);
        let (mut q, q_values) = Matrix::random(&mut rng, [queries, HEAD_DIM], factor, 0, 0);
        let (mut k, k_values) = Matrix::random(&mut rng, [keys, HEAD_DIM], factor, 0, 0);
        let (mut v, v_values) = Matrix::random(&mut rng, [keys, HEAD_DIM], 1.0, 0, 0);
        let scale = 1.0 / (HEAD_DIM as f32).sqrt();
        let expected = attention(&q_values, &k_values, &v_values, HEAD_DIM, scale);
        for config in [Config::default(), Config { seed: 3, ..Config::default() }] {
            // As in ops: rows of values and probabilities begin at multiples of 16 bytes.
            let pad = keys.next_multiple_of(8) - keys;
            let mut scores = Floats::of(&vec![f32::NAN; queries * keys]);
            let mut weights = Matrix::of(&vec![f32::NAN; queries * keys], keys, pad, 0);
            let mut values = Matrix::of(&vec![f32::NAN; keys * HEAD_DIM], keys, pad, 0);
            let mut out = Matrix::of(&vec![f32::NAN; queries * HEAD_DIM], HEAD_DIM, 0, 0);
            let product = LinearParams {
                x: q.address(),
                weight: k.address(),
                out: scores.address(),
                x_stride: q.stride(),
                weight_stride: k.stride(),
                out_stride: keys as u64,
                rows: count(queries),
                columns: count(keys),
                inner: count(HEAD_DIM),
                ..LinearParams::default()
            };
            let regions = [q.region(), k.region(), scores.region()];
            runs::launch(&linear::launches_sums(&product, target()), &product, &regions, config);
            let soft = SoftmaxParams {
                x: scores.address(),
                out: weights.address(),
                x_stride: keys as u64,
                out_stride: weights.stride(),
                rows: count(queries),
                columns: count(keys),
                scale,
                padding: 0,
            };
            let regions = [scores.region(), weights.region()];
            runs::launch(&softmax::launches_from_f32(&soft, runs::target()), &soft, &regions, config);
            transposed(&mut v, &mut values, [keys, HEAD_DIM], config);
            let product = LinearParams {
                x: weights.address(),
                weight: values.address(),
                out: out.address(),
                x_stride: weights.stride(),
                weight_stride: values.stride(),
                out_stride: out.stride(),
                rows: count(queries),
                columns: count(HEAD_DIM),
                inner: count(keys),
                ..LinearParams::default()
            };
            let regions = [weights.region(), values.region(), out.region()];
            runs::launch(&linear::launches(&product, target()), &product, &regions, config);
            let error = relative(&out.values(), &expected);
            // As every attention kernel: rounding the probabilities and the output.
            assert!(error <= 3.0e-3, "{queries} x {keys}, {config:?}: relative error {error:.2e}");
        }
    }
}

/// `softmax(scale q k^T) v` in f64.
fn attention(q: &[f32], k: &[f32], v: &[f32], head_dim: usize, scale: f32) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let mut out = Vec::new();
    for q in q.chunks(head_dim) {
        let scores: Vec<f64> = k.chunks(head_dim).map(|k| dot(q, k) * f64::from(scale)).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        out.extend((0..head_dim).map(|d| {
            weights.iter().enumerate().map(|(key, w)| w * f64::from(v[key * head_dim + d])).sum::<f64>() / sum
        }));
    }
    out
}

#[test]
fn sums_keep_their_digits() {
    // Sums near 1000 whose bf16 rounding would be 4 apart.
    for (rows, columns, inner) in [(1, 1, 1), (70, 131, 40), (129, 64, 136), (17, 33, 27)] {
        let mut rng = Rng::from_env(9);
        let (mut x, x_values) = Matrix::random(&mut rng, [rows, inner], 10.0, 0, 0);
        let (mut weight, weight_values) = Matrix::random(&mut rng, [columns, inner], 10.0, 0, 0);
        for config in runs::all() {
            let mut out = Floats::of(&vec![f32::NAN; rows * columns]);
            let params = LinearParams {
                x: x.address(),
                weight: weight.address(),
                out: out.address(),
                x_stride: x.stride(),
                weight_stride: weight.stride(),
                out_stride: columns as u64,
                rows: count(rows),
                columns: count(columns),
                inner: count(inner),
                ..LinearParams::default()
            };
            let regions = [x.region(), weight.region(), out.region()];
            runs::launch(&linear::launches_sums(&params, target()), &params, &regions, config);
            for (index, got) in out.values().iter().enumerate() {
                let (x, w) = (
                    &x_values[index / columns * inner..][..inner],
                    &weight_values[index % columns * inner..][..inner],
                );
                let products = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let (sum, magnitude) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                let bound = inner as f64 * magnitude * 2.0_f64.powi(-24);
                assert!(
                    (f64::from(*got) - sum).abs() <= bound,
                    "{config:?}: element {index} is {got}, expected {sum}"
                );
            }
            let shows = out.values().iter().any(|got| round_exact(f64::from(*got)) != f64::from(*got));
            assert!(shows || inner == 1, "the case has sums that bf16 does not hold");
        }
    }
}
