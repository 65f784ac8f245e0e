//! The lock of the books, who holds it, and which thread is asking.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use spin::mutex::{SpinMutex, SpinMutexGuard};

/// Threads that have asked for their number so far.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Number of this thread, or 0. It has no destructor, so that it is there as long as the thread.
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// The number of the calling thread, from 1 on: no two threads share it.
#[inline]
pub(crate) fn thread_number() -> usize {
    #[cfg(test)]
    if tested::UNDER_SHUTTLE.get() {
        // Its threads are one to the machine.
        return usize::from(shuttle::current::me()) + 1;
    }
    match NUMBER.get() {
        0 => new_number(),
        number => number,
    }
}

#[cold]
fn new_number() -> usize {
    let number = THREADS.fetch_add(1, Ordering::Relaxed) + 1;
    NUMBER.set(number);
    number
}

/// A value on cache lines of its own, of which processors fetch two at once: who writes it does not slow down who reads its neighbours.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Apart<T>(T);

impl<T> Apart<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for Apart<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Tries before the thread lets others run.
const SPINS: u32 = 64;
/// Tries before it sleeps.
const YIELDS: u32 = 256;
/// Between two tries then: what a driver call takes.
const SLEEP: Duration = Duration::from_micros(50);

/// A mutex for sections of some ten nanoseconds: a thread that finds it taken tries again for a while, then lets others run, then sleeps between its tries.
///
/// A standard mutex ends a section by an atomic exchange, to see whether anyone is to be woken; here nobody is, and it ends by a plain store. In one
/// run that took two threads that do nothing but allocate from 78 to 61 ns a pair, and a replayed event from 38 to 34.
#[cfg(not(test))]
#[derive(Debug)]
pub(crate) struct Lock<T>(SpinMutex<T>);

/// Holds a [`Lock`].
#[cfg(not(test))]
#[derive(Debug)]
pub(crate) struct Guard<'a, T> {
    inner: SpinMutexGuard<'a, T>,
}

#[cfg(test)]
pub(crate) use tested::{Guard, Lock};

#[cfg(not(test))]
impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(SpinMutex::new(value))
    }

    /// A lock under which no driver call is made: tests look.
    pub(crate) const fn new_watched(value: T) -> Self {
        Self::new(value)
    }

    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        match self.0.try_lock() {
            Some(inner) => Guard { inner },
            None => Guard { inner: patient(&self.0) },
        }
    }

    /// The lock, if it is free.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.0.try_lock().map(|inner| Guard { inner })
    }
}

#[cold]
fn patient<T>(mutex: &SpinMutex<T>) -> SpinMutexGuard<'_, T> {
    for turn in 0_u32.. {
        // Looking does not take the line away from its holder; trying does.
        if !mutex.is_locked()
            && let Some(guard) = mutex.try_lock()
        {
            return guard;
        }
        match turn {
            0..SPINS => std::hint::spin_loop(),
            SPINS..YIELDS => thread::yield_now(),
            // Whoever grows calls the driver meanwhile.
            _ => thread::sleep(SLEEP),
        }
    }
    unreachable!("four billion sleeps take days")
}

#[cfg(not(test))]
impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

#[cfg(not(test))]
impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// Under test a lock is shuttle's where shuttle chooses whose turn it is, and says who holds it.
#[cfg(test)]
pub(crate) mod tested {
    use std::sync::PoisonError;

    use super::*;

    thread_local! {
        /// Whether locks made by this thread are shuttle's.
        pub(crate) static UNDER_SHUTTLE: Cell<bool> = const { Cell::new(false) };
        /// Watched locks that this thread holds.
        pub(crate) static HELD: Cell<u32> = const { Cell::new(0) };
    }

    #[derive(Debug)]
    pub(crate) struct Lock<T> {
        engine: Engine<T>,
        watched: bool,
    }

    #[derive(Debug)]
    enum Engine<T> {
        Spin(SpinMutex<T>),
        Shuttle(Box<shuttle::sync::Mutex<T>>),
    }

    #[derive(Debug)]
    pub(crate) struct Guard<'a, T> {
        inner: Inner<'a, T>,
        watched: bool,
    }

    #[derive(Debug)]
    enum Inner<'a, T> {
        Spin(SpinMutexGuard<'a, T>),
        Shuttle(shuttle::sync::MutexGuard<'a, T>),
    }

    impl<T> Lock<T> {
        pub(crate) fn new(value: T) -> Self {
            let engine = if UNDER_SHUTTLE.get() {
                Engine::Shuttle(Box::new(shuttle::sync::Mutex::new(value)))
            } else {
                Engine::Spin(SpinMutex::new(value))
            };
            Self { engine, watched: false }
        }

        pub(crate) fn new_watched(value: T) -> Self {
            // Under shuttle all threads are one: who holds what would be mixed up.
            Self { watched: !UNDER_SHUTTLE.get(), ..Self::new(value) }
        }

        pub(crate) fn lock(&self) -> Guard<'_, T> {
            self.guard(match &self.engine {
                Engine::Spin(mutex) => Inner::Spin(patient(mutex)),
                Engine::Shuttle(mutex) => {
                    Inner::Shuttle(mutex.lock().unwrap_or_else(PoisonError::into_inner))
                }
            })
        }

        pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
            Some(self.guard(match &self.engine {
                Engine::Spin(mutex) => Inner::Spin(mutex.try_lock()?),
                Engine::Shuttle(mutex) => Inner::Shuttle(mutex.try_lock().ok()?),
            }))
        }

        fn guard<'a>(&self, inner: Inner<'a, T>) -> Guard<'a, T> {
            HELD.set(HELD.get() + u32::from(self.watched));
            Guard { inner, watched: self.watched }
        }
    }

    impl<T> Drop for Guard<'_, T> {
        fn drop(&mut self) {
            HELD.set(HELD.get() - u32::from(self.watched));
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            match &self.inner {
                Inner::Spin(guard) => guard,
                Inner::Shuttle(guard) => guard,
            }
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            match &mut self.inner {
                Inner::Spin(guard) => guard,
                Inner::Shuttle(guard) => guard,
            }
        }
    }
}
