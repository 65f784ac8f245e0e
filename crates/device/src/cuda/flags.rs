//! Flags: words of page-locked memory that streams write and wait for, and the host's eye on them.
//!
//! They are captured as memory operations of a graph (CUDA driver API 13, 6.21, "Stream Memory Operations": `cuStreamBatchMemOp`, whose operations are queued in the order of
//! their array; `CU_GRAPH_NODE_TYPE_BATCH_MEM_OP`), as NCCL does in its collectives on copy engines (`src/ce_coll.cc`: in a graph it waits for the constant 1 and writes 0
//! behind it). A write comes behind all that was queued before it, made visible to the whole system first (`CU_STREAM_WRITE_VALUE_DEFAULT`). All devices have the 32-bit
//! operations since CUDA 12; they take page-locked memory by its device pointer.
//!
//! The driver knows nothing of this order and says so: should it ever put one of two streams behind the other, both would stand still. The words lie in memory of the host
//! for that reason: the host sees them without a stream, and can let a stream go that waits.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::sys::{self, CUstream, CUstreamBatchMemOpParams, CUstreamBatchMemOpType};

use super::api::{check, check_of};
use super::context::Context;
use super::memory::{Memory, host_pointer};
use crate::{Address, Error, Grant, Result};

const RAISED: u32 = 1;
const LOWERED: u32 = 0;

/// Flags of a [`Cuda`](crate::Cuda).
#[derive(Debug)]
pub struct CudaFlags(pub(super) Arc<Words>);

/// The words themselves. They live as long as work may use them.
#[derive(Debug)]
pub(super) struct Words {
    first: Address,
    /// The same as the device sees it.
    on_device: u64,
    count: usize,
    /// Whether any work was ever told of them: else nothing waits for one.
    is_used: AtomicBool,
    watch: Mutex<Watch>,
    memory: Arc<Memory>,
    /// Of the words: it goes back when they have.
    _grant: Grant,
}

/// What the host has seen of them.
#[derive(Debug)]
struct Watch {
    patience: Duration,
    seen: Vec<u32>,
    /// When that began.
    since: Instant,
    /// Why nobody waits any more.
    given_up: Option<String>,
}

impl Words {
    pub(super) fn new(
        context: &Arc<Context>,
        memory: &Arc<Memory>,
        (count, grant): (usize, Grant),
        patience: Duration,
    ) -> Result<Arc<Self>> {
        let first = memory.pin(bytes(count))?;
        let watch = Watch { patience, seen: Vec::new(), since: Instant::now(), given_up: None };
        let (is_used, watch, memory) = (AtomicBool::new(false), Mutex::new(watch), Arc::clone(memory));
        let mut words = Self { first, on_device: 0, count, is_used, watch, memory, _grant: grant };
        // SAFETY: writes one address; the memory is page-locked since just now, and a context is current since then.
        let code =
            unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut words.on_device, host_pointer(first), 0) };
        check("cuMemHostGetDevicePointer", code)?;
        let words = Arc::new(words);
        context.watch(&words);
        Ok(words)
    }

    /// Queues raising a flag.
    pub(super) fn raise(&self, stream: CUstream, index: usize) -> Result<()> {
        self.queue(stream, index, &mut [self.write(index, RAISED)])
    }

    /// Queues waiting for a flag, and lowering it.
    pub(super) fn take(&self, stream: CUstream, index: usize) -> Result<()> {
        self.queue(stream, index, &mut [self.wait(index), self.write(index, LOWERED)])
    }

    fn queue(
        &self,
        stream: CUstream,
        index: usize,
        operations: &mut [CUstreamBatchMemOpParams],
    ) -> Result<()> {
        self.outcome()?;
        self.is_used.store(true, Ordering::Relaxed);
        let count = u32::try_from(operations.len()).unwrap_or(u32::MAX);
        // SAFETY: the stream is alive and reads `count` operations before the call returns; their words live until the stream was waited for, since it keeps them.
        let code = unsafe { sys::cuStreamBatchMemOp_v2(stream, count, operations.as_mut_ptr(), 0) };
        let asked = format_args!("{count} operations of flag {index} of {}", self.count);
        check_of("cuStreamBatchMemOp", asked, code)
    }

    fn wait(&self, index: usize) -> CUstreamBatchMemOpParams {
        CUstreamBatchMemOpParams {
            waitValue: sys::CUstreamBatchMemOpParams_union_CUstreamMemOpWaitValueParams_st {
                operation: CUstreamBatchMemOpType::CU_STREAM_MEM_OP_WAIT_VALUE_32,
                address: self.on_device(index),
                __bindgen_anon_1:
                    sys::CUstreamBatchMemOpParams_union_CUstreamMemOpWaitValueParams_st__bindgen_ty_1 {
                        value64: u64::from(RAISED),
                    },
                flags: sys::CUstreamWaitValue_flags::CU_STREAM_WAIT_VALUE_EQ as u32,
                alias: 0,
            },
        }
    }

    fn write(&self, index: usize, value: u32) -> CUstreamBatchMemOpParams {
        CUstreamBatchMemOpParams {
            writeValue: sys::CUstreamBatchMemOpParams_union_CUstreamMemOpWriteValueParams_st {
                operation: CUstreamBatchMemOpType::CU_STREAM_MEM_OP_WRITE_VALUE_32,
                address: self.on_device(index),
                __bindgen_anon_1:
                    sys::CUstreamBatchMemOpParams_union_CUstreamMemOpWriteValueParams_st__bindgen_ty_1 {
                        value64: u64::from(value),
                    },
                flags: sys::CUstreamWriteValue_flags::CU_STREAM_WRITE_VALUE_DEFAULT as u32,
                alias: 0,
            },
        }
    }

    fn on_device(&self, index: usize) -> u64 {
        assert!(index < self.count, "flag {index} of {}", self.count);
        self.on_device + bytes(index)
    }

    /// Nobody waits any more; the first reason is the one to report.
    pub(super) fn give_up(&self, why: &str) {
        self.watch().given_up.get_or_insert_with(|| why.to_owned());
        self.let_go();
    }

    /// Whether they were given up.
    pub(super) fn outcome(&self) -> Result<()> {
        self.watch().given_up.clone().map_or(Ok(()), |why| Err(Error::Stream(why)))
    }

    /// Looks whether a flag has changed since the last time. If none has for too long they are given up, and whoever waits is let go.
    pub(super) fn look(&self) {
        if !self.is_used.load(Ordering::Relaxed) {
            return;
        }
        let now: Vec<u32> = self.words().map(|word| word.load(Ordering::Relaxed)).collect();
        let mut watch = self.watch();
        if watch.seen != now {
            (watch.seen, watch.since) = (now, Instant::now());
        } else if watch.since.elapsed() > watch.patience && watch.given_up.is_none() {
            let why = standstill(&now, watch.patience);
            watch.given_up = Some(why);
        }
        let is_given_up = watch.given_up.is_some();
        drop(watch);
        if is_given_up {
            self.let_go();
        }
    }

    /// From now on the host looks: what it saw before was another wait's.
    pub(super) fn start_looking(&self) {
        self.watch().since = Instant::now();
    }

    fn let_go(&self) {
        self.words().for_each(|word| word.store(RAISED, Ordering::Relaxed));
    }

    fn words(&self) -> impl Iterator<Item = &AtomicU32> {
        let first = host_pointer(self.first).cast::<AtomicU32>();
        (0..self.count).map(move |index| {
            // SAFETY: `pin` gave `count` words there, which are ours until the drop.
            let word = unsafe { first.add(index) };
            // SAFETY: as above, zeroed at first and aligned; the host touches them as atomics only.
            unsafe { &*word }
        })
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        // Whole fields are assigned under the lock.
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: made by `new`; streams and graphs that use it have kept it until they were done. Nobody is left to hear of an error.
        let _ = unsafe { self.memory.unpin(self.first, bytes(self.count)) };
    }
}

fn standstill(words: &[u32], patience: Duration) -> String {
    let mut text =
        format!("no flag changed for {} s while work was pending; raised are", patience.as_secs_f64());
    let raised = words.iter().zip(0..).filter(|(word, _)| **word != LOWERED);
    let before = text.len();
    raised.for_each(|(_, index)| {
        let _ = write!(text, " {index}");
    });
    if text.len() == before {
        text.push_str(" none");
    }
    let _ = write!(text, " of {}", words.len());
    text
}

const fn bytes(count: usize) -> u64 {
    count as u64 * crate::FLAG_BYTES
}
