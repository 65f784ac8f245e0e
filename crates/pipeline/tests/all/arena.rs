//! Where the activations are: at the places that the survey found for them on `Sim`, on every device, at every budget.

use std::ops::Range;

use crate::calls::watched::Watched;
use crate::common::{PAGE_BYTES, between, cases, host, model, run};
use lighterage_device::{Device, Host, HostConfig, Ledger, Profile, Sim, SimConfig};
use lighterage_pipeline::{BuiltIn, BuiltInOptions, Error, Forecast, Job, Keep, Options, Survey};
use lighterage_shape::DType;

const LARGE_PAGE_BYTES: u64 = 2 << 20;
const SIZES: [[usize; 2]; 5] = [[512, 512], [1024, 1024], [1280, 720], [1920, 1088], [2048, 2048]];
/// Phases of fewer bytes need not be close to what lives in them.
const LARGE_BYTES: u64 = 256 << 20;

/// FLUX and InfiniteYou at full size: a phase takes hardly more than what lives in it at once.
#[test]
fn large_phases_take_one_percent_more_than_lives_in_them() {
    for [width, height] in SIZES {
        for with_infusenet in [false, true] {
            let options =
                BuiltInOptions { width, height, steps: 50, with_infusenet, ..BuiltInOptions::default() };
            let survey = BuiltIn::new(options).unwrap().survey(LARGE_PAGE_BYTES, None).unwrap();
            let forecast = survey.within(survey.maximum_bytes()).unwrap();
            for planned in &forecast.phases {
                let (phase, placement) = (planned.phase, &planned.placement);
                let (bytes, live) = (placement.bytes(), placement.live_bytes());
                println!(
                    "{width}x{height}, {with_infusenet}: {phase} {bytes}, {live} live, {} requests",
                    placement.slots().len()
                );
                assert_eq!(planned.activations_bytes, bytes);
                let enough = live + live / 100 + LARGE_PAGE_BYTES;
                assert!(
                    live < LARGE_BYTES || bytes <= enough,
                    "{width}x{height} {phase}: {bytes}, {live} live"
                );
            }
        }
    }
}

/// More steps than the survey went through, with InfuseNet.
#[test]
fn all_steps_at_full_size_are_where_the_one_of_the_survey_was() {
    let options = BuiltInOptions {
        width: 1024,
        height: 1024,
        steps: 5,
        with_infusenet: true,
        ..BuiltInOptions::default()
    };
    let (model, rates) =
        (BuiltIn::new(options).unwrap(), Profile::named("h100").map(|profile| profile.rates));
    let survey = model.survey(LARGE_PAGE_BYTES, rates).unwrap();
    let forecast = survey.within(survey.minimum_bytes()).unwrap();
    let config = SimConfig { page_bytes: LARGE_PAGE_BYTES, rates, ..SimConfig::default() };
    let ledger = Ledger::new(forecast.budget_bytes);
    let device = Device::new(Sim::new(config).unwrap(), ledger, Ledger::new(1 << 40));
    let report = model.run(&device, &forecast).unwrap();
    assert_eq!(report.peak_bytes, forecast.peak_bytes());
    for (phase, planned) in report.phases.iter().zip(&forecast.phases) {
        assert_eq!((phase.activations_bytes, phase.unplanned), (planned.activations_bytes, 0), "{phase:?}");
    }
}

fn job(width: usize, height: usize) -> Job {
    let model = model();
    let options = Options { steps: 3, width, height, ..cases()[0].options(&model, DType::Bf16) };
    Job::new(&model, options).expect("a job")
}

/// The addresses that the pool of activations reserves.
const POOL_BYTES: u64 = 1 << 40;

/// Where in the pool the parameters of all launches point to, in their order, and what each phase took.
fn addresses(job: &Job, survey: &Survey, config: HostConfig, budget: u64) -> (Vec<u64>, Vec<u64>) {
    let ledger = Ledger::new(budget);
    let watched = Watched::new(Host::new(config).expect("a host"), &ledger);
    let device = Device::new(watched, ledger, Ledger::new(1 << 30));
    drop(device.backend().take_log());
    let forecast = survey.within(budget).expect("a feasible budget");
    let picture = job.run(&device, &forecast, Keep::default(), &mut ()).expect("a picture");
    let log = device.backend().take_log();
    let end_of_pool = log.iter().find(|call| call.name == "unreserve" && call.numbers[1] == POOL_BYTES);
    let base = end_of_pool.expect("the pool").numbers[0];
    let mut offsets = Vec::new();
    for (kernel, parameters) in log.iter().filter_map(|call| call.launch.as_ref()) {
        let words = parameters.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
        let before = offsets.len();
        offsets.extend(words.map(|word| word.wrapping_sub(base)).filter(|offset| *offset < POOL_BYTES));
        assert!(offsets.len() > before, "{kernel} points nowhere in the pool");
    }
    let phases = picture.report.phases.iter();
    assert!(phases.clone().all(|phase| phase.unplanned == 0), "{}", picture.report);
    (offsets, phases.map(|phase| phase.activations_bytes).collect())
}

/// The ranges of all places of all phases.
fn places(forecast: &Forecast) -> Vec<Range<u64>> {
    let slots = forecast.phases.iter().flat_map(|planned| planned.placement.slots());
    slots.map(|slot| slot.offset..slot.offset + slot.bytes).collect()
}

#[test]
fn addresses_and_peaks_are_those_of_sim_at_every_budget_interleaving_and_number_of_threads() {
    let job = job(64, 64);
    let survey = job.survey(PAGE_BYTES).unwrap();
    let (least, most) = (survey.minimum_bytes(), survey.maximum_bytes());
    let forecast = survey.within(least).unwrap();
    let expected = addresses(&job, &survey, HostConfig::default(), least);
    let places = places(&forecast);
    let is_planned = |offset: &u64| places.iter().any(|place| place.contains(offset));
    assert!(expected.0.iter().all(is_planned), "an address that Sim did not find");
    let of_sim: Vec<u64> = forecast.phases.iter().map(|planned| planned.placement.bytes()).collect();
    assert_eq!(expected.1, of_sim);
    for (budget, threads, seed) in [
        (least, 1, None),
        (least, 3, None),
        (least, 2, Some(1)),
        (between(&survey), 1, Some(2)),
        (most, 2, None),
    ] {
        let config = HostConfig { threads, seed, ..HostConfig::default() };
        let found = addresses(&job, &survey, config, budget);
        assert!(found == expected, "{budget} bytes, {threads} threads, interleaving {seed:?}");
    }
}

/// The survey of a smaller picture: other sizes, and more than it foresaw. It shows in nothing but the report, or the budget does not do.
#[test]
fn a_run_that_was_not_surveyed_is_the_same_picture_or_a_clear_refusal() {
    let (surveyed, job) = (job(32, 32).survey(PAGE_BYTES).unwrap(), job(64, 64));
    let survey = job.survey(PAGE_BYTES).unwrap();
    let expected = run(&job, &survey, HostConfig::default(), between(&survey));
    let budget = survey.maximum_bytes() + (4 << 20);
    for config in [HostConfig::default(), HostConfig { seed: Some(3), ..HostConfig::default() }] {
        let device = host(config, budget);
        let forecast = surveyed.within(budget).unwrap();
        let keep = Keep { latents: true, ..Keep::default() };
        let picture = job.run(&device, &forecast, keep, &mut ()).unwrap();
        assert_eq!((picture.latents, picture.rgb), (expected.latents.clone(), expected.rgb.clone()));
        assert!(device.ledger().peak_bytes() <= budget);
        assert!(picture.report.phases.iter().any(|phase| phase.unplanned > 0));
        assert!(picture.report.to_string().contains("activations not as surveyed"), "{}", picture.report);
    }
    let budget = surveyed.minimum_bytes();
    let device = host(HostConfig::default(), budget);
    let refused = job.run(&device, &surveyed.within(budget).unwrap(), Keep::default(), &mut ()).unwrap_err();
    assert!(!matches!(refused, Error::Unplanned { .. }), "{refused}");
    let (text, cap) = (refused.to_string(), format!("cap {budget}"));
    assert!(text.contains("no memory for") && text.contains(&cap), "{text}");
    assert!(device.ledger().peak_bytes() <= budget);
    assert_eq!(device.ledger().granted_bytes(), 0);
}
