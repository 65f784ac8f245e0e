//! Any bytes as operations on an allocator of three streams in little memory: all invariants hold after each, and everything comes back at the end.
//!
//! `.ci/run fuzz` runs it for a while, guided by coverage, on stable Rust; for longer, and with a sanitizer, `cargo +nightly fuzz run ops corpus/ops
//! fuzz/seeds/ops`, from `crates/allocator`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lighterage_allocator::{Allocator, Error, Handle, Magazines, OnStream, Settings, Tag};
use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};

const PAGE: u64 = 1 << 16;
const PAGES: u64 = 40;

/// Four bytes are one operation: what, on which stream, and two for how much.
fn step(
    allocator: &Allocator<Sim>,
    ons: &[OnStream<Sim>],
    live: &mut Vec<Handle>,
    stale: &mut Vec<Handle>,
    op: [u8; 4],
) {
    let [kind, stream, low, high] = op;
    let on = &ons[usize::from(stream) % ons.len()];
    let amount = u64::from(u16::from_le_bytes([low, high]));
    let pick = |handles: &[Handle]| (!handles.is_empty()).then(|| usize::from(low) % handles.len());
    match kind % 8 {
        0 | 1 => take(on, live, amount * 4),
        // Half of them of a few sizes that come again: threads keep large blocks of such sizes alone.
        2 if low % 2 == 0 => take(on, live, (1 << 20) + u64::from(1 + high % 2) * PAGE),
        2 => take(on, live, (1 << 20) + amount * 16),
        3 | 4 => {
            if let Some(index) = pick(live) {
                let handle = live.swap_remove(index);
                allocator.free(handle).expect("it is held");
                stale.push(handle);
            }
        }
        5 => {
            if let Some(index) = pick(live) {
                allocator.used_on(live[index], on.stream()).expect("it is held");
            }
        }
        6 => {
            if let Some(index) = pick(stale) {
                assert!(
                    matches!(allocator.free(stale[index]), Err(Error::StaleHandle { .. })),
                    "freed twice"
                );
            }
        }
        _ if stream % 2 == 0 => drop(allocator.trim().expect("Sim does not fail")),
        _ => drop(allocator.set_budget((PAGES / 4 + amount % PAGES) * PAGE).expect("Sim does not fail")),
    }
}

fn take(on: &OnStream<Sim>, live: &mut Vec<Handle>, bytes: u64) {
    match on.allocate(bytes, Tag::NONE) {
        Ok(handle) => {
            let start = handle.address().0;
            let is_apart = |other: &Handle| {
                start + handle.bytes() <= other.address().0 || other.address().0 + other.bytes() <= start
            };
            assert!(live.iter().all(is_apart), "{handle:?} overlaps");
            live.push(handle);
        }
        Err(Error::OutOfBudget(_)) => (),
        Err(error) => panic!("{error}"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let sim = Sim::new(SimConfig { page_bytes: PAGE, ..SimConfig::default() }).expect("a power of two");
    let device = Device::new(sim, Ledger::new(PAGES * PAGE), Ledger::new(0));
    let settings = Settings {
        big_chunk_pages: u64::from(first % 8),
        stream_waits: first & 8 != 0,
        event_every: 1 + u32::from(first >> 4),
        slack_permille: (first & 128 != 0).then_some(20),
        // There are no magazines where there is a trace.
        trace_events: if first & 64 == 0 { 64 } else { 0 },
        magazines: Magazines::Always,
        ..Settings::default()
    };
    let allocator = Allocator::new(&device, settings).expect("an allocator");
    let kinds = [StreamKind::Compute, StreamKind::Copy, StreamKind::Compute];
    let ons = kinds.map(|kind| allocator.on(&device.stream(kind).expect("a stream")).expect("it is ours"));
    let (mut live, mut stale) = (Vec::new(), Vec::new());
    for op in rest.as_chunks().0 {
        step(&allocator, &ons, &mut live, &mut stale, *op);
        allocator.audit().expect("the invariants hold");
        assert!(device.backend().usage().bytes <= device.ledger().granted_bytes());
    }
    live.into_iter().for_each(|handle| allocator.free(handle).expect("it is held"));
    allocator.trim().expect("Sim does not fail");
    assert_eq!(device.ledger().granted_bytes(), 0, "a trim gives everything back");
});
