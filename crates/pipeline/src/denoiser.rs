use std::collections::VecDeque;
use std::ops::Range;

use half::bf16;
use lighterage_device::{Backend, Event, View, What};
use lighterage_dit::{
    Conditioning, InfuseOutputs, Modulations, Residuals, Rope, StepInputs, Timesteps, Transformer,
};
use lighterage_ops::{self as ops, Queue, Tensor};
use lighterage_pager::Pager;
use lighterage_shape::DType;

use crate::replays::Replays;
use crate::teacache::Memory;
use crate::{Error, Grid, Infused, Observer, Result, Schedule, TeaCache};

/// The most steps that are queued and not done yet: one under way, in its last block, and the one behind it. More would not make the device busier and
/// would make stopping slower.
pub const IN_FLIGHT_MAX: usize = 2;

/// Places in a step that the pool of activations is told of: its survey went through one step, in which nothing was skipped.
const STEP: &str = "step";
/// A step without InfuseNet of a loop that has it in others.
const BARE_STEP: &str = "bare step";
const BLOCKS_DONE: &str = "blocks done";

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
            timesteps: told(schedule, &timesteps),
            guidance: Some(prompted.guidance),
            pooled: prompted.pooled,
        };
        let modulations = transformer.condition(queue, pager, &conditioning)?;
        let text = transformer.embed_text(queue, pager, prompted.states)?;
        Ok(Self { text, modulations })
    }
}

/// The timesteps as the models take them, from 1 to 0. A bf16 pipeline rounds before and after the division (diffusers 0.42,
/// `timestep.to(dtype) / 1000`), unless its schedule says that it does not.
pub(crate) fn model_timesteps(schedule: &Schedule, dtype: DType) -> Vec<f32> {
    let rounds = dtype == DType::Bf16 && !schedule.is_told_exactly();
    let round = |value: f32| if rounds { bf16::from_f32(value).to_f32() } else { value };
    schedule.timesteps().iter().map(|timestep| round(round(*timestep) / 1000.0)).collect()
}

/// The same, with what the models do to them.
pub(crate) const fn told<'a>(schedule: &Schedule, timesteps: &'a [f32]) -> Timesteps<'a> {
    if schedule.is_told_exactly() { Timesteps::Exact(timesteps) } else { Timesteps::Rounded(timesteps) }
}

/// Where a step's weights come from.
#[derive(Debug)]
pub struct Lent<'a, B: Backend> {
    /// Leases the units of InfuseNet and of the transformer's blocks, in the order of a step. Steps of a loop with InfuseNet on which it does not work are turns of the second kind,
    /// where the plan has two.
    pub cycle: &'a Pager<B>,
    /// Leases the transformer's [`edges`](Transformer::edges), also of a step whose blocks are skipped. Without `TeaCache` this may be `cycle`.
    pub edges: &'a Pager<B>,
}

/// One prompt of a loop, and what its steps remember.
#[derive(Debug)]
struct Branch<B: Backend> {
    conditions: Conditions<B>,
    rope: Rope<B>,
    memory: Option<Memory<B>>,
}

/// The prompt to stay away from, and how far.
#[derive(Debug)]
struct Negative<B: Backend> {
    branch: Branch<B>,
    scale: f32,
}

/// Takes latents from noise to a picture, one Euler step after the other.
///
/// [`step`](Self::step) is the least of it: one velocity and one update. [`advance`](Self::advance) is a step with everything that was put in: InfuseNet
/// ([`infused`](Self::infused)), a negative prompt ([`against`](Self::against)), `TeaCache` ([`cached`](Self::cached)). [`run`](Self::run) does many steps without
/// ever draining the device. Whoever wants to look at or change the latents in between uses [`latents`](Self::latents).
#[derive(Debug)]
pub struct Denoiser<'a, B: Backend> {
    queue: Queue<B>,
    transformer: &'a Transformer,
    schedule: &'a Schedule,
    grid: Grid,
    positive: Branch<B>,
    negative: Option<Negative<B>>,
    infused: Option<Infused<'a, B>>,
    cache: Option<TeaCache>,
    leases: Leases,
    replays: Replays<B>,
    latents: Tensor<B>,
    ran: Vec<bool>,
    /// Steps so far with `InfuseNet` (or of a loop without it), and those of its loop on which it does not work.
    of_kind: [usize; 2],
}

impl<'a, B: Backend> Denoiser<'a, B> {
    /// Starts from `noise`, the packed latents `[grid tokens, channels]`, rounded to the transformer's element type.
    ///
    /// # Errors
    /// [`Error::Option`] if there are not that many values, or what device and transformer report.
    pub fn new(
        queue: &Queue<B>,
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
        let latents = queue.upload_as(transformer.dtype(), noise, &shape, "latents")?;
        let positive = Branch::new(queue, transformer, conditions, grid)?;
        Ok(Self {
            queue: queue.clone(),
            transformer,
            schedule,
            grid,
            positive,
            negative: None,
            infused: None,
            cache: None,
            leases: Leases::default(),
            replays: Replays::default(),
            latents,
            ran: Vec::new(),
            of_kind: [0; 2],
        })
    }

    /// With InfuseNet on the steps that [`advance`](Self::advance) is told.
    #[must_use]
    pub fn infused(mut self, infused: Option<Infused<'a, B>>) -> Self {
        self.replays.forget();
        self.infused = infused;
        self
    }

    /// Away from another prompt: the velocity becomes `negative + scale (positive - negative)`, at the price of a second pass. InfuseNet adds to
    /// the positive one only.
    ///
    /// # Errors
    /// What the transformer reports.
    pub fn against(mut self, conditions: Conditions<B>, scale: f32) -> Result<Self> {
        let branch = Branch::new(&self.queue, self.transformer, conditions, self.grid)?;
        self.replays.forget();
        self.negative = Some(Negative { branch, scale });
        Ok(self)
    }

    /// With `TeaCache`, which each prompt has of its own. A threshold that no step can meet changes nothing.
    ///
    /// # Errors
    /// If there is no memory for what it remembers.
    pub fn cached(mut self, cache: Option<TeaCache>) -> Result<Self> {
        self.cache = cache.filter(TeaCache::can_skip);
        if let Some(cache) = self.cache {
            let shape = [self.grid.tokens(), self.transformer.config().width()];
            let (steps, dtype) = (self.schedule.steps(), self.transformer.dtype());
            let memory = || Memory::new(&self.queue, cache, steps, dtype, shape);
            self.positive.memory = Some(memory()?);
            if let Some(negative) = &mut self.negative {
                negative.branch.memory = Some(memory()?);
            }
        }
        Ok(self)
    }

    /// Queues step `index`: one velocity from the transformer, then `x += velocity * (next sigma - sigma)`. Nothing that was put in takes part.
    ///
    /// # Errors
    /// What the transformer reports, among it an index that is no step.
    pub fn step(&self, pager: &Pager<B>, index: usize, residuals: Option<Residuals<'_>>) -> Result<()> {
        self.positive.select(&self.queue, index)?;
        let inputs = self.positive.inputs(self.latents.view(), residuals);
        let velocity = self.transformer.step(&self.queue, pager, &inputs)?;
        self.update(velocity.view(), index)
    }

    /// Queues step `index` with everything that was put in; InfuseNet only if `is_infused`. With `TeaCache` it waits for the device, to decide.
    ///
    /// # Errors
    /// What the models report, among it an index that is no step.
    pub fn advance(&mut self, lent: &Lent<'_, B>, index: usize, is_infused: bool) -> Result<()> {
        self.advance_marked(lent, index, is_infused, None)
    }

    /// The same, with `mark` recorded where the step is nearly done: in front of the last block that runs.
    fn advance_marked(
        &mut self,
        lent: &Lent<'_, B>,
        index: usize,
        is_infused: bool,
        mark: Option<&Event<B>>,
    ) -> Result<()> {
        let is_bare = !is_infused && self.infused.is_some();
        let label = if is_bare { BARE_STEP } else { STEP };
        let kind = usize::from(is_bare && lent.cycle.has_turn(1));
        self.queue.pool().mark(label);
        self.select(index, is_infused)?;
        let scale = self.negative.as_ref().map(|negative| negative.scale);
        let Self { queue, transformer, schedule, positive, cache, leases, replays, latents, ran, .. } = self;
        let latents = latents.view();
        let infused = self.infused.as_ref().filter(|_| is_infused);
        let pass = Pass { queue, transformer, lent, latents, index, kind, infused, mark };
        let negative = self.negative.as_mut().map(|negative| &mut negative.branch);
        let update = |velocity: View<'_>| {
            let (x, delta) = (latents, schedule.delta(index));
            Ok(ops::euler_step(queue, &ops::EulerStep { x, velocity, delta })?)
        };
        if let Some(cache) = *cache {
            let (velocities, computed) = pass.cached(cache, leases, positive, negative)?;
            ran.push(computed);
            return update(velocities.combined(queue, scale)?.view());
        }
        let negative = negative.as_deref();
        let whole = |pass: &Pass<'_, '_, B>| pass.both(positive, negative)?.combined(queue, scale);
        ran.push(true);
        if let Some(velocity) = replays.replay(queue, lent.cycle, is_infused)? {
            return update(velocity);
        }
        lent.cycle.turn(kind)?;
        // The host cannot wait for what happens in the middle of a graph.
        let unmarked = Pass { mark: None, ..pass };
        if let Some(velocity) = replays.capture(queue, lent.cycle, is_infused, || whole(&unmarked)) {
            return update(velocity);
        }
        queue.pool().mark(label);
        update(whole(&pass)?.view())
    }

    /// Queues `steps` and waits for the last of them. The device never waits for the host (but for `TeaCache`): a step is queued while the one before it
    /// is in its last block.
    ///
    /// Where the pager can ([`Pager::replayable`]) steps of the steady state are replayed, as two graphs each, without `TeaCache`, which decides in the middle of a step. Nobody sees
    /// from outside when such a step is in its last block, so the next one is queued behind it at once: [`IN_FLIGHT_MAX`] holds, and a wish to stop is met one step later.
    ///
    /// Just before that the observer is asked whether to stop. So a wish to stop ends the loop after the step that is under way; only one that comes
    /// during a step's last block finds the next step queued, and ends the loop after that one.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the observer says so, once what is queued is done; else as [`advance`](Self::advance).
    pub fn run(
        &mut self,
        lent: &Lent<'_, B>,
        steps: Range<usize>,
        is_infused: bool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (done, all, device) = (steps.start, self.schedule.steps(), self.queue.device());
        let queued = |_| Ok::<_, Error>(Queued { late: device.event()?, end: device.event()? });
        let landed = (0..IN_FLIGHT_MAX).map(queued).collect::<Result<_>>()?;
        let mut flight = Flight { in_flight: VecDeque::new(), landed, done, steps: all };
        let kind = usize::from(!is_infused && self.infused.is_some());
        let is_single = steps.len() == 1;
        for index in steps {
            flight.approach()?;
            if observer.cancelled() {
                flight.land(0, observer)?;
                return Err(Error::Cancelled { done: flight.done, steps: flight.steps });
            }
            let queued = flight.take();
            let recorder = self
                .queue
                .device()
                .recorder()
                .filter(|_| is_looked_at(self.of_kind[kind], is_single))
                .cloned();
            recorder.iter().for_each(|recorder| recorder.look_closely(true));
            let span = self.queue.stream().begin(What::Step, 0, || (index + 1).to_string().into());
            let advanced = self.advance_marked(lent, index, is_infused, Some(&queued.late));
            self.queue.stream().end(span);
            recorder.iter().for_each(|recorder| recorder.look_closely(false));
            advanced?;
            self.of_kind[kind] += 1;
            self.queue.stream().record(&queued.end)?;
            flight.in_flight.push_back(queued);
            flight.land(IN_FLIGHT_MAX - 1, observer)?;
        }
        flight.land(0, observer)
    }

    /// How many steps were done by graphs, and why none is any more, if one could not be recorded.
    #[must_use]
    pub fn replayed(&self) -> (usize, Option<&str>) {
        (self.replays.replayed(), self.replays.refused())
    }

    /// `[tokens, channels]`, as the steps queued so far leave them.
    #[must_use]
    pub fn latents(&self) -> View<'_> {
        self.latents.view()
    }

    /// Of each step that was advanced, whether the transformer's blocks ran for the prompt.
    #[must_use]
    pub fn ran(&self) -> &[bool] {
        &self.ran
    }

    /// The latents, when all is done; everything else is released.
    #[must_use]
    pub fn into_latents(self) -> Tensor<B> {
        self.latents
    }

    /// Makes `index` the present step of everything that takes part: what is queued for it then is the same in every step, but for the update.
    fn select(&self, index: usize, is_infused: bool) -> Result<()> {
        self.positive.select(&self.queue, index)?;
        if let Some(Negative { branch, .. }) = &self.negative {
            branch.select(&self.queue, index)?;
        }
        match self.infused.as_ref().filter(|_| is_infused) {
            Some(infused) => infused.select(&self.queue, index),
            None => Ok(()),
        }
    }

    fn update(&self, velocity: View<'_>, index: usize) -> Result<()> {
        let (x, delta) = (self.latents.view(), self.schedule.delta(index));
        Ok(ops::euler_step(&self.queue, &ops::EulerStep { x, velocity, delta })?)
    }
}

/// Whether a recording has the leases of a step in any case, so many of its kind being done: of the second, since the first one loads, and of one that may be the only one.
const fn is_looked_at(done: usize, is_single: bool) -> bool {
    done == 1 || (done == 0 && is_single)
}

impl<B: Backend> Branch<B> {
    fn new(
        queue: &Queue<B>,
        transformer: &Transformer,
        conditions: Conditions<B>,
        grid: Grid,
    ) -> Result<Self> {
        let text_tokens = conditions.text.shape()[0];
        let rope = Rope::grid(queue, transformer.config(), text_tokens, grid.rows, grid.columns)?;
        Ok(Self { conditions, rope, memory: None })
    }

    /// Makes `step` the present one.
    fn select(&self, queue: &Queue<B>, step: usize) -> Result<()> {
        Ok(self.conditions.modulations.select(queue, step)?)
    }

    fn inputs<'b>(&'b self, latents: View<'b>, residuals: Option<Residuals<'b>>) -> StepInputs<'b, B> {
        let Conditions { text, modulations } = &self.conditions;
        StepInputs { latents, text: text.view(), modulations, rope: &self.rope, residuals }
    }
}

/// What the transformer says of each prompt.
struct Velocities<B: Backend> {
    positive: Tensor<B>,
    negative: Option<Tensor<B>>,
}

impl<B: Backend> Velocities<B> {
    /// One velocity, away from the other one.
    fn combined(self, queue: &Queue<B>, scale: Option<f32>) -> Result<Tensor<B>> {
        let Self { positive, negative } = self;
        if let Some((other, scale)) = negative.zip(scale) {
            let (a, b) = (positive.view(), other.view());
            ops::add(queue, &ops::Add { a, b, scale: -1.0, out: a })?;
            ops::add(queue, &ops::Add { a: b, b: a, scale, out: a })?;
        }
        Ok(positive)
    }
}

/// How many leases a step's parts take, as seen when they last ran: what is to be passed over when one of them is skipped.
#[derive(Clone, Copy, Debug, Default)]
struct Leases {
    infusenet: u64,
    blocks: u64,
}

/// A step of one prompt whose blocks have not run yet.
struct Begun<B: Backend> {
    x: Tensor<B>,
    computes: bool,
}

/// One step.
#[derive(Clone, Copy)]
struct Pass<'p, 'a, B: Backend> {
    queue: &'p Queue<B>,
    transformer: &'a Transformer,
    lent: &'p Lent<'p, B>,
    latents: View<'p>,
    index: usize,
    /// Of the cycle's turn.
    kind: usize,
    infused: Option<&'p Infused<'a, B>>,
    /// To be recorded in front of the last block of all.
    mark: Option<&'p Event<B>>,
}

impl<B: Backend> Pass<'_, '_, B> {
    /// Without `TeaCache`: everything runs.
    fn both(&self, positive: &Branch<B>, negative: Option<&Branch<B>>) -> Result<Velocities<B>> {
        let outputs = self.outputs()?;
        let views = Views::new(outputs.as_ref(), self.infused);
        let first = self.whole(positive, views.residuals(), self.mark.filter(|_| negative.is_none()))?;
        drop(views);
        drop(outputs);
        let negative = negative.map(|branch| self.whole(branch, None, self.mark)).transpose()?;
        Ok(Velocities { positive: first, negative })
    }

    fn whole(
        &self,
        branch: &Branch<B>,
        residuals: Option<Residuals<'_>>,
        mark: Option<&Event<B>>,
    ) -> Result<Tensor<B>> {
        let inputs = branch.inputs(self.latents, residuals);
        let x = self.transformer.embed(self.queue, self.lent.edges, &inputs)?;
        self.transformer.blocks_marked(self.queue, self.lent.cycle, &inputs, &x, mark)?;
        self.finish(branch, &x)
    }

    /// With `TeaCache`: decides for each prompt, then runs what is to run; and whether the first one's blocks did. A cycle of weights is used whole
    /// or not at all, so what is skipped while something else runs is passed over.
    fn cached(
        &self,
        cache: TeaCache,
        leases: &mut Leases,
        positive: &mut Branch<B>,
        negative: Option<&mut Branch<B>>,
    ) -> Result<(Velocities<B>, bool)> {
        let first = self.begin(positive)?;
        let second = negative.map(|branch| Ok::<_, Error>((self.begin(branch)?, branch))).transpose()?;
        let keeps = cache.keeps_infusenet && self.infused.is_some();
        let uses_cycle = first.computes || keeps || second.as_ref().is_some_and(|(begun, _)| begun.computes);
        if uses_cycle {
            self.lent.cycle.turn(self.kind)?;
        }
        let passes = uses_cycle && self.infused.is_some();
        // Where its window opens on a step that only the negative prompt computes, nobody has counted what would be passed over.
        let is_new = passes && leases.infusenet == 0;
        let outputs = if first.computes || keeps || is_new {
            let (outputs, count) = self.counted(|| self.outputs())?;
            leases.infusenet = count;
            outputs
        } else {
            self.lent.cycle.pass_over(if passes { leases.infusenet } else { 0 })?;
            None
        };
        let views = Views::new(outputs.as_ref(), self.infused);
        let positive = self.end(&first, positive, views.residuals(), uses_cycle, leases)?;
        drop(views);
        drop(outputs);
        let negative =
            second.map(|(begun, branch)| self.end(&begun, branch, None, uses_cycle, leases)).transpose()?;
        Ok((Velocities { positive, negative }, first.computes))
    }

    fn begin(&self, branch: &mut Branch<B>) -> Result<Begun<B>> {
        let Self { queue, transformer, lent, .. } = self;
        let inputs = branch.inputs(self.latents, None);
        let x = transformer.embed(queue, lent.edges, &inputs)?;
        let first = transformer.first_input(queue, lent.edges, &inputs, &x)?;
        let computes = match &mut branch.memory {
            Some(memory) => memory.computes(queue, self.index, first.view())?,
            None => true,
        };
        Ok(Begun { x, computes })
    }

    /// Runs the blocks and remembers what they add, or adds what they added last.
    fn end(
        &self,
        Begun { x, computes }: &Begun<B>,
        branch: &Branch<B>,
        residuals: Option<Residuals<'_>>,
        uses_cycle: bool,
        leases: &mut Leases,
    ) -> Result<Tensor<B>> {
        let inputs = branch.inputs(self.latents, residuals);
        let image = image_rows(branch, x)?;
        match &branch.memory {
            Some(memory) if *computes => {
                memory.keep(self.queue, image)?;
                let (queue, cycle) = (self.queue, self.lent.cycle);
                let run = || Ok(self.transformer.blocks_marked(queue, cycle, &inputs, x, self.mark)?);
                ((), leases.blocks) = self.counted(run)?;
                memory.learn(self.queue, image)?;
            }
            Some(memory) => {
                self.lent.cycle.pass_over(if uses_cycle { leases.blocks } else { 0 })?;
                memory.repeat(self.queue, image)?;
            }
            None => (),
        }
        // A step whose blocks were skipped did not ask for their activations.
        self.queue.pool().mark(BLOCKS_DONE);
        self.finish(branch, x)
    }

    /// Runs something, and says how many leases of the cycle it took.
    fn counted<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
        let before = self.lent.cycle.statistics().leases;
        let made = run()?;
        Ok((made, self.lent.cycle.statistics().leases - before))
    }

    fn outputs(&self) -> Result<Option<InfuseOutputs<B>>> {
        let run = |infused: &Infused<'_, B>| infused.outputs(self.queue, self.lent.cycle, self.latents);
        self.infused.map(run).transpose()
    }

    fn finish(&self, branch: &Branch<B>, x: &Tensor<B>) -> Result<Tensor<B>> {
        let inputs = branch.inputs(self.latents, None);
        Ok(self.transformer.finish(self.queue, self.lent.edges, &inputs, image_rows(branch, x)?)?)
    }
}

/// The rows behind the text's.
fn image_rows<'x, B: Backend>(branch: &Branch<B>, x: &'x Tensor<B>) -> Result<View<'x>> {
    let text_rows = branch.conditions.text.shape()[0];
    Ok(x.view().rows(text_rows, x.shape()[0] - text_rows)?)
}

/// What InfuseNet adds, as the transformer takes it.
struct Views<'o> {
    double: Vec<View<'o>>,
    single: Vec<View<'o>>,
    scale: Option<f32>,
}

impl<'o> Views<'o> {
    fn new<B: Backend>(outputs: Option<&'o InfuseOutputs<B>>, infused: Option<&Infused<'_, B>>) -> Self {
        let list = |tensors: &'o [Tensor<B>]| tensors.iter().map(Tensor::view).collect();
        Self {
            double: outputs.map(|outputs| list(&outputs.double)).unwrap_or_default(),
            single: outputs.map(|outputs| list(&outputs.single)).unwrap_or_default(),
            scale: infused.map(|infused| infused.scale),
        }
    }

    fn residuals(&self) -> Option<Residuals<'_>> {
        self.scale.map(|scale| Residuals { double: &self.double, single: &self.single, scale })
    }
}

/// A step that is queued.
struct Queued<B: Backend> {
    /// In front of its last block; not recorded, so complete, if no block runs.
    late: Event<B>,
    end: Event<B>,
}

/// Steps that are queued and not known to be done.
struct Flight<B: Backend> {
    in_flight: VecDeque<Queued<B>>,
    /// Those of steps that are done: their events are recorded anew.
    landed: Vec<Queued<B>>,
    done: usize,
    steps: usize,
}

impl<B: Backend> Flight<B> {
    /// The events of a step that is done, or of none yet.
    fn take(&mut self) -> Queued<B> {
        let queued = self.landed.pop();
        queued.unwrap_or_else(|| unreachable!("{IN_FLIGHT_MAX} steps in flight when another is queued"))
    }

    /// Waits until the last of the steps is in its last block.
    fn approach(&self) -> Result<()> {
        self.in_flight.back().map_or(Ok(()), |queued| Ok(queued.late.synchronize()?))
    }

    /// Waits until at most `left` are under way, and reports each that is done.
    fn land(&mut self, left: usize, observer: &mut dyn Observer) -> Result<()> {
        while self.in_flight.len() > left {
            if let Some(queued) = self.in_flight.pop_front() {
                queued.end.synchronize()?;
                self.landed.push(queued);
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

    /// All fifty that the new `DiffSynth` tells a bf16 model, by its listing; the old one tells them as they are.
    #[test]
    fn the_old_diffsynth_does_not_round_its_timesteps() {
        let listed = "1000 992 988 980 972 964 956 948 940 932 920 912 904 892 884 872 860 852 840 828 812 800 788 772 760 744 728 712 \
                      692 676 656 636 616 596 572 548 524 496 468 438 406 374 338 300 260 217 170 120.5 67 8.9375";
        let listed: Vec<f32> = listed.split_whitespace().map(|value| value.parse().unwrap()).collect();
        let config = SchedulerConfig::flux_dev();
        let new = Schedule::new(Spacing::DiffSynth, &config, 50, 3600);
        let seen = |value: &f32| bf16::from_f32(bf16::from_f32(*value).to_f32() * 1000.0).to_f32();
        let seen: Vec<f32> = model_timesteps(&new, DType::Bf16).iter().map(seen).collect();
        assert_eq!(seen, listed);
        let old = Schedule::new(Spacing::DiffSynthOld, &config, 50, 3600);
        assert_eq!((old.sigmas(), old.timesteps()), (new.sigmas(), new.timesteps()));
        let timesteps = model_timesteps(&old, DType::Bf16);
        assert_eq!(timesteps, model_timesteps(&new, DType::F32));
        assert!(matches!(told(&old, &timesteps), Timesteps::Exact(_)));
        assert!(matches!(told(&new, &timesteps), Timesteps::Rounded(_)));
    }
}
