use lighterage_shape::DType;

use crate::error::{Error, Result};
use crate::tensor::Tensor;

impl Tensor {
    /// Checks that no element is NaN or infinite; reads all of the tensor. Integers and 8-bit floats pass unread.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the first element that is.
    pub fn check_finite(&self) -> Result<()> {
        let Some((element, value)) = first_not_finite(self.dtype(), self.bytes()) else { return Ok(()) };
        let elements = self.layout().elements();
        Err(Error::NotFinite {
            path: self.path().to_owned(),
            tensor: self.name().to_owned(),
            element,
            elements,
            value,
        })
    }
}

fn first_not_finite(dtype: DType, bytes: &[u8]) -> Option<(usize, f64)> {
    match dtype {
        DType::F16 => first::<2>(bytes, |b| f64::from(half::f16::from_le_bytes(b))),
        DType::Bf16 => first::<2>(bytes, |b| f64::from(half::bf16::from_le_bytes(b))),
        DType::F32 => first::<4>(bytes, |b| f64::from(f32::from_le_bytes(b))),
        DType::F64 => first::<8>(bytes, f64::from_le_bytes),
        _ => None,
    }
}

fn first<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Option<(usize, f64)> {
    let values = bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk));
    values.enumerate().find(|(_, value)| !value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dtype: DType, bytes: &[u8], expected: Option<usize>) {
        assert_eq!(first_not_finite(dtype, bytes).map(|(element, _)| element), expected, "{dtype} {bytes:?}");
    }

    #[test]
    fn nan_and_infinities_are_found_where_they_are() {
        check(DType::Bf16, &[0x80, 0x3f, 0x80, 0x7f], Some(1));
        check(DType::Bf16, &[0xc0, 0xff, 0x80, 0x3f], Some(0));
        check(DType::F16, &[0, 0, 0, 0x7c], Some(1));
        check(DType::F32, &[[1.0_f32, 2.0, f32::NAN].map(f32::to_le_bytes).as_flattened()].concat(), Some(2));
        check(DType::F64, &f64::NEG_INFINITY.to_le_bytes(), Some(0));
    }

    #[test]
    fn the_largest_finite_values_pass() {
        check(DType::Bf16, &[0x7f, 0x7f], None);
        check(DType::F16, &[0xff, 0x7b], None);
        check(DType::F32, &f32::MAX.to_le_bytes(), None);
        check(DType::F64, &f64::MIN.to_le_bytes(), None);
        check(DType::U8, &[0xff; 8], None);
    }
}
