//! The cap at every driver call, and what a steady state consists of.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

#[expect(dead_code, reason = "nobody looks at launches here")]
mod watched;

use std::sync::Arc;

use lighterage_allocator::{Config, Pool};
use lighterage_checkpoint::{Checkpoint, NewTensor, Unmodified, write};
use lighterage_device::{Cost, Device, Host, HostConfig, Kernel, Ledger, Purpose, StreamKind, Workers};
use lighterage_pager::{Cycle, Goal, Pager, Plan, TensorSpec, UnitId, UnitSpec, Units};
use lighterage_shape::DType;
use lighterage_testkit::Rng;
use tempfile::TempDir;
use watched::{Call, Watched};

const PAGE: u64 = 4096;

/// Linears of different sizes in a file.
struct Model {
    units: Arc<Units>,
    cycle: Vec<UnitId>,
    _folder: TempDir,
}

impl Model {
    fn new(rng: &mut Rng, count: u64, filed: DType) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let rows: Vec<usize> = (0..count).map(|_| usize::try_from(4 + rng.below(200)).unwrap()).collect();
        let names: Vec<String> = (0..rows.len()).map(|index| format!("{index}.weight")).collect();
        let bytes: Vec<Vec<u8>> = rows
            .iter()
            .map(|rows| vec![u8::try_from(rng.below(100)).unwrap(); rows * 32 * filed.bytes()])
            .collect();
        let shapes: Vec<[usize; 2]> = rows.iter().map(|rows| [*rows, 32]).collect();
        let new = |index: usize| NewTensor {
            name: &names[index],
            dtype: filed,
            shape: &shapes[index],
            bytes: &bytes[index],
        };
        write(&path, &(0..names.len()).map(new).collect::<Vec<_>>()).unwrap();
        // SAFETY: the file lies in a folder of this test's own, which nobody else writes.
        let checkpoint = Checkpoint::open(&path, unsafe { Unmodified::promise() }).unwrap();
        let mut units = Units::default();
        for (name, shape) in names.iter().zip(&shapes) {
            let weight = TensorSpec::whole(&checkpoint, name, shape, DType::Bf16).unwrap();
            units.add(UnitSpec { name: name.clone(), tensors: vec![weight] });
        }
        let cycle = units.iter().map(|(id, _)| id).collect();
        Self { units: Arc::new(units), cycle, _folder: folder }
    }

    fn plan(&self, budget: u64) -> Plan {
        let cycles = vec![Cycle { turns: 9, ..Cycle::untimed(&self.cycle) }];
        Plan::new(&self.units, &Goal::new(cycles, budget, PAGE)).unwrap()
    }

    fn range(&self) -> (u64, u64) {
        let least = Plan::minimum(&self.units, &self.cycle, PAGE);
        (least, Plan::resident(&self.units, &self.cycle, PAGE).bytes())
    }
}

/// Reads a byte of a weight, as a launch does.
struct Peek;

impl Kernel for Peek {
    type Params = u64;
    const NAME: &'static str = "peek";

    unsafe fn host(address: &u64, _: &Workers) {
        let first = std::ptr::with_exposed_provenance::<u8>(usize::try_from(*address).unwrap());
        // SAFETY: a leased weight, by the caller's promise.
        std::hint::black_box(unsafe { first.read_volatile() });
    }

    fn cost(_: &u64) -> Cost {
        Cost::default()
    }
}

/// One turn of leases, each with a launch.
fn turn(pager: &Pager<Watched>, cycle: &[UnitId]) -> lighterage_pager::Result<()> {
    pager.turn(0)?;
    lease_all(pager, cycle)
}

/// A run with activations that come and go beside the weights, pressure, a cap that is lowered, and perhaps a call that fails. Returns the share of the cap that existed.
fn random_run(rng: &mut Rng, models: &[Model]) -> f64 {
    let model = &models[usize::try_from(rng.below(models.len() as u64)).unwrap()];
    let (least, most) = model.range();
    let weights = least + rng.below((most - least) / PAGE + 2) * PAGE;
    let activations = (1 + rng.below(6)) * PAGE;
    let ledger = Ledger::new(weights + activations);
    let config = HostConfig {
        page_bytes: PAGE,
        threads: 1,
        seed: Some(rng.below(u64::MAX)),
        fail_call: (rng.below(4) == 0).then(|| rng.below(400)),
        ..HostConfig::default()
    };
    let watched = Watched::new(Host::new(config).unwrap(), &ledger);
    let device = Device::new(watched, ledger.clone(), Ledger::new(1 << 30));
    // What an injected failure stops is given back, under the same eyes.
    let outcome = within(&device, model, weights, activations, rng);
    if let (None, Err(error)) = (config.fail_call, outcome) {
        assert!(is_refusal(&*error), "{error} under {config:?}");
    }
    let _ = device.take_deferred();
    assert_eq!((device.backend().host().usage().bytes, ledger.granted_bytes()), (0, 0), "{config:?}");
    device.backend().peak_bytes() as f64 / (weights + activations) as f64
}

/// Whether it is about memory that is not there: what a run without an injected failure may end with.
fn is_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    use lighterage_pager::Error::{Device, Room};
    let of_pool = matches!(error.downcast_ref(), Some(lighterage_allocator::Error::OutOfMemory(_)));
    let of_pager = error.downcast_ref();
    of_pool || matches!(of_pager, Some(Room { .. } | Device(lighterage_device::Error::OutOfBudget(_))))
}

fn within(
    device: &Device<Watched>,
    model: &Model,
    weights: u64,
    activations: u64,
    rng: &mut Rng,
) -> Result<(), Box<dyn std::error::Error>> {
    let stream = device.stream(StreamKind::Compute)?;
    let pool = Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 24 })?;
    let pager = Arc::new(Pager::planned(&stream, Arc::clone(&model.units), &model.plan(weights))?);
    let asked = Arc::downgrade(&pager);
    let give = move |need: lighterage_allocator::Need| {
        asked.upgrade().map_or(0, |pager| pager.shrink(need.bytes).unwrap_or(0))
    };
    let _registration = pool.on_pressure(0, give);
    for _ in 0..3 {
        // Up to twice what the plan left for it: then the weights have to make room.
        let buffer = pool.allocate(1 + rng.below(2 * activations), "activations");
        turn(&pager, &model.cycle)?;
        drop(buffer);
        if rng.below(3) == 0 {
            pool.trim()?;
        }
    }
    Ok(())
}

#[test]
fn no_driver_call_of_a_thousand_runs_finds_more_than_the_cap() {
    let mut rng = Rng::from_env(80);
    let models: Vec<Model> = (0..24)
        .map(|index| {
            let filed = if index % 3 == 0 { DType::F32 } else { DType::Bf16 };
            let count = 2 + rng.below(14);
            Model::new(&mut rng, count, filed)
        })
        .collect();
    let mut full = 0;
    for _ in 0..1000 {
        full += usize::from(random_run(&mut rng, &models) > 0.9);
    }
    assert!(full > 300, "{full} runs came near their cap");
}

/// The calls of four turns, one by one.
fn recorded(model: &Model, budget: u64, config: HostConfig) -> [Vec<Call>; 4] {
    let ledger = Ledger::new(budget);
    let watched = Watched::new(Host::new(config).unwrap(), &ledger);
    let device = Device::new(watched, ledger, Ledger::new(1 << 30));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let pager = Pager::planned(&stream, Arc::clone(&model.units), &model.plan(budget)).unwrap();
    device.backend().take_log();
    [(); 4].map(|()| {
        turn(&pager, &model.cycle).unwrap();
        device.backend().take_log()
    })
}

/// What two graphs of a step, one for each stream, would hold: the same calls with the same streams, events, addresses and parameters from the second turn on, and none
/// in which the host waits or memory comes or goes.
#[test]
fn every_turn_from_the_second_on_is_the_same_sequence_of_calls() {
    let mut rng = Rng::from_env(81);
    for filed in [DType::Bf16, DType::F32] {
        let model = Model::new(&mut rng, 24, filed);
        let (least, most) = model.range();
        for budget in [least, least + (most - least) / 4, least.midpoint(most), most - PAGE, most] {
            for seed in [None, Some(1), Some(2)] {
                let config = HostConfig { page_bytes: PAGE, threads: 1, seed, ..HostConfig::default() };
                let [first, second, third, fourth] = recorded(&model, budget, config);
                assert_eq!(second, third, "budget {budget}");
                assert_eq!(third, fourth, "budget {budget}");
                assert!(second.iter().all(Call::is_for_the_steady_state), "{second:?}");
                let copies = second.iter().filter(|call| call.name == "copy_from_host").count();
                assert_eq!(copies > 0, budget < most, "{copies} copies in {budget} bytes");
                // Launches wait for copies and copies for launches, each by events of the other stream.
                let waits = second.iter().filter(|call| call.name == "wait").count();
                assert_eq!(waits > 0, budget < most);
                assert!(first.len() >= second.len());
            }
        }
    }
}

/// The first unit's launch is queued before the last one's bytes are: loading and work go on side by side.
#[test]
fn the_first_launch_is_queued_while_the_rest_is_still_to_be_loaded() {
    let mut rng = Rng::from_env(82);
    for filed in [DType::Bf16, DType::F32] {
        let model = Model::new(&mut rng, 40, filed);
        let (least, most) = model.range();
        for budget in [least, least.midpoint(most), most] {
            let config = HostConfig { page_bytes: PAGE, threads: 1, seed: Some(3), ..HostConfig::default() };
            let [first, ..] = recorded(&model, budget, config);
            let launch = first.iter().position(|call| call.name == "launch").unwrap();
            let copies_after = first[launch..].iter().filter(|call| call.name == "copy_from_host").count();
            assert!(copies_after > 10, "{copies_after} copies behind the first launch, budget {budget}");
        }
    }
}

/// A stream's step of a recorded turn, as far as flags go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Raise(usize),
    Take(usize),
    /// A mistake: waits and leaves the flag raised.
    Look(usize),
}

/// What the two graphs of a turn do with flags, the compute stream's first, and which flags are raised before the first replay.
struct Signals {
    streams: [Vec<Signal>; 2],
    raised: Vec<usize>,
    flags: usize,
}

impl Signals {
    /// Those of the second turn of a pager, recorded.
    fn of(model: &Model, budget: u64) -> Self {
        let ledger = Ledger::new(budget);
        let config = HostConfig { page_bytes: PAGE, threads: 1, seed: Some(1), ..HostConfig::default() };
        let watched = Watched::new(Host::new(config).unwrap(), &ledger);
        let device = Device::new(watched, ledger, Ledger::new(1 << 30));
        let stream = device.stream(StreamKind::Compute).unwrap();
        let pager = Pager::planned(&stream, Arc::clone(&model.units), &model.plan(budget)).unwrap();
        let pager = pager.replayable().unwrap();
        turn(&pager, &model.cycle).unwrap();
        pager.turn(0).unwrap();
        device.backend().take_log();
        let recorded = pager.capture(|| lease_all(&pager, &model.cycle)).unwrap().1;
        assert!(recorded.is_some(), "a turn of the steady state");
        let log = device.backend().take_log();
        let begins = log.iter().filter(|call| call.name == "begin_graph");
        let streams: Vec<u64> = begins.map(|call| call.numbers[0]).collect();
        let recording = log.iter().position(|call| call.name == "begin_graph").unwrap();
        let flag = |call: &Call| usize::try_from(call.numbers[2]).unwrap();
        let signals = |stream: u64| {
            let calls = log[recording..].iter().filter(move |call| call.numbers[0] == stream);
            let signal = |call: &Call| match call.name {
                "raise" => Some(Signal::Raise(flag(call))),
                "take" => Some(Signal::Take(flag(call))),
                "record" | "wait" => panic!("{call:?}: an event in a graph"),
                _ => None,
            };
            calls.filter_map(signal).collect()
        };
        let raised = log[..recording].iter().filter(|call| call.name == "raise").map(flag).collect();
        let flags = usize::try_from(model.plan(budget).flag_bytes() / 4).unwrap();
        Self { streams: [signals(streams[0]), signals(streams[1])], raised, flags }
    }

    /// Goes through every interleaving of so many replays: no flag is raised while it is raised, nothing waits for ever, and in the end flags are as they were before.
    fn check(&self, turns: usize) -> Result<usize, String> {
        let ends = [0, 1].map(|stream| self.streams[stream].len() * turns);
        let mut raised = vec![false; self.flags];
        self.raised.iter().for_each(|flag| raised[*flag] = true);
        let (mut open, mut seen) = (vec![([0, 0], raised.clone())], std::collections::BTreeSet::new());
        while let Some((at, flags)) = open.pop() {
            if !seen.insert((at, flags.clone())) {
                continue;
            }
            let mut has_moved = at == ends;
            for stream in [0, 1] {
                if at[stream] == ends[stream] {
                    continue;
                }
                let (mut next, mut flags) = (at, flags.clone());
                next[stream] += 1;
                match self.streams[stream][at[stream] % self.streams[stream].len()] {
                    Signal::Raise(flag) if flags[flag] => {
                        return Err(format!("flag {flag} raised twice at {at:?}"));
                    }
                    Signal::Raise(flag) => flags[flag] = true,
                    Signal::Take(flag) | Signal::Look(flag) if !flags[flag] => continue,
                    Signal::Take(flag) => flags[flag] = false,
                    Signal::Look(_) => (),
                }
                has_moved = true;
                open.push((next, flags));
            }
            if !has_moved {
                return Err(format!("both streams wait at {at:?}"));
            }
            if at == ends && flags != raised {
                return Err("flags are not as they were before".to_owned());
            }
        }
        Ok(seen.len())
    }
}

/// Leases of a turn, each with a launch.
fn lease_all(pager: &Pager<Watched>, cycle: &[UnitId]) -> lighterage_pager::Result<()> {
    for unit in cycle {
        let lease = pager.lease(*unit)?;
        // SAFETY: the kernel reads a byte of the weight, which is leased.
        unsafe { pager.stream().launch::<Peek>(&lease.tensor(0).address().0) }?;
    }
    Ok(())
}

/// One bit for each flag is enough: on random lists of units, at budgets from the least to nearly everything, whatever the streams' speeds.
#[test]
fn flags_of_recorded_turns_lose_no_signal_in_any_interleaving() {
    let mut rng = Rng::from_env(83);
    let (mut states, mut crossing, mut faults) = (0, 0, 0);
    for _ in 0..12 {
        let count = 3 + rng.below(12);
        let model = Model::new(&mut rng, count, DType::Bf16);
        let (least, most) = model.range();
        for budget in [least, least + (most - least) / 4, least.midpoint(most), most - PAGE] {
            let signals = Signals::of(&model, budget);
            states += signals.check(3).unwrap_or_else(|fault| panic!("{fault}, budget {budget} of {most}"));
            crossing += signals.raised.len();
            faults += check_planted(&signals);
        }
    }
    assert!(states > 5_000, "{states} states were looked at");
    assert!(crossing > 20, "{crossing} signals crossed from one turn into the next");
    assert!(faults > 400, "{faults} mistakes were planted");
}

/// Each take left out, and each that leaves its flag raised, is found; how many there were.
fn check_planted(signals: &Signals) -> usize {
    let mut planted = 0;
    for stream in [0, 1] {
        for index in 0..signals.streams[stream].len() {
            let Signal::Take(flag) = signals.streams[stream][index] else { continue };
            let with = |replacement: Option<Signal>| {
                let mut streams = signals.streams.clone();
                match replacement {
                    Some(signal) => streams[stream][index] = signal,
                    None => drop(streams[stream].remove(index)),
                }
                Signals { streams, raised: signals.raised.clone(), flags: signals.flags }
            };
            with(None).check(3).expect_err("a take that was left out");
            with(Some(Signal::Look(flag))).check(3).expect_err("a flag that was left raised");
            planted += 2;
        }
    }
    planted
}
