use lighterage_checkpoint::{Checkpoint, Recipe, Tensor};

use crate::names::{Names, Side};

/// How the tensors of diffusers' layout are made of an autoencoder's in any layout: other names, and the middle attention's linears as matrices where they are
/// stored as 1x1 convolutions. In the order of their names; a tensor of neither half keeps its name.
#[must_use]
pub fn diffusers_layout(checkpoint: &Checkpoint) -> Vec<Recipe> {
    let halves = [Side::Encoder, Side::Decoder].map(|side| {
        let names = Names::new(checkpoint, side, levels(checkpoint));
        Half { modules: names.modules(), diffusers: names.in_diffusers().modules(), names }
    });
    let mut recipes: Vec<Recipe> =
        checkpoint.tensors().map(|tensor| recipe(tensor, &halves).unwrap_or_else(|| whole(tensor))).collect();
    recipes.sort_by(|a, b| a.name.cmp(&b.name));
    recipes
}

/// The parts of one half, by their own and by diffusers' names, in one order.
struct Half {
    names: Names,
    modules: Vec<String>,
    diffusers: Vec<String>,
}

fn whole(tensor: &Tensor) -> Recipe {
    Recipe::whole(tensor.name(), tensor)
}

fn recipe(tensor: &Tensor, halves: &[Half]) -> Option<Recipe> {
    let name = tensor.name();
    halves.iter().find_map(|half| {
        let found = half.modules.iter().zip(&half.diffusers);
        let (diffusers, rest) = found
            .filter_map(|(own, diffusers)| Some((diffusers, name.strip_prefix(own)?.strip_prefix('.')?)))
            .min_by_key(|(_, rest)| rest.len())?;
        let rest = rest.replace(half.names.shortcut(), half.names.in_diffusers().shortcut());
        let mut recipe = Recipe::whole(format!("{diffusers}.{rest}"), tensor);
        let attention = half.names.in_diffusers().attention();
        if (attention.qkv.contains(diffusers) || *diffusers == attention.out)
            && recipe.shape.ends_with(&[1, 1])
        {
            recipe.shape.truncate(2);
        }
        Some(recipe)
    })
}

/// How many levels the encoder has, in either spelling.
fn levels(checkpoint: &Checkpoint) -> usize {
    let has = |level: &usize| {
        let prefixes = [format!("encoder.down.{level}."), format!("encoder.down_blocks.{level}.")];
        checkpoint
            .tensors()
            .any(|tensor| prefixes.iter().any(|prefix| tensor.name().starts_with(prefix.as_str())))
    };
    (0..).take_while(has).count()
}
