//! Every step from a photo to the tokens against numpy, `OpenCV` and torch.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_checkpoint::{Checkpoint, Unmodified};
use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
use lighterage_identity::{
    ArcFace, Embedding, FaceNetwork, Keypoints, Photo, Points, Resampler, align, crop, draw, keypoints_beside,
};
use lighterage_ops::Queue;
use lighterage_pager::{Pager, Plan, Units};
use lighterage_shape::DType;
use lighterage_testkit::{Golden, assert_close, folder, relative_frobenius};

const KEYPOINTS: Keypoints =
    Keypoints([[31.25, 30.5], [50.75, 22.25], [45.0, 40.125], [40.5, 53.75], [57.25, 47.5]]);

fn promise() -> Unmodified {
    // SAFETY: nobody writes to the golden files and the bundled model while tests run.
    unsafe { Unmodified::promise() }
}

fn golden(name: &str) -> PathBuf {
    folder("identity").join(name)
}

fn demo(name: &str) -> PathBuf {
    folder("").join("../../assets/demo").join(name)
}

/// How many values differ, and by how much at most.
fn difference(got: &Photo, expected: &Path) -> (usize, u8) {
    let expected = Photo::open(expected).unwrap();
    assert_eq!((got.width(), got.height()), (expected.width(), expected.height()));
    let apart = got.rgb().iter().zip(expected.rgb()).map(|(got, expected)| got.abs_diff(*expected));
    apart.fold((0, 0), |(count, most), apart| (count + usize::from(apart > 0), most.max(apart)))
}

#[test]
fn crop_is_that_of_opencv() {
    let photo = Photo::open(&golden("photo.png")).unwrap();
    // The similarity differs in the last bits, which moves a position to the next 32nd of a pixel here and there.
    let (count, most) = difference(&align(&photo, KEYPOINTS).unwrap(), &golden("aligned.png"));
    assert!(most <= 2 && count <= 3 * 112 * 112 / 100, "{count} values differ, by up to {most}");
}

#[test]
fn drawings_are_those_of_opencv() {
    let larger = Keypoints([[60.5, 80.9], [130.2, 70.1], [101.7, 120.3], [75.5, 170.2], [140.9, 150.6]]);
    for (width, height, keypoints) in [(96, 80, KEYPOINTS), (200, 240, larger)] {
        let drawn = draw(width, height, keypoints);
        let (count, _) = difference(&drawn, &golden(&format!("keypoints-{width}-{height}.png")));
        assert_eq!(count, 0, "{count} of {} values differ", 3 * width * height);
    }
}

#[test]
fn network_of_facexlibs_depth_from_a_pickle() {
    let network = ArcFace::new(&Checkpoint::open(&golden("arcface.pth"), promise()).unwrap()).unwrap();
    let golden = Golden::open(&golden("arcface.safetensors"));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255")]
    let crop = golden.values("crop").iter().map(|value| *value as u8).collect();
    let got = network.embed(&Photo::new(112, 112, crop));
    // 49 convolutions in f32, each sum of up to 45 products in another order than torch's.
    assert_close("embedding", got.values(), golden.values("embedding"), 1e-4);
}

#[test]
fn every_demo_face_has_its_reference_embedding() {
    let network = FaceNetwork::find(&demo("infinite-you"), promise()).unwrap();
    let known = Checkpoint::open(&demo("faces/embeddings.safetensors"), promise()).unwrap();
    let mut least = 1.0_f64;
    for name in ["ada", "bo", "cleo", "dan", "eve", "finn", "gia", "hugo"] {
        let path = demo(&format!("faces/{name}.png"));
        let points = Points::Given(keypoints_beside(&path).unwrap().expect("faces.json"));
        let got = network.embed(&crop(&Photo::open(&path).unwrap(), name, points).unwrap()).unwrap();
        let cosine = got.cosine(&Embedding::read(&known, Some(name)).unwrap());
        assert!(cosine >= 0.995, "{name}: {cosine}");
        least = least.min(cosine);
        let length: f32 = got.values().iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-5, "{name}: {length}");
    }
    println!("least cosine to a reference embedding: {least:.6}");
}

/// Tokens of `golden/resampler-tiny` from one of its two files, with all weights resident or in the smallest budget.
fn tokens(file: &str, dtype: DType, is_small: bool) -> Vec<f32> {
    let host = Host::new(HostConfig { page_bytes: 4096, ..HostConfig::default() }).unwrap();
    let device = Device::new(host, Ledger::new(16 << 20), Ledger::new(16 << 20));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let queue = Queue::new(
        Pool::new(&stream, PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 30 }).unwrap(),
    );
    let case = folder("resampler-tiny");
    let checkpoint = Checkpoint::open(&case.join(file), promise()).unwrap();
    let mut units = Units::default();
    let head = Resampler::head_of(&case.join("config.json")).unwrap();
    let resampler = Resampler::new(&checkpoint, head, dtype, &mut units).unwrap();
    assert_eq!((head, resampler.embedding(), resampler.tokens()), (16, 32, [8, 96]));
    let embedding = Golden::open(&case.join("inputs.safetensors")).values("id_embedding").to_vec();
    let embedding = queue.upload_as(dtype, &embedding, &[1, 32], "embedding").unwrap();
    let units = Arc::new(units);
    let whole = Pager::resident(&stream, Arc::clone(&units)).unwrap();
    let made = resampler.forward(&queue, &whole, embedding.view()).unwrap();
    let made = if is_small {
        let cycle = whole.trace();
        drop(whole);
        let plan = Plan::within(&units, &cycle, Plan::minimum(&units, &cycle, 4096), 4096).unwrap();
        resampler
            .forward(&queue, &Pager::new(&stream, units, &cycle, &plan).unwrap(), embedding.view())
            .unwrap()
    } else {
        made
    };
    queue.read_f32(made.view()).unwrap().unwrap()
}

#[test]
fn tokens_are_those_of_torch_from_both_files() {
    let expected = Golden::open(&folder("resampler-tiny").join("expected.safetensors"));
    let (reference, theirs) = (expected.values("tokens"), expected.values("tokens.bf16"));
    for file in ["image_proj_model.bin", "model.safetensors"] {
        // golden/make_golden.py: 1e-5 in f32, twice torch's own error in bf16.
        assert_close(file, &tokens(file, DType::F32, false), reference, 1e-5);
        assert_close(
            file,
            &tokens(file, DType::Bf16, false),
            reference,
            2.0 * relative_frobenius(theirs, reference),
        );
    }
}

#[test]
fn tokens_do_not_depend_on_the_budget() {
    for dtype in [DType::F32, DType::Bf16] {
        let file = "image_proj_model.bin";
        assert_eq!(tokens(file, dtype, true), tokens(file, dtype, false));
    }
}

#[test]
fn a_head_that_does_not_fit_is_refused() {
    let checkpoint =
        Checkpoint::open(&folder("resampler-tiny").join("image_proj_model.bin"), promise()).unwrap();
    let refused = Resampler::new(&checkpoint, 48, DType::F32, &mut Units::default()).unwrap_err().to_string();
    assert!(refused.contains("64 columns are no whole number of heads of 48"), "{refused}");
}
