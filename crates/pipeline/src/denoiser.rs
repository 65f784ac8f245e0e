use std::collections::VecDeque;

use half::bf16;
use lighterage_device::{Backend, Event, View};
use lighterage_dit::{Conditioning, Modulations, Residuals, Rope, StepInputs, Transformer};
use lighterage_ops::{self as ops, Queue, Tensor};
use lighterage_pager::Pager;
use lighterage_shape::DType;

use crate::{Error, Grid, Observer, Result, Schedule, tensor};

/// The most steps that are queued and not done yet. Two keep the device busy; more would only make stopping slower.
pub const IN_FLIGHT_MAX: usize = 2;

/// What the prompt says, and how strongly: the same for all steps.
#[derive(Clone, Copy, Debug)]
pub struct Prompted<'a> {
    /// `[text tokens, joint]`: T5's states.
    pub states: View<'a>,
    /// `[1, pooled]`: CLIP's pooled vector.
    pub pooled: View<'a>,
    /// Embedded guidance.
    pub guidance: f32,
}

/// What all steps read and no step changes: the embedded text and every modulation vector of every step.
#[derive(Debug)]
pub struct Conditions<B: Backend> {
    text: Tensor<B>,
    modulations: Modulations<B>,
}

impl<B: Backend> Conditions<B> {
    /// Runs the parts of the transformer that depend on timestep, guidance and text alone, once for all steps.
    ///
    /// # Errors
    /// What the transformer reports.
    pub fn new(
        queue: &Queue<B>,
        pager: &Pager<B>,
        transformer: &Transformer,
        prompted: &Prompted<'_>,
        schedule: &Schedule,
    ) -> Result<Self> {
        let timesteps = model_timesteps(schedule, transformer.dtype());
        let conditioning = Conditioning {
            timesteps: &timesteps,
            guidance: Some(prompted.guidance),
            pooled: prompted.pooled,
        };
        let modulations = transformer.condition(queue, pager, &conditioning)?;
        let text = transformer.embed_text(queue, pager, prompted.states)?;
        Ok(Self { text, modulations })
    }
}

/// The timesteps as the transformer takes them, from 1 to 0. A bf16 pipeline rounds before and after the division (diffusers 0.42,
/// `timestep.to(dtype) / 1000`).
pub(crate) fn model_timesteps(schedule: &Schedule, dtype: DType) -> Vec<f32> {
    let round = |value: f32| if dtype == DType::Bf16 { bf16::from_f32(value).to_f32() } else { value };
    schedule.timesteps().iter().map(|timestep| round(round(*timestep) / 1000.0)).collect()
}

/// Takes latents from noise to a picture, one Euler step after the other.
///
/// [`step`](Self::step) is the whole of it; [`run`](Self::run) does all steps without ever draining the device. Whoever wants to look at or change the
/// latents in between calls `step` and uses [`latents`](Self::latents).
#[derive(Debug)]
pub struct Denoiser<'a, B: Backend> {
    queue: &'a Queue<B>,
    transformer: &'a Transformer,
    schedule: &'a Schedule,
    conditions: Conditions<B>,
    rope: Rope<B>,
    latents: Tensor<B>,
}

impl<'a, B: Backend> Denoiser<'a, B> {
    /// Starts from `noise`, the packed latents `[grid tokens, channels]`, rounded to the transformer's element type.
    ///
    /// # Errors
    /// [`Error::Option`] if there are not that many values, or what device and transformer report.
    pub fn new(
        queue: &'a Queue<B>,
        transformer: &'a Transformer,
        schedule: &'a Schedule,
        conditions: Conditions<B>,
        grid: Grid,
        noise: &[f32],
    ) -> Result<Self> {
        let shape = [grid.tokens(), transformer.config().in_channels];
        if noise.len() != shape[0] * shape[1] {
            return crate::error::option(
                "noise",
                noise.len(),
                format!("{} values: {shape:?}", shape[0] * shape[1]),
            );
        }
        let latents = tensor::upload(queue, transformer.dtype(), noise, &shape, "latents")?;
        let text_tokens = conditions.text.shape()[0];
        let rope = Rope::grid(queue, transformer.config(), text_tokens, grid.rows, grid.columns)?;
        Ok(Self { queue, transformer, schedule, conditions, rope, latents })
    }

    /// Queues step `index`: one velocity from the transformer, then `x += velocity * (next sigma - sigma)`.
    ///
    /// # Errors
    /// What the transformer reports, among it an index that is no step.
    pub fn step(&self, pager: &Pager<B>, index: usize, residuals: Option<Residuals<'_>>) -> Result<()> {
        let inputs = StepInputs {
            latents: self.latents.view(),
            text: self.conditions.text.view(),
            modulations: &self.conditions.modulations,
            step: index,
            rope: &self.rope,
            residuals,
        };
        let velocity = self.transformer.step(self.queue, pager, &inputs)?;
        let (x, delta) = (self.latents.view(), self.schedule.delta(index));
        Ok(ops::euler_step(self.queue, &ops::EulerStep { x, velocity: velocity.view(), delta })?)
    }

    /// Queues the first `steps` steps and waits for the last of them. The device never waits for the host: at most
    /// [`IN_FLIGHT_MAX`] steps are queued ahead of the one that is waited for.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the observer says so, once the steps in flight are done; else as [`step`](Self::step).
    pub fn run(&self, pager: &Pager<B>, steps: usize, observer: &mut dyn Observer) -> Result<()> {
        self.run_from(pager, 0, steps, observer)
    }

    /// As [`run`](Self::run), for the steps from `first` to `end`.
    ///
    /// # Errors
    /// As there.
    pub fn run_from(
        &self,
        pager: &Pager<B>,
        first: usize,
        end: usize,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let mut flight = Flight { in_flight: VecDeque::new(), done: first, steps: self.schedule.steps() };
        for index in first..end {
            if observer.cancelled() {
                flight.land(0, observer)?;
                return Err(Error::Cancelled { done: flight.done, steps: flight.steps });
            }
            pager.turn(0)?;
            self.step(pager, index, None)?;
            let event = self.queue.device().event()?;
            self.queue.stream().record(&event)?;
            flight.in_flight.push_back(event);
            flight.land(IN_FLIGHT_MAX, observer)?;
        }
        flight.land(0, observer)
    }

    /// `[tokens, channels]`, as the steps queued so far leave them.
    #[must_use]
    pub fn latents(&self) -> View<'_> {
        self.latents.view()
    }

    /// The latents, when all is done; everything else is released.
    #[must_use]
    pub fn into_latents(self) -> Tensor<B> {
        self.latents
    }
}

/// Steps that are queued and not known to be done.
struct Flight<B: Backend> {
    in_flight: VecDeque<Event<B>>,
    done: usize,
    steps: usize,
}

impl<B: Backend> Flight<B> {
    /// Waits until at most `left` are under way, and reports each that is done.
    fn land(&mut self, left: usize, observer: &mut dyn Observer) -> Result<()> {
        while self.in_flight.len() > left {
            if let Some(event) = self.in_flight.pop_front() {
                event.synchronize()?;
            }
            self.done += 1;
            observer.step(self.done, self.steps);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SchedulerConfig, Spacing};

    #[test]
    fn timesteps_are_rounded_before_and_after_the_division() {
        let schedule = Schedule::new(Spacing::DiffSynth, &SchedulerConfig::flux_dev(), 50, 3600);
        let exact = model_timesteps(&schedule, DType::F32);
        assert_eq!(exact[1], schedule.timesteps()[1] / 1000.0);
        // DiffSynth's bf16 run with 50 steps sees 1000 992 988 980 972 964 956 948 (its listing) after the model's own times 1000.
        let rounded = model_timesteps(&schedule, DType::Bf16);
        let seen: Vec<f32> =
            rounded.iter().take(8).map(|value| bf16::from_f32(value * 1000.0).to_f32()).collect();
        assert_eq!(seen, [1000.0, 992.0, 988.0, 980.0, 972.0, 964.0, 956.0, 948.0]);
    }
}
