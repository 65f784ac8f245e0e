//! Memory for kernels: aligned as device memory is, with guards around it; where a GPU is used, there.

use std::cell::OnceCell;

use bytemuck::{Pod, Zeroable};
use half::bf16;
use lighterage_device::Cuda;
use lighterage_ops::Tensor;

use crate::gpu;
use crate::runs::Region;

/// Device memory is aligned to 256 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(256))]
struct Line([u8; 256]);

/// bf16 numbers.
pub(crate) type Buffer = Memory<bf16>;
/// fp32 numbers.
pub(crate) type Floats = Memory<f32>;
/// Ids.
pub(crate) type Ids = Memory<i32>;

/// What a buffer holds.
pub(crate) trait Element: Pod {
    /// What nobody has written: a NaN, or an id that is in no table.
    const POISON: Self;

    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
}

impl Element for bf16 {
    const POISON: Self = Self::NAN;

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }
}

impl Element for f32 {
    const POISON: Self = Self::NAN;

    fn from_f32(value: f32) -> Self {
        value
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for i32 {
    const POISON: Self = Self::MIN;

    #[expect(clippy::cast_possible_truncation, reason = "ids are small")]
    fn from_f32(value: f32) -> Self {
        value as Self
    }

    fn to_f32(self) -> f32 {
        self as f32
    }
}

/// Bytes before and after the elements that nobody may touch.
const GUARD: usize = 256;

/// `count` elements, poison until written, between guards.
pub(crate) struct Memory<E: Element> {
    lines: Vec<Line>,
    /// The same on the GPU, guards and all, from when its address was asked for.
    there: OnceCell<Tensor<Cuda>>,
    elements: std::marker::PhantomData<E>,
    count: usize,
}

impl<E: Element> Memory<E> {
    pub(crate) fn poisoned(count: usize) -> Self {
        let lines = (count * size_of::<E>()).div_ceil(GUARD) + 2;
        let mut memory = Self {
            lines: vec![Line([0; GUARD]); lines],
            there: OnceCell::new(),
            elements: std::marker::PhantomData,
            count,
        };
        memory.all_mut().fill(E::POISON);
        memory
    }

    pub(crate) fn of(values: &[f32]) -> Self {
        let mut memory = Self::poisoned(values.len());
        let first = GUARD / size_of::<E>();
        for (element, value) in memory.all_mut()[first..].iter_mut().zip(values) {
            *element = E::from_f32(*value);
        }
        memory
    }

    fn all(&self) -> &[E] {
        bytemuck::cast_slice(&self.lines)
    }

    fn all_mut(&mut self) -> &mut [E] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }

    /// The address of element 0, for a kernel to write through.
    pub(crate) fn address(&mut self) -> u64 {
        if gpu::is_used() {
            let there = self.there.get_or_init(|| gpu::upload(bytemuck::cast_slice(&self.lines)));
            let address = gpu::address(there);
            assert!(address.is_multiple_of(256), "device memory at {address:#x}");
            return address + GUARD as u64;
        }
        self.lines[1..].as_mut_ptr().expose_provenance() as u64
    }

    pub(crate) fn region(&mut self) -> Region {
        Region { address: self.address(), bytes: (self.count * size_of::<E>()) as u64 }
    }

    /// All elements; fails where a guard was touched.
    pub(crate) fn values(&self) -> Vec<f32> {
        self.guarded().iter().map(|element| element.to_f32()).collect()
    }

    /// The elements as they are now, after a look at both guards.
    fn guarded(&self) -> Vec<E> {
        let there = self.there.get().map(gpu::download);
        let mut all = there.as_deref().map_or(self.all().to_vec(), bytemuck::pod_collect_to_vec);
        let first = GUARD / size_of::<E>();
        let mut guards = all[..first].iter().chain(&all[first + self.count..]);
        let is_whole = |guard: &E| bytemuck::bytes_of(guard) == bytemuck::bytes_of(&E::POISON);
        assert!(guards.all(is_whole), "a guard was overwritten");
        all.truncate(first + self.count);
        all.split_off(first)
    }
}

/// Inputs have guards too, and nobody asks for their values.
impl<E: Element> Drop for Memory<E> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.guarded();
        }
    }
}

#[test]
fn a_touched_guard_is_found_though_nobody_asks_for_values() {
    for count in [1, 128, 129] {
        let last = Buffer::poisoned(count).all().len() - 1;
        for touched in [0, GUARD / 2 - 1, GUARD / 2 + count, last] {
            let found = std::panic::catch_unwind(|| {
                let mut buffer = Buffer::poisoned(count);
                buffer.all_mut()[touched] = bf16::ONE;
            });
            assert!(found.is_err(), "element {touched} around {count}");
        }
        let mut buffer = Buffer::poisoned(count);
        buffer.all_mut()[GUARD / 2..][..count].fill(bf16::ONE);
    }
}
