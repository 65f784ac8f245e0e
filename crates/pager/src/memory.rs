use std::ops::Range;
use std::sync::Arc;

use lighterage_device::{Address, Backend, Chunk, Device, Purpose, Reservation, Result};

use crate::plan::{Home, Plan};

/// Pages of one chunk of resident memory: fewer and larger chunks than pages, since each costs the driver a handle.
const CHUNK_PAGES: u32 = 16;

/// The device memory of a plan: one range of addresses as long as the tape, in which resident pages have chunks of their own and streamed pages are
/// aliases of the ring's. All of it is mapped once; nothing moves until the pager goes.
#[derive(Debug)]
pub(crate) struct Memory<B: Backend> {
    range: Option<Reservation<B>>,
    page_bytes: u64,
    ring: Vec<Arc<Chunk<B>>>,
}

impl<B: Backend> Memory<B> {
    /// Charged to the ledger before it exists; on an error nothing of it is left.
    pub(crate) fn new(device: &Device<B>, plan: &Plan) -> Result<Self> {
        let (pages, page_bytes) = (plan.homes().len() as u64, plan.page_bytes());
        let range = (pages > 0).then(|| device.reserve(pages * page_bytes)).transpose()?;
        let mut memory = Self { range, page_bytes, ring: Vec::new() };
        for _ in 0..plan.ring_bytes() / page_bytes {
            memory.ring.push(device.create(Purpose::Ring, page_bytes)?);
        }
        if let Some(range) = &memory.range {
            for pages in runs(plan.homes()) {
                memory.map(device, range, &pages, plan.homes()[pages.start as usize])?;
            }
            range.set_access(0, pages * page_bytes)?;
        }
        Ok(memory)
    }

    /// The place of a byte of the tape. Without memory there are only empty units, whose address nobody reads.
    pub(crate) fn address(&self, offset: u64) -> Address {
        self.range.as_ref().map_or_else(Address::default, |range| range.address().offset(offset))
    }

    fn map(&self, device: &Device<B>, range: &Reservation<B>, pages: &Range<u32>, home: Home) -> Result<()> {
        let (offset, bytes) = self.bytes(pages);
        match home {
            Home::Ring(page) => range.map(offset, &self.ring[page as usize]),
            Home::Resident => range.map(offset, &device.create(Purpose::Resident, bytes)?),
        }
    }

    fn bytes(&self, pages: &Range<u32>) -> (u64, u64) {
        (u64::from(pages.start) * self.page_bytes, pages.len() as u64 * self.page_bytes)
    }
}

/// The pages in the runs in which they are mapped: resident ones in chunks, streamed ones one by one.
fn runs(homes: &[Home]) -> impl Iterator<Item = Range<u32>> {
    let pages: Vec<u32> = (0..).take(homes.len()).collect();
    let mut next = 0;
    std::iter::from_fn(move || {
        let run = (next < pages.len()).then(|| run_of(homes, &pages[next..]))?;
        next += run.len();
        Some(run)
    })
}

/// The first run of these pages, of which there is one at least.
fn run_of(homes: &[Home], pages: &[u32]) -> Range<u32> {
    let first = pages[0];
    let is_next =
        |(page, expected): &(&u32, u32)| **page == *expected && homes[**page as usize] == Home::Resident;
    let resident = pages.iter().zip(first..first.saturating_add(CHUNK_PAGES)).take_while(is_next).count();
    first..first + u32::try_from(resident.max(1)).unwrap_or(1)
}
