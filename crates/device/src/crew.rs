//! Fork and join in which the caller takes part: the threads behind [`Workers`](crate::Workers).

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Helper threads, which join whoever has tasks to share. Dropping it ends them.
///
/// The caller starts at once and does everything alone if no helper wakes up in time: a small job costs no hand-over. A pool whose threads do
/// all the work (rayon's `install`) makes the caller sleep and wake for each job, some 20 us on two cores, and even its scopes wait for
/// every spawned task to have been looked at.
#[derive(Debug)]
pub(crate) struct Crew {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A job came, or the crew ends.
    job_came: Condvar,
    /// A helper left a job.
    helper_left: Condvar,
    /// How many jobs were ever offered: what a helper looks at before it goes to sleep.
    offers: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    jobs: Vec<Entry>,
    next_id: u64,
    sleeping: usize,
    closing: bool,
}

/// A job on offer. It stays in the list until its caller has seen that no helper is inside.
#[derive(Debug)]
struct Entry {
    id: u64,
    job: Job,
    inside: usize,
    panic: Option<Panic>,
}

struct Panic(Box<dyn Any + Send>);

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("panic")
    }
}

/// A pointer to tasks on the stack of the thread that shares them.
#[derive(Clone, Copy, Debug)]
struct Job(*const Tasks<'static>);

// SAFETY: `Tasks` is `Sync` (a `Sync` closure and atomics), so another thread may use it through a pointer; that it is alive is argued
// where the pointer is used.
unsafe impl Send for Job {}

/// The tasks of one call, handed out by number.
struct Tasks<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    next: AtomicUsize,
    count: usize,
    /// Helpers that are doing tasks now, as a hint; the number that counts is that of the entry.
    busy: AtomicUsize,
}

impl Tasks<'_> {
    /// Does tasks until none is left.
    fn drain(&self) -> Result<(), Panic> {
        catch_unwind(AssertUnwindSafe(|| {
            loop {
                // Relaxed: the number is all that is shared here; results are published by the lock on the way out.
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= self.count {
                    return;
                }
                (self.task)(index);
            }
        }))
        .map_err(|panic| {
            // The others stop early: the call fails anyway.
            self.next.store(self.count, Ordering::Relaxed);
            Panic(panic)
        })
    }

    fn is_drained(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.count
    }
}

impl Crew {
    /// Starts `helpers` threads.
    pub(crate) fn new(helpers: usize) -> std::io::Result<Self> {
        let mut crew = Self { shared: Arc::default(), threads: Vec::with_capacity(helpers) };
        for index in 0..helpers {
            let shared = Arc::clone(&crew.shared);
            let thread =
                thread::Builder::new().name(format!("worker {index}")).spawn(move || shared.help())?;
            crew.threads.push(thread);
        }
        Ok(crew)
    }

    /// Threads that work on a job: the helpers and the caller.
    pub(crate) fn size(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `task(0)` to `task(count - 1)` on the caller and on helpers that are free.
    ///
    /// # Panics
    /// As a task does, after all threads have left the job.
    pub(crate) fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        let tasks = Tasks { task, next: AtomicUsize::new(0), count, busy: AtomicUsize::new(0) };
        let id = self.shared.offer(&tasks);
        let mine = tasks.drain();
        patiently(|| tasks.busy.load(Ordering::Acquire) == 0);
        let theirs = self.shared.withdraw(id);
        if let Some(Panic(panic)) = mine.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.job_came.notify_all();
        for thread in self.threads.drain(..) {
            // Helpers catch the panics of tasks, and have none of their own.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Puts a job on offer. The caller must `withdraw` it before `tasks` goes away.
    fn offer(&self, tasks: &Tasks<'_>) -> u64 {
        let job = Job(std::ptr::from_ref(tasks).cast());
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.jobs.push(Entry { id, job, inside: 0, panic: None });
        let wake = state.sleeping.min(tasks.count - 1);
        drop(state);
        self.offers.fetch_add(1, Ordering::Release);
        for _ in 0..wake {
            self.job_came.notify_one();
        }
        id
    }

    /// Takes a job off the list when no helper is inside any more; a helper's panic, if there was one.
    fn withdraw(&self, id: u64) -> Option<Panic> {
        let mut state = self.lock();
        loop {
            let index = state.jobs.iter().position(|entry| entry.id == id)?;
            if state.jobs[index].inside == 0 {
                return state.jobs.swap_remove(index).panic;
            }
            state = self.helper_left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The life of a helper: take part in a job that has tasks left, else watch for one, else sleep.
    fn help(&self) {
        let mut state = self.lock();
        while !state.closing {
            state = match state.enter() {
                Some((id, job)) => {
                    drop(state);
                    self.take_part(id, job)
                }
                None => self.rest(state),
            };
        }
    }

    /// Does tasks of a job that this helper has entered.
    fn take_part(&self, id: u64, job: Job) -> MutexGuard<'_, State> {
        let outcome = job.tasks().drain();
        // While `inside` still counts this helper: afterwards the job may be gone.
        job.tasks().busy.fetch_sub(1, Ordering::Release);
        self.leave(id, outcome)
    }

    /// Returns when there may be something to do.
    fn rest<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let seen = self.offers.load(Ordering::Acquire);
        drop(state);
        let offered = patiently(|| self.offers.load(Ordering::Acquire) != seen);
        let mut state = self.lock();
        if offered || state.closing || state.jobs.iter().any(Entry::wants_help) {
            return state;
        }
        state.sleeping += 1;
        let mut state = self.job_came.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.sleeping -= 1;
        state
    }

    fn leave(&self, id: u64, outcome: Result<(), Panic>) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if let Some(entry) = state.jobs.iter_mut().find(|entry| entry.id == id) {
            entry.inside -= 1;
            entry.panic = entry.panic.take().or(outcome.err());
            self.helper_left.notify_all();
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No task runs under the lock, and the list is whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts a helper into a job that has tasks left.
    fn enter(&mut self) -> Option<(u64, Job)> {
        let entry = self.jobs.iter_mut().find(|entry| entry.wants_help())?;
        entry.inside += 1;
        entry.job.tasks().busy.fetch_add(1, Ordering::Relaxed);
        Some((entry.id, entry.job))
    }
}

impl Entry {
    fn wants_help(&self) -> bool {
        !self.job.tasks().is_drained()
    }
}

impl Job {
    fn tasks(&self) -> &Tasks<'_> {
        // SAFETY: a job is used while it is in the list or while `inside` counts the user; `withdraw` returns, and with it the frame that
        // owns the tasks, only after both have ended.
        unsafe { &*self.0 }
    }
}

/// Looks a bounded number of times, letting others run in between; whether it came true. Kernels follow each other within microseconds, and
/// to sleep and be woken takes 20 us.
fn patiently(come: impl Fn() -> bool) -> bool {
    const LOOKS: usize = 64;
    (0..LOOKS).any(|_| {
        // First look, then yield: where others want the core, a yield may last a time slice.
        let came = come();
        if !came {
            thread::yield_now();
        }
        came
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_from_many_threads_and_from_tasks_all_finish() {
        let crew = Crew::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        crew.for_each(3, &|outer| {
                            crew.for_each(2, &|inner| {
                                sum.fetch_add(2 * outer + inner, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        // 0 + 1 + ... + 5 for each call.
        assert_eq!(sum.into_inner(), 3 * 200 * 15);
    }

    #[test]
    fn panic_of_a_task_reaches_the_caller_and_the_crew_goes_on() {
        let crew = Crew::new(1).unwrap();
        for bad in 0..8 {
            let call = || crew.for_each(8, &|index| assert!(index != bad, "task {index} fails"));
            let panic = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
            assert_eq!(panic.downcast_ref::<String>(), Some(&format!("task {bad} fails")));
        }
        // Both threads are inside before the helper's task panics.
        let (caller, both) = (thread::current().id(), std::sync::Barrier::new(2));
        let call = || {
            crew.for_each(2, &|_| {
                both.wait();
                assert!(thread::current().id() == caller, "the helper's task fails");
            });
        };
        let panic = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"the helper's task fails"));
        let done = AtomicUsize::new(0);
        crew.for_each(100, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 100);
    }
}
