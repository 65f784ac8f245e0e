//! Sequences of work, recorded once and replayed with one call.

use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUstreamCaptureMode};

use super::api::{check, check_wait, give_back};
use super::context::Context;
use super::cublaslt::CublasLt;
use super::memory::Memory;
use super::modules::Modules;
use super::stream::Used;
use super::{Cuda, CudaStream};
use crate::{Error, Result};

/// A recorded sequence of work, ready to be replayed.
///
/// Events that the sequence recorded or waited for are *external* ones: each replay records them anew, and waits for what they recorded last when it
/// is its turn. What a graph waits for in another one of the same replay is said by [`Flags`](crate::Flags).
#[derive(Debug)]
pub struct Graph {
    raw: Raw,
    // What the sequence uses.
    _memory: Arc<Memory>,
    _modules: Arc<Modules>,
    library: Option<Arc<CublasLt>>,
    used: Arc<Used>,
    context: Arc<Context>,
}

#[derive(Debug)]
struct Raw(CUgraphExec);

// SAFETY: an executable graph may be launched from any thread, by one at a time (driver API, "Graph object thread safety"): a launch borrows it alone
// (`&mut`), and the pointer is never read here.
unsafe impl Send for Raw {}

impl CudaStream {
    /// From now on the driver records.
    pub(super) fn begin_graph(&self) -> Result<()> {
        let raw = self.entered()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.gate().begin(|| {
            // SAFETY: it is alive.
            check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(raw, mode) })?;
            Ok(Used::default())
        })
    }

    /// It does no more; what it has recorded and what that refers to. Nothing if it did not record.
    pub(super) fn end_recording(&self) -> Option<Result<(Sequence, Used)>> {
        self.gate().end(|recorded| recorded.map(|used| self.end_capture(used)))
    }

    fn end_capture(&self, used: Result<Used>) -> Result<(Sequence, Used)> {
        // A stream that was not told would record for ever.
        let (stream, entered) = self.entered_again()?;
        let mut graph: CUgraph = ptr::null_mut();
        let place = &raw mut graph;
        // SAFETY: writes one pointer, null if the recording was spoilt.
        let (ended, _) =
            give_back("cuStreamEndCapture", || unsafe { sys::cuStreamEndCapture(stream, place) });
        let sequence = Sequence(graph);
        let used = used?;
        entered.and(ended)?;
        Ok((sequence, used))
    }

    /// Ends the recording: ready to be launched.
    pub(super) fn end_graph(&self, cuda: &Cuda) -> Result<Graph> {
        let nothing = || Err(Error::Stream("a stream that was not recorded was to give a graph".to_owned()));
        let (sequence, used) = self.end_recording().unwrap_or_else(nothing)?;
        let mut raw: CUgraphExec = ptr::null_mut();
        // SAFETY: writes one pointer; the graph is complete and a context is current.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut raw, sequence.0, 0) };
        check("cuGraphInstantiate", code)?;
        Ok(Graph {
            raw: Raw(raw),
            _memory: Arc::clone(&cuda.memory),
            _modules: Arc::clone(&cuda.modules),
            library: cuda.library.clone(),
            used: Arc::new(used),
            context: Arc::clone(&cuda.context),
        })
    }

    /// # Safety
    /// - What was promised for each piece of the work when it was recorded holds for this replay too.
    pub(super) unsafe fn replay(&self, graph: &mut Graph) -> Result<()> {
        // A recording of it would not keep what it refers to.
        let _outside = self.gate().outside("a graph")?;
        let queue = || {
            self.queue_graph(&graph.used, |stream| {
                // SAFETY: both are alive; the work itself is the caller's promise.
                check_wait("cuGraphLaunch", unsafe { sys::cuGraphLaunch(graph.raw.0, stream) })
            })
        };
        match graph.library.as_ref().filter(|_| graph.used.has_products) {
            Some(library) => library.in_turn(self, queue),
            None => queue(),
        }
    }
}

/// A recorded graph that cannot be launched yet.
pub(super) struct Sequence(CUgraph);

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
        if self.context.enter_to_give_back() {
            // SAFETY: made by `end_graph`; the driver lets a replay that is under way come to its end.
            let _ = give_back("cuGraphExecDestroy", || unsafe { sys::cuGraphExecDestroy(self.raw.0) });
        }
    }
}
