use std::collections::BTreeMap;
use std::mem;

use lighterage_device::{Backend, Device, Error as DeviceError, Grant, Ledger, Purpose, Registered};

use crate::Result;
use crate::arena::BLOCK_BYTES_MAX;
use crate::convert;
use crate::plan::Tape;
use crate::units::Units;

/// A multiple of the system's page, whatever machine that is.
const GRAIN_BYTES: u64 = 64 << 10;

/// A stretch of a mapped file, to be page-locked as one: some drivers refuse long ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Where it is mapped.
    first: u64,
    pub(crate) bytes: u64,
}

/// Whether all bytes of a page lie in files that are mapped.
pub(crate) fn is_mapped(tape: &Tape, units: &Units, page: u32) -> bool {
    let range = tape.byte_range(&(page..page + 1));
    let mut parts = convert::parts(tape, units, &range);
    parts.all(|part| part.sources().all(|(piece, _)| piece.tensor.mapping().is_some()))
}

/// What has to be page-locked for these pages: of each file, cut at multiples of the longest window, from the first byte that is wanted to the last.
pub(crate) fn windows(tape: &Tape, units: &Units, pages: impl Iterator<Item = u32>) -> Vec<Window> {
    let mut wanted: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
    for range in pages.map(|page| tape.byte_range(&(page..page + 1))) {
        for part in convert::parts(tape, units, &range) {
            for (piece, source) in part.sources() {
                let Some(file) = piece.tensor.mapping() else { continue };
                let (base, length) = (address(file), file.len() as u64);
                let (mut from, to) = (address(source) - base, address(source) - base + source.len() as u64);
                while from < to {
                    let window = from / BLOCK_BYTES_MAX;
                    let until = to.min((window + 1) * BLOCK_BYTES_MAX);
                    let (low, high) =
                        (from / GRAIN_BYTES * GRAIN_BYTES, until.next_multiple_of(GRAIN_BYTES).min(length));
                    let seen = wanted.entry((base, window)).or_insert((low, high));
                    *seen = (seen.0.min(low), seen.1.max(high));
                    from = until;
                }
            }
        }
    }
    let window = |((base, _), (low, high))| Window { first: base + low, bytes: high - low };
    wanted.into_iter().map(window).collect()
}

/// The windows of files that copies are made from as they lie, by their addresses. What was refused is not among them.
#[derive(Debug)]
pub(crate) struct InPlace<B: Backend>(BTreeMap<u64, Held<B>>);

#[derive(Debug)]
struct Held<B: Backend> {
    bytes: u64,
    lock: Lock<B>,
}

#[derive(Debug)]
enum Lock<B: Backend> {
    /// Charged already, and to be locked when it is first copied from.
    Granted(Grant),
    Locked {
        _registered: Registered<B>,
    },
    /// On its way from one to the other.
    Neither,
}

impl<B: Backend> InPlace<B> {
    /// Charges as many of these windows as `room` has bytes for to the host ledger.
    pub(crate) fn granted(windows: &[Window], ledger: &Ledger, mut room: u64) -> Self {
        let mut held = BTreeMap::new();
        for Window { first, bytes } in windows.iter().copied() {
            let grant = (bytes <= room).then(|| ledger.grant(Purpose::Pinned, bytes));
            if let Some(Ok(grant)) = grant {
                room -= bytes;
                held.insert(first, Held { bytes, lock: Lock::Granted(grant) });
            }
        }
        Self(held)
    }

    /// Bytes that are charged.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.values().map(|held| held.bytes).sum()
    }

    /// Bytes that are page-locked by now.
    pub(crate) fn locked_bytes(&self) -> u64 {
        let locked = self.0.values().filter(|held| matches!(held.lock, Lock::Locked { .. }));
        locked.map(|held| held.bytes).sum()
    }

    /// Whether all of it lies in windows.
    pub(crate) fn covers(&self, source: &[u8]) -> bool {
        self.cut(source).all(|part| self.window_of(address(part)).is_some())
    }

    /// The parts of a source that each lie in one window, or in none: a copy across a border is none of page-locked memory.
    pub(crate) fn cut<'s>(&self, source: &'s [u8]) -> impl Iterator<Item = &'s [u8]> + use<'s, '_, B> {
        let mut rest = source;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let first = address(rest);
            let end = match self.window_of(first) {
                Some((start, held)) => start + held.bytes,
                None => self.0.range(first..).next().map_or(u64::MAX, |(start, _)| *start),
            };
            let length = usize::try_from(end - first).unwrap_or(usize::MAX).min(rest.len());
            let (part, later) = rest.split_at(length);
            rest = later;
            Some(part)
        })
    }

    /// Page-locks the windows of a source that are not yet. The bytes of the first that is refused, which is none of the windows from then on.
    pub(crate) fn lock(&mut self, device: &Device<B>, source: &[u8]) -> Result<Option<u64>> {
        let starts: Vec<u64> =
            self.cut(source).filter_map(|part| Some(self.window_of(address(part))?.0)).collect();
        for start in starts {
            let Some(held) = self.0.get_mut(&start) else { continue };
            if !matches!(held.lock, Lock::Granted(_)) {
                continue;
            }
            // What somebody else's drop could not report is no refusal.
            device.take_deferred()?;
            let Lock::Granted(grant) = mem::replace(&mut held.lock, Lock::Neither) else { continue };
            let first = std::ptr::with_exposed_provenance(usize::try_from(start).unwrap_or(usize::MAX));
            // SAFETY: the window lies in a file that the units keep mapped, and the feed gives it up before they go.
            match unsafe { device.register(first, grant) } {
                Ok(_registered) => held.lock = Lock::Locked { _registered },
                Err(error) => {
                    let bytes = held.bytes;
                    self.0.remove(&start);
                    return if is_refusal(&error) { Ok(Some(bytes)) } else { Err(error.into()) };
                }
            }
        }
        Ok(None)
    }

    /// Gives all up: nothing copies from there any more.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn window_of(&self, address: u64) -> Option<(u64, &Held<B>)> {
        let (start, held) = self.0.range(..=address).next_back()?;
        (address < start + held.bytes).then_some((*start, held))
    }
}

/// Whether page-locking was refused, for which there is another way; anything else is an error.
pub(crate) const fn is_refusal(error: &DeviceError) -> bool {
    matches!(error, DeviceError::Driver { .. } | DeviceError::OutOfMemory { .. } | DeviceError::Range { .. })
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr().expose_provenance() as u64
}
