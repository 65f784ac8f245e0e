use crate::{Scratch, lighterage};

/// Compares the two lists with the options, and expects the exit code and words.
#[track_caller]
fn check(got: &[(&str, &[f32])], expected: &[(&str, &[f32])], options: &[&str], code: i32, words: &[&str]) {
    let scratch = Scratch::new();
    let (got, expected) = (scratch.tensors("got", got), scratch.tensors("expected", expected));
    lighterage(&[&["compare", &got, &expected], options].concat()).check(code, words);
}

#[test]
fn equal_files_pass() {
    let tensors: &[(&str, &[f32])] = &[("a", &[1.0, 2.0]), ("b", &[])];
    check(tensors, tensors, &[], 0, &["ok  a", "ok  b", "relative 0.000e0"]);
}

#[test]
fn errors_up_to_the_tolerance_pass() {
    let (got, expected): (&[f32], &[f32]) = (&[3.0, 5.0], &[3.0, 4.0]);
    check(
        &[("a", got)],
        &[("a", expected)],
        &["--tolerance", "0.2"],
        0,
        &["relative 2.000e-1", "max 1.000e0 at element 1"],
    );
    check(
        &[("a", got)],
        &[("a", expected)],
        &["--tolerance", "0.19"],
        1,
        &["DIFFERS", "error: 1 of 1 tensor differs"],
    );
    check(&[("a", got)], &[("a", expected)], &[], 1, &["DIFFERS"]);
}

#[test]
fn nan_has_to_be_in_the_same_place() {
    check(&[("a", &[f32::NAN])], &[("a", &[f32::NAN])], &[], 0, &["1 NaN or infinite in both"]);
    check(
        &[("a", &[f32::NAN])],
        &[("a", &[1.0])],
        &["--tolerance", "inf"],
        1,
        &["NaN at element 0, expected 1"],
    );
}

#[test]
fn tensors_and_shapes_have_to_agree() {
    check(&[("a", &[1.0])], &[("a", &[1.0, 2.0])], &["--tolerance", "9"], 1, &["shape [1], expected [2]"]);
    check(&[("a", &[1.0]), ("b", &[1.0])], &[("a", &[1.0])], &[], 1, &["not in EXPECTED"]);
    check(&[("a", &[1.0])], &[("a", &[1.0]), ("b", &[1.0])], &[], 1, &["not in GOT"]);
    check(&[("a", &[1.0])], &[("a", &[1.0]), ("b", &[1.0])], &["--common"], 0, &["ok  a"]);
    check(&[("a", &[1.0])], &[("b", &[1.0])], &["--common"], 1, &["no tensor in common"]);
}

#[test]
fn pairs_compare_tensors_of_different_names() {
    check(&[("a", &[1.0])], &[("b", &[1.0])], &["--pair", "a=b"], 0, &["ok  a=b"]);
    check(&[("a", &[1.0])], &[("b", &[1.0])], &["--pair", "a=c"], 1, &["tensor \"c\" is missing"]);
}

#[test]
fn json_has_every_number() {
    let scratch = Scratch::new();
    let (got, expected) =
        (scratch.tensors("got", &[("a", &[3.0, 5.0])]), scratch.tensors("expected", &[("a", &[3.0, 4.0])]));
    let json = lighterage(&["compare", &got, &expected, "--json", "--tolerance", "1"]).check(0, &[]).stdout;
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    let expected = serde_json::json!([{ "tensor": "a", "outcome": "compared", "relative_frobenius": 0.2, "max_abs": 1.0, "element": 1, "not_finite": 0 }]);
    assert_eq!(rows, expected);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let scratch = Scratch::new();
    let good = scratch.tensors("good", &[("a", &[1.0])]);
    std::fs::write(scratch.path("bad"), [1, 2, 3]).unwrap();
    lighterage(&["compare", &good, &scratch.text("bad")])
        .check_failed(&["bad: not a safetensors file, or a truncated one: 3 bytes"]);
    lighterage(&["compare", &good, &scratch.text("none")])
        .check_failed(&["none: cannot open it: No such file"]);
}
