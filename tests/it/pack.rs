//! `.ci/gpu-run` with scripts in the place of its programs: what it runs and leaves out, and what is there when it was killed on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::building::script;
use crate::tidy::root;

/// A tree with a packed folder in it.
struct Pack {
    folder: tempfile::TempDir,
}

impl Pack {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pack = Self { folder };
        fs::create_dir_all(pack.at("bin")).expect("writable");
        for (name, source) in [("run", "gpu-run"), ("cases", "gpu-cases"), ("table.py", "gpu-table.py")] {
            fs::copy(root().join(".ci").join(source), pack.at(name)).expect("it is there");
        }
        fs::write(pack.at("revision"), "of a test\n").expect("writable");
        std::os::unix::fs::symlink(root().join("assets"), pack.folder.path().join("assets"))
            .expect("writable");
        pack.program("lighterage", "echo all is well");
        pack.program("conformance", "echo 'test streams::events_order_streams_both_ways ... ok'");
        pack
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(".cache/gpu").join(name)
    }

    fn program(&self, name: &str, body: &str) {
        script(&self.at("bin").join(name), body);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("bash");
        command.arg(self.at("run")).args(arguments).env_remove("RESULTS");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("bash starts")
    }

    /// In the background, until its results hold those words.
    fn run_until(&self, arguments: &[&str], words: &str) -> Child {
        let child = self.command(arguments).stdout(Stdio::null()).spawn().expect("bash starts");
        let start = Instant::now();
        while !self.result("checks.txt").contains(words) {
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", self.result("checks.txt"));
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    fn result(&self, name: &str) -> String {
        fs::read_to_string(self.at("results").join(name)).unwrap_or_default()
    }

    fn results(&self) -> Vec<String> {
        names(&self.at("results"))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("readable").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().expect("it starts");
    assert!(sent.success(), "{sent}");
}

#[test]
fn stages_that_are_run_one_by_one_add_up() {
    let pack = Pack::new();
    assert_eq!(pack.run(&["doctor"]).status.code(), Some(0));
    pack.program("conformance", "echo 'test streams::events_order_streams_both_ways ... FAILED'; exit 101");
    assert_eq!(pack.run(&["conformance"]).status.code(), Some(1));
    let summary = pack.result("summary.txt");
    let verdicts: Vec<_> = summary.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!((verdicts[0].as_slice(), verdicts[1][3]), (&["==", "of", "a", "test"][..], "ok"), "{summary}");
    assert_eq!((verdicts[2][0], &verdicts[2][3..]), ("conformance", &["FAILED", "(1)"][..]), "{summary}");
    // What is run again takes the place of what it said before, and of nothing else.
    pack.program("conformance", "echo 'test streams::events_order_streams_both_ways ... ok'");
    assert_eq!(pack.run(&["conformance"]).status.code(), Some(0));
    let checks = pack.result("checks.txt");
    assert!(checks.contains("all is well") && !checks.contains("FAILED"), "{checks}");
    assert_eq!(pack.results(), ["checks.txt", "summary.txt"]);
    // Elsewhere, where that is asked for.
    let elsewhere = pack.folder.path().join("elsewhere");
    let output = pack.command(&["doctor"]).env("RESULTS", &elsewhere).output().expect("bash starts");
    assert_eq!((output.status.code(), names(&elsewhere).len()), (Some(0), 2), "{output:?}");
}

#[test]
fn what_does_not_fit_in_the_time_is_left_out_and_said_so() {
    let pack = Pack::new();
    // Named the other way round: the order is that of worth.
    let output = pack.run(&["--within", "25", "kernels", "conformance"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let summary = pack.result("summary.txt");
    assert!(!pack.results().contains(&"kernels.txt".to_owned()), "{:?}", pack.results());
    let lines: Vec<_> = summary.lines().skip(1).collect();
    assert!(lines.len() == 2 && lines[0].starts_with("conformance") && lines[0].ends_with("ok"), "{summary}");
    assert!(lines[1].starts_with("kernels") && lines[1].contains("left out: 1"), "{summary}");
    for wrong in [&["--within"][..], &["--within", "soon"], &["--within", "0"], &["everything"]] {
        let output = pack.run(wrong);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("usage: "), "{wrong:?}: {said}");
    }
}

#[test]
fn whoever_ends_it_finds_what_was_said_so_far() {
    let pack = Pack::new();
    pack.program("conformance", "echo half of it; exec sleep 20");
    let mut child = pack.run_until(&["doctor", "conformance"], "half of it");
    let start = Instant::now();
    signal(&child, "-TERM");
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let summary = pack.result("summary.txt");
    assert!(summary.lines().nth(1).is_some_and(|line| line.ends_with(" ok")), "{summary}");
    assert!(
        summary.contains("conformance") && summary.contains("FAILED (this script was told to end)"),
        "{summary}"
    );
    assert_eq!(pack.results(), ["checks.txt", "summary.txt"]);
}

/// No script hears of that signal: what is in the files then is what there is.
#[test]
fn whoever_kills_it_finds_what_was_said_so_far() {
    let pack = Pack::new();
    pack.program("conformance", "echo half of it; exec sleep 2");
    let mut child = pack.run_until(&["doctor", "conformance"], "half of it");
    signal(&child, "-KILL");
    child.wait().expect("it ends");
    let summary = pack.result("summary.txt");
    assert!(summary.lines().nth(1).is_some_and(|line| line.ends_with(" ok")), "{summary}");
    assert_eq!(pack.results(), ["checks.txt", "summary.txt"]);
    pack.run(&["doctor"]);
    let summary = pack.result("summary.txt");
    assert!(summary.contains("conformance          cut off"), "{summary}");
    assert!(pack.result("checks.txt").contains("half of it"));
}

/// What runs on every backend here and on no GPU there would be proven on the stand-in alone.
#[test]
fn checks_of_all_backends_are_run_on_a_gpu() {
    let script = fs::read_to_string(root().join(".ci/gpu-run")).expect("readable");
    let calls = script.lines().filter_map(|line| line.trim().strip_prefix("run_checks "));
    // Behind the name of one that has to be among them.
    let beginnings: Vec<&str> =
        calls.flat_map(|call| call.split(" || ").next().unwrap_or_default().split(' ').skip(1)).collect();
    let folder = root().join("crates/device/tests/conformance");
    let mut count = 0;
    for file in names(&folder) {
        let text = fs::read_to_string(folder.join(&file)).expect("readable");
        for test in text.split("#[test]\nfn ").skip(1) {
            let body = test.split("\n}").next().unwrap_or_default();
            let name =
                format!("{}::{}", file.trim_end_matches(".rs"), body.split('(').next().unwrap_or_default());
            if body.contains("everywhere(") {
                count += 1;
                let is_run = beginnings.iter().any(|beginning| name.starts_with(beginning));
                assert!(is_run, "{name} is run by no stage: {beginnings:?}");
            }
        }
    }
    assert!(count >= 15, "{count} checks were found");
}

/// The table is made of what there is, also of a document that ends in its middle.
#[test]
fn table_takes_lines_of_ours_for_ours_where_the_document_is_cut_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kernels.txt");
    let ours = r#"{"device": "x", "kernels": [
        {"name": "norm_mod", "size": "1024x1024", "seconds": 2e-5, "share_of_roofline": 0.5, "measured_over_predicted": 1.5, "launches": []},
        {"name": "add", "size": "1024x10"#;
    let theirs = r#"{"name": "norm_mod, compiled", "size": "1024x1024", "seconds": 4e-5}"#;
    fs::write(&path, format!("{ours}\nkernels      9 s  FAILED (124)\n{theirs}\n")).expect("writable");
    let table = root().join(".ci/gpu-table.py");
    let output = Command::new("python3").arg(table).arg(&path).output().expect("python3 starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().nth(1).unwrap_or_default();
    assert!(
        line.contains("20.0") && line.ends_with("2.00 compiled") && said.lines().count() == 2,
        "{output:?}"
    );
}
