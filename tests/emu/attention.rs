//! `attention_sm80.cu` against fp64, by the rules of its numerics: relative Frobenius error, whole and by strips of 16 rows.

use bytemuck::bytes_of;
use half::bf16;
use lighterage_kernels::emu::{self, Config, Grid, Mode};
use lighterage_kernels::params::AttentionParams;
use lighterage_testkit::Rng;

use crate::buffer::Buffer;
use crate::runs;

#[derive(Clone, Copy)]
struct Case {
    queries: usize,
    keys: usize,
    heads: usize,
    head_dim: usize,
    causal: bool,
    /// Factor on q and k: a large one makes the softmax peaky.
    scale: f32,
}

const PLAIN: Case = Case { queries: 64, keys: 64, heads: 1, head_dim: 128, causal: false, scale: 1.0 };

#[test]
fn one_tile() {
    check(PLAIN);
}

#[test]
fn one_query_and_one_key() {
    check(Case { queries: 1, keys: 1, ..PLAIN });
}

#[test]
fn tails() {
    for (queries, keys) in [(15, 129), (16, 17), (17, 127), (129, 65)] {
        check(Case { queries, keys, heads: 2, head_dim: 64, ..PLAIN });
    }
}

#[test]
fn a_causal_mask() {
    check(Case { queries: 129, keys: 129, heads: 2, head_dim: 64, causal: true, ..PLAIN });
}

#[test]
fn a_peaky_softmax() {
    check(Case { queries: 64, keys: 200, scale: 3.0, ..PLAIN });
}

#[test]
fn five_hundred_rows() {
    let case = Case { queries: 512, keys: 512, ..PLAIN };
    compare(case, &[Config { mode: Mode::Late, ..Config::default() }]);
}

fn check(case: Case) {
    compare(case, &runs::all().collect::<Vec<_>>());
}

fn compare(case: Case, configs: &[Config]) {
    let mut rng = Rng::from_env(5);
    let row = case.heads * case.head_dim;
    // q, k and v are columns of one projection, as in the model.
    let rows = case.queries.max(case.keys);
    let mut qkv: Vec<f32> =
        rng.normals(rows * 3 * row, 1.0).iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
    for (index, value) in qkv.iter_mut().enumerate() {
        if index % (3 * row) < 2 * row {
            *value = bf16::from_f32(*value * case.scale).to_f32();
        }
    }
    let expected = exact(&qkv, case);
    let mut first = None;
    for config in configs {
        let got = emulated(&qkv, case, *config);
        assert_near(&got, &expected, row, *config);
        assert_eq!(first.get_or_insert(got.clone()), &got, "{config:?}: the same bits in every run");
    }
}

fn assert_near(got: &[f32], expected: &[f64], row: usize, config: Config) {
    // Output rounding is 1.66e-3, rounding the probabilities brings it to 2.3e-3 for normal inputs; a strip of few rows varies more.
    let error = relative(got, expected);
    assert!(error <= 3.0e-3, "{config:?}: relative error {error:.2e}");
    for (strip, (got, expected)) in got.chunks(16 * row).zip(expected.chunks(16 * row)).enumerate() {
        let error = relative(got, expected);
        assert!(error <= 6.0e-3, "{config:?}: relative error {error:.2e} in strip {strip}");
    }
}

fn relative(got: &[f32], expected: &[f64]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut got.iter().zip(expected).map(|(g, e)| f64::from(*g) - e));
    (difference / square(&mut expected.iter().copied())).sqrt()
}

fn emulated(qkv: &[f32], case: Case, config: Config) -> Vec<f32> {
    let row = case.heads * case.head_dim;
    let (mut qkv, mut out) = (Buffer::of(qkv), Buffer::poisoned(case.queries * row));
    let (stride, head_dim) = (3 * row as u64, case.head_dim as u64);
    let count = |count: usize| u32::try_from(count).expect("small");
    let params = AttentionParams {
        q: qkv.address(),
        k: qkv.address() + 2 * row as u64,
        v: qkv.address() + 4 * row as u64,
        out: out.address(),
        q_row_stride: stride,
        q_head_stride: head_dim,
        k_row_stride: stride,
        k_head_stride: head_dim,
        v_row_stride: stride,
        v_head_stride: head_dim,
        out_row_stride: row as u64,
        out_head_stride: head_dim,
        queries: count(case.queries),
        keys: count(case.keys),
        heads: count(case.heads),
        head_dim: count(case.head_dim),
        scale: scale(case),
        causal: u32::from(case.causal),
        ..AttentionParams::default()
    };
    let grid = Grid {
        blocks: [params.queries.div_ceil(64), params.heads, 1],
        threads: [128, 1, 1],
        shared_bytes: 5 * 64 * params.head_dim * 2,
    };
    let name = format!("attention_sm80_d{}_bf16", case.head_dim);
    // SAFETY: every address is that of a buffer that lives until the launch has ended, and the regions name them all.
    let report =
        unsafe { emu::launch(&name, grid, bytes_of(&params), &[], &[qkv.region(), out.region()], config) }
            .unwrap_or_else(|failure| panic!("{config:?}: {failure}"));
    assert_eq!(report.bank_conflicts, 0, "the swizzle keeps ldmatrix free of conflicts");
    out.values()
}

fn scale(case: Case) -> f32 {
    1.0 / (case.head_dim as f32).sqrt()
}

fn exact(qkv: &[f32], case: Case) -> Vec<f64> {
    let row = case.heads * case.head_dim;
    let at = |part: usize, token: usize, head: usize, d: usize| {
        f64::from(qkv[token * 3 * row + part * row + head * case.head_dim + d])
    };
    let mut out = vec![0.0; case.queries * row];
    for head in 0..case.heads {
        for query in 0..case.queries {
            let keys = if case.causal { query + 1 } else { case.keys };
            let dot = |key: usize| {
                (0..case.head_dim).map(|d| at(0, query, head, d) * at(1, key, head, d)).sum::<f64>()
            };
            let scores: Vec<f64> = (0..keys).map(|key| dot(key) * f64::from(scale(case))).collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..case.head_dim {
                let weighted: f64 = weights.iter().enumerate().map(|(key, w)| w * at(2, key, head, d)).sum();
                out[query * row + head * case.head_dim + d] = weighted / sum;
            }
        }
    }
    out
}
