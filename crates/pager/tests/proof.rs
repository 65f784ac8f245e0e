//! The cap at every driver call, and what a steady state consists of.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

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
    for unit in cycle {
        let lease = pager.lease(*unit)?;
        // SAFETY: the kernel reads a byte of the weight, which is leased.
        unsafe { pager.stream().launch::<Peek>(&lease.tensor(0).address().0) }?;
    }
    Ok(())
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
