//! Random files: valid ones come back as they were written, damaged ones are refused or stay in range.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

use std::collections::BTreeMap;

use lighterage_checkpoint::{Checkpoint, Header, NewTensor, Unmodified, write};
use lighterage_shape::DType;
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Owned {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn owned() -> impl Strategy<Value = Owned> {
    (prop::sample::select(&DType::ALL[..]), prop::collection::vec(0..5_usize, 0..5), any::<u8>()).prop_map(
        |(dtype, shape, first)| {
            let count = shape.iter().product::<usize>() * dtype.bytes();
            let bytes = (first..=u8::MAX).cycle().take(count).collect();
            Owned { dtype, shape, bytes }
        },
    )
}

fn tensors() -> impl Strategy<Value = BTreeMap<String, Owned>> {
    // Names of any characters, also quotes and controls; the reserved one cannot come out.
    prop::collection::btree_map("\\PC{0,8}|[\u{0}-\u{1f}\"\\\\]{1,3}", owned(), 0..6)
}

fn write_to(path: &std::path::Path, tensors: &BTreeMap<String, Owned>) {
    let list: Vec<_> = tensors
        .iter()
        .map(|(name, owned)| NewTensor { name, dtype: owned.dtype, shape: &owned.shape, bytes: &owned.bytes })
        .collect();
    write(path, &list).unwrap();
}

fn bytes_of(tensors: &BTreeMap<String, Owned>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("valid.safetensors");
    write_to(&path, tensors);
    std::fs::read(path).unwrap()
}

/// One change to a file.
#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, u8),
    /// A digit of the header becomes another: offsets and shapes that are nearly right.
    Digit(usize, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>().prop_map(|index| index.index(1 << 16));
    prop_oneof![
        (at.clone(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (at.clone(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        at.clone().prop_map(Damage::Cut),
        (at.clone(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        (at, b'0'..=b'9').prop_map(|(at, digit)| Damage::Digit(at, digit)),
    ]
}

fn apply(file: &mut Vec<u8>, damage: &Damage) {
    let length = file.len().max(1);
    match *damage {
        Damage::Set(at, byte) => file.iter_mut().skip(at % length).take(1).for_each(|b| *b = byte),
        Damage::Flip(at, bit) => file.iter_mut().skip(at % length).take(1).for_each(|b| *b ^= 1 << bit),
        Damage::Cut(at) => file.truncate(at % length),
        Damage::Insert(at, byte) => file.insert(at % length, byte),
        Damage::Digit(at, digit) => {
            let digits = file.iter_mut().filter(|byte| byte.is_ascii_digit());
            digits.skip(at % 64).take(1).for_each(|byte| *byte = digit);
        }
    }
}

proptest! {
    #[test]
    fn valid_files_come_back_as_they_were(tensors in tensors()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("valid.safetensors");
        write_to(&path, &tensors);
        // SAFETY: the folder is this test's own.
        let checkpoint = Checkpoint::open(&path, unsafe { Unmodified::promise() }).unwrap();
        prop_assert_eq!(checkpoint.tensors().count(), tensors.len());
        for (tensor, (name, expected)) in checkpoint.tensors().zip(&tensors) {
            prop_assert_eq!(tensor.name(), name);
            prop_assert_eq!((tensor.dtype(), tensor.shape()), (expected.dtype, &expected.shape[..]));
            prop_assert_eq!(tensor.bytes(), &expected.bytes[..]);
        }
    }

    /// The format's own reader agrees with what was written.
    #[test]
    fn the_formats_own_reader_reads_them(tensors in tensors()) {
        let file = bytes_of(&tensors);
        let read = safetensors::SafeTensors::deserialize(&file).unwrap();
        prop_assert_eq!(read.len(), tensors.len());
        for (name, expected) in &tensors {
            let view = read.tensor(name).unwrap();
            prop_assert_eq!(view.dtype().to_string(), expected.dtype.name());
            prop_assert_eq!((view.shape(), view.data()), (&expected.shape[..], &expected.bytes[..]));
        }
    }

    #[test]
    fn damaged_files_are_refused_or_stay_in_range(tensors in tensors(), damages in prop::collection::vec(damage(), 1..4)) {
        let mut file = bytes_of(&tensors);
        damages.iter().for_each(|damage| apply(&mut file, damage));
        if let Ok(header) = Header::parse(&file) {
            let mut covered = header.bytes();
            for entry in header.entries() {
                prop_assert_eq!(file[entry.range.clone()].len(), entry.layout.bytes());
                prop_assert!(entry.range.is_empty() || entry.range.start % entry.layout.dtype().bytes() == 0);
                covered += entry.range.len();
            }
            prop_assert_eq!(covered, file.len());
            // What we accept, the format's own reader accepts too.
            prop_assert!(safetensors::SafeTensors::deserialize(&file).is_ok());
        }
    }

    #[test]
    fn bytes_of_any_kind_never_panic(file in prop::collection::vec(any::<u8>(), 0..200), header in ".{0,200}") {
        let _ = Header::parse(&file);
        let mut shaped = (header.len() as u64 + 2).to_le_bytes().to_vec();
        shaped.extend_from_slice(format!("{{{header}}}").as_bytes());
        let _ = Header::parse(&shaped);
    }
}
