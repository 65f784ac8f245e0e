use crate::units::ALIGNMENT_BYTES;

/// Where one streamed visit of the cycle has its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Position in the stream: the ring holds it at this, modulo its size.
    pub(crate) position: u64,
    pub(crate) bytes: u64,
}

/// Positions of a cycle's streamed visits in the stream.
///
/// A cycle is a whole number of turns of the ring, so that a visit has the same address in every cycle. What the visits leave of the last turn is dealt out
/// as gaps between them, where there is slack: as much as a visit and the next one leave of the ring, so that the next one can be copied while the first
/// is read. What is left even so is one gap at the end of the cycle, where the next copy then waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    pub(crate) list: Vec<Slot>,
    /// Length of the cycle.
    pub(crate) cycle_bytes: u64,
    /// What the slack does not take: 0 if every copy can run beside the visit before it.
    pub(crate) excess_bytes: u64,
}

impl Slots {
    /// `streamed`: bytes of each visit, multiples of the alignment, none longer than the ring.
    pub(crate) fn new(streamed: &[u64], ring_bytes: u64) -> Self {
        let total: u64 = streamed.iter().sum();
        let cycle_bytes = if ring_bytes == 0 { total } else { total.next_multiple_of(ring_bytes) };
        let next = streamed.iter().cycle().skip(1);
        let slacks: Vec<u64> =
            streamed.iter().zip(next).map(|(bytes, next)| ring_bytes.saturating_sub(bytes + next)).collect();
        let slack: u64 = slacks.iter().sum();
        let dealt = slack.min(cycle_bytes - total);
        let (mut bytes_before, mut slack_before) = (0, 0);
        let slot = |(bytes, slack_here): (&u64, &u64)| {
            let position = bytes_before + share(dealt, slack_before, slack);
            bytes_before += bytes;
            slack_before += slack_here;
            Slot { position, bytes: *bytes }
        };
        let list = streamed.iter().zip(&slacks).map(slot).collect();
        Self { list, cycle_bytes, excess_bytes: cycle_bytes - total - dealt }
    }
}

/// `dealt * part / whole`, rounded down to the alignment; so no gap is longer than its slack, which is a multiple of it.
fn share(dealt: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(dealt) * u128::from(part) / u128::from(whole.max(1));
    // Not above `dealt`, since no part is above the whole.
    u64::try_from(share).unwrap_or(dealt) / ALIGNMENT_BYTES * ALIGNMENT_BYTES
}

#[cfg(test)]
mod tests {
    use lighterage_testkit::Rng;

    use super::*;

    const BLOCK: u64 = ALIGNMENT_BYTES;

    fn positions(blocks: &[u64], ring: u64) -> (Vec<u64>, u64, u64) {
        let streamed: Vec<u64> = blocks.iter().map(|count| count * BLOCK).collect();
        let slots = Slots::new(&streamed, ring * BLOCK);
        let positions = slots.list.iter().map(|slot| slot.position / BLOCK).collect();
        (positions, slots.cycle_bytes / BLOCK, slots.excess_bytes / BLOCK)
    }

    #[test]
    fn visits_that_fill_whole_turns_follow_one_another() {
        assert_eq!(positions(&[5, 5, 5, 5], 10), (vec![0, 5, 10, 15], 20, 0));
    }

    #[test]
    fn gaps_go_where_there_is_slack() {
        // 10 - 5 - 5 = 0, 10 - 5 - 1 = 4, 10 - 1 - 2 = 7, 10 - 2 - 5 = 3: 7 of these 14 blocks are needed.
        assert_eq!(positions(&[5, 5, 1, 2], 10), (vec![0, 5, 12, 16], 20, 0));
    }

    #[test]
    fn without_slack_the_gap_is_at_the_end() {
        assert_eq!(positions(&[5, 5, 5], 10), (vec![0, 5, 10], 20, 5));
    }

    #[test]
    fn every_copy_can_run_beside_the_visit_before_it() {
        let mut rng = Rng::from_env(31);
        for _ in 0..2000 {
            let count = 1 + rng.below(12);
            let streamed: Vec<u64> = (0..count).map(|_| rng.below(20) * BLOCK).collect();
            let largest = streamed.iter().max().copied().unwrap_or(0);
            let ring = (2 * largest).max(BLOCK) + rng.below(8) * BLOCK;
            let Slots { list, cycle_bytes, excess_bytes } = Slots::new(&streamed, ring);
            let first = Slot { position: list[0].position + cycle_bytes - excess_bytes, ..list[0] };
            for pair in list.iter().chain([&first]).collect::<Vec<_>>().windows(2) {
                assert!(pair[0].position + pair[0].bytes <= pair[1].position, "{list:?} overlap");
                let end = pair[1].position + pair[1].bytes;
                assert!(end - pair[0].position <= ring, "{pair:?} do not fit a ring of {ring}: {list:?}");
            }
        }
    }
}
