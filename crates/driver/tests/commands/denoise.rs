use crate::{Scratch, golden, lighterage};

#[test]
fn the_loop_follows_the_reference_step_by_step_at_every_budget() {
    let scratch = Scratch::new();
    let run = |name: &str, options: &[&str]| {
        let out = scratch.text(name);
        lighterage(&[&["denoise", "--dir", &golden("loop-tiny"), "--out", &out], options].concat())
            .check(0, &["s/step"]);
        out
    };
    let whole = run("whole", &[]);
    let expected = golden("loop-tiny/expected.safetensors");
    // Tolerance of the loops, tests/golden/make_golden.py.
    lighterage(&["compare", &whole, &expected, "--tolerance", "1e-4"])
        .check(0, &["ok  latents.0", "ok  latents.5"]);
    let small = run("small", &["--vram", "1MiB", "--threads", "1"]);
    assert_eq!(std::fs::read(whole).unwrap(), std::fs::read(small).unwrap());
}

#[test]
fn a_budget_below_the_minimum_is_refused_with_the_numbers() {
    let scratch = Scratch::new();
    let out = scratch.text("out");
    lighterage(&["denoise", "--dir", &golden("loop-tiny"), "--out", &out, "--vram", "64KiB"])
        .check_failed(&["budget of 65536 bytes", "too small", "largest reason"]);
    assert!(scratch.names().is_empty());
}

#[test]
fn a_missing_folder_is_named() {
    let scratch = Scratch::new();
    let (dir, out) = (scratch.text("none"), scratch.text("out"));
    lighterage(&["denoise", "--dir", &dir, "--out", &out]).check_failed(&["none/run.json", "No such file"]);
}
