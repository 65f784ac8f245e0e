use crate::{Scratch, lighterage, repository};

#[test]
fn a_table_of_budgets_for_a_model_without_files() {
    let plan = ["plan", "--gpu", "rtx4090", "--vram", "512MiB,4GiB,48GiB"];
    lighterage(&plan)
        .check(0, &["does not fit", "bytes too small", "smallest budget", "knee", "link", "compute"]);
}

#[test]
fn as_json_and_as_a_picture() {
    let scratch = Scratch::new();
    let svg = scratch.path("plan.svg");
    let path = svg.to_str().unwrap();
    let run = lighterage(&[
        "plan", "--model", "flux-dev", "--gpu", "h100", "--link", "25", "--svg", path, "--json",
    ]);
    let json = run.check(0, &[]).stdout;
    let plan: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["rows"].as_array().unwrap().len(), 10);
    assert_eq!(plan["link_bytes_per_second"], 25e9);
    let row = &plan["rows"][4];
    let number = |name: &str| row[name].as_f64().unwrap();
    assert!(row["refused"].is_null());
    assert!(0.0 < number("bound_seconds_per_step"));
    assert!(number("bound_seconds_per_step") <= number("seconds_per_step"));
    assert!(0.0 < number("peak_bytes") && number("peak_bytes") <= number("budget_bytes"));
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
}

#[test]
fn several_cards_share_a_plot() {
    let scratch = Scratch::new();
    let svg = scratch.text("cards.svg");
    let cards =
        ["plan", "--model", "flux-dev", "--gpu", "h100,rtx3090", "--vram", "8GiB", "--svg", &svg, "--json"];
    let plans: serde_json::Value = serde_json::from_str(&lighterage(&cards).check(0, &[]).stdout).unwrap();
    let names: Vec<_> = plans.as_array().unwrap().iter().map(|plan| plan["gpu"].clone()).collect();
    assert_eq!(names, ["h100", "rtx3090"]);
    let plot = std::fs::read_to_string(svg).unwrap();
    for part in ["knee of h100", "knee of rtx3090", "b-curve b-1", "bound that no policy beats"] {
        assert!(plot.contains(part), "no {part}: {plot}");
    }
}

#[test]
fn a_folder_is_planned_too() {
    let model = repository("assets/demo/base");
    let run = lighterage(&["plan", "--model", &model, "--size", "64x64", "--vram", "1GiB", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&run.check(0, &[]).stdout).unwrap();
    let row = &plan["rows"][0];
    assert!(row["refused"].is_null() && row["peak_bytes"] == plan["maximum_bytes"], "{plan}");
}

#[test]
fn what_is_no_model_and_no_card_is_said() {
    lighterage(&["plan", "--model", "flux-pro"]).check(2, &["flux-dev+infinite-you"]);
    lighterage(&["plan", "--gpu", "voodoo2"]).check(2, &["rtx4090"]);
    lighterage(&["plan", "--size", "1080"]).check(2, &["1280x720"]);
}

/// The least budget of the bundled model with what `extra` adds.
fn everything_resident(extra: &[&str]) -> u64 {
    let model = repository("assets/demo/base");
    let arguments = ["plan", "--model", &model, "--size", "64x64", "--vram", "1GiB", "--json"];
    let run = lighterage(&[&arguments[..], extra].concat());
    let plan: serde_json::Value = serde_json::from_str(&run.check(0, &[]).stdout).unwrap();
    assert!(plan["rows"][0]["refused"].is_null(), "{plan}");
    plan["rows"][0]["resident_bytes"].as_u64().unwrap()
}

#[test]
fn a_face_and_a_low_rank_change_are_planned_along() {
    let scratch = Scratch::new();
    let bare = everything_resident(&[]);
    let infinite_you = repository("assets/demo/infinite-you");
    let with_face = everything_resident(&["--infinite-you", &infinite_you]);
    assert!(with_face > bare + (1 << 20), "InfuseNet's weights are read in every step: {with_face}, {bare}");

    let config = std::fs::read_to_string(repository("assets/demo/base/transformer/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let extent = |name: &str| usize::try_from(config[name].as_u64().unwrap()).unwrap();
    let width = extent("num_attention_heads") * extent("attention_head_dim");
    let rank = 2048;
    let (path, bytes) = (scratch.path("lora.safetensors"), vec![0; 2 * rank * width]);
    let tensor = |name, shape| lighterage_checkpoint::NewTensor {
        name,
        dtype: lighterage_shape::DType::Bf16,
        shape,
        bytes: &bytes,
    };
    let (down, up) = ([rank, width], [width, rank]);
    let tensors = [
        tensor("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", &down[..]),
        tensor("transformer.transformer_blocks.0.attn.to_q.lora_B.weight", &up[..]),
    ];
    lighterage_checkpoint::write(&path, &tensors).unwrap();
    let lora = format!("{}:0.5", path.to_str().unwrap());
    let with_lora = everything_resident(&["--lora", &lora]);
    // Both factors, in whole pages of a card.
    assert!(with_lora >= bare + 4 * (rank * width) as u64 / (2 << 20) * (2 << 20), "{with_lora}, {bare}");

    lighterage(&["plan", "--lora", &lora]).check(2, &["go with a folder"]);
    lighterage(&["plan", "--infinite-you", &infinite_you]).check(2, &["go with a folder"]);
}

#[test]
fn a_card_that_was_measured_is_planned_for() {
    let scratch = Scratch::new();
    let path = scratch.path("card.json");
    let card = path.to_str().unwrap();
    let machine = lighterage(&[
        "bench",
        "machine",
        "--device",
        "host",
        "--vram",
        "256MiB",
        "--copy",
        "4MiB",
        "--gemm",
        "256",
        "--handles",
        "0",
        "--json",
    ]);
    std::fs::write(&path, machine.check(0, &[]).stdout).unwrap();
    let run = lighterage(&["plan", "--gpu", card, "--vram", "8GiB", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&run.check(0, &[]).stdout).unwrap();
    assert!(plan["gpu"].as_str().unwrap().starts_with("host ("), "{plan}");
    assert!(plan["rows"][0]["seconds_per_step"].as_f64().unwrap() > 0.0);
    std::fs::write(&path, "{}").unwrap();
    lighterage(&["plan", "--gpu", card]).check(2, &["not the output of `bench machine --json`"]);
}
