use crate::{Scratch, lighterage};

/// Wrong arguments: exit code 2, these words, and nothing written.
#[track_caller]
fn check(arguments: &[&str], words: &[&str]) {
    let scratch = Scratch::new();
    let out = scratch.text("out");
    let arguments: Vec<&str> =
        arguments.iter().map(|argument| if *argument == "OUT" { &*out } else { argument }).collect();
    lighterage(&arguments).check(2, words);
    assert!(scratch.names().is_empty());
}

fn generate(option: &str, value: &str, words: &[&str]) {
    check(&["generate", "--prompt", "x", "-o", "OUT", option, value], &[&[value, option], words].concat());
}

#[test]
fn commands_and_options_that_do_not_exist() {
    check(&[], &["Usage", "generate"]);
    check(&["paint"], &["unrecognized subcommand 'paint'"]);
    check(&["generate", "--prompt", "x", "--nonsense"], &["unexpected argument '--nonsense'"]);
    check(&["generate", "-o", "OUT"], &["--prompt"]);
    check(&["forward", "--module", "flux", "--out", "OUT"], &["--dir"]);
    check(&["forward", "--module", "unet", "--dir", "x", "--out", "OUT"], &["unet", "flux", "vae-decode"]);
    check(&["denoise", "--out", "OUT"], &["--dir"]);
    check(&["compare", "a"], &["EXPECTED"]);
    check(&["compare", "a", "b", "--tolerance", "-1"], &["--tolerance", "0 or more"]);
    check(&["compare", "a", "b", "--tolerance", "NaN"], &["NaN", "0 or more"]);
    check(&["compare", "a", "b", "--pair", "=x"], &["name is missing"]);
    check(&["inspect"], &["PATH"]);
}

#[test]
fn sizes_of_pictures_name_the_two_nearest() {
    generate("--width", "1080", &["1072 and 1088"]);
    generate("--height", "17", &["16 and 32"]);
    generate("--height", "0", &["from 16 to 16384"]);
    generate("--width", "99999999999999999999", &["from 16 to 16384"]);
    generate("--width", "wide", &["multiple of 16"]);
}

#[test]
fn numbers_out_of_range() {
    generate("--steps", "0", &["1 to 1000"]);
    generate("--steps", "1001", &["1 to 1000"]);
    generate("--guidance", "inf", &["finite"]);
    generate("--guidance", "NaN", &["finite"]);
    generate("--seed", "x", &[]);
    check(&["generate", "--prompt", "x", "-o", "OUT", "--seed", "1,-2"], &["--seed"]);
    generate("--guidance", "-1", &["0 or more"]);
    generate("--seed", "18446744073709551616", &[]);
    generate("--threads", "100000", &["0 to 1024"]);
    generate("--vram", "-1", &["12GiB"]);
    generate("--width", "-16", &["from 16 to 16384"]);
    check(&["verify", "--threads", "1,100000"], &["--threads", "0 to 1024"]);
    check(&["plan", "--link", "1e300"], &["--link", "0.000001 to 1000000"]);
    generate("--emu-arch", "75", &["80, 90a"]);
    generate("--vae-tile", "12", &["multiple of 8"]);
}

#[test]
fn sizes_of_memory() {
    generate("--vram", "12XB", &["12GiB"]);
    generate("--vram", "1e9", &["12GiB"]);
    generate("--host-memory", "lots", &["12GiB"]);
}

#[test]
fn names_that_are_not_known_show_those_that_are() {
    generate("--device", "gpu", &["auto", "host", "sim"]);
    generate("--isa", "sse9", &["portable", "avx2", "avx512bf16"]);
    generate("--dtype", "f16", &["bf16", "f32"]);
    generate("--schedule", "karras", &["diffusers", "diffsynth"]);
    generate("--noise", "pink", &["cpu", "cuda"]);
}

/// Photos, models and inputs are nobody's output; what was there is there afterwards.
#[test]
fn what_is_read_is_not_replaced() {
    let scratch = Scratch::new();
    let [photo, run] = ["cleo.png", "run.json"].map(|name| scratch.text(name));
    std::fs::copy(crate::repository("assets/demo/faces/cleo.png"), &photo).unwrap();
    std::fs::write(&run, "{}").unwrap();
    let bytes = std::fs::read(&photo).unwrap();
    let picture = ["generate", "--prompt", "x", "--id-image", &photo];
    lighterage(&[&picture[..], &["-o", &photo]].concat())
        .check(2, &["--output would replace what --id-image"]);
    let traced = ["-o", &scratch.text("new.png"), "--trace", &photo];
    lighterage(&[&picture[..], &traced].concat()).check(2, &["--trace would replace what --id-image reads"]);
    let folder = scratch.0.path().to_str().unwrap();
    lighterage(&["denoise", "--dir", folder, "--out", &run]).check(2, &["--out would replace what --dir"]);
    assert!(std::fs::read(&photo).unwrap() == bytes && scratch.names() == ["cleo.png", "run.json"]);
}

#[test]
fn help_teaches_every_command_with_an_example() {
    let help = lighterage(&["--help"]).check(0, &["Examples:", "Exit codes", "12GiB"]).stdout;
    for command in ["generate", "forward", "denoise", "compare", "inspect", "doctor"] {
        assert!(help.contains(command), "{help}");
        lighterage(&[command, "--help"]).check(0, &["Example", &format!("lighterage {command}")]);
    }
    lighterage(&["--version"]).check(0, &["lighterage 0.1.0"]);
}

#[test]
fn doctor_finds_the_bundled_model() {
    let run = lighterage(&["doctor"]).check(0, &["host device", "memory", "demo model", "assets/demo/base"]);
    for tried in ["map twice", "pinned and given back", "to the device and back"] {
        assert!(run.stdout.contains(tried), "no {tried:?} in {}", run.stdout);
    }
    assert!(!run.stdout.contains("PROBLEM"), "{}", run.stdout);
    lighterage(&["doctor", "--vram", "1"]).check(0, &["PROBLEM", "mapped memory", "try a larger --vram"]);
    let json = lighterage(&["doctor", "--json"]).check(0, &[]).stdout;
    let findings: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(findings.as_array().unwrap().iter().all(|finding| finding["subject"].is_string()));
}
