//! Uniform words to normal values in the order and precision of torch's CPU kernels (Box and Muller 1958).
//!
//! From 16 values on torch takes a vector path: single precision, with the polynomials of the cephes library (Moshier) for logarithm, sine
//! and cosine, evaluated with fused multiply-adds. A more exact logarithm would differ from it in two thirds of the
//! values, so the polynomials are followed term by term. Below 16 values it takes a scalar path in double precision.

use std::f32::consts::TAU;

use super::mersenne::Mersenne;

/// Values of one block of the vector path: eight radii and eight angles.
const BLOCK: usize = 16;

/// `torch.randn(count)` with this generator.
pub(super) fn fill(generator: &mut Mersenne, count: usize) -> Vec<f32> {
    if count < BLOCK { few(generator, count) } else { many(generator, count, count) }
}

/// `torch.randn(count, dtype=torch.bfloat16)` before the rounding: words are drawn block by block, so the ragged end draws none that
/// it does not use.
pub(super) fn fill_blockwise(generator: &mut Mersenne, count: usize) -> Vec<f32> {
    if count < BLOCK { few(generator, count) } else { many(generator, count, count - count % BLOCK) }
}

/// The scalar path: pairs in double precision, the sine kept for the next value.
#[expect(clippy::cast_possible_truncation, reason = "rounded to f32 at the end")]
fn few(generator: &mut Mersenne, count: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let angle = std::f64::consts::TAU * unit_f64(generator);
        let radius = (-2.0 * (-unit_f64(generator)).ln_1p()).sqrt();
        values.push((radius * angle.cos()) as f32);
        values.push((radius * angle.sin()) as f32);
    }
    values.truncate(count);
    values
}

/// The vector path: `drawn` words in blocks of 16; what is left at the end is 16 fresh words laid over the last 16 places.
fn many(generator: &mut Mersenne, count: usize, drawn: usize) -> Vec<f32> {
    let mut values: Vec<f32> = (0..drawn).map(|_| unit_f32(generator)).collect();
    values.resize(count, 0.0);
    let (blocks, rest) = values.as_chunks_mut::<BLOCK>();
    blocks.iter_mut().for_each(transform);
    if !rest.is_empty() {
        let mut tail = [0.0; BLOCK];
        tail.fill_with(|| unit_f32(generator));
        transform(&mut tail);
        values[count - BLOCK..].copy_from_slice(&tail);
    }
    values
}

fn transform(block: &mut [f32; BLOCK]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (first, second) in first.iter_mut().zip(second) {
        let radius = (-2.0 * ln(1.0 - *first)).sqrt();
        let (sine, cosine) = sine_cosine(TAU * *second);
        (*first, *second) = (radius * cosine, radius * sine);
    }
}

/// 24 bits: uniform in [0, 1).
#[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
fn unit_f32(generator: &mut Mersenne) -> f32 {
    (generator.word() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
}

/// 53 bits: uniform in [0, 1).
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
fn unit_f64(generator: &mut Mersenne) -> f64 {
    (generator.double_word() & ((1 << 53) - 1)) as f64 * (1.0 / 9_007_199_254_740_992.0)
}

/// The natural logarithm of a normal value in (0, 1]: cephes `logf`, with fused multiply-adds.
#[expect(clippy::excessive_precision, reason = "the constants as the library writes them")]
#[expect(clippy::cast_precision_loss, reason = "an exponent is small")]
fn ln(x: f32) -> f32 {
    const TERMS: [f32; 9] = [
        7.037_683_629_2e-2,
        -1.151_461_031_0e-1,
        1.167_699_874_0e-1,
        -1.242_014_084_6e-1,
        1.424_932_278_7e-1,
        -1.666_805_766_5e-1,
        2.000_071_476_5e-1,
        -2.499_999_399_3e-1,
        3.333_333_117_4e-1,
    ];
    let bits = x.to_bits();
    let mut exponent = (bits >> 23).cast_signed() as f32 - 126.0;
    let fraction = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    let mut m = fraction - 1.0;
    if fraction < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        m += fraction;
    }
    let z = m * m;
    let mut y = TERMS[1..].iter().fold(TERMS[0], |sum, term| sum.mul_add(m, *term));
    y *= m;
    y = y.mul_add(z, exponent * -2.121_944_40e-4);
    y = (-z).mul_add(0.5, y);
    exponent.mul_add(0.693_359_375, m + y)
}

/// Sine and cosine of an angle in [0, 2 pi]: cephes `sincosf`, with fused multiply-adds.
#[expect(clippy::excessive_precision, reason = "the constants as the library writes them")]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the octant of an angle in [0, 2 pi] is 0 to 8"
)]
#[expect(clippy::cast_precision_loss, reason = "the octant is small")]
fn sine_cosine(angle: f32) -> (f32, f32) {
    // The octant, rounded up to even, then the angle less so many eighths of a turn in three parts (Cody and Waite 1980).
    let octant = ((angle * 1.273_239_544_735_16) as u32 + 1) & !1;
    let turns = octant as f32;
    let x = turns.mul_add(-0.785_156_25, angle);
    let x = turns.mul_add(-2.418_756_484_985_351_562_5e-4, x);
    let x = turns.mul_add(-3.774_894_977_445_941_08e-8, x);
    let z = x * x;

    let mut a = 2.443_315_711_809_948e-5_f32.mul_add(z, -1.388_731_625_493_765e-3);
    a = a.mul_add(z, 4.166_664_568_298_827e-2) * z;
    a = a.mul_add(z, -(0.5 * z)) + 1.0;
    let mut b = (-1.951_529_589_1e-4_f32).mul_add(z, 8.332_160_873_6e-3);
    b = b.mul_add(z, -1.666_665_461_1e-1) * z;
    b = b.mul_add(x, x);

    let (sine, cosine) = if octant & 2 == 0 { (b, a) } else { (a, b) };
    let negate = |value: f32, when: bool| if when { -value } else { value };
    (negate(sine, octant & 4 != 0), negate(cosine, octant.wrapping_sub(2) & 4 == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials_are_the_functions_they_stand_for() {
        for index in 1..=4096_u16 {
            let unit = f32::from(index) / 4096.0;
            // One part in 2^22 of the value or of one: a few roundings of f32.
            let bound = |value: f64| (value.abs().max(1.0)) * 2.4e-7;
            let exact = f64::from(unit).ln();
            assert!((f64::from(ln(unit)) - exact).abs() <= bound(exact), "ln {unit}");
            let angle = TAU * unit;
            let (sine, cosine) = sine_cosine(angle);
            assert!((f64::from(sine) - f64::from(angle).sin()).abs() <= bound(1.0), "sin {angle}");
            assert!((f64::from(cosine) - f64::from(angle).cos()).abs() <= bound(1.0), "cos {angle}");
        }
    }
}
