use std::ops::Range;

use lighterage_device::{Address, Backend, Device, Error as DeviceError, Event, Pinned, Stream};

use crate::convert;
use crate::plan::{Home, Piece, Plan, Tape};
use crate::units::Units;
use crate::{Error, Result};

/// How many stages there are: one is filled while the other's copy is under way.
const STAGES: usize = 2;
/// The longest stage, in bytes: 2 ms of a fast link.
const STAGE_BYTES_MAX: u64 = 16 << 20;

/// How far ahead of the copies the system reads the files: some milliseconds of a fast disk.
const READ_AHEAD_BYTES: u64 = 32 << 20;

/// Where the bytes of copies come from.
///
/// | page | from |
/// |---|---|
/// | streamed | the arena: page-locked memory of exactly these bytes, filled (and converted) when the page is first copied |
/// | streamed, where the host's budget has no room for all of them | a stage, as a resident one, in every turn |
/// | resident | a stage: filled, copied, and used again when that copy is done |
/// | of raw tensors, where page-locking gains nothing | the mapped file |
///
/// Everything pinned is charged to the host ledger, exact. Waiting for a stage is the only wait of the host here: where all that is streamed has its place in the arena it
/// is over when the residents are loaded.
#[derive(Debug)]
pub(crate) struct Feed<B: Backend> {
    stream: Stream<B>,
    layout: FeedLayout,
    /// The arena: one block for the plan that the feed was made for, more after pages were given back that were resident.
    blocks: Vec<Option<Pinned<B>>>,
    /// By page: its place in the arena.
    places: Vec<Option<Place>>,
    filled: Vec<bool>,
    stages: Vec<Stage<B>>,
    /// Bytes of the tape that the system was told to read.
    announced: u64,
    /// Whether page-locking another stage was refused: it is not asked for again at every copy.
    is_refused: bool,
    /// The stage that was used longest ago, once there are `STAGES`.
    oldest: usize,
}

#[derive(Debug)]
struct Stage<B: Backend> {
    memory: Pinned<B>,
    copied: Event<B>,
}

/// Where a page's bytes lie page-locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    block: usize,
    offset: u64,
}

/// Where each page of the tape comes from, and how much pinned memory that takes: a pure function of plan and units.
#[derive(Clone, Debug)]
pub(crate) struct FeedLayout {
    /// By page: whether it is streamed and is not copied from the file as it is.
    is_kept: Vec<bool>,
    /// By page: whether its bytes in the files are those that the device needs, and it may be copied from there.
    direct: Vec<bool>,
    arena_bytes: u64,
    stage_bytes: u64,
    stages: u64,
    page_bytes: u64,
}

impl FeedLayout {
    /// `is_pinning_worth_it`: whether copies from page-locked memory are faster than from a mapped file.
    pub(crate) fn new(plan: &Plan, units: &Units, is_pinning_worth_it: bool) -> Self {
        let tape = plan.tape();
        let direct = direct_pages(tape, units, is_pinning_worth_it);
        let kept = |(home, direct): (&Home, &bool)| matches!(home, Home::Ring(_)) && !direct;
        let is_kept: Vec<bool> = plan.homes().iter().zip(&direct).map(kept).collect();
        let bytes = |(page, _): (u32, &bool)| tape.bytes_of(&(page..page + 1));
        let arena_bytes = (0..).zip(&is_kept).filter(|(_, is_kept)| **is_kept).map(bytes).sum();
        // A unit brings the pages that it owns, and a unit before it may have left it the first.
        let staged = |pages: Range<u32>| -> u64 {
            let is_staged =
                |page: &u32| plan.homes()[*page as usize] == Home::Resident && !direct[*page as usize];
            pages.filter(is_staged).map(|page| tape.bytes_of(&(page..page + 1))).sum()
        };
        let units: Vec<u64> = tape.spans.iter().map(|span| staged(span.owned.clone())).collect();
        let longest = tape.spans.iter().map(|span| staged(span.touched.clone())).max().unwrap_or(0);
        let stage_bytes = longest.min(STAGE_BYTES_MAX.max(tape.page_bytes));
        let fills: u64 = units.iter().map(|bytes| bytes.div_ceil(stage_bytes.max(1))).sum();
        let (stages, page_bytes) = (fills.min(STAGES as u64), tape.page_bytes);
        Self { is_kept, direct, arena_bytes, stage_bytes, stages, page_bytes }
    }

    /// The least that it can do with: stages of a page each, which everything goes through.
    pub(crate) fn least_pinned_bytes(&self) -> u64 {
        self.pinned_bytes().min(STAGES as u64 * self.page_bytes)
    }

    /// Bytes of a stage where so many are free and not all that is streamed has a place in the arena: a quarter of them for all stages.
    fn stage_bytes_within(&self, free: u64) -> u64 {
        let bytes = (free / (4 * STAGES as u64)).min(STAGE_BYTES_MAX) / self.page_bytes * self.page_bytes;
        // No longer than a quarter of what goes through it: it takes its own time to be filled.
        bytes.min(self.arena_bytes / 4 / self.page_bytes * self.page_bytes).max(self.page_bytes)
    }

    /// Bytes that it pins.
    pub(crate) const fn pinned_bytes(&self) -> u64 {
        self.arena_bytes + self.stages * self.stage_bytes
    }
}

/// The pages all of whose bytes may be copied from the files as they are.
fn direct_pages(tape: &Tape, units: &Units, is_pinning_worth_it: bool) -> Vec<bool> {
    let mut direct = vec![!is_pinning_worth_it; tape.pages as usize];
    for span in &tape.spans {
        let unit = units.get(span.unit);
        for (tensor, offset) in unit.tensors.iter().zip(unit.offsets()) {
            if convert::is_needed(tensor) && tensor.bytes() > 0 {
                let first = (span.offset + offset) / tape.page_bytes;
                let end = (span.offset + offset + tensor.bytes()).div_ceil(tape.page_bytes);
                for page in first..end {
                    direct[usize::try_from(page).unwrap_or(usize::MAX)] = false;
                }
            }
        }
    }
    direct
}

impl<B: Backend> Feed<B> {
    /// A feed that copies on `stream`. Where the host's budget does not hold all that is streamed, as much of it as it holds is kept page-locked.
    pub(crate) fn new(stream: Stream<B>, units: &Units, plan: &Plan) -> Result<Self> {
        let device = stream.device().clone();
        let mut layout = FeedLayout::new(plan, units, device.backend().prefers_pinned());
        let (needed, free) = (layout.least_pinned_bytes(), device.host_ledger().free_bytes());
        if needed > free {
            return Err(Error::HostBudget { needed, free });
        }
        let pages = plan.homes().len();
        let mut room = u64::MAX;
        if layout.pinned_bytes() > free {
            layout.stage_bytes = layout.stage_bytes_within(free);
            room = free - STAGES as u64 * layout.stage_bytes;
        }
        let (places, filled) = (vec![None; pages], vec![false; pages]);
        let mut feed = Self {
            stream,
            layout,
            blocks: Vec::new(),
            places,
            filled,
            stages: Vec::new(),
            announced: 0,
            is_refused: false,
            oldest: 0,
        };
        // Page-locking may be refused for other reasons than the budget: what has no place goes through the stages.
        match feed.keep(plan, room) {
            Err(DeviceError::Driver { .. } | DeviceError::OutOfMemory { .. }) => {
                feed.layout.stage_bytes = feed.layout.stage_bytes_within(free);
            }
            outcome => outcome?,
        }
        Ok(feed)
    }

    /// Goes over to another plan for the same tape, when no copy is under way. What is streamed from now on and was resident gets a place if the host has one to give;
    /// places that only such pages have are given back when they are resident again.
    pub(crate) fn change(&mut self, units: &Units, plan: &Plan) {
        self.layout = FeedLayout::new(plan, units, self.device().backend().prefers_pinned());
        // There may be room for another stage now.
        self.is_refused = false;
        let free = self.device().host_ledger().free_bytes();
        self.layout.stage_bytes = match self.stages.first() {
            Some(stage) => stage.memory.bytes(),
            None => self.layout.stage_bytes_within(free),
        };
        for block in 1..self.blocks.len() {
            let is_here = |place: &Option<Place>| place.is_some_and(|place| place.block == block);
            let is_used =
                self.places.iter().zip(&self.layout.is_kept).any(|(place, kept)| *kept && is_here(place));
            if !is_used {
                self.blocks[block] = None;
                self.places.iter_mut().filter(|place| is_here(place)).for_each(|place| *place = None);
            }
        }
        // Without a place a page is copied through a stage, every time.
        if self.keep(plan, u64::MAX).is_err() && self.stages.is_empty() {
            self.make_room_for_stages(plan);
        }
    }

    /// Where the arena has all that the host grants, some of it is given up, to be filled anew.
    fn make_room_for_stages(&mut self, plan: &Plan) {
        let ledger = self.device().host_ledger().clone();
        if ledger.free_bytes() >= STAGES as u64 * self.layout.stage_bytes {
            return;
        }
        self.blocks.clear();
        self.places.fill(None);
        let free = ledger.free_bytes();
        self.layout.stage_bytes = self.layout.stage_bytes_within(free);
        let _ = self.keep(plan, free.saturating_sub(STAGES as u64 * self.layout.stage_bytes));
    }

    /// Gives pages that are streamed and have no place one in a new block of the arena, of at most `room` bytes: spread along the tape, so that those that go through
    /// stages are.
    fn keep(&mut self, plan: &Plan, room: u64) -> Result<(), DeviceError> {
        let tape = plan.tape();
        let bytes = |page: u32| tape.bytes_of(&(page..page + 1));
        let missing: Vec<u32> = (0..)
            .zip(self.layout.is_kept.iter().zip(&self.places))
            .filter(|(_, (is_kept, place))| **is_kept && place.is_none())
            .map(|(page, _)| page)
            .collect();
        let wanted: u64 = missing.iter().map(|page| bytes(*page)).sum();
        let (mut seen, mut given, mut chosen) = (0_u64, 0, Vec::new());
        for page in missing {
            seen += bytes(page);
            let due = u128::from(room.min(wanted)) * u128::from(seen) / u128::from(wanted.max(1));
            if u128::from(given + bytes(page)) <= due {
                chosen.push((page, given));
                given += bytes(page);
            }
        }
        if given == 0 {
            return Ok(());
        }
        let block = self.blocks.len();
        self.blocks.push(Some(self.device().pin(given)?));
        for (page, offset) in chosen {
            self.places[page as usize] = Some(Place { block, offset });
            self.filled[page as usize] = false;
        }
        Ok(())
    }

    pub(crate) const fn stream(&self) -> &Stream<B> {
        &self.stream
    }

    /// Queues the copies of a piece to `target`, the place of its first page.
    ///
    /// # Safety
    /// - `target` is mapped for the piece's bytes until the feed's stream is synchronised, and work on other streams that touches it is ordered
    ///   before or after the copies.
    /// - `units`, which keep their files mapped, outlive the copies, and so does the feed.
    pub(crate) unsafe fn copy(
        &mut self,
        tape: &Tape,
        units: &Units,
        piece: &Piece,
        target: Address,
    ) -> Result<()> {
        self.announce(tape, units, piece);
        let mut pages = piece.pages.clone();
        while !pages.is_empty() {
            let run = self.run_of(&pages, tape.page_bytes);
            let bytes = tape.bytes_of(&(piece.pages.start..run.start));
            // SAFETY: the caller's promise for `target`; a run lies in the piece.
            let outcome = unsafe { self.copy_run(tape, units, &run, target.offset(bytes)) };
            if outcome.is_err() {
                // Copies without an event may be under way: nothing may change below them. The first error is the one to report.
                let _ = self.stream.synchronize();
                return outcome;
            }
            pages.start = run.end;
        }
        Ok(())
    }

    /// Has the files read ahead of the copies, once: the first turn brings the tape from its beginning to its end.
    fn announce(&mut self, tape: &Tape, units: &Units, piece: &Piece) {
        let end = u64::from(piece.pages.end) * tape.page_bytes + READ_AHEAD_BYTES;
        if self.device().info().has_bytes && end > self.announced {
            convert::will_need(tape, units, &(self.announced..end));
            self.announced = end;
        }
    }

    /// The first pages that come from the same source.
    fn run_of(&self, pages: &Range<u32>, page_bytes: u64) -> Range<u32> {
        let source = |page: u32| {
            let index = page as usize;
            // Pages that follow one another in a block of the arena are one copy.
            let place = self.places[index].filter(|_| self.layout.is_kept[index]);
            (self.layout.direct[index], place)
        };
        let (direct, place) = source(pages.start);
        let next = |page: u32| {
            let offset = u64::from(page - pages.start) * page_bytes;
            (direct, place.map(|place| Place { offset: place.offset + offset, ..place }))
        };
        let end = pages.clone().find(|page| source(*page) != next(*page)).unwrap_or(pages.end);
        pages.start..end
    }

    /// # Safety
    /// - As [`Feed::copy`].
    unsafe fn copy_run(
        &mut self,
        tape: &Tape,
        units: &Units,
        run: &Range<u32>,
        target: Address,
    ) -> Result<()> {
        let first = run.start as usize;
        let bytes = u64::from(run.start) * tape.page_bytes
            ..u64::from(run.start) * tape.page_bytes + tape.bytes_of(run);
        if self.layout.direct[first] {
            // SAFETY: the caller's promise.
            return unsafe { self.copy_direct(tape, units, &bytes, target) };
        }
        if let Some(Place { block, offset }) = self.places[first].filter(|_| self.layout.is_kept[first]) {
            self.fill_arena(tape, units, run);
            let arena = self.blocks[block].as_ref();
            let arena = arena.map_or_else(Address::default, |arena| arena.address().offset(offset));
            // SAFETY: the caller's promise for `target`; the arena lives as long as the feed, and what was filled does not change.
            return unsafe { self.copy_from(target, arena, bytes.end - bytes.start) };
        }
        let mut at = bytes.start;
        while at < bytes.end {
            let part = at..bytes.end.min(at + self.layout.stage_bytes);
            // SAFETY: the caller's promise.
            unsafe { self.copy_staged(tape, units, &part, target.offset(at - bytes.start)) }?;
            at = part.end;
        }
        Ok(())
    }

    /// From the mapped files, tensor by tensor.
    ///
    /// # Safety
    /// - As [`Feed::copy`]; all tensors in these bytes of the tape are raw.
    unsafe fn copy_direct(
        &self,
        tape: &Tape,
        units: &Units,
        bytes: &Range<u64>,
        target: Address,
    ) -> Result<()> {
        for part in convert::parts(tape, units, bytes) {
            for (at, source) in part.raw() {
                let target = target.offset(part.at + at - bytes.start);
                // SAFETY: the caller's promise for `target`; `source` lies in the mapped file that the units keep.
                unsafe { self.stream.copy_from_host(target, source.as_ptr(), source.len() as u64) }?;
            }
        }
        Ok(())
    }

    /// # Safety
    /// - As [`Feed::copy`].
    unsafe fn copy_staged(
        &mut self,
        tape: &Tape,
        units: &Units,
        bytes: &Range<u64>,
        target: Address,
    ) -> Result<()> {
        let index = self.stage()?;
        let has_bytes = self.device().info().has_bytes;
        let stage = &mut self.stages[index];
        if has_bytes {
            // Nothing is reading the stage: its last copy was waited for.
            convert::write(tape, units, bytes, part_of(&mut stage.memory, 0, bytes.end - bytes.start));
        }
        let source = stage.memory.address();
        // SAFETY: the caller's promise for `target`; the stage is not written before its event, recorded below, was waited for.
        unsafe { self.copy_from(target, source, bytes.end - bytes.start) }?;
        self.stream.record(&self.stages[index].copied)?;
        self.oldest = (index + 1) % self.stages.len();
        Ok(())
    }

    /// A stage that no copy reads.
    fn stage(&mut self) -> Result<usize> {
        if self.stages.len() < STAGES && !self.is_refused {
            let device = self.device().clone();
            match device.pin(self.layout.stage_bytes) {
                Ok(memory) => {
                    self.stages.push(Stage { memory, copied: device.event()? });
                    return Ok(self.stages.len() - 1);
                }
                // One will do.
                Err(_) if !self.stages.is_empty() => self.is_refused = true,
                Err(error) => return Err(error.into()),
            }
        }
        self.stages[self.oldest].copied.synchronize()?;
        Ok(self.oldest)
    }

    /// Fills what of these pages' place in the arena is not filled yet.
    fn fill_arena(&mut self, tape: &Tape, units: &Units, run: &Range<u32>) {
        let has_bytes = self.device().info().has_bytes;
        let mut pages = run.clone();
        while let Some(first) = pages.find(|page| !self.filled[*page as usize]) {
            let end = pages.clone().find(|page| self.filled[*page as usize]).unwrap_or(run.end);
            self.filled[first as usize..end as usize].fill(true);
            pages.start = end;
            let place = self.places[first as usize];
            let arena = place.and_then(|place| Some((self.blocks[place.block].as_mut()?, place.offset)));
            if let (true, Some((arena, offset))) = (has_bytes, arena) {
                let start = u64::from(first) * tape.page_bytes;
                let bytes = start..start + tape.bytes_of(&(first..end));
                // No copy reads this part of the arena yet: it is filled before its first one is queued.
                convert::write(tape, units, &bytes, part_of(arena, offset, bytes.end - bytes.start));
            }
        }
    }

    /// # Safety
    /// - As [`Stream::copy_from_host`].
    unsafe fn copy_from(&self, target: Address, source: Address, bytes: u64) -> Result<()> {
        let source = std::ptr::with_exposed_provenance(usize::try_from(source.0).unwrap_or(usize::MAX));
        // SAFETY: the caller's promise.
        Ok(unsafe { self.stream.copy_from_host(target, source, bytes) }?)
    }

    fn device(&self) -> &Device<B> {
        self.stream.device()
    }
}

/// A part of pinned memory as the host sees it; only for devices whose memory has bytes.
fn part_of<B: Backend>(memory: &mut Pinned<B>, offset: u64, bytes: u64) -> &mut [u8] {
    assert!(offset + bytes <= memory.bytes(), "{bytes} bytes at {offset} of {}", memory.bytes());
    let first = usize::try_from(memory.address().0 + offset).unwrap_or(usize::MAX);
    let first = std::ptr::with_exposed_provenance_mut(first);
    // SAFETY: `pin` gave initialised bytes as far as this (checked), borrowed as long as `memory`, whose only owner the caller is; no copy reads this part of
    // them now.
    unsafe { std::slice::from_raw_parts_mut(first, usize::try_from(bytes).unwrap_or(0)) }
}
