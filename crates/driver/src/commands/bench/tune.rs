//! Who multiplies the shapes of a model fastest: measured on a GPU, written as a table.

use std::io::Write;
use std::path::{Path, PathBuf};

use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_device::{Cuda, ProductCall, ProductLibrary, Purpose, StreamKind};
use lighterage_kernels::gemm::linear::{Alignment, Epilogue, Plan, Shape};
use lighterage_kernels::gemm::table::{Library, Line, Table, WORKSPACE_BYTES_MAX};
use lighterage_ops::{Linear, Queue, Residual, Tensor, linear_by, linear_plans};
use lighterage_shape::DType;
use serde::Serialize;

use super::{machine, timing};
use crate::commands::plan::{Scene, Sides};
use crate::count::counted;
use crate::device::DeviceArguments;
use crate::failure::{Failure, Result};
use crate::gemm_table;
use crate::size::Size;
use crate::table::{self, Align};
use crate::{json, output, range};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(super) struct TuneArguments {
    /// Instead measure who multiplies the shapes of a model fastest, our own variants or cuBLASLt, and write that as a table for --gemm-table.
    #[arg(long, value_name = "FILE")]
    pub(super) tune: Option<PathBuf>,
    /// With --tune: a built-in model (`flux-dev`, `flux-dev+infinite-you`) or a folder in the layout of diffusers.
    #[arg(long, value_name = "NAME|DIR", default_value = "flux-dev+infinite-you", requires = "tune")]
    model: String,
    /// With --tune: size of the picture in pixels, which says how many rows products have.
    #[arg(long, value_name = "WxH", default_value = "1280x720", requires = "tune")]
    size: Sides,
    /// With --tune: steps of the loop; the modulation of all of them is one product.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = range::steps, requires = "tune")]
    steps: usize,
    /// With --tune: what cuBLASLt may use of the device's memory beside the operands; counts to the budget wherever the table is used.
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = range::bytes(1..=WORKSPACE_BYTES_MAX), requires = "tune")]
    workspace: Size,
    /// With --tune: how often each is timed, 20 ms or more at a time; the median counts.
    #[arg(long, value_name = "N", default_value_t = timing::BATCHES, value_parser = range::whole(1..=1000_usize), requires = "tune")]
    batches: usize,
    /// With --tune: give the library every product that it can make, also where ours is faster: to test it.
    #[arg(long, requires = "tune")]
    foreign: bool,
}

/// Algorithms of cuBLASLt that are tried for a shape.
const ALGORITHMS_MAX: usize = 8;

/// What a line has to gain over our model's choice: less is noise, and every line is one more thing that can be wrong.
const GAIN: f64 = 1.02;

/// Two right results: each within 2e-3 of the exact one (docs/kernels/linear.md), relative Frobenius.
const APART_MAX: f64 = 4e-3;

/// Rows at either end of the output that are compared.
const STRIP: usize = 64;

/// Operands that are used in turn, so that a product does not find in the cache what the last one left there.
const SETS: usize = 3;

/// One product, and who won.
#[derive(Debug, Serialize)]
struct Outcome {
    rows: u32,
    columns: u32,
    inner: u32,
    epilogue: &'static str,
    candidates: usize,
    /// Candidates whose result was not that of the model's choice.
    wrong: usize,
    model: String,
    model_seconds: f64,
    best: String,
    best_seconds: f64,
    is_in_table: bool,
    /// Of every candidate that is right.
    times: Vec<Time>,
}

#[derive(Debug, Serialize)]
struct Time {
    plan: String,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    device: String,
    library: Option<String>,
    table: PathBuf,
    sha256: String,
    products: Vec<Outcome>,
}

pub(super) fn run(
    arguments: &TuneArguments,
    device: &DeviceArguments,
    path: &Path,
    as_json: bool,
) -> Result<()> {
    output::check(path)?;
    let scene = Scene {
        model: &arguments.model,
        infinite_you: None,
        lora: &[],
        size: arguments.size,
        steps: arguments.steps,
    };
    let survey = scene.survey(None)?;
    let device = device.measured_gpu(arguments.workspace.0)?;
    let stream = device.stream(StreamKind::Compute)?;
    let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 40 };
    let queue = Queue::new(Pool::new(&stream, config)?);
    let contest = Contest { queue, batches: arguments.batches, foreign: arguments.foreign };
    let (mut lines, mut products) = (Vec::new(), Vec::new());
    for call in survey.products().iter().filter(|call| is_tunable(call.shape)) {
        let (line, outcome) = contest.decide(*call)?;
        output::note(&outcome.text());
        lines.extend(line);
        products.push(outcome);
    }
    let library = library(&device, arguments.workspace.0).filter(|_| lines.iter().any(is_foreign));
    let comment = comment(arguments, &device.info().name, &products);
    let text = Table::text(&lines, library, &comment);
    output::write(path, |file| file.write_all(text.as_bytes()))?;
    // What was written is read as it will be: a table that cannot be is no table.
    let written = gemm_table::read(&path.display().to_string()).map_err(Failure::Refused)?;
    let report = Report {
        device: device.info().name.clone(),
        library: device.info().product_library.clone(),
        table: path.to_owned(),
        sha256: written.sha256,
        products,
    };
    if as_json { json::print(&report) } else { report.print() }
}

/// Others have one kernel and no choice.
const fn is_tunable(shape: Shape) -> bool {
    matches!(shape.alignment, Alignment::Bytes16) && shape.inner > 0
}

const fn is_foreign(line: &Line) -> bool {
    is_of_library(&line.plan)
}

const fn is_of_library(plan: &Plan) -> bool {
    matches!(plan, Plan::CublasLt(_))
}

fn library(device: &lighterage_device::Device<Cuda>, workspace_bytes: u64) -> Option<Library> {
    match device.backend().product_library() {
        ProductLibrary::Used { version } => Some(Library { version, workspace_bytes }),
        _ => None,
    }
}

fn comment(arguments: &TuneArguments, device: &str, products: &[Outcome]) -> String {
    let TuneArguments { model, size, steps, .. } = arguments;
    let mut text = format!("Measured on {device} for {model}, {size}, {}. ", counted(*steps, "step"));
    text += &if arguments.foreign {
        "cuBLASLt has all that it can do, also where ours is faster.\n".to_owned()
    } else {
        let percent = (GAIN - 1.0) * 100.0;
        format!("What is missing is our model's choice: it is the fastest, or within {percent:.0} %.\n")
    };
    for outcome in products.iter().filter(|outcome| outcome.is_in_table) {
        text += &outcome.text();
        text += "\n";
    }
    text
}

struct Contest {
    queue: Queue<Cuda>,
    batches: usize,
    /// Whether the library gets what it can do.
    foreign: bool,
}

impl Contest {
    /// A line, if somebody beats our model's choice.
    fn decide(&self, call: ProductCall) -> Result<(Option<Line>, Outcome)> {
        let ring = Ring::new(&self.queue, call)?;
        let plans = linear_plans(&self.queue, &ring.args(0), ALGORITHMS_MAX)?;
        let expected = self.strips(&ring, plans[0])?;
        let (mut timed, mut wrong) = (Vec::new(), 0);
        for plan in &plans {
            if self.is_right(&ring, *plan, &expected)? {
                timed.push((self.seconds(&ring, *plan)?, *plan));
            } else {
                wrong += 1;
            }
        }
        let Some((model_seconds, model)) = timed.first().copied().filter(|(_, plan)| *plan == plans[0])
        else {
            return Err(Failure::Refused(format!("{call:?}: two runs of our own kernel differ")));
        };
        let fastest = |wanted: fn(&Plan) -> bool| {
            timed.iter().copied().filter(|(_, plan)| wanted(plan)).min_by(|a, b| a.0.total_cmp(&b.0))
        };
        let foreign = if self.foreign { fastest(is_of_library) } else { None };
        let best = foreign.or_else(|| fastest(|_| true)).unwrap_or((model_seconds, model));
        let is_in_table = foreign.is_some() || best.0 * GAIN < model_seconds;
        let arch = self.queue.device().backend().target().arch;
        let Shape { rows, columns, inner, .. } = call.shape;
        let outcome = Outcome {
            rows,
            columns,
            inner,
            epilogue: call.epilogue.name(),
            candidates: plans.len(),
            wrong,
            model: name(model),
            model_seconds,
            best: name(best.1),
            best_seconds: best.0,
            is_in_table,
            times: timed
                .iter()
                .map(|(seconds, plan)| Time { plan: name(*plan), seconds: *seconds })
                .collect(),
        };
        Ok((is_in_table.then_some(Line { arch, call, plan: best.1 }), outcome))
    }

    fn seconds(&self, ring: &Ring, plan: Plan) -> Result<f64> {
        timing::seconds_of(self.queue.stream(), self.batches, |call| {
            Ok(linear_by(&self.queue, &ring.args(call as usize % SETS), plan)?)
        })
    }

    /// Right first: the same bits twice, and those of the model's choice but for rounding.
    fn is_right(&self, ring: &Ring, plan: Plan, expected: &[f32]) -> Result<bool> {
        let (first, second) = (self.strips(ring, plan)?, self.strips(ring, plan)?);
        Ok(first == second && apart(&first, expected) <= APART_MAX)
    }

    /// The first and the last rows of what it makes of an output that was full of NaN.
    fn strips(&self, ring: &Ring, plan: Plan) -> Result<Vec<f32>> {
        let out = ring.out[0].view();
        self.queue.stream().fill(out, 0xff)?;
        linear_by(&self.queue, &ring.args(0), plan)?;
        let rows = ring.out[0].shape()[0];
        let strip = rows.min(STRIP);
        let mut values = Vec::new();
        for start in [0, rows - strip] {
            values.extend(self.queue.read_f32(out.rows(start, strip)?)?.unwrap_or_default());
        }
        Ok(values)
    }
}

/// Relative Frobenius; NaN is infinitely far.
fn apart(got: &[f32], expected: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let error = squares(&mut got.iter().zip(expected).map(|(got, expected)| f64::from(got - expected)));
    let size = squares(&mut expected.iter().map(|value| f64::from(*value)));
    let apart = (error / size).sqrt();
    if apart.is_nan() || got.len() != expected.len() { f64::INFINITY } else { apart }
}

fn name(plan: Plan) -> String {
    match plan {
        Plan::Own(config) => config.image.to_owned(),
        Plan::CublasLt(algorithm) => format!("cublaslt {}", &algorithm.to_string()[..16]),
    }
}

/// The operands of a product, several times.
struct Ring {
    x: Vec<Tensor<Cuda>>,
    weight: Vec<Tensor<Cuda>>,
    out: Vec<Tensor<Cuda>>,
    vector: Tensor<Cuda>,
    residual: Tensor<Cuda>,
    epilogue: Epilogue,
}

impl Ring {
    fn new(queue: &Queue<Cuda>, call: ProductCall) -> Result<Self> {
        let Shape { rows, columns, inner, .. } = call.shape;
        let [rows, columns, inner] = [rows, columns, inner].map(|size| size as usize);
        let set = |shape: [usize; 2]| copies(queue, &shape);
        let residual_rows = if call.epilogue == Epilogue::Fused { rows } else { 1 };
        Ok(Self {
            x: set([rows, inner])?,
            weight: set([columns, inner])?,
            // Full of something else before anything is compared.
            out: (0..SETS)
                .map(|_| Ok(queue.tensor(DType::Bf16, &[rows, columns], "bench")?))
                .collect::<Result<_>>()?,
            vector: tensor(queue, &[columns])?,
            residual: tensor(queue, &[residual_rows, columns])?,
            epilogue: call.epilogue,
        })
    }

    /// What is fused is a gate and a residual: the epilogue that moves most bytes.
    fn args(&self, set: usize) -> Linear<'_> {
        let residual = Residual { x: self.residual.view(), gate: Some(self.vector.view()) };
        Linear {
            x: self.x[set].view(),
            weight: self.weight[set].view(),
            bias: (self.epilogue != Epilogue::Plain).then_some(self.vector.view()),
            activation: None,
            residual: (self.epilogue == Epilogue::Fused).then_some(residual),
            out: self.out[set].view(),
        }
    }
}

/// The same numbers at every place of a ring: made once, for the host is slow at it.
fn copies(queue: &Queue<Cuda>, shape: &[usize]) -> Result<Vec<Tensor<Cuda>>> {
    let mut copies = vec![tensor(queue, shape)?];
    for _ in 1..SETS {
        let copy = queue.tensor(DType::Bf16, shape, "bench")?;
        queue.stream().copy(copy.view(), copies[0].view())?;
        copies.push(copy);
    }
    Ok(copies)
}

fn tensor(queue: &Queue<Cuda>, shape: &[usize]) -> Result<Tensor<Cuda>> {
    Ok(queue.upload(&machine::numbers(shape.iter().product()), shape, "bench")?)
}

impl Outcome {
    fn text(&self) -> String {
        let Self { rows, columns, inner, epilogue, model, best, .. } = self;
        let micro = |seconds: f64| format!("{:.1} us", seconds * 1e6);
        let (model_time, best_time) = (micro(self.model_seconds), micro(self.best_seconds));
        format!(
            "{rows} x {columns} x {inner} {epilogue}: {best} {best_time}, the model's {model} {model_time}"
        )
    }
}

impl Report {
    fn print(&self) -> Result<()> {
        let mut out = output::stdout();
        writeln!(out, "{}, {}", self.device, self.library.as_deref().unwrap_or("no cuBLASLt"))?;
        let head = ["rows", "columns", "inner", "then", "tried", "wrong", "model's", "best", "by"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.products.iter().map(|outcome| {
            let micro = |seconds: f64| format!("{:.1} us", seconds * 1e6);
            vec![
                outcome.rows.to_string(),
                outcome.columns.to_string(),
                outcome.inner.to_string(),
                outcome.epilogue.to_owned(),
                outcome.candidates.to_string(),
                outcome.wrong.to_string(),
                micro(outcome.model_seconds),
                micro(outcome.best_seconds),
                if outcome.is_in_table { outcome.best.clone() } else { "the model's".to_owned() },
            ]
        }));
        let right = Align::Right;
        let aligns = [right, right, right, Align::Left, right, right, right, right, Align::Left];
        table::print(&mut out, &aligns, &rows)?;
        let lines = self.products.iter().filter(|outcome| outcome.is_in_table).count();
        writeln!(out, "{}: {}, sha256 {}", self.table.display(), counted(lines, "line"), self.sha256)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fifth of a second or so for each of a dozen candidates: `.ci/gpu-run` has a minute for all.
    #[test]
    fn products_of_flux_are_few() {
        let size = "1280x720".parse().unwrap();
        let scene = Scene { model: "flux-dev+infinite-you", infinite_you: None, lora: &[], size, steps: 50 };
        let survey = scene.survey(None).unwrap();
        let count = survey.products().iter().filter(|call| is_tunable(call.shape)).count();
        assert!((20..60).contains(&count), "{count} products");
    }

    #[test]
    fn distance_of_results() {
        assert_eq!(apart(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(apart(&[3.0, 9.0], &[3.0, 4.0]), 1.0);
        assert_eq!(apart(&[f32::NAN, 4.0], &[3.0, 4.0]), f64::INFINITY);
        assert_eq!(apart(&[3.0], &[3.0, 4.0]), f64::INFINITY);
    }
}
