use std::ops::Range;

use lighterage_device::{Backend, View};
use lighterage_dit::{Conditioning, InfuseInputs, InfuseNet, InfuseOutputs, Modulations, Rope};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::Pager;

use crate::denoiser::{model_timesteps, told};
use crate::stage::Turns;
use crate::{Grid, Result, Schedule};

/// The steps on which InfuseNet works: of `n` those that begin at or after `start n` and end at or before `end n`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// 0 to 1.
    pub start: f64,
    /// 0 to 1.
    pub end: f64,
}

/// Steps that follow one another and read the same weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) steps: Range<usize>,
    /// Whether InfuseNet works on them.
    pub(crate) is_infused: bool,
}

impl Window {
    /// All steps.
    pub const ALL: Self = Self { start: 0.0, end: 1.0 };

    /// Whether InfuseNet works on step `index` of `steps` (diffusers' `controlnet_keep`, computed as there).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "at most 1000 steps")]
    pub fn contains(self, index: usize, steps: usize) -> bool {
        let (from, to) = (index as f64 / steps as f64, (index + 1) as f64 / steps as f64);
        !(from < self.start || to > self.end)
    }

    /// Whether InfuseNet works on any of so many steps.
    pub(crate) fn is_open(self, steps: usize) -> bool {
        (0..steps).any(|index| self.contains(index, steps))
    }

    /// All steps, cut where it opens and where it closes.
    pub(crate) fn segments(self, steps: usize) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        for index in 0..steps {
            let is_infused = self.contains(index, steps);
            match segments.last_mut() {
                Some(last) if last.is_infused == is_infused => last.steps.end = index + 1,
                _ => segments.push(Segment { steps: index..index + 1, is_infused }),
            }
        }
        segments
    }
}

impl Segment {
    /// The turns of a loop of these segments: those with InfuseNet first, where there are both.
    pub(crate) fn turns(segments: &[Self]) -> Turns {
        let steps = |is_infused: bool| -> usize {
            let some = segments.iter().filter(|segment| segment.is_infused == is_infused);
            some.map(|segment| segment.steps.len()).sum()
        };
        let counts = [steps(true) as u64, steps(false) as u64];
        let has_both = counts.iter().all(|count| *count > 0);
        let first_kind = usize::from(has_both && segments.first().is_some_and(|first| !first.is_infused));
        Turns { counts: counts.into_iter().filter(|count| *count > 0).collect(), first_kind }
    }

    /// A step of each kind, in the order in which they come: all that a dry pass has to see.
    pub(crate) fn samples(segments: Vec<Self>) -> Vec<Self> {
        let mut samples: Vec<Self> = Vec::new();
        for Self { steps, is_infused } in segments {
            if samples.iter().all(|sample| sample.is_infused != is_infused) {
                samples.push(Self { steps: steps.start..steps.start + 1, is_infused });
            }
        }
        samples
    }
}

/// What InfuseNet is told: the same for all steps.
#[derive(Clone, Copy, Debug)]
pub struct Portrayed<'a> {
    /// `[tokens, joint]`: the identity, in place of a prompt's states.
    pub tokens: View<'a>,
    /// `[1, pooled]`: CLIP's pooled vector of the prompt.
    pub pooled: View<'a>,
    /// `[grid tokens, channels]`: the control picture's packed latents.
    pub control: View<'a>,
    /// Its own embedded guidance, 1 as published.
    pub guidance: f32,
}

/// InfuseNet's part of a loop: what it was told, embedded once for all steps.
#[derive(Debug)]
pub struct Infusion<B: Backend> {
    text: Tensor<B>,
    control: Tensor<B>,
    modulations: Modulations<B>,
}

impl<B: Backend> Infusion<B> {
    /// Runs the parts of InfuseNet that no step changes.
    ///
    /// # Errors
    /// What InfuseNet reports.
    pub fn new(
        queue: &Queue<B>,
        pager: &Pager<B>,
        net: &InfuseNet,
        portrayed: &Portrayed<'_>,
        schedule: &Schedule,
    ) -> Result<Self> {
        let timesteps = model_timesteps(schedule, net.dtype());
        let Portrayed { tokens, pooled, control, guidance } = *portrayed;
        let conditioning =
            Conditioning { timesteps: told(schedule, &timesteps), guidance: Some(guidance), pooled };
        Ok(Self {
            modulations: net.condition(queue, pager, &conditioning)?,
            text: net.embed_text(queue, pager, tokens)?,
            control: net.embed_control(queue, pager, control)?,
        })
    }
}

/// InfuseNet in a loop: how strongly, and where.
#[derive(Debug)]
pub struct Infused<'a, B: Backend> {
    net: &'a InfuseNet,
    infusion: Infusion<B>,
    rope: Rope<B>,
    /// Factor on what it adds.
    pub(crate) scale: f32,
}

impl<'a, B: Backend> Infused<'a, B> {
    /// Puts it into a loop over a picture of that size; what it adds is multiplied by `scale`.
    ///
    /// # Errors
    /// If there is no memory for the rotations of its tokens.
    pub fn new(
        queue: &Queue<B>,
        net: &'a InfuseNet,
        infusion: Infusion<B>,
        grid: Grid,
        scale: f32,
    ) -> Result<Self> {
        let rope = Rope::grid(queue, net.config(), infusion.text.shape()[0], grid.rows, grid.columns)?;
        Ok(Self { net, infusion, rope, scale })
    }

    /// Makes `step` the present one.
    pub(crate) fn select(&self, queue: &Queue<B>, step: usize) -> Result<()> {
        Ok(self.infusion.modulations.select(queue, step)?)
    }

    /// What it adds behind the transformer's blocks at the present step.
    pub(crate) fn outputs(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        latents: View<'_>,
    ) -> Result<InfuseOutputs<B>> {
        let Infusion { text, control, modulations } = &self.infusion;
        let (text, control) = (text.view(), control.view());
        let inputs = InfuseInputs { latents, text, control, modulations, rope: &self.rope };
        Ok(self.net.step(queue, pager, &inputs)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(start: f64, end: f64, steps: usize, expected: &[(Range<usize>, bool)]) {
        let found = Window { start, end }.segments(steps);
        let found: Vec<_> = found.into_iter().map(|segment| (segment.steps, segment.is_infused)).collect();
        assert_eq!(found, expected, "{start} to {end} of {steps}");
    }

    #[test]
    fn a_loop_is_cut_where_the_window_opens_and_closes() {
        check(0.0, 1.0, 4, &[(0..4, true)]);
        check(0.25, 1.0, 4, &[(0..1, false), (1..4, true)]);
        check(0.0, 0.5, 4, &[(0..2, true), (2..4, false)]);
        check(0.3, 0.8, 4, &[(0..2, false), (2..3, true), (3..4, false)]);
        check(0.6, 0.7, 4, &[(0..4, false)]);
    }

    #[test]
    fn a_loop_has_a_kind_of_turn_for_each_kind_of_step() {
        let turns = |start, end| {
            let segments = Window { start, end }.segments(4);
            let samples = Segment::samples(segments.clone());
            let Turns { counts, first_kind } = Segment::turns(&segments);
            (counts, first_kind, samples.into_iter().map(|sample| sample.steps.start).collect::<Vec<_>>())
        };
        assert_eq!(turns(0.0, 1.0), (vec![4], 0, vec![0]));
        assert_eq!(turns(0.0, 0.5), (vec![2, 2], 0, vec![0, 2]));
        assert_eq!(turns(0.3, 0.8), (vec![1, 3], 1, vec![0, 2]), "the first step is one without InfuseNet");
        assert_eq!(turns(0.6, 0.7), (vec![4], 0, vec![0]), "all of them are");
    }

    /// Twelve steps between 0.1 and 0.9, as diffusers' `controlnet_keep` has them.
    #[test]
    fn published_rule_leaves_out_a_step_that_is_partly_outside() {
        check(0.1, 0.9, 12, &[(0..2, false), (2..10, true), (10..12, false)]);
    }
}
