//! What the tests of the matrix products share: matrices with gaps, and the exact result with a bound on what a right kernel may be off.

use lighterage_testkit::Rng;

use crate::buffer::Buffer;
use crate::numerics::{activated, round, round_exact, rounding};
use crate::runs::Region;

/// Rows of a matrix some elements apart, beginning some elements into its buffer. What lies between is NaN: whoever reads it is found out, whoever writes it too.
pub(crate) struct Matrix {
    buffer: Buffer,
    columns: usize,
    stride: usize,
    offset: usize,
}

impl Matrix {
    pub(crate) fn of(values: &[f32], columns: usize, gap: usize, offset: usize) -> Self {
        let (stride, rows) = (columns + gap, values.len() / columns.max(1));
        let mut all = vec![f32::NAN; offset + (rows * stride).saturating_sub(gap)];
        for (row, values) in values.chunks(columns.max(1)).enumerate() {
            all[offset + row * stride..][..columns].copy_from_slice(values);
        }
        Self { buffer: Buffer::of(&all), columns, stride, offset }
    }

    pub(crate) fn random(
        rng: &mut Rng,
        [rows, columns]: [usize; 2],
        scale: f32,
        gap: usize,
        offset: usize,
    ) -> (Self, Vec<f32>) {
        let values: Vec<f32> = rng.normals(rows * columns, scale).iter().map(|value| round(*value)).collect();
        (Self::of(&values, columns, gap, offset), values)
    }

    pub(crate) fn address(&mut self) -> u64 {
        self.buffer.address() + 2 * self.offset as u64
    }

    pub(crate) fn stride(&self) -> u64 {
        self.stride as u64
    }

    pub(crate) fn region(&mut self) -> Region {
        self.buffer.region()
    }

    /// The rows; fails where anything around them was written.
    pub(crate) fn values(&self) -> Vec<f32> {
        let all = self.buffer.values();
        let (before, rows) = all.split_at(self.offset);
        let mut values = Vec::new();
        let mut between = before.to_vec();
        for row in rows.chunks(self.stride.max(1)) {
            values.extend(&row[..self.columns]);
            between.extend(&row[self.columns..]);
        }
        assert!(between.iter().all(|value| value.is_nan()), "something between the rows was overwritten");
        values
    }
}

/// What is done to a sum of products.
#[derive(Clone, Copy, Default)]
pub(crate) struct Finish {
    pub(crate) bias: Option<f32>,
    pub(crate) activation: u32,
    pub(crate) gate: Option<f32>,
    pub(crate) residual: Option<f32>,
}

/// A value without its last rounding, and how far from it a right kernel may be.
#[derive(Clone, Copy)]
pub(crate) struct Exact {
    pub(crate) value: f64,
    pub(crate) bound: f64,
}

/// One bf16 unit in the last place, relative: an intermediate rounding that falls the other way.
const UNIT: f64 = 1.0 / 128.0;

impl Finish {
    /// `residual + gate * activation(sum + bias)` with the roundings of `kernels/gemm/linear.h`, the last one left out. The sum has `inner` terms
    /// of together `magnitude`, added in fp32.
    pub(crate) fn of(self, sum: f64, magnitude: f64, inner: usize) -> Exact {
        // Of n additions in fp32 each errs by 2^-24 of a partial sum (Higham 1993, theorem 3.1).
        let mut bound = (inner + 1) as f64 * magnitude * 2.0_f64.powi(-24);
        let mut value = sum + self.bias.map_or(0.0, f64::from);
        // An error this small moves a rounding to the neighbour at most, and only where the value lies close to the tie.
        let flip = |value: f64, bound: f64| {
            let near = [value - bound, value + bound].map(round_exact);
            if near[0] == near[1] { 0.0 } else { (near[1] - near[0]).abs().max(value.abs() * UNIT) }
        };
        if self.activation != 0 {
            bound = flip(value, bound);
            let x = round_exact(value);
            value = activated(self.activation, x);
            // The slope of all of them is below 1.2; they are computed to 2^-16. In the deep negative tail x is divided by 1 + e^y: beyond 2^126 its reciprocal is no
            // normal number of fp32 any more and may count as 0, so that as little as |x| 2^-126 is left out (GELU does it from x = -10 on).
            bound = 1.2 * bound + value.abs() * 2.0_f64.powi(-16) + x.abs() * 2.0_f64.powi(-126);
        }
        if let Some(gate) = self.gate {
            bound = flip(value, bound) * f64::from(gate).abs();
            value = round_exact(value) * f64::from(gate);
            bound += value.abs() * 2.0_f64.powi(-24);
        }
        if let Some(residual) = self.residual {
            bound = flip(value, bound);
            value = round_exact(value) + f64::from(residual);
            bound += value.abs() * 2.0_f64.powi(-24);
        }
        // The last rounding: half a unit.
        Exact { value, bound: bound + (value.abs() + bound) * UNIT / 2.0 + 2.0_f64.powi(-133) }
    }
}

/// Every element within its bound, the relative error of all and of every 16 rows within what bf16 rounding makes.
pub(crate) fn assert_near(name: &str, got: &[f32], expected: &[Exact], columns: usize) {
    assert_eq!(got.len(), expected.len(), "{name}");
    for (index, (got, exact)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - exact.value).abs();
        // Written so that NaN fails.
        assert!(
            error <= exact.bound,
            "{name}: element {}, {} is {got}, expected {} with at most {:e}",
            index / columns,
            index % columns,
            exact.value,
            exact.bound
        );
    }
    // One rounding makes 1.66e-3 of many numbers, a second one that falls the other way here and there adds little.
    let exact: Vec<f64> = expected.iter().map(|exact| exact.value).collect();
    for (rows, bound) in [(usize::MAX / columns, 2.0e-3), (16, 2.5e-3)] {
        let length = rows * columns;
        for (strip, (got, exact)) in got.chunks(length).zip(exact.chunks(length)).enumerate() {
            let [error, allowed] = rounding(bound, got, exact);
            assert!(
                error <= allowed,
                "{name}: relative error {error:.3e} in strip {strip} of {rows} rows, allowed is {allowed:.3e}"
            );
        }
    }
}
