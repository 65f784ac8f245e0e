//! MT19937 (Matsumoto and Nishimura 1998), the 32-bit Mersenne Twister.

const WORDS: usize = 624;
const SHIFT: usize = 397;

/// The generator: 624 words of state, drawn one after the other and then renewed together.
#[derive(Clone, Debug)]
pub(super) struct Mersenne {
    state: [u32; WORDS],
    next: usize,
}

impl Mersenne {
    /// The usual initialisation: each word from the one before, by Knuth's multiplier.
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [seed; WORDS];
        let mut word = seed;
        for (index, slot) in (0_u32..).zip(&mut state).skip(1) {
            word = (word ^ (word >> 30)).wrapping_mul(1_812_433_253).wrapping_add(index);
            *slot = word;
        }
        Self { state, next: WORDS }
    }

    /// 32 random bits.
    pub(super) fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.renew();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// 64 random bits: the first word is the high half, as torch joins them.
    pub(super) fn double_word(&mut self) -> u64 {
        let high = u64::from(self.word());
        (high << 32) | u64::from(self.word())
    }

    fn renew(&mut self) {
        for index in 0..WORDS {
            let joined = (self.state[index] & 0x8000_0000) | (self.state[(index + 1) % WORDS] & 0x7fff_ffff);
            let twist = if joined & 1 == 0 { 0 } else { 0x9908_b0df };
            self.state[index] = self.state[(index + SHIFT) % WORDS] ^ (joined >> 1) ^ twist;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_ten_thousandth_word_of_the_default_seed() {
        // C++ standard, [rand.predef]: the 10000th output of mt19937 with seed 5489 is 4123659995.
        let mut generator = Mersenne::new(5489);
        assert_eq!(generator.word(), 3_499_211_612);
        for _ in 1..9_999 {
            generator.word();
        }
        assert_eq!(generator.word(), 4_123_659_995);
    }
}
