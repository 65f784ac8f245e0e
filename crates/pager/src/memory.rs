use lighterage_device::{Address, Backend, Device, Purpose, Reservation, Result};

use crate::plan::Plan;

/// Pages of one chunk of the resident slab: fewer and larger chunks than pages, since each costs the driver a handle.
const CHUNK_PAGES: u64 = 16;

/// The device memory of a plan, mapped once: nothing of it moves until the pager goes.
#[derive(Debug)]
pub(crate) struct Memory<B: Backend> {
    slab: Option<Reservation<B>>,
    ring: Option<Reservation<B>>,
}

impl<B: Backend> Memory<B> {
    /// Charged to the ledger before it exists; on an error nothing of it is left.
    pub(crate) fn new(device: &Device<B>, plan: &Plan) -> Result<Self> {
        let chunk_bytes = CHUNK_PAGES * plan.page_bytes();
        let slab = (plan.resident_bytes() > 0).then(|| slab(device, plan.resident_bytes(), chunk_bytes));
        let ring = (plan.ring_bytes() > 0).then(|| ring(device, plan.ring_bytes()));
        Ok(Self { slab: slab.transpose()?, ring: ring.transpose()? })
    }

    /// A place in the resident slab.
    pub(crate) fn resident(&self, offset: u64) -> Address {
        address(self.slab.as_ref(), offset)
    }

    /// A place in the ring.
    pub(crate) fn streamed(&self, offset: u64) -> Address {
        address(self.ring.as_ref(), offset)
    }
}

/// Without memory there are only empty units, whose address nobody reads.
fn address<B: Backend>(memory: Option<&Reservation<B>>, offset: u64) -> Address {
    memory.map_or_else(Address::default, |memory| memory.address().offset(offset))
}

fn slab<B: Backend>(device: &Device<B>, bytes: u64, chunk_bytes: u64) -> Result<Reservation<B>> {
    let slab = device.reserve(bytes)?;
    let mut offset = 0;
    while offset < bytes {
        let chunk = device.create(Purpose::Resident, chunk_bytes.min(bytes - offset))?;
        slab.map(offset, &chunk)?;
        offset += chunk.bytes();
    }
    slab.set_access(0, bytes)?;
    Ok(slab)
}

/// One chunk, mapped twice behind each other, so that a unit which begins before the ring's end is contiguous.
fn ring<B: Backend>(device: &Device<B>, bytes: u64) -> Result<Reservation<B>> {
    let ring = device.reserve(2 * bytes)?;
    let chunk = device.create(Purpose::Ring, bytes)?;
    ring.map(0, &chunk)?;
    ring.map(bytes, &chunk)?;
    ring.set_access(0, 2 * bytes)?;
    Ok(ring)
}
