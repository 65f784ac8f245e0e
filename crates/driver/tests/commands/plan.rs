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
