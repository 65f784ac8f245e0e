//! The bare loop against diffusers, step by step, at every budget.
use lighterage_checkpoint::Unmodified;
use lighterage_device::{Backend, Device, Host, HostConfig, Ledger};
use lighterage_pipeline::{Error, Survey, Trajectory};
use lighterage_shape::DType;
use lighterage_testkit::{Golden, assert_close, folder};

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
    made.steps
}

#[test]
fn every_step_is_that_of_diffusers_at_every_budget() {
    let trajectory = open("loop-tiny", DType::F32).unwrap();
    let survey = trajectory.survey(PAGE_BYTES).unwrap();
    let expected = Golden::open(&folder("loop-tiny").join("expected.safetensors"));
    let (least, most) = (survey.minimum_bytes(), survey.maximum_bytes());
    let runs = [least, least + (most - least) / 3, most]
        .map(|budget| latents(&trajectory, &survey, &host(budget)).expect("bytes"));
    assert_eq!(runs[0].len(), 6);
    for (step, got) in runs[0].iter().enumerate() {
        // golden/make_golden.py: a loop's f32 error is at most 1e-4 on every step.
        assert_close(&format!("step {step}"), got, expected.values(&format!("latents.{step}")), 1e-4);
    }
    assert!(runs[1..].iter().all(|run| *run == runs[0]), "other bits at another budget");
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
fn what_is_not_there_yet_is_refused_by_name() {
    for (case, expected) in [
        ("loop-teacache-tiny", "teacache_threshold is 0.6, should be null"),
        ("loop-infiniteyou-tiny", "infusenet is there, should be absent"),
    ] {
        let message = open(case, DType::F32).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
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
