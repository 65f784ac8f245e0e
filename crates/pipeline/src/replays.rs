//! Steps that are recorded once and replayed: two calls in place of a thousand.
#![expect(unsafe_code, reason = "a replay, whose conditions this file keeps")]

use lighterage_device::{Backend, View};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, Recorded};

use crate::Result;

/// How often a loop records a step: anew after each time that memory was given up under pressure.
const CAPTURES_MAX: usize = 8;

/// The steps of a loop that are replayed, where the pager has what that takes ([`Pager::replayable`]).
///
/// What is recorded is everything of a step between the choice of its modulations and its update, which are told apart from step to step and are queued by themselves.
#[derive(Debug)]
pub(crate) struct Replays<B: Backend> {
    step: Option<Step<B>>,
    captures: usize,
    replayed: usize,
    /// Why no step is recorded any more.
    refused: Option<String>,
}

/// A step that was recorded.
#[derive(Debug)]
struct Step<B: Backend> {
    /// None if it was no turn of the steady state, and so will not come again.
    turn: Option<Recorded<B>>,
    /// What each replay makes.
    velocity: Tensor<B>,
    is_infused: bool,
    /// What the pool had given back by then.
    releases: u64,
}

impl<B: Backend> Default for Replays<B> {
    fn default() -> Self {
        Self { step: None, captures: 0, replayed: 0, refused: None }
    }
}

impl<B: Backend> Replays<B> {
    /// How many steps were done by graphs.
    pub(crate) const fn replayed(&self) -> usize {
        self.replayed
    }

    /// Why none is recorded any more.
    pub(crate) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// What was recorded used something that goes.
    pub(crate) fn forget(&mut self) {
        self.step = None;
    }

    /// Replays the step, and gives its velocity; none, and nothing is recorded any more, if that is not what is to be done now.
    pub(crate) fn replay(
        &mut self,
        queue: &Queue<B>,
        cycle: &Pager<B>,
        is_infused: bool,
    ) -> Result<Option<View<'_>>> {
        let releases = queue.pool().releases();
        let same = |step: &Step<B>| step.is_infused == is_infused && step.releases == releases;
        let turn = self.step.as_mut().filter(|step| same(step)).and_then(|step| step.turn.as_mut());
        // SAFETY (of the replay): a step reads weights, which the pager vouches for, and what the loop owns: latents, conditions, InfuseNet's inputs. A loop that lets one of them go
        // forgets the step. It writes the velocity, which is kept, and memory that it took from the pool and gave back: the pool has unmapped nothing since, by its count, and
        // nobody else was given any of it whose contents a later step relies on: each step makes its activations anew.
        let replayed = match turn {
            // SAFETY: as argued above.
            Some(turn) => unsafe { cycle.replay(turn) }?,
            None => false,
        };
        if !replayed {
            self.step = None;
            return Ok(None);
        }
        self.replayed += 1;
        Ok(self.step.as_ref().map(|step| step.velocity.view()))
    }

    /// Does a step by recording it, if the pager can do that now; none, and nothing was done, if it cannot, or if some of it could not be recorded.
    pub(crate) fn capture(
        &mut self,
        queue: &Queue<B>,
        cycle: &Pager<B>,
        is_infused: bool,
        work: impl FnOnce() -> Result<Tensor<B>>,
    ) -> Option<View<'_>> {
        self.step = None;
        if self.refused.is_some() || self.captures >= CAPTURES_MAX || !cycle.is_recordable() {
            return None;
        }
        self.captures += 1;
        match cycle.capture(work) {
            Ok((velocity, turn)) => {
                self.replayed += 1;
                let releases = queue.pool().releases();
                let step = self.step.insert(Step { turn, velocity, is_infused, releases });
                Some(step.velocity.view())
            }
            Err(error) => {
                // What keeps the device from recording keeps it from nothing else; what does, the same step says when it is done without.
                self.refused = Some(error.to_string());
                None
            }
        }
    }
}
