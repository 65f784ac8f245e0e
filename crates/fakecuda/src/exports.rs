//! The functions of the driver API.
use std::ffi::{CStr, c_char, c_void};

use lighterage_kernels::launch::{Arch, Target, TensorMap};

use crate::abi::{
    self, ATTRIBUTE_CAPABILITY_MAJOR, ATTRIBUTE_CAPABILITY_MINOR, ATTRIBUTE_MULTIPROCESSORS,
    ATTRIBUTE_READ_ONLY_REGISTER, ATTRIBUTE_REGISTER, ATTRIBUTE_VIRTUAL_MEMORY, AccessDescription,
    AllocationProperties, Code, FUNCTION_SHARED_MAX, INVALID_DEVICE, INVALID_IMAGE, INVALID_VALUE, NO_DEVICE,
    NOT_FOUND, NOT_READY, NOT_SUPPORTED, OPERATING_SYSTEM, OUT_OF_MEMORY, STREAM_NON_BLOCKING, SUCCESS,
};
use crate::control;
use crate::driver::{CURRENT, Driver, Result, lock, named};
use crate::kernels::{self, Function, Grid};
use crate::memory::{PAGE, Registered};
use crate::streams::Operation;

/// Does a call under the lock, counted, and answers with its code.
pub(crate) fn call(name: &'static str, refused: Code, work: impl FnOnce(&mut Driver) -> Result) -> Code {
    control::call(name, refused, || match work(&mut lock()) {
        Ok(()) => SUCCESS,
        Err(code) => code,
    })
}

/// Writes a result.
///
/// # Safety
/// - `place` is null or valid for writes.
pub(crate) unsafe fn put<T>(place: *mut T, value: T) -> Result {
    if place.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: not null, so it is valid, as promised.
    unsafe { place.write(value) };
    Ok(())
}

pub(crate) fn number(handle: *mut c_void) -> u64 {
    handle.expose_provenance() as u64
}

/// A handle as the pointer that its users see, which is never read.
pub(crate) fn handle(number: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(usize::try_from(number).unwrap_or(0))
}

fn device(driver: &Driver, device: i32) -> Result {
    driver.started()?;
    if (0..driver.config.devices).contains(&device) { Ok(()) } else { Err(INVALID_DEVICE) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuInit(flags: u32) -> Code {
    call("cuInit", OPERATING_SYSTEM, |driver| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        match driver.config.init {
            SUCCESS if driver.config.devices == 0 => Err(NO_DEVICE),
            SUCCESS => {
                driver.is_started = true;
                Ok(())
            }
            code => Err(code),
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut i32) -> Code {
    call("cuDriverGetVersion", OPERATING_SYSTEM, |driver| {
        // SAFETY: the caller's pointer.
        unsafe { put(version, driver.config.driver) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut i32) -> Code {
    call("cuDeviceGetCount", OPERATING_SYSTEM, |driver| {
        driver.started()?;
        // SAFETY: the caller's pointer.
        unsafe { put(count, driver.config.devices) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(place: *mut i32, ordinal: i32) -> Code {
    call("cuDeviceGet", OPERATING_SYSTEM, |driver| {
        device(driver, ordinal)?;
        // SAFETY: the caller's pointer.
        unsafe { put(place, ordinal) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, bytes: i32, dev: i32) -> Code {
    call("cuDeviceGetName", OPERATING_SYSTEM, |driver| {
        device(driver, dev)?;
        let text = b"stand-in GPU\0";
        if usize::try_from(bytes).is_ok_and(|bytes| bytes < text.len()) {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller's pointer has room, checked.
        unsafe { name.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: i32) -> Code {
    call("cuDeviceTotalMem", OPERATING_SYSTEM, |driver| {
        device(driver, dev)?;
        // SAFETY: the caller's pointer.
        unsafe { put(bytes, usize::try_from(driver.config.memory).unwrap_or(usize::MAX)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut i32, attribute: u32, dev: i32) -> Code {
    call("cuDeviceGetAttribute", OPERATING_SYSTEM, |driver| {
        device(driver, dev)?;
        let (major, minor) = driver.config.capability_of(dev);
        let answer = match attribute {
            ATTRIBUTE_READ_ONLY_REGISTER => 1,
            ATTRIBUTE_REGISTER => u32::from(driver.config.registers),
            ATTRIBUTE_MULTIPROCESSORS => multiprocessors(major, minor),
            ATTRIBUTE_CAPABILITY_MAJOR => major,
            ATTRIBUTE_CAPABILITY_MINOR => minor,
            ATTRIBUTE_VIRTUAL_MEMORY => u32::from(driver.config.has_virtual_memory),
            _ => return Err(INVALID_VALUE),
        };
        // SAFETY: the caller's pointer.
        unsafe { put(value, i32::try_from(answer).unwrap_or(0)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, dev: i32) -> Code {
    call("cuDevicePrimaryCtxRetain", OPERATING_SYSTEM, |driver| {
        device(driver, dev)?;
        if driver.retained > 0 && driver.device != dev {
            return Err(NOT_SUPPORTED);
        }
        driver.retained += 1;
        driver.device = dev;
        driver.config.capability = driver.config.capability_of(dev);
        // SAFETY: the caller's pointer.
        unsafe { put(context, handle(0xC0)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(dev: i32) -> Code {
    call("cuDevicePrimaryCtxRelease", OPERATING_SYSTEM, |driver| {
        device(driver, dev)?;
        if driver.retained == 0 || driver.device != dev {
            return Err(abi::INVALID_CONTEXT);
        }
        driver.retained -= 1;
        if driver.retained == 0 {
            // The last one destroys the context, with its failure.
            driver.failed = None;
            CURRENT.set(false);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxSynchronize() -> Code {
    call("cuCtxSynchronize", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        driver.synchronize_all()
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    call("cuMemGetInfo", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        let used = driver.memory.used() + driver.overhead();
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: the caller's pointer.
        unsafe { put(free, size(driver.config.memory - used.min(driver.config.memory))) }?;
        // SAFETY: as above.
        unsafe { put(total, size(driver.config.memory)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) -> Code {
    call("cuCtxGetStreamPriorityRange", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        // SAFETY: the caller's pointer.
        unsafe { put(least, 0) }?;
        // SAFETY: as above.
        unsafe { put(greatest, -5) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetAllocationGranularity(
    bytes: *mut usize,
    properties: *const AllocationProperties,
    option: u32,
) -> Code {
    call("cuMemGetAllocationGranularity", OPERATING_SYSTEM, |driver| {
        driver.started()?;
        // SAFETY: the caller's pointer.
        allocation(unsafe { properties.as_ref() }, driver.device)?;
        if option > 1 {
            return Err(INVALID_VALUE);
        }
        // SAFETY: as above.
        unsafe { put(bytes, usize::try_from(PAGE).unwrap_or(0)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAddressReserve(
    address: *mut u64,
    bytes: usize,
    align: usize,
    hint: u64,
    flags: u64,
) -> Code {
    call("cuMemAddressReserve", OUT_OF_MEMORY, |driver| {
        driver.current()?;
        if hint != 0 || flags != 0 {
            return Err(INVALID_VALUE);
        }
        let start = driver.memory.reserve(bytes as u64, align as u64)?;
        // SAFETY: the caller's pointer.
        unsafe { put(address, start) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAddressFree(address: u64, bytes: usize) -> Code {
    call("cuMemAddressFree", OPERATING_SYSTEM, |driver| {
        driver.current_or_failed()?;
        driver.memory.unreserve(address, bytes as u64)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemCreate(
    place: *mut u64,
    bytes: usize,
    properties: *const AllocationProperties,
    flags: u64,
) -> Code {
    call("cuMemCreate", OUT_OF_MEMORY, |driver| {
        driver.current()?;
        // SAFETY: the caller's pointer.
        allocation(unsafe { properties.as_ref() }, driver.device)?;
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        let overhead = driver.overhead();
        let chunk = driver.memory.create(bytes as u64, overhead)?;
        // SAFETY: as above.
        unsafe { put(place, chunk) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemRelease(chunk: u64) -> Code {
    call("cuMemRelease", OPERATING_SYSTEM, |driver| {
        driver.current_or_failed()?;
        driver.memory.release(chunk)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemMap(address: u64, bytes: usize, offset: usize, chunk: u64, flags: u64) -> Code {
    call("cuMemMap", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        driver.memory.map(address, bytes as u64, offset as u64, chunk)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemUnmap(address: u64, bytes: usize) -> Code {
    call("cuMemUnmap", OPERATING_SYSTEM, |driver| {
        driver.current_or_failed()?;
        driver.memory.unmap(address, bytes as u64)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemSetAccess(
    address: u64,
    bytes: usize,
    access: *const AccessDescription,
    count: usize,
) -> Code {
    call("cuMemSetAccess", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        // SAFETY: the caller's pointer.
        let access = unsafe { access.as_ref() }.ok_or(INVALID_VALUE)?;
        let is_ours = access.location.kind == 1 && access.location.id == driver.device;
        if count != 1 || !is_ours || access.flags != 3 {
            return Err(INVALID_VALUE);
        }
        driver.memory.set_access(address, bytes as u64)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(place: *mut u64, bytes: usize) -> Code {
    call("cuMemAlloc", OUT_OF_MEMORY, |driver| {
        driver.current()?;
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        let overhead = driver.overhead();
        let address = driver.memory.allocate(bytes as u64, overhead)?;
        // SAFETY: the caller's pointer.
        unsafe { put(place, address) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFree_v2(address: u64) -> Code {
    call("cuMemFree", OPERATING_SYSTEM, |driver| {
        driver.current_or_failed()?;
        // "May perform implicit synchronization": who relies on it is refused.
        if driver.failed.is_none() && driver.streams.is_workspace(address) {
            return Err(INVALID_VALUE);
        }
        driver.memory.free(address)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(place: *mut *mut c_void, bytes: usize, flags: u32) -> Code {
    call("cuMemHostAlloc", OUT_OF_MEMORY, |driver| {
        driver.current()?;
        if flags > 7 {
            return Err(INVALID_VALUE);
        }
        let address = driver.memory.pin(bytes)?;
        // SAFETY: the caller's pointer.
        unsafe { put(place, std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeHost(address: *mut c_void) -> Code {
    call("cuMemFreeHost", OPERATING_SYSTEM, |driver| {
        driver.current_or_failed()?;
        driver.memory.unpin(number(address))
    })
}

/// Addresses are one and the same for host and device.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostGetDevicePointer_v2(place: *mut u64, address: *mut c_void, flags: u32) -> Code {
    call("cuMemHostGetDevicePointer", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        let address = number(address);
        if flags != 0 || driver.memory.check_word(address).is_err() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller's pointer.
        unsafe { put(place, address) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: u32) -> Code {
    call("cuMemHostRegister", OUT_OF_MEMORY, |driver| {
        driver.current()?;
        // Portable, mapped and read-only.
        if flags & !11 != 0 {
            return Err(INVALID_VALUE);
        }
        let registered = Registered { bytes: bytes as u64, is_mapped: flags & 2 != 0 };
        driver.memory.register(number(address), registered)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostUnregister(address: *mut c_void) -> Code {
    call("cuMemHostUnregister", OPERATING_SYSTEM, |driver| {
        driver.current_or_failed()?;
        driver.memory.unregister(number(address))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreateWithPriority(place: *mut *mut c_void, flags: u32, priority: i32) -> Code {
    call("cuStreamCreateWithPriority", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        if flags != STREAM_NON_BLOCKING || !(-5..=0).contains(&priority) {
            return Err(INVALID_VALUE);
        }
        let stream = driver.handle();
        driver.streams.add_stream(stream);
        // SAFETY: the caller's pointer.
        unsafe { put(place, handle(stream)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamDestroy_v2(stream: *mut c_void) -> Code {
    call("cuStreamDestroy", OPERATING_SYSTEM, |driver| {
        driver.current_or_failed()?;
        driver.remove_stream(number(stream))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamSynchronize(stream: *mut c_void) -> Code {
    call("cuStreamSynchronize", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        driver.synchronize(number(stream))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamQuery(stream: *mut c_void) -> Code {
    call("cuStreamQuery", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        if driver.query_stream(number(stream))? { Ok(()) } else { Err(NOT_READY) }
    })
}

/// Words that are waited for, until they have a value, and words that are written: the kinds that are used here.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamBatchMemOp_v2(
    stream: *mut c_void,
    count: u32,
    operations: *const abi::MemoryOperation,
    flags: u32,
) -> Code {
    call("cuStreamBatchMemOp", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        if flags != 0 || operations.is_null() || count >= abi::MEMORY_OPERATIONS_END {
            return Err(INVALID_VALUE);
        }
        let mut batch = Vec::new();
        for index in 0..count as usize {
            // SAFETY: the caller's pointer, to that many.
            let operation = unsafe { operations.add(index) };
            // SAFETY: one of those.
            let abi::MemoryOperation { kind, address, value, flags, .. } = unsafe { *operation };
            driver.memory.check_word(address).map_err(|_| INVALID_VALUE)?;
            #[expect(clippy::cast_possible_truncation, reason = "a union of 32 and 64 bits")]
            let value = value as u32;
            batch.push(match (kind, flags) {
                (abi::WAIT_VALUE, abi::WAIT_VALUE_EQUAL) => Operation::WaitValue { address, value },
                (abi::WRITE_VALUE, abi::WRITE_VALUE_BEHIND_ALL) => Operation::WriteValue { address, value },
                _ => return Err(NOT_SUPPORTED),
            });
        }
        batch.into_iter().try_for_each(|operation| driver.streams.push(number(stream), operation))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, flags: u32) -> Code {
    call("cuStreamWaitEvent", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        driver.streams.wait(number(stream), number(event), flags == 1)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(place: *mut *mut c_void, flags: u32) -> Code {
    call("cuEventCreate", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        if flags & !3 != 0 {
            return Err(INVALID_VALUE);
        }
        let event = driver.handle();
        driver.streams.add_event(event, flags & 2 == 0);
        // SAFETY: the caller's pointer.
        unsafe { put(place, handle(event)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> Code {
    call("cuEventDestroy", OPERATING_SYSTEM, |driver| {
        driver.current_or_failed()?;
        driver.streams.remove_event(number(event))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventRecordWithFlags(event: *mut c_void, stream: *mut c_void, flags: u32) -> Code {
    call("cuEventRecordWithFlags", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        driver.streams.record(number(event), number(stream), flags == 1)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventQuery(event: *mut c_void) -> Code {
    call("cuEventQuery", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        if driver.query(number(event))? { Ok(()) } else { Err(NOT_READY) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventSynchronize(event: *mut c_void) -> Code {
    call("cuEventSynchronize", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        driver.synchronize_event(number(event))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(place: *mut f32, from: *mut c_void, to: *mut c_void) -> Code {
    call("cuEventElapsedTime", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        let ms = driver.streams.elapsed_ms(number(from), number(to))?;
        // SAFETY: the caller's pointer.
        unsafe { put(place, ms) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    target: u64,
    source: *const c_void,
    bytes: usize,
    stream: *mut c_void,
) -> Code {
    call("cuMemcpyHtoDAsync", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        let operation = Operation::Copy {
            target,
            source: source.expose_provenance() as u64,
            bytes,
            is_target_ours: true,
            is_source_ours: false,
        };
        driver.streams.push(number(stream), operation)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    target: *mut c_void,
    source: u64,
    bytes: usize,
    stream: *mut c_void,
) -> Code {
    call("cuMemcpyDtoHAsync", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        let operation = Operation::Copy {
            target: number(target),
            source,
            bytes,
            is_target_ours: false,
            is_source_ours: true,
        };
        driver.streams.push(number(stream), operation)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    target: u64,
    source: u64,
    bytes: usize,
    stream: *mut c_void,
) -> Code {
    call("cuMemcpyDtoDAsync", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        let operation = Operation::Copy { target, source, bytes, is_target_ours: true, is_source_ours: true };
        driver.streams.push(number(stream), operation)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8Async(target: u64, value: u8, bytes: usize, stream: *mut c_void) -> Code {
    call("cuMemsetD8Async", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        driver.streams.push(number(stream), Operation::Fill { target, value, bytes })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(place: *mut *mut c_void, image: *const c_void) -> Code {
    call("cuModuleLoadData", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        let first = image.cast::<u64>();
        if first.is_null() || !first.is_aligned() {
            return Err(INVALID_IMAGE);
        }
        let module = driver.handle();
        driver.modules.insert(module, 0);
        // SAFETY: the caller's pointer.
        unsafe { put(place, handle(module)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleUnload(module: *mut c_void) -> Code {
    call("cuModuleUnload", OPERATING_SYSTEM, |driver| {
        driver.current_or_failed()?;
        let module = number(module);
        named(&mut driver.modules, module)?;
        // Nothing is documented of kernels that still run.
        if driver.failed.is_none() && driver.streams.launches_of(module) {
            return Err(INVALID_VALUE);
        }
        driver.modules.remove(&module);
        driver.functions.retain(|_, function| function.module != module);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    place: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> Code {
    call("cuModuleGetFunction", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        named(&mut driver.modules, number(module))?;
        // SAFETY: the caller's string.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let function = Function::find(number(module), &name).ok_or(NOT_FOUND)?;
        let function_handle = driver.handle();
        driver.functions.insert(function_handle, function);
        // SAFETY: the caller's pointer.
        unsafe { put(place, handle(function_handle)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncLoad(function: *mut c_void) -> Code {
    call("cuFuncLoad", OUT_OF_MEMORY, |driver| {
        driver.current()?;
        driver.load(number(function)).map(drop)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncSetAttribute(function: *mut c_void, attribute: u32, value: i32) -> Code {
    call("cuFuncSetAttribute", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        let config = driver.config;
        let function = named(&mut driver.functions, number(function))?;
        match (attribute, u32::try_from(value)) {
            (FUNCTION_SHARED_MAX, Ok(bytes)) => function.allow_shared(bytes, config),
            (FUNCTION_SHARED_MAX, Err(_)) => Err(INVALID_VALUE),
            _ => Err(NOT_SUPPORTED),
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    stream: *mut c_void,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    call("cuLaunchKernel", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        if !extra.is_null() || parameters.is_null() {
            return Err(INVALID_VALUE);
        }
        let function = driver.load(number(function))?;
        let grid = Grid {
            blocks: [grid_x, grid_y, grid_z],
            threads: [block_x, block_y, block_z],
            shared_bytes: shared,
            overlaps: false,
        };
        // SAFETY: the caller's pointers, one for each parameter.
        let launch = unsafe { function.launch(grid, parameters.cast_const().cast()) }?;
        driver.streams.push(number(stream), Operation::Launch(Box::new(launch)))
    })
}

/// One attribute is known, leave to overlap with the launch before, for devices that have it. Launches run one after another; with `FAKECUDA_CHECKS` one that touches too
/// early what those before it touch has failed (`emu::Stream`).
#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernelEx(
    config: *const abi::LaunchConfig,
    function: *mut c_void,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    call("cuLaunchKernelEx", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        if config.is_null() || !extra.is_null() || parameters.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller's pointer.
        let config = unsafe { *config };
        let mut overlaps = false;
        for index in 0..config.attribute_count as usize {
            // SAFETY: the caller's pointer, to that many.
            let attribute = unsafe { config.attributes.add(index) };
            // SAFETY: one of those.
            let attribute = unsafe { *attribute };
            if attribute.id != abi::LAUNCH_OVERLAPS {
                return Err(NOT_SUPPORTED);
            }
            if !(0..=1).contains(&attribute.value) {
                return Err(INVALID_VALUE);
            }
            if driver.config.capability.0 < 9 {
                return Err(NOT_SUPPORTED);
            }
            overlaps = attribute.value == 1;
        }
        let function = driver.load(number(function))?;
        let grid = Grid {
            blocks: config.blocks,
            threads: config.threads,
            shared_bytes: config.shared_bytes,
            overlaps,
        };
        // SAFETY: the caller's pointers, one for each parameter.
        let launch = unsafe { function.launch(grid, parameters.cast_const().cast()) }?;
        driver.streams.push(number(config.stream), Operation::Launch(Box::new(launch)))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuTensorMapEncodeTiled(
    place: *mut abi::TensorMap,
    kind: u32,
    rank: u32,
    address: *mut c_void,
    sizes: *const u64,
    strides: *const u64,
    boxes: *const u32,
    steps: *const u32,
    interleave: u32,
    swizzle: u32,
    promotion: u32,
    fill: u32,
) -> Code {
    call("cuTensorMapEncodeTiled", OPERATING_SYSTEM, |driver| {
        driver.started()?;
        let count = rank as usize;
        if !(1..=5).contains(&count)
            || interleave != 0
            || swizzle > 3
            || promotion > 3
            || fill != 0
            || !place.is_aligned()
        {
            return Err(INVALID_VALUE);
        }
        let element_bytes = match kind {
            9 => 2,
            7 => 4,
            _ => return Err(NOT_SUPPORTED),
        };
        let mut map = TensorMap { address: number(address), rank, element_bytes, ..TensorMap::default() };
        map.swizzle_bytes = [0, 32, 64, 128][swizzle as usize];
        // SAFETY: the caller's arrays have `rank` numbers, the strides one less.
        unsafe { sizes.copy_to_nonoverlapping(map.sizes.as_mut_ptr(), count) };
        // SAFETY: as above.
        unsafe { strides.copy_to_nonoverlapping(map.strides.as_mut_ptr(), count - 1) };
        // SAFETY: as above.
        unsafe { boxes.copy_to_nonoverlapping(map.box_sizes.as_mut_ptr(), count) };
        // SAFETY: as above.
        if unsafe { std::slice::from_raw_parts(steps, count) }.iter().any(|step| *step != 1) {
            return Err(NOT_SUPPORTED);
        }
        // SAFETY: the caller's pointer.
        unsafe { put(place, kernels::encode(&map)?) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamBeginCapture_v2(stream: *mut c_void, mode: u32) -> Code {
    call("cuStreamBeginCapture", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        if mode > 2 {
            return Err(INVALID_VALUE);
        }
        driver.streams.begin(number(stream))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(stream: *mut c_void, place: *mut *mut c_void) -> Code {
    call("cuStreamEndCapture", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        let recorded = driver.streams.end(number(stream))?;
        let graph = driver.handle();
        driver.graphs.insert(graph, recorded);
        // SAFETY: the caller's pointer.
        unsafe { put(place, handle(graph)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(
    place: *mut *mut c_void,
    graph: *mut c_void,
    flags: u64,
) -> Code {
    call("cuGraphInstantiateWithFlags", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        let recorded = named(&mut driver.graphs, number(graph))?.clone();
        let executable = driver.handle();
        driver.executables.insert(executable, recorded);
        // SAFETY: the caller's pointer.
        unsafe { put(place, handle(executable)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphLaunch(executable: *mut c_void, stream: *mut c_void) -> Code {
    call("cuGraphLaunch", OPERATING_SYSTEM, |driver| {
        driver.current()?;
        let recorded = named(&mut driver.executables, number(executable))?.clone();
        recorded.into_iter().try_for_each(|operation| driver.streams.push(number(stream), operation))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphDestroy(graph: *mut c_void) -> Code {
    call("cuGraphDestroy", OPERATING_SYSTEM, |driver| {
        driver.current_or_failed()?;
        driver.graphs.remove(&number(graph)).map(drop).ok_or(INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecDestroy(executable: *mut c_void) -> Code {
    call("cuGraphExecDestroy", OPERATING_SYSTEM, |driver| {
        driver.current_or_failed()?;
        driver.executables.remove(&number(executable)).map(drop).ok_or(INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> Code {
    call("cuCtxSetCurrent", OPERATING_SYSTEM, |driver| {
        if !driver.is_started || number(context) != 0xC0 || driver.retained == 0 {
            return Err(abi::INVALID_CONTEXT);
        }
        CURRENT.set(true);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(code: Code, text: *mut *const c_char) -> Code {
    let words = match code {
        OUT_OF_MEMORY => c"out of memory",
        abi::ILLEGAL_ADDRESS => c"an illegal memory access was encountered",
        _ => c"said by the stand-in",
    };
    // SAFETY: the caller's pointer.
    match unsafe { put(text, words.as_ptr()) } {
        Ok(()) => SUCCESS,
        Err(code) => code,
    }
}

/// As many as a typical card has, so that persistent kernels have the grids that the emulated device gives them.
fn multiprocessors(major: u32, minor: u32) -> u32 {
    Arch::of(major, minor).map_or(1, |arch| Target::typical(arch).multiprocessors)
}

/// Refuses what is not ordinary memory of the device that has the context.
fn allocation(properties: Option<&AllocationProperties>, device: i32) -> Result {
    let Some(p) = properties else { return Err(INVALID_VALUE) };
    let is_plain = p.kind == 1 && p.handle_kinds == 0 && p.win32_metadata == 0;
    let is_ours = p.location.kind == 1 && p.location.id == device;
    let is_usual = p.compression == 0 && p.rdma == 0 && p.usage == 0 && p.reserved == [0; 4];
    if is_plain && is_ours && is_usual { Ok(()) } else { Err(INVALID_VALUE) }
}
