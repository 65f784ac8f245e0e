//! The bodies of the numeric tests by the backend for GPUs, on the stand-in for its driver (`crates/fakecuda`): memory, copies and launches go the way
//! that they go on a GPU. What the kernels compute there is the emulator's result again, so few bodies of each file are enough.

use std::process::Command;

use lighterage_fakecuda as fake;

/// Of each kernel a body or two, the quick ones: Hopper's and tensor maps, several launches of one call, fp32 outputs, in place.
const BODIES: [&str; 17] = [
    "attention::plain::one_hot_rows_return_their_value",
    "attention::sm80::each_variant_is_chosen_where_it_is_meant",
    "attention::sm80::strided_rows",
    "attention::sm90a::queries_and_keys_of_different_numbers",
    "attention::sm90a::rounds_and_pieces",
    "conv2d::half_the_size",
    "conv2d::first_layer_of_three_channels",
    "conv2d::hopper_one_by_one",
    "elementwise::",
    "linear::few_rows",
    "linear::hopper_does_what_tma_cannot",
    "linear::hopper_tiles",
    "norms::group_norm_of_any_groups",
    "norms::norm_mod_of_strided_rows_at_odd_starts",
    "rms_norm::",
    "rope::any_rows_and_ranges",
    "softmax::",
];

#[test]
fn the_same_bodies_hold_on_the_stand_in() {
    if std::env::var_os("NUMERICS").is_some() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    fake::link_into(folder.path()).expect("the stand-in lies beside this test");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(BODIES)
        .args(["--skip", "stand_in", "--skip", "ladder"])
        .env("LD_LIBRARY_PATH", folder.path())
        .env("NUMERICS", "cuda")
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for body in BODIES {
        let ran =
            text.lines().any(|line| line.starts_with(&format!("test {body}")) && line.ends_with("... ok"));
        assert!(ran, "{body} did not run:\n{text}");
    }
}

/// What another architecture cannot run is named, not passed over: on an A100 no body of Hopper's counts as tried.
#[test]
fn bodies_of_another_architecture_are_named_as_skipped() {
    if std::env::var_os("NUMERICS").is_some() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    fake::link_into(folder.path()).expect("the stand-in lies beside this test");
    let body = "attention::sm90a::queries_and_keys_of_different_numbers";
    for (capability, skipped) in [("8.0", true), ("9.0", false)] {
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args([body, "--exact"])
            .env("LD_LIBRARY_PATH", folder.path())
            .env("NUMERICS", "cuda")
            .env("FAKECUDA_CAPABILITY", capability)
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        let is_named = text.contains(&format!("skipped on sm_80: {body}, which is for sm_90a alone"));
        assert_eq!(is_named, skipped, "compute capability {capability}: {text}");
    }
}

/// Where there is no driver the process says so and fails: a run on a GPU cannot pass without one.
#[test]
fn without_a_driver_nothing_passes() {
    if std::env::var_os("NUMERICS").is_some() {
        return;
    }
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["rms_norm::one_row", "--exact"])
        .env("LD_LIBRARY_PATH", "/nonexistent")
        .env("CUDA_VISIBLE_DEVICES", "")
        .env("NUMERICS", "cuda")
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("not on cuda: "), "{text}");
}
