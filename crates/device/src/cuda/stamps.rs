//! When streams come to a moment: events with timing, read when they are complete.

use std::collections::VecDeque;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{self, CUevent};

use super::CudaStream;
use super::api::check;
use super::context::Context;
use super::stream::Handle;
use crate::{Result, Stamp};

/// Stamps that are under way before it is looked which are complete: an event each, of which the driver has many.
const PENDING_MAX: usize = 4096;

/// From one event of which the time is known to another the driver counts in floats of milliseconds: beyond this many a reading would be coarser than the half
/// microsecond that an event's own clock has.
const BASE_MS_MAX: f32 = 4000.0;

/// The moments of a device's streams that nobody was told of yet.
#[derive(Debug)]
pub(super) struct Stamps {
    state: Mutex<State>,
    context: Arc<Context>,
}

#[derive(Debug, Default)]
struct State {
    /// An event of which the time is known.
    base: Option<Base>,
    pending: VecDeque<(Handle, Stamp)>,
    free: Vec<Handle>,
}

#[derive(Debug)]
struct Base {
    event: Handle,
    at_ns: f64,
}

impl Stamps {
    pub(super) fn new(context: &Arc<Context>) -> Self {
        Self { state: Mutex::default(), context: Arc::clone(context) }
    }

    /// Queues a moment, unless the stream records a graph, which has no times.
    pub(super) fn queue(&self, stream: &CudaStream, stamp: Stamp) -> Result<()> {
        let Some(_outside) = stream.gate().try_outside() else { return Ok(()) };
        let mut state = self.state();
        if state.base.is_none() {
            state.base = Some(self.base(stream, &stamp)?);
        }
        if state.pending.len() >= PENDING_MAX {
            state.harvest(|event| event.is_complete());
        }
        let event = state.free.pop().map_or_else(|| Handle::timed(&self.context), Ok)?;
        stream.record_timed(&event)?;
        state.pending.push_back((event, stamp));
        Ok(())
    }

    /// Waits for all moments, and tells when they were.
    pub(super) fn settle(&self) {
        // What cannot be waited for has no time.
        self.state().harvest(|event| event.synchronize().is_ok());
    }

    /// The host waits once, for the first moment: it is then as late on its clock as on the device's, but for the microseconds that waking it takes.
    fn base(&self, stream: &CudaStream, stamp: &Stamp) -> Result<Base> {
        let event = Handle::timed(&self.context)?;
        stream.record_timed(&event)?;
        event.synchronize()?;
        #[expect(clippy::cast_precision_loss, reason = "times of a run are far below 2^52 ns")]
        let at_ns = stamp.now_ns() as f64;
        Ok(Base { event, at_ns })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole entries are moved under the lock: a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells of the moments that are there, in the order in which they were queued.
    fn harvest(&mut self, is_there: impl Fn(&Handle) -> bool) {
        while let Some((event, stamp)) = self.pending.pop_front() {
            if !is_there(&event) {
                self.pending.push_front((event, stamp));
                return;
            }
            if let Some(event) = self.tell(event, stamp) {
                self.free.push(event);
            }
        }
    }

    /// Says when it was; gives the event back, unless it is the base from now on.
    fn tell(&mut self, event: Handle, stamp: Stamp) -> Option<Handle> {
        let base = self.base.as_mut()?;
        let Ok(ms) = elapsed_ms(&base.event, &event) else { return Some(event) };
        let at_ns = f64::from(ms).mul_add(1e6, base.at_ns);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a range that fits"
        )]
        stamp.reach_at(at_ns.clamp(0.0, 1e18) as u64);
        if ms < BASE_MS_MAX {
            return Some(event);
        }
        Some(std::mem::replace(base, Base { event, at_ns }).event)
    }
}

fn elapsed_ms(from: &Handle, to: &Handle) -> Result<f32> {
    let mut ms = 0.0;
    let (from, to): (CUevent, CUevent) = (from.entered()?, to.entered()?);
    // SAFETY: writes one float; both events are alive and have timing.
    check("cuEventElapsedTime", unsafe { sys::cuEventElapsedTime_v2(ptr::from_mut(&mut ms), from, to) })?;
    Ok(ms)
}
