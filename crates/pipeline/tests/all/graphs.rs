//! Steps that are replayed as graphs: the picture is the same, to the byte, and a step is two calls and what tells it from the others.

use crate::calls::watched::{Call, Watched};
use crate::common::{PAGE_BYTES, between, cases, host, model, run};
use crate::{budget, calls, infinite_you};
use lighterage_device::{Device, Host, HostConfig, Ledger};
use lighterage_pipeline::{Error, Face, Job, Keep, Negation, Options, Picture, Survey, TeaCache, Window};
use lighterage_shape::DType;

fn seeded(seed: u64) -> HostConfig {
    HostConfig { seed: Some(seed), ..HostConfig::default() }
}

/// The same picture with graphs and without, at three budgets, at the last of which nothing is streamed, on threads and by drawn interleavings; so many of its steps are replayed.
fn check(job: &Job, replayed: usize) -> Picture {
    let survey = job.survey(PAGE_BYTES).expect("a dry pass");
    let graphs = survey.clone().replayed(true);
    let plain = run(job, &survey, HostConfig::default(), between(&survey));
    assert_eq!((plain.report.steps_replayed, plain.report.not_replayed.as_deref()), (0, None));
    for budget in [survey.minimum_bytes(), between(&survey), survey.maximum_bytes()] {
        for config in [HostConfig::default(), seeded(budget % 7), seeded(budget % 11)] {
            let picture = run(job, &graphs, config, budget);
            assert_eq!(picture.latents, plain.latents, "at {budget} bytes, {config:?}");
            assert_eq!(picture.rgb, plain.rgb, "at {budget} bytes, {config:?}");
            let report = &picture.report;
            assert_eq!((report.steps_replayed, report.not_replayed.as_deref()), (replayed, None));
        }
    }
    plain
}

fn options(steps: usize) -> Options {
    Options { steps, ..cases()[0].options(&model(), DType::Bf16) }
}

/// All but the first, which loads.
#[test]
fn a_replayed_loop_makes_the_same_picture() {
    check(&Job::new(&model(), options(6)).unwrap(), 5);
}

#[test]
fn a_replayed_loop_with_converted_weights_makes_the_same_picture() {
    check(&Job::new(&model(), Options { dtype: DType::F32, ..options(4) }).unwrap(), 3);
}

#[test]
fn a_negative_prompt_is_a_part_of_the_graphs() {
    let negative = Some(Negation { prompt: "a blue square".to_owned(), scale: 2.0 });
    check(&Job::new(&model(), Options { negative, ..options(5) }).unwrap(), 4);
}

/// Each of the two is a kind of turn, and has graphs of its own.
#[test]
fn steps_with_infusenet_and_steps_without_it_have_graphs_of_their_own() {
    let (model, you) = (model(), infinite_you::infinite_you());
    let options = infinite_you::options(&model, &you);
    let face = options.face.clone().expect("a face");
    let face = Some(Face { window: Window { start: 0.0, end: 0.5 }, ..face });
    // All but the first: the first one without InfuseNet finds everything loaded.
    check(&infinite_you::job(&model, &you, Options { steps: 6, face, ..options }), 5);
}

/// It decides in the middle of a step.
#[test]
fn teacache_takes_its_steps_piece_by_piece() {
    let teacache = Some(TeaCache { threshold: 0.6, keeps_infusenet: false });
    let job = Job::new(&model(), Options { teacache, ..options(6) }).unwrap();
    let survey = job.survey(PAGE_BYTES).unwrap();
    let (plain, graphs) = (survey.within(between(&survey)).unwrap(), survey.clone().replayed(true));
    assert_eq!(plain.host_bytes(), graphs.within(between(&survey)).unwrap().host_bytes(), "no flags");
    assert_eq!(run(&job, &graphs, HostConfig::default(), between(&survey)).report.steps_replayed, 0);
}

#[test]
fn latents_of_every_step_are_those_without_graphs() {
    let job = Job::new(&model(), options(5)).unwrap();
    let survey = job.survey(PAGE_BYTES).unwrap();
    let steps = |survey: &Survey| {
        let device = host(HostConfig::default(), survey.minimum_bytes());
        let forecast = survey.within(survey.minimum_bytes()).unwrap();
        let keep = Keep { steps: true, ..Keep::default() };
        let picture = job.run(&device, &forecast, keep, &mut ()).unwrap();
        // What the plan said of the host's memory, flags included, to the byte.
        assert_eq!(device.host_ledger().peak_bytes(), forecast.host_bytes());
        (picture.steps, picture.report.steps_replayed)
    };
    let ((plain, none), (replayed, some)) = (steps(&survey), steps(&survey.clone().replayed(true)));
    assert_eq!((none, some), (0, 4));
    assert_eq!(plain, replayed);
}

#[test]
fn a_budget_that_changes_while_steps_are_replayed_does_not_show() {
    let job = Job::new(&model(), options(14)).unwrap();
    let survey = job.survey(PAGE_BYTES).unwrap();
    let (least, most) = (survey.minimum_bytes(), survey.maximum_bytes());
    let expected = run(&job, &survey, HostConfig::default(), most);
    for config in [HostConfig::default(), seeded(5)] {
        let device = host(config, most);
        let low = least.midpoint(most);
        let caps = vec![(3, low), (7, most)];
        let mut squeeze = budget::Squeeze { ledger: device.ledger().clone(), caps, granted: Vec::new() };
        let forecast = survey.clone().replayed(true).within(most).unwrap();
        let keep = Keep { latents: true, ..Keep::default() };
        let picture = job.run(&device, &forecast, keep, &mut squeeze).unwrap();
        assert_eq!(picture.latents, expected.latents);
        assert_eq!(picture.rgb, expected.rgb);
        let granted = &squeeze.granted;
        assert!(granted[2] > low && granted[6] <= low, "{granted:?}, {low} of {most}");
        assert!(granted[13] > low, "{granted:?}: never taken back");
        // While memory is short, and while it is read again, steps are queued piece by piece.
        let replayed = picture.report.steps_replayed;
        assert!((5..12).contains(&replayed), "{replayed} steps");
    }
}

#[test]
fn a_stopped_loop_of_graphs_ends_after_two_steps_at_most() {
    let job = budget::long_job();
    let survey = job.survey(PAGE_BYTES).unwrap().replayed(true);
    let budget_bytes = between(&survey);
    for limit in [2, 6] {
        let device = host(HostConfig::default(), budget_bytes);
        let mut observer = budget::StopAfter { limit, done: 0, phases: Vec::new() };
        let forecast = survey.within(budget_bytes).unwrap();
        let stopped = job.run(&device, &forecast, Keep::default(), &mut observer).expect_err("stopped");
        assert_eq!((device.ledger().granted_bytes(), device.host_ledger().granted_bytes()), (0, 0));
        let Error::Cancelled { done, .. } = stopped else { panic!("{stopped}") };
        assert!((limit..=limit + 1).contains(&done), "{done} steps, asked to stop after {limit}");
    }
}

/// From the third step on: the choice of the modulations, two graphs, the update.
#[test]
fn a_replayed_step_is_two_graphs_and_what_tells_it_from_the_others() {
    let job = Job::new(&model(), options(6)).unwrap();
    let survey = job.survey(PAGE_BYTES).unwrap().replayed(true);
    for (budget, seed) in [(survey.minimum_bytes(), None), (between(&survey), Some(3))] {
        let steps = calls::recorded(&job, &survey, budget, seed);
        for (index, step) in steps.iter().enumerate().skip(2) {
            let is_of_stream = |call: &&Call| call.name != "synchronize_event";
            let names: Vec<&str> = step.iter().filter(is_of_stream).map(|call| call.name).collect();
            // The last record is for the host, which is never more than a step ahead.
            assert_eq!(
                names,
                ["copy", "replay", "replay", "launch", "record"],
                "step {index}, budget {budget}"
            );
        }
    }
}

/// Any call of the loop may fail: the run ends with that error, or makes the same picture by other means, and nothing is left.
#[test]
fn a_call_that_fails_while_steps_are_recorded_or_replayed_is_an_error_or_does_not_show() {
    let job = Job::new(&model(), options(4)).unwrap();
    let survey = job.survey(PAGE_BYTES).unwrap().replayed(true);
    let budget = survey.minimum_bytes();
    let forecast = survey.within(budget).unwrap();
    let keep = Keep { latents: true, ..Keep::default() };
    let device = |fail_call| {
        let config = HostConfig { threads: 1, seed: Some(4), fail_call, ..HostConfig::default() };
        Device::new(Host::new(config).unwrap(), Ledger::new(budget), Ledger::new(1 << 30))
    };
    let sound = device(None);
    let expected = job.run(&sound, &forecast, keep, &mut ()).unwrap();
    let calls = sound.backend().driver_calls();
    let (mut failed, mut without) = (0, 0);
    // Some of them, spread over the run: all would take minutes.
    for index in 0..24 {
        let device = device(Some(calls * (2 * index + 1) / 48));
        match job.run(&device, &forecast, keep, &mut ()) {
            Ok(picture) => {
                assert_eq!(picture.latents, expected.latents);
                without += 1;
            }
            Err(_) => failed += 1,
        }
        let _ = device.take_deferred();
        assert_eq!((device.ledger().granted_bytes(), device.host_ledger().granted_bytes()), (0, 0));
    }
    assert!(failed > 0 && without > 0, "{failed} failed, {without} were done without");
}

/// What the loop asks for is there before the first step: the device of the calls' test has no more than the plan says.
#[test]
fn a_watched_loop_of_graphs_keeps_to_its_cap() {
    let job = Job::new(&model(), options(4)).unwrap();
    let survey = job.survey(PAGE_BYTES).unwrap().replayed(true);
    let budget = survey.minimum_bytes();
    let ledger = Ledger::new(budget);
    let backend = Host::new(seeded(9)).unwrap();
    let device = Device::new(Watched::new(backend, &ledger), ledger, Ledger::new(1 << 30));
    let picture = job.run(&device, &survey.within(budget).unwrap(), Keep::default(), &mut ()).unwrap();
    assert_eq!(picture.report.steps_replayed, 3);
    assert!(device.backend().peak_bytes() <= budget);
}
