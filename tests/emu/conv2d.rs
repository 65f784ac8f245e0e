//! `conv2d.cu` against the formula in fp64: every tile, both kernels and strides, uneven padding, channels that fill no 16 bytes.

use lighterage_kernels::conv::conv2d::launches;
use lighterage_kernels::launch::{Arch, Target};
use lighterage_kernels::params::Conv2dParams;
use lighterage_testkit::Rng;

use crate::numerics::count;
use crate::product::{Exact, Finish, Matrix, assert_near};
use crate::runs::{self, Config};

#[derive(Clone, Copy, Debug)]
struct Case {
    /// Height and width of the input, and of the output.
    size: [usize; 2],
    out: [usize; 2],
    /// Of the input and the output.
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    /// Above and at the left.
    pad: [usize; 2],
    bias: bool,
    residual: Residual,
    /// Elements before the image and the weight.
    offsets: [usize; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Residual {
    None,
    Apart,
    InPlace,
}

const PLAIN: Case = Case {
    size: [1, 1],
    out: [1, 1],
    channels: [8, 8],
    kernel: 3,
    stride: 1,
    pad: [1, 1],
    bias: true,
    residual: Residual::None,
    offsets: [0; 2],
};

#[test]
fn one_pixel() {
    check(PLAIN, "conv2d_128x16_bf16");
    check(Case { channels: [16, 17], ..PLAIN }, "conv2d_64x64_bf16");
}

#[test]
fn three_by_three() {
    let case = Case { size: [9, 7], out: [9, 7], channels: [24, 72], residual: Residual::Apart, ..PLAIN };
    check(case, "conv2d_64x64_bf16");
    check(Case { residual: Residual::InPlace, channels: [40, 65], bias: false, ..case }, "conv2d_64x64_bf16");
}

#[test]
fn one_by_one() {
    let case = Case { size: [5, 16], out: [5, 16], channels: [128, 65], kernel: 1, pad: [0, 0], ..PLAIN };
    check(case, "conv2d_64x64_bf16");
    check(Case { residual: Residual::Apart, ..case }, "conv2d_64x64_bf16");
}

#[test]
fn half_the_size() {
    // The VAE's: zeros below and at the right only.
    let case = Case { size: [16, 12], out: [8, 6], channels: [16, 24], stride: 2, pad: [0, 0], ..PLAIN };
    check(case, "conv2d_64x64_bf16");
    check(Case { size: [7, 5], out: [4, 3], pad: [1, 1], ..case }, "conv2d_64x64_bf16");
    check(Case { kernel: 1, size: [7, 5], out: [4, 3], ..case }, "conv2d_64x64_bf16");
}

#[test]
fn last_layer_of_three_channels() {
    check(Case { size: [13, 11], out: [13, 11], channels: [64, 3], ..PLAIN }, "conv2d_128x16_bf16");
    check(
        Case { size: [2, 17], out: [2, 17], channels: [8, 16], residual: Residual::InPlace, ..PLAIN },
        "conv2d_128x16_bf16",
    );
}

#[test]
fn first_layer_of_three_channels() {
    check(Case { size: [9, 10], out: [9, 10], channels: [3, 70], ..PLAIN }, "conv2d_64x64_gather_bf16");
    let half = Case { size: [9, 10], out: [5, 5], channels: [5, 9], stride: 2, pad: [1, 0], ..PLAIN };
    check(half, "conv2d_64x64_gather_bf16");
    check(Case { offsets: [1, 0], channels: [8, 20], ..PLAIN }, "conv2d_64x64_gather_bf16");
}

#[test]
fn padding_wider_than_the_image() {
    check(Case { size: [1, 2], out: [3, 5], pad: [2, 3], channels: [8, 24], ..PLAIN }, "conv2d_64x64_bf16");
}

#[test]
fn wide_layers() {
    // On one multiprocessor the number of tiles does not matter, and the large tile needs the fewest bytes.
    let target = Target { multiprocessors: 1, ..Target::typical(Arch::Sm80) };
    let case =
        Case { size: [15, 17], out: [15, 17], channels: [32, 127], residual: Residual::Apart, ..PLAIN };
    compare(case, "conv2d_128x128_bf16", target, &runs::all().collect::<Vec<_>>());
    let aligned = Case { channels: [8, 128], residual: Residual::InPlace, ..case };
    compare(aligned, "conv2d_128x128_bf16", target, &runs::all().collect::<Vec<_>>());
}

fn check(case: Case, image: &str) {
    compare(case, image, Target::typical(Arch::Sm80), &runs::all().collect::<Vec<_>>());
}

fn compare(case: Case, image: &str, target: Target, configs: &[Config]) {
    let mut problem = Problem::new(case);
    let expected = problem.expected();
    let mut first = None;
    for config in configs {
        let got = problem.run(image, target, *config);
        let name = format!("{case:?} {config:?}");
        assert_near(&name, &got, &expected, case.channels[1]);
        assert_eq!(first.get_or_insert(got.clone()), &got, "{name}: the same bits in every run");
    }
}

struct Problem {
    case: Case,
    x: (Matrix, Vec<f32>),
    weight: (Matrix, Vec<f32>),
    bias: (Matrix, Vec<f32>),
    residual: Vec<f32>,
}

impl Problem {
    fn new(case: Case) -> Self {
        let mut rng = Rng::from_env(4);
        let Case { size, out, channels: [from, into], kernel, offsets, .. } = case;
        let inner = kernel * kernel * from;
        let scale = 1.0 / (inner as f32).sqrt();
        let (_, residual) = Matrix::random(&mut rng, [out[0] * out[1], into], 1.0, 0, 0);
        Self {
            case,
            x: Matrix::random(&mut rng, [size[0] * size[1], from], 1.0, 0, offsets[0]),
            weight: Matrix::random(&mut rng, [into, inner], scale, 0, offsets[1]),
            bias: Matrix::random(&mut rng, [1, into], 1.0, 0, 0),
            residual,
        }
    }

    fn expected(&self) -> Vec<Exact> {
        let Case { out: [height, width], channels: [_, columns], .. } = self.case;
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
        pixels.flat_map(|pixel| (0..columns).map(move |channel| self.cell(pixel, channel))).collect()
    }

    /// Pixel `out[y, x, channel]`.
    fn cell(&self, (y, x): (usize, usize), channel: usize) -> Exact {
        let Case { size, out, channels: [from, into], kernel, stride, pad, .. } = self.case;
        let (mut sum, mut magnitude) = (0.0, 0.0);
        for tap in 0..kernel * kernel {
            let inside = |at: usize, tap: usize, d: usize| {
                (at * stride + tap).checked_sub(pad[d]).filter(|at| *at < size[d])
            };
            let (Some(y), Some(x)) = (inside(y, tap / kernel, 0), inside(x, tap % kernel, 1)) else {
                continue;
            };
            for c in 0..from {
                let weight = self.weight.1[(channel * kernel * kernel + tap) * from + c];
                let product = f64::from(self.x.1[(y * size[1] + x) * from + c]) * f64::from(weight);
                sum += product;
                magnitude += product.abs();
            }
        }
        let residual = self.residual[(y * out[1] + x) * into + channel];
        let finish = Finish {
            bias: self.case.bias.then(|| self.bias.1[channel]),
            residual: (self.case.residual != Residual::None).then_some(residual),
            ..Finish::default()
        };
        finish.of(sum, magnitude, kernel * kernel * from)
    }

    fn run(&mut self, image: &str, target: Target, config: Config) -> Vec<f32> {
        let Case { size, out: out_size, channels, residual: kind, .. } = self.case;
        let poison = vec![f32::NAN; self.residual.len()];
        let mut residual = Matrix::of(&self.residual, channels[1], 0, 0);
        let in_place = kind == Residual::InPlace;
        let mut out = Matrix::of(if in_place { &self.residual } else { &poison }, channels[1], 0, 0);
        let params = Conv2dParams {
            x: self.x.0.address(),
            weight: self.weight.0.address(),
            bias: if self.case.bias { self.bias.0.address() } else { 0 },
            residual: match kind {
                Residual::None => 0,
                Residual::Apart => residual.address(),
                Residual::InPlace => out.address(),
            },
            out: out.address(),
            height: count(size[0]),
            width: count(size[1]),
            in_channels: count(channels[0]),
            out_height: count(out_size[0]),
            out_width: count(out_size[1]),
            out_channels: count(channels[1]),
            kernel: count(self.case.kernel),
            stride: count(self.case.stride),
            pad_top: count(self.case.pad[0]),
            pad_left: count(self.case.pad[1]),
        };
        let launches = launches(&params, target);
        let [launch] = launches.as_slice() else { panic!("one launch") };
        assert_eq!(launch.image, image, "{:?}", self.case);
        let regions = [
            self.x.0.region(),
            self.weight.0.region(),
            self.bias.0.region(),
            residual.region(),
            out.region(),
        ];
        let config = Config { shared_bytes_max: target.arch.shared_bytes_max(), ..config };
        if let Some(report) = runs::launch(&launches, &params, &regions, config) {
            assert_eq!(report.bank_conflicts, 0, "the swizzle keeps ldmatrix free of conflicts");
            let written = self.residual.len() as u64 * 2;
            assert_eq!(report.global_bytes_written, written, "each element is written once");
        }
        out.values()
    }
}
