use std::fmt;

use crate::DType;

/// The most dimensions a layout can have.
pub const RANK_MAX: usize = 6;

/// Why a layout could not be made or changed as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShapeError {
    /// A dimension index at or beyond the rank.
    NoDimension {
        /// The dimension asked for.
        dimension: usize,
        /// How many there are.
        rank: usize,
    },
    /// A range that leaves the extent of its dimension.
    OutOfRange {
        /// The dimension that was narrowed.
        dimension: usize,
        /// First index of the range.
        start: usize,
        /// Length of the range.
        length: usize,
        /// Extent of the dimension.
        extent: usize,
    },
    /// An extent that cannot be split into so many equal parts.
    NotDivisible {
        /// The dimension that was split.
        dimension: usize,
        /// Its extent.
        extent: usize,
        /// The number of parts asked for.
        parts: usize,
    },
    /// A reshape to another number of elements, or of a layout that is not contiguous.
    Reshape {
        /// Elements of the layout.
        elements: usize,
        /// Elements asked for.
        wanted: usize,
        /// Whether the layout was contiguous.
        contiguous: bool,
    },
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoDimension { dimension, rank } => {
                write!(f, "no dimension {dimension} in a layout of rank {rank}")
            }
            Self::OutOfRange { dimension, start, length, extent } => write!(
                f,
                "range {start}..{} leaves dimension {dimension} of extent {extent}",
                start.saturating_add(length)
            ),
            Self::NotDivisible { dimension, extent, parts } => {
                write!(f, "dimension {dimension} of extent {extent} does not split into {parts} equal parts")
            }
            Self::Reshape { elements, wanted, contiguous: true } => {
                write!(f, "{elements} elements cannot be reshaped to {wanted}")
            }
            Self::Reshape { .. } => write!(f, "a layout that is not contiguous cannot be reshaped"),
        }
    }
}

impl std::error::Error for ShapeError {}

/// Element type, extents and strides (in elements) of a tensor; extents of zero are allowed.
#[derive(Clone, Copy)]
pub struct Layout {
    dtype: DType,
    rank: u8,
    shape: [usize; RANK_MAX],
    strides: [usize; RANK_MAX],
}

impl Layout {
    /// C order: the last dimension is dense.
    ///
    /// # Panics
    /// If `shape` has more than [`RANK_MAX`] dimensions.
    #[must_use]
    pub fn contiguous(dtype: DType, shape: &[usize]) -> Self {
        assert!(shape.len() <= RANK_MAX, "rank {} is above {RANK_MAX}", shape.len());
        let mut layout = Self {
            dtype,
            rank: u8::try_from(shape.len()).unwrap_or(0),
            shape: [1; RANK_MAX],
            strides: [1; RANK_MAX],
        };
        let mut stride = 1;
        for dimension in (0..shape.len()).rev() {
            layout.shape[dimension] = shape[dimension];
            layout.strides[dimension] = stride;
            stride *= shape[dimension].max(1);
        }
        layout
    }

    /// Element type.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of dimensions.
    #[must_use]
    pub const fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Extents, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.rank()]
    }

    /// Distance in elements between neighbours along each dimension.
    #[must_use]
    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.rank()]
    }

    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// Bytes of the elements themselves, without the gaps of a strided layout.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }

    /// Bytes from the first element's first byte to the last element's last one; zero if there are no elements.
    #[must_use]
    pub fn span_bytes(&self) -> usize {
        if self.elements() == 0 {
            return 0;
        }
        let last: usize =
            self.shape().iter().zip(self.strides()).map(|(extent, stride)| (extent - 1) * stride).sum();
        (last + 1) * self.dtype.bytes()
    }

    /// Whether the strides are those of C order (dimensions of extent 1 do not count).
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for dimension in (0..self.rank()).rev() {
            if self.shape[dimension] != 1 && self.strides[dimension] != expected {
                return false;
            }
            expected *= self.shape[dimension].max(1);
        }
        true
    }

    /// Whether neighbours along the last dimension touch.
    #[must_use]
    pub fn is_dense_last(&self) -> bool {
        self.rank() == 0 || self.shape[self.rank() - 1] == 1 || self.strides[self.rank() - 1] == 1
    }

    /// The sub-range `start..start + length` of one dimension; the first element moves by
    /// `start * strides()[dimension]`, which [`Layout::offset`] gives.
    ///
    /// # Errors
    /// If the dimension does not exist or the range leaves it.
    pub fn narrow(&self, dimension: usize, start: usize, length: usize) -> Result<Self, ShapeError> {
        let extent = self.extent(dimension)?;
        if start.checked_add(length).is_none_or(|end| end > extent) {
            return Err(ShapeError::OutOfRange { dimension, start, length, extent });
        }
        let mut narrowed = *self;
        narrowed.shape[dimension] = length;
        Ok(narrowed)
    }

    /// Splits a dimension into `[parts, extent / parts]`.
    ///
    /// # Errors
    /// If the dimension does not exist, is not divisible, or the rank is at its maximum.
    pub fn split(&self, dimension: usize, parts: usize) -> Result<Self, ShapeError> {
        let extent = self.extent(dimension)?;
        if parts == 0 || extent % parts != 0 {
            return Err(ShapeError::NotDivisible { dimension, extent, parts });
        }
        if self.rank() == RANK_MAX {
            return Err(ShapeError::NoDimension { dimension: RANK_MAX, rank: RANK_MAX });
        }
        let inner = extent / parts;
        let mut split = *self;
        split.rank += 1;
        for index in (dimension + 1..self.rank()).rev() {
            split.shape[index + 1] = self.shape[index];
            split.strides[index + 1] = self.strides[index];
        }
        split.shape[dimension] = parts;
        split.strides[dimension] = self.strides[dimension] * inner;
        split.shape[dimension + 1] = inner;
        split.strides[dimension + 1] = self.strides[dimension];
        Ok(split)
    }

    /// Exchanges two dimensions.
    ///
    /// # Errors
    /// If one of them does not exist.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Self, ShapeError> {
        self.extent(a)?;
        self.extent(b)?;
        let mut transposed = *self;
        transposed.shape.swap(a, b);
        transposed.strides.swap(a, b);
        Ok(transposed)
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// If the layout is not contiguous or the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self, ShapeError> {
        let wanted = shape.iter().product();
        let contiguous = self.is_contiguous();
        if !contiguous || wanted != self.elements() {
            return Err(ShapeError::Reshape { elements: self.elements(), wanted, contiguous });
        }
        Ok(Self::contiguous(self.dtype, shape))
    }

    /// The same layout for another element type.
    #[must_use]
    pub const fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Where the element at `index` is, in elements from the first one.
    ///
    /// # Panics
    /// If `index` has another rank.
    #[must_use]
    pub fn offset(&self, index: &[usize]) -> usize {
        assert_eq!(index.len(), self.rank(), "index {index:?} for {self:?}");
        index.iter().zip(self.strides()).map(|(i, stride)| i * stride).sum()
    }

    fn extent(&self, dimension: usize) -> Result<usize, ShapeError> {
        self.shape().get(dimension).copied().ok_or(ShapeError::NoDimension { dimension, rank: self.rank() })
    }
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.shape() == other.shape() && self.strides() == other.strides()
    }
}

impl Eq for Layout {}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape())?;
        if self.is_contiguous() { Ok(()) } else { write!(f, "/{:?}", self.strides()) }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bf16(shape: &[usize]) -> Layout {
        Layout::contiguous(DType::Bf16, shape)
    }

    #[test]
    fn contiguous_counts() {
        let layout = bf16(&[3, 4, 5]);
        assert_eq!(layout.strides(), &[20, 5, 1]);
        assert_eq!((layout.elements(), layout.bytes(), layout.span_bytes()), (60, 120, 120));
        assert!(layout.is_contiguous());
    }

    #[test]
    fn narrow_keeps_strides() {
        let layout = bf16(&[8, 10]).narrow(1, 2, 4).unwrap();
        assert_eq!(layout.strides(), &[10, 1]);
        assert!(!layout.is_contiguous() && layout.is_dense_last());
        assert_eq!(layout.span_bytes(), (7 * 10 + 4) * 2);
    }

    #[test]
    fn narrow_beyond_the_end_is_an_error() {
        assert_eq!(
            bf16(&[8]).narrow(0, 5, 4),
            Err(ShapeError::OutOfRange { dimension: 0, start: 5, length: 4, extent: 8 })
        );
        assert!(bf16(&[8]).narrow(0, usize::MAX, 2).is_err());
        assert!(bf16(&[8]).narrow(1, 0, 1).is_err());
    }

    #[test]
    fn split_makes_heads() {
        let heads = bf16(&[7, 96]).split(1, 3).unwrap();
        assert_eq!((heads.shape(), heads.strides()), (&[7, 3, 32][..], &[96, 32, 1][..]));
        assert!(bf16(&[7, 96]).split(1, 5).is_err());
        assert!(bf16(&[7, 96]).split(1, 0).is_err());
    }

    #[test]
    fn split_in_the_middle_moves_the_rest() {
        let layout = bf16(&[2, 6, 5]).split(1, 2).unwrap();
        assert_eq!((layout.shape(), layout.strides()), (&[2, 2, 3, 5][..], &[30, 15, 5, 1][..]));
    }

    #[test]
    fn transposed_layouts_are_not_reshaped() {
        let transposed = bf16(&[2, 3]).transpose(0, 1).unwrap();
        assert_eq!(transposed.strides(), &[1, 3]);
        assert!(transposed.reshape(&[6]).is_err());
        assert!(bf16(&[2, 3]).reshape(&[7]).is_err());
        assert_eq!(bf16(&[2, 3]).reshape(&[3, 2]).unwrap().strides(), &[2, 1]);
    }

    #[test]
    fn extent_one_does_not_break_contiguity() {
        let column = bf16(&[4, 3, 5]).narrow(1, 1, 1).unwrap();
        assert!(!column.is_contiguous());
        assert!(bf16(&[1, 3, 5]).narrow(0, 0, 1).unwrap().is_contiguous());
    }

    #[test]
    fn empty_tensors_have_no_span() {
        assert_eq!(bf16(&[0, 5]).span_bytes(), 0);
        assert_eq!(bf16(&[]).elements(), 1);
    }
}
