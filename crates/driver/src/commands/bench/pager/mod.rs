//! The pager against what no pager beats: on simulated cards, over a slowed link, and at the rates of this machine.

mod answers;
mod busy;
mod cards;
mod link;
mod rates;
mod synthetic;

use std::io::Write;

use serde::Serialize;

use super::LINKS;
use crate::failure::Result;
use crate::size::Size;
use crate::{json, range};

/// Hold the pager against its lower bound: full-size models on simulated cards, a synthetic checkpoint over a slowed link, and streaming at this machine's rates.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage bench pager
  lighterage bench pager --only cards --size 1024x1024
  lighterage bench pager --only plans --gpu h100
  lighterage bench pager --only rates --file 4GiB --folder /data --json")]
pub(crate) struct Arguments {
    /// Only this part.
    #[arg(long, value_enum, value_name = "PART")]
    only: Option<Part>,
    /// Cards of the simulated table.
    #[arg(
        long,
        value_name = "NAME[,NAME...]",
        value_delimiter = ',',
        default_value = "rtx5090,rtx4090,h100"
    )]
    gpu: Vec<String>,
    /// Size of the picture of the simulated table.
    #[arg(long, value_name = "WxH", default_value = "1280x720")]
    size: super::super::plan::Sides,
    /// Rate of the slowed link, in MB/s, of 10^6 bytes.
    #[arg(long, value_name = "MB/s", default_value_t = 100.0, value_parser = range::real(LINKS))]
    link: f64,
    /// Turns that are timed at each budget, and how often a plan is made, 1 to 338.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = range::whole(link::TURNS))]
    turns: usize,
    /// Bytes of the file that is streamed, 64MiB to 1TiB.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = range::bytes(64 << 20..=1 << 40))]
    file: Size,
    /// Where that file is written, and removed again [default: the system's folder for such files].
    #[arg(long, value_name = "DIR")]
    folder: Option<std::path::PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Full-size models on simulated cards.
    Cards,
    /// How long plans of full-size models take to make.
    Plans,
    /// Launches of fixed length over a slowed link.
    Fixed,
    /// Products over a slowed link.
    Products,
    /// From the page cache and from disk.
    Rates,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    cards: Vec<cards::Card>,
    plans: Vec<answers::Answer>,
    fixed: Vec<link::Line>,
    products: Vec<link::Line>,
    rates: Option<rates::Rates>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let is_wanted = |part| arguments.only.is_none_or(|only| only == part);
    let mut report = Report::default();
    let out = &mut crate::output::stdout();
    if is_wanted(Part::Cards) {
        report.cards = cards::measure(&arguments.gpu, arguments.size.0)?;
        show(arguments, || cards::print(out, &report.cards))?;
    }
    if is_wanted(Part::Plans) {
        report.plans = answers::measure(&arguments.gpu, arguments.turns)?;
        show(arguments, || answers::print(out, &report.plans))?;
    }
    if is_wanted(Part::Fixed) {
        report.fixed = link::fixed(arguments.link * 1e6, arguments.turns)?;
        show(arguments, || link::print(out, "launches of fixed length", &report.fixed))?;
    }
    if is_wanted(Part::Products) {
        report.products = link::products(arguments.link * 1e6, arguments.turns)?;
        show(arguments, || {
            link::print(out, "products, the bound from their own times in the same run", &report.products)
        })?;
    }
    if is_wanted(Part::Rates) {
        let folder = arguments.folder.clone().unwrap_or_else(std::env::temp_dir);
        let rates = rates::measure(&folder, arguments.file.0)?;
        show(arguments, || rates::print(out, &rates))?;
        report.rates = Some(rates);
    }
    if arguments.json {
        json::print(&report)?;
    }
    Ok(())
}

fn show(arguments: &Arguments, print: impl FnOnce() -> Result<()>) -> Result<()> {
    if arguments.json { Ok(()) } else { print() }
}

/// A line before a table.
fn title(out: &mut impl Write, text: &str) -> Result<()> {
    Ok(writeln!(out, "\n{text}")?)
}
