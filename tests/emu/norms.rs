//! `norm_mod`, `layer_norm` and `group_norm` against fp64: every width class, ragged and strided, large means.

use lighterage_kernels::launch::{Arch, Launches, Target};
use lighterage_kernels::norm;
use lighterage_kernels::params::{GroupNormParams, LayerNormParams, NormModParams};
use lighterage_testkit::Rng;

use crate::bounds::refuses;
use crate::buffer::{Buffer, Floats};
use crate::late::{self, Seen};
use crate::numerics::{
    FLUX_ROWS, Place, SIZES, assert_near_units, assert_rounded_once, assert_within, count, moments, normals,
    round, round_exact,
};
use crate::runs::{self, Config};

const EPS: f32 = 1e-6;

#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    columns: usize,
    split: usize,
    mean: f32,
    deviation: f32,
    gap: bool,
    /// A gap that leaves rows at multiples of 16 bytes.
    whole_gap: bool,
    update: bool,
}

const PLAIN: Case = Case {
    rows: 5,
    columns: 96,
    split: 2,
    mean: 0.0,
    deviation: 1.0,
    gap: false,
    whole_gap: false,
    update: true,
};

#[test]
fn norm_mod_of_every_width() {
    // The widest row of each image and the narrowest of the next, in whole eights and not.
    for columns in [1, 8, 31, 256, 512, 513, 1024, 1025, 2048, 3072, 3073, 4096, 4097, 6000] {
        norm_mod(Case { rows: 2, columns, split: 1, ..PLAIN });
    }
}

#[test]
fn norm_mod_of_any_rows_and_ranges() {
    for (rows, split) in [(1, 0), (1, 1), (15, 7), (16, 0), (17, 17), (129, 128)] {
        norm_mod(Case { rows, split, ..PLAIN });
    }
}

#[test]
fn norm_mod_without_an_update_leaves_x() {
    norm_mod(Case { update: false, ..PLAIN });
    norm_mod(Case { update: false, columns: 3072, ..PLAIN });
    norm_mod(Case { update: false, columns: 5000, gap: true, ..PLAIN });
}

#[test]
fn norm_mod_of_strided_rows_at_odd_starts() {
    norm_mod(Case { gap: true, ..PLAIN });
    norm_mod(Case { gap: true, columns: 3072, ..PLAIN });
    norm_mod(Case { gap: true, columns: 4104, ..PLAIN });
}

#[test]
fn norm_mod_of_large_means() {
    norm_mod(Case { mean: 40.0, columns: 3072, ..PLAIN });
    norm_mod(Case { mean: 400.0, columns: 3072, ..PLAIN });
}

/// Where the variance is about eps, and where it is nothing at all: x is its own mean there.
#[test]
fn norms_of_rows_that_hardly_vary() {
    for deviation in [1e-3, 0.0] {
        for columns in [96, 3072, 4104] {
            norm_mod(Case { columns, deviation, update: false, ..PLAIN });
        }
        layer_norm_in(5, 768, [0.0, deviation], false, &runs::all().collect::<Vec<_>>());
        group_norm_of(129, [16, 4], [0.0, deviation], true);
    }
    norm_mod(Case { mean: 3.0, deviation: 0.0, update: false, ..PLAIN });
    layer_norm_in(5, 768, [3.0, 0.0], false, &runs::all().collect::<Vec<_>>());
}

/// Normal values around a mean, as bf16 holds them.
fn spread(rng: &mut Rng, count: usize, mean: f32, deviation: f32) -> Vec<f32> {
    rng.normals(count, deviation).iter().map(|value| round(mean + value)).collect()
}

/// Text and image rows of one FLUX block, fewer of them.
#[test]
fn norm_mod_moves_the_bytes_it_says() {
    for update in [false, true] {
        norm_mod(Case { rows: 8, columns: 3072, split: 4, update, ..PLAIN });
    }
}

/// 512 rows of text and the 64 x 64 patches of a picture of 1024 x 1024.
#[test]
fn norm_mod_of_the_rows_of_flux() {
    let case = Case { rows: FLUX_ROWS, columns: 3072, split: 512, ..PLAIN };
    norm_mod_in(case, &[Config { checks: false, ..Config::default() }]);
}

/// A row at any address, which the kernel for any row does, has the bits of one in registers.
#[test]
fn norm_mod_in_registers_or_not_is_the_same() {
    for update in [false, true] {
        let case = Case { columns: 3072, mean: 3.0, update, ..PLAIN };
        let config = &[Config::default()];
        let aligned = norm_mod_in(case, config);
        assert_eq!(norm_mod_in(Case { gap: true, ..case }, config), aligned);
    }
}

/// What the images that nothing chooses yet have to hold beside what every body above asks of them where it has aligned rows of 3072 columns.
#[test]
fn norm_mod_by_warps_of_any_rows_and_ranges() {
    let aligned = Case { columns: 3072, ..PLAIN };
    for update in [false, true] {
        for (rows, split) in [(1, 0), (1, 1), (5, 5), (17, 7)] {
            norm_mod(Case { rows, split, update, ..aligned });
        }
        for mean in [40.0, 400.0] {
            norm_mod(Case { mean, update, whole_gap: true, ..aligned });
        }
    }
    let image = |update: u64, target| {
        let params = NormModParams { y: update << 40, columns: 3072, ..NormModParams::default() };
        let launches = norm::norm_mod::launches_by_warps(&params, target);
        launches.as_slice().first().map(|launch| launch.image)
    };
    let hopper = Target::typical(Arch::Sm90a);
    assert_eq!(image(0, hopper), Some("norm_mod_sm90a_warp_3072_bf16"));
    assert_eq!(image(1, hopper), Some("norm_mod_sm90a_warp_update_3072_bf16"));
    assert_eq!(image(0, Target::typical(Arch::Sm100a)), None);
}

fn norm_mod(case: Case) {
    norm_mod_in(case, &runs::all().collect::<Vec<_>>());
}

/// The result of the last.
fn norm_mod_in(case: Case, configs: &[Config]) -> Vec<f32> {
    let Case { rows, columns, mean, deviation, .. } = case;
    let mut rng = Rng::from_env(21);
    let x = spread(&mut rng, rows * columns, mean, deviation);
    let y = normals(&mut rng, rows * columns, 0.0);
    // Shift, scale and gate of both ranges.
    let vectors: Vec<Vec<f32>> = (0..6).map(|_| normals(&mut rng, columns, 0.0)).collect();
    norm_mod_on(case, &x, &y, &vectors, configs)
}

/// By whichever images can: those that nothing chooses yet, and those that are chosen, whose result it is.
fn norm_mod_on(case: Case, x: &[f32], y: &[f32], vectors: &[Vec<f32>], configs: &[Config]) -> Vec<f32> {
    norm_mod_by(norm::norm_mod::launches_by_warps, case, x, y, vectors, configs);
    norm_mod_by(norm::norm_mod::launches, case, x, y, vectors, configs)
}

fn norm_mod_by(
    launches: fn(&NormModParams, Target) -> Launches,
    case: Case,
    x: &[f32],
    y: &[f32],
    vectors: &[Vec<f32>],
    configs: &[Config],
) -> Vec<f32> {
    let Case { rows, columns, split, gap, update, .. } = case;
    let (mut last, mut place) = (Vec::new(), Place::new(rows, columns, gap));
    if case.whole_gap {
        (place.stride, place.start) = (columns + 8, 8);
    }
    let Exact { updated, normed: exact, slack } = norm_mod_exact(case, x, y, vectors);
    for &config in configs {
        let mut x_memory = Buffer::of(&place.spread(x));
        let mut y_memory = Buffer::of(&place.spread(y));
        let mut out = Buffer::poisoned(place.elements());
        let mut vectors: Vec<Buffer> = vectors.iter().map(|vector| Buffer::of(vector)).collect();
        let start = 2 * place.start as u64;
        let [first_shift, first_scale, first_gate, second_shift, second_scale, second_gate] =
            [0, 1, 2, 3, 4, 5].map(|index: usize| vectors[index].address());
        let with_y = |address| if update { address } else { 0 };
        let params = NormModParams {
            x: x_memory.address() + start,
            y: with_y(y_memory.address() + start),
            out: out.address() + start,
            first_shift,
            first_scale,
            first_gate: with_y(first_gate),
            second_shift,
            second_scale,
            second_gate: with_y(second_gate),
            x_stride: place.stride as u64,
            y_stride: place.stride as u64,
            out_stride: place.stride as u64,
            rows: count(rows),
            columns: count(columns),
            split: count(split),
            eps: EPS,
        };
        let mut regions = vec![x_memory.region(), y_memory.region(), out.region()];
        regions.extend(vectors.iter_mut().map(Buffer::region));
        let launches = launches(&params, runs::target());
        if launches.as_slice().is_empty() {
            return Vec::new();
        }
        let report = runs::launch(&launches, &params, &regions, config);
        if let Some(report) = report.filter(|_| config.checks) {
            let moved = (rows * columns * 2) as u64;
            assert_eq!(report.global_bytes_written, moved * if update { 2 } else { 1 }, "{case:?}");
            // In registers x is read once, elsewhere once more for each pass, from L1; y once; the vectors once a row, from L1.
            let x = if columns == 3072 && !gap { 1 } else { 3 };
            let others = if update { 4 } else { 2 };
            assert_eq!(report.global_bytes_read, moved * (x + others), "{case:?}");
        }
        if update {
            assert_within(1.0, &place.gather(&x_memory.values()), &updated);
        } else {
            assert_eq!(place.gather(&x_memory.values()), x, "x is kept");
        }
        let got = place.gather(&out.values());
        assert_rounded_once(2.0e-3, &got, &exact);
        assert_near_units(&got, &exact, &slack);
        assert!(last.is_empty() || last == got, "other bits in another run: {case:?}, {config:?}");
        last = got;
    }
    last
}

/// What is exact of a case.
struct Exact {
    /// x as it is stored.
    updated: Vec<f64>,
    /// The result, in fp64.
    normed: Vec<f64>,
    /// What fp32 may add to its rounding.
    slack: Vec<f64>,
}

/// What fp32 may err by in `(x - mean) * inverse * factor + shift`: the sums behind mean and inverse are of up to 128 terms a lane and their halves, which
/// errs by 2^-20 of the mean at most, and less than that of the inverse.
fn slack(x: f64, mean: f64, inverse: f64, factor: f64, shift: f64) -> f64 {
    ((x.abs() + mean.abs()) * inverse * factor.abs() + shift.abs()) * 2.0_f64.powi(-20)
}

fn norm_mod_exact(case: Case, x: &[f32], y: &[f32], vectors: &[Vec<f32>]) -> Exact {
    let (mut updated, mut normed, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..case.rows {
        let range = if row < case.split { 0 } else { 3 };
        let at = |which: usize, c: usize| f64::from(vectors[range + which][c]);
        let value = |c: usize| f64::from(x[row * case.columns + c]);
        let step = |c: usize| if case.update { at(2, c) * f64::from(y[row * case.columns + c]) } else { 0.0 };
        let stored: Vec<f64> = (0..case.columns).map(|c| round_exact(value(c) + step(c))).collect();
        let (mean, inverse) = moments(&stored, f64::from(EPS));
        normed.extend((0..case.columns).map(|c| (stored[c] - mean) * inverse * (1.0 + at(1, c)) + at(0, c)));
        // Where fp32's product and sum let the rounding of what is stored fall the other way: that element by as much, and all by what it does to mean and variance.
        let flip = |c: usize| {
            let (exact, fp32) =
                (value(c) + step(c), (value(c).abs() + 2.0 * step(c).abs()) * 2.0_f64.powi(-24));
            (round_exact(exact + fp32) - round_exact(exact - fp32)).abs()
        };
        let flips: Vec<f64> = (0..case.columns).map(flip).collect();
        let count = case.columns as f64;
        let of_mean = flips.iter().sum::<f64>() / count * inverse;
        let spread = flips.iter().zip(&stored).map(|(flip, x)| flip * (x - mean).abs()).sum::<f64>();
        let of_variance = spread / count * inverse.powi(2);
        bounds.extend((0..case.columns).map(|c| {
            let factor = 1.0 + at(1, c);
            let flipped = flips[c] * inverse + of_mean + of_variance * (stored[c] - mean).abs() * inverse;
            slack(stored[c], mean, inverse, factor, at(0, c)) + flipped * factor.abs()
        }));
        updated.extend(stored);
    }
    Exact { updated, normed, slack: bounds }
}

/// Each kind of norm of the bundled model's last step, encoders and decoder, with what it was given.
#[test]
fn activations_of_the_model() {
    let configs: Vec<Config> = runs::all().collect();
    for seen in late::launches("norm_mod_bf16") {
        let Modulated { case, x, vectors } = modulated(seen);
        norm_mod_on(case, &x, &vec![0.0; x.len()], &vectors, &configs);
    }
    for seen in late::launches("layer_norm_bf16") {
        let p: LayerNormParams = seen.parameters();
        let x = seen.rows(p.x, [p.rows, p.columns], p.x_stride);
        let vectors = [p.weight, p.bias].map(|address| seen.row(address, p.columns));
        layer_norm_on(&x, &vectors, p.eps, false, &configs);
    }
    for seen in late::launches("group_norm_bf16") {
        let p: GroupNormParams = seen.parameters();
        assert_eq!(p.eps, EPS);
        let x = seen.row(p.x, p.pixels * p.channels);
        let vectors = [p.weight, p.bias].map(|address| seen.row(address, p.channels));
        group_norm_on(&x, &vectors, p.groups as usize, p.silu == 1, &[Config::default()]);
    }
}

/// What the model modulates: it adds in its products, and not here.
struct Modulated {
    case: Case,
    x: Vec<f32>,
    /// As `norm_mod_in` draws them, with the scales for gates, which nothing looks at.
    vectors: [Vec<f32>; 6],
}

fn modulated(seen: &Seen) -> Modulated {
    let p: NormModParams = seen.parameters();
    assert_eq!((p.y, p.eps), (0, EPS));
    let [rows, columns, split] = [p.rows, p.columns, p.split].map(|size| size as usize);
    let [first, second] = [(p.first_shift, p.first_scale), (p.second_shift, p.second_scale)];
    let vectors = [first.0, first.1, first.1, second.0, second.1, second.1];
    Modulated {
        case: Case { rows, columns, split, update: false, ..PLAIN },
        x: seen.rows(p.x, [p.rows, p.columns], p.x_stride),
        vectors: vectors.map(|address| seen.row(address, p.columns)),
    }
}

/// The bounds see one row of 48 that takes the other range's vectors, and shift and scale that change places.
#[test]
fn slips_on_activations_are_refused() {
    let of_two_ranges = late::launches("norm_mod_bf16").into_iter().map(modulated);
    let mut of_two_ranges = of_two_ranges.filter(|seen| seen.vectors[0] != seen.vectors[3]);
    let Modulated { case, x, vectors } = of_two_ranges.next().expect("a double block's");
    let none = vec![0.0; x.len()];
    let got = norm_mod_on(case, &x, &none, &vectors, &[Config::default()]);
    let accepts = |case: Case, vectors: &[Vec<f32>]| {
        let exact = norm_mod_exact(case, &x, &none, vectors);
        let whole = refuses(|| assert_rounded_once(2.0e-3, &got, &exact.normed));
        let each = refuses(|| assert_near_units(&got, &exact.normed, &exact.slack));
        [!whole, !each]
    };
    assert_eq!(accepts(case, &vectors), [true; 2]);
    assert_eq!(accepts(Case { split: case.split - 1, ..case }, &vectors), [false; 2]);
    let [shift, scale, gate, others @ ..] = vectors;
    let exchanged: Vec<Vec<f32>> = [scale, shift, gate].into_iter().chain(others).collect();
    assert_eq!(accepts(case, &exchanged), [false; 2]);
}

#[test]
fn layer_norm_of_every_width() {
    for columns in [1, 15, 77, 768, 1024, 1025, 2048, 2049, 4096, 4097] {
        layer_norm(2, columns, 0.0, false);
    }
}

#[test]
fn layer_norm_of_strided_rows_large_means_and_many_rows() {
    layer_norm(3, 768, 0.0, true);
    layer_norm(3, 4100, 0.0, true);
    layer_norm(3, 2048, 400.0, false);
    layer_norm(129, 64, 40.0, false);
}

#[test]
fn norms_of_sizes_of_either_side() {
    for size in SIZES {
        for [rows, columns] in [[size, 24], [2, size]] {
            let config = &[Config::default()];
            layer_norm_in(rows, columns, [0.0, 1.0], false, config);
            norm_mod_in(Case { rows, columns, split: rows / 2, ..PLAIN }, config);
        }
    }
}

#[test]
fn layer_norm_of_512_rows_and_of_the_rows_of_flux() {
    let config = &[Config { checks: false, ..Config::default() }];
    layer_norm_in(512, 768, [0.0, 1.0], false, config);
    layer_norm_in(FLUX_ROWS, 64, [0.0, 1.0], false, config);
}

fn layer_norm(rows: usize, columns: usize, mean: f32, gap: bool) {
    layer_norm_in(rows, columns, [mean, 1.0], gap, &runs::all().collect::<Vec<_>>());
}

fn layer_norm_in(rows: usize, columns: usize, [mean, deviation]: [f32; 2], gap: bool, configs: &[Config]) {
    let mut rng = Rng::from_env(22);
    let x = spread(&mut rng, rows * columns, mean, deviation);
    let vectors = [normals(&mut rng, columns, 1.0), normals(&mut rng, columns, 0.0)];
    layer_norm_on(&x, &vectors, EPS, gap, configs);
}

fn layer_norm_on(x: &[f32], [weight, bias]: &[Vec<f32>; 2], eps: f32, gap: bool, configs: &[Config]) {
    let (rows, columns) = (x.len() / weight.len(), weight.len());
    let place = Place::new(rows, columns, gap);
    let (mut exact, mut bounds) = (Vec::new(), Vec::new());
    for row in x.chunks(columns) {
        let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
        let (mean, inverse) = moments(&row, f64::from(eps));
        exact.extend(
            (0..columns).map(|c| (row[c] - mean) * inverse * f64::from(weight[c]) + f64::from(bias[c])),
        );
        bounds.extend((0..columns).map(|c| slack(row[c], mean, inverse, weight[c].into(), bias[c].into())));
    }
    for &config in configs {
        let mut memory = Buffer::of(&place.spread(x));
        let (mut weight, mut bias) = (Buffer::of(weight), Buffer::of(bias));
        let mut out = Buffer::poisoned(place.elements());
        let start = 2 * place.start as u64;
        let params = LayerNormParams {
            x: memory.address() + start,
            weight: weight.address(),
            bias: bias.address(),
            out: out.address() + start,
            x_stride: place.stride as u64,
            out_stride: place.stride as u64,
            rows: count(rows),
            columns: count(columns),
            eps,
            padding: 0,
        };
        let regions = [memory.region(), weight.region(), bias.region(), out.region()];
        runs::launch(&norm::layer_norm::launches(&params, runs::target()), &params, &regions, config);
        let got = place.gather(&out.values());
        assert_rounded_once(2.0e-3, &got, &exact);
        assert_near_units(&got, &exact, &bounds);
        // In place: the same bits.
        let params = LayerNormParams { out: params.x, ..params };
        runs::launch(&norm::layer_norm::launches(&params, runs::target()), &params, &regions, config);
        assert_eq!(place.gather(&memory.values()), got);
    }
}

#[test]
fn group_norm_of_ragged_pixels() {
    for pixels in [1, 15, 64, 127, 129] {
        group_norm(pixels, [16, 4], 0.0, true);
    }
}

#[test]
fn group_norm_of_sizes_of_either_side() {
    let config = &[Config::default()];
    for pixels in SIZES {
        group_norm_in(pixels, [24, 3], [0.0, 1.0], false, config);
    }
    for channels in SIZES {
        group_norm_in(3, [channels, 1], [0.0, 1.0], true, config);
    }
}

/// What the decoder of a picture of 512 x 512 begins with, of its 512 channels a quarter.
#[test]
fn group_norm_of_the_pixels_of_a_latent() {
    group_norm_in(4096, [128, 8], [0.0, 1.0], true, &[Config { checks: false, ..Config::default() }]);
}

#[test]
fn group_norm_of_any_groups() {
    for channels in [[1, 1], [6, 3], [17, 17], [96, 32], [512, 32], [128, 32], [24, 2], [2056, 2]] {
        group_norm(35, channels, 0.0, true);
    }
}

#[test]
fn group_norm_of_several_blocks_of_pixels() {
    // 1024 pixels a block: eight a thread.
    group_norm(1024, [16, 4], 0.0, false);
    group_norm(2500, [16, 4], 0.0, true);
}

#[test]
fn group_norm_of_more_channels_than_a_block_takes() {
    // Eight parts of 31 whole groups each, but for the last.
    group_norm(9, [2112, 32], 0.0, false);
}

#[test]
fn group_norm_of_large_means() {
    group_norm(1100, [16, 4], 40.0, false);
    group_norm(1100, [16, 4], 400.0, false);
}

fn group_norm(pixels: usize, channels: [usize; 2], mean: f32, silu: bool) {
    group_norm_of(pixels, channels, [mean, 1.0], silu);
}

fn group_norm_of(pixels: usize, channels: [usize; 2], moments: [f32; 2], silu: bool) {
    group_norm_in(pixels, channels, moments, silu, &runs::all().collect::<Vec<_>>());
}

fn group_norm_in(
    pixels: usize,
    [channels, groups]: [usize; 2],
    [mean, deviation]: [f32; 2],
    silu: bool,
    configs: &[Config],
) {
    let mut rng = Rng::from_env(23);
    let x = spread(&mut rng, pixels * channels, mean, deviation);
    let vectors = [normals(&mut rng, channels, 1.0), normals(&mut rng, channels, 0.0)];
    group_norm_on(&x, &vectors, groups, silu, configs);
}

fn group_norm_on(x: &[f32], [weight, bias]: &[Vec<f32>; 2], groups: usize, silu: bool, configs: &[Config]) {
    let (pixels, channels) = (x.len() / weight.len(), weight.len());
    let width = channels / groups;
    let (mut exact, mut bounds) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    for group in 0..groups {
        let members: Vec<usize> = (0..x.len()).filter(|index| index % channels / width == group).collect();
        let values: Vec<f64> = members.iter().map(|index| f64::from(x[*index])).collect();
        let (mean, inverse) = moments(&values, f64::from(EPS));
        for (index, value) in members.iter().zip(&values) {
            let c = index % channels;
            // The slope of SiLU is below 1.1, and it is computed to 2^-16.
            bounds[*index] = 1.1 * slack(*value, mean, inverse, weight[c].into(), bias[c].into());
            let value = (value - mean) * inverse * f64::from(weight[c]) + f64::from(bias[c]);
            exact[*index] = if silu { value / (1.0 + (-value).exp()) } else { value };
            bounds[*index] += if silu { value.abs() * 2.0_f64.powi(-16) } else { 0.0 };
        }
    }
    for &config in configs {
        let (mut memory, mut weight, mut bias) = (Buffer::of(x), Buffer::of(weight), Buffer::of(bias));
        let mut out = Buffer::poisoned(x.len());
        let numbers = norm::group_norm::workspace(count(pixels), count(channels), count(groups));
        let mut workspace = Floats::poisoned(numbers);
        let params = GroupNormParams {
            x: memory.address(),
            weight: weight.address(),
            bias: bias.address(),
            out: out.address(),
            workspace: workspace.address(),
            pixels: count(pixels),
            channels: count(channels),
            groups: count(groups),
            silu: u32::from(silu),
            eps: EPS,
            padding: 0,
        };
        let regions = [memory.region(), weight.region(), bias.region(), out.region(), workspace.region()];
        let launches = norm::group_norm::launches(&params, runs::target());
        let report = runs::launch(&launches, &params, &regions, config);
        if let Some(report) = report.filter(|_| config.checks) {
            let written = 2 * x.len() + 4 * numbers;
            assert_eq!(report.global_bytes_written, written as u64, "each number is written once");
        }
        let got = out.values();
        assert_rounded_once(2.0e-3, &got, &exact);
        assert_near_units(&got, &exact, &bounds);
        // In place: the same bits.
        let params = GroupNormParams { out: params.x, ..params };
        runs::launch(&launches, &params, &regions, config);
        assert_eq!(memory.values(), got);
        workspace.values();
    }
}
