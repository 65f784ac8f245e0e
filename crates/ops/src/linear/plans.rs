//! One product in every way that a GPU has for it: for whoever measures which is fastest.

use half::bf16;
use lighterage_device::Cuda;
use lighterage_kernels::gemm::linear::{
    Config, Plan, call, choose, launches_by, variants, workspace_bytes, workspace_bytes_of,
};
use lighterage_kernels::gemm::table::Algorithm;
use lighterage_kernels::params::LinearParams;
use lighterage_shape::DType;

use super::host::LinearKernel;
use super::{Linear, OP};
use crate::check::Check;
use crate::{Error, Queue, Result};

/// Every way to multiply it: our own variants, the one that [`linear`](super::linear) takes without a table first, then at most so many algorithms of
/// cuBLASLt, where the device has it open and there is nothing after the bias.
///
/// # Errors
/// As [`linear`](super::linear), and [`Error::DType`](crate::Error::DType) for an f32 linear.
pub fn linear_plans(queue: &Queue<Cuda>, args: &Linear<'_>, algorithms_max: usize) -> Result<Vec<Plan>> {
    let (params, device) = (params(queue, args)?, queue.device().backend());
    let (shape, target) = (call(&params).shape, device.target());
    let first = choose(shape, target);
    // One that a run had no workspace for is no choice.
    let fits = |config: &Config| workspace_bytes_of(*config, &params, target) <= workspace_bytes(&params);
    let others = variants(shape, target.arch).into_iter().filter(|config| *config != first && fits(config));
    let mut plans: Vec<Plan> = [first].into_iter().chain(others).map(Plan::Own).collect();
    // Of this plan the launches say whether the library can do it at all; the algorithm is not looked at.
    let foreign = launches_by(Plan::CublasLt(Algorithm([0; 8])), &params, target);
    if let Some(product) = foreign.product() {
        let algorithms = device.algorithms(product, algorithms_max)?;
        plans.extend(algorithms.into_iter().map(Plan::CublasLt));
    }
    Ok(plans)
}

/// Launches a [`Linear`] in one of the ways that [`linear_plans`] told.
///
/// # Errors
/// As [`linear_plans`].
pub fn linear_by(queue: &Queue<Cuda>, args: &Linear<'_>, plan: Plan) -> Result<()> {
    let (params, _room) = super::with_workspace(queue, params(queue, args)?, args)?;
    let launches = launches_by(plan, &params, queue.device().backend().target());
    // SAFETY: `params` found every tensor in shape, of this stream, and the output apart from the inputs; a view's memory stays mapped until the work
    // launched on it is done. The launches are of these very parameters.
    unsafe { queue.stream().launch_by::<LinearKernel<bf16>>(&params, &launches) }?;
    Ok(())
}

fn params(queue: &Queue<Cuda>, args: &Linear<'_>) -> Result<LinearParams> {
    for (tensor, view) in [("x", args.x), ("out", args.out)] {
        if view.dtype() != DType::Bf16 {
            return Err(Error::DType { op: OP, tensor, expected: DType::Bf16, got: view.dtype() });
        }
    }
    args.params(Check::new(OP, queue))
}
