use lighterage_device::{Backend, Kernel, Launches};
use lighterage_shape::{DType, Float};

use crate::{Queue, Result};

/// Launches the kernel of an element type that [`Operand::float`](crate::check::Operand::float) has passed.
///
/// # Safety
/// - As [`Stream::launch`](lighterage_device::Stream::launch).
pub(crate) unsafe fn launch<B, Single, Half>(
    queue: &Queue<B>,
    dtype: DType,
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
        unsafe { stream.launch::<Single>(params) }?;
    } else {
        // SAFETY: the caller's promise.
        unsafe { stream.launch::<Half>(params) }?;
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

/// The launches of a kernel whose images are bf16 alone: f32 runs on the host only.
pub(crate) fn for_bf16<E: Float>(launches: impl FnOnce() -> Launches) -> Launches {
    if E::DTYPE == DType::Bf16 { launches() } else { Launches::NONE }
}
