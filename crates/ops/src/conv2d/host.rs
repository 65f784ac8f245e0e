use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Cost, Kernel, Launches, Target, Workers};
use lighterage_kernels::conv;
use lighterage_kernels::params::Conv2dParams;

use crate::gemm::{Epilogue, HostElement, Product, RowSource, Simd, multiply};

/// `kernels/conv/conv2d.h` for one element type.
#[derive(Debug)]
pub(super) struct Conv2dKernel<E>(PhantomData<E>);

impl Kernel for Conv2dKernel<f32> {
    type Params = Conv2dParams;

    const NAME: &'static str = "conv2d_f32";

    unsafe fn host(params: &Conv2dParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        unsafe { run::<f32>(params, workers) }
    }

    fn cost(params: &Conv2dParams) -> Cost {
        cost(params, size_of::<f32>())
    }
}

impl Kernel for Conv2dKernel<bf16> {
    type Params = Conv2dParams;

    const NAME: &'static str = "conv2d_bf16";

    unsafe fn host(params: &Conv2dParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        unsafe { run::<bf16>(params, workers) }
    }

    fn cost(params: &Conv2dParams) -> Cost {
        cost(params, size_of::<bf16>())
    }

    fn launches(params: &Conv2dParams, target: Target) -> Launches {
        conv::conv2d::launches(params, target)
    }
}

/// A product of the pixels' neighbourhoods `[out_height * out_width, kernel * kernel * in_channels]`, which are gathered as
/// they are packed and never stored as a whole, with the weight.
///
/// # Safety
/// - As [`Kernel::host`].
unsafe fn run<E: HostElement>(params: &Conv2dParams, workers: &Workers) {
    let columns = params.out_channels as usize;
    let inner = (params.kernel * params.kernel) as usize * params.in_channels as usize;
    let product = Product {
        a: Neighbourhoods { x: params.x as *const E, params: *params },
        weight: params.weight as *const E,
        weight_stride: inner,
        rows: params.out_height as usize * params.out_width as usize,
        columns,
        inner,
        epilogue: Epilogue {
            bias: params.bias as *const E,
            gate: std::ptr::null(),
            residual: params.residual as *const E,
            residual_stride: columns,
            activation: 0,
            out: params.out as *mut E,
            out_stride: columns,
        },
    };
    // SAFETY: the caller's promise about the addresses in `params`.
    unsafe { multiply(workers, &product) }
}

/// What each output pixel sees of the input: `[kernel, kernel, in_channels]`, zero outside of the image.
#[derive(Debug)]
struct Neighbourhoods<E> {
    x: *const E,
    params: Conv2dParams,
}

// SAFETY: only read during the launch, which `Kernel::host`'s caller promises.
unsafe impl<E: Sync> Sync for Neighbourhoods<E> {}

impl<E: HostElement> RowSource<E> for Neighbourhoods<E> {
    #[inline(always)]
    unsafe fn pack<S: Simd<E>>(&self, row: usize, start: usize, length: usize, packed: &mut [u32]) {
        let width = self.params.out_width as usize;
        let (y, x) = (row / width, row % width);
        let channels = self.params.in_channels as usize;
        let packed: &mut [S::Packed] = bytemuck::cast_slice_mut(packed);
        packed[length..length.next_multiple_of(S::PER_WORD)].fill(bytemuck::Zeroable::zeroed());
        let mut done = 0;
        while done < length {
            let (tap, channel) = ((start + done) / channels, (start + done) % channels);
            let count = (channels - channel).min(length - done);
            let target = &mut packed[done..done + count];
            match self.pixel(y, x, tap) {
                None => target.fill(bytemuck::Zeroable::zeroed()),
                Some(pixel) => {
                    let from = self.x.wrapping_add(pixel * channels + channel);
                    // SAFETY: the pixel is inside of the input (`pixel`), and `count` of its channels from `channel` on exist.
                    let source = unsafe { std::slice::from_raw_parts(from, count) };
                    for (packed, value) in target.iter_mut().zip(source) {
                        *packed = S::pack(*value);
                    }
                }
            }
            done += count;
        }
    }

    fn place(&self, _: usize, _: usize) -> Option<*const E> {
        None
    }
}

impl<E> Neighbourhoods<E> {
    /// The input pixel under one tap of the kernel, unless it is padding.
    #[inline(always)]
    fn pixel(&self, y: usize, x: usize, tap: usize) -> Option<usize> {
        let Conv2dParams { height, width, kernel, stride, pad_top, pad_left, .. } = self.params;
        let (kernel, stride) = (kernel as usize, stride as usize);
        let y = (y * stride + tap / kernel).checked_sub(pad_top as usize).filter(|y| *y < height as usize)?;
        let x = (x * stride + tap % kernel).checked_sub(pad_left as usize).filter(|x| *x < width as usize)?;
        Some(y * width as usize + x)
    }
}

/// `2 pixels out_channels kernel^2 in_channels` FLOPs, padding included; every tensor is read or written once.
fn cost(params: &Conv2dParams, element_bytes: usize) -> Cost {
    let pixels = f64::from(params.out_height) * f64::from(params.out_width);
    let weight =
        f64::from(params.out_channels) * f64::from(params.kernel).powi(2) * f64::from(params.in_channels);
    let input = f64::from(params.height) * f64::from(params.width) * f64::from(params.in_channels);
    let outputs = if params.residual == 0 { 1.0 } else { 2.0 } * pixels * f64::from(params.out_channels);
    let bias = if params.bias == 0 { 0.0 } else { f64::from(params.out_channels) };
    Cost { flops: 2.0 * pixels * weight, bytes: (input + weight + outputs + bias) * element_bytes as f64 }
}
