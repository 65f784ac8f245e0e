//! What units accept from a checkpoint, what of it reaches the device, and what they say about the rest.
#![expect(clippy::unwrap_used, reason = "a test fails where it should not")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use lighterage_checkpoint::{Checkpoint, NewTensor, Unmodified, write};
use lighterage_device::{Device, Host, HostConfig, Ledger, StreamKind};
use lighterage_pager::{Error, Pager, Result, TensorSpec, UnitId, UnitSpec, Units, check_finite};
use lighterage_shape::DType;
use tempfile::TempDir;

/// A file with: `table` [6, 4] f32 counting up from 0; `half` [2, 3] f16; `bias` [3] bf16; `kernel` [2, 3, 2, 2] f32; `point` [3, 2, 1, 1] bf16;
/// `ids` [2] i64; `scalar` [] f32.
struct Files {
    checkpoint: Checkpoint,
    _folder: TempDir,
}

fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn bf16s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect()
}

fn f16s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(|value| f16::from_f32(value).to_le_bytes()).collect()
}

fn count(elements: u16) -> impl Iterator<Item = f32> {
    (0..elements).map(f32::from)
}

fn files() -> Files {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (f32, bf16, f16, i64) = (DType::F32, DType::Bf16, DType::F16, DType::I64);
    let tensors: [(&str, DType, &[usize], Vec<u8>); 7] = [
        ("table", f32, &[6, 4], f32s(count(24))),
        ("half", f16, &[2, 3], f16s([0.1, -2.0, 6.1e-5, 65504.0, 5.96e-8, -0.0])),
        ("bias", bf16, &[3], bf16s([1.0, 2.0, 3.0])),
        ("kernel", f32, &[2, 3, 2, 2], f32s(count(24))),
        ("point", bf16, &[3, 2, 1, 1], bf16s(count(6))),
        ("ids", i64, &[2], vec![0; 16]),
        ("scalar", f32, &[], f32s([0.5])),
    ];
    let new =
        tensors.iter().map(|(name, dtype, shape, bytes)| NewTensor { name, dtype: *dtype, shape, bytes });
    write(&path, &new.collect::<Vec<_>>()).unwrap();
    Files { checkpoint: open(&path), _folder: folder }
}

fn open(path: &Path) -> Checkpoint {
    // SAFETY: the file lies in a folder of this test's own, which nobody else writes.
    let promise = unsafe { Unmodified::promise() };
    Checkpoint::open(path, promise).unwrap()
}

/// What reaches the device of one tensor.
fn loaded(spec: TensorSpec) -> Vec<u8> {
    let host = Host::new(HostConfig { page_bytes: 4096, threads: 1, ..HostConfig::default() }).unwrap();
    let device = Device::new(host, Ledger::new(1 << 20), Ledger::new(1 << 20));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let mut units = Units::default();
    let dtype = spec.dtype();
    let unit = units.add(UnitSpec { name: "unit".to_owned(), tensors: vec![spec] });
    let pager = Pager::resident(&stream, Arc::new(units)).unwrap();
    let lease = pager.lease(unit).unwrap();
    match dtype {
        DType::F32 => bytemuck::cast_slice(&stream.read::<u32>(lease.tensor(0)).unwrap().unwrap()).to_vec(),
        _ => bytemuck::cast_slice(&stream.read::<u16>(lease.tensor(0)).unwrap().unwrap()).to_vec(),
    }
}

/// Makes a specification from the files.
type Make<'a> = &'a dyn Fn(&Checkpoint) -> Result<TensorSpec>;

fn check(make: Make<'_>, shape: &[usize], expected: &[u8]) {
    let files = files();
    let spec = make(&files.checkpoint).unwrap();
    assert_eq!(spec.shape(), shape);
    assert_eq!(spec.bytes(), expected.len() as u64);
    assert_eq!(loaded(spec), expected);
}

fn check_refused(make: Make<'_>, expected: &str) {
    let files = files();
    let error = make(&files.checkpoint).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.ends_with(expected), "{error}, expected {expected}");
}

#[test]
fn whole_tensors_come_as_they_are() {
    check(&|c| TensorSpec::whole(c, "table", &[6, 4], DType::F32), &[6, 4], &f32s(count(24)));
    check(&|c| TensorSpec::whole(c, "bias", &[3], DType::Bf16), &[3], &bf16s([1.0, 2.0, 3.0]));
    check(&|c| TensorSpec::whole(c, "scalar", &[], DType::F32), &[], &f32s([0.5]));
}

#[test]
fn elements_are_converted_with_one_rounding() {
    check(&|c| TensorSpec::whole(c, "table", &[6, 4], DType::Bf16), &[6, 4], &bf16s(count(24)));
    check(&|c| TensorSpec::whole(c, "bias", &[3], DType::F32), &[3], &f32s([1.0, 2.0, 3.0]));
    let half = [0.1, -2.0, 6.1e-5, 65504.0, 5.96e-8, -0.0].map(|value| f16::from_f32(value).to_f32());
    check(&|c| TensorSpec::whole(c, "half", &[2, 3], DType::F32), &[2, 3], &f32s(half));
    check(&|c| TensorSpec::whole(c, "half", &[2, 3], DType::Bf16), &[2, 3], &bf16s(half));
}

#[test]
fn a_pointwise_convolution_is_a_linear() {
    check(&|c| TensorSpec::whole(c, "point", &[3, 2], DType::Bf16), &[3, 2], &bf16s(count(6)));
    check(&|c| TensorSpec::whole(c, "table", &[6, 4, 1, 1], DType::F32), &[6, 4, 1, 1], &f32s(count(24)));
    check(
        &|c| TensorSpec::convolution(c, "point", &[3, 1, 1, 2], DType::F32),
        &[3, 1, 1, 2],
        &f32s(count(6)),
    );
    check(
        &|c| TensorSpec::convolution(c, "table", &[6, 1, 1, 4], DType::F32),
        &[6, 1, 1, 4],
        &f32s(count(24)),
    );
}

#[test]
fn stacked_rows_follow_one_another() {
    let expected = [16_u8, 17, 18, 19, 20, 21, 22, 23, 0, 1, 2, 3].map(f32::from);
    let make = |dtype| {
        move |c: &Checkpoint| TensorSpec::stacked(c, &[("table", 4..6), ("table", 0..1)], &[3, 4], dtype)
    };
    check(&make(DType::F32), &[3, 4], &f32s(expected));
    check(&make(DType::Bf16), &[3, 4], &bf16s(expected));
    check(
        &|c| TensorSpec::stacked(c, &[("bias", 1..3), ("bias", 0..3)], &[5], DType::F32),
        &[5],
        &f32s([2., 3., 1., 2., 3.]),
    );
}

#[test]
fn gathered_rows_are_those_of_the_ids() {
    let ids = [5, 0, 5, 2, 1, 1, 3, 4, 0, 5, 2];
    let expected: Vec<f32> =
        ids.iter().flat_map(|id| (0..4).map(move |column| (id * 4 + column) as f32)).collect();
    for length in [0, 1, 3, 11] {
        let make = |dtype| move |c: &Checkpoint| TensorSpec::gathered(c, "table", &ids[..length], 4, dtype);
        let expected = &expected[..length * 4];
        check(&make(DType::F32), &[length, 4], &f32s(expected.iter().copied()));
        check(&make(DType::Bf16), &[length, 4], &bf16s(expected.iter().copied()));
    }
}

#[test]
fn convolutions_get_their_channels_last() {
    // The element at [o, c, y, x] of the file is 12 o + 4 c + 2 y + x; on the device it is at [o, y, x, c].
    let mut expected = Vec::new();
    for (o, y, x) in (0..2).flat_map(|o| (0..4).map(move |tap| (o, tap / 2, tap % 2))) {
        expected.extend((0..3).map(|c| (12 * o + 4 * c + 2 * y + x) as f32));
    }
    let make = |dtype| move |c: &Checkpoint| TensorSpec::convolution(c, "kernel", &[2, 2, 2, 3], dtype);
    check(&make(DType::F32), &[2, 2, 2, 3], &f32s(expected.iter().copied()));
    check(&make(DType::Bf16), &[2, 2, 2, 3], &bf16s(expected.iter().copied()));
}

#[test]
fn refusals_name_file_tensor_and_numbers() {
    let whole = |name: &'static str, shape: &'static [usize], dtype| {
        move |c: &Checkpoint| TensorSpec::whole(c, name, shape, dtype)
    };
    check_refused(&whole("absent", &[1], DType::F32), "tensor \"absent\" is missing");
    check_refused(&whole("table", &[4, 6], DType::F32), "tensor \"table\" should be [4, 6], is [6, 4]");
    check_refused(&whole("table", &[24], DType::F32), "tensor \"table\" should be [24], is [6, 4]");
    check_refused(
        &whole("kernel", &[2, 12], DType::F32),
        "tensor \"kernel\" should be [2, 12], is [2, 3, 2, 2]",
    );
    check_refused(&whole("ids", &[2], DType::F32), "tensor \"ids\" is I64, which cannot become F32");
    check_refused(&whole("bias", &[3], DType::F16), "tensor \"bias\" is BF16, which cannot become F16");
    let stacked = |pieces: &'static [(&'static str, std::ops::Range<usize>)], shape: &'static [usize]| {
        move |c: &Checkpoint| TensorSpec::stacked(c, pieces, shape, DType::F32)
    };
    check_refused(
        &stacked(&[("table", 0..2), ("half", 0..1)], &[3, 4]),
        "tensor \"half\" should be [1, 4], is [2, 3]",
    );
    check_refused(&stacked(&[("table", 5..7)], &[2, 4]), "rows 5..7 of tensor \"table\", which has 6 rows");
    let sum = "tensor \"table + table\" should be [5, 4], is [4, 4]";
    check_refused(&stacked(&[("table", 0..2), ("table", 2..4)], &[5, 4]), sum);
    check_refused(
        &|c| TensorSpec::gathered(c, "table", &[0, 6], 4, DType::F32),
        "rows 6..7 of tensor \"table\", which has 6 rows",
    );
    check_refused(
        &|c| TensorSpec::gathered(c, "table", &[0], 5, DType::F32),
        "tensor \"table\" should be [6, 5], is [6, 4]",
    );
    check_refused(
        &|c| TensorSpec::gathered(c, "bias", &[0], 3, DType::F32),
        "tensor \"bias\" should be [1, 3], is [3]",
    );
    let kernel = |shape: &'static [usize]| {
        move |c: &Checkpoint| TensorSpec::convolution(c, "kernel", shape, DType::F32)
    };
    check_refused(&kernel(&[2, 3, 2, 2]), "tensor \"kernel\" should be [2, 2, 3, 2], is [2, 3, 2, 2]");
    check_refused(&kernel(&[2, 12]), "tensor \"kernel\" should be [2, 12], is [2, 3, 2, 2]");
}

#[test]
fn tensors_of_a_unit_are_aligned() {
    let files = files();
    let mut units = Units::default();
    let spec = |name, shape: &[usize]| TensorSpec::whole(&files.checkpoint, name, shape, DType::F32).unwrap();
    let tensors = vec![spec("bias", &[3]), spec("table", &[6, 4]), spec("scalar", &[])];
    let unit = units.add(UnitSpec { name: "unit".to_owned(), tensors });
    assert_eq!((unit, units.count(), units.bytes(unit)), (UnitId(0), 1, 3 * 256));
}

#[test]
fn weights_that_are_not_finite_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("model.safetensors");
    let spoiled = bf16s([1.0, 2.0, f32::NAN, f32::INFINITY]);
    let fine = bf16s([1.0; 4]);
    let new = |name, bytes| NewTensor { name, dtype: DType::Bf16, shape: &[4], bytes };
    write(&path, &[new("fine", &fine), new("spoiled", &spoiled)]).unwrap();
    let checkpoint = open(&path);
    let mut units = Units::default();
    let mut add = |name: &str| {
        let tensors = vec![TensorSpec::whole(&checkpoint, name, &[4], DType::F32).unwrap()];
        units.add(UnitSpec { name: name.to_owned(), tensors });
        check_finite(&units)
    };
    add("fine").unwrap();
    let error = add("spoiled").unwrap_err();
    assert!(matches!(error, Error::Checkpoint(_)));
    assert!(error.to_string().ends_with("tensor \"spoiled\" has NaN at element 2 of 4"), "{error}");
}
