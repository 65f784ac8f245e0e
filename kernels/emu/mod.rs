//! The emulator: runs the `.cu` kernels on the CPU, one fibre a CUDA thread, and checks every access.
//!
//! [`launch`] runs one kernel over a whole grid and gives a [`Report`], or the first [`Failure`] with kernel, block, thread,
//! source lines and both parties. Blocks run one after another on the calling thread, those of a cluster together; state belongs to that thread, so tests run in
//! parallel, and so may parts of a grid ([`launch_blocks`]). `docs/EMULATOR.md` says how to write a kernel for it, how to debug one, and what is not modelled.
//!
//! Asynchronous work (cp.async, TMA, wgmma) is done where it is issued or as late as allowed ([`Mode`]), and a seed draws the order of the
//! threads: a kernel is clean if it is clean in both modes and with several seeds. What a launch may touch while those before it still run is checked where they are launched in
//! one [`Stream`].

use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::ops::Range;
use std::ptr::{self, NonNull};

use crate::launch;
pub use crate::launch::TensorMap;

/// When asynchronous work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At once, where it is issued.
    Eager,
    /// When it is waited for, or when no thread can go on without it.
    Late,
}

/// When a launch begins, as to the one before it in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// When that one, and all before it, are over.
    Behind,
    /// Maybe while that one still runs, and others before it too (programmatic dependent launch): its threads may touch nothing that those wrote, and write nothing that they
    /// read, before they know that somebody has waited (`wait_for_launch_before`).
    Overlapping,
}

/// How to run a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// When asynchronous work is done.
    pub mode: Mode,
    /// 0: threads in order; else the order is drawn from it.
    pub seed: u64,
    /// Whether every access is checked. Without, a kernel runs several times faster.
    pub checks: bool,
    /// When it begins in its [`Stream`].
    pub start: Start,
    /// Shared memory that a block may have, in bytes: 166912 on `sm_80`, 101376 on `sm_86`, `sm_89` and `sm_120`, 232448 on `sm_90`.
    pub shared_bytes_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { mode: Mode::Late, seed: 0, checks: true, start: Start::Behind, shared_bytes_max: 232_448 }
    }
}

/// Blocks, threads and shared memory of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block in x, y, z; 1024 at most.
    pub threads: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Grid {
    /// Blocks in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.blocks.iter().map(|blocks| u64::from(*blocks)).product()
    }
}

impl From<launch::Grid> for Grid {
    fn from(grid: launch::Grid) -> Self {
        Self { blocks: grid.blocks, threads: [grid.threads, 1, 1], shared_bytes: grid.shared_bytes }
    }
}

/// A buffer in global memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Address of its first byte.
    pub address: u64,
    /// Its length.
    pub bytes: u64,
}

impl Region {
    /// The memory of a slice.
    #[must_use]
    pub fn of<T>(slice: &[T]) -> Self {
        Self { address: slice.as_ptr().addr() as u64, bytes: size_of_val(slice) as u64 }
    }
}

/// Counts of one launch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Blocks that ran.
    pub blocks: u64,
    /// Switches between threads.
    pub switches: u64,
    /// Bytes read from global memory, every access counted. With checks only.
    pub global_bytes_read: u64,
    /// Bytes written to global memory, every access counted. With checks only.
    pub global_bytes_written: u64,
    /// 8 x 8 matrices moved by ldmatrix and stmatrix.
    pub matrix_loads: u64,
    /// mma.sync and wgmma instructions.
    pub matrix_products: u64,
    /// Extra passes of ldmatrix and stmatrix because rows share banks.
    pub bank_conflicts: u64,
    /// TMA loads and stores.
    pub bulk_copies: u64,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The launch cannot be done: unknown kernel, too much shared memory, wrong size of parameters.
    Launch,
    /// Two accesses, one of them a write, that nothing orders.
    Race,
    /// Shared memory was read before anything had written it.
    Uninitialised,
    /// An access outside of every buffer.
    OutOfBounds,
    /// An address that its access does not accept.
    Misaligned,
    /// No thread can go on.
    Deadlock,
    /// Lanes that have to act together do not.
    Divergence,
    /// A barrier used against its rules.
    Barrier,
    /// No fence between ordinary stores and the asynchronous proxy.
    Fence,
    /// Memory or registers of an asynchronous operation touched before it was waited for; a block gone that others of its cluster still reach.
    InFlight,
    /// Operands that the instruction does not accept.
    Instruction,
    /// An access that may come before one of a launch before, which is waited for too late or not at all.
    Overlap,
}

impl Kind {
    /// The numbers of `kernels/emu/report.hpp`.
    const ALL: [Self; 12] = [
        Self::Launch,
        Self::Race,
        Self::Uninitialised,
        Self::OutOfBounds,
        Self::Misaligned,
        Self::Deadlock,
        Self::Divergence,
        Self::Barrier,
        Self::Fence,
        Self::InFlight,
        Self::Instruction,
        Self::Overlap,
    ];
}

/// A place in a kernel; prints as `file:line`, looked up with `addr2line` when it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u64);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 512];
        // SAFETY: the emulator writes at most as many bytes as it is told that `text` has.
        let length = unsafe { lighterage_emu_describe(self.0, text.as_mut_ptr().cast(), text.len()) };
        f.write_str(&String::from_utf8_lossy(&text[..length.min(text.len())]))
    }
}

/// The other party of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    /// Its thread in the block, where it is one.
    pub thread: Option<u32>,
    /// Where it did what.
    pub place: Place,
}

/// What ended a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub kind: Kind,
    /// The kernel.
    pub kernel: String,
    /// The block, x, y, z.
    pub block: [u32; 3],
    /// The thread in the block, counted through.
    pub thread: u32,
    /// Where; none if the launch did not begin.
    pub place: Option<Place>,
    /// The other access or thread, where there is one.
    pub other: Option<Other>,
    /// What happened, with the numbers.
    pub text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, kernel, block: [x, y, z], thread, .. } = self;
        let Some(place) = self.place else { return write!(f, "{kernel} cannot be launched: {}", self.text) };
        write!(f, "{kind:?} in {kernel}, block ({x}, {y}, {z}), thread {thread}, at {place}: {}", self.text)?;
        match self.other {
            Some(Other { thread: Some(thread), place }) => {
                write!(f, "; the other is thread {thread} at {place}")
            }
            Some(Other { thread: None, place }) => write!(f, "; the other is at {place}"),
            None => Ok(()),
        }
    }
}

impl Error for Failure {}

/// Launches of one stream, one after another: what they touch is remembered for as long as a later one may begin before they are over ([`Start::Overlapping`]).
///
/// Everything else that is queued on a stream waits for all before it: after a copy there is nothing to remember ([`Stream::finish`]).
#[derive(Debug)]
pub struct Stream {
    raw: NonNull<RawStream>,
}

// SAFETY: what it points to is its own alone, and belongs to no thread.
unsafe impl Send for Stream {}

impl Default for Stream {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nobody else has it.
        unsafe { lighterage_emu_stream_free(self.raw.as_ptr()) }
    }
}

impl Stream {
    fn new(is_behind_anything: bool) -> Self {
        // SAFETY: takes a flag.
        let raw = unsafe { lighterage_emu_stream_new(is_behind_anything) };
        Self { raw: NonNull::new(raw).expect("the emulator gives a stream or ends the process") }
    }

    /// One with launches before of which nothing is known: an overlapping launch may touch no global memory at all before it waits.
    #[must_use]
    pub fn behind_anything() -> Self {
        Self::new(true)
    }

    /// All launches are over.
    pub fn finish(&mut self) {
        // SAFETY: made by `new`, and borrowed by nobody else.
        unsafe { lighterage_emu_stream_finish(self.raw.as_ptr()) }
    }

    /// Runs the next launch of the stream, as [`launch`] runs one by itself. Without checks nothing is remembered.
    ///
    /// # Errors
    /// As [`launch`], and [`Kind::Overlap`].
    ///
    /// # Safety
    /// - As [`launch`].
    pub unsafe fn launch(
        &mut self,
        name: &str,
        grid: Grid,
        params: &[u8],
        maps: &[TensorMap],
        regions: &[Region],
        config: Config,
    ) -> Result<Report, Failure> {
        let blocks = 0..grid.count();
        // SAFETY: the caller's promise, and the stream is borrowed by this call alone.
        unsafe { run(self.raw.as_ptr(), name, grid, blocks, params, maps, regions, config) }
    }
}

/// Runs kernel `name` over `grid` and returns when every block has ended, or at the first failure.
///
/// `params` are the bytes of the kernel's parameter struct, `maps` its tensor maps. `regions` are the buffers it may touch: any other address is
/// [`Kind::OutOfBounds`]; with none given, bounds of global memory are not checked.
///
/// # Errors
/// The first [`Failure`]. What the kernel had written by then stays written.
///
/// # Safety
/// - Every address in `params` and `maps` points to memory that is valid as far as the kernel reaches and that nothing else touches
///   meanwhile. Where `regions` name all of it and checks are on, an access outside of them ends the launch before it is made.
pub unsafe fn launch(
    name: &str,
    grid: Grid,
    params: &[u8],
    maps: &[TensorMap],
    regions: &[Region],
    config: Config,
) -> Result<Report, Failure> {
    // SAFETY: the caller's promise.
    unsafe { launch_blocks(name, grid, 0..grid.count(), params, maps, regions, config) }
}

/// Runs some blocks of a launch, numbered with x fastest, whole clusters of them: as [`launch`] with all of them.
///
/// Calls on several threads run several parts of one grid at once. Races between blocks are then found within a part only.
///
/// # Errors
/// As [`launch`].
///
/// # Panics
/// If there are fewer blocks than that.
///
/// # Safety
/// - As [`launch`]; what runs at the same time are parts of the same launch, whose blocks do not race.
pub unsafe fn launch_blocks(
    name: &str,
    grid: Grid,
    blocks: Range<u64>,
    params: &[u8],
    maps: &[TensorMap],
    regions: &[Region],
    config: Config,
) -> Result<Report, Failure> {
    // SAFETY: the caller's promise.
    unsafe { run(ptr::null_mut(), name, grid, blocks, params, maps, regions, config) }
}

/// # Safety
/// - As [`launch_blocks`]; `stream` is null or that of a [`Stream`] that nobody else uses meanwhile.
#[expect(clippy::too_many_arguments, reason = "one field each of what the emulator is asked for")]
unsafe fn run(
    stream: *mut RawStream,
    name: &str,
    grid: Grid,
    blocks: Range<u64>,
    params: &[u8],
    maps: &[TensorMap],
    regions: &[Region],
    config: Config,
) -> Result<Report, Failure> {
    assert!(blocks.end <= grid.count(), "blocks {blocks:?} of {}", grid.count());
    let c_name = CString::new(name).unwrap_or_default();
    let request = RawLaunch {
        name: c_name.as_ptr(),
        grid: grid.blocks,
        block: grid.threads,
        shared_bytes: grid.shared_bytes,
        params_bytes: count(params),
        maps_count: count(maps),
        regions_count: count(regions),
        first_block: blocks.start,
        end_block: blocks.end,
        params: params.as_ptr(),
        maps: maps.as_ptr(),
        regions: regions.as_ptr(),
        stream,
        config: RawConfig {
            seed: config.seed,
            mode: u32::from(config.mode == Mode::Late),
            checks: u32::from(config.checks),
            shared_bytes_max: config.shared_bytes_max,
            overlaps: u32::from(config.start == Start::Overlapping),
        },
    };
    let mut report = Report::default();
    let mut failure = RawFailure::default();
    // SAFETY: the request's pointers are those of slices that live through the call, with their lengths beside them; what the kernel
    // itself touches is the caller's promise.
    let code = unsafe { lighterage_emu_launch(&raw const request, &raw mut report, &raw mut failure) };
    if code == 0 { Ok(report) } else { Err(failure.named(name)) }
}

/// Names of all kernels that are compiled in, sorted.
#[must_use]
pub fn kernels() -> Vec<String> {
    let mut names: Vec<String> = (0..).map_while(kernel).collect();
    names.sort();
    names
}

/// Bytes of the parameter struct of a kernel, and how many tensor maps it takes; none if it is not compiled in.
#[must_use]
pub fn parameters(name: &str) -> Option<(u32, u32)> {
    let name = CString::new(name).ok()?;
    let (mut bytes, mut maps) = (0, 0);
    // SAFETY: reads a string that ends in zero, writes two numbers.
    let known = unsafe { lighterage_emu_parameters(name.as_ptr(), &raw mut bytes, &raw mut maps) };
    known.then_some((bytes, maps))
}

/// Blocks of the kernel's clusters, 1 where it has none: its grid in x, and every part of it, is a multiple of that. None if it is not compiled in.
#[must_use]
pub fn cluster_blocks(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: reads a string that ends in zero.
    let blocks = unsafe { lighterage_emu_cluster_blocks(name.as_ptr()) };
    (blocks != 0).then_some(blocks)
}

fn kernel(index: u32) -> Option<String> {
    // SAFETY: takes a number, gives a null pointer past the last one.
    let name = unsafe { lighterage_emu_kernel(index) };
    // SAFETY: not null, so it is a string literal of the emulator's.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

fn count<T>(slice: &[T]) -> u32 {
    u32::try_from(slice.len()).unwrap_or(u32::MAX)
}

/// `emu::Config` of `kernels/emu/block.hpp`.
#[repr(C)]
#[derive(Debug)]
struct RawConfig {
    seed: u64,
    mode: u32,
    checks: u32,
    shared_bytes_max: u32,
    overlaps: u32,
}

/// `emu::Stream` of `kernels/emu/memory.hpp`.
#[repr(C)]
#[derive(Debug)]
struct RawStream {
    hidden: [u8; 0],
}

/// `emu::Launch` of `kernels/emu/block.hpp`.
#[repr(C)]
#[derive(Debug)]
struct RawLaunch {
    name: *const c_char,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    params_bytes: u32,
    maps_count: u32,
    regions_count: u32,
    first_block: u64,
    end_block: u64,
    params: *const u8,
    maps: *const TensorMap,
    regions: *const Region,
    stream: *mut RawStream,
    config: RawConfig,
}

/// `emu::Failure` of `kernels/emu/report.hpp`.
#[repr(C)]
#[derive(Debug)]
struct RawFailure {
    kind: u32,
    block: [u32; 3],
    thread: u32,
    other_thread: u32,
    place: u64,
    other_place: u64,
    text: [u8; 400],
}

impl Default for RawFailure {
    fn default() -> Self {
        Self { kind: 0, block: [0; 3], thread: 0, other_thread: 0, place: 0, other_place: 0, text: [0; 400] }
    }
}

impl RawFailure {
    fn named(&self, kernel: &str) -> Failure {
        let text = self.text.split(|byte| *byte == 0).next().unwrap_or_default();
        let place = |address: u64| (address != 0).then_some(Place(address));
        let thread = (self.other_thread != u32::MAX).then_some(self.other_thread);
        Failure {
            kind: Kind::ALL.get(self.kind as usize).copied().unwrap_or(Kind::Launch),
            kernel: kernel.to_owned(),
            block: self.block,
            thread: self.thread,
            place: place(self.place),
            other: place(self.other_place).map(|place| Other { thread, place }),
            text: String::from_utf8_lossy(text).into_owned(),
        }
    }
}

unsafe extern "C" {
    fn lighterage_emu_launch(
        launch: *const RawLaunch,
        report: *mut Report,
        failure: *mut RawFailure,
    ) -> c_int;
    fn lighterage_emu_stream_new(is_behind_anything: bool) -> *mut RawStream;
    fn lighterage_emu_stream_finish(stream: *mut RawStream);
    fn lighterage_emu_stream_free(stream: *mut RawStream);
    fn lighterage_emu_kernel(index: u32) -> *const c_char;
    fn lighterage_emu_parameters(name: *const c_char, params_bytes: *mut u32, maps_count: *mut u32) -> bool;
    fn lighterage_emu_cluster_blocks(name: *const c_char) -> u32;
    fn lighterage_emu_describe(place: u64, text: *mut c_char, bytes: usize) -> usize;
}
