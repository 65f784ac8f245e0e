use std::ops::Range;

use lighterage_device::{Address, Backend, Device, Error as DeviceError, Event, Pinned, Stream};

use crate::arena::{Arena, Place};
use crate::convert::{self, Access};
use crate::in_place::{self, InPlace, Window};
use crate::plan::{Home, Piece, Plan, Source, Tape};
use crate::units::Units;
use crate::{Error, Result};

/// How many stages there are: one is filled while the other's copy is under way.
pub(crate) const STAGES: usize = 2;
/// The longest stage, in bytes: 2 ms of a fast link.
pub(crate) const STAGE_BYTES_MAX: u64 = 16 << 20;

/// How far ahead of the copies the system reads the files: some milliseconds of a fast disk.
const READ_AHEAD_BYTES: u64 = 32 << 20;

/// Where the bytes of copies come from.
///
/// | page | from |
/// |---|---|
/// | streamed | the arena: page-locked memory of exactly these bytes, filled (and converted) when the page is first copied |
/// | streamed, in a run that reads it once | a stage: page-locking takes longer than the copy, and nobody would copy from there again |
/// | streamed and raw, with [`Source::Registered`] | the mapped file, page-locked where it lies |
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
    arena: Arena<B>,
    in_place: InPlace<B>,
    /// By page: whether its place in the arena holds its bytes, or where it is copied in place, whether that is page-locked.
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

/// Where each page of the tape comes from, and how much pinned memory that takes: a pure function of plan and units.
#[derive(Clone, Debug)]
pub(crate) struct FeedLayout {
    /// By page: whether it is streamed and is not copied from the file as it is.
    is_kept: Vec<bool>,
    /// By page: whether its bytes in the files are those that the device needs, and it may be copied from there.
    direct: Vec<bool>,
    /// By page: whether it is streamed, and copied from a file that is page-locked as it lies.
    is_in_place: Vec<bool>,
    windows: Vec<Window>,
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
        let is_again = plan.is_read_again();
        let is_in_place = match plan.source() {
            Source::Copied => vec![false; direct.len()],
            Source::Registered => in_place_pages(plan, units, &is_again),
        };
        let pages = || (0..).zip(&is_in_place).filter(|(_, is_in_place)| **is_in_place).map(|(page, _)| page);
        let windows = in_place::windows(tape, units, pages());
        let kept = |(home, page): (&Home, usize)| {
            matches!(home, Home::Ring(_)) && is_again[page] && !direct[page] && !is_in_place[page]
        };
        let is_kept: Vec<bool> = plan.homes().iter().zip(0..).map(kept).collect();
        let bytes = |(page, _): (u32, &bool)| tape.bytes_of(&(page..page + 1));
        let arena_bytes = (0..).zip(&is_kept).filter(|(_, is_kept)| **is_kept).map(bytes).sum();
        // A unit brings the pages that it owns, and a unit before it may have left it the first.
        let staged = |pages: Range<u32>| -> u64 {
            let is_elsewhere = |page: usize| direct[page] || is_kept[page] || is_in_place[page];
            let is_staged = |page: &u32| !is_elsewhere(*page as usize);
            pages.filter(is_staged).map(|page| tape.bytes_of(&(page..page + 1))).sum()
        };
        let units: Vec<u64> = tape.spans.iter().map(|span| staged(span.owned.clone())).collect();
        let longest = tape.spans.iter().map(|span| staged(span.touched.clone())).max().unwrap_or(0);
        let stage_bytes = longest.min(STAGE_BYTES_MAX.max(tape.page_bytes));
        let fills: u64 = units.iter().map(|bytes| bytes.div_ceil(stage_bytes.max(1))).sum();
        let (stages, page_bytes) = (fills.min(STAGES as u64), tape.page_bytes);
        Self { is_kept, direct, is_in_place, windows, arena_bytes, stage_bytes, stages, page_bytes }
    }

    /// A page that was to be copied as it lies in the file is kept in the arena, or goes through a stage.
    fn demote(&mut self, page: u32, bytes: u64) {
        let index = page as usize;
        (self.is_in_place[index], self.direct[index], self.is_kept[index]) = (false, false, true);
        self.arena_bytes += bytes;
    }

    fn windows_bytes(&self) -> u64 {
        self.windows.iter().map(|window| window.bytes).sum()
    }

    /// The least that it can do with: stages of a page each, which everything goes through.
    pub(crate) fn least_pinned_bytes(&self) -> u64 {
        self.pinned_bytes().min(STAGES as u64 * self.page_bytes)
    }

    /// Bytes of a stage where so many are free and not all that is streamed has a place in the arena: a quarter of them for all stages.
    fn stage_bytes_within(&self, free: u64) -> u64 {
        let bytes = (free / (4 * STAGES as u64)).min(STAGE_BYTES_MAX) / self.page_bytes * self.page_bytes;
        // No longer than a quarter of what goes through it: it takes its own time to be filled.
        let through = self.arena_bytes + self.windows_bytes();
        bytes.min(through / 4 / self.page_bytes * self.page_bytes).max(self.page_bytes)
    }

    /// Bytes that it pins.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.arena_bytes + self.windows_bytes() + self.stages * self.stage_bytes
    }
}

/// The streamed pages all of whose bytes may be copied from the files as they lie there, and are copied more than once.
fn in_place_pages(plan: &Plan, units: &Units, is_again: &[bool]) -> Vec<bool> {
    let (tape, raw) = (plan.tape(), direct_pages(plan.tape(), units, false));
    let is_in_place = |(page, (home, raw)): (u32, (&Home, bool))| {
        let is_streamed = matches!(home, Home::Ring(_)) && is_again[page as usize];
        is_streamed && raw && in_place::is_mapped(tape, units, page)
    };
    (0..).zip(plan.homes().iter().zip(raw)).map(is_in_place).collect()
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
        let in_place = InPlace::granted(&layout.windows, device.host_ledger(), room);
        room -= in_place.bytes();
        let mut feed = Self {
            stream,
            layout,
            arena: Arena::new(pages),
            in_place,
            filled: vec![false; pages],
            stages: Vec::new(),
            announced: 0,
            is_refused: false,
            oldest: 0,
        };
        feed.demote(plan.tape(), units);
        feed.keep(plan.tape(), room)?;
        feed.arena.settle();
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
        self.demote(plan.tape(), units);
        self.arena.release_unused(&self.layout.is_kept);
        // Without a place a page is copied through a stage, every time.
        if self.keep(plan.tape(), u64::MAX).is_err() && self.stages.is_empty() {
            self.make_room_for_stages(plan.tape());
        }
    }

    /// Where the arena has all that the host grants, some of it is given up, to be filled anew.
    fn make_room_for_stages(&mut self, tape: &Tape) {
        let ledger = self.device().host_ledger().clone();
        if ledger.free_bytes() >= STAGES as u64 * self.layout.stage_bytes {
            return;
        }
        self.arena.clear();
        let free = ledger.free_bytes();
        self.layout.stage_bytes = self.layout.stage_bytes_within(free);
        let _ = self.keep(tape, free.saturating_sub(STAGES as u64 * self.layout.stage_bytes));
        self.arena.settle();
    }

    /// Pages that were to be copied where they lie and are not in a window are copied from elsewhere.
    fn demote(&mut self, tape: &Tape, units: &Units) {
        for page in (0..).take(self.filled.len()) {
            let is_here = |source: &[u8]| self.in_place.covers(source);
            if self.layout.is_in_place[page as usize] && !sources(tape, units, &(page..page + 1)).all(is_here)
            {
                self.layout.demote(page, tape.bytes_of(&(page..page + 1)));
            }
        }
    }

    /// The pages that are to be kept and have no place.
    fn missing(&self) -> Vec<u32> {
        let kept = (0..).zip(&self.layout.is_kept).filter(|(_, is_kept)| **is_kept).map(|(page, _)| page);
        kept.filter(|page| self.arena.place(*page).is_none()).collect()
    }

    /// Gives pages that are to be kept and have no place one in the arena: see [`Arena::keep`].
    fn keep(&mut self, tape: &Tape, room: u64) -> Result<(), DeviceError> {
        let (missing, ledger) = (self.missing(), self.stream.device().host_ledger());
        for page in self.arena.keep(ledger, tape, &missing, room)? {
            self.filled[page as usize] = false;
        }
        Ok(())
    }

    /// The place of a page that is kept, if it has one.
    fn kept(&self, page: u32) -> Option<Place> {
        self.arena.place(page).filter(|_| self.layout.is_kept[page as usize])
    }

    /// Page-locks what these pages, of one source, are copied from. False if that is refused: then they have another source.
    fn lock(&mut self, tape: &Tape, units: &Units, run: &Range<u32>) -> Result<bool> {
        if self.layout.is_in_place[run.start as usize] {
            let pages = run.start as usize..run.end as usize;
            // As in every turn but the first.
            if self.filled[pages.clone()].iter().all(|is_locked| *is_locked) {
                return Ok(true);
            }
            let device = self.device().clone();
            for source in sources(tape, units, run) {
                if let Some(bytes) = self.in_place.lock(&device, source)? {
                    self.replace_window(tape, units, bytes);
                    return Ok(false);
                }
            }
            self.filled[pages].fill(true);
            return Ok(true);
        }
        self.kept(run.start).map_or(Ok(true), |place| self.pin(place.block))
    }

    /// A window was refused, whose bytes were given back: what it would have held gets a place in the arena, as far as there is room, or goes through stages.
    fn replace_window(&mut self, tape: &Tape, units: &Units, bytes: u64) {
        self.demote(tape, units);
        let missing: u64 = self.missing().iter().map(|page| tape.bytes_of(&(*page..*page + 1))).sum();
        let stages = self.layout.stages.saturating_sub(self.stages.len() as u64) * self.layout.stage_bytes;
        let free = self.device().host_ledger().free_bytes();
        let room = if missing.saturating_add(stages) <= free {
            missing
        } else {
            self.resize_stages();
            let stages = STAGES.saturating_sub(self.stages.len()) as u64 * self.layout.stage_bytes;
            bytes.min(free.saturating_sub(stages))
        };
        // Without a place a page goes through a stage, every time.
        let _ = self.keep(tape, room);
    }

    /// Page-locks a block of the arena. False if that is refused: its pages have no place then, and go through stages.
    fn pin(&mut self, block: usize) -> Result<bool> {
        if !self.arena.is_open(block) {
            return Ok(true);
        }
        let device = self.device().clone();
        // What somebody else's drop could not report is no refusal.
        device.take_deferred()?;
        let outcome = self.arena.pin(&device, block);
        if !matches!(outcome, Ok(true)) {
            self.resize_stages();
        }
        outcome
    }

    /// Stages that there are not yet are as long as what is free now allows.
    fn resize_stages(&mut self) {
        if self.stages.is_empty() {
            self.layout.stage_bytes =
                self.layout.stage_bytes_within(self.device().host_ledger().free_bytes());
        }
    }

    /// Bytes that are page-locked by now: in place, and in arena and stages.
    pub(crate) fn locked_bytes(&self) -> (u64, u64) {
        let stages = self.stages.iter().map(|stage| stage.memory.bytes()).sum::<u64>();
        (self.in_place.locked_bytes(), self.arena.locked_bytes() + stages)
    }

    /// Gives up what is page-locked in files, before they may go. No copy is under way.
    pub(crate) fn release_files(&mut self) {
        self.in_place.clear();
    }

    /// Whether all of the `needed` pages that the plan streams lie page-locked where they are copied from, so that copies are all that is left to do: no stage, and nothing for the first
    /// time.
    pub(crate) fn is_settled(&self, plan: &Plan, needed: &[bool]) -> bool {
        let is_there = |(page, home): (u32, &Home)| {
            *home == Home::Resident
                || !needed[page as usize]
                || self.layout.direct[page as usize]
                || (self.filled[page as usize]
                    && (self.layout.is_in_place[page as usize] || self.arena.place(page).is_some()))
        };
        plan.homes().iter().zip(0..).map(|(home, page)| (page, home)).all(is_there)
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
            if !self.lock(tape, units, &run)? {
                continue;
            }
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
            ((self.layout.direct[index], self.layout.is_in_place[index]), self.kept(page))
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
        let bytes = tape.byte_range(run);
        if self.layout.direct[first] || self.layout.is_in_place[first] {
            // SAFETY: the caller's promise.
            return unsafe { self.copy_direct(tape, units, &bytes, target) };
        }
        if let Some(place) = self.kept(run.start) {
            self.fill_arena(tape, units, run)?;
            let arena = self.arena.address(place);
            // SAFETY: the caller's promise for `target`; the arena lives as long as the feed, and what was filled does not change.
            return unsafe { self.copy_from(target, arena, bytes.end - bytes.start) };
        }
        assert!(self.layout.stage_bytes > 0, "no stage for pages {run:?}");
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
                let mut target = target.offset(part.at + at - bytes.start);
                for source in self.in_place.cut(source) {
                    // SAFETY: the caller's promise for `target`; `source` lies in the mapped file that the units keep.
                    unsafe { self.stream.copy_from_host(target, source.as_ptr(), source.len() as u64) }?;
                    target = target.offset(source.len() as u64);
                }
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
            let target = part_of(&mut stage.memory, 0, bytes.end - bytes.start);
            convert::write(tape, units, bytes, target, Access::Read)?;
        }
        self.stream.device().backend().filled(bytes.end - bytes.start);
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

    /// Fills what of these pages' place in the arena, which is page-locked, is not filled yet.
    fn fill_arena(&mut self, tape: &Tape, units: &Units, run: &Range<u32>) -> Result<()> {
        let has_bytes = self.device().info().has_bytes;
        let mut pages = run.clone();
        while let Some(first) = pages.find(|page| !self.filled[*page as usize]) {
            let end = pages.clone().find(|page| self.filled[*page as usize]).unwrap_or(run.end);
            pages.start = end;
            let Some(Place { block, offset }) = self.arena.place(first) else { continue };
            if let Some(arena) = self.arena.memory(block).filter(|_| has_bytes) {
                let bytes = tape.byte_range(&(first..end));
                // No copy reads this part of the arena yet: it is filled before its first one is queued.
                let target = part_of(arena, offset, bytes.end - bytes.start);
                convert::write(tape, units, &bytes, target, Access::Mapped)?;
            }
            self.device().backend().filled(tape.bytes_of(&(first..end)));
            self.filled[first as usize..end as usize].fill(true);
        }
        Ok(())
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

/// What these pages consist of in the files; only of tensors that need no conversion.
fn sources<'a>(
    tape: &'a Tape,
    units: &'a Units,
    pages: &Range<u32>,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let parts = convert::parts(tape, units, &tape.byte_range(pages));
    parts.flat_map(|part| part.sources().map(|(_, source)| source).collect::<Vec<_>>())
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
