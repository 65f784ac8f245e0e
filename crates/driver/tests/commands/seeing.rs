//! Traces and reports of runs.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{Scratch, lighterage};

const PROMPT: [&str; 7] = ["generate", "--prompt", "red <heart> & \"more\"", "--seed", "0", "--steps", "3"];

/// The picture within a budget that streams, with these options, and what was said.
fn picture(scratch: &Scratch, name: &str, options: &[&str]) -> (Vec<u8>, String) {
    let out = scratch.text(name);
    let place = ["--device", "host", "--vram", "2MiB", "-o", &out];
    let said = lighterage(&[&PROMPT[..], &place, options].concat()).check(0, &[]).stderr;
    (std::fs::read(out).unwrap(), said)
}

pub(crate) fn number(event: &Value, name: &str) -> f64 {
    event[name].as_f64().unwrap_or_else(|| panic!("no {name} in {event}"))
}

/// Every event has what its kind asks for; slices of a thread lie in each other or apart; flows begin and end in slices.
pub(crate) fn check_trace(path: &Path) -> Vec<Value> {
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap().clone();
    let of = |kind: &str| events.iter().filter(|event| event["ph"] == kind).cloned().collect::<Vec<_>>();
    let mut open: std::collections::BTreeMap<u64, Vec<f64>> = std::collections::BTreeMap::new();
    for slice in of("X") {
        let (begin, end) = (number(&slice, "ts"), number(&slice, "ts") + number(&slice, "dur"));
        let stack = open.entry(slice["tid"].as_u64().unwrap()).or_default();
        // A nanosecond for the rounding of decimals.
        while stack.last().is_some_and(|outer| *outer <= begin + 1e-3) {
            stack.pop();
        }
        assert!(stack.last().is_none_or(|outer| end <= outer + 2e-3), "{slice} reaches out of what it is in");
        stack.push(end);
    }
    for (from, to) in [("b", "e"), ("s", "f")] {
        let (from, to) = (of(from), of(to));
        assert_eq!(from.len(), to.len());
        for begin in &from {
            let end = to.iter().find(|event| event["id"] == begin["id"]).unwrap();
            assert!(number(begin, "ts") <= number(end, "ts"), "{begin} {end}");
        }
    }
    assert!(of("C").iter().all(|event| event["args"]["bytes"].is_u64()));
    events
}

/// A recording of everything shows all steps, and a plain run one of each kind.
#[test]
fn steps_of_two_kinds_are_predicted_by_one_of_each() {
    let scratch = Scratch::new();
    let face = crate::repository("assets/demo/faces/bo.png");
    let window = ["--id-image", &face, "--infusenet-end", "0.5"];
    let (plain, said) = picture(&scratch, "plain.png", &window);
    assert!(said.contains("s/step predicted (by the launches of a step of each kind)"), "{said}");
    assert!(said.contains("% of step 3 stalled") && said.contains("first step done after"), "{said}");
    let trace = scratch.text("trace.json");
    let (seen, said) = picture(&scratch, "seen.png", &[&window[..], &["--trace", &trace]].concat());
    assert!(said.contains("s/step predicted (by the launches of a step of each kind)"), "{said}");
    assert!(plain == seen);
}

#[test]
fn a_recorded_run_makes_the_same_picture_and_a_trace() {
    let scratch = Scratch::new();
    let (plain, said) = picture(&scratch, "plain.png", &[]);
    assert!(said.contains("s/step predicted (by the launches of step 2)"), "{said}");
    assert!(said.contains("% of step 2 stalled") && said.contains("first step done after"), "{said}");
    let (trace, report) = (scratch.text("trace.json"), scratch.text("report.html"));
    let (recorded, _) = picture(&scratch, "seen.png", &["--trace", &trace, "--report", &report]);
    assert!(plain == recorded, "recording changes the picture");
    let events = check_trace(Path::new(&trace));
    let named = |category: &str, name: &str| {
        events
            .iter()
            .filter(|event| event["cat"] == category && event["name"].as_str().unwrap().contains(name))
            .count()
    };
    assert_eq!(named("step", "step "), 3);
    assert!(
        named("phase", "denoise") == 1 && named("kernel", "linear_bf16") > 0 && named("wait", "wait") > 0
    );
    assert!(named("lease", "transformer_blocks.0") > 0 && named("weights", "transformer_blocks.0") > 0);
    for counter in ["device: cap", "device: resident weights", "device: weight ring", "pool: in use"] {
        assert!(events.iter().any(|event| event["ph"] == "C" && event["name"] == counter), "no {counter}");
    }
    assert!(events.iter().any(|event| event["ph"] == "s"), "no wait says what it is for");
    check_report(&std::fs::read_to_string(report).unwrap());
    assert_eq!(scratch.names(), ["plain.png", "report.html", "seen.png", "trace.json"]);
}

fn check_report(html: &str) {
    for part in [
        "Predicted and achieved",
        "class=\"cap\"",
        "class=\"wait\"",
        "What was resident",
        "SHA-256",
        "--vram 2MiB",
    ] {
        assert!(html.contains(part), "no {part}");
    }
    assert!(html.contains("red &lt;heart&gt; &amp; &quot;more&quot;") && !html.contains("red <heart>"));
    for outside in ["http://", "https://", "url(", "<link rel=\"stylesheet\"", " src="] {
        assert!(!html.contains(outside), "{outside} reaches out of the page");
    }
}

/// In a real browser the script runs to its end, which it marks, and says nothing on the console.
#[test]
fn a_browser_shows_the_report() {
    let scratch = Scratch::new();
    let report = scratch.text("report.html");
    picture(&scratch, "seen.png", &["--report", &report]);
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"];
    let shown = browsers.iter().find_map(|browser| {
        let profile = format!("--user-data-dir={}", scratch.text("profile"));
        Command::new(browser).args(flags).arg(profile).arg(format!("file://{report}")).output().ok()
    });
    let Some(shown) = shown else {
        println!("skipped: there is none of {browsers:?} to look at the report with");
        return;
    };
    let (dom, said) =
        (String::from_utf8(shown.stdout).unwrap(), String::from_utf8_lossy(&shown.stderr).into_owned());
    assert!(dom.contains("data-ready=\"yes\""), "the script did not end: {said}");
    assert!(!said.contains(":CONSOLE"), "{said}");
    for shape in
        ["<path class=\"p3\"", "<rect class=\"kernel\"", "<rect class=\"arrival\"", "<button type=\"button\""]
    {
        assert!(dom.contains(shape), "no {shape}");
    }
}

#[test]
fn a_simulated_card_is_seen_too() {
    let scratch = Scratch::new();
    let (trace, report) = (scratch.text("trace.json"), scratch.text("report.html"));
    let run = ["plan", "--steps", "3", "--vram", "8GiB", "--trace", &trace, "--report", &report];
    lighterage(&run).check(0, &["by the device's profile"]);
    let events = check_trace(Path::new(&trace));
    assert_eq!(events.iter().filter(|event| event["cat"] == "step").count(), 3);
    let html = std::fs::read_to_string(report).unwrap();
    assert!(html.contains("on a simulated rtx4090 within 8.00 GiB"));
    for part in ["class=\"budgets\"", "b-curve b-0", "b-bound b-0", "knee of rtx4090", "Plans for rtx4090"] {
        assert!(html.contains(part), "no {part}");
    }
}

#[test]
fn the_first_run_of_verify_is_seen() {
    let scratch = Scratch::new();
    let (trace, report) = (scratch.text("trace.json"), scratch.text("report.html"));
    let few = ["verify", "--steps", "2", "--budgets", "1MiB", "--threads", "1", "--interleavings", "1"];
    let run = lighterage(&[&few[..], &["--trace", &trace, "--report", &report]].concat());
    run.check(0, &["2 runs, 0 of them differ"]);
    let events = check_trace(Path::new(&trace));
    assert_eq!(events.iter().filter(|event| event["cat"] == "step").count(), 2);
    let html = std::fs::read_to_string(report).unwrap();
    assert!(html.contains("the first run, 1 thread") && html.contains("latents of step 2"));
}

#[test]
fn what_cannot_be_written_is_refused_before_the_run() {
    let scratch = Scratch::new();
    let out = scratch.text("out.png");
    let run =
        |options: &[&str]| lighterage(&[&PROMPT[..], &["--device", "host", "-o", &out], options].concat());
    run(&["--trace", "/nowhere/trace.json"]).check_failed(&["/nowhere", "no folder"]);
    run(&["--report", &scratch.text("")]).check_failed(&["something else than a regular file"]);
    run(&["--trace", &out]).check(2, &["--output and --trace are the same file"]);
    assert!(scratch.names().is_empty(), "{:?}", scratch.names());
}
