//! Files that break the format: one clear error each, with the tensor and the numbers.
//!
//! The cases follow the ideas of the safetensors project's list of attacks (`attacks/README.md` there); they are our own.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

use lighterage_checkpoint::{Checkpoint, Error, Fault, Unmodified};
use lighterage_shape::DType;

/// A file of that JSON and so many bytes of data; the JSON is padded as the format's writer does.
fn file(json: &str, data_bytes: usize) -> Vec<u8> {
    let mut padded = json.as_bytes().to_vec();
    padded.resize(json.len().next_multiple_of(8), b' ');
    raw(padded.len() as u64, &padded, data_bytes)
}

fn raw(declared: u64, json: &[u8], data_bytes: usize) -> Vec<u8> {
    let mut bytes = declared.to_le_bytes().to_vec();
    bytes.extend_from_slice(json);
    bytes.resize(bytes.len() + data_bytes, 7);
    bytes
}

fn fault(bytes: &[u8]) -> Fault {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    std::fs::write(&path, bytes).unwrap();
    // SAFETY: the folder is this test's own.
    match Checkpoint::open(&path, unsafe { Unmodified::promise() }) {
        Err(error @ Error::Bad { .. }) => {
            let text = error.to_string();
            assert!(text.starts_with(path.to_str().unwrap()), "{text} names the file");
            let Error::Bad { fault, .. } = error else { unreachable!() };
            fault
        }
        other => panic!("{other:?}"),
    }
}

/// The error is this one.
#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "a list of cases reads better without a sign before each")]
fn check(bytes: &[u8], expected: Fault) {
    assert_eq!(fault(bytes), expected);
}

/// The error is one of JSON, and says so with these words.
#[track_caller]
fn check_json(json: &str, words: &[&str]) {
    let Fault::HeaderJson { message } = fault(&file(json, 16)) else {
        panic!("{json} is JSON of the right form")
    };
    assert!(words.iter().all(|word| message.contains(word)), "{message:?} should have {words:?}");
}

fn one(dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#)
}

fn two(first: (u64, u64), second: (u64, u64)) -> String {
    let entry = |(begin, end): (u64, u64)| {
        format!(r#"{{"dtype":"U8","shape":[{}],"data_offsets":[{begin},{end}]}}"#, end - begin)
    };
    format!(r#"{{"a":{},"b":{}}}"#, entry(first), entry(second))
}

fn w() -> String {
    "w".to_owned()
}

#[test]
fn header_lengths() {
    check(&[], Fault::TooShort { file_bytes: 0 });
    check(&[2, 0, 0, 0, 0, 0, 0], Fault::TooShort { file_bytes: 7 });
    check(&raw(0, b"", 0), Fault::NoHeader);
    check(&raw(0, b"{}", 0), Fault::NoHeader);
    check(&raw(3, b"{}", 0), Fault::HeaderTruncated { declared: 3, available: 2 });
    check(&raw(100_000_000, b"{}", 0), Fault::HeaderTruncated { declared: 100_000_000, available: 2 });
    check(&raw(100_000_001, b"{}", 0), Fault::HeaderTooLarge { declared: 100_000_001, limit: 100_000_000 });
    check(&raw(u64::MAX, b"{}", 0), Fault::HeaderTooLarge { declared: u64::MAX, limit: 100_000_000 });
}

#[test]
fn headers_that_are_not_json() {
    check_json("{", &["EOF", "line 1"]);
    check_json("[]", &["begin with '{'"]);
    check_json(" {}", &["begin with '{'"]);
    check_json("{}{}", &["trailing"]);
    check_json(r#"{"w":3}"#, &["\"w\"", "integer `3`"]);
    check_json(r#"{"w":{"dtype":"F32","shape":[1]}}"#, &["\"w\"", "missing field `data_offsets`"]);
    check_json(r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, &["\"w\"", "`-1`"]);
    check_json(r#"{"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#, &["\"w\"", "1.5"]);
    check_json(r#"{"w":{"dtype":"F32","shape":[1e30],"data_offsets":[0,4]}}"#, &["\"w\"", "floating point"]);
    check_json(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#, &["\"w\""]);
    check_json(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#, &["\"w\"", "length 1"]);
    check_json(r#"{"__metadata__":{"a":3}}"#, &["integer `3`"]);
    let Fault::HeaderJson { .. } = fault(&raw(6, b"{\"\xff\":1", 16)) else { panic!("not UTF-8") };
}

#[test]
fn keys_that_are_there_twice() {
    let entry = r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    check(&file(&format!(r#"{{"w":{entry},"w":{entry}}}"#), 4), Fault::Duplicate { tensor: w() });
    check(&file(&format!(r#"{{"w":{entry},"\u0077":{entry}}}"#), 4), Fault::Duplicate { tensor: w() });
    check_json(
        r#"{"w":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
        &["\"w\"", "duplicate field"],
    );
    check_json(r#"{"__metadata__":{"a":"1","a":"2"}}"#, &["\"a\"", "twice"]);
    check_json(r#"{"__metadata__":{},"__metadata__":{}}"#, &["__metadata__", "twice"]);
}

#[test]
fn nesting_too_deep_is_refused_without_using_up_the_stack() {
    let deep = "[".repeat(1_000_000);
    check_json(&format!(r#"{{"w":{{"shape":{deep}"#), &["invalid type"]);
    check_json(&format!(r#"{{"w":{{"extra":{deep}"#), &["EOF"]);
    check_json(&format!(r#"{{"__metadata__":{deep}"#), &["expected an object"]);
}

#[test]
fn element_types_that_are_not_known() {
    check(&file(&one("F4", "[8]", 0, 4), 4), Fault::DType { tensor: w(), dtype: "F4".into() });
    check(&file(&one("f32", "[1]", 0, 4), 4), Fault::DType { tensor: w(), dtype: "f32".into() });
    let long = "X".repeat(1000);
    check(&file(&one(&long, "[1]", 0, 4), 4), Fault::DType { tensor: w(), dtype: "X".repeat(32) });
}

#[test]
fn shapes_that_cannot_be() {
    check(&file(&one("U8", "[1,1,1,1,1,1,4]", 0, 4), 4), Fault::Rank { tensor: w(), rank: 7, limit: 6 });
    let many = format!("[{}1]", "1,".repeat(99_999));
    check(&file(&one("U8", &many, 0, 1), 1), Fault::Rank { tensor: w(), rank: 100_000, limit: 6 });
    for shape in [
        vec![u64::MAX],
        vec![1 << 32, 1 << 32],
        vec![1 << 62],
        // The product wraps round to 4 bytes.
        vec![(1 << 62) + 1],
        // No bytes, but strides that overflow.
        vec![0, 1 << 40, 1 << 40],
    ] {
        let text = format!("{shape:?}");
        check(&file(&one("F32", &text, 0, 4), 4), Fault::Oversized { tensor: w(), dtype: DType::F32, shape });
    }
}

#[test]
fn sizes_that_do_not_fit_the_shape() {
    let size = |dtype, shape: &[usize], expected, got| Fault::Size {
        tensor: w(),
        dtype,
        shape: shape.to_vec(),
        expected,
        got,
    };
    check(&file(&one("F32", "[2,2]", 0, 12), 12), size(DType::F32, &[2, 2], 16, 12));
    check(&file(&one("BF16", "[3]", 0, 12), 12), size(DType::Bf16, &[3], 6, 12));
    check(&file(&one("U8", "[0]", 0, 1), 1), size(DType::U8, &[0], 0, 1));
    check(&file(&one("F32", "[]", 0, 0), 0), size(DType::F32, &[], 4, 0));
}

#[test]
fn ranges_that_leave_the_file() {
    let range = |begin, end, data_bytes| Fault::OutOfRange { tensor: w(), begin, end, data_bytes };
    check(&file(&one("F32", "[4]", 0, 16), 15), range(0, 16, 15));
    check(&file(&one("F32", "[4]", 0, 16), 0), range(0, 16, 0));
    check(&file(&one("F32", "[4]", 16, 0), 16), range(16, 0, 16));
    check(&file(&one("F32", "[4]", u64::MAX - 15, u64::MAX), 16), range(u64::MAX - 15, u64::MAX, 16));
    check(&file(&one("U8", "[0]", 17, 17), 16), range(17, 17, 16));
}

#[test]
fn tensors_that_share_bytes_or_leave_some_out() {
    let overlap =
        |begin, end| Fault::Overlap { tensor: "b".into(), begin, previous: "a".into(), previous_end: end };
    let gap = |tensor: &str, begin, previous_end| Fault::Gap { tensor: tensor.into(), begin, previous_end };
    check(&file(&two((0, 8), (4, 12)), 12), overlap(4, 8));
    check(&file(&two((0, 8), (0, 8)), 8), overlap(0, 8));
    check(&file(&two((0, 8), (9, 12)), 12), gap("b", 9, 8));
    check(&file(&two((1, 8), (8, 12)), 12), gap("a", 1, 0));
    check(&file(&two((0, 8), (8, 12)), 13), Fault::Trailing { end: 12, data_bytes: 13 });
    check(&file("{}", 1), Fault::Trailing { end: 0, data_bytes: 1 });
}

#[test]
fn data_that_is_not_aligned_for_its_type() {
    let json = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"w":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#;
    let data_start = 8 + json.len().next_multiple_of(8) as u64;
    check(&file(json, 6), Fault::Misaligned { tensor: w(), file_offset: data_start + 2, dtype: DType::F32 });
    let unpadded = one("F64", "[1]", 0, 8);
    assert!(!unpadded.len().is_multiple_of(8));
    let offset = 8 + unpadded.len() as u64;
    let bytes = raw(unpadded.len() as u64, unpadded.as_bytes(), 8);
    check(&bytes, Fault::Misaligned { tensor: w(), file_offset: offset, dtype: DType::F64 });
}

#[test]
fn what_is_not_a_regular_file_is_refused_without_being_read() {
    // SAFETY: nothing is mapped.
    let promise = unsafe { Unmodified::promise() };
    assert!(matches!(Checkpoint::open("/dev/zero".as_ref(), promise), Err(Error::NotAFile { .. })));
    assert!(matches!(Checkpoint::open("/no/such/file".as_ref(), promise), Err(Error::Io { .. })));
}
