use std::borrow::Cow;
use std::ops::Range;

use crate::error::Result;
use crate::{Checkpoint, Tensor};

/// A tensor to be made of rows of stored ones, one above the other: how one layout's tensor is found in another layout's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Its name.
    pub name: String,
    /// Its extents.
    pub shape: Vec<usize>,
    /// What it is made of, from above.
    pub pieces: Vec<Piece>,
}

/// Rows of a stored tensor: ranges of its first extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its name.
    pub tensor: String,
    /// Which rows.
    pub rows: Range<usize>,
}

impl Recipe {
    /// A stored tensor as it is, under another name.
    #[must_use]
    pub fn whole(name: impl Into<String>, tensor: &Tensor) -> Self {
        let rows = 0..tensor.shape().first().copied().unwrap_or(1);
        let pieces = vec![Piece { tensor: tensor.name().to_owned(), rows }];
        Self { name: name.into(), shape: tensor.shape().to_vec(), pieces }
    }

    /// Its values, in the element type of its pieces; copied only where there are several.
    ///
    /// # Errors
    /// [`Error::Missing`](crate::Error::Missing) if a piece's tensor is not there.
    ///
    /// # Panics
    /// If a piece has rows that its tensor does not have.
    ///
    /// ```
    /// use lighterage_checkpoint::{Checkpoint, Piece, Recipe, Shape};
    /// use lighterage_shape::DType;
    /// # fn main() -> lighterage_checkpoint::Result<()> {
    /// let fused = Shape { name: "qkv".to_owned(), extents: vec![6, 4] };
    /// let checkpoint = Checkpoint::of_shapes("fused", DType::Bf16, &[fused])?;
    /// let pieces = vec![Piece { tensor: "qkv".to_owned(), rows: 2..4 }];
    /// let k = Recipe { name: "k".to_owned(), shape: vec![2, 4], pieces };
    /// assert_eq!(k.bytes(&checkpoint)?.len(), 2 * 2 * 4);
    /// # Ok(()) }
    /// ```
    pub fn bytes<'a>(&self, checkpoint: &'a Checkpoint) -> Result<Cow<'a, [u8]>> {
        if let [piece] = &self.pieces[..] {
            return Ok(Cow::Borrowed(piece.bytes(checkpoint)?));
        }
        let mut bytes = Vec::new();
        for piece in &self.pieces {
            bytes.extend_from_slice(piece.bytes(checkpoint)?);
        }
        Ok(Cow::Owned(bytes))
    }
}

impl Piece {
    fn bytes<'a>(&self, checkpoint: &'a Checkpoint) -> Result<&'a [u8]> {
        let tensor = checkpoint.tensor(&self.tensor)?;
        let count = tensor.shape().first().copied().unwrap_or(1);
        let Self { rows: Range { start, end }, .. } = *self;
        assert!(start <= end && end <= count, "rows {start}..{end} of {:?}, which has {count}", self.tensor);
        let row = tensor.bytes().len() / count.max(1);
        Ok(&tensor.bytes()[start * row..end * row])
    }
}
