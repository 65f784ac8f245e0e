use lighterage_device::Backend;
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, Units};
use lighterage_text::clip::Clip;
use lighterage_text::t5::T5;
use lighterage_text::{ClipTokenizer, T5Tokenizer, Tokens};

use crate::{Model, Options, PromptValues, Result};

/// Both text encoders for the ids of one prompt.
#[derive(Debug)]
pub(crate) struct Encoders {
    pub(crate) clip: Clip,
    pub(crate) t5: T5,
    /// By those that do not read all of the prompt.
    pub(crate) cuts: Vec<Cut>,
}

/// A prompt that is longer than what one of the text encoders reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// `CLIP`, whose vector goes into the modulation, or `T5`, whose states are the text.
    pub encoder: &'static str,
    /// Tokens that it reads, with those that begin and end every text.
    pub read: usize,
    /// Tokens at the prompt's end that it does not.
    pub left_out: usize,
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
        let short = ClipTokenizer::open(&model.root.join("tokenizer"))?.tokens(prompt, clip_tokens)?;
        let clip =
            Clip::new(model.clip.config.clone(), &model.clip.weights, options.dtype, &short.ids, units)?;
        let long = T5Tokenizer::open(&model.root.join("tokenizer_2"))?
            .tokens(prompt, options.max_sequence_length)?;
        let t5 = T5::new(model.t5.config.clone(), &model.t5.weights, options.dtype, &long.ids, units)?;
        let cut =
            |encoder, tokens: &Tokens| Cut { encoder, read: tokens.ids.len(), left_out: tokens.left_out };
        let cuts =
            [cut("CLIP", &short), cut("T5", &long)].into_iter().filter(|cut| cut.left_out > 0).collect();
        Ok(Self { clip, t5, cuts })
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
