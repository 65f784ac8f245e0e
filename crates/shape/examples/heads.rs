//! The views that attention takes of one joint projection: q, k and v by head, without a copy. `cargo run -p lighterage-shape --example heads`
use std::io::{self, Write};

use lighterage_shape::{DType, Layout, ShapeError};

/// Columns of q, k and v.
const WIDTH: usize = 192;
const HEADS: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let joint = Layout::contiguous(DType::Bf16, &[48, 3 * WIDTH]);
    let mut out = io::stdout().lock();
    describe(&mut out, "joint", &joint)?;
    for (index, name) in ["q", "k", "v"].into_iter().enumerate() {
        describe(&mut out, name, &heads(&joint, index)?)?;
    }
    // A kernel asks for what it needs of a layout, here runs that a 16-byte load can take, and refuses the rest.
    let turned = heads(&joint, 0)?.transpose(0, 2)?;
    writeln!(
        out,
        "dense last dimension: q {}, q turned {}",
        heads(&joint, 0)?.is_dense_last(),
        turned.is_dense_last()
    )?;
    // What cannot be is an error with the numbers.
    if let Err(error) = joint.split(1, 5) {
        writeln!(out, "{error}")?;
    }
    Ok(())
}

/// Part `index` of the joint columns, `[rows, heads, columns of a head]`.
fn heads(joint: &Layout, index: usize) -> Result<Layout, ShapeError> {
    joint.narrow(1, index * WIDTH, WIDTH)?.split(1, HEADS)
}

fn describe(out: &mut impl Write, name: &str, layout: &Layout) -> io::Result<()> {
    let (shape, strides, bytes) = (layout.shape(), layout.strides(), layout.bytes());
    writeln!(
        out,
        "{name:<6} {shape:?} strides {strides:?}, {bytes} bytes, spread over {}",
        layout.span_bytes()
    )
}
