//! Pictures of the bundled people against those of diffusers, and whether they are those people.

use crate::common::{base, between, model, promise, run};
use lighterage_checkpoint::Checkpoint;
use lighterage_device::HostConfig;
use lighterage_identity::{Embedding, FaceNetwork, Keypoints, Photo, Points, align, crop, keypoints_beside};
use lighterage_pipeline::{
    Error, Extras, Face, InfiniteYou, Job, Latent, Model, Multiprocessors, Negation, Noise, Options, Phase,
    Picture, TeaCache, Window,
};
use lighterage_shape::DType;
use lighterage_testkit::{Golden, assert_close, folder, relative_frobenius};
use serde::Deserialize;

const PEOPLE: [&str; 8] = ["ada", "bo", "cleo", "dan", "eve", "finn", "gia", "hugo"];

/// A case of `golden/demo/cases.json` with a face.
#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    face: String,
    prompt: String,
    seed: u64,
    steps: usize,
    guidance: f32,
    #[serde(default)]
    scale: f32,
    #[serde(default)]
    start: f64,
    #[serde(default)]
    end: f64,
}

fn demo(name: &str) -> std::path::PathBuf {
    base().join("..").join(name)
}

pub(crate) fn infinite_you() -> InfiniteYou {
    InfiniteYou::open(&demo("infinite-you"), promise()).expect("the bundled InfiniteYou")
}

/// Cases 8 to 11, with their numbers.
fn cases() -> Vec<(usize, Case)> {
    let text = std::fs::read(folder("demo").join("cases.json")).expect("cases.json");
    let cases: Vec<Case> = serde_json::from_slice(&text).expect("cases");
    cases.into_iter().enumerate().filter(|(_, case)| !case.face.is_empty()).collect()
}

fn embedding(name: &str) -> Vec<f32> {
    let known = Checkpoint::open(&demo("faces/embeddings.safetensors"), promise()).expect("embeddings");
    Embedding::read(&known, Some(name)).expect("an embedding").values().to_vec()
}

pub(crate) fn job(model: &Model, infinite_you: &InfiniteYou, options: Options) -> Job {
    Job::with(model, Extras { infinite_you: Some(infinite_you), adapters: None }, options).expect("a job")
}

impl Case {
    fn options(&self, model: &Model, infinite_you: &InfiniteYou, dtype: DType) -> Options {
        let window = Window { start: self.start, end: self.end };
        Options {
            seed: self.seed,
            steps: self.steps,
            guidance: self.guidance,
            dtype,
            face: Some(Face { scale: self.scale, window, ..Face::new(embedding(&self.face)) }),
            ..infinite_you.options(model, &self.prompt)
        }
    }
}

fn made(job: &Job) -> Picture {
    let survey = job.survey(crate::common::PAGE_BYTES).expect("a dry pass");
    run(job, &survey, HostConfig::default(), between(&survey))
}

#[test]
fn latents_and_tokens_are_those_of_diffusers() {
    let (model, infinite_you) = (model(), infinite_you());
    assert_eq!(cases().len(), 4);
    for (number, case) in cases() {
        let golden = Golden::open(&folder("demo").join(format!("{number}.safetensors")));
        let reference = golden.values("latents.f32");
        let picture = made(&job(&model, &infinite_you, case.options(&model, &infinite_you, DType::F32)));
        let latents = picture.latents.as_ref().expect("kept");
        println!("case {number}: f32 {:.2e}", relative_frobenius(latents, reference));
        assert_close(&format!("latents of case {number}"), latents, reference, 1e-3);
        if case.scale > 0.0 {
            let tokens = picture.tokens.as_ref().expect("kept");
            assert_close(&format!("tokens of case {number}"), tokens, golden.values("id_tokens"), 1e-5);
        }
        let theirs = relative_frobenius(golden.values("latents.bf16"), reference);
        let picture = made(&job(&model, &infinite_you, case.options(&model, &infinite_you, DType::Bf16)));
        let latents = picture.latents.as_ref().expect("kept");
        println!("case {number}: bf16 {:.2e}, theirs {theirs:.2e}", relative_frobenius(latents, reference));
        assert_close(&format!("bf16 latents of case {number}"), latents, reference, 2.0 * theirs);
    }
}

#[test]
fn the_budget_is_invisible_in_the_picture() {
    let (model, infinite_you) = (model(), infinite_you());
    let (_, case) = cases().swap_remove(2);
    for dtype in [DType::F32, DType::Bf16] {
        let job = job(&model, &infinite_you, case.options(&model, &infinite_you, dtype));
        let survey = job.survey(crate::common::PAGE_BYTES).expect("a dry pass");
        let (least, most) = (survey.minimum_bytes(), survey.maximum_bytes());
        let phases: Vec<Phase> =
            survey.within(most).unwrap().phases.iter().map(|planned| planned.phase).collect();
        use Phase::{Control, Denoise, Identity, Modulation, Text, Vae};
        assert_eq!(phases, [Text, Identity, Control, Modulation, Denoise, Vae]);
        let [small, large] = [least, most].map(|budget| run(&job, &survey, HostConfig::default(), budget));
        assert_eq!((&small.latents, &small.rgb), (&large.latents, &large.rgb));
        let refused = survey.within(least - 1);
        assert!(matches!(refused, Err(Error::Shortage(shortage)) if shortage.missing_bytes() == 1));
        let weights = survey.within(least).unwrap().phases[4].plan.streamed_bytes();
        assert!(weights > least, "InfuseNet and transformer are streamed: {weights} of {least}");
    }
}

/// A picture of each person, by the very way of the full model: photo, keypoints, crop, face network, projector, InfuseNet.
fn portraits(scale: f32) -> Vec<(Embedding, Embedding)> {
    let (model, infinite_you) = (model(), infinite_you());
    let network = FaceNetwork::find(&demo("infinite-you"), promise()).expect("the face network");
    let moods = ["smiling", "angry", "sad", "surprised", "laughing", "winking", "smiling", "sad"];
    let clothes = ["white t-shirt", "red jacket", "purple dress", "green shirt"];
    let backgrounds = ["blue", "yellow", "gray", "pink"];
    let portrait = |(index, name): (usize, &&str)| {
        let path = demo(&format!("faces/{name}.png"));
        let points = keypoints_beside(&path).unwrap().expect("faces.json");
        let photo = Photo::open(&path).unwrap();
        let known = network.embed(&crop(&photo, name, Points::Given(points)).unwrap()).unwrap();
        let prompt = format!(
            "toon portrait of a {} person, {}, {} background",
            moods[index],
            clothes[index % 4],
            backgrounds[index % 4]
        );
        let seed = 100 + index as u64;
        let face = Some(Face { scale, ..Face::new(known.values().to_vec()) });
        let options = Options { seed, face, ..infinite_you.options(&model, &prompt) };
        let picture = made(&job(&model, &infinite_you, options));
        (known, network.embed(&seen(&picture)).unwrap())
    };
    PEOPLE.iter().enumerate().map(portrait).collect()
}

/// The face of a portrait: all of the demo's people stand in one place.
fn seen(picture: &Picture) -> Photo {
    let photo = Photo::new(picture.width, picture.height, picture.rgb.clone().expect("pixels"));
    let points =
        Keypoints([[44.844, 59.5], [67.156, 59.5], [56.0, 67.375], [48.562, 74.375], [63.875, 73.5]]);
    align(&photo, points.moved([64.0 / 112.0; 2], [0.0; 2])).unwrap()
}

/// How many pictures are nearest to the photo that they were made from, among the eight.
fn recognised(portraits: &[(Embedding, Embedding)]) -> usize {
    let nearest = |made: &Embedding| {
        let cosines = portraits.iter().map(|(known, _)| made.cosine(known));
        cosines.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
    };
    portraits.iter().enumerate().filter(|(index, (_, made))| nearest(made) == Some(*index)).count()
}

#[test]
fn people_are_recognised_in_their_pictures_and_without_infusenet_they_are_not() {
    let (with, without) = (portraits(1.0), portraits(0.0));
    let mean = |portraits: &[(Embedding, Embedding)]| {
        portraits.iter().map(|(known, made)| known.cosine(made)).sum::<f64>() / 8.0
    };
    println!(
        "with InfuseNet {} of 8, cosine {:.3}; without {}, {:.3}",
        recognised(&with),
        mean(&with),
        recognised(&without),
        mean(&without)
    );
    assert!(recognised(&with) >= 7, "{} of 8", recognised(&with));
    assert!(mean(&with) > 0.7, "{}", mean(&with));
    // Chance is one.
    assert!(recognised(&without) <= 3, "{} of 8 without", recognised(&without));
    assert!(mean(&without) < 0.4, "{}", mean(&without));
}

pub(crate) fn options(model: &Model, infinite_you: &InfiniteYou) -> Options {
    let face = Some(Face::new(embedding("dan")));
    Options {
        steps: 6,
        seed: 3,
        face,
        ..infinite_you.options(model, "toon portrait of a sad person, blue background")
    }
}

#[test]
fn a_scale_of_zero_is_the_picture_without_a_face() {
    let (model, infinite_you) = (model(), infinite_you());
    let with = options(&model, &infinite_you);
    let zero = Options { face: with.face.clone().map(|face| Face { scale: 0.0, ..face }), ..with.clone() };
    let without = Options { face: None, ..with.clone() };
    let (zero, without) =
        (made(&job(&model, &infinite_you, zero)), made(&job(&model, &infinite_you, without)));
    assert_eq!(zero.latents, without.latents);
    assert_ne!(made(&job(&model, &infinite_you, with)).latents, without.latents);
}

#[test]
fn a_pose_and_a_sampled_latent_each_change_the_picture() {
    let (model, infinite_you) = (model(), infinite_you());
    let plain = options(&model, &infinite_you);
    let face = plain.face.clone().unwrap();
    let drawing = lighterage_identity::draw(
        64,
        64,
        Keypoints([[26.0, 34.0], [38.0, 34.0], [32.0, 38.0], [28.0, 42.0], [36.0, 42.0]]),
    );
    let posed = Options { face: Some(Face { control: Some(drawing), ..face.clone() }), ..plain.clone() };
    let sampled = Options {
        face: Some(Face { latent: Latent::Sample, ..face }),
        noise: Noise::CudaSecond(Multiprocessors::H100),
        ..plain.clone()
    };
    let second = Options { noise: Noise::CudaSecond(Multiprocessors::H100), ..plain.clone() };
    let latents = |options| made(&job(&model, &infinite_you, options)).latents.unwrap();
    assert_ne!(latents(posed), latents(plain));
    assert_ne!(latents(sampled), latents(second));
}

#[test]
fn teacache_skips_infusenet_too_and_at_every_budget_the_same() {
    let (model, infinite_you) = (model(), infinite_you());
    let cached = |threshold, keeps_infusenet| {
        let teacache = Some(TeaCache { threshold, keeps_infusenet });
        job(&model, &infinite_you, Options { steps: 16, teacache, ..options(&model, &infinite_you) })
    };
    let (job, kept) = (cached(0.6, false), cached(0.6, true));
    let survey = job.survey(crate::common::PAGE_BYTES).unwrap();
    let [small, large] = [survey.minimum_bytes(), survey.maximum_bytes()]
        .map(|budget| run(&job, &survey, HostConfig::default(), budget));
    assert_eq!(small.latents, large.latents);
    let computed = small.report.steps_computed;
    assert!((4..12).contains(&computed), "{computed} of 16 steps computed");
    // Only whole cycles are read: one for each step that was computed, and what was read ahead of the next.
    let denoise = |picture: &Picture| {
        picture.report.phases.iter().find(|ran| ran.phase == Phase::Denoise).unwrap().copied_bytes
    };
    let cycle = survey.within(survey.minimum_bytes()).unwrap().phases[4].plan.streamed_bytes();
    assert!(denoise(&small) <= (computed as u64 + 1) * cycle, "{} of cycles of {cycle}", denoise(&small));
    // The same picture, at the price of all cycles.
    let picture = run(
        &kept,
        &kept.survey(crate::common::PAGE_BYTES).unwrap(),
        HostConfig::default(),
        survey.minimum_bytes(),
    );
    assert_eq!(picture.latents, small.latents);
    assert!(denoise(&picture) > 15 * cycle, "{} of cycles of {cycle}", denoise(&picture));
    // A threshold that cannot be met is no TeaCache, in no byte.
    let never = cached(0.15, false);
    assert_eq!(
        never.survey(crate::common::PAGE_BYTES).unwrap().minimum_bytes(),
        cached(0.0, false).survey(crate::common::PAGE_BYTES).unwrap().minimum_bytes()
    );
    assert_eq!(made(&never).report.steps_computed, 16);
    // The plan knows of what it remembers, and of the weights that a skipped step reads.
    assert!(survey.minimum_bytes() > never.survey(crate::common::PAGE_BYTES).unwrap().minimum_bytes());
}

/// The second picture of a job begins with nothing remembered: it is that of a job of its own.
#[test]
fn teacache_remembers_nothing_of_the_picture_before() {
    let (model, infinite_you) = (model(), infinite_you());
    let teacache = Some(TeaCache { threshold: 0.6, keeps_infusenet: false });
    let seeded = |seed| {
        let options = Options { steps: 16, teacache, seed, ..options(&model, &infinite_you) };
        job(&model, &infinite_you, options)
    };
    let mut job = seeded(3);
    let first = made(&job);
    job.reseed(4);
    let second = made(&job);
    job.reseed(3);
    assert_eq!(made(&job).latents, first.latents);
    assert_eq!(made(&seeded(4)).latents, second.latents);
    assert_ne!(first.latents, second.latents);
}

/// Whoever it is and whatever the prompt says, one plan does; not so for another size, number of steps or window.
#[test]
fn jobs_that_need_the_same_plan_have_the_same_footprint() {
    let (model, infinite_you) = (model(), infinite_you());
    let plain = options(&model, &infinite_you);
    let footprint = |options: Options| job(&model, &infinite_you, options).footprint();
    let other = Options {
        prompt: "a cat".to_owned(),
        seed: 9,
        face: Some(Face::new(embedding("eve"))),
        ..plain.clone()
    };
    assert_eq!(footprint(other.clone()), footprint(plain.clone()));
    let survey =
        |options: Options| job(&model, &infinite_you, options).survey(crate::common::PAGE_BYTES).unwrap();
    let table = |survey: &lighterage_pipeline::Survey| survey.within(between(survey)).unwrap().to_string();
    assert_eq!(table(&survey(other)), table(&survey(plain.clone())));
    let face = plain.face.clone().unwrap();
    let half = Some(Face { window: Window { start: 0.0, end: 0.5 }, ..face });
    for changed in [
        Options { steps: 7, ..plain.clone() },
        Options { width: 128, ..plain.clone() },
        Options { face: half, ..plain.clone() },
        Options { face: None, ..plain.clone() },
        Options { dtype: DType::F32, ..plain.clone() },
        Options { negative: Some(Negation { prompt: String::new(), scale: 2.0 }), ..plain.clone() },
    ] {
        assert_ne!(footprint(changed.clone()), footprint(plain.clone()), "{changed:?}");
    }
}

#[test]
fn a_negative_prompt_works_with_teacache_and_a_face_at_every_budget() {
    let (model, infinite_you) = (model(), infinite_you());
    let plain = options(&model, &infinite_you);
    let negative = Some(Negation { prompt: "blue".to_owned(), scale: 2.0 });
    for teacache in [
        None,
        Some(TeaCache { threshold: 0.4, keeps_infusenet: false }),
        Some(TeaCache { threshold: 0.4, keeps_infusenet: true }),
    ] {
        let window = Window { start: 0.2, end: 0.8 };
        let face = plain.face.clone().map(|face| Face { window, ..face });
        let options = Options { steps: 12, face, negative: negative.clone(), teacache, ..plain.clone() };
        let job = job(&model, &infinite_you, options);
        let survey = job.survey(crate::common::PAGE_BYTES).unwrap();
        let [small, large] = [survey.minimum_bytes(), survey.maximum_bytes()]
            .map(|budget| run(&job, &survey, HostConfig::default(), budget));
        assert_eq!(small.latents, large.latents, "{teacache:?}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let (model, infinite_you) = (model(), infinite_you());
    let plain = options(&model, &infinite_you);
    let face = plain.face.clone().unwrap();
    let check = |face: Face, expected: &str| {
        let options = Options { face: Some(face), ..plain.clone() };
        let refused =
            Job::with(&model, Extras { infinite_you: Some(&infinite_you), adapters: None }, options)
                .unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
    };
    check(Face { scale: -1.0, ..face.clone() }, "infusenet-scale is -1");
    check(Face { guidance: f32::NAN, ..face.clone() }, "infusenet-guidance is NaN");
    check(
        Face { window: Window { start: 0.5, end: 0.4 }, ..face.clone() },
        "infusenet-start and -end is 0.5 and 0.4",
    );
    check(
        Face { control: Some(Photo::new(8, 64, vec![0; 3 * 8 * 64])), ..face.clone() },
        "control picture is 8 x 64, should be 64 x 64",
    );
    check(Face { embedding: vec![0.0; 3], ..face }, "identity embedding is 3, should be 512 numbers");
    let alone = Job::new(&model, plain).unwrap_err().to_string();
    assert!(alone.contains("face is given, should be given with an InfiniteYou"), "{alone}");
    let missing = InfiniteYou::open(&base(), promise()).unwrap_err().to_string();
    assert!(missing.contains("InfuseNetModel/config.json is missing; image_proj_model.bin or"), "{missing}");
}
