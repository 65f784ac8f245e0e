//! Inputs and measures of the numeric tests: fp64 references, units in the last place, relative Frobenius errors.

use half::bf16;
use lighterage_testkit::Rng;

/// Sizes on either side of what kernels do at once: one element, and what lies around a warp's and a block's eights, or a tile.
pub(crate) const SIZES: [usize; 8] = [1, 15, 16, 17, 127, 128, 129, 512];

/// Rows of FLUX at 1024 x 1024: 512 of text and 64 x 64 patches.
pub(crate) const FLUX_ROWS: usize = 4608;

/// A size as parameters hold it.
pub(crate) fn count(size: usize) -> u32 {
    u32::try_from(size).expect("small")
}

/// Normal values around a mean, as bf16 holds them.
pub(crate) fn normals(rng: &mut Rng, count: usize, mean: f32) -> Vec<f32> {
    rng.normals(count, 1.0).iter().map(|value| round(mean + value)).collect()
}

pub(crate) fn round(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

/// A number of the reference as bf16 holds it, where the formula rounds in between.
pub(crate) fn round_exact(value: f64) -> f64 {
    f64::from(rounded(value))
}

/// An exact result as bf16 holds it, by way of an fp32 number that is odd where it is not exact: so a second rounding sees on which side of a tie the first number lay
/// (Boldo and Melquiond 2008). `bf16::from_f64` drops the low 32 bits before it rounds: what lies above a tie by less than 2^-20 counts as one there.
#[expect(clippy::cast_possible_truncation, reason = "it is what rounds")]
pub(crate) fn rounded(value: f64) -> f32 {
    let near = value as f32;
    let bits = near.to_bits();
    let is_final = f64::from(near) == value || value.is_nan() || bits % 2 == 1;
    let odd = match is_final {
        true => bits,
        false if f64::from(near).abs() > value.abs() => bits - 1,
        false => bits + 1,
    };
    bf16::from_f32(f32::from_bits(odd)).to_f32()
}

#[test]
fn what_lies_beside_a_tie_is_no_tie() {
    // Half way between 1 and the next bf16 number, and between that and the one after.
    for (tie, even) in [(1.0 + 2.0_f64.powi(-8), 1.0), (1.0 + 3.0 * 2.0_f64.powi(-8), 1.015_625)] {
        assert_eq!(rounded(tie), even);
        for little in [2.0_f64.powi(-21), 2.0_f64.powi(-40), 2.0_f64.powi(-52)] {
            let [low, high] = [rounded(tie - little), rounded(tie + little)];
            assert_eq!(high - low, 1.0 / 128.0, "{tie} by {little:e}");
            assert_eq!([rounded(-tie - little), rounded(little - tie)], [-high, -low]);
        }
    }
    for value in [0.0, -0.0, 1.5, f64::INFINITY, f64::from(f32::MAX), 1e-45, -1e300] {
        assert_eq!(rounded(value), bf16::from_f64(value).to_f32(), "{value}");
    }
    assert!(rounded(f64::NAN).is_nan());
}

/// An activation in f64, as `kernels/elementwise/activation.h` numbers them; the value itself for any other number.
pub(crate) fn activated(kind: u32, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match kind {
        1 => x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)),
        2 => x * normal(x),
        3 => x * sigmoid(1.702 * x),
        4 => x * sigmoid(x),
        5 => x.max(0.0),
        _ => x,
    }
}

/// The share of a normal distribution below x, `(1 + erf(x / sqrt(2))) / 2`, to its last digits in both tails: by the series near 0 and the continued
/// fraction of `erfc` farther out (Abramowitz and Stegun 7.1.6, 7.1.14).
fn normal(x: f64) -> f64 {
    let t = x.abs() * std::f64::consts::FRAC_1_SQRT_2;
    let tail = if t < 2.0 {
        let mut term = t;
        let mut sum = t;
        for n in 1..80 {
            term *= 2.0 * t * t / (2.0 * f64::from(n) + 1.0);
            sum += term;
        }
        0.5 - sum * (-t * t).exp() / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..120).rev().fold(t, |deeper, n| t + f64::from(n) / 2.0 / deeper);
        0.5 * (-t * t).exp() / std::f64::consts::PI.sqrt() / fraction
    };
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// Every element within `units` units in the last place of bf16; a perfect rounding is within a half.
#[track_caller]
pub(crate) fn assert_within(units: f64, got: &[f32], exact: &[f64]) {
    assert_eq!(got.len(), exact.len());
    for (index, (got, exact)) in got.iter().zip(exact).enumerate() {
        // Below 2^-114 units do not shrink any more: where e^x nears fp32's end, what is left of an activation is less than 2^-121.
        let unit = (exact.abs().max(2.0_f64.powi(-114)).log2().floor() - 7.0).exp2();
        let error = (f64::from(*got) - exact).abs() / unit;
        assert!(error <= units, "element {index} is {got}, exactly {exact}: {error:.2} units");
    }
}

/// Every element within one unit in the last place of bf16, and what fp32 adds to it: where two terms nearly cancel, that is more than a unit of what is left.
#[track_caller]
pub(crate) fn assert_near_units(got: &[f32], exact: &[f64], slack: &[f64]) {
    assert_eq!((got.len(), got.len()), (exact.len(), slack.len()));
    for (index, ((got, exact), slack)) in got.iter().zip(exact).zip(slack).enumerate() {
        let unit = (exact.abs().max(2.0_f64.powi(-114)).log2().floor() - 7.0).exp2();
        let error = (f64::from(*got) - exact).abs();
        assert!(
            error <= unit + slack,
            "element {index} is {got}, exactly {exact}: {error:.2e}, allowed is {:.2e}",
            unit + slack
        );
    }
}

/// The rule for norms, products and other results that are rounded once: the relative Frobenius error within `bound`, or within a fiftieth of what rounding the
/// exact numbers makes, which no kernel can be below.
///
/// bf16 numbers between m = 1 and 2 lie 2^-7 apart: rounding to one makes 2^-7 / sqrt(12) / m root mean square, from 1.13e-3 at m = 2 to 2.26e-3 at m = 1, and
/// 1.66e-3 of many normal numbers, below the 2.0e-3 that a norm is granted. Of few numbers the largest decide and the exact result itself may be beyond
/// that; how far is measured here. The fiftieth is for an intermediate rounding that falls the other way in one of a few hundred numbers.
#[track_caller]
pub(crate) fn assert_rounded_once(bound: f64, got: &[f32], exact: &[f64]) {
    let [error, allowed] = rounding(bound, got, exact);
    assert!(error <= allowed, "relative error {error:.3e}, allowed is {allowed:.3e}");
}

/// The relative Frobenius error, and what `assert_rounded_once` allows.
pub(crate) fn rounding(bound: f64, got: &[f32], exact: &[f64]) -> [f64; 2] {
    let floor: Vec<f32> = exact.iter().map(|exact| rounded(*exact)).collect();
    [relative(got, exact), bound.max(1.02 * relative(&floor, exact))]
}

/// `|got - exact| / |exact|` in the Frobenius norm; 0 of nothing.
pub(crate) fn relative(got: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(got.len(), exact.len());
    let error: f64 = got.iter().zip(exact).map(|(got, exact)| (f64::from(*got) - exact).powi(2)).sum();
    let size: f64 = exact.iter().map(|exact| exact * exact).sum();
    if error == 0.0 { 0.0 } else { (error / size).sqrt() }
}

/// The exact mean and 1 / sqrt(variance + eps).
pub(crate) fn moments(values: &[f64], eps: f64) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// A matrix in memory: rows `stride` apart, beginning at element `start`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) stride: usize,
    pub(crate) start: usize,
}

impl Place {
    /// Rows that touch, from the first element on; or with a gap and at an odd start.
    pub(crate) fn new(rows: usize, columns: usize, gap: bool) -> Self {
        let (stride, start) = if gap { (columns + 5, 3) } else { (columns, 0) };
        Self { rows, columns, stride, start }
    }

    pub(crate) fn elements(&self) -> usize {
        self.start + self.rows * self.stride
    }

    /// The matrix's values spread out in memory, NaN between them.
    pub(crate) fn spread(&self, values: &[f32]) -> Vec<f32> {
        let mut memory = vec![f32::NAN; self.elements()];
        for (row, values) in values.chunks(self.columns.max(1)).enumerate() {
            memory[self.start + row * self.stride..][..self.columns].copy_from_slice(values);
        }
        memory
    }

    /// The matrix's values out of memory; what lies between them must still be NaN.
    #[track_caller]
    pub(crate) fn gather(&self, memory: &[f32]) -> Vec<f32> {
        let mut values = Vec::new();
        for (index, value) in memory.iter().enumerate() {
            let inside = index >= self.start && (index - self.start) % self.stride < self.columns;
            if inside {
                values.push(*value);
            } else {
                assert!(value.is_nan(), "element {index} between the rows was written");
            }
        }
        values
    }
}
