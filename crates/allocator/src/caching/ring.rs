use super::block::Block;
use super::core::Request;

/// What happened to a range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// Handed out.
    Alloc,
    /// Given back, and free at once.
    Free,
    /// Given back; other streams may still use it.
    FreeRequested,
    /// The other streams are done.
    FreeCompleted,
    /// A chunk was mapped.
    Map,
    /// A chunk was unmapped.
    Unmap,
    /// A request was refused; the address says how many bytes could still be granted.
    Oom,
    /// A mark of the caller; the address is its number.
    Mark,
}

/// One record of the trace: 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// First byte.
    pub address: u64,
    /// Bytes: as asked for where it is about a request, else whole pages.
    pub bytes: u64,
    /// Generation of the handle, or 0.
    pub id: u64,
    /// What happened.
    pub action: Action,
    /// Number of the stream: 1 for the first one registered.
    pub stream: u16,
    /// Number of the tag.
    pub tag: u16,
}

const _: () = assert!(size_of::<Event>() == 32);

impl Event {
    pub(crate) const fn alloc(address: u64, id: u64, request: &Request) -> Self {
        let Request { requested, owner, tag, .. } = *request;
        Self { address, bytes: requested, id, action: Action::Alloc, stream: owner, tag }
    }

    pub(crate) const fn free(address: u64, block: &Block) -> Self {
        Self::of(Action::Free, address, block)
    }

    pub(crate) const fn free_requested(address: u64, block: &Block) -> Self {
        Self::of(Action::FreeRequested, address, block)
    }

    pub(crate) const fn free_completed(address: u64, block: &Block) -> Self {
        Self::of(Action::FreeCompleted, address, block)
    }

    pub(crate) const fn pages(action: Action, address: u64, bytes: u64) -> Self {
        Self { address, bytes, id: 0, action, stream: 0, tag: 0 }
    }

    const fn of(action: Action, address: u64, block: &Block) -> Self {
        Self {
            address,
            bytes: block.requested(),
            id: block.generation,
            action,
            stream: block.owner,
            tag: block.tag,
        }
    }
}

/// The latest events. Old ones are overwritten, none in the middle is lost: whoever goes back from the present state through them
/// arrives at a state that existed.
#[derive(Debug)]
pub(crate) struct Ring {
    events: Vec<Event>,
    /// A power of two, or 0: nothing is kept.
    capacity: usize,
    /// Events so far.
    count: u64,
}

impl Ring {
    pub(crate) fn new(events: usize) -> Self {
        let capacity = if events == 0 { 0 } else { events.next_power_of_two() };
        Self { events: Vec::new(), capacity, count: 0 }
    }

    /// Whether events are kept.
    #[inline]
    pub(crate) const fn is_on(&self) -> bool {
        self.capacity > 0
    }

    pub(crate) fn push(&mut self, event: Event) {
        if !self.is_on() {
            return;
        }
        let place = self.count as usize & (self.capacity - 1);
        self.count += 1;
        match self.events.get_mut(place) {
            Some(slot) => *slot = event,
            None => self.events.push(event),
        }
    }

    /// The number of the oldest event that is kept, and all of them in order.
    pub(crate) fn read(&self) -> (u64, Vec<Event>) {
        let first = self.count - self.events.len() as u64;
        let start = if self.capacity == 0 { 0 } else { first as usize & (self.capacity - 1) };
        let (late, early) = self.events.split_at(start.min(self.events.len()));
        (first, [early, late].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_events_stay_in_order() {
        let mut ring = Ring::new(3);
        for number in 0..10 {
            ring.push(Event::pages(Action::Map, number, 1));
        }
        let (first, events) = ring.read();
        assert_eq!(first, 6);
        assert_eq!(events.iter().map(|event| event.address).collect::<Vec<_>>(), [6, 7, 8, 9]);
        let mut off = Ring::new(0);
        off.push(Event::pages(Action::Map, 1, 1));
        assert_eq!(off.read(), (0, Vec::new()));
    }
}
