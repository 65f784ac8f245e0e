use lighterage_device::{Device, Ledger, Profile, Purpose, Sim, SimConfig};
use lighterage_pipeline::{BuiltIn, Survey};

use super::Arguments;
use super::outlook::Outlook;
use crate::failure::Result;
use crate::output;
use crate::report::{self, Facts, Seen};
use crate::size::Size;

/// Runs the built-in model on the simulated card within one budget, and writes what was to be seen: the first of `--vram` that runs, else the knee.
pub(super) fn run(
    arguments: &Arguments,
    model: &BuiltIn,
    profile: &Profile,
    survey: &Survey,
    outlook: &Outlook,
    taken_bytes: u64,
) -> Result<()> {
    let given = outlook.rows.iter().find(|row| row.refused.is_none()).map(|row| row.budget_bytes);
    let budget = given.filter(|_| arguments.has_budgets()).unwrap_or(outlook.knee_bytes);
    let forecast = survey.within(budget)?;
    let device = Device::new(Sim::new(SimConfig::of(profile))?, Ledger::new(budget), Ledger::new(u64::MAX));
    let _taken = device.ledger().grant(Purpose::Context, taken_bytes)?;
    arguments.seeing.record(&device);
    model.run(&device, &forecast)?;
    let Some(seen) = Seen::take(&device, &forecast) else { return Ok(()) };
    report::line(&seen).iter().for_each(|line| output::note(line));
    let facts = Facts {
        title: format!("{} on a simulated {} within {}", arguments.model(), profile.name, Size(budget)),
        settings: vec![
            ("steps".to_owned(), arguments.steps.to_string()),
            ("link".to_owned(), format!("{} GB/s", profile.rates.link_bytes / 1e9)),
            ("source of the rates".to_owned(), profile.source.clone()),
        ],
        hashes: Vec::new(),
    };
    arguments.seeing.write(&device, &seen, &facts)
}
