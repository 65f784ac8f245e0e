//! The budget from outside: another process looks at the device's memory a thousand times a second and more while a picture is made.
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

#[path = "all/common/mod.rs"]
mod common;

use common::{PAGE_BYTES, between, cases, host, model};
use lighterage_device::HostConfig;
use lighterage_pipeline::{Job, Keep, Options};
use lighterage_shape::DType;

/// The file behind the device memory of that process; it has one device.
fn memory_of(process: u32) -> PathBuf {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).expect("its files");
    let is_memory = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|link| link.to_string_lossy().contains("lighterage device memory"))
    };
    files.filter_map(|file| Some(file.ok()?.path())).find(is_memory).expect("device memory")
}

/// Whether the other end of standard input is gone.
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// The other process: told whom to watch by a line of its input, it says `watching`, and at the input's end the most bytes that it saw, how often it looked, and for how long.
#[test]
#[ignore = "runs as the other process of the test below"]
fn watch() {
    let mut line = String::new();
    BufReader::with_capacity(1, std::io::stdin()).read_line(&mut line).expect("a process");
    let memory = File::open(memory_of(line.trim().parse().expect("a number"))).expect("its memory");
    println!("watching");
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        IS_OVER.store(true, Ordering::Relaxed);
    });
    let (start, mut peak, mut samples) = (Instant::now(), 0, 0_u64);
    while !IS_OVER.load(Ordering::Relaxed) {
        // The system counts blocks of 512 bytes.
        peak = peak.max(memory.metadata().expect("its size").blocks() * 512);
        samples += 1;
    }
    println!("\nseen {peak} {samples} {}", start.elapsed().as_secs_f64());
}

/// What the watcher saw of a run within a budget, and how often a second it looked.
fn watched(job: &Job, budget: u64, config: HostConfig) -> (u64, f64) {
    let survey = job.survey(PAGE_BYTES).expect("a dry pass");
    let device = host(config, budget);
    let mut watcher = Command::new(std::env::current_exe().expect("this program"))
        .args(["watch", "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("another process");
    let mut orders = watcher.stdin.take().expect("piped");
    writeln!(orders, "{}", std::process::id()).expect("it reads");
    let mut answers = BufReader::new(watcher.stdout.take().expect("piped")).lines();
    let mut answer = |wanted: &str| {
        let found = answers.by_ref().map_while(Result::ok).find(|line| line.contains(wanted));
        found.unwrap_or_else(|| panic!("the watcher does not say {wanted:?}"))
    };
    answer("watching");
    let forecast = survey.within(budget).expect("a feasible budget");
    job.run(&device, &forecast, Keep::default(), &mut ()).expect("a picture");
    drop(orders);
    let seen = answer("seen ");
    let numbers: Vec<f64> = seen.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(watcher.wait().expect("an end").success());
    let &[peak, samples, seconds] = &numbers[..] else { panic!("{seen}") };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes")]
    let peak = peak as u64;
    (peak, samples / seconds)
}

#[test]
fn another_process_never_sees_more_than_the_cap() {
    let model = model();
    let options = Options { steps: 8, ..cases()[0].options(&model, DType::Bf16) };
    let job = Job::new(&model, options).expect("a job");
    let survey = job.survey(PAGE_BYTES).expect("a dry pass");
    for budget in [survey.minimum_bytes(), between(&survey), survey.maximum_bytes()] {
        for seed in [None, Some(4)] {
            let (peak, rate) = watched(&job, budget, HostConfig { seed, ..HostConfig::default() });
            println!("budget {budget}, seen {peak}, {rate:.0} looks a second");
            assert!(peak <= budget, "{peak} of {budget} bytes");
            // It did look at the right file, at the right time.
            assert!(2 * peak > budget && rate >= 1000.0, "{peak} of {budget} bytes, {rate} looks a second");
        }
    }
}
