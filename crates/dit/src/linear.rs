use lighterage_device::{Backend, View};
use lighterage_ops::{self as ops, ActivationKind, Queue, Residual};
use lighterage_pager::{Pager, UnitId};

use crate::Result;

/// What every launch of a pass needs: where it runs and where its weights come from.
#[derive(Debug)]
pub(crate) struct Run<'a, B: Backend> {
    pub(crate) queue: &'a Queue<B>,
    pub(crate) pager: &'a Pager<B>,
}

impl<B: Backend> Clone for Run<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Run<'_, B> {}

/// A linear whose weight and bias are one unit.
#[derive(Clone, Debug)]
pub(crate) struct LinearUnit {
    pub(crate) unit: UnitId,
    /// Columns of its output.
    pub(crate) columns: usize,
    /// Low-rank changes, added one after the other.
    pub(crate) adapters: Vec<AdapterUnit>,
}

/// A low-rank change to some columns of a linear: `scale up (down x)`, two narrow linears whose weights are one unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdapterUnit {
    pub(crate) unit: UnitId,
    pub(crate) rank: usize,
    pub(crate) scale: f32,
    /// The first column of the linear's output that it changes, and how many.
    pub(crate) start: usize,
    pub(crate) columns: usize,
}

/// What a linear reads and writes, and what is fused into it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// `[rows, inner]`.
    pub(crate) x: View<'a>,
    /// `[rows, columns]`.
    pub(crate) out: View<'a>,
    pub(crate) activation: Option<ActivationKind>,
    pub(crate) residual: Option<Residual<'a>>,
}

impl<'a> Call<'a> {
    /// Nothing fused.
    pub(crate) const fn plain(x: View<'a>, out: View<'a>) -> Self {
        Self { x, out, activation: None, residual: None }
    }

    /// With an activation after the bias.
    pub(crate) const fn activated(x: View<'a>, out: View<'a>, kind: ActivationKind) -> Self {
        Self { x, out, activation: Some(kind), residual: None }
    }

    /// `stream += gate * linear(x)`.
    pub(crate) const fn gated(x: View<'a>, stream: View<'a>, gate: View<'a>) -> Self {
        Self { x, out: stream, activation: None, residual: Some(Residual { x: stream, gate: Some(gate) }) }
    }
}

impl LinearUnit {
    /// Every unit that a run leases.
    pub(crate) fn units(&self) -> impl Iterator<Item = UnitId> + '_ {
        std::iter::once(self.unit).chain(self.adapters.iter().map(|adapter| adapter.unit))
    }

    /// One lease, one launch; with adapters more of both.
    pub(crate) fn run<B: Backend>(&self, run: Run<'_, B>, call: Call<'_>) -> Result<()> {
        let Call { x, out, activation, residual } = call;
        if self.adapters.is_empty() {
            return self.launch(run, call);
        }
        // The change belongs before the activation, which then is a launch of its own; gate and residual are linear and may be had piece by piece.
        self.launch(run, Call { activation: None, ..call })?;
        for adapter in &self.adapters {
            adapter.add(run, x, out, residual.and_then(|residual| residual.gate))?;
        }
        match activation {
            Some(kind) => Ok(ops::activation(run.queue, &ops::Activation { x: out, kind, out })?),
            None => Ok(()),
        }
    }

    fn launch<B: Backend>(&self, run: Run<'_, B>, call: Call<'_>) -> Result<()> {
        let lease = run.pager.lease(self.unit)?;
        ops::linear(
            run.queue,
            &ops::Linear {
                x: call.x,
                weight: lease.tensor(0),
                bias: Some(lease.tensor(1)),
                activation: call.activation,
                residual: call.residual,
                out: call.out,
            },
        )?;
        Ok(())
    }
}

impl AdapterUnit {
    /// `out += gate scale up (down x)`, in its columns.
    fn add<B: Backend>(
        &self,
        run: Run<'_, B>,
        x: View<'_>,
        out: View<'_>,
        gate: Option<View<'_>>,
    ) -> Result<()> {
        let Self { rank, scale, start, columns, .. } = *self;
        let lease = run.pager.lease(self.unit)?;
        let narrow = run.queue.tensor(x.dtype(), &[x.shape()[0], rank], "adapter")?;
        let plain = ops::Linear {
            x,
            weight: lease.tensor(0),
            bias: None,
            activation: None,
            residual: None,
            out: narrow.view(),
        };
        ops::linear(run.queue, &plain)?;
        if scale != 1.0 {
            let t = narrow.view();
            ops::add(run.queue, &ops::Add { a: t, b: t, scale: scale - 1.0, out: t })?;
        }
        let out = out.narrow(1, start, columns)?;
        let gate = gate.map(|gate| gate.narrow(0, start, columns)).transpose()?;
        let residual = Some(Residual { x: out, gate });
        let wide = ops::Linear {
            x: narrow.view(),
            weight: lease.tensor(1),
            bias: None,
            activation: None,
            residual,
            out,
        };
        Ok(ops::linear(run.queue, &wide)?)
    }
}
