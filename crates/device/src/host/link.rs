use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The connection between host and device memory, slowed down to a rate. All copies over it, of all streams and both ways, share the rate.
#[derive(Debug)]
pub(super) struct Link {
    bytes_per_second: f64,
    booked: Mutex<Booked>,
}

#[derive(Debug)]
struct Booked {
    /// When the link has carried everything that was put on it so far.
    free_at: Instant,
    /// When the last copy, if any, returned: later than the link was through with it, by as much as a sleep is late.
    returned_at: Option<Instant>,
}

/// A copy that follows the one before it within this time was there before the link was free: that the thread woke late is no fault of the link.
const AT_ONCE: Duration = Duration::from_micros(200);

impl Link {
    pub(super) fn new(bytes_per_second: f64) -> Self {
        Self { bytes_per_second, booked: Mutex::new(Booked { free_at: Instant::now(), returned_at: None }) }
    }

    /// Moves `bytes` bytes by `piece(from, length)` and returns no sooner than the link could have carried them.
    ///
    /// Pieces take about a millisecond each: long beside the imprecision of a sleep, short enough that copies of several streams
    /// share the link fairly. A piece's end is reckoned from the end of the one before, not from when the sleep happened to return, so lateness does not add up.
    pub(super) fn transfer(&self, bytes: usize, piece: impl Fn(usize, usize)) {
        let step = self.piece_bytes();
        let mut from = 0;
        while from < bytes {
            let length = step.min(bytes - from);
            let done = self.occupy(length, from == 0);
            piece(from, length);
            thread::sleep(done.saturating_duration_since(Instant::now()));
            from += length;
        }
        self.booked().returned_at = Some(Instant::now());
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to a range that fits"
    )]
    fn piece_bytes(&self) -> usize {
        const PIECE_SECONDS: f64 = 1e-3;
        (self.bytes_per_second * PIECE_SECONDS).clamp(1.0, 1e9) as usize
    }

    /// Books the link for so many bytes; when they are through. The first piece of a copy cannot use time that has passed, unless the copy follows another at once.
    #[expect(clippy::cast_precision_loss, reason = "a piece is far below 2^52 bytes")]
    fn occupy(&self, bytes: usize, first: bool) -> Instant {
        let mut booked = self.booked();
        let now = Instant::now();
        let follows = |returned_at| now.saturating_duration_since(returned_at) <= AT_ONCE;
        if first && !booked.returned_at.is_some_and(follows) {
            booked.free_at = booked.free_at.max(now);
        }
        booked.free_at += Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        booked.free_at
    }

    fn booked(&self) -> MutexGuard<'_, Booked> {
        self.booked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_copies_of_several_threads_share_the_rate() {
        // 4 threads, 10 copies each, of 1000 bytes at 1 MB/s: 40 ms in all, however they interleave.
        let link = Link::new(1e6);
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10).for_each(|_| link.transfer(1000, |_, _| ())));
            }
        });
        assert!(start.elapsed() >= Duration::from_millis(40), "{:?}", start.elapsed());
    }

    #[test]
    fn pieces_tile_the_copy() {
        for (bytes, rate) in [(0, 1e9), (1, 1e9), (2_500_001, 1e9), (7, 1000.0)] {
            let next = std::cell::Cell::new(0);
            Link::new(rate).transfer(bytes, |from, length| {
                assert_eq!(from, next.get());
                next.set(from + length);
            });
            assert_eq!(next.get(), bytes);
        }
    }
}
