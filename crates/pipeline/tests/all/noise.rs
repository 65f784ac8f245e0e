//! The CPU generator against torch's own values, bit for bit.

use half::bf16;
use lighterage_pipeline::Noise;
use lighterage_testkit::{Golden, folder};

/// `seedS.SHAPE.DTYPE`.
fn check(name: &str, shape: &[usize], expected: &[f32]) {
    let mut parts = name.split('.');
    let seed = parts.next().and_then(|part| part.strip_prefix("seed")?.parse().ok()).expect("seedS");
    let count = shape.iter().product();
    let got = match name.ends_with("bf16") {
        true => Noise::Cpu.normals_bf16(seed, count).into_iter().map(bf16::to_f32).collect(),
        false => Noise::Cpu.normals(seed, count),
    };
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&got), bits(expected), "{name}");
}

#[test]
fn every_golden_tensor_bit_for_bit() {
    let golden = Golden::open(&folder("randn").join("randn.safetensors"));
    assert_eq!(golden.names().count(), 36);
    golden.names().for_each(|name| check(name, golden.shape(name), golden.values(name)));
}

#[test]
#[expect(clippy::excessive_precision, reason = "as torch prints them")]
fn latents_of_a_720p_picture() {
    // torch 2.15 on x86: torch.randn(1, 16, 90, 160); the first values and the sum in f64.
    let cases: [(u64, [f32; 3], f64); 3] = [
        (0, [-1.125_839_83, -1.152_360_20, -0.250_578_58], -812.942_988_327_8),
        (1, [-1.525_595_90, -0.750_231_80, -0.653_980_91], 129.418_144_404_4),
        (42, [1.926_915_29, 1.487_284_06, 0.900_717_20], 72.167_353_522_7),
    ];
    for (seed, first, sum) in cases {
        let values = Noise::Cpu.normals(seed, 16 * 90 * 160);
        assert_eq!(values[..3], first, "seed {seed}");
        let total: f64 = values.iter().map(|value| f64::from(*value)).sum();
        // The sum is given to ten decimals; the order of f64 additions moves it by less.
        assert!((total - sum).abs() < 1e-9, "seed {seed}: {total}");
    }
}

#[test]
fn only_the_low_half_of_the_seed_counts() {
    assert_eq!(Noise::Cpu.normals((1 << 32) + 5, 64), Noise::Cpu.normals(5, 64));
    assert_ne!(Noise::Cpu.normals(6, 64), Noise::Cpu.normals(5, 64));
}
