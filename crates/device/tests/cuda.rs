//! The `Cuda` backend on the stand-in for the driver (`crates/fakecuda`): any call may fail, and what cannot be asked of every backend.
//!
//! Each test runs in a process of its own, since there is one driver for each.
#![cfg(feature = "emu")]
#![expect(clippy::unwrap_used, reason = "a test that fails")]
#![expect(clippy::print_stdout, reason = "shown by the test harness when a test fails")]

use std::collections::BTreeSet;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use lighterage_device::cuda::CudaStatus;
use lighterage_device::{
    Address, Backend, Cost, Cuda, CudaConfig, Detail, Device, Error, Kernel, Launches, Ledger,
    ProductLibrary, ProductTable, Purpose, Reservation, Result, Stream, StreamKind, Target, Usage, View,
    What, Workers,
};
use lighterage_fakecuda as fake;
#[path = "products/mod.rs"]
mod products;

use lighterage_kernels::base::self_test::{self, SelfTestParams};
use lighterage_kernels::images::Image;
use lighterage_kernels::launch::{Arch, Grid, Launch, TensorMap};
use lighterage_shape::{DType, Layout};

const PAGE: u64 = 2 << 20;

/// The stand-in takes kernels from the emulator, by name.
static IMAGES: [Image; 1] = [Image::new(
    "stand-in",
    &BYTES.0,
    &[
        "self_test_add_one",
        "test_layouts_128_kt",
        "test_neighbours_0",
        "test_overlap_first",
        "test_overlap_0",
        "test_overlap_1",
        "test_overlap_2",
        products::OWN,
    ],
    &Arch::ALL,
)];

#[repr(align(64))]
struct Aligned([u8; 8]);
static BYTES: Aligned = Aligned(*b"stand-in");

fn config() -> CudaConfig {
    CudaConfig { images: &IMAGES, table: ProductTable::EMPTY, ..CudaConfig::default() }
}

/// Runs `body` in a process of its own, where the stand-in pretends to be what `variables` say.
fn inside(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    inside_with(test, variables, |_| (), body);
}

/// As [`inside`], with more in the folder of libraries.
fn inside_with(test: &str, variables: &[(&str, &str)], more: impl FnOnce(&Path), body: impl FnOnce()) {
    if std::env::var_os(fake::INSIDE).is_some() {
        return body();
    }
    let folder = tempfile::tempdir().unwrap();
    fake::link_into(folder.path()).unwrap();
    more(folder.path());
    let variables = variables.iter().copied();
    let output = fake::rerun(test, folder.path())
        .unwrap()
        .env("FAKECUDA_CHECKS", "1")
        .envs(variables)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let ran = output.status.success() && text.contains("1 passed");
    assert!(ran, "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{text}");
}

/// With cuBLASLt.
fn with_products(folder: &Path) {
    fake::link_products_into(folder).unwrap();
}

/// What tests say to the stand-in.
struct Control(libloading::Library);

impl Control {
    fn new() -> Self {
        // SAFETY: the stand-in's start-up code does nothing.
        Self(unsafe { libloading::Library::new("libcuda.so.1") }.unwrap())
    }

    fn fail(&self, call: u64, after: bool) {
        // SAFETY: the stand-in declares it so.
        let function = unsafe { self.0.get::<extern "C" fn(u64, bool)>(b"fakecuda_fail") }.unwrap();
        function(call, after);
    }

    fn fail_twice(&self, call: u64) {
        // SAFETY: the stand-in declares it so.
        let function = unsafe { self.0.get::<extern "C" fn(u64)>(b"fakecuda_fail_twice") }.unwrap();
        function(call);
    }

    fn number(&self, name: &[u8]) -> u64 {
        // SAFETY: the stand-in declares both of them so.
        let function = unsafe { self.0.get::<extern "C" fn() -> u64>(name) }.unwrap();
        function()
    }

    fn calls(&self) -> u64 {
        self.number(b"fakecuda_calls")
    }

    fn left(&self) -> u64 {
        self.number(b"fakecuda_left")
    }

    fn failed(&self) -> Option<String> {
        // SAFETY: the stand-in declares it so.
        let function = unsafe { self.0.get::<extern "C" fn() -> *const c_char>(b"fakecuda_failed") }.unwrap();
        let name = function();
        // SAFETY: not null, so it is a string that is never freed.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }
}

/// `target[i] = source[i] + 1`, four floats.
struct AddOne;

impl Kernel for AddOne {
    type Params = SelfTestParams;
    const NAME: &'static str = "add_one";

    unsafe fn host(_: &SelfTestParams, _: &Workers) {}

    fn cost(_: &SelfTestParams) -> Cost {
        Cost::default()
    }

    fn launches(params: &SelfTestParams, target: Target) -> Launches {
        self_test::launches(params, target)
    }
}

fn open() -> Result<Device<Cuda>> {
    open_as(config())
}

fn open_as(config: CudaConfig) -> Result<Device<Cuda>> {
    Device::open(Cuda::new(config)?, Ledger::new(1 << 30), Ledger::new(1 << 20))
}

/// Pages of memory, ready for use.
fn memory(device: &Device<Cuda>, pages: u64) -> Result<Reservation<Cuda>> {
    let range = device.reserve(pages * PAGE)?;
    range.map(0, &device.create(Purpose::Activations, pages * PAGE)?)?;
    range.set_access(0, pages * PAGE)?;
    Ok(range)
}

fn floats<'a>(range: &Reservation<Cuda>, page: u64, stream: &Stream<Cuda>) -> View<'a> {
    let address = range.address().offset(page * PAGE);
    // SAFETY: the tests map what they view and wait for their streams before they unmap it.
    unsafe { View::new(address, Layout::contiguous(DType::F32, &[4]), stream.id()) }
}

fn add_one(stream: &Stream<Cuda>, target: View<'_>, source: View<'_>) -> Result<()> {
    let params = SelfTestParams { target: target.address().0, source: source.address().0 };
    // SAFETY: four floats are mapped at either address.
    unsafe { stream.launch::<AddOne>(&params) }
}

/// Makes every call of the driver that the backend knows, some while other work is pending, and gives up at the first error.
fn program() -> Result<()> {
    let device = open_as(CudaConfig { table: products::table_with(0, 1), ..config() })?;
    let range = memory(&device, 2)?;
    let window = device.reserve(PAGE)?;
    let weights = device.create(Purpose::Ring, PAGE)?;
    window.map(0, &weights)?;
    window.set_access(0, PAGE)?;
    let pinned = device.pin(16)?;
    let source = std::ptr::with_exposed_provenance::<u8>(usize::try_from(pinned.address().0).unwrap());
    let file = vec![1_f32; 4096];
    let grant = device.host_ledger().grant(Purpose::Pinned, 4 * 4096)?;
    // SAFETY: `file` outlives the registration.
    let registered = unsafe { device.register(file.as_ptr().cast(), grant) }?;
    let (compute, copy) = (device.stream(StreamKind::Compute)?, device.stream(StreamKind::Copy)?);
    let (filled, used) = (device.event()?, device.event()?);
    let (a, b) = (floats(&range, 0, &compute), floats(&range, 1, &compute));
    for _ in 0..2 {
        copy.wait(&used)?;
        // SAFETY: the target is mapped and the source pinned until the streams, dropped first, have done their work.
        unsafe { copy.copy_from_host(window.address(), source, 16) }?;
        copy.record(&filled)?;
        compute.wait(&filled)?;
        add_one(&compute, a, floats(&window, 0, &compute))?;
        compute.record(&used)?;
        compute.copy(b, a)?;
    }
    filled.is_complete()?;
    used.synchronize()?;
    let mut graph = compute.capture(|| {
        compute.fill(a, 0)?;
        add_one(&compute, b, a)?;
        compute.record(&used)
    })?;
    // SAFETY: what the graph uses stays mapped until the read below has waited.
    unsafe { compute.replay(&mut graph) }?;
    used.synchronize()?;
    let flags = device.flags(2)?;
    let mut copies = copy.capture(|| {
        // SAFETY: as above.
        unsafe { copy.copy_from_host(window.address(), source, 16) }?;
        copy.raise(&flags, 0)?;
        copy.take(&flags, 1)
    })?;
    let mut launches = compute.capture(|| {
        compute.take(&flags, 0)?;
        add_one(&compute, a, floats(&window, 0, &compute))?;
        compute.raise(&flags, 1)
    })?;
    for _ in 0..2 {
        // SAFETY: what is in them is mapped until the streams have done their work.
        unsafe { copy.replay(&mut copies) }?;
        // SAFETY: as above.
        unsafe { compute.replay(&mut launches) }.inspect_err(|error| flags.give_up(&error.to_string()))?;
    }
    compute.upload(a, &[7_f32; 4])?;
    assert_eq!(compute.read::<f32>(b)?, Some(vec![1.0; 4]));
    special(&compute, &range)?;
    let product = products::Dense::at(range.address());
    compute.fill(products::Dense::operands(&range, &compute), 0)?;
    product.multiply(&compute)?;
    assert_eq!(device.backend().algorithms(&product.product(), 8)?.len(), 1);
    copy.synchronize()?;
    window.unmap(0, PAGE)?;
    assert_eq!(device.host_ledger().granted_bytes(), 16 + 8 + 4 * 4096);
    drop((
        graph, copies, launches, flags, compute, copy, filled, used, pinned, registered, window, weights,
        range,
    ));
    device.take_deferred()
}

/// Launches with tensor maps and much shared memory, and with leave to overlap.
fn special(compute: &Stream<Cuda>, range: &Reservation<Cuda>) -> Result<()> {
    let first = range.address().0;
    let params = |out| ProductParams { x: first, out, count: 0, padding: 0 };
    let layout = Layout::contiguous(DType::F32, &[4096]);
    // SAFETY: a page is mapped, until the stream is done.
    compute.fill(unsafe { View::new(range.address(), layout, compute.id()) }, 0)?;
    // SAFETY: two matrices of 8 KiB, and behind them four parts of 1 KiB, are mapped and written.
    unsafe { compute.launch::<Product>(&params(first + PAGE)) }?;
    // SAFETY: as above.
    unsafe { compute.launch::<Overlap<0>>(&params(first + 1024)) }
}

/// Calls with sizes, addresses or names, which are in their errors.
const NUMBERED: [&str; 26] = [
    "cuFuncSetAttribute",
    "cuLaunchKernelEx",
    "cuTensorMapEncodeTiled",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRetain",
    "cuFuncLoad",
    "cuLaunchKernel",
    "cuMemAddressFree",
    "cuMemAddressReserve",
    "cuMemAlloc",
    "cuMemHostAlloc",
    "cuMemHostRegister",
    "cuMemHostUnregister",
    "cuMemMap",
    "cuMemRelease",
    "cuMemSetAccess",
    "cuMemUnmap",
    "cuMemcpyDtoDAsync",
    "cuMemcpyDtoHAsync",
    "cuMemcpyHtoDAsync",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuStreamBatchMemOp",
];

/// Whether an error says what was asked for, behind what the driver said.
fn asked_for(error: &Error) -> bool {
    let text = error.to_string();
    let asked = text.split_once("; ").map_or("", |(_, asked)| asked);
    text.contains("code ") && asked.contains(|letter: char| letter.is_ascii_digit())
}

/// Destroying what is empty: there is nobody to tell, and the second attempt succeeded; so is making the context current for it. And, once, looking what is in use beside this
/// program: then it is not known.
const SILENT: [&str; 18] = [
    "cuCtxSetCurrent",
    "cublasLtDestroy",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatrixLayoutDestroy",
    "cuCtxSynchronize",
    "cuDevicePrimaryCtxRelease",
    "cuEventDestroy",
    "cuEventSynchronize",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuMemFree",
    "cuMemFreeHost",
    "cuMemGetInfo",
    "cuMemHostUnregister",
    "cuModuleUnload",
    "cuStreamDestroy",
    "cuStreamSynchronize",
];

/// Where the driver locks no memory of the process's own it is asked for memory of its.
#[test]
fn a_driver_that_registers_nothing_allocates() {
    let test = "a_driver_that_registers_nothing_allocates";
    inside(test, &[("FAKECUDA_REGISTER", "0")], || {
        let (control, device) = (Control::new(), open().unwrap());
        let pinned = device.pin(1 << 20).unwrap();
        assert!(control.left() > 0);
        drop(pinned);
        device.take_deferred().unwrap();
        drop(device);
        assert_eq!(control.left(), 0);
    });
}

#[test]
fn any_failed_call_is_reported_and_everything_is_released() {
    inside_with("any_failed_call_is_reported_and_everything_is_released", &[], with_products, || {
        let control = Control::new();
        control.fail(u64::MAX, false);
        program().unwrap();
        let calls = control.calls();
        assert_eq!(control.left(), 0);
        assert!(calls > 370, "{calls} calls");
        let (mut reported, mut silent, mut numbered) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        for after in [false, true] {
            for call in 0..calls {
                control.fail(call, after);
                let outcome = program();
                let name = control.failed().expect("the call was made");
                assert_eq!(control.left(), 0, "call {call}, {name} (after: {after}): {outcome:?}");
                match outcome {
                    Ok(()) => silent.push(name),
                    Err(Error::OutOfMemory { .. }) if name == "cuMemCreate" => drop(reported.insert(name)),
                    Err(error @ (Error::Driver { .. } | Error::Stream(_) | Error::Product { .. })) => {
                        numbered.extend(asked_for(&error).then(|| name.clone()));
                        reported.insert(name);
                    }
                    Err(other) => panic!("call {call}, {name}: {other}"),
                }
            }
        }
        println!("{calls} calls; reported: {reported:?}; silent: {silent:?}; with numbers: {numbered:?}");
        for name in NUMBERED {
            assert!(numbered.contains(name), "{name} was refused without a word about what it was asked for");
        }
        assert!(silent.iter().all(|name| SILENT.contains(&name.as_str())), "unreported: {silent:?}");
        // Of two ways to fail, each once: the last look of a stream (of three: one runs the table's products), the staging memory, that of the flags, and each event of the former.
        let count = |wanted: &str| silent.iter().filter(|name| *name == wanted).count();
        assert!(count("cuStreamSynchronize") <= 6 && count("cuMemFreeHost") <= 2, "{silent:?}");
        assert!(count("cuMemHostUnregister") <= 2 && count("cuMemGetInfo") <= 2, "{silent:?}");
        let silent = silent.iter().map(String::as_str);
        let failed: BTreeSet<&str> = reported.iter().map(String::as_str).chain(silent).collect();
        let never: Vec<String> = calls_of_the_backend().filter(|name| !failed.contains(&**name)).collect();
        assert!(
            never.iter().all(|name| NEVER_FAILED.contains(&name.as_str())),
            "made to fail nowhere: {never:?}"
        );
    });
}

/// What words an error has; what is only called to look; the last resort of a wait that was refused twice; the times of a recording, which have a test of their own.
const NEVER_FAILED: [&str; 6] = [
    "cuCtxSynchronize",
    "cuDeviceTotalMem",
    "cuEventElapsedTime",
    "cuGetErrorString",
    "cublasLtGetStatusString",
    "cublasLtGetVersion",
];

/// The functions of the driver and of cuBLASLt that the backend's source calls.
fn calls_of_the_backend() -> impl Iterator<Item = String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda");
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for (before, _) in text.match_indices("(") {
            let name =
                text[..before].rsplit(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').next();
            let name = name.unwrap_or_default();
            let place = &text[..before - name.len()];
            let is_call = place.ends_with("sys::") || place.ends_with("blas::");
            if is_call && (name.starts_with("cu") || name.starts_with("cublas")) {
                names.insert(name.trim_end_matches("_v2").to_owned());
            }
        }
    }
    assert!(names.len() > 60, "{names:?}");
    names.into_iter()
}

/// A moment that cannot be recorded or read has no time, and ends nothing; what is recorded is done all the same.
#[test]
fn recording_whose_calls_fail_has_less_to_tell() {
    inside("recording_whose_calls_fail_has_less_to_tell", &[], || {
        let control = Control::new();
        let recorded = || -> Result<bool> {
            let device = open()?;
            let (range, stream) = (memory(&device, 1)?, device.stream(StreamKind::Compute)?);
            let a = floats(&range, 0, &stream);
            device.record(Detail::Everything);
            stream.fill(a, 0)?;
            add_one(&stream, a, a)?;
            let is_done = stream.read::<f32>(a)? == Some(vec![1.0; 4]);
            drop(device.take_recording());
            Ok(is_done)
        };
        control.fail(u64::MAX, false);
        assert_eq!(recorded(), Ok(true));
        let mut failed = BTreeSet::new();
        for call in 0..control.calls() {
            control.fail(call, false);
            let outcome = recorded();
            let name = control.failed().expect("the call was made");
            assert!(!matches!(outcome, Ok(false)), "call {call}, {name}");
            assert_eq!(control.left(), 0, "call {call}, {name}: {outcome:?}");
            failed.insert(name);
        }
        assert!(failed.contains("cuEventElapsedTime"), "{failed:?}");
    });
}

/// Takes memory of every kind and gives it back.
fn memory_program() -> Result<()> {
    let device = open()?;
    let (range, window) = (memory(&device, 2)?, device.reserve(PAGE)?);
    window.map(0, &device.create(Purpose::Ring, PAGE)?)?;
    let pinned = device.pin(512 << 10)?;
    let file = vec![1_f32; 4096];
    let grant = device.host_ledger().grant(Purpose::Pinned, 4 * 4096)?;
    // SAFETY: `file` outlives the registration.
    let registered = unsafe { device.register(file.as_ptr().cast(), grant) }?;
    window.unmap(0, PAGE)?;
    drop((pinned, registered, window, range));
    device.take_deferred()
}

/// What the driver refuses to take back even when it is asked again goes with the device.
#[test]
fn memory_that_is_not_taken_back_goes_with_the_device() {
    inside("memory_that_is_not_taken_back_goes_with_the_device", &[], || {
        let control = Control::new();
        control.fail(u64::MAX, false);
        memory_program().unwrap();
        let mut refused = BTreeSet::new();
        for call in 0..control.calls() {
            let before = control.left();
            control.fail_twice(call);
            let outcome = memory_program();
            let name = control.failed().expect("the call was made");
            // Of streams and events nobody keeps a book.
            if ["cuMemUnmap", "cuMemAddressFree", "cuMemRelease", "cuMemHostUnregister"].contains(&&*name) {
                outcome.expect_err(&name);
                assert_eq!(control.left(), before, "call {call}, {name}");
                refused.insert(name);
            }
        }
        assert_eq!(refused.len(), 4, "{refused:?}");
    });
}

/// A release asks for the context a second time, as a wait does: what it was to give back is gone from the device, and the first refusal is reported.
#[test]
fn memory_is_given_back_where_the_context_is_refused_once() {
    inside("memory_is_given_back_where_the_context_is_refused_once", &[], || {
        let (control, file) = (Control::new(), vec![1_f32; 4096]);
        let given_back = |call: u64| -> Result<(Option<String>, u64)> {
            let device = open()?;
            let (range, window) = (memory(&device, 2)?, device.reserve(PAGE)?);
            window.map(0, &device.create(Purpose::Ring, PAGE)?)?;
            let pinned = device.pin(512 << 10)?;
            let grant = device.host_ledger().grant(Purpose::Pinned, 4 * 4096)?;
            // SAFETY: `file` outlives the registration.
            let registered = unsafe { device.register(file.as_ptr().cast(), grant) }?;
            control.fail(call, false);
            drop((pinned, registered, window, range));
            let (failed, calls) = (control.failed(), control.calls());
            assert_eq!(device.backend().usage(), Usage::default(), "call {call}, {failed:?}");
            assert_eq!(device.take_deferred().is_err(), failed.is_some(), "call {call}, {failed:?}");
            Ok((failed, calls))
        };
        let (_, calls) = given_back(u64::MAX).unwrap();
        let refused = (0..calls).map(|call| given_back(call).unwrap().0.expect("the call was made"));
        let of_contexts = refused.filter(|name| name == "cuCtxSetCurrent").count();
        // Two chunks, two maps, two reservations, pinned memory and a registration.
        assert_eq!(of_contexts, 8);
    });
}

/// The same of page-locked memory that the driver allocates, where it locks none of the process's own.
#[test]
fn page_locked_memory_that_is_not_taken_back_goes_with_the_device() {
    let test = "page_locked_memory_that_is_not_taken_back_goes_with_the_device";
    inside(test, &[("FAKECUDA_REGISTER", "0")], || {
        let control = Control::new();
        let pin = || {
            let device = open()?;
            let pinned = device.pin(512 << 10)?;
            drop(pinned);
            device.take_deferred()
        };
        control.fail(u64::MAX, false);
        pin().unwrap();
        let mut refused = 0;
        for call in 0..control.calls() {
            let before = control.left();
            control.fail_twice(call);
            let outcome = pin();
            let name = control.failed().expect("the call was made");
            // The staging memory, which goes last, is in no book.
            if let ("cuMemFreeHost", Err(error)) = (&*name, outcome) {
                assert!(error.to_string().contains("524288 bytes at 0x"), "{error}");
                assert_eq!(control.left(), before, "call {call}");
                refused += 1;
            }
        }
        assert_eq!(refused, 1);
    });
}

#[test]
fn failed_work_ends_the_context_and_is_reported_everywhere() {
    inside_with("failed_work_ends_the_context_and_is_reported_everywhere", &[], with_products, || {
        let control = Control::new();
        let device = open().unwrap();
        let range = memory(&device, 1).unwrap();
        let (bad, other) =
            (device.stream(StreamKind::Compute).unwrap(), device.stream(StreamKind::Copy).unwrap());
        let event = device.event().unwrap();
        let params = SelfTestParams { target: 64, source: range.address().0 };
        // SAFETY: none: the address is nobody's, which is what this is about. The stand-in checks it.
        unsafe { bad.launch::<AddOne>(&params) }.unwrap();
        bad.record(&event).unwrap();
        let stream_failed = |outcome: Result<()>| match outcome {
            Err(Error::Stream(text)) => {
                assert!(text.contains("CUDA_ERROR_ILLEGAL_ADDRESS (an illegal"), "{text}");
            }
            outcome => panic!("{outcome:?}"),
        };
        stream_failed(event.synchronize());
        stream_failed(event.is_complete().map(drop));
        stream_failed(bad.synchronize());
        let view = floats(&range, 0, &other);
        stream_failed(other.upload(view, &[0_f32; 4]));
        stream_failed(other.read::<f32>(view).map(drop));
        stream_failed(other.record(&event));
        stream_failed(other.wait(&event));
        drop((range, bad, other, event));
        drop(device);
        assert_eq!(control.left(), 0);
        program().expect("a new context knows nothing of the old one");
    });
}

fn refused(config: CudaConfig) -> String {
    match Cuda::new(config) {
        Err(Error::NoDevice { backend: "cuda", reason }) => reason,
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn old_driver_is_one_error_with_both_versions() {
    inside("old_driver_is_one_error_with_both_versions", &[("FAKECUDA_DRIVER", "12090")], || {
        let reason = refused(config());
        for words in ["CUDA 12.9", "need 13.0", "580"] {
            assert!(reason.contains(words), "{reason}");
        }
    });
}

#[test]
fn old_card_is_named_by_its_capability() {
    inside("old_card_is_named_by_its_capability", &[("FAKECUDA_CAPABILITY", "7.5")], || {
        let reason = refused(config());
        let words = ["stand-in GPU has compute capability 7.5, for which there are no kernels", "8.0, 8.6"];
        assert!(words.iter().all(|words| reason.contains(words)), "{reason}");
    });
}

#[test]
fn card_without_virtual_memory_is_refused() {
    inside("card_without_virtual_memory_is_refused", &[("FAKECUDA_VMM", "0")], || {
        let reason = refused(config());
        assert!(reason.starts_with("stand-in GPU has no virtual memory management"), "{reason}");
    });
}

/// Nothing has run before the driver is started: no code is said to be of earlier work.
#[test]
fn driver_that_does_not_start_says_so() {
    inside("driver_that_does_not_start_says_so", &[("FAKECUDA_INIT", "999")], || {
        let error = Cuda::new(config()).unwrap_err();
        assert!(matches!(error, Error::Driver { call: "cuInit", code: 999, .. }), "{error:?}");
        assert!(error.to_string().contains("nvidia-smi"), "{error}");
        let status = lighterage_device::cuda::probe();
        assert!(matches!(&status, CudaStatus::Failed { reason } if reason.contains("code 999")), "{status}");
    });
}

/// As where `CUDA_VISIBLE_DEVICES` is empty.
#[test]
fn driver_without_devices_is_no_device() {
    inside("driver_without_devices_is_no_device", &[("FAKECUDA_DEVICES", "0")], || {
        let reason = refused(config());
        assert!(reason.contains("finds none") && reason.contains("CUDA_VISIBLE_DEVICES"), "{reason}");
        let status = lighterage_device::cuda::probe();
        assert_eq!(status, CudaStatus::Ready { version: (13, 0), devices: Vec::new() });
    });
}

/// The second of two, whose memory is its own.
#[test]
fn device_is_taken_by_its_number() {
    let two = [("FAKECUDA_DEVICES", "2"), ("FAKECUDA_CAPABILITY", "7.5,12.0")];
    inside("device_is_taken_by_its_number", &two, || {
        assert!(refused(config()).contains("7.5"));
        let second = CudaConfig { ordinal: 1, ..config() };
        let device = open_as(second).unwrap();
        assert_eq!(device.backend().target().arch, Arch::Sm120a);
        let (range, stream) = (memory(&device, 1).unwrap(), device.stream(StreamKind::Compute).unwrap());
        let a = floats(&range, 0, &stream);
        stream.upload(a, &[1_f32; 4]).unwrap();
        add_one(&stream, a, a).unwrap();
        assert_eq!(stream.read::<f32>(a).unwrap(), Some(vec![2.0; 4]));
        drop((range, stream, device));
        assert_eq!(Control::new().left(), 0);
    });
}

/// Which images a card gets: by its capability alone.
#[test]
fn cards_take_their_own_images() {
    for (name, arch) in [
        ("8.0", Arch::Sm80),
        ("8.6", Arch::Sm86),
        ("8.9", Arch::Sm89),
        ("9.0", Arch::Sm90a),
        ("10.0", Arch::Sm100a),
        ("12.0", Arch::Sm120a),
    ] {
        inside("cards_take_their_own_images", &[("FAKECUDA_CAPABILITY", name), ("CARD", name)], || {
            if std::env::var("CARD").is_ok_and(|card| card == name) {
                assert_eq!(Cuda::new(config()).unwrap().target().arch, arch);
            }
        });
    }
}

#[test]
fn devices_are_counted() {
    inside("devices_are_counted", &[("FAKECUDA_DEVICES", "2")], || {
        assert!(refused(CudaConfig { ordinal: 2, ..config() }).contains("no device 2, the driver has 2"));
        assert!(refused(CudaConfig { ordinal: u32::MAX, ..config() }).contains("no device"));
        let cuda = Cuda::new(config()).unwrap();
        assert_eq!((cuda.kernels(), cuda.target().arch), (IMAGES[0].kernels.len(), Arch::Sm90a));
    });
}

#[test]
fn program_without_images_says_so() {
    inside("program_without_images_says_so", &[("FAKECUDA_CAPABILITY", "8.6")], || {
        assert!(refused(CudaConfig { images: &[], ..config() }).contains("built without kernels"));
        static HOPPER: [Image; 1] = [Image::new("hopper", &BYTES.0, &["self_test_add_one"], &[Arch::Sm90a])];
        assert!(refused(CudaConfig { images: &HOPPER, ..config() }).contains("without kernels for sm_86"));
        static GONE: [Image; 1] = [Image::new("gone", &BYTES.0, &["nobody"], &Arch::ALL)];
        let missing = Cuda::new(CudaConfig { images: &GONE, ..config() });
        assert!(matches!(missing, Err(Error::Driver { call: "cuModuleGetFunction", .. })), "{missing:?}");
        assert_eq!(Control::new().left(), 0);
    });
}

#[test]
fn budget_below_what_the_driver_takes_is_refused_at_once() {
    inside("budget_below_what_the_driver_takes_is_refused_at_once", &[], || {
        let taken = |ledger: &Ledger| {
            [Purpose::Context, Purpose::Modules].map(|purpose| ledger.granted_for(purpose) >> 20)
        };
        let ledger = Ledger::new(1 << 30);
        let device = Device::open(Cuda::new(config()).unwrap(), ledger.clone(), Ledger::new(0)).unwrap();
        // What the stand-in says of itself: 64 MiB for a context, 2 MiB for a module.
        assert_eq!(taken(&ledger), [64, 2]);
        drop(device);
        assert_eq!(ledger.granted_bytes(), 0);
        let small = Ledger::new((66 << 20) - 1);
        let outcome = Device::open(Cuda::new(config()).unwrap(), small.clone(), Ledger::new(0));
        let error = outcome.expect_err("a byte is missing").to_string();
        assert!(error.contains("1 bytes missing") && error.contains("context 67108864"), "{error}");
        assert_eq!((small.granted_bytes(), Control::new().left()), (0, 0));
    });
}

/// The stand-in loads the code of kernels when they are first launched, as a driver does, unless it is told before.
#[test]
fn nothing_is_loaded_behind_the_ledgers_back() {
    inside_with("nothing_is_loaded_behind_the_ledgers_back", &[], with_products, || {
        for table in [ProductTable::EMPTY, products::table(1)] {
            let device = open_as(CudaConfig { table, ..config() }).unwrap();
            let (free, _) = device.backend().memory_bytes().unwrap();
            {
                let range = memory(&device, 1).unwrap();
                let stream = device.stream(StreamKind::Compute).unwrap();
                let a = floats(&range, 0, &stream);
                stream.upload(a, &[0_f32; 4]).unwrap();
                add_one(&stream, a, a).unwrap();
                products::check(&device, |_| ());
                assert_eq!(device.unaccounted_bytes(), Some(0));
                // What the ledger does not know of is seen.
                let other = device.backend().create(3 * PAGE).unwrap();
                assert_eq!(device.unaccounted_bytes(), Some(3 * PAGE as i64));
                // SAFETY: it is mapped nowhere.
                unsafe { device.backend().destroy(other) }.unwrap();
            }
            assert_eq!(device.backend().memory_bytes().unwrap().0, free);
        }
    });
}

/// Operands larger than the page that stands behind all of them, of a line that no run uses; one that no device can hold is left out.
#[test]
fn products_of_any_size_are_tried_on_one_page() {
    inside_with("products_of_any_size_are_tried_on_one_page", &[], with_products, || {
        let lines = ["8 16 200000 plain", "8 16 32 bias", "4000000000 4000000000 8 plain"];
        let device =
            open_as(CudaConfig { table: products::table_of(0, 8 << 20, &lines), ..config() }).unwrap();
        assert_eq!(Control::new().number(b"fakecuda_products"), 2);
        assert_eq!(device.backend().usage(), Usage::default());
        drop(device);
        assert_eq!(Control::new().left(), 0);
    });
}

#[test]
fn many_staged_copies_may_be_under_way() {
    inside("many_staged_copies_may_be_under_way", &[], || {
        let device = open().unwrap();
        let range = memory(&device, 12).unwrap();
        let stream = device.stream(StreamKind::Compute).unwrap();
        // The stand-in copies when somebody waits: a source that is not taken would be the last one.
        let mut values = [0_f32; 4];
        for page in 0..12_u8 {
            values.fill(f32::from(page));
            stream.upload(floats(&range, page.into(), &stream), &values).unwrap();
        }
        for page in 0..12_u8 {
            let read = stream.read::<f32>(floats(&range, page.into(), &stream)).unwrap();
            assert_eq!(read, Some(vec![f32::from(page); 4]));
        }
    });
}

#[test]
fn graph_is_replayed_and_records_its_events() {
    inside("graph_is_replayed_and_records_its_events", &[], || {
        let device = open().unwrap();
        let range = memory(&device, 1).unwrap();
        let (stream, other) =
            (device.stream(StreamKind::Compute).unwrap(), device.stream(StreamKind::Copy).unwrap());
        let (a, event) = (floats(&range, 0, &stream), device.event().unwrap());
        stream.upload(a, &[0_f32; 4]).unwrap();
        let mut graph = stream
            .capture(|| {
                stream.wait(&event)?;
                add_one(&stream, a, a)?;
                stream.record(&event)
            })
            .unwrap();
        assert_eq!(stream.read::<f32>(a).unwrap(), Some(vec![0.0; 4]), "recorded, not done");
        for _ in 0..3 {
            // SAFETY: what the graph uses stays mapped until the reads have waited.
            unsafe { stream.replay(&mut graph) }.unwrap();
        }
        assert_eq!(stream.read::<f32>(a).unwrap(), Some(vec![3.0; 4]));
        other.wait(&event).unwrap();
        other.synchronize().unwrap();
        // What cannot be recorded spoils the recording, and the stream goes on.
        let staged = stream.capture(|| stream.upload(a, &[0_f32; 4])).expect_err("staged");
        assert!(matches!(staged, Error::Range { reason: "a staged copy cannot be part of a graph", .. }));
        stream.capture(|| stream.synchronize()).expect_err("a wait cannot be recorded");
        let panicked = catch_unwind(AssertUnwindSafe(|| stream.capture(|| panic!("planted"))));
        assert!(panicked.is_err(), "and the stream records no more:");
        stream.upload(a, &[3_f32; 4]).unwrap();
        assert_eq!(stream.read::<f32>(a).unwrap(), Some(vec![3.0; 4]));
        drop((range, graph, stream, other, event, device));
        assert_eq!(Control::new().left(), 0);
    });
}

/// Two streams that are stuck, by graphs that wait for each other the wrong way round or by a flag that nobody raises, are let go by the host that waits for them.
#[test]
fn streams_that_stand_still_are_let_go_with_an_error() {
    inside("streams_that_stand_still_are_let_go_with_an_error", &[], || {
        // Of the same context, for what has to go on however long this machine takes between two looks.
        let patient = open().unwrap();
        // Shorter than any time between two looks: how loaded the machine is decides nothing.
        let flag_patience = Duration::from_micros(1);
        let device = open_as(CudaConfig { flag_patience, ..config() }).unwrap();
        let flags = device.flags(4).unwrap();
        let streams = [StreamKind::Compute, StreamKind::Copy].map(|kind| device.stream(kind).unwrap());
        let event = device.event().unwrap();
        let crossed = |me: usize| {
            let stream = &streams[me];
            stream.capture(|| {
                stream.take(&flags, 1 - me)?;
                stream.raise(&flags, me)
            })
        };
        streams[0].raise(&flags, 3).unwrap();
        for (me, stream) in streams.iter().enumerate() {
            let mut graph = crossed(me).unwrap();
            // SAFETY: nothing in it touches memory.
            unsafe { stream.replay(&mut graph) }.unwrap();
        }
        streams[1].record(&event).unwrap();
        let error = event.synchronize().unwrap_err();
        let words = "no flag changed for 0.000001 s while work was pending; raised are 3 of 4";
        assert_eq!(error, Error::Stream(words.to_owned()));
        for stream in &streams {
            assert_eq!(stream.synchronize().unwrap_err(), error, "and nothing is pending any more");
            assert_eq!(stream.raise(&flags, 0).unwrap_err(), error);
        }
        drop((flags, streams, event));
        // The context is whole: only those flags are of no use.
        let (flags, stream) = (patient.flags(1).unwrap(), patient.stream(StreamKind::Compute).unwrap());
        stream.raise(&flags, 0).unwrap();
        stream.take(&flags, 0).unwrap();
        stream.synchronize().unwrap();
        stream.take(&flags, 0).unwrap();
        flags.give_up("nobody will raise it");
        assert_eq!(stream.synchronize(), Err(Error::Stream("nobody will raise it".to_owned())));
        drop((flags, stream, device, patient));
        assert_eq!(Control::new().left(), 0);
    });
}

/// The raw layer tracks nothing, and still a stream has what its work needs, kernels too, when the device goes first.
#[test]
fn kernels_outlive_a_device_that_is_dropped_before_its_stream() {
    inside("kernels_outlive_a_device_that_is_dropped_before_its_stream", &[], || {
        let cuda = Cuda::new(config()).unwrap();
        let (at, chunk) = (cuda.reserve(PAGE).unwrap(), cuda.create(PAGE).unwrap());
        // SAFETY: a free page of the reservation.
        unsafe { cuda.map(at, chunk, PAGE) }.unwrap();
        // SAFETY: it is mapped.
        unsafe { cuda.set_access(at, PAGE) }.unwrap();
        let stream = cuda.stream(StreamKind::Compute).unwrap();
        // SAFETY: the page stays mapped as long as the stream has it.
        unsafe { cuda.fill(&stream, at, 0, PAGE) }.unwrap();
        // SAFETY: as above.
        unsafe { cuda.launch::<AddOne>(&stream, &SelfTestParams { target: at.0, source: at.0 }) }.unwrap();
        drop(cuda);
        drop(stream);
        assert_eq!(Control::new().left(), 0);
    });
}

#[test]
fn workspace_outlives_a_device_that_is_dropped_before_its_stream() {
    let test = "workspace_outlives_a_device_that_is_dropped_before_its_stream";
    inside_with(test, &[], with_products, || {
        let cuda = Cuda::new(CudaConfig { table: products::table(2), ..config() }).unwrap();
        let products = || Control::new().number(b"fakecuda_products");
        let (at, chunk) = (cuda.reserve(PAGE).unwrap(), cuda.create(PAGE).unwrap());
        // SAFETY: a free page of the reservation.
        unsafe { cuda.map(at, chunk, PAGE) }.unwrap();
        // SAFETY: it is mapped.
        unsafe { cuda.set_access(at, PAGE) }.unwrap();
        let stream = cuda.stream(StreamKind::Compute).unwrap();
        // SAFETY: the page stays mapped as long as the stream has it.
        unsafe { cuda.fill(&stream, at, 0, PAGE) }.unwrap();
        let before = products();
        products::Dense::at(at).multiply_on(&cuda, &stream).unwrap();
        drop(cuda);
        assert_eq!(products(), before, "nobody has waited for it");
        drop(stream);
        assert_eq!((products(), Control::new().left()), (before + 1, 0));
    });
}

/// What one thread queues, in graphs and outside of them, while another waits for the stream: the wait lets nothing go of which it has not seen the end, also where nobody else keeps it.
#[test]
fn flags_of_what_is_queued_beside_a_wait_live_until_it_is_done() {
    let slow = [("FAKECUDA_SLOW", "cuStreamBatchMemOp,cuGraphLaunch")];
    inside("flags_of_what_is_queued_beside_a_wait_live_until_it_is_done", &slow, || {
        let device = open().unwrap();
        let stream = device.stream(StreamKind::Compute).unwrap();
        let is_over = AtomicBool::new(false);
        let queued = |number: usize| {
            let flags = device.flags(1)?;
            if number.is_multiple_of(2) {
                return stream.raise(&flags, 0);
            }
            let other = device.stream(StreamKind::Copy)?;
            let mut graph = other.capture(|| other.raise(&flags, 0))?;
            // SAFETY: nothing in it touches memory.
            unsafe { stream.replay(&mut graph) }
        };
        let (queued, waited) = thread::scope(|scope| {
            let waits = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    stream.synchronize()?;
                }
                stream.synchronize()
            });
            let queued = (0..100).try_for_each(queued);
            is_over.store(true, Ordering::Relaxed);
            (queued, waits.join().unwrap())
        });
        assert_eq!((queued, waited), (Ok(()), Ok(())));
        drop((stream, device));
        assert_eq!(Control::new().left(), 0);
    });
}

/// A wait that is refused, because the stream records, has not waited: what is queued before the recording still uses its flags.
#[test]
fn flags_of_what_is_queued_before_a_recording_outlive_a_wait_that_is_refused() {
    inside("flags_of_what_is_queued_before_a_recording_outlive_a_wait_that_is_refused", &[], || {
        let device = open().unwrap();
        let stream = device.stream(StreamKind::Compute).unwrap();
        let flags = device.flags(1).unwrap();
        stream.raise(&flags, 0).unwrap();
        drop(flags);
        stream.capture(|| stream.synchronize()).expect_err("a wait cannot be recorded");
        assert_eq!(stream.synchronize(), Ok(()));
        drop((stream, device));
        assert_eq!(Control::new().left(), 0);
    });
}

/// The last owner of memory goes while the stream records: nobody can wait for what is queued before, and the memory goes when that is done.
#[test]
fn memory_that_goes_while_a_stream_records_is_kept_for_queued_work() {
    inside("memory_that_goes_while_a_stream_records_is_kept_for_queued_work", &[], || {
        let device = open().unwrap();
        let (range, stream) = (memory(&device, 1).unwrap(), device.stream(StreamKind::Compute).unwrap());
        let before = device.ledger().granted_for(Purpose::Activations);
        let granted = || device.ledger().granted_for(Purpose::Activations);
        stream.upload(floats(&range, 0, &stream), &[1_f32; 4]).unwrap();
        let mut meanwhile = 0;
        let recorded = stream.capture(|| {
            stream.drop_when_done(range);
            meanwhile = granted();
            Ok(())
        });
        recorded.expect("the recording goes on");
        assert_eq!((before, meanwhile, granted()), (PAGE, PAGE, 0));
        // The stand-in has done what was queued, or the memory would not have been there for it.
        assert_eq!(stream.synchronize(), Ok(()));
        // Whoever is not recorded waits.
        let range = memory(&device, 1).unwrap();
        stream.upload(floats(&range, 0, &stream), &[1_f32; 4]).unwrap();
        stream.drop_when_done(range);
        assert_eq!((granted(), stream.synchronize()), (0, Ok(())));
        drop((stream, device));
        assert_eq!(Control::new().left(), 0);
    });
}

/// Each device knows its own memory, and the host that waits for its streams looks at its own flags.
#[test]
fn flags_of_another_device_are_refused() {
    inside("flags_of_another_device_are_refused", &[], || {
        let (device, other) = (open().unwrap(), open().unwrap());
        let (flags, stream) = (other.flags(1).unwrap(), device.stream(StreamKind::Compute).unwrap());
        let refused = |call| Err(Error::OtherDevice { call, what: "flags", used_on: stream.id() });
        assert_eq!(stream.raise(&flags, 0), refused("raise"));
        assert_eq!(stream.take(&flags, 0), refused("take"));
        assert_eq!(stream.synchronize(), Ok(()));
    });
}

/// Their words are page-locked as long as a graph or queued work may use them, and the ledger knows.
#[test]
fn flags_are_charged_until_no_work_uses_them() {
    inside("flags_are_charged_until_no_work_uses_them", &[], || {
        let device = open().unwrap();
        let (flags, stream) = (device.flags(3).unwrap(), device.stream(StreamKind::Compute).unwrap());
        let books = || (device.host_ledger().granted_bytes(), device.backend().usage().pins);
        let mut graph = stream.capture(|| stream.raise(&flags, 2)).unwrap();
        drop(flags);
        assert_eq!(books(), (12, 1), "of the graph");
        // SAFETY: nothing in it touches memory.
        unsafe { stream.replay(&mut graph) }.unwrap();
        drop(graph);
        assert_eq!(books(), (12, 1), "of its replay");
        stream.synchronize().unwrap();
        assert_eq!(books(), (0, 0));
        let flags = device.flags(3).unwrap();
        stream.raise(&flags, 0).unwrap();
        drop(flags);
        assert_eq!(books(), (12, 1), "of queued work");
        stream.synchronize().unwrap();
        assert_eq!(books(), (0, 0));
    });
}

/// A graph within a graph would not keep what the inner one refers to.
#[test]
fn replays_are_no_part_of_a_recording() {
    inside("replays_are_no_part_of_a_recording", &[], || {
        let device = open().unwrap();
        let stream = device.stream(StreamKind::Compute).unwrap();
        let flags = device.flags(1).unwrap();
        let mut inner = stream.capture(|| stream.raise(&flags, 0)).unwrap();
        // SAFETY: nothing in it touches memory.
        stream.capture(|| unsafe { stream.replay(&mut inner) }).expect_err("a replay cannot be recorded");
        drop((inner, flags));
        assert_eq!(stream.synchronize(), Ok(()));
        drop((stream, device));
        assert_eq!(Control::new().left(), 0);
    });
}

/// What one thread queues while another begins and ends recordings of the same stream is in one of them, which keeps its flags, or outside of all.
#[test]
fn flags_of_what_is_queued_beside_a_recording_live_as_long_as_its_graph() {
    let slow = [("FAKECUDA_SLOW", "cuStreamEndCapture,cuStreamBatchMemOp")];
    inside("flags_of_what_is_queued_beside_a_recording_live_as_long_as_its_graph", &slow, || {
        let device = open().unwrap();
        let stream = device.stream(StreamKind::Compute).unwrap();
        let is_over = AtomicBool::new(false);
        let outcome = thread::scope(|scope| {
            let queues = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    stream.raise(&device.flags(1)?, 0)?;
                }
                Ok(())
            });
            let replayed = (0..50).try_for_each(|_| {
                let mut graph = stream.capture(|| Ok(()))?;
                stream.synchronize()?;
                // SAFETY: nothing in it touches memory.
                unsafe { stream.replay(&mut graph) }?;
                stream.synchronize()
            });
            is_over.store(true, Ordering::Relaxed);
            replayed.and(queues.join().unwrap())
        });
        assert_eq!(outcome, Ok(()));
        drop((stream, device));
        assert_eq!(Control::new().left(), 0);
    });
}

/// As on `Host`: a read that is refused because another thread records has left nothing under way that writes to where it was to go.
#[test]
fn reads_beside_a_recording_are_done_or_refused() {
    let slow = [("FAKECUDA_SLOW", "cuStreamSynchronize,cuStreamEndCapture")];
    inside("reads_beside_a_recording_are_done_or_refused", &slow, || {
        let device = open().unwrap();
        let range = memory(&device, 1).unwrap();
        let stream = device.stream(StreamKind::Compute).unwrap();
        let page = floats(&range, 0, &stream);
        stream.upload(page, &[7_f32; 4]).unwrap();
        let is_over = AtomicBool::new(false);
        let read = |round: usize| {
            let mut target = [0_f32; 4];
            let outcome = stream.read_into(&mut target, page);
            // The stand-in does what is left over now.
            while outcome.is_err() && stream.synchronize().is_err() {}
            let found = *std::hint::black_box(&mut target);
            let expected = if outcome.is_ok() { 7.0 } else { 0.0 };
            if found == [expected; 4] { Ok(()) } else { Err((round, outcome, found)) }
        };
        let reads = thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = stream.capture(|| Ok(()));
                    thread::sleep(Duration::from_micros(100));
                }
            });
            let reads = (0..200).try_for_each(read);
            is_over.store(true, Ordering::Relaxed);
            reads
        });
        assert_eq!(reads, Ok(()));
        drop((range, stream, device));
        assert_eq!(Control::new().left(), 0);
    });
}

/// `out = x y` for two 64 x 64 matrices by TMA and wgmma: one of the emulator's own kernels.
struct Product;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ProductParams {
    x: u64,
    out: u64,
    count: u32,
    padding: u32,
}

const SIZE: usize = 64;

impl Kernel for Product {
    type Params = ProductParams;
    const NAME: &'static str = "product";

    unsafe fn host(_: &ProductParams, _: &Workers) {}

    fn cost(_: &ProductParams) -> Cost {
        Cost::default()
    }

    fn launches(params: &ProductParams, _: Target) -> Launches {
        // `count` misused: a misshapen map for the test of refusals.
        let map = |address| TensorMap {
            address,
            sizes: [SIZE as u64, SIZE as u64, 0, 0, 0],
            strides: [SIZE as u64 * 2 - if params.count == 2 { 16 } else { 0 }, 0, 0, 0],
            box_sizes: [64, if params.count == 1 { 257 } else { 64 }, 0, 0, 0],
            rank: 2,
            element_bytes: 2,
            swizzle_bytes: 128,
        };
        let grid = Grid { blocks: [1, 1, 1], threads: 128, shared_bytes: 60 << 10 };
        Launches::of(&[Launch::new("test_layouts_128_kt", grid).with_maps(&[map(params.x), map(params.x)])])
    }
}

#[test]
fn tensor_maps_and_large_shared_memory_reach_the_kernel() {
    inside("tensor_maps_and_large_shared_memory_reach_the_kernel", &[], || {
        let device = open().unwrap();
        let range = memory(&device, 2).unwrap();
        let stream = device.stream(StreamKind::Compute).unwrap();
        let view = |page: u64, dtype| {
            let layout = Layout::contiguous(dtype, &[SIZE, SIZE]);
            // SAFETY: mapped until the stream is done.
            unsafe { View::new(range.address().offset(page * PAGE), layout, stream.id()) }
        };
        // The identity, in bf16: its product with its transpose is itself.
        let ones: Vec<u16> =
            (0..SIZE * SIZE).map(|index| if index % (SIZE + 1) == 0 { 0x3f80 } else { 0 }).collect();
        stream.upload(view(0, DType::Bf16), &ones).unwrap();
        let mut params =
            ProductParams { x: range.address().0, out: range.address().0 + PAGE, count: 0, padding: 0 };
        // SAFETY: both matrices are mapped.
        unsafe { stream.launch::<Product>(&params) }.unwrap();
        let out = stream.read::<f32>(view(1, DType::F32)).unwrap().unwrap();
        let expected: Vec<f32> =
            (0..SIZE * SIZE).map(|index| if index % (SIZE + 1) == 0 { 1.0 } else { 0.0 }).collect();
        assert_eq!(out, expected);
        for misshapen in [1, 2] {
            params.count = misshapen;
            // SAFETY: it is refused.
            let refused = unsafe { stream.launch::<Product>(&params) };
            assert!(
                matches!(refused, Err(Error::Driver { call: "cuTensorMapEncodeTiled", code: 1, .. })),
                "{refused:?}"
            );
        }
        let chunk: Arc<_> = device.create(Purpose::Ring, PAGE).unwrap();
        assert_eq!(chunk.bytes(), PAGE, "a refused launch leaves the device as it was");
    });
}

/// `out[b, t] = x[b ^ 1, t] + x[b, t ^ 32]` by clusters of two blocks of 128 threads: another of the emulator's own kernels. `count` blocks.
struct Neighbours;

impl Kernel for Neighbours {
    type Params = ProductParams;
    const NAME: &'static str = "neighbours";

    unsafe fn host(_: &ProductParams, _: &Workers) {}

    fn cost(_: &ProductParams) -> Cost {
        Cost::default()
    }

    fn launches(params: &ProductParams, _: Target) -> Launches {
        Launches::of(&[Launch::new("test_neighbours_0", Grid::line(params.count, 128))])
    }
}

#[test]
fn clusters_are_launched_whole() {
    inside("clusters_are_launched_whole", &[], || {
        let device = open().unwrap();
        let range = memory(&device, 2).unwrap();
        let stream = device.stream(StreamKind::Compute).unwrap();
        let view = |page: u64, count: usize| {
            let layout = Layout::contiguous(DType::F32, &[count]);
            // SAFETY: mapped until the stream is done.
            unsafe { View::new(range.address().offset(page * PAGE), layout, stream.id()) }
        };
        // Its second half is where the blocks hand each other their values.
        let x: Vec<f32> = (0..1024_u16).map(f32::from).collect();
        stream.upload(view(0, 1024), &x).unwrap();
        let params =
            |count| ProductParams { x: range.address().0, out: range.address().0 + PAGE, count, padding: 0 };
        // SAFETY: both are mapped.
        unsafe { stream.launch::<Neighbours>(&params(4)) }.unwrap();
        let out = stream.read::<f32>(view(1, 512)).unwrap().unwrap();
        let expected: Vec<f32> = (0..512).map(|index| x[index ^ 128] + x[index ^ 32]).collect();
        assert_eq!(out, expected);
        // SAFETY: it is refused.
        let refused = unsafe { stream.launch::<Neighbours>(&params(3)) };
        assert!(
            matches!(refused, Err(Error::Driver { call: "cuLaunchKernel", code: 912, .. })),
            "{refused:?}"
        );
    });
}

/// `out[i] = 2 x[i]`, and behind it, with leave to overlap, `out[n + i] = out[i] + out[2 n + i]` by a kernel that waits in time or does not.
struct Overlap<const MISTAKE: usize>;

impl<const MISTAKE: usize> Kernel for Overlap<MISTAKE> {
    type Params = ProductParams;
    const NAME: &'static str = "overlap";

    unsafe fn host(_: &ProductParams, _: &Workers) {}

    fn cost(_: &ProductParams) -> Cost {
        Cost::default()
    }

    fn launches(_: &ProductParams, target: Target) -> Launches {
        let second = ["test_overlap_0", "test_overlap_1", "test_overlap_2"][MISTAKE];
        let launch = |name| Launch::new(name, Grid::line(2, 128));
        Launches::of(&[launch("test_overlap_first"), launch(second).overlapping(target)])
    }
}

#[test]
fn launches_that_overlap_are_checked() {
    inside("launches_that_overlap_are_checked", &[], || {
        fn run<const MISTAKE: usize>() -> Result<Option<Vec<f32>>> {
            let device = open().unwrap();
            let range = memory(&device, 1).unwrap();
            let stream = device.stream(StreamKind::Compute).unwrap();
            let view = |first: u64, count: usize| {
                let layout = Layout::contiguous(DType::F32, &[count]);
                // SAFETY: mapped until the stream is done.
                unsafe { View::new(range.address().offset(4 * first), layout, stream.id()) }
            };
            let values: Vec<f32> = (0..1024_u16).map(f32::from).collect();
            stream.upload(view(0, 1024), &values).unwrap();
            let x = range.address().0;
            let params = ProductParams { x, out: x + 1024, count: 0, padding: 0 };
            // SAFETY: all four parts are mapped.
            unsafe { stream.launch::<Overlap<MISTAKE>>(&params) }.unwrap();
            stream.read::<f32>(view(512, 256))
        }
        let sums = (0..256_u16).map(|index| f32::from(3 * index + 768)).collect();
        assert_eq!(run::<0>(), Ok(Some(sums)));
        for failed in [run::<1>(), run::<2>()] {
            assert!(
                matches!(&failed, Err(Error::Stream(text)) if text.contains("LAUNCH_FAILED")),
                "{failed:?}"
            );
        }
        assert_eq!(Control::new().left(), 0);
    });
}

#[test]
fn library_makes_the_products_that_the_table_gives_it() {
    inside_with("library_makes_the_products_that_the_table_gives_it", &[], with_products, || {
        let products = || Control::new().number(b"fakecuda_products");
        let own = products::check(&open().unwrap(), |_| ());
        assert_eq!(products(), 0);
        for algorithm in [0, 1] {
            let before = products();
            let device = open_as(CudaConfig { table: products::table(algorithm), ..config() }).unwrap();
            assert_eq!(products(), before + 1, "each of the table's has run once");
            assert_eq!(device.backend().product_library(), ProductLibrary::Used { version: 130_100 });
            assert_eq!(device.info().product_library.as_deref(), Some("cuBLASLt 130100"));
            // The workspace is charged before anything is planned, and is not taken for a module; the library's kernels are.
            let taken = |purpose| device.ledger().granted_for(purpose);
            assert_eq!([Purpose::Workspace, Purpose::Modules].map(taken), [8 << 20, (2 + 4) << 20]);
            assert_eq!(device.backend().usage(), Usage::default(), "what it ran on is gone");
            assert_eq!(products::check(&device, |_| ()).len(), own.len());
            assert_eq!(products(), before + 2);
        }
        assert_eq!(Control::new().left(), 0);
    });
}

/// Who looks at a trace sees which products are not ours, and what a launch costs whoever does it.
#[test]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole numbers of a small product"
)]
fn recording_names_who_multiplied() {
    inside_with("recording_names_who_multiplied", &[], with_products, || {
        let kernels = |config: CudaConfig| -> Vec<(String, u64, u64)> {
            let device = open_as(config).unwrap();
            device.record(Detail::Everything);
            products::check(&device, |_| ());
            let spans = device.take_recording().unwrap().spans.into_iter();
            let kernels = spans.filter(|span| span.what == What::Kernel);
            kernels.map(|span| (span.name.into_owned(), span.flops, span.bytes)).collect()
        };
        let Cost { flops, bytes } = products::COST;
        let expected = |name: &str| vec![(name.to_owned(), flops as u64, bytes as u64)];
        assert_eq!(kernels(config()), expected("linear_bf16"));
        assert_eq!(
            kernels(CudaConfig { table: products::table(0), ..config() }),
            expected("linear_cublaslt")
        );
    });
}

#[test]
fn library_multiplies_in_a_graph() {
    inside_with("library_multiplies_in_a_graph", &[], with_products, || {
        let device = open_as(CudaConfig { table: products::table(2), ..config() }).unwrap();
        let queued = products::check(&device, |_| ());
        let replayed = products::check(&device, |run| {
            let mut graph = run.stream.capture(|| run.product.multiply(run.stream)).unwrap();
            for _ in 0..2 {
                // SAFETY: the operands stay mapped until the read has waited.
                unsafe { run.stream.replay(&mut graph) }.unwrap();
            }
        });
        assert_eq!(queued, replayed);
    });
}

#[test]
fn streams_take_the_workspace_in_turn() {
    inside_with("streams_take_the_workspace_in_turn", &[], with_products, || {
        let device = open_as(CudaConfig { table: products::table(2), ..config() }).unwrap();
        let (first, second) = (memory(&device, 2).unwrap(), memory(&device, 2).unwrap());
        let [one, two] = [(); 2].map(|()| device.stream(StreamKind::Compute).unwrap());
        let done = device.event().unwrap();
        one.fill(products::Dense::operands(&first, &one), 0).unwrap();
        products::Dense::at(first.address()).multiply(&one).unwrap();
        one.record(&done).unwrap();
        two.fill(products::Dense::operands(&second, &two), 0).unwrap();
        products::Dense::at(second.address()).multiply(&two).unwrap();
        two.synchronize().unwrap();
        // The stand-in does what somebody waits for, and nothing else.
        assert!(done.is_complete().unwrap(), "the second product waits for the first");
    });
}

/// A wait for the workspace within a graph would find the event as it was before the other graph began.
#[test]
fn graphs_on_two_streams_take_the_workspace_in_turn() {
    inside_with("graphs_on_two_streams_take_the_workspace_in_turn", &[], with_products, || {
        let device = open_as(CudaConfig { table: products::table(2), ..config() }).unwrap();
        let memory = [(); 3].map(|()| memory(&device, 2).unwrap());
        let streams = [(); 3].map(|()| device.stream(StreamKind::Compute).unwrap());
        let product = |index: usize| products::Dense::at(memory[index].address());
        for (memory, stream) in memory.iter().zip(&streams) {
            stream.fill(products::Dense::operands(memory, stream), 0).unwrap();
        }
        let graph = |index: usize| streams[index].capture(|| product(index).multiply(&streams[index]));
        let mut graphs = [graph(0).unwrap(), graph(1).unwrap()];
        let done = [(); 2].map(|()| device.event().unwrap());
        for ((stream, graph), done) in streams.iter().zip(&mut graphs).zip(&done) {
            // SAFETY: the operands are mapped until the last stream was waited for.
            unsafe { stream.replay(graph) }.unwrap();
            stream.record(done).unwrap();
        }
        // The stand-in does what somebody waits for, and nothing else.
        streams[1].synchronize().unwrap();
        assert!(done[0].is_complete().unwrap(), "the second graph waits for the first");
        // SAFETY: as above.
        unsafe { streams[0].replay(&mut graphs[0]) }.unwrap();
        streams[0].record(&done[0]).unwrap();
        product(2).multiply(&streams[2]).unwrap();
        streams[2].synchronize().unwrap();
        assert!(done[0].is_complete().unwrap(), "and a product outside of graphs for a graph");
    });
}

#[test]
fn without_the_library_our_kernels_multiply() {
    inside("without_the_library_our_kernels_multiply", &[], || {
        let device = open_as(CudaConfig { table: products::table(0), ..config() }).unwrap();
        let status = device.backend().product_library();
        assert_eq!(status, ProductLibrary::Missing { wanted: 130_100 });
        assert!(status.to_string().contains("was not found: our own kernels multiply"), "{status}");
        assert_eq!(
            (device.ledger().granted_for(Purpose::Workspace), &device.info().product_library),
            (0, &None)
        );
        assert_eq!(products::check(&device, |_| ()), products::check(&open().unwrap(), |_| ()));
    });
}

#[test]
fn another_version_of_the_library_is_not_used() {
    let other = [("FAKECUDA_CUBLASLT", "130200")];
    inside_with("another_version_of_the_library_is_not_used", &other, with_products, || {
        let device = open_as(CudaConfig { table: products::table(0), ..config() }).unwrap();
        let status = device.backend().product_library();
        assert_eq!(status, ProductLibrary::OtherVersion { wanted: 130_100, found: 130_200 });
        assert_eq!(products::check(&device, |_| ()), products::check(&open().unwrap(), |_| ()));
        // To be measured it is opened all the same.
        let product = products::Dense::at(Address(1 << 20)).product();
        for (workspace, most, count) in [(1, 8, 1), (3 << 20, 8, 2), (8 << 20, 8, 3), (8 << 20, 2, 2)] {
            let measured = CudaConfig { measured_workspace_bytes: Some(workspace), ..config() };
            let cuda = Cuda::new(measured).unwrap();
            assert_eq!(cuda.product_library(), ProductLibrary::Used { version: 130_200 });
            assert_eq!(cuda.algorithms(&product, most).unwrap().len(), count, "{workspace} bytes");
        }
    });
}

#[test]
fn algorithm_that_cannot_be_kept_is_refused_before_any_work() {
    inside_with("algorithm_that_cannot_be_kept_is_refused_before_any_work", &[], with_products, || {
        let refused = |table| match Cuda::new(CudaConfig { table, ..config() }) {
            Err(Error::Product { line, message }) => format!("{line}: {message}"),
            outcome => panic!("{outcome:?}"),
        };
        let error = refused(products::table_with(7, 8 << 20));
        assert!(error.contains("8\t16\t32\tbias\tcublaslt") && error.contains("code 7"), "{error}");
        let error = refused(products::table_with(2, 1));
        assert!(error.contains("needs a workspace of 6291456 bytes, the table gives 2097152"), "{error}");
        assert_eq!(Control::new().left(), 0);
    });
}
