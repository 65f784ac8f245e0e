//! Less memory, and more again, in the middle of a run.

use std::sync::Arc;

use lighterage_device::Backend;

use crate::graphs::Joint;
use crate::pager::Fault;
use crate::plan::Plan;
use crate::state::State;
use crate::{Pager, Result};

/// # Pressure
///
/// Someone else on the same ledger needs memory, or the ledger's cap was lowered. Then resident pages become streamed ones: a plan for less memory is made for the same
/// turns, and the pages that differ are mapped anew. Addresses stay, and what launches read stays. Pages of leases that are held keep their memory until the next
/// change. Both streams are waited for, and what the plan keeps in other places is read again: pressure costs about a turn's loading.
impl<B: Backend> Pager<B> {
    /// Gives back at least so many bytes if it can, else what it can, and says how many; 0 if that is nothing.
    ///
    /// Beyond a cap that was lowered it gives back nothing unless that is enough to be within it again: no page can move before.
    ///
    /// May be called at any time, from any thread, also while leases are held: from the pressure handler of an allocator on the same ledger. Where leases do not come in
    /// the order of the cycle ([`Pager::resident`]) nothing can be streamed, and so nothing is given back.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if earlier work has failed, or the driver fails; then the next lease goes on with it.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use lighterage_checkpoint::{Checkpoint, Shape};
    /// # use lighterage_device::{Device, Host, HostConfig, Ledger, StreamKind};
    /// # use lighterage_pager::{Pager, Plan, TensorSpec, UnitSpec, Units};
    /// # use lighterage_shape::DType;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let shapes: Vec<Shape> = (0..4).map(|n| Shape { name: n.to_string(), extents: vec![256, 256] }).collect();
    /// # let checkpoint = Checkpoint::of_shapes("model", DType::Bf16, &shapes)?;
    /// # let mut units = Units::default();
    /// # let mut cycle = Vec::new();
    /// # for shape in &shapes {
    /// #     let weight = TensorSpec::whole(&checkpoint, &shape.name, &shape.extents, DType::Bf16)?;
    /// #     cycle.push(units.add(UnitSpec { name: shape.name.clone(), tensors: vec![weight] }));
    /// # }
    /// # let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(512 << 10), Ledger::new(0));
    /// # let stream = device.stream(StreamKind::Compute)?;
    /// let plan = Plan::within(&units, &cycle, 512 << 10, device.info().page_bytes)?;
    /// let pager = Pager::new(&stream, Arc::new(units), &cycle, &plan)?;
    /// device.ledger().set_cap_bytes(384 << 10);
    /// for _ in 0..2 {
    ///     pager.turn(0)?; // gives back what is over the cap
    ///     assert!(device.ledger().granted_bytes() <= 384 << 10);
    ///     for unit in &cycle {
    ///         let _lease = pager.lease(*unit)?; // at the same address as ever
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn shrink(&self, bytes: u64) -> Result<u64> {
        let mut state = self.state();
        state.is_pressed = true;
        self.shrink_by(&mut state, bytes)
    }

    /// Takes back what it gave, as far as the ledger has room now, and says how many bytes that were.
    ///
    /// # Errors
    /// As [`shrink`](Self::shrink).
    pub fn regrow(&self) -> Result<u64> {
        self.regrow_now(&mut self.state())
    }

    /// At the beginning of a turn: whether the ledger wants memory back, or has some for us.
    pub(crate) fn adapt(&self, state: &mut State<B>) -> Result<()> {
        let excess = self.compute.device().ledger().excess_bytes();
        if excess > 0 {
            self.shrink_by(state, excess)?;
            state.is_pressed = true;
        } else if std::mem::take(&mut state.is_pressed) {
            // A turn without pressure comes first: memory that comes and goes within a turn would have the same pages come and go as often.
        } else if !Arc::ptr_eq(&state.plan, &self.plan) {
            self.regrow_now(state)?;
        }
        Ok(())
    }

    /// Goes on with a change that failed half way.
    pub(crate) fn settle(&self, state: &mut State<B>) -> Result<()> {
        self.leave(state)?;
        if !state.is_settled {
            self.quiet(state)?;
            state.memory.settle(state.plan.homes())?;
            state.is_settled = true;
        }
        Ok(())
    }

    fn shrink_by(&self, state: &mut State<B>, bytes: u64) -> Result<u64> {
        let is_cyclic = state.is_ordered || (state.followed.is_some() && !self.takes_any_order);
        // What is being recorded cannot be waited for. What held leases read keeps its place, and where it is lost there is nothing to keep.
        if bytes == 0 || !is_cyclic || state.joint == Joint::Recording || !state.lost.is_empty() {
            return Ok(0);
        }
        self.settle(state)?;
        self.quiet(state)?;
        let page = self.plan.page_bytes();
        let (now, less) = (state.plan.bytes() / page, bytes.div_ceil(page));
        let fixed = self.fixed(state);
        let wanted = u32::try_from(now.saturating_sub(less)).unwrap_or(u32::MAX);
        let Some(plan) = state.plan.shrunk(wanted, &fixed) else { return Ok(0) };
        let given = state.plan.bytes() - plan.bytes();
        let ledger = self.compute.device().ledger();
        if ledger.granted_bytes() - given > ledger.limit_bytes() {
            // Pages that move want grants, and there are none as long as the cap is exceeded.
            return Ok(0);
        }
        self.change(state, Arc::new(plan), &fixed)?;
        Ok(given)
    }

    fn regrow_now(&self, state: &mut State<B>) -> Result<u64> {
        if !state.lost.is_empty() {
            return Ok(0);
        }
        self.settle(state)?;
        let (page, free) = (self.plan.page_bytes(), self.compute.device().ledger().free_bytes());
        let (now, most) = (state.plan.bytes(), self.plan.bytes());
        if Arc::ptr_eq(&state.plan, &self.plan) || free < page {
            return Ok(0);
        }
        self.quiet(state)?;
        let fixed = self.fixed(state);
        let plan = if now + free < most {
            let pages = u32::try_from((now + free) / page).unwrap_or(u32::MAX);
            state.plan.resized(pages, &fixed).map(Arc::new)
        } else if fixed.contains(&true) {
            Some(Arc::new(self.plan.beside(&state.plan, &fixed)))
        } else {
            Some(Arc::clone(&self.plan))
        };
        let is_better = |plan: &Arc<Plan>| (now + 1..=most.min(now + free)).contains(&plan.bytes());
        let Some(plan) = plan.filter(is_better) else { return Ok(0) };
        let taken = plan.bytes() - now;
        self.change(state, plan, &fixed)?;
        Ok(taken)
    }

    /// Pages that nobody may move: those of leases that are held, and of the chunks that they lie in.
    fn fixed(&self, state: &State<B>) -> Vec<bool> {
        let mut fixed = vec![false; self.plan.homes().len()];
        if self.has(Fault::MovesHeldPages) {
            return fixed;
        }
        for pages in state.held_pages() {
            fixed[pages.start as usize..pages.end as usize].fill(true);
        }
        state.memory.mark_chunks(&mut fixed);
        fixed
    }

    /// Nothing is under way afterwards but what launches of held leases are still to be queued.
    pub(crate) fn quiet(&self, state: &State<B>) -> Result<()> {
        self.compute.device().take_deferred()?;
        state.feed.stream().synchronize()?;
        Ok(self.compute.synchronize()?)
    }

    /// Goes over to another plan for the same tape. Nothing is under way.
    fn change(&self, state: &mut State<B>, plan: Arc<Plan>, fixed: &[bool]) -> Result<()> {
        state.give_up();
        state.version += 1;
        state.memory.relabel(&plan, fixed);
        let stay = state.memory.stays(plan.homes());
        // The tape is that of every plan of this model.
        state.script = state.script.moved(&plan, &stay, state.held_visits());
        state.feed.change(&self.units, &plan);
        for arrival in &mut state.arrivals {
            (arrival.issued, arrival.is_queued) = (0, false);
        }
        (state.waited, state.given_up) = (state.issued, state.issued);
        if !state.is_ordered {
            state.leased = state.followed.unwrap_or_default();
        }
        state.queued = state.leased;
        state.is_ordered = true;
        state.plan = plan;
        state.is_settled = false;
        state.memory.settle(state.plan.homes())?;
        state.is_settled = true;
        self.queue_ahead(state)
    }
}
