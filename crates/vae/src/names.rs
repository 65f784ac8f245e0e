use lighterage_checkpoint::Checkpoint;

/// Which half of the autoencoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Encoder,
    Decoder,
}

/// Who named the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    Diffusers,
    /// Black Forest Labs' `ae.safetensors`, after `CompVis`. Its decoder numbers the levels from full size on, diffusers' from the middle on.
    Bfl,
    /// diffusers before 0.14, and still many files: as [`Diffusers`](Self::Diffusers), but for the middle attention.
    Deprecated,
}

/// More blocks than a level of any autoencoder has.
const BLOCKS_MAX: usize = 16;

/// What one half's parts are called in a checkpoint. Levels count in the order of use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    spelling: Spelling,
    side: Side,
    levels: usize,
}

/// What the parts of the middle attention are called.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AttentionNames {
    pub(crate) norm: String,
    pub(crate) qkv: [String; 3],
    pub(crate) out: String,
}

impl Names {
    pub(crate) fn new(checkpoint: &Checkpoint, side: Side, levels: usize) -> Self {
        let has = |part: &str| checkpoint.tensors().any(|tensor| tensor.name().contains(part));
        let spelling = if has(".mid.block_1.") {
            Spelling::Bfl
        } else if has(".mid_block.attentions.0.query.") {
            Spelling::Deprecated
        } else {
            Spelling::Diffusers
        };
        Self { spelling, side, levels }
    }

    /// The same half in diffusers' spelling.
    pub(crate) const fn in_diffusers(self) -> Self {
        Self { spelling: Spelling::Diffusers, ..self }
    }

    /// Every part that has a name of its own, the first [`BLOCKS_MAX`] of a level's blocks among them, in the same order for every spelling.
    pub(crate) fn modules(self) -> Vec<String> {
        let AttentionNames { norm, qkv, out } = self.attention();
        let middle = [self.middle_resnet(0), self.middle_resnet(1), norm, out].into_iter().chain(qkv);
        let blocks = |level| (0..BLOCKS_MAX).map(move |block| self.resnet(level, block));
        let levels = (0..self.levels).flat_map(|level| blocks(level).chain([self.resample(level)]));
        [self.conv_in(), self.conv_out(), self.norm_out()].into_iter().chain(middle).chain(levels).collect()
    }

    pub(crate) fn conv_in(self) -> String {
        format!("{}.conv_in", self.side())
    }

    pub(crate) fn conv_out(self) -> String {
        format!("{}.conv_out", self.side())
    }

    pub(crate) fn norm_out(self) -> String {
        format!("{}.{}", self.side(), self.pick("conv_norm_out", "norm_out"))
    }

    /// `index` is 0 before the attention, 1 after it.
    pub(crate) fn middle_resnet(self, index: usize) -> String {
        match self.spelling {
            Spelling::Diffusers | Spelling::Deprecated => {
                format!("{}.mid_block.resnets.{index}", self.side())
            }
            Spelling::Bfl => format!("{}.mid.block_{}", self.side(), index + 1),
        }
    }

    pub(crate) fn attention(self) -> AttentionNames {
        let base = format!("{}.{}", self.side(), self.pick("mid_block.attentions.0", "mid.attn_1"));
        let [norm, q, k, v, out] = match self.spelling {
            Spelling::Diffusers => ["group_norm", "to_q", "to_k", "to_v", "to_out.0"],
            Spelling::Bfl => ["norm", "q", "k", "v", "proj_out"],
            Spelling::Deprecated => ["group_norm", "query", "key", "value", "proj_attn"],
        }
        .map(|part| format!("{base}.{part}"));
        AttentionNames { norm, qkv: [q, k, v], out }
    }

    pub(crate) fn resnet(self, level: usize, block: usize) -> String {
        format!("{}.{}.{block}", self.level(level), self.pick("resnets", "block"))
    }

    pub(crate) fn resample(self, level: usize) -> String {
        let name = match self.side {
            Side::Encoder => self.pick("downsamplers.0.conv", "downsample.conv"),
            Side::Decoder => self.pick("upsamplers.0.conv", "upsample.conv"),
        };
        format!("{}.{name}", self.level(level))
    }

    /// Within a residual block.
    pub(crate) const fn shortcut(self) -> &'static str {
        self.pick("conv_shortcut", "nin_shortcut")
    }

    fn level(self, level: usize) -> String {
        match (self.side, self.spelling) {
            (Side::Encoder, Spelling::Diffusers | Spelling::Deprecated) => {
                format!("encoder.down_blocks.{level}")
            }
            (Side::Encoder, Spelling::Bfl) => format!("encoder.down.{level}"),
            (Side::Decoder, Spelling::Diffusers | Spelling::Deprecated) => {
                format!("decoder.up_blocks.{level}")
            }
            (Side::Decoder, Spelling::Bfl) => format!("decoder.up.{}", self.levels - 1 - level),
        }
    }

    const fn side(self) -> &'static str {
        match self.side {
            Side::Encoder => "encoder",
            Side::Decoder => "decoder",
        }
    }

    const fn pick(self, diffusers: &'static str, bfl: &'static str) -> &'static str {
        match self.spelling {
            Spelling::Diffusers | Spelling::Deprecated => diffusers,
            Spelling::Bfl => bfl,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(spelling: Spelling, side: Side) -> Names {
        Names { spelling, side, levels: 4 }
    }

    #[test]
    fn decoder_levels_of_bfl_count_backwards() {
        assert_eq!(names(Spelling::Bfl, Side::Decoder).resnet(0, 2), "decoder.up.3.block.2");
        assert_eq!(names(Spelling::Diffusers, Side::Decoder).resnet(0, 2), "decoder.up_blocks.0.resnets.2");
        assert_eq!(names(Spelling::Bfl, Side::Decoder).resample(2), "decoder.up.1.upsample.conv");
    }

    #[test]
    fn encoder_levels_count_alike() {
        assert_eq!(names(Spelling::Bfl, Side::Encoder).resnet(1, 0), "encoder.down.1.block.0");
        assert_eq!(
            names(Spelling::Diffusers, Side::Encoder).resample(1),
            "encoder.down_blocks.1.downsamplers.0.conv"
        );
    }

    #[test]
    fn middle_is_spelled_both_ways() {
        assert_eq!(names(Spelling::Bfl, Side::Encoder).middle_resnet(1), "encoder.mid.block_2");
        assert_eq!(names(Spelling::Bfl, Side::Encoder).attention().out, "encoder.mid.attn_1.proj_out");
        let attention = names(Spelling::Diffusers, Side::Decoder).attention();
        assert_eq!(attention.qkv[1], "decoder.mid_block.attentions.0.to_k");
        assert_eq!(attention.norm, "decoder.mid_block.attentions.0.group_norm");
        let attention = names(Spelling::Deprecated, Side::Decoder).attention();
        assert_eq!(attention.qkv[1], "decoder.mid_block.attentions.0.key");
        assert_eq!(attention.out, "decoder.mid_block.attentions.0.proj_attn");
    }
}
