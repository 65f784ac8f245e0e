//! The invariants of the books, checked from scratch. Tests check what takes a device or a model to see.
//!
//! | | what holds | checked |
//! |---|---|---|
//! | I1 | blocks tile their region; what is handed out does not overlap | here, tests |
//! | I2 | no two neighbours could be one block | here |
//! | I3 | each free block is in its list and in no other; the bitmaps say which lists are not empty | here |
//! | I4 | pages and chunks know each other; what is handed out, pending or free has memory | here |
//! | I5 | what exists is what is mapped, idle or in hand, and no more than is granted, at each create | here, tests |
//! | I6 | counters are what the blocks say, and agree with each other | here, tests |
//! | I7 | memory that others use is not handed out without a wait, nor unmapped | here, tests |
//! | I8 | an arena stays where it is | tests |
//! | I9 | a handle that was given back is stale for ever | tests |
//! | I10 | no driver call under the lock of the books | tests |
//! | I11 | driver calls come in an order that the driver takes | `Sim` under the tests |
//! | I12 | a trim after the last free, and a drop, give everything back | tests |
//! | I13 | a request for which there is room is not refused | tests |
//! | I14 | the same seed gives the same addresses | tests |
//! | I15 | what a plan hands out does not meet what is alive | tests |

use std::collections::BTreeSet;

use super::block::{Heap, NONE, State};
use super::chunks::Place;
use super::core::{Core, may_join};
use super::counts::PoolCounts;
use crate::ALIGNMENT_BYTES;

type Outcome = Result<(), String>;

/// Everything that can be said about the books by themselves.
pub(crate) fn audit(core: &Core) -> Outcome {
    for number in 0..core.regions.len() {
        chain(core, number)?;
        pages(core, number)?;
    }
    bins(core)?;
    kept(core)?;
    chunks(core)?;
    counts(core)?;
    pending(core)
}

fn fail(text: String) -> Outcome {
    Err(text)
}

/// I1 and I2: blocks tile the region, and neighbours that could be one are.
fn chain(core: &Core, number: usize) -> Outcome {
    let region = &core.regions[number];
    let (mut next, mut before, mut at) = (region.first, NONE, 0);
    while next != NONE {
        let block = &core.blocks[next];
        let fits = block.offset == at && block.prev == before && block.region as usize == number;
        if !fits || block.heap != region.heap {
            return fail(format!("I1: block {next} is out of line at {at}: {block:?}"));
        }
        if block.bytes == 0 || !block.bytes.is_multiple_of(ALIGNMENT_BYTES) {
            return fail(format!("I1: block {next} has {} bytes", block.bytes));
        }
        if block.state == State::Vacant {
            return fail(format!("I1: block {next} of the chain is vacant"));
        }
        if before != NONE && may_join(&core.blocks[before], block) {
            return fail(format!("I2: blocks {before} and {next} could be one: {block:?}"));
        }
        (at, before, next) = (block.end(), next, block.next);
    }
    if at == region.bytes {
        Ok(())
    } else {
        fail(format!("I1: region {number} ends at {at}, not {}", region.bytes))
    }
}

/// I4: memory is where blocks say, and each chunk knows its place.
fn pages(core: &Core, number: usize) -> Outcome {
    let region = &core.regions[number];
    let mut next = region.first;
    while next != NONE {
        let block = &core.blocks[next];
        next = block.next;
        let touched = block.offset / core.page..block.end().div_ceil(core.page);
        for page in touched {
            let chunk = region.pages.get(page as usize).copied().unwrap_or(NONE);
            match block.state {
                State::Bare if chunk != NONE => {
                    return fail(format!("I4: page {page} of {block:?} has memory"));
                }
                State::Bare | State::Moving => (),
                _ if chunk == NONE => return fail(format!("I4: page {page} of {block:?} has no memory")),
                _ => (),
            }
        }
    }
    for (page, chunk) in (0_u64..).zip(&region.pages).filter(|(_, chunk)| **chunk != NONE) {
        let book = core.chunks.get(*chunk);
        let here = matches!(book.place, Place::At { region, page: first }
            if region as usize == number && (first..first + book.pages).contains(&page));
        if !here {
            return fail(format!(
                "I4: page {page} of region {number} shows chunk {chunk}, which is {book:?}"
            ));
        }
    }
    Ok(())
}

/// I3: every free block is in its list and nothing else is.
fn bins(core: &Core) -> Outcome {
    let mut expected: Vec<[Vec<u32>; 2]> = vec![Default::default(); core.streams.len()];
    for (index, block) in core.blocks.iter().filter(|(_, block)| block.state == State::Free) {
        expected[block.owner as usize][block.heap.index()].push(index);
    }
    for (owner, heaps) in expected.iter().enumerate() {
        for heap in Heap::ALL {
            core.bins(owner, heap).audit(&core.blocks, &heaps[heap.index()])?;
        }
    }
    let bare = core.blocks.iter().filter(|(_, block)| block.state == State::Bare);
    let mut expected: Vec<_> =
        bare.map(|(index, block)| ((block.heap, block.region, block.offset), index)).collect();
    expected.sort_unstable();
    if core.bare.iter().map(|(key, index)| (*key, *index)).eq(expected) {
        return Ok(());
    }
    fail("I3: the list of bare addresses is wrong".to_owned())
}

/// I3: what was given back a moment ago is in its place, and nothing else is.
fn kept(core: &Core) -> Outcome {
    let mut found: Vec<u32> = Vec::new();
    for (owner, bytes, index) in core.kept.iter() {
        let block = &core.blocks[index];
        if block.state != State::Kept || usize::from(block.owner) != owner || block.bytes != bytes {
            return fail(format!("I3: block {index} is kept for {bytes} bytes of {owner}: {block:?}"));
        }
        found.push(index);
    }
    found.sort_unstable();
    let expected = core.blocks.iter().filter(|(_, block)| block.state == State::Kept);
    if found.iter().copied().eq(expected.map(|(index, _)| index)) {
        return Ok(());
    }
    fail(format!("I3: kept are {found:?}, and others say so"))
}

/// I5: what is charged is what is mapped, idle or in hand.
fn chunks(core: &Core) -> Outcome {
    let mut charged = 0;
    let mut mapped = [0_u64; 2];
    for (number, book) in core.chunks.iter() {
        charged += book.pages * core.page;
        if let Place::At { region, page } = book.place {
            let region = &core.regions[region as usize];
            let shown = &region.pages[page as usize..(page + book.pages) as usize];
            if shown.iter().any(|chunk| *chunk != number) {
                return fail(format!("I4: chunk {number} is not on all of its pages"));
            }
            mapped[region.heap.index()] += book.pages * core.page;
        }
    }
    let counted = core.counts.all().reserved_bytes.current;
    if charged != counted {
        return fail(format!("I5: {charged} bytes in chunks, {counted} counted"));
    }
    for (heap, bytes) in mapped.iter().enumerate() {
        let counted = core.counts.of(Heap::ALL[heap]).reserved_bytes.current;
        if *bytes != counted {
            return fail(format!("I5: {bytes} bytes mapped in heap {heap}, {counted} counted"));
        }
    }
    Ok(())
}

/// I6: counters agree with the blocks and with each other.
fn counts(core: &Core) -> Outcome {
    let mut pools = [[0_u64; 5]; 2];
    for (_, block) in core.blocks.iter() {
        // What a magazine has counts as handed out until it comes back.
        let held = matches!(block.state, State::Used | State::Lent);
        let active = held || block.state == State::Pending;
        let sums = &mut pools[block.heap.index()];
        if held {
            sums[0] += 1;
            sums[1] += block.bytes;
            sums[2] += block.requested();
        }
        if active {
            sums[3] += 1;
            sums[4] += block.bytes;
        }
    }
    let both: Vec<u64> = (0..5).map(|position| pools[0][position] + pools[1][position]).collect();
    let counted = [core.counts.of(Heap::Small), core.counts.of(Heap::Large), core.counts.all()];
    for (pool, expected) in counted.iter().zip([&pools[0][..], &pools[1], &both]) {
        let current = gauges(pool).map(|gauge| gauge.current);
        if current[..] != *expected {
            return fail(format!("I6: counted {current:?}, found {expected:?}"));
        }
        for gauge in gauges(pool).into_iter().chain([pool.reserved_bytes]) {
            if gauge.allocated - gauge.freed != gauge.current || gauge.peak < gauge.current {
                return fail(format!("I6: {gauge:?} does not add up"));
            }
        }
        if pool.requested_bytes.current > pool.allocated_bytes.current
            || pool.allocated_bytes.current > pool.active_bytes.current
        {
            return fail(format!("I6: requested, allocated, active are out of order: {pool:?}"));
        }
    }
    let all = core.counts.all();
    if all.active_bytes.current > all.reserved_bytes.current {
        return fail(format!("I6: more in use than reserved: {all:?}"));
    }
    Ok(())
}

fn gauges(pool: &PoolCounts) -> [super::counts::Gauge; 5] {
    [pool.allocation, pool.allocated_bytes, pool.requested_bytes, pool.active, pool.active_bytes]
}

/// I7: what other streams may use is pending, and nothing else.
fn pending(core: &Core) -> Outcome {
    let pending: BTreeSet<u32> = core.pending.iter().copied().collect();
    for (index, block) in core.blocks.iter() {
        let listed = pending.contains(&index);
        if (block.state == State::Pending && !listed) || (block.state == State::Free && block.uses != NONE) {
            return fail(format!("I7: block {index} is {:?}, listed {listed}", block.state));
        }
    }
    Ok(())
}
