//! `conv2d.cu` against the formula in fp64: every tile, both kernels and strides, uneven padding, channels that fill no 16 bytes.

use lighterage_kernels::conv::conv2d;
use lighterage_kernels::launch::{Arch, Target};
use lighterage_kernels::params::Conv2dParams;
use lighterage_testkit::Rng;
#[cfg(feature = "emu")]
use {
    lighterage_device::{Device, Host, HostConfig, Ledger},
    lighterage_ops::{Conv2d, Padding},
    lighterage_shape::DType,
};

#[cfg(feature = "emu")]
use crate::device::{emulating, queue};
use crate::late::{self, Seen};
#[cfg(feature = "emu")]
use crate::numerics::relative;
use crate::numerics::{SIZES, count};
use crate::product::{Exact, Finish, Matrix, assert_near};
use crate::runs::{self, Config, Mode, Start};

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
    compare_meant(case, "conv2d_128x128_bf16", target);
    let aligned = Case { channels: [8, 128], residual: Residual::InPlace, ..case };
    compare_meant(aligned, "conv2d_128x128_bf16", target);
}

/// So many pixels in a row or a column, so many channels of the input and of the output.
#[test]
fn sizes_of_either_side() {
    for size in SIZES {
        for case in sized(size) {
            compare_chosen(case, SM80, &[Config::default()]);
            compare_every(case, SM80);
        }
    }
}

fn sized(size: usize) -> [Case; 4] {
    [
        Case { size: [1, size], out: [1, size], channels: [8, 24], ..PLAIN },
        Case { size: [size, 2], out: [size, 2], channels: [16, 20], ..PLAIN },
        Case { size: [2, 3], out: [2, 3], channels: [size, 24], ..PLAIN },
        Case { size: [2, 3], out: [2, 3], channels: [16, size], residual: Residual::Apart, ..PLAIN },
    ]
}

/// The latent of a picture of 512 x 512, a few of the decoder's 512 channels.
#[test]
fn the_pixels_of_a_latent() {
    let case = Case { size: [64, 64], out: [64, 64], channels: [16, 72], ..PLAIN };
    compare_chosen(case, SM80, &[Config { checks: false, ..Config::default() }]);
}

/// A weight with a single 1 for every channel shifts one channel of the image, bit for bit.
#[test]
fn one_hot_weights_shift_the_image() {
    for channels in [[16, 24], [16, 9], [5, 20], [16, 264]] {
        let case = Case { size: [11, 7], out: [11, 7], channels, bias: false, ..PLAIN };
        assert_shifts(case, SM80);
    }
}

/// Channel `co` of out is channel `from` of the image, seen by tap `tap`.
fn assert_shifts(case: Case, target: Target) {
    if runs::lacks(target) {
        return;
    }
    let Case { size: [height, width], channels: [channels, into], kernel, .. } = case;
    let taps = kernel * kernel;
    let picked = |co: usize| (co * 7 % channels, co % taps);
    let mut problem = Problem::new(case);
    let weight: Vec<f32> = (0..into * taps * channels)
        .map(|i| {
            let (co, tap, ci) = (i / channels / taps, i / channels % taps, i % channels);
            f32::from(u8::from(picked(co) == (ci, tap)))
        })
        .collect();
    problem.weight = (Matrix::of(&weight, taps * channels, 0, 0), weight);
    let seen = |y: usize, x: usize, co: usize| {
        let (ci, tap) = picked(co);
        let y = (y + tap / kernel).checked_sub(case.pad[0]).filter(|y| *y < height)?;
        let x = (x + tap % kernel).checked_sub(case.pad[1]).filter(|x| *x < width)?;
        Some(problem.x.1[(y * width + x) * channels + ci])
    };
    let expected: Vec<f32> = (0..height * width * into)
        .map(|i| seen(i / into / width, i / into % width, i % into).unwrap_or(0.0))
        .collect();
    for image in problem.images(target) {
        let got = problem.run(Some(image), target, Config { checks: false, ..Config::default() });
        assert_eq!(got, expected, "{case:?}, {image}");
    }
}

/// Rings that turn over within and between tiles, patches that hang over, in every order.
#[test]
fn hopper_patches() {
    let case = Case { size: [9, 33], out: [9, 33], channels: [136, 24], kernel: 1, pad: [0, 0], ..PLAIN };
    for image in PATCHES {
        compare(Case { residual: Residual::Apart, ..case }, image, HOPPER, &runs::all().collect::<Vec<_>>());
    }
}

/// One pixel; two tiles across; channels that fill no stage, and several.
#[test]
fn hopper_three_by_three() {
    for (size, channels) in [([1, 1], [8, 24]), ([9, 17], [72, 40]), ([7, 20], [64, 264])] {
        let case = Case { size, out: size, channels, residual: Residual::Apart, ..PLAIN };
        for image in PATCHES {
            compare(case, image, HOPPER, &[EAGER, Config::default()]);
        }
    }
}

const EAGER: Config =
    Config { mode: Mode::Eager, seed: 1, checks: true, start: Start::Behind, shared_bytes_max: 0 };

#[test]
fn hopper_one_by_one() {
    let case = Case { size: [5, 50], out: [5, 50], channels: [200, 72], kernel: 1, pad: [0, 0], ..PLAIN };
    for residual in [Residual::None, Residual::Apart, Residual::InPlace] {
        for image in PATCHES {
            compare(Case { residual, ..case }, image, HOPPER, &[Config::default()]);
        }
    }
}

/// The taps of a box that begins left of the image and above it, or ends beyond it, or lies outside altogether.
#[test]
fn hopper_padding() {
    for (size, out, pad) in [
        ([1, 2], [3, 5], [2, 3]),
        ([12, 20], [10, 18], [0, 0]),
        ([7, 9], [7, 8], [0, 1]),
        ([40, 3], [60, 30], [22, 29]),
    ] {
        let case =
            Case { size, out, pad, channels: [8, 24], bias: false, residual: Residual::InPlace, ..PLAIN };
        for image in PATCHES {
            compare(case, image, HOPPER, &[EAGER, Config::default()]);
        }
    }
}

#[test]
fn hopper_sizes_of_either_side() {
    for size in SIZES {
        for case in sized(size) {
            compare_chosen(case, HOPPER, &[Config::default()]);
            compare_every(case, HOPPER);
        }
        let case = Case { size: [3, size], out: [3, size], channels: [16, 32], ..PLAIN };
        for image in PATCHES {
            compare(case, image, HOPPER, &[Config { checks: false, ..Config::default() }]);
        }
    }
}

#[test]
fn hopper_pixels_of_a_latent() {
    let case =
        Case { size: [64, 64], out: [64, 64], channels: [16, 264], residual: Residual::Apart, ..PLAIN };
    for image in PATCHES {
        compare(case, image, Target::typical(Arch::Sm90a), &[Config { checks: false, ..Config::default() }]);
    }
}

#[test]
fn hopper_one_hot_weights_shift_the_image() {
    for channels in [[16, 24], [72, 264]] {
        assert_shifts(Case { size: [19, 35], out: [19, 35], channels, bias: false, ..PLAIN }, HOPPER);
    }
}

/// `ops::conv2d` on a device that emulates: a layer for which the wgmma kernel is chosen, with the maps that a GPU would get, and the host's numbers.
#[cfg(feature = "emu")]
#[test]
fn the_op_on_hopper_is_the_hosts() {
    let (size, channels) = (64, 256);
    let params = Conv2dParams {
        height: 64,
        width: 64,
        in_channels: 256,
        out_height: 64,
        out_width: 64,
        out_channels: 256,
        kernel: 3,
        stride: 1,
        ..Conv2dParams::default()
    };
    let chosen = conv2d::choose(&params, Target::typical(Arch::Sm90a));
    assert!(PATCHES.contains(&chosen.image), "{chosen:?}");
    let mut rng = Rng::from_env(12);
    let x = rng.normals(size * size * channels, 1.0);
    let weight = rng.normals(9 * channels * channels, 1.0 / 48.0);
    let bias = rng.normals(channels, 1.0);
    let run = |device: &Device<Host>| {
        let queue = queue(device);
        let up =
            |values: &[f32], shape: &[usize]| queue.upload_as(DType::Bf16, values, shape, "t").expect("room");
        let x = up(&x, &[size, size, channels]);
        let weight = up(&weight, &[channels, 3, 3, channels]);
        let bias = up(&bias, &[channels]);
        let out = queue.tensor(DType::Bf16, &[size, size, channels], "out").expect("room");
        let args = Conv2d {
            x: x.view(),
            weight: weight.view(),
            bias: Some(bias.view()),
            stride: 1,
            padding: Padding::all(1),
            residual: Some(x.view()),
            out: out.view(),
        };
        lighterage_ops::conv2d(&queue, &args).expect("launched");
        queue.read_f32(out.view()).expect("clean").expect("the host has bytes")
    };
    let host = Host::new(HostConfig { threads: 2, ..HostConfig::default() }).expect("a host");
    let hosts = run(&Device::new(host, Ledger::new(1 << 30), Ledger::new(0)));
    let emulated = run(&emulating(Arch::Sm90a, false, 2));
    let hosts: Vec<f64> = hosts.iter().map(|value| f64::from(*value)).collect();
    // Two roundings each, of which a few fall the other way.
    let apart = relative(&emulated, &hosts);
    assert!(apart <= 2.0e-3, "{apart:.2e} from the host's");
}

/// Neither the tile nor who stores shows in the result.
#[test]
fn variants_give_the_same_bits() {
    let case =
        Case { size: [21, 19], out: [21, 19], channels: [72, 136], residual: Residual::Apart, ..PLAIN };
    for target in [SM80, HOPPER] {
        if runs::lacks(target) {
            continue;
        }
        let mut problem = Problem::new(case);
        let images = problem.images(target);
        // What wgmma adds within one instruction is another order than mma.sync's on a GPU.
        for is_hopper in [false, true] {
            let images = images.iter().filter(|image| image.contains("sm90a") == is_hopper);
            let config = Config { checks: false, ..Config::default() };
            let bits: Vec<Vec<f32>> = images.map(|image| problem.run(Some(image), target, config)).collect();
            assert!(bits.windows(2).all(|pair| pair[0] == pair[1]), "{target:?}");
        }
    }
}

const PATCHES: [&str; 2] = ["conv2d_sm90a_128x256_bf16", "conv2d_sm90a_256x128_bf16"];

/// On so few multiprocessors every block has several tiles.
const HOPPER: Target = Target { multiprocessors: 2, ..Target::typical(Arch::Sm90a) };

/// Every convolution of the bundled model's decoder, of one shape the last.
#[test]
fn activations_of_the_model() {
    for seen in late::launches("conv2d_bf16") {
        for target in [SM80, HOPPER] {
            if !runs::lacks(target) {
                let fast = Config { checks: false, ..Config::default() };
                compare_problem(&mut Problem::seen(seen), None, target, &[fast]);
            }
        }
    }
}

fn compare_chosen(case: Case, target: Target, configs: &[Config]) {
    compare_with(case, None, target, configs);
}

const SM80: Target = Target::typical(Arch::Sm80);

fn check(case: Case, image: &str) {
    compare_meant(case, image, SM80);
}

/// By the variant that is chosen, which has to be this one.
fn compare_meant(case: Case, image: &str, target: Target) {
    let chosen =
        Problem::new(case).with_params(|params| conv2d::launches(params, target).as_slice()[0].image);
    assert_eq!(chosen, image, "{case:?}");
    compare(case, image, target, &runs::all().collect::<Vec<_>>());
}

/// By every variant of the architecture's own that can do it.
fn compare_every(case: Case, target: Target) {
    let is_own = |image: &&str| image.contains("sm90a") == (target.arch == Arch::Sm90a);
    for image in Problem::new(case).images(target).into_iter().filter(is_own) {
        compare(case, image, target, &[Config { checks: false, ..Config::default() }]);
    }
}

/// By a variant, whatever would be chosen.
fn compare(case: Case, image: &str, target: Target, configs: &[Config]) {
    compare_with(case, Some(image), target, configs);
}

fn compare_with(case: Case, image: Option<&str>, target: Target, configs: &[Config]) {
    if runs::lacks(target) {
        return;
    }
    compare_problem(&mut Problem::new(case), image, target, configs);
}

fn compare_problem(problem: &mut Problem, image: Option<&str>, target: Target, configs: &[Config]) {
    let (case, expected) = (problem.case, problem.expected());
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

    /// What the model launches.
    fn seen(seen: &Seen) -> Self {
        let p: Conv2dParams = seen.parameters();
        let sizes = |sizes: [u32; 2]| sizes.map(|size| size as usize);
        let (size, out) = (sizes([p.height, p.width]), sizes([p.out_height, p.out_width]));
        let channels = sizes([p.in_channels, p.out_channels]);
        let inner = p.kernel * p.kernel * p.in_channels;
        let matrix = |address, rows, columns: u32| {
            let values = seen.rows(address, [rows, columns], columns.into());
            (Matrix::of(&values, columns as usize, 0, 0), values)
        };
        let case = Case {
            size,
            out,
            channels,
            kernel: p.kernel as usize,
            stride: p.stride as usize,
            pad: sizes([p.pad_top, p.pad_left]),
            bias: true,
            residual: if p.residual == 0 { Residual::None } else { Residual::Apart },
            offsets: [0; 2],
        };
        let pixels = p.out_height * p.out_width;
        let residual = match p.residual {
            0 => vec![f32::NAN; out[0] * out[1] * channels[1]],
            address => matrix(address, pixels, p.out_channels).1,
        };
        Self {
            case,
            x: matrix(p.x, p.height * p.width, p.in_channels),
            weight: matrix(p.weight, p.out_channels, inner),
            bias: matrix(p.bias, 1, p.out_channels),
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

    fn run(&mut self, image: Option<&str>, target: Target, config: Config) -> Vec<f32> {
        let Case { channels, residual: kind, .. } = self.case;
        let poison = vec![f32::NAN; self.residual.len()];
        let mut residual = Matrix::of(&self.residual, channels[1], 0, 0);
        let in_place = kind == Residual::InPlace;
        let mut out = Matrix::of(if in_place { &self.residual } else { &poison }, channels[1], 0, 0);
        let params = self.params(&mut residual, &mut out);
        let launches = match image {
            None => conv2d::launches(&params, target),
            Some(image) => {
                let variant =
                    conv2d::variants(&params, target).into_iter().find(|config| config.image == image);
                conv2d::launches_of(variant.expect("a variant for this call"), &params, target)
            }
        };
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
            if config.checks {
                let written = self.residual.len() as u64 * 2;
                assert_eq!(report.global_bytes_written, written, "each element is written once");
            }
        }
        out.values()
    }

    fn images(&mut self, target: Target) -> Vec<&'static str> {
        self.with_params(|params| {
            conv2d::variants(params, target).iter().map(|config| config.image).collect()
        })
    }

    /// What is said of the call.
    fn with_params<T>(&mut self, of: impl Fn(&Conv2dParams) -> T) -> T {
        let channels = self.case.channels[1];
        let [mut residual, mut out] = [0, 1].map(|_| Matrix::of(&self.residual, channels, 0, 0));
        of(&self.params(&mut residual, &mut out))
    }

    fn params(&mut self, residual: &mut Matrix, out: &mut Matrix) -> Conv2dParams {
        let Case { size, out: out_size, channels, residual: kind, .. } = self.case;
        Conv2dParams {
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
        }
    }
}
