//! How `conv2d.cu` is launched: which tile, by the model of time of `gemm/linear.rs`.

use crate::gemm::linear::{Alignment, Config, Shape, fastest, tiles, warps};
use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::Conv2dParams;

const WIDE: [Config; 2] =
    [warps("conv2d_128x128_bf16", [128, 128], [2, 2], 3), warps("conv2d_64x64_bf16", [64, 64], [2, 2], 4)];
const NARROW: Config = warps("conv2d_128x16_bf16", [128, 16], [4, 1], 4);
const GATHER: Config = warps("conv2d_64x64_gather_bf16", [64, 64], [2, 2], 4);

/// The call as a matrix product: pixels, channels, and what a neighbourhood has.
#[must_use]
pub const fn shape(params: &Conv2dParams) -> Shape {
    let bits = params.x | params.weight | (params.in_channels as u64 * 2);
    Shape {
        rows: params.out_height.saturating_mul(params.out_width),
        columns: params.out_channels,
        inner: params.kernel * params.kernel * params.in_channels,
        alignment: if bits.is_multiple_of(16) { Alignment::Bytes16 } else { Alignment::Less },
    }
}

/// The variant: by alignment, then by the channels of out, then the one that should be fastest.
#[must_use]
pub fn choose(shape: Shape, target: Target) -> Config {
    match shape.alignment {
        Alignment::Less => GATHER,
        Alignment::Bytes16 if shape.columns <= NARROW.tile[1] => NARROW,
        Alignment::Bytes16 => fastest(&WIDE, shape, target),
    }
}

/// One launch of the variant that [`choose`] names.
///
/// ```
/// use lighterage_kernels::conv::conv2d;
/// use lighterage_kernels::launch::{Arch, Target};
/// use lighterage_kernels::params::Conv2dParams;
/// let params = Conv2dParams { out_height: 1024, out_width: 1024, in_channels: 128, out_channels: 3, kernel: 3, ..Conv2dParams::default() };
/// let launches = conv2d::launches(&params, Target::typical(Arch::Sm89));
/// assert_eq!(launches.as_slice()[0].image, "conv2d_128x16_bf16");
/// ```
#[must_use]
pub fn launches(params: &Conv2dParams, target: Target) -> Launches {
    let shape = shape(params);
    launches_of(choose(shape, target), params)
}

/// One launch of a given variant.
#[must_use]
pub fn launches_of(config: Config, params: &Conv2dParams) -> Launches {
    let blocks = u32::try_from(tiles(config, shape(params))).unwrap_or(u32::MAX);
    let grid = Grid { blocks: [blocks, 1, 1], threads: config.threads, shared_bytes: config.shared_bytes };
    Launches::of(&[Launch::new(config.image, grid)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::Arch;

    fn chosen(rows: u32, columns: u32, inner: u32) -> [u32; 2] {
        let shape = Shape { rows, columns, inner, alignment: Alignment::Bytes16 };
        choose(shape, Target::typical(Arch::Sm80)).tile
    }

    #[test]
    fn wide_layers_of_large_images_get_large_tiles() {
        assert_eq!(chosen(1 << 20, 128, 1152), [128, 128]);
        assert_eq!(chosen(128 * 128, 512, 4608), [128, 128]);
    }

    #[test]
    fn small_images_are_spread_over_the_processors() {
        assert_eq!(chosen(32 * 32, 512, 4608), [64, 64]);
    }

    #[test]
    fn three_channels_waste_13_columns_not_125() {
        assert_eq!(chosen(1 << 20, 3, 1152), [128, 16]);
    }
}
