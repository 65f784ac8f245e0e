//! Kernels that keep a stream busy for a while.

use lighterage_device::{Backend, Device, Event};
use lighterage_ops::{Add, Queue, Tensor, add};
use lighterage_shape::DType;

use super::super::timing;
use crate::failure::Result;

/// What the kernels of a backlog take together, at least.
const SECONDS: f64 = 0.02;
/// Launches of a backlog: few, that it is not over with the first one; not more than a driver takes without letting the caller wait.
const LAUNCHES: (f64, f64) = (4.0, 512.0);
/// Bytes of an operand: large enough that queueing a launch takes a small part of its time.
const BYTES_MAX: u64 = 64 << 20;

/// Kernels, all on memory of its own.
pub(super) struct Backlog<B: Backend> {
    pub(super) queue: Queue<B>,
    a: Tensor<B>,
    b: Tensor<B>,
    launches: u32,
    done: Event<B>,
}

impl<B: Backend> Backlog<B> {
    pub(super) fn new(device: &Device<B>, bytes: u64) -> Result<Self> {
        let queue = super::queue(device)?;
        let count = usize::try_from(bytes.min(BYTES_MAX).min(device.ledger().free_bytes() / 8) / 2)?;
        let zeros = || queue.zeros(DType::Bf16, &[count.max(1)], "backlog");
        let (a, b) = (zeros()?, zeros()?);
        let mut backlog = Self { a, b, launches: 1, done: device.event()?, queue };
        let one = timing::seconds_of(backlog.queue.stream(), 1, |_| backlog.launch())?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
        {
            backlog.launches = (SECONDS / one.max(1e-9)).ceil().clamp(LAUNCHES.0, LAUNCHES.1) as u32;
        }
        Ok(backlog)
    }

    fn launch(&self) -> Result<()> {
        let (a, b) = (self.a.view(), self.b.view());
        let queue = &self.queue;
        Ok(add(queue, &Add { a, b, scale: 1.0, out: a })?)
    }

    /// Queues all of it, on a stream that has nothing else to do.
    pub(super) fn queue(&self) -> Result<()> {
        self.wait()?;
        (0..self.launches).try_for_each(|_| self.launch())?;
        Ok(self.queue.stream().record(&self.done)?)
    }

    /// What ends with it.
    pub(super) const fn done(&self) -> &Event<B> {
        &self.done
    }

    pub(super) fn is_pending(&self) -> Result<bool> {
        Ok(!self.done.is_complete()?)
    }

    pub(super) fn wait(&self) -> Result<()> {
        Ok(self.queue.stream().synchronize()?)
    }
}
