//! Driver calls with their answers checked: every error keeps its call, its number and the driver's words.

use std::ffi::{CStr, c_char, c_int};
use std::fmt::Arguments;
use std::panic::catch_unwind;
use std::ptr;

use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute, CUresult};

use crate::{Error, Result};

/// The oldest driver that runs images of nvcc 13.0: CUDA 13.0 by its own count, 580 by NVIDIA's.
const CUDA_MIN: (u32, u32) = (13, 0);
const DRIVER_MIN: &str = "580";

/// Finds libcuda, starts it, and refuses a driver that is too old. Afterwards every function that this crate calls is there: none is younger
/// than CUDA 13.0.
pub(super) fn start() -> Result<()> {
    // SAFETY: loads libcuda by its usual names and unloads it: as safe as the driver's own start-up code.
    if !unsafe { sys::is_culib_present() } {
        return no_device("libcuda, which comes with NVIDIA's driver, was not found".to_owned());
    }
    // cudarc panics where a function is missing; these two have been there since CUDA 2.2.
    let version = catch_unwind(version).unwrap_or_else(|_| no_device("libcuda is no driver".to_owned()))?;
    if version < CUDA_MIN {
        let ((major, minor), (needed, zero)) = (version, CUDA_MIN);
        return no_device(format!(
            "the driver runs CUDA {major}.{minor} at most, the kernels need {needed}.{zero}: update NVIDIA's driver to {DRIVER_MIN} or newer"
        ));
    }
    init()
}

/// Starts the driver. Nothing has run yet, so no code is that of earlier work: 999 says here that the driver's modules are not as it wants them.
pub(super) fn init() -> Result<()> {
    // SAFETY: takes a number, which has to be 0.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => Ok(()),
        CUresult::CUDA_ERROR_NO_DEVICE => no_device(
            "the driver finds none: there is no NVIDIA GPU, this user may not open it, or CUDA_VISIBLE_DEVICES hides it"
                .to_owned(),
        ),
        code => Err(Error::Driver { call: "cuInit", code: code as i32, message: format!("{}; {STARTING}", words(code)) }),
    }
}

/// What to do about a driver that does not start.
const STARTING: &str =
    "nvidia-smi says more; after an update, or a suspension, the driver's modules have to be loaded anew";

/// The newest CUDA that the driver can run, which says 1000 * major + 10 * minor.
pub(super) fn version() -> Result<(u32, u32)> {
    let mut number: c_int = 0;
    // SAFETY: writes one int through the pointer.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut number) })?;
    let number = number.unsigned_abs();
    Ok((number / 1000, number % 1000 / 10))
}

/// What a device is called.
pub(super) fn name(device: CUdevice) -> Result<String> {
    let mut text = [0_u8; 128];
    // SAFETY: writes at most as many bytes as it is told, with a zero at the end.
    let code = unsafe { sys::cuDeviceGetName(text.as_mut_ptr().cast(), 128, device) };
    check_of("cuDeviceGetName", format_args!("device {device}"), code)?;
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    Ok(String::from_utf8_lossy(&text[..end]).into_owned())
}

/// A fact about a device, never negative.
pub(super) fn attribute(device: CUdevice, attribute: CUdevice_attribute) -> Result<u32> {
    let mut value: c_int = 0;
    // SAFETY: writes one int; the device is the driver's.
    let code = unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) };
    check_of("cuDeviceGetAttribute", format_args!("{attribute:?}, {}", attribute as u32), code)?;
    Ok(value.unsigned_abs())
}

/// There is no such device here.
pub(super) fn no_device<T>(reason: String) -> Result<T> {
    Err(Error::NoDevice { backend: "cuda", reason })
}

/// The answer of a call as a result.
pub(super) fn check(call: &'static str, code: CUresult) -> Result<()> {
    check_of(call, format_args!(""), code)
}

/// As [`check`], of a call that was given numbers: sizes, addresses, a grid. They are part of the error.
pub(super) fn check_of(call: &'static str, asked: Arguments<'_>, code: CUresult) -> Result<()> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let message = with_numbers(words(code), asked);
    let code_number = code as i32;
    if is_of_earlier_work(code) {
        let found = format!("{call} found that earlier work failed with code {code_number}: {message}");
        return Err(Error::Stream(found));
    }
    Err(Error::Driver { call, code: code_number, message })
}

/// What was said about a call, and what it was asked for.
pub(super) fn with_numbers(said: String, asked: Arguments<'_>) -> String {
    // Only the text "" has no pieces to format.
    if asked.as_str() == Some("") { said } else { format!("{said}; {asked}") }
}

/// The answer of a call that queues or waits: whatever it is, the stream has failed.
pub(super) fn check_wait(call: &'static str, code: CUresult) -> Result<()> {
    check(call, code).map_err(|error| match error {
        Error::Driver { .. } => Error::Stream(error.to_string()),
        other => other,
    })
}

/// Does a call that gives something back, a second time where the first was refused: a driver also reports here what has failed before, and
/// nobody gives it back later. The first error is the one to report; whether it is given back now is the second value.
pub(super) fn give_back(call: &'static str, attempt: impl Fn() -> CUresult) -> (Result<()>, bool) {
    give_back_of(call, format_args!(""), attempt)
}

/// As [`give_back`], of a call that was given numbers.
pub(super) fn give_back_of(
    call: &'static str,
    asked: Arguments<'_>,
    attempt: impl Fn() -> CUresult,
) -> (Result<()>, bool) {
    let first = check_of(call, asked, attempt());
    let done = first.is_ok() || check(call, attempt()).is_ok();
    (first, done)
}

/// Name and description: `CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered)`.
fn words(code: CUresult) -> String {
    let mut text: *const c_char = ptr::null();
    // SAFETY: writes a pointer to a string of the driver's own, or null.
    let known = unsafe { sys::cuGetErrorString(code, &raw mut text) } == CUresult::CUDA_SUCCESS;
    if !known || text.is_null() {
        return format!("{code:?}");
    }
    // SAFETY: not null, so it is the driver's own string, which lives as long as the library.
    let text = unsafe { CStr::from_ptr(text) };
    format!("{code:?} ({})", text.to_string_lossy())
}

/// Errors that work on the device leaves behind; from then on nearly every call of the context answers with them.
fn is_of_earlier_work(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUresult::CUDA_ERROR_CONTAINED
            | CUresult::CUDA_ERROR_EXTERNAL_DEVICE
            | CUresult::CUDA_ERROR_UNKNOWN
    )
}

/// A length as the driver takes it. What does not fit is refused by the driver: it is more than any address space.
pub(super) fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
