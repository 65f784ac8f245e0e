mod host;
mod plans;
#[cfg(test)]
mod tests;

use half::bf16;
use lighterage_allocator::Buffer;
use lighterage_device::{Backend, View};
use lighterage_kernels::gemm::linear::workspace_bytes;
use lighterage_kernels::params::LinearParams;
use lighterage_shape::DType;

use crate::check::Check;
use crate::{ActivationKind, Queue, Result};
use host::{LinearKernel, LinearSumsKernel};
pub use plans::{linear_by, linear_plans};

/// What a linear adds to: `x + gate * y`.
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// `[rows, columns]`, dense rows.
    pub x: View<'a>,
    /// `[columns]`; none is 1.
    pub gate: Option<View<'a>>,
}

/// `out = residual + gate * activation(x weight^T + bias)`, accumulated in f32, and rounded to the element type after the
/// bias, the activation, the gate and the residual, where the reference's separate ops round.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// `[rows, inner]`, dense rows.
    pub x: View<'a>,
    /// `[columns, inner]`, dense rows.
    pub weight: View<'a>,
    /// `[columns]`.
    pub bias: Option<View<'a>>,
    /// Applied after the bias.
    pub activation: Option<ActivationKind>,
    /// Added last.
    pub residual: Option<Residual<'a>>,
    /// `[rows, columns]`, dense rows; may be the residual's view, nothing else. Of f32 where x is bf16, it gets the sums with their bias unrounded; then
    /// there is neither activation nor residual.
    pub out: View<'a>,
}

const OP: &str = "linear";

/// Launches a [`Linear`].
///
/// All tensors but `out` have one element type, `f32` or `bf16`. The weight is read as it lies in the checkpoint, once per launch.
///
/// # Errors
/// [`Error`](crate::Error) with the numbers if a tensor's shape, element type, strides or place does not suit, if one belongs to another
/// stream, or if the launch fails.
pub fn linear<B: Backend>(queue: &Queue<B>, args: &Linear<'_>) -> Result<()> {
    let params = args.params(Check::new(OP, queue))?;
    if params.rows == 0 || params.columns == 0 {
        return Ok(());
    }
    let (params, _room) = with_workspace(queue, params, args)?;
    match (args.x.dtype(), args.out.dtype()) {
        // SAFETY: `params` found every tensor in shape, of this stream, and the output apart from the inputs; a view's memory
        // stays mapped until the work launched on it is done.
        (DType::Bf16, DType::Bf16) => unsafe { queue.stream().launch::<LinearKernel<bf16>>(&params)? },
        // SAFETY: as above; the output is f32.
        (DType::Bf16, _) => unsafe { queue.stream().launch::<LinearSumsKernel>(&params)? },
        // SAFETY: as above; `params` allows no third element type.
        _ => unsafe { queue.stream().launch::<LinearKernel<f32>>(&params)? },
    }
    Ok(())
}

/// The parameters with room for the pieces of what Hopper cuts, which lives as long as the buffer; taken everywhere, so that a plan made on any device is exact.
fn with_workspace<B: Backend>(
    queue: &Queue<B>,
    params: LinearParams,
    args: &Linear<'_>,
) -> Result<(LinearParams, Option<Buffer<B>>)> {
    let is_product = (args.x.dtype(), args.out.dtype()) == (DType::Bf16, DType::Bf16);
    let bytes = if is_product { workspace_bytes(&params) } else { 0 };
    if bytes == 0 {
        return Ok((params, None));
    }
    let room = queue.pool().allocate(bytes, "linear workspace")?;
    Ok((LinearParams { workspace: room.address().0, ..params }, Some(room)))
}

impl<'a> Linear<'a> {
    /// The output has the type of x, or is f32 and takes sums as they are.
    fn out_type(&self, check: Check, dtype: DType) -> Result<()> {
        if (dtype, self.out.dtype()) != (DType::Bf16, DType::F32) {
            check.tensor("out", self.out)?.dtype(dtype)?;
            return Ok(());
        }
        let steps = u8::from(self.activation.is_some()) + u8::from(self.residual.is_some());
        check.value("steps after sums that are stored as f32", f64::from(steps), "none", steps == 0)
    }

    /// Checks everything and fills the kernel's parameters.
    fn params(&self, check: Check) -> Result<LinearParams> {
        let out = check.tensor("out", self.out)?.dense_rows()?;
        let x = check.tensor("x", self.x)?.dense_rows()?;
        let dtype = x.float()?;
        let ([rows, inner], [columns, _]) = (x.extents()?, check.tensor("weight", self.weight)?.extents()?);
        let weight =
            check.tensor("weight", self.weight)?.is(dtype, &[columns, inner])?.dense_rows()?.apart(out)?;
        self.out_type(check, dtype)?;
        out.shape(&[rows, columns])?;
        x.apart(out)?;
        let vector = |name, view: Option<View<'a>>| -> Result<u64> {
            let Some(view) = view else { return Ok(0) };
            Ok(check.tensor(name, view)?.is(dtype, &[columns])?.contiguous()?.apart(out)?.address())
        };
        let (residual, residual_stride) = match self.residual {
            None => (0, 0),
            Some(Residual { x, .. }) => {
                let x = check
                    .tensor("residual", x)?
                    .is(dtype, &[rows, columns])?
                    .dense_rows()?
                    .same_or_apart(out)?;
                (x.address(), x.stride(0))
            }
        };
        Ok(LinearParams {
            x: x.address(),
            weight: weight.address(),
            bias: vector("bias", self.bias)?,
            gate: vector("gate", self.residual.and_then(|residual| residual.gate))?,
            residual,
            out: out.address(),
            workspace: 0,
            x_stride: x.stride(0),
            weight_stride: weight.stride(0),
            residual_stride,
            out_stride: out.stride(0),
            rows: check.count("rows", rows)?,
            columns: check.count("columns", columns)?,
            inner: check.count("inner", inner)?,
            activation: self.activation.map_or(0, ActivationKind::code),
        })
    }
}
