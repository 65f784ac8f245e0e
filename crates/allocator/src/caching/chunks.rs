/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Destroyed, or about to be: its number is free.
    Gone,
    /// In the pool, mapped nowhere.
    Idle,
    /// Held by the thread that grows.
    InHand,
    /// Mapped, from this page of this region on.
    At { region: u16, page: u64 },
}

/// What is known of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkBook {
    pub(crate) pages: u64,
    pub(crate) place: Place,
}

/// Physical memory by number, and the pool of what is mapped nowhere.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    books: Vec<ChunkBook>,
    vacant: Vec<u32>,
    idle: Vec<u32>,
}

impl Chunks {
    /// Adds a chunk, in the hand of whoever made it.
    pub(crate) fn add(&mut self, pages: u64) -> u32 {
        let book = ChunkBook { pages, place: Place::InHand };
        if let Some(number) = self.vacant.pop() {
            self.books[number as usize] = book;
            return number;
        }
        self.books.push(book);
        u32::try_from(self.books.len() - 1).unwrap_or(u32::MAX)
    }

    /// Forgets a chunk that is in hand.
    pub(crate) fn forget(&mut self, number: u32) {
        let book = &mut self.books[number as usize];
        assert!(book.place == Place::InHand, "chunk {number} is {:?}", book.place);
        book.place = Place::Gone;
        self.vacant.push(number);
    }

    pub(crate) fn get(&self, number: u32) -> ChunkBook {
        self.books[number as usize]
    }

    pub(crate) fn put(&mut self, number: u32, place: Place) {
        self.books[number as usize].place = place;
        if place == Place::Idle {
            self.idle.push(number);
        }
    }

    /// Takes a chunk out of the pool: one of so many pages.
    pub(crate) fn take_idle(&mut self, pages: u64) -> Option<u32> {
        let position = self.idle.iter().rposition(|number| self.get(*number).pages == pages)?;
        let number = self.idle.swap_remove(position);
        self.books[number as usize].place = Place::InHand;
        Some(number)
    }

    /// Takes everything out of the pool.
    pub(crate) fn drain_idle(&mut self) -> Vec<u32> {
        let idle = std::mem::take(&mut self.idle);
        for number in &idle {
            self.books[*number as usize].place = Place::InHand;
        }
        idle
    }

    pub(crate) fn idle(&self) -> &[u32] {
        &self.idle
    }

    /// Every chunk that exists.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, ChunkBook)> + '_ {
        (0..).zip(self.books.iter().copied()).filter(|(_, book)| book.place != Place::Gone)
    }
}
