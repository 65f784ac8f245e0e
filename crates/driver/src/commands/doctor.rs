mod trial;

use std::collections::BTreeSet;
use std::io::Write;

use lighterage_device::cuda::{self, CudaStatus};
use lighterage_device::{Backend, Cuda, CudaConfig, Isa};
use lighterage_kernels::images;
use serde::Serialize;

use self::trial::Trial;
use crate::count::counted;
use crate::device::{DeviceArguments, PlaceArguments};
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
    let mut out = crate::output::stdout();
    writeln!(out, "lighterage {}", env!("CARGO_PKG_VERSION"))?;
    let rows: Vec<_> = findings.iter().map(Finding::row).collect();
    table::print(&mut out, &[Align::Left; 3], &rows)?;
    Ok(())
}

fn findings(machine: &Machine, device: &DeviceArguments) -> Vec<Finding> {
    let mut findings =
        vec![processor(), memory(machine), cgroup(machine), locked(machine), images(), driver(machine)];
    findings.extend(gpu(&device.place));
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
    Finding::new(
        "host device",
        verdict,
        format!("{} to use, instructions {isa}{missing}", counted(cores, "core")),
    )
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

/// The kernels that this program was built with.
fn images() -> Finding {
    let (mut kernels, mut archs) = (0, BTreeSet::new());
    for image in images::ALL {
        kernels += image.kernels.len();
        archs.extend(image.archs.iter().copied());
    }
    if kernels == 0 {
        let text =
            "this program was built without CUDA kernels; for a GPU build it with --features cuda".to_owned();
        return Finding::new("images", Verdict::Note, text);
    }
    let archs: Vec<String> = archs.iter().map(ToString::to_string).collect();
    Finding::new("images", Verdict::Ok, format!("{} for {}", counted(kernels, "kernel"), archs.join(", ")))
}

fn driver(machine: &Machine) -> Finding {
    let named =
        machine.nvidia_driver.as_ref().map_or_else(String::new, |driver| format!(", NVIDIA driver {driver}"));
    match cuda::probe() {
        CudaStatus::NoDriver => {
            let text = format!(
                "libcuda was not found{named}; without it everything runs on the host. For a GPU install NVIDIA's driver 580 or newer"
            );
            Finding::new("cuda driver", Verdict::Note, text)
        }
        CudaStatus::Ready { version: (major, minor), devices } if !devices.is_empty() => {
            let devices: Vec<String> = (0..)
                .zip(&devices)
                .map(|(ordinal, device): (u32, _)| format!("cuda:{ordinal} is {device}"))
                .collect();
            let text = format!("CUDA {major}.{minor}{named}; {}", devices.join("; "));
            Finding::new("cuda driver", Verdict::Ok, text)
        }
        other => Finding::new(
            "cuda driver",
            Verdict::Problem,
            format!("{other}{named}; is a GPU there, and may this user open /dev/nvidia*?"),
        ),
    }
}

/// Whether the GPU that a run would use can be used: a kernel is run on it, with memory of every kind.
fn gpu(place: &PlaceArguments) -> Option<Finding> {
    if cuda::probe() == CudaStatus::NoDriver {
        return None;
    }
    let tried = place.gpu(CudaConfig::default()).and_then(|(ordinal, device)| try_gpu(ordinal, device));
    Some(match tried {
        Ok(text) => Finding::new("gpu", Verdict::Ok, text),
        Err(error) => {
            let asked = place.ordinal().unwrap_or(0);
            Finding::new("gpu", Verdict::Problem, format!("cuda:{asked} cannot be used: {error}"))
        }
    })
}

fn try_gpu(ordinal: u32, device: Cuda) -> lighterage_device::Result<String> {
    let (free, total) = device.memory_bytes()?;
    let target = device.target();
    let taken: Vec<String> =
        device.taken().iter().map(|(purpose, bytes)| format!("{purpose} {}", Size(*bytes))).collect();
    let (kernels, name, page) = (device.kernels(), device.info().name.clone(), device.info().page_bytes);
    cuda::self_test(device)?;
    Ok(format!(
        "cuda:{ordinal}, {name}, {}, {} multiprocessors; {} of {} free; the driver takes {}; {kernels} kernels loaded; virtual memory in pages of {}, pinning and a test kernel work",
        target.arch,
        target.multiprocessors,
        Size(free),
        Size(total),
        taken.join(", "),
        Size(page),
    ))
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
