//! The functions of the activations in `f32`: without branches, so that loops over them become vector code, and without fused
//! multiply-adds, so that every instruction set gives the same bits.
//!
//! Coefficients are polynomial interpolations at Chebyshev nodes, computed in 40 digits and rounded to `f32`; the tests hold each
//! function against `f64`.
use lighterage_shape::Float;

/// `e^x` to 2 units in the last place; 0 below -103.97, infinity above 88.72.
///
/// Cody and Waite 1980: `x = n ln 2 + r`, `|r| <= ln 2 / 2`, and `e^x = 2^n e^r`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it moves a number below 2^22 into the binade whose unit is 1: the low bits are then the rounded integer.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with so few bits that n times it is exact.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let x = x.clamp(-104.0, 89.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2.0) - n * LN_2.1;
    let tail = polynomial([0.5, 0.166_665_73, 0.041_666_55, 0.008_363_774, 0.001_392_692_7], r);
    let power = 1.0 + (r + r * r * tail);
    // 2^n in two factors, since 2^128 and 2^-150 are no normal numbers.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let half = n >> 1;
    power * power_of_two(half) * power_of_two(n - half)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `1 - erf(t)` for `t >= 0`, relative error below 2^-20 where `t < 4`: so `1 + erf` keeps its digits in the negative tail.
///
/// `erfc(t) = e^(-t^2) u Q(u)` with `u = 3 / (3 + t)`, which is in (0, 1]; the form is that of Numerical Recipes 6.2.2, the coefficients are
/// our own, interpolated on `0 <= t <= 10.5`.
#[inline(always)]
pub(crate) fn erfc_positive(t: f32) -> f32 {
    let u = 3.0 / (3.0 + t);
    let q = polynomial(
        [
            0.188_032_05,
            0.188_758_18,
            0.170_823_79,
            0.194_970_99,
            -0.010_175_824,
            0.419_043_38,
            -0.460_040_46,
            0.550_012_5,
            -0.298_282_28,
            0.056_857_66,
        ],
        u,
    );
    exp(-t * t) * (u * q)
}

/// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, as `x sigmoid(2 y)`: `(1 + tanh y) / 2` is `sigmoid(2 y)`.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    /// `2 sqrt(2 / pi)`.
    const FACTOR: f32 = 1.595_769_1;
    x * sigmoid(FACTOR * (x + 0.044_715 * x * x * x))
}

/// `0.5 x (1 + erf(x / sqrt(2)))`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    let tail = 0.5 * erfc_positive(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// `x sigmoid(1.702 x)`.
#[inline(always)]
pub(crate) fn quick_gelu(x: f32) -> f32 {
    x * sigmoid(1.702 * x)
}

/// `x sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// The sum of `term` over a slice: sixteen running sums, then those by halves. The order is fixed by the length alone.
#[inline(always)]
pub(crate) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += term(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += term(*value);
    }
    pairwise(&lanes)
}

/// The sum by halves: the error grows with the logarithm of the length (Higham 1993).
pub(crate) fn pairwise(values: &[f32]) -> f32 {
    match *values {
        [] => 0.0,
        [value] => value,
        _ => {
            let (left, right) = values.split_at(values.len() / 2);
            pairwise(left) + pairwise(right)
        }
    }
}

/// `(x - mean) * rsqrt(var + eps)` in place, in two passes: one would lose the digits of the variance where the mean is large.
#[inline(always)]
pub(crate) fn normalise(values: &mut [f32], eps: f32) {
    let count = values.len() as f32;
    let mean = sum(values, |value| value) / count;
    let variance = sum(values, |value| (value - mean) * (value - mean)) / count;
    let factor = 1.0 / (variance + eps).sqrt();
    values.iter_mut().for_each(|value| *value = (*value - mean) * factor);
}

/// `rsqrt(mean(x^2) + eps)`.
#[inline(always)]
pub(crate) fn inverse_rms(values: &[f32], eps: f32) -> f32 {
    1.0 / (sum(values, |value| value * value) / values.len() as f32 + eps).sqrt()
}

/// The value as the element type holds it.
#[inline(always)]
pub(crate) fn round<E: Float>(value: f32) -> f32 {
    E::from_f32(value).to_f32()
}

/// `c[0] + c[1] x + c[2] x^2 + ..` by Horner's rule.
#[inline(always)]
fn polynomial<const N: usize>(coefficients: [f32; N], x: f32) -> f32 {
    coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * x + coefficient)
}

/// `2^n` for `-126 <= n <= 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23).cast_unsigned())
}
