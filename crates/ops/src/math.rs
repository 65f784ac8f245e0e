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
    power * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `(1 - erf(|x| / sqrt(2))) / 2`: what a normal distribution has beyond `|x|`. Taken from `erfc`, so that the negative tail of GELU keeps
/// its digits, which `1 + erf` would lose.
///
/// `erfc(t) = e^(-t^2) u Q(u)` with `u = 3 / (3 + t)`, which is in (0, 1]: the form of Numerical Recipes 6.2.2 with coefficients of our
/// own, interpolated on `0 <= t <= 10.5`. Their error is 2^-27 of the value; the rounding of `t^2` adds `t^2 / 2` units in the last place.
#[inline(always)]
pub(crate) fn normal_tail(x: f32) -> f32 {
    const LOW: [f32; 5] = [0.188_032_05, 0.188_758_18, 0.170_823_78, 0.194_971, -0.010_175_824];
    const HIGH: [f32; 5] = [0.419_043_4, -0.460_040_45, 0.550_012_5, -0.298_282_27, 0.056_857_66];
    let u = 3.0 / (3.0 + x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    let q = polynomial(LOW, u) + u * u * u * u * u * polynomial(HIGH, u);
    0.5 * (u * q) * exp(-0.5 * x * x)
}

/// `max(x, 0)`; NaN stays.
#[inline(always)]
pub(crate) fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, as `x sigmoid(2 y)`: `(1 + tanh y) / 2` is `sigmoid(2 y)`.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    /// `2 sqrt(2 / pi)`.
    const FACTOR: f32 = 1.595_769;
    x * sigmoid(FACTOR * (x + 0.044_715 * x * x * x))
}

/// `0.5 x (1 + erf(x / sqrt(2)))`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    // x less its tail for x > 0, and x times its tail below: one form without a choice. Beyond 20 the tail is 0, infinity included.
    x.max(0.0) - x.abs().min(20.0) * normal_tail(x)
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

/// How many running sums a sum is made of, on every instruction set. So many that the loop over them stays a loop: sixteen would be
/// unrolled into scalars before the compiler looks for vectors.
const LANES: usize = 64;

/// The sum of `term` over a slice: [`LANES`] running sums, then those by halves. The order is fixed by the length alone.
#[inline(always)]
pub(crate) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    for chunk in values.chunks(LANES) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += term(*value);
        }
    }
    halve(&mut lanes)
}

/// The sum of a slice whose length is a power of two, by halves.
#[inline(always)]
fn halve(mut lanes: &mut [f32]) -> f32 {
    while lanes.len() > 1 {
        let (left, right) = lanes.split_at_mut(lanes.len() / 2);
        for (left, right) in left.iter_mut().zip(right) {
            *left += *right;
        }
        lanes = left;
    }
    lanes[0]
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
    let mean = sum(
        values,
        #[inline(always)]
        |value| value,
    ) / count;
    let variance = sum(
        values,
        #[inline(always)]
        |value| (value - mean) * (value - mean),
    ) / count;
    let factor = 1.0 / (variance + eps).sqrt();
    for value in values {
        *value = (*value - mean) * factor;
    }
}

/// `rsqrt(mean(x^2) + eps)`.
#[inline(always)]
pub(crate) fn inverse_rms(values: &[f32], eps: f32) -> f32 {
    1.0 / (sum(
        values,
        #[inline(always)]
        |value| value * value,
    ) / values.len() as f32
        + eps)
        .sqrt()
}

/// The value as the element type holds it.
#[inline(always)]
pub(crate) fn round<E: Float>(value: f32) -> f32 {
    E::from_f32(value).to_f32()
}

/// `c[0] + c[1] x + .. + c[4] x^4` by Horner's rule, written out: a loop over the coefficients is not always unrolled, and then nothing around it
/// becomes vector code.
#[inline(always)]
fn polynomial(c: [f32; 5], x: f32) -> f32 {
    c[0] + x * (c[1] + x * (c[2] + x * (c[3] + x * c[4])))
}

/// `2^n` for `-126 <= n <= 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    // Wrapping, since a check for overflow would be a branch: n is in range but for NaN, whose product is NaN whatever this is.
    f32::from_bits(n.wrapping_add(127).wrapping_shl(23).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of `got` in units of the last place of the `f32` nearest to `expected`.
    fn ulps(got: f32, expected: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, reason = "rounded on purpose")]
        let nearest = expected as f32;
        let unit = f64::from(f32::from_bits(nearest.abs().to_bits() + 1)) - f64::from(nearest.abs());
        (f64::from(got) - expected).abs() / unit
    }

    /// Fails if `of` is further than `bound` units from `exact` anywhere on `count` points from `low` to `high`.
    fn check(name: &str, of: fn(f32) -> f32, exact: fn(f64) -> f64, [low, high]: [f32; 2], bound: f64) {
        let count = 200_000_u32;
        let worst = (0..=count)
            .map(|index| low + (high - low) * (index as f32 / count as f32))
            .map(|x| (ulps(of(x), exact(f64::from(x))), x))
            .fold((0.0, low), |worst, next| if next.0 > worst.0 { next } else { worst });
        assert!(worst.0 <= bound, "{name}({}) is {} units off, bound {bound}", worst.1, worst.0);
    }

    /// `erfc` of `t >= 0`: Taylor's series below 2, Lentz's continued fraction above (Abramowitz & Stegun 7.1.5, 7.1.14).
    fn erfc(t: f64) -> f64 {
        if t < 2.0 {
            let (mut term, mut sum) = (t, t);
            for n in 1..80 {
                term *= -t * t / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let fraction = (1..200).rev().fold(t, |tail, n| t + f64::from(n) / 2.0 / tail);
        (-t * t).exp() / fraction / std::f64::consts::PI.sqrt()
    }

    fn gelu_exact(x: f64) -> f64 {
        let tail = 0.5 * erfc(x.abs() / std::f64::consts::SQRT_2);
        if x < 0.0 { x * tail } else { x - x * tail }
    }

    fn gelu_tanh_exact(x: f64) -> f64 {
        let y = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
        x / (1.0 + (-2.0 * y).exp())
    }

    #[test]
    fn exponential_is_within_two_units() {
        check("exp", exp, f64::exp, [-87.3, 88.7], 2.0);
        check("exp", exp, f64::exp, [-1.0, 1.0], 2.0);
    }

    #[test]
    fn exponential_keeps_its_ends() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(-104.5), 0.0);
        assert_eq!(exp(88.73), f32::INFINITY);
        assert!(exp(88.72).is_finite() && exp(-103.0) > 0.0);
    }

    #[test]
    fn activations_are_near_their_formulas() {
        // Ten steps of Horner's rule, the exponential and a few products: 8 units. Then the exponent: a rounding of it by 2^-24
        // changes the result by as many units as the exponent is large, and it is rounded `roundings` times.
        let bound = |roundings: f64, exponent: f64| 8.0 + roundings * exponent;
        check("sigmoid", sigmoid, |x| 1.0 / (1.0 + (-x).exp()), [-80.0, 80.0], 8.0);
        check("silu", silu, |x| x / (1.0 + (-x).exp()), [-80.0, 80.0], 8.0);
        check("gelu", gelu, gelu_exact, [-1.0, 10.0], bound(1.0, 0.5));
        check("gelu", gelu, gelu_exact, [-12.0, 10.0], bound(1.0, 72.0));
        check("gelu_tanh", gelu_tanh, gelu_tanh_exact, [-1.0, 10.0], bound(5.0, 1.67));
        check("gelu_tanh", gelu_tanh, gelu_tanh_exact, [-5.0, 10.0], bound(5.0, 16.9));
        check("quick_gelu", quick_gelu, |x| x / (1.0 + (-1.702 * x).exp()), [-40.0, 20.0], bound(2.0, 68.1));
    }

    #[test]
    fn activations_keep_nan_and_infinity() {
        for of in [gelu_tanh, gelu, quick_gelu, silu] {
            assert!(of(f32::NAN).is_nan());
            assert_eq!(of(f32::INFINITY), f32::INFINITY);
            assert_eq!(of(-200.0).abs(), 0.0);
            assert_eq!(of(200.0), 200.0);
            assert_eq!(of(0.0), 0.0);
        }
    }
}
