use std::collections::BTreeMap;

use lighterage_checkpoint::Tensor;
use serde::Serialize;

use crate::count::counted;
use crate::size::Size;

/// Neighbouring blocks of a model that are of the same size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Block {
    /// For instance `transformer_blocks`.
    name: String,
    /// First and last of the blocks that are counted together; none for tensors outside of a numbered block.
    #[serde(skip_serializing_if = "Option::is_none")]
    numbers: Option<(u64, u64)>,
    /// Of each of them.
    tensors: usize,
    /// Of each of them.
    bytes: u64,
}

impl Block {
    pub(super) fn row(&self) -> Vec<String> {
        let (name, count) = match self.numbers {
            None => (self.name.clone(), 1),
            Some((first, last)) if first == last => (format!("{}.{first}", self.name), 1),
            Some((first, last)) => (format!("{}.{first}-{last}", self.name), last - first + 1),
        };
        let bytes = counted(self.bytes, "byte");
        let times = if count > 1 { format!("{count} x {bytes}") } else { bytes };
        vec![
            format!("    {name}"),
            counted(self.tensors, "tensor"),
            times,
            Size(self.bytes * count).to_string(),
        ]
    }
}

/// Bytes by block, in the order of names and numbers.
pub(super) fn of<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Vec<Block> {
    let mut sums: BTreeMap<(&str, Option<u64>), (usize, u64)> = BTreeMap::new();
    for tensor in tensors {
        let sum = sums.entry(block_of(tensor.name())).or_default();
        *sum = (sum.0 + 1, sum.1 + tensor.bytes().len() as u64);
    }
    let blocks = sums.into_iter().map(|((name, number), (tensors, bytes))| Block {
        name: name.to_owned(),
        numbers: number.map(|number| (number, number)),
        tensors,
        bytes,
    });
    blocks.fold(Vec::new(), join)
}

/// `transformer_blocks.3.attn.to_q.weight` is in block 3 of `transformer_blocks`; a name without a number in block none of its first
/// component.
fn block_of(name: &str) -> (&str, Option<u64>) {
    let mut start = 0;
    for component in name.split('.') {
        if let Ok(number) = component.parse()
            && start > 0
        {
            return (&name[..start - 1], Some(number));
        }
        start += component.len() + 1;
    }
    (name.split('.').next().unwrap_or(name), None)
}

/// Adds a block to the list, or counts it with the last one if it is that one's equal neighbour.
fn join(mut list: Vec<Block>, block: Block) -> Vec<Block> {
    match (list.last_mut(), block.numbers) {
        (Some(Block { name, numbers: Some((_, last)), tensors, bytes }), Some((number, _)))
            if *name == block.name
                && *last + 1 == number
                && (*tensors, *bytes) == (block.tensors, block.bytes) =>
        {
            *last = number;
        }
        _ => list.push(block),
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_block() {
        for (name, expected) in [
            ("transformer_blocks.13.attn.to_q.weight", ("transformer_blocks", Some(13))),
            ("encoder.block.2.layer.0.k.weight", ("encoder.block", Some(2))),
            ("x_embedder.weight", ("x_embedder", None)),
            ("3.weight", ("3", None)),
            ("", ("", None)),
            ("a..b", ("a", None)),
        ] {
            assert_eq!(block_of(name), expected, "{name}");
        }
    }

    #[test]
    fn equal_neighbours_are_counted_together() {
        let block =
            |number, bytes| Block { name: "b".into(), numbers: Some((number, number)), tensors: 2, bytes };
        let joined = [block(0, 8), block(1, 8), block(2, 9), block(4, 9)].into_iter().fold(Vec::new(), join);
        let numbers: Vec<_> = joined.iter().map(|block| block.numbers).collect();
        assert_eq!(numbers, [Some((0, 1)), Some((2, 2)), Some((4, 4))]);
    }
}
