#![expect(
    clippy::cast_possible_truncation,
    reason = "the sizes of tests are small, and their f64 references are rounded on purpose"
)]

use half::bf16;
use lighterage_device::{Isa, Kernel, Workers};
use lighterage_kernels::params::Conv2dParams;
use lighterage_shape::DType;
use lighterage_testkit::{Rng, assert_close};

use super::host::Conv2dKernel;
use super::{Conv2d, Padding, conv2d};
use crate::gemm::{Guarded, HostElement, bf16_rounding};
use crate::testing::{assert_refused, dry};

/// f32 sums of at most 4608 products in one order: sqrt(4608) 2^-24.
const F32_SUMS: f64 = 4.0e-6;

#[derive(Clone, Copy, Debug)]
struct Case {
    height: usize,
    width: usize,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    /// Top, bottom, left, right.
    padding: [usize; 4],
    residual: Residual,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Residual {
    Absent,
    Apart,
    InPlace,
}

const SAME: Case = Case {
    height: 1,
    width: 1,
    inputs: 1,
    outputs: 1,
    kernel: 3,
    stride: 1,
    padding: [1; 4],
    residual: Residual::Absent,
};

impl Case {
    fn out_height(self) -> usize {
        (self.height + self.padding[0] + self.padding[1] - self.kernel) / self.stride + 1
    }

    fn out_width(self) -> usize {
        (self.width + self.padding[2] + self.padding[3] - self.kernel) / self.stride + 1
    }
}

#[derive(Clone, Debug)]
struct Tensors<E> {
    x: Guarded<E>,
    weight: Guarded<E>,
    bias: Guarded<E>,
    residual: Guarded<E>,
}

impl<E: HostElement> Tensors<E> {
    fn random(case: Case, rng: &mut Rng) -> Self {
        let inner = case.kernel * case.kernel * case.inputs;
        let pixels = case.out_height() * case.out_width();
        Self {
            x: Guarded::new(
                &rng.normals(case.height * case.width * case.inputs, 1.0),
                case.inputs,
                case.inputs,
            ),
            weight: Guarded::new(
                &rng.normals(case.outputs * inner, 1.0 / (inner as f32).sqrt()),
                inner,
                inner,
            ),
            bias: Guarded::new(&rng.normals(case.outputs, 1.0), case.outputs, case.outputs),
            residual: Guarded::new(&rng.normals(pixels * case.outputs, 1.0), case.outputs, case.outputs),
        }
    }

    fn run(&self, case: Case, threads: usize, isa: Isa) -> Vec<f32>
    where
        Conv2dKernel<E>: Kernel<Params = Conv2dParams>,
    {
        let poisoned = || Guarded::poisoned(case.out_height() * case.out_width(), case.outputs, case.outputs);
        let mut out = if case.residual == Residual::InPlace { self.residual.clone() } else { poisoned() };
        let address = out.address_mut();
        let params = Conv2dParams {
            x: self.x.address(),
            weight: self.weight.address(),
            bias: self.bias.address(),
            residual: match case.residual {
                Residual::Absent => 0,
                Residual::Apart => self.residual.address(),
                Residual::InPlace => address,
            },
            out: address,
            height: case.height as u32,
            width: case.width as u32,
            in_channels: case.inputs as u32,
            out_height: case.out_height() as u32,
            out_width: case.out_width() as u32,
            out_channels: case.outputs as u32,
            kernel: case.kernel as u32,
            stride: case.stride as u32,
            pad_top: case.padding[0] as u32,
            pad_left: case.padding[2] as u32,
        };
        let workers = Workers::new(threads, Some(isa)).unwrap();
        // SAFETY: the tensors have the sizes in `params`, and live until here.
        unsafe { Conv2dKernel::<E>::host(&params, &workers) };
        out.assert_guards();
        out.values()
    }

    /// The formula, in f64, from the rounded inputs.
    fn expected(&self, case: Case) -> Vec<f32> {
        // The kernel rounds before it adds to the residual, and at the end.
        let round = |value: f64| if size_of::<E>() == 2 { bf16::from_f64(value).to_f64() } else { value };
        let [x, weight, bias, residual] =
            [&self.x, &self.weight, &self.bias, &self.residual].map(|t| t.values());
        let pixel = |y: usize, x_: usize, ky: usize, kx: usize| {
            let y = (y * case.stride + ky).checked_sub(case.padding[0]).filter(|y| *y < case.height)?;
            let x_ = (x_ * case.stride + kx).checked_sub(case.padding[2]).filter(|x| *x < case.width)?;
            Some(&x[(y * case.width + x_) * case.inputs..][..case.inputs])
        };
        let mut out = Vec::new();
        for y in 0..case.out_height() {
            for x_ in 0..case.out_width() {
                for output in 0..case.outputs {
                    let mut sum = f64::from(bias[output]);
                    for tap in 0..case.kernel * case.kernel {
                        let Some(pixel) = pixel(y, x_, tap / case.kernel, tap % case.kernel) else {
                            continue;
                        };
                        let weight = &weight[(output * case.kernel * case.kernel + tap) * case.inputs..]
                            [..case.inputs];
                        sum +=
                            pixel.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
                    }
                    if case.residual != Residual::Absent {
                        sum = round(sum)
                            + f64::from(residual[(y * case.out_width() + x_) * case.outputs + output]);
                    }
                    out.push(sum as f32);
                }
            }
        }
        out
    }
}

fn paths() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

fn check_of<E: HostElement>(case: Case, bound: f64)
where
    Conv2dKernel<E>: Kernel<Params = Conv2dParams>,
{
    let tensors = Tensors::<E>::random(case, &mut Rng::from_env(7));
    let expected = tensors.expected(case);
    for isa in paths() {
        assert_close(
            &format!("{case:?} on {isa}, {}", E::DTYPE),
            &tensors.run(case, 1, isa),
            &expected,
            bound,
        );
    }
}

fn check(case: Case) {
    check_of::<f32>(case, F32_SUMS);
    check_of::<bf16>(case, bf16_rounding(case.out_height() * case.out_width() * case.outputs));
}

#[test]
fn images_of_every_shape() {
    for (height, width) in [(1, 1), (1, 7), (7, 1), (3, 3), (5, 8), (16, 33)] {
        for (inputs, outputs) in [(1, 1), (3, 5), (16, 4), (33, 31), (130, 17)] {
            check(Case { height, width, inputs, outputs, ..SAME });
        }
    }
}

#[test]
fn one_by_one_kernels() {
    for (inputs, outputs) in [(1, 3), (16, 33), (64, 7)] {
        check(Case { height: 6, width: 9, inputs, outputs, kernel: 1, padding: [0; 4], ..SAME });
    }
}

/// The encoder's halving convolution pads at the right and below only.
#[test]
fn stride_two_pads_right_and_below() {
    for (height, width) in [(2, 2), (8, 8), (9, 12)] {
        check(Case { height, width, inputs: 5, outputs: 6, stride: 2, padding: [0, 1, 0, 1], ..SAME });
        check(Case { height, width, inputs: 5, outputs: 6, stride: 2, ..SAME });
    }
}

#[test]
fn uneven_padding() {
    for padding in [[0; 4], [2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 2], [1, 2, 3, 4]] {
        check(Case { height: 5, width: 6, inputs: 7, outputs: 9, padding, ..SAME });
    }
}

#[test]
fn residual() {
    for residual in [Residual::Apart, Residual::InPlace] {
        check(Case { height: 9, width: 8, inputs: 20, outputs: 40, residual, ..SAME });
    }
}

#[test]
fn channels_of_the_real_model() {
    check(Case { height: 3, width: 4, inputs: 512, outputs: 36, ..SAME });
    check(Case { height: 40, width: 30, inputs: 3, outputs: 4, ..SAME });
}

#[test]
fn threads_do_not_change_a_bit() {
    fn check<E: HostElement>(case: Case)
    where
        Conv2dKernel<E>: Kernel<Params = Conv2dParams>,
    {
        let tensors = Tensors::<E>::random(case, &mut Rng::from_env(11));
        for isa in paths() {
            let bits = |threads| {
                tensors.run(case, threads, isa).iter().map(|value| value.to_bits()).collect::<Vec<_>>()
            };
            let one = bits(1);
            for threads in [2, 3, 5] {
                assert!(one == bits(threads), "{case:?} on {isa}, {}: {threads} threads", E::DTYPE);
            }
        }
    }
    let case = Case { height: 30, width: 40, inputs: 24, outputs: 40, ..SAME };
    check::<f32>(case);
    check::<bf16>(case);
}

#[test]
fn bad_arguments_are_refused_with_numbers() {
    let (queue, other) = (dry(), dry());
    let tensor = |shape: &[usize]| queue.tensor(DType::Bf16, shape, "x").unwrap();
    let (x, weight, bias, out) =
        (tensor(&[4, 5, 6]), tensor(&[7, 3, 3, 6]), tensor(&[7]), tensor(&[4, 5, 7]));
    let (even, flat, thin) = (tensor(&[7, 2, 2, 6]), tensor(&[20, 6]), tensor(&[1, 5, 6]));
    let (hollow, nothing) = (tensor(&[4, 5, 0]), tensor(&[7, 3, 3, 0]));
    let single = queue.tensor(DType::F32, &[7], "single").unwrap();
    let foreign = other.tensor(DType::Bf16, &[4, 5, 7], "foreign").unwrap();
    let good = Conv2d {
        x: x.view(),
        weight: weight.view(),
        bias: Some(bias.view()),
        stride: 1,
        padding: Padding::all(1),
        residual: Some(out.view()),
        out: out.view(),
    };
    conv2d(&queue, &good).unwrap();
    let (a, b) = (foreign.view().owner(), queue.stream().id());
    let wrong_stream = format!("conv2d: memory of {a} used on {b}");
    let cases = [
        (Conv2d { x: flat.view(), ..good }, "conv2d: x should have 3 dimensions, is BF16[20, 6]"),
        (Conv2d { weight: x.view(), ..good }, "conv2d: weight should have 4 dimensions, is BF16[4, 5, 6]"),
        (Conv2d { weight: even.view(), ..good }, "conv2d: kernel is 2, should be 1 or 3"),
        (
            Conv2d { x: hollow.view(), weight: nothing.view(), ..good },
            "conv2d: in_channels is 0, should be at least 1",
        ),
        (Conv2d { x: out.view(), ..good }, "conv2d: x overlaps out, which is written"),
        (Conv2d { bias: Some(single.view()), ..good }, "conv2d: bias should be BF16, is F32"),
        (Conv2d { stride: 3, ..good }, "conv2d: stride is 3, should be 1 or 2"),
        (Conv2d { stride: 2, ..good }, "conv2d: out should be [2, 3, 7], is BF16[4, 5, 7]"),
        (
            Conv2d { x: thin.view(), padding: Padding::default(), ..good },
            "conv2d: padded height is 1, should be at least the kernel",
        ),
        (
            Conv2d { residual: Some(x.view()), ..good },
            "conv2d: residual should be [4, 5, 7], is BF16[4, 5, 6]",
        ),
        (Conv2d { residual: Some(foreign.view()), ..good }, wrong_stream.as_str()),
    ];
    for (args, message) in cases {
        assert_refused(conv2d(&queue, &args), message);
    }
}

#[test]
fn a_launch_costs_its_products_and_each_tensor_once() {
    let params = Conv2dParams {
        bias: 1,
        height: 4,
        width: 5,
        in_channels: 6,
        out_height: 4,
        out_width: 5,
        out_channels: 7,
        kernel: 3,
        stride: 1,
        ..Conv2dParams::default()
    };
    let cost = Conv2dKernel::<f32>::cost(&params);
    assert_eq!((cost.flops, cost.bytes), (2.0 * 20.0 * 7.0 * 54.0, 4.0 * (120.0 + 7.0 * 54.0 + 140.0 + 7.0)));
}
