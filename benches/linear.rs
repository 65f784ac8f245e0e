//! `ops::linear` on the host at FLUX's shapes: 1024 tokens, bf16 and f32, with bias. Right first, then timed.
//!
//! FLOPs are `2 rows columns inner`; bytes count every tensor once. The weight is read as it lies in a checkpoint, so packing it
//! is part of the time. `benches/peers` runs torch's linear on the same shapes.

mod common;

use criterion::{BenchmarkId, Criterion};
use lighterage_device::{Cost, Host};
use lighterage_ops::{Linear, Queue, Tensor, linear};
use lighterage_shape::DType;

/// Rows, columns, inner: the q, k, v projection, the second linear of an MLP, the first linear of a single block; and the
/// demo model's, where a launch is only microseconds long.
const SHAPES: [(usize, usize, usize); 5] =
    [(1024, 9216, 3072), (1024, 3072, 12288), (1024, 21504, 3072), (48, 768, 192), (16, 192, 768)];

struct Case {
    name: String,
    x: Tensor<Host>,
    weight: Tensor<Host>,
    bias: Tensor<Host>,
    out: Tensor<Host>,
    cost: Cost,
}

impl Case {
    fn new(queue: &Queue<Host>, dtype: DType, (rows, columns, inner): (usize, usize, usize)) -> Self {
        let tensor = |seed, shape: &[usize], scale| {
            let values = common::values(seed, shape.iter().product(), scale);
            queue.upload_as(dtype, &values, shape, "bench").expect("device memory")
        };
        let [m, n, k] = [rows, columns, inner].map(|extent| extent as f64);
        let bytes = (m * k + n * k + n + m * n) * dtype.bytes() as f64;
        Self {
            name: format!("linear_{}/{rows}x{columns}x{inner}", dtype.name().to_lowercase()),
            x: tensor(1, &[rows, inner], 1.0),
            weight: tensor(2, &[columns, inner], 1.0 / (inner as f32).sqrt()),
            bias: tensor(3, &[columns], 1.0),
            out: queue.tensor(dtype, &[rows, columns], "bench").expect("device memory"),
            cost: Cost { flops: 2.0 * m * n * k, bytes },
        }
    }

    fn launch(&self, queue: &Queue<Host>) {
        let args = Linear {
            x: self.x.view(),
            weight: self.weight.view(),
            bias: Some(self.bias.view()),
            activation: None,
            residual: None,
            out: self.out.view(),
        };
        linear(queue, &args).expect("a launch");
        queue.stream().synchronize().expect("the launch to end");
    }

    /// A few elements against f64: a bench of a wrong result would be worth nothing.
    fn assert_right(&self, queue: &Queue<Host>) {
        let read = |tensor: &Tensor<Host>| -> Vec<f32> {
            match tensor.dtype() {
                DType::F32 => queue.read::<f32>(tensor.view()).expect("a read").expect("bytes"),
                _ => {
                    let halves = queue.read::<half::bf16>(tensor.view()).expect("a read").expect("bytes");
                    halves.into_iter().map(half::bf16::to_f32).collect()
                }
            }
        };
        let [x, weight, bias, out] = [&self.x, &self.weight, &self.bias, &self.out].map(read);
        let (&[rows, inner], &[columns, _]) = (self.x.shape(), self.weight.shape()) else {
            unreachable!("matrices")
        };
        for sample in 0..50 {
            let (row, column) = (sample * 7919 % rows, sample * 104_729 % columns);
            let pairs = x[row * inner..][..inner].iter().zip(&weight[column * inner..][..inner]);
            let expected =
                f64::from(bias[column]) + pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
            let got = f64::from(out[row * columns + column]);
            // One rounding to bf16 is 2^-8 of the value; the f32 sum of 12288 terms of order 0.01 adds less than 1e-4.
            assert!(
                (got - expected).abs() <= expected.abs() / 250.0 + 1e-4,
                "{}: {got} at {row}, {column}, expected {expected}",
                self.name
            );
        }
    }
}

fn main() {
    let queue = common::queue();
    let criterion = Criterion::default().sample_size(10);
    // Criterion refuses arguments that it does not know.
    let mut criterion = if common::figures_only() { criterion } else { criterion.configure_from_args() };
    for dtype in [DType::Bf16, DType::F32] {
        for shape in SHAPES {
            let case = Case::new(&queue, dtype, shape);
            case.launch(&queue);
            case.assert_right(&queue);
            common::figure(&case.name, case.cost, || case.launch(&queue));
            if common::figures_only() {
                continue;
            }
            let (group, size) = case.name.split_once('/').expect("two parts");
            let mut group = criterion.benchmark_group(group);
            group.throughput(common::flops(case.cost));
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                bencher.iter(|| case.launch(&queue));
            });
        }
    }
    if !common::figures_only() {
        criterion.final_summary();
    }
}
