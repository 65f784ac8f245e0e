//! The table of budgets: what fits, what is streamed, how long a step takes.

mod arguments;
mod measured;
mod outlook;
mod simulated;
mod svg;

use std::io::Write;
use std::path::Path;

use lighterage_device::{ProductTable, Profile, Rates};
use lighterage_pipeline::{BuiltIn, BuiltInOptions, Extras, Face, InfiniteYou, Job, Model, Options, Survey};
use lighterage_shape::DType;

pub(crate) use self::arguments::{Arguments, BUDGETS_GIB, Sides};
use self::outlook::Outlook;
use crate::failure::{Failure, Result};
use crate::size::Size;
use crate::table::{self, Align};
use crate::{inputs, json, mapping, output};

/// Pages of the cards that are planned for.
const PAGE_BYTES: u64 = 2 << 20;
/// Numbers of a face's embedding.
const EMBEDDING: usize = 512;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(path) = &arguments.svg {
        output::check(path)?;
    }
    let profiles = arguments.profiles()?;
    let mut outputs: Vec<(&str, &Path)> =
        arguments.svg.iter().map(|path| ("--svg", path.as_path())).collect();
    arguments.seeing.check(&outputs)?;
    outputs.extend(arguments.seeing.outputs());
    inputs::check(&outputs, &arguments.inputs())?;
    if arguments.seeing.is_asked() {
        arguments.scene().built_in()?;
    }
    let cards = profiles.iter().map(|profile| Card::new(arguments, profile)).collect::<Result<Vec<_>>>()?;
    let (cards, outlooks): (Vec<Card<'_>>, Vec<Outlook>) = cards.into_iter().unzip();
    if let Some(path) = &arguments.svg {
        output::write(path, |file| file.write_all(svg::plot(&outlooks).as_bytes()))?;
    }
    if arguments.seeing.is_asked() {
        simulated::run(arguments, &cards, &outlooks)?;
    }
    match (&outlooks[..], arguments.json) {
        ([outlook], true) => json::print(outlook),
        (outlooks, true) => json::print(&outlooks),
        (outlooks, false) => {
            profiles.iter().zip(outlooks).try_for_each(|(profile, outlook)| show(outlook, profile))
        }
    }
}

/// Answers for these budgets as the command does, without showing it: for who times it.
pub(crate) fn answer(model: &str, size: Sides, profile: &Profile, budgets: &[u64]) -> Result<()> {
    let scene = Scene { model, infinite_you: None, lora: &[], size, steps: 50 };
    let survey = scene.survey(Some(profile.rates))?.beside(profile.taken_bytes());
    std::hint::black_box(Outlook::new(&survey, profile, budgets, scene.steps));
    Ok(())
}

/// A card that is planned for.
#[derive(Debug)]
struct Card<'a> {
    profile: &'a Profile,
    /// What the driver takes of it.
    taken_bytes: u64,
    survey: Survey,
}

impl<'a> Card<'a> {
    fn new(arguments: &Arguments, profile: &'a Profile) -> Result<(Self, Outlook)> {
        let taken_bytes = taken_bytes(arguments, profile);
        let survey = arguments.scene().survey(Some(profile.rates))?.beside(taken_bytes);
        let outlook = Outlook::new(&survey, profile, &arguments.budgets(), arguments.steps);
        let is_drawn = arguments.svg.is_some() || arguments.seeing.report.is_some();
        let outlook = if is_drawn { outlook.with_curve(&survey) } else { outlook };
        Ok((Self { profile, taken_bytes, survey }, outlook))
    }
}

/// What the driver takes on such a card, with the workspace of a library if the table names one there.
fn taken_bytes(arguments: &Arguments, profile: &Profile) -> u64 {
    let table = arguments.gemm_table.as_ref().map_or_else(ProductTable::committed, |given| given.table);
    let workspace = table.library_for(profile.arch).map_or(0, |library| library.workspace_bytes);
    profile.taken_bytes() + workspace.next_multiple_of(PAGE_BYTES)
}

/// A model and a picture of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene<'a> {
    /// A built-in model or a folder.
    pub(crate) model: &'a str,
    /// An InfiniteYou to go with a folder.
    pub(crate) infinite_you: Option<&'a Path>,
    /// Low-rank changes to a folder's transformer.
    pub(crate) lora: &'a [String],
    pub(crate) size: Sides,
    pub(crate) steps: usize,
}

impl Scene<'_> {
    /// The model as it can be run on a simulated card.
    fn built_in(&self) -> Result<BuiltIn> {
        let Sides([width, height]) = self.size;
        let with_infusenet = match self.model {
            "flux-dev" => false,
            "flux-dev+infinite-you" => true,
            folder => {
                return Err(Failure::Usage(format!(
                    "{folder}: --trace and --report of a plan are for built-in models; `generate` has them for files"
                )));
            }
        };
        Ok(BuiltIn::new(BuiltInOptions {
            width,
            height,
            steps: self.steps,
            with_infusenet,
            ..BuiltInOptions::default()
        })?)
    }

    /// What it needs in bf16 on a card.
    pub(crate) fn survey(self, rates: Option<Rates>) -> Result<Survey> {
        let Self { model, infinite_you, lora, size: Sides([width, height]), steps } = self;
        let options = |with_infusenet| BuiltInOptions {
            width,
            height,
            steps,
            with_infusenet,
            ..BuiltInOptions::default()
        };
        let is_folder = Path::new(model).is_dir();
        if !is_folder && (infinite_you.is_some() || !lora.is_empty()) {
            let text = "--infinite-you DIR and --lora FILE go with a folder; a built-in model has no files";
            return Err(Failure::Usage(text.to_owned()));
        }
        match model {
            "flux-dev" => Ok(BuiltIn::new(options(false))?.survey(PAGE_BYTES, rates)?),
            "flux-dev+infinite-you" => Ok(BuiltIn::new(options(true))?.survey(PAGE_BYTES, rates)?),
            folder if is_folder => {
                let model = Model::open(folder.as_ref(), mapping::promise())?;
                let infinite_you =
                    infinite_you.map(|path| InfiniteYou::open(path, mapping::promise())).transpose()?;
                let adapters = super::generate::adapters(lora)?;
                let defaults = infinite_you
                    .as_ref()
                    .map_or_else(|| model.options(""), |found| found.options(&model, ""));
                // Whose face it is changes no size.
                let face = infinite_you.as_ref().map(|_| Face::new(vec![0.0; EMBEDDING]));
                let options = Options { width, height, steps, dtype: DType::Bf16, face, ..defaults };
                let adapters = (!adapters.is_empty()).then_some(&adapters);
                let extras = Extras { infinite_you: infinite_you.as_ref(), adapters };
                Ok(Job::with(&model, extras, options)?.survey_at(PAGE_BYTES, rates)?)
            }
            other => Err(Failure::Usage(format!(
                "{other:?} is neither a folder nor a built-in model: flux-dev, flux-dev+infinite-you"
            ))),
        }
    }
}

fn show(outlook: &Outlook, profile: &Profile) -> Result<()> {
    let out = &mut output::stdout();
    writeln!(out, "{} at {} GB/s: {}", profile.name, profile.rates.link_bytes / 1e9, profile.source)?;
    let mut rows = vec![outlook::HEAD.map(str::to_owned).to_vec()];
    rows.extend(outlook.rows.iter().map(outlook::Row::cells));
    table::print(out, &[Align::Right; 12], &rows)?;
    for row in outlook.rows.iter().filter(|row| row.refused.is_some()) {
        writeln!(out, "{}: {}", Size(row.budget_bytes), row.refused.as_deref().unwrap_or_default())?;
    }
    writeln!(
        out,
        "smallest budget {} ({} bytes), knee {}: from there on a step is within 2 % of the fastest, everything resident from {}",
        Size(outlook.minimum_bytes),
        outlook.minimum_bytes,
        Size(outlook.knee_bytes),
        Size(outlook.maximum_bytes),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_size_has_its_knee_and_says_why_a_budget_fails() {
        let profile = Profile::named("rtx4090").unwrap();
        let options = BuiltInOptions { with_infusenet: true, ..BuiltInOptions::default() };
        let survey = BuiltIn::new(options).unwrap().survey(PAGE_BYTES, Some(profile.rates)).unwrap();
        let outlook = Outlook::new(&survey, &profile, &[512 << 20, 8 << 30, 64 << 30], 50);
        let [small, middle, large] = &outlook.rows[..] else { panic!("three budgets") };
        assert!(small.refused.as_ref().unwrap().contains("bytes too small: the "), "{small:?}");
        assert!(middle.streamed_bytes_per_step > 0 && large.streamed_bytes_per_step == 0);
        // Both hide their copies: the same but for the order in which times are added.
        assert!(middle.seconds_per_step >= large.seconds_per_step * (1.0 - 1e-12));
        assert!((outlook.minimum_bytes..=outlook.maximum_bytes).contains(&outlook.knee_bytes));
        assert!(outlook.curve.is_empty(), "nobody asked for a plot");
        check_curve(outlook.with_curve(&survey));
    }

    /// From the smallest budget on, by budget, above its bound, through the knee, and flat where everything is resident.
    fn check_curve(outlook: Outlook) {
        let curve = &outlook.curve;
        assert!(curve.first().is_some_and(|point| point.budget_bytes == outlook.minimum_bytes), "{curve:?}");
        assert!(curve.is_sorted_by(|a, b| a.budget_bytes < b.budget_bytes));
        let is_bound =
            |point: &outlook::Point| point.bound_seconds_per_step <= point.seconds_per_step * (1.0 + 1e-12);
        assert!(curve.iter().all(is_bound), "{curve:?}");
        let (first, last) = (curve[0].seconds_per_step, curve[curve.len() - 1].seconds_per_step);
        let knee = curve.iter().find(|point| point.budget_bytes == outlook.knee_bytes).unwrap();
        assert!(knee.seconds_per_step <= 1.02 * last && first > 1.02 * last, "{first} {knee:?} {last}");
        let plot = svg::plot(&[outlook]);
        assert!(plot.starts_with("<svg") && plot.ends_with("</svg>\n") && !plot.contains("NaN"), "{plot}");
        for part in
            ["b-curve b-0", "b-bound b-0", "knee of rtx4090", "prefers-color-scheme:dark", "8.00 GiB: 0.7"]
        {
            assert!(plot.contains(part), "no {part}: {plot}");
        }
    }
}
