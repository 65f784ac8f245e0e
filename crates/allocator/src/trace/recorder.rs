use std::collections::BTreeMap;

use super::{Op, Trace};

/// Makes a trace of requests that are known by their addresses, as logs know them.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    ops: Vec<Op>,
    /// By address: the id.
    alive: BTreeMap<u64, u32>,
    /// Ids that can be used again, so that tables by id stay small.
    vacant: Vec<u32>,
    ids: u32,
    /// Streams of the log in the order in which they appear; numbers of a trace have a byte.
    streams: Vec<u64>,
}

/// What is longer is no request but nonsense.
const BYTES_MAX: u64 = 1 << 50;

impl Recorder {
    /// Notes a request. What was at the address before has ended unseen. False if there are too many streams.
    #[must_use]
    pub(super) fn allocate(&mut self, address: u64, stream: u64, bytes: u64) -> bool {
        let Some(stream) = self.stream(stream) else { return false };
        self.free(address);
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.ids += 1;
            self.ids - 1
        });
        self.alive.insert(address, id);
        self.ops.push(Op::Alloc { id, stream, bytes: bytes.min(BYTES_MAX) });
        true
    }

    /// Notes the end of a request; false if none is known there.
    pub(super) fn free(&mut self, address: u64) -> bool {
        let Some(id) = self.alive.remove(&address) else { return false };
        self.vacant.push(id);
        self.ops.push(Op::Free { id });
        true
    }

    pub(super) fn is_alive(&self, address: u64) -> bool {
        self.alive.contains_key(&address)
    }

    pub(super) fn into_trace(self) -> Trace {
        Trace { ops: self.ops }
    }

    fn stream(&mut self, stream: u64) -> Option<u8> {
        let known = self.streams.iter().position(|known| *known == stream);
        let number = known.unwrap_or_else(|| {
            self.streams.push(stream);
            self.streams.len() - 1
        });
        u8::try_from(number).ok()
    }
}
