use super::block::NONE;
use super::core::StreamBook;

/// Streams beside the owner that use a block, each with the stamp up to which its work counts.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    lists: Vec<Vec<(u16, u64)>>,
    vacant: Vec<u32>,
}

impl Uses {
    /// Adds a stream to a list; [`NONE`] starts one. The list's number.
    pub(crate) fn add(&mut self, list: u32, owner: u16) -> u32 {
        let number = if list == NONE { self.new_list() } else { list };
        let uses = &mut self.lists[number as usize];
        if !uses.iter().any(|(known, _)| *known == owner) {
            uses.push((owner, u64::MAX));
        }
        number
    }

    pub(crate) fn list(&self, list: u32) -> &[(u16, u64)] {
        self.lists.get(list as usize).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn list_mut(&mut self, list: u32) -> &mut [(u16, u64)] {
        self.lists.get_mut(list as usize).map_or(&mut [], Vec::as_mut_slice)
    }

    /// Whether all uses of a list are known to be over.
    pub(crate) fn are_done(&self, list: u32, streams: &[StreamBook]) -> bool {
        self.list(list).iter().all(|(owner, stamp)| *stamp <= streams[*owner as usize].completed)
    }

    pub(crate) fn drop_list(&mut self, list: u32) {
        if list != NONE {
            self.lists[list as usize].clear();
            self.vacant.push(list);
        }
    }

    fn new_list(&mut self) -> u32 {
        if let Some(number) = self.vacant.pop() {
            return number;
        }
        self.lists.push(Vec::new());
        u32::try_from(self.lists.len() - 1).unwrap_or(NONE)
    }
}
