//! `qk_norm_rope` against fp64: every head size with an image of its own and others, in the fused projection and apart.

use lighterage_kernels::launch::{Arch, Target};
use lighterage_kernels::params::QkNormRopeParams;
use lighterage_kernels::rope;
use lighterage_testkit::Rng;

use crate::buffer::{Buffer, Floats};
use crate::late;
use crate::numerics::{FLUX_ROWS, assert_near_units, assert_rounded_once, count, normals, round_exact};
use crate::runs::{self, Config};

const EPS: f32 = 1e-6;

#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    heads: usize,
    head_dim: usize,
    split: usize,
    /// Elements before the projection: not a multiple of eight, so that no vector is aligned.
    start: usize,
    /// Of q and k.
    mean: f32,
}

const PLAIN: Case = Case { rows: 5, heads: 3, head_dim: 64, split: 2, start: 0, mean: 0.0 };

#[test]
fn every_head_size() {
    for head_dim in [2, 6, 8, 16, 32, 48, 64, 128, 256, 130] {
        check(Case { head_dim, ..PLAIN });
    }
}

#[test]
fn any_rows_and_ranges() {
    for (rows, split) in [(1, 0), (1, 1), (16, 15), (17, 17)] {
        check(Case { rows, split, ..PLAIN });
    }
    for (rows, split) in [(15, 0), (127, 1), (128, 128), (129, 128), (512, 17)] {
        check_in(Case { rows, split, heads: 1, ..PLAIN }, &[Config::default()]);
    }
}

#[test]
fn more_and_fewer_heads_than_a_block_has_room_for() {
    // Of 128 elements a block holds sixteen at a time.
    for heads in [1, 8, 9, 24] {
        check(Case { rows: 2, heads, head_dim: 128, ..PLAIN });
    }
}

#[test]
fn unaligned_heads() {
    check(Case { start: 3, ..PLAIN });
    check(Case { start: 3, head_dim: 128, ..PLAIN });
}

#[test]
fn large_means() {
    for mean in [40.0, 400.0] {
        for head_dim in [64, 128, 130] {
            check(Case { mean, head_dim, ..PLAIN });
        }
    }
}

/// 512 rows of text and 64 x 64 patches, a head or two of the model's 24.
#[test]
fn the_rows_of_flux() {
    let config = Config { checks: false, ..Config::default() };
    check_in(Case { rows: FLUX_ROWS, split: 512, heads: 2, head_dim: 128, ..PLAIN }, &[config]);
}

/// q and k as the bundled model's last step has them, in a double block and in a single one.
#[test]
fn activations_of_the_model() {
    for seen in late::launches("qk_norm_rope_bf16") {
        let p: QkNormRopeParams = seen.parameters();
        assert_eq!((p.eps, p.q_head_stride, p.k_head_stride), (EPS, p.head_dim.into(), p.head_dim.into()));
        let [rows, heads, head_dim, split] = [p.rows, p.heads, p.head_dim, p.split].map(|size| size as usize);
        let row = |row: u32| {
            let at = |address, stride| seen.row(address + 2 * u64::from(row) * stride, p.heads * p.head_dim);
            // No value is looked at: there are keys in place of them.
            let k = at(p.k, p.k_row_stride);
            [at(p.q, p.q_row_stride), k.clone(), k].concat()
        };
        let qkv: Vec<f32> = (0..p.rows).flat_map(row).collect();
        let weights = [p.first_q_weight, p.first_k_weight, p.second_q_weight, p.second_k_weight];
        let weights = weights.map(|address| seen.row(address, p.head_dim));
        let [cos, sin] = [p.cos, p.sin].map(|address| seen.singles(address, p.rows * p.head_dim / 2));
        let case = Case { rows, heads, head_dim, split, ..PLAIN };
        check_on(case, &qkv, &weights, [&cos, &sin], &runs::all().collect::<Vec<_>>());
    }
}

fn check(case: Case) {
    check_in(case, &runs::all().collect::<Vec<_>>());
}

fn check_in(case: Case, configs: &[Config]) {
    let Case { rows, heads, head_dim, start, mean, .. } = case;
    let mut rng = Rng::from_env(24);
    let width = heads * head_dim;
    // q, k and v of each row side by side; v stays as it is.
    let mut qkv = vec![f32::NAN; start];
    qkv.extend(normals(&mut rng, rows * 3 * width, mean));
    let weights: Vec<Vec<f32>> = (0..4).map(|_| normals(&mut rng, head_dim, 1.0)).collect();
    let angles: Vec<f32> = (0..rows * head_dim / 2).map(|_| 7.0 * rng.normal()).collect();
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| (angle.cos(), angle.sin())).unzip();
    check_on(case, &qkv, &weights, [&cos, &sin], configs);
}

fn check_on(case: Case, qkv: &[f32], weights: &[Vec<f32>], [cos, sin]: [&[f32]; 2], configs: &[Config]) {
    let Case { rows, heads, head_dim, split, start, .. } = case;
    let width = heads * head_dim;
    let (exact, slack) = exact(case, qkv, weights, cos, sin);
    for &config in configs {
        let mut memory = Buffer::of(qkv);
        let mut weights: Vec<Buffer> = weights.iter().map(|weight| Buffer::of(weight)).collect();
        let (mut cos, mut sin) = (Floats::of(cos), Floats::of(sin));
        let q = memory.address() + 2 * start as u64;
        let [first_q_weight, first_k_weight, second_q_weight, second_k_weight] =
            [0, 1, 2, 3].map(|index: usize| weights[index].address());
        let (row_stride, head_stride) = (3 * width as u64, head_dim as u64);
        let params = QkNormRopeParams {
            q,
            k: q + 2 * width as u64,
            first_q_weight,
            first_k_weight,
            second_q_weight,
            second_k_weight,
            cos: cos.address(),
            sin: sin.address(),
            q_row_stride: row_stride,
            q_head_stride: head_stride,
            k_row_stride: row_stride,
            k_head_stride: head_stride,
            rows: count(rows),
            heads: count(heads),
            head_dim: count(head_dim),
            split: count(split),
            eps: EPS,
            padding: 0,
        };
        let mut regions = vec![memory.region(), cos.region(), sin.region()];
        regions.extend(weights.iter_mut().map(Buffer::region));
        let launches = rope::qk_norm_rope::launches(&params, Target::typical(Arch::Sm80));
        let report = runs::launch(&launches, &params, &regions, config);
        if let Some(report) = report.filter(|_| config.checks) {
            assert_eq!(report.global_bytes_written, (rows * 2 * width * 2) as u64, "{case:?}");
        }
        let got = memory.values();
        for row in 0..rows {
            let at = |part: usize| start + row * 3 * width + part * width;
            assert_eq!(got[at(2)..at(3)], qkv[at(2)..at(3)], "v is kept");
            // A sum that falls on the other side of a tie moves one element of a short row by a whole unit.
            assert_rounded_once(6.0e-3, &got[at(0)..at(2)], &exact[row * 2 * width..(row + 1) * 2 * width]);
        }
        let heads = |row: usize| &got[start + row * 3 * width..][..2 * width];
        let heads: Vec<f32> = (0..rows).flat_map(|row| heads(row).to_vec()).collect();
        assert_rounded_once(2.0e-3, &heads, &exact);
        assert_near_units(&heads, &exact, &slack);
    }
}

/// q and k of every row, in fp64, but rounded before the weight as the formula says; and what fp32 may add to the last rounding: where it lets that first one
/// fall the other way (the sums differ by their order, 2^-20 relative at most), and two products and a sum.
fn exact(case: Case, qkv: &[f32], weights: &[Vec<f32>], cos: &[f32], sin: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut slack, d) = (Vec::new(), Vec::new(), case.head_dim);
    for row in 0..case.rows {
        for head in 0..2 * case.heads {
            let weight = &weights[if row < case.split { 0 } else { 2 } + head / case.heads];
            let x = &qkv[case.start + (row * 3 * case.heads + head) * d..][..d];
            let square = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / d as f64;
            let inverse = 1.0 / (square + f64::from(EPS)).sqrt();
            let scaled = |i: usize| {
                let (normed, weight) = (f64::from(x[i]) * inverse, f64::from(weight[i]));
                let off = [-1.0, 1.0].map(|sign| round_exact(normed * (1.0 + sign * 2.0_f64.powi(-20))));
                (round_exact(normed) * weight, (off[1] - off[0]).abs() * weight.abs())
            };
            for pair in 0..d / 2 {
                let ((a, off_a), (b, off_b)) = (scaled(2 * pair), scaled(2 * pair + 1));
                let (c, s) = (f64::from(cos[row * d / 2 + pair]), f64::from(sin[row * d / 2 + pair]));
                out.extend([a * c - b * s, a * s + b * c]);
                let fp32 = |a: f64, b: f64| (a.abs() + b.abs()) * 2.0_f64.powi(-22);
                slack.extend([
                    off_a * c.abs() + off_b * s.abs() + fp32(a * c, b * s),
                    off_a * s.abs() + off_b * c.abs() + fp32(a * s, b * c),
                ]);
            }
        }
    }
    (out, slack)
}
