//! The attention kernels against fp64, by the rules of their numerics: relative Frobenius error, whole and by head and strips of 16 rows.
//!
//! Every case says how many multiprocessors its card has, since that decides how a call is cut into blocks.

mod activations;
pub(crate) mod case;
#[cfg(feature = "emu")]
mod op;
mod plain;
mod reference;
mod sm80;
mod sm90a;

use crate::runs::{self, Config, Mode, Report};
use case::{Case, Tensors};
use reference::{Error, exact};

/// Output rounding is 1.66e-3, rounding the probabilities brings it to 2.3e-3 for normal inputs.
const OVERALL: f64 = 3.0e-3;

/// A strip of few rows varies more; it shows mistakes at the edges of tiles that vanish in the whole.
const STRIP: f64 = 6.0e-3;

const STRIP_ROWS: usize = 16;

/// What any one element may be off, in units of its head's largest value.
const UNITS: f64 = 4.0;

/// Every run, on the emulator both modes, five orders, the race detector on: within the bounds, and the same bits each time.
fn check(case: Case) -> Option<Report> {
    if runs::lacks(case.target) {
        return None;
    }
    check_tensors(&Tensors::of(&case), case)
}

fn check_tensors(tensors: &Tensors, case: Case) -> Option<Report> {
    let (first, report) = tensors.computed(&case, Config { mode: Mode::Eager, ..Config::default() });
    assert_near(tensors, &case, &first, 1);
    for config in runs::all().skip(1) {
        assert_eq!(
            tensors.computed(&case, config).0,
            first,
            "{case:?}, {config:?}: the same bits in every run"
        );
    }
    report
}

/// One run without the race detector, for large shapes; every `step`-th strip is compared.
fn check_fast(case: Case, step: usize) -> Option<Report> {
    if runs::lacks(case.target) {
        return None;
    }
    let tensors = Tensors::of(&case);
    let (got, report) = tensors.computed(&case, Config { checks: false, ..Config::default() });
    assert_near(&tensors, &case, &got, step);
    report
}

pub(crate) fn assert_near(tensors: &Tensors, case: &Case, got: &[f32], step: usize) {
    let mut all = Error::default();
    for head in 0..case.heads {
        let values = (0..case.keys).flat_map(|key| tensors.head(case, 2, key, head));
        let largest = values.fold(0.0_f32, |most, value| most.max(value.abs()));
        for first in (0..case.queries).step_by(STRIP_ROWS * step) {
            let mut strip = Error::default();
            for query in first..(first + STRIP_ROWS).min(case.queries) {
                let row = &got[query * case.row() + head * case.head_dim..][..case.head_dim];
                let exact = exact(tensors, case, query, head);
                assert_units(row, &exact, largest, &format!("{case:?}: query {query}, head {head}"));
                strip.add(row, &exact);
                all.add(row, &exact);
            }
            let error = strip.relative();
            assert!(error <= STRIP, "{case:?}: relative error {error:.2e} in head {head}, rows from {first}");
        }
    }
    let error = all.relative();
    assert!(error <= OVERALL, "{case:?}: relative error {error:.2e}");
}

/// Every element within four units in the last place of the largest value of its head: an output is a mean of values.
fn assert_units(got: &[f32], exact: &[f64], largest: f32, name: &str) {
    let unit = (f64::from(largest).log2().floor() - 7.0).exp2();
    for (index, (got, exact)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(*got) - exact).abs() / unit;
        assert!(error <= UNITS, "{name}: element {index} is {got}, exactly {exact}: {error:.2} units");
    }
}

/// Each query's output is its own key's value, bit for bit.
fn assert_picks_values(case: &Case) {
    if runs::lacks(case.target) {
        return;
    }
    let tensors = Tensors::of(case);
    let (got, _) = tensors.computed(case, Config::default());
    for (query, row) in got.chunks(case.row()).enumerate() {
        for head in 0..case.heads {
            let value = tensors.head(case, 2, query, head);
            assert_eq!(
                &row[head * case.head_dim..][..case.head_dim],
                value,
                "{case:?}: query {query}, head {head}"
            );
        }
    }
}

/// The probabilities sum to one: where all values are 1.5, so is the output, but for the probabilities' rounding.
fn assert_keeps_constants(case: &Case) {
    if runs::lacks(case.target) {
        return;
    }
    let (got, _) = Tensors::of(case).computed(case, Config::default());
    // A sum of n probabilities, each off by up to 2^-9 of itself in either direction: below half of bf16's spacing at 1.5, which is 2^-7.
    assert!(got.iter().all(|value| (value - 1.5).abs() <= 1.0 / 128.0), "{case:?}");
    let moved = got.iter().filter(|value| **value != 1.5).count();
    assert!(moved * 100 <= got.len(), "{case:?}: {moved} of {} are not 1.5", got.len());
}

/// The order of the keys is nothing to the result, but for the rounding of sums.
fn assert_order_of_keys_is_nothing(case: &Case) {
    if runs::lacks(case.target) {
        return;
    }
    let tensors = Tensors::of(case);
    let (straight, _) = tensors.computed(case, Config::default());
    // The exact result is the same, so that both are within the bound of the same numbers, and of each other.
    let expected: Vec<f64> = straight.iter().map(|value| f64::from(*value)).collect();
    for (name, turned) in [("reversed", tensors.reversed(case)), ("permuted", tensors.permuted(case))] {
        assert_ne!(turned.qkv, tensors.qkv, "{name}: another order");
        let (got, _) = turned.computed(case, Config::default());
        assert_near(&tensors, case, &got, 1);
        let mut error = Error::default();
        error.add(&got, &expected);
        assert!(error.relative() <= OVERALL, "{case:?}, {name}: {:.2e} apart", error.relative());
    }
}

fn assert_images(case: &Case, images: &[&str]) {
    assert_eq!(Tensors::of(case).images(case), images, "{case:?}");
}
