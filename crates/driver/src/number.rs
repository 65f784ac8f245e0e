use half::{bf16, f16};
use lighterage_checkpoint::Tensor;
use lighterage_shape::DType;

/// One element's value, exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Integer(i128),
    Real(f64),
}

impl Number {
    #[expect(
        clippy::cast_precision_loss,
        reason = "integers beyond 2^53 are rounded only where a real is asked for"
    )]
    pub(crate) const fn real(self) -> f64 {
        match self {
            Self::Integer(value) => value as f64,
            Self::Real(value) => value,
        }
    }

    /// `self - other`; exact in integers.
    #[expect(clippy::cast_precision_loss, reason = "the difference is shown, not used")]
    pub(crate) fn minus(self, other: Self) -> f64 {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => (a - b) as f64,
            (a, b) => a.real() - b.real(),
        }
    }
}

/// All values of a tensor, in C order.
pub(crate) fn numbers(tensor: &Tensor) -> Box<dyn Iterator<Item = Number> + '_> {
    let bytes = tensor.bytes();
    match tensor.dtype() {
        DType::Bool | DType::U8 => read(bytes, |[b]| Number::Integer(b.into())),
        DType::I8 => read(bytes, |b| Number::Integer(i8::from_le_bytes(b).into())),
        DType::F8E4M3 => read(bytes, |[b]| Number::Real(f8_e4m3(b))),
        // The upper half of an f16.
        DType::F8E5M2 => read(bytes, |[b]| Number::Real(f16::from_le_bytes([0, b]).into())),
        DType::U16 => read(bytes, |b| Number::Integer(u16::from_le_bytes(b).into())),
        DType::I16 => read(bytes, |b| Number::Integer(i16::from_le_bytes(b).into())),
        DType::F16 => read(bytes, |b| Number::Real(f16::from_le_bytes(b).into())),
        DType::Bf16 => read(bytes, |b| Number::Real(bf16::from_le_bytes(b).into())),
        DType::U32 => read(bytes, |b| Number::Integer(u32::from_le_bytes(b).into())),
        DType::I32 => read(bytes, |b| Number::Integer(i32::from_le_bytes(b).into())),
        DType::F32 => read(bytes, |b| Number::Real(f32::from_le_bytes(b).into())),
        DType::U64 => read(bytes, |b| Number::Integer(u64::from_le_bytes(b).into())),
        DType::I64 => read(bytes, |b| Number::Integer(i64::from_le_bytes(b).into())),
        DType::F64 => read(bytes, |b| Number::Real(f64::from_le_bytes(b))),
        // A type that a later version of `shape` has: no values rather than wrong ones. Checkpoints hold none today.
        _ => Box::new(std::iter::empty()),
    }
}

fn read<const N: usize>(bytes: &[u8], value: fn([u8; N]) -> Number) -> Box<dyn Iterator<Item = Number> + '_> {
    Box::new(bytes.as_chunks::<N>().0.iter().map(move |chunk| value(*chunk)))
}

/// Four exponent bits (bias 7), three of mantissa, no infinities, NaN where all bits are set (Micikevicius et al. 2022, table 1).
fn f8_e4m3(bits: u8) -> f64 {
    let sign = if bits >> 7 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
    match (exponent, bits & 7) {
        (15, 7) => f64::NAN,
        (0, _) => sign * mantissa * 2.0_f64.powi(-9),
        _ => sign * (1.0 + mantissa / 8.0) * 2.0_f64.powi(exponent - 7),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The corners of table 1: smallest subnormal, largest subnormal, smallest normal, one, largest.
    #[test]
    fn f8_e4m3_has_the_values_of_its_table() {
        for (bits, expected) in [
            (0x00, 0.0),
            (0x01, 2.0_f64.powi(-9)),
            (0x07, 0.875 * 2.0_f64.powi(-6)),
            (0x08, 2.0_f64.powi(-6)),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xfe, -448.0),
        ] {
            assert_eq!(f8_e4m3(bits), expected, "{bits:#x}");
        }
        assert!(f8_e4m3(0x7f).is_nan() && f8_e4m3(0xff).is_nan());
    }

    #[test]
    fn large_integers_differ_by_what_they_differ() {
        let (a, b) = (Number::Integer(i128::from(u64::MAX)), Number::Integer(i128::from(u64::MAX) - 1));
        assert_eq!(a.minus(b), 1.0);
    }
}
