//! Noise levels against those of diffusers and `DiffSynth`.

use std::path::PathBuf;

use lighterage_pipeline::{Schedule, SchedulerConfig, Spacing};
use lighterage_testkit::folder;
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    width: usize,
    height: usize,
    steps: usize,
    sigmas: Vec<f32>,
    timesteps: Vec<f32>,
    sigmas_static_shift_3: Vec<f32>,
}

fn check(what: &str, got: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= bound, "{what}, step {index}: {got}, expected {expected}");
    }
}

fn demo(file: &str) -> PathBuf {
    folder("").join("../../assets/demo/base").join(file)
}

#[test]
fn every_golden_schedule() {
    let text = std::fs::read(folder("schedule").join("flow_match_euler.json")).unwrap();
    let rows: Vec<Row> = serde_json::from_slice(&text).unwrap();
    assert_eq!(rows.len(), 20);
    let config = SchedulerConfig::open(&demo("scheduler/scheduler_config.json")).unwrap();
    for row in rows {
        let what = format!("{}x{}, {} steps", row.width, row.height, row.steps);
        let tokens = row.width / 16 * (row.height / 16);
        let schedule = Schedule::new(Spacing::Diffusers, &config, row.steps, tokens);
        // The same f32 operations in the same order; exp may differ in its last bit.
        check(&what, schedule.sigmas(), &row.sigmas, 1e-6);
        check(&what, schedule.timesteps(), &row.timesteps, 1e-3);
        for spacing in [Spacing::DiffSynth, Spacing::DiffSynthOld] {
            let schedule = Schedule::new(spacing, &config, row.steps, tokens);
            check(&what, schedule.sigmas(), &row.sigmas_static_shift_3, 1e-6);
        }
    }
}

#[test]
fn listed_levels_of_published_pipelines() {
    let dev = SchedulerConfig::flux_dev();
    let thirty = Schedule::new(Spacing::DiffSynth, &dev, 30, 3600);
    check("DiffSynth 30", &thirty.sigmas()[..4], &[1.0, 0.988_271_3, 0.975_979_1, 0.963_082], 1e-6);
    check("DiffSynth 30", &thirty.sigmas()[28..], &[0.104_322_8, 0.008_928_6, 0.0], 1e-6);
    let fifty = Schedule::new(Spacing::DiffSynth, &dev, 50, 3600);
    check("DiffSynth 50", &fifty.sigmas()[47..], &[0.120_532_7, 0.066_900_2, 0.008_928_6, 0.0], 1e-6);
    let wide = Schedule::new(Spacing::Diffusers, &dev, 30, 3600);
    check("1280x720", &wide.sigmas()[..4], &[1.0, 0.988_264_6, 0.975_992_7, 0.963_146_9], 1e-6);
    check("1280x720", &wide.sigmas()[26..], &[0.308_794_6, 0.243_942_9, 0.171_786_9, 0.091_019_2, 0.0], 1e-6);
    let tall = Schedule::new(Spacing::Diffusers, &dev, 30, 3888);
    check("864x1152", &tall.sigmas()[..4], &[1.0, 0.988_816_6, 0.977_108_9, 0.964_838_7], 1e-6);
}

#[test]
fn schnell_is_not_shifted() {
    // FLUX.1-schnell's file holds what diffusers takes by default.
    let schedule = Schedule::new(Spacing::Diffusers, &SchedulerConfig::default(), 4, 4096);
    assert_eq!(schedule.sigmas(), [1.0, 0.75, 0.5, 0.25, 0.0]);
    assert_eq!(schedule.timesteps(), [1000.0, 750.0, 500.0, 250.0]);
}

#[test]
fn one_step_goes_all_the_way() {
    for spacing in [Spacing::Diffusers, Spacing::DiffSynth, Spacing::DiffSynthOld] {
        let schedule = Schedule::new(spacing, &SchedulerConfig::flux_dev(), 1, 16);
        assert_eq!((schedule.sigmas(), schedule.delta(0)), ([1.0, 0.0].as_slice(), -1.0), "{spacing:?}");
    }
}

#[test]
fn variants_that_flux_does_not_use_are_refused() {
    let cases = [
        (r#"{"use_karras_sigmas": true}"#, "use_karras_sigmas is true"),
        (r#"{"shift_terminal": 0.1}"#, "shift_terminal is 0.1"),
        (r#"{"time_shift_type": "linear"}"#, "time_shift_type is linear"),
        (r#"{"base_image_seq_len": 4096}"#, "base_image_seq_len is 4096"),
        (r#"{"num_train_timesteps": 0}"#, "num_train_timesteps is 0, should be 1 to 1000000"),
        (r#"{"shift": -1}"#, "shift is -1, should be 0.000001 to 1000000"),
        (r#"{"max_shift": 1e30}"#, "max_shift is 1000000000000000000000000000000, should be -100 to 100"),
        (r#"{"shift": "three"}"#, "invalid type"),
        ("{", "EOF"),
    ];
    let path = std::env::temp_dir().join(format!("lighterage-scheduler-{}.json", std::process::id()));
    for (text, expected) in cases {
        std::fs::write(&path, text).unwrap();
        let message = SchedulerConfig::open(&path).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(path.to_str().unwrap()), "{text}: {message}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(SchedulerConfig::open(&path).unwrap_err().to_string().contains("No such file"));
}
