use lighterage_device::Backend;
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, Units};
use lighterage_text::clip::Clip;
use lighterage_text::t5::T5;
use lighterage_text::{ClipTokenizer, T5Tokenizer};

use crate::{Model, Options, PromptValues, Result};

/// Both text encoders for the ids of one prompt.
#[derive(Debug)]
pub(crate) struct Encoders {
    pub(crate) clip: Clip,
    pub(crate) t5: T5,
}

/// What the text encoders made of a prompt, on the device.
pub(crate) struct Prompt<B: Backend> {
    pub(crate) states: Tensor<B>,
    pub(crate) pooled: Tensor<B>,
}

impl Encoders {
    /// The tokenizers, with their vocabularies, are gone when it returns.
    pub(crate) fn new(model: &Model, prompt: &str, options: &Options, units: &mut Units) -> Result<Self> {
        let clip_tokens = Clip::positions(&model.clip.config, &model.clip.weights)?;
        let ids = ClipTokenizer::open(&model.root.join("tokenizer"))?.encode(prompt, clip_tokens)?;
        let clip = Clip::new(model.clip.config.clone(), &model.clip.weights, options.dtype, &ids, units)?;
        let ids = T5Tokenizer::open(&model.root.join("tokenizer_2"))?
            .encode(prompt, options.max_sequence_length)?;
        let t5 = T5::new(model.t5.config.clone(), &model.t5.weights, options.dtype, &ids, units)?;
        Ok(Self { clip, t5 })
    }

    pub(crate) fn forward<B: Backend>(&self, queue: &Queue<B>, pager: &Pager<B>) -> Result<Prompt<B>> {
        let pooled = self.clip.forward(queue, pager)?.pooled;
        Ok(Prompt { states: self.t5.forward(queue, pager)?, pooled })
    }
}

impl<B: Backend> Prompt<B> {
    pub(crate) fn values(&self, queue: &Queue<B>) -> Result<Option<PromptValues>> {
        let states = queue.read_f32(self.states.view())?;
        let pooled = queue.read_f32(self.pooled.view())?;
        Ok(states.zip(pooled).map(|(states, pooled)| PromptValues { states, pooled }))
    }
}
