mod trial;

use std::io::Write;

use lighterage_device::Isa;
use serde::Serialize;

use self::trial::Trial;
use crate::device::DeviceArguments;
use crate::failure::Result;
use crate::machine::Machine;
use crate::size::Size;
use crate::table::{self, Align};
use crate::{json, mapping, model_path};

/// Show what this machine offers, and what to do about what is missing.
///
/// Each line says ok, note (it works, with a limit) or PROBLEM (something will not work), what was found, and what to do. What a run asks of
/// its device is tried there: addresses, memory mapped twice, access, pinned memory, copies.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage doctor
  lighterage doctor --vram 8GiB --host-memory 16GiB --json      (as a run with these options would find it)")]
pub(crate) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Note,
    Problem,
}

#[derive(Debug, Serialize)]
struct Finding {
    subject: &'static str,
    verdict: Verdict,
    text: String,
}

impl Finding {
    const fn new(subject: &'static str, verdict: Verdict, text: String) -> Self {
        Self { subject, verdict, text }
    }

    fn row(&self) -> Vec<String> {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Problem => "PROBLEM",
        };
        vec![verdict.to_owned(), self.subject.to_owned(), self.text.clone()]
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let findings = findings(&Machine::read(), &arguments.device);
    if arguments.json {
        return json::print(&findings);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "lighterage {}", env!("CARGO_PKG_VERSION"))?;
    let rows: Vec<_> = findings.iter().map(Finding::row).collect();
    table::print(&mut out, &[Align::Left; 3], &rows)?;
    Ok(())
}

fn findings(machine: &Machine, device: &DeviceArguments) -> Vec<Finding> {
    let mut findings = vec![processor(), memory(machine), cgroup(machine), locked(machine), cuda(machine)];
    findings.extend(tried(device));
    findings.push(bundled_model());
    findings
}

/// What the device that a run would use does when it is asked.
fn tried(device: &DeviceArguments) -> Vec<Finding> {
    let problem = |subject, text: String| Finding::new(subject, Verdict::Problem, text);
    match device.run(Trial) {
        Err(failure) => vec![problem("device", failure.to_string())],
        Ok(tried) => tried
            .into_iter()
            .map(|(subject, outcome)| match outcome {
                Ok(text) => Finding::new(subject, Verdict::Ok, text),
                Err(text) => problem(subject, text),
            })
            .collect(),
    }
}

fn processor() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let isa = Isa::detect();
    let missing = match isa {
        Isa::Portable => "; without AVX2 everything is many times slower",
        Isa::Avx2 | Isa::Avx512 => "; without AVX-512 BF16 bf16 runs slower than it could",
        Isa::Avx512Bf16 => "",
    };
    let verdict = if missing.is_empty() { Verdict::Ok } else { Verdict::Note };
    Finding::new("host device", verdict, format!("{cores} cores to use, instructions {isa}{missing}"))
}

fn memory(machine: &Machine) -> Finding {
    match (machine.memory_total, machine.memory_available) {
        (Some(total), Some(available)) => {
            let text = format!("{} of {} available", Size(available), Size(total));
            Finding::new("memory", Verdict::Ok, text)
        }
        _ => Finding::new("memory", Verdict::Note, "/proc/meminfo cannot be read; give --vram".to_owned()),
    }
}

fn cgroup(machine: &Machine) -> Finding {
    match machine.cgroup_limit {
        Some(limit) => {
            Finding::new("cgroup", Verdict::Note, format!("this process may use {} in all", Size(limit)))
        }
        None => Finding::new("cgroup", Verdict::Ok, "no memory limit".to_owned()),
    }
}

fn locked(machine: &Machine) -> Finding {
    match machine.locked_limit {
        Some(limit) if limit < 64 << 20 => {
            let text =
                format!("{} may be locked; for a GPU's copies raise it: ulimit -l unlimited", Size(limit));
            Finding::new("locked memory", Verdict::Note, text)
        }
        Some(limit) => Finding::new("locked memory", Verdict::Ok, format!("{} may be locked", Size(limit))),
        None => Finding::new("locked memory", Verdict::Ok, "no limit".to_owned()),
    }
}

/// This version has no Cuda backend: a driver that is there is reported, not used.
fn cuda(machine: &Machine) -> Finding {
    let text = match &machine.nvidia_driver {
        Some(driver) => {
            format!("this version runs on the host; the NVIDIA driver {driver} that is here is not used")
        }
        None => "this version runs on the host; no NVIDIA driver is here either".to_owned(),
    };
    Finding::new("cuda", Verdict::Note, text)
}

fn bundled_model() -> Finding {
    let path = model_path::bundled();
    match mapping::open(&path.join("transformer")) {
        Ok(_) => Finding::new("demo model", Verdict::Ok, path.display().to_string()),
        Err(error) => {
            let text = format!(
                "{error}; give --model, or put the model's folder assets/demo/base beside the executable"
            );
            Finding::new("demo model", Verdict::Problem, text)
        }
    }
}
