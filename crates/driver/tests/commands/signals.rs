//! Ctrl-C, and the signals by which `kill` and a terminal that closes end a process.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::Scratch;

/// What each is called, and the exit code that shells have for it.
const SIGNALS: [(&str, i32); 3] = [("INT", 130), ("TERM", 143), ("HUP", 129)];

/// A run under way; it ends with the test.
struct Running {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Running {
    /// Whatever the tests' own parent ignores: `nohup` does that to SIGHUP, a shell to the SIGINT of what it runs in the background.
    fn start(arguments: &[&str]) -> Self {
        Self::by(
            Command::new("env").arg("--default-signal=INT,TERM,HUP").arg(env!("CARGO_BIN_EXE_lighterage")),
            arguments,
        )
    }

    fn by(command: &mut Command, arguments: &[&str]) -> Self {
        let mut child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Self { said: BufReader::new(child.stderr.take().unwrap()), child }
    }

    /// Waits for a line that begins like that.
    fn wait_for(&mut self, line: &str) {
        let mut text = String::new();
        while !text.starts_with(line) {
            text.clear();
            assert!(self.said.read_line(&mut text).unwrap() > 0, "it ended before a line {line:?}");
        }
    }

    /// Waits, asking again and again, until something can be seen.
    fn wait_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended before {what}");
            std::thread::yield_now();
        }
    }

    /// Waits until Linux says that the process has a handler for that signal.
    fn wait_for_handler(&mut self, signal: &str) {
        let number = SIGNALS.iter().find(|(name, _)| *name == signal).unwrap().1 - 128;
        self.wait_until("its handlers", |running| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << (number - 1)) != 0
        });
    }

    fn send(&self, signal: &str) {
        let sent = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// What it said in the end, which is one sentence and no more, and its exit code.
    #[track_caller]
    fn check(mut self, code: i32, sentence: &str) {
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(matches!(errors[..], [error] if error.contains(sentence)), "{said}");
        assert_eq!(self.child.wait().unwrap().code(), Some(code), "{said}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, if the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Far more work than a test waits for.
const LONG: [&str; 9] = ["generate", "--prompt", "x", "--steps", "1000", "--width", "512", "--height", "512"];

#[test]
fn a_signal_ends_a_picture_after_the_step_and_nothing_is_written() {
    for (signal, code) in SIGNALS {
        let scratch = Scratch::new();
        let mut running = Running::start(&[&LONG[..], &["-o", &scratch.text("p.png")]].concat());
        running.wait_for("step 1/1000");
        running.send(signal);
        running.check(code, "stopped after step");
        assert!(scratch.names().is_empty(), "{signal}: {:?}", scratch.names());
    }
}

/// `timeout` sends it to the process and to its group, a terminal that closes and its shell send a SIGHUP each.
#[test]
fn a_second_sigterm_means_no_more_than_the_first() {
    let scratch = Scratch::new();
    let mut running = Running::start(&[&LONG[..], &["-o", &scratch.text("p.png")]].concat());
    running.wait_for("step 1/1000");
    (0..3).for_each(|_| running.send("TERM"));
    running.check(143, "stopped after step");
}

#[test]
fn nohup_keeps_a_run_from_the_end_of_its_terminal() {
    let scratch = Scratch::new();
    let ignoring = ["-c", "trap '' HUP; exec \"$@\"", "sh", "env", "--default-signal=INT"];
    let mut command = Command::new("sh");
    command.args(ignoring).arg(env!("CARGO_BIN_EXE_lighterage"));
    let mut running = Running::by(&mut command, &[&LONG[..], &["-o", &scratch.text("p.png")]].concat());
    running.wait_for("step 1/1000");
    running.send("HUP");
    running.send("INT");
    running.check(130, "stopped after step");
}

/// A checkpoint of 64 GiB that takes no room: zeros of a sparse file.
fn zeros(path: &Path) {
    const TENSORS: u64 = 4096;
    const BYTES: u64 = 16 << 20;
    let entry = |tensor: u64| {
        let (begin, end) = (tensor * BYTES, (tensor + 1) * BYTES);
        format!(r#""{tensor:04}":{{"dtype":"F32","shape":[{}],"data_offsets":[{begin},{end}]}}"#, BYTES / 4)
    };
    let mut header = format!("{{{}}}", (0..TENSORS).map(entry).collect::<Vec<_>>().join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(8 + header.len() as u64 + TENSORS * BYTES).unwrap();
}

#[test]
fn sigterm_and_sighup_left_a_hidden_file_beside_a_conversion() {
    for (signal, code) in SIGNALS {
        let scratch = Scratch::new();
        zeros(&scratch.path("zeros.safetensors"));
        let (from, to) = (scratch.text("zeros.safetensors"), scratch.text("out.safetensors"));
        let mut running = Running::start(&["convert", &from, &to, "--dtype", "bf16"]);
        let is_hidden = |name: &String| name.starts_with(".lighterage-");
        let has_bytes = |name: String| scratch.path(&name).metadata().is_ok_and(|file| file.len() > 0);
        // That of the check before any work is empty.
        running.wait_until("it wrote anything", |_| {
            scratch.names().into_iter().filter(is_hidden).any(has_bytes)
        });
        running.send(signal);
        running.check(code, "out.safetensors was written");
        assert_eq!(scratch.names(), ["zeros.safetensors"], "{signal}");
    }
}

#[test]
fn commands_that_do_not_look_for_signals_say_so_too() {
    let [budgets, cards] = ["8GiB", "h100"].map(|one| vec![one; 20_000].join(","));
    let traces = crate::repository("benches/traces");
    let allocator = [&["bench", "allocator", "--traces", &traces][..], &["--trace", "llm_train"].repeat(100)];
    let commands: [&[&str]; 8] = [
        &["verify", "--device", "host", "--rounds", "1000"],
        &["plan", "--vram", &budgets],
        &["bench", "step", "--device", "host", "--rounds", "1000"],
        &["bench", "kernels", "--device", "host"],
        &["bench", "machine", "--device", "host", "--gemm", "4096"],
        &["bench", "pager", "--turns", "300"],
        &["bench", "pager", "--only", "cards", "--gpu", &cards],
        &allocator.concat(),
    ];
    for (index, command) in commands.iter().enumerate() {
        let (signal, code) = SIGNALS[index % SIGNALS.len()];
        let mut running = Running::start(command);
        running.wait_for_handler(signal);
        running.send(signal);
        running.check(code, "stopped before it was done");
    }
}

#[test]
fn a_bench_that_is_stopped_takes_its_file_along() {
    let scratch = Scratch::new();
    let folder = scratch.text("");
    let rates = ["bench", "pager", "--only", "rates", "--file", "1TiB", "--folder", &folder];
    let mut running = Running::start(&rates);
    running.wait_until("it made its file", |_| {
        scratch.names().iter().any(|name| scratch.path(name).join("synthetic.safetensors").is_file())
    });
    running.send("TERM");
    running.check(143, "stopped before it was done");
    assert!(scratch.names().is_empty(), "{:?}", scratch.names());
}
