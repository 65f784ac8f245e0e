//! Writing: whole files or none, and never over something else than a file.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

use std::path::Path;

use lighterage_checkpoint::{Error, Fault, NewTensor, Planned, write, write_streamed};
use lighterage_shape::DType;

const GOOD: NewTensor<'static> = NewTensor { name: "a", dtype: DType::U8, shape: &[2], bytes: b"xy" };

/// Refused with this fault; the old file is what it was, and nothing lies beside it.
fn check_refused(tensors: &[NewTensor<'_>], expected: &Fault) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    std::fs::write(&path, "old").unwrap();
    match write(&path, tensors) {
        Err(Error::Write { fault, .. }) => assert_eq!(&fault, expected),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(names_in(folder.path()), ["out.safetensors"]);
}

fn names_in(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn name() -> String {
    "a".to_owned()
}

#[test]
fn bytes_that_do_not_fit_the_shape() {
    let expected = Fault::Size { tensor: name(), dtype: DType::F32, shape: vec![2], expected: 8, got: 2 };
    check_refused(&[NewTensor { dtype: DType::F32, ..GOOD }], &expected);
}

#[test]
fn shapes_that_overflow_or_have_too_many_dimensions() {
    let shape = [1 << 40, 1 << 40];
    let oversized = Fault::Oversized { tensor: name(), dtype: DType::U8, shape: vec![1 << 40, 1 << 40] };
    check_refused(&[NewTensor { shape: &shape, ..GOOD }], &oversized);
    check_refused(
        &[NewTensor { shape: &[1; 7], ..GOOD }],
        &Fault::Rank { tensor: name(), rank: 7, limit: 6 },
    );
}

#[test]
fn names_twice_or_reserved() {
    check_refused(&[GOOD, NewTensor { dtype: DType::I8, ..GOOD }], &Fault::Duplicate { tensor: name() });
    check_refused(
        &[NewTensor { name: "__metadata__", ..GOOD }],
        &Fault::Duplicate { tensor: "__metadata__".into() },
    );
}

#[test]
fn files_are_replaced_whole_and_nothing_is_left_beside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    std::fs::write(&path, vec![1; 10_000]).unwrap();
    write(&path, &[GOOD]).unwrap();
    let first = std::fs::read(&path).unwrap();
    assert!(first.len() < 200 && first.ends_with(b"xy"));
    write(&path, &[GOOD]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first, "equal tensors give equal bytes");
    assert_eq!(names_in(folder.path()), ["out.safetensors"]);
}

/// Whoever makes the values may stop in the middle: what was there stays, and nothing half-written lies beside it.
#[test]
fn values_that_are_not_made_leave_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    std::fs::write(&path, "old").unwrap();
    let planned = ["a", "b"].map(|name| Planned { name, dtype: DType::U8, shape: &[2] });
    let values = |index| match index {
        0 => Ok(b"xy"[..].into()),
        _ => Err(std::io::Error::other("stopped")),
    };
    match write_streamed(&path, &planned, values) {
        Err(Error::Io { source, .. }) => assert_eq!(source.to_string(), "stopped"),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(names_in(folder.path()), ["out.safetensors"]);
}

#[test]
fn devices_and_folders_are_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(write(folder.path(), &[GOOD]), Err(Error::NotAFile { .. })));
    assert!(matches!(write(Path::new("/dev/null"), &[GOOD]), Err(Error::NotAFile { .. })));
    assert!(matches!(write(&folder.path().join("none/out.safetensors"), &[GOOD]), Err(Error::Io { .. })));
}
