use lighterage_device::{Backend, Grid, Kernel};
use lighterage_shape::DType;

use crate::{Queue, Result};

/// Launches the kernel of an element type that [`Operand::float`](crate::check::Operand::float) has passed.
///
/// # Safety
/// - As [`Stream::launch`](lighterage_device::Stream::launch).
pub(crate) unsafe fn launch<B, Single, Half>(
    queue: &Queue<B>,
    dtype: DType,
    grid: Grid,
    params: &Single::Params,
) -> Result<()>
where
    B: Backend,
    Single: Kernel,
    Half: Kernel<Params = Single::Params>,
{
    let stream = queue.stream();
    if dtype == DType::F32 {
        // SAFETY: the caller's promise.
        unsafe { stream.launch::<Single>(grid, params) }?;
    } else {
        // SAFETY: the caller's promise.
        unsafe { stream.launch::<Half>(grid, params) }?;
    }
    Ok(())
}

/// The name of a kernel's image for one element type.
pub(crate) const fn image(dtype: DType, single: &'static str, half: &'static str) -> &'static str {
    match dtype {
        DType::F32 => single,
        _ => half,
    }
}
