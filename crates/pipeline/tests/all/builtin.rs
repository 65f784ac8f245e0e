//! The released models at their full size, without their files: what the plan says is what `Sim` does.

use std::collections::BTreeMap;
use std::time::Instant;

use lighterage_device::{Detail, Device, Ledger, Profile, Sim, SimConfig};
use lighterage_pipeline::{Achieved, BuiltIn, BuiltInOptions, Forecast, Phase, Survey, Window};

const PAGE: u64 = 2 << 20;
/// More host memory than anyone needs.
const HOST: u64 = 1 << 40;

fn model(with_infusenet: bool, steps: usize) -> BuiltIn {
    BuiltIn::new(BuiltInOptions { with_infusenet, steps, ..BuiltInOptions::default() }).unwrap()
}

fn sim(profile: &Profile, budget: u64) -> Device<Sim> {
    let config = SimConfig { page_bytes: PAGE, rates: Some(profile.rates), ..SimConfig::default() };
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
    // The whole run, all phases, with their loading and page-locking.
    assert!(
        (0.99..1.01).contains(&(virtual_seconds / predicted)),
        "{virtual_seconds} s, predicted {predicted} s"
    );
}

#[test]
fn the_first_step_comes_when_the_plan_says() {
    for (name, budgets) in [("h100", [3, 8, 24]), ("rtx4090", [4, 12, 24])] {
        let profile = Profile::named(name).unwrap();
        let model = model(true, 50);
        let survey = model.survey(PAGE, Some(profile.rates)).unwrap();
        for gib in budgets {
            let forecast = survey.within(gib << 30).unwrap();
            let device = sim(&profile, gib << 30);
            device.record(Detail::Summary);
            model.run_steps(&device, &forecast, 2).unwrap();
            let recording = device.take_recording().unwrap();
            let achieved = Achieved::of(&recording);
            let planned = forecast.phases.iter().find(|planned| planned.phase == Phase::Denoise).unwrap();
            // With what is page-locked before the first launch can be queued.
            let (after, turn) = (achieved.first_step_after_seconds, achieved.first_seconds);
            println!("{name}, {gib} GiB: {after} s, predicted {}", forecast.first_step_seconds());
            for (got, predicted) in
                [(after, forecast.first_step_seconds()), (turn, planned.first_turn_seconds())]
            {
                let ratio = got / predicted;
                assert!((0.98..1.02).contains(&ratio), "{name}, {gib} GiB: {got} s, predicted {predicted}");
            }
        }
    }
}

/// The modulation of all steps, InfuseNet's included, is made before the loop: its weights cross the link once, whatever the budget, and the loop reads none of them.
#[test]
fn modulation_is_streamed_once_and_is_no_part_of_the_loop() {
    let profile = Profile::named("h100").unwrap();
    let model = model(true, 50);
    let survey = model.survey(PAGE, Some(profile.rates)).unwrap();
    let weights = |phase| -> BTreeMap<String, u64> {
        survey.loads(phase).into_iter().map(|load| (load.name, load.bytes)).collect()
    };
    let (before, in_loop) = (weights(Phase::Modulation), weights(Phase::Denoise));
    assert!(before.keys().all(|name| !in_loop.contains_key(name)));
    let (hoisted, read) = (before.values().sum::<u64>(), in_loop.values().sum::<u64>());
    // 29.7 GB, of which 8 are hoisted (flux-infiniteyou: 23.80 and 5.91 GB).
    assert!((7_900_000_000..8_200_000_000).contains(&hoisted), "{hoisted}");
    assert!((21_400_000_000..21_800_000_000).contains(&read), "{read}");
    for gib in [3, 8, 24] {
        let (device, forecast) = (sim(&profile, gib << 30), survey.within(gib << 30).unwrap());
        let report = model.run_steps(&device, &forecast, 2).unwrap();
        let ran = report.phases.iter().find(|ran| ran.phase == Phase::Modulation).unwrap();
        // Where memory is short units begin at a page's beginning, and the gaps are copied too.
        let most = hoisted + before.len() as u64 * PAGE;
        assert!((hoisted..=most).contains(&ran.copied_bytes), "{gib} GiB: {} of {hoisted}", ran.copied_bytes);
    }
}

/// Steps without InfuseNet are another kind of turn of the same plan: where its window opens and closes nothing is mapped, loaded or page-locked that was there before.
#[test]
fn a_window_of_infusenet_costs_no_second_loading() {
    for (name, gib) in [("h100", 4), ("rtx4090", 8), ("rtx4090", 24)] {
        let profile = Profile::named(name).unwrap();
        for [start, end] in [[0.0, 0.5], [0.2, 1.0], [0.25, 0.75]] {
            let window = Window { start, end };
            let options =
                BuiltInOptions { steps: 20, with_infusenet: true, window, ..BuiltInOptions::default() };
            let model = BuiltIn::new(options).unwrap();
            let survey = model.survey(PAGE, Some(profile.rates)).unwrap();
            let forecast = survey.within(gib << 30).unwrap();
            let device = sim(&profile, gib << 30);
            device.record(Detail::Summary);
            let report = model.run(&device, &forecast).unwrap();
            assert_eq!(report.peak_bytes, forecast.peak_bytes());
            let (plan, recording) = (forecast.denoise().unwrap(), device.take_recording().unwrap());
            let (seconds, first) =
                (device.backend().now_seconds(), Achieved::of(&recording).first_step_after_seconds);
            println!(
                "{name}, {gib} GiB, {start} to {end}: {seconds} s, predicted {}, first step {first} s, predicted {}",
                forecast.seconds(),
                forecast.first_step_seconds()
            );
            assert!(
                (0.99..1.01).contains(&(seconds / forecast.seconds())),
                "{seconds}, {}",
                forecast.seconds()
            );
            assert!(
                (0.98..1.02).contains(&(first / forecast.first_step_seconds())),
                "{first}, {}",
                forecast.first_step_seconds()
            );
            let moved = report.phases.iter().find(|ran| ran.phase == Phase::Denoise).unwrap().copied_bytes;
            let streamed: u64 = plan.turns().iter().map(|turn| turn.count * turn.streamed_bytes).sum();
            // Residents once, what is streamed in each turn, and the ring's read-ahead of the kind before at each of two changes, and behind the last step.
            let ahead = 3 * (plan.ring_bytes() + (132 << 20));
            let resident = plan.resident_bytes();
            assert!(resident > ahead, "a second loading of {resident} bytes would not show beside {ahead}");
            let most = streamed + resident + ahead;
            assert!((streamed..=most).contains(&moved), "{moved} bytes moved, {streamed} to {most}");
        }
    }
}

/// The sizes that the README promises, and the budgets of its table in GiB.
const SIZES: [[usize; 2]; 4] = [[1280, 720], [864, 1152], [1024, 1024], [1920, 1088]];
const BUDGETS_GIB: [u64; 5] = [32, 24, 16, 12, 8];

/// Every phase of FLUX and InfiniteYou at the published shapes, from the prompt to the pixels: each run takes the memory that its plan says to the byte, and its time.
#[test]
fn every_large_size_runs_within_every_budget() {
    use Phase::{Control, Denoise, Identity, Modulation, Text, Vae};
    let profile = Profile::named("rtx4090").unwrap();
    println!("size, GiB: peak, streamed a step, s/step (bound), s in all, 50 steps on a {}", profile.name);
    for [width, height] in SIZES {
        let options =
            BuiltInOptions { width, height, steps: 50, with_infusenet: true, ..BuiltInOptions::default() };
        let model = BuiltIn::new(options).unwrap();
        let survey = model.survey(PAGE, Some(profile.rates)).unwrap();
        let mut slower = 0.0;
        for gib in BUDGETS_GIB {
            let forecast = survey.within(gib << 30).unwrap();
            let device = sim(&profile, gib << 30);
            let report = model.run(&device, &forecast).unwrap();
            let phases: Vec<Phase> = report.phases.iter().map(|ran| ran.phase).collect();
            assert_eq!(phases, [Text, Identity, Control, Modulation, Denoise, Vae]);
            assert_eq!(report.peak_bytes, forecast.peak_bytes(), "{width}x{height}, {gib} GiB");
            assert!(report.peak_bytes <= gib << 30, "{width}x{height}, {gib} GiB");
            let (seconds, turn) = (device.backend().now_seconds(), forecast.denoise().unwrap().turns()[0]);
            println!(
                "{width}x{height}, {gib}: {:.2} GiB, {:.2} GB, {:.3} ({:.3}), {seconds:.1}",
                gibibytes(report.peak_bytes),
                turn.streamed_bytes as f64 / 1e9,
                turn.seconds,
                turn.bound_seconds,
            );
            let ratio = seconds / forecast.seconds();
            assert!((0.98..1.02).contains(&ratio), "{width}x{height}, {gib} GiB: {ratio} of the forecast");
            // Less memory never makes a plan faster, but for the rounding of sums of some thousand times.
            assert!(
                turn.seconds >= slower * (1.0 - 1e-12),
                "{width}x{height}, {gib} GiB: {} after {slower}",
                turn.seconds
            );
            slower = turn.seconds;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// 1920 x 1088 is decoded in tiles; whole, the decoder alone would need more than the whole run does.
#[test]
fn the_largest_size_needs_the_decoders_tiles() {
    let need = |width, height| {
        let options =
            BuiltInOptions { width, height, steps: 2, with_infusenet: true, ..BuiltInOptions::default() };
        let survey = BuiltIn::new(options).unwrap().survey(PAGE, None).unwrap();
        let forecast = survey.within(survey.maximum_bytes()).unwrap();
        let of = |wanted| forecast.phases.iter().find(|planned| planned.phase == wanted).unwrap();
        (of(Phase::Vae).activations_bytes, of(Phase::Control).activations_bytes)
    };
    let ((decoding, encoding), (largest_decoding, largest_encoding)) = (need(1024, 1024), need(1920, 1088));
    // A tile is of 1024 x 1024 pixels; beside it there are only the picture itself, in f32 and bf16, and its weights.
    let picture = 3 * 1920 * 1088 * 6;
    assert!(largest_decoding <= decoding + 2 * picture, "{largest_decoding}, {decoding} at 1024 x 1024");
    assert!(largest_encoding <= encoding + 2 * picture, "{largest_encoding}, {encoding} at 1024 x 1024");
}

#[test]
fn sides_that_are_no_multiple_of_16_name_the_two_nearest() {
    let refused = |width, height| {
        let options = BuiltInOptions { width, height, ..BuiltInOptions::default() };
        BuiltIn::new(options).unwrap_err().to_string()
    };
    assert_eq!(refused(1920, 1080), "height is 1080, should be a multiple of 16: 1072 or 1088");
    assert_eq!(refused(1000, 1000), "width is 1000, should be a multiple of 16: 992 or 1008");
}

#[test]
fn a_budget_below_the_smallest_is_refused_with_the_reason() {
    let survey = model(true, 50).survey(PAGE, None).unwrap();
    let least = survey.minimum_bytes();
    survey.within(least).unwrap();
    let refused = survey.within(least - 1).unwrap_err().to_string();
    assert!(refused.contains("1 byte too small"), "{refused}");
}
