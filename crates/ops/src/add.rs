use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// `out = a + scale * b`; b may have one row, which is then added to every row of a.
#[derive(Clone, Copy, Debug)]
pub struct Add<'a> {
    /// `[rows, columns]` or `[count]`, dense rows.
    pub a: View<'a>,
    /// As `a`, or `[1, columns]`.
    pub b: View<'a>,
    /// Factor on b.
    pub scale: f32,
    /// As `a`; may be `a` or `b`.
    pub out: View<'a>,
}

/// See [`Add`].
pub fn add<B: Backend>(_queue: &Queue<B>, _args: &Add<'_>) -> Result<()> {
    todo!()
}
