use crate::Scratch;

/// `generate --device emu` with these options.
fn generate(scratch: &Scratch, options: &[&str]) -> crate::Run {
    let out = scratch.text("out.png");
    let base = ["generate", "--prompt", "", "--seed", "3", "-o", &out];
    let device: &[&str] = if options.contains(&"--device") { &[] } else { &["--device", "emu"] };
    crate::lighterage(&[&base, device, options].concat())
}

#[cfg(not(feature = "emu"))]
#[test]
fn a_build_without_the_emulator_says_what_it_lacks() {
    let scratch = Scratch::new();
    generate(&scratch, &[]).check_failed(&["no emu device", "the feature emu"]);
    assert!(scratch.names().is_empty());
}

#[cfg(feature = "emu")]
#[test]
fn f32_has_no_images() {
    let scratch = Scratch::new();
    generate(&scratch, &["--dtype", "f32"]).check_failed(&["no image of kernel", "_f32", "emulated sm_90a"]);
    generate(&scratch, &["--dtype", "f32", "--emu-arch", "80"]).check_failed(&["_f32", "emulated sm_80"]);
    assert!(scratch.names().is_empty());
}

/// The project's bound for whole pictures in bf16, and one against the host: rounding alone, which four steps carry on.
#[cfg(feature = "emu")]
#[track_caller]
fn the_picture_is_as_near_as_the_references(arch: &str) {
    let scratch = Scratch::new();
    let (ours, hosts) = (scratch.text("emu.safetensors"), scratch.text("host.safetensors"));
    let case = ["--steps", "4", "--guidance", "2.5", "--width", "64", "--height", "64"];
    let run = |options: &[&str]| generate(&scratch, &[&case, options].concat()).check(0, &["step 4/4"]);
    run(&["--emu-arch", arch, "--save-latents", &ours]);
    run(&["--device", "host", "--save-latents", &hosts]);
    let expected = crate::golden("demo/5.safetensors");
    let theirs = crate::error_of(&expected, &expected, "latents.bf16=latents.f32");
    for (name, latents) in [("emulated", &ours), ("host", &hosts)] {
        let error = crate::error_of(latents, &expected, "latents=latents.f32");
        assert!(error <= 2.0 * theirs, "{name}: {error} against diffusers' own {theirs}");
    }
    let apart = crate::error_of(&ours, &hosts, "latents=latents");
    assert!(apart <= 0.1, "{apart} from the host's");
}

#[cfg(feature = "emu")]
#[test]
fn the_picture_on_sm_80() {
    the_picture_is_as_near_as_the_references("80");
}

#[cfg(feature = "emu")]
#[test]
fn the_picture_on_sm_90a() {
    the_picture_is_as_near_as_the_references("90a");
}

#[cfg(feature = "emu")]
#[test]
fn one_step_with_every_access_checked() {
    for arch in ["80", "90a"] {
        let scratch = Scratch::new();
        generate(&scratch, &["--steps", "1", "--emu-checks", "--emu-arch", arch]).check(0, &["step 1/1"]);
    }
}

/// Every launch of every module has an image, is clean under all checks, and differs from the host's by roundings.
#[cfg(feature = "emu")]
#[test]
fn every_module_with_every_access_checked() {
    let modules = [
        ("flux", "flux-dev-tiny"),
        ("flux", "flux-schnell-tiny"),
        ("flux", "flux-controlled-tiny"),
        ("infusenet", "infusenet-tiny"),
        ("infusenet", "controlnet-single-tiny"),
        ("t5", "t5-tiny"),
        ("clip", "clip-tiny"),
        ("vae-encode", "vae-tiny"),
        ("vae-decode", "vae-tiny"),
    ];
    for (module, folder) in modules {
        let scratch = Scratch::new();
        let dir = crate::golden(folder);
        let run = |name: &str, options: &[&str]| {
            let out = scratch.text(name);
            let base = ["forward", "--module", module, "--dir", &dir, "--dtype", "bf16", "--out", &out];
            crate::lighterage(&[&base, options].concat()).check(0, &[]);
            out
        };
        let host = run("host", &["--device", "host"]);
        for arch in ["80", "90a"] {
            let ours = run(arch, &["--device", "emu", "--emu-checks", "--emu-arch", arch]);
            // bf16 keeps 2^-9; what a dozen layers make of that is 3e-3 to 2e-2, whichever of two orders of the sums is taken.
            crate::lighterage(&["compare", &ours, &host, "--tolerance", "3e-2"]).check(0, &["ok"]);
        }
    }
}

/// All budgets on one device, by the kernels that the Cuda backend launches; there are no threads to choose from.
#[cfg(feature = "emu")]
#[test]
fn budget_does_not_show_with_the_kernels_of_a_gpu() {
    for arch in ["80", "90a"] {
        let scene = ["verify", "--device", "emu", "--emu-arch", arch, "--size", "32x32", "--steps", "2"];
        let run = |more: &[&str]| crate::lighterage(&[&scene[..], more].concat());
        let runs = run(&["--budgets", "3MiB,64MiB", "--rounds", "2", "--json"]).check(0, &[]).stdout;
        let runs: Vec<serde_json::Value> = serde_json::from_str(&runs).unwrap();
        assert_eq!(runs.len(), 4);
        assert!(runs.iter().all(|run| run["sha256"] == runs[0]["sha256"] && run["not_finite"] == 0));
        let streamed = |index: usize| runs[index]["streamed_bytes_per_step"].as_u64().unwrap();
        assert!(streamed(1) > 0 && streamed(2) == 0, "{runs:?}");
        run(&["--threads", "1"]).check(2, &["--threads", "emulated sm_"]);
    }
}
