//! The bare loop against diffusers, step by step, at every budget.

use lighterage_checkpoint::Unmodified;
use lighterage_device::{Backend, Device, Host, HostConfig, Ledger};
use lighterage_pipeline::{Error, Phase, Survey, Trajectory};
use lighterage_shape::DType;
use lighterage_testkit::{Golden, assert_close, folder, relative_frobenius};

const PAGE_BYTES: u64 = 4096;

fn open(case: &str, dtype: DType) -> Result<Trajectory, Error> {
    // SAFETY: nobody writes to the golden files while tests run.
    Trajectory::open(&folder(case), unsafe { Unmodified::promise() }, dtype)
}

fn host(budget_bytes: u64) -> Device<Host> {
    let config = HostConfig { page_bytes: PAGE_BYTES, ..HostConfig::default() };
    Device::new(Host::new(config).expect("a host"), Ledger::new(budget_bytes), Ledger::new(1 << 30))
}

fn latents<B: Backend>(
    trajectory: &Trajectory,
    survey: &Survey,
    device: &Device<B>,
) -> Option<Vec<Vec<f32>>> {
    let forecast = survey.within(device.ledger().cap_bytes()).expect("a feasible budget");
    let made = trajectory.run(device, &forecast, &mut ()).expect("a run");
    assert!(device.ledger().peak_bytes() <= forecast.peak_bytes());
    assert!(made.report.phases.iter().all(|phase| phase.unplanned == 0), "{}", made.report);
    made.steps
}

/// `golden/make_golden.py`: a loop's f32 error is at most 1e-4 on every step.
fn check_every_step(case: &str, count: usize) -> Trajectory {
    let trajectory = open(case, DType::F32).unwrap();
    let survey = trajectory.survey(PAGE_BYTES).unwrap();
    let expected = Golden::open(&folder(case).join("expected.safetensors"));
    let (least, most) = (survey.minimum_bytes(), survey.maximum_bytes());
    let runs = [least, least + (most - least) / 3, most]
        .map(|budget| latents(&trajectory, &survey, &host(budget)).expect("bytes"));
    assert_eq!(runs[0].len(), count);
    for (step, got) in runs[0].iter().enumerate() {
        let reference = expected.values(&format!("latents.{step}"));
        println!("{case}, step {step}: {:.2e}", relative_frobenius(got, reference));
        assert_close(&format!("step {step}"), got, reference, 1e-4);
    }
    assert!(runs[1..].iter().all(|run| *run == runs[0]), "other bits at another budget");
    trajectory
}

#[test]
fn every_step_is_that_of_diffusers_at_every_budget() {
    check_every_step("loop-tiny", 6);
}

/// With InfuseNet, at a scale below 1 and within a window: two kinds of steps in one plan.
#[test]
fn every_step_with_infusenet_is_that_of_diffusers_at_every_budget() {
    let trajectory = check_every_step("loop-infiniteyou-tiny", steps("loop-infiniteyou-tiny"));
    let survey = trajectory.survey(PAGE_BYTES).unwrap();
    let phases: Vec<_> =
        survey.within(survey.maximum_bytes()).unwrap().phases.iter().map(|planned| planned.phase).collect();
    assert_eq!(phases, [Phase::Modulation, Phase::Denoise]);
    let turns = survey.within(survey.minimum_bytes()).unwrap().denoise().unwrap().turns().to_vec();
    assert_eq!(turns.iter().map(|turn| turn.count).sum::<u64>(), steps("loop-infiniteyou-tiny") as u64);
    assert!(turns[0].streamed_bytes > turns[1].streamed_bytes, "without InfuseNet less is read: {turns:?}");
}

fn settings(case: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder(case).join("run.json")).expect("run.json")).expect("JSON")
}

fn steps(case: &str) -> usize {
    usize::try_from(settings(case)["steps"].as_u64().expect("steps")).expect("few")
}

#[test]
fn teacache_skips_the_steps_of_the_reference_at_every_budget() {
    let case = "loop-teacache-tiny";
    let trajectory = check_every_step(case, steps(case));
    let survey = trajectory.survey(PAGE_BYTES).unwrap();
    let expected: Vec<bool> =
        serde_json::from_value(settings(case)["transformer_ran"].clone()).expect("flags");
    assert!(expected.contains(&false));
    for budget in [survey.minimum_bytes(), survey.maximum_bytes()] {
        let device = host(budget);
        let made = trajectory.run(&device, &survey.within(budget).unwrap(), &mut ()).unwrap();
        assert_eq!(made.ran, expected);
        assert_eq!(made.report.steps_computed, expected.iter().filter(|ran| **ran).count());
        assert_eq!(device.ledger().peak_bytes(), survey.within(budget).unwrap().peak_bytes());
    }
}

/// What diffusers' own pipeline makes of a prompt and a negative prompt.
#[test]
fn every_step_of_true_guidance_is_that_of_diffusers_at_every_budget() {
    let with = check_every_step("loop-true-cfg-tiny", steps("loop-true-cfg-tiny"));
    // A pass more, and so more conditions to keep, but no weight more to read.
    assert_eq!(with.survey(PAGE_BYTES).unwrap().within(1 << 30).unwrap().phases.len(), 2);
}

/// InfuseNet adds to the prompt's pass, never to the negative one's, on either side of its window's end.
#[test]
fn true_guidance_with_infusenet_is_that_of_the_reference_at_every_budget() {
    check_every_step("loop-true-cfg-infiniteyou-tiny", steps("loop-true-cfg-infiniteyou-tiny"));
}

/// The two passes of a step decide apart: five of these sixteen steps are computed by one and skipped by the other.
#[test]
fn each_pass_of_true_guidance_has_a_teacache_of_its_own() {
    let case = "loop-true-cfg-teacache-tiny";
    let trajectory = check_every_step(case, steps(case));
    let [positive, negative]: [Vec<bool>; 2] = ["transformer_ran", "negative_ran"]
        .map(|name| serde_json::from_value(settings(case)[name].clone()).expect("flags"));
    assert_eq!(positive.iter().zip(&negative).filter(|(a, b)| a != b).count(), 5);
    let survey = trajectory.survey(PAGE_BYTES).unwrap();
    let budget = survey.minimum_bytes();
    let made = trajectory.run(&host(budget), &survey.within(budget).unwrap(), &mut ()).unwrap();
    assert_eq!(made.ran, positive);
}

/// Wherever the window opens, also on a step that the positive prompt skips and the negative one computes: nobody has counted then what InfuseNet leases.
#[test]
fn a_window_may_open_on_any_step_of_two_prompts_with_teacache() {
    let case = "loop-true-cfg-teacache-tiny";
    let made = tempfile::tempdir().unwrap();
    for name in ["transformer", "inputs.safetensors", "infusenet"] {
        std::os::unix::fs::symlink(folder(case).join(name), made.path().join(name)).unwrap();
    }
    let mut skipped = 0;
    for opens in 1..steps(case) {
        let mut run = settings(case);
        run["guidance_start"] = (opens as f64 / steps(case) as f64).into();
        std::fs::write(made.path().join("run.json"), run.to_string()).unwrap();
        // SAFETY: nobody writes to the golden files while tests run, and these links are this test's.
        let opened = Trajectory::open(made.path(), unsafe { Unmodified::promise() }, DType::F32);
        let trajectory = opened.unwrap();
        let survey = trajectory.survey(PAGE_BYTES).unwrap();
        let [least, most] = [survey.minimum_bytes(), survey.maximum_bytes()].map(|budget| {
            let forecast = survey.within(budget).unwrap();
            let made = trajectory.run(&host(budget), &forecast, &mut ());
            made.unwrap_or_else(|error| panic!("{opens}: {error}"))
        });
        assert!(least.steps == most.steps && least.ran == most.ran, "{opens}: other bits at another budget");
        skipped += usize::from(!least.ran[opens]);
    }
    assert!(skipped > 2, "the positive prompt skips {skipped} of the steps on which the window opens");
}

/// A bf16 run is told other timesteps (968 for 967.8), so the f32 latents are no reference for it; `loop-schnell-bfl-tiny` has one, in the driver's tests.
#[test]
fn bf16_loop_has_the_same_bytes_at_the_least_and_the_most() {
    let trajectory = open("loop-tiny", DType::Bf16).unwrap();
    let survey = trajectory.survey(PAGE_BYTES).unwrap();
    let [least, most] = [survey.minimum_bytes(), survey.maximum_bytes()]
        .map(|budget| latents(&trajectory, &survey, &host(budget)).expect("bytes"));
    assert!(least.iter().flatten().all(|value| value.is_finite()));
    assert_eq!(least, most);
}

#[test]
fn one_byte_below_the_least_is_refused() {
    let survey = open("loop-tiny", DType::F32).unwrap().survey(PAGE_BYTES).unwrap();
    let least = survey.minimum_bytes();
    assert!(survey.within(least).is_ok());
    assert!(
        matches!(survey.within(least - 1), Err(Error::Shortage(shortage)) if shortage.missing_bytes() == 1)
    );
}
