use bytemuck::Pod;
use lighterage_kernels::gemm::linear::Call;
use lighterage_kernels::launch::{Launches, Target};

use crate::Workers;

/// What one launch costs, for the simulator, the planner and the roofline of a benchmark.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: f64,
    /// Bytes read and written once each.
    pub bytes: f64,
}

/// One kernel: its name, its parameters, what it does on the host and what it costs.
///
/// `ops` implements it on marker types; a backend launches the images that `launches` names (`Cuda`), runs `host` (`Host`) or
/// charges `cost` (`Sim`).
pub trait Kernel: 'static {
    /// The parameter struct, by value: the very bytes that the device gets.
    type Params: Pod + Send + Sync;

    /// Its name in errors and traces, for instance `rms_norm_bf16`.
    const NAME: &'static str;

    /// Does the kernel's work on the host. The result does not depend on the number of workers.
    ///
    /// # Safety
    /// - As [`Backend::launch`](crate::Backend::launch): addresses are pointers of this process, valid as far as the kernel reaches, and nothing else
    ///   touches what it writes or writes what it reads until it returns.
    unsafe fn host(params: &Self::Params, workers: &Workers);

    /// FLOPs and bytes of one launch.
    fn cost(params: &Self::Params) -> Cost;

    /// The product that it is, if a table may say who makes it.
    fn product(params: &Self::Params) -> Option<Call> {
        let _ = params;
        None
    }

    /// What a GPU of that kind launches for it, in order; none where there is no image, as for the f32 variants.
    ///
    /// It depends on parameters and target alone.
    fn launches(params: &Self::Params, target: Target) -> Launches {
        let _ = (params, target);
        Launches::NONE
    }
}
