#![expect(
    clippy::cast_possible_truncation,
    reason = "strides are 64 bits in the parameters, as addresses are"
)]

use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Cost, Kernel, Launches, ProductCall, Target, Workers};
use lighterage_kernels::gemm;
use lighterage_kernels::params::LinearParams;
use lighterage_shape::Float;

use crate::gemm::{Epilogue, HostElement, Product, RowSource, Simd, multiply, pack_row};

/// `kernels/gemm/linear.h` for one element type.
#[derive(Debug)]
pub(super) struct LinearKernel<E>(PhantomData<E>);

impl Kernel for LinearKernel<f32> {
    type Params = LinearParams;

    const NAME: &'static str = "linear_f32";

    unsafe fn host(params: &LinearParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        unsafe { run::<f32, f32>(params, workers) }
    }

    fn cost(params: &LinearParams) -> Cost {
        cost(params, size_of::<f32>(), size_of::<f32>())
    }
}

impl Kernel for LinearKernel<bf16> {
    type Params = LinearParams;

    const NAME: &'static str = "linear_bf16";

    unsafe fn host(params: &LinearParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        unsafe { run::<bf16, bf16>(params, workers) }
    }

    fn cost(params: &LinearParams) -> Cost {
        cost(params, size_of::<bf16>(), size_of::<bf16>())
    }

    fn product(params: &LinearParams) -> Option<ProductCall> {
        Some(gemm::linear::call(params))
    }

    fn launches(params: &LinearParams, target: Target) -> Launches {
        gemm::linear::launches(params, target)
    }
}

/// bf16 tensors whose sums, with their bias, are stored as f32.
#[derive(Debug)]
pub(super) struct LinearSumsKernel;

impl Kernel for LinearSumsKernel {
    type Params = LinearParams;

    const NAME: &'static str = "linear_sums_bf16";

    unsafe fn host(params: &LinearParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        unsafe { run::<bf16, f32>(params, workers) }
    }

    fn cost(params: &LinearParams) -> Cost {
        cost(params, size_of::<bf16>(), size_of::<f32>())
    }

    fn launches(params: &LinearParams, target: Target) -> Launches {
        gemm::linear::launches_sums(params, target)
    }
}

/// # Safety
/// - As [`Kernel::host`].
unsafe fn run<E: HostElement, O: Float>(params: &LinearParams, workers: &Workers) {
    let product = Product {
        a: Rows { start: params.x as *const E, stride: params.x_stride as usize },
        weight: params.weight as *const E,
        weight_stride: params.weight_stride as usize,
        rows: params.rows as usize,
        columns: params.columns as usize,
        inner: params.inner as usize,
        epilogue: Epilogue {
            bias: params.bias as *const E,
            gate: params.gate as *const E,
            residual: params.residual as *const E,
            residual_stride: params.residual_stride as usize,
            activation: params.activation,
            out: params.out as *mut O,
            out_stride: params.out_stride as usize,
        },
    };
    // SAFETY: the caller's promise about the addresses in `params`.
    unsafe { multiply(workers, &product) }
}

/// Rows that lie in memory as they are.
#[derive(Debug)]
struct Rows<E> {
    start: *const E,
    stride: usize,
}

// SAFETY: only read during the launch, which `Kernel::host`'s caller promises.
unsafe impl<E: Sync> Sync for Rows<E> {}

impl<E: HostElement> RowSource<E> for Rows<E> {
    #[inline(always)]
    unsafe fn pack<S: Simd<E>>(&self, row: usize, start: usize, length: usize, packed: &mut [u32]) {
        // SAFETY: the row and its elements exist: the caller's promise.
        let elements =
            unsafe { std::slice::from_raw_parts(self.start.wrapping_add(row * self.stride + start), length) };
        pack_row::<E, S>(elements, packed);
    }

    #[inline(always)]
    fn place(&self, row: usize, start: usize) -> Option<*const E> {
        Some(self.start.wrapping_add(row * self.stride + start))
    }
}

/// `2 rows columns inner` FLOPs; every tensor is read or written once.
fn cost(params: &LinearParams, element_bytes: usize, out_bytes: usize) -> Cost {
    let [rows, columns, inner] = [params.rows, params.columns, params.inner].map(f64::from);
    let vectors = f64::from(u8::from(params.bias != 0) + u8::from(params.gate != 0)) * columns;
    let residual = if params.residual == 0 { 0.0 } else { rows * columns };
    let inputs = (rows * inner + columns * inner + vectors + residual) * element_bytes as f64;
    Cost { flops: 2.0 * rows * columns * inner, bytes: inputs + rows * columns * out_bytes as f64 }
}
