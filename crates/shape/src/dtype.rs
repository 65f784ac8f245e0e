use std::fmt;

use half::{bf16, f16};

/// The type of one element, in the safetensors format's vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DType {
    /// One byte, zero or one.
    Bool,
    /// 8-bit unsigned integer.
    U8,
    /// 8-bit signed integer.
    I8,
    /// 8-bit float, 4 exponent and 3 mantissa bits.
    F8E4M3,
    /// 8-bit float, 5 exponent and 2 mantissa bits.
    F8E5M2,
    /// 16-bit unsigned integer.
    U16,
    /// 16-bit signed integer.
    I16,
    /// IEEE half precision.
    F16,
    /// bfloat16: the upper half of an `f32`.
    Bf16,
    /// 32-bit unsigned integer.
    U32,
    /// 32-bit signed integer.
    I32,
    /// IEEE single precision.
    F32,
    /// 64-bit unsigned integer.
    U64,
    /// 64-bit signed integer.
    I64,
    /// IEEE double precision.
    F64,
}

impl DType {
    /// Every type, in declaration order.
    pub const ALL: [Self; 15] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::U16,
        Self::I16,
        Self::F16,
        Self::Bf16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The name that the safetensors format writes, for instance `BF16`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::U16 => "U16",
            Self::I16 => "I16",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::U32 => "U32",
            Self::I32 => "I32",
            Self::F32 => "F32",
            Self::U64 => "U64",
            Self::I64 => "I64",
            Self::F64 => "F64",
        }
    }

    /// The type of that safetensors name, if it is one of ours.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that is stored as one element.
pub trait Element: Copy + Default + Send + Sync + fmt::Debug + PartialEq + 'static {
    /// How a layout names it.
    const DTYPE: DType;
}

/// An element that the models compute with: everything is accumulated in `f32` and rounded once on the way out.
pub trait Float: Element {
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// Exact.
    fn to_f32(self) -> f32;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),+ $(,)?) => {
        $(impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        })+
    };
}

element! {
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, f16 => F16, bf16 => Bf16, u32 => U32, i32 => I32, f32 => F32,
    u64 => U64, i64 => I64, f64 => F64,
}

impl Float for f32 {
    #[inline]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Float for bf16 {
    #[inline]
    fn from_f32(value: f32) -> Self {
        // Without a branch, so that loops over it become vector code: adding just under half a unit, or half where the last bit
        // kept is odd, carries where the value is to be rounded up. A NaN stays one by its quiet bit.
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        let kept = if value.is_nan() { bits | 0x40_0000 } else { rounded };
        Self::from_bits((kept >> 16) as u16)
    }

    #[inline]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_name(dtype.name()), Some(dtype));
        }
        assert_eq!(DType::from_name("bf16"), None);
    }

    #[test]
    fn element_sizes_agree_with_rust() {
        fn check<E: Element>() {
            assert_eq!(E::DTYPE.bytes(), size_of::<E>());
        }
        check::<u8>();
        check::<bf16>();
        check::<f16>();
        check::<i32>();
        check::<f32>();
        check::<i64>();
        check::<f64>();
    }

    #[test]
    fn bf16_rounds_as_half_does() {
        // Every upper half with every kind of lower half: below, at and above the tie, and the ends.
        for upper in 0..=u32::from(u16::MAX) {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits((upper << 16) | lower);
                let (ours, theirs) = (<bf16 as Float>::from_f32(value), bf16::from_f32(value));
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{value:e}");
            }
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        // 1 + 2^-8 lies half way between 1 and 1 + 2^-7: the even mantissa wins.
        let ulps = |count: f32| 1.0 + count / 128.0;
        assert_eq!(<bf16 as Float>::from_f32(ulps(0.5)).to_f32(), ulps(0.0));
        assert_eq!(<bf16 as Float>::from_f32(ulps(1.5)).to_f32(), ulps(2.0));
    }
}
