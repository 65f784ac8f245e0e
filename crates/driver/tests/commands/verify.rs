use crate::lighterage;

/// Eight budgets, on one and two threads and in two drawn interleavings of the streams.
#[test]
fn the_budget_does_not_show_in_any_step() {
    let run = lighterage(&["verify", "--steps", "4", "--json"]).check(0, &[]);
    let runs: Vec<serde_json::Value> = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(runs.len(), 8 * 4);
    assert!(runs.iter().all(|run| run["sha256"] == runs[0]["sha256"] && run["differs_at"].is_null()));
    // What is hashed depends on the picture.
    let other = ["--prompt", "cat face", "--budgets", "64MiB", "--threads", "2", "--interleavings", "1"];
    let other = lighterage(&[&["verify", "--steps", "4", "--json"][..], &other].concat()).check(0, &[]);
    let other: Vec<serde_json::Value> = serde_json::from_str(&other.stdout).unwrap();
    assert_eq!(other.len(), 2);
    assert_ne!(other[0]["sha256"], runs[0]["sha256"]);
    let streamed = |index: usize| runs[index]["streamed_bytes_per_step"].as_u64().unwrap();
    assert!(
        streamed(0) > streamed(12) && streamed(31) == 0,
        "{} {} {}",
        streamed(0),
        streamed(12),
        streamed(31)
    );
}

#[test]
fn a_budget_that_is_too_small_is_said() {
    lighterage(&["verify", "--budgets", "1KiB"]).check_failed(&["bytes too small"]);
}
