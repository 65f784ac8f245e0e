//! Sequences of work, recorded once and replayed with one call.

use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUstream, CUstreamCaptureMode};

use super::api::{check, check_wait, give_back};
use super::context::Context;
use super::cublaslt::CublasLt;
use super::memory::Memory;
use super::modules::Modules;
use super::stream::Events;
use super::{Cuda, CudaStream};
use crate::{Result, Stream};

/// A recorded sequence of work, ready to be replayed.
///
/// Events that the sequence recorded or waited for are *external* ones: each replay records them anew, and waits for what they recorded last when it
/// is its turn. So the graphs of a compute stream and of a copy stream order each other as the streams did.
#[derive(Debug)]
pub struct Graph {
    raw: Raw,
    // What the sequence uses.
    _memory: Arc<Memory>,
    _modules: Arc<Modules>,
    _library: Option<Arc<CublasLt>>,
    events: Arc<Events>,
    context: Arc<Context>,
}

#[derive(Debug)]
struct Raw(CUgraphExec);

// SAFETY: an executable graph may be launched from any thread, by one at a time (driver API, "Graph object thread safety"): launches are ordered
// by `&Stream`'s own call, and the pointer is never read here.
unsafe impl Send for Raw {}

impl Stream<Cuda> {
    /// Records what `work` queues on this stream, instead of doing it. On other streams nothing may be queued meanwhile that waits for it.
    ///
    /// Staged copies ([`Stream::upload`]) and reads cannot be recorded: they refer to host memory of the moment.
    ///
    /// # Errors
    /// What `work` answers, or what the driver reports; the stream is then as it was before, as it is after a panic of `work`.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let cuda = self.device().backend();
        let (graph, events) = Sequence::record(self.raw(), work)?;
        let mut raw: CUgraphExec = ptr::null_mut();
        // SAFETY: writes one pointer; the graph is complete and a context is current since the recording.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut raw, graph.0, 0) };
        check("cuGraphInstantiate", code)?;
        Ok(Graph {
            raw: Raw(raw),
            _memory: Arc::clone(&cuda.memory),
            _modules: Arc::clone(&cuda.modules),
            _library: cuda.library.clone(),
            events: Arc::new(events),
            context: Arc::clone(&cuda.context),
        })
    }

    /// Queues the recorded work.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Safety
    /// - What was promised for each piece of the work when it was recorded holds for this replay too.
    pub unsafe fn replay(&self, graph: &mut Graph) -> Result<()> {
        let stream = self.raw().entered()?;
        self.raw().keep(&graph.events);
        // SAFETY: both are alive; the work itself is the caller's promise.
        check_wait("cuGraphLaunch", unsafe { sys::cuGraphLaunch(graph.raw.0, stream) })
    }
}

/// A recorded graph that cannot be launched yet.
struct Sequence(CUgraph);

impl Sequence {
    fn record(stream: &CudaStream, work: impl FnOnce() -> Result<()>) -> Result<(Self, Events)> {
        let mut recording = Recording::begin(stream)?;
        let outcome = work();
        let (ended, events) = recording.end();
        outcome.and(ended).map(|sequence| (sequence, events))
    }
}

/// A stream that records. It ends in any case, also where the work panics, or the stream could not be used again.
struct Recording<'a> {
    stream: &'a CudaStream,
    raw: CUstream,
    is_open: bool,
}

impl<'a> Recording<'a> {
    fn begin(stream: &'a CudaStream) -> Result<Self> {
        let raw = stream.entered()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: it is alive.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(raw, mode) })?;
        stream.start_recording();
        Ok(Self { stream, raw, is_open: true })
    }

    fn end(&mut self) -> (Result<Sequence>, Events) {
        self.is_open = false;
        let events = self.stream.stop_recording();
        let mut graph: CUgraph = ptr::null_mut();
        let place = &raw mut graph;
        // SAFETY: writes one pointer, null if the recording was spoilt.
        let (ended, _) =
            give_back("cuStreamEndCapture", || unsafe { sys::cuStreamEndCapture(self.raw, place) });
        let sequence = Sequence(graph);
        (ended.map(|()| sequence), events)
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if self.is_open {
            drop(self.end());
        }
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by the recording; executable graphs made from it do not need it.
            let _ = give_back("cuGraphDestroy", || unsafe { sys::cuGraphDestroy(self.0) });
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made by `capture`; the driver lets a replay that is under way come to its end.
            let _ = give_back("cuGraphExecDestroy", || unsafe { sys::cuGraphExecDestroy(self.raw.0) });
        }
    }
}
