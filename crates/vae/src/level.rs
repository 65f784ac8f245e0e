use lighterage_device::Backend;
use lighterage_ops::{Tensor, Upsample, upsample};
use lighterage_pager::UnitId;

use crate::attention::Attention;
use crate::names::Names;
use crate::registry::Registry;
use crate::resnet::Resnet;
use crate::run::{Run, Step};
use crate::{Config, Result};

/// The middle: residual block, attention (where the model has it), residual block.
#[derive(Debug)]
pub(crate) struct Middle {
    before: Resnet,
    attention: Option<Attention>,
    after: Resnet,
}

impl Middle {
    pub(crate) fn new(config: &Config, names: Names, registry: &mut Registry<'_>) -> Result<Self> {
        let channels = config.middle();
        let resnet = |index, registry: &mut Registry<'_>| {
            Resnet::new(&names.middle_resnet(index), names.shortcut(), channels, channels, registry)
        };
        let before = resnet(0, registry)?;
        let attention = match config.mid_block_add_attention {
            true => Some(Attention::new(names, channels, registry)?),
            false => None,
        };
        Ok(Self { before, attention, after: resnet(1, registry)? })
    }

    pub(crate) fn forward<B: Backend>(&self, x: Tensor<B>, run: &Run<'_, B>) -> Result<Tensor<B>> {
        let x = self.before.forward(x, run)?;
        if let Some(attention) = &self.attention {
            attention.forward(&x, run)?;
        }
        self.after.forward(x, run)
    }
}

/// One level: residual blocks, then (but for the last level) a change of size.
#[derive(Debug)]
pub(crate) struct Level {
    resnets: Vec<Resnet>,
    resample: Option<Resample>,
}

/// To half or to twice the size, channels unchanged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resample {
    /// A convolution of every other pixel.
    Down(UnitId),
    /// Nearest neighbour, then a convolution.
    Up(UnitId),
}

/// Which level is made: its place in the order of use and its sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) index: usize,
    pub(crate) resnets: usize,
    pub(crate) inner: usize,
    pub(crate) out: usize,
}

impl Level {
    pub(crate) fn new(
        place: Place,
        names: Names,
        resample: Option<fn(UnitId) -> Resample>,
        registry: &mut Registry<'_>,
    ) -> Result<Self> {
        let Place { index, resnets, inner, out } = place;
        let resnets = (0..resnets)
            .map(|block| {
                let inner = if block == 0 { inner } else { out };
                Resnet::new(&names.resnet(index, block), names.shortcut(), inner, out, registry)
            })
            .collect::<Result<_>>()?;
        let resample = match resample {
            Some(kind) => Some(kind(registry.conv(&names.resample(index), out, out)?)),
            None => None,
        };
        Ok(Self { resnets, resample })
    }

    pub(crate) fn forward<B: Backend>(&self, x: Tensor<B>, run: &Run<'_, B>) -> Result<Tensor<B>> {
        let x = self.resnets.iter().try_fold(x, |x, resnet| resnet.forward(x, run))?;
        match self.resample {
            None => Ok(x),
            Some(Resample::Down(conv)) => run.conv(conv, x.view(), Step::Second, x.shape()[2]),
            Some(Resample::Up(conv)) => {
                let large = twice(x, run)?;
                run.conv(conv, large.view(), Step::Every, large.shape()[2])
            }
        }
    }
}

fn twice<B: Backend>(x: Tensor<B>, run: &Run<'_, B>) -> Result<Tensor<B>> {
    let [height, width, channels] = [x.shape()[0], x.shape()[1], x.shape()[2]];
    let large = run.image([2 * height, 2 * width, channels], "vae upsampled")?;
    upsample(run.queue, &Upsample { x: x.view(), out: large.view() })?;
    // By value, so that the small image's memory is free for the convolution that follows.
    drop(x);
    Ok(large)
}
