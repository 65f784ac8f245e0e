//! Philox 4x32-10 (Salmon et al. 2011) in the layout of torch's CUDA `randn`.
//!
//! Every thread has a counter of its own, so a value depends on seed, thread and draw alone. Threads are 256 a block,
//! as many blocks as the GPU holds at once; thread `t` writes the four values of its draw `d` to `t + stride * (4 d + c)`. Up to
//! `stride` values each thread writes one, its first, and every GPU agrees; beyond that the number of
//! multiprocessors decides who writes what.

use super::{Multiprocessors, low};

const BLOCK_THREADS: u64 = 256;

/// How many values the generator `seed` at `offset` (a multiple of 4, zero after seeding) draws, in the order of elements.
pub(super) fn normals(seed: u64, offset: u64, count: usize, multiprocessors: Multiprocessors) -> Vec<f32> {
    let stride = stride(count as u64, multiprocessors);
    (0..count as u64)
        .map(|element| {
            let (thread, turn) = (element % stride, element / stride);
            let (draw, component) = (turn / 4, turn % 4);
            component_of(&block(seed, offset / 4 + draw, thread), component)
        })
        .collect()
}

/// Where a generator stands that has drawn `count` values once: every thread is counted as if it had drawn as often as the first.
pub(super) fn offset_after(count: u64, multiprocessors: Multiprocessors) -> u64 {
    (count.saturating_sub(1) / (4 * stride(count, multiprocessors)) + 1) * 4
}

/// Threads that torch starts for `count` values.
pub(super) fn stride(count: u64, multiprocessors: Multiprocessors) -> u64 {
    let held = u64::from(multiprocessors.count) * (u64::from(multiprocessors.threads) / BLOCK_THREADS);
    BLOCK_THREADS * count.div_ceil(BLOCK_THREADS).min(held).max(1)
}

/// The four words of one counter.
fn block(seed: u64, draw: u64, thread: u64) -> [u32; 4] {
    let mut counter = [low(draw), low(draw >> 32), low(thread), low(thread >> 32)];
    let mut key = [low(seed), low(seed >> 32)];
    for _ in 0..10 {
        counter = round(counter, key);
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

fn round(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let first = 0xd251_1f53 * u64::from(counter[0]);
    let second = 0xcd9e_8d57 * u64::from(counter[2]);
    [low(second >> 32) ^ counter[1] ^ key[0], low(second), low(first >> 32) ^ counter[3] ^ key[1], low(first)]
}

/// One of the four normal values of a block: each pair of words is a radius and an angle, the sine comes first.
#[expect(clippy::cast_precision_loss, reason = "32 bits are rounded to f32 on purpose")]
fn component_of(words: &[u32; 4], component: u64) -> f32 {
    const UNIT: f32 = 2.328_306_4e-10;
    const TURN: f32 = UNIT * 6.283_185_5;
    let (a, b) = if component < 2 { (words[0], words[1]) } else { (words[2], words[3]) };
    let radius = (-2.0 * (a as f32).mul_add(UNIT, UNIT / 2.0).ln()).sqrt();
    let angle = (b as f32).mul_add(TURN, TURN / 2.0);
    radius * if component.is_multiple_of(2) { angle.sin() } else { angle.cos() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seed: u64, offset: u64, expected: &[f32]) {
        let got = normals(seed, offset, 900 * 256, Multiprocessors::H100);
        for (got, expected) in got.iter().zip(expected) {
            // The listed values have four decimals.
            assert!(
                (got - expected).abs() <= 5.1e-5,
                "seed {seed}, offset {offset}: {got}, expected {expected}"
            );
        }
    }

    #[test]
    fn values_of_torch_on_a_gpu() {
        check(0, 0, &[-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284]);
        check(1, 0, &[-0.2963, 2.6764, -0.1408, -0.8441, 0.2905, -0.2838, -1.4535, 2.3737]);
        check(42, 0, &[0.1940, 2.1614, -0.1721, 0.8491, -1.9244, 0.6530, -0.6494, -0.8175]);
    }

    #[test]
    fn second_draw_of_a_generator() {
        check(0, 4, &[0.1808, -0.5523, 0.9238, -0.7350]);
        check(42, 4, &[0.1391, -0.1082, -0.7174, 0.7566]);
    }

    #[test]
    fn known_answer_of_ten_rounds() {
        // Random123's kat_vectors: philox4x32-10 of an all-zero counter and key, and of all ones.
        assert_eq!(block(0, 0, 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(block(u64::MAX, u64::MAX, u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn layout_depends_on_the_gpu_only_beyond_its_threads() {
        let small = Multiprocessors { count: 2, threads: 1024 };
        let stride = usize::try_from(small.capacity()).unwrap();
        assert_eq!(stride, 2048);
        let (ours, theirs) = (normals(7, 0, stride, small), normals(7, 0, stride, Multiprocessors::H100));
        assert_eq!(ours, theirs);
        let (ours, theirs) =
            (normals(7, 0, stride + 1, small), normals(7, 0, stride + 1, Multiprocessors::H100));
        assert_eq!(ours[..stride], theirs[..stride]);
        assert_ne!(ours[stride], theirs[stride]);
        // The value after the last thread's is the first thread's second one: the cosine of its first pair.
        assert_eq!(ours[stride], component_of(&block(7, 0, 0), 1));
    }
}
