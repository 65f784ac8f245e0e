//! A GPU as the place where the kernels of these tests run, or the stand-in for one (`crates/fakecuda`).

use std::cell::Cell;
use std::io::Write;
use std::marker::PhantomData;
use std::sync::LazyLock;

use bytemuck::Pod;
use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_device::{
    Cost, Cuda, CudaConfig, Device, Kernel, Launches, Ledger, Purpose, StreamKind, Target, Workers,
};
use lighterage_kernels::images::{self, Image};
use lighterage_kernels::launch::Arch;
use lighterage_ops::{Queue, Tensor};

/// Whether kernels run on a GPU.
pub(crate) fn is_used() -> bool {
    static IS_USED: LazyLock<bool> = LazyLock::new(|| {
        !cfg!(feature = "emu") || std::env::var("NUMERICS").is_ok_and(|value| value == "cuda")
    });
    *IS_USED
}

/// What it is.
pub(crate) fn own_arch() -> Arch {
    DEVICE.backend().target().arch
}

/// Whether it has no images for an architecture of which there are some that no other one runs. Then a line says what is skipped, past the harness, which
/// would count the test as passed and no more: `skipped` in a log are the bodies that did not run.
pub(crate) fn lacks(arch: Arch) -> bool {
    let own = own_arch();
    let lacks = arch == Arch::Sm90a && own != Arch::Sm90a;
    if lacks {
        let thread = std::thread::current();
        let body = thread.name().unwrap_or("a body without a name");
        let _ = writeln!(std::io::stderr(), "skipped on {own}: {body}, which is for {arch} alone");
    }
    lacks
}

/// The first GPU, with room for what one test needs on each thread.
static DEVICE: LazyLock<Device<Cuda>> = LazyLock::new(|| {
    let config = CudaConfig { images: images(), ..CudaConfig::default() };
    let opened =
        Cuda::new(config).and_then(|cuda| Device::open(cuda, Ledger::new(8 << 30), Ledger::new(1 << 20)));
    opened.unwrap_or_else(|error| not_here(&error))
});

/// The kernels; where none were compiled it is the stand-in that has to run them, and takes them from the emulator by name.
fn images() -> &'static [Image] {
    if images::ALL.is_empty() { stand_in() } else { images::ALL }
}

#[cfg(feature = "emu")]
fn stand_in() -> &'static [Image] {
    #[repr(align(64))]
    struct Aligned([u8; 8]);
    static BYTES: Aligned = Aligned(*b"stand-in");
    static NAMES: LazyLock<Vec<&'static str>> =
        LazyLock::new(|| lighterage_kernels::emu::kernels().into_iter().map(|name| &*name.leak()).collect());
    static IMAGES: LazyLock<[Image; 1]> =
        LazyLock::new(|| [Image::new("stand-in", &BYTES.0, &NAMES, &Arch::ALL)]);
    &*IMAGES
}

#[cfg(not(feature = "emu"))]
fn stand_in() -> &'static [Image] {
    &[]
}

/// Where there is no GPU nothing was tested: the process fails, and says so past the harness, which would keep it to itself. Whoever has no GPU builds with
/// feature `emu`.
fn not_here(error: &dyn std::fmt::Display) -> ! {
    let _ = writeln!(std::io::stderr(), "not on cuda: {error}");
    std::process::exit(1);
}

thread_local! {
    /// Tests run on threads: each has its stream, and a pool on it.
    static QUEUE: Queue<Cuda> = {
        let stream = DEVICE.stream(StreamKind::Compute).expect("a stream");
        let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 33 };
        Queue::new(Pool::new(&stream, config).expect("a pool"))
    };
    /// What the next launch of [`Given`] launches.
    static NEXT: Cell<Launches> = const { Cell::new(Launches::NONE) };
}

/// Bytes on the GPU, aligned as all of its memory.
pub(crate) fn upload(bytes: &[u8]) -> Tensor<Cuda> {
    QUEUE.with(|queue| queue.upload(bytes, &[bytes.len()], "numerics").expect("uploaded"))
}

/// The address of its first byte.
pub(crate) fn address(tensor: &Tensor<Cuda>) -> u64 {
    tensor.view().address().0
}

/// What the bytes are after all earlier work.
pub(crate) fn download(tensor: &Tensor<Cuda>) -> Vec<u8> {
    QUEUE.with(|queue| queue.read(tensor.view()).expect("no failure").expect("a GPU has bytes"))
}

/// Launches them and waits for their end.
pub(crate) fn launch<P: Pod + Send + Sync>(launches: &Launches, params: &P) {
    NEXT.set(*launches);
    QUEUE.with(|queue| {
        // SAFETY: the addresses in the parameters are those of tensors of this thread's queue, which the callers keep.
        unsafe { queue.stream().launch::<Given<P>>(params) }.expect("launched");
        queue.stream().synchronize().expect("no failure");
    });
}

/// A kernel that launches what it was given. Kernels of ops say by parameters and target alone what is launched; the tests choose tiles and targets themselves.
struct Given<P>(PhantomData<P>);

impl<P: Pod + Send + Sync> Kernel for Given<P> {
    type Params = P;

    const NAME: &'static str = "given";

    unsafe fn host(_: &P, _: &Workers) {
        unreachable!("it runs on a GPU");
    }

    fn cost(_: &P) -> Cost {
        Cost::default()
    }

    fn launches(_: &P, _: Target) -> Launches {
        NEXT.get()
    }
}
