//! The released models at their full size, without their files: what the plan says is what `Sim` does.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail")]

use std::time::Instant;

use lighterage_device::{Device, Ledger, Profile, Sim, SimConfig};
use lighterage_pipeline::{BuiltIn, BuiltInOptions, Forecast, Phase, Survey};

const PAGE: u64 = 2 << 20;
/// More host memory than anyone needs.
const HOST: u64 = 1 << 40;

fn model(with_infusenet: bool, steps: usize) -> BuiltIn {
    BuiltIn::new(BuiltInOptions { with_infusenet, steps, ..BuiltInOptions::default() }).unwrap()
}

fn sim(profile: &Profile, budget: u64) -> Device<Sim> {
    let config = SimConfig { page_bytes: PAGE, capacity_bytes: 1 << 40, rates: Some(profile.rates) };
    Device::new(Sim::new(config).unwrap(), Ledger::new(budget), Ledger::new(HOST))
}

/// Seconds of a step in the steady state of a run on `Sim`.
fn achieved(model: &BuiltIn, forecast: &Forecast, profile: &Profile) -> f64 {
    let seconds = [6, 16].map(|steps| {
        let device = sim(profile, forecast.budget_bytes);
        model.run_steps(&device, forecast, steps).unwrap();
        assert_eq!(device.ledger().peak_bytes(), forecast.peak_bytes(), "{}, {forecast}", profile.name);
        device.backend().now_seconds()
    });
    (seconds[1] - seconds[0]) / 10.0
}

fn weights_budget(survey: &Survey, weights: u64) -> u64 {
    let forecast = survey.within(survey.maximum_bytes()).unwrap();
    let denoise = forecast.phases.iter().find(|planned| planned.phase == Phase::Denoise).unwrap();
    (denoise.activations_bytes + weights).max(survey.minimum_bytes())
}

#[test]
fn plans_are_within_two_percent_of_the_bound_on_every_card() {
    let mut worst = 0.0_f64;
    for with_infusenet in [false, true] {
        let model = model(with_infusenet, 50);
        for profile in Profile::all() {
            let survey = model.survey(PAGE, Some(profile.rates)).unwrap();
            for tenths in (10..=40).step_by(5).chain((50..=240).step_by(10)) {
                let forecast = survey.within(weights_budget(&survey, tenths * 100_000_000)).unwrap();
                let turn = forecast.denoise().unwrap().turns()[0];
                let ratio = turn.seconds / turn.bound_seconds;
                worst = worst.max(ratio);
                let name = &profile.name;
                assert!(ratio <= 1.02, "{name}, {tenths} x 100 MB: {ratio}, {turn:?}");
                assert!(ratio >= 1.0 - 1e-9, "{name}, {tenths} x 100 MB: below its bound: {turn:?}");
                assert!(forecast.peak_bytes() <= forecast.budget_bytes);
            }
        }
    }
    println!("worst {worst}");
}

#[test]
fn sim_takes_what_the_plan_says() {
    for (name, with_infusenet, budgets) in [
        ("h100", true, [4, 12]),
        ("rtx5090", true, [2, 8]),
        ("rtx4090", false, [3, 8]),
        ("rtx3090", true, [6, 20]),
    ] {
        let profile = Profile::named(name).unwrap();
        let model = model(with_infusenet, 50);
        let survey = model.survey(PAGE, Some(profile.rates)).unwrap();
        for gib in budgets {
            let forecast = survey.within((gib << 30).max(survey.minimum_bytes())).unwrap();
            let turn = forecast.denoise().unwrap().turns()[0];
            let seconds = achieved(&model, &forecast, &profile);
            let ratio = seconds / turn.seconds;
            println!("{name} {gib} GiB: {seconds} s, predicted {} s, {ratio}", turn.seconds);
            assert!((0.99..=1.01).contains(&ratio), "{name}, {gib} GiB: {seconds} s, {turn:?}");
        }
    }
}

#[test]
fn fifty_steps_at_full_size_run_as_planned() {
    let profile = Profile::named("rtx4090").unwrap();
    let model = model(true, 50);
    let survey = model.survey(PAGE, Some(profile.rates)).unwrap();
    let forecast = survey.within(8 << 30).unwrap();
    let device = sim(&profile, 8 << 30);
    let start = Instant::now();
    let report = model.run(&device, &forecast).unwrap();
    let took = start.elapsed().as_secs_f64();
    let (virtual_seconds, predicted) = (device.backend().now_seconds(), forecast.seconds());
    // Shown with `--nocapture`; a test never judges the clock of the machine it runs on.
    println!("{took} s for {virtual_seconds} s of a card, predicted {predicted} s");
    assert_eq!(report.peak_bytes, forecast.peak_bytes());
    // The whole run, all phases and their loading: looser than a step, since a phase's first turn overlaps with the host's work.
    assert!(
        (0.9..1.1).contains(&(virtual_seconds / predicted)),
        "{virtual_seconds} s, predicted {predicted} s"
    );
}

#[test]
fn a_budget_below_the_smallest_is_refused_with_the_reason() {
    let survey = model(true, 50).survey(PAGE, None).unwrap();
    let least = survey.minimum_bytes();
    survey.within(least).unwrap();
    let refused = survey.within(least - 1).unwrap_err().to_string();
    assert!(refused.contains("1 byte too small"), "{refused}");
}
