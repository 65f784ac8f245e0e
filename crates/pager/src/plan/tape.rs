use std::ops::Range;

use crate::units::{ALIGNMENT_BYTES, UnitId, Units};

/// Where each unit lies: all units of the cycles one behind the other, in the order of their first visits, as if on a tape.
///
/// A page is what is mapped, so it is what is resident or streamed. A unit owns the pages that begin in it; the page in which it begins, if not at the
/// page's beginning, is its neighbour's, and both need it. So small units share pages and no byte is lost between large ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tape {
    pub(crate) page_bytes: u64,
    /// By place on the tape.
    pub(crate) spans: Vec<Span>,
    /// By unit: its place, if some cycle visits it.
    places: Vec<Option<u32>>,
    pub(crate) pages: u32,
    /// Bytes of the units, alignment included.
    pub(crate) bytes: u64,
    longest_bytes: u64,
}

/// A unit on the tape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) unit: UnitId,
    /// Offset on the tape.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// The pages that it lies in.
    pub(crate) touched: Range<u32>,
    /// Those of them that it owns: all, or all but the first.
    pub(crate) owned: Range<u32>,
}

impl Tape {
    /// Units one behind the other; or, if `tight`, moved to the beginning of a page where they would else lie in one page more than they fill: then no unit
    /// needs more pages at a time than it has bytes for.
    ///
    /// # Panics
    /// If the page is not a multiple of the alignment or a unit is not one of `units`.
    pub(crate) fn new(
        units: &Units,
        order: impl IntoIterator<Item = UnitId>,
        page_bytes: u64,
        tight: bool,
    ) -> Self {
        assert!(
            page_bytes.is_multiple_of(ALIGNMENT_BYTES) && page_bytes > 0,
            "page {page_bytes} is not a multiple of {ALIGNMENT_BYTES}"
        );
        let mut tape = Self {
            page_bytes,
            spans: Vec::new(),
            places: vec![None; units.count()],
            pages: 0,
            bytes: 0,
            longest_bytes: 0,
        };
        let mut end = 0;
        for unit in order {
            let bytes = units.bytes(unit);
            if tape.places[unit.0 as usize].is_none() {
                end = tape.push(unit, bytes, end, tight);
            }
        }
        tape
    }

    /// Adds a unit behind `end` and returns the new end.
    fn push(&mut self, unit: UnitId, bytes: u64, end: u64, tight: bool) -> u64 {
        let page = self.page_bytes;
        let touches = |offset: u64| (offset + bytes).div_ceil(page) - offset / page;
        let moved = end.next_multiple_of(page);
        let offset = if tight && touches(end) > touches(moved) { moved } else { end };
        let touched = page_number(offset / page)..page_number((offset + bytes).div_ceil(page));
        let touched = if bytes == 0 { touched.start..touched.start } else { touched };
        let owned = touched.start.max(self.pages)..touched.end.max(self.pages);
        self.pages = self.pages.max(touched.end);
        self.bytes += bytes;
        self.longest_bytes = self.longest_bytes.max(bytes);
        self.places[unit.0 as usize] = u32::try_from(self.spans.len()).ok();
        self.spans.push(Span { unit, offset, bytes, touched, owned });
        offset + bytes
    }

    /// Place of a unit.
    pub(crate) fn place(&self, unit: UnitId) -> Option<usize> {
        self.places.get(unit.0 as usize).copied().flatten().map(|place| place as usize)
    }

    /// Bytes of a run of pages, up to the last unit's end.
    pub(crate) fn bytes_of(&self, pages: &Range<u32>) -> u64 {
        let end = self.spans.last().map_or(0, |span| span.offset + span.bytes);
        let byte = |page: u32| (u64::from(page) * self.page_bytes).min(end);
        byte(pages.end) - byte(pages.start)
    }

    /// Where a run of pages lies on the tape.
    pub(crate) fn byte_range(&self, pages: &Range<u32>) -> Range<u64> {
        let start = u64::from(pages.start) * self.page_bytes;
        start..start + self.bytes_of(pages)
    }

    /// Bytes of the longest unit.
    pub(crate) const fn longest_bytes(&self) -> u64 {
        self.longest_bytes
    }

    /// The most pages that one unit lies in.
    pub(crate) fn touched_max(&self) -> u32 {
        self.spans.iter().map(|span| span.touched.len()).max().map_or(0, |pages| page_number(pages as u64))
    }
}

/// # Panics
/// Beyond 2^32 pages, which are 2^48 bytes at the smallest page.
pub(crate) fn page_number(page: u64) -> u32 {
    u32::try_from(page).expect("fewer than 2^32 pages")
}
