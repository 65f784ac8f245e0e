use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use lighterage_checkpoint::{Checkpoint, Piece, Recipe};

use crate::derive::Witness;
use crate::loader::mlp_columns;
use crate::names::{Module, Names, Part, Side};
use crate::{Error, Result};

/// How the tensors of diffusers' layout are made of a FLUX transformer's in either layout: fused projections are taken apart, the halves of the last
/// modulation (shift and scale for BFL, scale and shift for diffusers) exchanged, a prefix left out. In the order of their names.
///
/// Sizes are read off the shapes; no configuration is needed.
///
/// # Errors
/// [`Error::Layout`] if it is no FLUX transformer, [`Error::Checkpoint`] for a missing tensor, [`Error::Leftover`] for one that has no place,
/// [`Error::Pager`] for one with other rows than its place has.
pub fn diffusers_layout(checkpoint: &Checkpoint) -> Result<Vec<Recipe>> {
    let names = Names::detect(checkpoint)?;
    let sizes = Sizes::new(&Witness { checkpoint, names })?;
    let mut recipes = Vec::new();
    for module in modules(names, sizes) {
        for suffix in [".weight", ".bias"] {
            recipes.extend(relaid(checkpoint, &module, suffix)?);
        }
    }
    for (own, diffusers) in norms(names, sizes) {
        recipes.push(Recipe::whole(diffusers, checkpoint.tensor(&own)?));
    }
    check_used(checkpoint, &recipes)?;
    recipes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(recipes)
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    width: usize,
    mlp: usize,
    doubles: usize,
    singles: usize,
    out_channels: usize,
    has_guidance: bool,
}

const GUIDANCE: &str = "guidance";

impl Sizes {
    fn new(witness: &Witness<'_>) -> Result<Self> {
        let [width, _] = witness.shape(("x_embedder", "img_in"))?;
        let [out_channels, _] = witness.shape(("proj_out", "final_layer.linear"))?;
        let guidance = ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer");
        Ok(Self {
            width,
            mlp: mlp_columns(witness.checkpoint, witness.names, width),
            doubles: witness.doubles(),
            singles: witness.singles(),
            out_channels,
            has_guidance: witness.find(guidance).is_some(),
        })
    }
}

/// Every linear.
fn modules(names: Names, sizes: Sizes) -> Vec<Module> {
    let Sizes { width, mlp, doubles, singles, out_channels, has_guidance } = sizes;
    let mut modules = vec![
        names.whole("x_embedder", "img_in", width),
        names.whole("context_embedder", "txt_in", width),
        names.whole("proj_out", "final_layer.linear", out_channels),
        names.out_modulation(width),
    ];
    let embedders = [("timestep", "time_in"), (GUIDANCE, "guidance_in"), ("text", "vector_in")];
    for (diffusers, bfl) in embedders.into_iter().filter(|(name, _)| has_guidance || *name != GUIDANCE) {
        for (second, layer) in [("linear_1", "in_layer"), ("linear_2", "out_layer")] {
            let diffusers = format!("time_text_embed.{diffusers}_embedder.{second}");
            modules.push(names.whole(&diffusers, &format!("{bfl}.{layer}"), width));
        }
    }
    for (block, side) in (0..doubles).flat_map(|block| [Side::Image, Side::Text].map(|side| (block, side))) {
        modules.extend([
            names.double_modulation(block, side, width),
            names.double_qkv(block, side, width),
            names.double_out(block, side, width),
            names.double_up(block, side, mlp),
            names.double_down(block, side, width),
        ]);
    }
    for block in 0..singles {
        modules.extend([
            names.single_modulation(block, width),
            names.single_qkv(block, width, mlp),
            names.single_mlp(block, width, mlp),
            names.single_out(block, width),
        ]);
    }
    modules
}

/// The weight of every norm: its own name, and diffusers'.
fn norms(names: Names, Sizes { doubles, singles, .. }: Sizes) -> Vec<(String, String)> {
    let of = |names: Names| -> Vec<String> {
        let doubles = (0..doubles).flat_map(|block| names.double_norms(block));
        doubles.chain((0..singles).flat_map(|block| names.single_norms(block))).collect()
    };
    of(names).into_iter().zip(of(Names::diffusers())).collect()
}

/// The recipes of one linear's weights or biases: its stacked rows, cut where diffusers cuts them.
fn relaid(checkpoint: &Checkpoint, module: &Module, suffix: &str) -> Result<Vec<Recipe>> {
    let mut made = BTreeMap::<&str, (usize, Vec<(usize, Piece)>)>::new();
    for (theirs, at) in placed(&module.spelled[0]) {
        for (own, from) in placed(&module.parts) {
            let shared = at.start.max(from.start)..at.end.min(from.end);
            if shared.is_empty() {
                continue;
            }
            let start = own.rows.start + shared.start - from.start;
            let piece =
                Piece { tensor: format!("{}{suffix}", own.module), rows: start..start + shared.len() };
            let place = theirs.rows.start + shared.start - at.start;
            let (_, pieces) = made.entry(&theirs.module).or_insert((theirs.of, Vec::new()));
            pieces.push((place, piece));
        }
    }
    for part in &module.parts {
        check_rows(checkpoint, &format!("{}{suffix}", part.module), part.of)?;
    }
    let mut recipes = Vec::new();
    for (name, (rows, mut pieces)) in made {
        pieces.sort_by_key(|(place, _)| *place);
        let pieces: Vec<Piece> = pieces.into_iter().map(|(_, piece)| piece).collect();
        let rest = checkpoint.tensor(&pieces[0].tensor)?.shape()[1..].to_vec();
        recipes.push(Recipe { name: format!("{name}{suffix}"), shape: [vec![rows], rest].concat(), pieces });
    }
    Ok(recipes)
}

/// Parts, and where each of them is in the stack of all.
fn placed(parts: &[Part]) -> impl Iterator<Item = (&Part, Range<usize>)> {
    parts.iter().scan(0, |start, part| {
        let range = *start..*start + part.rows.len();
        *start = range.end;
        Some((part, range))
    })
}

fn check_rows(checkpoint: &Checkpoint, name: &str, rows: usize) -> Result<()> {
    let tensor = checkpoint.tensor(name)?;
    if tensor.shape().first() == Some(&rows) {
        return Ok(());
    }
    let got = tensor.shape().to_vec();
    let expected = [&[rows][..], got.get(1..).unwrap_or_default()].concat();
    Err(lighterage_pager::Error::Shape { path: tensor.path().into(), tensor: name.to_owned(), expected, got }
        .into())
}

/// Nothing may be lost without a word.
fn check_used(checkpoint: &Checkpoint, recipes: &[Recipe]) -> Result<()> {
    let pieces = recipes.iter().flat_map(|recipe| recipe.pieces.iter().map(|piece| piece.tensor.as_str()));
    let used: BTreeSet<&str> = pieces.collect();
    match checkpoint.tensors().find(|tensor| !used.contains(tensor.name())) {
        None => Ok(()),
        Some(tensor) => {
            let (path, tensor) = (checkpoint.path().to_owned(), tensor.name().to_owned());
            Err(Error::Leftover { path, tensor })
        }
    }
}
