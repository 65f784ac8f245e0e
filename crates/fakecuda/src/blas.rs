//! cuBLASLt, as far as it is called: its C interface (cublasLt.h of CUDA 13.0), products of bf16 matrices.
//!
//! Stricter than the library where the documentation leaves room: a handle wants a current context, an algorithm has to be one of its own three, and
//! the workspace has to be as large as the algorithm says.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_char, c_void};

use crate::abi::{Code, SUCCESS};
use crate::driver::{Driver, Result, lock, named};
use crate::exports::{call, handle, number, put};
use crate::product::{Matrix, Product};
use crate::streams::Operation;

/// `cublasStatus_t`.
const ALLOC_FAILED: Code = 3;
const INVALID_VALUE: Code = 7;
const EXECUTION_FAILED: Code = 13;
const INTERNAL_ERROR: Code = 14;
const NOT_SUPPORTED: Code = 15;

/// `cudaDataType`, `cublasComputeType_t`.
const F32: u32 = 0;
const BF16: u32 = 14;
const COMPUTE_F32: u32 = 68;

/// `cublasLtMatmulDescAttributes_t` and values.
const TRANS_A: u32 = 3;
const EPILOGUE: u32 = 7;
const BIAS_POINTER: u32 = 8;
const OP_T: u32 = 1;
const EPILOGUE_BIAS: u32 = 4;

/// `cublasLtMatmulPreferenceAttributes_t`.
const MAX_WORKSPACE: u32 = 1;
const REDUCTION_MASK: u32 = 3;
const ALIGNMENT_A: u32 = 5;
const ALIGNMENT_D: u32 = 8;

/// Algorithms: the order of adding, and bytes of workspace for each step above the first.
const ALGORITHMS: u64 = 3;
const WORKSPACE_STEP: u64 = 3 << 20;
/// What the first number of an algorithm looks like.
const MARK: u64 = u64::from_be_bytes(*b"stand-in");

/// The handles of the library.
#[derive(Debug, Default)]
pub(crate) struct Blas {
    handles: BTreeMap<u64, ()>,
    layouts: BTreeMap<u64, Layout>,
    operations: BTreeMap<u64, Description>,
    preferences: BTreeMap<u64, Preference>,
    /// Algorithms whose kernels are on the device: each since its first product, and for as long as there is a handle.
    loaded: BTreeSet<u64>,
}

/// What an algorithm's kernels take.
const KERNEL_BYTES: u64 = 4 << 20;

#[derive(Clone, Copy, Debug)]
struct Layout {
    rows: u64,
    columns: u64,
    stride: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Description {
    is_transposed: bool,
    has_bias: bool,
    bias: u64,
}

#[derive(Clone, Copy, Debug)]
struct Preference {
    workspace: u64,
    reduction_mask: u32,
    alignments: u32,
}

/// `cublasLtMatmulAlgo_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Algorithm {
    data: [u64; 8],
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeuristicResult {
    algorithm: Algorithm,
    workspace: usize,
    state: Code,
    waves: f32,
    reserved: [i32; 4],
}

impl Blas {
    pub(crate) fn left(&self) -> u64 {
        let descriptions = self.layouts.len() + self.operations.len() + self.preferences.len();
        (self.handles.len() + descriptions) as u64
    }

    /// Bytes of the kernels that are loaded.
    pub(crate) fn kernel_bytes(&self) -> u64 {
        self.loaded.len() as u64 * KERNEL_BYTES
    }

    /// The three matrices, if they fit each other as the operation wants them.
    fn fitting(&mut self, operation: u64, layouts: [u64; 4]) -> Result<(Description, [Layout; 3])> {
        let operation = *known(&mut self.operations, operation)?;
        let mut get = |layout| known(&mut self.layouts, layout).copied();
        let [a, b, c, out] = [get(layouts[0])?, get(layouts[1])?, get(layouts[2])?, get(layouts[3])?];
        let fits = a.rows == b.rows && a.columns == out.rows && b.columns == out.columns;
        let same = c.rows == out.rows && c.columns == out.columns;
        if !fits || !same {
            return Err(INVALID_VALUE);
        }
        // Only the form that is used here.
        if operation.is_transposed { Ok((operation, [a, b, out])) } else { Err(NOT_SUPPORTED) }
    }
}

impl Algorithm {
    fn of(index: u64) -> Self {
        Self { data: [MARK, index, 0, 0, 0, 0, 0, !index] }
    }

    /// Which of the three it is.
    fn index(&self) -> Result<u64> {
        let index = self.data[1];
        let is_ours = index < ALGORITHMS && self.data == Self::of(index).data;
        if is_ours { Ok(index) } else { Err(INVALID_VALUE) }
    }

    fn result(index: u64) -> HeuristicResult {
        let workspace = usize::try_from(index * WORKSPACE_STEP).unwrap_or(0);
        HeuristicResult { algorithm: Self::of(index), workspace, waves: 1.0, ..HeuristicResult::default() }
    }
}

/// What a handle names, or what the library says where it names nothing.
fn known<T>(table: &mut BTreeMap<u64, T>, handle: u64) -> Result<&mut T> {
    named(table, handle).map_err(|_| INVALID_VALUE)
}

/// Takes a value in under a new number, and tells it.
///
/// # Safety
/// As [`put`].
unsafe fn make<T>(table: &mut BTreeMap<u64, T>, new: u64, value: T, place: *mut *mut c_void) -> Result {
    table.insert(new, value);
    // SAFETY: by the caller's promise.
    unsafe { put(place, handle(new)) }
}

fn forget<T>(table: &mut BTreeMap<u64, T>, handle: *mut c_void) -> Result {
    table.remove(&number(handle)).map(drop).ok_or(INVALID_VALUE)
}

/// A current context, whose failure is reported in the library's words.
fn current(driver: &Driver) -> Result {
    driver.current().map_err(|_| EXECUTION_FAILED)
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetVersion() -> usize {
    usize::try_from(lock().config.products_version).unwrap_or(0)
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetStatusString(status: Code) -> *const c_char {
    match status {
        SUCCESS => c"success",
        NOT_SUPPORTED => c"not supported",
        _ => c"said by the stand-in",
    }
    .as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtCreate(place: *mut *mut c_void) -> Code {
    call("cublasLtCreate", ALLOC_FAILED, |driver| {
        current(driver)?;
        let new = driver.handle();
        // SAFETY: the caller's pointer.
        unsafe { make(&mut driver.blas.handles, new, (), place) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtDestroy(library: *mut c_void) -> Code {
    call("cublasLtDestroy", INTERNAL_ERROR, |driver| {
        forget(&mut driver.blas.handles, library)?;
        if driver.blas.handles.is_empty() {
            driver.blas.loaded.clear();
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    place: *mut *mut c_void,
    kind: u32,
    rows: u64,
    columns: u64,
    stride: i64,
) -> Code {
    call("cublasLtMatrixLayoutCreate", ALLOC_FAILED, |driver| {
        let stride = u64::try_from(stride).map_err(|_| INVALID_VALUE)?;
        if kind != BF16 || rows == 0 || columns == 0 || stride < rows {
            return Err(INVALID_VALUE);
        }
        let new = driver.handle();
        // SAFETY: the caller's pointer.
        unsafe { make(&mut driver.blas.layouts, new, Layout { rows, columns, stride }, place) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: *mut c_void) -> Code {
    call("cublasLtMatrixLayoutDestroy", INTERNAL_ERROR, |driver| forget(&mut driver.blas.layouts, layout))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescCreate(place: *mut *mut c_void, compute: u32, factors: u32) -> Code {
    call("cublasLtMatmulDescCreate", ALLOC_FAILED, |driver| {
        if compute != COMPUTE_F32 || factors != F32 {
            return Err(NOT_SUPPORTED);
        }
        let new = driver.handle();
        // SAFETY: the caller's pointer.
        unsafe { make(&mut driver.blas.operations, new, Description::default(), place) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescDestroy(operation: *mut c_void) -> Code {
    call("cublasLtMatmulDescDestroy", INTERNAL_ERROR, |driver| forget(&mut driver.blas.operations, operation))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    operation: *mut c_void,
    attribute: u32,
    value: *const c_void,
    bytes: usize,
) -> Code {
    call("cublasLtMatmulDescSetAttribute", INTERNAL_ERROR, |driver| {
        let operation = known(&mut driver.blas.operations, number(operation))?;
        // SAFETY: the caller's pointer, valid for as many bytes.
        let small = || unsafe { read::<u32>(value, bytes) };
        match attribute {
            TRANS_A => operation.is_transposed = small()? == OP_T,
            EPILOGUE if small()? == EPILOGUE_BIAS => operation.has_bias = true,
            // SAFETY: as above.
            BIAS_POINTER => operation.bias = unsafe { read::<u64>(value, bytes) }?,
            _ => return Err(NOT_SUPPORTED),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceCreate(place: *mut *mut c_void) -> Code {
    call("cublasLtMatmulPreferenceCreate", ALLOC_FAILED, |driver| {
        let preference = Preference { workspace: 0, reduction_mask: u32::MAX, alignments: 0 };
        let new = driver.handle();
        // SAFETY: the caller's pointer.
        unsafe { make(&mut driver.blas.preferences, new, preference, place) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(preference: *mut c_void) -> Code {
    call("cublasLtMatmulPreferenceDestroy", INTERNAL_ERROR, |driver| {
        forget(&mut driver.blas.preferences, preference)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: *mut c_void,
    attribute: u32,
    value: *const c_void,
    bytes: usize,
) -> Code {
    call("cublasLtMatmulPreferenceSetAttribute", INTERNAL_ERROR, |driver| {
        let preference = known(&mut driver.blas.preferences, number(preference))?;
        match attribute {
            // SAFETY: the caller's pointer, valid for as many bytes.
            MAX_WORKSPACE => preference.workspace = unsafe { read::<u64>(value, bytes) }?,
            // SAFETY: as above.
            REDUCTION_MASK => preference.reduction_mask = unsafe { read::<u32>(value, bytes) }?,
            ALIGNMENT_A..=ALIGNMENT_D => {
                // SAFETY: as above.
                if unsafe { read::<u32>(value, bytes) }? != 16 {
                    return Err(NOT_SUPPORTED);
                }
                preference.alignments += 1;
            }
            _ => return Err(NOT_SUPPORTED),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    library: *mut c_void,
    operation: *mut c_void,
    a: *mut c_void,
    b: *mut c_void,
    c: *mut c_void,
    out: *mut c_void,
    preference: *mut c_void,
    most: i32,
    results: *mut HeuristicResult,
    count: *mut i32,
) -> Code {
    call("cublasLtMatmulAlgoGetHeuristic", INTERNAL_ERROR, |driver| {
        current(driver)?;
        known(&mut driver.blas.handles, number(library))?;
        driver.blas.fitting(number(operation), [a, b, c, out].map(number))?;
        let preference = *known(&mut driver.blas.preferences, number(preference))?;
        if preference.reduction_mask != 0 || preference.alignments != 4 {
            return Err(NOT_SUPPORTED);
        }
        let fits = |index: &u64| index * WORKSPACE_STEP <= preference.workspace;
        let mut found = 0;
        for index in (0..ALGORITHMS).filter(fits).take(usize::try_from(most).unwrap_or(0)) {
            // SAFETY: the caller's array has room for `most`.
            let place = unsafe { results.add(found) };
            // SAFETY: as above.
            unsafe { put(place, Algorithm::result(index)) }?;
            found += 1;
        }
        // SAFETY: the caller's pointer.
        unsafe { put(count, i32::try_from(found).unwrap_or(0)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulAlgoCheck(
    library: *mut c_void,
    operation: *mut c_void,
    a: *mut c_void,
    b: *mut c_void,
    c: *mut c_void,
    out: *mut c_void,
    algorithm: *const Algorithm,
    result: *mut HeuristicResult,
) -> Code {
    call("cublasLtMatmulAlgoCheck", INTERNAL_ERROR, |driver| {
        current(driver)?;
        known(&mut driver.blas.handles, number(library))?;
        driver.blas.fitting(number(operation), [a, b, c, out].map(number))?;
        // SAFETY: the caller's pointer.
        let index = unsafe { algorithm.as_ref() }.ok_or(INVALID_VALUE)?.index()?;
        // SAFETY: the caller's pointer.
        unsafe { put(result, Algorithm::result(index)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmul(
    library: *mut c_void,
    operation: *mut c_void,
    alpha: *const f32,
    a: *const c_void,
    a_layout: *mut c_void,
    b: *const c_void,
    b_layout: *mut c_void,
    beta: *const f32,
    c: *const c_void,
    c_layout: *mut c_void,
    out: *mut c_void,
    out_layout: *mut c_void,
    algorithm: *const Algorithm,
    workspace: *mut c_void,
    workspace_bytes: usize,
    stream: *mut c_void,
) -> Code {
    call("cublasLtMatmul", EXECUTION_FAILED, |driver| {
        current(driver)?;
        known(&mut driver.blas.handles, number(library))?;
        let layouts = [a_layout, b_layout, c_layout, out_layout].map(number);
        let (operation, layouts) = driver.blas.fitting(number(operation), layouts)?;
        // SAFETY: the caller's pointers, on the host unless the operation says otherwise, which it cannot here.
        let alpha = unsafe { alpha.as_ref() };
        // SAFETY: as above.
        let beta = unsafe { beta.as_ref() };
        if (alpha, beta) != (Some(&1.0), Some(&0.0))
            || c != out
            || (operation.has_bias && operation.bias == 0)
        {
            return Err(NOT_SUPPORTED);
        }
        // SAFETY: the caller's pointer.
        let index = unsafe { algorithm.as_ref() }.ok_or(INVALID_VALUE)?.index()?;
        let (needed, scratch) = (index * WORKSPACE_STEP, number(workspace));
        if needed > workspace_bytes as u64 || !scratch.is_multiple_of(256) {
            return Err(INVALID_VALUE);
        }
        let matrix = |address: *const c_void, Layout { rows, columns, stride }: Layout| Matrix {
            address: address.expose_provenance() as u64,
            rows,
            columns,
            stride,
        };
        let product = Product {
            a: matrix(a, layouts[0]),
            b: matrix(b, layouts[1]),
            out: matrix(out, layouts[2]),
            bias: if operation.has_bias { operation.bias } else { 0 },
            sums: usize::try_from(index).unwrap_or(0) + 2,
            workspace: (scratch, needed),
        };
        driver.blas.loaded.insert(index);
        let queued = driver.streams.push(number(stream), Operation::Product(Box::new(product)));
        queued.map_err(|_| EXECUTION_FAILED)
    })
}

/// A value of an attribute, which has to have as many bytes as its type.
///
/// # Safety
/// - `value` is valid for `bytes` bytes of reads.
unsafe fn read<T: Copy>(value: *const c_void, bytes: usize) -> Result<T> {
    if bytes != size_of::<T>() || value.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: as many bytes as the type has, by the caller's promise.
    Ok(unsafe { value.cast::<T>().read_unaligned() })
}
