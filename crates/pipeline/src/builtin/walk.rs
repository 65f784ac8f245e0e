use lighterage_device::{Backend, View};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::Pager;

use super::{BuiltIn, BuiltInOptions, DTYPE, Portrait};
use crate::decoding::Decoding;
use crate::encoding::Encoding;
use crate::face::control_values;
use crate::infusion::Segment;
use crate::stage::Stage;
use crate::{Conditions, Denoiser, Infused, Infusion, Lent, Phase, Portrayed, Prompted, Result, Window};

/// What InfuseNet is told, and the transformer.
const INFUSENET_GUIDANCE: f32 = 1.0;
const GUIDANCE: f32 = 3.5;

impl BuiltIn {
    /// The way of a [`Job`](crate::Job), on zeros.
    pub(super) fn walk<B: Backend>(&self, stage: &mut Stage<'_, B>, steps: usize) -> Result<()> {
        let prompt = stage
            .phase(Phase::Text, &self.text_units, |queue, pager, _| self.encoders.forward(queue, pager))?;
        let portrait = self.portrait.as_ref().map(|portrait| self.portray(stage, portrait)).transpose()?;
        let (conditions, infusion) = stage.phase(Phase::Modulation, &self.dit_units, |queue, pager, _| {
            let (states, pooled) = (prompt.states.view(), prompt.pooled.view());
            let infusion = self.infusion(queue, pager, pooled, portrait)?;
            let prompted = Prompted { states, pooled, guidance: GUIDANCE };
            let conditions = Conditions::new(queue, pager, &self.transformer, &prompted, &self.schedule)?;
            drop(prompt);
            Ok((conditions, infusion))
        })?;
        let all = self.segments();
        stage.repeats(Segment::turns(&all));
        let (segments, limit) =
            if stage.is_dry() { (Segment::samples(all), usize::MAX) } else { (all, steps) };
        let latents = stage.phase(Phase::Denoise, &self.dit_units, |queue, pager, observer| {
            let mut denoiser = self.denoiser(queue, conditions, infusion)?;
            for Segment { steps: range, is_infused } in segments {
                let range = range.start.min(limit)..range.end.min(limit);
                denoiser.run(&Lent { cycle: pager, edges: pager }, range, is_infused, observer)?;
            }
            Ok(denoiser.into_latents())
        })?;
        stage.phase(Phase::Vae, &self.decoder_units, |queue, pager, _| {
            let BuiltInOptions { width, height, .. } = self.options;
            let decoding = Decoding { decoder: &self.decoder, width, height, dtype: DTYPE, tile: None };
            let image = decoding.run(queue, pager, latents)?;
            queue.read_f32(image.view())?;
            Ok(())
        })
    }

    /// Whether InfuseNet works on any step.
    fn is_infused(&self) -> bool {
        self.infusenet.is_some() && self.options.window.is_open(self.options.steps)
    }

    fn segments(&self) -> Vec<Segment> {
        let window = if self.is_infused() { self.options.window } else { Window::ALL };
        window.segments(self.options.steps)
    }

    /// Tokens and pose of a face: of nobody, and black.
    fn portray<B: Backend>(
        &self,
        stage: &mut Stage<'_, B>,
        portrait: &Portrait,
    ) -> Result<(Tensor<B>, Tensor<B>)> {
        let BuiltInOptions { width, height, .. } = self.options;
        let Portrait { resampler, resampler_units, encoder, encoder_units } = portrait;
        let tokens = stage.phase(Phase::Identity, resampler_units, |queue, pager, _| {
            let embedding = vec![0.0; resampler.embedding()];
            let embedding = queue.upload_as(DTYPE, &embedding, &[1, embedding.len()], "embedding")?;
            Ok(resampler.forward(queue, pager, embedding.view())?)
        })?;
        let control = stage.phase(Phase::Control, encoder_units, |queue, pager, _| {
            let encoding = Encoding { encoder, width, height, dtype: DTYPE, tile: None };
            let moments = encoding.run(queue, pager, || control_values(None, [width, height]))?;
            encoding.mean(queue, &moments)
        })?;
        Ok((tokens, control))
    }

    fn infusion<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        pooled: View<'_>,
        portrait: Option<(Tensor<B>, Tensor<B>)>,
    ) -> Result<Option<Infusion<B>>> {
        let Some((net, (tokens, control))) = self.infusenet.as_ref().zip(portrait) else { return Ok(None) };
        let (tokens, control) = (tokens.view(), control.view());
        let portrayed = Portrayed { tokens, pooled, control, guidance: INFUSENET_GUIDANCE };
        Ok(Some(Infusion::new(queue, pager, net, &portrayed, &self.schedule)?))
    }

    fn denoiser<B: Backend>(
        &self,
        queue: &Queue<B>,
        conditions: Conditions<B>,
        infusion: Option<Infusion<B>>,
    ) -> Result<Denoiser<'_, B>> {
        let grid = self.options.grid();
        let noise = vec![0.0; grid.tokens() * self.transformer.config().in_channels];
        let denoiser = Denoiser::new(queue, &self.transformer, &self.schedule, conditions, grid, &noise)?;
        let infused = match (&self.infusenet, infusion) {
            (Some(net), Some(infusion)) if self.is_infused() => {
                Some(Infused::new(queue, net, infusion, grid, 1.0)?)
            }
            _ => None,
        };
        Ok(denoiser.infused(infused))
    }
}
