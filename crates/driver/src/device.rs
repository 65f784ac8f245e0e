use lighterage_device::cuda;
use lighterage_device::{
    Arch, Backend, Cuda, CudaConfig, Device, Emulation, Host, HostConfig, Isa, Ledger, ProductLibrary,
    ProductTable, Sim, SimConfig, Target,
};
use lighterage_pager::Source;
use lighterage_pipeline::Survey;
use lighterage_shape::DType;

use crate::failure::{Failure, Result};
use crate::gemm_table::{self, GemmTable};
use crate::machine::Machine;
use crate::size::Size;
use crate::{output, range};

/// Where to run, and in how much memory.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Device")]
pub(crate) struct DeviceArguments {
    #[command(flatten)]
    pub(crate) place: PlaceArguments,
    /// Cap of the device's memory: weights, activations and workspaces together. Never exceeded.
    ///
    /// Without it: what this process may use, or what is free on the GPU.
    #[arg(long, value_name = "SIZE")]
    vram: Option<Size>,
    /// Worker threads of the host device; 0: one for each core. Does not change any result.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads)]
    threads: usize,
}

/// Where to run, for commands that have budgets of their own.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Device")]
pub(crate) struct PlaceArguments {
    /// What to run on: `auto`, `cuda` or `cuda:N`, `host`, `emu` or `sim`.
    ///
    /// `cuda` is an NVIDIA GPU, by number where there are several; `host` computes on this machine's processor, `emu` does that with the CUDA
    /// kernels, emulated; `sim` computes nothing and shows what a run would need. `auto` takes the first GPU that can be used, else the host.
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = device_name)]
    pub(crate) device: DeviceName,
    /// Cap of page-locked host memory for copies. Without it: three quarters of what this process may use, limits of control groups included, but no more than
    /// seven eighths of what is free now.
    ///
    /// With less than all streamed weights the rest is read anew in every step.
    #[arg(long, value_name = "SIZE")]
    host_memory: Option<Size>,
    /// Where weights are page-locked that are streamed in every step: `copied` to memory of their exact size, or `registered`, the files as they lie, so that the
    /// host holds them once. Changes no result.
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = HostWeights::Copied)]
    host_weights: HostWeights,
    /// Replay the steps of the loop as graphs, one of launches and one of copies, where that can be done: the host queues two calls a step in place of thousands. Changes no
    /// result. Steps are queued piece by piece as ever where `TeaCache` decides in their middle, where streamed weights do not all fit `--host-memory`, while memory is
    /// given up under pressure, and where every lease is recorded (`--trace`).
    #[arg(long)]
    graphs: bool,
    /// Whose launches the emulated device runs.
    #[arg(long, value_enum, value_name = "ARCH", default_value_t = ArchName::Sm90a)]
    emu_arch: ArchName,
    /// Check every access of the emulated kernels for races, bounds and use before writing: several times slower.
    #[arg(long)]
    emu_checks: bool,
    /// Who multiplies which shape on a GPU, and on `emu`: a table of `bench machine --tune` in place of the built-in one.
    ///
    /// It changes the last bits of a picture, so its SHA-256 goes into the PNG and the report. What it gives to cuBLASLt our own kernels multiply where the
    /// library is missing, or has another version than the one that was measured.
    #[arg(long, value_name = "FILE", value_parser = gemm_table::read)]
    pub(crate) gemm_table: Option<GemmTable>,
    /// Instructions of the host device. Without it: the fastest that this machine has.
    ///
    /// Results are the same bytes on every machine that has them.
    #[arg(long, value_enum, value_name = "NAME")]
    isa: Option<IsaName>,
}

/// More would only be a slip of the finger.
const THREADS_MAX: usize = 1024;

pub(crate) fn threads(text: &str) -> Result<usize, String> {
    range::whole(0..=THREADS_MAX)(text)
}

fn device_name(text: &str) -> Result<DeviceName, String> {
    let (name, ordinal) = text.split_once(':').map_or((text, None), |(name, ordinal)| (name, Some(ordinal)));
    match (name, ordinal) {
        ("auto", None) => Ok(DeviceName::Auto),
        ("cuda", None) => Ok(DeviceName::Cuda(0)),
        ("cuda", Some(ordinal)) => range::whole(0..=u32::MAX)(ordinal)
            .map(DeviceName::Cuda)
            .map_err(|why| format!("N of cuda:N is {why}")),
        ("host", None) => Ok(DeviceName::Host),
        ("emu", None) => Ok(DeviceName::Emu),
        ("sim", None) => Ok(DeviceName::Sim),
        _ => Err("one of auto, cuda, cuda:N, host, emu, sim is expected".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceName {
    /// The first GPU that can be used, else the host.
    Auto,
    /// A GPU by its number.
    Cuda(u32),
    /// This machine's processor and memory.
    Host,
    /// The CUDA kernels on the emulator (feature `emu`).
    Emu,
    /// Addresses only.
    Sim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum HostWeights {
    /// In memory beside the files.
    Copied,
    /// In the mapped files; what the driver refuses, and what is converted, is copied.
    Registered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ArchName {
    /// A100 and everything later that has no path of its own.
    #[value(name = "80")]
    Sm80,
    /// H100 and H200.
    #[value(name = "90a")]
    Sm90a,
}

impl From<ArchName> for Arch {
    fn from(name: ArchName) -> Self {
        match name {
            ArchName::Sm80 => Self::Sm80,
            ArchName::Sm90a => Self::Sm90a,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum IsaName {
    /// What every processor has.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with bfloat16 dot products.
    Avx512bf16,
}

impl From<IsaName> for Isa {
    fn from(name: IsaName) -> Self {
        match name {
            IsaName::Portable => Self::Portable,
            IsaName::Avx2 => Self::Avx2,
            IsaName::Avx512 => Self::Avx512,
            IsaName::Avx512bf16 => Self::Avx512Bf16,
        }
    }
}

/// Element type of weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Precision {
    /// Half the memory; every operation accumulates in f32 and rounds once.
    Bf16,
    /// Weights converted while they are loaded.
    F32,
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Bf16 => Self::Bf16,
            Precision::F32 => Self::F32,
        }
    }
}

/// Work that is written once for every backend.
pub(crate) trait Work {
    /// What it makes.
    type Output;

    /// Does it on a device whose ledger has the cap that was asked for.
    fn run<B: Backend>(self, device: &Device<B>) -> Result<Self::Output>;
}

/// What became of work that the host device would do in more than one way.
pub(crate) enum Done<W: Work> {
    /// It was done on another device.
    Elsewhere(W::Output),
    /// It is to be done on the host.
    OnHost(W),
}

/// Does the work, and asks the device for what the drops behind its last call could not report: nobody else will.
fn run_on<W: Work, B: Backend>(work: W, device: &Device<B>) -> Result<W::Output> {
    let output = work.run(device)?;
    device.take_deferred()?;
    Ok(output)
}

impl PlaceArguments {
    /// Runs the work on the device, with all the memory that is free there, unless that is the host: then the work comes back.
    pub(crate) fn run_unless_host<W: Work>(&self, work: W) -> Result<Done<W>> {
        DeviceArguments { place: self.clone(), vram: None, threads: 0 }.run_unless_host(work)
    }

    /// The host device as the options have it.
    pub(crate) fn host_config(&self) -> HostConfig {
        HostConfig { isa: self.isa.map(Isa::from), ..HostConfig::default() }
    }

    /// The cap of page-locked memory that was asked for, else none.
    pub(crate) fn host_ledger(&self) -> Ledger {
        Ledger::new(self.host_memory.map_or(u64::MAX, |size| size.0))
    }

    /// What a survey plans, with weights page-locked and steps replayed as the options have it.
    pub(crate) fn plans(&self, survey: Survey) -> Survey {
        let source = match self.host_weights {
            HostWeights::Copied => Source::Copied,
            HostWeights::Registered => Source::Registered,
        };
        survey.fed_from(source).replayed(self.graphs)
    }

    /// Whether reads give values.
    fn has_bytes(&self) -> bool {
        self.device != DeviceName::Sim
    }

    /// The table that was given, else the built-in one.
    fn table(&self) -> ProductTable {
        self.gemm_table.as_ref().map_or_else(ProductTable::committed, |given| given.table)
    }

    fn cuda_config(&self) -> CudaConfig {
        CudaConfig { table: self.table(), ..CudaConfig::default() }
    }

    /// Number of the GPU that was asked for.
    pub(crate) const fn ordinal(&self) -> Option<u32> {
        if let DeviceName::Cuda(ordinal) = self.device { Some(ordinal) } else { None }
    }

    /// The GPU that was asked for, else the first of all that can be used, with its number; if there is none, why the first cannot.
    pub(crate) fn gpu(&self, config: CudaConfig) -> lighterage_device::Result<(u32, Cuda)> {
        use lighterage_device::Error;
        let open = |ordinal| Cuda::new(CudaConfig { ordinal, ..config }).map(|cuda| (ordinal, cuda));
        if let Some(ordinal) = self.ordinal() {
            return open(ordinal);
        }
        let first = open(0);
        let count = match &first {
            // A table that cannot be kept is no fault of the card.
            Ok(_) | Err(Error::Product { .. }) => 0,
            Err(_) => cuda::probe().devices().len(),
        };
        let others = (1..).take(count.saturating_sub(1)).map(open);
        let is_an_answer = |tried: &Result<_, Error>| matches!(tried, Ok(_) | Err(Error::Product { .. }));
        first.or_else(|why| others.into_iter().find(is_an_answer).unwrap_or(Err(why)))
    }

    fn emulation(&self) -> Emulation {
        let target = Target { table: self.table(), ..Target::typical(self.emu_arch.into()) };
        Emulation { target, checks: self.emu_checks }
    }

    /// What may be page-locked where nobody says.
    fn host_cap_bytes(&self) -> u64 {
        let limit = if self.has_bytes() { Machine::read().lockable_bytes() } else { None };
        limit.unwrap_or(u64::MAX)
    }
}

impl DeviceArguments {
    /// Makes the device and runs the work on it.
    pub(crate) fn run<W: Work>(&self, work: W) -> Result<W::Output> {
        match self.run_unless_host(work)? {
            Done::Elsewhere(output) => Ok(output),
            Done::OnHost(work) => run_on(work, &self.on(Host::new(self.host_config())?)?),
        }
    }

    fn run_unless_host<W: Work>(&self, work: W) -> Result<Done<W>> {
        let place = &self.place;
        let output = match place.device {
            DeviceName::Auto => match place.gpu(place.cuda_config()) {
                Ok((_, cuda)) => run_on(work, &self.on_gpu(cuda)?),
                // Not for want of a GPU: going on without it would make another picture.
                Err(error @ lighterage_device::Error::Product { .. }) => Err(error.into()),
                // `doctor` says why not; whoever wants to know asks for `cuda`.
                Err(_) => return Ok(self.hand_back(work)),
            },
            DeviceName::Cuda(_) => run_on(work, &self.on_gpu(place.gpu(place.cuda_config())?.1)?),
            DeviceName::Host => return Ok(self.hand_back(work)),
            DeviceName::Emu => {
                let emulate = Some(place.emulation());
                run_on(work, &self.on(Host::new(HostConfig { emulate, ..self.host_config() })?)?)
            }
            DeviceName::Sim => run_on(work, &self.on(Sim::new(SimConfig::default())?)?),
        };
        output.map(Done::Elsewhere)
    }

    fn hand_back<W: Work>(&self, work: W) -> Done<W> {
        if self.place.gemm_table.is_some() {
            output::note("--gemm-table: the host device multiplies everything by itself");
        }
        Done::OnHost(work)
    }

    /// A GPU with cuBLASLt open, whose workspace has so many bytes, if the library is there: to measure what a table may say. No table holds meanwhile.
    pub(crate) fn measured_gpu(&self, workspace_bytes: u64) -> Result<Device<Cuda>> {
        if !matches!(self.place.device, DeviceName::Auto | DeviceName::Cuda(_)) {
            return Err(Failure::Usage("--tune measures a GPU: --device cuda".to_owned()));
        }
        let measured_workspace_bytes = Some(workspace_bytes);
        let table = ProductTable::EMPTY;
        let config = CudaConfig { table, measured_workspace_bytes, ..self.place.cuda_config() };
        self.on_gpu(self.place.gpu(config)?.1)
    }

    /// Whether reads give values.
    pub(crate) fn has_bytes(&self) -> bool {
        self.place.has_bytes()
    }

    fn host_config(&self) -> HostConfig {
        HostConfig { threads: self.threads, ..self.place.host_config() }
    }

    fn on<B: Backend>(&self, backend: B) -> Result<Device<B>> {
        let cap = self.cap_bytes(backend.info().capacity_bytes);
        self.with_cap(backend, cap)
    }

    /// A GPU, whose cap is what was asked for, else what is free there now and what the driver has taken for us.
    fn on_gpu(&self, cuda: Cuda) -> Result<Device<Cuda>> {
        if let status @ (ProductLibrary::Missing { .. } | ProductLibrary::OtherVersion { .. }) =
            cuda.product_library()
        {
            output::note(&status.to_string());
        }
        let taken: u64 = cuda.taken().iter().map(|(_, bytes)| bytes).sum();
        let (free, total) = cuda.memory_bytes()?;
        let cap = self.vram.map_or((free + taken).min(total), |size| size.0);
        self.with_cap(cuda, cap)
    }

    fn with_cap<B: Backend>(&self, backend: B, cap: u64) -> Result<Device<B>> {
        let host_cap = self.place.host_memory.map_or_else(|| self.place.host_cap_bytes(), |size| size.0);
        Ok(Device::open(backend, Ledger::new(cap), Ledger::new(host_cap))?)
    }

    /// What was asked for, else what this process may use of the machine; `Sim` is not bound by this machine.
    fn cap_bytes(&self, capacity: u64) -> u64 {
        let machine = || if self.has_bytes() { Machine::read().memory_limit() } else { None };
        self.vram.map(|size| size.0).or_else(machine).unwrap_or(capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its last call on the device is a drop.
    struct Drops;

    impl Work for Drops {
        type Output = ();

        fn run<B: Backend>(self, device: &Device<B>) -> Result<()> {
            drop(device.reserve(1)?);
            Ok(())
        }
    }

    #[test]
    fn what_the_last_drop_could_not_give_back_is_reported() {
        let outcome = |fail_call| {
            let host = Host::new(HostConfig { fail_call, ..HostConfig::default() })?;
            run_on(Drops, &Device::new(host, Ledger::new(0), Ledger::new(0)))
        };
        assert!(outcome(None).is_ok());
        // The second call gives the addresses back.
        let refused = outcome(Some(1)).expect_err("a refusal that nobody has heard of");
        assert!(refused.to_string().contains("unreserve"), "{refused}");
    }
}
