//! How far copies run ahead of the leases.

use std::sync::Arc;

use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};

use super::PAGE;
use crate::plan::tests::specs;
use crate::{Pager, Plan, UnitId, Units};

/// Else the host fills memory for layers that are far away, and the launches that it could have queued come late.
#[test]
fn copies_stay_near_the_leases_though_everything_is_resident() {
    // As the layers of a transformer: linears, and norms that are next to nothing.
    let mut units = Units::default();
    let cycle: Vec<UnitId> =
        specs(&[128 << 10, 128, 128, 128].repeat(12)).into_iter().map(|spec| units.add(spec)).collect();
    let units = Arc::new(units);
    let sim = Sim::new(SimConfig { page_bytes: PAGE, ..SimConfig::default() }).unwrap();
    let device = Device::new(sim, Ledger::new(1 << 30), Ledger::new(1 << 30));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let plan = Plan::resident(&units, &cycle, PAGE);
    let pager = Pager::new(&stream, Arc::clone(&units), &cycle, &plan).unwrap();
    let largest = cycle.iter().map(|unit| units.bytes(*unit)).max().unwrap().next_multiple_of(PAGE) + PAGE;
    let mut leased = 0;
    for unit in cycle {
        drop(pager.lease(unit).unwrap());
        leased += units.bytes(unit);
        let copied = pager.statistics().copied_bytes;
        assert!(copied <= leased + 2 * largest, "unit {}: {copied} bytes copied, {leased} leased", unit.0);
    }
    assert_eq!(pager.statistics().copied_bytes, leased);
}
