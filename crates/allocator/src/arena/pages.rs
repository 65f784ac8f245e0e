use std::ops::Range;
use std::sync::Arc;

use lighterage_device::{Address, Backend, Device, Purpose, Reservation, Result};

/// What is behind a page of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    /// Nothing.
    Empty,
    /// A chunk that may not be accessed yet: only for a moment.
    Mapped,
    /// A chunk, ready for use.
    Ready,
}

/// One reservation and the pages of it that have memory, one chunk a page, so that every page can be given back alone.
#[derive(Debug)]
pub(crate) struct Pages<B: Backend> {
    device: Device<B>,
    purpose: Purpose,
    reservation: Arc<Reservation<B>>,
    page_bytes: u64,
    /// From the first page to the last one that ever had memory.
    pages: Vec<Page>,
    reserved_bytes: u64,
    reserved_peak_bytes: u64,
}

impl<B: Backend> Pages<B> {
    pub(crate) fn new(device: &Device<B>, purpose: Purpose, bytes: u64) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            purpose,
            reservation: Arc::new(device.reserve(bytes)?),
            page_bytes: device.info().page_bytes,
            pages: Vec::new(),
            reserved_bytes: 0,
            reserved_peak_bytes: 0,
        })
    }

    /// The memory, with all that is mapped in it.
    pub(crate) fn memory(&self) -> Arc<Reservation<B>> {
        Arc::clone(&self.reservation)
    }

    /// Gives every page that `range` touches memory. On an error, the pages that this call mapped are given back.
    pub(crate) fn map(&mut self, range: &Range<u64>) -> Result<()> {
        let touched = self.touched(range);
        if self.pages.len() < touched.end {
            self.pages.resize(touched.end, Page::Empty);
        }
        if self.pages[touched.clone()].iter().all(|page| *page == Page::Ready) {
            return Ok(());
        }
        let missing: Vec<Range<usize>> = self.runs(&touched, |page| page != Page::Ready);
        self.ask(&touched)?;
        let outcome = missing.iter().try_for_each(|run| self.fill(run));
        if outcome.is_err() {
            // The first error is the one to report; unmapping counts as done even where it complains.
            for run in &missing {
                let _ = self.empty(run);
            }
        }
        outcome
    }

    /// How many bytes of pages that `range` touches have no memory.
    pub(crate) fn missing_bytes(&self, range: &Range<u64>) -> u64 {
        let touched = self.touched(range);
        let known = touched.start.min(self.pages.len())..touched.end.min(self.pages.len());
        let ready = self.pages[known].iter().filter(|page| **page == Page::Ready).count();
        self.offset(touched.len() - ready)
    }

    /// Gives back the memory of all pages that lie wholly in `range`, but for those that `keep` touches. No pending work may use them.
    pub(crate) fn unmap_within(&mut self, range: &Range<u64>, keep: &Range<u64>) -> Result<()> {
        let first = self.index(range.start.next_multiple_of(self.page_bytes));
        let last = self.index(range.end).min(self.pages.len());
        let kept = self.index(keep.start)..self.index(keep.end.next_multiple_of(self.page_bytes));
        for part in [first..last.min(kept.start), first.max(kept.end)..last] {
            self.empty(&part)?;
        }
        Ok(())
    }

    pub(crate) fn address(&self) -> Address {
        self.reservation.address()
    }

    pub(crate) fn address_bytes(&self) -> u64 {
        self.reservation.bytes()
    }

    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.reserved_bytes
    }

    pub(crate) fn reserved_peak_bytes(&self) -> u64 {
        self.reserved_peak_bytes
    }

    pub(crate) fn reset_peak(&mut self) {
        self.reserved_peak_bytes = self.reserved_bytes;
    }

    /// Asks the ledger for all pages at once, so that a refusal comes before the first one is mapped, and with the whole number.
    fn ask(&self, touched: &Range<usize>) -> Result<()> {
        let empty = self.pages[touched.clone()].iter().filter(|page| **page == Page::Empty).count();
        drop(self.device.ledger().grant(self.purpose, self.offset(empty))?);
        Ok(())
    }

    /// Maps the empty pages of a run one by one, then grants access to the whole run in one call.
    fn fill(&mut self, run: &Range<usize>) -> Result<()> {
        for index in run.clone().filter(|index| self.pages[*index] == Page::Empty).collect::<Vec<_>>() {
            let chunk = self.device.create(self.purpose, self.page_bytes)?;
            self.reservation.map(self.offset(index), &chunk)?;
            self.pages[index] = Page::Mapped;
            self.reserved_bytes += self.page_bytes;
            self.reserved_peak_bytes = self.reserved_peak_bytes.max(self.reserved_bytes);
        }
        self.reservation.set_access(self.offset(run.start), self.offset(run.len()))?;
        self.pages[run.clone()].fill(Page::Ready);
        Ok(())
    }

    /// Unmaps all pages of a range that have memory, and reports the first error.
    fn empty(&mut self, range: &Range<usize>) -> Result<()> {
        let mut outcome = Ok(());
        for run in self.runs(range, |page| page != Page::Empty) {
            outcome = outcome.and(self.reservation.unmap(self.offset(run.start), self.offset(run.len())));
            self.pages[run.clone()].fill(Page::Empty);
            self.reserved_bytes -= self.offset(run.len());
        }
        outcome
    }

    /// The maximal runs of pages for which `wanted` holds.
    fn runs(&self, range: &Range<usize>, wanted: impl Fn(Page) -> bool) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for index in range.clone().filter(|index| wanted(self.pages[*index])) {
            match runs.last_mut() {
                Some(run) if run.end == index => run.end = index + 1,
                _ => runs.push(index..index + 1),
            }
        }
        runs
    }

    fn touched(&self, range: &Range<u64>) -> Range<usize> {
        self.index(range.start)..self.index(range.end.next_multiple_of(self.page_bytes))
    }

    fn index(&self, offset: u64) -> usize {
        usize::try_from(offset / self.page_bytes).unwrap_or(usize::MAX)
    }

    fn offset(&self, pages: usize) -> u64 {
        pages as u64 * self.page_bytes
    }
}
