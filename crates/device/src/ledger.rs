use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{OutOfBudget, Result};
use crate::{Counter, Recorder};

/// What bytes are granted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// What the driver takes for itself.
    Context,
    /// Kernel images.
    Modules,
    /// Scratch memory of libraries.
    Workspace,
    /// Activations and everything else that a pool hands out.
    Activations,
    /// Weights that stay for a whole phase.
    Resident,
    /// The ring that weights are streamed through.
    Ring,
    /// Page-locked host memory.
    Pinned,
}

impl Purpose {
    /// Every purpose, in declaration order.
    pub const ALL: [Self; 7] = [
        Self::Context,
        Self::Modules,
        Self::Workspace,
        Self::Activations,
        Self::Resident,
        Self::Ring,
        Self::Pinned,
    ];

    const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Context => "context",
            Self::Modules => "modules",
            Self::Workspace => "workspace",
            Self::Activations => "activations",
            Self::Resident => "resident weights",
            Self::Ring => "weight ring",
            Self::Pinned => "pinned",
        })
    }
}

/// The books of one kind of memory: every byte is granted here before it exists, and never more than the cap.
///
/// Cloning shares the books.
///
/// ```
/// use lighterage_device::{Ledger, Purpose};
/// let ledger = Ledger::new(1 << 20);
/// let grant = ledger.grant(Purpose::Activations, 1 << 19).unwrap();
/// let refused = ledger.grant(Purpose::Ring, (1 << 19) + 1).unwrap_err();
/// assert!(refused.to_string().contains("1 bytes missing"));
/// drop(grant);
/// assert_eq!(ledger.granted_bytes(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Mutex<Books>>);

#[derive(Debug)]
struct Books {
    cap: u64,
    /// What the device turned out to hold at most, where that is less than the cap.
    found: u64,
    granted: [u64; Purpose::ALL.len()],
    total: u64,
    peak: u64,
    watcher: Option<Watcher>,
}

/// Who is told of every change.
#[derive(Debug)]
struct Watcher {
    recorder: Recorder,
    counter: fn(Purpose) -> Counter,
}

impl Books {
    fn limit(&self) -> u64 {
        self.cap.min(self.found)
    }

    /// Tells who watches what is granted for a purpose now.
    fn tell(&self, purpose: Purpose) {
        if let Some(Watcher { recorder, counter }) = &self.watcher {
            recorder.sample(counter(purpose), self.granted[purpose.index()]);
        }
    }

    fn by_purpose(&self) -> Vec<(Purpose, u64)> {
        let all = Purpose::ALL.into_iter().map(|purpose| (purpose, self.granted[purpose.index()]));
        all.filter(|(_, bytes)| *bytes > 0).collect()
    }
}

impl Ledger {
    /// Empty books with a cap in bytes.
    #[must_use]
    pub fn new(cap: u64) -> Self {
        let granted = [0; Purpose::ALL.len()];
        Self(Arc::new(Mutex::new(Books { cap, found: u64::MAX, granted, total: 0, peak: 0, watcher: None })))
    }

    /// Grants bytes, to be given back when the grant is dropped.
    ///
    /// # Errors
    /// [`Error::OutOfBudget`](crate::Error::OutOfBudget) with the numbers if the cap would be exceeded; nothing is granted then.
    pub fn grant(&self, purpose: Purpose, bytes: u64) -> Result<Grant> {
        let mut books = self.books();
        let fits = books.total.checked_add(bytes).is_some_and(|total| total <= books.limit());
        if !fits {
            let granted = books.by_purpose();
            return Err(OutOfBudget { requested: bytes, purpose, cap: books.limit(), granted }.into());
        }
        books.total += bytes;
        books.granted[purpose.index()] += bytes;
        books.peak = books.peak.max(books.total);
        books.tell(purpose);
        drop(books);
        Ok(Grant { ledger: self.clone(), purpose, bytes })
    }

    /// The cap.
    #[must_use]
    pub fn cap_bytes(&self) -> u64 {
        self.books().cap
    }

    /// Sets another cap, also below what is granted: nothing is taken back, but nothing more is granted until enough was given back
    /// ([`excess_bytes`](Ledger::excess_bytes)). A limit that was [found](Ledger::lower_limit) is forgotten.
    pub fn set_cap_bytes(&self, cap: u64) {
        let mut books = self.books();
        (books.cap, books.found) = (cap, u64::MAX);
    }

    /// Notes that the device holds no more than so many bytes for us, whatever the cap says: someone else has the rest.
    pub fn lower_limit(&self, bytes: u64) {
        let mut books = self.books();
        books.found = books.found.min(bytes);
    }

    /// Forgets what [`lower_limit`](Ledger::lower_limit) noted: it may have changed since.
    pub fn forget_limit(&self) {
        self.books().found = u64::MAX;
    }

    /// What is granted at most: the cap, or what the device was found to hold.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.books().limit()
    }

    /// Bytes granted beyond the limit, after it was lowered.
    #[must_use]
    pub fn excess_bytes(&self) -> u64 {
        let books = self.books();
        books.total.saturating_sub(books.limit())
    }

    /// Bytes granted now by purpose, in declaration order; purposes without bytes are left out.
    #[must_use]
    pub fn granted_by_purpose(&self) -> Vec<(Purpose, u64)> {
        self.books().by_purpose()
    }

    /// Bytes granted now.
    #[must_use]
    pub fn granted_bytes(&self) -> u64 {
        self.books().total
    }

    /// Bytes granted now for one purpose.
    #[must_use]
    pub fn granted_for(&self, purpose: Purpose) -> u64 {
        self.books().granted[purpose.index()]
    }

    /// The most bytes ever granted at once, or since [`reset_peak`](Ledger::reset_peak).
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.books().peak
    }

    /// From now on the peak is that of what follows; what is granted now counts.
    ///
    /// ```
    /// use lighterage_device::{Ledger, Purpose};
    /// let ledger = Ledger::new(100);
    /// let kept = ledger.grant(Purpose::Context, 10).unwrap();
    /// drop(ledger.grant(Purpose::Ring, 60).unwrap());
    /// assert_eq!(ledger.peak_bytes(), 70);
    /// ledger.reset_peak();
    /// assert_eq!(ledger.peak_bytes(), 10);
    /// # drop(kept);
    /// ```
    pub fn reset_peak(&self) {
        let mut books = self.books();
        books.peak = books.total;
    }

    /// Bytes that could still be granted.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let books = self.books();
        books.limit().saturating_sub(books.total)
    }

    /// From now on every change is told, and what is granted already.
    pub(crate) fn watch(&self, recorder: &Recorder, counter: fn(Purpose) -> Counter) {
        let mut books = self.books();
        books.watcher = Some(Watcher { recorder: recorder.clone(), counter });
        let granted = Purpose::ALL.into_iter().filter(|purpose| books.granted[purpose.index()] > 0);
        granted.for_each(|purpose| books.tell(purpose));
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // The books are consistent after every statement, so a panic elsewhere does not spoil them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Granted bytes; given back on drop.
#[derive(Debug)]
#[must_use = "a dropped grant is given back"]
pub struct Grant {
    ledger: Ledger,
    purpose: Purpose,
    bytes: u64,
}

impl Grant {
    /// How many bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether this ledger granted them.
    #[must_use]
    pub fn is_of(&self, ledger: &Ledger) -> bool {
        Arc::ptr_eq(&self.ledger.0, &ledger.0)
    }

    /// What for.
    #[must_use]
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut books = self.ledger.books();
        books.total -= self.bytes;
        books.granted[self.purpose.index()] -= self.bytes;
        books.tell(self.purpose);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cap_is_reached_and_never_passed() {
        let ledger = Ledger::new(100);
        let a = ledger.grant(Purpose::Ring, 60).unwrap();
        let b = ledger.grant(Purpose::Resident, 40).unwrap();
        assert_eq!(ledger.free_bytes(), 0);
        assert!(ledger.grant(Purpose::Ring, 1).is_err());
        assert!(ledger.grant(Purpose::Ring, u64::MAX).is_err());
        assert!(ledger.grant(Purpose::Ring, 0).is_ok());
        drop(a);
        assert_eq!(ledger.granted_for(Purpose::Resident), 40);
        drop(b);
        assert_eq!((ledger.granted_bytes(), ledger.peak_bytes()), (0, 100));
    }

    #[test]
    fn a_lowered_cap_refuses_until_enough_came_back() {
        let ledger = Ledger::new(100);
        let [a, b] = [60, 40].map(|bytes| ledger.grant(Purpose::Ring, bytes).unwrap());
        ledger.set_cap_bytes(50);
        assert_eq!((ledger.excess_bytes(), ledger.free_bytes()), (50, 0));
        assert!(ledger.grant(Purpose::Ring, 1).is_err());
        drop(a);
        assert_eq!((ledger.excess_bytes(), ledger.free_bytes()), (0, 10));
        assert!(ledger.grant(Purpose::Ring, 10).is_ok());
        ledger.lower_limit(45);
        ledger.lower_limit(70);
        assert_eq!((ledger.limit_bytes(), ledger.cap_bytes(), ledger.free_bytes()), (45, 50, 5));
        ledger.forget_limit();
        assert_eq!(ledger.free_bytes(), 10);
        drop(b);
    }

    #[test]
    fn refusal_names_the_numbers() {
        let ledger = Ledger::new(100);
        let _grant = ledger.grant(Purpose::Activations, 70).unwrap();
        let text = ledger.grant(Purpose::Ring, 50).unwrap_err().to_string();
        assert_eq!(
            text,
            "out of budget: 50 bytes requested for weight ring, cap 100 bytes, 20 bytes missing; granted: activations 70"
        );
    }
}
