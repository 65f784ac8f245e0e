//! Parity with diffusers on the golden cases, on `Host`.

use crate::common::{Loaded, bits, infuse, upload, values};
use lighterage_dit::{Conditioning, Rope, StepInputs, Timesteps};
use lighterage_shape::DType;
use lighterage_testkit::{Golden, assert_close, folder, relative_frobenius};

/// f32 against f32: some hundred rounded sums of at most 640 terms each, in another order than torch's; 2^-24 each, and errors
/// of random sign. The goldens' own bound is 1e-5.
const F32_BOUND: f64 = 1e-5;

fn expected(case: &str) -> Golden {
    Golden::open(&folder(case).join("expected.safetensors"))
}

/// The goldens' rule: no further from the exact result than twice what torch's own bf16 run is.
fn assert_as_good_as_torch(name: &str, got: &[f32], expected: &Golden) {
    let exact = expected.values(&format!("{name}.rounded"));
    let torch = relative_frobenius(expected.values(&format!("{name}.bf16")), exact);
    let ours = relative_frobenius(got, exact);
    println!("{name}: ours {ours:.3e}, torch {torch:.3e}");
    assert!(ours <= 2.0 * torch, "{name}: error {ours:.3e} is more than twice torch's {torch:.3e}");
}

fn assert_exact(name: &str, got: &[f32], expected: &Golden) {
    println!("{name}: f32 {:.3e}", relative_frobenius(got, expected.values(name)));
    assert_close(name, got, expected.values(name), F32_BOUND);
}

fn check_transformer(case: &str) {
    let expected = expected(case);
    assert_exact("sample", &Loaded::case(case, DType::F32, 2).sample(case), &expected);
    assert_as_good_as_torch("sample", &Loaded::case(case, DType::Bf16, 2).sample(case), &expected);
}

#[test]
fn dev_transformer_agrees() {
    check_transformer("flux-dev-tiny");
}

#[test]
fn schnell_transformer_agrees() {
    check_transformer("flux-schnell-tiny");
}

#[test]
fn transformer_with_residuals_agrees() {
    check_transformer("flux-controlled-tiny");
}

fn check_infusenet(case: &str, outputs: usize) {
    let expected = expected(case);
    let found = infuse(case, DType::F32, 2);
    assert_eq!(found.len(), outputs);
    for (name, values) in found {
        assert_exact(&name, &values, &expected);
    }
    for (name, values) in infuse(case, DType::Bf16, 2) {
        assert_as_good_as_torch(&name, &values, &expected);
    }
}

#[test]
fn infusenet_agrees() {
    check_infusenet("infusenet-tiny", 3);
}

#[test]
fn scaled_controlnet_with_more_single_blocks_agrees() {
    check_infusenet("controlnet-single-tiny", 3);
}

fn check_threads(dtype: DType) {
    let case = "flux-controlled-tiny";
    let one = bits(&Loaded::case(case, dtype, 1).sample(case));
    for threads in [2, 3] {
        assert_eq!(bits(&Loaded::case(case, dtype, threads).sample(case)), one, "{threads} threads, {dtype}");
    }
    assert_eq!(bits(&Loaded::case(case, dtype, 1).sample(case)), one, "a second run, {dtype}");
}

#[test]
fn bits_do_not_depend_on_threads() {
    check_threads(DType::F32);
    check_threads(DType::Bf16);
}

/// The golden case's step stands second among three.
#[test]
fn each_step_reads_its_own_row_of_the_modulation() {
    let case = "flux-dev-tiny";
    let loaded = Loaded::case(case, DType::F32, 2);
    let (model, queue, pager) = (&loaded.model, &loaded.queue, &loaded.pager);
    let raw = Golden::open(&folder(case).join("inputs.safetensors"));
    let matrix = |name: &str| upload(queue, DType::F32, raw.values(name), &raw.shape(name)[1..]);
    let pooled = upload(queue, DType::F32, raw.values("pooled_projections"), &[48]);
    let timesteps = [1.0, raw.values("timestep")[0], 0.1];
    let conditioning = Conditioning {
        timesteps: Timesteps::Rounded(&timesteps),
        guidance: Some(3.5),
        pooled: pooled.view(),
    };
    let modulations = model.condition(queue, pager, &conditioning).unwrap();
    let text = model.embed_text(queue, pager, matrix("encoder_hidden_states").view()).unwrap();
    let rope = Rope::grid(queue, model.config(), 10, 6, 9).unwrap();
    let latents = matrix("hidden_states");
    let velocity = |step| {
        modulations.select(queue, step).unwrap();
        let inputs = StepInputs {
            latents: latents.view(),
            text: text.view(),
            modulations: &modulations,
            rope: &rope,
            residuals: None,
        };
        values(queue, model.step(queue, pager, &inputs).unwrap().view())
    };
    let expected = expected(case);
    assert_close("the second step", &velocity(1), expected.values("sample"), F32_BOUND);
    for other in [0, 2] {
        assert!(relative_frobenius(&velocity(other), expected.values("sample")) > 0.01, "step {other}");
    }
    assert_eq!(bits(&velocity(1)), bits(&velocity(1)), "inputs are not written");
}
