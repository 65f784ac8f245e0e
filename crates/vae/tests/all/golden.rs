//! Parity with diffusers on the golden case, on `Host`.

use crate::common::{How, bits, decode, encode, open};
use lighterage_checkpoint::Checkpoint;
use lighterage_shape::DType;
use lighterage_testkit::{Golden, assert_close, folder, relative_frobenius};
use lighterage_vae::{Config, channels_first, channels_last};

const CASE: &str = "vae-tiny";

/// The goldens' own bound: some hundred rounded sums of at most 576 terms each, in another order than torch's.
const F32_BOUND: f64 = 1e-5;

fn golden(file: &str) -> Golden {
    Golden::open(&folder(CASE).join(file))
}

fn model() -> (Config, Checkpoint) {
    (Config::open(&folder(CASE).join("config.json")).unwrap(), open(&folder(CASE).join("model.safetensors")))
}

/// The goldens' rules: within the bound in f32; in bf16 no further from the f32 result than twice what torch's own bf16 run is.
fn check(what: &str, f32_values: &[f32], bf16_values: &[f32]) {
    let expected = golden("expected.safetensors");
    let exact = expected.values(what);
    assert_close(what, f32_values, exact, F32_BOUND);
    let torch = relative_frobenius(expected.values(&format!("{what}.bf16")), exact);
    let ours = relative_frobenius(bf16_values, exact);
    println!(
        "{what}: f32 {:.3e}, bf16 {ours:.3e}, torch's {torch:.3e}",
        relative_frobenius(f32_values, exact)
    );
    assert!(ours <= 2.0 * torch, "{what}: bf16 error {ours:.3e} is more than twice torch's {torch:.3e}");
}

/// A tensor `[1, channels, height, width]` of the inputs, channels last.
fn input(name: &str) -> (Vec<f32>, [usize; 3]) {
    let inputs = golden("inputs.safetensors");
    let &[1, channels, height, width] = inputs.shape(name) else { panic!("{:?}", inputs.shape(name)) };
    (channels_last(inputs.values(name), [channels, height, width]), [height, width, channels])
}

fn decoded(how: How) -> Vec<f32> {
    let (config, weights) = model();
    let (latent, shape) = input("latent");
    let picture = decode(&config, &weights, &latent, shape, how);
    channels_first(&picture, [shape[0] * config.factor(), shape[1] * config.factor(), config.out_channels])
}

fn moments(how: How) -> [Vec<f32>; 2] {
    let (config, weights) = model();
    let (picture, shape) = input("image");
    let values = encode(&config, &weights, &picture, shape, how);
    let shape = [shape[0] / config.factor(), shape[1] / config.factor(), config.latent_channels];
    [values.mean, values.log_variance].map(|values| channels_first(&values, shape))
}

#[test]
fn decoder_agrees() {
    check("decoded", &decoded(How::whole(DType::F32)), &decoded(How::whole(DType::Bf16)));
}

#[test]
fn encoder_agrees() {
    let (single, half) = (moments(How::whole(DType::F32)), moments(How::whole(DType::Bf16)));
    check("moments.mean", &single[0], &half[0]);
    check("moments.logvar", &single[1], &half[1]);
}

#[test]
fn bits_do_not_depend_on_threads() {
    for dtype in [DType::F32, DType::Bf16] {
        let with = |threads| How { threads, ..How::whole(dtype) };
        assert_eq!(bits(&decoded(with(1))), bits(&decoded(with(3))), "decoded, {dtype}");
        let (one, three) = (moments(with(1)), moments(with(3)));
        assert_eq!(one.map(|values| bits(&values)), three.map(|values| bits(&values)), "moments, {dtype}");
    }
}
