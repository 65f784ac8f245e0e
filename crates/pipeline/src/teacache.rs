use lighterage_device::{Backend, View};
use lighterage_ops::{self as ops, Queue, Tensor};
use lighterage_shape::DType;

use crate::Result;

/// How far apart two steps' inputs seem to be, from how far they are: a fit by the authors for FLUX (`TeaCache4FLUX`), highest power first.
const POLYNOMIAL: [f64; 5] = [498.651_651, -283.781_631, 55.855_438_2, -3.820_214_01, 0.264_230_861];

/// The least value of that polynomial, at a distance of 0.0528: a threshold below can never be met.
pub const TEACACHE_MINIMUM: f64 = 0.180_343;

/// Which steps to skip: those whose input is so like that of the step before that the blocks would add the same again (Liu et al. 2024).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TeaCache {
    /// A step is skipped while the distances since the last computed one sum up to less.
    pub threshold: f64,
    /// Whether InfuseNet runs on skipped steps too, for nothing, as it does in the reference pipelines.
    pub keeps_infusenet: bool,
}

impl TeaCache {
    /// Whether any step can be skipped with this threshold.
    #[must_use]
    pub fn can_skip(&self) -> bool {
        self.threshold > TEACACHE_MINIMUM
    }
}

/// The rule: what is decided, from distances alone.
#[derive(Clone, Debug)]
struct Rule {
    threshold: f64,
    steps: usize,
    sum: f64,
}

impl Rule {
    /// Whether to compute step `index`, whose input is `distance` from that of the step before; unknown distances are computed.
    fn computes(&mut self, index: usize, distance: Option<f64>) -> bool {
        let is_edge = index == 0 || index + 1 == self.steps;
        let Some(distance) = distance.filter(|_| !is_edge) else {
            self.sum = 0.0;
            return true;
        };
        self.sum += POLYNOMIAL.into_iter().fold(0.0, |value, factor| value * distance + factor);
        // Also where the distance is not a number.
        let computes = self.sum.is_nan() || self.sum >= self.threshold;
        if computes {
            self.sum = 0.0;
        }
        computes
    }
}

/// What one branch of one picture remembers from step to step.
#[derive(Debug)]
pub(crate) struct Memory<B: Backend> {
    rule: Rule,
    /// The first block's input of the step before, `[image, width]`.
    seen: Tensor<B>,
    /// What the blocks added to the image rows when they last ran, `[image, width]`.
    added: Tensor<B>,
    distance: Tensor<B>,
    /// For the partial sums of the distance.
    workspace: Tensor<B>,
}

impl<B: Backend> Memory<B> {
    /// All of its memory is taken now, so that one step tells how much the others need.
    pub(crate) fn new(
        queue: &Queue<B>,
        options: TeaCache,
        steps: usize,
        dtype: DType,
        shape: [usize; 2],
    ) -> Result<Self> {
        Ok(Self {
            rule: Rule { threshold: options.threshold, steps, sum: 0.0 },
            seen: queue.tensor(dtype, &shape, "teacache input")?,
            added: queue.tensor(dtype, &shape, "teacache residual")?,
            distance: queue.tensor(DType::F32, &[1], "teacache distance")?,
            workspace: queue.tensor(
                DType::F32,
                &[ops::mean_abs_diff_workspace(shape[0] * shape[1])],
                "teacache sums",
            )?,
        })
    }

    /// Whether step `index` with this input of the first block is to be computed. Waits for the device, but for the first and the last step.
    pub(crate) fn computes(&mut self, queue: &Queue<B>, index: usize, input: View<'_>) -> Result<bool> {
        let distance =
            if index > 0 && index + 1 < self.rule.steps { self.measure(queue, input)? } else { None };
        queue.stream().copy(self.seen.view(), input)?;
        Ok(self.rule.computes(index, distance))
    }

    /// Before the blocks change the image rows.
    pub(crate) fn keep(&self, queue: &Queue<B>, image: View<'_>) -> Result<()> {
        Ok(queue.stream().copy(self.added.view(), image)?)
    }

    /// After the blocks: what they added.
    pub(crate) fn learn(&self, queue: &Queue<B>, image: View<'_>) -> Result<()> {
        let (b, out) = (self.added.view(), self.added.view());
        Ok(ops::add(queue, &ops::Add { a: image, b, scale: -1.0, out })?)
    }

    /// In place of the blocks.
    pub(crate) fn repeat(&self, queue: &Queue<B>, image: View<'_>) -> Result<()> {
        Ok(ops::add(queue, &ops::Add { a: image, b: self.added.view(), scale: 1.0, out: image })?)
    }

    /// `mean |a - b| / mean |b|`, four bytes read back. Nothing where memory has no bytes.
    fn measure(&self, queue: &Queue<B>, input: View<'_>) -> Result<Option<f64>> {
        let out = self.distance.view();
        let (b, workspace) = (self.seen.view(), self.workspace.view());
        ops::mean_abs_diff(queue, &ops::MeanAbsDiff { a: input, b, out, workspace })?;
        let distance = queue.read_f32(out)?;
        Ok(distance.map(|distance| f64::from(distance[0])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(distance: f64) -> f64 {
        let mut rule = Rule { threshold: f64::INFINITY, steps: 9, sum: 0.0 };
        rule.computes(1, Some(distance));
        rule.sum
    }

    /// Listed by the specification of the reference pipelines.
    #[test]
    fn polynomial_has_its_known_values() {
        for (distance, expected) in [
            (0.0, 0.264_231),
            (0.02, 0.207_98),
            (0.05, 0.180_50),
            (0.1, 0.206_85),
            (0.2, 0.262_00),
            (0.3, 0.522_13),
            (0.5, 8.0110),
        ] {
            assert!((value(distance) - expected).abs() < 6e-5, "{distance}: {}", value(distance));
        }
    }

    #[test]
    fn minimum_is_the_least_value_anywhere() {
        let least =
            (0..1_000_000_u32).map(|step| value(f64::from(step) * 1e-6)).fold(f64::INFINITY, f64::min);
        assert!((least - TEACACHE_MINIMUM).abs() < 1e-6, "{least}");
        let cache = |threshold| TeaCache { threshold, keeps_infusenet: false };
        assert!(!cache(0.15).can_skip() && !cache(0.18).can_skip() && cache(0.2).can_skip());
    }

    /// At the least distance every step adds 0.1803: so many may be skipped in a row.
    #[test]
    fn thresholds_bound_the_steps_skipped_in_a_row() {
        for (threshold, expected) in
            [(0.15, 0), (0.18, 0), (0.2, 1), (0.36, 1), (0.4, 2), (0.54, 2), (0.6, 3), (0.8, 4)]
        {
            let mut rule = Rule { threshold, steps: 100, sum: 0.0 };
            let ran: Vec<bool> = (0..100).map(|index| rule.computes(index, Some(0.052_844))).collect();
            let most = ran.split(|ran| *ran).map(<[bool]>::len).max();
            assert_eq!(most, Some(expected), "threshold {threshold}");
            assert!(ran[0] && ran[99]);
        }
    }

    #[test]
    fn what_is_unknown_is_computed() {
        let mut rule = Rule { threshold: 10.0, steps: 5, sum: 0.0 };
        assert!(!rule.computes(1, Some(0.0)));
        assert!(rule.computes(2, None));
        assert!(rule.computes(3, Some(f64::NAN)));
    }
}
