use std::io::BufReader;

use crate::{Run, Scratch, error_of, golden, lighterage};

const PROMPT: &str = "red heart, noto style, white background";

fn generate(options: &[&str]) -> Run {
    lighterage(&[&["generate", "--prompt", PROMPT, "--seed", "0"], options].concat())
}

/// Width, height, pixels and texts of a PNG.
fn read_png(path: &std::path::Path) -> (u32, u32, Vec<u8>, Vec<(String, String)>) {
    let file = BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.text.clone()));
    let utf8 = info.utf8_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap()));
    (info.width, info.height, pixels, plain.chain(utf8).collect())
}

#[test]
fn the_demo_picture_is_the_references() {
    let scratch = Scratch::new();
    let (out, latents) = (scratch.text("heart.png"), scratch.text("latents.safetensors"));
    generate(&["-o", &out, "--dtype", "f32", "--save-latents", &latents])
        .check(0, &["step 20/20", "s/step", "peak"]);
    let expected = golden("demo/0.safetensors");
    // The bound that the project sets itself for whole pictures in f32: 20 steps, each within 1e-4 of the reference's.
    lighterage(&["compare", &latents, &expected, "--pair", "latents=latents.f32", "--tolerance", "1e-3"])
        .check(0, &[]);
    let (width, height, pixels, texts) = read_png(&scratch.path("heart.png"));
    assert_eq!((width, height, pixels.len()), (64, 64, 64 * 64 * 3));
    let text = |key: &str| texts.iter().find(|(found, _)| found == key).map(|(_, text)| text.as_str());
    assert_eq!(text("Prompt"), Some(PROMPT));
    assert_eq!((text("Seed"), text("Steps"), text("Guidance")), (Some("0"), Some("20"), Some("2.5")));
    assert_eq!(
        (text("Size"), text("Dtype"), text("Model")),
        (Some("64x64"), Some("f32"), Some("lighterage demo"))
    );
    assert_eq!((text("Schedule"), text("Noise")), (Some("diffusers"), Some("cpu")));
    let parameters = text("parameters").unwrap();
    assert!(parameters.starts_with(&format!("{PROMPT}\nSteps: 20, Sampler: Euler")), "{parameters}");
}

#[test]
fn what_is_not_run_is_not_traced() {
    for option in ["--trace", "--report"] {
        generate(&["--dry-run", option, "run"]).check(2, &["--dry-run", option]);
    }
}

#[test]
fn the_picture_says_which_instructions_made_it() {
    let scratch = Scratch::new();
    let out = scratch.text("heart.png");
    let isa = |threads: &str| {
        generate(&["-o", &out, "--steps", "1", "--isa", "portable", "--threads", threads]).check(0, &[]);
        let (.., texts) = read_png(&scratch.path("heart.png"));
        texts.into_iter().find(|(key, _)| key == "Isa").map(|(_, text)| text)
    };
    assert_eq!([isa("1"), isa("2")], [Some("portable".to_owned()), Some("portable".to_owned())]);
}

/// The project's bound for whole pictures in bf16: at most twice as far from diffusers' f32 latents as diffusers' own bf16 latents are.
#[test]
fn the_bf16_picture_is_as_near_as_the_references() {
    let scratch = Scratch::new();
    let (out, latents) = (scratch.text("heart.png"), scratch.text("latents.safetensors"));
    generate(&["-o", &out, "--save-latents", &latents]).check(0, &[]);
    let expected = golden("demo/0.safetensors");
    let ours = error_of(&latents, &expected, "latents=latents.f32");
    let theirs = error_of(&expected, &expected, "latents.bf16=latents.f32");
    assert!(ours <= 2.0 * theirs, "{ours} against {theirs}");
}

#[test]
fn the_same_bytes_at_every_budget_and_thread_count() {
    let scratch = Scratch::new();
    let run = |name: &str, options: &[&str]| {
        let out = scratch.text(name);
        generate(&[&["-o", &out, "--steps", "3"], options].concat()).check(0, &[]);
        std::fs::read(out).unwrap()
    };
    let whole = run("whole.png", &[]);
    let planned = generate(&["--dry-run", "--json"]).check(0, &[]).stdout;
    let planned: serde_json::Value = serde_json::from_str(&planned).unwrap();
    let (minimum, maximum) =
        (planned["minimum_bytes"].as_u64().unwrap(), planned["maximum_bytes"].as_u64().unwrap());
    assert!(minimum < maximum, "{minimum} {maximum}");
    for (budget, threads) in [(minimum, "1"), (minimum.midpoint(maximum), "3"), (maximum, "2")] {
        let options = ["--vram", &budget.to_string(), "--threads", threads];
        assert!(run("budget.png", &options) == whole, "budget {budget}, {threads} threads");
    }
}

#[test]
fn a_budget_below_the_minimum_is_refused_with_the_numbers() {
    let scratch = Scratch::new();
    let out = scratch.text("out.png");
    let planned = generate(&["--dry-run", "--json"]).check(0, &[]).stdout;
    let planned: serde_json::Value = serde_json::from_str(&planned).unwrap();
    let minimum = planned["minimum_bytes"].as_u64().unwrap();
    let words =
        [format!("a budget of {} bytes is 1 byte too small", minimum - 1), format!("needs {minimum} bytes")];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    generate(&["-o", &out, "--vram", &(minimum - 1).to_string()]).check_failed(&words);
    generate(&["-o", &out, "--vram", "0"]).check_failed(&["a budget of 0 bytes", "largest reason"]);
    assert!(scratch.names().is_empty());
}

#[test]
fn several_seeds_make_numbered_pictures() {
    let scratch = Scratch::new();
    let out = scratch.text("p.png");
    let json =
        lighterage(&["generate", "--prompt", "", "--seed", "3,4", "--steps", "1", "-o", &out, "--json"])
            .check(0, &[]);
    assert_eq!(scratch.names(), ["p-1.png", "p-2.png"]);
    assert_ne!(
        std::fs::read(scratch.path("p-1.png")).unwrap(),
        std::fs::read(scratch.path("p-2.png")).unwrap()
    );
    let records: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&records[0]["seed"], &records[1]["seed"]), (&3.into(), &4.into()));
    assert!(records[1]["peak_bytes"].as_u64() <= records[1]["cap_bytes"].as_u64());
}

#[test]
fn a_drawn_seed_is_shown_and_makes_the_picture_again() {
    let scratch = Scratch::new();
    let (first, second) = (scratch.text("first.png"), scratch.text("second.png"));
    let shown =
        lighterage(&["generate", "--prompt", "x", "--steps", "1", "-o", &first]).check(0, &["seed "]).stderr;
    let seed = shown.lines().find_map(|line| line.strip_prefix("seed ")).unwrap();
    lighterage(&["generate", "--prompt", "x", "--steps", "1", "-o", &second, "--seed", seed]).check(0, &[]);
    assert_eq!(std::fs::read(first).unwrap(), std::fs::read(second).unwrap());
}

#[test]
fn prompts_of_any_language_are_kept() {
    let scratch = Scratch::new();
    let out = scratch.text("p.png");
    let prompt = "赤い猫 😀 – \"quoted\"";
    lighterage(&["generate", "--prompt", prompt, "--seed", "1", "--steps", "1", "-o", &out]).check(0, &[]);
    let texts = read_png(&scratch.path("p.png")).3;
    assert!(texts.contains(&("Prompt".to_owned(), prompt.to_owned())), "{texts:?}");
}

#[test]
fn what_the_encoders_leave_out_of_a_prompt_is_said() {
    let said = |prompt: &str| {
        let options = ["generate", "--dry-run", "--negative-prompt", prompt, "--true-cfg", "2", "--prompt"];
        lighterage(&[&options[..], &["a heart"]].concat()).check(0, &[]).stderr
    };
    assert!(!said("a cat").contains("left out"));
    let long = said(&"a cat ".repeat(300));
    // Of 601 tokens, the first of them CLIP's own, 76 have room before the one that ends the text.
    assert!(long.contains("negative prompt: CLIP reads 77 tokens, the last 525 are left out"), "{long}");
    assert!(long.contains("negative prompt: T5 reads "), "{long}");
    assert_eq!(long.matches("prompt: ").count(), 2, "{long}");
}

#[test]
fn dry_runs_and_sim_write_nothing() {
    let scratch = Scratch::new();
    let out = scratch.text("p.png");
    for options in [&["--dry-run"][..], &["--device", "sim"]] {
        generate(&[&["-o", &out], options].concat())
            .check(0, &["denoise", "smallest budget", "everything resident from"]);
    }
    assert!(scratch.names().is_empty());
}

#[test]
fn failures_leave_the_old_file() {
    let scratch = Scratch::new();
    let out = scratch.text("p.png");
    std::fs::write(&out, "old").unwrap();
    generate(&["-o", &out, "--vram", "1KiB"]).check_failed(&["too small"]);
    generate(&["-o", &out, "--model", &scratch.text("none")])
        .check_failed(&["none: no FLUX pipeline: there is nothing of that name"]);
    generate(&["-o", &out, "--save-latents", "/no/such/folder/l"]).check_failed(&["/no/such/folder"]);
    generate(&["-o", "/dev/null"]).check_failed(&["/dev/null", "regular file"]);
    assert_eq!(std::fs::read(&out).unwrap(), b"old");
    assert_eq!(scratch.names(), ["p.png"]);
}

#[test]
fn a_host_budget_that_is_too_small_is_refused_before_the_first_phase() {
    let scratch = Scratch::new();
    let out = scratch.text("out.png");
    let options = ["-o", &out, "--dtype", "f32", "--vram", "3MiB", "--host-memory", "100KiB"];
    let run = generate(&options);
    assert!(!run.stderr.contains("VRAM"), "{}", run.stderr);
    run.check_failed(&["pinned host memory", "102400 are left", "--vram"]);
    generate(&["--dry-run", "--dtype", "f32", "--host-memory", "0"]).check_failed(&["pinned host memory"]);
    assert!(scratch.names().is_empty());
}

#[test]
fn latents_and_picture_in_one_file_are_refused() {
    let scratch = Scratch::new();
    let out = scratch.text("out");
    std::fs::write(&out, "old").unwrap();
    let other = format!("{}/./out", scratch.text(""));
    generate(&["-o", &out, "--save-latents", &other])
        .check(2, &["--output and --save-latents are the same file"]);
    assert_eq!(std::fs::read(out).unwrap(), b"old");
}

#[test]
fn a_folder_that_nobody_can_write_to_is_found_before_the_run() {
    let run = generate(&["-o", "/proc/heart.png"]);
    assert!(!run.stderr.contains("step"), "{}", run.stderr);
    run.check_failed(&["/proc/heart.png: cannot write beside it"]);
}

#[test]
fn a_picture_of_no_numbers_is_said_to_be_one() {
    let scratch = Scratch::new();
    let out = scratch.text("out.png");
    generate(&["-o", &out, "--steps", "1", "--guidance", "3e38"])
        .check(0, &["warning: ", "are NaN or infinite"]);
}

#[test]
fn a_folder_that_is_no_model_is_told_what_it_lacks() {
    let scratch = Scratch::new();
    let (out, folder) = (scratch.text("out.png"), scratch.text(""));
    generate(&["-o", &out, "--model", &folder]).check_failed(&["no FLUX pipeline", "no model_index.json"]);
    generate(&["-o", &out, "--model", &scratch.text("none")])
        .check_failed(&["there is nothing of that name"]);
}
