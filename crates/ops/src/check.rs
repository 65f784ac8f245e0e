use lighterage_device::{Backend, Error as DeviceError, StreamId, View};
use lighterage_shape::DType;

use crate::{Error, Queue, Result};

/// The checks of one op: every refusal names the op, the tensor and the numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    op: &'static str,
    stream: StreamId,
}

impl Check {
    /// The checks of `op` on the queue's stream.
    pub(crate) fn new<B: Backend>(op: &'static str, queue: &Queue<B>) -> Self {
        Self { op, stream: queue.stream().id() }
    }

    /// A tensor of this queue's stream whose address suits its element type: what every further check starts from.
    pub(crate) fn tensor<'a>(self, name: &'static str, view: View<'a>) -> Result<Operand<'a>> {
        if view.owner() != self.stream {
            let (owner, used_on) = (view.owner(), self.stream);
            return Err(DeviceError::WrongStream { call: self.op, owner, used_on }.into());
        }
        let bytes = view.dtype().bytes() as u64;
        if !view.address().0.is_multiple_of(bytes) {
            let misaligned_by = view.address().0 % bytes;
            return Err(Error::Alignment { op: self.op, tensor: name, bytes, misaligned_by });
        }
        Ok(Operand { op: self.op, name, view })
    }

    /// A number that the kernel counts in 32 bits.
    pub(crate) fn count(self, name: &'static str, value: usize) -> Result<u32> {
        #[expect(clippy::cast_precision_loss, reason = "for a message")]
        u32::try_from(value).map_err(|_| self.refused(name, value as f64, "below 2^32"))
    }

    /// `what` must hold of the number `got` that is called `name`; `needs` says it in words.
    pub(crate) fn value(self, name: &'static str, got: f64, needs: &'static str, what: bool) -> Result<()> {
        if what { Ok(()) } else { Err(self.refused(name, got, needs)) }
    }

    /// Refuses a number.
    pub(crate) fn refused(self, name: &'static str, got: f64, needs: &'static str) -> Error {
        Error::Value { op: self.op, name, got, needs }
    }
}

/// One tensor under check. Every method that passes gives the operand back, so that checks chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand<'a> {
    op: &'static str,
    name: &'static str,
    view: View<'a>,
}

impl<'a> Operand<'a> {
    /// The view itself.
    pub(crate) const fn view(&self) -> View<'a> {
        self.view
    }

    /// The extents of a tensor of rank `N`.
    pub(crate) fn extents<const N: usize>(self) -> Result<[usize; N]> {
        <[usize; N]>::try_from(self.view.shape()).map_err(|_| Error::Rank {
            op: self.op,
            tensor: self.name,
            expected: N,
            got: Box::new(*self.view.layout()),
        })
    }

    /// Has this element type.
    pub(crate) fn dtype(self, expected: DType) -> Result<Self> {
        let got = self.view.dtype();
        if got == expected {
            Ok(self)
        } else {
            Err(Error::DType { op: self.op, tensor: self.name, expected, got })
        }
    }

    /// The element type, if it is one that kernels compute with: f32 or bf16.
    pub(crate) fn float(self) -> Result<DType> {
        match self.view.dtype() {
            DType::F32 => Ok(DType::F32),
            _ => self.dtype(DType::Bf16).map(|_| DType::Bf16),
        }
    }

    /// Has this shape.
    pub(crate) fn shape(self, expected: &[usize]) -> Result<Self> {
        if self.view.shape() == expected {
            return Ok(self);
        }
        Err(Error::Shape {
            op: self.op,
            tensor: self.name,
            expected: expected.to_vec(),
            got: Box::new(*self.view.layout()),
        })
    }

    /// Has this element type and shape.
    pub(crate) fn is(self, dtype: DType, shape: &[usize]) -> Result<Self> {
        self.dtype(dtype)?.shape(shape)
    }

    /// Has no gaps.
    pub(crate) fn contiguous(self) -> Result<Self> {
        self.strides("contiguous", self.view.layout().is_contiguous())
    }

    /// Neighbours along the last dimension touch.
    pub(crate) fn dense_rows(self) -> Result<Self> {
        self.strides("dense along its last dimension", self.view.layout().is_dense_last())
    }

    /// As rows: `[count]` is one row, and leading dimensions are joined where there are no gaps between them. Rows are dense.
    pub(crate) fn matrix(self) -> Result<Matrix> {
        self.dense_rows()?;
        let strides = self.view.strides();
        match *self.view.shape() {
            [] => Ok(Matrix { rows: 1, columns: 1, stride: 1 }),
            [columns] => Ok(Matrix { rows: 1, columns, stride: columns as u64 }),
            [rows, columns] => Ok(Matrix { rows, columns, stride: strides[0] as u64 }),
            [ref leading @ .., columns] => {
                self.contiguous()?;
                Ok(Matrix { rows: leading.iter().product(), columns, stride: columns as u64 })
            }
        }
    }

    /// Shares no element with the output.
    pub(crate) fn apart(self, output: Self) -> Result<Self> {
        if disjoint(&self.view, &output.view) {
            return Ok(self);
        }
        Err(Error::Overlap { op: self.op, tensor: self.name, output: output.name })
    }

    /// Is the output itself, element for element, or shares none with it.
    pub(crate) fn same_or_apart(self, output: Self) -> Result<Self> {
        let same = self.view.address() == output.view.address() && self.view.layout() == output.view.layout();
        if same { Ok(self) } else { self.apart(output) }
    }

    /// Where it starts, as the parameter structs hold it.
    pub(crate) const fn address(self) -> u64 {
        self.view.address().0
    }

    /// Elements between neighbours along one dimension.
    pub(crate) fn stride(self, dimension: usize) -> u64 {
        self.view.strides()[dimension] as u64
    }

    fn strides(self, needs: &'static str, hold: bool) -> Result<Self> {
        if hold {
            return Ok(self);
        }
        Err(Error::Stride { op: self.op, tensor: self.name, needs, got: Box::new(*self.view.layout()) })
    }
}

/// A tensor as dense rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matrix {
    /// How many.
    pub(crate) rows: usize,
    /// Elements of a row.
    pub(crate) columns: usize,
    /// Elements between the starts of two rows.
    pub(crate) stride: u64,
}

/// Whether two views share no element. Exact for ranges that do not meet and for column ranges of one wider matrix, such as q, k and
/// the MLP's part of one fused projection; other views whose ranges meet count as sharing.
fn disjoint(a: &View<'_>, b: &View<'_>) -> bool {
    !a.overlaps(b) || columns_apart(a, b) || columns_apart(b, a)
}

/// Whether `b` lies right of `a` in every row of a matrix that both are columns of.
fn columns_apart(a: &View<'_>, b: &View<'_>) -> bool {
    let (Some(pitch), Some(a_bytes), Some(b_bytes)) = (common_pitch(a, b), row_bytes(a), row_bytes(b)) else {
        return false;
    };
    let Some(apart) = b.address().0.checked_sub(a.address().0) else { return false };
    let column = apart % pitch;
    column >= a_bytes && column + b_bytes <= pitch
}

/// The distance in bytes between rows, if it is the same in both.
fn common_pitch(a: &View<'_>, b: &View<'_>) -> Option<u64> {
    let pitch = |view: &View<'_>| view.strides().first().map(|stride| (stride * view.dtype().bytes()) as u64);
    pitch(a).filter(|bytes| *bytes > 0 && pitch(b) == Some(*bytes))
}

/// Bytes from the first to the last element of one row, its gaps included.
fn row_bytes(view: &View<'_>) -> Option<u64> {
    view.layout().narrow(0, 0, 1).ok().map(|row| row.span_bytes() as u64)
}

#[cfg(test)]
mod tests {
    use lighterage_device::{Address, View};
    use lighterage_shape::Layout;

    use super::*;
    use crate::testing::{assert_refused, dry};

    /// First row, rows, first column, columns.
    type Block = [usize; 4];

    /// Whether two blocks of one [4, 12] matrix of bf16 count as apart, as they are and as heads of 2 columns.
    fn check_apart(a: Block, b: Block, expected: bool) {
        let queue = dry();
        let matrix = queue.tensor(DType::Bf16, &[4, 12], "matrix").unwrap();
        let block = |[row, rows, column, columns]: Block| {
            let view = matrix.view().rows(row, rows).unwrap().narrow(1, column, columns).unwrap();
            [view, view.split(1, columns / 2).unwrap()]
        };
        for (a, b) in block(a).into_iter().flat_map(|a| block(b).map(|b| (a, b))) {
            assert_eq!((disjoint(&a, &b), disjoint(&b, &a)), (expected, expected), "{a:?} and {b:?}");
        }
    }

    #[test]
    fn column_ranges_of_one_matrix_are_apart() {
        check_apart([0, 4, 0, 6], [0, 4, 6, 6], true);
        check_apart([0, 4, 0, 2], [0, 4, 10, 2], true);
        check_apart([0, 4, 0, 8], [0, 4, 6, 6], false);
        check_apart([0, 4, 0, 12], [0, 4, 3, 2], false);
        check_apart([0, 4, 4, 4], [0, 4, 4, 4], false);
    }

    #[test]
    fn column_ranges_of_different_rows_are_apart() {
        check_apart([0, 3, 0, 6], [1, 3, 6, 6], true);
        check_apart([1, 3, 0, 6], [0, 3, 6, 6], true);
        check_apart([0, 3, 2, 6], [1, 3, 6, 6], false);
    }

    #[test]
    fn row_ranges_are_apart() {
        check_apart([0, 2, 0, 12], [2, 2, 0, 12], true);
        check_apart([0, 3, 0, 12], [2, 2, 0, 12], false);
    }

    #[test]
    fn nothing_overlaps_an_empty_view() {
        check_apart([1, 0, 0, 12], [0, 4, 0, 12], true);
    }

    #[test]
    fn addresses_between_elements_are_refused() {
        let queue = dry();
        let layout = Layout::contiguous(DType::Bf16, &[2]);
        // SAFETY: nothing is launched on the view, which is refused.
        let view = unsafe { View::new(Address((1 << 32) + 3), layout, queue.stream().id()) };
        let result = Check::new("add", &queue).tensor("a", view).map(|_| ());
        assert_refused(result, "add: a starts 1 bytes after a multiple of 2");
    }

    #[test]
    fn counts_end_at_32_bits() {
        let queue = dry();
        let check = Check::new("add", &queue);
        assert_eq!(check.count("rows", 7).unwrap(), 7);
        assert_refused(
            check.count("rows", 1 << 32).map(|_| ()),
            "add: rows is 4294967296, should be below 2^32",
        );
    }
}
