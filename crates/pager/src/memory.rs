use std::ops::Range;
use std::sync::Arc;

use lighterage_device::{Address, Backend, Chunk, Device, Purpose, Reservation, Result};

use crate::plan::{Home, Plan};

/// Pages of one chunk of resident memory: fewer and larger chunks than pages, since each costs the driver a handle.
const CHUNK_PAGES: u32 = 16;

/// The device memory of a plan: one range of addresses as long as the tape, in which resident pages have chunks of their own and streamed pages are
/// aliases of the ring's. All of it is mapped once; nothing moves until the pager goes or its plan is changed.
#[derive(Debug)]
pub(crate) struct Memory<B: Backend> {
    range: Option<Reservation<B>>,
    page_bytes: u64,
    /// What is mapped where, as the plan has it.
    homes: Vec<Home>,
    ring: Vec<Arc<Chunk<B>>>,
}

impl<B: Backend> Memory<B> {
    /// Charged to the ledger before it exists; on an error nothing of it is left.
    pub(crate) fn new(device: &Device<B>, plan: &Plan) -> Result<Self> {
        let (pages, page_bytes) = (plan.homes().len() as u64, plan.page_bytes());
        let range = (pages > 0).then(|| device.reserve(pages * page_bytes)).transpose()?;
        let mut memory = Self { range, page_bytes, homes: plan.homes().to_vec(), ring: Vec::new() };
        for _ in 0..plan.ring_bytes() / page_bytes {
            memory.ring.push(device.create(Purpose::Ring, page_bytes)?);
        }
        if let Some(range) = &memory.range {
            for pages in runs(&memory.homes) {
                memory.map(device, range, &pages)?;
            }
            range.set_access(0, pages * page_bytes)?;
        }
        Ok(memory)
    }

    /// The place of a byte of the tape. Without memory there are only empty units, whose address nobody reads.
    pub(crate) fn address(&self, offset: u64) -> Address {
        self.range.as_ref().map_or_else(Address::default, |range| range.address().offset(offset))
    }

    /// Takes the homes of another plan over the same tape, whose ring has the same length: pages that move are unmapped, then mapped anew, at the same addresses.
    /// What is given back is given back first. Returns the pages whose contents are gone.
    ///
    /// Nothing may be using any of the memory now.
    pub(crate) fn change(&mut self, device: &Device<B>, homes: &[Home]) -> Result<Vec<u32>> {
        let Some(range) = &self.range else { return Ok(Vec::new()) };
        let mut moved: Vec<u32> = Vec::new();
        for run in runs(&self.homes) {
            // A chunk goes as a whole.
            if run.clone().any(|page| homes[page as usize] != self.homes[page as usize]) {
                let (offset, bytes) = self.bytes(&run);
                range.unmap(offset, bytes)?;
                moved.extend(run);
            }
        }
        self.homes = homes.to_vec();
        let mut next = 0;
        while next < moved.len() {
            let run = run_of(&self.homes, &moved[next..]);
            self.map(device, range, &run)?;
            let (offset, bytes) = self.bytes(&run);
            range.set_access(offset, bytes)?;
            next += run.len();
        }
        Ok(moved)
    }

    fn map(&self, device: &Device<B>, range: &Reservation<B>, pages: &Range<u32>) -> Result<()> {
        let (offset, bytes) = self.bytes(pages);
        match self.homes[pages.start as usize] {
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
