//! The spellings that the ecosystem writes mean the same model.

use crate::common::{How, Plain, bits, decode, encode, open, plain, written};
use lighterage_checkpoint::Checkpoint;
use lighterage_shape::DType;
use lighterage_testkit::{Rng, folder};
use lighterage_vae::{Config, diffusers_layout};
use serde_json::Value;

const LATENT: [usize; 3] = [5, 3, 16];
const PICTURE: [usize; 3] = [24, 40, 3];

fn weights() -> Checkpoint {
    open(&folder("vae-tiny").join("model.safetensors"))
}

/// The golden configuration with some fields changed.
fn config(change: impl Fn(&mut Value)) -> Config {
    let text = std::fs::read_to_string(folder("vae-tiny").join("config.json")).unwrap();
    let mut value = serde_json::from_str(&text).unwrap();
    change(&mut value);
    Config::from_json(&value.to_string()).unwrap()
}

fn random(shape: [usize; 3]) -> Vec<f32> {
    Rng::new(3).normals(shape.iter().product(), 0.5)
}

/// Decoded picture, mean and log-variance.
fn run(config: &Config, weights: &Checkpoint, dtype: DType) -> [Vec<f32>; 3] {
    let picture = decode(config, weights, &random(LATENT), LATENT, How::whole(dtype));
    let moments = encode(config, weights, &random(PICTURE), PICTURE, How::whole(dtype));
    [picture, moments.mean, moments.log_variance]
}

fn check_same(tensors: &[Plain]) {
    let (_folder, other) = written(tensors);
    for dtype in [DType::F32, DType::Bf16] {
        let [a, b] = [&weights(), &other]
            .map(|weights| run(&config(|_| ()), weights, dtype).map(|values| bits(&values)));
        assert!(a == b, "{dtype}: other bits");
    }
}

/// diffusers' name as BFL's `ae.safetensors` has it; the inner names of a residual block are the same.
fn to_bfl(name: &str) -> String {
    let parts = [
        (".mid_block.resnets.0.", ".mid.block_1."),
        (".mid_block.resnets.1.", ".mid.block_2."),
        (".mid_block.attentions.0.group_norm.", ".mid.attn_1.norm."),
        (".mid_block.attentions.0.to_q.", ".mid.attn_1.q."),
        (".mid_block.attentions.0.to_k.", ".mid.attn_1.k."),
        (".mid_block.attentions.0.to_v.", ".mid.attn_1.v."),
        (".mid_block.attentions.0.to_out.0.", ".mid.attn_1.proj_out."),
        (".down_blocks.", ".down."),
        (".up_blocks.0.", ".up.3."),
        (".up_blocks.1.", ".up.2."),
        (".up_blocks.2.", ".up.1."),
        (".up_blocks.3.", ".up.0."),
        (".resnets.", ".block."),
        (".downsamplers.0.", ".downsample."),
        (".upsamplers.0.", ".upsample."),
        (".conv_shortcut.", ".nin_shortcut."),
        (".conv_norm_out.", ".norm_out."),
    ];
    parts.iter().fold(name.to_owned(), |name, (diffusers, bfl)| name.replace(diffusers, bfl))
}

/// Linears of the attention as 1x1 convolutions.
fn as_convolution(tensor: Plain) -> Plain {
    let attention = tensor.name.contains(".attn_1.") || tensor.name.contains(".attentions.");
    let shape = match tensor.shape[..] {
        [out, inner] if attention => vec![out, inner, 1, 1],
        _ => tensor.shape,
    };
    Plain { shape, ..tensor }
}

fn bfl() -> Vec<Plain> {
    plain(&weights()).into_iter().map(|tensor| Plain { name: to_bfl(&tensor.name), ..tensor }).collect()
}

#[test]
fn bfl_names_are_the_same() {
    check_same(&bfl());
}

#[test]
fn bfl_file_with_attention_as_convolutions_is_the_same() {
    check_same(&bfl().into_iter().map(as_convolution).collect::<Vec<_>>());
}

#[test]
fn diffusers_file_with_attention_as_convolutions_is_the_same() {
    check_same(&plain(&weights()).into_iter().map(as_convolution).collect::<Vec<_>>());
}

#[test]
fn shortcuts_as_linears_are_the_same() {
    let flat = |tensor: Plain| {
        let shape = match tensor.shape[..] {
            [out, inner, 1, 1] => vec![out, inner],
            _ => tensor.shape,
        };
        Plain { shape, ..tensor }
    };
    check_same(&plain(&weights()).into_iter().map(flat).collect::<Vec<_>>());
}

/// A 1x1 convolution, `factor` times the identity, and a bias of zeros.
fn scaled_identity(name: &str, channels: usize, factor: f32) -> [Plain; 2] {
    let value = |index: usize| if index.is_multiple_of(channels + 1) { factor } else { 0.0 };
    let bytes = |count: usize, value: &dyn Fn(usize) -> f32| {
        (0..count).flat_map(|i| value(i).to_le_bytes()).collect()
    };
    let plain = |part: &str, shape: Vec<usize>, bytes| Plain {
        name: format!("{name}.{part}"),
        dtype: DType::F32,
        shape,
        bytes,
    };
    [
        plain("weight", vec![channels, channels, 1, 1], bytes(channels * channels, &value)),
        plain("bias", vec![channels], bytes(channels, &|_| 0.0)),
    ]
}

#[test]
fn quantising_convolutions_are_applied() {
    let mut tensors = plain(&weights());
    // Powers of two: exact.
    tensors.extend(scaled_identity("quant_conv", 32, 2.0));
    tensors.extend(scaled_identity("post_quant_conv", 16, 0.25));
    let (_folder, with) = written(&tensors);
    let quantising = config(|value| {
        value["use_quant_conv"] = true.into();
        value["use_post_quant_conv"] = true.into();
    });
    let whole = How::whole(DType::F32);
    let times = |values: &[f32], factor: f32| values.iter().map(|value| value * factor).collect::<Vec<_>>();
    let [picture, mean, log_variance] = run(&config(|_| ()), &weights(), DType::F32);
    assert_eq!(decode(&quantising, &with, &times(&random(LATENT), 4.0), LATENT, whole), picture);
    let moments = encode(&quantising, &with, &random(PICTURE), PICTURE, whole);
    assert_eq!((moments.mean, moments.log_variance), (times(&mean, 2.0), times(&log_variance, 2.0)));
}

#[test]
fn middle_without_attention_reads_none() {
    let bare = plain(&weights()).into_iter().filter(|tensor| !tensor.name.contains(".attentions."));
    let (_folder, bare) = written(&bare.collect::<Vec<_>>());
    let plain_middle = config(|value| value["mid_block_add_attention"] = false.into());
    let [picture, ..] = run(&plain_middle, &bare, DType::F32);
    let [with_attention, ..] = run(&config(|_| ()), &weights(), DType::F32);
    assert!(picture.iter().all(|value| value.is_finite()) && picture != with_attention);
}

/// There and back: every tensor of diffusers' file has its shape and bytes again, from each way that it is spelled.
#[test]
fn every_spelling_becomes_that_of_diffusers() {
    let convolutions = |tensors: Vec<Plain>| tensors.into_iter().map(as_convolution).collect::<Vec<_>>();
    for tensors in [plain(&weights()), bfl(), convolutions(bfl()), convolutions(plain(&weights()))] {
        let (_folder, other) = written(&tensors);
        let (recipes, expected) = (diffusers_layout(&other), weights());
        assert_eq!(recipes.len(), expected.tensors().count());
        for (recipe, tensor) in recipes.iter().zip(expected.tensors()) {
            assert_eq!((recipe.name.as_str(), &recipe.shape[..]), (tensor.name(), tensor.shape()));
            assert!(recipe.bytes(&other).unwrap() == tensor.bytes(), "{}", recipe.name);
        }
    }
}
