//! The exponential of the softmax and the rounding of what is stored, without branches or tables, so that the compiler turns a loop over
//! them into vector instructions. (`crate::math` has an exponential too: exact in its subnormal tail and the same on every path, at twice the
//! operations. Here every row of scores goes through it.)
//!
//! `FMA` says whether the path has a fused multiply-add; without the hardware it would be a call into the C library.

use half::bf16;

/// `a * b + c`.
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x`, relative error below 2.5e-7; 0 below -87.3 (where the result would be subnormal) and infinite above 88.3.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2` (Cody and Waite 1980: ln 2 in two parts, the first with 9 trailing zeros, so that
/// `n * high` is exact), and the Taylor polynomial of degree 7, whose remainder is below `0.3466^8 / 8! * 1.2 = 6.3e-9`.
/// The rest of the error is rounding: the last two steps of Horner's scheme and the error of r, one ulp each at most.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.3 { 88.3 } else { clamped };
    let shifted = multiply_add::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = multiply_add::<FMA>(n, -LN2_HIGH, clamped);
    let r = multiply_add::<FMA>(n, -LN2_LOW, r);
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = multiply_add::<FMA>(p, r, coefficient);
    }
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let result = p * scale;
    let result = if x < -87.3 { 0.0 } else { result };
    if x > 88.3 { f32::INFINITY } else { result }
}

/// Rounds to nearest, ties to even, without a branch; NaN stays NaN.
#[inline(always)]
pub(crate) fn round_bf16(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    #[expect(clippy::cast_possible_truncation, reason = "the upper half of 32 bits")]
    let kept = if value.is_nan() { bits >> 16 | 0x40 } else { rounded >> 16 } as u16;
    bf16::from_bits(kept)
}
