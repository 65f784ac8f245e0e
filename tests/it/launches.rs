//! Whether every launch that can be chosen fits the architecture that it is chosen for: threads, registers, shared memory and grid, by the CUDA C++ Programming Guide, table
//! "Technical Specifications per Compute Capability", and by what ptxas said of the images (`kernels/budget.tsv`).

use std::collections::{BTreeMap, BTreeSet};

use lighterage_kernels::base::self_test;
use lighterage_kernels::conv::{conv2d, upsample};
use lighterage_kernels::gemm::{linear, transpose};
use lighterage_kernels::launch::{Arch, Launch, Launches, Target};
use lighterage_kernels::norm::{group_norm, layer_norm, norm_mod, rms_norm, softmax};
use lighterage_kernels::params::{
    ActivationParams, AddParams, AttentionParams, CastParams, Conv2dParams, EmbeddingParams, EulerStepParams,
    GegluParams, GroupNormParams, LayerNormParams, LinearParams, MeanAbsDiffParams, NormModParams,
    PatchifyParams, QkNormRopeParams, RmsNormParams, SinusoidParams, SoftmaxParams, TransposeParams,
    UnpatchifyParams, UpsampleParams,
};
use lighterage_kernels::rope::qk_norm_rope;
use lighterage_kernels::{attention, elementwise};

/// Of a block, on every architecture from `sm_80` on.
const THREADS_MAX: u32 = 1024;
const REGISTERS_MAX: u32 = 64 << 10;
/// Of a grid.
const BLOCKS_MAX: [u32; 3] = [i32::MAX.cast_unsigned(), 65_535, 65_535];

/// An image as compiled for an architecture: registers of a thread, static shared memory of a block.
type Budget = BTreeMap<(Arch, String), (u32, u32)>;

fn budget() -> Budget {
    let text = std::fs::read_to_string("kernels/budget.tsv").expect("readable");
    let mut rows = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t'));
    let head: Vec<&str> = rows.next().expect("a head").skip(1).collect();
    assert_eq!(head, Arch::ALL.map(|arch| arch.to_string()));
    let cells = rows.flat_map(|mut row| {
        let image = row.next().expect("an image").to_owned();
        let cells: Vec<_> = Arch::ALL.into_iter().zip(row).collect();
        cells.into_iter().map(move |(arch, cell)| ((arch, image.clone()), cell))
    });
    cells.filter(|(_, cell)| *cell != "-").map(|(key, cell)| (key, taken(cell))).collect()
}

/// `32+64`, or `32`.
fn taken(cell: &str) -> (u32, u32) {
    let (registers, shared_bytes) = cell.split_once('+').unwrap_or((cell, "0"));
    (registers.parse().expect("registers"), shared_bytes.parse().expect("bytes"))
}

/// The images that were launched where.
struct Sweep {
    budget: Budget,
    launched: BTreeSet<(Arch, String)>,
}

impl Sweep {
    fn check(&mut self, target: Target, launches: Launches) {
        assert!(!launches.as_slice().is_empty(), "no image on {target}");
        for launch in launches.as_slice() {
            self.check_one(target.arch, launch);
        }
    }

    fn check_one(&mut self, arch: Arch, launch: &Launch) {
        let key = (arch, launch.image.to_owned());
        let Some((registers, static_bytes)) = self.budget.get(&key).copied() else {
            panic!("{} is not compiled for {arch}", launch.image)
        };
        let grid = launch.grid;
        let what = format!(
            "{} on {arch}: {grid:?}, {registers} registers, {static_bytes} static bytes",
            launch.image
        );
        assert!((1..=THREADS_MAX).contains(&grid.threads) && grid.threads.is_multiple_of(32), "{what}");
        // A warp gets whole pieces of 256 registers.
        assert!(registers.next_multiple_of(8) * grid.threads <= REGISTERS_MAX, "{what}");
        assert!(static_bytes + grid.shared_bytes <= arch.shared_bytes_max(), "{what}");
        for (blocks, most) in grid.blocks.into_iter().zip(BLOCKS_MAX) {
            assert!((1..=most).contains(&blocks), "{what}");
        }
        // Programmatic dependent launch and tensor maps begin with Hopper.
        assert!(arch >= Arch::Sm90a || (!launch.overlaps && launch.maps().is_empty()), "{what}");
        self.launched.insert(key);
    }
}

/// Addresses that are never read, `off` bytes behind a multiple of 16.
const fn places(off: u64) -> [u64; 4] {
    [(1 << 40) + off, (1 << 41) + off, (1 << 42) + off, (1 << 43) + off]
}

const OFFS: [u64; 2] = [0, 2];

/// Three sizes of card for each architecture: none of them may break a limit, whatever the choice makes of it.
fn targets() -> impl Iterator<Item = Target> {
    Arch::ALL.into_iter().flat_map(|arch| {
        let typical = Target::typical(arch);
        [1, typical.multiprocessors, 200].map(|multiprocessors| Target { multiprocessors, ..typical })
    })
}

fn products(sweep: &mut Sweep, target: Target) {
    for off in OFFS {
        for (rows, columns, inner) in [
            (1, 18_432, 3072),
            (16, 3, 27),
            (17, 64, 64),
            (512, 9216, 3072),
            (512, 3072, 0),
            (4096, 64, 3072),
            (4112, 21_504, 3072),
            (4608, 3072, 15_360),
            (4608, 3076, 15_360),
            (16_384, 16_384, 512),
        ] {
            let [x, weight, out, workspace] = places(off);
            let [x_stride, weight_stride, out_stride] = [inner, inner, columns].map(u64::from);
            let bare = LinearParams {
                x,
                weight,
                out,
                x_stride,
                weight_stride,
                out_stride,
                rows,
                columns,
                inner,
                ..LinearParams::default()
            };
            sweep.check(target, linear::launches_sums(&bare, target));
            for params in [bare, LinearParams { workspace, ..bare }] {
                sweep.check(target, linear::launches(&params, target));
                for config in linear::variants(linear::shape(&params), target.arch) {
                    sweep.check(target, linear::launches_of(config, &params, target));
                }
            }
        }
    }
}

fn convolutions(sweep: &mut Sweep, target: Target) {
    for off in OFFS {
        for (size, in_channels, out_channels) in
            [(1024, 128, 3), (1024, 128, 128), (512, 512, 256), (33, 136, 132), (1, 3, 8)]
        {
            for (kernel, stride) in [(1, 1), (3, 1), (3, 2)] {
                let [x, weight, out, _] = places(off);
                let out_size = size / stride + size % stride;
                let params = Conv2dParams {
                    x,
                    weight,
                    out,
                    height: size,
                    width: size,
                    in_channels,
                    out_height: out_size,
                    out_width: out_size,
                    out_channels,
                    kernel,
                    stride,
                    ..Conv2dParams::default()
                };
                sweep.check(target, conv2d::launches(&params, target));
                for config in conv2d::variants(&params, target) {
                    sweep.check(target, conv2d::launches_of(config, &params, target));
                }
            }
        }
    }
}

fn attentions(sweep: &mut Sweep, target: Target) {
    for head_dim in [16, 40, 64, 128, 512, attention::PLAIN_HEAD_DIM_MAX] {
        for (queries, keys, heads) in
            [(1, 1, 1), (77, 77, 12), (512, 512, 64), (4608, 4608, 24), (5, 5, 65_535)]
        {
            // Without a bias, T5's, the longest that fit beside the tiles of one card or another, and one that fits nowhere.
            for max_distance in [0, 128, 300, 600, 4000, 100_000] {
                for (causal, gap, off) in [(0, 0, 0), (1, 0, 0), (0, 8, 0), (0, 0, 2)] {
                    let [q, k, v, out] = places(off);
                    let (head_stride, row_stride) =
                        (u64::from(head_dim), u64::from(head_dim) * u64::from(heads) + gap);
                    let params = AttentionParams {
                        q,
                        k,
                        v,
                        out,
                        bias_table: u64::from(max_distance > 0) << 44,
                        workspace: 1 << 45,
                        q_row_stride: row_stride,
                        q_head_stride: head_stride,
                        k_row_stride: row_stride,
                        k_head_stride: head_stride,
                        v_row_stride: row_stride,
                        v_head_stride: head_stride,
                        out_row_stride: row_stride,
                        out_head_stride: head_stride,
                        queries,
                        keys,
                        heads,
                        head_dim,
                        scale: 0.1,
                        causal,
                        buckets: 32,
                        max_distance,
                    };
                    sweep.check(target, attention::launches(&params, target));
                }
            }
        }
    }
}

fn norms(sweep: &mut Sweep, target: Target) {
    for off in OFFS {
        for columns in [1, 64, 768, 1024, 3072, 4096, 4104, 16_384, 20_000] {
            let ([x, out, y, weight], rows) = (places(off), 4608);
            let [x_stride, out_stride, y_stride] = [u64::from(columns); 3];
            let modulated = NormModParams {
                x,
                out,
                first_shift: weight,
                first_scale: weight,
                second_shift: weight,
                second_scale: weight,
                x_stride,
                out_stride,
                rows,
                columns,
                ..NormModParams::default()
            };
            for params in [modulated, NormModParams { y, y_stride, ..modulated }] {
                sweep.check(target, norm_mod::launches(&params, target));
                let warps = norm_mod::launches_by_warps(&params, target);
                warps.as_slice().iter().for_each(|launch| sweep.check_one(target.arch, launch));
            }
            let rms = RmsNormParams {
                x,
                weight,
                out,
                x_stride,
                out_stride,
                rows,
                columns,
                ..RmsNormParams::default()
            };
            sweep.check(target, rms_norm::launches(&rms, target));
            let layer = LayerNormParams {
                x,
                weight,
                bias: weight,
                out,
                x_stride,
                out_stride,
                rows,
                columns,
                ..LayerNormParams::default()
            };
            sweep.check(target, layer_norm::launches(&layer, target));
            let soft =
                SoftmaxParams { x, out, x_stride, out_stride, rows, columns, ..SoftmaxParams::default() };
            sweep.check(target, softmax::launches(&soft, target));
            sweep.check(target, softmax::launches_from_f32(&soft, target));
        }
        for (pixels, channels, groups) in [(1, 4, 4), (1 << 20, 128, 32), (4096, 512, 32), (100, 65_536, 32)]
        {
            let [x, out, ..] = places(off);
            let params = GroupNormParams { x, out, pixels, channels, groups, ..GroupNormParams::default() };
            sweep.check(target, group_norm::launches(&params, target));
        }
    }
}

fn elementwise(sweep: &mut Sweep, target: Target) {
    use elementwise::{
        activation, add, cast, embedding, euler_step, geglu, mean_abs_diff, patchify, sinusoid, unpatchify,
    };
    for (rows, columns) in [(1, 1), (4608, 12_288), (1 << 30, 8), (1, u32::MAX)] {
        let activate = ActivationParams { rows, columns, kind: 1, ..ActivationParams::default() };
        sweep.check(target, activation::launches(&activate, target));
        sweep.check(target, add::launches(&AddParams { rows, columns, ..AddParams::default() }, target));
        let gather = EmbeddingParams { rows, columns, ..EmbeddingParams::default() };
        sweep.check(target, embedding::launches(&gather, target));
        sweep
            .check(target, geglu::launches(&GegluParams { rows, columns, ..GegluParams::default() }, target));
        let angles = SinusoidParams { rows, columns, ..SinusoidParams::default() };
        sweep.check(target, sinusoid::launches(&angles, target));
        let step = EulerStepParams { count: columns, ..EulerStepParams::default() };
        sweep.check(target, euler_step::launches(&step, target));
        let difference = MeanAbsDiffParams { count: columns, ..MeanAbsDiffParams::default() };
        sweep.check(target, mean_abs_diff::launches(&difference, target));
        for (from_bits, to_bits) in [(32, 32), (32, 16), (16, 32), (16, 16)] {
            let cast = CastParams { count: columns, from_bits, to_bits, ..CastParams::default() };
            sweep.check(target, cast::launches(&cast, target));
        }
    }
    for (height, width, channels) in [(2, 2, 1), (128, 128, 16), (1024, 1024, 256)] {
        let image = PatchifyParams { height, width, channels, ..PatchifyParams::default() };
        sweep.check(target, patchify::launches(&image, target));
        let image = UnpatchifyParams { height, width, channels, ..UnpatchifyParams::default() };
        sweep.check(target, unpatchify::launches(&image, target));
        let image = UpsampleParams { height, width, channels, ..UpsampleParams::default() };
        sweep.check(target, upsample::launches(&image, target));
    }
}

fn others(sweep: &mut Sweep, target: Target) {
    sweep.check(target, self_test::launches(&self_test::SelfTestParams::default(), target));
    for (rows, columns) in [(1, 1), (transpose::ROWS_MAX, 1), (16_384, 512)] {
        let params = TransposeParams { rows, columns, ..TransposeParams::default() };
        sweep.check(target, transpose::launches(&params, target));
    }
    for head_dim in [2, 16, 32, 64, 128, 256] {
        let params = QkNormRopeParams { rows: 4608, heads: 24, head_dim, ..QkNormRopeParams::default() };
        sweep.check(target, qk_norm_rope::launches(&params, target));
    }
}

/// The sweep launches every image wherever it is compiled for, but for one that is too slow there: so nothing that a card could get was left out.
#[test]
fn every_launch_fits_its_architecture() {
    let mut sweep = Sweep { budget: budget(), launched: BTreeSet::new() };
    for target in targets() {
        products(&mut sweep, target);
        convolutions(&mut sweep, target);
        attentions(&mut sweep, target);
        norms(&mut sweep, target);
        elementwise(&mut sweep, target);
        others(&mut sweep, target);
    }
    let left: Vec<(Arch, &str)> = (sweep.budget.keys())
        .filter(|key| !sweep.launched.contains(*key))
        .map(|(arch, image)| (*arch, image.as_str()))
        .collect();
    let slow = [Arch::Sm86, Arch::Sm89, Arch::Sm120a].map(|arch| (arch, "attention_sm80_d128_32x4_bf16"));
    assert_eq!(left, slow);
}

/// Images of desktop cards are not promised to run on a Tegra (8.7, 8.8, 11.0), nor those with an `a` on another minor number (10.3, 12.1).
#[test]
fn near_capabilities_get_no_image_that_nobody_promises_to_run() {
    let found = |capability: (u32, u32)| Arch::of(capability.0, capability.1);
    for near in [(8, 7), (8, 8), (9, 1), (10, 1), (10, 3), (11, 0), (12, 1)] {
        assert_eq!(found(near), None, "{near:?}");
    }
    let own = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)];
    assert_eq!(own.map(found), Arch::ALL.map(Some));
}
