//! The binary, run as a user runs it.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

mod bench_pager;
mod compare;
mod cuda;
mod denoise;
mod emulated;
mod faces;
mod forward;
mod generate;
#[path = "../../../identity/tests/graph/mod.rs"]
mod graph;
mod inspect;
mod plan;
mod products;
mod released;
mod seeing;
mod signals;
mod usage;
mod verify;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a run of the binary gave.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Ended with this code, and said all these words on stdout or stderr.
    #[track_caller]
    fn check(self, code: i32, words: &[&str]) -> Self {
        let Self { code: got, stdout, stderr } = &self;
        assert_eq!(*got, Some(code), "stdout: {stdout}\nstderr: {stderr}");
        for word in words {
            assert!(
                stdout.contains(word) || stderr.contains(word),
                "no {word:?} in\nstdout: {stdout}\nstderr: {stderr}"
            );
        }
        self
    }

    /// Failed with one line, as every failure of ours is told.
    #[track_caller]
    fn check_failed(self, words: &[&str]) {
        let stderr = self.check(1, words).stderr;
        let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

fn lighterage(arguments: &[&str]) -> Run {
    Run::of(Command::new(env!("CARGO_BIN_EXE_lighterage")).args(arguments))
}

/// The relative Frobenius error of one pair of tensors, as `compare` finds it.
fn error_of(got: &str, expected: &str, pair: &str) -> f64 {
    let json = lighterage(&["compare", got, expected, "--pair", pair, "--tolerance", "1", "--json"])
        .check(0, &[])
        .stdout;
    serde_json::from_str::<serde_json::Value>(&json).unwrap()[0]["relative_frobenius"].as_f64().unwrap()
}

/// A folder of the repository.
fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

fn golden(path: &str) -> String {
    repository(&format!("tests/golden/{path}"))
}

/// A folder of a test's own.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Names of the files in it, sorted.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A safetensors file of f32 tensors of one dimension.
    fn tensors(&self, name: &str, tensors: &[(&str, &[f32])]) -> String {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let shapes: Vec<[usize; 1]> = tensors.iter().map(|(_, values)| [values.len()]).collect();
        let list: Vec<_> = (0..tensors.len())
            .map(|index| lighterage_checkpoint::NewTensor {
                name: tensors[index].0,
                dtype: lighterage_shape::DType::F32,
                shape: &shapes[index],
                bytes: &bytes[index],
            })
            .collect();
        lighterage_checkpoint::write(&self.path(name), &list).unwrap();
        self.text(name)
    }
}
