//! Attention in f64, and how far a result may be from it.

use std::ops::Range;

use super::case::{Case, Mask, Tensors};

/// One output row of one head.
pub(super) fn exact(tensors: &Tensors, case: &Case, query: usize, head: usize) -> Vec<f64> {
    let keys = if case.mask == Mask::Causal { query + 1 } else { case.keys };
    let scores = scores(tensors, case, query, head, 0..keys);
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = vec![0.0; case.head_dim];
    for (key, weight) in weights.iter().enumerate() {
        for (out, v) in out.iter_mut().zip(tensors.head(case, 2, key, head)) {
            *out += weight / sum * f64::from(*v);
        }
    }
    out
}

/// The logarithm of the sum of the exponentials of some keys' scores.
pub(super) fn log_sum_exp(tensors: &Tensors, case: &Case, query: usize, keys: Range<usize>) -> f64 {
    let scores = scores(tensors, case, query, 0, keys);
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    largest + scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln()
}

fn scores(tensors: &Tensors, case: &Case, query: usize, head: usize, keys: Range<usize>) -> Vec<f64> {
    let q = tensors.head(case, 0, query, head);
    let score = |key: usize| {
        let k = tensors.head(case, 1, key, head);
        let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
        dot * f64::from(case.factor()) + bias(tensors, case, head, key as i64 - query as i64)
    };
    keys.map(score).collect()
}

fn bias(tensors: &Tensors, case: &Case, head: usize, distance: i64) -> f64 {
    let Mask::Buckets { buckets, max_distance } = case.mask else { return 0.0 };
    f64::from(tensors.table[bucket(distance, buckets, max_distance) * case.heads + head])
}

/// T5's bucket, by counting the edges passed: bucket `exact + i` begins where `distance >= exact * (max_distance / exact)^(i / (half - exact))`.
fn bucket(distance: i64, buckets: usize, max_distance: usize) -> usize {
    let (half, length) = (buckets / 2, usize::try_from(distance.unsigned_abs()).expect("small"));
    let (exact, side) = (half / 2, if distance > 0 { half } else { 0 });
    if length < exact {
        return side + length;
    }
    let edge =
        |i: usize| exact as f64 * (max_distance as f64 / exact as f64).powf(i as f64 / (half - exact) as f64);
    // Edges that are whole numbers belong to the bucket that begins there; powf is off by 1e-15 of them.
    let passed = (1..half - exact).filter(|i| length as f64 >= edge(*i) * (1.0 - 1e-9)).count();
    side + exact + passed
}

/// Sums of squares of what is wrong and of what is right.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Error {
    wrong: f64,
    right: f64,
}

impl Error {
    pub(super) fn add(&mut self, got: &[f32], exact: &[f64]) {
        assert_eq!(got.len(), exact.len());
        for (got, exact) in got.iter().zip(exact) {
            self.wrong += (f64::from(*got) - exact).powi(2);
            self.right += exact.powi(2);
        }
    }

    pub(super) fn relative(self) -> f64 {
        (self.wrong / self.right).sqrt()
    }
}
