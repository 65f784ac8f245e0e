//! The lock of the books, and who holds it.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;

/// Tries before the thread lets others run.
const SPINS: u32 = 64;
/// Times that it lets others run before it sleeps.
const YIELDS: u32 = 64;

/// A mutex for sections of some ten nanoseconds: a thread that finds it taken tries again for a while before it sleeps.
///
/// A waiter that never sleeps leaves no mark on a standard mutex, so that its holder need not call the system to wake anyone. With two threads
/// that do nothing but allocate that is the difference between 3 and 20 million pairs a second.
#[cfg(not(test))]
#[derive(Debug)]
pub(crate) struct Lock<T>(Mutex<T>);

/// Holds a [`Lock`].
#[cfg(not(test))]
#[derive(Debug)]
pub(crate) struct Guard<'a, T> {
    inner: MutexGuard<'a, T>,
}

#[cfg(test)]
pub(crate) use tested::{Guard, Lock};

#[cfg(not(test))]
impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// A lock under which no driver call is made: tests look.
    pub(crate) const fn new_watched(value: T) -> Self {
        Self::new(value)
    }

    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        match self.0.try_lock() {
            Ok(inner) => Guard { inner },
            Err(_) => Guard { inner: patient(&self.0) },
        }
    }

    /// The lock, if it is free.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        match self.0.try_lock() {
            Ok(inner) => Some(Guard { inner }),
            Err(TryLockError::Poisoned(poisoned)) => Some(Guard { inner: poisoned.into_inner() }),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cold]
fn patient<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for turn in 0..SPINS + YIELDS {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            // The books are changed after what can fail, so a panic elsewhere does not spoil them.
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if turn < SPINS => std::hint::spin_loop(),
            Err(TryLockError::WouldBlock) => thread::yield_now(),
        }
    }
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    use std::cell::Cell;

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
        Std(Mutex<T>),
        Shuttle(shuttle::sync::Mutex<T>),
    }

    #[derive(Debug)]
    pub(crate) struct Guard<'a, T> {
        inner: Inner<'a, T>,
        watched: bool,
    }

    #[derive(Debug)]
    enum Inner<'a, T> {
        Std(MutexGuard<'a, T>),
        Shuttle(shuttle::sync::MutexGuard<'a, T>),
    }

    impl<T> Lock<T> {
        pub(crate) fn new(value: T) -> Self {
            let engine = if UNDER_SHUTTLE.get() {
                Engine::Shuttle(shuttle::sync::Mutex::new(value))
            } else {
                Engine::Std(Mutex::new(value))
            };
            Self { engine, watched: false }
        }

        pub(crate) fn new_watched(value: T) -> Self {
            // Under shuttle all threads are one: who holds what would be mixed up.
            Self { watched: !UNDER_SHUTTLE.get(), ..Self::new(value) }
        }

        pub(crate) fn lock(&self) -> Guard<'_, T> {
            self.guard(match &self.engine {
                Engine::Std(mutex) => Inner::Std(patient(mutex)),
                Engine::Shuttle(mutex) => {
                    Inner::Shuttle(mutex.lock().unwrap_or_else(PoisonError::into_inner))
                }
            })
        }

        pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
            Some(self.guard(match &self.engine {
                Engine::Std(mutex) => Inner::Std(match mutex.try_lock() {
                    Err(TryLockError::WouldBlock) => return None,
                    outcome => outcome.unwrap_or_else(|poisoned| match poisoned {
                        TryLockError::Poisoned(poisoned) => poisoned.into_inner(),
                        TryLockError::WouldBlock => unreachable!("seen above"),
                    }),
                }),
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
                Inner::Std(guard) => guard,
                Inner::Shuttle(guard) => guard,
            }
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            match &mut self.inner {
                Inner::Std(guard) => guard,
                Inner::Shuttle(guard) => guard,
            }
        }
    }
}
