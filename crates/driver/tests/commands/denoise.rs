use crate::{Scratch, error_of, golden, lighterage};

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

/// A model without guidance under BFL's names (`tests/golden/make_more.py`), in f32 and, against torch's own bf16 run, in bf16.
#[test]
fn a_schnell_of_black_forest_labs_follows_the_reference() {
    let scratch = Scratch::new();
    let (dir, out) = (golden("loop-schnell-bfl-tiny"), scratch.text("out"));
    let expected = golden("loop-schnell-bfl-tiny/expected.safetensors");
    let run = |dtype| lighterage(&["denoise", "--dir", &dir, "--out", &out, "--dtype", dtype]).check(0, &[]);
    run("f32");
    lighterage(&["compare", &out, &expected, "--common", "--tolerance", "1e-4"]).check(0, &["ok  latents.2"]);
    run("bf16");
    for step in 0..3 {
        let reference = format!("latents.{step}.rounded");
        let ours = error_of(&out, &expected, &format!("latents.{step}={reference}"));
        let torchs = error_of(&expected, &expected, &format!("latents.{step}.bf16={reference}"));
        assert!(ours <= 2.0 * torchs, "step {step}: {ours} against torch's {torchs}");
    }
}
