//! `--device cuda`: refused in one line where it cannot be, and on the stand-in for the driver the same bits as the emulator.

use crate::{Scratch, lighterage};

#[test]
fn device_names_are_checked_before_anything_runs() {
    for name in ["cuda:", "cuda:x", "cuda:-1", "cuda:0:0", "host:0", "gpu", ""] {
        lighterage(&["generate", "--prompt", "", "--device", name]).check(2, &["--device"]);
    }
}

#[test]
fn machine_without_a_gpu_says_so_in_one_line() {
    if std::path::Path::new("/dev/nvidia0").exists() {
        return;
    }
    let scratch = Scratch::new();
    let out = scratch.text("out.png");
    lighterage(&["generate", "--prompt", "", "--device", "cuda", "-o", &out])
        .check_failed(&["no cuda device"]);
    lighterage(&["doctor"]).check(0, &["cuda driver", "images"]);
}

/// Measures something everywhere, and says what no device can have: it did not run at all.
#[test]
fn machine_is_measured() {
    let small =
        ["bench", "machine", "--device", "host", "--copy", "1MiB", "--gemm", "64", "--handles", "100"];
    lighterage(&small).check(0, &["copy on the device", "bf16 product", "set access", "beside work"]);
    let json = lighterage(&[&small[..], &["--json"]].concat()).check(0, &[]).stdout;
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let number = |name: &str| report[name].as_f64().unwrap();
    for name in ["copy_bytes_per_second", "pinned_to_device_bytes_per_second", "gemm_bf16_flops_per_second"] {
        assert!(number(name) > 1e6, "{name}: {json}");
    }
    let calls = report["memory_calls"].as_array().unwrap();
    assert!(calls.iter().any(|line| line["handles"] == 100), "{json}");
}

#[test]
fn kernels_are_measured_beside_the_machine() {
    let small = ["bench", "kernels", "--device", "host", "--shrink", "512", "--gemm", "64", "--only", "norm"];
    let json = lighterage(&[&small[..], &["--json"]].concat()).check(0, &[]).stdout;
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let names: Vec<&str> =
        report["kernels"].as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap()).collect();
    let norms = ["norm_mod", "norm_mod with update", "qk_norm_rope", "rms_norm", "layer_norm", "group_norm"];
    assert_eq!(names, norms);
}

/// Every kernel has its line, with numbers that a table can be made of, and launches what the line is named after; `tidy` holds that no kernel is without.
/// What a call costs is what its kernel says.
#[test]
fn every_kernel_is_measured() {
    let small = ["bench", "kernels", "--device", "host", "--shrink", "512", "--gemm", "64", "--json"];
    let json = lighterage(&small).check(0, &[]).stdout;
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let lines = report["kernels"].as_array().unwrap();
    assert!(lines.len() >= 29, "{json}");
    assert_eq!([&report["timed_by"], &report["predicted_by"]], ["host clock", "ceilings of this run"]);
    for line in lines {
        for field in ["seconds", "bytes", "share_of_roofline", "predicted_seconds", "measured_over_predicted"]
        {
            assert!(line[field].as_f64().is_some_and(|value| value > 0.0), "{field} of {line}");
        }
        let kernel = line["name"].as_str().unwrap().split([',', ' ']).next().unwrap();
        let launched = line["launches"].as_array().unwrap();
        assert!(
            launched.iter().any(|name| name.as_str().unwrap().starts_with(&format!("{kernel}_"))),
            "{line}"
        );
    }
    let line = |name: &str| lines.iter().find(|line| line["name"] == name).unwrap();
    let (rows, width) = (8.0, 3072.0);
    assert_eq!(line("linear, image out")["flops"].as_f64(), Some(2.0 * rows * width * width), "{json}");
    assert_eq!(line("linear, image out")["size"], "1024x1024", "{json}");
    assert!(line("linear, text qkv")["size"].is_null(), "{json}");
}

/// A picture's shape goes into the kernels that depend on it, and into their lines.
#[test]
fn kernels_are_measured_at_the_sizes_that_were_asked_for() {
    let small = ["bench", "kernels", "--device", "host", "--shrink", "32", "--narrow", "24", "--gemm", "64"];
    let sizes = ["--size", "1280x720,512x512", "--only", "add", "--only", "geglu", "--json"];
    let json = lighterage(&[&small[..], &sizes].concat()).check(0, &[]).stdout;
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let lines = report["kernels"].as_array().unwrap();
    let name = |line: &serde_json::Value| (line["name"].clone(), line["size"].clone());
    let names: Vec<_> = lines.iter().map(name).collect();
    assert_eq!(
        names,
        [
            ("geglu".into(), serde_json::Value::Null),
            ("add".into(), "1280x720".into()),
            ("add".into(), "512x512".into())
        ]
    );
    // Two tensors read, one written, of 16 tokens of the text and a 32nd of the picture's, 128 wide.
    for (line, tokens) in lines[1..].iter().zip([16 + 3600 / 32, 16 + 1024 / 32]) {
        assert_eq!(line["bytes"].as_f64(), Some(f64::from(3 * tokens * 128 * 2)), "{line}");
    }
    for wrong in ["1280", "1280x721", "8x8", "0x16", "axb"] {
        lighterage(&["bench", "kernels", "--size", wrong]).check(2, &[]);
    }
    let nothing = ["bench", "kernels", "--device", "host", "--only", "add", "--only", "norm_mode"];
    lighterage(&nothing).check(2, &["--only norm_mode", "no kernel", "; norm_mod with update; "]);
}

/// What nothing chooses yet is measured beside what is chosen, at the width and on the architecture that it is for.
#[cfg(feature = "emu")]
#[test]
fn a_norm_by_warps_is_measured_beside_the_one_by_blocks() {
    let names = |options: &[&str]| -> Vec<(String, String)> {
        let small = ["bench", "kernels", "--device", "emu", "--shrink", "512", "--gemm", "64", "--json"];
        let only = ["--only", "norm_mod", "--size", "1024x1024"];
        let json = lighterage(&[&small[..], &only, options].concat()).check(0, &[]).stdout;
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let line = |line: &serde_json::Value| (text(&line["name"]), text(&line["launches"][0]));
        report["kernels"].as_array().unwrap().iter().map(line).collect()
    };
    let owned = |(name, launched): (&str, &str)| (name.to_owned(), launched.to_owned());
    let chosen = [("norm_mod", "norm_mod_bf16"), ("norm_mod with update", "norm_mod_bf16")].map(owned);
    let beside = ["norm_mod, a warp a row", "norm_mod with update, a warp a row"];
    let beside = beside.map(|name| owned((name, "norm_mod_warp_bf16")));
    assert_eq!(names(&[]), [chosen.clone(), beside].concat());
    assert_eq!(names(&["--emu-arch", "80"]), chosen);
    assert_eq!(names(&["--narrow", "24"]), chosen);
}

#[cfg(feature = "emu")]
mod stand_in {
    use std::process::Command;

    use lighterage_fakecuda as fake;

    #[cfg(feature = "cuda")]
    use std::collections::BTreeSet;

    use super::Scratch;
    use crate::Run;
    #[cfg(feature = "cuda")]
    use crate::seeing::{check_trace, number};

    /// A run of the binary on the stand-in.
    fn on_stand_in(scratch: &Scratch, variables: &[(&str, &str)], arguments: &[&str]) -> Run {
        let folder = scratch.path("driver");
        if !folder.exists() {
            std::fs::create_dir(&folder).unwrap();
            fake::link_into(&folder).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_lighterage"));
        command.args(arguments).env("LD_LIBRARY_PATH", folder).envs(variables.iter().copied());
        Run::of(&mut command)
    }

    #[test]
    fn doctor_names_an_old_driver_with_both_versions() {
        let scratch = Scratch::new();
        let old = [("FAKECUDA_DRIVER", "12080")];
        on_stand_in(&scratch, &old, &["doctor"]).check(0, &["PROBLEM", "CUDA 12.8", "13.0", "580"]);
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn program_without_images_says_how_to_get_them() {
        let scratch = Scratch::new();
        let out = scratch.text("out.png");
        on_stand_in(&scratch, &[], &["generate", "--prompt", "", "--device", "cuda", "-o", &out])
            .check_failed(&["built without kernels", "--features cuda"]);
        on_stand_in(&scratch, &[], &["doctor"])
            .check(0, &["built without CUDA kernels", "cuda:0 is stand-in GPU"]);
    }

    /// As where `CUDA_VISIBLE_DEVICES` is empty, and where the driver's modules were lost.
    #[test]
    fn driver_without_a_card_or_that_does_not_start_says_so_in_one_line() {
        let scratch = Scratch::new();
        let out = scratch.text("out.png");
        for (variables, words) in [
            (("FAKECUDA_DEVICES", "0"), ["no cuda device: the driver finds none", "CUDA_VISIBLE_DEVICES"]),
            (("FAKECUDA_INIT", "999"), ["cuInit failed with code 999", "nvidia-smi"]),
        ] {
            let generate = ["generate", "--prompt", "", "--device", "cuda", "-o", &out];
            on_stand_in(&scratch, &[variables], &generate).check_failed(&words);
            on_stand_in(&scratch, &[variables], &["doctor"])
                .check(0, &["PROBLEM  cuda driver", "/dev/nvidia"]);
        }
    }

    /// An old card for the screen beside one that computes.
    #[cfg(feature = "cuda")]
    #[test]
    fn first_card_that_can_be_used_is_taken() {
        let scratch = Scratch::new();
        let two = [("FAKECUDA_DEVICES", "2"), ("FAKECUDA_CAPABILITY", "7.5,8.9")];
        let doctor = |device: &str| on_stand_in(&scratch, &two, &["doctor", "--device", device]);
        for device in ["auto", "cuda:1"] {
            let said = doctor(device).check(0, &["cuda:1, stand-in GPU, sm_89", "a test kernel work"]).stdout;
            assert!(!said.contains("PROBLEM"), "{said}");
        }
        doctor("cuda:0")
            .check(0, &["PROBLEM", "cuda:0 cannot be used: no cuda device: stand-in GPU has", "7.5"]);
        doctor("cuda:2")
            .check(0, &["cuda:2 cannot be used: no cuda device: there is no device 2, the driver has 2"]);
        let none = [("FAKECUDA_DEVICES", "2"), ("FAKECUDA_CAPABILITY", "7.5,7.0")];
        on_stand_in(&scratch, &none, &["doctor"]).check(0, &["cuda:0 cannot be used", "7.5", "host device"]);
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn doctor_runs_a_kernel() {
        let scratch = Scratch::new();
        on_stand_in(&scratch, &[], &["doctor"])
            .check(0, &["sm_90a", "a test kernel work", "context 64.0 MiB"]);
    }

    /// What the stages `machine` and `kernels` of `.ci/gpu-run` print is JSON with what the table is made of, at sizes that the emulator affords.
    #[cfg(feature = "cuda")]
    #[test]
    fn stages_of_the_pack_print_what_they_promise() {
        let scratch = Scratch::new();
        let run = |arguments: &[&str]| -> serde_json::Value {
            let all = [arguments, &["--device", "cuda", "--json"]].concat();
            let json = on_stand_in(&scratch, &[], &all).check(0, &[]).stdout;
            serde_json::from_str(&json).unwrap()
        };
        let sizes =
            ["--copy", "1MiB", "--gemm", "64", "--handles", "20", "--pieces", "32MiB", "--vram", "1GiB"];
        let graphs = [
            "--graph-launches",
            "12",
            "--graph-replays",
            "20",
            "--graph-units",
            "8",
            "--graph-unit-bytes",
            "2MiB",
        ];
        let machine = run(&[&["bench", "machine"], &sizes[..], &graphs].concat());
        for field in [
            "copy_bytes_per_second",
            "page_locking_bytes_per_second",
            "gemm_bf16_flops_per_second",
            "queue_seconds",
        ] {
            assert!(machine[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {machine}");
        }
        // Six sizes, without and with other pieces; the largest is a quarter of the memory at most.
        let calls = machine["memory_calls"].as_array().unwrap();
        let of = |line: &serde_json::Value| (line["handles"].as_u64(), line["bytes"].as_u64());
        assert_eq!(of(&calls[0]), (Some(0), Some(2 << 20)), "{machine}");
        assert_eq!(of(&calls[calls.len() - 1]), (Some(20), Some(64 << 20)), "{machine}");
        for field in ["create", "map", "set_access", "unmap", "destroy"] {
            assert!(calls.iter().all(|line| line[format!("{field}_seconds")].is_f64()), "{field}: {machine}");
        }
        assert_eq!(machine["mapping_runs"].as_array().map(Vec::len), Some(2), "1 and 16 maps: {machine}");
        for field in ["record", "query", "wait"] {
            assert!(machine["events"][format!("{field}_seconds")].is_f64(), "{field}: {machine}");
        }
        for call in machine["beside_work"].as_array().unwrap() {
            assert_eq!((&call["pending_before"], &call["waits"]), (&7.into(), &false.into()), "{call}");
        }
        let pieces = machine["pieces"].as_array().unwrap();
        let counts: Vec<_> = pieces.iter().map(|line| line["pieces"].as_u64().unwrap()).collect();
        assert_eq!(counts, [32, 2, 1], "{machine}");
        let graphs = &machine["graphs"];
        assert_eq!((&graphs["chain"]["launches"], &graphs["chain"]["same_bits"]), (&14.into(), &true.into()));
        // The stand-in looks at an event when it is the wait's turn, and works the first stream off first.
        assert_eq!(graphs["joined"]["recorder_first"], 20, "{graphs}");
        assert_eq!(graphs["dropped"]["was_running"], serde_json::json!([true, true]), "{graphs}");
        assert_eq!(graphs["dropped"]["finished"], true, "{graphs}");
        assert_eq!(
            (&graphs["flagged"]["found"], &graphs["flagged"]["by_flags"]),
            (&serde_json::json!([20, 20]), &true.into())
        );
        assert_eq!(
            (&graphs["paged"]["replayed_same_bits"], &graphs["paged"]["units"]),
            (&true.into(), &8.into()),
            "{graphs}"
        );
        assert!(graphs["paged"]["streamed_bytes_per_step"].as_u64() > Some(4 << 20), "{graphs}");
        let small = ["bench", "kernels", "--shrink", "512", "--narrow", "24", "--gemm", "64"];
        let only = ["--only", "norm", "--only", "attention", "--only", "linear"];
        let kernels = run(&[&small[..], &only].concat());
        let lines = kernels["kernels"].as_array().unwrap();
        // Two sizes of the picture; three have none.
        assert_eq!(lines.len(), 2 * 12 + 3, "{kernels}");
        assert_eq!(kernels["timed_by"], "stream events", "{kernels}");
        for line in lines {
            for field in ["seconds", "bytes", "share_of_roofline", "predicted_seconds"] {
                assert!(line[field].as_f64().is_some_and(|value| value > 0.0), "{field} of {line}");
            }
        }
    }

    /// Traces of real models on memory that is there: what fits is replayed, the rest is named.
    #[cfg(feature = "cuda")]
    #[test]
    fn allocator_replays_traces_with_the_drivers_calls() {
        let scratch = Scratch::new();
        let (small, large) = (scratch.text("small.csv"), scratch.text("large.csv"));
        let log = |path: &str, bytes: u64| {
            let head = "Thread,Time,Action,Pointer,Size,Stream\n";
            let line = |action: &str, pointer: u64| format!("0,0.0,{action},{pointer},{bytes},0\n");
            let lines = [line("allocate", 4096), line("allocate", 8192), line("free", 4096)];
            std::fs::write(path, head.to_owned() + &lines.concat()).unwrap();
        };
        log(&small, 9 << 20);
        log(&large, 1 << 30);
        let arguments = ["bench", "allocator", "--device", "cuda", "--vram", "1GiB", "--json"];
        let traces = ["--trace", &small, "--trace", &large];
        let json = on_stand_in(&scratch, &[], &[&arguments[..], &traces].concat()).check(0, &[]).stdout;
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        let replayed = &report["traces"][0]["replayed"];
        assert_eq!(replayed["tight_refused"], 0, "{report}");
        assert!(replayed["first_calls"]["creates"].as_u64().unwrap() > 0, "{report}");
        assert_eq!(replayed["calls"]["creates"], 0, "a second pass creates nothing: {report}");
        assert!(report["traces"][1]["replayed"].is_null(), "2 GiB do not fit: {report}");
    }

    /// The whole program by the driver's calls: the emulated device launches the same, so every bit agrees.
    #[cfg(feature = "cuda")]
    #[test]
    fn picture_has_the_bits_of_the_emulated_device() {
        let scratch = Scratch::new();
        let generate = |device: &[&str], name: &str, variables: &[(&str, &str)]| {
            let (out, latents) =
                (scratch.text(&format!("{name}.png")), scratch.text(&format!("{name}.safetensors")));
            let base = ["generate", "--prompt", "red heart", "--seed", "3", "--steps", "1", "-o", &out];
            let size = ["--width", "64", "--height", "64", "--save-latents", &latents];
            on_stand_in(&scratch, variables, &[&base[..], &size, device].concat())
        };
        for (arch, capability) in [("90a", "9.0"), ("80", "8.0")] {
            let emulated = generate(&["--device", "emu", "--emu-arch", arch], "emu", &[]);
            assert_eq!(emulated.code, Some(0), "{}", emulated.stderr);
            let capability = [("FAKECUDA_CAPABILITY", capability)];
            let plan = ["--device", "cuda", "--vram", "2GiB", "--dry-run", "--json"];
            let plan = generate(&plan, "plan", &capability).check(0, &[]).stdout;
            let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
            let bytes = |name: &str| plan[name].as_u64().unwrap();
            // Context and kernels are in every number of the plan; the tight run streams all that it can.
            assert!(bytes("taken_bytes") >= 66 << 20 && bytes("budget_bytes") == 2 << 30, "{plan}");
            let tight = bytes("minimum_bytes").to_string();
            for (vram, name) in [("2GiB", "roomy"), (tight.as_str(), "tight")] {
                let cuda = generate(&["--device", "cuda", "--vram", vram, "--json"], name, &capability);
                assert_eq!(cuda.code, Some(0), "{}", cuda.stderr);
                // The stand-in loads as late as a driver may: the ledger knows of all of it before the first step.
                assert!(cuda.stdout.contains("\"unaccounted_bytes\": 0"), "{}", cuda.stdout);
                let read = |name: &str| std::fs::read(scratch.path(&format!("{name}.safetensors"))).unwrap();
                assert!(read("emu") == read(name), "latents on sm_{arch} within {vram}");
            }
        }
    }

    /// The smallest budget and the one that holds everything, of two steps of 32 x 32 pixels, as a dry run of `generate` has them.
    #[cfg(feature = "cuda")]
    fn least_and_most(scratch: &Scratch) -> [u64; 2] {
        let plan = ["generate", "--device", "cuda", "--width", "32", "--height", "32", "--steps", "2"];
        let more = ["--prompt", "", "--dry-run", "--json"];
        let plan = on_stand_in(scratch, &[], &[&plan[..], &more].concat()).check(0, &[]).stdout;
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        ["minimum_bytes", "maximum_bytes"].map(|name| plan[name].as_u64().unwrap())
    }

    /// Steps that are replayed as graphs of the driver's, with words that one stream writes and another waits for: the same bits as without, at two budgets. The second step is
    /// looked at closely, and so is queued call by call.
    #[cfg(feature = "cuda")]
    #[test]
    fn graphs_do_not_show_through_the_driver() {
        let scratch = Scratch::new();
        let [least, most] = least_and_most(&scratch);
        let verify = |budgets: &str, more: &[&str]| -> Vec<serde_json::Value> {
            let of = ["verify", "--size", "32x32", "--steps", "4", "--device", "cuda", "--json", "--budgets"];
            let runs = on_stand_in(&scratch, &[], &[&of[..], &[budgets], more].concat()).check(0, &[]).stdout;
            serde_json::from_str(&runs).unwrap()
        };
        let plain = verify(&most.to_string(), &[]);
        let replayed = verify(&format!("{least},{}", least.midpoint(most)), &["--graphs"]);
        assert_eq!(plain[0]["steps_replayed"], 0, "{plain:?}");
        for run in &replayed {
            assert_eq!((&run["steps_replayed"], &run["sha256"]), (&2.into(), &plain[0]["sha256"]), "{run}");
        }
    }

    /// Calls of a whole picture that streams its weights: early ones and late, of both streams, of memory and of the end. Each is one line with call, code and what was asked
    /// for; no picture is left, and none that was there is harmed.
    #[cfg(feature = "cuda")]
    #[test]
    fn failed_call_ends_a_picture_with_one_line() {
        let scratch = Scratch::new();
        let [least, _] = least_and_most(&scratch).map(|bytes| bytes.to_string());
        let out = scratch.text("out.png");
        std::fs::write(&out, "a picture").unwrap();
        let base =
            ["generate", "--device", "cuda", "--vram", &least, "--prompt", "", "--seed", "0", "--steps", "2"];
        let more = ["--width", "32", "--height", "32", "-o", &out];
        for (call, words) in FAILED_CALLS {
            on_stand_in(&scratch, &[("FAKECUDA_FAIL", call)], &[&base[..], &more].concat())
                .check_failed(words);
            assert_eq!(std::fs::read(&out).unwrap(), b"a picture", "{call}");
        }
        let names: Vec<_> = scratch.names().into_iter().filter(|name| name.contains("out")).collect();
        assert_eq!(names, ["out.png"]);
    }

    #[cfg(feature = "cuda")]
    const FAILED_CALLS: [(&str, &[&str]); 9] = [
        ("cuModuleLoadData:3", &["cuModuleLoadData failed with code", "kernels/"]),
        ("cuMemAddressReserve:2", &["cuMemAddressReserve failed with code", " bytes"]),
        ("cuMemCreate:4", &["out of memory"]),
        ("cuMemSetAccess:3", &["cuMemSetAccess failed with code", " bytes at 0x"]),
        ("cuMemHostRegister:0", &["cuMemHostRegister failed with code", " bytes at 0x"]),
        ("cuLaunchKernel:60", &["cuLaunchKernel failed with code", " blocks of "]),
        ("cuMemcpyHtoDAsync:12", &["cuMemcpyHtoDAsync failed with code", " bytes to 0x"]),
        ("cuStreamWaitEvent:20", &["cuStreamWaitEvent failed with code"]),
        ("cuMemcpyDtoHAsync:0", &["cuMemcpyDtoHAsync failed with code", " bytes from 0x"]),
    ];

    /// Every budget in one process, on one device: context and kernels are in each, as with `--vram`.
    #[cfg(feature = "cuda")]
    #[test]
    fn budget_does_not_show_through_the_driver() {
        let scratch = Scratch::new();
        let run =
            |arguments: &[&str]| on_stand_in(&scratch, &[], &[arguments, &["--device", "cuda"]].concat());
        let [least, most] = least_and_most(&scratch);
        let verify = |budgets: &[u64], more: &[&str]| {
            let budgets: Vec<String> = budgets.iter().map(u64::to_string).collect();
            let of = ["verify", "--size", "32x32", "--steps", "2", "--budgets", &budgets.join(",")];
            run(&[&of[..], more].concat())
        };
        let budgets = [least, (least + most) / 2, most];
        let runs = verify(&budgets, &["--json"]).check(0, &[]).stdout;
        let runs: Vec<serde_json::Value> = serde_json::from_str(&runs).unwrap();
        let bytes = |index: usize, name: &str| runs[index][name].as_u64().unwrap();
        for (index, budget) in budgets.into_iter().enumerate() {
            assert_eq!((&runs[index]["sha256"], bytes(index, "budget_bytes")), (&runs[0]["sha256"], budget));
            assert!(bytes(index, "peak_bytes") <= budget, "{}", runs[index]);
            for name in ["first_step_after_seconds", "step_seconds", "seconds"] {
                assert!(runs[index][name].as_f64().unwrap() > 0.0, "{name} of {}", runs[index]);
            }
        }
        // The largest part of the smallest budget, and of its peak, is what the driver takes: it is counted once in each.
        assert_eq!([bytes(0, "peak_bytes"), bytes(2, "peak_bytes")], [least, most]);
        assert!(bytes(0, "streamed_bytes_per_step") > bytes(1, "streamed_bytes_per_step"));
        assert_eq!(bytes(2, "streamed_bytes_per_step"), 0);
        verify(&[most, least - 1], &[]).check_failed(&[
            "1 byte too small",
            &least.to_string(),
            "for the driver",
        ]);
        verify(&[most], &["--threads", "2"]).check(2, &["--threads", "host device", "--rounds"]);
        verify(&[most], &["--interleavings", "2"]).check(2, &["--interleavings"]);
    }

    /// The bound's two parts are measured where the loop runs: the link by a copy, the launches by a run that holds everything.
    #[cfg(feature = "cuda")]
    #[test]
    fn step_is_held_against_the_link_and_the_launches() {
        let scratch = Scratch::new();
        let step = |more: &[&str]| {
            let step =
                ["bench", "step", "--device", "cuda", "--size", "32x32", "--steps", "2", "--rounds", "1"];
            on_stand_in(&scratch, &[], &[&step[..], more].concat())
        };
        let budgets = least_and_most(&scratch).map(|bytes| bytes.to_string()).join(",");
        let report = step(&["--budgets", &budgets, "--json"]).check(0, &[]).stdout;
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert!(report["link_bytes_per_second"].as_f64().unwrap() > 1e6, "{report}");
        assert_eq!(report["compute"]["from"], "a run with everything resident", "{report}");
        let line = &report["lines"][0];
        assert!(line["streamed_bytes_per_step"].as_u64().unwrap() > 0, "{report}");
        assert!(line["bound_seconds"].as_f64() >= report["compute"]["seconds"].as_f64(), "{report}");
        step(&["--link", "5"]).check(2, &["--link", "host device"]);
    }

    /// Times come from events of the driver: of both streams, in order on each, with what was leased, copied and launched, and by the same clock as the host's phases.
    #[cfg(feature = "cuda")]
    #[test]
    fn trace_has_the_times_of_the_drivers_events() {
        let scratch = Scratch::new();
        let [least, _] = least_and_most(&scratch).map(|bytes| bytes.to_string());
        let (trace, out) = (scratch.text("trace.json"), scratch.text("out.png"));
        let base =
            ["generate", "--device", "cuda", "--vram", &least, "--prompt", "", "--seed", "0", "--steps", "2"];
        let more = ["--width", "32", "--height", "32", "-o", &out, "--trace", &trace];
        on_stand_in(&scratch, &[], &[&base[..], &more].concat()).check(0, &["achieved", "stalled"]);
        let events = check_trace(&scratch.path("trace.json"));
        let of = |category: &str| events.iter().filter(|event| event["cat"] == category).collect::<Vec<_>>();
        let streams = |category: &str| {
            let threads =
                of(category).iter().map(|event| event["tid"].as_u64().unwrap()).collect::<BTreeSet<_>>();
            assert!(!threads.is_empty(), "no {category}");
            threads
        };
        let names = events.iter().filter(|event| event["name"] == "thread_name");
        let named = |kind: &str| {
            let is_of =
                |event: &&serde_json::Value| event["args"]["name"].as_str().unwrap().starts_with(kind);
            names.clone().filter(is_of).map(|event| event["tid"].as_u64().unwrap()).collect::<BTreeSet<_>>()
        };
        let (compute, copies) = (named("compute stream"), named("copy stream"));
        for category in ["kernel", "lease", "step"] {
            assert!(streams(category).is_subset(&compute), "{category}");
        }
        // Launches wait for copies, and copies for launches.
        assert!(!streams("wait").is_disjoint(&compute) && !streams("wait").is_disjoint(&copies));
        assert!(streams("weights").is_subset(&copies) && copies.len() > 1, "{copies:?}");
        // What one stream did it did one after the other.
        for stream in compute.union(&copies) {
            let of_stream = |event: &&&serde_json::Value| event["tid"].as_u64() == Some(*stream);
            let kernels = [of("kernel"), of("weights")].concat();
            let mut end = 0.0;
            for event in kernels.iter().filter(of_stream) {
                assert!(number(event, "ts") >= end - 2e-3, "{event} begins before {end}");
                end = number(event, "ts") + number(event, "dur");
            }
        }
        // A phase waits for its work, so its work lies in it, give or take what the two clocks differ by.
        let phase = of("phase")
            .into_iter()
            .find(|event| event["name"].as_str().unwrap().contains("denoise"))
            .unwrap();
        let (begin, end) = (number(phase, "ts"), number(phase, "ts") + number(phase, "dur"));
        let steps = of("step");
        assert_eq!(steps.len(), 2);
        for step in steps {
            let (from, to) = (number(step, "ts"), number(step, "ts") + number(step, "dur"));
            assert!(from < to && from > begin - 2e3 && to < end + 2e3, "{step} of {phase}");
        }
    }
}
