//! The pager on devices: whatever the budget, the device and the order of its work, launches read the checkpoint's very bytes.

use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use lighterage_allocator::{Buffer, Config, Pool};
use lighterage_checkpoint::{Checkpoint, NewTensor, Unmodified, write};
use lighterage_device::{
    Backend, Cost, Device, Host, HostConfig, Kernel, Ledger, Purpose, Sim, SimConfig, Stream, StreamKind,
    View, Workers,
};
use lighterage_shape::{DType, Layout};
use lighterage_testkit::Rng;
use tempfile::TempDir;

use crate::pager::Fault;
use crate::{Cycle, Error, Goal, Lease, Pager, Plan, Result, Source, TensorSpec, UnitId, UnitSpec, Units};

mod ahead;
mod graphs;
mod pressure;
mod source;

const PAGE: u64 = 4096;

/// A model of linears, written to a file, with the bytes that the device should see.
struct Model {
    units: Arc<Units>,
    cycle: Vec<UnitId>,
    /// Of each unit, the bytes of its tensors.
    expected: Vec<Vec<Vec<u8>>>,
    _folder: TempDir,
}

fn open(path: &Path) -> Checkpoint {
    // SAFETY: the file lies in a folder of this test's own, which nobody else writes.
    let promise = unsafe { Unmodified::promise() };
    Checkpoint::open(path, promise).unwrap()
}

fn to_bytes(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
    }
}

/// Values that `filed` holds exactly, so that what the device should see follows from them alone.
fn values(rng: &mut Rng, count: usize, filed: DType) -> Vec<f32> {
    let round = |value: f32| match filed {
        DType::F32 => value,
        DType::F16 => f16::from_f32(value).to_f32(),
        _ => bf16::from_f32(value).to_f32(),
    };
    rng.normals(count, 1.0).into_iter().map(round).collect()
}

fn extent(rng: &mut Rng, most: u64) -> usize {
    usize::try_from(8 + rng.below(most)).unwrap()
}

impl Model {
    /// `count` linears of different sizes in a file of `filed` elements, wanted as `wanted`; some are visited twice in a cycle.
    fn new(seed: u64, count: usize, filed: DType, wanted: DType) -> Self {
        let mut rng = Rng::from_env(seed);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut tensors = Vec::new();
        for index in 0..count {
            let (rows, columns) = (extent(&mut rng, 50), extent(&mut rng, 70));
            let name = format!("layers.{index}");
            tensors.push((
                format!("{name}.weight"),
                vec![rows, columns],
                values(&mut rng, rows * columns, filed),
            ));
            tensors.push((format!("{name}.bias"), vec![rows], values(&mut rng, rows, filed)));
        }
        let filed_bytes: Vec<Vec<u8>> =
            tensors.iter().map(|(_, _, values)| to_bytes(values, filed)).collect();
        let new = tensors.iter().zip(&filed_bytes);
        let new = new.map(|((name, shape, _), bytes)| NewTensor { name, dtype: filed, shape, bytes });
        write(&path, &new.collect::<Vec<_>>()).unwrap();
        let checkpoint = open(&path);
        let mut units = Units::default();
        for pair in tensors.chunks_exact(2) {
            let spec = |(name, shape, _): &(String, Vec<usize>, Vec<f32>)| {
                TensorSpec::whole(&checkpoint, name, shape, wanted).unwrap()
            };
            units.add(UnitSpec { name: pair[0].0.clone(), tensors: pair.iter().map(spec).collect() });
        }
        let expected = tensors
            .chunks_exact(2)
            .map(|pair| pair.iter().map(|t| to_bytes(&t.2, wanted)).collect())
            .collect();
        let all: Vec<UnitId> = units.iter().map(|(id, _)| id).collect();
        let again = all.iter().step_by(4);
        let cycle = all.iter().chain(again).copied().collect();
        Self { units: Arc::new(units), cycle, expected, _folder: folder }
    }

    fn plan(&self, budget_bytes: u64) -> Plan {
        Plan::within(&self.units, &self.cycle, budget_bytes, PAGE).unwrap()
    }

    /// A plan for a loop that holds so many leases at once.
    fn plan_from(&self, budget_bytes: u64, held: usize, source: Source) -> Plan {
        let cycles = vec![Cycle { turns: 2, ..Cycle::untimed(&self.cycle) }];
        Plan::new(&self.units, &Goal { held, source, ..Goal::new(cycles, budget_bytes, PAGE) }).unwrap()
    }

    fn minimum(&self) -> u64 {
        Plan::minimum(&self.units, &self.cycle, PAGE)
    }

    fn total(&self) -> u64 {
        Plan::resident(&self.units, &self.cycle, PAGE).bytes()
    }

    /// Five budgets from the smallest possible one to everything.
    fn budgets(&self) -> [u64; 5] {
        let (least, most) = (self.minimum(), self.total());
        [0, 1, 2, 3, 4].map(|step| least + (most - least) * step / 4)
    }
}

/// Copies bytes on the device, as a launch that reads a weight.
struct CopyKernel;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct CopyParams {
    target: u64,
    source: u64,
    bytes: u64,
}

impl Kernel for CopyKernel {
    type Params = CopyParams;
    const NAME: &'static str = "copy";

    unsafe fn host(params: &CopyParams, _: &Workers) {
        let target = std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(params.target).unwrap());
        let source = std::ptr::with_exposed_provenance::<u8>(usize::try_from(params.source).unwrap());
        // SAFETY: both are mapped for that many bytes and do not meet, by the caller's promise.
        unsafe { std::ptr::copy(source, target, usize::try_from(params.bytes).unwrap()) }
    }

    fn cost(params: &CopyParams) -> Cost {
        Cost { flops: 0.0, bytes: 2.0 * params.bytes as f64 }
    }
}

/// What a launch read, to be looked at when all work is done.
struct Seen<B: Backend> {
    buffer: Buffer<B>,
    layout: Layout,
    visit: usize,
    tensor: usize,
}

fn copy_out<B: Backend>(pool: &Pool<B>, source: View<'_>, visit: usize, tensor: usize) -> Seen<B> {
    let bytes = source.layout().bytes() as u64;
    let seen =
        Seen { buffer: pool.allocate(bytes, "seen").unwrap(), layout: *source.layout(), visit, tensor };
    let params = CopyParams { target: seen.buffer.address().0, source: source.address().0, bytes };
    // SAFETY: both places are mapped and have that many bytes; the view's lease lives until the launch returns.
    unsafe { pool.stream().launch::<CopyKernel>(&params) }.unwrap();
    seen
}

fn read<B: Backend>(stream: &Stream<B>, seen: &Seen<B>) -> Option<Vec<u8>> {
    // SAFETY: the buffer has the layout's bytes and orders its work by its owner.
    let view = unsafe { View::new(seen.buffer.address(), seen.layout, seen.buffer.owner()) };
    match seen.layout.dtype() {
        DType::F32 => stream.read::<u32>(view).unwrap().map(|v| bytemuck::cast_slice(&v).to_vec()),
        _ => stream.read::<u16>(view).unwrap().map(|v| bytemuck::cast_slice(&v).to_vec()),
    }
}

struct Run {
    host: HostConfig,
    fault: Option<Fault>,
    /// How many leases are held at once.
    held: usize,
    /// Bytes of the host that may be pinned.
    host_budget: u64,
    source: Source,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            host: HostConfig { page_bytes: PAGE, threads: 2, ..HostConfig::default() },
            fault: None,
            held: 1,
            host_budget: 1 << 30,
            source: Source::Copied,
        }
    }
}

const CYCLES: usize = 3;

/// Runs three cycles within a budget that the ledger enforces to the byte, and counts the tensors that launches saw wrong.
fn wrong_tensors(model: &Model, budget: u64, run: &Run) -> usize {
    let outputs = (model.total() * 2 + 512 * model.cycle.len() as u64 * 2) * CYCLES as u64;
    let outputs = outputs.next_multiple_of(PAGE);
    let ledger = Ledger::new(budget / PAGE * PAGE + outputs);
    let device = Device::new(Host::new(run.host).unwrap(), ledger.clone(), Ledger::new(run.host_budget));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let pool = Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: outputs }).unwrap();
    let plan = model.plan_from(budget, run.held, run.source);
    let pager = Pager::build(&stream, Arc::clone(&model.units), plan.clone(), run.fault).unwrap();
    assert_eq!(ledger.granted_for(Purpose::Ring) + ledger.granted_for(Purpose::Resident), plan.bytes());
    let (mut seen, mut copied, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..CYCLES {
        let mut held = Vec::new();
        for (visit, unit) in model.cycle.iter().enumerate() {
            let lease = pager.lease(*unit).unwrap();
            let tensors = 0..model.units.get(*unit).tensors.len();
            seen.extend(tensors.map(|tensor| copy_out(&pool, lease.tensor(tensor), visit, tensor)));
            places.push(lease.tensor(0).address());
            held.push(lease);
            if held.len() == run.held {
                drop(held.remove(0));
            }
        }
        drop(held);
        copied.push(pager.statistics().copied_bytes);
    }
    for pair in copied.windows(2) {
        assert_eq!(pair[1] - pair[0], plan.streamed_bytes(), "bytes copied in a later cycle");
    }
    assert_eq!(
        places,
        places[..model.cycle.len()].repeat(CYCLES),
        "a visit's address differs from cycle to cycle"
    );
    assert_eq!(pager.trace(), model.cycle.repeat(CYCLES));
    assert!(ledger.peak_bytes() <= ledger.cap_bytes());
    let expected = |seen: &Seen<Host>| &model.expected[model.cycle[seen.visit].0 as usize][seen.tensor];
    seen.iter().filter(|seen| read(&stream, seen).as_ref() != Some(expected(seen))).count()
}

fn check(model: &Model, run: &Run) {
    for budget in model.budgets() {
        assert_eq!(
            wrong_tensors(model, budget, run),
            0,
            "budget {budget} of {}, {:?}",
            model.total(),
            run.host
        );
    }
}

fn seeded(seed: u64) -> HostConfig {
    HostConfig { page_bytes: PAGE, threads: 1, seed: Some(seed), ..HostConfig::default() }
}

#[test]
fn launches_read_the_files_bytes_at_every_budget() {
    check(&Model::new(1, 24, DType::Bf16, DType::Bf16), &Run::default());
}

#[test]
fn converted_weights_are_the_same_at_every_budget() {
    for (filed, wanted) in [
        (DType::F32, DType::Bf16),
        (DType::Bf16, DType::F32),
        (DType::F16, DType::F32),
        (DType::F16, DType::Bf16),
        (DType::F32, DType::F32),
    ] {
        check(&Model::new(2, 12, filed, wanted), &Run::default());
    }
}

#[test]
fn several_leases_may_be_held() {
    let model = Model::new(3, 24, DType::Bf16, DType::Bf16);
    // With a ring of two units, each lease but the last of two is held while the next is asked for.
    let budget = model.minimum() * 4;
    for held in [2, 3] {
        assert_eq!(wrong_tensors(&model, budget, &Run { held: held.min(2), ..Run::default() }), 0);
        assert_eq!(wrong_tensors(&model, model.total(), &Run { held, ..Run::default() }), 0);
    }
}

#[test]
fn a_slow_link_changes_no_byte() {
    let link_bytes_per_second = Some(20e6);
    let host = HostConfig { page_bytes: PAGE, threads: 2, link_bytes_per_second, ..HostConfig::default() };
    check(&Model::new(4, 12, DType::Bf16, DType::Bf16), &Run { host, ..Run::default() });
}

#[test]
fn any_interleaving_of_the_streams_gives_the_same_bytes() {
    for seed in 0..60 {
        let filed = if seed % 2 == 0 { DType::Bf16 } else { DType::F32 };
        let model = Model::new(seed, 3 + usize::try_from(seed % 9).unwrap(), filed, DType::Bf16);
        check(&model, &Run { host: seeded(seed), ..Run::default() });
    }
}

/// A planted mistake is seen by some seed, and the same seeds are clean without it.
fn check_fault_is_seen(fault: Fault) {
    let model = Model::new(6, 10, DType::Bf16, DType::Bf16);
    let budget = model.budgets()[1];
    let wrong =
        |seed, fault| wrong_tensors(&model, budget, &Run { host: seeded(seed), fault, ..Run::default() });
    assert!((0..10).all(|seed| wrong(seed, None) == 0));
    assert!((0..10).any(|seed| wrong(seed, Some(fault)) > 0), "{fault:?} goes unseen");
}

#[test]
fn launches_that_do_not_wait_for_copies_are_caught() {
    check_fault_is_seen(Fault::NoWaitForCopy);
}

#[test]
fn copies_that_do_not_wait_for_launches_are_caught() {
    check_fault_is_seen(Fault::NoWaitForLaunches);
}

#[test]
fn a_ring_that_is_reused_one_unit_early_is_caught() {
    check_fault_is_seen(Fault::OneUnitEarly);
}

/// Two files with the same names and shapes and other numbers, in one cycle.
#[test]
fn weights_of_a_sibling_model_with_the_same_names_are_caught() {
    for filed in [DType::Bf16, DType::F32] {
        let model = Model::new(26, 6, filed, DType::Bf16);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sibling.safetensors");
        let mut units: Vec<UnitSpec> = model.units.iter().map(|(_, unit)| unit.clone()).collect();
        let tensors: Vec<_> =
            units.iter().flat_map(|unit| &unit.tensors).map(|spec| spec.pieces()[0].tensor.clone()).collect();
        // 2 in bf16, and in the upper half of an f32: no random number is it.
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|tensor| match filed {
                DType::F32 => [0_u8, 0, 0, 0x40].repeat(tensor.bytes().len() / 4),
                _ => [0_u8, 0x40].repeat(tensor.bytes().len() / 2),
            })
            .collect();
        let new = tensors.iter().zip(&bytes).map(|(tensor, bytes)| NewTensor {
            name: tensor.name(),
            dtype: filed,
            shape: tensor.shape(),
            bytes,
        });
        write(&path, &new.collect::<Vec<_>>()).unwrap();
        let sibling = open(&path);
        let mut expected = model.expected.clone();
        for index in 0..units.len() {
            let tensors: Vec<TensorSpec> = units[index]
                .tensors
                .iter()
                .map(|spec| {
                    let name = spec.pieces()[0].tensor.name();
                    TensorSpec::whole(&sibling, name, spec.shape(), DType::Bf16).unwrap()
                })
                .collect();
            expected.push(
                tensors
                    .iter()
                    .map(|spec| [0_u8, 0x40].repeat(usize::try_from(spec.bytes()).unwrap() / 2))
                    .collect(),
            );
            units.push(UnitSpec { name: units[index].name.clone(), tensors });
        }
        let mut both = Units::default();
        let cycle = units.into_iter().map(|unit| both.add(unit)).collect();
        let both = Model { units: Arc::new(both), cycle, expected, _folder: folder };
        for budget in both.budgets() {
            let wrong =
                |fault| wrong_tensors(&both, budget, &Run { host: seeded(budget), fault, ..Run::default() });
            assert_eq!(wrong(None), 0);
            assert_eq!(wrong(Some(Fault::KnownByName)), CYCLES * tensors.len(), "all of the sibling's");
        }
    }
}

/// A host with an ample ledger, and its compute stream.
fn host(cap: u64) -> (Device<Host>, Stream<Host>) {
    let backend = Host::new(HostConfig { page_bytes: PAGE, threads: 1, ..HostConfig::default() }).unwrap();
    let device = Device::new(backend, Ledger::new(cap), Ledger::new(1 << 30));
    let stream = device.stream(StreamKind::Compute).unwrap();
    (device, stream)
}

fn streaming(model: &Model, stream: &Stream<Host>, budget: u64) -> Result<Pager<Host>> {
    Pager::new(stream, Arc::clone(&model.units), &model.cycle, &model.plan(budget))
}

#[test]
fn a_lease_out_of_order_is_refused_and_the_next_one_works() {
    let model = Model::new(7, 6, DType::Bf16, DType::Bf16);
    let (_device, stream) = host(1 << 30);
    let pager = streaming(&model, &stream, model.minimum()).unwrap();
    let error = pager.lease(model.cycle[1]).unwrap_err();
    assert_eq!(error.to_string(), "unit layers.1.weight leased, layers.0.weight is next in the cycle");
    assert!(matches!(pager.lease(UnitId(99)), Err(Error::Order { .. })));
    drop(pager.lease(model.cycle[0]).unwrap());
    drop(pager.lease(model.cycle[1]).unwrap());
}

#[test]
fn a_lease_without_room_is_refused_until_another_is_dropped() {
    let model = Model::new(8, 6, DType::Bf16, DType::Bf16);
    let (_device, stream) = host(1 << 30);
    let pager = streaming(&model, &stream, model.minimum()).unwrap();
    let mut held = Vec::new();
    let error = loop {
        match pager.lease(model.cycle[held.len()]) {
            Ok(lease) => held.push(lease),
            Err(error) => break error,
        }
    };
    let Error::Room { bytes, ring, held: count, .. } = error else { panic!("{error}") };
    assert_eq!((count, ring), (held.len(), model.minimum()));
    assert_eq!(bytes, model.units.bytes(model.cycle[held.len()]));
    let next = model.cycle[held.len()];
    drop(held);
    assert!(pager.lease(next).is_ok());
}

#[test]
fn a_resident_pager_takes_any_order() {
    let model = Model::new(9, 6, DType::F32, DType::Bf16);
    let (device, stream) = host(1 << 30);
    let pager = Pager::resident(&stream, Arc::clone(&model.units)).unwrap();
    let pool = Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 20 }).unwrap();
    let order = [3, 0, 5, 5, 1, 3, 2, 4];
    for unit in order {
        let lease = pager.lease(UnitId(unit)).unwrap();
        let seen = copy_out(&pool, lease.tensor(0), 0, 0);
        assert_eq!(read(&stream, &seen).unwrap(), model.expected[unit as usize][0]);
    }
    assert_eq!(pager.trace(), order.map(UnitId));
    assert!(matches!(pager.lease(UnitId(6)), Err(Error::NotPlanned { unit: 6 })));
    drop(pager);
    assert_eq!(device.ledger().granted_for(Purpose::Resident), 0);
    assert_eq!(device.host_ledger().granted_bytes(), 0);
}

#[test]
fn a_budget_that_the_ledger_does_not_have_is_refused_and_nothing_stays() {
    let model = Model::new(10, 6, DType::Bf16, DType::Bf16);
    let plan = model.plan(model.budgets()[2]);
    for cap in [0, plan.ring_bytes() - 1, plan.bytes() - 1] {
        let (device, stream) = host(cap);
        let refused = Pager::new(&stream, Arc::clone(&model.units), &model.cycle, &plan).unwrap_err();
        assert!(matches!(refused, Error::Device(lighterage_device::Error::OutOfBudget(_))), "{refused}");
        assert_eq!(device.ledger().granted_bytes(), 0);
    }
}

#[test]
fn too_little_host_memory_is_refused_before_the_run() {
    let model = Model::new(11, 6, DType::F32, DType::Bf16);
    let plan = model.plan(model.minimum());
    let (pinned, least) = (plan.pinned_bytes(&model.units, false), 2 * PAGE);
    let converted: usize = model.expected.iter().flatten().map(Vec::len).sum();
    // Of the units, with their alignment; the smallest budget wants each at a page's beginning.
    assert!((converted as u64..converted as u64 + PAGE * model.units.count() as u64).contains(&pinned));
    assert_eq!(plan.least_pinned_bytes(&model.units, false), least);
    let make = |free| {
        let backend =
            Host::new(HostConfig { page_bytes: PAGE, threads: 1, ..HostConfig::default() }).unwrap();
        let device = Device::new(backend, Ledger::new(1 << 30), Ledger::new(free));
        let stream = device.stream(StreamKind::Compute).unwrap();
        Pager::new(&stream, Arc::clone(&model.units), &model.cycle, &plan).map(|_| ())
    };
    let refused = make(least - 1).unwrap_err();
    assert!(refused.to_string().contains("1 bytes missing"), "{refused}");
    make(least).unwrap();
}

/// What has no place in page-locked memory goes through two small stages, in every turn.
#[test]
fn a_host_budget_of_any_size_gives_the_same_bytes() {
    for filed in [DType::F32, DType::F16] {
        let model = Model::new(18, 12, filed, DType::Bf16);
        for budget in model.budgets() {
            let plan = model.plan(budget);
            let pinned = plan.pinned_bytes(&model.units, false);
            let least = plan.least_pinned_bytes(&model.units, false);
            for host_budget in
                [least, least + 1, least.midpoint(pinned), pinned.saturating_sub(1).max(least), pinned]
            {
                let run = Run { host: seeded(budget ^ host_budget), host_budget, ..Run::default() };
                assert_eq!(
                    wrong_tensors(&model, budget, &run),
                    0,
                    "budget {budget}, {host_budget} of the host"
                );
            }
        }
    }
}

#[test]
fn a_plan_for_another_cycle_is_refused() {
    let model = Model::new(12, 6, DType::Bf16, DType::Bf16);
    let other = Model::new(13, 6, DType::Bf16, DType::Bf16);
    let (_device, stream) = host(1 << 30);
    let plan = model.plan(model.minimum());
    let new = |units: &Arc<Units>, cycle: &[UnitId], plan: &Plan| {
        Pager::new(&stream, Arc::clone(units), cycle, plan).map(|_| ()).unwrap_err().to_string()
    };
    assert!(new(&model.units, &model.cycle[1..], &plan).contains("visits of the cycle"));
    let mut swapped = model.cycle.clone();
    swapped.swap(0, 1);
    assert!(new(&model.units, &swapped, &plan).contains("unit in the cycle"));
    assert!(new(&other.units, &model.cycle, &plan).contains("bytes of a unit"));
    // As many bytes in all, dealt out otherwise: a view would end behind its unit.
    let mut moved = Units::default();
    let mut specs: Vec<UnitSpec> = model.units.iter().map(|(_, spec)| spec.clone()).collect();
    let at = (1..specs.len()).find(|index| specs[*index].bytes() != specs[0].bytes()).unwrap();
    specs.swap(0, at);
    for spec in specs {
        moved.add(spec);
    }
    let (moved, once) = (Arc::new(moved), &model.cycle[..model.units.count()]);
    let whole = Plan::resident(&model.units, once, PAGE);
    assert!(new(&moved, once, &whole).contains("bytes of a unit"));
    let small_pages = Plan::within(&model.units, &model.cycle, model.minimum() + PAGE, 256).unwrap();
    assert!(new(&model.units, &model.cycle, &small_pages).contains("bytes of a page"));
}

#[test]
fn a_dry_pass_copies_and_pins_what_a_run_would() {
    for filed in [DType::Bf16, DType::F32] {
        let model = Model::new(14, 12, filed, DType::Bf16);
        for budget in model.budgets() {
            let plan = model.plan(budget);
            let sim = Sim::new(SimConfig { page_bytes: PAGE, ..SimConfig::default() }).unwrap();
            let real =
                Host::new(HostConfig { page_bytes: PAGE, threads: 1, ..HostConfig::default() }).unwrap();
            let dry = totals(sim, &model, &plan);
            let real = totals(real, &model, &plan);
            assert_eq!((dry.0, dry.1), (real.0, real.1));
            assert_eq!((dry.1, dry.2), (plan.bytes(), plan.pinned_bytes(&model.units, true)));
            assert_eq!(real.2, plan.pinned_bytes(&model.units, false));
        }
    }
}

/// Bytes copied, and peaks of both ledgers, after two cycles.
fn totals<B: Backend>(backend: B, model: &Model, plan: &Plan) -> (u64, u64, u64) {
    let device = Device::new(backend, Ledger::new(1 << 30), Ledger::new(1 << 30));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let pager = Pager::new(&stream, Arc::clone(&model.units), &model.cycle, plan).unwrap();
    for unit in model.cycle.repeat(2) {
        drop(pager.lease(unit).unwrap());
    }
    (pager.statistics().copied_bytes, device.ledger().peak_bytes(), device.host_ledger().peak_bytes())
}
#[test]
fn every_failing_driver_call_is_survived() {
    let model = Model::new(15, 6, DType::F32, DType::Bf16);
    let mut failures = 0;
    for n in 1.. {
        let backend = Host::new(HostConfig { fail_call: Some(n), ..seeded(n) }).unwrap();
        let device = Device::new(backend, Ledger::new(1 << 30), Ledger::new(1 << 30));
        let stream = device.stream(StreamKind::Compute).unwrap();
        let mut outcome = two_cycles(&stream, &model);
        let failed = outcome.is_err() || device.take_deferred().is_err();
        if failed {
            failures += 1;
            outcome = two_cycles(&stream, &model);
        }
        assert!(outcome.is_ok(), "call {n} failed once, and then again: {outcome:?}");
        assert_eq!(device.ledger().granted_bytes(), 0, "call {n}");
        assert_eq!(device.host_ledger().granted_bytes(), 0, "call {n}");
        if device.backend().driver_calls() <= n {
            break;
        }
    }
    assert!(failures > 50, "only {failures} failures were seen");
}

fn two_cycles(stream: &Stream<Host>, model: &Model) -> Result<()> {
    let pager = streaming(model, stream, model.budgets()[1])?;
    model.cycle.repeat(2).into_iter().try_for_each(|unit| pager.lease(unit).map(drop))
}

#[test]
fn a_later_cycle_queues_copies_and_events_only() {
    let model = Model::new(16, 12, DType::F32, DType::Bf16);
    for budget in model.budgets() {
        let backend = Host::new(seeded(1)).unwrap();
        let device = Device::new(backend, Ledger::new(1 << 30), Ledger::new(1 << 30));
        let stream = device.stream(StreamKind::Compute).unwrap();
        let pager = streaming(&model, &stream, budget).unwrap();
        let mut calls = Vec::new();
        for _ in 0..4 {
            let before = device.backend().driver_calls();
            model.cycle.iter().for_each(|unit| drop(pager.lease(*unit).unwrap()));
            calls.push(device.backend().driver_calls() - before);
        }
        assert_eq!(calls[2], calls[3], "budget {budget}");
        assert_eq!(calls[3] == 0, pager.plan().ring_bytes() == 0, "budget {budget}: {calls:?}");
    }
}

/// Leases a unit where call `n` of the driver fails: asked twice at most, and what launches see is right.
fn leased_in_the_end<'p>(
    model: &Model,
    pager: &'p Pager<Host>,
    unit: UnitId,
    n: u64,
    failures: &mut u32,
) -> Lease<'p, Host> {
    let lease = pager.lease(unit).or_else(|_| {
        *failures += 1;
        pager.lease(unit)
    });
    let lease = lease.unwrap_or_else(|error| panic!("call {n} failed once, and then again: {error}"));
    let read = || pager.stream().read::<u16>(lease.tensor(0));
    let got = read().or_else(|_| read()).unwrap().unwrap();
    assert_eq!(bytemuck::cast_slice::<u16, u8>(&got), model.expected[unit.0 as usize][0], "call {n}");
    lease
}

#[test]
fn a_lease_that_failed_may_be_asked_for_again() {
    let model = Model::new(17, 6, DType::F32, DType::Bf16);
    let budget = model.budgets()[1];
    let mut failures = 0;
    for n in 1.. {
        let backend = Host::new(HostConfig { fail_call: Some(n), ..seeded(n) }).unwrap();
        let device = Device::new(backend, Ledger::new(1 << 30), Ledger::new(1 << 30));
        let stream = device.stream(StreamKind::Compute).unwrap();
        let Ok(pager) = streaming(&model, &stream, budget) else { continue };
        for unit in model.cycle.repeat(2) {
            drop(leased_in_the_end(&model, &pager, unit, n, &mut failures));
        }
        drop(pager);
        if device.backend().driver_calls() <= n {
            break;
        }
    }
    assert!(failures > 20, "only {failures} leases failed");
}
