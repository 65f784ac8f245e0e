//! cuBLASLt: the products that a table gives to it.
//!
//! It is loaded if it is asked for, and it is never asked which algorithm to take: the table says it, with all its settings, and every product gets the
//! same workspace. So what it computes depends on sizes, the table and the library's version, and on nothing of the moment. Its handle, its
//! workspace and its kernels exist before the first byte of a model is planned: it loads a kernel when a product first runs, so each of the table's products runs once
//! when the library is opened, at its own sizes, on memory that is one page seen many times ([`Scratch`]).

use std::ffi::{CStr, c_int, c_void};
use std::fmt::{self, Arguments};
use std::panic::catch_unwind;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::sys::{
    self as blas, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as OperationAttribute, cublasLtMatmulHeuristicResult_t,
    cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
    cublasLtMatrixLayout_t, cublasStatus_t, cudaDataType_t,
};
use cudarc::driver::sys;
use lighterage_kernels::gemm::linear::{Epilogue, Plan};
use lighterage_kernels::gemm::table::{Algorithm, Library, Line, Table};
use lighterage_kernels::launch::{Arch, PRODUCT_ALIGNMENT, Product};

use super::api::{check_of, give_back, size, with_numbers};
use super::context::Context;
use super::memory::Memory;
use super::stream::{CudaEvent, CudaStream, recorded};
use crate::{Address, ChunkId, Error, Result, StreamKind};

/// `CUBLAS_OP_T`; its type belongs to the cuBLAS header, which is not needed here.
const TRANSPOSED: u32 = 1;
/// What its products are called in recordings.
pub(super) const PRODUCT: &str = "linear_cublaslt";

/// Device memory is given in pieces of this size.
const PIECE_BYTES: u64 = 2 << 20;

/// What became of the products that a table gives to cuBLASLt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProductLibrary {
    /// The table has none for this architecture.
    NotAsked,
    /// The library was not found: our own kernels multiply them.
    Missing {
        /// The version that the table names.
        wanted: u64,
    },
    /// The library has another version, to which the table's algorithms mean nothing: our own kernels multiply them.
    OtherVersion {
        /// The version that the table names.
        wanted: u64,
        /// The version that was found.
        found: u64,
    },
    /// It makes them.
    Used {
        /// Its version.
        version: u64,
    },
}

impl fmt::Display for ProductLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("cuBLASLt is not asked for"),
            Self::Missing { wanted } => {
                write!(f, "the table names cuBLASLt {wanted}, which was not found: our own kernels multiply")
            }
            Self::OtherVersion { wanted, found } => write!(
                f,
                "the table names cuBLASLt {wanted}, version {found} was found: our own kernels multiply"
            ),
            Self::Used { version } => write!(f, "cuBLASLt {version}"),
        }
    }
}

/// What is wanted of the library.
#[derive(Debug)]
pub(super) struct Wish {
    library: Option<Library>,
    /// The table's lines for it on this architecture.
    lines: Vec<(Line, Algorithm)>,
    measured_workspace_bytes: Option<u64>,
}

impl Wish {
    pub(super) fn of(table: Table, arch: Arch, measured_workspace_bytes: Option<u64>) -> Self {
        let lines = table.lines().iter().filter(|line| line.arch == arch);
        let lines = lines.filter_map(|line| match line.plan {
            Plan::CublasLt(algorithm) => Some((*line, algorithm)),
            Plan::Own(_) => None,
        });
        Self { library: table.library_for(arch), lines: lines.collect(), measured_workspace_bytes }
    }

    fn workspace_bytes(&self) -> u64 {
        let named = self.library.map_or(0, |library| library.workspace_bytes);
        named.max(self.measured_workspace_bytes.unwrap_or(0))
    }
}

/// The library, opened.
#[derive(Debug)]
pub(super) struct CublasLt {
    handle: Handle,
    version: u64,
    workspace: Workspace,
    /// Recorded behind the last product, or graph with products: streams take the one workspace in turn.
    used: Mutex<CudaEvent>,
}

#[derive(Debug)]
struct Handle {
    raw: cublasLtHandle_t,
    context: Arc<Context>,
}

// SAFETY: "cublasLtHandle_t" may be used from several threads at a time (cuBLAS documentation, "Thread Safety"); the pointer is never read here.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// Scratch memory of every product.
#[derive(Debug)]
struct Workspace {
    address: u64,
    bytes: u64,
    context: Arc<Context>,
}

impl CublasLt {
    /// The library with its workspace, if it is wanted and there in the version that the table names; each of the table's algorithms is held against it, and has run
    /// once: what the device has less of afterwards is all that the library takes.
    pub(super) fn open(
        context: &Arc<Context>,
        memory: &Arc<Memory>,
        wish: &Wish,
    ) -> Result<(ProductLibrary, Option<Arc<Self>>)> {
        let wanted = wish.library.map(|library| library.version);
        if wanted.is_none() && wish.measured_workspace_bytes.is_none() {
            return Ok((ProductLibrary::NotAsked, None));
        }
        let Some(version) = version() else {
            return Ok((ProductLibrary::Missing { wanted: wanted.unwrap_or(0) }, None));
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != version) {
            return Ok((ProductLibrary::OtherVersion { wanted, found: version }, None));
        }
        let library = Self {
            handle: Handle::new(context)?,
            version,
            workspace: Workspace::new(context, wish.workspace_bytes())?,
            used: Mutex::new(CudaEvent::new(context)?),
        };
        wish.lines.iter().try_for_each(|(line, algorithm)| library.check_line(line, *algorithm))?;
        library.run_lines(memory, &wish.lines)?;
        Ok((ProductLibrary::Used { version }, Some(Arc::new(library))))
    }

    /// To show: `cuBLASLt 130100`.
    pub(super) fn name(&self) -> String {
        format!("cuBLASLt {}", self.version)
    }

    pub(super) const fn workspace_bytes(&self) -> u64 {
        self.workspace.bytes
    }

    /// Queues a product.
    ///
    /// # Safety
    /// - As [`Backend::launch`](crate::Backend::launch): the operands are mapped, and no unordered work touches them.
    pub(super) unsafe fn multiply(&self, stream: &CudaStream, product: &Product) -> Result<()> {
        let operation = Operation::new(product)?;
        let algorithm = raw(product.algorithm);
        let (alpha, beta) = (1_f32, 0_f32);
        let pointer = |address: u64| ptr::with_exposed_provenance_mut::<c_void>(size(address));
        let queue = stream.entered()?;
        let multiply = || {
            // SAFETY: handle and descriptions are alive, both factors are f32 as the operation says, addresses and extents are the product's, which the caller
            // promises; the workspace is as large as is said, and streams take it in turn (`in_turn`). `beta` is 0, so C is not read.
            let status = unsafe {
                blas::cublasLtMatmul(
                    self.handle.raw,
                    operation.raw,
                    (&raw const alpha).cast(),
                    pointer(product.weight),
                    operation.weight.0,
                    pointer(product.x),
                    operation.x.0,
                    (&raw const beta).cast(),
                    pointer(product.out),
                    operation.out.0,
                    pointer(product.out),
                    operation.out.0,
                    &raw const algorithm,
                    pointer(self.workspace.address),
                    size(self.workspace.bytes),
                    queue.cast(),
                )
            };
            check_status("cublasLtMatmul", format_args!("{product:?}"), status)
        };
        let recorded = stream.gate().record(|recording| {
            recorded(recording)?.has_products = true;
            multiply()
        });
        recorded.unwrap_or_else(|_outside| self.in_turn(stream, multiply))
    }

    /// Queues what uses the workspace on a stream that does not record, behind all that used it before, on any stream: a product, or a graph with products, for as long as it runs. In
    /// a graph there is no event for it: a wait there would look at the event when it runs, and may find what was recorded before another graph began.
    pub(super) fn in_turn(&self, stream: &CudaStream, queue: impl FnOnce() -> Result<()>) -> Result<()> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        stream.wait(&used)?;
        // Also after a refusal, since a product may be several launches. Without the event another stream would take the workspace too early.
        let queued = queue();
        let recorded = stream.record(&used).or_else(|error| stream.synchronize().and(Err(error)));
        queued.and(recorded)
    }

    /// Algorithms that the library would try: none that splits the sum, so that there is one order of adding whatever the device is doing.
    pub(super) fn algorithms(&self, product: &Product, most: usize) -> Result<Vec<Algorithm>> {
        self.handle.context.enter()?;
        let operation = Operation::new(product)?;
        let preference = Preference::new(self.workspace.bytes)?;
        let mut found = vec![NO_RESULT; most];
        let mut count: c_int = 0;
        // SAFETY: handle and descriptions are alive; writes at most `most` results, which are there, and one number.
        let status = unsafe {
            blas::cublasLtMatmulAlgoGetHeuristic(
                self.handle.raw,
                operation.raw,
                operation.weight.0,
                operation.x.0,
                operation.out.0,
                operation.out.0,
                preference.0,
                c_int::try_from(most).unwrap_or(c_int::MAX),
                found.as_mut_ptr(),
                &raw mut count,
            )
        };
        // Where it knows none it says so by this answer.
        if status == cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED {
            return Ok(Vec::new());
        }
        check_status("cublasLtMatmulAlgoGetHeuristic", format_args!("{product:?}, {most} at most"), status)?;
        found.truncate(usize::try_from(count).unwrap_or(0));
        let usable = |result: &&cublasLtMatmulHeuristicResult_t| {
            result.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS
                && result.workspaceSize as u64 <= self.workspace.bytes
        };
        Ok(found.iter().filter(usable).map(|result| Algorithm(result.algo.data)).collect())
    }

    /// Whether the library takes an algorithm of a table, within the table's workspace: asked before any work.
    fn check_line(&self, line: &Line, algorithm: Algorithm) -> Result<()> {
        self.handle.context.enter()?;
        let operation = Operation::new(&typical(line, algorithm, PRODUCT_ALIGNMENT.into()))?;
        let algorithm = raw(algorithm);
        let mut result = NO_RESULT;
        // SAFETY: handle and descriptions are alive; reads one algorithm, any 64 bytes are one, and writes one result.
        let status = unsafe {
            blas::cublasLtMatmulAlgoCheck(
                self.handle.raw,
                operation.raw,
                operation.weight.0,
                operation.x.0,
                operation.out.0,
                operation.out.0,
                &raw const algorithm,
                &raw mut result,
            )
        };
        let refused = |message| Error::Product { line: line.to_string(), message };
        let checked = check_status("cublasLtMatmulAlgoCheck", format_args!(""), status);
        checked.map_err(|error| refused(error.to_string()))?;
        let (needed, has) = (result.workspaceSize as u64, self.workspace.bytes);
        if needed > has {
            return Err(refused(format!(
                "its algorithm needs a workspace of {needed} bytes, the table gives {has}"
            )));
        }
        Ok(())
    }

    /// Runs each of the table's products once, so that the library loads what it takes for them; but those that no such device can hold.
    fn run_lines(&self, memory: &Arc<Memory>, lines: &[(Line, Algorithm)]) -> Result<()> {
        let (_, total) = self.handle.context.memory()?;
        let lines: Vec<_> = lines.iter().filter(|(line, _)| operand_bytes_max(line) <= total).collect();
        let Some(bytes) = lines.iter().map(|(line, _)| operand_bytes_max(line)).max() else { return Ok(()) };
        let mut scratch = Scratch::new(memory, bytes)?;
        let stream = CudaStream::new(&self.handle.context, memory, StreamKind::Compute)?;
        let queued = lines.iter().try_for_each(|(line, algorithm)| {
            let product = typical(line, *algorithm, scratch.address.0);
            // SAFETY: every operand lies in the scratch memory. They overlap there, in addresses and behind them: what comes out means nothing, and nobody reads it.
            let outcome = unsafe { self.multiply(&stream, &product) };
            outcome.map_err(|error| Error::Product { line: line.to_string(), message: error.to_string() })
        });
        // Also after a refusal: earlier ones are under way in the scratch memory.
        let waited = stream.synchronize();
        drop(stream);
        queued.and(waited).and(scratch.free())
    }
}

/// Bytes of the largest operand of a line's product.
fn operand_bytes_max(line: &Line) -> u64 {
    let [rows, columns, inner] =
        [line.call.shape.rows, line.call.shape.columns, line.call.shape.inner].map(u64::from);
    [rows * inner, columns * inner, rows * columns].into_iter().max().unwrap_or(0).saturating_mul(2)
}

/// Addresses for operands of any size, with one page of memory behind all of them.
struct Scratch {
    address: Address,
    bytes: u64,
    /// From the first.
    mapped_bytes: u64,
    chunk: ChunkId,
    is_free: bool,
    memory: Arc<Memory>,
}

impl Scratch {
    fn new(memory: &Arc<Memory>, bytes: u64) -> Result<Self> {
        let page = memory.page();
        let bytes = bytes.max(1).next_multiple_of(page);
        let chunk = memory.create(page)?;
        let address = memory.reserve(bytes).inspect_err(|_| {
            // Nobody is left to hear of a second error.
            let _ = memory.destroy(chunk);
        })?;
        let memory = Arc::clone(memory);
        let mut scratch = Self { address, bytes, mapped_bytes: 0, chunk, is_free: false, memory };
        while scratch.mapped_bytes < bytes {
            let next = address.offset(scratch.mapped_bytes);
            // SAFETY: reserved just now, and nobody else knows of it.
            unsafe { scratch.memory.map(next, chunk, page) }?;
            scratch.mapped_bytes += page;
        }
        scratch.memory.set_access(address, bytes)?;
        Ok(scratch)
    }

    /// Gives everything back; whoever used it has waited. What the driver keeps stays in the books, and goes with the device.
    fn free(&mut self) -> Result<()> {
        self.is_free = true;
        let Self { address, bytes, mapped_bytes, chunk, .. } = *self;
        // SAFETY: nothing uses it, as said, and the range is this one's alone.
        let unmapped = unsafe { self.memory.unmap(address, mapped_bytes) };
        // SAFETY: as above.
        let unreserved = unsafe { self.memory.unreserve(address, bytes) };
        unmapped.and(unreserved).and(self.memory.destroy(chunk))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.is_free {
            // After an error, which is the one to report.
            let _ = self.free();
        }
    }
}

/// A product of a line's sizes, dense and aligned, with all of its operands at one address.
fn typical(line: &Line, algorithm: Algorithm, address: u64) -> Product {
    let shape = line.call.shape;
    Product {
        x: address,
        weight: address,
        bias: if line.call.epilogue == Epilogue::Bias { address } else { 0 },
        out: address,
        x_stride: shape.inner.into(),
        weight_stride: shape.inner.into(),
        out_stride: shape.columns.into(),
        rows: shape.rows,
        columns: shape.columns,
        inner: shape.inner,
        algorithm,
    }
}

const NO_RESULT: cublasLtMatmulHeuristicResult_t = cublasLtMatmulHeuristicResult_t {
    algo: raw(Algorithm([0; 8])),
    workspaceSize: 0,
    state: cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
    wavesCount: 0.0,
    reserved: [0; 4],
};

const fn raw(algorithm: Algorithm) -> cublasLtMatmulAlgo_t {
    cublasLtMatmulAlgo_t { data: algorithm.0 }
}

/// The version of the library that is here.
fn version() -> Option<u64> {
    // SAFETY: loads libcublasLt by its usual names and unloads it: as safe as the library's own start-up code.
    if !unsafe { blas::is_culib_present() } {
        return None;
    }
    // cudarc panics where a function is missing; what is called here has been there since CUDA 11.
    // SAFETY: takes nothing and returns a number.
    catch_unwind(|| unsafe { blas::cublasLtGetVersion() } as u64).ok()
}

impl Handle {
    fn new(context: &Arc<Context>) -> Result<Self> {
        context.enter()?;
        let mut raw: cublasLtHandle_t = ptr::null_mut();
        // SAFETY: writes one pointer; a context is current, whose device the handle is for.
        check_status("cublasLtCreate", format_args!(""), unsafe { blas::cublasLtCreate(&raw mut raw) })?;
        Ok(Self { raw, context: Arc::clone(context) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.context.enter_to_give_back() {
            // SAFETY: made by `new`; products under way do not need it. Nobody is left to hear of an error.
            release(|| unsafe { blas::cublasLtDestroy(self.raw) });
        }
    }
}

impl Workspace {
    fn new(context: &Arc<Context>, bytes: u64) -> Result<Self> {
        let bytes = bytes.max(1).next_multiple_of(PIECE_BYTES);
        context.enter()?;
        let mut address = 0;
        // SAFETY: writes one address; a context is current.
        let code = unsafe { sys::cuMemAlloc_v2(&raw mut address, size(bytes)) };
        check_of("cuMemAlloc", format_args!("{bytes} bytes of workspace"), code)?;
        Ok(Self { address, bytes, context: Arc::clone(context) })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if self.context.enter_to_give_back() {
            // SAFETY: allocated by `new`; streams and graphs, which may use it, own what owns it, and a stream waits for its work before it goes.
            let _ = give_back("cuMemFree", || unsafe { sys::cuMemFree_v2(self.address) });
        }
    }
}

/// A product as the library is told it, column by column: `out^T [columns, rows] = weight [inner, columns]^T x^T [inner, rows]`.
struct Operation {
    weight: Layout,
    x: Layout,
    out: Layout,
    raw: cublasLtMatmulDesc_t,
}

impl Operation {
    fn new(product: &Product) -> Result<Self> {
        let Product { rows, columns, inner, x_stride, weight_stride, out_stride, .. } = *product;
        let [weight, x, out] = [
            Layout::new([inner, columns], weight_stride),
            Layout::new([inner, rows], x_stride),
            Layout::new([columns, rows], out_stride),
        ];
        let (weight, x, out) = (weight?, x?, out?);
        let mut raw: cublasLtMatmulDesc_t = ptr::null_mut();
        let (sums, factors) = (blas::cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F);
        // SAFETY: writes one pointer.
        let status = unsafe { blas::cublasLtMatmulDescCreate(&raw mut raw, sums, factors) };
        check_status("cublasLtMatmulDescCreate", format_args!(""), status)?;
        let operation = Self { weight, x, out, raw };
        operation.set(OperationAttribute::CUBLASLT_MATMUL_DESC_TRANSA, TRANSPOSED)?;
        if product.bias != 0 {
            let epilogue = blas::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            operation.set(OperationAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)?;
            operation.set(OperationAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias)?;
        }
        Ok(operation)
    }

    fn set<T: bytemuck::Pod>(&self, attribute: OperationAttribute, value: T) -> Result<()> {
        // SAFETY: the operation is alive; reads the value, whose type is the attribute's ("cublasLtMatmulDescAttributes_t").
        let status = unsafe {
            blas::cublasLtMatmulDescSetAttribute(
                self.raw,
                attribute,
                (&raw const value).cast(),
                size_of::<T>(),
            )
        };
        check_status("cublasLtMatmulDescSetAttribute", format_args!("{attribute:?}"), status)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: made by `new`; a product that is queued keeps nothing of it.
        release(|| unsafe { blas::cublasLtMatmulDescDestroy(self.raw) });
    }
}

/// A bf16 matrix, column by column.
struct Layout(cublasLtMatrixLayout_t);

impl Layout {
    fn new([rows, columns]: [u32; 2], stride: u64) -> Result<Self> {
        let mut raw: cublasLtMatrixLayout_t = ptr::null_mut();
        let stride = i64::try_from(stride).unwrap_or(i64::MAX);
        let kind = cudaDataType_t::CUDA_R_16BF;
        // SAFETY: writes one pointer.
        let status = unsafe {
            blas::cublasLtMatrixLayoutCreate(&raw mut raw, kind, rows.into(), columns.into(), stride)
        };
        let asked = format_args!("{rows} by {columns}, {stride} elements apart");
        check_status("cublasLtMatrixLayoutCreate", asked, status)?;
        Ok(Self(raw))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `new`; a product that is queued keeps nothing of it.
        release(|| unsafe { blas::cublasLtMatrixLayoutDestroy(self.0) });
    }
}

/// What an algorithm may do.
struct Preference(cublasLtMatmulPreference_t);

impl Preference {
    fn new(workspace_bytes: u64) -> Result<Self> {
        let mut raw: cublasLtMatmulPreference_t = ptr::null_mut();
        // SAFETY: writes one pointer.
        let status = unsafe { blas::cublasLtMatmulPreferenceCreate(&raw mut raw) };
        check_status("cublasLtMatmulPreferenceCreate", format_args!(""), status)?;
        let preference = Self(raw);
        let whole = blas::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE as u32;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes)?;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, whole)?;
        for operand in [
            PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(operand, PRODUCT_ALIGNMENT)?;
        }
        Ok(preference)
    }

    fn set<T: bytemuck::Pod>(&self, attribute: PreferenceAttribute, value: T) -> Result<()> {
        // SAFETY: the preference is alive; reads the value, whose type is the attribute's ("cublasLtMatmulPreferenceAttributes_t").
        let status = unsafe {
            blas::cublasLtMatmulPreferenceSetAttribute(
                self.0,
                attribute,
                (&raw const value).cast(),
                size_of::<T>(),
            )
        };
        check_status("cublasLtMatmulPreferenceSetAttribute", format_args!("{attribute:?}"), status)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        release(|| unsafe { blas::cublasLtMatmulPreferenceDestroy(self.0) });
    }
}

/// Destroys something, a second time where the first was refused, as `give_back` does. Nobody is left to hear of an error.
fn release(attempt: impl Fn() -> cublasStatus_t) {
    if attempt() != cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        let _ = attempt();
    }
}

/// The answer of a call as a result, with what it was asked for.
fn check_status(call: &'static str, asked: Arguments<'_>, status: cublasStatus_t) -> Result<()> {
    if status == cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        return Ok(());
    }
    // SAFETY: returns a string of the library's own, or null.
    let text = unsafe { blas::cublasLtGetStatusString(status) };
    let words = if text.is_null() {
        String::new()
    } else {
        // SAFETY: not null, so it is the library's own string, which lives as long as the library.
        format!(" ({})", unsafe { CStr::from_ptr(text) }.to_string_lossy())
    };
    let message = with_numbers(format!("{status:?}{words}"), asked);
    Err(Error::Driver { call, code: status as i32, message })
}
