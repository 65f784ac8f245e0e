use bytemuck::Pod;
use half::bf16;
use lighterage_device::{Isa, Workers};
use lighterage_shape::Float;

use super::Simd;
use super::portable::Portable;

#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512, avx512::Avx512Bf16};

/// Work in independent tasks; which thread runs which makes no difference.
pub(crate) trait Job<E: Float>: Sync {
    /// Runs one task. Implementations are `#[inline(always)]`, so that they are compiled with the path's instructions.
    fn run<S: Simd<E>>(&self, task: usize);
}

/// An element type that the host multiplies.
pub(crate) trait HostElement: Float + Pod {
    /// Its path on [`Isa::Avx512Bf16`].
    type Best: Simd<Self>;
}

#[cfg(target_arch = "x86_64")]
impl HostElement for f32 {
    type Best = Avx512;
}

#[cfg(target_arch = "x86_64")]
impl HostElement for bf16 {
    type Best = Avx512Bf16;
}

#[cfg(not(target_arch = "x86_64"))]
impl HostElement for f32 {
    type Best = Portable;
}

#[cfg(not(target_arch = "x86_64"))]
impl HostElement for bf16 {
    type Best = Portable;
}

/// Below so many FLOPs a launch runs on the caller's thread: waking a sleeping worker takes about as long as this work.
const INLINE_FLOPS_MAX: f64 = 4e6;

/// Runs all tasks of a job on the workers' instruction set.
pub(crate) fn execute<E: HostElement>(workers: &Workers, tasks: usize, flops: f64, job: &impl Job<E>) {
    #[cfg(target_arch = "x86_64")]
    match workers.isa() {
        Isa::Portable => spread::<E, Portable>(workers, tasks, flops, job),
        Isa::Avx2 => spread::<E, Avx2>(workers, tasks, flops, job),
        Isa::Avx512 => spread::<E, Avx512>(workers, tasks, flops, job),
        Isa::Avx512Bf16 => spread::<E, E::Best>(workers, tasks, flops, job),
    }
    #[cfg(not(target_arch = "x86_64"))]
    spread::<E, Portable>(workers, tasks, flops, job);
}

fn spread<E: Float, S: Simd<E>>(workers: &Workers, tasks: usize, flops: f64, job: &impl Job<E>) {
    // SAFETY: `Workers::new` refuses a path that the machine does not have.
    let run = |task| unsafe { S::enter(job, task) };
    if flops < INLINE_FLOPS_MAX {
        (0..tasks).for_each(run);
    } else {
        workers.for_each(tasks, run);
    }
}
