//! Tiles: the same bits where one covers all, and stated distances where several do.

use std::path::{Path, PathBuf};

use crate::common::{How, bits, decode, encode, open};
use lighterage_checkpoint::Checkpoint;
use lighterage_shape::DType;
use lighterage_testkit::{Rng, folder, relative_frobenius};
use lighterage_vae::{Config, Tiling};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/base/vae")
}

fn model(folder: &Path) -> (Config, Checkpoint) {
    let single = folder.join("model.safetensors");
    let weights = if single.exists() { single } else { folder.join("diffusion_pytorch_model.safetensors") };
    (Config::open(&folder.join("config.json")).unwrap(), open(&weights))
}

fn tiles(pixels: usize) -> How {
    How { tiling: Some(Tiling::new(pixels, 8).unwrap()), ..How::whole(DType::F32) }
}

/// Soft blobs of colour: what a picture is at the scale of a tile, without noise that no autoencoder keeps.
fn picture(height: usize, width: usize) -> Vec<f32> {
    let wave = |x: usize, period: f32, phase: f32| (x as f32 * std::f32::consts::TAU / period + phase).sin();
    let pixel = |at: usize| {
        let (y, x) = (at / width, at % width);
        [0.0, 2.0, 4.0].map(|phase| 0.4 * wave(x, 150.0, phase) + 0.4 * wave(y, 110.0, phase * 1.7))
    };
    (0..height * width).flat_map(pixel).collect()
}

#[test]
fn one_tile_that_covers_all_gives_the_same_bits() {
    let (config, weights) = model(&folder("vae-tiny"));
    let latent = Rng::new(1).normals(7 * 5 * 16, 1.0);
    for dtype in [DType::F32, DType::Bf16] {
        let whole = How::whole(dtype);
        for pixels in [56, 64, 1024] {
            let tiled = How { tiling: tiles(pixels).tiling, ..whole };
            let [a, b] = [whole, tiled].map(|how| bits(&decode(&config, &weights, &latent, [7, 5, 16], how)));
            assert!(a == b, "decoded, {dtype}, tile {pixels}");
            let [a, b] =
                [whole, tiled].map(|how| encode(&config, &weights, &picture(56, 40), [56, 40, 3], how));
            assert!(a == b, "encoded, {dtype}, tile {pixels}");
        }
    }
}

/// Decodes and encodes whole and in tiles, and compares.
fn check_distance(folder: &Path, [height, width]: [usize; 2], pixels: usize, bounds: [f64; 3]) {
    let (config, weights) = model(folder);
    let (shape, whole, tiled) = ([height, width, 3], How::whole(DType::F32), tiles(pixels));
    let [moments, other] =
        [whole, tiled].map(|how| encode(&config, &weights, &picture(height, width), shape, how));
    let latent = [height / 8, width / 8, config.latent_channels];
    let [image, tiled] = [whole, tiled].map(|how| decode(&config, &weights, &moments.mean, latent, how));
    let found = [
        relative_frobenius(&tiled, &image),
        relative_frobenius(&other.mean, &moments.mean),
        relative_frobenius(&other.log_variance, &moments.log_variance),
    ];
    println!("{height} x {width} in tiles of {pixels}: picture, mean, log-variance {found:.3?}");
    assert!(found.iter().zip(bounds).all(|(found, bound)| *found <= bound), "{found:?}, bounds {bounds:?}");
    assert!(found.iter().all(|found| *found > 0.0), "tiles that change nothing were not used");
}

#[test]
fn tiled_demo_pictures_stay_near_the_whole_ones() {
    // Group norms and the middle attention see tiles: measured up to 0.058, 0.052 and 0.028. A tile put down one latent position (8 pixels)
    // off should give some 0.3 where it lies (2 pi 8 / 150, the waves' period).
    check_distance(&demo(), [256, 256], 160, [0.08; 3]);
    check_distance(&demo(), [200, 328], 128, [0.08; 3]);
}

#[test]
fn tiled_pictures_of_random_weights_stay_near_the_whole_ones() {
    // Random weights make of the middle attention a function of the whole picture that no training has calmed: measured up to 0.48.
    // Unrelated pictures are sqrt(2) apart.
    check_distance(&folder("vae-tiny"), [256, 256], 160, [0.6; 3]);
    check_distance(&folder("vae-tiny"), [200, 328], 128, [0.6; 3]);
}

#[test]
fn bits_of_tiles_do_not_depend_on_threads() {
    let (config, weights) = model(&demo());
    let latent = Rng::new(2).normals(9 * 11 * config.latent_channels, 1.0);
    let run = |threads| {
        let how = How { threads, ..tiles(64) };
        bits(&decode(&config, &weights, &latent, [9, 11, config.latent_channels], how))
    };
    assert_eq!(run(1), run(3));
}
