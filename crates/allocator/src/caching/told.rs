//! What the device's recorder is told of the books, for whoever looks at a recording: what is granted for which purpose it knows from the ledger.

use lighterage_device::{Backend, Counter, Recorder};

use super::allocator::{Inner, State};

impl<B: Backend> Inner<B> {
    /// Tells how much is in use, if somebody records.
    #[inline]
    pub(super) fn tell(&self, state: &State<B>) {
        if let Some(recorder) = self.device.recorder() {
            tell_use(recorder, state);
        }
    }

    /// Tells also what is held for it.
    pub(super) fn tell_all(&self) {
        if let Some(recorder) = self.device.recorder() {
            let state = self.heap();
            tell_use(recorder, &state);
            recorder.sample(Counter::Reserved, state.core.counts.reserved_bytes());
            recorder.sample(Counter::Idle, state.core.idle_bytes());
        }
    }
}

/// Under the lock of the books, so that samples come in the order of what they tell.
#[cold]
fn tell_use<B: Backend>(recorder: &Recorder, state: &State<B>) {
    let counts = &state.core.counts;
    recorder.sample(Counter::Allocated, counts.allocated_bytes());
    recorder.sample(Counter::Pending, counts.pending_bytes());
}
