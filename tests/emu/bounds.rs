//! What the bounds of the numeric tests refuse: results as kernels with one mistake each would leave them. A bound that refuses none of them would prove nothing.

use lighterage_kernels::launch::Arch;
use lighterage_testkit::Rng;

use crate::attention::assert_near as assert_attention;
use crate::attention::case::{Case, IDLE, Inputs, Tensors, case};
use crate::numerics::{
    assert_near_units, assert_rounded_once, moments, normals, round, round_exact, rounded,
};
use crate::product::{self, Exact, Finish};

/// Whether a bound says no.
pub(crate) fn refuses(check: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    std::panic::catch_unwind(check).is_err()
}

/// What a norm's kernel can do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slip {
    None,
    /// Sums carried along in bf16.
    NarrowSums,
    /// The variance as `E[x^2] - E[x]^2`.
    OnePass,
    /// 1e-5 where 1e-6 is said.
    Eps,
    /// Divided by n - 1.
    Unbiased,
    /// Rounded before the factor too.
    RoundedTwice,
    /// Cut off instead of rounded.
    Truncated,
}

const EPS: f32 = 1e-6;

/// `(x - mean) / sqrt(var + eps) * factor` in fp32 with that slip, stored as bf16.
fn normed(x: &[f32], factor: &[f32], slip: Slip) -> Vec<f32> {
    let keep = |sum: f32| if slip == Slip::NarrowSums { round(sum) } else { sum };
    let sum = |term: &dyn Fn(f32) -> f32| x.iter().fold(0.0_f32, |sum, x| keep(sum + term(*x)));
    let count = x.len() as f32;
    let mean = sum(&|x| x) / count;
    let divisor = if slip == Slip::Unbiased { count - 1.0 } else { count };
    let variance = match slip {
        Slip::OnePass => sum(&|x| x * x) / count - mean * mean,
        _ => sum(&|x| (x - mean) * (x - mean)) / divisor,
    };
    let inverse = (variance + if slip == Slip::Eps { 1e-5 } else { EPS }).sqrt().recip();
    let scaled = x.iter().zip(factor).map(|(x, factor)| {
        let normed = (x - mean) * inverse;
        if slip == Slip::RoundedTwice { round(normed) * factor } else { normed * factor }
    });
    scaled.map(|y| if slip == Slip::Truncated { truncated(y) } else { round(y) }).collect()
}

/// Cut off to bf16.
fn truncated(value: f32) -> f32 {
    f32::from_bits(value.to_bits() >> 16 << 16)
}

/// Which of both rules for norms, the relative error's and the single element's, refuses that slip for a row around `mean`.
fn refusals(slip: Slip, columns: usize, mean: f32, deviation: f32) -> [bool; 2] {
    let mut rng = Rng::from_env(61);
    let x: Vec<f32> = rng.normals(columns, deviation).iter().map(|x| round(mean + x)).collect();
    let factor = normals(&mut rng, columns, 1.0);
    let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let (center, inverse) = moments(&wide, f64::from(EPS));
    let of = |(x, factor): (&f64, &f32)| (x - center) * inverse * f64::from(*factor);
    let exact: Vec<f64> = wide.iter().zip(&factor).map(of).collect();
    let slack = |(x, factor): (&f64, &f32)| {
        (x.abs() + center.abs()) * inverse * f64::from(factor.abs()) * 2.0_f64.powi(-20)
    };
    let slack: Vec<f64> = wide.iter().zip(&factor).map(slack).collect();
    let got = normed(&x, &factor, slip);
    [
        refuses(|| assert_rounded_once(2.0e-3, &got, &exact)),
        refuses(|| assert_near_units(&got, &exact, &slack)),
    ]
}

#[test]
fn norms_with_a_slip_are_refused() {
    for (columns, mean, deviation) in
        [(1, 0.0, 1.0), (2, 3.0, 1.0), (256, 0.0, 1.0), (3072, 40.0, 1.0), (768, 0.0, 1e-3)]
    {
        assert_eq!(refusals(Slip::None, columns, mean, deviation), [false; 2], "{columns} around {mean}");
    }
    assert_eq!(refusals(Slip::NarrowSums, 256, 0.0, 1.0), [true; 2]);
    assert_eq!(refusals(Slip::NarrowSums, 3072, 0.0, 1.0), [true; 2]);
    assert_eq!(refusals(Slip::OnePass, 3072, 400.0, 1.0), [true; 2]);
    // Only a row whose variance is near eps shows eps.
    assert_eq!(refusals(Slip::Eps, 768, 0.0, 1e-3), [true; 2]);
    assert_eq!(refusals(Slip::Eps, 768, 0.0, 1.0), [false; 2]);
    assert_eq!(refusals(Slip::Unbiased, 256, 0.0, 1.0), [true, false]);
    assert_eq!(refusals(Slip::Unbiased, 31, 0.0, 1.0), [true; 2]);
    assert_eq!(refusals(Slip::RoundedTwice, 3072, 0.0, 1.0), [true; 2]);
    // Within a unit everywhere: what the relative error is for.
    assert_eq!(refusals(Slip::Truncated, 3072, 0.0, 1.0), [true, false]);
}

/// Few numbers may be rounded farther than many: so far as they are, and not farther.
#[test]
fn few_numbers_are_granted_their_own_rounding() {
    // Just above a power of two, and half a unit off: as far as a rounding goes.
    let exact = [1.0 + 1.0 / 256.0 + 1e-9];
    assert!(!refuses(|| assert_rounded_once(2.0e-3, &[1.0 + 1.0 / 128.0], &exact)));
    assert!(refuses(|| assert_rounded_once(2.0e-3, &[1.0 + 2.0 / 128.0], &exact)));
    assert!(refuses(|| assert_rounded_once(2.0e-3, &[f32::NAN], &exact)));
}

/// What attention's kernels leave, computed on the host with f64 weights that `change` may touch, key by key.
fn attended(tensors: &Tensors, case: &Case, change: impl Fn(usize, f64) -> f64) -> Vec<f32> {
    let mut all = Vec::new();
    for query in 0..case.queries {
        for head in 0..case.heads {
            let q = tensors.head(case, 0, query, head);
            let dot = |k: &[f32]| q.iter().zip(k).map(|(q, k)| f64::from(q * k)).sum::<f64>();
            let scores: Vec<f64> = (0..case.keys)
                .map(|key| dot(tensors.head(case, 1, key, head)) * f64::from(case.factor()))
                .collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> =
                scores.iter().enumerate().map(|(key, score)| change(key, (score - largest).exp())).collect();
            let sum: f64 = weights.iter().sum();
            all.extend((0..case.head_dim).map(|d| {
                let terms = weights
                    .iter()
                    .enumerate()
                    .map(|(key, w)| round_exact(*w) * f64::from(tensors.head(case, 2, key, head)[d]));
                rounded(terms.sum::<f64>() / sum)
            }));
        }
    }
    all
}

const SMALL: Case = case([257, 129], 1, 32, Arch::Sm80, IDLE);

#[test]
fn attention_with_a_slip_is_refused() {
    let tensors = Tensors::of(&SMALL);
    let right = attended(&tensors, &SMALL, |_, weight| weight);
    let accepts = |got: &[f32]| !refuses(|| assert_attention(&tensors, &SMALL, got, 1));
    assert!(accepts(&right), "what a kernel leaves that does all as it should");
    let last = SMALL.keys - 1;
    let without_the_last = attended(&tensors, &SMALL, |key, weight| if key == last { 0.0 } else { weight });
    assert!(!accepts(&without_the_last), "the last key is left out");
    let twice = attended(&tensors, &SMALL, |key, weight| if key == last { 2.0 * weight } else { weight });
    assert!(!accepts(&twice), "the last key counts twice");
    // The sum of the weights as a kernel has it that rounds it: a bf16 sum of n numbers is off by far more than one rounding.
    let half_a_percent: Vec<f32> = right.iter().map(|value| round(value * 1.005)).collect();
    assert!(!accepts(&half_a_percent), "the sum of the weights is half a percent off");
    let mut poisoned = right.clone();
    poisoned[5000] = f32::NAN;
    assert!(!accepts(&poisoned), "one element was never written");
}

/// An error in 16 rows vanishes in the whole, one in a single element vanishes in 16 rows: what each of the rules is for.
#[test]
fn each_rule_for_attention_sees_what_the_others_do_not() {
    let strip = |got: &mut [f32]| {
        for value in &mut got[128 * SMALL.head_dim..144 * SMALL.head_dim] {
            *value = round(*value * (1.0 + 1.0 / 128.0));
        }
    };
    let tensors = Tensors::of(&SMALL);
    let mut got = attended(&tensors, &SMALL, |_, weight| weight);
    strip(&mut got);
    let said = message(|| assert_attention(&tensors, &SMALL, &got, 1));
    assert!(said.contains("rows from 128"), "{said}");
    let peaky = Case { inputs: Inputs::Normal(4.0), head_dim: 128, ..SMALL };
    let tensors = Tensors::of(&peaky);
    let mut got = attended(&tensors, &peaky, |_, weight| weight);
    assert_attention(&tensors, &peaky, &got, 1);
    // The largest value is below 8, so four units are 1 / 8 at most.
    got[5000] += 0.15;
    let said = message(|| assert_attention(&tensors, &peaky, &got, 1));
    assert!(said.contains("units"), "{said}");
}

/// What a bound says that says no.
fn message(check: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let refusal = std::panic::catch_unwind(check).expect_err("a refusal");
    refusal.downcast::<String>().map_or_else(|_| String::new(), |text| *text)
}

#[test]
fn products_with_a_slip_are_refused() {
    // Sums of 3072 terms: the bound on one element is wider than a rounding there, and the relative errors decide.
    const INNER: usize = 3072;
    let [rows, columns] = [320, 48];
    let sums = Rng::from_env(62).normals(rows * columns, 20.0);
    let exact = |sum: &f32| Finish::default().of(f64::from(*sum), 0.64 * INNER as f64, INNER);
    let expected: Vec<Exact> = sums.iter().map(exact).collect();
    let right: Vec<f32> = sums.iter().map(|sum| round(*sum)).collect();
    let check = |got: &[f32]| product::assert_near("planted", got, &expected, columns);
    check(&right);
    let cut_off: Vec<f32> = sums.iter().map(|sum| truncated(*sum)).collect();
    let said = message(|| check(&cut_off));
    assert!(said.contains("in strip 0 of"), "{said}");
    let mut one_strip = right.clone();
    for value in &mut one_strip[16 * columns..32 * columns] {
        *value = round(*value * (1.0 + 1.0 / 320.0));
    }
    let said = message(|| check(&one_strip));
    assert!(said.contains("in strip 1 of 16 rows"), "{said}");
    let mut one_element = right;
    one_element[777] += 4.0;
    let said = message(|| check(&one_element));
    assert!(said.contains("element 16, 9"), "{said}");
}

/// GELU of -10.25 is -2e-40: its kernel divides by what fp32 does not hold, and stores 0. The bundled model has such a sum in its last step.
#[test]
fn an_activation_beyond_the_end_of_fp32_may_be_nothing_and_no_more() {
    for (activation, sum) in [(1, -10.25), (3, -52.0), (4, -88.0)] {
        let exact = Finish { activation, ..Finish::default() }.of(sum, sum.abs(), 1);
        assert!(exact.value < 0.0 && -exact.value <= exact.bound, "activation {activation} of {sum}");
        assert!(exact.bound < 2.0_f64.powi(-119), "activation {activation} of {sum}");
    }
}
