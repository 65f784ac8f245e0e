//! A step of small launches on a captured arena: launched one by one, and as a graph.
#![expect(unsafe_code, reason = "views of a step's memory, and replays")]

use std::time::Instant;

use half::bf16;
use lighterage_allocator::{Allocator, Handle, Settings, Step, StepHandle, Steps, Tag};
use lighterage_device::{Cuda, Device, Graph, Stream, View};
use lighterage_ops::{
    Activation, ActivationKind, Add, Linear, Queue, RmsNorm, Tensor, activation, add, linear, rms_norm,
};
use lighterage_shape::{DType, Layout};
use serde::Serialize;

use super::super::timing::median;
use super::rates::numbers;
use crate::failure::Result;

const KEY: &str = "step";
const ROWS: usize = 64;
const WIDTH: usize = 128;
/// Launches of a layer: product, activation, residual, norm.
const LAYER: usize = 4;
/// Copies into the arena and out of it.
const COPIES: usize = 2;
/// Replays whose bits are compared.
const REPLAYS: usize = 10;
const ROUNDS: usize = 11;

/// Seconds are of one launch, medians.
#[derive(Debug, Serialize)]
pub(super) struct Chain {
    pub(super) launches: usize,
    pub(super) replays: usize,
    /// Whether every replay made the bits that the launches make, while other memory of the same allocator was written.
    pub(super) same_bits: bool,
    /// From the first call to the end of the work.
    pub(super) direct_seconds: f64,
    pub(super) graph_seconds: f64,
    /// What the host needs to queue it.
    pub(super) direct_host_seconds: f64,
    pub(super) graph_host_seconds: f64,
    /// Recording it and making it ready, once, all of it.
    pub(super) capture_seconds: f64,
}

pub(super) fn measure(device: &Device<Cuda>, launches: usize) -> Result<Chain> {
    let queue = super::queue(device)?;
    let allocator = Allocator::new(device, Settings::default())?;
    let on = allocator.on(queue.stream())?;
    let mut steps = Steps::new(on.clone());
    let work = Work::new(&queue, launches.div_ceil(LAYER).max(1))?;
    // The first step is recorded, the second has its plan, and none asks for more from then on.
    work.step(&mut steps)?;
    work.step(&mut steps)?;
    let expected = work.result()?;
    steps.capture(KEY)?;
    let start = Instant::now();
    let mut graph = work.capture(&mut steps)?;
    let capture_seconds = start.elapsed().as_secs_f64();
    let mut same_bits = true;
    for _ in 0..REPLAYS {
        work.spoil()?;
        let others = (0..4).map(|_| on.allocate(work.bytes(), Tag::NONE)).collect::<Result<Vec<_>, _>>()?;
        for other in &others {
            queue.stream().fill(work.view_of(other), 0xff)?;
        }
        work.replay(&mut graph)?;
        same_bits &= work.result()? == expected;
        others.into_iter().try_for_each(|other| on.free(other))?;
    }
    let count = work.launches() as f64;
    let (direct_host, direct) = time(queue.stream(), ROUNDS, || work.step(&mut steps))?;
    let (graph_host, graphed) = time(queue.stream(), ROUNDS, || work.replay(&mut graph))?;
    Ok(Chain {
        launches: work.launches(),
        replays: REPLAYS,
        same_bits,
        direct_seconds: direct / count,
        graph_seconds: graphed / count,
        direct_host_seconds: direct_host / count,
        graph_host_seconds: graph_host / count,
        capture_seconds,
    })
}

/// Host seconds until work of the stream is queued, and seconds until it is done: medians of so many rounds.
pub(super) fn time(
    stream: &Stream<Cuda>,
    rounds: usize,
    mut queue: impl FnMut() -> Result<()>,
) -> Result<(f64, f64)> {
    let (mut queued, mut done) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        stream.synchronize()?;
        let start = Instant::now();
        queue()?;
        queued.push(start.elapsed().as_secs_f64());
        stream.synchronize()?;
        done.push(start.elapsed().as_secs_f64());
    }
    Ok((median(queued), median(done)))
}

/// What a step reads and writes beside its arena.
struct Work<'a> {
    queue: &'a Queue<Cuda>,
    input: Tensor<Cuda>,
    output: Tensor<Cuda>,
    weight: Tensor<Cuda>,
    scale: Tensor<Cuda>,
    layers: usize,
}

impl<'a> Work<'a> {
    fn new(queue: &'a Queue<Cuda>, layers: usize) -> Result<Self> {
        let upload = |shape: &[usize]| queue.upload(&numbers(shape.iter().product()), shape, "graph");
        Ok(Self {
            input: upload(&[ROWS, WIDTH])?,
            output: queue.zeros(DType::Bf16, &[ROWS, WIDTH], "graph")?,
            weight: upload(&[WIDTH, WIDTH])?,
            scale: upload(&[WIDTH])?,
            queue,
            layers,
        })
    }

    const fn launches(&self) -> usize {
        self.layers * LAYER + COPIES
    }

    fn bytes(&self) -> u64 {
        self.input.layout().bytes() as u64
    }

    /// A step: the input through all layers.
    fn step(&self, steps: &mut Steps<Cuda>) -> Result<()> {
        let mut step = steps.begin(KEY);
        let x = step.allocate(self.bytes(), Tag::NONE)?;
        self.queue.stream().copy(self.view(x), self.input.view())?;
        (0..self.layers).try_for_each(|_| self.layer(&mut step, x))?;
        self.queue.stream().copy(self.output.view(), self.view(x))?;
        step.free(x)?;
        Ok(step.end()?)
    }

    /// `x = rms_norm(x + silu(x weight^T))`.
    fn layer(&self, step: &mut Step<'_, Cuda>, x: StepHandle) -> Result<()> {
        let queue = self.queue;
        let handles = [step.allocate(self.bytes(), Tag::NONE)?, step.allocate(self.bytes(), Tag::NONE)?];
        let [x, y, z] = [x, handles[0], handles[1]].map(|handle| self.view(handle));
        let weight = self.weight.view();
        linear(queue, &Linear { x, weight, bias: None, activation: None, residual: None, out: y })?;
        activation(queue, &Activation { x: y, kind: ActivationKind::Silu, out: z })?;
        add(queue, &Add { a: x, b: z, scale: 1.0, out: x })?;
        rms_norm(queue, &RmsNorm { x, weight: self.scale.view(), eps: 1e-6, out: x })?;
        Ok(handles.into_iter().try_for_each(|handle| step.free(handle))?)
    }

    fn capture(&self, steps: &mut Steps<Cuda>) -> Result<Graph> {
        let mut outcome = Ok(());
        let graph = self.queue.stream().capture(|| {
            outcome = self.step(steps);
            Ok(())
        });
        outcome?;
        Ok(graph?)
    }

    fn replay(&self, graph: &mut Graph) -> Result<()> {
        // SAFETY: the plan's arena and the tensors are there until the steps and `self` are gone, both after the last wait for the stream; the graph's
        // work is in order with all other work on them.
        Ok(unsafe { self.queue.stream().replay(graph) }?)
    }

    /// No bits of an earlier step are left.
    fn spoil(&self) -> Result<()> {
        Ok(self.queue.stream().fill(self.output.view(), 0xff)?)
    }

    fn result(&self) -> Result<Option<Vec<u16>>> {
        let values: Option<Vec<bf16>> = self.queue.read(self.output.view())?;
        Ok(values.map(|values| values.into_iter().map(bf16::to_bits).collect()))
    }

    fn view(&self, handle: StepHandle) -> View<'_> {
        assert!(handle.bytes() == self.bytes(), "{} of {} bytes", handle.bytes(), self.bytes());
        // SAFETY: so many bytes are there (checked); the allocator keeps its pages mapped while work of the stream may use them, and the stream is the one that it
        // hands memory of this step out on.
        unsafe { View::new(handle.address(), *self.input.layout(), self.queue.stream().id()) }
    }

    fn view_of(&self, handle: &Handle) -> View<'_> {
        assert!(handle.bytes() == self.bytes(), "{} of {} bytes", handle.bytes(), self.bytes());
        let layout = Layout::contiguous(DType::Bf16, &[ROWS, WIDTH]);
        // SAFETY: as above.
        unsafe { View::new(handle.address(), layout, self.queue.stream().id()) }
    }
}
