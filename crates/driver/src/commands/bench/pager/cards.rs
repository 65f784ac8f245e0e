//! Full-size models on simulated cards: this pager, and whole blocks kept as a prefix, as others do it.

use std::collections::BTreeMap;
use std::io::Write;

use lighterage_device::{Device, Ledger, Profile, Rates, Sim, SimConfig};
use lighterage_pipeline::{BuiltIn, BuiltInOptions, Forecast, Load, Phase, Survey};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::size::Size;
use crate::table::{self, Align};

#[derive(Debug, Serialize)]
pub(super) struct Card {
    gpu: String,
    link_bytes_per_second: f64,
    lines: Vec<Line>,
}

/// One budget: seconds per step.
#[derive(Debug, Serialize)]
struct Line {
    /// Everything on the card.
    budget_bytes: u64,
    bound_seconds: f64,
    /// A run on `Sim`.
    seconds: f64,
    /// Whole blocks resident as a prefix, modulation within the blocks, one block read ahead.
    prefix_seconds: f64,
}

const BUDGETS_GIB: [u64; 9] = [4, 6, 8, 10, 12, 16, 20, 24, 32];
const PAGE_BYTES: u64 = 2 << 20;
/// A step is the difference of two runs of so many steps.
const STEPS: [usize; 2] = [6, 16];

pub(super) fn measure(gpus: &[String], [width, height]: [usize; 2]) -> Result<Vec<Card>> {
    let options = BuiltInOptions { width, height, with_infusenet: true, ..BuiltInOptions::default() };
    let model = BuiltIn::new(options)?;
    gpus.iter().map(|gpu| card(&model, gpu)).collect()
}

fn card(model: &BuiltIn, gpu: &str) -> Result<Card> {
    let profile =
        Profile::named(gpu).ok_or_else(|| Failure::Usage(format!("{gpu:?} is no built-in card")))?;
    let survey = model.survey(PAGE_BYTES, Some(profile.rates))?;
    let blocks = blocks(&survey, &profile.rates);
    let lines = BUDGETS_GIB.iter().map(|gib| (gib << 30).min(profile.memory_bytes));
    let mut lines: Vec<u64> = lines.collect();
    lines.dedup();
    let line = |budget: u64| {
        let forecast = survey.within(budget)?;
        let denoise = forecast.phases.iter().find(|planned| planned.phase == Phase::Denoise);
        let weights = budget - denoise.map_or(0, |planned| planned.activations_bytes);
        Ok(Line {
            budget_bytes: budget,
            bound_seconds: denoise.map_or(0.0, |planned| planned.plan.turns()[0].bound_seconds),
            seconds: achieved(model, &forecast, &profile)?,
            prefix_seconds: prefix(&blocks, weights, &profile.rates),
        })
    };
    let lines = lines.into_iter().map(line).collect::<Result<_>>()?;
    Ok(Card { gpu: profile.name, link_bytes_per_second: profile.rates.link_bytes, lines })
}

/// Seconds of a step in the steady state of a run on `Sim`, in a ledger of just the budget.
fn achieved(model: &BuiltIn, forecast: &Forecast, profile: &Profile) -> Result<f64> {
    let mut seconds = [0.0; 2];
    for (seconds, steps) in seconds.iter_mut().zip(STEPS) {
        let config = SimConfig { page_bytes: PAGE_BYTES, rates: Some(profile.rates), ..SimConfig::default() };
        let device =
            Device::new(Sim::new(config)?, Ledger::new(forecast.budget_bytes), Ledger::new(u64::MAX));
        model.run_steps(&device, forecast, steps)?;
        *seconds = device.backend().now_seconds();
    }
    Ok((seconds[1] - seconds[0]) / (STEPS[1] - STEPS[0]) as f64)
}

/// What others move: a block with all that it has.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    bytes: u64,
    seconds: f64,
}

/// The blocks of a step in order, their modulation linears among them: these read their weights for one row, so the memory's rate is what they take.
fn blocks(survey: &Survey, rates: &Rates) -> Vec<Block> {
    let mut order: Vec<String> = Vec::new();
    let mut blocks: BTreeMap<String, Block> = BTreeMap::new();
    for Load { name, bytes, seconds } in survey.loads(Phase::Denoise) {
        let key = block_of(&name);
        if !blocks.contains_key(&key) {
            order.push(key.clone());
        }
        let block = blocks.entry(key).or_default();
        (block.bytes, block.seconds) = (block.bytes + bytes, block.seconds + seconds);
    }
    for Load { name, bytes, .. } in survey.loads(Phase::Modulation) {
        if let Some(block) = blocks.get_mut(&block_of(&name)) {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let seconds = bytes as f64 / rates.memory_bytes + rates.launch_seconds;
            (block.bytes, block.seconds) = (block.bytes + bytes, block.seconds + seconds);
        }
    }
    order.iter().filter_map(|key| blocks.get(key).copied()).collect()
}

/// Up to the number of the block; what is in none is by itself.
fn block_of(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let number = parts.iter().position(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    number.map_or_else(|| name.to_owned(), |number| parts[..=number].join("."))
}

/// Seconds of a step where as many blocks as fit beside two buffers stay, from the first on, and each of the others is copied while the one before it computes.
///
/// Both streams as numbers, in the steady state: a copy begins when the copy before it has ended and the block that used its buffer has; the copies go on over the end of a
/// step. That is the best that such a policy does: it waits for nothing on the host, and copies at the link's rate.
#[expect(clippy::cast_precision_loss, reason = "bytes far below 2^52")]
fn prefix(blocks: &[Block], budget: u64, rates: &Rates) -> f64 {
    let total: u64 = blocks.iter().map(|block| block.bytes).sum();
    let largest = blocks.iter().map(|block| block.bytes).max().unwrap_or(0);
    let mut room = if total <= budget { budget } else { budget.saturating_sub(2 * largest) };
    let mut is_open = true;
    let resident: Vec<bool> = blocks
        .iter()
        .map(|block| {
            is_open &= block.bytes <= room;
            room -= if is_open { block.bytes } else { 0 };
            is_open
        })
        .collect();
    let (mut copied, mut computed, mut ended, mut marks) = (0.0_f64, 0.0_f64, [0.0_f64; 2], Vec::new());
    for _ in 0..8 {
        for (block, resident) in blocks.iter().zip(&resident) {
            if !resident {
                copied = copied.max(ended[0]) + block.bytes as f64 / rates.link_bytes + rates.copy_seconds;
                computed = computed.max(copied);
            }
            computed += block.seconds;
            if !resident {
                ended = [ended[1], computed];
            }
        }
        marks.push(computed);
    }
    marks[7] - marks[6]
}

pub(super) fn print(out: &mut impl Write, cards: &[Card]) -> Result<()> {
    for card in cards {
        let link = card.link_bytes_per_second / 1e9;
        super::title(
            out,
            &format!("FLUX.1-dev + InfuseNet, simulated {} at {link} GB/s, seconds per step", card.gpu),
        )?;
        let head = ["budget", "bound", "hoisted, fractional", "/ bound", "prefix of blocks", "ratio"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(card.lines.iter().map(|line| {
            vec![
                Size(line.budget_bytes).to_string(),
                format!("{:.3}", line.bound_seconds),
                format!("{:.3}", line.seconds),
                format!("{:.3}", line.seconds / line.bound_seconds),
                format!("{:.3}", line.prefix_seconds),
                format!("{:.2}", line.prefix_seconds / line.seconds),
            ]
        }));
        table::print(out, &[Align::Right; 6], &rows)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: fn() -> Rates = || Profile::named("h100").expect("built in").rates;

    #[test]
    fn a_unit_belongs_to_its_block() {
        assert_eq!(block_of("transformer_blocks.3.attn.qkv"), "transformer_blocks.3");
        assert_eq!(
            block_of("infusenet.single_transformer_blocks.12.norm.linear"),
            "infusenet.single_transformer_blocks.12"
        );
        assert_eq!(block_of("proj_out"), "proj_out");
    }

    #[test]
    fn a_prefix_waits_for_what_it_lacks() {
        let rates = Rates { copy_seconds: 0.0, ..RATES() };
        let block = Block { bytes: 1 << 30, seconds: 1e-3 };
        let blocks = [block; 8];
        let copy = (1_u64 << 30) as f64 / rates.link_bytes;
        let near = |got: f64, expected: f64| assert!((got / expected - 1.0).abs() < 1e-6, "{got} {expected}");
        near(prefix(&blocks, 8 << 30, &rates), 8e-3);
        // Two buffers and three residents: five blocks come over the link.
        near(prefix(&blocks, 5 << 30, &rates), 5.0 * copy);
        near(prefix(&blocks, 2 << 30, &rates), 8.0 * copy);
    }
}
