//! Elementary functions without branches or tables, so that the compiler turns a loop over them into vector instructions.
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
    const LN2_HIGH: f32 = 0.693_359_375;
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

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// GELU in its tanh form (Hendrycks and Gimpel 2016): `0.5 x (1 + tanh(u)) = x sigmoid(2 u)`, `u = sqrt(2 / pi) (x + 0.044715 x^3)`.
#[inline(always)]
pub(crate) fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    const TWICE: f32 = 1.595_769_1;
    let u = TWICE * x * multiply_add::<FMA>(0.044_715 * x, x, 1.0);
    x * sigmoid::<FMA>(u)
}

/// GELU in its exact form: `0.5 x (1 + erf(x / sqrt(2)))`.
#[inline(always)]
pub(crate) fn gelu_erf<const FMA: bool>(x: f32) -> f32 {
    let tail = 0.5 * erfc_positive::<FMA>(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    x * if x > 0.0 { 1.0 - tail } else { tail }
}

/// `erfc(x)` for `x >= 0`: `e^(-x^2) t P(2 t - 1)` with `t = 2 / (2 + x)`.
///
/// P is a least-squares fit of `erfc(x) e^(x^2) / t` at 400 Chebyshev nodes of t for x in 0 to 13, made for this file; its
/// relative error is 4.6e-8. Rounding `x^2` before the exponential adds `x^2` half-ulps, where the value is below `e^(-x^2)`.
#[inline(always)]
fn erfc_positive<const FMA: bool>(x: f32) -> f32 {
    const HIGHEST_FIRST: [f32; 9] = [
        -2.328_085e-4,
        3.807_298_2e-4,
        1.489_791_2e-3,
        -3.221_03e-3,
        -1.074_135_8e-2,
        1.821_806_6e-2,
        1.397_347_3e-1,
        3.435_804_6e-1,
        5.107_913_7e-1,
    ];
    let t = 2.0 / (2.0 + x);
    let s = 2.0 * t - 1.0;
    let mut p = 0.0;
    for coefficient in HIGHEST_FIRST {
        p = multiply_add::<FMA>(p, s, coefficient);
    }
    p * t * exp::<FMA>(-x * x)
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
