//! Parity with transformers on the golden cases, on `Host`.

use crate::common::{bits, clip_config, ids, open, run_clip, run_t5, t5_config};
use lighterage_shape::DType;
use lighterage_testkit::{Golden, assert_close, folder, relative_frobenius};

fn expected(case: &str) -> Golden {
    Golden::open(&folder(case).join("expected.safetensors"))
}

/// The goldens' rules: within `bound` in f32; in bf16 no further from the f32 result than twice what torch's own bf16 run is.
fn check(what: &str, expected: &Golden, f32_values: &[f32], bf16_values: &[f32], bound: f64) {
    let exact = expected.values(what);
    assert_close(what, f32_values, exact, bound);
    let torch = relative_frobenius(expected.values(&format!("{what}.bf16")), exact);
    let ours = relative_frobenius(bf16_values, exact);
    println!(
        "{what}: f32 {:.3e}, bf16 {ours:.3e}, torch's {torch:.3e}",
        relative_frobenius(f32_values, exact)
    );
    assert!(ours <= 2.0 * torch, "{what}: bf16 error {ours:.3e} is more than twice torch's {torch:.3e}");
}

fn clip(case: &str, dtype: DType, threads: usize) -> (Vec<f32>, Vec<f32>) {
    run_clip(clip_config(case), &open(&folder(case).join("model.safetensors")), &ids(case), dtype, threads)
}

fn t5(case: &str, dtype: DType, threads: usize) -> Vec<f32> {
    run_t5(t5_config(case), &open(&folder(case).join("model.safetensors")), &ids(case), dtype, threads)
}

fn check_clip(case: &str) {
    let (single, half) = (clip(case, DType::F32, 2), clip(case, DType::Bf16, 2));
    check("last_hidden_state", &expected(case), &single.0, &half.0, 1e-5);
    check("pooler_output", &expected(case), &single.1, &half.1, 1e-5);
}

#[test]
fn clip_agrees() {
    check_clip("clip-tiny");
}

#[test]
fn clip_with_the_legacy_end_token_agrees() {
    check_clip("clip-legacy-eos-tiny");
}

#[test]
fn t5_agrees() {
    let (single, half) = (t5("t5-tiny", DType::F32, 2), t5("t5-tiny", DType::Bf16, 2));
    // T5's unscaled attention is ill-conditioned: the goldens' bound for it is three times the others' (make_golden.py).
    check("last_hidden_state", &expected("t5-tiny"), &single, &half, 3e-5);
}

#[test]
fn bits_do_not_depend_on_threads() {
    for dtype in [DType::F32, DType::Bf16] {
        let (one, three) = (clip("clip-tiny", dtype, 1), clip("clip-tiny", dtype, 3));
        assert_eq!((bits(&one.0), bits(&one.1)), (bits(&three.0), bits(&three.1)), "clip, {dtype}");
        assert_eq!(bits(&t5("t5-tiny", dtype, 1)), bits(&t5("t5-tiny", dtype, 3)), "t5, {dtype}");
    }
}
