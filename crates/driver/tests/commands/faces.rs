use crate::graph::red_detector;
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

/// A folder with a detector of red squares and the demo's face network.
fn face_models(scratch: &Scratch) -> String {
    let folder = scratch.path("models");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("scrfd_10g_bnkps.onnx"), red_detector()).unwrap();
    let network = "arcface_ir_se.safetensors";
    std::fs::copy(repository(&format!("assets/demo/infinite-you/{network}")), folder.join(network)).unwrap();
    folder.to_str().unwrap().to_owned()
}

/// Black, with red squares: left, top, side.
fn squares(path: &std::path::Path, [width, height]: [u32; 2], squares: &[[u32; 3]]) {
    let is_red = |x: u32, y: u32| {
        squares
            .iter()
            .any(|[left, top, side]| (*left..left + side).contains(&x) && (*top..top + side).contains(&y))
    };
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let rgb: Vec<u8> = pixels.flat_map(|(x, y)| [if is_red(x, y) { 255 } else { 0 }, 0, 0]).collect();
    let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&rgb).unwrap();
}

/// Detector, largest face, alignment, face network, each saved and taken up again by the next command.
#[test]
fn the_largest_of_several_faces_is_found_saved_and_used() {
    let scratch = Scratch::new();
    let models = face_models(&scratch);
    let [photo, points, embedding] =
        ["photo.png", "points.json", "me.safetensors"].map(|name| scratch.text(name));
    squares(&scratch.path("photo.png"), [640, 640], &[[8, 8, 8], [320, 320, 32]]);
    let saved = ["--faces", &points, "--embedding", &embedding, "--json"];
    let found =
        lighterage(&[&["identity", &photo, "--face-models", &models], &saved[..]].concat()).check(0, &[]);
    let found: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(&points).unwrap()).unwrap();
    let (faces, list) = (found["faces"].as_array().unwrap(), list.as_array().unwrap());
    assert!(faces.len() >= 2 && list.len() == faces.len(), "{found}");
    let largest = serde_json::json!([288.0, 304.0, 384.0, 368.0]);
    assert_eq!((&list[0]["corners"], &list[0]["file"]), (&largest, &"photo.png".into()));
    assert_eq!(list[0]["keypoints"], found["keypoints"]);
    lighterage(&["identity", &photo, "--keypoints", &points, "--compare", &embedding])
        .check(0, &["cosine     1.0000"]);
    // The way of generate: what the detector finds is what was saved.
    let latents = |name: &str, identity: &[&str]| {
        let (out, latents) = (scratch.text("out.png"), scratch.text(name));
        generate(&[identity, &["--steps", "2", "-o", &out, "--save-latents", &latents]].concat())
            .check(0, &[]);
        std::fs::read(latents).unwrap()
    };
    let detected = latents("detected", &["--id-image", &photo, "--face-models", &models]);
    assert!(detected == latents("saved", &["--id-embedding", &embedding]));
}

#[test]
fn no_face_is_an_error_with_the_sizes_that_were_tried() {
    let scratch = Scratch::new();
    let models = face_models(&scratch);
    let photo = scratch.text("photo.png");
    for sides in [[640, 480], [1, 1], [112, 112]] {
        squares(&scratch.path("photo.png"), sides, &[]);
        let expected = "no face detected in";
        lighterage(&["identity", &photo, "--face-models", &models])
            .check_failed(&[expected, "[640, 320, 160]"]);
        generate(&["--id-image", &photo, "--face-models", &models]).check_failed(&[expected, "photo.png"]);
    }
}

#[test]
fn outputs_of_identity_are_files_of_their_own() {
    let scratch = Scratch::new();
    let (photo, out) = (scratch.text("photo.png"), scratch.text("out"));
    std::fs::copy(face("bo"), &photo).unwrap();
    let identity = |options: &[&str]| lighterage(&[&["identity", &photo], options].concat());
    identity(&["--crop", &out, "--embedding", &out]).check(2, &["--crop and --embedding are the same file"]);
    identity(&["--faces", &out, "--drawing", &format!("{}/./out", scratch.text(""))])
        .check(2, &["same file"]);
    identity(&["--crop", &photo]).check(2, &["--crop and the photo are the same file"]);
    identity(&["--crop", &scratch.text("nowhere/crop.png"), "--faces", &out])
        .check_failed(&["there is no folder"]);
    assert_eq!(scratch.names(), ["photo.png"]);
    // A crop has its keypoints where every crop has them.
    identity(&["--faces", &out]).check(0, &["an aligned crop"]);
    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(list[0]["keypoints"][2], serde_json::json!([56.0252, 71.7366]));
}

/// Without a control photo there is no pose, not even that of the person's own photo.
#[test]
fn the_pose_is_that_of_the_control_photo_alone() {
    let scratch = Scratch::new();
    let latents = |name: &str, options: &[&str]| {
        let (out, latents) = (scratch.text("out.png"), scratch.text(name));
        let common = ["--id-image", &face("cleo"), "--steps", "2", "-o", &out, "--save-latents", &latents];
        generate(&[&common[..], options].concat()).check(0, &["control, VRAM"]);
        std::fs::read(latents).unwrap()
    };
    let (none, own) = (latents("none", &[]), latents("own", &["--control-image", &face("cleo")]));
    assert!(none != own);
    let faces = repository("assets/demo/faces/faces.json");
    assert!(own == latents("given", &["--control-image", &face("cleo"), "--control-keypoints", &faces]));
}

/// A file of the demo transformer's first query projection, by PEFT's names.
fn low_rank(scratch: &Scratch) -> String {
    // SAFETY: nobody changes the bundled model while tests run.
    let promise = unsafe { lighterage_checkpoint::Unmodified::promise() };
    let folder = repository("assets/demo/base/transformer");
    let model = lighterage_checkpoint::Checkpoint::open(folder.as_ref(), promise).unwrap();
    let [rows, columns] = model.tensor("transformer_blocks.0.attn.to_q.weight").unwrap().shape() else {
        panic!("a linear")
    };
    let values: Vec<u8> =
        (0..rows.max(columns) * 2).flat_map(|at| ((at % 7) as f32 - 3.0).to_le_bytes()).collect();
    let [down, up] =
        ["lora_A", "lora_B"].map(|half| format!("transformer.transformer_blocks.0.attn.to_q.{half}.weight"));
    let new = |name, shape, bytes| lighterage_checkpoint::NewTensor {
        name,
        dtype: lighterage_shape::DType::F32,
        shape,
        bytes,
    };
    let (wide, tall) = ([2, *columns], [*rows, 2]);
    let tensors = [new(&down, &wide, &values[..8 * columns]), new(&up, &tall, &values[..8 * rows])];
    lighterage_checkpoint::write(&scratch.path("lora.safetensors"), &tensors).unwrap();
    scratch.text("lora.safetensors")
}

#[test]
fn a_lora_changes_the_picture_and_at_every_budget_the_same() {
    let scratch = Scratch::new();
    let lora = low_rank(&scratch);
    let picture = |options: &[&str]| {
        let out = scratch.text("out.png");
        generate(&[&["--steps", "3", "-o", &out], options].concat()).check(0, &[]);
        std::fs::read(out).unwrap()
    };
    let halves = [format!("{lora}:0.02"), format!("{lora}:0.03")];
    let twice = ["--lora", &halves[0], "--lora", &halves[1]];
    let (resident, streamed) = (picture(&twice), picture(&[&twice[..], &["--vram", "2MiB"]].concat()));
    assert!(resident == streamed && resident != picture(&[]));
    assert!(String::from_utf8_lossy(&resident).contains("lora.safetensors:0.02"), "the PNG says so");
    generate(&["--lora", &format!("{lora}:x")]).check(2, &["is not a finite number"]);
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
        .check(1, &["1 made, 0 done before, 1 failed", "width is 60, should be a multiple of 16: 48 or 64"]);
    run("1/2").check(
        1,
        &["1 made, 0 done before, 1 failed, by 1 plan:", "unknown field `colour`", "error: 1 picture failed"],
    );
    let results = std::fs::read_to_string(scratch.path("people.results-0-of-2.jsonl")).unwrap();
    let outcomes: Vec<serde_json::Value> =
        results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((outcomes.len(), &outcomes[0]["seed"], &outcomes[1]["line"]), (2, &0.into(), &2.into()));
    assert!(outcomes[1]["error"].as_str().unwrap().contains("width is 60"));
    // A second run makes what failed, and what is gone; a corrected line is made.
    run("0/2").check(1, &["0 made, 1 done before, 1 failed"]);
    std::fs::write(&jobs, lines.join("\n").replace("60", "64")).unwrap();
    std::fs::remove_file(&first).unwrap();
    run("0/2").check(0, &["2 made, 0 done before, 0 failed"]);
    assert!(
        scratch.path("a.png").is_file()
            && scratch.path("b.png").is_file()
            && scratch.path("people-2.png").is_file()
    );
    std::fs::write(&jobs, "[]").unwrap();
    run("0/2").check_failed(&["line 1 is no JSON object"]);
}

/// Three kinds of pictures in five lines are planned three times, and each is what it is alone.
#[test]
fn pictures_of_one_kind_share_a_plan_and_are_what_they_are_alone() {
    let scratch = Scratch::new();
    let jobs = scratch.text("jobs.jsonl");
    let out = |name: &str| scratch.text(name);
    let lines = [
        format!(r#"{{"prompt": "cat face", "seed": 1, "output": "{}"}}"#, out("a.png")),
        format!(r#"{{"id_image": "{}", "seed": 2, "output": "{}"}}"#, face("eve"), out("b.png")),
        format!(
            r#"{{"prompt": "a much longer prompt, red heart", "seed": 3, "output": "{}"}}"#,
            out("c.png")
        ),
        format!(r#"{{"id_image": "{}", "seed": 4, "output": "{}"}}"#, face("bo"), out("d.png")),
        format!(r#"{{"prompt": "cat face", "seed": 5, "steps": 2, "output": "{}"}}"#, out("e.png")),
    ];
    std::fs::write(&jobs, lines.join("\n")).unwrap();
    let common = ["--prompt", PROMPT, "--steps", "3", "--vram", "4MiB"];
    lighterage(&[&["generate", "--jobs", &jobs], &common[..]].concat())
        .check(0, &["5 made, 0 done before, 0 failed, by 3 plans"]);
    let alone = out("alone.png");
    let single = ["generate", "--id-image", &face("bo"), "--seed", "4", "-o", &alone];
    lighterage(&[&single[..], &common].concat()).check(0, &[]);
    assert!(std::fs::read(&alone).unwrap() == std::fs::read(out("d.png")).unwrap());
}

#[test]
fn lines_that_write_one_file_are_refused_before_any_work() {
    let scratch = Scratch::new();
    let jobs = scratch.text("jobs.jsonl");
    let refused = |lines: &[&str], expected: &str| {
        std::fs::write(&jobs, lines.join("\n")).unwrap();
        lighterage(&["generate", "--jobs", &jobs, "--shard", "0/3"]).check_failed(&[expected]);
        assert_eq!(scratch.names(), ["jobs.jsonl"]);
    };
    let line = |name: &str| format!(r#"{{"prompt": "x", "output": "{}"}}"#, scratch.text(name));
    refused(&[&line("a.png"), "", &line("b.png"), &line("a.png")], "lines 1 and 4 write the same file");
    // Whichever way it is spelled, and a name that another line has by default.
    refused(&[&line("a.png"), &line("./a.png")], "lines 1 and 2 write the same file");
    refused(&[&line("jobs-1.png"), r#"{"prompt": "x"}"#], "lines 1 and 2 write the same file");
    refused(&[&line("jobs.jsonl")], "line 1 would replace the jobs or their results");
    refused(&[r#"{"prompt": "x"}"#, &line("jobs.results-2-of-3.jsonl")], "line 2 would replace the jobs");
}

#[test]
fn a_file_that_is_divided_anew_keeps_what_is_done() {
    let scratch = Scratch::new();
    let jobs = scratch.text("jobs.jsonl");
    let lines: Vec<String> =
        (0..4).map(|seed| format!(r#"{{"prompt": "x", "seed": {seed}, "steps": 1}}"#)).collect();
    std::fs::write(&jobs, lines.join("\n")).unwrap();
    let run = |shard: &str| lighterage(&["generate", "--jobs", &jobs, "--shard", shard]);
    run("0/2").check(0, &["2 made, 0 done before"]);
    run("2/4").check(0, &["0 made, 1 done before"]);
    lighterage(&["generate", "--jobs", &jobs]).check(0, &["2 made, 2 done before"]);
    let all = std::fs::read_to_string(scratch.path("jobs.results.jsonl")).unwrap();
    assert_eq!(all.lines().count(), 4);
    // Half a list of another shard saves nothing and harms nothing.
    std::fs::write(scratch.path("jobs.results-1-of-7.jsonl"), "{\"line\":").unwrap();
    run("3/4").check(0, &["0 made, 1 done before"]);
}

#[test]
fn a_dry_run_of_jobs_writes_nothing() {
    let scratch = Scratch::new();
    let jobs = scratch.text("jobs.jsonl");
    std::fs::write(&jobs, r#"{"prompt": "x"}"#).unwrap();
    lighterage(&["generate", "--jobs", &jobs, "--dry-run"])
        .check(0, &["1 to be made, 0 done before, 0 failed"]);
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
    check(r#"{"teacache": 0.1, "width": 60}"#, "--teacache 0.1: no step will ever be skipped");
    check(r#"{"id_keypoints": "aligned"}"#, "--id-keypoints needs --id-image");
    check(r#"{"control_keypoints": "k.json"}"#, "--control-keypoints needs --control-image");
    check(r#"{"id_image": "a.png", "id_embedding": "b"}"#, "exclude each other");
    let face = face("bo");
    let line = format!(r#"{{"width": 0, "id_image": "{face}", "control_image": "{face}"}}"#);
    check(&line, "width is 0");
    for (option, value) in [("--seed", "1"), ("--trace", "run.json"), ("--report", "run.html")] {
        lighterage(&["generate", "--jobs", &jobs, option, value]).check(2, &[option, "--jobs"]);
    }
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
