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
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearUnit {
    pub(crate) unit: UnitId,
    /// Columns of its output.
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
    /// One lease, one launch.
    pub(crate) fn run<B: Backend>(&self, run: Run<'_, B>, call: Call<'_>) -> Result<()> {
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
