//! What tests say to the stand-in: what it pretends to be, which call fails.

use std::ffi::{CString, c_char};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use crate::abi::{Code, SUCCESS, UNKNOWN};
use crate::driver;

/// What it pretends to be, from the environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// By device; the last one counts for all behind it.
    pub(crate) capabilities: [(u32, u32); 4],
    /// Of the device that has the context.
    pub(crate) capability: (u32, u32),
    /// What `cuInit` answers.
    pub(crate) init: Code,
    pub(crate) driver: i32,
    pub(crate) memory: u64,
    pub(crate) has_virtual_memory: bool,
    /// Whether memory of the process's own can be page-locked.
    pub(crate) registers: bool,
    pub(crate) devices: i32,
    /// What its cuBLASLt says that it is.
    pub(crate) products_version: u64,
    #[cfg(feature = "emu")]
    pub(crate) checks: bool,
}

impl Config {
    pub(crate) fn read() -> Self {
        let number = |name: &str, default: u64| {
            std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        let capabilities = capabilities(&std::env::var("FAKECUDA_CAPABILITY").unwrap_or_default());
        Self {
            capabilities,
            capability: capabilities[0],
            init: Code::try_from(number("FAKECUDA_INIT", 0)).unwrap_or(UNKNOWN),
            driver: i32::try_from(number("FAKECUDA_DRIVER", 13_000)).unwrap_or(0),
            memory: number("FAKECUDA_MEMORY", 4 << 30),
            has_virtual_memory: number("FAKECUDA_VMM", 1) != 0,
            registers: number("FAKECUDA_REGISTER", 1) != 0,
            devices: i32::try_from(number("FAKECUDA_DEVICES", 1)).unwrap_or(0),
            products_version: number("FAKECUDA_CUBLASLT", 130_100),
            #[cfg(feature = "emu")]
            checks: number("FAKECUDA_CHECKS", 0) != 0,
        }
    }

    /// What a device is said to be able to do.
    pub(crate) fn capability_of(&self, device: i32) -> (u32, u32) {
        let index = usize::try_from(device).unwrap_or(0).min(self.capabilities.len() - 1);
        self.capabilities[index]
    }
}

/// `7.5,9.0`: the first device's, and that of all others.
fn capabilities(text: &str) -> [(u32, u32); 4] {
    let one = |text: &str| text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let mut last = (9, 0);
    let mut given = text.split(',').filter_map(one);
    std::array::from_fn(|_| {
        last = given.next().unwrap_or(last);
        last
    })
}

/// Which call fails, and what was called so far.
#[derive(Debug)]
struct Plan {
    calls: u64,
    fail: Option<Failure>,
    failed: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    call: u64,
    /// How many calls from that one on.
    count: u64,
    /// Whether the call does its work and then says that it failed, as a driver that reports earlier trouble does.
    after: bool,
}

impl Failure {
    const fn end(&self) -> u64 {
        self.call.saturating_add(self.count)
    }
}

static PLAN: Mutex<Plan> = Mutex::new(Plan { calls: 0, fail: None, failed: None });

/// Calls by name that take some time before they do anything, as a driver's do that wait for a lock of its own: other threads come in between.
static SLOW: LazyLock<String> = LazyLock::new(|| std::env::var("FAKECUDA_SLOW").unwrap_or_default());

/// Many times what another thread's call takes.
const SLOW_TIME: Duration = Duration::from_micros(200);

/// Calls that give something back or wait.
const LATE: [&str; 8] =
    ["Unregister", "Free", "Release", "Unmap", "Destroy", "Unload", "EndCapture", "Synchronize"];

/// Counts a call and does it, unless it is the one to fail with `code`.
pub(crate) fn call(name: &'static str, code: Code, work: impl FnOnce() -> Code) -> Code {
    // A call that takes or queues something has not done so when it fails.
    let is_late = LATE.iter().any(|late| name.contains(late));
    let fails = {
        let Ok(mut plan) = PLAN.lock() else { return code };
        let number = plan.calls;
        plan.calls += 1;
        let fails = plan.fail.filter(|failure| (failure.call..failure.end()).contains(&number));
        if fails.is_some() {
            plan.failed.get_or_insert(name);
        }
        fails
    };
    if ONE.fails(name) {
        return code;
    }
    if SLOW.split(',').any(|slow| slow == name) {
        thread::sleep(SLOW_TIME);
    }
    match fails {
        None => work(),
        Some(Failure { after: true, .. }) if is_late => match work() {
            SUCCESS => code,
            other => other,
        },
        Some(_) => code,
    }
}

/// One call of a whole program, by its name.
static ONE: LazyLock<One> = LazyLock::new(|| One::read(&std::env::var("FAKECUDA_FAIL").unwrap_or_default()));

/// The call that fails, and how many of that name come before it.
#[derive(Debug)]
struct One {
    name: String,
    before: AtomicI64,
}

impl One {
    /// `cuLaunchKernel:2` is the third.
    fn read(text: &str) -> Self {
        let (name, before) = text.split_once(':').unwrap_or_default();
        Self { name: name.to_owned(), before: AtomicI64::new(before.parse().unwrap_or(-1)) }
    }

    fn fails(&self, name: &str) -> bool {
        self.name == name && self.before.fetch_sub(1, Ordering::Relaxed) == 0
    }
}

/// From now on call number `call`, counted from 0, fails: before its work, or with `after` behind it. Any number that is not reached: none does.
#[unsafe(no_mangle)]
extern "C" fn fakecuda_fail(call: u64, after: bool) {
    if let Ok(mut plan) = PLAN.lock() {
        *plan = Plan { calls: 0, fail: Some(Failure { call, count: 1, after }), failed: None };
    }
}

/// From now on call number `call` and the one behind it fail, before their work: also whoever asks a second time is refused.
#[unsafe(no_mangle)]
extern "C" fn fakecuda_fail_twice(call: u64) {
    if let Ok(mut plan) = PLAN.lock() {
        *plan = Plan { calls: 0, fail: Some(Failure { call, count: 2, after: false }), failed: None };
    }
}

/// Calls since the last `fakecuda_fail`.
#[unsafe(no_mangle)]
extern "C" fn fakecuda_calls() -> u64 {
    PLAN.lock().map_or(0, |plan| plan.calls)
}

/// Name of the first call that was made to fail; null if none was. The string is never freed.
#[unsafe(no_mangle)]
extern "C" fn fakecuda_failed() -> *const c_char {
    let name = PLAN.lock().ok().and_then(|plan| plan.failed);
    name.and_then(|name| CString::new(name).ok())
        .map_or(std::ptr::null(), |name| name.into_raw().cast_const())
}

/// Products that cuBLASLt has made.
#[unsafe(no_mangle)]
extern "C" fn fakecuda_products() -> u64 {
    driver::lock().products_made
}

/// Handles, reservations, maps and pieces of memory that exist.
#[unsafe(no_mangle)]
extern "C" fn fakecuda_left() -> u64 {
    driver::lock().left()
}
