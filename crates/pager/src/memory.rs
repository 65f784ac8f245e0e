use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use lighterage_device::{Address, Backend, Chunk, ChunkId, Device, Purpose, Reservation, Result};

use crate::plan::{Home, Plan};

/// Pages of one chunk of resident memory: fewer and larger chunks than pages, since each costs the driver a handle.
const CHUNK_PAGES: u32 = 16;

/// The device memory of a plan: one range of addresses as long as the tape, in which resident pages have chunks of their own and streamed pages are
/// aliases of the ring's. All of it is mapped at once; then nothing moves until the plan is changed or the pager goes.
#[derive(Debug)]
pub(crate) struct Memory<B: Backend> {
    device: Device<B>,
    range: Option<Arc<Reservation<B>>>,
    page_bytes: u64,
    /// By page of the ring; none: still to be created.
    ring: Vec<Option<Arc<Chunk<B>>>>,
    /// What is mapped, by its first page.
    maps: BTreeMap<u32, Map>,
    is_accessible: bool,
}

#[derive(Clone, Copy, Debug)]
struct Map {
    pages: u32,
    /// The page of the ring that is mapped here; none: memory of its own.
    ring: Option<ChunkId>,
}

impl<B: Backend> Memory<B> {
    /// Charged to the ledger before it exists; on an error nothing of it is left.
    pub(crate) fn new(device: &Device<B>, plan: &Plan) -> Result<Self> {
        let (pages, page_bytes) = (plan.homes().len() as u64, plan.page_bytes());
        let range = (pages > 0).then(|| device.reserve(pages * page_bytes).map(Arc::new)).transpose()?;
        let ring = vec![None; plan.ring_pages() as usize];
        let (device, maps) = (device.clone(), BTreeMap::new());
        let mut memory = Self { device, range, page_bytes, ring, maps, is_accessible: true };
        memory.settle(plan.homes())?;
        Ok(memory)
    }

    /// The range with all that is mapped in it, if there is any.
    pub(crate) fn range(&self) -> Option<Arc<Reservation<B>>> {
        self.range.clone()
    }

    /// The place of a byte of the tape. Without memory there are only empty units, whose address nobody reads.
    pub(crate) fn address(&self, offset: u64) -> Address {
        self.range.as_ref().map_or_else(Address::default, |range| range.address().offset(offset))
    }

    /// Marks whole chunks of resident memory where a page of them is marked: they can only be given back as a whole.
    pub(crate) fn mark_chunks(&self, marks: &mut [bool]) {
        for (first, map) in self.maps.iter().filter(|(_, map)| map.ring.is_none()) {
            let pages = &mut marks[*first as usize..(*first + map.pages) as usize];
            if pages.contains(&true) {
                pages.fill(true);
            }
        }
    }

    /// Makes the ring as long as `plan` has it, and lets every page that is `fixed` keep its memory: a page of the ring gets the number that the plan has for it, or is
    /// resident memory from now on. Nothing is mapped or given back before [`settle`](Self::settle).
    pub(crate) fn relabel(&mut self, plan: &Plan, fixed: &[bool]) {
        let mut old = std::mem::take(&mut self.ring);
        let mut ring: Vec<Option<Arc<Chunk<B>>>> = vec![None; plan.ring_pages() as usize];
        for (page, map) in self.maps.iter_mut().filter(|(page, _)| fixed[**page as usize]) {
            let Some(id) = map.ring else { continue };
            let mut chunks = old.iter_mut();
            let chunk = chunks.find(|chunk| chunk.as_ref().is_some_and(|chunk| chunk.id() == id));
            match plan.homes()[*page as usize] {
                Home::Ring(slot) => ring[slot as usize] = chunk.and_then(Option::take),
                // The map owns it.
                Home::Resident => {
                    map.ring = None;
                    chunk.map(Option::take);
                }
            }
        }
        for (new, old) in ring.iter_mut().zip(&mut old).filter(|(new, _)| new.is_none()) {
            *new = old.take();
        }
        let mut rest = old.into_iter().flatten();
        ring.iter_mut().filter(|chunk| chunk.is_none()).for_each(|chunk| *chunk = rest.next());
        self.ring = ring;
    }

    /// By page: whether it is mapped as `homes` have it.
    pub(crate) fn stays(&self, homes: &[Home]) -> Vec<bool> {
        let mut stays = vec![false; homes.len()];
        for (first, map) in self.maps.iter().filter(|(first, map)| self.is_home(**first, **map, homes)) {
            stays[*first as usize..(*first + map.pages) as usize].fill(true);
        }
        stays
    }

    /// Maps every page as `homes` have it. What is given back is given back first, so the ledger never sees both.
    ///
    /// No pending work may use a page that does not stay. After an error some pages are not mapped; asked again, it goes on where it stopped.
    pub(crate) fn settle(&mut self, homes: &[Home]) -> Result<()> {
        let leaving = |(first, map): (&u32, &Map)| {
            (!self.is_home(*first, *map, homes)).then_some((*first, *first + map.pages))
        };
        let leaving: Vec<(u32, u32)> = self.maps.iter().filter_map(leaving).collect();
        for (first, end) in leaving {
            self.maps.remove(&first);
            self.unmap(&(first..end))?;
        }
        for chunk in self.ring.iter_mut().filter(|chunk| chunk.is_none()) {
            *chunk = Some(self.device.create(Purpose::Ring, self.page_bytes)?);
        }
        let mapped = self.stays(homes);
        let missing: Vec<u32> =
            (0..).zip(&mapped).filter(|(_, mapped)| !**mapped).map(|(page, _)| page).collect();
        for run in runs(homes, missing) {
            self.map(&run, homes[run.start as usize])?;
        }
        self.open()
    }

    fn is_home(&self, first: u32, map: Map, homes: &[Home]) -> bool {
        let homes = &homes[first as usize..(first + map.pages) as usize];
        match (map.ring, homes) {
            (None, homes) => homes.iter().all(|home| *home == Home::Resident),
            (Some(id), [Home::Ring(slot)]) => {
                let chunk = self.ring.get(*slot as usize).and_then(Option::as_ref);
                chunk.is_some_and(|chunk| chunk.id() == id)
            }
            (Some(_), _) => false,
        }
    }

    fn map(&mut self, pages: &Range<u32>, home: Home) -> Result<()> {
        let (offset, bytes) = self.bytes(pages);
        let (chunk, is_of_ring) = match home {
            Home::Ring(slot) => (self.ring[slot as usize].clone(), true),
            Home::Resident => (Some(self.device.create(Purpose::Resident, bytes)?), false),
        };
        let (Some(range), Some(chunk)) = (&self.range, chunk) else { return Ok(()) };
        self.is_accessible = false;
        range.map(offset, &chunk)?;
        let pages_mapped = pages.end - pages.start;
        self.maps.insert(pages.start, Map { pages: pages_mapped, ring: is_of_ring.then(|| chunk.id()) });
        Ok(())
    }

    fn unmap(&self, pages: &Range<u32>) -> Result<()> {
        let (offset, bytes) = self.bytes(pages);
        self.range.as_ref().map_or(Ok(()), |range| range.unmap(offset, bytes))
    }

    /// One call for the whole range: each costs tens of microseconds on a card.
    fn open(&mut self) -> Result<()> {
        if let (Some(range), false) = (&self.range, self.is_accessible) {
            range.set_access(0, range.bytes())?;
        }
        self.is_accessible = true;
        Ok(())
    }

    fn bytes(&self, pages: &Range<u32>) -> (u64, u64) {
        (u64::from(pages.start) * self.page_bytes, pages.len() as u64 * self.page_bytes)
    }
}

/// What of these pages, which are not mapped yet, is mapped by one call each, in order.
pub(crate) fn runs(homes: &[Home], pages: Vec<u32>) -> impl Iterator<Item = Range<u32>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let run = (next < pages.len()).then(|| run_of(homes, &pages[next..]))?;
        next += run.len();
        Some(run)
    })
}

/// The first of these pages, with those behind it that can share a chunk with it: resident ones; streamed ones are mapped one by one.
fn run_of(homes: &[Home], pages: &[u32]) -> Range<u32> {
    let first = pages[0];
    let is_next =
        |(page, expected): &(&u32, u32)| **page == *expected && homes[**page as usize] == Home::Resident;
    let resident = pages.iter().zip(first..first.saturating_add(CHUNK_PAGES)).take_while(is_next).count();
    first..first + u32::try_from(resident.max(1)).unwrap_or(1)
}
