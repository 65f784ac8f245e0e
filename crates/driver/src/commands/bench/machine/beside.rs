//! Whether memory calls on memory that nobody uses wait for kernels on other memory.

use std::sync::Arc;
use std::time::Instant;

use lighterage_device::{Backend, Chunk, Device, Purpose, Reservation};
use serde::Serialize;

use super::super::timing::median;
use super::backlog::Backlog;
use crate::failure::Result;

const ROUNDS: usize = 7;

/// The life of a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Call {
    Create,
    Map,
    SetAccess,
    Unmap,
    Destroy,
}

impl Call {
    const ALL: [Self; 5] = [Self::Create, Self::Map, Self::SetAccess, Self::Unmap, Self::Destroy];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Map => "map",
            Self::SetAccess => "set access",
            Self::Unmap => "unmap",
            Self::Destroy => "destroy",
        }
    }
}

/// A call with nothing to do, and behind queued kernels; seconds are medians.
#[derive(Debug, Serialize)]
pub(super) struct BesideWork {
    pub(super) call: Call,
    pub(super) idle_seconds: f64,
    pub(super) beside_seconds: f64,
    /// What the kernels took, from the beginning of the call to their end.
    pub(super) work_seconds: f64,
    rounds: usize,
    /// Rounds where kernels were under way when the call began.
    pub(super) pending_before: usize,
    /// Those of them where kernels still were when it returned.
    pub(super) pending_after: usize,
    /// Whether it waits for them: by most rounds; null if none had kernels under way.
    pub(super) waits: Option<bool>,
}

pub(super) fn measure<B: Backend>(device: &Device<B>, bytes: u64) -> Result<Vec<BesideWork>> {
    let backlog = Backlog::new(device, bytes)?;
    let mut piece = Piece { range: device.reserve(device.info().page_bytes)?, device, chunk: None };
    Call::ALL.into_iter().map(|call| piece.measure(call, &backlog)).collect()
}

/// A page, where it is mapped, and whether it exists.
struct Piece<'a, B: Backend> {
    range: Reservation<B>,
    device: &'a Device<B>,
    chunk: Option<Arc<Chunk<B>>>,
}

/// One call beside work.
struct Round {
    seconds: f64,
    work_seconds: f64,
    is_pending: [bool; 2],
}

impl<B: Backend> Piece<'_, B> {
    fn measure(&mut self, call: Call, backlog: &Backlog<B>) -> Result<BesideWork> {
        let idle = (0..ROUNDS).map(|_| Ok(self.round(call, backlog, || Ok(()))?.seconds));
        let idle_seconds = median(idle.collect::<Result<_>>()?);
        let rounds: Vec<Round> =
            (0..ROUNDS).map(|_| self.round(call, backlog, || backlog.queue())).collect::<Result<_>>()?;
        let pending_before = rounds.iter().filter(|round| round.is_pending[0]).count();
        let pending_after = rounds.iter().filter(|round| round.is_pending == [true; 2]).count();
        Ok(BesideWork {
            call,
            idle_seconds,
            beside_seconds: median(rounds.iter().map(|round| round.seconds).collect()),
            work_seconds: median(rounds.iter().map(|round| round.work_seconds).collect()),
            rounds: ROUNDS,
            pending_before,
            pending_after,
            waits: (pending_before > 0).then(|| pending_after * 2 < pending_before),
        })
    }

    /// A whole life, with work queued before the one call that is timed.
    fn round(&mut self, timed: Call, backlog: &Backlog<B>, queue: impl Fn() -> Result<()>) -> Result<Round> {
        let mut round = Round { seconds: 0.0, work_seconds: 0.0, is_pending: [false; 2] };
        for call in Call::ALL {
            if call != timed {
                self.make(call)?;
                continue;
            }
            queue()?;
            round.is_pending[0] = backlog.is_pending()?;
            let start = Instant::now();
            self.make(call)?;
            round.seconds = start.elapsed().as_secs_f64();
            round.is_pending[1] = backlog.is_pending()?;
            backlog.wait()?;
            round.work_seconds = start.elapsed().as_secs_f64();
        }
        Ok(round)
    }

    fn make(&mut self, call: Call) -> Result<()> {
        let bytes = self.range.bytes();
        match (call, &self.chunk) {
            (Call::Create, _) => self.chunk = Some(self.device.create(Purpose::Activations, bytes)?),
            (Call::Map, Some(chunk)) => self.range.map(0, chunk)?,
            (Call::SetAccess, _) => self.range.set_access(0, bytes)?,
            (Call::Unmap, _) => self.range.unmap(0, bytes)?,
            (Call::Destroy, _) => self.chunk = None,
            (Call::Map, None) => unreachable!("a piece is created before it is mapped"),
        }
        Ok(())
    }
}
