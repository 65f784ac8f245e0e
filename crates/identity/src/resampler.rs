use std::path::Path;

use lighterage_checkpoint::Checkpoint;
use lighterage_device::{Backend, View};
use lighterage_ops::{
    self as ops, Activation, ActivationKind, Attention, LayerNorm, Linear, Mask, Queue, Residual, Tensor,
};
use lighterage_pager::{Pager, TensorSpec, UnitId, UnitSpec, Units};
use lighterage_shape::DType;
use serde::Deserialize;

use crate::{Error, Result};

/// Elements of a head where no configuration says it, as in the published one.
pub const HEAD: usize = 64;

/// torch's default, which the published one keeps.
const EPSILON: f32 = 1e-5;
/// The dictionary within the published pickle.
const GROUP: &str = "image_proj.";

/// InfiniteYou's image projector: learned queries that read one face embedding and become the tokens that InfuseNet takes in place of a
/// prompt.
///
/// A perceiver resampler (Jaegle et al. 2021, as in IP-Adapter Plus): every layer attends from the queries to the embedding and to themselves, then runs a
/// feed-forward network. All sizes but that of a head are those of the tensors.
#[derive(Debug)]
pub struct Resampler {
    dims: Dims,
    latents: UnitId,
    proj_in: LinearUnit,
    layers: Vec<Layer>,
    proj_out: LinearUnit,
    norm_out: UnitId,
}

#[derive(Clone, Copy, Debug)]
struct Dims {
    dtype: DType,
    queries: usize,
    width: usize,
    embedding: usize,
    out: usize,
    inner: usize,
    head: usize,
    hidden: usize,
}

/// A linear: its weight, and its bias if it has one.
#[derive(Clone, Copy, Debug)]
struct LinearUnit {
    unit: UnitId,
    has_bias: bool,
}

#[derive(Debug)]
struct Layer {
    norm_embedding: UnitId,
    norm_queries: UnitId,
    to_q: LinearUnit,
    to_kv: LinearUnit,
    to_out: LinearUnit,
    norm: UnitId,
    up: LinearUnit,
    down: LinearUnit,
}

/// The one value of `config.json` that no shape tells.
#[derive(Deserialize)]
struct Config {
    dim_head: Option<usize>,
}

impl Resampler {
    /// The head size that a `config.json` names, if there is such a file.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Resampler`] if it is there and cannot be read.
    pub fn head_of(config: &Path) -> Result<usize> {
        if !config.exists() {
            return Ok(HEAD);
        }
        let text = std::fs::read_to_string(config)
            .map_err(|source| Error::File { path: config.to_owned(), source })?;
        let read: Config = serde_json::from_str(&text)
            .map_err(|error| Error::Resampler { path: config.to_owned(), message: error.to_string() })?;
        Ok(read.dim_head.unwrap_or(HEAD))
    }

    /// Registers the weights; their names may be inside of the dictionary `image_proj`, as published, or not.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::Pager`] or [`Error::Resampler`] with the tensor and the numbers.
    pub fn new(checkpoint: &Checkpoint, head: usize, dtype: DType, units: &mut Units) -> Result<Self> {
        let group = if checkpoint.get(&format!("{GROUP}latents")).is_some() { GROUP } else { "" };
        let mut registry = Registry { checkpoint, group, dtype, units };
        let dims = registry.dims(head)?;
        let latents = registry.unit("latents", &[("", &[1, dims.queries, dims.width])])?;
        let proj_in = registry.biased("proj_in", dims.width, dims.embedding)?;
        let mut layers = Vec::new();
        while registry.has(&format!("layers.{}.0.to_q.weight", layers.len())) {
            layers.push(Layer::new(&mut registry, layers.len(), dims)?);
        }
        let proj_out = registry.biased("proj_out", dims.out, dims.width)?;
        let norm_out = registry.norm("norm_out", dims.out)?;
        Ok(Self { dims, latents, proj_in, layers, proj_out, norm_out })
    }

    /// How many numbers an embedding has.
    #[must_use]
    pub const fn embedding(&self) -> usize {
        self.dims.embedding
    }

    /// How many tokens it gives, and the numbers of each.
    #[must_use]
    pub const fn tokens(&self) -> [usize; 2] {
        [self.dims.queries, self.dims.out]
    }

    /// The tokens of one embedding `[1, embedding]`: `[queries, out]`.
    ///
    /// # Errors
    /// What ops and pager report.
    pub fn forward<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        embedding: View<'_>,
    ) -> Result<Tensor<B>> {
        let run = Run { queue, pager, dims: self.dims };
        let Dims { queries, width, out, dtype, .. } = self.dims;
        let x = run.linear(self.proj_in, embedding, [1, width])?;
        let latents = queue.tensor(dtype, &[queries, width], "resampler latents")?;
        {
            let lease = pager.lease(self.latents)?;
            queue.stream().copy(
                latents.view(),
                lease.tensor(0).reshape(&[queries, width]).map_err(ops::Error::from)?,
            )?;
        }
        for layer in &self.layers {
            layer.forward(&run, x.view(), latents.view())?;
        }
        let tokens = run.linear(self.proj_out, latents.view(), [queries, out])?;
        run.norm(self.norm_out, tokens.view(), tokens.view())?;
        Ok(tokens)
    }
}

impl Layer {
    fn new(registry: &mut Registry<'_>, index: usize, dims: Dims) -> Result<Self> {
        let Dims { width, inner, hidden, .. } = dims;
        let name = |rest: &str| format!("layers.{index}.{rest}");
        Ok(Self {
            norm_embedding: registry.norm(&name("0.norm1"), width)?,
            norm_queries: registry.norm(&name("0.norm2"), width)?,
            to_q: registry.plain(&name("0.to_q"), inner, width)?,
            to_kv: registry.plain(&name("0.to_kv"), 2 * inner, width)?,
            to_out: registry.plain(&name("0.to_out"), width, inner)?,
            norm: registry.norm(&name("1.0"), width)?,
            up: registry.plain(&name("1.1"), hidden, width)?,
            down: registry.plain(&name("1.3"), width, hidden)?,
        })
    }

    /// Updates the queries, `[queries, width]`, in place.
    fn forward<B: Backend>(&self, run: &Run<'_, B>, x: View<'_>, latents: View<'_>) -> Result<()> {
        let Dims { dtype, queries, width, inner, head, hidden, .. } = run.dims;
        // The embedding's row first, then the queries': keys and values are of both.
        let both = run.queue.tensor(dtype, &[1 + queries, width], "resampler rows")?;
        let rows = |start, count| both.view().narrow(0, start, count).map_err(ops::Error::from);
        run.norm(self.norm_embedding, x, rows(0, 1)?)?;
        run.norm(self.norm_queries, latents, rows(1, queries)?)?;
        let q = run.linear(self.to_q, rows(1, queries)?, [queries, inner])?;
        let kv = run.linear(self.to_kv, both.view(), [1 + queries, 2 * inner])?;
        let seen = run.queue.tensor(dtype, &[queries, inner], "resampler attention")?;
        let heads = inner / head;
        let part = |index: usize| kv.view().narrow(1, index * inner, inner)?.split(1, heads);
        let attention = Attention {
            q: q.view().split(1, heads).map_err(ops::Error::from)?,
            k: part(0).map_err(ops::Error::from)?,
            v: part(1).map_err(ops::Error::from)?,
            out: seen.view().split(1, heads).map_err(ops::Error::from)?,
            scale: scale(head),
            mask: Mask::None,
        };
        ops::attention(run.queue, &attention)?;
        run.added(self.to_out, seen.view(), latents)?;
        let normal = run.queue.tensor(dtype, &[queries, width], "resampler normalised")?;
        run.norm(self.norm, latents, normal.view())?;
        let wide = run.linear(self.up, normal.view(), [queries, hidden])?;
        ops::activation(
            run.queue,
            &Activation { x: wide.view(), kind: ActivationKind::Gelu, out: wide.view() },
        )?;
        run.added(self.down, wide.view(), latents)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a head has fewer than 2^24 elements")]
fn scale(head: usize) -> f32 {
    (head as f32).sqrt().recip()
}

/// What every launch needs.
struct Run<'a, B: Backend> {
    queue: &'a Queue<B>,
    pager: &'a Pager<B>,
    dims: Dims,
}

impl<B: Backend> Run<'_, B> {
    fn linear(&self, unit: LinearUnit, x: View<'_>, shape: [usize; 2]) -> Result<Tensor<B>> {
        let out = self.queue.tensor(self.dims.dtype, &shape, "resampler linear")?;
        self.launch(unit, x, None, out.view())?;
        Ok(out)
    }

    /// `stream += linear(x)`.
    fn added(&self, unit: LinearUnit, x: View<'_>, stream: View<'_>) -> Result<()> {
        self.launch(unit, x, Some(Residual { x: stream, gate: None }), stream)
    }

    fn launch(
        &self,
        linear: LinearUnit,
        x: View<'_>,
        residual: Option<Residual<'_>>,
        out: View<'_>,
    ) -> Result<()> {
        let LinearUnit { unit, has_bias } = linear;
        let lease = self.pager.lease(unit)?;
        let bias = has_bias.then(|| lease.tensor(1));
        Ok(ops::linear(
            self.queue,
            &Linear { x, weight: lease.tensor(0), bias, activation: None, residual, out },
        )?)
    }

    fn norm(&self, unit: UnitId, x: View<'_>, out: View<'_>) -> Result<()> {
        let lease = self.pager.lease(unit)?;
        let (weight, bias) = (lease.tensor(0), lease.tensor(1));
        Ok(ops::layer_norm(self.queue, &LayerNorm { x, weight, bias, eps: EPSILON, out })?)
    }
}

/// Makes units of the checkpoint's tensors.
struct Registry<'a> {
    checkpoint: &'a Checkpoint,
    group: &'static str,
    dtype: DType,
    units: &'a mut Units,
}

impl Registry<'_> {
    /// Sizes, from the shapes of the tensors that have them.
    fn dims(&self, head: usize) -> Result<Dims> {
        let [_, queries, width] = self.shape("latents")?;
        let [_, embedding] = self.shape("proj_in.weight")?;
        let [out, _] = self.shape("proj_out.weight")?;
        let [inner, _] = self.shape("layers.0.0.to_q.weight")?;
        let [hidden, _] = self.shape("layers.0.1.1.weight")?;
        if head == 0 || inner == 0 || !inner.is_multiple_of(head) {
            return self.refuse(format!("{inner} columns are no whole number of heads of {head}"));
        }
        Ok(Dims { dtype: self.dtype, queries, width, embedding, out, inner, head, hidden })
    }

    fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let shape = self.checkpoint.tensor(&format!("{}{name}", self.group))?.shape();
        match <[usize; N]>::try_from(shape) {
            Ok(shape) if shape.iter().all(|extent| *extent > 0) => Ok(shape),
            _ => self.refuse(format!("{name} should have {N} dimensions, none of them 0, is {shape:?}")),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.checkpoint.get(&format!("{}{name}", self.group)).is_some()
    }

    fn plain(&mut self, name: &str, out: usize, inner: usize) -> Result<LinearUnit> {
        Ok(LinearUnit { unit: self.unit(name, &[(".weight", &[out, inner])])?, has_bias: false })
    }

    fn biased(&mut self, name: &str, out: usize, inner: usize) -> Result<LinearUnit> {
        let unit = self.unit(name, &[(".weight", &[out, inner]), (".bias", &[out])])?;
        Ok(LinearUnit { unit, has_bias: true })
    }

    fn norm(&mut self, name: &str, columns: usize) -> Result<UnitId> {
        self.unit(name, &[(".weight", &[columns]), (".bias", &[columns])])
    }

    fn unit(&mut self, name: &str, parts: &[(&str, &[usize])]) -> Result<UnitId> {
        let part = |(suffix, shape): &(&str, &[usize])| {
            TensorSpec::whole(self.checkpoint, &format!("{}{name}{suffix}", self.group), shape, self.dtype)
        };
        let tensors = parts.iter().map(part).collect::<Result<Vec<_>, _>>()?;
        Ok(self.units.add(UnitSpec { name: format!("resampler.{name}"), tensors }))
    }

    fn refuse<T>(&self, message: String) -> Result<T> {
        Err(Error::Resampler { path: self.checkpoint.path().to_owned(), message })
    }
}
