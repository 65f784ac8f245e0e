//! What the assembler made of the kernels: Hopper's own instructions where they are meant to be, and no local memory anywhere.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use lighterage_kernels::images;
use lighterage_kernels::launch::Arch;

use crate::building::cuda::in_parallel;

/// The first word of every instruction, by function.
type Instructions = BTreeMap<String, Vec<String>>;

/// Reads `nvdisasm -c`: `.text.NAME:` opens a function, `/*0000*/   @P0 LDG.E.128 R4, ... ;` is an instruction.
fn instructions(listing: &str) -> Instructions {
    let mut found = Instructions::new();
    let mut current = None;
    for line in listing.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            current = Some(found.entry(name.to_owned()).or_default());
        } else if let (Some(function), Some((_, rest))) =
            (&mut current, line.strip_prefix("/*").and_then(|rest| rest.split_once("*/")))
        {
            let word = rest.split_whitespace().find(|word| !word.starts_with('@') && *word != "{");
            function.extend(word.map(|word| word.trim_end_matches(';').to_owned()));
        }
    }
    found
}

/// Whether a function has an instruction of this name, whatever its modifiers.
fn has(function: &[String], name: &str) -> bool {
    function.iter().any(|word| word.split('.').next() == Some(name))
}

fn nvdisasm() -> PathBuf {
    let beside = PathBuf::from(env!("LIGHTERAGE_CUDA_TOOLS")).join("nvdisasm");
    std::env::var_os("NVDISASM").map_or(beside, PathBuf::from)
}

fn disassemble(cubin: &std::path::Path) -> Instructions {
    // Where indirect branches lead, which takes nine tenths of its time, is not asked for.
    let output = Command::new(nvdisasm()).args(["-c", "-ndf"]).arg(cubin).output().unwrap_or_else(|error| {
        panic!(
            "{}: {error}; pip install nvidia-cuda-nvdisasm==13.2.86, or set NVDISASM",
            nvdisasm().display()
        )
    });
    assert!(output.status.success(), "{}: {}", cubin.display(), String::from_utf8_lossy(&output.stderr));
    instructions(&String::from_utf8_lossy(&output.stdout))
}

/// What each cubin holds, in their order; a disassembler works on one processor.
fn disassemble_all(cubins: &[PathBuf]) -> Vec<Instructions> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    in_parallel(cubins, jobs, |cubin| Ok(disassemble(cubin))).expect("what is wrong with a cubin is a panic")
}

/// How the names of kernels begin whose launches overlap (`Launch::overlapping`).
const OVERLAPPING: [&str; 5] = ["group_norm_", "layer_norm_", "norm_mod_", "rms_norm_", "softmax_"];

/// What such a kernel does to memory stands behind the wait for the launches before, `griddepcontrol.wait`: the compiler has moved nothing above it, which no emulator sees.
fn assert_waits_first(function: &str, words: &[String]) {
    let wait = words.iter().position(|word| word == "ACQBULK");
    let overlaps = OVERLAPPING.iter().any(|beginning| function.starts_with(beginning));
    assert_eq!(
        wait.is_some(),
        overlaps,
        "{function}: a wait for the launches before is for those that overlap"
    );
    let memory = ["LD", "LDG", "LDGSTS", "ST", "STG", "ATOM", "ATOMG", "RED", "REDG", "UTMALDG", "UTMASTG"];
    for name in memory {
        let is_early = has(&words[..wait.unwrap_or(0)], name);
        assert!(!is_early, "{function}: {name} before the wait for the launches before");
    }
}

fn is_norm(function: &str) -> bool {
    function.starts_with("norm_mod_")
}

/// All eights of a warp's row, of x and of what is added to it, are asked for before any is used: from there on the multiprocessor's other warps are enough.
fn assert_loads_first(function: &str, words: &[String]) {
    let loads = |words: &[String]| words.iter().filter(|word| *word == "LDG.E.128").count();
    let first = |name: &str| words.iter().position(|word| word.starts_with(name)).unwrap_or(0);
    let rows = if function.contains("_update_") { 2 } else { 1 };
    let before = loads(&words[..first("FADD").min(first("FFMA"))]);
    assert_eq!((before, loads(words)), (12 * rows, 12 * rows), "{function}: loads before the first use");
    for shared in ["LDS", "STS", "BAR"] {
        assert!(!has(words, shared), "{function} is a warp alone: {shared}");
    }
}

/// Registers of a thread that a kernel's block gets at its launch: `setmaxnreg` shares out those, and waits for more than there are (PTX ISA: "blocks the execution until enough
/// registers are available in the CTA's register pool"). The budget grants fewer, too.
fn entry_registers(function: &str) -> u32 {
    let table =
        std::fs::read_to_string(concat!(env!("OUT_DIR"), "/budget.tsv")).expect("build.rs leaves it here");
    let row = table.lines().find_map(|line| line.strip_prefix(function)?.strip_prefix('\t'));
    let column = Arch::ALL.iter().position(|arch| *arch == Arch::Sm90a).expect("it is one of them");
    let cell = row.and_then(|row| row.split('\t').nth(column)?.split('+').next()?.parse().ok());
    cell.unwrap_or_else(|| panic!("{function} is not in the table"))
}

#[test]
fn kernels_have_what_they_are_written_with_and_no_local_memory() {
    let folder = PathBuf::from(concat!(env!("OUT_DIR"), "/images"));
    let (mut functions, mut hopper) = (0, 0);
    let cubins = std::fs::read_dir(folder).expect("build.rs leaves the cubins here");
    let mut cubins: Vec<PathBuf> = cubins.map(|entry| entry.expect("readable").path()).collect();
    cubins.retain(|path| path.extension().is_some_and(|extension| extension == "cubin"));
    cubins.sort();
    for (cubin, found) in cubins.iter().zip(disassemble_all(&cubins)) {
        let name = cubin.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(!found.is_empty(), "no function in {name}");
        for (function, words) in &found {
            functions += 1;
            assert!(has(words, "EXIT"), "{function} in {name} never ends: the listing was not understood");
            for local in ["LDL", "STL"] {
                assert!(!has(words, local), "{function} in {name} uses local memory: {local}");
            }
        }
        if ["sm_90a", "sm_100a", "sm_120a"].iter().any(|arch| name.ends_with(&format!(".{arch}.cubin"))) {
            found.iter().for_each(|(function, words)| assert_waits_first(function, words));
        }
        if name.contains("_sm90a.") {
            hopper += 1;
            found
                .iter()
                .filter(|(function, _)| is_norm(function))
                .for_each(|(f, words)| assert_loads_first(f, words));
            // But for those that only add what others left.
            let multiplies = |function: &str| !function.contains("_join_") && !is_norm(function);
            for (function, words) in found.iter().filter(|(function, _)| multiplies(function)) {
                for needed in ["HGMMA", "UTMALDG", "USETMAXREG"] {
                    assert!(has(words, needed), "{function} in {name} has no {needed}");
                }
                let entry = entry_registers(function);
                assert!(
                    entry * 3 >= 40 + 2 * 232,
                    "{function}: {entry} registers for three warpgroups, which set 40, 232 and 232: more than there are, and it waits for ever"
                );
            }
            for (function, words) in found.iter().filter(|(function, _)| function.contains("_pair_1")) {
                let is_multicast = |word: &String| word == "UTMALDG.2D.MULTICAST";
                assert!(words.iter().any(is_multicast), "{function} shares nothing with its neighbour");
                let fences = words.iter().filter(|word| *word == "MEMBAR.ALL.GPU").count();
                assert_eq!(fences, 1, "{function}: of the cluster's barrier, and none in the loop");
            }
        }
    }
    println!("{functions} functions in {} cubins, {hopper} for sm_90a alone", cubins.len());
    let kernels: usize = images::ALL.iter().map(|image| image.kernels.len() * image.archs.len()).sum();
    assert_eq!(functions, kernels, "functions in the cubins and kernels in the images");
    let is_for_hopper = images::ALL.iter().any(|image| image.archs.contains(&Arch::Sm90a));
    assert_eq!(hopper > 0, is_for_hopper, "files for sm_90a alone were looked at if sm_90a was compiled for");
}

#[test]
fn listing_is_read() {
    let listing = "\t.section\t.text.norm,\"ax\"\n.text.norm:\n  /*0000*/   LDC R1, c[0x0][0x28] ;\n  /*0010*/  @!P0 LDG.E.128 R4, desc[UR4][R4.64] ;\n  /*0020*/ EXIT ;\n.L_x_1:\n";
    let found = instructions(listing);
    assert_eq!(found["norm"], ["LDC", "LDG.E.128", "EXIT"]);
    assert!(has(&found["norm"], "LDG") && !has(&found["norm"], "LD"));
}
