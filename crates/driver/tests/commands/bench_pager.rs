use std::path::Path;

use crate::seeing::check_trace;
use crate::{Scratch, lighterage};

fn json(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&lighterage(arguments).check(0, &[]).stdout).unwrap()
}

/// The table of the README: what it says of a simulated H100 holds wherever it is made.
#[test]
fn simulated_cards_are_near_their_bound_and_ahead_of_a_prefix() {
    let report = json(&["bench", "pager", "--only", "cards", "--gpu", "h100", "--json"]);
    let lines = report["cards"][0]["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 9);
    for line in lines {
        let number = |name: &str| line[name].as_f64().unwrap();
        let (seconds, bound) = (number("seconds"), number("bound_seconds"));
        assert!((0.999..=1.02).contains(&(seconds / bound)), "{line}");
        assert!(number("prefix_seconds") > seconds, "{line}");
    }
    lighterage(&["bench", "pager", "--only", "cards", "--gpu", "voodoo2"]).check(2, &["voodoo2"]);
}

#[test]
fn plans_are_timed_for_one_budget_and_for_ten() {
    let report = json(&["bench", "pager", "--only", "plans", "--gpu", "h100", "--turns", "1", "--json"]);
    let plans = report["plans"].as_array().unwrap();
    assert_eq!(plans.len(), 12, "two models, three sizes: {report}");
    assert!(plans.iter().all(|answer| answer["seconds"].as_f64().unwrap() > 0.0), "{report}");
    assert_eq!((&plans[0]["budgets"], &plans[1]["budgets"]), (&1.into(), &10.into()));
}

/// Right, not fast: how fast is for a quiet machine to say.
#[test]
fn what_a_machine_is_measured_by_runs() {
    let report = json(&["bench", "pager", "--only", "rates", "--file", "64MiB", "--json"]);
    let rates = &report["rates"];
    assert_eq!(rates["bytes"], 64 << 20);
    for name in ["copy", "streamed_from_cache", "read", "streamed_from_disk"] {
        assert!(rates[name].as_f64().unwrap() > 0.0, "{rates}");
    }
    for part in ["fixed", "products"] {
        let report = json(&["bench", "pager", "--only", part, "--link", "4000", "--turns", "1", "--json"]);
        let lines = report[part].as_array().unwrap();
        assert_eq!(lines.len(), 8);
        let streamed = |line: &serde_json::Value| line["streamed_bytes_per_turn"].as_u64().unwrap();
        assert!(lines.windows(2).all(|pair| streamed(&pair[0]) > streamed(&pair[1])), "{report}");
        assert!(lines.iter().all(|line| line["seconds"].as_f64().unwrap() > 0.0));
    }
    let arguments =
        ["bench", "step", "--steps", "2", "--rounds", "1", "--budgets", "1MiB,64MiB", "--link", "500"];
    let report = json(&[&arguments[..], &["--device", "host", "--json"]].concat());
    let lines = report["lines"].as_array().unwrap();
    assert!(lines[0]["streamed_bytes_per_step"].as_u64() > lines[1]["streamed_bytes_per_step"].as_u64());
    for line in lines {
        for name in ["bound_seconds", "step_seconds", "first_step_after_seconds", "seconds"] {
            assert!(line[name].as_f64().unwrap() > 0.0, "{name}: {line}");
        }
        assert!((0.0..=1.0).contains(&line["stalled_share"].as_f64().unwrap()), "{line}");
        assert!(line["peak_bytes"].as_u64() <= line["budget_bytes"].as_u64(), "{line}");
    }
    // The second budget holds everything, so its run is what the launches are known by.
    assert_eq!(report["compute"]["seconds"], lines[1]["step_seconds"], "{report}");
    assert_eq!(report["link_bytes_per_second"].as_f64(), Some(5e8), "{report}");
    let scratch = Scratch::new();
    let (trace, page) = (scratch.text("step.json"), scratch.text("step.html"));
    let seeing = ["--device", "host", "--trace", &trace, "--report", &page];
    lighterage(&[&arguments[..], &seeing].concat()).check(0, &["s/step", "bound"]);
    assert_eq!(scratch.names(), ["step-1.html", "step-1.json", "step-2.html", "step-2.json"]);
    let events = check_trace(Path::new(&scratch.text("step-2.json")));
    assert_eq!(events.iter().filter(|event| event["cat"] == "step").count(), 2);
    lighterage(&["bench", "step", "--device", "sim"]).check(2, &["computes nothing", "plan"]);
}
