//! The kernels at the shapes of FLUX.1-dev, 1024 x 1024: 512 tokens of text and 4096 of the picture, 24 heads of 128.

use std::io::Write;

use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_device::{Backend, Device, Purpose, StreamKind, View};
use lighterage_ops::{
    Attention, GatedUpdate, Linear, Mask, Modulation, NormMod, QkNormRope, QkWeights, Queue, Residual,
    Tensor, attention, linear, norm_mod, qk_norm_rope,
};
use lighterage_shape::DType;
use serde::Serialize;

use super::rest::{self, Measured, Sizes};
use super::{machine, timing};
use crate::device::{DeviceArguments, Work};
use crate::failure::{Failure, Result};
use crate::json;
use crate::table::{self, Align};

/// Time the kernels at the shapes of FLUX.1-dev beside the rates that the device reaches in the same run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Divides the tokens: for devices that would take hours.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=512))]
    shrink: u32,
    /// Size of the square product that says what the device reaches.
    #[arg(long, value_name = "N", default_value_t = 8192)]
    gemm: usize,
    /// Only kernels whose name holds this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Debug, Serialize)]
struct Report {
    device: String,
    copy_bytes_per_second: f64,
    gemm_flops_per_second: f64,
    kernels: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    seconds: f64,
    flops: f64,
    bytes: f64,
    /// Of the longer of both times that the device needs at the rates measured above.
    share_of_roofline: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let report = arguments.device.run(Measure(arguments))?;
    if arguments.json {
        return json::print(&report);
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}: copies {:.1} GB/s, {} GFLOP/s in a square product",
        report.device,
        report.copy_bytes_per_second / 1e9,
        (report.gemm_flops_per_second / 1e9).round()
    )?;
    let head = ["kernel", "time", "GFLOP/s", "GB/s", "of the roofline"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.kernels.iter().map(Line::row));
    table::print(&mut out, &[Align::Left, Align::Right, Align::Right, Align::Right, Align::Right], &rows)?;
    Ok(())
}

impl Line {
    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            format!("{:.1} us", self.seconds * 1e6),
            format!("{:.0}", self.flops / self.seconds / 1e9),
            format!("{:.0}", self.bytes / self.seconds / 1e9),
            format!("{:.0} %", self.share_of_roofline * 100.0),
        ]
    }
}

struct Measure<'a>(&'a Arguments);

/// Model width, heads and their size.
pub(super) const WIDTH: usize = 3072;
const HEADS: usize = 24;
const HEAD_DIM: usize = 128;

/// Rows, columns and inner size of the products of one double and one single block, rows in tokens of 4096, 512 and 4608.
const PRODUCTS: [(&str, usize, usize, usize); 7] = [
    ("image qkv", 4096, 3 * WIDTH, WIDTH),
    ("image mlp up", 4096, 4 * WIDTH, WIDTH),
    ("image mlp down", 4096, WIDTH, 4 * WIDTH),
    ("text qkv", 512, 3 * WIDTH, WIDTH),
    ("image out", 4096, WIDTH, WIDTH),
    ("single in", 4608, 7 * WIDTH, WIDTH),
    ("single out", 4608, WIDTH, 5 * WIDTH),
];

impl Work for Measure<'_> {
    type Output = Report;

    fn run<B: Backend>(self, device: &Device<B>) -> Result<Report> {
        let Self(arguments) = self;
        let stream = device.stream(StreamKind::Compute)?;
        let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 40 };
        let bench = Bench { queue: Queue::new(Pool::new(&stream, config)?) };
        let copy = bench.copy_rate()?;
        let gemm = machine::gemm(&bench.queue, arguments.gemm)?.unwrap_or(f64::INFINITY);
        let (tokens, text) = (4608 / arguments.shrink as usize, 512 / arguments.shrink as usize);
        let mut kernels = Vec::new();
        let line = |name: &str, Measured { flops, bytes, seconds }: Measured| Line {
            name: name.to_owned(),
            seconds,
            flops,
            bytes,
            share_of_roofline: (flops / gemm).max(bytes / copy) / seconds,
        };
        let mut add = |name: &str, flops: f64, bytes: f64, time: &dyn Fn() -> Result<f64>| -> Result<()> {
            if name.contains(&arguments.only) {
                kernels.push(line(name, Measured { flops, bytes, seconds: time()? }));
            }
            Ok(())
        };
        let square = (tokens * tokens * WIDTH) as f64;
        let row = (tokens * WIDTH * 2) as f64;
        add("attention", 4.0 * square, 4.0 * row, &|| bench.attention(tokens))?;
        add("norm_mod", 0.0, 2.0 * row, &|| bench.norm_mod(tokens, text, false))?;
        add("norm_mod with update", 0.0, 4.0 * row, &|| bench.norm_mod(tokens, text, true))?;
        add("qk_norm_rope", 0.0, 4.0 * row, &|| bench.qk_norm_rope(tokens, text))?;
        for (name, rows, columns, inner) in PRODUCTS {
            let rows = rows / arguments.shrink as usize;
            let bytes = 2 * (rows * inner + columns * inner + rows * columns);
            let flops = 2.0 * rows as f64 * columns as f64 * inner as f64;
            add(&format!("linear, {name}"), flops, bytes as f64, &|| {
                bench.linear(rows, columns, inner, false)
            })?;
        }
        let (rows, inner) = (4096 / arguments.shrink as usize, 4 * WIDTH);
        let bytes = 2 * (rows * inner + WIDTH * inner + 2 * rows * WIDTH);
        let flops = 2.0 * rows as f64 * WIDTH as f64 * inner as f64;
        add("linear, image mlp down with gate and residual", flops, bytes as f64, &|| {
            bench.linear(rows, WIDTH, inner, true)
        })?;
        let side = (512 / arguments.shrink as usize).max(16);
        for (name, measure) in rest::entries() {
            if name.contains(&arguments.only) {
                kernels.push(line(name, measure(&bench, Sizes { tokens, text, side })?));
            }
        }
        Ok(Report {
            device: device.info().name.clone(),
            copy_bytes_per_second: copy,
            gemm_flops_per_second: gemm,
            kernels,
        })
    }
}

/// Buffers that are used in turn, so that a kernel does not find in the cache what its last run left there.
const SETS: usize = 3;

pub(super) struct Bench<B: Backend> {
    pub(super) queue: Queue<B>,
}

impl<B: Backend> Bench<B> {
    /// Numbers between -1 and 1, never zeros: those take less power and run faster.
    pub(super) fn tensor(&self, shape: &[usize]) -> Result<Tensor<B>> {
        let count = shape.iter().product();
        let values: Vec<f32> =
            (0..count).map(|index: usize| ((index * 7919) % 251) as f32 / 125.0 - 1.0).collect();
        Ok(self.queue.upload_as(DType::Bf16, &values, shape, "bench")?)
    }

    pub(super) fn sets(&self, shape: &[usize]) -> Result<Vec<Tensor<B>>> {
        (0..SETS).map(|_| self.tensor(shape)).collect()
    }

    /// Right first: what was written is finite, and a second run writes the same bits.
    pub(super) fn timed(&self, out: &Tensor<B>, mut work: impl FnMut(usize) -> Result<()>) -> Result<f64> {
        work(0)?;
        let first = self.queue.read_f32(out.view())?;
        let bad = first.iter().flatten().filter(|value| !value.is_finite()).count();
        if bad > 0 {
            return Err(Failure::Refused(format!("a kernel wrote {bad} numbers that are not finite")));
        }
        timing::seconds(self.queue.stream(), |call| work(call as usize % SETS))
    }

    fn repeats(&self, out: &Tensor<B>, work: impl Fn() -> Result<()>) -> Result<()> {
        let run = || -> Result<Option<Vec<f32>>> {
            work()?;
            Ok(self.queue.read_f32(out.view())?)
        };
        if run()? == run()? {
            Ok(())
        } else {
            Err(Failure::Refused("two runs of a kernel differ".to_owned()))
        }
    }

    fn copy_rate(&self) -> Result<f64> {
        let (a, b) = (self.tensor(&[64 << 20])?, self.tensor(&[64 << 20])?);
        let stream = self.queue.stream();
        let seconds = timing::seconds(stream, |_| Ok(stream.copy(a.view(), b.view())?))?;
        Ok(4.0 * f64::from(64 << 20) / seconds)
    }

    /// q, k and v as the product leaves them: side by side in one row.
    fn attention(&self, tokens: usize) -> Result<f64> {
        let (qkv, out) = (self.sets(&[tokens, 3 * WIDTH])?, self.sets(&[tokens, HEADS, HEAD_DIM])?);
        let run = |set: usize| -> Result<()> {
            let part = |index: usize| -> Result<View<'_>> {
                let part = qkv[set].view().narrow(1, index * WIDTH, WIDTH)?;
                Ok(part.split(1, HEADS)?)
            };
            let (q, k, v) = (part(0)?, part(1)?, part(2)?);
            let scale = 1.0 / (HEAD_DIM as f32).sqrt();
            Ok(attention(&self.queue, &Attention { q, k, v, out: out[set].view(), scale, mask: Mask::None })?)
        };
        self.repeats(&out[0], || run(0))?;
        self.timed(&out[0], run)
    }

    fn norm_mod(&self, tokens: usize, text: usize, with_update: bool) -> Result<f64> {
        let [x, y, out] = [(); 3].map(|()| self.sets(&[tokens, WIDTH]));
        let (x, y, out) = (x?, y?, out?);
        let vectors = (0..6).map(|_| self.tensor(&[WIDTH])).collect::<Result<Vec<_>>>()?;
        let vector = |index: usize| vectors[index].view();
        let modulation = |index: usize| Modulation { shift: vector(index), scale: vector(index + 1) };
        self.timed(&out[0], |set| {
            let update = GatedUpdate { y: y[set].view(), first_gate: vector(4), second_gate: vector(5) };
            let args = NormMod {
                x: x[set].view(),
                out: out[set].view(),
                update: with_update.then_some(update),
                split: text,
                first: modulation(0),
                second: modulation(2),
                eps: 1e-6,
            };
            Ok(norm_mod(&self.queue, &args)?)
        })
    }

    fn qk_norm_rope(&self, tokens: usize, text: usize) -> Result<f64> {
        let (q, k) = (self.sets(&[tokens, HEADS, HEAD_DIM])?, self.sets(&[tokens, HEADS, HEAD_DIM])?);
        let weight = self.tensor(&[HEAD_DIM])?;
        let angles = vec![0.6_f32; tokens * HEAD_DIM / 2];
        let angles = self.queue.upload(&angles, &[tokens, HEAD_DIM / 2], "bench")?;
        let weights = QkWeights { q: weight.view(), k: weight.view() };
        self.timed(&q[0], |set| {
            let args = QkNormRope {
                q: q[set].view(),
                k: k[set].view(),
                split: text,
                first: weights,
                second: weights,
                cos: angles.view(),
                sin: angles.view(),
                eps: 1e-6,
            };
            Ok(qk_norm_rope(&self.queue, &args)?)
        })
    }

    fn linear(&self, rows: usize, columns: usize, inner: usize, with_residual: bool) -> Result<f64> {
        let (x, weight) = (self.sets(&[rows, inner])?, self.sets(&[columns, inner])?);
        let (bias, out, residual) =
            (self.tensor(&[columns])?, self.sets(&[rows, columns])?, self.tensor(&[rows, columns])?);
        let run = |set: usize| -> Result<()> {
            let args = Linear {
                x: x[set].view(),
                weight: weight[set].view(),
                bias: Some(bias.view()),
                activation: None,
                residual: with_residual.then_some(Residual { x: residual.view(), gate: Some(bias.view()) }),
                out: out[set].view(),
            };
            Ok(linear(&self.queue, &args)?)
        };
        self.repeats(&out[0], || run(0))?;
        self.timed(&out[0], run)
    }
}
