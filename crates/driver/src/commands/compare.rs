use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use lighterage_checkpoint::{Checkpoint, Tensor};
use serde::Serialize;

use crate::count::{counted, one_or};
use crate::failure::{Failure, Result};
use crate::number::{Number, numbers};
use crate::table::{self, Align};
use crate::{json, mapping};

/// Compare two safetensors files, tensor by tensor.
///
/// Shows for each tensor the relative Frobenius error ||got - expected|| / ||expected||, the largest absolute difference and where it is.
/// NaN and infinities must be in the same places. Element types may differ: values are compared. Exit code 1 if a shape differs, a
/// tensor is in one file only, or an error is above the tolerance.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage compare out.safetensors expected.safetensors --tolerance 1e-5
  lighterage compare latents.safetensors tests/golden/demo/0.safetensors --pair latents=latents.bf16 --tolerance 0.05
  lighterage compare a.safetensors b.safetensors            (equal values, in every tensor)")]
pub(crate) struct Arguments {
    /// What was computed: a file, an index or a folder with one of them.
    got: PathBuf,
    /// What it should be.
    expected: PathBuf,
    /// Largest relative Frobenius error that passes; 0: equal values.
    #[arg(long, value_name = "ERROR", default_value_t = 0.0, allow_negative_numbers = true, value_parser = tolerance)]
    tolerance: f64,
    /// Compare only the tensors that both files have.
    #[arg(long, conflicts_with = "pair")]
    common: bool,
    /// Compare only this tensor of GOT with that one of EXPECTED; may be given several times.
    #[arg(long, value_name = "GOT[=EXPECTED]", value_parser = pair)]
    pair: Vec<Pair>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    got: String,
    expected: String,
}

fn pair(text: &str) -> Result<Pair, String> {
    let (got, expected) = text.split_once('=').unwrap_or((text, text));
    if got.is_empty() || expected.is_empty() {
        return Err("a tensor's name is missing".to_owned());
    }
    Ok(Pair { got: got.to_owned(), expected: expected.to_owned() })
}

/// Infinity too: then only the places of NaN and infinities count.
fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value >= 0.0_f64 => Ok(value),
        _ => Err("not a number that is 0 or more".to_owned()),
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let got = mapping::open(&arguments.got)?;
    let expected = mapping::open(&arguments.expected)?;
    let rows: Vec<Row> =
        pairs(arguments, &got, &expected)?.iter().map(|pair| row(pair, &got, &expected)).collect();
    if arguments.json {
        json::print(&rows)?;
    } else {
        print(&rows, arguments.tolerance)?;
    }
    let failed = rows.iter().filter(|row| !row.passes(arguments.tolerance)).count();
    if failed == 0 {
        return Ok(());
    }
    let (count, tolerance) = (rows.len(), arguments.tolerance);
    let (all, differ) = (counted(count, "tensor"), one_or(failed, "differs", "differ"));
    Err(Failure::Refused(format!("{failed} of {all} {differ} by more than {tolerance:e}")))
}

fn pairs(arguments: &Arguments, got: &Checkpoint, expected: &Checkpoint) -> Result<Vec<Pair>> {
    if !arguments.pair.is_empty() {
        for pair in &arguments.pair {
            got.tensor(&pair.got)?;
            expected.tensor(&pair.expected)?;
        }
        return Ok(arguments.pair.clone());
    }
    let names: BTreeSet<&str> = got.tensors().chain(expected.tensors()).map(Tensor::name).collect();
    let in_both = |name: &&str| got.get(name).is_some() && expected.get(name).is_some();
    let pairs: Vec<Pair> = names
        .into_iter()
        .filter(|name| !arguments.common || in_both(name))
        .map(|name| Pair { got: name.to_owned(), expected: name.to_owned() })
        .collect();
    if pairs.is_empty() {
        return Err(Failure::Refused("the files have no tensor in common".to_owned()));
    }
    Ok(pairs)
}

/// What is shown of one pair.
#[derive(Debug, Serialize)]
struct Row {
    tensor: String,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Outcome {
    Compared(Difference),
    OnlyGot,
    OnlyExpected,
    Shape {
        got: Vec<usize>,
        expected: Vec<usize>,
    },
    /// NaN or infinities are in different places; the first one.
    NotFinite {
        element: usize,
        got: f64,
        expected: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Difference {
    relative_frobenius: f64,
    max_abs: f64,
    /// Where the largest difference is, in C order.
    element: usize,
    /// NaN and infinities, in the same places of both.
    not_finite: usize,
}

impl Row {
    fn passes(&self, tolerance: f64) -> bool {
        matches!(self.outcome, Outcome::Compared(difference) if difference.relative_frobenius <= tolerance)
    }
}

fn row(pair: &Pair, got: &Checkpoint, expected: &Checkpoint) -> Row {
    let outcome = match (got.get(&pair.got), expected.get(&pair.expected)) {
        (Some(got), Some(expected)) => compare(got, expected),
        (Some(_), None) => Outcome::OnlyGot,
        _ => Outcome::OnlyExpected,
    };
    let tensor =
        if pair.got == pair.expected { pair.got.clone() } else { format!("{}={}", pair.got, pair.expected) };
    Row { tensor, outcome }
}

fn compare(got: &Tensor, expected: &Tensor) -> Outcome {
    if got.shape() != expected.shape() {
        return Outcome::Shape { got: got.shape().to_vec(), expected: expected.shape().to_vec() };
    }
    difference(numbers(got).zip(numbers(expected)))
}

fn difference(values: impl Iterator<Item = (Number, Number)>) -> Outcome {
    let (mut error, mut norm) = (0.0, 0.0);
    let mut found = Difference { relative_frobenius: 0.0, max_abs: 0.0, element: 0, not_finite: 0 };
    for (element, (got, expected)) in values.enumerate() {
        let (g, e) = (got.real(), expected.real());
        if !(g.is_finite() && e.is_finite()) {
            if g != e && !(g.is_nan() && e.is_nan()) {
                return Outcome::NotFinite { element, got: g, expected: e };
            }
            found.not_finite += 1;
            continue;
        }
        let distance = got.minus(expected).abs();
        error += distance * distance;
        norm += e * e;
        if distance > found.max_abs {
            (found.max_abs, found.element) = (distance, element);
        }
    }
    // Differences so small that their square is zero are differences still.
    found.relative_frobenius = match found.max_abs {
        0.0 => 0.0,
        max_abs if error == 0.0 || norm == 0.0 => max_abs / norm.sqrt(),
        _ => (error / norm).sqrt(),
    };
    Outcome::Compared(found)
}

fn print(rows: &[Row], tolerance: f64) -> Result<()> {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let verdict = if row.passes(tolerance) { "ok" } else { "DIFFERS" };
            vec![verdict.to_owned(), row.tensor.clone(), row.outcome.to_string()]
        })
        .collect();
    let mut out = crate::output::stdout();
    table::print(&mut out, &[Align::Left; 3], &cells)?;
    out.flush()?;
    Ok(())
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Compared(found) => {
                let Difference { relative_frobenius, max_abs, element, not_finite } = found;
                write!(f, "relative {relative_frobenius:.3e}, max {max_abs:.3e} at element {element}")?;
                if *not_finite > 0 { write!(f, ", {not_finite} NaN or infinite in both") } else { Ok(()) }
            }
            Self::OnlyGot => f.write_str("not in EXPECTED"),
            Self::OnlyExpected => f.write_str("not in GOT"),
            Self::Shape { got, expected } => write!(f, "shape {got:?}, expected {expected:?}"),
            Self::NotFinite { element, got, expected } => {
                write!(f, "{got} at element {element}, expected {expected}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(got: &[f64], expected: &[f64], outcome: &Outcome) {
        let values = got.iter().zip(expected).map(|(g, e)| (Number::Real(*g), Number::Real(*e)));
        assert_eq!(&difference(values), outcome);
    }

    fn compared(relative_frobenius: f64, max_abs: f64, element: usize, not_finite: usize) -> Outcome {
        Outcome::Compared(Difference { relative_frobenius, max_abs, element, not_finite })
    }

    #[test]
    fn errors_are_relative_to_the_norm() {
        check(&[3.0, 4.0], &[3.0, 4.0], &compared(0.0, 0.0, 0, 0));
        check(&[3.0, 5.0], &[3.0, 4.0], &compared(0.2, 1.0, 1, 0));
        check(&[1.0], &[0.0], &compared(f64::INFINITY, 1.0, 0, 0));
        check(&[0.0], &[0.0], &compared(0.0, 0.0, 0, 0));
    }

    #[test]
    fn tiny_differences_are_not_lost() {
        let Outcome::Compared(found) =
            difference(std::iter::once((Number::Real(1e-200), Number::Real(2e-200))))
        else {
            panic!("finite")
        };
        assert!(found.relative_frobenius > 0.0);
    }

    #[test]
    fn nan_and_infinities_must_be_in_the_same_places() {
        const NAN: f64 = f64::NAN;
        const INF: f64 = f64::INFINITY;
        check(&[NAN, INF, 1.0], &[NAN, INF, 1.0], &compared(0.0, 0.0, 0, 2));
        for (got, expected) in [(NAN, 1.0), (1.0, NAN), (INF, -INF), (INF, 1.0), (NAN, INF)] {
            let values =
                [(Number::Real(0.0), Number::Real(0.0)), (Number::Real(got), Number::Real(expected))];
            let outcome = difference(values.into_iter());
            assert!(
                matches!(outcome, Outcome::NotFinite { element: 1, .. }),
                "{got} {expected}: {outcome:?}"
            );
        }
    }
}
