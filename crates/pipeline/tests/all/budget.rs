//! The contract of the budget: refused or kept to, to the byte, and never visible in the picture.

use crate::common::{PAGE_BYTES, between, cases, host, model, run};
use lighterage_device::{Detail, Device, HostConfig, Ledger, Sim, SimConfig};
use lighterage_pipeline::{Error, Job, Keep, Observer, Options, Phase};
use lighterage_shape::DType;

/// The first golden case in two steps: what is checked here does not depend on their number.
fn job(dtype: DType) -> Job {
    let model = model();
    let options = Options { steps: 2, ..cases()[0].options(&model, dtype) };
    Job::new(&model, options).expect("a job")
}

fn check_same_bytes(dtype: DType) {
    let job = job(dtype);
    let survey = job.survey(PAGE_BYTES).expect("a dry pass");
    let (least, most) = (survey.minimum_bytes(), survey.maximum_bytes());
    let budgets = [least, least + (most - least) / 4, between(&survey), least + 3 * (most - least) / 4, most];
    let pictures = budgets.map(|budget| run(&job, &survey, HostConfig::default(), budget));
    for (budget, picture) in budgets.iter().zip(&pictures) {
        assert_eq!(picture.latents, pictures[0].latents, "latents at {budget} bytes");
        assert_eq!(picture.rgb, pictures[0].rgb, "pixels at {budget} bytes");
    }
    let copied = pictures.map(|picture| picture.report.phases[2].copied_bytes);
    assert!(copied[0] > copied[4], "the least budget streams: {copied:?}");
}

#[test]
fn five_budgets_give_the_same_bytes_in_bf16() {
    check_same_bytes(DType::Bf16);
}

#[test]
fn five_budgets_give_the_same_bytes_in_f32() {
    check_same_bytes(DType::F32);
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let job = job(DType::Bf16);
    let survey = job.survey(PAGE_BYTES).unwrap();
    let pictures = [1, 2, 3]
        .map(|threads| run(&job, &survey, HostConfig { threads, ..HostConfig::default() }, between(&survey)));
    for (index, picture) in pictures.iter().enumerate() {
        assert_eq!(picture.latents, pictures[0].latents, "{} threads", index + 1);
        assert_eq!(picture.rgb, pictures[0].rgb, "{} threads", index + 1);
    }
}

#[test]
fn any_interleaving_of_the_streams_gives_the_same_bytes() {
    let job = job(DType::Bf16);
    let survey = job.survey(PAGE_BYTES).unwrap();
    let least = survey.minimum_bytes();
    let expected = run(&job, &survey, HostConfig::default(), least);
    for seed in [1, 2, 3] {
        let picture = run(&job, &survey, HostConfig { seed: Some(seed), ..HostConfig::default() }, least);
        assert_eq!(picture.latents, expected.latents, "interleaving {seed}");
        assert_eq!(picture.rgb, expected.rgb, "interleaving {seed}");
    }
}

#[test]
fn one_byte_below_the_least_is_refused_with_the_numbers() {
    for page_bytes in [4096, PAGE_BYTES, 2 << 20] {
        let survey = job(DType::Bf16).survey(page_bytes).unwrap();
        let least = survey.minimum_bytes();
        survey.within(least).unwrap();
        let Err(Error::Shortage(shortage)) = survey.within(least - 1) else { panic!("not refused") };
        assert_eq!((shortage.missing_bytes(), shortage.need.bytes()), (1, least));
        let text = shortage.to_string();
        let numbers = format!("a budget of {} bytes is 1 byte too small", least - 1);
        assert!(text.contains(&numbers) && text.contains(&least.to_string()), "{text}");
        assert!(survey.within(0).is_err());
    }
}

#[test]
fn least_budget_runs_at_other_pages() {
    let job = job(DType::Bf16);
    let expected = {
        let survey = job.survey(PAGE_BYTES).unwrap();
        run(&job, &survey, HostConfig::default(), survey.minimum_bytes())
    };
    for page_bytes in [4096, 1 << 20] {
        let survey = job.survey(page_bytes).unwrap();
        let config = HostConfig { page_bytes, ..HostConfig::default() };
        let picture = run(&job, &survey, config, survey.minimum_bytes());
        assert_eq!(picture.rgb, expected.rgb, "pages of {page_bytes} bytes");
    }
}

#[test]
fn a_forecast_tells_every_phase_and_keeps_to_its_budget() {
    let survey = job(DType::Bf16).survey(PAGE_BYTES).unwrap();
    let budget = between(&survey);
    let forecast = survey.within(budget).unwrap();
    let phases: Vec<Phase> = forecast.phases.iter().map(|planned| planned.phase).collect();
    assert_eq!(phases, [Phase::Text, Phase::Modulation, Phase::Denoise, Phase::Vae]);
    assert!(
        forecast.phases.iter().all(|planned| planned.peak_bytes() <= budget && !planned.cycle().is_empty())
    );
    let table = forecast.to_string();
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(table.contains(&forecast.minimum_bytes.to_string()), "{table}");
}

#[test]
fn sim_runs_everything_but_has_no_pixels() {
    let job = job(DType::Bf16);
    let survey = job.survey(PAGE_BYTES).unwrap();
    let budget = between(&survey);
    let sim = Sim::new(SimConfig { page_bytes: PAGE_BYTES, ..SimConfig::default() }).unwrap();
    let device = Device::new(sim, Ledger::new(budget), Ledger::new(1 << 30));
    let keep = Keep { latents: true, prompt: true, steps: false };
    let picture = job.run(&device, &survey.within(budget).unwrap(), keep, &mut ()).unwrap();
    assert_eq!((picture.rgb, picture.latents, picture.prompt), (None, None, None));
    let host = run(&job, &survey, HostConfig::default(), budget);
    assert_eq!(picture.report.peak_bytes, host.report.peak_bytes);
    let copied = |report: lighterage_pipeline::Report| {
        report.phases.into_iter().map(|phase| phase.copied_bytes).collect::<Vec<_>>()
    };
    assert_eq!(copied(picture.report), copied(host.report));
}

/// Stops when so many steps are done.
pub(crate) struct StopAfter {
    pub(crate) limit: usize,
    pub(crate) done: usize,
    pub(crate) phases: Vec<Phase>,
}

impl Observer for StopAfter {
    fn phase(&mut self, phase: Phase) {
        self.phases.push(phase);
    }

    fn step(&mut self, done: usize, _steps: usize) {
        assert_eq!(done, self.done + 1, "every step is reported once");
        self.done = done;
    }

    fn cancelled(&self) -> bool {
        self.done >= self.limit
    }
}

/// The first golden case in all of its twenty steps.
pub(crate) fn long_job() -> Job {
    let model = model();
    Job::new(&model, cases()[0].options(&model, DType::Bf16)).expect("a job")
}

/// Runs until the observer stops it, and looks that nothing is left.
fn stop(job: &Job, observer: &mut dyn Observer) -> Error {
    let survey = job.survey(PAGE_BYTES).expect("a survey");
    let device = host(HostConfig::default(), between(&survey));
    let forecast = survey.within(between(&survey)).expect("a feasible budget");
    let stopped = job.run(&device, &forecast, Keep::default(), observer).expect_err("stopped");
    assert_eq!((device.ledger().granted_bytes(), device.host_ledger().granted_bytes()), (0, 0));
    stopped
}

/// A step is reported when the next one has begun: that one is the step under way, and nothing is queued behind it after the wish.
#[test]
fn a_stopped_loop_ends_after_the_step_under_way() {
    let job = long_job();
    for limit in [1, 3, 18] {
        let mut observer = StopAfter { limit, done: 0, phases: Vec::new() };
        let stopped = stop(&job, &mut observer);
        let Error::Cancelled { done, steps } = stopped else { panic!("{stopped}") };
        assert_eq!((done, steps, observer.done), (limit + 1, 20, limit + 1));
        assert_eq!(observer.phases, [Phase::Text, Phase::Modulation, Phase::Denoise]);
    }
}

/// Stops as soon as a phase has begun; at once without one.
struct StopIn {
    phase: Option<Phase>,
    phases: Vec<Phase>,
    steps: usize,
}

impl Observer for StopIn {
    fn phase(&mut self, phase: Phase) {
        self.phases.push(phase);
    }

    fn step(&mut self, done: usize, _steps: usize) {
        self.steps = done;
    }

    fn cancelled(&self) -> bool {
        self.phase.is_none_or(|phase| self.phases.contains(&phase))
    }
}

#[test]
fn a_stopped_run_begins_no_other_phase() {
    let job = long_job();
    for (phase, begun, message) in [
        (None, 0, "stopped before the text phase"),
        (Some(Phase::Text), 1, "stopped before the modulation phase"),
        (Some(Phase::Modulation), 2, "stopped before the denoise phase"),
        (Some(Phase::Denoise), 3, "stopped after step 0 of 20"),
    ] {
        let mut observer = StopIn { phase, phases: Vec::new(), steps: 0 };
        assert_eq!(stop(&job, &mut observer).to_string(), message);
        assert_eq!((observer.phases.len(), observer.steps), (begun, 0), "{message}");
    }
}

/// The last step is done when its end is reported, and the decoder does not begin.
#[test]
fn a_run_stopped_in_its_last_step_does_not_decode() {
    let job = long_job();
    let mut observer = StopAfter { limit: 20, done: 0, phases: Vec::new() };
    assert_eq!(stop(&job, &mut observer).to_string(), "stopped before the vae phase");
    assert_eq!((observer.done, observer.phases.last()), (20, Some(&Phase::Denoise)));
}

#[test]
fn the_seed_changes_the_picture_and_nothing_else_does() {
    let mut job = job(DType::Bf16);
    let survey = job.survey(PAGE_BYTES).unwrap();
    let picture = |job: &Job| run(job, &survey, HostConfig::default(), between(&survey)).rgb;
    let first = picture(&job);
    assert_eq!(first, picture(&job));
    job.reseed(1);
    assert_ne!(first, picture(&job));
}

/// Runs within a budget of the host, and says what came of it and the peaks of both ledgers.
fn within_host_budget<B: lighterage_device::Backend>(
    job: &Job,
    backend: B,
    host_bytes: u64,
) -> (Result<Option<Vec<u8>>, Error>, u64, u64) {
    let survey = job.survey(PAGE_BYTES).expect("a survey");
    let forecast = survey.within(survey.minimum_bytes()).expect("a feasible budget");
    let device = Device::new(backend, Ledger::new(forecast.budget_bytes), Ledger::new(host_bytes));
    let outcome = job.run(&device, &forecast, Keep::default(), &mut ()).map(|picture| picture.rgb);
    (outcome, device.ledger().peak_bytes(), device.host_ledger().peak_bytes())
}

/// The least that a run can do with is two stages of a page; with less than all that is streamed it is slower and the same.
#[test]
fn the_host_s_budget_is_checked_before_any_work() {
    let job = job(DType::F32);
    let survey = job.survey(PAGE_BYTES).unwrap();
    let whole = survey.within(survey.minimum_bytes()).unwrap().host_bytes();
    // Every streamed weight is kept converted: about the transformer in f32, and more than its activations.
    assert!(whole > 1 << 20, "{whole}");
    let run = |host_bytes| {
        within_host_budget(&job, lighterage_device::Host::new(HostConfig::default()).unwrap(), host_bytes)
    };
    let (least, expected) = (2 * PAGE_BYTES, run(whole));
    let (refused, device_peak, host_peak) = run(least - 1);
    let text = refused.unwrap_err().to_string();
    assert!(text.contains(&least.to_string()) && text.contains("1 missing"), "{text}");
    assert_eq!((device_peak, host_peak), (0, 0));
    assert_eq!(expected.2, whole);
    for host_bytes in [least, least.midpoint(whole)] {
        let (rgb, device_peak, host_peak) = run(host_bytes);
        assert_eq!(rgb.unwrap(), *expected.0.as_ref().unwrap(), "{host_bytes} bytes of the host");
        assert!(host_peak <= host_bytes && device_peak == expected.1, "{host_peak} of {host_bytes}");
    }
}

/// A card's streamed weights are page-locked: its need is another one than that of `Host`.
#[test]
fn a_card_s_host_budget_is_checked_before_any_work() {
    let job = job(DType::Bf16);
    let survey = job.survey(PAGE_BYTES).unwrap();
    let forecast = survey.within(survey.minimum_bytes()).unwrap();
    let whole = forecast.pinned_bytes();
    assert!(whole > forecast.host_bytes(), "{whole}, {} on the host", forecast.host_bytes());
    let run = |host_bytes| {
        let sim = Sim::new(SimConfig { page_bytes: PAGE_BYTES, ..SimConfig::default() }).unwrap();
        within_host_budget(&job, sim, host_bytes)
    };
    let least = 2 * PAGE_BYTES;
    let (refused, device_peak, host_peak) = run(least - 1);
    assert!(matches!(refused, Err(Error::HostShortage { needed_bytes, .. }) if needed_bytes == least));
    assert_eq!((device_peak, host_peak), (0, 0));
    for host_bytes in [least, least.midpoint(whole), whole] {
        let (done, _, host_peak) = run(host_bytes);
        done.unwrap();
        assert!(host_peak <= host_bytes, "{host_peak} of {host_bytes}");
    }
    assert_eq!(run(whole).2, whole);
}

/// Lowers the budget, and raises it again, while the loop runs.
pub(crate) struct Squeeze {
    pub(crate) ledger: Ledger,
    /// After so many steps the cap is so many bytes.
    pub(crate) caps: Vec<(usize, u64)>,
    /// Steps done, and what was granted then.
    pub(crate) granted: Vec<u64>,
}

impl Observer for Squeeze {
    fn step(&mut self, done: usize, _steps: usize) {
        self.granted.push(self.ledger.granted_bytes());
        for (_, cap) in self.caps.iter().filter(|(after, _)| *after == done) {
            self.ledger.set_cap_bytes(*cap);
        }
    }
}

#[test]
fn a_budget_that_changes_in_the_loop_does_not_show() {
    let model = model();
    let steps = 12;
    let job = Job::new(&model, Options { steps, ..cases()[0].options(&model, DType::Bf16) }).unwrap();
    let survey = job.survey(PAGE_BYTES).unwrap();
    let (least, most) = (survey.minimum_bytes(), survey.maximum_bytes());
    let expected = run(&job, &survey, HostConfig::default(), most);
    for config in [HostConfig::default(), HostConfig { seed: Some(5), ..HostConfig::default() }] {
        let device = host(config, most);
        let low = least.midpoint(most);
        let caps = vec![(2, low), (6, most)];
        let mut squeeze = Squeeze { ledger: device.ledger().clone(), caps, granted: Vec::new() };
        let keep = Keep { latents: true, ..Keep::default() };
        let picture = job.run(&device, &survey.within(most).unwrap(), keep, &mut squeeze).unwrap();
        assert_eq!(picture.latents, expected.latents);
        assert_eq!(picture.rgb, expected.rgb);
        let granted = &squeeze.granted;
        // Seen when the turn after the next one begins at the latest, since two steps are in flight.
        assert!(granted[1] > low && granted[5] <= low, "{granted:?}, {low} of {most}");
        assert!(granted[steps - 1] > low, "{granted:?}: never taken back");
    }
}

#[test]
fn a_model_in_the_type_of_the_run_takes_next_to_no_memory_of_the_host() {
    let survey = job(DType::Bf16).survey(PAGE_BYTES).unwrap();
    let forecast = survey.within(survey.maximum_bytes()).unwrap();
    assert!(forecast.host_bytes() < 1 << 20, "{}", forecast.host_bytes());
}

/// Spans of streams, two stamps each, in a run of so many steps, and the weights' parts that arrived.
fn recorded(steps: usize, is_tight: bool, detail: Detail) -> (usize, u64) {
    let model = model();
    let job = Job::new(&model, Options { steps, ..cases()[0].options(&model, DType::Bf16) }).unwrap();
    let survey = job.survey(PAGE_BYTES).unwrap();
    let budget = if is_tight { survey.minimum_bytes() } else { survey.maximum_bytes() };
    let device = host(HostConfig::default(), budget);
    device.record(detail);
    job.run(&device, &survey.within(budget).unwrap(), Keep::default(), &mut ()).unwrap();
    let recording = device.take_recording().unwrap();
    let spans = recording.spans.iter().filter(|span| span.stream.is_some()).count();
    (spans, recording.counts.arrivals)
}

#[test]
fn stamps_of_a_step_do_not_grow_with_what_arrives_in_it() {
    for is_tight in [false, true] {
        // Both go on for longer than weights are read ahead: the second step, which is looked at, brings the same.
        let ((seven, few), (eleven, many)) =
            (recorded(7, is_tight, Detail::Summary), recorded(11, is_tight, Detail::Summary));
        assert_eq!(eleven - seven, 4, "one span for each further step, tight: {is_tight}");
        // What is counted goes on.
        assert_eq!(many > few + 40, is_tight, "{few} and {many} arrivals");
    }
    let everything = recorded(11, true, Detail::Everything).0 - recorded(7, true, Detail::Everything).0;
    assert!(everything > 400, "{everything} spans of four steps");
}
