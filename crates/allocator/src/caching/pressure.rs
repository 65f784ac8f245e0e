use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lighterage_device::Backend;

use super::allocator::Allocator;

/// What is missing, or will soon be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Bytes to give back: to the allocator, or to the ledger that it shares.
    pub bytes: u64,
    /// How badly.
    pub urgency: Urgency,
}

/// How badly memory is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Less is left than the watermark: whatever is given back before the next request need not be waited for then.
    Soon,
    /// The budget was lowered below what is granted.
    Lowered,
    /// A request waits for it.
    Now,
}

/// Who can give memory back: a pager that evicts weights, a cache.
///
/// It runs on the thread whose request found no room, under no lock; not for a request that is longer than all that may be granted. It may give memory back and drop buffers, of this allocator or of others
/// on the same ledger, and wait for the device; it may not ask for memory.
pub trait PressureHandler: Send + Sync {
    /// Gives back at least `need.bytes` if it can, and says how many bytes that were; 0 means: nothing left to give.
    ///
    /// The request is tried again after each answer but 0, and the next need is what is missing then.
    fn reclaim(&self, need: Need) -> u64;
}

impl<F: Fn(Need) -> u64 + Send + Sync> PressureHandler for F {
    fn reclaim(&self, need: Need) -> u64 {
        self(need)
    }
}

/// Keeps a handler registered until it is dropped.
#[must_use = "a dropped registration ends at once"]
pub struct Registration {
    handler: Arc<Entry>,
    list: Weak<dyn Deregister>,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("priority", &self.handler.priority).finish_non_exhaustive()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(list) = self.list.upgrade() {
            list.remove(&self.handler);
        }
    }
}

struct Entry {
    priority: i32,
    handler: Box<dyn PressureHandler>,
}

/// Handlers, those of higher priority first.
#[derive(Default)]
pub(crate) struct Handlers(Vec<Arc<Entry>>);

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|entry| entry.priority)).finish()
    }
}

/// Whoever has handlers.
pub(crate) trait Presses: Send + Sync {
    fn handlers(&self) -> &Mutex<Handlers>;
}

trait Deregister: Send + Sync {
    fn remove(&self, entry: &Arc<Entry>);
}

impl<P: Presses> Deregister for P {
    fn remove(&self, entry: &Arc<Entry>) {
        let mut handlers = self.handlers().lock().unwrap_or_else(PoisonError::into_inner);
        handlers.0.retain(|known| !Arc::ptr_eq(known, entry));
    }
}

impl<B: Backend> Presses for super::allocator::Inner<B> {
    fn handlers(&self) -> &Mutex<Handlers> {
        &self.handlers
    }
}

/// Adds a handler to those of `inner`.
pub(crate) fn register(
    inner: &Arc<impl Presses + 'static>,
    priority: i32,
    handler: impl PressureHandler + 'static,
) -> Registration {
    let entry = Arc::new(Entry { priority, handler: Box::new(handler) });
    let mut handlers = inner.handlers().lock().unwrap_or_else(PoisonError::into_inner);
    let place = handlers.0.partition_point(|known| known.priority >= priority);
    handlers.0.insert(place, Arc::clone(&entry));
    drop(handlers);
    let list: Arc<dyn Deregister> = Arc::clone(inner) as Arc<dyn Deregister>;
    Registration { handler: entry, list: Arc::downgrade(&list) }
}

impl<B: Backend> Allocator<B> {
    /// Registers who can give memory back when a request finds no room; those of higher priority are asked first.
    pub fn on_pressure(&self, priority: i32, handler: impl PressureHandler + 'static) -> Registration {
        register(&self.inner, priority, handler)
    }
}

thread_local! {
    static HANDLING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside of a handler.
#[inline]
pub(crate) fn is_handling() -> bool {
    HANDLING.get()
}

/// Asks the handlers in turn until they have given back what is needed; what they say they gave.
pub(crate) fn ask(handlers: &Mutex<Handlers>, need: Need) -> (u64, u64) {
    let asked: Vec<Arc<Entry>> = handlers.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
    let _inside = Inside::enter();
    let (mut freed, mut calls) = (0_u64, 0);
    for entry in asked {
        if freed >= need.bytes {
            break;
        }
        let rest = Need { bytes: need.bytes - freed, ..need };
        freed = freed.saturating_add(entry.handler.reclaim(rest));
        calls += 1;
    }
    (freed, calls)
}

struct Inside(bool);

impl Inside {
    fn enter() -> Self {
        Self(HANDLING.replace(true))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        HANDLING.set(self.0);
    }
}
