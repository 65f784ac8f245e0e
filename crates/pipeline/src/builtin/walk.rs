use lighterage_device::{Backend, View};
use lighterage_dit::{Conditioning, InfuseInputs, InfuseNet, Modulations, Residuals, Rope};
use lighterage_ops::{self as ops, Queue, Tensor, Unpatchify};
use lighterage_pager::Pager;
use lighterage_shape::DType;
use lighterage_vae::Tiling;

use super::BuiltIn;
use crate::denoiser::model_timesteps;
use crate::options::FACTOR;
use crate::stage::Stage;
use crate::{Conditions, Denoiser, Grid, Lent, Phase, Prompted, Result};

/// Identity tokens of InfiniteYou, and the guidance that its InfuseNet is told.
const IDENTITY_TOKENS: usize = 8;
const INFUSENET_GUIDANCE: f32 = 1.0;
const GUIDANCE: f32 = 3.5;

/// What InfuseNet reads in every step and no step changes.
struct Control<'a, B: Backend> {
    net: &'a InfuseNet,
    text: Tensor<B>,
    embedded: Tensor<B>,
    modulations: Modulations<B>,
}

impl BuiltIn {
    /// The whole way, as [`Job`](crate::Job) goes it.
    pub(super) fn walk<B: Backend>(&self, stage: &mut Stage<'_, B>, steps: usize) -> Result<()> {
        let (pooled, states) = stage.phase(Phase::Text, &self.text_units, |queue, pager, _| {
            let pooled = self.clip.forward(queue, pager)?.pooled;
            Ok((pooled, self.t5.forward(queue, pager)?))
        })?;
        let (conditions, control) = stage.phase(Phase::Modulation, &self.dit_units, |queue, pager, _| {
            let control = self.control(queue, pager, pooled.view())?;
            let prompted = Prompted { states: states.view(), pooled: pooled.view(), guidance: GUIDANCE };
            let conditions = Conditions::new(queue, pager, &self.transformer, &prompted, &self.schedule)?;
            drop((pooled, states));
            Ok((conditions, control))
        })?;
        stage.repeats(&[self.options.steps as u64]);
        let latents = stage.phase(Phase::Denoise, &self.dit_units, |queue, pager, observer| {
            let noise = vec![0.0; self.grid().tokens() * self.transformer.config().in_channels];
            let mut denoiser =
                Denoiser::new(queue, &self.transformer, &self.schedule, conditions, self.grid(), &noise)?;
            match control {
                None => denoiser.run(&Lent { cycle: pager, edges: pager }, 0..steps, false, observer)?,
                Some(control) => self.controlled(queue, pager, &denoiser, &control, steps)?,
            }
            Ok(denoiser.into_latents())
        })?;
        stage.phase(Phase::Vae, &self.decoder_units, |queue, pager, _| {
            let (height, width) = (self.options.height, self.options.width);
            let latent = queue.tensor(DType::Bf16, &[height / FACTOR, width / FACTOR, 16], "latent")?;
            let image = latent.view().transpose(1, 2)?.transpose(0, 1)?;
            let unpatchify = Unpatchify { tokens: latents.view(), multiply: 1.0, add: 0.0, image };
            ops::unpatchify(queue, &unpatchify)?;
            drop(latents);
            let tiling = Tiling::choose(height, width, FACTOR, None)?;
            let image = self.decoder.decode(queue, pager, latent.view(), tiling)?;
            Ok(queue.read_f32(image.view()).map(drop)?)
        })
    }

    fn control<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        pooled: View<'_>,
    ) -> Result<Option<Control<'_, B>>> {
        let Some(net) = &self.infusenet else { return Ok(None) };
        let timesteps = model_timesteps(&self.schedule, DType::Bf16);
        let conditioning = Conditioning { timesteps: &timesteps, guidance: Some(INFUSENET_GUIDANCE), pooled };
        let modulations = net.condition(queue, pager, &conditioning)?;
        let tokens = zeros(queue, [IDENTITY_TOKENS, net.config().joint_attention_dim])?;
        let text = net.embed_text(queue, pager, tokens.view())?;
        let image = zeros(queue, [self.grid().tokens(), net.config().in_channels])?;
        let embedded = net.embed_control(queue, pager, image.view())?;
        Ok(Some(Control { net, text, embedded, modulations }))
    }

    /// InfuseNet, then the transformer with its residuals: one turn of the cycle.
    fn controlled<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        denoiser: &Denoiser<'_, B>,
        control: &Control<'_, B>,
        steps: usize,
    ) -> Result<()> {
        let Grid { rows, columns } = self.grid();
        let rope = Rope::grid(queue, control.net.config(), IDENTITY_TOKENS, rows, columns)?;
        for step in 0..steps {
            pager.turn(0)?;
            let inputs = InfuseInputs {
                latents: denoiser.latents(),
                text: control.text.view(),
                control: control.embedded.view(),
                modulations: &control.modulations,
                step,
                rope: &rope,
            };
            let outputs = control.net.step(queue, pager, &inputs)?;
            let double: Vec<View<'_>> = outputs.double.iter().map(Tensor::view).collect();
            let single: Vec<View<'_>> = outputs.single.iter().map(Tensor::view).collect();
            denoiser.step(pager, step, Some(Residuals { double: &double, single: &single, scale: 1.0 }))?;
        }
        Ok(queue.stream().synchronize()?)
    }

    const fn grid(&self) -> Grid {
        Grid { rows: self.options.height / (2 * FACTOR), columns: self.options.width / (2 * FACTOR) }
    }
}

fn zeros<B: Backend>(queue: &Queue<B>, shape: [usize; 2]) -> Result<Tensor<B>> {
    Ok(queue.zeros(DType::Bf16, &shape, "zeros")?)
}
