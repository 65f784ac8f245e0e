use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lighterage_device::{Backend, Device};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arguments::draw_seed;
use super::models::Models;
use super::plans::Plans;
use super::request::Request;
use super::{Arguments, Shot};
use crate::count::counted;
use crate::device::Work;
use crate::failure::{Failure, Result};
use crate::report::Seeing;
use crate::{inputs, output};

/// Which lines of a file are this process's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    index: usize,
    count: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parts {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            _ => Err("not I/N with I from 0 to N - 1".to_owned()),
        }
    }
}

/// One picture of a file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Line {
    #[serde(default)]
    output: Option<PathBuf>,
    #[serde(default)]
    seed: Option<u64>,
    #[serde(flatten)]
    request: BTreeMap<String, Value>,
}

/// What became of a line.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Outcome {
    /// Its number, from 0.
    line: usize,
    /// The line itself, so that a changed one is made again.
    job: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Outcome {
    fn is_done(&self) -> bool {
        self.error.is_none() && self.output.as_ref().is_some_and(|path| path.is_file())
    }
}

pub(super) fn run(arguments: &Arguments, path: &Path) -> Result<()> {
    let shard = arguments.shard.unwrap_or(Shard { index: 0, count: 1 });
    let jobs = read(path)?;
    check_outputs(path, &jobs)?;
    let mine: Vec<(usize, Value)> =
        jobs.into_iter().enumerate().filter(|(line, _)| line % shard.count == shard.index).collect();
    let results = results_path(path, arguments.shard);
    let known = known(path, &results, shard)?;
    let has_face = arguments.request.has_face()
        || mine
            .iter()
            .any(|(_, job)| ["id_image", "id_embedding"].iter().any(|name| job.get(name).is_some()));
    if !arguments.is_dry() {
        output::check(&results)?;
    }
    let models = Models::open(arguments, has_face)?;
    arguments.device.run(Batch { arguments, models, jobs: mine, results, known, file: path })
}

/// One JSON object a line; empty lines are passed over but counted.
fn read(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::Refused(format!("{}: {error}", path.display())))?;
    let parse = |(index, line): (usize, &str)| -> Result<Value> {
        if line.trim().is_empty() {
            return Ok(Value::Null);
        }
        let value: Result<Value, _> = serde_json::from_str(line);
        match value {
            Ok(value @ Value::Object(_)) => Ok(value),
            Ok(_) => {
                Err(Failure::Refused(format!("{}: line {} is no JSON object", path.display(), index + 1)))
            }
            Err(error) => Err(Failure::Refused(format!("{}: line {}: {error}", path.display(), index + 1))),
        }
    };
    text.lines().enumerate().map(parse).collect()
}

/// Refuses lines that would write one file, before any work is done: of the whole file, since other shards write their pictures too.
fn check_outputs(path: &Path, jobs: &[Value]) -> Result<()> {
    let mut writers = BTreeMap::new();
    for (line, job) in jobs.iter().enumerate().filter(|(_, job)| !job.is_null()) {
        // What else a line may have under that name is its own error, when its turn comes.
        let given = job.get("output").and_then(Value::as_str).map(PathBuf::from);
        let output = output::place(&given.unwrap_or_else(|| default_output(path, line)));
        let refused =
            |what: &str| Failure::Refused(format!("{}: {what}: {}", path.display(), output.display()));
        if output == output::place(path) || is_results(path, &output) {
            return Err(refused(&format!("line {} would replace the jobs or their results", line + 1)));
        }
        if let Some(first) = writers.insert(output.clone(), line) {
            return Err(refused(&format!("lines {} and {} write the same file", first + 1, line + 1)));
        }
    }
    Ok(())
}

fn default_output(path: &Path, line: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{line}.png"))
}

/// Whether `other` is a list of results of the jobs in `path`, of any shard.
fn is_results(path: &Path, other: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = other.file_name().unwrap_or_default().to_string_lossy();
    let shard = name.strip_prefix(&format!("{stem}.results")).and_then(|rest| rest.strip_suffix(".jsonl"));
    let is_shard = |shard: &str| {
        let numbers = shard.strip_prefix('-').and_then(|rest| rest.split_once("-of-"));
        numbers
            .is_some_and(|(index, count)| [index, count].iter().all(|number| number.parse::<usize>().is_ok()))
    };
    shard.is_some_and(|shard| shard.is_empty() || is_shard(shard))
        && output::place(other).parent() == output::place(path).parent()
}

/// `NAME.results.jsonl`, or `NAME.results-I-of-N.jsonl`, beside the file.
fn results_path(path: &Path, shard: Option<Shard>) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(match shard {
        None => format!("{stem}.results.jsonl"),
        Some(Shard { index, count }) => format!("{stem}.results-{index}-of-{count}.jsonl"),
    })
}

/// What earlier runs left of this shard's lines, by line: its own list, and those of other shards where the file was divided otherwise before.
fn known(path: &Path, results: &Path, shard: Shard) -> Result<BTreeMap<usize, Outcome>> {
    let mut known = BTreeMap::new();
    let mut others: Vec<PathBuf> = std::fs::read_dir(output::folder_of(path))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|other| is_results(path, other) && other.file_name() != results.file_name())
        .collect();
    others.sort();
    for other in others {
        // Another shard's list only saves work: one that cannot be read saves none.
        known.extend(outcomes(&other, shard).unwrap_or_default());
    }
    known.extend(outcomes(results, shard)?);
    Ok(known)
}

/// Those of a list that are this shard's; nothing if there is no list.
fn outcomes(results: &Path, shard: Shard) -> Result<BTreeMap<usize, Outcome>> {
    let mut found = BTreeMap::new();
    if !results.exists() {
        return Ok(found);
    }
    for value in read(results)?.into_iter().filter(|value| !value.is_null()) {
        let outcome: Outcome = serde_json::from_value(value).map_err(|error| {
            Failure::Refused(format!("{}: not a list of results: {error}", results.display()))
        })?;
        if outcome.line % shard.count == shard.index {
            found.insert(outcome.line, outcome);
        }
    }
    Ok(found)
}

struct Batch<'a> {
    arguments: &'a Arguments,
    models: Models,
    jobs: Vec<(usize, Value)>,
    results: PathBuf,
    known: BTreeMap<usize, Outcome>,
    file: &'a Path,
}

impl Work for Batch<'_> {
    type Output = ();

    fn run<B: Backend>(mut self, device: &Device<B>) -> Result<()> {
        let (mut made, mut failed, mut skipped) = (0, 0, 0);
        let mut plans = Plans::default();
        for (line, job) in std::mem::take(&mut self.jobs) {
            if job.is_null() {
                continue;
            }
            if self.known.get(&line).is_some_and(|outcome| outcome.job == job && outcome.is_done()) {
                skipped += 1;
                continue;
            }
            let outcome = self.outcome(line, job, device, &mut plans)?;
            match &outcome.error {
                None => made += 1,
                Some(error) => {
                    failed += 1;
                    output::note(&format!("{}: line {}: {error}", self.file.display(), line + 1));
                }
            }
            if !self.arguments.is_dry() {
                self.known.insert(line, outcome);
                self.write()?;
            }
        }
        if skipped > 0 && !self.arguments.is_dry() {
            // Some may be known from another list only.
            self.write()?;
        }
        let verb = if self.arguments.is_dry() { "to be made" } else { "made" };
        output::note(&format!(
            "{made} {verb}, {skipped} done before, {failed} failed, by {}: {}",
            counted(plans.made, "plan"),
            self.results.display()
        ));
        if failed == 0 {
            return Ok(());
        }
        Err(Failure::Refused(format!("{} failed", counted(failed, "picture"))))
    }
}

impl Batch<'_> {
    /// An error is the line's own affair; only an interrupt ends the run.
    fn outcome<B: Backend>(
        &self,
        line: usize,
        job: Value,
        device: &Device<B>,
        plans: &mut Plans,
    ) -> Result<Outcome> {
        let plain =
            Outcome { line, job, output: None, seed: None, seconds: None, peak_bytes: None, error: None };
        match self.picture(&plain, device, plans) {
            Ok(outcome) => Ok(outcome),
            Err(interrupted @ Failure::Interrupted(_)) => Err(interrupted),
            Err(failure) => Ok(Outcome { error: Some(failure.to_string()), ..plain }),
        }
    }

    fn picture<B: Backend>(&self, plain: &Outcome, device: &Device<B>, plans: &mut Plans) -> Result<Outcome> {
        let Line { output, seed, request } = serde_json::from_value(plain.job.clone())?;
        let request: Request = serde_json::from_value(serde_json::to_value(request)?)?;
        request.warn();
        let request = request.or(&self.arguments.request);
        let path = output.unwrap_or_else(|| default_output(self.file, plain.line));
        output::check(&path)?;
        inputs::check(&[("output", &path)], &self.arguments.inputs(&request))?;
        let seed = seed.unwrap_or_else(draw_seed);
        let options = self.models.options(self.arguments, &request)?;
        let shot = Shot { arguments: self.arguments, models: &self.models, seeing: Seeing::default() };
        let job = self.models.job(lighterage_pipeline::Options { seed, ..options })?;
        let forecast = plans.of(&job, device, &self.arguments.device.place)?;
        if self.arguments.is_dry() {
            return Ok(Outcome { peak_bytes: Some(forecast.peak_bytes()), ..plain.clone() });
        }
        let record = shot.take(&job, device, forecast, &path, None)?;
        Ok(Outcome {
            output: Some(path),
            seed: Some(seed),
            seconds: Some(record.seconds),
            peak_bytes: Some(record.peak_bytes),
            ..plain.clone()
        })
    }

    /// Whole or not at all, after every picture.
    fn write(&self) -> Result<()> {
        output::write(&self.results, |file| {
            for outcome in self.known.values() {
                serde_json::to_writer(&mut *file, outcome)?;
                file.write_all(b"\n")?;
            }
            Ok(())
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_counted_from_zero() {
        assert_eq!("0/4".parse(), Ok(Shard { index: 0, count: 4 }));
        for text in ["4/4", "1", "1/0", "-1/2", "a/b", ""] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }

    #[test]
    fn results_of_any_shard_are_known() {
        for (name, expected) in [
            ("a/b.results.jsonl", true),
            ("a/b.results-0-of-16.jsonl", true),
            ("a/b.results-old.jsonl", false),
            ("a/bb.results.jsonl", false),
            ("c/b.results.jsonl", false),
            ("a/b.jsonl", false),
        ] {
            assert_eq!(is_results(Path::new("a/b.jsonl"), Path::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn results_lie_beside_the_file() {
        let path = Path::new("a/b.jsonl");
        assert_eq!(results_path(path, None), Path::new("a/b.results.jsonl"));
        assert_eq!(
            results_path(path, Some(Shard { index: 1, count: 3 })),
            Path::new("a/b.results-1-of-3.jsonl")
        );
    }
}
