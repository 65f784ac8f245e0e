use lighterage_device::{Device, Ledger, Purpose, Sim, SimConfig};

use super::outlook::{HEAD, Outlook, Row};
use super::{Arguments, Card, svg};
use crate::failure::Result;
use crate::output;
use crate::report::{self, Facts, Seen};
use crate::size::Size;

/// Runs the built-in model on each simulated card within one budget, and writes what was to be seen: the first of `--vram` that runs, else the knee. Of several
/// cards each has its files, numbered.
pub(super) fn run(arguments: &Arguments, cards: &[Card<'_>], outlooks: &[Outlook]) -> Result<()> {
    for (index, card) in cards.iter().enumerate() {
        of_card(arguments, card, index, outlooks)?;
    }
    Ok(())
}

fn of_card(arguments: &Arguments, card: &Card<'_>, index: usize, outlooks: &[Outlook]) -> Result<()> {
    let Card { profile, taken_bytes, survey } = card;
    let (seeing, outlook) = (arguments.seeing.numbered(index, outlooks.len()), &outlooks[index]);
    let given = outlook.rows.iter().find(|row| row.refused.is_none()).map(|row| row.budget_bytes);
    let budget = given.filter(|_| arguments.has_budgets()).unwrap_or(outlook.knee_bytes);
    let forecast = survey.within(budget)?;
    let device = Device::new(Sim::new(SimConfig::of(profile))?, Ledger::new(budget), Ledger::new(u64::MAX));
    let _taken = device.ledger().grant(Purpose::Context, *taken_bytes)?;
    seeing.record(&device);
    arguments.scene().built_in()?.run(&device, &forecast)?;
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
        budgets: Some(budgets(outlooks)),
    };
    seeing.write(&device, &seen, &facts)
}

/// The plot of all cards, and the table of each.
fn budgets(outlooks: &[Outlook]) -> String {
    let tables = outlooks.iter().map(|outlook| {
        let rows: Vec<_> = outlook.rows.iter().map(Row::cells).collect();
        report::table(&format!("Plans for {}", outlook.gpu), &HEAD, &rows, false)
    });
    format!("<figure class=\"scroll\">{}</figure>\n{}", svg::plot(outlooks), tables.collect::<String>())
}
