use lighterage_shape::{DType, Layout};

/// What every op returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an op was refused, with its numbers. Nothing was launched then.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor has another shape than the op needs.
    #[error("{op}: {tensor} should be {expected:?}, is {got}")]
    Shape {
        /// The op.
        op: &'static str,
        /// Which of its tensors.
        tensor: &'static str,
        /// The shape it should have.
        expected: Vec<usize>,
        /// What it has.
        got: Box<Layout>,
    },
    /// A tensor has another number of dimensions than the op needs.
    #[error("{op}: {tensor} should have {expected} dimensions, is {got}")]
    Rank {
        /// The op.
        op: &'static str,
        /// Which of its tensors.
        tensor: &'static str,
        /// How many it should have.
        expected: usize,
        /// What it has.
        got: Box<Layout>,
    },
    /// A tensor has an element type that the op cannot use, or two tensors disagree.
    #[error("{op}: {tensor} should be {expected}, is {got}")]
    DType {
        /// The op.
        op: &'static str,
        /// Which of its tensors.
        tensor: &'static str,
        /// The type it should have.
        expected: DType,
        /// What it has.
        got: DType,
    },
    /// A tensor's strides do not suit the kernel.
    #[error("{op}: {tensor} should be {needs}, is {got}")]
    Stride {
        /// The op.
        op: &'static str,
        /// Which of its tensors.
        tensor: &'static str,
        /// What the kernel needs, for instance `dense along its last dimension`.
        needs: &'static str,
        /// What it has.
        got: Box<Layout>,
    },
    /// A tensor does not start at a multiple of its element size.
    #[error("{op}: {tensor} starts {misaligned_by} bytes after a multiple of {bytes}")]
    Alignment {
        /// The op.
        op: &'static str,
        /// Which of its tensors.
        tensor: &'static str,
        /// Bytes of an element.
        bytes: u64,
        /// By how many bytes the address misses a multiple.
        misaligned_by: u64,
    },
    /// The kernel writes a tensor that shares elements with another one in a way it does not allow.
    #[error("{op}: {tensor} overlaps {output}, which is written")]
    Overlap {
        /// The op.
        op: &'static str,
        /// Which of its tensors.
        tensor: &'static str,
        /// The tensor that is written.
        output: &'static str,
    },
    /// A number is outside of what the kernel can do.
    #[error("{op}: {name} is {got}, should be {needs}")]
    Value {
        /// The op.
        op: &'static str,
        /// Which number.
        name: &'static str,
        /// Its value.
        got: f64,
        /// What the kernel needs.
        needs: &'static str,
    },
    /// The device refused.
    #[error(transparent)]
    Device(#[from] lighterage_device::Error),
    /// No memory for a result.
    #[error(transparent)]
    Allocator(#[from] lighterage_allocator::Error),
}

/// Conversions into an error of a crate above from those of the crates that it calls, each in a box: they are larger than what a successful call returns.
///
/// `boxed_errors! { Error: Ops(lighterage_ops::Error), Device(lighterage_device::Error) }`, where `Error` has these variants.
#[macro_export]
macro_rules! boxed_errors {
    ($error:ident: $($variant:ident($source:ty)),+ $(,)?) => {
        $(impl ::std::convert::From<$source> for $error {
            fn from(source: $source) -> Self {
                Self::$variant(::std::boxed::Box::new(source))
            }
        })+
    };
}
