use std::ops::Range;

use lighterage_checkpoint::{Checkpoint, Tensor};
use lighterage_shape::DType;

use crate::{Error, Result};

/// Tensors of a unit start at multiples of this on the device, and units too: what the widest loads and tensor maps ask for.
pub const ALIGNMENT_BYTES: u64 = 256;

/// Names a unit within its [`Units`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(pub u32);

/// How a piece is rearranged on its way to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// As it is.
    None,
    /// `[out, in, kernel, kernel]` in the file becomes `[out, kernel, kernel, in]`.
    ChannelsLast,
}

/// A run of rows (of the first dimension) of a tensor in a file.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The tensor; it keeps its file mapped.
    pub tensor: Tensor,
    /// Which of its rows.
    pub rows: Range<usize>,
    /// How each row is rearranged.
    pub transform: Transform,
}

impl Piece {
    /// Elements of one row.
    pub(crate) fn row_elements(&self) -> usize {
        self.tensor.shape().iter().skip(1).product()
    }

    /// The rows' bytes in the mapped file.
    pub(crate) fn bytes(&self) -> &[u8] {
        let row_bytes = self.row_elements() * self.tensor.dtype().bytes();
        &self.tensor.bytes()[self.rows.start * row_bytes..self.rows.end * row_bytes]
    }
}

/// One tensor of a unit: its pieces, one after the other along the first dimension, converted to `dtype`.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    dtype: DType,
    shape: Vec<usize>,
    pieces: Vec<Piece>,
}

impl TensorSpec {
    /// One whole tensor of the checkpoint; it must have `shape`. Only a 1x1 convolution may also be written as the linear that it is:
    /// `[n, k, 1, 1]` for `[n, k]`, or the other way round.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is no such tensor, [`Error::Shape`] or [`Error::DType`] if it is another one than the model needs.
    pub fn whole(checkpoint: &Checkpoint, name: &str, shape: &[usize], dtype: DType) -> Result<Self> {
        let tensor = checkpoint.tensor(name)?;
        let same = tensor.shape() == shape
            || is_pointwise(tensor.shape(), shape)
            || is_pointwise(shape, tensor.shape());
        if !same {
            return Err(wrong_shape(tensor, shape));
        }
        let rows = 0..shape.first().copied().unwrap_or(1);
        Self::new(dtype, shape, vec![Piece { tensor: tensor.clone(), rows, transform: Transform::None }])
    }

    /// Several tensors, stacked along the first dimension: `(name, rows of it)`. The rows sum up to `shape[0]`, and each tensor agrees with
    /// `shape` in the other dimensions.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a tensor is missing, [`Error::Shape`], [`Error::Rows`] or [`Error::DType`] if one is another one than the model needs.
    pub fn stacked(
        checkpoint: &Checkpoint,
        pieces: &[(&str, Range<usize>)],
        shape: &[usize],
        dtype: DType,
    ) -> Result<Self> {
        let inner = shape.get(1..).unwrap_or_default();
        let mut stacked = Vec::with_capacity(pieces.len());
        for (name, rows) in pieces {
            let tensor = checkpoint.tensor(name)?;
            if tensor.shape().get(1..) != Some(inner) {
                return Err(wrong_shape(tensor, &[&[rows.len()], inner].concat()));
            }
            check_rows(tensor, rows)?;
            stacked.push(Piece { tensor: tensor.clone(), rows: rows.clone(), transform: Transform::None });
        }
        let rows: usize = pieces.iter().map(|(_, rows)| rows.len()).sum();
        if shape.first() != Some(&rows) {
            let names: Vec<&str> = pieces.iter().map(|(name, _)| *name).collect();
            return Err(Error::Shape {
                path: checkpoint.path().to_owned(),
                tensor: names.join(" + "),
                expected: shape.to_vec(),
                got: [&[rows], inner].concat(),
            });
        }
        Self::new(dtype, shape, stacked)
    }

    /// Chosen rows of a table `[rows, columns]`, one for each id: an embedding gathered on the way to the device, `[ids, columns]`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is no such table, [`Error::Shape`] or [`Error::DType`] if it is another one than the model needs,
    /// [`Error::Rows`] if an id is beyond its end.
    pub fn gathered(
        checkpoint: &Checkpoint,
        name: &str,
        ids: &[u32],
        columns: usize,
        dtype: DType,
    ) -> Result<Self> {
        let tensor = checkpoint.tensor(name)?;
        let [_, got] = tensor.shape() else { return Err(wrong_shape(tensor, &[ids.len(), columns])) };
        if *got != columns {
            return Err(wrong_shape(tensor, &[tensor.shape()[0], columns]));
        }
        let row = |id: &u32| {
            let rows = *id as usize..*id as usize + 1;
            check_rows(tensor, &rows)?;
            Ok(Piece { tensor: tensor.clone(), rows, transform: Transform::None })
        };
        let pieces = ids.iter().map(row).collect::<Result<Vec<_>>>()?;
        Self::new(dtype, &[ids.len(), columns], pieces)
    }

    /// A convolution's weight, `[out, in, k, k]` in the file, `[out, k, k, in]` on the device; `shape` is that of the device. A 1x1 convolution may
    /// also be written as the linear that it is, `[out, in]`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is no such tensor, [`Error::Shape`] (of the file's order) or [`Error::DType`] if it is another one than the model needs.
    pub fn convolution(checkpoint: &Checkpoint, name: &str, shape: &[usize], dtype: DType) -> Result<Self> {
        let tensor = checkpoint.tensor(name)?;
        let &[out, rows, columns, channels] = shape else { return Err(wrong_shape(tensor, shape)) };
        let filed = [out, channels, rows, columns];
        if tensor.shape() != filed && !is_pointwise(&filed, tensor.shape()) {
            return Err(wrong_shape(tensor, &filed));
        }
        // One value for each channel, or one channel: both orders are the same bytes.
        let transform =
            if rows * columns == 1 || channels == 1 { Transform::None } else { Transform::ChannelsLast };
        Self::new(dtype, shape, vec![Piece { tensor: tensor.clone(), rows: 0..out, transform }])
    }

    /// Element type on the device: bf16 or f32.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape on the device.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where it comes from.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Bytes on the device, without alignment.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.bytes()) as u64
    }

    fn new(dtype: DType, shape: &[usize], pieces: Vec<Piece>) -> Result<Self> {
        for Piece { tensor, .. } in &pieces {
            let known = matches!(tensor.dtype(), DType::F32 | DType::Bf16 | DType::F16);
            if !known || !matches!(dtype, DType::F32 | DType::Bf16) {
                return Err(Error::DType {
                    path: tensor.path().to_owned(),
                    tensor: tensor.name().to_owned(),
                    got: tensor.dtype(),
                    wanted: dtype,
                });
            }
        }
        Ok(Self { dtype, shape: shape.to_vec(), pieces })
    }
}

/// What one launch reads: for a linear, weight and bias.
#[derive(Clone, Debug)]
pub struct UnitSpec {
    /// For messages and traces, for instance `transformer_blocks.3.attn.to_out`.
    pub name: String,
    /// Its tensors, in the order in which a lease numbers them.
    pub tensors: Vec<TensorSpec>,
}

impl UnitSpec {
    /// Where each tensor starts within the unit, in bytes.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = u64> + '_ {
        self.tensors.iter().scan(0, |next, tensor| {
            let offset = *next;
            *next += tensor.bytes().next_multiple_of(ALIGNMENT_BYTES);
            Some(offset)
        })
    }

    /// Bytes on the device, alignment included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes().next_multiple_of(ALIGNMENT_BYTES)).sum()
    }
}

/// All units of a model or of several.
#[derive(Clone, Debug, Default)]
pub struct Units {
    list: Vec<UnitSpec>,
}

impl Units {
    /// Adds a unit and gives it its name.
    ///
    /// # Panics
    /// At the 2^32nd unit.
    pub fn add(&mut self, unit: UnitSpec) -> UnitId {
        let id = u32::try_from(self.list.len()).expect("fewer than 2^32 units");
        self.list.push(unit);
        UnitId(id)
    }

    /// What the unit is made of.
    ///
    /// # Panics
    /// If the id is not one of these units'.
    #[must_use]
    pub fn get(&self, unit: UnitId) -> &UnitSpec {
        let count = self.list.len();
        self.list.get(unit.0 as usize).unwrap_or_else(|| panic!("unit {} of {count}", unit.0))
    }

    /// Bytes on the device, alignment included.
    ///
    /// # Panics
    /// If the id is not one of these units'.
    #[must_use]
    pub fn bytes(&self, unit: UnitId) -> u64 {
        self.get(unit).bytes()
    }

    /// How many units there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Every unit, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (UnitId, &UnitSpec)> {
        (0..).map(UnitId).zip(&self.list)
    }
}

#[cfg(test)]
impl Units {
    /// What these units are for a pager that has weights by the names of their tensors.
    pub(crate) fn known_by_name(&self) -> Self {
        let mut first: std::collections::BTreeMap<String, TensorSpec> = std::collections::BTreeMap::new();
        let mut list = self.list.clone();
        for spec in list.iter_mut().flat_map(|unit| &mut unit.tensors) {
            let name = spec.pieces.first().map_or_else(String::new, |piece| piece.tensor.name().to_owned());
            *spec = first.entry(name).or_insert_with(|| spec.clone()).clone();
        }
        Self { list }
    }
}

/// `[n, k, 1, 1]` against `[n, k]`.
fn is_pointwise(convolution: &[usize], linear: &[usize]) -> bool {
    matches!((convolution, linear), ([n, k, 1, 1], [rows, columns]) if n == rows && k == columns)
}

fn check_rows(tensor: &Tensor, rows: &Range<usize>) -> Result<()> {
    let count = tensor.shape().first().copied().unwrap_or(0);
    if rows.start <= rows.end && rows.end <= count {
        return Ok(());
    }
    Err(Error::Rows {
        path: tensor.path().to_owned(),
        tensor: tensor.name().to_owned(),
        start: rows.start,
        end: rows.end,
        rows: count,
    })
}

fn wrong_shape(tensor: &Tensor, expected: &[usize]) -> Error {
    Error::Shape {
        path: tensor.path().to_owned(),
        tensor: tensor.name().to_owned(),
        expected: expected.to_vec(),
        got: tensor.shape().to_vec(),
    }
}
