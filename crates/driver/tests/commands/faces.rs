use crate::{Run, Scratch, golden, lighterage, repository};

const PROMPT: &str = "toon portrait of a smiling person, white t-shirt, blue background";

fn face(name: &str) -> String {
    repository(&format!("assets/demo/faces/{name}.png"))
}

fn generate(options: &[&str]) -> Run {
    lighterage(&[&["generate", "--prompt", PROMPT, "--seed", "3"], options].concat())
}

/// Case 8 of the references, within a budget smaller than the weights.
#[test]
fn a_face_and_a_prompt_make_the_persons_picture() {
    let scratch = Scratch::new();
    let (out, latents) = (scratch.text("cleo.png"), scratch.text("latents.safetensors"));
    let known = format!("{}:cleo", repository("assets/demo/faces/embeddings.safetensors"));
    let options = ["--dtype", "f32", "--vram", "3MiB", "-o", &out, "--save-latents", &latents];
    generate(&[&["--id-embedding", &known], &options[..]].concat())
        .check(0, &["identity, VRAM", "control, VRAM", "step 16/16"]);
    let expected = golden("demo/8.safetensors");
    lighterage(&["compare", &latents, &expected, "--pair", "latents=latents.f32", "--tolerance", "1e-3"])
        .check(0, &[]);
}

/// How near our embeddings are to the references' is tested where they are made (`golden.rs` of `identity`); here, that the photo is that embedding.
#[test]
fn a_photo_makes_the_picture_of_its_embedding_and_of_nobody_elses() {
    let scratch = Scratch::new();
    let latents = |name: &str, identity: [&str; 2]| {
        let (out, latents) = (scratch.text("out.png"), scratch.text(name));
        let options = ["--dtype", "f32", "--steps", "4", "-o", &out, "--save-latents", &latents];
        generate(&[&identity[..], &options[..]].concat()).check(0, &["identity, VRAM"]);
        latents
    };
    let embedding = scratch.text("cleo.safetensors");
    lighterage(&["identity", &face("cleo"), "--embedding", &embedding]).check(0, &[]);
    let known = latents("known", ["--id-embedding", &embedding]);
    let cleo = latents("cleo", ["--id-image", &face("cleo")]);
    let dan = latents("dan", ["--id-image", &face("dan")]);
    lighterage(&["compare", &cleo, &known, "--tolerance", "0"]).check(0, &[]);
    lighterage(&["compare", &dan, &known, "--tolerance", "0"]).check(1, &[]);
}

#[test]
fn an_identity_is_found_saved_and_compared() {
    let scratch = Scratch::new();
    let [crop, drawing, embedding] =
        ["crop.png", "drawing.png", "me.safetensors"].map(|name| scratch.text(name));
    let known = format!("{}:dan", repository("assets/demo/faces/embeddings.safetensors"));
    let saved = ["--crop", &crop, "--drawing", &drawing, "--embedding", &embedding, "--compare", &known];
    lighterage(&[&["identity", &face("dan")], &saved[..]].concat())
        .check(0, &["112 x 112", "44.84 59.50", "512 numbers", "cosine     0.99"]);
    // A crop is its own face, of the same person.
    let pose = scratch.text("pose.png");
    lighterage(&["identity", &crop, "--compare", &embedding, "--drawing", &pose])
        .check(0, &["an aligned crop", "cosine     1.0000"]);
    assert_eq!(scratch.names(), ["crop.png", "drawing.png", "me.safetensors", "pose.png"]);
}

#[test]
fn a_photo_without_keypoints_is_refused_unless_it_is_a_crop() {
    let scratch = Scratch::new();
    let photo = scratch.text("photo.png");
    std::fs::copy(golden("identity/photo.png"), &photo).unwrap();
    generate(&["--id-image", &photo]).check_failed(&["90 x 70 pixels and no keypoints"]);
    let copy = scratch.text("crop.png");
    std::fs::copy(face("bo"), &copy).unwrap();
    let out = scratch.text("out.png");
    generate(&["--id-image", &copy, "--steps", "2", "-o", &out]).check(0, &[]);
    generate(&["--id-image", &copy, "--id-keypoints", "aligned", "--steps", "2", "-o", &out]).check(0, &[]);
    let faces = repository("assets/demo/faces/faces.json");
    generate(&["--id-image", &copy, "--id-keypoints", &faces, "--steps", "2", "-o", &out])
        .check_failed(&["\"crop.png\""]);
}

#[test]
fn options_that_need_each_other_say_so() {
    generate(&["--infusenet-scale", "1"]).check(2, &["--infusenet-scale needs a face"]);
    generate(&["--negative-prompt", "x"]).check(2, &["--true-cfg"]);
    generate(&["--id-image", &face("bo"), "--id-embedding", "x"]).check(2, &["cannot be used with"]);
    generate(&["--id-image", &face("bo"), "--infusenet-start", "0.9", "--infusenet-end", "0.1"])
        .check(2, &["infusenet-start and -end"]);
    let base = repository("assets/demo/base");
    generate(&["--id-image", &face("bo"), "--model", &base]).check(2, &["needs --infinite-you"]);
    generate(&["--id-image", &face("bo"), "--infinite-you", &base])
        .check_failed(&["no InfiniteYou", "image_proj_model.bin"]);
}

#[test]
fn a_dry_run_checks_everything_and_makes_nothing() {
    let scratch = Scratch::new();
    let out = scratch.text("out.png");
    generate(&["--id-image", &face("bo"), "--dry-run", "-o", &out, "--infusenet-end", "0.5"])
        .check(0, &["identity", "control", "modulation", "denoise", "bare", "vae"]);
    generate(&["--id-image", "nowhere.png", "--dry-run"]).check_failed(&["nowhere.png"]);
    generate(&["--id-image", &face("bo"), "--dry-run", "--vram", "1000"]).check_failed(&["too small"]);
    assert!(scratch.names().is_empty());
}

#[test]
fn a_threshold_that_never_skips_is_said() {
    let scratch = Scratch::new();
    let out = scratch.text("out.png");
    generate(&["--teacache", "0.15", "--dry-run"]).check(0, &["no step will ever be skipped"]);
    let warned = generate(&["--teacache", "0.6", "-o", &out]).check(0, &["steps skipped"]).stderr;
    assert!(!warned.contains("will ever be skipped"), "{warned}");
}

#[test]
fn a_file_of_jobs_is_made_once() {
    let scratch = Scratch::new();
    let jobs = scratch.text("people.jsonl");
    let [first, second] = ["a.png", "b.png"].map(|name| scratch.text(name));
    let lines = [
        format!(
            r#"{{"prompt": "red heart, noto style, white background", "seed": 0, "output": "{first}", "steps": 2}}"#
        ),
        format!(r#"{{"id_image": "{}", "seed": 1, "output": "{second}"}}"#, face("eve")),
        r#"{"prompt": "x", "width": 60}"#.to_owned(),
        r#"{"prompt": "x", "colour": "blue"}"#.to_owned(),
    ];
    std::fs::write(&jobs, lines.join("\n")).unwrap();
    let run = |shard: &str| {
        lighterage(&["generate", "--prompt", PROMPT, "--steps", "3", "--jobs", &jobs, "--shard", shard])
    };
    run("0/2")
        .check(1, &["1 made, 0 were done, 1 failed", "width is 60, should be a multiple of 16: 48 or 64"]);
    run("1/2").check(1, &["1 made, 0 were done, 1 failed", "unknown field `colour`"]);
    let results = std::fs::read_to_string(scratch.path("people.results-0-of-2.jsonl")).unwrap();
    let outcomes: Vec<serde_json::Value> =
        results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((outcomes.len(), &outcomes[0]["seed"], &outcomes[1]["line"]), (2, &0.into(), &2.into()));
    assert!(outcomes[1]["error"].as_str().unwrap().contains("width is 60"));
    // A second run makes what failed, and what is gone; a corrected line is made.
    run("0/2").check(1, &["0 made, 1 were done, 1 failed"]);
    std::fs::write(&jobs, lines.join("\n").replace("60", "64")).unwrap();
    std::fs::remove_file(&first).unwrap();
    run("0/2").check(0, &["2 made, 0 were done, 0 failed"]);
    assert!(
        scratch.path("a.png").is_file()
            && scratch.path("b.png").is_file()
            && scratch.path("people-2.png").is_file()
    );
    std::fs::write(&jobs, "[]").unwrap();
    run("0/2").check_failed(&["line 1 is no JSON object"]);
}

#[test]
fn a_dry_run_of_jobs_writes_nothing() {
    let scratch = Scratch::new();
    let jobs = scratch.text("jobs.jsonl");
    std::fs::write(&jobs, r#"{"prompt": "x"}"#).unwrap();
    lighterage(&["generate", "--jobs", &jobs, "--dry-run"])
        .check(0, &["1 to be made, 0 were done, 0 failed"]);
    assert_eq!(scratch.names(), ["jobs.jsonl"]);
}

/// What the command line refuses by itself is refused in a line too, not passed over.
#[test]
fn lines_keep_the_rules_of_the_command_line() {
    let scratch = Scratch::new();
    let jobs = scratch.text("jobs.jsonl");
    let check = |line: &str, expected: &str| {
        std::fs::write(&jobs, line).unwrap();
        lighterage(&["generate", "--jobs", &jobs, "--dry-run"]).check(1, &["1 failed", expected]);
    };
    check(r#"{"negative_prompt": "y"}"#, "--negative-prompt needs --true-cfg");
    check(r#"{"id_keypoints": "aligned"}"#, "--id-keypoints needs --id-image");
    check(r#"{"control_keypoints": "k.json"}"#, "--control-keypoints needs --control-image");
    check(r#"{"id_image": "a.png", "id_embedding": "b"}"#, "exclude each other");
    let face = face("bo");
    let line = format!(r#"{{"width": 0, "id_image": "{face}", "control_image": "{face}"}}"#);
    check(&line, "width is 0");
    lighterage(&["generate", "--jobs", &jobs, "--seed", "1"]).check(2, &["--seed", "--jobs"]);
}

#[test]
fn a_pickle_becomes_safetensors_and_floats_are_rounded() {
    let scratch = Scratch::new();
    let from = golden("resampler-tiny/image_proj_model.bin");
    let to = scratch.text("projector.safetensors");
    lighterage(&["convert", &from, &to, "--strip", "image_proj."]).check(0, &["29 tensors"]);
    lighterage(&["compare", &to, &golden("resampler-tiny/model.safetensors"), "--tolerance", "0"])
        .check(0, &[]);
    let demo = repository("assets/demo/infinite-you/image_proj_model.bin");
    lighterage(&["convert", &demo, &to, "--dtype", "bf16"]).check(0, &[]);
    lighterage(&["inspect", &to]).check(0, &["BF16"]);
    lighterage(&["convert", &to, &to]).check(2, &["give another name"]);
}

#[test]
fn the_parts_of_an_infinite_you_are_shown_with_what_is_missing() {
    let scratch = Scratch::new();
    lighterage(&["inspect", &repository("assets/demo/infinite-you")])
        .check(0, &["FLUX ControlNet or InfuseNet", "image projector (resampler), torch pickle", "ArcFace"]);
    std::fs::create_dir(scratch.path("InfuseNetModel")).unwrap();
    std::fs::copy(golden("resampler-tiny/image_proj_model.bin"), scratch.path("image_proj_model.bin"))
        .unwrap();
    lighterage(&["inspect", &scratch.text("")])
        .check(0, &["not ready for a run", "InfuseNetModel/config.json is missing"]);
}
