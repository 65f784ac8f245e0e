//! Launches on the emulator.

use lighterage_kernels::launch::{Arch, TensorMap};

use crate::abi::{
    self, Code, ILLEGAL_ADDRESS, INVALID_CLUSTER_SIZE, INVALID_VALUE, LAUNCH_FAILED, MISALIGNED_ADDRESS,
};
use crate::control::Config;
use crate::driver::Result;
use crate::memory::Memory;

/// Dynamic shared memory that a kernel has without asking.
const SHARED_FREE: u32 = 48 << 10;

/// A kernel of a loaded module.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) module: u64,
    pub(crate) name: String,
    pub(crate) params_bytes: u32,
    pub(crate) maps_count: u32,
    cluster_blocks: u32,
    shared_bytes_max: u32,
}

/// One launch with all that it needs, copied when it was queued.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "emu"), expect(dead_code, reason = "without the emulator nothing runs it"))]
pub(crate) struct Launch {
    function: Function,
    blocks: [u32; 3],
    threads: u32,
    shared_bytes: u32,
    params: Vec<u8>,
    maps: Vec<TensorMap>,
    /// Whether it may begin while the launch before it ends.
    overlaps: bool,
}

/// A grid as a launch gives it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: [u32; 3],
    pub(crate) shared_bytes: u32,
    /// Whether it may begin while the launch before it ends.
    pub(crate) overlaps: bool,
}

/// What the launches of one stream have touched, for those that overlap them.
#[cfg(feature = "emu")]
#[derive(Debug, Default)]
pub(crate) struct Order(lighterage_kernels::emu::Stream);

/// Without the emulator nothing is launched.
#[cfg(not(feature = "emu"))]
#[derive(Debug, Default)]
pub(crate) struct Order;

impl Function {
    /// The kernel of that name, if the emulator has it.
    pub(crate) fn find(module: u64, name: &str) -> Option<Self> {
        let (params_bytes, maps_count) = parameters(name)?;
        let cluster_blocks = cluster_blocks(name);
        let name = name.to_owned();
        Some(Self { module, name, params_bytes, maps_count, cluster_blocks, shared_bytes_max: SHARED_FREE })
    }

    pub(crate) fn allow_shared(&mut self, bytes: u32, config: Config) -> Result {
        if bytes > shared_bytes_max(config) {
            return Err(INVALID_VALUE);
        }
        self.shared_bytes_max = bytes;
        Ok(())
    }

    /// A launch, if its grid is allowed.
    ///
    /// # Safety
    /// - `parameters` points to one pointer for each parameter of the kernel, each valid for as many bytes as the kernel takes.
    pub(crate) unsafe fn launch(&self, grid: Grid, parameters: *const *const u8) -> Result<Launch> {
        let Grid { blocks, threads, shared_bytes, overlaps } = grid;
        let [x, y, z] = blocks;
        let is_grid =
            x > 0 && i32::try_from(x).is_ok() && (1..=65535).contains(&y) && (1..=65535).contains(&z);
        let is_block = (1..=1024).contains(&threads[0]) && threads[1..] == [1, 1];
        if !is_grid || !is_block || shared_bytes > self.shared_bytes_max {
            return Err(INVALID_VALUE);
        }
        if !x.is_multiple_of(self.cluster_blocks) {
            return Err(INVALID_CLUSTER_SIZE);
        }
        // SAFETY: the caller's promise: at least the first parameter is there.
        let first = unsafe { parameters.read() };
        // SAFETY: the caller's promise.
        let params = unsafe { std::slice::from_raw_parts(first, self.params_bytes as usize) }.to_vec();
        let mut maps = Vec::new();
        if self.maps_count > 0 {
            // SAFETY: the caller's promise: a kernel with tensor maps has a second parameter.
            let second = unsafe { parameters.add(1) };
            // SAFETY: as above.
            let second = unsafe { second.read() }.cast::<abi::TensorMap>();
            // SAFETY: as above.
            let encoded = unsafe { std::slice::from_raw_parts(second, self.maps_count as usize) };
            maps = encoded.iter().map(decode).collect::<Result<_>>()?;
        }
        let (function, threads) = (self.clone(), threads[0]);
        Ok(Launch { function, blocks, threads, shared_bytes, params, maps, overlaps })
    }
}

impl Launch {
    /// What its kernel is of.
    pub(crate) const fn module(&self) -> u64 {
        self.function.module
    }
}

fn shared_bytes_max(config: Config) -> u32 {
    let (major, minor) = config.capability;
    Arch::of(major, minor).map_or(SHARED_FREE, Arch::shared_bytes_max)
}

/// What a tensor map looks like inside: the plain data, and a mark that it is one.
const MARK: [u8; 16] = *b"fake tensor map\0";
const PLAIN: usize = size_of::<TensorMap>();
const _: () = assert!(PLAIN + MARK.len() <= 128);

/// Checks a tensor map as `cuTensorMapEncodeTiled` documents it, and packs it.
pub(crate) fn encode(map: &TensorMap) -> Result<abi::TensorMap> {
    let rank = map.rank as usize;
    if !(1..=5).contains(&rank) || map.address == 0 || !map.address.is_multiple_of(16) {
        return Err(INVALID_VALUE);
    }
    let sizes = map.sizes[..rank].iter().all(|size| (1..=1 << 32).contains(size));
    let strides = map.strides[..rank - 1].iter().all(|bytes| bytes.is_multiple_of(16) && *bytes < 1 << 40)
        && are_nested(&map.strides[..rank - 1], &map.sizes, map.element_bytes.into());
    let boxes = map.box_sizes[..rank].iter().all(|size| (1..=256).contains(size));
    let inner = map.box_sizes[0] * map.element_bytes;
    let swizzle = map.swizzle_bytes == 0 || inner <= map.swizzle_bytes;
    if !(sizes && strides && boxes && swizzle && inner.is_multiple_of(16)) {
        return Err(INVALID_VALUE);
    }
    let mut bytes = [0; 128];
    // SAFETY: a plain struct of numbers, all of whose bytes are read: its size has no padding (112 = 8 + 40 + 32 + 20 + 3 * 4).
    let plain = unsafe { std::slice::from_raw_parts((&raw const *map).cast::<u8>(), PLAIN) };
    bytes[..PLAIN].copy_from_slice(plain);
    bytes[PLAIN..PLAIN + MARK.len()].copy_from_slice(&MARK);
    Ok(abi::TensorMap(bytes))
}

/// Whether each stride holds what lies inside of it, and is so many of the one inside of it.
fn are_nested(strides: &[u64], sizes: &[u64], element_bytes: u64) -> bool {
    let inside = std::iter::once(element_bytes).chain(strides.iter().copied());
    let mut nested = strides.iter().zip(sizes).zip(inside);
    nested.all(|((stride, size), inside)| stride.checked_div(inside).is_some_and(|count| count >= *size))
        && strides.windows(2).all(|pair| pair[1].is_multiple_of(pair[0]))
}

fn decode(encoded: &abi::TensorMap) -> Result<TensorMap> {
    if encoded.0[PLAIN..PLAIN + MARK.len()] != MARK {
        return Err(INVALID_VALUE);
    }
    // SAFETY: `encode` packed a whole struct of numbers there; any bytes are one.
    Ok(unsafe { encoded.0.as_ptr().cast::<TensorMap>().read_unaligned() })
}

#[cfg(feature = "emu")]
fn parameters(name: &str) -> Option<(u32, u32)> {
    lighterage_kernels::emu::parameters(name)
}

#[cfg(not(feature = "emu"))]
fn parameters(_: &str) -> Option<(u32, u32)> {
    None
}

/// Blocks of the clusters that it was compiled for.
#[cfg(feature = "emu")]
fn cluster_blocks(name: &str) -> u32 {
    lighterage_kernels::emu::cluster_blocks(name).unwrap_or(1)
}

#[cfg(not(feature = "emu"))]
const fn cluster_blocks(_: &str) -> u32 {
    1
}

#[cfg(feature = "emu")]
impl Order {
    /// All launches so far are over: something else was done that waits for them.
    pub(crate) fn end(&mut self) {
        self.0.finish();
    }

    /// Something was launched of which it is not known what it touches.
    pub(crate) fn forget(&mut self) {
        self.0 = lighterage_kernels::emu::Stream::behind_anything();
    }
}

#[cfg(not(feature = "emu"))]
#[expect(clippy::unused_self, reason = "as with the emulator")]
impl Order {
    pub(crate) const fn end(&mut self) {}

    pub(crate) const fn forget(&mut self) {}
}

impl Launch {
    /// Runs the kernel to its end, as the next launch of its stream.
    #[cfg(feature = "emu")]
    pub(crate) fn run(&self, memory: &Memory, config: Config, order: &mut Order) -> Result {
        use lighterage_kernels::emu::{self, Region, Start};

        let Self { function, blocks, threads, shared_bytes, params, maps, overlaps } = self;
        let grid = emu::Grid { blocks: *blocks, threads: [*threads, 1, 1], shared_bytes: *shared_bytes };
        let regions = memory.regions().into_iter().map(|(address, bytes)| Region { address, bytes });
        let regions: Vec<Region> = regions.collect();
        let run = emu::Config {
            checks: config.checks,
            start: if *overlaps { Start::Overlapping } else { Start::Behind },
            shared_bytes_max: shared_bytes_max(config),
            ..emu::Config::default()
        };
        // SAFETY: with checks every address outside of device memory ends the launch; without, the tests that run it promise as for a GPU.
        match unsafe { order.0.launch(&function.name, grid, params, maps, &regions, run) } {
            Ok(_) => Ok(()),
            Err(failure) => {
                complain(&failure.to_string());
                Err(code(failure.kind))
            }
        }
    }

    #[cfg(not(feature = "emu"))]
    pub(crate) fn run(&self, _: &Memory, _: Config, _: &mut Order) -> Result {
        complain(&format!("{} cannot run: built without the emulator", self.function.name));
        Err(LAUNCH_FAILED)
    }
}

#[cfg(feature = "emu")]
fn code(kind: lighterage_kernels::emu::Kind) -> Code {
    use lighterage_kernels::emu::Kind;
    match kind {
        Kind::OutOfBounds => ILLEGAL_ADDRESS,
        Kind::Misaligned => MISALIGNED_ADDRESS,
        _ => LAUNCH_FAILED,
    }
}

#[cfg(not(feature = "emu"))]
const _: [Code; 2] = [ILLEGAL_ADDRESS, MISALIGNED_ADDRESS];

#[expect(clippy::print_stderr, reason = "a driver has no other way to say why a kernel failed")]
fn complain(text: &str) {
    eprintln!("fakecuda: {text}");
}
