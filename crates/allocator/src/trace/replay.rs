use lighterage_device::{Backend, StreamKind};

use super::{Op, Trace};
use crate::{Allocator, Handle, OnStream, Result, Tag};

/// A trace on an allocator, again and again; each of its streams is a compute stream of the device.
///
/// ```
/// use lighterage_allocator::{Allocator, Op, Replay, Settings, Trace};
/// use lighterage_device::{Device, Ledger, Sim, SimConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::new(Sim::new(SimConfig::default())?, Ledger::new(2 << 20), Ledger::new(0));
/// let allocator = Allocator::new(&device, Settings::default())?;
/// let alloc = |id, bytes| Op::Alloc { id, stream: 0, bytes };
/// let trace = Trace::new([alloc(0, 1000), alloc(1, 8 << 20), Op::Free { id: 0 }]);
/// assert_eq!(Replay::new(&trace, &allocator)?.pass()?, 1, "the second one finds no room");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Replay<'a, B: Backend> {
    trace: &'a Trace,
    ons: Vec<OnStream<B>>,
    handles: Vec<Option<Handle>>,
}

impl<'a, B: Backend> Replay<'a, B> {
    /// Makes the streams.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the driver makes none.
    pub fn new(trace: &'a Trace, allocator: &Allocator<B>) -> Result<Self> {
        let on = |_| allocator.on(&allocator.device().stream(StreamKind::Compute)?);
        let ons = (0..trace.streams()).map(on).collect::<Result<_>>()?;
        Ok(Self { trace, ons, handles: vec![None; trace.ids()] })
    }

    /// All of the trace; what it leaves alive is given back at the end. How many requests were refused.
    ///
    /// # Errors
    /// As [`Allocator::free`].
    pub fn pass(&mut self) -> Result<usize> {
        let mut refused = 0;
        for op in self.trace.ops() {
            match *op {
                Op::Alloc { id, stream, bytes } => {
                    let handle = self.ons[usize::from(stream)].allocate(bytes, Tag::NONE);
                    refused += usize::from(handle.is_err());
                    self.handles[id as usize] = handle.ok();
                }
                Op::Free { id } => self.give(id as usize)?,
            }
        }
        (0..self.handles.len()).try_for_each(|id| self.give(id))?;
        Ok(refused)
    }

    fn give(&mut self, id: usize) -> Result<()> {
        match self.handles[id].take() {
            Some(handle) => self.ons[0].free(handle),
            None => Ok(()),
        }
    }
}
