#![expect(
    clippy::cast_possible_truncation,
    reason = "the sizes of tests are small, and their f64 references are rounded on purpose"
)]

use half::bf16;
use lighterage_device::{Isa, Kernel, Workers};
use lighterage_kernels::attention::{HEADS_MAX, PLAIN_HEAD_DIM_MAX};
use lighterage_kernels::params::AttentionParams;
use lighterage_shape::DType;
use lighterage_testkit::{Rng, assert_close};

use super::buckets::bucket;
use super::host::AttentionKernel;
use super::{Attention, Mask, attention};
use crate::gemm::{Guarded, HostElement};
use crate::testing::{assert_refused, dry};

/// Overall bound for bf16: output rounding 1.66e-3 and the rounding of the probabilities give 2.3e-3 (reference/kernels.md, section 7, is where 3e-3 comes from).
const BF16_OVERALL: f64 = 3.0e-3;

/// Bound for any 16 rows of one head: strips expose the edges of tiles and blocks.
const BF16_STRIP: f64 = 6.0e-3;

/// Exponentials with 2.5e-7 relative error of scores with a few 1e-7, and sums in a fixed order.
const F32_OVERALL: f64 = 2.0e-6;

#[derive(Clone, Copy, Debug, PartialEq)]
enum TestMask {
    None,
    Causal,
    Buckets { buckets: usize, max_distance: usize },
}

#[derive(Clone, Copy, Debug)]
struct Case {
    queries: usize,
    keys: usize,
    heads: usize,
    head_dim: usize,
    /// Elements between rows beyond their length: q, k, v, out.
    gaps: [usize; 4],
    scale: f32,
    mask: TestMask,
}

const fn case(queries: usize, keys: usize, heads: usize, head_dim: usize) -> Case {
    Case { queries, keys, heads, head_dim, gaps: [0; 4], scale: 0.0, mask: TestMask::None }
}

#[derive(Clone, Debug)]
struct Tensors<E> {
    q: Guarded<E>,
    k: Guarded<E>,
    v: Guarded<E>,
    table: Guarded<E>,
}

impl<E: HostElement> Tensors<E> {
    fn random(case: Case, rng: &mut Rng, factor: f32) -> Self {
        let width = case.heads * case.head_dim;
        let mut tensor = |rows: usize, gap: usize, factor: f32| {
            Guarded::new(&rng.normals(rows * width, factor), width, width + gap)
        };
        let (q, k, v) = (
            tensor(case.queries, case.gaps[0], factor),
            tensor(case.keys, case.gaps[1], factor),
            tensor(case.keys, case.gaps[2], 1.0),
        );
        let buckets = if let TestMask::Buckets { buckets, .. } = case.mask { buckets } else { 0 };
        let table = Guarded::new(&rng.normals(buckets * case.heads, 2.0), case.heads, case.heads);
        Self { q, k, v, table }
    }

    fn run(&self, case: Case, threads: usize, isa: Isa) -> Vec<f32>
    where
        AttentionKernel<E>: Kernel<Params = AttentionParams>,
    {
        let width = case.heads * case.head_dim;
        let mut out = Guarded::<E>::poisoned(case.queries, width, width + case.gaps[3]);
        let (buckets, max_distance) = match case.mask {
            TestMask::Buckets { buckets, max_distance } => (buckets, max_distance),
            _ => (0, 0),
        };
        let params = AttentionParams {
            q: self.q.address(),
            k: self.k.address(),
            v: self.v.address(),
            out: out.address_mut(),
            bias_table: if buckets > 0 { self.table.address() } else { 0 },
            workspace: 0,
            q_row_stride: self.q.stride(),
            q_head_stride: case.head_dim as u64,
            k_row_stride: self.k.stride(),
            k_head_stride: case.head_dim as u64,
            v_row_stride: self.v.stride(),
            v_head_stride: case.head_dim as u64,
            out_row_stride: out.stride(),
            out_head_stride: case.head_dim as u64,
            queries: case.queries as u32,
            keys: case.keys as u32,
            heads: case.heads as u32,
            head_dim: case.head_dim as u32,
            scale: scale(case),
            causal: u32::from(case.mask == TestMask::Causal),
            buckets: buckets as u32,
            max_distance: max_distance as u32,
        };
        let workers = Workers::new(threads, Some(isa)).unwrap();
        // SAFETY: the tensors have the sizes and strides in `params`, and live until here.
        unsafe { AttentionKernel::<E>::host(&params, &workers) };
        out.assert_guards();
        out.values()
    }

    /// The same in f64, from the rounded inputs.
    fn expected(&self, case: Case) -> Vec<f32> {
        let [q, k, v, table] = [&self.q, &self.k, &self.v, &self.table].map(|tensor| tensor.values());
        let (width, head_dim) = (case.heads * case.head_dim, case.head_dim);
        let mut out = vec![0.0; case.queries * width];
        for head in 0..case.heads {
            let row = |values: &[f32], row: usize| -> Vec<f64> {
                values[row * width + head * head_dim..][..head_dim]
                    .iter()
                    .map(|value| f64::from(*value))
                    .collect()
            };
            let (k, v): (Vec<_>, Vec<_>) = (0..case.keys).map(|key| (row(&k, key), row(&v, key))).unzip();
            for query in 0..case.queries {
                let q = row(&q, query);
                let scores: Vec<f64> = (0..case.keys)
                    .map(|key| {
                        let dot: f64 = q.iter().zip(&k[key]).map(|(q, k)| q * k).sum();
                        dot * f64::from(scale(case)) + added(case, &table, head, query, key)
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
                let sum: f64 = powers.iter().sum();
                for d in 0..head_dim {
                    let weighted: f64 = powers.iter().zip(&v).map(|(power, v)| power * v[d]).sum();
                    out[query * width + head * head_dim + d] = (weighted / sum) as f32;
                }
            }
        }
        out
    }
}

/// 0 stands for the usual one.
fn scale(case: Case) -> f32 {
    if case.scale == 0.0 { 1.0 / (case.head_dim as f32).sqrt() } else { case.scale }
}

fn added(case: Case, table: &[f32], head: usize, query: usize, key: usize) -> f64 {
    match case.mask {
        TestMask::None => 0.0,
        TestMask::Causal => {
            if key > query {
                f64::NEG_INFINITY
            } else {
                0.0
            }
        }
        TestMask::Buckets { buckets, max_distance } => {
            let bucket = bucket(key as i64 - query as i64, buckets as u32, max_distance as u32);
            f64::from(table[bucket as usize * case.heads + head])
        }
    }
}

fn paths() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

fn compare<E: HostElement>(case: Case, tensors: &Tensors<E>)
where
    AttentionKernel<E>: Kernel<Params = AttentionParams>,
{
    let expected = tensors.expected(case);
    let (overall, strip) =
        if size_of::<E>() == 2 { (BF16_OVERALL, BF16_STRIP) } else { (F32_OVERALL, 2.0 * F32_OVERALL) };
    for isa in paths() {
        let got = tensors.run(case, 1, isa);
        let what = format!("{case:?} on {isa}, {}", E::DTYPE);
        assert_close(&what, &got, &expected, overall);
        for head in 0..case.heads {
            let strip_of = |values: &[f32], first: usize| -> Vec<f32> {
                let rows = first..(first + 16).min(case.queries);
                rows.flat_map(|row| {
                    values[(row * case.heads + head) * case.head_dim..][..case.head_dim].to_vec()
                })
                .collect()
            };
            for first in (0..case.queries).step_by(16) {
                let part = format!("{what}: head {head}, rows from {first}");
                assert_close(&part, &strip_of(&got, first), &strip_of(&expected, first), strip);
            }
        }
    }
}

fn check_scaled(case: Case, factor: f32) {
    compare(case, &Tensors::<f32>::random(case, &mut Rng::from_env(3), factor));
    compare(case, &Tensors::<bf16>::random(case, &mut Rng::from_env(3), factor));
}

fn check(case: Case) {
    check_scaled(case, 1.0);
}

#[test]
fn every_number_of_queries_and_keys() {
    for queries in [1, 2, 12, 13, 16, 17, 97] {
        for keys in [1, 2, 15, 16, 17, 31, 33, 127, 129, 191, 193, 385] {
            check(case(queries, keys, 2, 16));
        }
    }
}

#[test]
fn every_head_dim() {
    for head_dim in [1, 2, 7, 16, 32, 33, 64, 65, 128, 200, 385, 512] {
        check(case(14, 40, 2, head_dim));
    }
}

#[test]
fn many_blocks_of_keys_and_queries() {
    check(case(100, 1000, 1, 24));
    check(case(600, 400, 1, 16));
    check(case(260, 20, 17, 8));
}

#[test]
fn a_head_of_the_real_model() {
    check(case(512, 512, 1, 128));
}

#[test]
fn causal() {
    for tokens in [1, 2, 13, 77, 193, 400] {
        check(Case { mask: TestMask::Causal, ..case(tokens, tokens, 2, 16) });
    }
}

#[test]
fn relative_buckets() {
    for (queries, keys) in [(1, 1), (9, 9), (50, 50), (300, 300), (20, 500), (500, 20)] {
        for (buckets, max_distance) in [(32, 128), (8, 20), (4, 2), (11, 20), (7, 128), (5, 2)] {
            let mask = TestMask::Buckets { buckets, max_distance };
            check(Case { mask, scale: 1.0, ..case(queries, keys, 3, 8) });
        }
    }
}

#[test]
fn strided_rows() {
    for gaps in [[5, 0, 0, 0], [0, 3, 0, 0], [0, 0, 9, 0], [0, 0, 0, 7], [1, 2, 3, 4]] {
        check(Case { gaps, ..case(30, 45, 3, 20) });
    }
}

/// Peaky softmax: a few keys take it all, in blocks that come late.
#[test]
fn peaky_scores() {
    check_scaled(case(40, 500, 2, 64), 3.0);
}

/// Scores up to a thousand: nothing overflows.
#[test]
fn scores_of_a_thousand() {
    let case = Case { scale: 1.0, ..case(30, 450, 1, 64) };
    let tensors = Tensors::<bf16>::random(case, &mut Rng::from_env(5), 5.0);
    compare(case, &tensors);
}

/// Every query fits one key only: the output is that key's value, bit for bit.
#[test]
fn one_hot_rows_return_their_value() {
    fn check<E: HostElement>()
    where
        AttentionKernel<E>: Kernel<Params = AttentionParams>,
    {
        let (tokens, head_dim) = (450, 16);
        let case = Case { scale: 1.0, ..case(tokens, tokens, 1, head_dim) };
        let mut tensors = Tensors::<E>::random(case, &mut Rng::from_env(19), 1.0);
        // +-16 by the bits of the index: the score of the own key is 16 * 256, of any other at most 14 * 256.
        let signs: Vec<f32> = (0..tokens)
            .flat_map(|token| (0..head_dim).map(move |bit| if token >> bit & 1 == 1 { 16.0 } else { -16.0 }))
            .collect();
        tensors.q = Guarded::new(&signs, head_dim, head_dim);
        tensors.k = Guarded::new(&signs, head_dim, head_dim);
        for isa in paths() {
            assert_eq!(tensors.run(case, 1, isa), tensors.v.values(), "{} on {isa}", E::DTYPE);
        }
    }
    check::<f32>();
    check::<bf16>();
}

/// The probabilities sum to one: where all values are equal, so is the output.
#[test]
fn constant_values_come_out() {
    fn check<E: HostElement>(bound: f64)
    where
        AttentionKernel<E>: Kernel<Params = AttentionParams>,
    {
        let case = case(50, 700, 2, 32);
        let mut tensors = Tensors::<E>::random(case, &mut Rng::from_env(23), 1.0);
        tensors.v = Guarded::new(&vec![1.5; 700 * 64], 64, 64);
        for isa in paths() {
            assert_close(
                &format!("{} on {isa}", E::DTYPE),
                &tensors.run(case, 1, isa),
                &vec![1.5; 50 * 64],
                bound,
            );
        }
    }
    check::<f32>(1e-6);
    // 1.5 needs two of bf16's eight digits, so the rounding of the output hides what the probabilities' rounding leaves.
    check::<bf16>(1e-3);
}

/// The order of the keys is nothing to the result.
#[test]
fn permuted_keys_change_nothing() {
    let case = case(20, 500, 1, 32);
    let tensors = Tensors::<f32>::random(case, &mut Rng::from_env(29), 1.0);
    let mut turned = tensors.clone();
    let reversed = |values: Vec<f32>| -> Vec<f32> { values.chunks(32).rev().flatten().copied().collect() };
    turned.k = Guarded::new(&reversed(tensors.k.values()), 32, 32);
    turned.v = Guarded::new(&reversed(tensors.v.values()), 32, 32);
    for isa in paths() {
        assert_close(
            &format!("on {isa}"),
            &turned.run(case, 1, isa),
            &tensors.run(case, 1, isa),
            F32_OVERALL,
        );
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    fn check<E: HostElement>(case: Case)
    where
        AttentionKernel<E>: Kernel<Params = AttentionParams>,
    {
        let tensors = Tensors::<E>::random(case, &mut Rng::from_env(31), 1.0);
        for isa in paths() {
            let bits = |threads| {
                tensors.run(case, threads, isa).iter().map(|value| value.to_bits()).collect::<Vec<_>>()
            };
            let one = bits(1);
            for threads in [2, 3, 5] {
                assert!(one == bits(threads), "{case:?} on {isa}, {}: {threads} threads", E::DTYPE);
            }
        }
    }
    // Above the work that runs inline.
    let case = case(300, 410, 3, 48);
    check::<f32>(case);
    check::<bf16>(case);
}

#[test]
fn nan_in_a_key_reaches_every_query() {
    let case = case(5, 30, 1, 8);
    let mut tensors = Tensors::<f32>::random(case, &mut Rng::from_env(37), 1.0);
    let mut k = tensors.k.values();
    k[17 * 8] = f32::NAN;
    tensors.k = Guarded::new(&k, 8, 8);
    for isa in paths() {
        assert!(tensors.run(case, 1, isa).iter().all(|value| value.is_nan()), "on {isa}");
    }
}

#[test]
fn bad_arguments_are_refused_with_numbers() {
    let (queue, other) = (dry(), dry());
    let tensor = |shape: &[usize]| queue.tensor(DType::Bf16, shape, "x").unwrap();
    let (q, k, v, out) = (tensor(&[4, 2, 8]), tensor(&[6, 2, 8]), tensor(&[6, 2, 8]), tensor(&[4, 2, 8]));
    let (flat, none, table) = (tensor(&[4, 16]), tensor(&[0, 2, 8]), tensor(&[8, 2]));
    let few = tensor(&[3, 2]);
    let single = queue.tensor(DType::F32, &[6, 2, 8], "single").unwrap();
    let foreign = other.tensor(DType::Bf16, &[6, 2, 8], "foreign").unwrap();
    let good =
        Attention { q: q.view(), k: k.view(), v: v.view(), out: out.view(), scale: 1.0, mask: Mask::None };
    attention(&queue, &good).unwrap();
    let buckets = |table, max_distance| Mask::RelativeBuckets { table, max_distance };
    attention(&queue, &Attention { mask: buckets(table.view(), 20), ..good }).unwrap();
    let (a, b) = (foreign.view().owner(), queue.stream().id());
    let wrong_stream = format!("attention: memory of {a} used on {b}");
    let cases = [
        (Attention { q: flat.view(), ..good }, "attention: q should have 3 dimensions, is BF16[4, 16]"),
        (Attention { k: out.view(), ..good }, "attention: k overlaps out, which is written"),
        (Attention { k: q.view(), ..good }, "attention: v should be [4, 2, 8], is BF16[6, 2, 8]"),
        (Attention { v: single.view(), ..good }, "attention: v should be BF16, is F32"),
        (
            Attention { out: k.view(), k: v.view(), ..good },
            "attention: out should be [4, 2, 8], is BF16[6, 2, 8]",
        ),
        (Attention { out: q.view(), ..good }, "attention: q overlaps out, which is written"),
        (Attention { k: none.view(), v: none.view(), ..good }, "attention: keys is 0, should be at least 1"),
        (Attention { scale: f32::INFINITY, ..good }, "attention: scale is inf, should be finite"),
        (
            Attention { mask: Mask::Causal, ..good },
            "attention: keys under a causal mask is 6, should be as many as queries",
        ),
        (
            Attention { mask: buckets(flat.view(), 20), ..good },
            "attention: table should be [4, 2], is BF16[4, 16]",
        ),
        (
            Attention { mask: buckets(few.view(), 20), ..good },
            "attention: buckets is 3, should be at least 4",
        ),
        (
            Attention { mask: buckets(table.view(), 2), ..good },
            "attention: max_distance is 2, should be above a quarter of the buckets",
        ),
        (Attention { k: foreign.view(), ..good }, wrong_stream.as_str()),
    ];
    for (args, message) in cases {
        assert_refused(attention(&queue, &args), message);
    }
}

#[test]
fn heads_that_no_kernel_has() {
    let queue = dry();
    let run = |heads: usize, head_dim: usize| {
        let tensor = || queue.tensor(DType::Bf16, &[1, heads, head_dim], "x").unwrap();
        let [q, k, v, out] = [(); 4].map(|()| tensor());
        let (q, k, v, out) = (q.view(), k.view(), v.view(), out.view());
        attention(&queue, &Attention { q, k, v, out, scale: 1.0, mask: Mask::None })
    };
    run(HEADS_MAX as usize, 2).unwrap();
    assert_refused(run(HEADS_MAX as usize + 1, 2), "attention: heads is 65536, should be at most 65535");
    run(1, PLAIN_HEAD_DIM_MAX as usize).unwrap();
    assert_refused(
        run(1, PLAIN_HEAD_DIM_MAX as usize + 1),
        "attention: head_dim is 2889, should be at most 2888",
    );
}

#[test]
fn a_launch_costs_two_products_and_each_tensor_once() {
    let params =
        AttentionParams { queries: 10, keys: 20, heads: 3, head_dim: 8, ..AttentionParams::default() };
    let cost = AttentionKernel::<bf16>::cost(&params);
    assert_eq!((cost.flops, cost.bytes), (4.0 * 10.0 * 20.0 * 24.0, 2.0 * 24.0 * 60.0));
    // A query sees the keys up to its own: 1 + 2 + ... + 10 of them.
    let causal = AttentionParams { keys: 10, causal: 1, ..params };
    assert_eq!(AttentionKernel::<bf16>::cost(&causal).flops, 4.0 * 55.0 * 24.0);
}
