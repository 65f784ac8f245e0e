//! What a recording says of a run, beside what it was to be.

use crate::common::{PAGE_BYTES, between, cases, host, model};
use lighterage_device::{CallCost, Detail, HostConfig, MemoryCosts, Profile, Rates};
use lighterage_pipeline::{Job, Keep, Options, Phase, Predicted};
use lighterage_shape::DType;

/// Before the first step the host maps and unmaps, activations too: of calls that take a second each the prediction has every one.
#[test]
fn on_a_card_calls_of_memory_count_to_the_first_step() {
    let options = Options { steps: 2, ..cases()[0].options(&model(), DType::Bf16) };
    let job = Job::new(&model(), options).unwrap();
    let survey = job.survey(PAGE_BYTES).unwrap();
    let forecast = survey.within(between(&survey)).unwrap();
    let device = host(HostConfig::default(), forecast.budget_bytes);
    device.record(Detail::Summary);
    job.run(&device, &forecast, Keep::default(), &mut ()).unwrap();
    let recording = device.take_recording().expect("a recording");
    let rates = Profile::named("h100").expect("a card").rates;
    let seconds = |memory_calls: MemoryCosts| {
        let card = Rates { memory_calls, ..rates };
        let predicted = Predicted::of(&forecast, &recording, Some(&card)).expect("steps of one kind");
        [predicted.first_seconds, predicted.first_step_after_seconds].map(Option::unwrap)
    };
    let second = CallCost::of(1.0);
    let [free, created, destroyed] = [
        MemoryCosts::FREE,
        MemoryCosts { create: second, ..MemoryCosts::FREE },
        MemoryCosts { destroy: second, ..MemoryCosts::FREE },
    ]
    .map(seconds);
    let pages = |is_meant: fn(Phase) -> bool| {
        let phases = forecast.phases.iter().filter(|planned| is_meant(planned.phase));
        phases.map(|planned| planned.activations_bytes.div_ceil(PAGE_BYTES)).sum::<u64>() as f64
    };
    let (before, of_loop) = (pages(|phase| phase < Phase::Denoise), pages(|phase| phase == Phase::Denoise));
    assert!(before > 0.0 && of_loop > 0.0);
    // Weights have chunks besides.
    assert!(
        created[0] - free[0] > of_loop && created[1] - free[1] > before + of_loop,
        "{created:?} {free:?}"
    );
    assert_eq!(destroyed[0], free[0], "nothing of the loop is unmapped before its first step");
    assert!(destroyed[1] - free[1] > before, "{destroyed:?} {free:?}");
}
