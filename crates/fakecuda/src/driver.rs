//! The state of the stand-in: one device, its context, its handles.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::abi::{Code, INVALID_CONTEXT, INVALID_HANDLE, NOT_INITIALIZED};
use crate::blas::Blas;
use crate::control::Config;
use crate::kernels::Function;
use crate::memory::Memory;
use crate::streams::{Operation, Streams};

/// What a call that may be refused answers.
pub(crate) type Result<T = ()> = std::result::Result<T, Code>;

/// Everything.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) config: Config,
    pub(crate) is_started: bool,
    /// How often the primary context was retained.
    pub(crate) retained: u64,
    /// Of which device; one at a time.
    pub(crate) device: i32,
    /// What ended the context.
    pub(crate) failed: Option<Code>,
    pub(crate) memory: Memory,
    pub(crate) streams: Streams,
    /// Bytes that each module takes: none before a kernel of it is loaded.
    pub(crate) modules: BTreeMap<u64, u64>,
    pub(crate) functions: BTreeMap<u64, Function>,
    pub(crate) graphs: BTreeMap<u64, Vec<Operation>>,
    pub(crate) executables: BTreeMap<u64, Vec<Operation>>,
    pub(crate) blas: Blas,
    /// Products that were made so far.
    pub(crate) products_made: u64,
    next: u64,
}

/// What a module takes once one of its kernels is loaded.
const MODULE_BYTES: u64 = 2 << 20;

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| Mutex::new(Driver::new()));

thread_local! {
    /// Whether this thread has made the context current.
    pub(crate) static CURRENT: Cell<bool> = const { Cell::new(false) };
}

/// The state, one call at a time.
pub(crate) fn lock() -> MutexGuard<'static, Driver> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    fn new() -> Self {
        let config = Config::read();
        Self {
            config,
            is_started: false,
            retained: 0,
            device: 0,
            failed: None,
            memory: Memory::new(config.memory),
            streams: Streams::default(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            graphs: BTreeMap::new(),
            executables: BTreeMap::new(),
            blas: Blas::default(),
            products_made: 0,
            next: 0x10_0000,
        }
    }

    /// A handle that nothing had before.
    pub(crate) fn handle(&mut self) -> u64 {
        self.next += 16;
        self.next
    }

    /// Refuses calls without a started driver.
    pub(crate) fn started(&self) -> Result {
        if self.is_started { Ok(()) } else { Err(NOT_INITIALIZED) }
    }

    /// Refuses calls without a current context, or in one that failed work has ended.
    pub(crate) fn current(&self) -> Result {
        self.started()?;
        if self.retained == 0 || !CURRENT.get() {
            return Err(INVALID_CONTEXT);
        }
        self.failed.map_or(Ok(()), Err)
    }

    /// As [`current`](Driver::current), but a context that failed work has ended still gives back what it has.
    pub(crate) fn current_or_failed(&self) -> Result {
        self.started()?;
        if self.retained == 0 || !CURRENT.get() { Err(INVALID_CONTEXT) } else { Ok(()) }
    }

    /// A kernel whose code is on the device from now on: by `cuFuncLoad`, or by the first launch, as a driver that loads lazily has it.
    pub(crate) fn load(&mut self, function: u64) -> Result<&Function> {
        let function = named(&mut self.functions, function)?;
        *named(&mut self.modules, function.module)? = MODULE_BYTES;
        Ok(function)
    }

    /// Bytes that the context, the modules and cuBLASLt's kernels take.
    pub(crate) fn overhead(&self) -> u64 {
        let context = if self.retained > 0 { 64 << 20 } else { 0 };
        context + self.modules.values().sum::<u64>() + self.blas.kernel_bytes()
    }

    pub(crate) fn left(&self) -> u64 {
        let handles = self.modules.len() + self.graphs.len() + self.executables.len();
        handles as u64 + self.blas.left() + self.retained + self.streams.left() + self.memory.left()
    }
}

/// The entry of a table that a handle names.
pub(crate) fn named<T>(table: &mut BTreeMap<u64, T>, handle: u64) -> Result<&mut T> {
    table.get_mut(&handle).ok_or(INVALID_HANDLE)
}
