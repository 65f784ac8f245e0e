//! `ops::attention` on the host: 24 heads x 128 of 1024 tokens in bf16, the synthetic model's 8 heads of 1152, the VAE's one
//! head x 512. Right first, then timed.
//!
//! FLOPs are `4 queries keys heads head_dim`, exponentials not counted; bytes count every tensor once. `benches/peers` runs
//! torch's `scaled_dot_product_attention` on the first shape.

mod common;

use criterion::{BenchmarkId, Criterion};
use half::bf16;
use lighterage_device::{Cost, Host};
use lighterage_ops::{Attention, Mask, Queue, Tensor, attention};
use lighterage_shape::DType;

/// Heads, tokens, elements of a head.
const SHAPES: [(usize, usize, usize); 4] = [(24, 1024, 128), (8, 1152, 128), (1, 1024, 512), (6, 48, 32)];

struct Case {
    name: String,
    tensors: [Tensor<Host>; 3],
    out: Tensor<Host>,
    cost: Cost,
}

impl Case {
    fn new(queue: &Queue<Host>, (heads, tokens, head_dim): (usize, usize, usize)) -> Self {
        let shape = [tokens, heads, head_dim];
        let count = tokens * heads * head_dim;
        let tensor = |seed| {
            queue
                .upload_as(DType::Bf16, &common::values(seed, count, 1.0), &shape, "bench")
                .expect("device memory")
        };
        Self {
            name: format!("attention_bf16/{heads}x{tokens}x{head_dim}"),
            tensors: [1, 2, 3].map(tensor),
            out: queue.tensor(DType::Bf16, &shape, "bench").expect("device memory"),
            cost: Cost { flops: 4.0 * (count * tokens) as f64, bytes: 8.0 * count as f64 },
        }
    }

    fn launch(&self, queue: &Queue<Host>) {
        let [q, k, v] = self.tensors.each_ref().map(Tensor::view);
        let args = Attention { q, k, v, out: self.out.view(), scale: self.scale(), mask: Mask::None };
        attention(queue, &args).expect("a launch");
        queue.stream().synchronize().expect("the launch to end");
    }

    fn scale(&self) -> f32 {
        1.0 / (self.out.shape()[2] as f32).sqrt()
    }

    /// A few rows against f64: a bench of a wrong result would be worth nothing.
    fn assert_right(&self, queue: &Queue<Host>) {
        let read = |tensor: &Tensor<Host>| -> Vec<f64> {
            let values = queue.read::<bf16>(tensor.view()).expect("a read").expect("bytes");
            values.into_iter().map(f64::from).collect()
        };
        let [q, k, v] = self.tensors.each_ref().map(read);
        let out = read(&self.out);
        let &[tokens, heads, head_dim] = self.out.shape() else { unreachable!("three dimensions") };
        for sample in 0..5 {
            let (query, head) = (sample * 7919 % tokens, sample % heads);
            let row = |values: &[f64], token: usize| {
                values[(token * heads + head) * head_dim..][..head_dim].to_vec()
            };
            let wanted = row(&q, query);
            let score = |key| {
                wanted.iter().zip(row(&k, key)).map(|(q, k)| q * k).sum::<f64>() * f64::from(self.scale())
            };
            let powers: Vec<f64> = (0..tokens).map(|key| score(key).exp()).collect();
            let sum: f64 = powers.iter().sum();
            let (mut error, mut norm) = (0.0, 0.0);
            for (d, got) in row(&out, query).into_iter().enumerate() {
                let expected = (0..tokens).map(|key| powers[key] * row(&v, key)[d]).sum::<f64>() / sum;
                error += (got - expected).powi(2);
                norm += expected * expected;
            }
            // The bound of the tests for few rows.
            assert!(
                (error / norm).sqrt() < 6e-3,
                "{}: row {query} of head {head} is off by {:e}",
                self.name,
                (error / norm).sqrt()
            );
        }
    }
}

fn main() {
    let queue = common::queue();
    let criterion = Criterion::default().sample_size(10);
    // Criterion refuses arguments that it does not know.
    let mut criterion = if common::figures_only() { criterion } else { criterion.configure_from_args() };
    for shape in SHAPES {
        let case = Case::new(&queue, shape);
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
    if !common::figures_only() {
        criterion.final_summary();
    }
}
