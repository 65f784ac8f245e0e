//! Page-locked memory in blocks as long as they really are: 256 MiB, where the unit tests make do with 64 KiB.
#![expect(clippy::unwrap_used, reason = "a test fails where it should not")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use lighterage_checkpoint::{Checkpoint, Unmodified};
use lighterage_device::{Device, Host, HostConfig, Ledger, StreamKind};
use lighterage_pager::{Pager, Plan, TensorSpec, UnitSpec, Units};
use lighterage_shape::DType;

const BLOCK_BYTES: u64 = 256 << 20;
const LAYERS: usize = 8;
/// A layer: 56 MiB, so that no block ends where a layer does.
const ROWS: usize = 7168;
const COLUMNS: usize = 4096;
const LAYER_BYTES: u64 = 2 * (ROWS * COLUMNS) as u64;
/// Rows that are not zero: a few of each layer, so that the file has holes and is made in no time.
const MARKED: [usize; 3] = [0, ROWS / 3, ROWS - 1];

fn name(layer: usize) -> String {
    format!("{layer}.weight")
}

fn value(layer: usize, row: usize) -> f32 {
    1.0 + layer as f32 + if row == 0 { 0.5 } else { 0.0 }
}

/// f16 in the file, which is converted on its way: on `Host` that is what is kept page-locked.
fn make(path: &Path) {
    let entry = |layer: usize| {
        let (from, to) = (layer as u64 * LAYER_BYTES, (layer as u64 + 1) * LAYER_BYTES);
        format!(
            r#""{}":{{"dtype":"F16","shape":[{ROWS},{COLUMNS}],"data_offsets":[{from},{to}]}}"#,
            name(layer)
        )
    };
    let mut header = format!("{{{}}}", (0..LAYERS).map(entry).collect::<Vec<_>>().join(","));
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let data = 8 + header.len() as u64;
    file.set_len(data + LAYERS as u64 * LAYER_BYTES).unwrap();
    for (layer, row) in (0..LAYERS).flat_map(|layer| MARKED.map(|row| (layer, row))) {
        let bytes = f16::from_f32(value(layer, row)).to_le_bytes().repeat(COLUMNS);
        let at = data + layer as u64 * LAYER_BYTES + (row * COLUMNS * 2) as u64;
        file.write_all_at(&bytes, at).unwrap();
    }
}

#[test]
fn a_block_is_page_locked_when_its_first_bytes_are_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    make(&path);
    // SAFETY: the file lies in a folder of this test's own, which nobody else writes.
    let checkpoint = Checkpoint::open(&path, unsafe { Unmodified::promise() }).unwrap();
    let mut units = Units::default();
    let mut cycle = Vec::new();
    for name in (0..LAYERS).map(name) {
        let weight = TensorSpec::whole(&checkpoint, &name, &[ROWS, COLUMNS], DType::Bf16).unwrap();
        cycle.push(units.add(UnitSpec { name, tensors: vec![weight] }));
    }
    let budget = 2 * LAYER_BYTES;
    let (device_ledger, host_ledger) = (Ledger::new(budget), Ledger::new(1 << 30));
    let device = Device::new(Host::new(HostConfig::default()).unwrap(), device_ledger, host_ledger);
    let stream = device.stream(StreamKind::Compute).unwrap();
    let plan = Plan::within(&units, &cycle, budget, device.info().page_bytes).unwrap();
    let wanted = plan.pinned_bytes(&units, false);
    assert!(wanted > BLOCK_BYTES && wanted < 2 * BLOCK_BYTES, "{wanted} bytes: two blocks");
    let pager = Pager::new(&stream, Arc::new(units), &cycle, &plan).unwrap();
    let mut locked = Vec::new();
    for turn in 0..2 {
        for (layer, unit) in cycle.iter().enumerate() {
            let lease = pager.lease(*unit).unwrap();
            for row in MARKED {
                let got: Vec<bf16> = stream.read(lease.tensor(0).rows(row, 1).unwrap()).unwrap().unwrap();
                let expected = bf16::from_f32(value(layer, row));
                assert!(got.iter().all(|got| *got == expected), "turn {turn}, layer {layer}, row {row}");
            }
            let between: Vec<bf16> = stream.read(lease.tensor(0).rows(1, 1).unwrap()).unwrap().unwrap();
            assert!(between.iter().all(|got| *got == bf16::ZERO));
            drop(lease);
            locked.push(pager.statistics().pinned_bytes);
        }
    }
    assert!(locked.is_sorted() && locked[0] < BLOCK_BYTES + (64 << 20), "{locked:?}: not all at once");
    assert_eq!(locked.last(), Some(&wanted), "{locked:?}");
    assert_eq!(device.ledger().peak_bytes(), plan.bytes());
}
