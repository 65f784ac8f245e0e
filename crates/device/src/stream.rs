use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::Pod;

use crate::sim::as_f64;
use crate::{
    Address, Backend, Cost, Device, Error, Kernel, Open, Pinned, Result, Stamp, StreamKind, View, What,
};

/// Names a stream within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {}", self.0)
    }
}

static NEXT_STREAM: AtomicU32 = AtomicU32::new(0);

/// An ordered queue of device work. Cloning shares it; dropping the last clone waits for its work.
#[derive(Debug)]
pub struct Stream<B: Backend> {
    inner: Arc<Inner<B>>,
}

#[derive(Debug)]
struct Inner<B: Backend> {
    device: Device<B>,
    raw: B::Stream,
    id: StreamId,
    kind: StreamKind,
    /// Whether a call has returned the stream's failure, so that dropping it is no news.
    reported: AtomicBool,
    /// What work may use that was queued before a recording, and nobody else needs. It goes after `raw`, which waits for its work.
    kept: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl<B: Backend> Clone for Stream<B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<B: Backend> Stream<B> {
    pub(crate) fn new(device: &Device<B>, kind: StreamKind) -> Result<Self> {
        let raw = device.backend().stream(kind)?;
        let id = StreamId(NEXT_STREAM.fetch_add(1, Ordering::Relaxed));
        Ok(Self {
            inner: Arc::new(Inner {
                device: device.clone(),
                raw,
                id,
                kind,
                reported: AtomicBool::new(false),
                kept: Mutex::default(),
            }),
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device<B> {
        &self.inner.device
    }

    /// Its name, as views carry it.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.inner.id
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> StreamKind {
        self.inner.kind
    }

    /// Queues a kernel.
    ///
    /// # Errors
    /// [`Error::NoImage`], or what the driver reports, also of earlier work.
    ///
    /// # Safety
    /// - As [`Backend::launch`].
    pub unsafe fn launch<K: Kernel>(&self, params: &K::Params) -> Result<()> {
        let named = || self.backend().name_of::<K>(params);
        self.timed_kernel::<K, _>(params, named, || {
            // SAFETY: the caller's promise.
            unsafe { self.backend().launch::<K>(self.raw(), params) }
        })
    }

    /// Copies a slice into a contiguous view. The slice may change as soon as the call returns.
    ///
    /// # Errors
    /// [`Error::WrongStream`], [`Error::NotContiguous`], [`Error::Size`], or what the driver reports.
    pub fn upload<T: Pod>(&self, target: View<'_>, values: &[T]) -> Result<()> {
        let bytes = self.plain("upload", target)?;
        let source: &[u8] = bytemuck::cast_slice(values);
        same_size("upload", bytes, source.len() as u64)?;
        self.timed(What::CopyIn, "upload", bytes, || {
            // SAFETY: a view's memory stays mapped until work launched on it is done and is ordered by this stream (checked); a staged
            // copy has read `source` when it returns.
            unsafe {
                self.backend().copy_from_host(self.raw(), target.address(), source.as_ptr(), bytes, true)
            }
        })
    }

    /// Reads a contiguous view, waiting for all earlier work. `None` where memory has no bytes (`Sim`).
    ///
    /// # Errors
    /// [`Error::WrongStream`], [`Error::NotContiguous`], [`Error::Size`], or what the driver reports.
    pub fn read<T: Pod>(&self, source: View<'_>) -> Result<Option<Vec<T>>> {
        let mut values: Vec<T> = bytemuck::zeroed_vec(source.layout().bytes() / size_of::<T>().max(1));
        Ok(self.read_into(&mut values, source)?.then_some(values))
    }

    /// As [`read`](Stream::read), into memory that is there already; false, and nothing written, where memory has no bytes (`Sim`).
    ///
    /// # Errors
    /// As [`read`](Stream::read).
    pub fn read_into<T: Pod>(&self, target: &mut [T], source: View<'_>) -> Result<bool> {
        let bytes = self.plain("read", source)?;
        same_size("read", bytes, size_of_val(target) as u64)?;
        let target = bytemuck::cast_slice_mut::<T, u8>(target).as_mut_ptr();
        self.timed(What::CopyOut, "read", bytes, || {
            // SAFETY: the view's memory is mapped and ordered by this stream (checked); `target` has `bytes` bytes and the call waits.
            unsafe { self.backend().copy_to_host(self.raw(), target, source.address(), bytes) }
        })
    }

    /// Queues a copy between contiguous views of equal size that do not overlap.
    ///
    /// # Errors
    /// [`Error::WrongStream`], [`Error::NotContiguous`], [`Error::Size`], or what the driver reports.
    pub fn copy(&self, target: View<'_>, source: View<'_>) -> Result<()> {
        let bytes = self.plain("copy", target)?;
        same_size("copy", bytes, self.plain("copy", source)?)?;
        if target.overlaps(&source) {
            let reason = "source and target overlap";
            return Err(Error::Range { call: "copy", address: target.address(), bytes, reason });
        }
        self.timed(What::Move, "copy", bytes, || {
            // SAFETY: both views are mapped until the work is done and ordered by this stream (checked), and they do not overlap (checked).
            unsafe { self.backend().copy(self.raw(), target.address(), source.address(), bytes) }
        })
    }

    /// Queues setting every byte of a contiguous view.
    ///
    /// # Errors
    /// [`Error::WrongStream`], [`Error::NotContiguous`], or what the driver reports.
    pub fn fill(&self, target: View<'_>, value: u8) -> Result<()> {
        let bytes = self.plain("fill", target)?;
        self.timed(What::Move, "fill", bytes, || {
            // SAFETY: the view's memory is mapped until the work is done and ordered by this stream (checked).
            unsafe { self.backend().fill(self.raw(), target.address(), value, bytes) }
        })
    }

    /// Copies page-locked memory into a contiguous view, and waits for it.
    ///
    /// # Errors
    /// [`Error::WrongStream`], [`Error::NotContiguous`], [`Error::Size`], or what the driver reports.
    pub fn copy_from_pinned(&self, target: View<'_>, source: &Pinned<B>) -> Result<()> {
        let bytes = self.plain("copy_from_pinned", target)?;
        same_size("copy_from_pinned", bytes, source.bytes())?;
        let first = std::ptr::with_exposed_provenance(usize::try_from(source.address().0).unwrap_or(0));
        let queued = self.timed(What::CopyIn, "copy", bytes, || {
            // SAFETY: a view's memory stays mapped until work launched on it is done and is ordered by this stream (checked); the source has as many
            // bytes (checked), and a staged copy has read them when it returns: the wait below may be refused, or another thread may have the stream record first.
            unsafe { self.backend().copy_from_host(self.raw(), target.address(), first, bytes, true) }
        });
        let waited = self.synchronize();
        self.note(queued.and(waited))
    }

    /// Queues a copy from host memory that stays where it is until the copy is done.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Safety
    /// - As [`Backend::copy_from_host`] without `staged`.
    pub unsafe fn copy_from_host(&self, target: Address, source: *const u8, bytes: u64) -> Result<()> {
        self.timed(What::CopyIn, "copy", bytes, || {
            // SAFETY: the caller's promise.
            unsafe { self.backend().copy_from_host(self.raw(), target, source, bytes, false) }
        })
    }

    /// Queues the event: it completes when all work queued before it is done.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn record(&self, event: &Event<B>) -> Result<()> {
        self.note(self.backend().record(self.raw(), &event.raw))?;
        if let Some((number, stamp)) = self.device().recorder().and_then(|recorder| recorder.point(self.id()))
        {
            event.point.store(number + 1, Ordering::Relaxed);
            self.stamp(stamp);
        }
        Ok(())
    }

    /// Makes later work wait for what the event last recorded; the caller goes on.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn wait(&self, event: &Event<B>) -> Result<()> {
        let open = self.begin(What::Wait, 0, || "wait".into());
        let waited = self.note(self.backend().wait(self.raw(), &event.raw));
        if let (Some(recorder), Some(open)) = (self.device().recorder(), &open)
            && let Some(point) = event.point.load(Ordering::Relaxed).checked_sub(1)
        {
            recorder.depends(open, point);
        }
        self.end(open);
        waited
    }

    /// Waits for all work and reports its first error.
    ///
    /// # Errors
    /// [`Error::Stream`] if earlier work failed.
    pub fn synchronize(&self) -> Result<()> {
        let outcome = self.note(self.backend().synchronize(self.raw()));
        self.drop_kept();
        outcome
    }

    /// Drops what queued work uses when that is done: for the last owner of memory. Waits, unless the stream records, when nobody can wait: the recording goes on then, and what was given is
    /// kept until it has ended and the stream was waited for.
    ///
    /// ```
    /// use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
    /// # fn main() -> lighterage_device::Result<()> {
    /// let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(1 << 20), Ledger::new(0));
    /// let stream = device.stream(StreamKind::Compute)?;
    /// let chunk = device.create(Purpose::Ring, device.info().page_bytes)?;
    /// stream.capture(|| {
    ///     stream.drop_when_done(chunk);
    ///     assert_ne!(device.ledger().granted_bytes(), 0);
    ///     Ok(())
    /// })?;
    /// assert_eq!(device.ledger().granted_bytes(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn drop_when_done<T: Send + 'static>(&self, what: T) {
        self.inner.kept().push(Box::new(what));
        self.drop_kept();
    }

    /// Drops what is kept, if all work can be waited for.
    pub(crate) fn drop_kept(&self) {
        let mut kept = self.inner.kept();
        if kept.is_empty() {
            return;
        }
        // Under the lock: what others give meanwhile may be used by work that this wait does not see. An error is not lost: a failed stream reports it to every later call.
        let waited = self.backend().try_synchronize(self.raw());
        let over = if waited.is_some() { mem::take(&mut *kept) } else { Vec::new() };
        drop(kept);
        drop(over);
    }

    /// Refuses a view that belongs to another stream.
    ///
    /// # Errors
    /// [`Error::WrongStream`].
    pub fn check_owner(&self, call: &'static str, view: View<'_>) -> Result<()> {
        if view.owner() == self.id() {
            return Ok(());
        }
        Err(Error::WrongStream { call, owner: view.owner(), used_on: self.id() })
    }

    /// A span of the recording begins with what is queued next; none if nobody wants it recorded. [`end`](Stream::end) ends it.
    pub fn begin(&self, what: What, bytes: u64, name: impl FnOnce() -> Cow<'static, str>) -> Option<Open> {
        if let Some(recorder) = self.device().recorder() {
            recorder.count(what, bytes);
        }
        self.begin_described(what, || (name(), Cost { flops: 0.0, bytes: as_f64(bytes) }))
    }

    fn begin_described(
        &self,
        what: What,
        describe: impl FnOnce() -> (Cow<'static, str>, Cost),
    ) -> Option<Open> {
        let recorder = self.device().recorder()?;
        let (open, stamp) = recorder.open((self.id(), self.kind()), what, describe)?;
        self.stamp(stamp);
        Some(open)
    }

    /// It ends with what was queued last.
    pub fn end(&self, open: Option<Open>) {
        if let (Some(recorder), Some(open)) = (self.device().recorder(), open) {
            self.stamp(recorder.close(open));
        }
    }

    /// Queues something, and has it recorded how long it took.
    pub(crate) fn timed<T>(
        &self,
        what: What,
        name: &'static str,
        bytes: u64,
        queue: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let open = self.begin(what, bytes, || Cow::Borrowed(name));
        let outcome = queue();
        self.end(open);
        self.note(outcome)
    }

    /// As [`timed`](Stream::timed), with what the kernel costs.
    pub(crate) fn timed_kernel<K: Kernel, T>(
        &self,
        params: &K::Params,
        name: impl FnOnce() -> &'static str,
        queue: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let open = self.begin_described(What::Kernel, || (Cow::Borrowed(name()), K::cost(params)));
        let outcome = queue();
        self.end(open);
        self.note(outcome)
    }

    /// A failed stream has no times, and reports its failure by itself.
    fn stamp(&self, stamp: Stamp) {
        let _ = self.backend().stamp(self.raw(), stamp);
    }

    pub(crate) fn note<T>(&self, outcome: Result<T>) -> Result<T> {
        if matches!(outcome, Err(Error::Stream(_))) {
            self.inner.reported.store(true, Ordering::Relaxed);
        }
        outcome
    }

    fn plain(&self, call: &'static str, view: View<'_>) -> Result<u64> {
        self.check_owner(call, view)?;
        if !view.layout().is_contiguous() {
            return Err(Error::NotContiguous { call, layout: Box::new(*view.layout()) });
        }
        Ok(view.layout().bytes() as u64)
    }

    fn backend(&self) -> &B {
        self.inner.device.backend()
    }

    pub(crate) fn raw(&self) -> &B::Stream {
        &self.inner.raw
    }
}

impl<B: Backend> Inner<B> {
    fn kept(&self) -> MutexGuard<'_, Vec<Box<dyn Any + Send>>> {
        // One call each under the lock: nothing to be left half done by a panic.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Drop for Inner<B> {
    fn drop(&mut self) {
        let outcome = self.device.backend().synchronize(&self.raw);
        if !self.reported.load(Ordering::Relaxed) {
            self.device.defer(outcome);
        }
    }
}

fn same_size(call: &'static str, expected: u64, got: u64) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Size { call, expected, got }) }
}

/// A point in a stream's work.
#[derive(Debug)]
pub struct Event<B: Backend> {
    device: Device<B>,
    raw: B::Event,
    /// One more than the recorder's number of the point that it last recorded; 0: none.
    point: AtomicU64,
}

impl<B: Backend> Event<B> {
    pub(crate) fn new(device: &Device<B>) -> Result<Self> {
        Ok(Self { device: device.clone(), raw: device.backend().event()?, point: AtomicU64::new(0) })
    }

    /// Whether the work before the last record is done; true if never recorded.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn is_complete(&self) -> Result<bool> {
        self.device.backend().query(&self.raw)
    }

    /// Waits for the work before the last record.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn synchronize(&self) -> Result<()> {
        self.device.backend().synchronize_event(&self.raw)
    }
}
