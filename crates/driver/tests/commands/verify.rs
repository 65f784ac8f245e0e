use crate::{lighterage, repository};

/// Eight budgets, on one and two threads and in two drawn interleavings of the streams.
#[test]
fn the_budget_does_not_show_in_any_step() {
    let run = lighterage(&["verify", "--device", "host", "--steps", "4", "--json"]).check(0, &[]);
    let runs: Vec<serde_json::Value> = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(runs.len(), 8 * 4);
    assert!(runs.iter().all(|run| run["sha256"] == runs[0]["sha256"] && run["differs_at"].is_null()));
    // What is hashed depends on the picture.
    let other = ["--prompt", "cat face", "--budgets", "64MiB", "--threads", "2", "--interleavings", "1"];
    let other = lighterage(&[&["verify", "--device", "host", "--steps", "4", "--json"][..], &other].concat())
        .check(0, &[]);
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
    lighterage(&["verify", "--budgets", "64MiB,1KiB"]).check_failed(&["bytes too small", "smallest budget"]);
}

/// The peak is each run's own, and so are its times; a drawn interleaving has none.
#[test]
fn what_each_run_took_is_told() {
    let one = ["--budgets", "4MiB,64MiB", "--threads", "2", "--interleavings", "1", "--rounds", "2"];
    let all =
        [&["verify", "--device", "host", "--steps", "3", "--size", "48x32", "--json"][..], &one].concat();
    let runs: Vec<serde_json::Value> = serde_json::from_str(&lighterage(&all).check(0, &[]).stdout).unwrap();
    assert_eq!(runs.len(), 2 * 2 * 2);
    for run in &runs {
        let [budget, peak] = ["budget_bytes", "peak_bytes"].map(|name| run[name].as_u64().unwrap());
        assert!(peak <= budget && peak > 1 << 20, "{run}");
        assert_eq!((&run["not_finite"], run["steps_sha256"].as_array().unwrap().len()), (&0.into(), 3));
        assert!(run["steps_sha256"][0] != run["steps_sha256"][1], "{run}");
        assert!(
            run["steps_replayed"] == 0 && run["not_replayed"].is_null(),
            "nobody asked for graphs: {run}"
        );
        let is_drawn = run["how"] == "interleaving 1";
        for name in ["first_step_after_seconds", "step_seconds"] {
            assert_eq!(run[name].as_f64().is_some_and(|seconds| seconds > 0.0), !is_drawn, "{run}");
        }
    }
    assert_eq!(runs[0]["streamed_bytes_per_step"], runs[1]["streamed_bytes_per_step"]);
    assert!(runs[0]["copied_bytes"].as_u64() > runs[4]["copied_bytes"].as_u64());
}

/// Threads and interleavings are the host device's, and `sim` has nothing to compare.
#[test]
fn what_a_device_has_not_is_refused() {
    lighterage(&["verify", "--device", "sim"]).check(2, &["computes nothing", "plan"]);
    lighterage(&["verify", "--device", "sim", "--threads", "2"]).check(2, &["--threads", "host device"]);
    lighterage(&["verify", "--vram", "1GiB"]).check(2, &["--vram"]);
}

/// Files that are page-locked as they lie: the host holds their bytes once, and nothing else changes.
#[test]
fn files_may_be_page_locked_where_they_lie() {
    let run = |place: &str| {
        let one =
            ["--budgets", "2MiB,64MiB", "--threads", "2", "--interleavings", "1", "--steps", "2", "--json"];
        let all = [&["verify", "--device", "host", "--host-weights", place][..], &one].concat();
        let runs = lighterage(&all).check(0, &[]).stdout;
        serde_json::from_str::<Vec<serde_json::Value>>(&runs).unwrap()
    };
    let (copied, registered) = (run("copied"), run("registered"));
    let bytes = |run: &serde_json::Value| run["registered_bytes"].as_u64().unwrap();
    for (index, (copied, registered)) in copied.iter().zip(&registered).enumerate() {
        assert_eq!(copied["sha256"], registered["sha256"]);
        // What is streamed lies in the windows; what is resident in none.
        let streamed = copied["streamed_bytes_per_step"].as_u64().unwrap();
        assert!(bytes(copied) == 0 && (bytes(registered) > 0) == (streamed > 0), "{index}: {registered}");
        assert!(bytes(registered) >= streamed / 2, "{registered}");
        assert_eq!(copied["peak_bytes"], registered["peak_bytes"]);
    }
    lighterage(&["verify", "--host-weights", "somewhere"]).check(2, &["copied", "registered"]);
}

/// A face's weights are streamed in the same cycle.
#[test]
fn a_face_is_no_exception() {
    let embedding = format!("{}:cleo", repository("assets/demo/faces/embeddings.safetensors"));
    let one = ["--budgets", "3MiB,64MiB", "--threads", "2", "--interleavings", "1", "--steps", "2", "--json"];
    let run = |face: &[&str]| {
        let runs =
            lighterage(&[&["verify", "--device", "host"][..], &one, face].concat()).check(0, &[]).stdout;
        serde_json::from_str::<Vec<serde_json::Value>>(&runs).unwrap()
    };
    let (with, without) = (run(&["--id-embedding", &embedding]), run(&[]));
    assert!(with.iter().all(|run| run["sha256"] == with[0]["sha256"]));
    assert_ne!(with[0]["sha256"], without[0]["sha256"]);
    let streamed = |runs: &[serde_json::Value]| runs[0]["streamed_bytes_per_step"].as_u64().unwrap();
    assert!(streamed(&with) > streamed(&without));
    let model = repository("assets/demo/base");
    lighterage(&["verify", "--model", &model, "--id-embedding", &embedding]).check(2, &["--infinite-you"]);
    lighterage(&["verify", "--infinite-you", &model]).check(2, &["--id-embedding"]);
}
