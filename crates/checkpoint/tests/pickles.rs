//! Torch's own files: read like safetensors, refused if they want code, and never a panic.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

use std::fs;
use std::path::PathBuf;

use lighterage_checkpoint::{Archive, Checkpoint, Error, Fault, Unmodified};
use lighterage_testkit::folder;
use proptest::prelude::*;

fn open(path: &std::path::Path) -> Result<Checkpoint, Error> {
    // SAFETY: nobody writes to golden or temporary files while a test maps them.
    Checkpoint::open(path, unsafe { Unmodified::promise() })
}

fn projector() -> PathBuf {
    folder("resampler-tiny").join("image_proj_model.bin")
}

/// An archive of stored records, as torch writes one.
fn archive(records: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in records {
        let start = u32::try_from(file.len()).unwrap();
        let bytes = u32::try_from(data.len()).unwrap().to_le_bytes();
        // Padded to 64 bytes by the extra field, as torch does.
        let header = 30 + name.len() + 4;
        let padding = (file.len() + header).next_multiple_of(64) - file.len() - header;
        file.extend(b"PK\x03\x04");
        file.extend([0; 14]);
        file.extend(bytes.iter().chain(&bytes));
        file.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        file.extend(u16::try_from(padding + 4).unwrap().to_le_bytes());
        file.extend(name.as_bytes());
        file.extend(b"FB");
        file.extend(u16::try_from(padding).unwrap().to_le_bytes());
        file.resize(file.len() + padding, b'Z');
        file.extend_from_slice(data);
        directory.extend(b"PK\x01\x02");
        directory.extend([0; 16]);
        directory.extend(bytes.iter().chain(&bytes));
        directory.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        directory.extend([0; 12]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, bytes) = (u32::try_from(file.len()).unwrap(), u32::try_from(directory.len()).unwrap());
    let count = u16::try_from(records.len()).unwrap().to_le_bytes();
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(count.iter().chain(&count));
    file.extend(bytes.to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0, 0]);
    file
}

fn of_pickle(pickle: &[u8]) -> Result<Archive, Fault> {
    Archive::parse(&archive(&[("a/data.pkl", pickle), ("a/byteorder", b"little"), ("a/data/0", &[0; 64])]))
}

fn text(value: &str) -> Vec<u8> {
    let mut bytes = vec![b'X'];
    bytes.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
    bytes.extend(value.as_bytes());
    bytes
}

/// `_rebuild_tensor_v2` of storage 0, with 16 elements of f32.
fn tensor(offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let tuple = |items: &[u8]| {
        let items: Vec<u8> = items.iter().flat_map(|item| [b'K', *item]).collect();
        [b"(", &items[..], b"t"].concat()
    };
    let storage =
        [&b"("[..], &text("storage"), b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x10tQ"]
            .concat();
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n("[..],
        &storage,
        &[b'K', offset],
        &tuple(shape),
        &tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

fn dictionary(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> =
        entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"\x80\x02}(", &entries[..], b"u."].concat()
}

#[test]
fn pickle_holds_the_same_tensors_as_the_safetensors_file() {
    let pickle = open(&projector()).unwrap();
    let plain = open(&folder("resampler-tiny").join("model.safetensors")).unwrap();
    assert_eq!(pickle.tensors().count(), plain.tensors().count());
    for tensor in plain.tensors() {
        let found = pickle.tensor(&format!("image_proj.{}", tensor.name())).unwrap();
        assert_eq!((found.layout(), found.bytes()), (tensor.layout(), tensor.bytes()), "{}", tensor.name());
    }
}

#[test]
fn fingerprints_differ_by_the_inner_dictionary_alone() {
    let pickle = open(&projector()).unwrap();
    let plain = open(&folder("resampler-tiny").join("model.safetensors")).unwrap();
    assert_ne!(pickle.fingerprint(), plain.fingerprint());
}

#[test]
fn demo_projector_is_f32() {
    let path = folder("").join("../../assets/demo/infinite-you/image_proj_model.bin");
    let pickle = open(&path).unwrap();
    assert_eq!(pickle.tensor("image_proj.latents").unwrap().shape(), &[1, 8, 128]);
    assert!(pickle.tensors().all(|tensor| tensor.dtype().name() == "F32"));
}

#[test]
fn views_into_one_storage_are_found() {
    let made =
        of_pickle(&dictionary(&[("b", tensor(4, &[2, 3], &[3, 1])), ("a", tensor(0, &[], &[]))])).unwrap();
    let found: Vec<_> = made.entries.iter().map(|entry| (entry.name.as_str(), entry.range.len())).collect();
    assert_eq!(found, [("a", 4), ("b", 24)]);
    assert_eq!(made.entries[1].range.start - made.entries[0].range.start, 16);
}

#[test]
fn dictionaries_nest_and_shared_values_are_looked_up() {
    let shared = [&b"}q\x07("[..], &text("x"), &tensor(0, &[1], &[1]), b"u"].concat();
    let made =
        of_pickle(&dictionary(&[("one", shared), ("two", b"h\x07".to_vec()), ("epoch", b"K\x05".to_vec())]))
            .unwrap();
    let names: Vec<_> = made.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!((names, made.groups), (vec!["one.x", "two.x"], vec!["one".to_owned(), "two".to_owned()]));
}

#[test]
fn subclasses_and_parameters_are_their_tensors() {
    let inner = tensor(0, &[2], &[1]);
    // torch._tensor._rebuild_from_type_v2(torch._utils._rebuild_tensor_v2, torch.Tensor, arguments, {})
    let arguments = inner.strip_prefix(&b"ctorch._utils\n_rebuild_tensor_v2\n"[..]).unwrap();
    let arguments = arguments.strip_suffix(b"R").unwrap();
    let typed = [
        &b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n"[..],
        arguments,
        b"}tR",
    ]
    .concat();
    let parameter =
        [&b"ctorch._utils\n_rebuild_parameter\n("[..], &inner, b"\x88ccollections\nOrderedDict\n)RtR"]
            .concat();
    let made = of_pickle(&dictionary(&[("typed", typed), ("parameter", parameter)])).unwrap();
    assert_eq!(made.entries.len(), 2);
}

fn check(pickle: &[u8], expected: &str) {
    let message = of_pickle(pickle).unwrap_err().to_string();
    assert!(message.contains(expected), "{message:?} should contain {expected:?}");
}

#[test]
fn whatever_is_not_a_tensor_is_refused_by_name() {
    for (module, name) in [
        ("posix", "system"),
        ("os", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("collections", "defaultdict"),
        ("torch._utils", "_rebuild_tensor"),
    ] {
        let call = format!("c{module}\n{name}\n(X\x02\0\0\0lstR.");
        check(call.as_bytes(), &format!("{module}.{name}, which is not among"));
        let newer = [text(module), text(name), b"\x93.".to_vec()].concat();
        check(&newer, &format!("{module}.{name}, which is not among"));
    }
    // INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1 and PERSID are other ways to code.
    for opcode in [b'i', b'o', 0x81, 0x92, 0x82, b'P'] {
        check(&[opcode, b'.'], "is none that torch writes");
    }
    // An import is fine, calling a class or a storage is not.
    check(b"ctorch\nFloatStorage\n)R.", "with 0 arguments");
    check(b"ctorch\nTensor\n)R.", "with 0 arguments");
}

#[test]
fn broken_programs_are_refused() {
    check(b"", "truncated");
    check(b".", "an empty stack");
    check(b"t.", "no mark");
    check(b"h\x01.", "memo 1 is empty");
    check(b"K\x01K\x02s.", "an empty stack");
    check(b"K\x01K\x02K\x03s.", "no dictionary");
    check(b"X\xff\xff\xff\xff.", "truncated");
    check(b"cos", "truncated");
    check(b"K\x01Q.", "no storage");
}

#[test]
fn tensors_outside_of_their_storage_are_refused() {
    let refused = |tensor: Vec<u8>, expected: &str| check(&dictionary(&[("w", tensor)]), expected);
    refused(tensor(15, &[2], &[1]), "\"w\" is at 60..68, the file has 64 bytes");
    refused(tensor(0, &[4, 4], &[1, 4]), "has the strides [1, 4]");
    refused(tensor(0, &[2, 2, 2, 2, 1, 1, 1, 1, 1], &[8, 4, 2, 1, 1, 1, 1, 1, 1]), "dimensions");
}

/// A dictionary of two references to the one before, again and again: 2^60 names in a few hundred bytes.
#[test]
fn laughs_are_cut_short() {
    let mut pickle = [&b"}q\x00("[..], &text("w"), &tensor(0, &[1], &[1]), b"u"].concat();
    for level in 1..60_u8 {
        pickle.extend(
            [
                &[b'}', b'q', level, b'('][..],
                &text("a"),
                &[b'h', level - 1],
                &text("b"),
                &[b'h', level - 1, b'u'],
            ]
            .concat(),
        );
    }
    pickle.push(b'.');
    check(&pickle, "nested deeper");
}

/// A few bytes that refer to something long, thousands of times: each time it would be copied.
#[test]
fn what_is_long_is_not_made_again_for_each_reference() {
    let long = "9".repeat(1 << 16);
    let storage =
        [&b"("[..], &text("storage"), b"ctorch\nFloatStorage\n", &text(&long), &text("cpu"), b"K\x10tQ."]
            .concat();
    check(&storage, "no storage");
    let ones = [1; 17];
    check(&dictionary(&[("w", tensor(0, &ones, &ones))]), "without storage, offset, shape and strides");
    check(
        &[&b"ctorch._utils\n_rebuild_parameter\n("[..], &b"N".repeat(9), b"tR."].concat(),
        "a call with 9 arguments",
    );
    // One key of 64 KiB before each of 258 items of a list: more than 16 MiB of names.
    let items = [&tensor(0, &[], &[])[..], b"q\x05", &b"h\x05".repeat(257)].concat();
    check(&[&b"}"[..], &text(&long), b"](", &items, b"es."].concat(), "bytes of names");
}

#[test]
fn a_dictionary_in_itself_is_refused() {
    check(&[&b"}q\x00("[..], &text("again"), b"h\x00u."].concat(), "nested deeper");
}

#[test]
fn other_archives_and_older_formats_are_told_apart() {
    let message = |bytes: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.bin");
        fs::write(&path, bytes).unwrap();
        open(&path).unwrap_err().to_string()
    };
    assert!(message(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20").contains("before 1.6"));
    assert!(message(&archive(&[("readme.txt", b"hello")])).contains("one record data.pkl"));
    assert!(
        message(&archive(&[("a/data.pkl", b"}."), ("a/byteorder", b"big")]))
            .contains("byte order is \"big\"")
    );
    let whole = fs::read(projector()).unwrap();
    assert!(message(&whole[..whole.len() / 2]).contains("truncated"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any one to four bytes of a real file changed, or its end cut off: refused, or tensors inside of the file.
    #[test]
    fn damaged_files_are_refused_or_in_range(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        end in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = fs::read(projector()).unwrap();
        for (at, value) in changes {
            // Half of them in the pickle and half in the directory: the values in between are any bytes.
            let at = at.index(8192);
            let at = if at < 4096 { at } else { file.len() - 1 - (at - 4096) };
            file[at] = value;
        }
        if let Some(end) = end {
            file.truncate(end.index(file.len()));
        }
        if let Ok(archive) = Archive::parse(&file) {
            for entry in &archive.entries {
                prop_assert_eq!(file[entry.range.clone()].len(), entry.layout.bytes());
            }
        }
    }

    /// Random programs of known opcodes end, one way or the other.
    #[test]
    fn random_programs_end(program in prop::collection::vec(prop::sample::select(&b"(.012GJKMNQRX]abcehjqrstu})\x80\x85\x86\x87\x88\x89\x8a\x8c\x93\x94\x95\x00\x01\x02"[..]), 0..200)) {
        let _ = of_pickle(&program);
    }
}
