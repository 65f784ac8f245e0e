//! Where bytes lie before they are copied: page-locked in an arena or in the files, or read anew in every turn.

use super::*;

/// What a run of three turns came to.
struct Ran {
    /// In place, and in arena and stages.
    registered_bytes: u64,
    pinned_bytes: u64,
    granted_peak_bytes: u64,
    calls: u64,
}

/// Three turns with what launches see compared to the file, byte by byte; an error is one of the driver's.
fn run(model: &Model, plan: &Plan, host: HostConfig, host_budget: u64) -> Result<Ran> {
    let device = Device::new(Host::new(host).unwrap(), Ledger::new(1 << 30), Ledger::new(host_budget));
    let ran = {
        let stream = device.stream(StreamKind::Compute)?;
        let pager = Pager::new(&stream, Arc::clone(&model.units), &model.cycle, plan)?;
        for unit in model.cycle.repeat(3) {
            let lease = pager.lease(unit)?;
            for (tensor, expected) in model.expected[unit.0 as usize].iter().enumerate() {
                let got = stream.read::<u16>(lease.tensor(tensor))?.unwrap();
                assert_eq!(bytemuck::cast_slice::<u16, u8>(&got), expected, "unit {unit:?}");
            }
        }
        let statistics = pager.statistics();
        drop(pager);
        Ran {
            registered_bytes: statistics.registered_bytes,
            pinned_bytes: statistics.pinned_bytes,
            granted_peak_bytes: device.host_ledger().peak_bytes(),
            calls: device.backend().driver_calls(),
        }
    };
    let usage = device.backend().usage();
    assert_eq!((usage.registered, usage.pins, device.host_ledger().granted_bytes()), (0, 0, 0));
    Ok(ran)
}

/// A file of several windows, and of several blocks where it is converted.
fn long(seed: u64, filed: DType) -> Model {
    let model = Model::new(seed, 100, filed, DType::Bf16);
    assert!(model.total() > 3 * crate::arena::BLOCK_BYTES_MAX, "{} bytes", model.total());
    model
}

#[test]
fn files_that_are_page_locked_as_they_lie_give_the_same_bytes() {
    let model = long(40, DType::Bf16);
    for budget in model.budgets() {
        let plan = model.plan_from(budget, 1, Source::Registered);
        for seed in 0..4 {
            let host = seeded(seed);
            let wrong =
                wrong_tensors(&model, budget, &Run { host, source: Source::Registered, ..Run::default() });
            assert_eq!(wrong, 0, "budget {budget}, seed {seed}");
        }
        let ran = run(&model, &plan, seeded(9), 1 << 30).unwrap();
        assert_eq!(ran.registered_bytes, plan.pinned_bytes(&model.units, false), "budget {budget}");
        assert_eq!((ran.granted_peak_bytes, ran.pinned_bytes), (ran.registered_bytes, 0));
        assert_eq!(ran.registered_bytes > 0, plan.ring_bytes() > 0);
    }
}

#[test]
fn what_is_converted_is_copied_though_files_are_page_locked() {
    let model = long(41, DType::F32);
    let plan = model.plan_from(model.minimum(), 1, Source::Registered);
    let ran = run(&model, &plan, seeded(1), 1 << 30).unwrap();
    assert_eq!((ran.registered_bytes, ran.pinned_bytes), (0, plan.pinned_bytes(&model.units, false)));
}

/// Each call fails in turn. Where that is reported, nothing stays; where it is not, some page-locking was refused and another way found: the same bytes.
#[test]
fn page_locking_that_is_refused_is_done_without() {
    for (filed, source) in [(DType::Bf16, Source::Registered), (DType::F32, Source::Copied)] {
        let model = long(42, filed);
        let plan = model.plan_from(model.minimum(), 1, source);
        let whole = run(&model, &plan, seeded(2), 1 << 30).unwrap();
        for host_budget in [1 << 30, plan.pinned_bytes(&model.units, false)] {
            let mut refused = 0;
            // Every window and block is page-locked in the first turn.
            for n in 0..whole.calls / 2 {
                let host = HostConfig { fail_call: Some(n), ..seeded(2) };
                let Ok(ran) = run(&model, &plan, host, host_budget) else { continue };
                let is_other = match source {
                    Source::Registered => ran.registered_bytes < whole.registered_bytes,
                    Source::Copied => ran.pinned_bytes != whole.pinned_bytes,
                };
                if is_other {
                    refused += 1;
                    assert!(ran.pinned_bytes > 0, "call {n}: nothing instead");
                }
                assert!(ran.granted_peak_bytes <= host_budget);
            }
            assert!(refused >= 3, "{source:?}, {host_budget}: {refused} refusals");
        }
    }
}

#[test]
fn any_host_budget_does_for_files_that_are_page_locked() {
    let model = long(43, DType::Bf16);
    let plan = model.plan_from(model.minimum(), 1, Source::Registered);
    let (least, all) = (plan.least_pinned_bytes(&model.units, false), plan.pinned_bytes(&model.units, false));
    let mut seen = Vec::new();
    for host_budget in [least, least.midpoint(all) / 2, least.midpoint(all), all - 1, all] {
        let ran = run(&model, &plan, seeded(host_budget), host_budget).unwrap();
        assert!(ran.granted_peak_bytes <= host_budget);
        seen.push(ran.registered_bytes);
    }
    assert!(seen.is_sorted() && seen[0] == 0 && seen[2] > 0 && seen[4] == all, "{seen:?} of {all}");
}

/// Charged at once, page-locked block by block: the first copies wait for one block, and later turns for none.
#[test]
fn the_arena_is_page_locked_as_it_is_filled() {
    for (filed, source) in [(DType::F32, Source::Copied), (DType::Bf16, Source::Registered)] {
        let model = long(44, filed);
        let plan = model.plan_from(model.minimum(), 1, source);
        let device = Device::new(Host::new(seeded(3)).unwrap(), Ledger::new(1 << 30), Ledger::new(1 << 30));
        let stream = device.stream(StreamKind::Compute).unwrap();
        let pager = Pager::new(&stream, Arc::clone(&model.units), &model.cycle, &plan).unwrap();
        let charged = device.host_ledger().granted_bytes();
        assert_eq!(charged, plan.pinned_bytes(&model.units, false));
        let locked = || {
            let usage = device.backend().usage();
            usage.pins + usage.registered
        };
        let mut seen = vec![locked()];
        for unit in model.cycle.repeat(2) {
            drop(pager.lease(unit).unwrap());
            seen.push(locked());
            assert_eq!(device.host_ledger().granted_bytes(), charged);
        }
        assert!(seen.is_sorted() && seen[0] == 1, "{seen:?}");
        let turn = model.cycle.len();
        assert!(seen[turn] >= 3 && seen[turn..].iter().all(|locked| *locked == seen[turn]), "{seen:?}");
    }
}

/// What the host's budget does not hold is read, not mapped in: a file that became shorter is one error and no signal.
#[test]
fn a_file_that_became_shorter_is_one_error() {
    let model = long(45, DType::F32);
    let plan = model.plan(model.minimum());
    let least = plan.least_pinned_bytes(&model.units, false);
    run(&model, &plan, seeded(4), least).unwrap();
    let path = model.units.get(UnitId(0)).tensors[0].pieces()[0].tensor.path().to_owned();
    let bytes = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes / 2).unwrap();
    let error = run(&model, &plan, seeded(5), least).map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("read it") && text.contains("model.safetensors"), "{text}");
}

/// A run of one turn, as those of text encoders and decoders are: nobody copies a byte twice, so none is page-locked but the stages', and none is read ahead of its end.
#[test]
fn what_is_read_once_is_not_page_locked() {
    for (filed, source) in [(DType::F32, Source::Copied), (DType::Bf16, Source::Registered)] {
        let model = long(46, filed);
        let once: Vec<UnitId> = model.units.iter().map(|(id, _)| id).collect();
        let plan_of = |turns| {
            let cycles = vec![Cycle { turns, ..Cycle::untimed(&once) }];
            let goal = Goal { source, ..Goal::new(cycles, model.minimum(), PAGE) };
            Plan::new(&model.units, &goal).unwrap()
        };
        let (plan, again) = (plan_of(1), plan_of(2));
        let pinned = plan.pinned_bytes(&model.units, false);
        assert!(again.pinned_bytes(&model.units, false) > 3 * crate::arena::BLOCK_BYTES_MAX, "{source:?}");
        assert!(pinned <= 2 * crate::arena::BLOCK_BYTES_MAX.min(16 << 20), "{source:?}: {pinned}");
        let device = Device::new(Host::new(seeded(6)).unwrap(), Ledger::new(1 << 30), Ledger::new(pinned));
        let stream = device.stream(StreamKind::Compute).unwrap();
        let pager = Pager::new(&stream, Arc::clone(&model.units), &once, &plan).unwrap();
        let turn = || {
            for unit in &once {
                let lease = pager.lease(*unit).unwrap();
                for (tensor, expected) in model.expected[unit.0 as usize].iter().enumerate() {
                    let got = stream.read::<u16>(lease.tensor(tensor)).unwrap().unwrap();
                    assert_eq!(bytemuck::cast_slice::<u16, u8>(&got), expected, "unit {unit:?}");
                }
            }
            pager.statistics().copied_bytes
        };
        assert_eq!(turn(), plan.unit_bytes(), "{source:?}");
        // Who goes on, against the plan, gets what he asks for.
        assert!(turn() > plan.unit_bytes());
    }
}
