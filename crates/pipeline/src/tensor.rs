//! Values between host and device, whatever the working type.
use half::bf16;
use lighterage_device::{Backend, View};
use lighterage_ops::{Queue, Tensor};
use lighterage_shape::DType;

use crate::Result;

/// A tensor of type bf16 (rounded) or f32 with the given values.
pub(crate) fn upload<B: Backend>(
    queue: &Queue<B>,
    dtype: DType,
    values: &[f32],
    shape: &[usize],
    tag: &'static str,
) -> Result<Tensor<B>> {
    Ok(match dtype {
        DType::Bf16 => {
            let rounded: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
            queue.upload(&rounded, shape, tag)?
        }
        _ => queue.upload(values, shape, tag)?,
    })
}

/// The values of a contiguous bf16 or f32 tensor, after all earlier work; none where memory has no bytes.
pub(crate) fn read<B: Backend>(queue: &Queue<B>, view: View<'_>) -> Result<Option<Vec<f32>>> {
    Ok(match view.dtype() {
        DType::Bf16 => {
            let values = queue.read::<bf16>(view)?;
            values.map(|values| values.into_iter().map(bf16::to_f32).collect())
        }
        _ => queue.read(view)?,
    })
}
