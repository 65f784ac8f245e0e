//! The kernels at the shapes of FLUX.1-dev: 512 tokens of text and at 1024 x 1024 4096 of the picture, 24 heads of 128.
//!
//! What a launch computes and moves is what its kernel says, read from a recording of one call: the planner and the simulator reckon with the same numbers.

use std::fmt;
use std::io::Write;

use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_device::{
    Backend, Cost, Detail, Device, MemoryCosts, Profile, Purpose, Rates, Recorder, StreamKind, View, What,
};
use lighterage_ops::{
    Attention, GatedUpdate, Linear, Mask, Modulation, NormMod, QkNormRope, QkWeights, Queue, Residual,
    Tensor, attention, linear, norm_mod, norm_mod_by_warps, qk_norm_rope,
};
use serde::Serialize;

use super::timing::TimedBy;
use super::{PRODUCTS, machine, rest, timing};
use crate::count::{counted, one_or};
use crate::device::{DeviceArguments, Work};
use crate::failure::{Failure, Result};
use crate::table::{self, Align};
use crate::{json, output, range};

/// Time the kernels at the shapes of FLUX.1-dev beside the rates that the device reaches in the same run.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage bench kernels --device cuda
  lighterage bench kernels --device host --shrink 32 --gemm 1024 --only norm")]
pub(crate) struct Arguments {
    /// Divide the tokens by 1 to 512: for devices that would take hours.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = range::whole(1..=512_u32))]
    shrink: u32,
    /// Rows, columns and inner size of the product that says what the device reaches, 1 to 65536.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = range::whole(PRODUCTS))]
    gemm: usize,
    /// Divide the model's width and heads by 1 to 24, for the same reason.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = range::whole(1..=24_u32))]
    narrow: u32,
    /// Pictures that the shapes are those of, where they depend on it [default: 1024x1024, on a GPU also 1280x720].
    #[arg(long, value_name = "WxH[,WxH...]", value_delimiter = ',', value_parser = picture)]
    size: Vec<Extent>,
    /// Only kernels whose name holds this; may be given several times.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArguments,
}

/// Width and height of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    width: usize,
    height: usize,
}

const SQUARE: Extent = Extent { width: 1024, height: 1024 };
const WIDE: Extent = Extent { width: 1280, height: 720 };

fn picture(text: &str) -> std::result::Result<Extent, String> {
    let fits = |pixels: &usize| (16..=4096).contains(pixels) && pixels.is_multiple_of(16);
    let side = |text: &str| text.parse().ok().filter(fits);
    let sides = text.split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?)));
    let (width, height) = sides.ok_or("not WIDTHxHEIGHT, multiples of 16 from 16 to 4096")?;
    Ok(Extent { width, height })
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// What the shape of a call depends on beside the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Picture,
    Text,
}

/// How large the shapes are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Rows of a token each, text and picture.
    pub(super) tokens: usize,
    /// Rows of the text alone.
    pub(super) text: usize,
    /// Rows of the picture alone.
    image: usize,
    /// Pixels of the decoder's second largest level, multiples of 8.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Width of the model.
    pub(super) model: usize,
}

impl Sizes {
    fn of(arguments: &Arguments, Extent { width, height }: Extent) -> Self {
        let shrink = arguments.shrink as usize;
        let (text, image) = ((512 / shrink).max(1), (width / 16 * (height / 16) / shrink).max(1));
        let [width, height] = [width, height].map(|side| (side / 2 / shrink).max(16).next_multiple_of(8));
        let model = HEADS / arguments.narrow as usize * HEAD_DIM;
        Self { tokens: text + image, text, image, width, height, model }
    }

    pub(super) const fn pixels(&self) -> usize {
        self.width * self.height
    }

    /// Shape of the latents, and of them as tokens of 2 x 2.
    pub(super) const fn latents(&self) -> [usize; 3] {
        [16, self.height / 4, self.width / 4]
    }

    pub(super) const fn packed(&self) -> [usize; 2] {
        [self.pixels() / 64, 64]
    }
}

/// A kernel's name, as its files have it, what its shape depends on, and its bench.
pub(super) type Entry<B> = (&'static str, Of, fn(&Bench<B>, Sizes) -> Result<Measured>);

/// What one call launches, and how long it takes.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// Names, and costs by the kernels themselves.
    launches: Vec<(String, Cost)>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    device: String,
    timed_by: TimedBy,
    copy_bytes_per_second: f64,
    gemm_flops_per_second: f64,
    predicted_by: String,
    kernels: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    /// Of the picture; none where the shape does not depend on it.
    size: Option<String>,
    launches: Vec<String>,
    seconds: f64,
    flops: f64,
    bytes: f64,
    /// Of the longer of both times that the device needs at the rates measured above.
    share_of_roofline: f64,
    predicted_seconds: f64,
    measured_over_predicted: f64,
}

impl Line {
    fn progress(&self) -> String {
        let size = self.size.as_ref().map_or_else(String::new, |size| format!(", {size}"));
        format!("{}{size}: {:.1} us", self.name, self.seconds * 1e6)
    }
}

/// What times are held against.
struct Bounds {
    copy: f64,
    gemm: f64,
    rates: Rates,
    source: String,
}

impl Bounds {
    /// The card's profile predicts; for a card that has none the ceilings of this run do, with nothing for arithmetic that is no product and for launches.
    fn of(card: &str, copy: f64, gemm: f64) -> Self {
        if let Some(Profile { name, rates, .. }) = Profile::of_card(card) {
            return Self { copy, gemm, rates, source: format!("profile {name}") };
        }
        let rates = Rates {
            product_flops: gemm,
            attention_flops: gemm,
            vector_flops: f64::INFINITY,
            memory_bytes: copy,
            link_bytes: f64::INFINITY,
            lock_bytes: f64::INFINITY,
            read_bytes: f64::INFINITY,
            pageable_bytes: f64::INFINITY,
            launch_seconds: 0.0,
            copy_seconds: 0.0,
            call_seconds: 0.0,
            slowdown: 0.0,
            memory_calls: MemoryCosts::FREE,
        };
        Self { copy, gemm, rates, source: "ceilings of this run".to_owned() }
    }

    fn line(&self, name: &str, size: Option<Extent>, Measured { launches, seconds }: Measured) -> Line {
        let sum = |part: fn(&Cost) -> f64| launches.iter().map(|(_, cost)| part(cost)).sum::<f64>();
        let (flops, bytes) = (sum(|cost| cost.flops), sum(|cost| cost.bytes));
        let predicted: f64 = launches.iter().map(|(name, cost)| self.rates.kernel_seconds(name, *cost)).sum();
        Line {
            name: name.to_owned(),
            size: size.map(|size| size.to_string()),
            seconds,
            flops,
            bytes,
            share_of_roofline: (flops / self.gemm).max(bytes / self.copy) / seconds,
            predicted_seconds: predicted,
            measured_over_predicted: seconds / predicted,
            launches: launches.into_iter().map(|(name, _)| name).collect(),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let report = arguments.device.run(Measure(arguments))?;
    if arguments.json {
        return json::print(&report);
    }
    let mut out = output::stdout();
    writeln!(
        out,
        "{}: copies {:.1} GB/s, {} GFLOP/s in a square product; predicted by {}",
        report.device,
        report.copy_bytes_per_second / 1e9,
        (report.gemm_flops_per_second / 1e9).round(),
        report.predicted_by
    )?;
    let head = ["kernel", "time", "GFLOP/s", "GB/s", "of the roofline", "of the predicted time"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.kernels.iter().map(Line::row));
    let [right, left] = [Align::Right, Align::Left];
    table::print(&mut out, &[left, right, right, right, right, right], &rows)?;
    Ok(())
}

impl Line {
    fn row(&self) -> Vec<String> {
        vec![
            self.size.iter().fold(self.name.clone(), |name, size| format!("{name}, {size}")),
            format!("{:.1} us", self.seconds * 1e6),
            format!("{:.0}", self.flops / self.seconds / 1e9),
            format!("{:.0}", self.bytes / self.seconds / 1e9),
            format!("{:.0} %", self.share_of_roofline * 100.0),
            format!("{:.2}", self.measured_over_predicted),
        ]
    }
}

struct Measure<'a>(&'a Arguments);

/// Heads, and their size: as wide as the model.
const HEADS: usize = 24;
const HEAD_DIM: usize = 128;

/// The kernels of one double and one single block: attention, norms, products.
fn entries<B: Backend>() -> Vec<Entry<B>> {
    vec![
        ("attention", Of::Picture, Bench::attention),
        ("norm_mod", Of::Picture, |bench, sizes| bench.norm_mod(sizes, false)),
        ("norm_mod with update", Of::Picture, |bench, sizes| bench.norm_mod(sizes, true)),
        ("qk_norm_rope", Of::Picture, Bench::qk_norm_rope),
        ("linear, image qkv", Of::Picture, |b, s| b.linear([s.image, 3 * s.model, s.model], false)),
        ("linear, image mlp up", Of::Picture, |b, s| b.linear([s.image, 4 * s.model, s.model], false)),
        ("linear, image mlp down", Of::Picture, |b, s| b.linear([s.image, s.model, 4 * s.model], false)),
        ("linear, text qkv", Of::Text, |b, s| b.linear([s.text, 3 * s.model, s.model], false)),
        ("linear, image out", Of::Picture, |b, s| b.linear([s.image, s.model, s.model], false)),
        ("linear, single in", Of::Picture, |b, s| b.linear([s.tokens, 7 * s.model, s.model], false)),
        ("linear, single out", Of::Picture, |b, s| b.linear([s.tokens, s.model, 5 * s.model], false)),
        ("linear, image mlp down with gate and residual", Of::Picture, |b, s| {
            b.linear([s.image, s.model, 4 * s.model], true)
        }),
    ]
}

impl Work for Measure<'_> {
    type Output = Report;

    fn run<B: Backend>(self, device: &Device<B>) -> Result<Report> {
        let Self(arguments) = self;
        // Costs are read from recordings; while something is timed only its batches are recorded.
        device.record(Detail::Summary);
        let stream = device.stream(StreamKind::Compute)?;
        let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 40 };
        let bench = Bench { queue: Queue::new(Pool::new(&stream, config)?) };
        let entries = bench.wanted(arguments)?;
        let timed_by = TimedBy::of(device);
        let copy = bench.copy_rate()?;
        let gemm = machine::gemm(&bench.queue, arguments.gemm)?.unwrap_or(f64::INFINITY);
        let card = &device.info().name;
        let bounds = Bounds::of(card, copy, gemm);
        Ok(Report {
            device: card.clone(),
            timed_by,
            copy_bytes_per_second: copy,
            gemm_flops_per_second: gemm,
            predicted_by: bounds.source.clone(),
            kernels: bench.lines(entries, arguments, &bounds)?,
        })
    }
}

/// Buffers that are used in turn, so that a kernel does not find in the cache what its last run left there.
const SETS: usize = 3;

pub(super) struct Bench<B: Backend> {
    pub(super) queue: Queue<B>,
}

impl<B: Backend> Bench<B> {
    /// Those that were asked for.
    fn wanted(&self, arguments: &Arguments) -> Result<Vec<Entry<B>>> {
        let mut all = entries();
        all.extend(self.unmeasured(arguments));
        all.extend(rest::entries());
        for part in &arguments.only {
            if !all.iter().any(|(name, ..)| name.contains(part)) {
                let names: Vec<&str> = all.iter().map(|(name, ..)| *name).collect();
                let why =
                    format!("--only {part}: no kernel has this in its name; there are: {}", names.join("; "));
                return Err(Failure::Usage(why));
            }
        }
        let is_wanted = |name: &str| arguments.only.iter().any(|part| name.contains(part));
        all.retain(|(name, ..)| arguments.only.is_empty() || is_wanted(name));
        Ok(all)
    }

    fn lines(&self, entries: Vec<Entry<B>>, arguments: &Arguments, bounds: &Bounds) -> Result<Vec<Line>> {
        let both = [SQUARE, WIDE];
        let extents = match (arguments.size.as_slice(), TimedBy::of(self.queue.device())) {
            ([], TimedBy::StreamEvents) => &both[..],
            ([], TimedBy::HostClock) => &both[..1],
            (given, _) => given,
        };
        let mut lines = Vec::new();
        for (name, of, measure) in entries {
            let (extents, is_named) = match of {
                Of::Picture => (extents, true),
                Of::Text => (&extents[..1], false),
            };
            for extent in extents {
                let measured = measure(self, Sizes::of(arguments, *extent))?;
                let line = bounds.line(name, is_named.then_some(*extent), measured);
                // Whoever ends it on the way knows what was measured.
                output::note(&line.progress());
                lines.push(line);
            }
        }
        Ok(lines)
    }

    /// What no GPU has run yet and nothing chooses, where there are images for it: to be held against what is chosen, in the same run.
    fn unmeasured(&self, arguments: &Arguments) -> Vec<Entry<B>> {
        let is_hopper = self.queue.device().info().isa.starts_with("sm_90a");
        if !is_hopper || arguments.narrow != 1 {
            return Vec::new();
        }
        vec![
            ("norm_mod, a warp a row", Of::Picture, |bench, sizes| {
                bench.norm_mod_by(sizes, false, |args| Ok(norm_mod_by_warps(&bench.queue, args)?))
            }),
            ("norm_mod with update, a warp a row", Of::Picture, |bench, sizes| {
                bench.norm_mod_by(sizes, true, |args| Ok(norm_mod_by_warps(&bench.queue, args)?))
            }),
        ]
    }

    /// The kernels that one call launches.
    fn launches(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<(String, Cost)>> {
        let (device, stream) = (self.queue.device(), self.queue.stream());
        let detail = |detail| {
            device.recorder().into_iter().for_each(|recorder| Recorder::set_detail(recorder, detail));
        };
        stream.synchronize()?;
        drop(device.take_recording());
        detail(Detail::Everything);
        let outcome = work();
        detail(Detail::Summary);
        outcome.and_then(|()| Ok(stream.synchronize()?))?;
        let spans = device.take_recording().map_or_else(Vec::new, |recording| recording.spans);
        let kernels = spans.into_iter().filter(|span| span.what == What::Kernel);
        let cost = |flops: u64, bytes: u64| Cost { flops: flops as f64, bytes: bytes as f64 };
        Ok(kernels.map(|span| (span.name.into_owned(), cost(span.flops, span.bytes))).collect())
    }

    /// Numbers between -1 and 1, never zeros: those take less power and run faster.
    pub(super) fn tensor(&self, shape: &[usize]) -> Result<Tensor<B>> {
        Ok(self.queue.upload(&machine::numbers(shape.iter().product()), shape, "bench")?)
    }

    pub(super) fn sets(&self, shape: &[usize]) -> Result<Vec<Tensor<B>>> {
        (0..SETS).map(|_| self.tensor(shape)).collect()
    }

    /// Right first: what was written is finite, and a second run writes the same bits.
    pub(super) fn timed(
        &self,
        out: &Tensor<B>,
        mut work: impl FnMut(usize) -> Result<()>,
    ) -> Result<Measured> {
        let launches = self.launches(|| work(0))?;
        let first = self.queue.read_f32(out.view())?;
        let bad = first.iter().flatten().filter(|value| !value.is_finite()).count();
        if bad > 0 {
            let (numbers, are) = (counted(bad, "number"), one_or(bad, "is", "are"));
            return Err(Failure::Refused(format!("a kernel wrote {numbers} that {are} not finite")));
        }
        let seconds = timing::seconds(self.queue.stream(), |call| work(call as usize % SETS))?;
        Ok(Measured { launches, seconds })
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
    fn attention(&self, Sizes { tokens, model, .. }: Sizes) -> Result<Measured> {
        let heads = model / HEAD_DIM;
        let (qkv, out) = (self.sets(&[tokens, 3 * model])?, self.sets(&[tokens, heads, HEAD_DIM])?);
        let run = |set: usize| -> Result<()> {
            let part = |index: usize| -> Result<View<'_>> {
                let part = qkv[set].view().narrow(1, index * model, model)?;
                Ok(part.split(1, heads)?)
            };
            let (q, k, v) = (part(0)?, part(1)?, part(2)?);
            let scale = 1.0 / (HEAD_DIM as f32).sqrt();
            Ok(attention(&self.queue, &Attention { q, k, v, out: out[set].view(), scale, mask: Mask::None })?)
        };
        self.repeats(&out[0], || run(0))?;
        self.timed(&out[0], run)
    }

    fn norm_mod(&self, sizes: Sizes, with_update: bool) -> Result<Measured> {
        self.norm_mod_by(sizes, with_update, |args| Ok(norm_mod(&self.queue, args)?))
    }

    fn norm_mod_by(
        &self,
        Sizes { tokens, text, model, .. }: Sizes,
        with_update: bool,
        launch: impl Fn(&NormMod<'_>) -> Result<()>,
    ) -> Result<Measured> {
        let [x, y, out] = [(); 3].map(|()| self.sets(&[tokens, model]));
        let (x, y, out) = (x?, y?, out?);
        let vectors = (0..6).map(|_| self.tensor(&[model])).collect::<Result<Vec<_>>>()?;
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
            launch(&args)
        })
    }

    fn qk_norm_rope(&self, Sizes { tokens, text, model, .. }: Sizes) -> Result<Measured> {
        let shape = [tokens, model / HEAD_DIM, HEAD_DIM];
        let (q, k) = (self.sets(&shape)?, self.sets(&shape)?);
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

    fn linear(&self, [rows, columns, inner]: [usize; 3], with_residual: bool) -> Result<Measured> {
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
