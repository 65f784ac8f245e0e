use std::ops::Range;

use lighterage_checkpoint::Checkpoint;

use crate::{Error, Result};

/// Prefixes that files put before every name.
const PREFIXES: [&str; 2] = ["", "model.diffusion_model."];

/// The two spellings of a FLUX checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// `transformer_blocks.0.attn.to_q`, as in the `transformer/` folder.
    Diffusers,
    /// `double_blocks.0.img_attn.qkv`, as in `flux1-dev.safetensors`.
    Bfl,
}

/// Which stream of a double block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Text,
    Image,
}

/// A run of rows of one stored linear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Stored as `MODULE.weight` and `MODULE.bias`.
    pub(crate) module: String,
    /// The rows that are wanted.
    pub(crate) rows: Range<usize>,
    /// How many rows it has.
    pub(crate) of: usize,
}

/// A linear as the model uses it: rows of stored linears, stacked.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// The unit's name, the same for both spellings.
    pub(crate) label: String,
    pub(crate) parts: Vec<Part>,
    /// The same rows by the names of each spelling, without a prefix: adapters may be spelled otherwise than the model that they are for.
    pub(crate) spelled: [Vec<Part>; 2],
}

/// Where a checkpoint keeps what: the only place that knows the names of both layouts, side by side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    spelling: Spelling,
    prefix: &'static str,
}

impl Names {
    /// Finds the spelling by the name of the image embedder.
    pub(crate) fn detect(checkpoint: &Checkpoint) -> Result<Self> {
        PREFIXES
            .into_iter()
            .flat_map(|prefix| [Spelling::Diffusers, Spelling::Bfl].map(|spelling| Self { spelling, prefix }))
            .find(|names| checkpoint.get(&names.weight("x_embedder", "img_in")).is_some())
            .ok_or_else(|| Error::Layout { path: checkpoint.path().into() })
    }

    /// diffusers' names, which no prefix precedes.
    pub(crate) const fn diffusers() -> Self {
        Self { spelling: Spelling::Diffusers, prefix: "" }
    }

    /// `MODULE.weight` of a module with one name in each spelling.
    pub(crate) fn weight(&self, diffusers: &str, bfl: &str) -> String {
        format!("{}.weight", self.pick(diffusers, bfl))
    }

    /// A linear that both spellings store whole.
    pub(crate) fn whole(&self, diffusers: &str, bfl: &str, rows: usize) -> Module {
        self.module(diffusers.to_owned(), vec![Part::whole(diffusers, rows)], vec![Part::whole(bfl, rows)])
    }

    /// Rows q, k, v of one stream of a double block.
    pub(crate) fn double_qkv(&self, block: usize, side: Side, width: usize) -> Module {
        let (stored, label) = match side {
            Side::Image => (["to_q", "to_k", "to_v"], "to_qkv"),
            Side::Text => (["add_q_proj", "add_k_proj", "add_v_proj"], "add_qkv_proj"),
        };
        let diffusers =
            stored.map(|name| Part::whole(&format!("transformer_blocks.{block}.attn.{name}"), width));
        let bfl = Part::whole(&format!("double_blocks.{block}.{}_attn.qkv", stream(side)), 3 * width);
        self.module(format!("transformer_blocks.{block}.attn.{label}"), diffusers.into(), vec![bfl])
    }

    /// The projection after attention of one stream of a double block.
    pub(crate) fn double_out(&self, block: usize, side: Side, width: usize) -> Module {
        let name = match side {
            Side::Image => "to_out.0",
            Side::Text => "to_add_out",
        };
        self.whole(
            &format!("transformer_blocks.{block}.attn.{name}"),
            &format!("double_blocks.{block}.{}_attn.proj", stream(side)),
            width,
        )
    }

    /// The first linear of one stream's feed-forward network.
    pub(crate) fn double_up(&self, block: usize, side: Side, mlp: usize) -> Module {
        self.whole(
            &format!("transformer_blocks.{block}.{}.net.0.proj", feed_forward(side)),
            &format!("double_blocks.{block}.{}_mlp.0", stream(side)),
            mlp,
        )
    }

    /// The second linear of one stream's feed-forward network.
    pub(crate) fn double_down(&self, block: usize, side: Side, width: usize) -> Module {
        self.whole(
            &format!("transformer_blocks.{block}.{}.net.2", feed_forward(side)),
            &format!("double_blocks.{block}.{}_mlp.2", stream(side)),
            width,
        )
    }

    /// The modulation of one stream of a double block: shift, scale, gate, twice.
    pub(crate) fn double_modulation(&self, block: usize, side: Side, width: usize) -> Module {
        let name = match side {
            Side::Image => "norm1",
            Side::Text => "norm1_context",
        };
        self.whole(
            &format!("transformer_blocks.{block}.{name}.linear"),
            &format!("double_blocks.{block}.{}_mod.lin", stream(side)),
            6 * width,
        )
    }

    /// The norm weights of a double block: q and k of the text, q and k of the image.
    pub(crate) fn double_norms(&self, block: usize) -> [String; 4] {
        [
            ("norm_added_q.weight", "txt_attn.norm.query_norm.scale"),
            ("norm_added_k.weight", "txt_attn.norm.key_norm.scale"),
            ("norm_q.weight", "img_attn.norm.query_norm.scale"),
            ("norm_k.weight", "img_attn.norm.key_norm.scale"),
        ]
        .map(|(diffusers, bfl)| {
            self.pick(
                &format!("transformer_blocks.{block}.attn.{diffusers}"),
                &format!("double_blocks.{block}.{bfl}"),
            )
        })
    }

    /// Rows q, k, v of a single block.
    pub(crate) fn single_qkv(&self, block: usize, width: usize, mlp: usize) -> Module {
        let diffusers = ["to_q", "to_k", "to_v"]
            .map(|name| Part::whole(&format!("single_transformer_blocks.{block}.attn.{name}"), width));
        let bfl = first_linear(block, 0..3 * width, 3 * width + mlp);
        self.module(format!("single_transformer_blocks.{block}.attn.to_qkv"), diffusers.into(), vec![bfl])
    }

    /// The linear that makes the MLP's hidden columns in a single block.
    pub(crate) fn single_mlp(&self, block: usize, width: usize, mlp: usize) -> Module {
        let label = format!("single_transformer_blocks.{block}.proj_mlp");
        let bfl = first_linear(block, 3 * width..3 * width + mlp, 3 * width + mlp);
        let diffusers = Part::whole(&label, mlp);
        self.module(label, vec![diffusers], vec![bfl])
    }

    /// The projection of attention and MLP columns together.
    pub(crate) fn single_out(&self, block: usize, width: usize) -> Module {
        self.whole(
            &format!("single_transformer_blocks.{block}.proj_out"),
            &format!("single_blocks.{block}.linear2"),
            width,
        )
    }

    /// The modulation of a single block: shift, scale, gate.
    pub(crate) fn single_modulation(&self, block: usize, width: usize) -> Module {
        self.whole(
            &format!("single_transformer_blocks.{block}.norm.linear"),
            &format!("single_blocks.{block}.modulation.lin"),
            3 * width,
        )
    }

    /// The norm weights of a single block: q and k.
    pub(crate) fn single_norms(&self, block: usize) -> [String; 2] {
        [("norm_q.weight", "query_norm.scale"), ("norm_k.weight", "key_norm.scale")].map(
            |(diffusers, bfl)| {
                self.pick(
                    &format!("single_transformer_blocks.{block}.attn.{diffusers}"),
                    &format!("single_blocks.{block}.norm.{bfl}"),
                )
            },
        )
    }

    /// The modulation before the last linear, as shift, scale. diffusers stores scale first: its halves are stacked the other way round.
    pub(crate) fn out_modulation(&self, width: usize) -> Module {
        let part = |module: &str, rows| Part { module: module.to_owned(), rows, of: 2 * width };
        let label = "norm_out.linear";
        let diffusers = vec![part(label, width..2 * width), part(label, 0..width)];
        self.module(label.to_owned(), diffusers, vec![part("final_layer.adaLN_modulation.1", 0..2 * width)])
    }

    /// The tensor whose rows tell how wide the MLP is: of the first double or, without one, of the first single block.
    /// The second number is what to subtract from its rows.
    pub(crate) fn mlp_witnesses(&self, width: usize) -> [(String, usize); 2] {
        let double = self.weight("transformer_blocks.0.ff.net.0.proj", "double_blocks.0.img_mlp.0");
        let single = self.weight("single_transformer_blocks.0.proj_mlp", "single_blocks.0.linear1");
        let before = match self.spelling {
            Spelling::Diffusers => 0,
            Spelling::Bfl => 3 * width,
        };
        [(double, 0), (single, before)]
    }

    pub(crate) fn pick(&self, diffusers: &str, bfl: &str) -> String {
        let name = match self.spelling {
            Spelling::Diffusers => diffusers,
            Spelling::Bfl => bfl,
        };
        format!("{}{name}", self.prefix)
    }

    fn module(&self, label: String, diffusers: Vec<Part>, bfl: Vec<Part>) -> Module {
        let own = match self.spelling {
            Spelling::Diffusers => &diffusers,
            Spelling::Bfl => &bfl,
        };
        let prefixed =
            |part: &Part| Part { module: format!("{}{}", self.prefix, part.module), ..part.clone() };
        Module { label, parts: own.iter().map(prefixed).collect(), spelled: [diffusers, bfl] }
    }
}

impl Part {
    fn whole(module: &str, rows: usize) -> Self {
        Self { module: module.to_owned(), rows: 0..rows, of: rows }
    }
}

/// BFL's `linear1` of a single block: q, k, v and the MLP's columns in one.
fn first_linear(block: usize, rows: Range<usize>, of: usize) -> Part {
    Part { module: format!("single_blocks.{block}.linear1"), rows, of }
}

const fn stream(side: Side) -> &'static str {
    match side {
        Side::Text => "txt",
        Side::Image => "img",
    }
}

const fn feed_forward(side: Side) -> &'static str {
    match side {
        Side::Text => "ff_context",
        Side::Image => "ff",
    }
}
