//! How `conv2d.cu` and `conv2d_sm90a.cu` are launched: which tile, by the model of time of `gemm/linear.rs`.

use crate::gemm::linear::{
    Alignment, Config, Shape, Store, grid, groups, predicted_clocks, tall, tiles, warps,
};
use crate::launch::{Arch, Launch, Launches, Target, TensorMap};
use crate::params::Conv2dParams;

const WIDE: [Config; 2] =
    [warps("conv2d_128x128_bf16", [128, 128], [2, 2], 3), warps("conv2d_64x64_bf16", [64, 64], [2, 2], 4)];
const NARROW: Config = warps("conv2d_128x16_bf16", [128, 16], [4, 1], 4);
const GATHER: Config = warps("conv2d_64x64_gather_bf16", [64, 64], [2, 2], 4);
/// Those of `conv2d_sm90a.cu`.
const HOPPER: [Config; 2] = [
    groups("conv2d_sm90a_128x256_bf16", 256, 4, Store::Boxes(2)),
    tall("conv2d_sm90a_256x128_bf16", 128, 4, Store::Boxes(2)),
];

/// `patch_width` of `conv2d_sm90a.cu`: pixels of a patch across.
const PATCH_WIDTH: u32 = 16;

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

/// The same as a variant does it: on Hopper whole patches of pixels, and of each tap whole stages of channels.
fn shape_of(config: Config, params: &Conv2dParams) -> Shape {
    let shape = shape(params);
    if !is_hopper(config) {
        return shape;
    }
    let wide = params.out_width.div_ceil(PATCH_WIDTH);
    let high = params.out_height.div_ceil(config.tile[0] / PATCH_WIDTH);
    let channels = params.in_channels.next_multiple_of(config.depth);
    Shape {
        rows: wide.saturating_mul(high).saturating_mul(config.tile[0]),
        inner: params.kernel * params.kernel * channels,
        ..shape
    }
}

fn is_hopper(config: Config) -> bool {
    HOPPER.iter().any(|hopper| hopper.image == config.image)
}

/// The variant: by alignment, then by the channels of out, then the one that should be fastest.
#[must_use]
pub fn choose(params: &Conv2dParams, target: Target) -> Config {
    let shape = shape(params);
    match shape.alignment {
        Alignment::Less => GATHER,
        Alignment::Bytes16 if shape.columns <= NARROW.tile[1] => NARROW,
        Alignment::Bytes16 => {
            let clocks = |config: &Config| predicted_clocks(*config, shape_of(*config, params), target);
            // Of two that should be equally fast the first.
            *candidates(params, target).min_by_key(|config| clocks(config)).unwrap_or(&WIDE[0])
        }
    }
}

/// Every variant that can do it, in no order of speed.
#[must_use]
pub fn variants(params: &Conv2dParams, target: Target) -> Vec<Config> {
    let is_aligned = shape(params).alignment == Alignment::Bytes16;
    let aligned = candidates(params, target).chain([&NARROW]).filter(|_| is_aligned);
    aligned.chain([&GATHER]).copied().collect()
}

/// The variants for aligned channels, the largest tile first. TMA steps from pixel to pixel, and stores whole pieces of 16 bytes; a tensor map has no empty dimension.
fn candidates(params: &Conv2dParams, target: Target) -> impl Iterator<Item = &'static Config> {
    let is_stored_whole = (params.out | (u64::from(params.out_channels) * 2)).is_multiple_of(16);
    let has_pixels = params.height > 0 && params.width > 0;
    let is_for_tma = target.arch == Arch::Sm90a && params.stride == 1 && is_stored_whole && has_pixels;
    HOPPER.iter().filter(move |_| is_for_tma).chain(&WIDE)
}

/// One launch of the variant that [`choose`] names.
///
/// ```
/// use lighterage_kernels::conv::conv2d;
/// use lighterage_kernels::launch::{Arch, Target};
/// use lighterage_kernels::params::Conv2dParams;
/// let params = Conv2dParams { out_height: 1024, out_width: 1024, in_channels: 128, out_channels: 3, kernel: 3, stride: 1, ..Conv2dParams::default() };
/// let launches = conv2d::launches(&params, Target::typical(Arch::Sm89));
/// assert_eq!(launches.as_slice()[0].image, "conv2d_128x16_bf16");
/// ```
#[must_use]
pub fn launches(params: &Conv2dParams, target: Target) -> Launches {
    launches_of(choose(params, target), params, target)
}

/// One launch of a given variant. On Hopper one block a multiprocessor takes tile after tile.
#[must_use]
pub fn launches_of(config: Config, params: &Conv2dParams, target: Target) -> Launches {
    let tiles = tiles(config, shape_of(config, params));
    let launch = if is_hopper(config) {
        let blocks = tiles.min(u64::from(target.multiprocessors).max(1));
        Launch::new(config.image, grid(config, blocks)).with_maps(&maps(config, params))
    } else {
        Launch::new(config.image, grid(config, tiles))
    };
    Launches::of(&[launch])
}

/// The image in boxes of a patch and 64 channels; the weight of one tap; out, in boxes of a warpgroup's 64 pixels.
fn maps(config: Config, params: &Conv2dParams) -> [TensorMap; 3] {
    let Conv2dParams { in_channels, out_channels, kernel, .. } = *params;
    let [rows, columns] = config.tile;
    let input = [in_channels, params.width, params.height];
    let weight = [in_channels, kernel * kernel, out_channels];
    let out = [out_channels, params.out_width, params.out_height];
    [
        map(params.x, input, [PATCH_WIDTH, rows / PATCH_WIDTH]),
        map(params.weight, weight, [1, columns]),
        map(params.out, out, [PATCH_WIDTH, 64 / PATCH_WIDTH]),
    ]
}

/// A contiguous tensor in boxes of 64 elements, 128 bytes, of so many rows and planes.
fn map(address: u64, [elements, rows, planes]: [u32; 3], [box_rows, box_planes]: [u32; 2]) -> TensorMap {
    let row_bytes = u64::from(elements) * 2;
    TensorMap {
        address,
        sizes: [elements.into(), rows.into(), planes.into(), 0, 0],
        strides: [row_bytes, u64::from(rows) * row_bytes, 0, 0],
        box_sizes: [64, box_rows, box_planes, 0, 0],
        rank: 3,
        element_bytes: 2,
        swizzle_bytes: 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn layer(size: u32, from: u32, into: u32) -> Conv2dParams {
        Conv2dParams {
            x: 1 << 40,
            weight: 1 << 41,
            bias: 1 << 42,
            residual: 0,
            out: 1 << 43,
            height: size,
            width: size,
            in_channels: from,
            out_height: size,
            out_width: size,
            out_channels: into,
            kernel: 3,
            stride: 1,
            pad_top: 1,
            pad_left: 1,
        }
    }

    fn chosen(params: &Conv2dParams, arch: Arch) -> &'static str {
        choose(params, Target::typical(arch)).image
    }

    #[test]
    fn wide_layers_of_large_images_get_large_tiles() {
        assert_eq!(chosen(&layer(1024, 128, 128), Arch::Sm80), "conv2d_128x128_bf16");
        assert_eq!(chosen(&layer(128, 512, 512), Arch::Sm80), "conv2d_128x128_bf16");
        assert_eq!(chosen(&layer(1024, 128, 128), Arch::Sm90a), "conv2d_sm90a_256x128_bf16");
        assert_eq!(chosen(&layer(512, 512, 256), Arch::Sm90a), "conv2d_sm90a_128x256_bf16");
    }

    #[test]
    fn small_images_are_spread_over_the_processors() {
        assert_eq!(chosen(&layer(32, 512, 512), Arch::Sm80), "conv2d_64x64_bf16");
    }

    #[test]
    fn three_channels_waste_13_columns_not_125() {
        for arch in Arch::ALL {
            assert_eq!(chosen(&layer(1024, 128, 3), arch), "conv2d_128x16_bf16");
        }
    }

    #[test]
    fn what_tma_cannot_do_is_left_to_mma() {
        let wide = layer(64, 128, 128);
        for params in [
            Conv2dParams { stride: 2, out_height: 32, out_width: 32, ..wide },
            Conv2dParams { out_channels: 132, ..wide },
            Conv2dParams { out: wide.out + 2, ..wide },
            Conv2dParams { height: 0, ..wide },
            Conv2dParams { width: 0, ..wide },
        ] {
            assert!(!chosen(&params, Arch::Sm90a).contains("sm90a"), "{params:?}");
        }
        assert_eq!(chosen(&Conv2dParams { in_channels: 3, ..wide }, Arch::Sm90a), "conv2d_64x64_gather_bf16");
    }

    #[test]
    fn a_box_of_the_image_is_a_patch_and_its_rows_those_of_the_product() {
        let target = Target::typical(Arch::Sm90a);
        // 50 x 50 pixels are 4 patches across and 7 down, of which the last are not whole.
        let launches = launches_of(HOPPER[0], &layer(50, 136, 264), target);
        let [launch] = launches.as_slice() else { panic!("one launch") };
        assert_eq!(launch.grid.blocks, [4 * 7 * 2, 1, 1]);
        let [image, weight, out] = launch.maps() else { panic!("three maps") };
        assert_eq!((image.sizes, image.box_sizes), ([136, 50, 50, 0, 0], [64, 16, 8, 0, 0]));
        assert_eq!((weight.sizes, weight.box_sizes), ([136, 9, 264, 0, 0], [64, 1, 256, 0, 0]));
        assert_eq!((out.sizes, out.box_sizes), ([264, 50, 50, 0, 0], [64, 16, 4, 0, 0]));
        assert_eq!(image.strides[..2], [272, 272 * 50]);
        assert!(HOPPER.iter().all(|config| config.shared_bytes <= Arch::Sm90a.shared_bytes_max()));
        let line = format!("constexpr int patch_width = {PATCH_WIDTH}");
        assert!(include_str!("conv2d_sm90a.cu").contains(&line), "conv2d_sm90a.cu has no `{line}`");
    }

    #[test]
    fn the_document_has_every_variant() {
        let text = include_str!("../../docs/kernels/conv2d.md");
        for config in HOPPER.iter().chain(&WIDE).chain([&NARROW]) {
            let row = text.lines().find(|line| line.starts_with(&format!("| `{}` |", config.image)));
            let told = format!("{} stages, {} KiB", config.stages, config.shared_bytes / 1024);
            assert!(row.is_some_and(|row| row.contains(&told)), "{}: {told}", config.image);
        }
    }

    /// The table of docs/kernels/conv2d.md: microseconds at 1.755, 1.41 and 2.52 GHz.
    #[test]
    fn predictions_of_the_document() {
        let us = |config: Config, params: &Conv2dParams, arch| {
            let target = Target::typical(arch);
            let hertz = match arch {
                Arch::Sm90a => 1.755,
                Arch::Sm80 => 1.41,
                _ => 2.52,
            };
            predicted_clocks(config, shape_of(config, params), target) as f64 / hertz / 1e3
        };
        let table = [
            ((128, 512, 512), [281.0, 478.0, 239.0, 98.0]),
            ((512, 512, 256), [2133.0, 3821.0, 1909.0, 764.0]),
            ((1024, 128, 128), [1100.0, 1936.0, 960.0, 404.0]),
        ];
        for ((size, from, into), predicted) in table {
            let params = layer(size, from, into);
            let by = |config, arch| us(config, &params, arch).round();
            let best = |arch| by(choose(&params, Target::typical(arch)), arch);
            let all = [best(Arch::Sm80), best(Arch::Sm89), by(WIDE[0], Arch::Sm90a), best(Arch::Sm90a)];
            assert_eq!(all, predicted, "{size} x {size}, {from} to {into}");
        }
        let last = layer(1024, 128, 3);
        let all = [Arch::Sm80, Arch::Sm89, Arch::Sm90a]
            .map(|arch| us(choose(&last, Target::typical(arch)), &last, arch).round());
        assert_eq!(all, [516.0, 385.0, 678.0], "1024 x 1024, 128 to 3");
    }

    /// 960.5 and 835.3 us at 1024 x 1024 and 1280 x 720 (benches/results/2026-11-27-h100/kernels-2.json.gz).
    #[test]
    fn the_model_says_what_an_h100_took_by_mma() {
        for (height, width, measured) in [(1024, 1024, 960.5), (720, 1280, 835.3)] {
            let sizes =
                Conv2dParams { height, width, out_height: height, out_width: width, ..layer(0, 128, 128) };
            let clocks = predicted_clocks(WIDE[0], shape(&sizes), Target::typical(Arch::Sm90a));
            let predicted = clocks as f64 / 1.755e3;
            assert!((predicted / measured - 1.0).abs() < 0.01, "{predicted} us, measured {measured}");
        }
    }
}
