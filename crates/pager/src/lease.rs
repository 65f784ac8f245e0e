use lighterage_device::{Address, Backend, Open, View};
use lighterage_shape::Layout;

use crate::Pager;
use crate::units::UnitSpec;

/// Weights of one unit, on the device. Dropping it lets the ring reuse the space once the work launched so far is done.
#[derive(Debug)]
#[must_use = "the weights may be overwritten once the lease is dropped"]
pub struct Lease<'p, B: Backend> {
    pub(crate) pager: &'p Pager<B>,
    pub(crate) unit: &'p UnitSpec,
    pub(crate) address: Address,
    /// The number of the visit, where visits are in order.
    pub(crate) visit: Option<u64>,
    /// Its number in the trace.
    pub(crate) number: usize,
    /// In a recording.
    pub(crate) span: Option<Open>,
}

impl<B: Backend> Lease<'_, B> {
    /// The unit's `index`-th tensor, in the order of its specification.
    ///
    /// # Panics
    /// If it has no such tensor.
    #[must_use]
    pub fn tensor(&self, index: usize) -> View<'_> {
        let UnitSpec { name, tensors } = self.unit;
        let (spec, offset) = tensors
            .iter()
            .zip(self.unit.offsets())
            .nth(index)
            .unwrap_or_else(|| panic!("tensor {index} of unit {name}, which has {}", tensors.len()));
        let layout = Layout::contiguous(spec.dtype(), spec.shape());
        // SAFETY: the pager's memory is mapped until its drop has waited for both streams; while the lease lives nothing is copied over it, and
        // later copies wait for the work launched on the compute stream, the owner, until the lease was dropped.
        unsafe { View::new(self.address.offset(offset), layout, self.pager.stream().id()) }
    }
}

impl<B: Backend> Drop for Lease<'_, B> {
    fn drop(&mut self) {
        self.pager.stream().end(self.span.take());
        self.pager.release(self.visit, self.number);
    }
}
