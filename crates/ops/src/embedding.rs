use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// Rows of a table. The ids are on the device; whoever uploads them has checked that they lie in the table.
#[derive(Clone, Copy, Debug)]
pub struct Embedding<'a> {
    /// i32 `[rows]`.
    pub ids: View<'a>,
    /// `[vocabulary, columns]`, contiguous.
    pub table: View<'a>,
    /// `[rows, columns]`, contiguous.
    pub out: View<'a>,
}

/// See [`Embedding`].
pub fn embedding<B: Backend>(_queue: &Queue<B>, _args: &Embedding<'_>) -> Result<()> {
    todo!()
}
