use lighterage_device::{Backend, View};
use lighterage_shape::DType;

use crate::check::Check;
use crate::{Linear, Queue, Result, Softmax, Transpose, linear, softmax, transpose};

/// `softmax(scale q k^T) v` of one head that is too wide for [`attention`](crate::attention)'s fast kernels, by matrix products.
#[derive(Clone, Copy, Debug)]
pub struct WideAttention<'a> {
    /// `[queries, head_dim]`, dense rows.
    pub q: View<'a>,
    /// `[keys, head_dim]`, dense rows.
    pub k: View<'a>,
    /// `[keys, head_dim]`, dense rows.
    pub v: View<'a>,
    /// `[queries, head_dim]`, dense rows; overlaps nothing.
    pub out: View<'a>,
    /// Factor on the scores.
    pub scale: f32,
    /// Memory to work in.
    pub workspace: WideWorkspace<'a>,
}

/// What [`wide_attention`] writes on its way. As many queries are taken at a time as `scores` has rows: [`wide_attention_queries`] says how many are enough.
#[derive(Clone, Copy, Debug)]
pub struct WideWorkspace<'a> {
    /// `[some queries, keys]` of f32.
    pub scores: View<'a>,
    /// `[some queries, keys]`; rows that begin at multiples of 16 bytes are multiplied faster.
    pub probabilities: View<'a>,
    /// `[head_dim, keys]`, the values with the summed dimension along the rows; as above.
    pub values: View<'a>,
}

/// Scores that are in memory at a time, if that leaves 128 queries: 64 MiB of f32.
const SCORES_MAX: usize = 1 << 24;

/// Queries taken at a time: a strip of the matrix of all scores, never the whole of a long one. They are two blocks of rows of the host's product, for which
/// the keys are packed, and with 512 columns of values 128 tiles of 64 x 64, about one for each multiprocessor of an H100.
const QUERIES_MAX: usize = 1024;

/// How many queries are taken at a time: a function of the sizes alone. A multiple of 128, but for the last.
///
/// ```
/// use lighterage_ops::wide_attention_queries;
/// assert_eq!(wide_attention_queries(16384, 16384), 1024);
/// assert_eq!(wide_attention_queries(100, 100), 100);
/// ```
#[must_use]
pub fn wide_attention_queries(queries: usize, keys: usize) -> usize {
    (SCORES_MAX / keys.max(1) / 128 * 128).clamp(128, QUERIES_MAX).min(queries)
}

/// Launches a [`WideAttention`]: the values are turned once; then for some queries after the others `scores = q k^T` in f32, `probabilities = softmax(scale * scores)`,
/// `out = probabilities v`.
///
/// Scores and sums are f32; with bf16 tensors the probabilities are rounded to bf16 before they meet the values, as in [`attention`](crate::attention).
///
/// # Errors
/// [`Error`](crate::Error) with the numbers if a tensor's shape, element type, strides or place does not suit, if there are no keys, if the workspace has no
/// rows, if the scale is not finite, if a tensor belongs to another stream, or if a launch fails.
pub fn wide_attention<B: Backend>(queue: &Queue<B>, args: &WideAttention<'_>) -> Result<()> {
    let check = Check::new("wide_attention", queue);
    args.check_apart(check)?;
    let Sizes { queries, chunk } = args.check_sizes(check)?;
    let WideWorkspace { scores, probabilities, values } = args.workspace;
    transpose(queue, &Transpose { x: args.v, out: values })?;
    for first in (0..queries).step_by(chunk) {
        let count = chunk.min(queries - first);
        let (scores, probabilities) = (scores.rows(0, count)?, probabilities.rows(0, count)?);
        let plain = |x, weight, out| Linear { x, weight, bias: None, activation: None, residual: None, out };
        linear(queue, &plain(args.q.rows(first, count)?, args.k, scores))?;
        softmax(queue, &Softmax { x: scores, scale: args.scale, out: probabilities })?;
        linear(queue, &plain(probabilities, values, args.out.rows(first, count)?))?;
    }
    Ok(())
}

/// Queries in all, and at a time.
struct Sizes {
    queries: usize,
    chunk: usize,
}

impl WideAttention<'_> {
    /// Everything that a later launch would refuse, when an earlier one has written already.
    fn check_sizes(&self, check: Check) -> Result<Sizes> {
        let q = check.tensor("q", self.q)?;
        let (dtype, [queries, head_dim]) = (q.float()?, q.extents()?);
        let [keys, _] = check.tensor("k", self.k)?.extents()?;
        let WideWorkspace { scores, probabilities, values } = self.workspace;
        let [chunk, _] = check.tensor("scores", scores)?.extents()?;
        #[expect(clippy::cast_precision_loss, reason = "for messages")]
        {
            check.value("keys", keys as f64, "at least 1", keys > 0)?;
            check.value("rows of scores", chunk as f64, "at least 1", chunk > 0)?;
        }
        check.value("scale", f64::from(self.scale), "finite", self.scale.is_finite())?;
        for (name, view, dtype, shape) in [
            ("q", self.q, dtype, [queries, head_dim]),
            ("k", self.k, dtype, [keys, head_dim]),
            ("v", self.v, dtype, [keys, head_dim]),
            ("out", self.out, dtype, [queries, head_dim]),
            ("scores", scores, DType::F32, [chunk, keys]),
            ("probabilities", probabilities, dtype, [chunk, keys]),
            ("values", values, dtype, [head_dim, keys]),
        ] {
            check.tensor(name, view)?.is(dtype, &shape)?.dense_rows()?;
        }
        Ok(Sizes { queries, chunk })
    }

    /// Several launches work on the tensors, so what one writes must not be what a later one reads of another.
    fn check_apart(&self, check: Check) -> Result<()> {
        let WideWorkspace { scores, probabilities, values } = self.workspace;
        let tensors = [
            ("out", self.out),
            ("scores", scores),
            ("probabilities", probabilities),
            ("values", values),
            ("q", self.q),
            ("k", self.k),
            ("v", self.v),
        ];
        for (index, (name, written)) in tensors[..4].iter().enumerate() {
            let written = check.tensor(name, *written)?;
            for (other, view) in &tensors[index + 1..] {
                check.tensor(other, *view)?.apart(written)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lighterage_device::Host;
    use lighterage_testkit::{Rng, assert_close};

    use super::*;
    use crate::testing::{DTYPES, assert_refused, dry, held, normals, on_threads};
    use crate::{Attention, Mask, attention};

    /// Queries, keys, elements of the head, queries at a time.
    #[derive(Clone, Copy, Debug)]
    struct Case {
        queries: usize,
        keys: usize,
        head_dim: usize,
        chunk: usize,
        factor: f32,
    }

    impl Case {
        fn scale(self) -> f32 {
            1.0 / (self.head_dim as f32).sqrt()
        }

        /// q, k and v side by side, as a projection leaves them.
        fn qkv(self, dtype: DType) -> Vec<f32> {
            let width = 3 * self.head_dim;
            let mut values = normals(&mut Rng::from_env(1), dtype, self.queries.max(self.keys) * width, 0.0);
            for (index, value) in values.iter_mut().enumerate() {
                if index % width < 2 * self.head_dim {
                    *value = held(dtype, *value * self.factor);
                }
            }
            values
        }

        fn exact(self, qkv: &[f32]) -> Vec<f32> {
            let d = self.head_dim;
            let part = |row: usize, part: usize| &qkv[row * 3 * d + part * d..][..d];
            let mut out = Vec::new();
            for query in 0..self.queries {
                let dot = |key: usize| {
                    let pairs = part(query, 0).iter().zip(part(key, 1));
                    pairs.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * f64::from(self.scale())
                };
                let scores: Vec<f64> = (0..self.keys).map(dot).collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
                let sum: f64 = weights.iter().sum();
                out.extend((0..d).map(|c| {
                    let terms = weights.iter().enumerate().map(|(key, w)| w * f64::from(part(key, 2)[c]));
                    #[expect(clippy::cast_possible_truncation, reason = "a reference, rounded on purpose")]
                    let value = (terms.sum::<f64>() / sum) as f32;
                    value
                }));
            }
            out
        }

        /// The result of the chunks, then that of `attention`.
        fn run(self, queue: &Queue<Host>, dtype: DType, qkv: &[f32]) -> Result<Vec<f32>> {
            let Case { queries, keys, head_dim, chunk, .. } = self;
            let all = queue.upload_as(dtype, qkv, &[queries.max(keys), 3 * head_dim], "qkv")?;
            let part = |part: usize, rows| {
                all.view().narrow(1, part * head_dim, head_dim).unwrap().rows(0, rows).unwrap()
            };
            let (q, k, v) = (part(0, queries), part(1, keys), part(2, keys));
            let scores = queue.tensor(DType::F32, &[chunk, keys], "scores")?;
            let padded = keys.next_multiple_of(8);
            let probabilities = queue.tensor(dtype, &[chunk, padded], "probabilities")?;
            let values = queue.tensor(dtype, &[head_dim, padded], "values")?;
            let out = queue.tensor(dtype, &[queries, head_dim], "out")?;
            let workspace = WideWorkspace {
                scores: scores.view(),
                probabilities: probabilities.view().narrow(1, 0, keys)?,
                values: values.view().narrow(1, 0, keys)?,
            };
            wide_attention(
                queue,
                &WideAttention { q, k, v, out: out.view(), scale: self.scale(), workspace },
            )?;
            let mut both = queue.read_f32(out.view())?.unwrap();
            let args = Attention {
                q: q.split(1, 1)?,
                k: k.split(1, 1)?,
                v: v.split(1, 1)?,
                out: out.view().split(1, 1)?,
                scale: self.scale(),
                mask: Mask::None,
            };
            attention(queue, &args)?;
            both.extend(queue.read_f32(out.view())?.unwrap());
            Ok(both)
        }
    }

    fn check(case: Case) {
        for dtype in DTYPES {
            let qkv = case.qkv(dtype);
            let exact = case.exact(&qkv);
            // As attention's own tests: f32 exponentials and sums; bf16 probabilities and output.
            let bound = if dtype == DType::F32 { 3.0e-6 } else { 3.0e-3 };
            let both = on_threads(|queue| case.run(queue, dtype, &qkv));
            let (wide, fused) = both.split_at(exact.len());
            assert_close(&format!("{case:?} {dtype}"), wide, &exact, bound);
            assert_close(&format!("{case:?} {dtype}, attention"), fused, &exact, bound);
        }
    }

    #[test]
    fn the_vaes_head_in_one_and_in_several_chunks() {
        let case = Case { queries: 100, keys: 130, head_dim: 512, chunk: 100, factor: 1.0 };
        check(case);
        check(Case { chunk: 33, ..case });
    }

    #[test]
    fn peaky_scores() {
        check(Case { queries: 40, keys: 64, head_dim: 144, chunk: 16, factor: 3.0 });
    }

    #[test]
    fn one_key() {
        check(Case { queries: 3, keys: 1, head_dim: 20, chunk: 1, factor: 1.0 });
    }

    #[test]
    fn the_workspace_depends_on_sizes_alone_and_is_bounded() {
        for (queries, keys, expected) in [
            (16384, 16384, 1024),
            (65536, 65536, 256),
            (1, 1 << 24, 1),
            (500, 1 << 24, 128),
            (4096, 4096, 1024),
            (1024, 1024, 1024),
        ] {
            assert_eq!(wide_attention_queries(queries, keys), expected, "{queries} x {keys}");
        }
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |dtype, shape: &[usize]| queue.tensor(dtype, shape, "x").unwrap();
        let half = DType::Bf16;
        let (q, k, v, out) =
            (tensor(half, &[4, 6]), tensor(half, &[5, 6]), tensor(half, &[5, 6]), tensor(half, &[4, 6]));
        let (scores, few) = (tensor(DType::F32, &[2, 5]), tensor(DType::F32, &[0, 5]));
        let (probabilities, values, none) =
            (tensor(half, &[2, 5]), tensor(half, &[6, 5]), tensor(half, &[0, 6]));
        let (short, narrow) = (tensor(half, &[3, 6]), tensor(half, &[2, 4]));
        let workspace = WideWorkspace {
            scores: scores.view(),
            probabilities: probabilities.view(),
            values: values.view(),
        };
        let good =
            WideAttention { q: q.view(), k: k.view(), v: v.view(), out: out.view(), scale: 0.5, workspace };
        wide_attention(&queue, &good).unwrap();
        let cases = [
            (WideAttention { k: none.view(), ..good }, "wide_attention: keys is 0, should be at least 1"),
            (
                WideAttention { workspace: WideWorkspace { scores: few.view(), ..workspace }, ..good },
                "wide_attention: rows of scores is 0, should be at least 1",
            ),
            (WideAttention { v: q.view(), ..good }, "wide_attention: v should be [5, 6], is BF16[4, 6]"),
            (WideAttention { scale: f32::NAN, ..good }, "wide_attention: scale is NaN, should be finite"),
            (
                WideAttention { out: short.view(), ..good },
                "wide_attention: out should be [4, 6], is BF16[3, 6]",
            ),
            (
                WideAttention {
                    workspace: WideWorkspace { probabilities: narrow.view(), ..workspace },
                    ..good
                },
                "wide_attention: probabilities should be [2, 5], is BF16[2, 4]",
            ),
            (
                WideAttention { workspace: WideWorkspace { values: v.view(), ..workspace }, ..good },
                "wide_attention: v overlaps values, which is written",
            ),
            (WideAttention { out: k.view(), ..good }, "wide_attention: k overlaps out, which is written"),
        ];
        for (args, message) in cases {
            assert_refused(wide_attention(&queue, &args), message);
        }
    }
}
