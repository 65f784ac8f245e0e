//! How long `plan` takes to answer, after its start-up: models from names and shapes, the survey on `Sim`, the smallest budget, the knee, and a plan of every phase for
//! each budget.

use std::io::Write;
use std::time::Instant;

use lighterage_device::Profile;
use serde::Serialize;

use crate::commands::bench::timing::median;
use crate::commands::plan::{self, Sides};
use crate::failure::{Failure, Result};
use crate::table::{self, Align};

/// One question.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    gpu: String,
    model: &'static str,
    size: String,
    budgets: usize,
    /// Median, one thread.
    seconds: f64,
}

const MODELS: [&str; 2] = ["flux-dev", "flux-dev+infinite-you"];
const SIZES: [Sides; 3] = [Sides([1280, 720]), Sides([1024, 1024]), Sides([2048, 2048])];

pub(super) fn measure(gpus: &[String], rounds: usize) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for gpu in gpus {
        let profile =
            Profile::named(gpu).ok_or_else(|| Failure::Usage(format!("{gpu:?} is no built-in card")))?;
        for (model, size) in MODELS.iter().flat_map(|model| SIZES.map(|size| (*model, size))) {
            for budgets in [&plan::BUDGETS_GIB[3..4], &plan::BUDGETS_GIB] {
                let seconds = (0..rounds).map(|_| seconds(model, size, &profile, budgets));
                answers.push(Answer {
                    gpu: gpu.clone(),
                    model,
                    size: size.to_string(),
                    budgets: budgets.len(),
                    seconds: median(seconds.collect::<Result<_>>()?),
                });
            }
        }
    }
    Ok(answers)
}

fn seconds(model: &str, size: Sides, profile: &Profile, budgets_gib: &[u64]) -> Result<f64> {
    let budgets: Vec<u64> = budgets_gib.iter().map(|gib| gib << 30).collect();
    let start = Instant::now();
    plan::answer(model, size, profile, &budgets)?;
    Ok(start.elapsed().as_secs_f64())
}

pub(super) fn print(out: &mut impl Write, answers: &[Answer]) -> Result<()> {
    super::title(out, "`plan` after its start-up, medians")?;
    let mut rows = vec![["gpu", "model", "size", "budgets", "ms"].map(str::to_owned).to_vec()];
    rows.extend(answers.iter().map(|answer| {
        let Answer { gpu, model, size, budgets, seconds } = answer;
        vec![
            gpu.clone(),
            (*model).to_owned(),
            size.clone(),
            budgets.to_string(),
            format!("{:.1}", 1e3 * seconds),
        ]
    }));
    let columns = [Align::Left, Align::Left, Align::Right, Align::Right, Align::Right];
    Ok(table::print(out, &columns, &rows)?)
}
