#![expect(
    clippy::cast_possible_truncation,
    reason = "the sizes of tests are small, and their f64 references are rounded on purpose"
)]

use half::bf16;
use lighterage_device::{Isa, Kernel, Workers};
use lighterage_kernels::params::LinearParams;
use lighterage_shape::DType;
use lighterage_testkit::{Rng, assert_close};

use super::{Linear, LinearKernel, Residual, linear};
use crate::ActivationKind;
use crate::gemm::{Guarded, HostElement, bf16_rounding};
use crate::testing::{Board, assert_refused, dry, normals, on_threads};

/// f32 sums of up to 12288 products in one order: the error grows like sqrt(inner) 2^-24 = 6.6e-6 at most, and 2e-7 for what stands around them.
const F32_SUMS: f64 = 7.0e-6;

#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    columns: usize,
    inner: usize,
    /// Elements between rows beyond their length: x, weight, residual, out.
    gaps: [usize; 4],
    bias: bool,
    activation: Option<ActivationKind>,
    residual: Option<Gate>,
    in_place: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Gate {
    Absent,
    Present,
}

const PLAIN: Case = Case {
    rows: 1,
    columns: 1,
    inner: 1,
    gaps: [0; 4],
    bias: false,
    activation: None,
    residual: None,
    in_place: false,
};

/// Tensors of a case.
#[derive(Clone, Debug)]
struct Tensors<E> {
    x: Guarded<E>,
    weight: Guarded<E>,
    bias: Guarded<E>,
    gate: Guarded<E>,
    residual: Guarded<E>,
    out: Guarded<E>,
}

impl<E: HostElement> Tensors<E> {
    fn random(case: Case, rng: &mut Rng) -> Self {
        let Case { rows, columns, inner, gaps: [x, weight, residual, out], .. } = case;
        let scale = 1.0 / (inner.max(1) as f32).sqrt();
        Self {
            x: Guarded::new(&rng.normals(rows * inner, 1.0), inner, inner + x),
            weight: Guarded::new(&rng.normals(columns * inner, scale), inner, inner + weight),
            bias: Guarded::new(&rng.normals(columns, 1.0), columns, columns),
            gate: Guarded::new(&rng.normals(columns, 1.0), columns, columns),
            residual: Guarded::new(&rng.normals(rows * columns, 1.0), columns, columns + residual),
            out: Guarded::poisoned(rows, columns, columns + out),
        }
    }

    /// Runs the kernel and returns the output.
    fn run(&self, case: Case, threads: usize, isa: Isa) -> Vec<f32>
    where
        LinearKernel<E>: Kernel<Params = LinearParams>,
    {
        let mut out = if case.in_place { self.residual.clone() } else { self.out.clone() };
        let (address, stride) = (out.address_mut(), out.stride());
        let when = |present: bool, address: u64| if present { address } else { 0 };
        let residual = if case.in_place { address } else { self.residual.address() };
        let params = LinearParams {
            x: self.x.address(),
            weight: self.weight.address(),
            bias: when(case.bias, self.bias.address()),
            gate: when(case.residual == Some(Gate::Present), self.gate.address()),
            residual: when(case.residual.is_some(), residual),
            out: address,
            workspace: 0,
            x_stride: self.x.stride(),
            weight_stride: self.weight.stride(),
            residual_stride: self.residual.stride(),
            out_stride: stride,
            rows: case.rows as u32,
            columns: case.columns as u32,
            inner: case.inner as u32,
            activation: case.activation.map_or(0, ActivationKind::code),
        };
        let workers = Workers::new(threads, Some(isa)).unwrap();
        // SAFETY: the tensors have the sizes and strides in `params`, and live until here.
        unsafe { LinearKernel::<E>::host(&params, &workers) };
        out.assert_guards();
        out.values()
    }

    /// The same in f64, from the rounded inputs, rounded where the kernel rounds, but for the last time.
    fn expected(&self, case: Case) -> Vec<f32> {
        let round = |value: f64| if size_of::<E>() == 2 { bf16::from_f64(value).to_f64() } else { value };
        let [x, weight, bias, gate, residual] =
            [&self.x, &self.weight, &self.bias, &self.gate, &self.residual].map(|tensor| tensor.values());
        let mut out = Vec::new();
        for row in 0..case.rows {
            for column in 0..case.columns {
                let pairs = x[row * case.inner..][..case.inner]
                    .iter()
                    .zip(&weight[column * case.inner..][..case.inner]);
                let mut sum: f64 = pairs.map(|(x, weight)| f64::from(*x) * f64::from(*weight)).sum();
                if case.bias {
                    sum += f64::from(bias[column]);
                }
                if case.activation.is_some() {
                    sum = activate(case.activation, round(sum));
                }
                if case.residual == Some(Gate::Present) {
                    sum = round(sum) * f64::from(gate[column]);
                }
                if case.residual.is_some() {
                    sum = round(sum) + f64::from(residual[row * case.columns + column]);
                }
                out.push(sum as f32);
            }
        }
        out
    }
}

fn activate(activation: Option<ActivationKind>, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        None => x,
        Some(ActivationKind::GeluTanh) => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        Some(ActivationKind::Gelu) => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Some(ActivationKind::QuickGelu) => x * sigmoid(1.702 * x),
        Some(ActivationKind::Silu) => x * sigmoid(x),
        Some(ActivationKind::Relu) => x.max(0.0),
    }
}

/// The power series of erf; x is at most 5 here, where its terms stay below 1e10 and 1e-6 of the sum's digits remain.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200_u32 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn check_of<E: HostElement>(case: Case, bound: f64)
where
    LinearKernel<E>: Kernel<Params = LinearParams>,
{
    let tensors = Tensors::<E>::random(case, &mut Rng::from_env(7));
    let expected = tensors.expected(case);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let got = tensors.run(case, 1, isa);
        assert_close(&format!("{case:?} on {isa}, {}", E::DTYPE), &got, &expected, bound);
    }
}

fn check(case: Case) {
    check_of::<f32>(case, F32_SUMS);
    check_of::<bf16>(case, bf16_rounding(case.rows * case.columns));
}

/// Around the sizes of a register, a panel, a tile, a block of the inner dimension and of the output.
const EDGES: [usize; 10] = [1, 2, 12, 13, 15, 16, 17, 31, 33, 129];

#[test]
fn every_combination_of_small_rows_and_columns() {
    for rows in EDGES {
        for columns in EDGES {
            check(Case { rows, columns, inner: 37, ..PLAIN });
        }
    }
}

#[test]
fn every_inner_length() {
    for inner in [1, 2, 3, 15, 16, 17, 31, 32, 33, 127, 129, 191, 192, 193, 383, 384, 385, 769] {
        check(Case { rows: 14, columns: 34, inner, ..PLAIN });
    }
}

#[test]
fn nothing_to_sum_leaves_the_rest() {
    check(Case { rows: 3, columns: 5, inner: 0, bias: true, residual: Some(Gate::Present), ..PLAIN });
}

#[test]
fn blocks_of_rows_and_columns() {
    check(Case { rows: 513, columns: 130, inner: 40, bias: true, ..PLAIN });
    check(Case { rows: 1030, columns: 3, inner: 5, ..PLAIN });
}

#[test]
fn rows_of_the_real_model() {
    check(Case { rows: 3, columns: 40, inner: 3072, bias: true, ..PLAIN });
    check(Case { rows: 2, columns: 33, inner: 12288, activation: Some(ActivationKind::GeluTanh), ..PLAIN });
}

#[test]
fn every_epilogue() {
    use ActivationKind::{Gelu, GeluTanh, QuickGelu, Relu, Silu};
    let activations = [None, Some(GeluTanh), Some(Gelu), Some(QuickGelu), Some(Silu), Some(Relu)];
    for activation in activations {
        for bias in [false, true] {
            for residual in [None, Some(Gate::Absent), Some(Gate::Present)] {
                check(Case { rows: 19, columns: 45, inner: 50, bias, activation, residual, ..PLAIN });
            }
        }
    }
}

#[test]
fn strided_rows() {
    let residual = Some(Gate::Present);
    for gaps in [[3, 0, 0, 0], [0, 5, 0, 0], [0, 0, 7, 0], [0, 0, 0, 9], [1, 2, 3, 4], [64, 32, 16, 8]] {
        check(Case { rows: 21, columns: 35, inner: 51, gaps, bias: true, residual, ..PLAIN });
    }
}

#[test]
fn residual_in_place() {
    for residual in [Gate::Absent, Gate::Present] {
        let case = Case { rows: 530, columns: 140, inner: 33, gaps: [0, 0, 6, 6], ..PLAIN };
        check(Case { residual: Some(residual), in_place: true, bias: true, ..case });
    }
}

#[test]
fn no_rows_or_no_columns_write_nothing() {
    for (rows, columns) in [(0, 5), (5, 0), (0, 0)] {
        check(Case { rows, columns, inner: 4, ..PLAIN });
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    fn check<E: HostElement>(case: Case)
    where
        LinearKernel<E>: Kernel<Params = LinearParams>,
    {
        let tensors = Tensors::<E>::random(case, &mut Rng::from_env(11));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let bits = |threads| {
                tensors.run(case, threads, isa).iter().map(|value| value.to_bits()).collect::<Vec<_>>()
            };
            let one = bits(1);
            for threads in [2, 3, 5] {
                assert!(one == bits(threads), "{case:?} on {isa}, {}: {threads} threads", E::DTYPE);
            }
        }
    }
    // Above the work that runs inline.
    let case =
        Case { rows: 140, columns: 300, inner: 401, bias: true, residual: Some(Gate::Present), ..PLAIN };
    check::<f32>(case);
    check::<bf16>(case);
    // Few rows: narrow tasks, one panel each and the last one not full.
    let few = Case { rows: 16, columns: 210, inner: 401, ..case };
    check::<f32>(few);
    check::<bf16>(few);
}

/// A row's result does not depend on what else is in the launch: tokens may be split between launches.
#[test]
fn rows_do_not_depend_on_their_neighbours() {
    fn check<E: HostElement>()
    where
        LinearKernel<E>: Kernel<Params = LinearParams>,
    {
        let all = Case { rows: 29, columns: 50, inner: 400, bias: true, ..PLAIN };
        let tensors = Tensors::<E>::random(all, &mut Rng::from_env(13));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let whole = tensors.run(all, 1, isa);
            for rows in [1, 2, 13, 16] {
                let part = Case { rows, ..all };
                let mut fewer = tensors.clone();
                fewer.out = Guarded::poisoned(rows, all.columns, all.columns);
                assert_eq!(fewer.run(part, 1, isa), whole[..rows * all.columns], "{rows} rows on {isa}");
            }
        }
    }
    check::<f32>();
    check::<bf16>();
}

#[test]
fn nan_and_infinity_come_through() {
    let case = Case { rows: 2, columns: 3, inner: 4, ..PLAIN };
    let mut tensors = Tensors::<bf16>::random(case, &mut Rng::from_env(17));
    tensors.x = Guarded::new(&[1.0, f32::NAN, 1.0, 1.0, f32::INFINITY, 0.0, 0.0, 0.0], 4, 4);
    tensors.weight = Guarded::new(&[1.0; 12], 4, 4);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let got = tensors.run(case, 1, isa);
        assert!(got[..3].iter().all(|value| value.is_nan()), "{got:?} on {isa}");
        assert!(got[3..].iter().all(|value| *value == f32::INFINITY), "{got:?} on {isa}");
    }
}

#[test]
fn bad_arguments_are_refused_with_numbers() {
    let (queue, other) = (dry(), dry());
    let tensor = |shape: &[usize]| queue.tensor(DType::Bf16, shape, "x").unwrap();
    let (x, weight, vector, out) = (tensor(&[4, 6]), tensor(&[5, 6]), tensor(&[5]), tensor(&[4, 5]));
    let (narrow, tall, wide) = (tensor(&[5, 4]), tensor(&[6, 5]), tensor(&[4, 9]));
    let single = queue.tensor(DType::F32, &[5], "single").unwrap();
    let foreign = other.tensor(DType::Bf16, &[5, 6], "foreign").unwrap();
    let good = Linear {
        x: x.view(),
        weight: weight.view(),
        bias: Some(vector.view()),
        activation: None,
        residual: Some(Residual { x: out.view(), gate: Some(vector.view()) }),
        out: out.view(),
    };
    linear(&queue, &good).unwrap();
    let column = |start, length| wide.view().narrow(1, start, length).unwrap();
    let added = |x, gate| Some(Residual { x, gate });
    let (a, b) = (foreign.view().owner(), queue.stream().id());
    let wrong_stream = format!("linear: memory of {a} used on {b}");
    let cases = [
        (Linear { x: vector.view(), ..good }, "linear: x should have 2 dimensions, is BF16[5]"),
        (Linear { weight: narrow.view(), ..good }, "linear: weight should be [5, 6], is BF16[5, 4]"),
        (
            Linear { weight: tall.view().transpose(0, 1).unwrap(), ..good },
            "linear: weight should be dense along its last dimension, is BF16[5, 6]/[1, 5]",
        ),
        (Linear { bias: Some(single.view()), ..good }, "linear: bias should be BF16, is F32"),
        (Linear { bias: Some(x.view()), ..good }, "linear: bias should be [5], is BF16[4, 6]"),
        (
            Linear { residual: added(x.view(), None), ..good },
            "linear: residual should be [4, 5], is BF16[4, 6]",
        ),
        (
            Linear { residual: added(out.view(), Some(single.view())), ..good },
            "linear: gate should be BF16, is F32",
        ),
        (Linear { out: x.view(), ..good }, "linear: out should be [4, 5], is BF16[4, 6]"),
        (
            Linear { residual: added(column(0, 5), None), out: column(3, 5), ..good },
            "linear: residual overlaps out, which is written",
        ),
        (
            Linear {
                residual: None,
                bias: Some(out.view().reshape(&[20]).unwrap().narrow(0, 3, 5).unwrap()),
                ..good
            },
            "linear: bias overlaps out, which is written",
        ),
        (Linear { weight: foreign.view(), ..good }, wrong_stream.as_str()),
    ];
    for (args, message) in cases {
        assert_refused(linear(&queue, &args), message);
    }
}

#[test]
fn a_launch_costs_its_products_and_each_tensor_once() {
    let params = LinearParams {
        bias: 1,
        gate: 1,
        residual: 1,
        rows: 10,
        columns: 20,
        inner: 30,
        ..LinearParams::default()
    };
    let cost = LinearKernel::<bf16>::cost(&params);
    assert_eq!((cost.flops, cost.bytes), (12_000.0, 2.0 * (300.0 + 600.0 + 2.0 * 20.0 + 2.0 * 200.0)));
}

#[test]
fn sums_of_bf16_are_stored_unrounded_where_the_output_is_f32() {
    let (rows, columns, inner) = (19, 45, 130);
    let mut rng = Rng::from_env(9);
    let [x, weight, bias] =
        [rows * inner, columns * inner, columns].map(|count| normals(&mut rng, DType::Bf16, count, 0.0));
    let got = on_threads(|queue| {
        let half = |values: &[f32], shape: &[usize]| queue.upload_as(DType::Bf16, values, shape, "half");
        let (x, weight, bias) =
            (half(&x, &[rows, inner])?, half(&weight, &[columns, inner])?, half(&bias, &[columns])?);
        let out = Board::poisoned(queue, DType::F32, [rows, columns], true)?;
        let args = Linear {
            x: x.view(),
            weight: weight.view(),
            bias: Some(bias.view()),
            activation: None,
            residual: None,
            out: out.view(),
        };
        linear(queue, &args)?;
        out.read(queue)
    });
    let dot = |row: usize, column: usize| {
        let pairs = x[row * inner..][..inner].iter().zip(&weight[column * inner..][..inner]);
        pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() + f64::from(bias[column])
    };
    let expected: Vec<f32> = (0..rows * columns).map(|i| dot(i / columns, i % columns) as f32).collect();
    assert_close("sums", &got, &expected, F32_SUMS);
}

#[test]
fn sums_are_not_finished() {
    let queue = dry();
    let half = |shape: &[usize]| queue.tensor(DType::Bf16, shape, "half").unwrap();
    let (x, weight) = (half(&[4, 6]), half(&[5, 6]));
    let out = queue.tensor(DType::F32, &[4, 5], "out").unwrap();
    let good = Linear {
        x: x.view(),
        weight: weight.view(),
        bias: None,
        activation: None,
        residual: None,
        out: out.view(),
    };
    linear(&queue, &good).unwrap();
    let active = Linear { activation: Some(ActivationKind::Silu), ..good };
    let message = "linear: steps after sums that are stored as f32 is 1, should be none";
    assert_refused(linear(&queue, &active), message);
    let single = queue.tensor(DType::F32, &[4, 6], "x").unwrap();
    let mixed = Linear { x: single.view(), ..good };
    assert_refused(linear(&queue, &mixed), "linear: weight should be F32, is BF16");
}
