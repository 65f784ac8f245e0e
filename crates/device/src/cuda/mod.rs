//! NVIDIA GPUs by the CUDA driver API. [`probe`] says what there is of it on a machine.
//!
//! The driver is loaded when it is first asked for; a machine without it builds and runs everything else. Memory is the driver's virtual memory
//! management, under the same books as on [`Host`](crate::Host): what they refuse never reaches the driver. Kernels are images that nvcc made
//! when this program was built (feature `cuda`); all of them are loaded with the device.
//!
//! Work that fails on the device, an illegal address for instance, ends the whole context: CUDA knows no smaller unit. Every later call on any stream then
//! answers [`Error::Stream`].

mod api;
mod context;
mod cublaslt;
mod flags;
mod graph;
mod host_pages;
mod memory;
mod modules;
mod probe;
mod self_test;
mod staging;
mod stamps;
mod stream;
mod tensor_map;

use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUfunction, CUstream};
use lighterage_kernels::gemm::table::{Algorithm, Table};
use lighterage_kernels::images::{self, Image};
use lighterage_kernels::launch::{Arch, Grid, Launch, Launches, Product, Target};

use self::api::{check_of, size};
use self::context::Context;
use self::cublaslt::{CublasLt, Wish};
use self::flags::Words;
use self::memory::Memory;
use self::modules::Modules;
use self::staging::{SLOT_BYTES, Staging};
use self::stamps::Stamps;
use self::tensor_map::Encoded;
use crate::graph::CARD_FLAG_PATIENCE;
use crate::space::Usage;
use crate::{
    Address, Backend, ChunkId, Error, Grant, Info, Kernel, Purpose, Result, Stamp, Stream, StreamKind,
};

pub use self::cublaslt::ProductLibrary;
pub use self::flags::CudaFlags;
pub use self::graph::Graph;
pub use self::probe::{CudaDevice, CudaStatus, probe};
pub use self::self_test::self_test;
pub use self::stream::{CudaEvent, CudaStream};

/// How a [`Cuda`] device is made.
#[derive(Clone, Copy, Debug)]
pub struct CudaConfig {
    /// Which device, as the driver counts them (`CUDA_VISIBLE_DEVICES` hides some).
    pub ordinal: u32,
    /// Physical bytes that it is taken to have; none: what the driver says.
    pub capacity_bytes: Option<u64>,
    /// The kernels.
    pub images: &'static [Image],
    /// Who multiplies what. What it says is fixed with the device, so that no choice depends on the moment.
    pub table: Table,
    /// Opens cuBLASLt with a workspace of so many bytes also where the table has no line for it, to measure it; none: as the table says.
    pub measured_workspace_bytes: Option<u64>,
    /// How long a host that waits sees no [flag](Backend::flags) change before the streams that wait for one have failed.
    pub flag_patience: Duration,
}

impl Default for CudaConfig {
    /// The first device, and the kernels and the table that were built in.
    fn default() -> Self {
        Self {
            ordinal: 0,
            capacity_bytes: None,
            images: images::ALL,
            table: Table::committed(),
            measured_workspace_bytes: None,
            flag_patience: CARD_FLAG_PATIENCE,
        }
    }
}

/// A GPU.
#[derive(Debug)]
pub struct Cuda {
    info: Info,
    target: Target,
    taken: Vec<(Purpose, u64)>,
    flag_patience: Duration,
    // In the order in which they have to go.
    stamps: Stamps,
    staging: Staging,
    library: Option<Arc<CublasLt>>,
    library_status: ProductLibrary,
    modules: Arc<Modules>,
    memory: Arc<Memory>,
    context: Arc<Context>,
}

impl Cuda {
    /// A device as configured. Nothing is copied yet, so what the driver takes for itself can be held against a budget first: see
    /// [`Device::open`](crate::Device::open).
    ///
    /// # Errors
    /// [`Error::NoDevice`] if there is no driver, an old one, no such device, or one that the kernels were not compiled for; what the driver reports.
    pub fn new(config: CudaConfig) -> Result<Self> {
        api::start()?;
        let context = Arc::new(Context::open(config.ordinal)?);
        let mut target = target(&context, config.images)?;
        if context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)? == 0 {
            return api::no_device(format!(
                "{} has no virtual memory management, as some virtual GPUs have none, and there is no other way here to keep weights within a budget",
                api::name(context.device())?
            ));
        }
        let (free, total) = context.memory()?;
        let capacity_bytes = config.capacity_bytes.unwrap_or(total);
        let memory = Arc::new(Memory::new(Arc::clone(&context), capacity_bytes)?);
        let modules = Arc::new(Modules::load(&context, config.images, target.arch)?);
        let staging = Staging::new(&context)?;
        let wish = Wish::of(config.table, target.arch, config.measured_workspace_bytes);
        let (library_status, library) = CublasLt::open(&context, &memory, &wish)?;
        target.table = if library.is_some() { config.table } else { config.table.without_library() };
        let (free_now, _) = context.memory()?;
        let workspace_bytes = library.as_ref().map_or(0, |library| library.workspace_bytes());
        let mut taken = vec![
            (Purpose::Context, context_bytes(target.arch, total - free.min(total))),
            (Purpose::Modules, free.saturating_sub(free_now + workspace_bytes)),
        ];
        taken.extend(library.is_some().then_some((Purpose::Workspace, workspace_bytes)));
        let product_library = library.as_ref().map(|library| library.name());
        let info = Info {
            name: api::name(context.device())?,
            isa: target.to_string(),
            page_bytes: memory.page(),
            capacity_bytes,
            has_bytes: true,
            product_library,
        };
        let stamps = Stamps::new(&context);
        let flag_patience = config.flag_patience;
        Ok(Self {
            info,
            target,
            taken,
            flag_patience,
            stamps,
            staging,
            library,
            library_status,
            modules,
            memory,
            context,
        })
    }

    /// What became of the products that the table gives to cuBLASLt.
    #[must_use]
    pub const fn product_library(&self) -> ProductLibrary {
        self.library_status
    }

    /// Algorithms by which cuBLASLt would make a product of these sizes, strides and with or without that bias, the one that it holds for fastest first; `most` at
    /// most. Of the addresses nothing is read. None where the library is not open.
    ///
    /// # Errors
    /// What the library reports.
    pub fn algorithms(&self, product: &Product, most: usize) -> Result<Vec<Algorithm>> {
        self.library.as_ref().map_or(Ok(Vec::new()), |library| library.algorithms(product, most))
    }

    /// What launches depend on.
    #[must_use]
    pub const fn target(&self) -> Target {
        self.target
    }

    /// How many kernels are loaded.
    #[must_use]
    pub fn kernels(&self) -> usize {
        self.modules.len()
    }

    /// What exists now: zero when everything was given back.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.memory.usage()
    }

    /// Bytes free and in all on the whole device, as the driver sees it now, other programs included.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn memory_bytes(&self) -> Result<(u64, u64)> {
        self.context.memory()
    }

    /// # Safety
    /// - As [`Backend::launch`]; the launches are of images that take the kernel's parameters, or a product of the same operands.
    unsafe fn launch_by<K: Kernel>(
        &self,
        stream: &CudaStream,
        params: &K::Params,
        launches: &Launches,
    ) -> Result<()> {
        if let Some(product) = launches.product() {
            let library = self.library.as_ref().ok_or_else(|| self.no_image(K::NAME))?;
            // SAFETY: the caller's promise.
            return unsafe { library.multiply(stream, product) };
        }
        if launches.as_slice().is_empty() {
            return Err(self.no_image(K::NAME));
        }
        let raw = stream.entered()?;
        let prepared = launches.as_slice().iter().map(|launch| self.prepare(K::NAME, launch));
        let mut params = *params;
        for launch in &mut prepared.collect::<Result<Vec<_>>>()? {
            // SAFETY: the caller's promise.
            let queued = unsafe { launch.queue(raw, (&raw mut params).cast()) };
            if queued.is_err() {
                // An earlier part of the same call may be under way, and nobody will wait for it.
                let _ = stream.synchronize();
                return queued;
            }
        }
        Ok(())
    }

    fn no_image(&self, kernel: &'static str) -> Error {
        Error::NoImage { kernel, device: format!("{} ({})", self.info.name, self.target.arch) }
    }

    /// A launch with all that can be refused before it is queued.
    fn prepare<'a>(&self, kernel: &'static str, launch: &'a Launch) -> Result<Prepared<'a>> {
        let function = self.modules.function(launch.image).ok_or_else(|| self.no_image(kernel))?;
        let function = function.with_shared(launch.grid.shared_bytes)?;
        Ok(Prepared {
            function,
            image: launch.image,
            grid: &launch.grid,
            overlaps: launch.overlaps,
            maps: Encoded::new(launch.maps())?,
        })
    }
}

impl Stream<Cuda> {
    /// Queues a kernel by given launches in place of those that it would choose: for whoever measures which are best.
    ///
    /// # Errors
    /// As [`Stream::launch`].
    ///
    /// # Safety
    /// - As [`Backend::launch`], and the launches are of images that take the kernel's parameters, or a product of the same operands.
    pub unsafe fn launch_by<K: Kernel>(&self, params: &K::Params, launches: &Launches) -> Result<()> {
        let named = || name_by::<K>(launches);
        self.timed_kernel::<K, _>(params, named, || {
            // SAFETY: the caller's promise.
            unsafe { self.device().backend().launch_by::<K>(self.raw(), params, launches) }
        })
    }
}

/// What does the work: the library's products are not ours.
fn name_by<K: Kernel>(launches: &Launches) -> &'static str {
    if launches.product().is_some() { cublaslt::PRODUCT } else { K::NAME }
}

/// A kernel, its grid and its tensor maps as the driver takes them.
struct Prepared<'a> {
    function: CUfunction,
    image: &'static str,
    grid: &'a Grid,
    overlaps: bool,
    maps: Encoded,
}

impl fmt::Display for Prepared<'_> {
    /// What a refusal names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grid { blocks, threads, shared_bytes } = self.grid;
        write!(f, "{}, {blocks:?} blocks of {threads} threads and {shared_bytes} bytes", self.image)
    }
}

impl Prepared<'_> {
    /// # Safety
    /// - As [`Backend::launch`]; `params` points to the kernel's own parameter struct.
    unsafe fn queue(&mut self, stream: CUstream, params: *mut c_void) -> Result<()> {
        // A kernel without tensor maps has no second parameter, and the driver reads none.
        let mut parameters = [params, self.maps.parameter()];
        if self.overlaps {
            // SAFETY: the caller's promise.
            return unsafe { self.queue_overlapping(stream, &mut parameters) };
        }
        let Grid { blocks: [x, y, z], threads, shared_bytes } = *self.grid;
        // SAFETY: the function's module is loaded; the driver copies as many bytes of each parameter as the kernel declares, which are those of
        // the struct (offsets checked when it was compiled) and of the maps; what the kernel touches is the caller's promise.
        let code = unsafe {
            sys::cuLaunchKernel(
                self.function,
                x,
                y,
                z,
                threads,
                1,
                1,
                shared_bytes,
                stream,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check_of("cuLaunchKernel", format_args!("{self}"), code)
    }

    /// With leave to begin while the launch before it ends.
    ///
    /// # Safety
    /// - As [`Self::queue`]; the parameters are those that it makes.
    unsafe fn queue_overlapping(&self, stream: CUstream, parameters: &mut [*mut c_void; 2]) -> Result<()> {
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let Grid { blocks: [x, y, z], threads, shared_bytes } = *self.grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes,
            hStream: stream,
            attrs: &raw mut attribute,
            numAttrs: 1,
        };
        // SAFETY: as in `queue`; configuration and attribute are read before this returns. The kernel waits for the launch before it (`Launch::overlapping`).
        let code = unsafe {
            sys::cuLaunchKernelEx(&raw const config, self.function, parameters.as_mut_ptr(), ptr::null_mut())
        };
        check_of("cuLaunchKernelEx", format_args!("{self}, overlapping"), code)
    }
}

/// Architecture and size of the device, if there are images for it.
fn target(context: &Context, images: &[Image]) -> Result<Target> {
    let major = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let multiprocessors = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let Some(arch) = Arch::of(major, minor) else {
        return api::no_device(format!(
            "{} has compute capability {major}.{minor}, for which there are no kernels; there are for 8.0, 8.6, 8.9, 9.0, 10.0 and 12.0",
            api::name(context.device())?
        ));
    };
    if images.is_empty() {
        return api::no_device(
            "this program was built without kernels: cargo build --features cuda".to_owned(),
        );
    }
    if !images.iter().any(|image| image.archs.contains(&arch)) {
        return api::no_device(format!(
            "this program was built without kernels for {arch}: see LIGHTERAGE_CUDA_ARCHS"
        ));
    }
    Ok(Target { arch, multiprocessors, table: Table::EMPTY })
}

/// What a context takes, if this program is alone on the device: then it is what is not free. Where others have memory there too, their share
/// cannot be told from ours, and the estimate counts.
fn context_bytes(arch: Arch, used: u64) -> u64 {
    let estimate = context_bytes_typical(arch);
    if used <= 2 * estimate { used } else { estimate }
}

/// What kernels take once they are loaded: their code for one architecture has some 5 MiB, and the driver gives memory in pieces of 2 MiB, several for
/// a module.
pub(crate) const fn modules_bytes_typical() -> u64 {
    32 << 20
}

/// What nvidia-smi shows for a process with an empty context grows with the number of multiprocessors: 250 MiB to 550 MiB. docs/GPU-CHECKS.md has the
/// check.
pub(crate) const fn context_bytes_typical(arch: Arch) -> u64 {
    match arch {
        Arch::Sm80 => 450 << 20,
        Arch::Sm86 => 300 << 20,
        Arch::Sm89 => 400 << 20,
        Arch::Sm90a => 550 << 20,
        Arch::Sm100a | Arch::Sm120a => 600 << 20,
    }
}

impl Backend for Cuda {
    type Stream = CudaStream;
    type Event = CudaEvent;
    type Flags = CudaFlags;
    type Graph = Graph;

    fn info(&self) -> &Info {
        &self.info
    }

    fn taken(&self) -> Vec<(Purpose, u64)> {
        self.taken.clone()
    }

    fn used_bytes(&self) -> Option<u64> {
        // A driver that does not answer any more has said so elsewhere.
        self.context.memory().ok().map(|(free, total)| total.saturating_sub(free))
    }

    fn reserve(&self, bytes: u64) -> Result<Address> {
        self.memory.reserve(bytes)
    }

    unsafe fn unreserve(&self, address: Address, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.unreserve(address, bytes) }
    }

    fn create(&self, bytes: u64) -> Result<ChunkId> {
        self.memory.create(bytes)
    }

    unsafe fn destroy(&self, chunk: ChunkId) -> Result<()> {
        self.memory.destroy(chunk)
    }

    unsafe fn map(&self, address: Address, chunk: ChunkId, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.map(address, chunk, bytes) }
    }

    unsafe fn set_access(&self, address: Address, bytes: u64) -> Result<()> {
        self.memory.set_access(address, bytes)
    }

    unsafe fn unmap(&self, address: Address, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.unmap(address, bytes) }
    }

    fn pin(&self, bytes: u64) -> Result<Address> {
        self.memory.pin(bytes)
    }

    unsafe fn unpin(&self, address: Address, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.unpin(address, bytes) }
    }

    unsafe fn register(&self, first: Address, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.register(first, bytes) }
    }

    unsafe fn unregister(&self, first: Address, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.unregister(first, bytes) }
    }

    fn stream(&self, kind: StreamKind) -> Result<CudaStream> {
        let stream = CudaStream::new(&self.context, &self.memory, kind)?;
        Ok(stream.keeping(&self.modules, self.library.as_ref()))
    }

    fn event(&self) -> Result<CudaEvent> {
        CudaEvent::new(&self.context)
    }

    unsafe fn copy_from_host(
        &self,
        stream: &CudaStream,
        target: Address,
        source: *const u8,
        bytes: u64,
        staged: bool,
    ) -> Result<()> {
        self.memory.accessible("copy_from_host", target, bytes)?;
        let length = size(bytes);
        let refused = || {
            let reason = "a staged copy cannot be part of a graph";
            Error::Range { call: "copy_from_host", address: target, bytes, reason }
        };
        // Until the source may change.
        let _outside = if staged { Some(stream.gate().try_outside().ok_or_else(refused)?) } else { None };
        if bytes == 0 {
            return Ok(());
        }
        if staged && length <= SLOT_BYTES {
            // SAFETY: the caller's promise; the target is mapped (checked).
            return unsafe { self.staging.copy(stream, target.0, source, length) };
        }
        let raw = stream.entered()?;
        // SAFETY: the target is mapped (checked) and the source valid until the copy is done, or until the wait below, as promised.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(target.0, source.cast(), length, raw) };
        check_of("cuMemcpyHtoDAsync", format_args!("{bytes} bytes to {target}"), code)?;
        if staged { stream.synchronize() } else { Ok(()) }
    }

    unsafe fn copy_to_host(
        &self,
        stream: &CudaStream,
        target: *mut u8,
        source: Address,
        bytes: u64,
    ) -> Result<bool> {
        self.memory.accessible("copy_to_host", source, bytes)?;
        // Until the target is the caller's again: a copy that a graph took would write there once more, and a wait that was refused would leave it under way.
        let _outside = stream.gate().outside("a read")?;
        if bytes == 0 {
            return stream.synchronize().map(|()| true);
        }
        let raw = stream.entered()?;
        // SAFETY: the source is mapped (checked) and the target valid for writes, as promised, until the wait below.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(target.cast(), source.0, size(bytes), raw) };
        let queued = check_of("cuMemcpyDtoHAsync", format_args!("{bytes} bytes from {source}"), code);
        // Also after a refusal: a call that waits has waited.
        let waited = stream.synchronize();
        queued.and(waited).map(|()| true)
    }

    unsafe fn copy(&self, stream: &CudaStream, target: Address, source: Address, bytes: u64) -> Result<()> {
        self.memory.accessible("copy", target, bytes)?;
        self.memory.accessible("copy", source, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let raw = stream.entered()?;
        // SAFETY: both ranges are mapped (checked), stay so and do not overlap, as promised.
        let code = unsafe { sys::cuMemcpyDtoDAsync_v2(target.0, source.0, size(bytes), raw) };
        check_of("cuMemcpyDtoDAsync", format_args!("{bytes} bytes from {source} to {target}"), code)
    }

    unsafe fn fill(&self, stream: &CudaStream, target: Address, value: u8, bytes: u64) -> Result<()> {
        self.memory.accessible("fill", target, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let raw = stream.entered()?;
        // SAFETY: the range is mapped (checked) and stays so, as promised.
        let code = unsafe { sys::cuMemsetD8Async(target.0, value, size(bytes), raw) };
        check_of("cuMemsetD8Async", format_args!("{bytes} bytes at {target}"), code)
    }

    unsafe fn launch<K: Kernel>(&self, stream: &CudaStream, params: &K::Params) -> Result<()> {
        let launches = K::launches(params, self.target);
        // SAFETY: the caller's promise; `launches` of the kernel says which images take its parameters.
        unsafe { self.launch_by::<K>(stream, params, &launches) }
    }

    fn record(&self, stream: &CudaStream, event: &CudaEvent) -> Result<()> {
        stream.record(event)
    }

    fn wait(&self, stream: &CudaStream, event: &CudaEvent) -> Result<()> {
        stream.wait(event)
    }

    fn query(&self, event: &CudaEvent) -> Result<bool> {
        event.query()
    }

    fn synchronize_event(&self, event: &CudaEvent) -> Result<()> {
        event.synchronize()
    }

    fn synchronize(&self, stream: &CudaStream) -> Result<()> {
        stream.synchronize()
    }

    fn try_synchronize(&self, stream: &CudaStream) -> Option<Result<()>> {
        stream.try_synchronize()
    }

    fn can_replay(&self) -> bool {
        true
    }

    fn flags(&self, count: usize, grant: Grant) -> Result<CudaFlags> {
        Words::new(&self.context, &self.memory, (count, grant), self.flag_patience).map(CudaFlags)
    }

    fn raise(&self, stream: &CudaStream, flags: &CudaFlags, index: usize) -> Result<()> {
        stream.raise(&flags.0, index)
    }

    fn take(&self, stream: &CudaStream, flags: &CudaFlags, index: usize) -> Result<()> {
        stream.take(&flags.0, index)
    }

    fn give_up(&self, flags: &CudaFlags, why: &str) {
        flags.0.give_up(why);
    }

    fn begin_graph(&self, stream: &CudaStream) -> Result<()> {
        stream.begin_graph()
    }

    fn end_graph(&self, stream: &CudaStream) -> Result<Graph> {
        stream.end_graph(self)
    }

    unsafe fn replay(&self, stream: &CudaStream, graph: &mut Graph) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { stream.replay(graph) }
    }

    fn name_of<K: Kernel>(&self, params: &K::Params) -> &'static str {
        name_by::<K>(&K::launches(params, self.target))
    }

    fn has_timed_events(&self) -> bool {
        true
    }

    fn stamp(&self, stream: &CudaStream, stamp: Stamp) -> Result<()> {
        self.stamps.queue(stream, stamp)
    }

    fn settle(&self) {
        self.stamps.settle();
    }
}
