//! The first noise, as torch draws it: the same seed gives the same picture as the Python pipelines do.
mod mersenne;
mod normal;
mod philox;

use half::bf16;
use mersenne::Mersenne;

/// Which of torch's generators to follow.
///
/// ```
/// use lighterage_pipeline::Noise;
/// // torch.randn(16, generator=torch.Generator().manual_seed(0))
/// let values = Noise::Cpu.normals(0, 16);
/// assert_eq!(values[..2], [-1.125_839_8, -1.152_360_2]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Noise {
    /// `torch.Generator("cpu")`: MT19937, bit for bit as on x86 with AVX2 or better.
    #[default]
    Cpu,
    /// `torch.Generator("cuda")`: Philox 4x32-10, to the accuracy of the device's fast logarithm, sine and cosine (a few
    /// parts in a million). The layout of more than [`Multiprocessors::capacity`] values depends on the GPU.
    Cuda(Multiprocessors),
    /// The same generator, whose first draw of as many values was somebody else's: InfiniteYou's official pipeline draws the control picture's latent first.
    CudaSecond(Multiprocessors),
}

/// The part of a GPU that decides in which order torch draws many values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiprocessors {
    /// How many there are: 132 on an H100.
    pub count: u32,
    /// Threads that each holds at once: 2048 on an H100.
    pub threads: u32,
}

impl Multiprocessors {
    /// An H100 SXM: 132 multiprocessors of 2048 threads.
    pub const H100: Self = Self { count: 132, threads: 2048 };

    /// How many values are drawn one a thread, and so alike on every GPU.
    #[must_use]
    pub fn capacity(self) -> u64 {
        philox::stride(u64::MAX, self)
    }
}

impl Noise {
    /// `count` normal values: `torch.randn(count, generator=torch.Generator(kind).manual_seed(seed))`.
    #[must_use]
    pub fn normals(self, seed: u64, count: usize) -> Vec<f32> {
        match self {
            // torch keeps the low half of the seed.
            Self::Cpu => normal::fill(&mut Mersenne::new(low(seed)), count),
            Self::Cuda(multiprocessors) => philox::normals(seed, 0, count, multiprocessors),
            Self::CudaSecond(multiprocessors) => philox::normals(
                seed,
                philox::offset_after(count as u64, multiprocessors),
                count,
                multiprocessors,
            ),
        }
    }

    /// The same with `dtype=torch.bfloat16`, as torch 2.15 draws it: the values of [`normals`](Self::normals), rounded. They
    /// differ only on the CPU, in the last 16, where `count` is above 16 and no multiple of it.
    #[must_use]
    pub fn normals_bf16(self, seed: u64, count: usize) -> Vec<bf16> {
        let values = match self {
            Self::Cpu => normal::fill_blockwise(&mut Mersenne::new(low(seed)), count),
            Self::Cuda(_) | Self::CudaSecond(_) => self.normals(seed, count),
        };
        values.into_iter().map(bf16::from_f32).collect()
    }
}

/// The low half of a word.
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low(word: u64) -> u32 {
    word as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_draw_begins_where_the_first_one_ended() {
        // Listed for seed 42 at offset 4, with four decimals.
        let second = Noise::CudaSecond(Multiprocessors::H100).normals(42, 230_400);
        for (got, expected) in second.iter().zip([0.1391, -0.1082, -0.7174, 0.7566]) {
            assert!((got - expected).abs() <= 5.1e-5, "{got} {expected}");
        }
        let first = Noise::Cuda(Multiprocessors::H100).normals(42, 230_400);
        assert_ne!(first[..8], second[..8]);
    }
}
