//! Bad input gives one error with its numbers, before anything runs.

use std::sync::Arc;

use crate::common::{Plain, open, plain, queue, upload, written};
use lighterage_pager::{Pager, Units};
use lighterage_shape::DType;
use lighterage_testkit::folder;
use lighterage_vae::{Config, Decoder, Encoder, Tiling};

fn config() -> Config {
    Config::open(&folder("vae-tiny").join("config.json")).unwrap()
}

fn check_decode(shape: [usize; 3], expected: &str) {
    let (queue, mut units) = (queue(1), Units::default());
    let weights = open(&folder("vae-tiny").join("model.safetensors"));
    let decoder = Decoder::new(config(), &weights, DType::F32, &mut units).unwrap();
    let pager = Pager::resident(queue.stream(), Arc::new(units)).unwrap();
    let latent = upload(&queue, &vec![0.0; shape.iter().product()], shape, DType::F32);
    let error = decoder.decode(&queue, &pager, latent.view(), None).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
}

fn check_encode(shape: [usize; 3], tile: Option<usize>, expected: &str) {
    let (queue, mut units) = (queue(1), Units::default());
    let weights = open(&folder("vae-tiny").join("model.safetensors"));
    let encoder = Encoder::new(config(), &weights, DType::F32, &mut units).unwrap();
    let pager = Pager::resident(queue.stream(), Arc::new(units)).unwrap();
    let picture = upload(&queue, &vec![0.0; shape.iter().product()], shape, DType::F32);
    let tiling = tile.map(|pixels| Tiling::new(pixels, 8).unwrap());
    let error = encoder.encode(&queue, &pager, picture.view(), tiling).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
}

fn check_weights(change: impl Fn(&mut Vec<Plain>), expected: &str) {
    let mut tensors = plain(&open(&folder("vae-tiny").join("model.safetensors")));
    change(&mut tensors);
    let (_folder, weights) = written(&tensors);
    let error = Decoder::new(config(), &weights, DType::F32, &mut Units::default()).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
}

#[test]
fn latents_of_another_shape_are_refused() {
    check_decode([4, 4, 8], "the latent should be [height, width, 16], is [4, 4, 8]");
    check_decode([0, 4, 16], "is [0, 4, 16]");
}

#[test]
fn pictures_of_another_shape_are_refused() {
    check_encode([16, 16, 4], None, "the picture should be [height, width, 3]");
    check_encode([7, 16, 3], None, "sides of at least 8");
    check_encode([41, 80, 3], Some(32), "is [41, 80, 3]");
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let name = "decoder.mid_block.attentions.0.to_k.weight";
    check_weights(|tensors| tensors.retain(|tensor| tensor.name != name), name);
    let grow = |tensors: &mut Vec<Plain>| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        tensor.bytes.extend_from_within(..);
        tensor.shape[0] *= 2;
    };
    check_weights(grow, "should be [64, 64], is [128, 64]");
}
