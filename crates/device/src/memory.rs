use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::ledger::Grant;
use crate::{
    Address, Backend, ChunkId, Counter, Detail, Error, Event, Info, Ledger, Purpose, Recorder, Recording,
    Result, Stream, StreamKind,
};

/// One device with its books: where memory, streams and events come from. Cloning shares it.
#[derive(Debug)]
pub struct Device<B: Backend> {
    inner: Arc<Inner<B>>,
}

#[derive(Debug)]
struct Inner<B> {
    backend: B,
    ledger: Ledger,
    host_ledger: Ledger,
    deferred: Mutex<Option<Error>>,
    recorder: OnceLock<Recorder>,
    /// What the driver has taken for itself.
    _taken: Vec<Grant>,
    /// What was in use beside that when the device was opened.
    outside_bytes: Option<u64>,
}

impl<B: Backend> Clone for Device<B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<B: Backend> Device<B> {
    /// A device whose memory is granted by `ledger` and whose pinned host memory by `host_ledger`.
    #[must_use]
    pub fn new(backend: B, ledger: Ledger, host_ledger: Ledger) -> Self {
        Self::with(backend, ledger, host_ledger, Vec::new())
    }

    /// As [`new`](Device::new), with what the driver has taken for itself charged to `ledger` first: a budget that does not even hold that is refused
    /// before anything is copied.
    ///
    /// # Errors
    /// [`Error::OutOfBudget`].
    pub fn open(backend: B, ledger: Ledger, host_ledger: Ledger) -> Result<Self> {
        let taken = backend.taken().into_iter().map(|(purpose, bytes)| ledger.grant(purpose, bytes));
        let taken = taken.collect::<Result<_>>()?;
        Ok(Self::with(backend, ledger, host_ledger, taken))
    }

    /// Bytes that are in use on the device since it was opened and that its ledger does not know: what the driver takes for itself later on, if no other program has taken
    /// or given back any meanwhile. None where nobody counts.
    ///
    /// ```
    /// use lighterage_device::{Device, Host, HostConfig, Ledger};
    /// # fn main() -> lighterage_device::Result<()> {
    /// let device = Device::open(Host::new(HostConfig::default())?, Ledger::new(1 << 20), Ledger::new(0))?;
    /// assert_eq!(device.unaccounted_bytes(), None);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn unaccounted_bytes(&self) -> Option<i64> {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let (used, outside) = self.backend().used_bytes().zip(self.inner.outside_bytes)?;
        Some(number(used) - number(outside) - number(self.ledger().granted_bytes()))
    }

    fn with(backend: B, ledger: Ledger, host_ledger: Ledger, taken: Vec<Grant>) -> Self {
        let (deferred, recorder) = (Mutex::new(None), OnceLock::new());
        let outside_bytes = backend.used_bytes().map(|used| used.saturating_sub(ledger.granted_bytes()));
        let inner = Inner { backend, ledger, host_ledger, deferred, recorder, _taken: taken, outside_bytes };
        Self { inner: Arc::new(inner) }
    }

    /// Whether it is the same device, with the same books.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The raw driver calls.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.inner.backend
    }

    /// Constants of the device.
    #[must_use]
    pub fn info(&self) -> &Info {
        self.inner.backend.info()
    }

    /// The books of device memory.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.inner.ledger
    }

    /// The books of pinned host memory.
    #[must_use]
    pub fn host_ledger(&self) -> &Ledger {
        &self.inner.host_ledger
    }

    /// From now on what the device does is recorded, on streams old and new; a second call changes nothing.
    ///
    /// ```
    /// use lighterage_device::{Detail, Device, Host, HostConfig, Ledger, StreamKind, What};
    /// # fn main() -> lighterage_device::Result<()> {
    /// let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(1 << 20), Ledger::new(0));
    /// device.record(Detail::Everything);
    /// let stream = device.stream(StreamKind::Compute)?;
    /// let step = stream.begin(What::Step, 0, || "the first".into());
    /// stream.end(step);
    /// stream.synchronize()?;
    /// let recording = device.take_recording().expect("something is recorded");
    /// assert_eq!(recording.spans[0].name, "the first");
    /// # Ok(())
    /// # }
    /// ```
    pub fn record(&self, detail: Detail) {
        self.inner.recorder.get_or_init(|| {
            let recorder = Recorder::new(self.backend().clock(), detail);
            if detail == Detail::Everything {
                self.ledger().watch(&recorder, Counter::Granted);
                self.host_ledger().watch(&recorder, Counter::Pinned);
            }
            recorder
        });
    }

    /// Who records, if anybody does.
    #[must_use]
    pub fn recorder(&self) -> Option<&Recorder> {
        self.inner.recorder.get()
    }

    /// What was recorded so far; recording goes on from there. Waits for what was queued to be recorded, so ask between runs. Nothing if nobody records.
    #[must_use]
    pub fn take_recording(&self) -> Option<Recording> {
        let recorder = self.recorder()?;
        self.backend().settle();
        Some(recorder.take())
    }

    /// `bytes` rounded up to whole pages, or `u64::MAX`, which no backend grants, where that is no number.
    #[must_use]
    pub fn round_up(&self, bytes: u64) -> u64 {
        bytes.checked_next_multiple_of(self.info().page_bytes).unwrap_or(u64::MAX)
    }

    /// Physical memory, charged to the ledger before it exists. `bytes` is a multiple of the page.
    ///
    /// # Errors
    /// [`Error::OutOfBudget`] from the ledger, [`Error::OutOfMemory`] or a driver error from the backend.
    pub fn create(&self, purpose: Purpose, bytes: u64) -> Result<Arc<Chunk<B>>> {
        self.take_deferred()?;
        let grant = self.ledger().grant(purpose, bytes)?;
        let id = self.backend().create(bytes)?;
        Ok(Arc::new(Chunk { device: self.clone(), id, grant }))
    }

    /// Address space without memory; `bytes` is rounded up to whole pages.
    ///
    /// # Errors
    /// A driver error if there is no address space left.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation<B>> {
        self.take_deferred()?;
        let bytes = self.round_up(bytes);
        let address = self.backend().reserve(bytes)?;
        Ok(Reservation { device: self.clone(), address, bytes, maps: Mutex::new(BTreeMap::new()) })
    }

    /// Page-locked host memory, charged to the host ledger before it exists; exact size, zeroed.
    ///
    /// # Errors
    /// [`Error::OutOfBudget`] from the host ledger, or a driver error where pinning is refused.
    pub fn pin(&self, bytes: u64) -> Result<Pinned<B>> {
        self.take_deferred()?;
        let grant = self.host_ledger().grant(Purpose::Pinned, bytes)?;
        let address = self.backend().pin(bytes)?;
        Ok(Pinned { device: self.clone(), address, grant })
    }

    /// As [`pin`](Device::pin), with bytes that the host ledger granted before: [`Purpose::Pinned`].
    ///
    /// # Errors
    /// A driver error where pinning is refused; the grant is given back then.
    ///
    /// # Panics
    /// If another ledger granted them, or for something else.
    pub fn pin_granted(&self, grant: Grant) -> Result<Pinned<B>> {
        self.check_host_grant(&grant);
        self.take_deferred()?;
        let address = self.backend().pin(grant.bytes())?;
        Ok(Pinned { device: self.clone(), address, grant })
    }

    /// Page-locks memory of this process where it lies, as many bytes from `first` on as were granted before; for reading by copies. Ask the host ledger
    /// for the grant: [`Purpose::Pinned`].
    ///
    /// # Errors
    /// [`Error::Range`] if some of it is registered already, or a driver error where it is refused: for a file that is mapped read-only some systems do. The
    /// grant is given back then.
    ///
    /// # Panics
    /// If another ledger granted them, or for something else.
    ///
    /// # Safety
    /// - `first` is valid for so many bytes of reads, and the memory stays mapped until the result is dropped.
    ///
    /// ```
    /// use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose};
    /// # fn main() -> lighterage_device::Result<()> {
    /// let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(0), Ledger::new(1 << 20));
    /// let file = vec![7_u8; 4096];
    /// let grant = device.host_ledger().grant(Purpose::Pinned, 4096)?;
    /// // SAFETY: the bytes live longer than what is made here.
    /// let registered = unsafe { device.register(file.as_ptr(), grant) }?;
    /// assert_eq!((registered.bytes(), device.host_ledger().granted_bytes()), (4096, 4096));
    /// # Ok(())
    /// # }
    /// ```
    pub unsafe fn register(&self, first: *const u8, grant: Grant) -> Result<Registered<B>> {
        self.check_host_grant(&grant);
        self.take_deferred()?;
        let first = Address(first.expose_provenance() as u64);
        // SAFETY: the caller's promise.
        unsafe { self.backend().register(first, grant.bytes()) }?;
        Ok(Registered { device: self.clone(), first, grant })
    }

    fn check_host_grant(&self, grant: &Grant) {
        assert!(
            grant.is_of(self.host_ledger()) && grant.purpose() == Purpose::Pinned,
            "{grant:?} is not one of the host ledger's for pinned memory"
        );
    }

    /// A new stream.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn stream(&self, kind: StreamKind) -> Result<Stream<B>> {
        self.take_deferred()?;
        Stream::new(self, kind)
    }

    /// A new event, not recorded yet: it counts as complete.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn event(&self) -> Result<Event<B>> {
        Event::new(self)
    }

    /// The first error that a `Drop` could not return, once. The calls that take something ask here by themselves; whoever wants to hear of the last drops keeps a device until then, and asks:
    /// nobody can be told when the last clone of it goes.
    ///
    /// # Errors
    /// That error.
    pub fn take_deferred(&self) -> Result<()> {
        self.deferred().take().map_or(Ok(()), Err)
    }

    pub(crate) fn defer(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.deferred().get_or_insert(error);
        }
    }

    fn deferred(&self) -> MutexGuard<'_, Option<Error>> {
        self.inner.deferred.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A piece of physical memory. It is destroyed, and its bytes given back to the ledger, when the last owner is dropped; a
/// mapping is an owner.
#[derive(Debug)]
pub struct Chunk<B: Backend> {
    device: Device<B>,
    id: ChunkId,
    grant: Grant,
}

impl<B: Backend> Chunk<B> {
    /// Size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.grant.bytes()
    }

    /// The backend's number of it.
    #[must_use]
    pub const fn id(&self) -> ChunkId {
        self.id
    }
}

impl<B: Backend> Drop for Chunk<B> {
    fn drop(&mut self) {
        // SAFETY: `id` came from `create` and only this drop destroys it.
        let outcome = unsafe { self.device.backend().destroy(self.id) };
        self.device.defer(outcome);
    }
}

/// A range of device addresses, into which chunks are mapped.
///
/// Unmapping and dropping are safe calls: an address is a number until someone makes a [`View`](crate::View) of it or gives it to a launch, and whoever does
/// that promises that the memory stays mapped until the work is done.
#[derive(Debug)]
pub struct Reservation<B: Backend> {
    device: Device<B>,
    address: Address,
    bytes: u64,
    maps: Mutex<BTreeMap<u64, Arc<Chunk<B>>>>,
}

impl<B: Backend> Reservation<B> {
    /// First address.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Length.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Maps a whole chunk at `offset` bytes; a chunk may be mapped at any number of places, which then alias. Call
    /// [`set_access`](Reservation::set_access) before use.
    ///
    /// # Errors
    /// [`Error::Range`] if the place is not free, not aligned or outside; else what the driver says.
    pub fn map(&self, offset: u64, chunk: &Arc<Chunk<B>>) -> Result<()> {
        let bytes = chunk.bytes();
        let mut maps = self.maps();
        let reason = if !offset.is_multiple_of(self.device.info().page_bytes) || bytes == 0 {
            Some("not a multiple of the page")
        } else if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            Some("outside of the reservation")
        } else if overlaps(&maps, offset, bytes) {
            Some("already mapped")
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(self.refused("map", offset, bytes, reason));
        }
        // SAFETY: the range lies in this reservation and is free, both checked above under the lock; `bytes` is the chunk's size.
        unsafe { self.device.backend().map(self.address.offset(offset), chunk.id(), bytes) }?;
        maps.insert(offset, Arc::clone(chunk));
        Ok(())
    }

    /// Makes a wholly mapped range readable and writable.
    ///
    /// # Errors
    /// [`Error::Range`] if it is not wholly mapped; else what the driver says.
    pub fn set_access(&self, offset: u64, bytes: u64) -> Result<()> {
        let maps = self.maps();
        self.whole_maps(&maps, "set_access", offset, bytes)?;
        // SAFETY: the range is wholly mapped, checked above under the lock.
        unsafe { self.device.backend().set_access(self.address.offset(offset), bytes) }
    }

    /// Unmaps a range of whole maps; chunks that nobody else owns are destroyed. No pending work may use the range: see the type.
    ///
    /// # Errors
    /// [`Error::Range`] if the range does not consist of whole maps. Else what the driver says: the range counts as unmapped then too, since
    /// a driver also reports failures of earlier work here.
    pub fn unmap(&self, offset: u64, bytes: u64) -> Result<()> {
        let mut maps = self.maps();
        self.whole_maps(&maps, "unmap", offset, bytes)?;
        // SAFETY: the range consists of whole maps, checked above; no pending work uses it by the promise of whoever launched it.
        let outcome = unsafe { self.device.backend().unmap(self.address.offset(offset), bytes) };
        maps.retain(|start, _| *start < offset || *start >= offset + bytes);
        outcome
    }

    /// Bytes mapped now; a chunk counts as often as it is mapped.
    #[must_use]
    pub fn mapped_bytes(&self) -> u64 {
        self.maps().values().map(|chunk| chunk.bytes()).sum()
    }

    fn whole_maps(
        &self,
        maps: &BTreeMap<u64, Arc<Chunk<B>>>,
        call: &'static str,
        offset: u64,
        bytes: u64,
    ) -> Result<()> {
        let mut next = offset;
        for (start, chunk) in maps.range(offset..offset.saturating_add(bytes)) {
            if *start != next {
                break;
            }
            next = start + chunk.bytes();
        }
        if bytes == 0 || offset.checked_add(bytes) != Some(next) {
            return Err(self.refused(call, offset, bytes, "not a range of whole maps"));
        }
        Ok(())
    }

    fn refused(&self, call: &'static str, offset: u64, bytes: u64, reason: &'static str) -> Error {
        Error::Range { call, address: Address(self.address.0.saturating_add(offset)), bytes, reason }
    }

    fn maps(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Chunk<B>>>> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Drop for Reservation<B> {
    fn drop(&mut self) {
        let maps = std::mem::take(&mut *self.maps());
        for (start, chunk) in maps {
            // SAFETY: one whole map of this reservation; no pending work uses it by the promise of whoever launched it.
            let outcome = unsafe { self.device.backend().unmap(self.address.offset(start), chunk.bytes()) };
            self.device.defer(outcome);
        }
        // SAFETY: made by `reserve` with this size, and nothing is mapped in it any more.
        let outcome = unsafe { self.device.backend().unreserve(self.address, self.bytes) };
        self.device.defer(outcome);
    }
}

fn overlaps<B: Backend>(maps: &BTreeMap<u64, Arc<Chunk<B>>>, offset: u64, bytes: u64) -> bool {
    maps.range(..offset + bytes).next_back().is_some_and(|(start, chunk)| start + chunk.bytes() > offset)
}

/// Page-locked host memory of exact size.
#[derive(Debug)]
pub struct Pinned<B: Backend> {
    device: Device<B>,
    address: Address,
    grant: Grant,
}

impl<B: Backend> Pinned<B> {
    /// First byte, as the host sees it.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Length.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.grant.bytes()
    }
}

impl<B: Backend> Drop for Pinned<B> {
    fn drop(&mut self) {
        // SAFETY: made by `pin` with this size; no pending work uses it by the promise of whoever launched it.
        let outcome = unsafe { self.device.backend().unpin(self.address, self.bytes()) };
        self.device.defer(outcome);
    }
}

/// Host memory that somebody else owns, page-locked until this is dropped: copies from it run at the link's rate, without the driver's own buffer in between.
#[derive(Debug)]
pub struct Registered<B: Backend> {
    device: Device<B>,
    first: Address,
    grant: Grant,
}

impl<B: Backend> Registered<B> {
    /// Length.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.grant.bytes()
    }
}

impl<B: Backend> Drop for Registered<B> {
    fn drop(&mut self) {
        // SAFETY: registered with this size; no pending work uses it by the promise of whoever queued it.
        let outcome = unsafe { self.device.backend().unregister(self.first, self.bytes()) };
        self.device.defer(outcome);
    }
}
