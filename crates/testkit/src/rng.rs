/// A small seeded generator (`SplitMix64`, Steele et al. 2014): the same seed gives the same values on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts from a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From the environment variable `SEED` if it is set, else from `default`; prints it, so that a failing run can be repeated.
    ///
    /// # Panics
    /// If `SEED` is not a number.
    #[must_use]
    pub fn from_env(default: u64) -> Self {
        let seed = std::env::var("SEED").map_or(default, |text| text.parse().expect("SEED is a number"));
        #[expect(clippy::print_stderr, reason = "shown by the test harness when the test fails")]
        {
            eprintln!("SEED={seed}");
        }
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of the multiply-shift is below 2^-64 * bound: nothing a test would see.
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in [0, 1).
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normal with mean 0 and variance 1 (Box and Muller 1958).
    #[expect(clippy::cast_possible_truncation, reason = "rounded to f32 on purpose")]
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.unit()).cos()) as f32
    }

    /// `count` normal values times `scale`.
    pub fn normals(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.normal() * scale).collect()
    }
}

/// A number from the environment, for tests that can be made longer: `default` if the variable is not set.
///
/// # Panics
/// If it is set and no number.
#[must_use]
pub fn number_from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_have_unit_variance() {
        let values = Rng::new(1).normals(100_000, 1.0);
        let mean: f64 = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 1e5;
        let variance: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 1e5;
        // Five standard deviations of the estimates: 5 / sqrt(n) and 5 sqrt(2 / n).
        assert!(mean.abs() < 0.016 && (variance - 1.0).abs() < 0.023, "mean {mean}, variance {variance}");
    }

    #[test]
    fn below_stays_below() {
        let mut rng = Rng::new(2);
        assert!((0..1000).all(|_| rng.below(7) < 7));
    }
}
