use std::sync::atomic::{AtomicBool, Ordering};

use half::bf16;
use lighterage_device::{Backend, View};
use lighterage_ops::{self as ops, ActivationKind, Queue, Tensor};
use lighterage_pager::Pager;
use lighterage_shape::DType;

use crate::error::expect_view;
use crate::linear::{Call, LinearUnit, Run};
use crate::loader::{Dims, Loader};
use crate::names::Side;
use crate::views::row_chunks;
use crate::{Config, Error, Result};

/// Columns of the sinusoids of timestep and guidance.
const SINUSOID_COLUMNS: usize = 256;

/// What the modulation of all steps depends on.
#[derive(Clone, Copy, Debug)]
pub struct Conditioning<'a> {
    /// One for each step, from 1 (noise) to 0: a diffusers model's `timestep` argument, which is the scheduler's divided by 1000. What a pipeline rounds
    /// before that is its own business.
    pub timesteps: Timesteps<'a>,
    /// Embedded guidance, for instance 3.5. A model without guidance embedding (schnell) does not look at it.
    pub guidance: Option<f32>,
    /// `[1, pooled]` or `[pooled]`: the pooled text vector, of the model's element type.
    pub pooled: View<'a>,
}

/// Timesteps, and what a bf16 model does with them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Timesteps<'a> {
    /// A bf16 model rounds each, and its product with 1000 again, as diffusers and `DiffSynth` do.
    Rounded(&'a [f32]),
    /// They stay f32 up to their sines, as in `DiffSynth` until April 2025.
    Exact(&'a [f32]),
}

impl<'a> Timesteps<'a> {
    const fn values(self) -> &'a [f32] {
        match self {
            Self::Rounded(values) | Self::Exact(values) => values,
        }
    }

    /// The element type that they are rounded to in a model of this type.
    const fn rounded_to(self, dtype: DType) -> DType {
        match self {
            Self::Rounded(_) => dtype,
            Self::Exact(_) => DType::F32,
        }
    }
}

/// The modulation vectors of every block for every step, and a place for those of the present one.
///
/// A step's launches read the present row, whatever step it is: so they are the same launches, with the same addresses, in every step, and
/// a graph of them can be replayed. [`select`](Self::select) copies a step's row there.
#[derive(Debug)]
pub struct Modulations<B: Backend> {
    /// `[1 + steps, columns of all blocks]`: the present row, then those of the steps.
    table: Tensor<B>,
    /// Text and image of each double block, `6 width` columns each: shift, scale, gate of attention, then of the feed-forward network.
    pub(crate) doubles: Vec<[Columns; 2]>,
    /// `3 width`: shift, scale, gate.
    pub(crate) singles: Vec<Columns>,
    /// `2 width`: shift, scale. A model without a last layer has none.
    pub(crate) last: Option<Columns>,
    is_selected: AtomicBool,
}

/// A linear's columns of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    start: usize,
    count: usize,
}

impl<B: Backend> Modulations<B> {
    /// For how many steps.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.table.shape()[0] - 1
    }

    /// Makes `step` the present one, for all work that is queued afterwards: one copy on the device.
    ///
    /// # Errors
    /// [`Error::Value`] if there is no such step, or what the device reports.
    pub fn select(&self, queue: &Queue<B>, step: usize) -> Result<()> {
        if step >= self.steps() {
            let needs = format!("below {}, the number of steps", self.steps());
            return Err(Error::Value { name: "step", got: step.to_string(), needs });
        }
        let table = self.table.view();
        queue.stream().copy(table.rows(0, 1)?, table.rows(1 + step, 1)?)?;
        self.is_selected.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn check_selected(&self) -> Result<()> {
        if self.is_selected.load(Ordering::Relaxed) {
            return Ok(());
        }
        let needs = "selected before it is run: Modulations::select".to_owned();
        Err(Error::Value { name: "step", got: "none".to_owned(), needs })
    }

    /// Equal parts of the present step's columns of one linear, `[columns]` each.
    pub(crate) fn present<const N: usize>(&self, columns: Columns) -> Result<[View<'_>; N]> {
        row_chunks(self.table.view().narrow(1, columns.start, columns.count)?, 0)
    }
}

/// Linear, `SiLU`, linear.
#[derive(Clone, Debug)]
struct Embedder([LinearUnit; 2]);

impl Embedder {
    fn new(loader: &mut Loader<'_>, diffusers: &str, bfl: &str, inner: usize) -> Result<Self> {
        let width = loader.dims.width;
        let first = loader.names.whole(
            &format!("time_text_embed.{diffusers}.linear_1"),
            &format!("{bfl}.in_layer"),
            width,
        );
        let second = loader.names.whole(
            &format!("time_text_embed.{diffusers}.linear_2"),
            &format!("{bfl}.out_layer"),
            width,
        );
        Ok(Self([loader.linear(&first, inner)?, loader.linear(&second, width)?]))
    }

    /// `[rows, inner]` to `[rows, width]`.
    fn run<B: Backend>(&self, run: Run<'_, B>, x: View<'_>) -> Result<Tensor<B>> {
        let shape = [x.shape()[0], self.0[0].columns];
        let hidden = run.queue.tensor(x.dtype(), &shape, "embedder hidden")?;
        self.0[0].run(run, Call::activated(x, hidden.view(), ActivationKind::Silu))?;
        let out = run.queue.tensor(x.dtype(), &shape, "embedder")?;
        self.0[1].run(run, Call::plain(hidden.view(), out.view()))?;
        Ok(out)
    }
}

/// The embedders of timestep, guidance and pooled text, and the modulation linears of all blocks: the units that only the hoisted
/// phase reads.
#[derive(Debug)]
pub(crate) struct Conditioner {
    time: Embedder,
    guidance: Option<Embedder>,
    pooled: Embedder,
    /// Text and image.
    doubles: Vec<[LinearUnit; 2]>,
    singles: Vec<LinearUnit>,
    last: Option<LinearUnit>,
    pooled_columns: usize,
    dims: Dims,
}

impl Conditioner {
    /// `has_last`: whether the model ends in a modulated norm (the transformer) or not (InfuseNet).
    pub(crate) fn new(config: &Config, loader: &mut Loader<'_>, has_last: bool) -> Result<Self> {
        let (names, dims) = (loader.names, loader.dims);
        let time = Embedder::new(loader, "timestep_embedder", "time_in", SINUSOID_COLUMNS)?;
        let guidance = config
            .guidance_embeds
            .then(|| Embedder::new(loader, "guidance_embedder", "guidance_in", SINUSOID_COLUMNS))
            .transpose()?;
        let pooled = Embedder::new(loader, "text_embedder", "vector_in", config.pooled_projection_dim)?;
        let mut modulation = |module| loader.linear(&module, dims.width);
        let mut doubles = Vec::new();
        for block in 0..config.num_layers {
            let text = modulation(names.double_modulation(block, Side::Text, dims.width))?;
            let image = modulation(names.double_modulation(block, Side::Image, dims.width))?;
            doubles.push([text, image]);
        }
        let mut singles = Vec::new();
        for block in 0..config.num_single_layers {
            singles.push(modulation(names.single_modulation(block, dims.width))?);
        }
        let last = has_last.then(|| modulation(names.out_modulation(dims.width))).transpose()?;
        Ok(Self {
            time,
            guidance,
            pooled,
            doubles,
            singles,
            last,
            pooled_columns: config.pooled_projection_dim,
            dims,
        })
    }

    /// Every modulation vector of every step: each linear runs once, over all steps as its rows, into its columns of one table.
    pub(crate) fn condition<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        conditioning: &Conditioning<'_>,
    ) -> Result<Modulations<B>> {
        let run = Run { queue, pager };
        let vector = self.vector(run, conditioning)?;
        let steps = vector.shape()[0];
        let linears = self.doubles.iter().flatten().chain(&self.singles).chain(&self.last);
        let columns = linears.map(|linear| linear.columns).sum();
        let table = queue.tensor(self.dims.dtype, &[1 + steps, columns], "modulations")?;
        let mut start = 0;
        let mut modulate = |linear: &LinearUnit| -> Result<Columns> {
            let columns = Columns { start, count: linear.columns };
            start += columns.count;
            let out = table.view().rows(1, steps)?.narrow(1, columns.start, columns.count)?;
            linear.run(run, Call::plain(vector.view(), out))?;
            Ok(columns)
        };
        let mut doubles = Vec::new();
        for [text, image] in &self.doubles {
            doubles.push([modulate(text)?, modulate(image)?]);
        }
        let singles = self.singles.iter().map(&mut modulate).collect::<Result<_>>()?;
        let last = self.last.as_ref().map(modulate).transpose()?;
        Ok(Modulations { table, doubles, singles, last, is_selected: AtomicBool::new(false) })
    }

    /// `SiLU((time + guidance) + pooled)`, `[steps, width]`, the sums in this order.
    fn vector<B: Backend>(&self, run: Run<'_, B>, conditioning: &Conditioning<'_>) -> Result<Tensor<B>> {
        let pooled = self.check(conditioning)?;
        let timesteps = conditioning.timesteps;
        let rounded_to = timesteps.rounded_to(self.dims.dtype);
        let sum = self.time.run(run, self.sinusoid(run, timesteps.values(), rounded_to)?.view())?;
        if let Some((embedder, guidance)) = self.guidance.as_ref().zip(conditioning.guidance) {
            let guidance = embedder.run(run, self.sinusoid(run, &[guidance], self.dims.dtype)?.view())?;
            add_row(run, &sum, &guidance)?;
        }
        add_row(run, &sum, &self.pooled.run(run, pooled)?)?;
        let x = sum.view();
        ops::activation(run.queue, &ops::Activation { x, kind: ActivationKind::Silu, out: x })?;
        Ok(sum)
    }

    /// The pooled vector as a row.
    fn check<'a>(&self, conditioning: &Conditioning<'a>) -> Result<View<'a>> {
        if conditioning.timesteps.values().is_empty() {
            return Err(Error::Value {
                name: "timesteps",
                got: "empty".into(),
                needs: "one for each step".into(),
            });
        }
        if self.guidance.is_some() && conditioning.guidance.is_none() {
            let needs = "a number: the model has a guidance embedding".into();
            return Err(Error::Value { name: "guidance", got: "not given".into(), needs });
        }
        let (pooled, row) = (conditioning.pooled, [1, self.pooled_columns]);
        let shape = if pooled.shape().len() == 1 { &row[1..] } else { &row };
        expect_view("pooled", pooled, self.dims.dtype, shape)?;
        Ok(pooled.reshape(&row)?)
    }

    fn sinusoid<B: Backend>(&self, run: Run<'_, B>, values: &[f32], rounded_to: DType) -> Result<Tensor<B>> {
        let thousandths: Vec<f32> = values.iter().map(|value| thousand_times(*value, rounded_to)).collect();
        let values = run.queue.upload(&thousandths, &[thousandths.len()], "sinusoid values")?;
        let out = run.queue.tensor(self.dims.dtype, &[thousandths.len(), SINUSOID_COLUMNS], "sinusoid")?;
        ops::sinusoid(run.queue, &ops::Sinusoid { values: values.view(), out: out.view() })?;
        Ok(out)
    }
}

/// `1000 value` as the reference computes it: a bf16 model rounds the value and the product, so that 3.5 becomes 3504.
fn thousand_times(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::Bf16 => bf16::from_f32(bf16::from_f32(value).to_f32() * 1000.0).to_f32(),
        _ => value * 1000.0,
    }
}

/// Adds the one row of `row` to every row of `sum`.
fn add_row<B: Backend>(run: Run<'_, B>, sum: &Tensor<B>, row: &Tensor<B>) -> Result<()> {
    Ok(ops::add(run.queue, &ops::Add { a: sum.view(), b: row.view(), scale: 1.0, out: sum.view() })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_guidance_and_timestep() {
        // Published: 3.5 * 1000 = 3504 and 1.0 * 1000 = 1000 in bf16.
        assert_eq!(thousand_times(3.5, DType::Bf16), 3504.0);
        assert_eq!(thousand_times(1.0, DType::Bf16), 1000.0);
        assert_eq!(thousand_times(0.7, DType::Bf16), 700.0);
        assert_eq!(thousand_times(3.5, DType::F32), 3500.0);
    }

    /// The second of `DiffSynth`'s fifty: 993.1244, told as 992 to a bf16 model, or as it is.
    #[test]
    fn exact_timesteps_are_not_rounded_in_a_bf16_model() {
        let value = [0.993_124_4];
        let told = |timesteps: Timesteps<'_>| {
            thousand_times(timesteps.values()[0], timesteps.rounded_to(DType::Bf16))
        };
        assert_eq!(told(Timesteps::Rounded(&value)), 992.0);
        assert!((told(Timesteps::Exact(&value)) - 993.124_4).abs() < 1e-3);
    }
}
