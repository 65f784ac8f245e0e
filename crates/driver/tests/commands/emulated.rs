use crate::Scratch;

/// `generate --device emu` with these options.
fn generate(scratch: &Scratch, options: &[&str]) -> crate::Run {
    let out = scratch.text("out.png");
    let base = ["generate", "--prompt", "", "--seed", "3", "--device", "emu", "-o", &out];
    crate::lighterage(&[&base, options].concat())
}

#[cfg(not(feature = "emu"))]
#[test]
fn a_build_without_the_emulator_says_what_it_lacks() {
    let scratch = Scratch::new();
    generate(&scratch, &[]).check_failed(&["no emu device", "the feature emu"]);
    assert!(scratch.names().is_empty());
}

#[cfg(feature = "emu")]
#[test]
fn f32_has_no_images() {
    let scratch = Scratch::new();
    generate(&scratch, &["--dtype", "f32"]).check_failed(&["no image of kernel", "_f32", "emulated sm_90a"]);
    generate(&scratch, &["--dtype", "f32", "--emu-arch", "80"]).check_failed(&["_f32", "emulated sm_80"]);
    assert!(scratch.names().is_empty());
}
