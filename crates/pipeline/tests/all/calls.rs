//! What two graphs of a step would hold, one for each stream: the driver calls of the loop, step by step.

#[path = "../../../pager/tests/watched/mod.rs"]
#[expect(dead_code, reason = "the pager's tests use the rest")]
pub(crate) mod watched;

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::common::{PAGE_BYTES, cases, model};
use lighterage_device::{Device, Host, HostConfig, Ledger};
use lighterage_pipeline::{Job, Keep, Observer, Options, Phase, Survey};
use lighterage_shape::DType;
use watched::{Call, Watched};

/// Where `EulerStepParams` has its delta.
const DELTA: std::ops::Range<usize> = 20..24;

/// Takes the calls between two steps: the loop asks once before it queues one.
struct Steps<'a> {
    device: &'a Device<Watched>,
    calls: RefCell<Vec<Vec<Call>>>,
}

impl Observer for Steps<'_> {
    fn phase(&mut self, phase: Phase) {
        if phase == Phase::Denoise {
            self.calls.borrow_mut().clear();
        }
    }

    fn cancelled(&self) -> bool {
        self.calls.borrow_mut().push(self.device.backend().take_log());
        false
    }
}

/// The calls of each step of the loop but the last, which ends with the loop.
pub(crate) fn recorded(job: &Job, survey: &Survey, budget: u64, seed: Option<u64>) -> Vec<Vec<Call>> {
    let forecast = survey.within(budget).expect("a feasible budget");
    let ledger = Ledger::new(budget);
    let host = Host::new(HostConfig { threads: 1, seed, ..HostConfig::default() }).expect("a host");
    let device = Device::new(Watched::new(host, &ledger), ledger, Ledger::new(1 << 30));
    let mut steps = Steps { device: &device, calls: RefCell::default() };
    job.run(&device, &forecast, Keep::default(), &mut steps).expect("a picture");
    // What was called before the first step is the phase's own; what is called from the last one on, too.
    let mut calls = steps.calls.into_inner();
    calls.truncate(job.options().steps);
    calls.split_off(1)
}

/// Without what the host alone asks for to know how far the device is: events that no stream waits for.
fn without_progress(calls: &[Call], waited: &BTreeSet<u64>) -> Vec<Call> {
    let is_of_stream = |call: &&Call| match call.name {
        "record" => waited.contains(&call.numbers[1]),
        name => name != "synchronize_event",
    };
    calls.iter().filter(is_of_stream).cloned().collect()
}

/// What tells one step from another: where its modulations come from, and how long it is.
fn without_step(call: &Call) -> Call {
    let mut call = call.clone();
    match &mut call.launch {
        Some((kernel, parameters)) if kernel.starts_with("euler_step") => parameters[DELTA].fill(0),
        _ => {}
    }
    if call.name == "copy" {
        call.numbers[2] = 0;
    }
    call
}

fn check(budget: impl Fn(u64, u64) -> u64, seed: Option<u64>, streams: bool) {
    let model = model();
    let options = Options { steps: 7, ..cases()[0].options(&model, DType::Bf16) };
    let job = Job::new(&model, options).expect("a job");
    let survey = job.survey(PAGE_BYTES).expect("a dry pass");
    let steps = recorded(&job, &survey, budget(survey.minimum_bytes(), survey.maximum_bytes()), seed);
    let waits = steps.iter().flatten().filter(|call| call.name == "wait");
    let waited: BTreeSet<u64> = waits.map(|call| call.numbers[1]).collect();
    let steps: Vec<Vec<Call>> = steps.iter().map(|calls| without_progress(calls, &waited)).collect();
    assert_eq!(steps.len(), 6);
    let second = &steps[1];
    assert!(second.iter().all(Call::is_for_the_steady_state), "{second:?}");
    let copies = second.iter().filter(|call| call.name == "copy_from_host").count();
    assert_eq!(copies > 0, streams, "{copies} copies");
    for (index, step) in steps.iter().enumerate().skip(2) {
        assert_eq!(step.len(), second.len(), "step {index}");
        let differ: Vec<(&Call, &Call)> = step.iter().zip(second).filter(|(a, b)| a != b).collect();
        assert_eq!(differ.len(), 2, "step {index}: {differ:?}");
        for (a, b) in differ {
            assert_eq!(without_step(a), without_step(b), "step {index}");
        }
        assert_eq!(step[0].name, "copy", "the present row comes first");
        let last = step.iter().rfind(|call| call.name == "launch").and_then(|call| call.launch.as_ref());
        assert!(last.is_some_and(|(kernel, _)| kernel.starts_with("euler_step")), "the update comes last");
    }
}

#[test]
fn every_step_from_the_second_on_is_the_same_sequence_of_calls_at_the_least_budget() {
    for seed in [None, Some(1)] {
        check(|least, _| least, seed, true);
    }
}

#[test]
fn every_step_from_the_second_on_is_the_same_sequence_of_calls_at_a_budget_between() {
    for seed in [None, Some(2)] {
        check(u64::midpoint, seed, true);
    }
}

#[test]
fn every_step_from_the_second_on_is_the_same_sequence_of_calls_without_streaming() {
    check(|_, most| most, None, false);
}
