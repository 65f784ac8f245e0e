//! Streams and events of the driver.

use std::ffi::c_int;
use std::mem;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use cudarc::driver::sys::{self, CUevent, CUresult, CUstream};

use super::api::{check, check_wait, give_back};
use super::context::Context;
use super::cublaslt::CublasLt;
use super::flags::Words;
use super::memory::Memory;
use super::modules::Modules;
use crate::gate::Gate;
use crate::{Result, StreamKind};

/// Created once: no timing, which would cost a time stamp at each record.
const NO_TIMING: u32 = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
/// Not ordered by the default stream, which nobody here uses.
const OWN_ORDER: u32 = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;

const RECORD_EXTERNAL: u32 = sys::CUevent_record_flags_enum::CU_EVENT_RECORD_EXTERNAL as u32;
const WAIT_EXTERNAL: u32 = sys::CUevent_wait_flags_enum::CU_EVENT_WAIT_EXTERNAL as u32;

/// A stream of a [`Cuda`](crate::Cuda). Dropping it waits for its work.
#[derive(Debug)]
pub struct CudaStream {
    raw: Raw<CUstream>,
    /// What a recording refers to.
    gate: Gate<Used>,
    kept: Mutex<Kept>,
    // What pending work uses.
    _library: Option<Arc<CublasLt>>,
    _modules: Option<Arc<Modules>>,
    _memory: Arc<Memory>,
    context: Arc<Context>,
}

/// What a graph refers to. It has to live as long as the graph may run.
#[derive(Debug, Default)]
pub(super) struct Used {
    events: Vec<Arc<Handle>>,
    flags: Vec<Arc<Words>>,
    /// Whether the library's products are in it, which use its workspace.
    pub(super) has_products: bool,
}

impl Used {
    fn keep_flags(&mut self, words: &Arc<Words>) {
        if !self.flags.iter().any(|kept| Arc::ptr_eq(kept, words)) {
            self.flags.push(Arc::clone(words));
        }
    }
}

/// What is kept for work that is queued, to be dropped when it is done.
#[derive(Debug, Default)]
struct Kept {
    /// What graphs refer to that may still run.
    running: Vec<Arc<Used>>,
    /// The same of flags that work outside of graphs refers to.
    used: Used,
}

/// An event of a [`Cuda`](crate::Cuda).
#[derive(Debug)]
pub struct CudaEvent(Arc<Handle>);

/// The event itself. Dropping it destroys it.
#[derive(Debug)]
pub(super) struct Handle {
    raw: Raw<CUevent>,
    context: Arc<Context>,
}

/// A handle of the driver's.
#[derive(Clone, Copy, Debug)]
struct Raw<T>(T);

// SAFETY: streams and events may be used from any thread at any time (driver API, "Stream Management": thread-safe); the pointers are
// never read here.
unsafe impl<T> Send for Raw<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Raw<T> {}

impl CudaStream {
    /// For what needs no kernel of ours and no library that is open: see [`keeping`](Self::keeping).
    pub(super) fn new(context: &Arc<Context>, memory: &Arc<Memory>, kind: StreamKind) -> Result<Self> {
        context.enter()?;
        let (mut least, mut greatest): (c_int, c_int) = (0, 0);
        // SAFETY: writes two ints; a context is current.
        let code = unsafe { sys::cuCtxGetStreamPriorityRange(&raw mut least, &raw mut greatest) };
        check("cuCtxGetStreamPriorityRange", code)?;
        let priority = match kind {
            StreamKind::Compute => least,
            StreamKind::Copy => greatest,
        };
        let mut raw: CUstream = ptr::null_mut();
        // SAFETY: writes one pointer; a context is current.
        let code = unsafe { sys::cuStreamCreateWithPriority(&raw mut raw, OWN_ORDER, priority) };
        check("cuStreamCreateWithPriority", code)?;
        Ok(Self {
            raw: Raw(raw),
            gate: Gate::default(),
            kept: Mutex::default(),
            _library: None,
            _modules: None,
            _memory: Arc::clone(memory),
            context: Arc::clone(context),
        })
    }

    /// Keeps what launches run, and the workspace of products, until it has waited for them.
    pub(super) fn keeping(mut self, modules: &Arc<Modules>, library: Option<&Arc<CublasLt>>) -> Self {
        self._modules = Some(Arc::clone(modules));
        self._library = library.map(Arc::clone);
        self
    }

    /// The driver's pointer, with the context current on this thread.
    pub(super) fn entered(&self) -> Result<CUstream> {
        self.context.enter()?;
        Ok(self.raw.0)
    }

    /// As [`entered`](Self::entered), for what has to be done all the same: with what the first attempt said.
    pub(super) fn entered_again(&self) -> Result<(CUstream, Result<()>)> {
        self.context.enter_all_the_same().map(|first| (self.raw.0, first))
    }

    pub(super) const fn gate(&self) -> &Gate<Used> {
        &self.gate
    }

    /// Queues a graph on a stream that does not record, and keeps what it refers to until the stream was waited for. Both under one lock: a thread that waits meanwhile lets nothing go that is not queued yet.
    pub(super) fn queue_graph(
        &self,
        used: &Arc<Used>,
        queue: impl FnOnce(CUstream) -> Result<()>,
    ) -> Result<()> {
        let stream = self.entered()?;
        let running = &mut self.kept().running;
        if !running.iter().any(|kept| Arc::ptr_eq(kept, used)) {
            running.push(Arc::clone(used));
        }
        queue(stream)
    }

    /// As [`queue_graph`](Self::queue_graph), of what refers to flags: they are kept until the stream was waited for, or with the recording.
    fn queue_flag(&self, words: &Arc<Words>, queue: impl Fn(CUstream) -> Result<()>) -> Result<()> {
        let stream = self.entered()?;
        let recorded = self.gate.record(|recording| {
            recorded(recording)?.keep_flags(words);
            queue(stream)
        });
        recorded.unwrap_or_else(|_outside| {
            let used = &mut self.kept().used;
            used.keep_flags(words);
            queue(stream)
        })
    }

    pub(super) fn raise(&self, words: &Arc<Words>, index: usize) -> Result<()> {
        self.queue_flag(words, |stream| words.raise(stream, index))
    }

    pub(super) fn take(&self, words: &Arc<Words>, index: usize) -> Result<()> {
        self.queue_flag(words, |stream| words.take(stream, index))
    }

    /// Queues something with an event, which a recording keeps: `external` says that it is one of a graph then.
    fn queue_event(
        &self,
        event: &CudaEvent,
        external: u32,
        queue: impl Fn(CUstream, u32) -> Result<()>,
    ) -> Result<()> {
        let stream = self.entered()?;
        let recorded = self.gate.record(|recording| {
            recorded(recording)?.events.push(Arc::clone(&event.0));
            queue(stream, external)
        });
        recorded.unwrap_or_else(|_outside| queue(stream, 0))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, event: &CudaEvent) -> Result<()> {
        // In a recording the event is a node of its own: each replay records it for whoever waits outside.
        self.queue_event(event, RECORD_EXTERNAL, |stream, flags| {
            // SAFETY: both are alive.
            let code = unsafe { sys::cuEventRecordWithFlags(event.0.raw.0, stream, flags) };
            check_wait("cuEventRecord", code)
        })
    }

    /// Records an event that has timing, which no graph may.
    pub(super) fn record_timed(&self, event: &Handle) -> Result<()> {
        let stream = self.entered()?;
        // SAFETY: both are alive.
        check_wait("cuEventRecord", unsafe { sys::cuEventRecordWithFlags(event.raw.0, stream, 0) })
    }

    pub(super) fn wait(&self, event: &CudaEvent) -> Result<()> {
        self.queue_event(event, WAIT_EXTERNAL, |stream, flags| {
            // SAFETY: both are alive.
            check_wait("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(stream, event.0.raw.0, flags) })
        })
    }

    /// Waits for all that is queued. Where the stream records nobody has waited: the driver refuses it, so whoever has queued what has to be waited for keeps the stream from
    /// recording before that (see [`Gate`]).
    pub(super) fn synchronize(&self) -> Result<()> {
        let _outside = self.gate.outside("a wait of the host")?;
        self.finish()
    }

    /// As [`synchronize`](Self::synchronize), unless the stream records: then the recording goes on.
    pub(super) fn try_synchronize(&self) -> Option<Result<()>> {
        let _outside = self.gate.try_outside()?;
        Some(self.finish())
    }

    /// Waits, also where the context was refused at first: who asks for this frees what the work uses. The stream does not record.
    fn finish(&self) -> Result<()> {
        let (stream, entered) = self.entered_again()?;
        // All of it is queued by now. What another thread queues while this one waits keeps its own.
        let over = mem::take(&mut *self.kept());
        let looked = look_until(&self.context, "cuStreamQuery", || {
            // SAFETY: it is alive.
            unsafe { sys::cuStreamQuery(stream) }
        });
        // SAFETY: it is alive.
        let outcome = wait("cuStreamSynchronize", || unsafe { sys::cuStreamSynchronize(stream) });
        drop(over);
        entered.and(looked).and(outcome)
    }
}

/// What is recorded, unless the recording was spoilt.
pub(super) fn recorded(recording: &mut Result<Used>) -> Result<&mut Used> {
    recording.as_mut().map_err(|error| error.clone())
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        // Failures were reported by the calls on the stream; what matters is that nothing is pending. While it records it could not be waited for.
        drop(self.end_recording());
        let _ = self.finish();
        if self.context.enter_to_give_back() {
            // SAFETY: made by `new` and used by nobody any more.
            let _ = give_back("cuStreamDestroy", || unsafe { sys::cuStreamDestroy_v2(self.raw.0) });
        }
    }
}

impl CudaEvent {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self> {
        Ok(Self(Arc::new(Handle::new(context, NO_TIMING)?)))
    }

    pub(super) fn query(&self) -> Result<bool> {
        self.0.context.enter()?;
        // SAFETY: it is alive.
        match unsafe { sys::cuEventQuery(self.0.raw.0) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => check_wait("cuEventQuery", code).map(|()| true),
        }
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.0.synchronize()
    }
}

impl Handle {
    fn new(context: &Arc<Context>, flags: u32) -> Result<Self> {
        context.enter()?;
        let mut raw: CUevent = ptr::null_mut();
        // SAFETY: writes one pointer; a context is current.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut raw, flags) })?;
        Ok(Self { raw: Raw(raw), context: Arc::clone(context) })
    }

    /// An event that knows when it was.
    pub(super) fn timed(context: &Arc<Context>) -> Result<Self> {
        Self::new(context, 0)
    }

    /// The driver's pointer, with the context current on this thread.
    pub(super) fn entered(&self) -> Result<CUevent> {
        self.context.enter()?;
        Ok(self.raw.0)
    }

    /// Whether it is known to be complete.
    pub(super) fn is_complete(&self) -> bool {
        // SAFETY: it is alive.
        self.context.enter().is_ok() && unsafe { sys::cuEventQuery(self.raw.0) } == CUresult::CUDA_SUCCESS
    }

    /// Waits, also where the context was refused at first.
    pub(super) fn synchronize(&self) -> Result<()> {
        let entered = self.context.enter_all_the_same()?;
        let looked = look_until(&self.context, "cuEventQuery", || {
            // SAFETY: it is alive.
            unsafe { sys::cuEventQuery(self.raw.0) }
        });
        // SAFETY: it is alive.
        let waited = wait("cuEventSynchronize", || unsafe { sys::cuEventSynchronize(self.raw.0) });
        entered.and(looked).and(waited)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.context.enter_to_give_back() {
            // SAFETY: made by `new` and used by nobody any more; the driver keeps what pending work still needs of it.
            let _ = give_back("cuEventDestroy", || unsafe { sys::cuEventDestroy_v2(self.raw.0) });
        }
    }
}

/// How long a host that waits sleeps between two looks, where there are flags: a step of a model takes a hundred times as long.
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// Where there are flags: asks until the work is done, and looks at the flags meanwhile, so that work which waits for one that nobody raises is let go. What it waited for
/// has then come to its end, and failed.
fn look_until(context: &Context, call: &'static str, query: impl Fn() -> CUresult) -> Result<()> {
    let watched = context.watched();
    if watched.is_empty() {
        return Ok(());
    }
    watched.iter().for_each(|words| words.start_looking());
    let code = loop {
        match query() {
            CUresult::CUDA_ERROR_NOT_READY => {
                watched.iter().for_each(|words| words.look());
                thread::sleep(LOOK_EVERY);
            }
            code => break code,
        }
    };
    let outcomes = watched.iter().map(|words| words.outcome());
    check_wait(call, code).and(outcomes.collect())
}

/// Waits, and has waited also where the call is refused: it is asked again, and in the end the whole context is waited for. If the work has failed
/// nothing of it is pending, since the driver ends the context.
fn wait(call: &'static str, attempt: impl Fn() -> CUresult) -> Result<()> {
    let first = check_wait(call, attempt());
    if first.is_err() && attempt() != CUresult::CUDA_SUCCESS {
        // SAFETY: a context is current: the callers entered it.
        let _ = unsafe { sys::cuCtxSynchronize() };
    }
    first
}
