//! The layers of a face network on the host: planes of f32, `[channels, height, width]`.
//!
//! Every sum is taken by one task in one order, so the threads do not show in the bits.
use rayon::prelude::*;

/// A stack of planes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Planes {
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// `[channels, height, width]`.
    pub(crate) values: Vec<f32>,
}

impl Planes {
    /// Applies `change(channel, value)` to every value.
    pub(crate) fn map(&mut self, change: impl Fn(usize, f32) -> f32) {
        let plane = self.height * self.width;
        for (channel, values) in self.values.chunks_mut(plane).enumerate() {
            values.iter_mut().for_each(|value| *value = change(channel, *value));
        }
    }

    /// Every `stride`-th column of every `stride`-th row: what a 1x1 max pooling with that stride is.
    pub(crate) fn subsampled(&self, stride: usize) -> Self {
        let (height, width) = (self.height.div_ceil(stride), self.width.div_ceil(stride));
        let rows = self.values.chunks(self.width).enumerate();
        let kept = rows.filter(|(row, _)| (row % self.height).is_multiple_of(stride));
        let values = kept.flat_map(|(_, row)| row.iter().step_by(stride).copied()).collect();
        Self { channels: self.channels, height, width, values }
    }

    /// With a border of zeros, one pixel wide.
    fn padded(&self) -> Self {
        let (height, width) = (self.height + 2, self.width + 2);
        let mut values = vec![0.0; self.channels * height * width];
        for (index, row) in self.values.chunks(self.width).enumerate() {
            let (channel, y) = (index / self.height, index % self.height);
            let start = (channel * height + y + 1) * width + 1;
            values[start..start + self.width].copy_from_slice(row);
        }
        Self { channels: self.channels, height, width, values }
    }
}

/// A convolution without bias, 1x1 or, with a border of zeros, 3x3.
#[derive(Clone, Debug)]
pub(crate) struct Convolution {
    /// `[out, in, kernel, kernel]`.
    pub(crate) weight: Vec<f32>,
    pub(crate) out: usize,
    pub(crate) inner: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
}

impl Convolution {
    pub(crate) fn forward(&self, x: &Planes) -> Planes {
        assert_eq!(x.channels, self.inner, "channels of a convolution");
        let (height, width) = (x.height.div_ceil(self.stride), x.width.div_ceil(self.stride));
        let padded = if self.kernel == 1 { x.clone() } else { x.padded() };
        let mut values = vec![0.0; self.out * height * width];
        values.par_chunks_mut(height * width).enumerate().for_each(|(out, plane)| {
            let taps = self.kernel * self.kernel;
            let weight = &self.weight[out * self.inner * taps..][..self.inner * taps];
            for (y, row) in plane.chunks_mut(width).enumerate() {
                self.row(&padded, weight, y * self.stride, row);
            }
        });
        Planes { channels: self.out, height, width, values }
    }

    /// One row of one output channel; `top` is the first row of the padded input that it reads.
    fn row(&self, x: &Planes, weight: &[f32], top: usize, out: &mut [f32]) {
        for (channel, taps) in weight.chunks(self.kernel * self.kernel).enumerate() {
            for (ky, taps) in taps.chunks(self.kernel).enumerate() {
                let row = &x.values[(channel * x.height + top + ky) * x.width..][..x.width];
                match (taps, self.stride) {
                    (&[left, middle, right], 1) => triple(row, [left, middle, right], out),
                    _ => strided(row, taps, self.stride, out),
                }
            }
        }
    }
}

fn triple(row: &[f32], [left, middle, right]: [f32; 3], out: &mut [f32]) {
    let count = out.len();
    let (first, second, third) = (&row[..count], &row[1..=count], &row[2..count + 2]);
    for index in 0..count {
        out[index] += left * first[index] + middle * second[index] + right * third[index];
    }
}

fn strided(row: &[f32], taps: &[f32], stride: usize, out: &mut [f32]) {
    for (kx, tap) in taps.iter().enumerate() {
        for (value, x) in out.iter_mut().zip(row[kx..].iter().step_by(stride)) {
            *value += tap * x;
        }
    }
}

/// Batch normalisation with the statistics of training, as one factor and one term for each channel.
#[derive(Clone, Debug)]
pub(crate) struct BatchNorm {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

impl BatchNorm {
    /// torch's default; facexlib keeps it.
    const EPSILON: f32 = 1e-5;

    pub(crate) fn new(weight: &[f32], bias: &[f32], mean: &[f32], variance: &[f32]) -> Self {
        let scale: Vec<f32> = weight
            .iter()
            .zip(variance)
            .map(|(weight, variance)| weight / (variance + Self::EPSILON).sqrt())
            .collect();
        let shift =
            bias.iter().zip(mean).zip(&scale).map(|((bias, mean), scale)| bias - mean * scale).collect();
        Self { scale, shift }
    }

    pub(crate) fn apply(&self, x: &mut Planes) {
        x.map(|channel, value| value * self.scale[channel] + self.shift[channel]);
    }
}

/// Below zero each channel has a slope of its own.
pub(crate) fn prelu(slopes: &[f32], x: &mut Planes) {
    x.map(|channel, value| if value < 0.0 { slopes[channel] * value } else { value });
}

/// `weight x`, plus `bias` where there is one; `weight` is `[out, in]`.
pub(crate) fn linear(weight: &[f32], bias: Option<&[f32]>, x: &[f32]) -> Vec<f32> {
    let rows = weight.par_chunks(x.len()).enumerate();
    rows.map(|(row, weight)| dot(weight, x) + bias.map_or(0.0, |bias| bias[row])).collect()
}

/// In sixteen partial sums, which then are added in order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

/// The mean of every plane.
pub(crate) fn means(x: &Planes) -> Vec<f32> {
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^24 pixels")]
    let count = (x.height * x.width) as f32;
    x.values.chunks(x.height * x.width).map(|plane| plane.iter().sum::<f32>() / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition: one output at a time, in f64.
    fn slowly(convolution: &Convolution, x: &Planes) -> Vec<f32> {
        let Convolution { weight, out, inner, kernel, stride } = convolution;
        let (height, width) = (x.height.div_ceil(*stride), x.width.div_ceil(*stride));
        let border = kernel / 2;
        let mut values = Vec::new();
        for o in 0..*out {
            for y in 0..height {
                for column in 0..width {
                    let mut sum = 0.0_f64;
                    for c in 0..*inner {
                        for ky in 0..*kernel {
                            for kx in 0..*kernel {
                                let (iy, ix) = (
                                    (y * stride + ky).checked_sub(border),
                                    (column * stride + kx).checked_sub(border),
                                );
                                let (Some(iy), Some(ix)) = (iy, ix) else { continue };
                                if iy < x.height && ix < x.width {
                                    let w = weight[((o * inner + c) * kernel + ky) * kernel + kx];
                                    sum += f64::from(w)
                                        * f64::from(x.values[(c * x.height + iy) * x.width + ix]);
                                }
                            }
                        }
                    }
                    #[expect(clippy::cast_possible_truncation, reason = "rounded once")]
                    values.push(sum as f32);
                }
            }
        }
        values
    }

    fn check(kernel: usize, stride: usize, height: usize, width: usize) {
        let (out, inner) = (3, 2);
        let mut rng = lighterage_testkit::Rng::from_env(7);
        let weight = rng.normals(out * inner * kernel * kernel, 1.0);
        let x = Planes { channels: inner, height, width, values: rng.normals(inner * height * width, 1.0) };
        let convolution = Convolution { weight, out, inner, kernel, stride };
        let got = convolution.forward(&x);
        assert_eq!((got.height, got.width), (height.div_ceil(stride), width.div_ceil(stride)));
        // 18 products, each rounded: 18 * 2^-24 of the largest partial sum.
        lighterage_testkit::assert_close("convolution", &got.values, &slowly(&convolution, &x), 2e-6);
    }

    #[test]
    fn convolutions_are_the_definition() {
        for stride in [1, 2] {
            for (height, width) in [(7, 7), (8, 6), (1, 1), (1, 5)] {
                check(3, stride, height, width);
                check(1, stride, height, width);
            }
        }
    }

    #[test]
    fn subsampling_keeps_the_first_of_each_stride() {
        let x = Planes { channels: 2, height: 3, width: 4, values: (0..24_u8).map(f32::from).collect() };
        let got = x.subsampled(2);
        assert_eq!((got.height, got.width), (2, 2));
        assert_eq!(got.values, [0.0, 2.0, 8.0, 10.0, 12.0, 14.0, 20.0, 22.0]);
    }
}
