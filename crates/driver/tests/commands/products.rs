//! Tables of who multiplies what: read, refused, measured, used, and named in pictures.

#[cfg(feature = "emu")]
use lighterage_device::ProductCall;
#[cfg(feature = "emu")]
use lighterage_kernels::gemm::linear::{Alignment, Epilogue, Shape};

use crate::{Run, Scratch, lighterage};

const HEAD: &str = "lighterage-gemm-table 1\n";
/// An algorithm of nobody.
const ZEROS: &str = "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";

fn table(scratch: &Scratch, name: &str, lines: &str) -> String {
    std::fs::write(scratch.path(name), format!("{HEAD}{lines}")).unwrap();
    scratch.text(name)
}

#[test]
fn bad_tables_are_refused_with_file_line_and_value() {
    let scratch = Scratch::new();
    let check = |name: &str, lines: &str, words: &str| {
        let path = table(&scratch, name, lines);
        let out = scratch.text("out.png");
        let generate = ["generate", "--prompt", "", "-o", &out, "--gemm-table", &path];
        let stderr = lighterage(&generate).check(2, &["--gemm-table", name, words]).stderr;
        assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{stderr}");
        lighterage(&["plan", "--gemm-table", &path]).check(2, &[name, words]);
    };
    check("arch.tsv", "# x\n75 1 2 3 bias own x\n", "line 3: \"75\" is no architecture");
    check("size.tsv", "80 1 -2 3 bias own x\n", "line 2: columns \"-2\" is no number from 1 to");
    check("image.tsv", "80 99 64 64 bias own linear\n", "line 2: \"linear\" is no kernel");
    check(
        "twice.tsv",
        &"80 99 64 64 bias own linear_sm80_64x64_bf16\n".repeat(2),
        "line 3: 80 99 64 64 bias is there twice",
    );
    check("unnamed.tsv", &format!("80 99 64 64 bias cublaslt {ZEROS}\n"), "line 2: no line `cublaslt");
    std::fs::write(scratch.path("text.tsv"), "something else\n").unwrap();
    std::fs::write(scratch.path("binary.tsv"), [0xff; 16]).unwrap();
    for (name, words) in [("text.tsv", "line 1: "), ("binary.tsv", "UTF-8"), ("nothing.tsv", "No such file")]
    {
        let path = scratch.text(name);
        lighterage(&["bench", "machine", "--gemm-table", &path]).check(2, &[name, words]);
    }
}

#[test]
fn only_a_gpu_is_tuned() {
    let scratch = Scratch::new();
    let path = scratch.text("t.tsv");
    let tune = ["bench", "machine", "--tune", &path, "--model"];
    let demo = crate::repository("assets/demo/base");
    lighterage(&[&tune[..], &[&demo, "--size", "64x64", "--device", "host"]].concat())
        .check(2, &["--tune measures a GPU"]);
    lighterage(&[&tune[..], &["flux-pro"]].concat()).check(2, &["flux-dev+infinite-you"]);
    lighterage(&[&tune[..], &["flux-dev", "--workspace", "1GiB"]].concat()).check(2, &["--workspace", "256"]);
    lighterage(&["bench", "machine", "--steps", "2"]).check(2, &["--tune"]);
    assert!(scratch.names().is_empty());
}

#[test]
fn a_workspace_counts_in_a_plan() {
    let scratch = Scratch::new();
    let path =
        table(&scratch, "t.tsv", &format!("cublaslt 130100 33554432\n90a 99 64 64 bias cublaslt {ZEROS}\n"));
    let minimum = |more: &[&str]| {
        let demo = crate::repository("assets/demo/base");
        let plan = ["plan", "--model", &demo, "--size", "64x64", "--vram", "4GiB", "--json"];
        let json = lighterage(&[&plan[..], more].concat()).check(0, &[]).stdout;
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["minimum_bytes"].as_u64().unwrap()
    };
    let without = minimum(&["--gpu", "h100"]);
    assert!(without > 550 << 20, "context and kernels count: {without}");
    assert_eq!(minimum(&["--gpu", "h100", "--gemm-table", &path]) - without, 32 << 20);
    assert_eq!(
        minimum(&["--gpu", "a100", "--gemm-table", &path]),
        minimum(&["--gpu", "a100"]),
        "not named there"
    );
}

/// One step of the demo model, 64 x 64; the files NAME.png and NAME.safetensors.
fn generate(run: impl Fn(&[&str]) -> Run, scratch: &Scratch, name: &str, options: &[&str]) -> Run {
    let (out, latents) = (scratch.text(&format!("{name}.png")), scratch.text(&format!("{name}.safetensors")));
    let base = ["generate", "--prompt", "red heart", "--seed", "3", "--steps", "1", "-o", &out];
    let size = ["--width", "64", "--height", "64", "--save-latents", &latents];
    run(&[&base[..], &size, options].concat())
}

fn latents(scratch: &Scratch, name: &str) -> Vec<u8> {
    std::fs::read(scratch.path(&format!("{name}.safetensors"))).unwrap()
}

/// The text chunk of that name.
fn text(scratch: &Scratch, name: &str, keyword: &str) -> Option<String> {
    let file = std::io::BufReader::new(std::fs::File::open(scratch.path(&format!("{name}.png"))).unwrap());
    let reader = png::Decoder::new(file).read_info().unwrap();
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword);
    let utf8 = info.utf8_text.iter().find(|chunk| chunk.keyword == keyword);
    latin.map(|chunk| chunk.text.clone()).or_else(|| utf8.map(|chunk| chunk.get_text().unwrap()))
}

#[test]
fn host_says_that_a_table_means_nothing_to_it() {
    let scratch = Scratch::new();
    let path = table(&scratch, "t.tsv", "");
    let host = ["--device", "host"];
    generate(lighterage, &scratch, "plain", &host).check(0, &[]);
    generate(lighterage, &scratch, "given", &[&host[..], &["--gemm-table", &path]].concat())
        .check(0, &["the host device multiplies everything by itself"]);
    assert!(latents(&scratch, "plain") == latents(&scratch, "given"));
    assert_eq!(text(&scratch, "plain", "GEMM table"), None);
}

/// The products of that picture that a table may name, and their sizes as it writes them.
#[cfg(feature = "emu")]
fn demo_products() -> Vec<(ProductCall, String)> {
    use lighterage_pipeline::{Job, Model, Options};
    // SAFETY: nobody changes the repository's own files while a test runs.
    let promise = unsafe { lighterage_checkpoint::Unmodified::promise() };
    let model = Model::open(crate::repository("assets/demo/base").as_ref(), promise).unwrap();
    let options = Options {
        width: 64,
        height: 64,
        steps: 1,
        dtype: lighterage_shape::DType::Bf16,
        ..model.options("red heart")
    };
    let survey = Job::new(&model, options).unwrap().survey(2 << 20).unwrap();
    let named = survey.products().iter().filter(|call| call.shape.alignment == Alignment::Bytes16);
    named
        .map(|call| {
            let Shape { rows, columns, inner, .. } = call.shape;
            (*call, format!("{rows} {columns} {inner}"))
        })
        .collect()
}

#[cfg(feature = "emu")]
#[test]
fn emulated_device_takes_our_own_kernels_from_a_table() {
    let scratch = Scratch::new();
    let emu = ["--device", "emu"];
    generate(lighterage, &scratch, "plain", &emu).check(0, &[]);
    // Few rows are added in four parts by their own kernel, and in one by this: other bits. What cuBLASLt gets is ours.
    let lines: String = demo_products()
        .into_iter()
        .map(|(call, sizes)| {
            if call.shape.rows <= 16 {
                format!("90a {sizes} {} own linear_sm80_64x64_bf16\n", call.epilogue.name())
            } else if call.epilogue == Epilogue::Bias {
                format!("90a {sizes} bias cublaslt {ZEROS}\n")
            } else {
                String::new()
            }
        })
        .collect();
    assert!(lines.contains(" own ") && lines.contains(" cublaslt "), "{lines}");
    let path = table(&scratch, "t.tsv", &format!("cublaslt 1 1\n{lines}"));
    generate(lighterage, &scratch, "given", &[&emu[..], &["--gemm-table", &path]].concat()).check(0, &[]);
    assert!(latents(&scratch, "plain") != latents(&scratch, "given"));
    let file = |name: &str| scratch.text(&format!("{name}.safetensors"));
    let apart = crate::error_of(&file("given"), &file("plain"), "latents=latents");
    assert!(apart <= 0.1, "{apart} apart");
    let foreign: String =
        lines.lines().filter(|line| line.contains("cublaslt")).map(|line| format!("{line}\n")).collect();
    let path = table(&scratch, "foreign.tsv", &format!("cublaslt 1 1\n{foreign}"));
    generate(lighterage, &scratch, "foreign", &[&emu[..], &["--gemm-table", &path]].concat()).check(0, &[]);
    assert!(latents(&scratch, "plain") == latents(&scratch, "foreign"));
    let hash = text(&scratch, "given", "GEMM table").unwrap();
    assert!(hash.starts_with("sha256 ") && hash.len() == 71, "{hash}");
    assert_eq!(text(&scratch, "given", "GEMM library"), None);
}

#[cfg(all(feature = "emu", feature = "cuda"))]
mod stand_in {
    use std::process::Command;

    use lighterage_fakecuda as fake;
    use serde_json::Value;

    use super::{Epilogue, ProductCall, demo_products, generate, latents, text};
    use crate::{Run, Scratch, repository};

    /// A run on the stand-in for the driver, with or without the one for cuBLASLt.
    fn on_stand_in(scratch: &Scratch, has_library: bool, arguments: &[&str]) -> Run {
        let folder = scratch.path(if has_library { "both" } else { "driver" });
        if !folder.exists() {
            std::fs::create_dir(&folder).unwrap();
            fake::link_into(&folder).unwrap();
            if has_library {
                fake::link_products_into(&folder).unwrap();
            }
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_lighterage"));
        Run::of(command.args(arguments).env("LD_LIBRARY_PATH", folder))
    }

    /// What `--tune` says of the demo model's products in pictures of that size.
    fn tune(scratch: &Scratch, has_library: bool, size: &str) -> Value {
        let (demo, path) = (repository("assets/demo/base"), scratch.text("tuned.tsv"));
        let tune = ["bench", "machine", "--device", "cuda", "--vram", "2GiB", "--tune", &path, "--json"];
        let scene =
            ["--model", &demo, "--size", size, "--steps", "1", "--workspace", "8MiB", "--batches", "1"];
        let json = on_stand_in(scratch, has_library, &[&tune[..], &scene].concat()).check(0, &[]).stdout;
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn tuning_measures_every_product_and_writes_what_can_be_used() {
        let scratch = Scratch::new();
        let report = tune(&scratch, true, "16x16");
        assert_eq!(report["library"], "cuBLASLt 130100");
        let products = report["products"].as_array().unwrap();
        assert!(products.len() >= 10, "{report}");
        for product in products {
            let number = |name: &str| product[name].as_f64().unwrap();
            assert_eq!(product["wrong"], 0, "{product}");
            assert!(number("best_seconds") > 0.0 && number("best_seconds") <= number("model_seconds"));
            // Twelve variants of ours on Hopper where nothing is cut, one more for few rows; three algorithms, but not for what is fused.
            let own = if number("rows") <= 16.0 { 13 } else { 12 };
            let foreign = if product["epilogue"] == "fused" { 0 } else { 3 };
            assert_eq!(product["candidates"], own + foreign, "{product}");
        }
        // Somebody beats the model: it was made for GPUs, and the stand-in's cuBLASLt is a loop.
        let written = std::fs::read_to_string(scratch.path("tuned.tsv")).unwrap();
        assert!(
            written.contains("\ncublaslt\t130100\t8388608\n")
                && written.contains("# Measured on stand-in GPU"),
            "{written}"
        );
        let run = |arguments: &[&str]| on_stand_in(&scratch, true, arguments);
        let path = scratch.text("tuned.tsv");
        let out = scratch.text("tuned.png");
        run(&[
            "generate",
            "--prompt",
            "",
            "--seed",
            "3",
            "--steps",
            "1",
            "--width",
            "16",
            "--height",
            "16",
            "-o",
            &out,
            "--device",
            "cuda",
            "--vram",
            "1GiB",
            "--gemm-table",
            &path,
        ])
        .check(0, &[]);
        let hash = format!("sha256 {}", report["sha256"].as_str().unwrap());
        assert_eq!(text(&scratch, "tuned", "GEMM table"), Some(hash));
        assert_eq!(text(&scratch, "tuned", "GEMM library").as_deref(), Some("cuBLASLt 130100"));
    }

    #[test]
    fn without_the_library_our_own_are_tuned() {
        let scratch = Scratch::new();
        let ours = tune(&scratch, false, "16x16");
        assert!(ours["library"].is_null(), "{ours}");
        assert!(ours["products"].as_array().unwrap().len() >= 10, "{ours}");
        assert!(!std::fs::read_to_string(scratch.path("tuned.tsv")).unwrap().contains("cublaslt"));
    }

    /// A table that gives cuBLASLt all that it can do, and a whole picture by it.
    #[test]
    fn picture_by_the_library_has_one_set_of_bits_at_every_budget() {
        let scratch = Scratch::new();
        let run = |arguments: &[&str]| on_stand_in(&scratch, true, arguments);
        let cuda = ["--device", "cuda", "--vram", "2GiB"];
        generate(run, &scratch, "own", &cuda).check(0, &[]);
        // Whatever the shapes of the model are: as the plan's own run lists them.
        let lines = everything_foreign();
        assert!(lines.lines().count() >= 5, "{lines}");
        let path = super::table(&scratch, "all.tsv", &format!("cublaslt 130100 8388608\n{lines}"));
        let given = [&cuda[..], &["--gemm-table", &path]].concat();
        let plan = generate(run, &scratch, "plan", &[&given[..], &["--dry-run", "--json"]].concat());
        let plan: Value = serde_json::from_str(&plan.check(0, &[]).stdout).unwrap();
        let tight = plan["minimum_bytes"].as_u64().unwrap();
        // Context 64 MiB, kernels, 8 MiB for products: all in the budget.
        assert!(plan["taken_bytes"].as_u64().unwrap() >= (64 + 8) << 20 && tight < 200 << 20, "{plan}");
        let roomy = generate(run, &scratch, "roomy", &[&given[..], &["--json"]].concat()).check(0, &[]);
        let report: Value = serde_json::from_str(&roomy.stdout).unwrap();
        let report = &report[0];
        assert_eq!(report["gemm_library"], "cuBLASLt 130100");
        assert_eq!(
            report["peak_bytes"], report["planned_peak_bytes"],
            "context, kernels and workspace are in both"
        );
        assert_eq!(report["gemm_table_sha256"].as_str().unwrap().len(), 64);
        let small = ["--device", "cuda", "--vram", &tight.to_string(), "--gemm-table", &path];
        generate(run, &scratch, "tight", &small).check(0, &[]);
        let less = ["--device", "cuda", "--vram", &(tight - 1).to_string(), "--gemm-table", &path];
        generate(run, &scratch, "less", &less).check_failed(&[
            "is 1 byte too small",
            &format!("needs {tight} bytes"),
            "for the driver and its kernels",
        ]);
        assert!(latents(&scratch, "roomy") == latents(&scratch, "tight"), "the budget shows");
        assert!(latents(&scratch, "roomy") != latents(&scratch, "own"), "the library adds in another order");
        let file = |name: &str| scratch.text(&format!("{name}.safetensors"));
        let apart = crate::error_of(&file("roomy"), &file("own"), "latents=latents");
        assert!(apart <= 0.1, "{apart} apart");
        // Without the library the same table gives our own bits, and says so.
        let absent = |arguments: &[&str]| on_stand_in(&scratch, false, arguments);
        generate(absent, &scratch, "absent", &given)
            .check(0, &["cuBLASLt 130100, which was not found: our own kernels multiply"]);
        assert!(latents(&scratch, "absent") == latents(&scratch, "own"));
        assert_eq!(text(&scratch, "absent", "GEMM library"), None);
        // An algorithm that the library does not know is refused before anything runs.
        let path = super::table(
            &scratch,
            "bad.tsv",
            &format!("cublaslt 130100 1\n{}", lines.replace(&algorithm(2), super::ZEROS)),
        );
        generate(run, &scratch, "bad", &[&cuda[..], &["--gemm-table", &path]].concat())
            .check_failed(&["table of products, line", "cublasLtMatmulAlgoCheck failed with code 7"]);
    }

    /// A line for every product of the picture that cuBLASLt can make.
    fn everything_foreign() -> String {
        let line = |(call, sizes): (ProductCall, String)| {
            format!("90a {sizes} {} cublaslt {}\n", call.epilogue.name(), algorithm(2))
        };
        demo_products().into_iter().filter(|(call, _)| call.epilogue != Epilogue::Fused).map(line).collect()
    }

    /// One of the stand-in's.
    fn algorithm(index: u64) -> String {
        let mark = u64::from_be_bytes(*b"stand-in");
        format!("{mark:016x}{index:016x}{}{:016x}", "0".repeat(5 * 16), !index)
    }
}
