use super::block::{Block, Heap, NONE, State};
use super::core::{Core, Region};
use crate::snapshot::{BlockState, Segment, SegmentBlock};

impl Core {
    /// Runs of addresses with memory, in the order of their addresses, and what they are cut into.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        let mut segments: Vec<Segment> =
            self.regions.iter().flat_map(|region| self.segments_of(region)).collect();
        segments.sort_by_key(|segment| segment.address);
        segments
    }

    fn segments_of(&self, region: &Region) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut next = region.first;
        let mut has_gap = true;
        while next != NONE {
            let block = &self.blocks[next];
            next = block.next;
            let Some(part) = part(block, region.address) else {
                has_gap = true;
                continue;
            };
            match segments.last_mut() {
                Some(segment) if !has_gap => {
                    segment.bytes += part.bytes;
                    segment.blocks.push(part);
                }
                _ => segments.push(Segment {
                    address: part.address,
                    bytes: part.bytes,
                    is_small: region.heap == Heap::Small,
                    blocks: vec![part],
                }),
            }
            has_gap = false;
        }
        segments
    }
}

/// A block with memory.
fn part(block: &Block, region: u64) -> Option<SegmentBlock> {
    let state = match block.state {
        State::Used | State::Lent => BlockState::Allocated,
        State::Pending => BlockState::Pending,
        State::Free | State::Kept => BlockState::Free,
        State::Bare | State::Moving | State::Vacant => return None,
    };
    let requested = if state == BlockState::Free { 0 } else { block.requested() };
    Some(SegmentBlock {
        address: region + block.offset,
        bytes: block.bytes,
        requested,
        state,
        tag: block.tag,
    })
}
