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
    let commands = [
        "generate", "identity", "forward", "denoise", "compare", "convert", "inspect", "doctor", "plan",
        "verify",
    ];
    for command in commands {
        assert!(help.contains(command), "{help}");
        lighterage(&[command, "--help"]).check(0, &["Example", &format!("lighterage {command}")]);
    }
    for subject in ["allocator", "kernels", "machine", "pager", "step"] {
        let example = format!("lighterage bench {subject}");
        lighterage(&["bench", subject, "--help"]).check(0, &["Example", &example]);
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

const PICTURE: [&str; 5] = ["generate", "--prompt", "x", "-o", "OUT"];
const TUNE: [&str; 4] = ["bench", "machine", "--tune", "OUT"];

/// A command, an option of it, numbers that it does not take, more of them, and how the range is told.
type Case<'a> = (&'a [&'a str], &'a str, &'a [&'a str], &'a [&'a str], &'a str);

/// Every number of every command, outside of its range on either side: a wrong argument, told with the number and the range.
#[test]
fn numbers_that_no_command_takes() {
    const WHOLE: [&str; 4] = ["-1", "1.5", "99999999999999999999", "NaN"];
    const REAL: [&str; 4] = ["-1", "NaN", "inf", "-inf"];
    const SIZES: [&str; 3] = ["-1", "NaN", "99999999999999999999"];
    let cases: [Case<'_>; 45] = [
        (&PICTURE, "--seed", &WHOLE, &[], "0 to 18446744073709551615"),
        (&PICTURE, "--steps", &WHOLE, &["0", "1001"], "1 to 1000"),
        (&PICTURE, "--width", &WHOLE, &["0", "16400"], "16 from 16 to 16384"),
        (&PICTURE, "--height", &WHOLE, &["0", "16400"], "16 from 16 to 16384"),
        (&PICTURE, "--guidance", &REAL, &["1e39"], "0 or more"),
        (&PICTURE, "--true-cfg", &REAL, &["1e39"], "0 or more"),
        (&PICTURE, "--infusenet-scale", &REAL, &["1e39"], "0 or more"),
        (&PICTURE, "--infusenet-guidance", &REAL, &["1e39"], "0 or more"),
        (&PICTURE, "--infusenet-start", &REAL, &["1.1"], "0 to 1"),
        (&PICTURE, "--infusenet-end", &REAL, &["1.1"], "0 to 1"),
        (&PICTURE, "--teacache", &REAL, &["1e309"], "0 or more"),
        (&PICTURE, "--vae-tile", &WHOLE, &["0", "24", "36", "16392"], "8 from 32 to 16384"),
        (&PICTURE, "--shard", &["1/0", "1/1", "-1/2", "0/99999999999999999999"], &[], "0 to N - 1"),
        (&PICTURE, "--threads", &WHOLE, &["1025"], "0 to 1024"),
        (&PICTURE, "--vram", &SIZES, &[], "12GiB"),
        (&PICTURE, "--host-memory", &SIZES, &[], "12GiB"),
        (&PICTURE, "--device", &["cuda:-1", "cuda:4294967296", "cuda:x"], &[], "0 to 4294967295"),
        (&["compare", "a", "b"], "--tolerance", &["-1", "NaN", "-inf"], &["x"], "0 or more"),
        (&["verify"], "--rounds", &WHOLE, &["0", "1001"], "1 to 1000"),
        (&["verify"], "--steps", &WHOLE, &["0", "1001"], "1 to 1000"),
        (&["verify"], "--threads", &WHOLE, &["1025"], "0 to 1024"),
        (&["verify"], "--interleavings", &WHOLE, &[], "0 to 18446744073709551615"),
        (&["verify"], "--budgets", &SIZES, &[], "12GiB"),
        (&["verify"], "--size", &["0x64", "16400x64"], &["64x0", "64x-16"], "16 from 16 to 16384"),
        (&["plan"], "--link", &REAL, &["0", "1e-7", "2e6"], "0.000001 to 1000000"),
        (&["plan"], "--read", &REAL, &["0", "1e-7", "2e6"], "0.000001 to 1000000"),
        (&["plan"], "--steps", &WHOLE, &["0", "1001"], "1 to 1000"),
        (&["plan"], "--size", &["0x720", "1280x0"], &[], "16 from 16 to 16384"),
        (&["plan"], "--vram", &SIZES, &[], "12GiB"),
        (&["bench", "step"], "--rounds", &WHOLE, &["0", "1001"], "1 to 1000"),
        (&["bench", "step"], "--steps", &WHOLE, &["0", "1001"], "1 to 1000"),
        (&["bench", "step"], "--link", &REAL, &["0", "2e9"], "0.001 to 1000000000"),
        (&["bench", "pager"], "--link", &REAL, &["0", "2e9"], "0.001 to 1000000000"),
        (&["bench", "pager"], "--turns", &WHOLE, &["0", "339"], "1 to 338"),
        (&["bench", "kernels"], "--gemm", &WHOLE, &["0", "65537"], "1 to 65536"),
        (&["bench", "kernels"], "--shrink", &WHOLE, &["0", "513"], "1 to 512"),
        (&["bench", "kernels"], "--narrow", &WHOLE, &["0", "25"], "1 to 24"),
        (&["bench", "kernels"], "--size", &["0x64", "64x4112", "-16x64"], &[], "16 from 16 to 4096"),
        (&["bench", "machine"], "--gemm", &WHOLE, &["0", "65537"], "1 to 65536"),
        (&["bench", "machine"], "--handles", &WHOLE, &["1000001"], "0 to 1000000"),
        (&["bench", "machine"], "--graph-launches", &WHOLE, &["0", "100001"], "1 to 100000"),
        (&["bench", "machine"], "--graph-replays", &WHOLE, &["0", "1000001"], "1 to 1000000"),
        (&["bench", "machine"], "--graph-units", &WHOLE, &["0", "1", "10001"], "2 to 10000"),
        (&TUNE, "--batches", &WHOLE, &["0", "1001"], "1 to 1000"),
        (&TUNE, "--steps", &WHOLE, &["0", "1001"], "1 to 1000"),
    ];
    for (command, option, numbers, more, range) in cases {
        for number in numbers.iter().chain(more) {
            check(&[command, &[&format!("{option}={number}")]].concat(), &[number, option, range]);
        }
    }
}

/// The same of sizes, whose ranges are told as sizes.
#[test]
fn sizes_that_no_command_takes() {
    let machine = ["bench", "machine"];
    let cases: [(&[&str], &str, &[&str], &str); 5] = [
        (&machine, "--copy", &["0", "1023KiB", "65GiB"], "1.0 MiB to 64.00 GiB"),
        (&machine, "--pieces", &["0", "1025GiB"], "1.0 MiB to 1024.00 GiB"),
        (&machine, "--graph-unit-bytes", &["0", "2GiB"], "4.0 KiB to 1.00 GiB"),
        (&["bench", "pager"], "--file", &["0", "2TiB"], "64.0 MiB to 1024.00 GiB"),
        (&TUNE, "--workspace", &["0", "257MiB"], "1 byte to 256.0 MiB"),
    ];
    for (command, option, sizes, range) in cases {
        for size in sizes {
            check(&[command, &[option, size]].concat(), &[size, option, range]);
        }
        for size in ["-1", "NaN", "99999999999999999999", "1.5.1GiB"] {
            check(&[command, &[option, size]].concat(), &[size, option, "12GiB"]);
        }
    }
}

/// `plan` takes its budgets by the name that `verify` and `bench step` have for them too, and `forward` and `denoise` their output by that of `generate`.
#[test]
fn one_thing_may_be_called_the_same_everywhere() {
    lighterage(&["plan", "--model", "flux-dev", "--budgets", "8GiB"]).check(0, &["8.00 GiB"]);
    check(&["denoise", "--dir", "/nowhere", "--output"], &["a value is required for", "FILE"]);
    check(
        &["forward", "--module", "flux", "--dir", "/nowhere", "--output"],
        &["a value is required for", "FILE"],
    );
}
