//! The elementwise kernels against fp64: within one unit in the last place, ragged, strided, unaligned, in place.

use bytemuck::Pod;
use lighterage_kernels::launch::{Arch, Launches, Target};
use lighterage_kernels::params::{
    ActivationParams, AddParams, CastParams, EmbeddingParams, EulerStepParams, GegluParams,
    MeanAbsDiffParams, PatchifyParams, SinusoidParams, UnpatchifyParams, UpsampleParams,
};
use lighterage_kernels::{conv, elementwise};
use lighterage_testkit::Rng;

use crate::buffer::{Buffer, Floats, Ids};
use crate::late;
use crate::numerics::{
    FLUX_ROWS, Place, SIZES, activated, assert_near_units, assert_within, count, normals, round, round_exact,
};
use crate::runs::{self, Config, Region, Report};

const TARGET: Target = Target::typical(Arch::Sm80);

/// Rows and columns: less than an eight, no whole eights, narrow rows that share a block, rows of several blocks.
const SHAPES: [[usize; 2]; 6] = [[1, 1], [3, 7], [37, 64], [5, 127], [2, 2048], [3, 2051]];

/// As many elements as the latents of all patches have: 64 each.
const FLUX_LATENTS: usize = 4096 * 64;

/// So many rows of three columns, and so many columns of two rows; as many rows as FLUX has.
fn sized() -> impl Iterator<Item = [usize; 2]> {
    SIZES.into_iter().flat_map(|size| [[size, 3], [2, size]]).chain([[FLUX_ROWS, 8]])
}

/// Runs one launch of a case.
type Launcher<'a> = &'a mut dyn FnMut(&Launches, &dyn Parameters, &[Region]) -> Option<Report>;

/// How often a case runs: in every way, or once, the race detector on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ways {
    All,
    One,
}

/// Runs `launch`, which makes fresh buffers and says what is wrong.
fn run(ways: Ways, mut launch: impl FnMut(Launcher<'_>)) {
    let count = if ways == Ways::All { usize::MAX } else { 1 };
    for config in runs::all().take(count) {
        launch(&mut |launches, params, regions| params.launch(launches, regions, config));
    }
}

/// Shapes in every way, and the sizes once.
fn shapes() -> impl Iterator<Item = ([usize; 2], Ways)> {
    SHAPES.map(|shape| (shape, Ways::All)).into_iter().chain(sized().map(|shape| (shape, Ways::One)))
}

/// The same for what has elements in a row.
fn lengths(some: &[usize]) -> impl Iterator<Item = (usize, Ways)> {
    let sized = SIZES.into_iter().chain([FLUX_ROWS]).map(|size| (size, Ways::One));
    some.iter().map(|size| (*size, Ways::All)).chain(sized)
}

/// Any parameter struct.
trait Parameters {
    fn launch(&self, launches: &Launches, regions: &[Region], config: Config) -> Option<Report>;
}

impl<P: Pod + Send + Sync> Parameters for P {
    fn launch(&self, launches: &Launches, regions: &[Region], config: Config) -> Option<Report> {
        runs::launch(launches, self, regions, config)
    }
}

#[test]
fn activations() {
    for kind in 1..=5 {
        for (shape, ways) in shapes() {
            activation(kind, shape, false, ways);
        }
        activation(kind, [5, 77], true, Ways::All);
    }
}

fn activation(kind: u32, [rows, columns]: [usize; 2], gap: bool, ways: Ways) {
    let mut rng = Rng::from_env(41);
    let place = Place::new(rows, columns, gap);
    // From deep in one tail to the other, where the function is 0 or x.
    let x: Vec<f32> = rng.normals(rows * columns, 3.0).iter().map(|x| round(*x)).collect();
    activation_on(kind, place, &x, ways);
}

fn activation_on(kind: u32, place: Place, x: &[f32], ways: Ways) {
    let Place { rows, columns, .. } = place;
    let exact: Vec<f64> = x.iter().map(|x| activated(kind, f64::from(*x))).collect();
    run(ways, |launch| {
        let (mut memory, mut out) = (Buffer::of(&place.spread(x)), Buffer::poisoned(place.elements()));
        let start = 2 * place.start as u64;
        let params = ActivationParams {
            x: memory.address() + start,
            out: out.address() + start,
            x_stride: place.stride as u64,
            out_stride: place.stride as u64,
            rows: count(rows),
            columns: count(columns),
            kind,
            padding: 0,
        };
        let regions = [memory.region(), out.region()];
        let report = launch(&elementwise::activation::launches(&params, TARGET), &params, &regions);
        if let Some(report) = report {
            let bytes = 2 * (rows * columns) as u64;
            assert_eq!((report.global_bytes_read, report.global_bytes_written), (bytes, bytes));
        }
        let got = place.gather(&out.values());
        assert_within(1.0, &got, &exact);
        let params = ActivationParams { out: params.x, ..params };
        launch(&elementwise::activation::launches(&params, TARGET), &params, &regions);
        assert_eq!(place.gather(&memory.values()), got, "in place");
    });
}

#[test]
fn sums() {
    for (shape, ways) in shapes() {
        add(shape, [false, false], ways);
    }
    for [gap, repeated] in [[true, false], [true, true]] {
        add([5, 77], [gap, repeated], Ways::All);
    }
    add([5, 64], [false, true], Ways::All);
}

fn add([rows, columns]: [usize; 2], [gap, repeated]: [bool; 2], ways: Ways) {
    let mut rng = Rng::from_env(42);
    let place = Place::new(rows, columns, gap);
    let right = Place::new(if repeated { 1 } else { rows }, columns, gap);
    let a = normals(&mut rng, rows * columns, 0.0);
    let b = normals(&mut rng, right.rows * columns, 0.0);
    add_on([place, right], [&a, &b], -0.75, ways);
}

/// Of b perhaps one row for all.
fn add_on([place, right]: [Place; 2], [a, b]: [&[f32]; 2], scale: f32, ways: Ways) {
    let Place { rows, columns, .. } = place;
    let exact: Vec<f64> = a
        .iter()
        .enumerate()
        .map(|(i, a)| f64::from(*a) + f64::from(scale) * f64::from(b[i % b.len()]))
        .collect();
    run(ways, |launch| {
        let (mut left, mut other) = (Buffer::of(&place.spread(a)), Buffer::of(&right.spread(b)));
        let mut out = Buffer::poisoned(place.elements());
        let start = 2 * place.start as u64;
        let params = AddParams {
            a: left.address() + start,
            b: other.address() + start,
            out: out.address() + start,
            a_stride: place.stride as u64,
            b_stride: if right.rows < rows { 0 } else { right.stride as u64 },
            out_stride: place.stride as u64,
            rows: count(rows),
            columns: count(columns),
            scale,
            padding: 0,
        };
        let regions = [left.region(), other.region(), out.region()];
        launch(&elementwise::add::launches(&params, TARGET), &params, &regions);
        let got = place.gather(&out.values());
        // One fp32 rounding of the product, one of the sum: where both cancel that is more than a bf16 unit of what is left.
        for (i, (got, exact)) in got.iter().zip(&exact).enumerate() {
            let bound =
                exact.abs() / 256.0 + f64::from(a[i].abs() + b[i % b.len()].abs()) * 2.0_f64.powi(-23);
            assert!((f64::from(*got) - exact).abs() <= bound, "element {i} is {got}, exactly {exact}");
        }
        let params = AddParams { out: params.a, ..params };
        launch(&elementwise::add::launches(&params, TARGET), &params, &regions);
        assert_eq!(place.gather(&left.values()), got, "in place");
    });
}

#[test]
fn gated_pairs() {
    let plain = shapes().map(|(shape, ways)| (shape, ways, false));
    for (shape, ways, gap) in plain.chain([([5, 77], Ways::All, true)]) {
        let [rows, columns] = shape;
        let mut rng = Rng::from_env(43);
        let (from, into) = (Place::new(rows, 2 * columns, gap), Place::new(rows, columns, gap));
        geglu_on([from, into], &normals(&mut rng, rows * 2 * columns, 0.0), ways);
    }
}

fn geglu_on([from, into]: [Place; 2], x: &[f32], ways: Ways) {
    let Place { rows, columns, .. } = into;
    let exact: Vec<f64> = x
        .chunks(2 * columns)
        .flat_map(|row| (0..columns).map(|c| activated(1, f64::from(row[c])) * f64::from(row[columns + c])))
        .collect();
    run(ways, |launch| {
        let (mut memory, mut out) = (Buffer::of(&from.spread(x)), Buffer::poisoned(into.elements()));
        let params = GegluParams {
            x: memory.address() + 2 * from.start as u64,
            out: out.address() + 2 * into.start as u64,
            x_stride: from.stride as u64,
            out_stride: into.stride as u64,
            rows: count(rows),
            columns: count(columns),
        };
        let regions = [memory.region(), out.region()];
        launch(&elementwise::geglu::launches(&params, TARGET), &params, &regions);
        assert_within(1.0, &into.gather(&out.values()), &exact);
    });
}

#[test]
fn casts_between_all_types() {
    let aligned = lengths(&[8, 129, 4096]).map(|(elements, ways)| (elements, 0, ways));
    for (elements, start, ways) in aligned.chain([(100, 1, Ways::All)]) {
        // Not rounded: ties and what lies between two bf16 numbers.
        let x: Vec<f32> = Rng::from_env(44).normals(start + elements, 1.0);
        let rounded: Vec<f32> = x.iter().map(|x| round(*x)).collect();
        run(ways, |launch| {
            for (from_bits, to_bits) in [(16, 16), (16, 32), (32, 16), (32, 32)] {
                let (mut halves, mut singles) = (Buffer::of(&x), Floats::of(&x));
                let (mut half_out, mut single_out) = (Buffer::poisoned(x.len()), Floats::poisoned(x.len()));
                let (from, to) = (
                    if from_bits == 16 { halves.address() } else { singles.address() },
                    if to_bits == 16 { half_out.address() } else { single_out.address() },
                );
                let params = CastParams {
                    x: from + (start * from_bits / 8) as u64,
                    out: to + (start * to_bits / 8) as u64,
                    count: count(elements),
                    from_bits: count(from_bits),
                    to_bits: count(to_bits),
                    padding: 0,
                };
                let regions = [halves.region(), singles.region(), half_out.region(), single_out.region()];
                launch(&elementwise::cast::launches(&params, TARGET), &params, &regions);
                let got = if to_bits == 16 { half_out.values() } else { single_out.values() };
                let exact = if (from_bits, to_bits) == (32, 32) { &x } else { &rounded };
                assert_eq!(got[start..], exact[start..], "from {from_bits} to {to_bits} bits");
            }
        });
    }
}

#[test]
fn euler_steps() {
    for (elements, ways) in lengths(&[17, 2048, 5001]).chain([(FLUX_LATENTS, Ways::One)]) {
        let mut rng = Rng::from_env(45);
        let (x, velocity) = (normals(&mut rng, elements, 0.0), normals(&mut rng, elements, 0.0));
        euler_step_on(&x, &velocity, -0.05, ways);
    }
}

fn euler_step_on(x: &[f32], velocity: &[f32], delta: f32, ways: Ways) {
    let step = |(x, v): (&f32, &f32)| f64::from(*x) + f64::from(delta) * f64::from(*v);
    let exact: Vec<f64> = x.iter().zip(velocity).map(step).collect();
    run(ways, |launch| {
        let (mut memory, mut speed) = (Buffer::of(x), Buffer::of(velocity));
        let params =
            EulerStepParams { x: memory.address(), velocity: speed.address(), count: count(x.len()), delta };
        let regions = [memory.region(), speed.region()];
        launch(&elementwise::euler_step::launches(&params, TARGET), &params, &regions);
        // Two fp32 roundings, of the product and of the sum: where both nearly cancel that is more than a unit of what is left.
        let slack = |(x, v): (&f32, &f32)| f64::from(x.abs() + (delta * v).abs()) * 2.0_f64.powi(-23);
        let slack: Vec<f64> = x.iter().zip(velocity).map(slack).collect();
        assert_near_units(&memory.values(), &exact, &slack);
    });
}

#[test]
fn rows_of_a_table() {
    let ids = |rows: usize| [3_i32, 0, 8, 9, -1, 3].into_iter().cycle().take(rows).collect::<Vec<_>>();
    let wide = lengths(&[64, 100, 2056]).map(|(columns, ways)| (ids(6), columns, ways));
    let long = SIZES.into_iter().chain([FLUX_ROWS]).map(|rows| (ids(rows), 20, Ways::One));
    for (ids, columns, ways) in wide.chain(long) {
        let vocabulary = 9;
        let table = normals(&mut Rng::from_env(46), vocabulary * columns, 0.0);
        run(ways, |launch| {
            let mut numbers = Ids::of(&ids.iter().map(|id| *id as f32).collect::<Vec<_>>());
            let (mut rows, mut out) = (Buffer::of(&table), Buffer::poisoned(ids.len() * columns));
            let params = EmbeddingParams {
                ids: numbers.address(),
                table: rows.address(),
                out: out.address(),
                rows: count(ids.len()),
                columns: count(columns),
                vocabulary: count(vocabulary),
                padding: 0,
            };
            let regions = [numbers.region(), rows.region(), out.region()];
            let launches = elementwise::embedding::launches(&params, TARGET);
            let report = launch(&launches, &params, &regions);
            if let Some(report) = report {
                assert_eq!(report.global_bytes_written, 2 * (ids.len() * columns) as u64);
            }
            for (row, id) in out.values().chunks(columns).zip(&ids) {
                match usize::try_from(*id).ok().filter(|id| *id < vocabulary) {
                    Some(id) => assert_eq!(row, &table[id * columns..][..columns]),
                    None => assert!(row.iter().all(|value| value.is_nan()), "id {id}"),
                }
            }
        });
    }
}

#[test]
fn sinusoids() {
    let some = [(1, 256), (5, 6), (3, 2)].map(|shape| (shape, Ways::All));
    // Columns are pairs: a size is how many of them there are.
    let sized = SIZES.into_iter().flat_map(|size| [(size, 4), (2, 2 * size)]).chain([(FLUX_ROWS, 4)]);
    for ((rows, columns), ways) in some.into_iter().chain(sized.map(|shape| (shape, Ways::One))) {
        let values: Vec<f32> = (0..rows).map(|row| 3500.0 - 0.75 * row as f32).collect();
        let half = columns / 2;
        let mut exact = vec![0.0; rows * columns];
        for (row, value) in values.iter().enumerate() {
            for i in 0..half {
                // The angle as the formula has it, every operation rounded to fp32; of that the exact cosine.
                let frequency = ((-9.210_340_5_f32 * i as f32) / half as f32).exp();
                let angle = f64::from(value * frequency);
                exact[row * columns + i] = angle.cos();
                exact[row * columns + half + i] = angle.sin();
            }
        }
        run(ways, |launch| {
            let (mut memory, mut out) = (Floats::of(&values), Buffer::poisoned(rows * columns));
            let params = SinusoidParams {
                values: memory.address(),
                out: out.address(),
                rows: count(rows),
                columns: count(columns),
            };
            let regions = [memory.region(), out.region()];
            launch(&elementwise::sinusoid::launches(&params, TARGET), &params, &regions);
            // exp may differ in its last bit, 2^-23 of it at most, which moves an angle of 3500 by as much of 3500. That of the first pair is the value itself: what is left of it
            // after whole turns has all the digits of fp32.
            for (i, (got, exact)) in out.values().iter().zip(&exact).enumerate() {
                let angle = if i % half == 0 { 2.0_f64.powi(-20) } else { 3500.0 * 2.0_f64.powi(-23) };
                let bound = exact.abs() / 256.0 + angle;
                assert!((f64::from(*got) - exact).abs() <= bound, "element {i} is {got}, exactly {exact}");
            }
        });
    }
}

/// Where the pixels of an image lie: channels first or last.
fn strides(channels_last: bool, [channels, height, width]: [usize; 3]) -> [usize; 3] {
    if channels_last { [1, width * channels, channels] } else { [height * width, width, 1] }
}

const IMAGES: [[usize; 3]; 4] = [[16, 8, 8], [1, 2, 2], [3, 4, 6], [16, 2, 34]];

#[test]
fn images_to_tokens_and_back() {
    for channels_last in [false, true] {
        for shape in IMAGES {
            patches(shape, channels_last, Ways::All);
        }
        // So many channels, and so many tokens; the latents of 1024 x 1024.
        let sized = SIZES.into_iter().flat_map(|size| [[size, 2, 4], [3, 2, 2 * size]]);
        for shape in sized.chain([[16, 128, 128]]) {
            patches(shape, channels_last, Ways::One);
        }
    }
}

fn patches([channels, height, width]: [usize; 3], channels_last: bool, ways: Ways) {
    const MULTIPLY: f32 = 0.5;
    const ADD: f32 = 1.0;
    let [channel_stride, row_stride, column_stride] = strides(channels_last, [channels, height, width]);
    let elements = channels * height * width;
    let image = normals(&mut Rng::from_env(47), elements, 0.0);
    let mut tokens = vec![0.0; elements];
    let mut places = vec![0; elements];
    for (c, y, x) in
        (0..channels).flat_map(|c| (0..height).flat_map(move |y| (0..width).map(move |x| (c, y, x))))
    {
        let (token, column) = (y / 2 * (width / 2) + x / 2, c * 4 + y % 2 * 2 + x % 2);
        let place = c * channel_stride + y * row_stride + x * column_stride;
        tokens[token * 4 * channels + column] =
            f64::from(image[place]) * f64::from(MULTIPLY) + f64::from(ADD);
        places[token * 4 * channels + column] = place;
    }
    run(ways, |launch| {
        let (mut pixels, mut out) = (Buffer::of(&image), Buffer::poisoned(elements));
        let mut back = Buffer::poisoned(elements);
        let params = PatchifyParams {
            image: pixels.address(),
            tokens: out.address(),
            channel_stride: channel_stride as u64,
            row_stride: row_stride as u64,
            column_stride: column_stride as u64,
            channels: count(channels),
            height: count(height),
            width: count(width),
            multiply: MULTIPLY,
            add: ADD,
            padding: 0,
        };
        let regions = [pixels.region(), out.region(), back.region()];
        launch(&elementwise::patchify::launches(&params, TARGET), &params, &regions);
        let got = out.values();
        // Half of x is exact, and so is the sum in fp32 but for its last bit.
        assert_within(1.0, &got, &tokens);
        let params = UnpatchifyParams {
            tokens: out.address(),
            image: back.address(),
            channel_stride: channel_stride as u64,
            row_stride: row_stride as u64,
            column_stride: column_stride as u64,
            channels: count(channels),
            height: count(height),
            width: count(width),
            multiply: 2.0,
            add: -2.0,
            padding: 0,
        };
        launch(&elementwise::unpatchify::launches(&params, TARGET), &params, &regions);
        let image = back.values();
        for (place, token) in places.iter().zip(&got) {
            // Twice a bf16 number less 2 is exact in fp32.
            assert_eq!(image[*place], round(token * 2.0 - 2.0));
        }
    });
}

#[test]
fn twice_the_size() {
    let some = [[1, 1, 1], [3, 5, 7], [4, 4, 64], [2, 3, 2056]].map(|shape| (shape, Ways::All));
    let sized = SIZES.into_iter().flat_map(|size| [[2, 1, size], [1, size, 5]]).chain([[64, 64, 16]]);
    for ([height, width, channels], ways) in some.into_iter().chain(sized.map(|shape| (shape, Ways::One))) {
        let x = normals(&mut Rng::from_env(48), height * width * channels, 0.0);
        upsample_on(&x, [height, width, channels], ways);
    }
}

fn upsample_on(x: &[f32], [height, width, channels]: [usize; 3], ways: Ways) {
    run(ways, |launch| {
        let (mut memory, mut out) = (Buffer::of(x), Buffer::poisoned(4 * x.len()));
        let params = UpsampleParams {
            x: memory.address(),
            out: out.address(),
            height: count(height),
            width: count(width),
            channels: count(channels),
            padding: 0,
        };
        let regions = [memory.region(), out.region()];
        let report = launch(&conv::upsample::launches(&params, TARGET), &params, &regions);
        if let Some(report) = report {
            assert_eq!(report.global_bytes_read, 2 * x.len() as u64);
        }
        for (index, got) in out.values().iter().enumerate() {
            let (pixel, channel) = (index / channels, index % channels);
            let (row, column) = (pixel / (2 * width), pixel % (2 * width));
            assert_eq!(*got, x[(row / 2 * width + column / 2) * channels + channel]);
        }
    });
}

#[test]
fn mean_absolute_differences() {
    let some = [(17, 0.0), (16_384, 0.0), (16_385, 40.0), (50_000, 400.0)];
    let some = some.map(|(elements, mean)| (elements, mean, Ways::All));
    let sized = SIZES.into_iter().chain([FLUX_LATENTS]).map(|size| (size, 0.0, Ways::One));
    for (elements, mean, ways) in some.into_iter().chain(sized) {
        let mut rng = Rng::from_env(49);
        let (a, b) = (normals(&mut rng, elements, mean), normals(&mut rng, elements, mean));
        let of = |term: &dyn Fn(f64, f64) -> f64| {
            a.iter().zip(&b).map(|(a, b)| term(f64::from(*a), f64::from(*b))).sum::<f64>() / elements as f64
        };
        let means = [of(&|a, b| (a - b).abs()), of(&|_, b| b.abs())];
        run(ways, |launch| {
            let (mut left, mut right, mut out) = (Buffer::of(&a), Buffer::of(&b), Floats::poisoned(1));
            let mut workspace = Floats::poisoned(elementwise::mean_abs_diff::workspace(elements));
            let params = MeanAbsDiffParams {
                a: left.address(),
                b: right.address(),
                out: out.address(),
                workspace: workspace.address(),
                count: count(elements),
                padding: 0,
            };
            let regions = [left.region(), right.region(), out.region(), workspace.region()];
            let launches = elementwise::mean_abs_diff::launches(&params, TARGET);
            let report = launch(&launches, &params, &regions);
            if let Some(report) = report {
                assert_eq!(report.global_bytes_written, 4 + 4 * workspace.values().len() as u64);
            }
            // All terms are positive: 64 a thread, then 5 halvings, 8 warps and the blocks, one fp32 rounding each.
            let partials = workspace.values();
            for (which, exact) in means.iter().enumerate() {
                let sums = partials.iter().skip(which).step_by(2).map(|sum| f64::from(*sum));
                let error = (sums.sum::<f64>() / elements as f64 - exact).abs() / exact;
                assert!(
                    error <= 100.0 * 2.0_f64.powi(-24),
                    "{elements} elements: {partials:?}, exactly {exact}"
                );
            }
            // Two means and their quotient, each rounded to bf16.
            let (got, exact) = (out.values()[0], means[0] / means[1]);
            let error = (f64::from(got) - exact).abs() / exact;
            assert!(error <= 3.02 * 2.0_f64.powi(-9), "{elements} elements: {got}, exactly {exact}");
            assert_eq!(round(got), got);
            // One of those that the exact means' own roundings give, with what the sums may be off.
            let near = |mean: f64| [1.0 - 1e-5, 1.0 + 1e-5].map(|off| round_exact(mean * off));
            let (differences, sizes) = (near(means[0]), near(means[1]));
            let mut all = differences.iter().flat_map(|difference| sizes.map(|size| difference / size));
            assert!(
                all.any(|quotient| round_exact(quotient) == f64::from(got)),
                "{elements} elements: {got}"
            );
        });
    }
}

/// What is launched of these in the bundled model, but for what only moves noise and time steps: in its encoders, before its loop, at the end of its last step and in its decoder.
#[test]
fn activations_of_the_model() {
    let place = |rows: u32, columns: u32| Place::new(rows as usize, columns as usize, false);
    for seen in late::launches("activation_bf16") {
        let p: ActivationParams = seen.parameters();
        let x = seen.rows(p.x, [p.rows, p.columns], p.x_stride);
        activation_on(p.kind, place(p.rows, p.columns), &x, Ways::All);
    }
    for seen in late::launches("add_bf16") {
        let p: AddParams = seen.parameters();
        let right = if p.b_stride == 0 { 1 } else { p.rows };
        let a = seen.rows(p.a, [p.rows, p.columns], p.a_stride);
        let b = seen.rows(p.b, [right, p.columns], p.b_stride);
        add_on([place(p.rows, p.columns), place(right, p.columns)], [&a, &b], p.scale, Ways::All);
    }
    for seen in late::launches("geglu_bf16") {
        let p: GegluParams = seen.parameters();
        let x = seen.rows(p.x, [p.rows, 2 * p.columns], p.x_stride);
        geglu_on([place(p.rows, 2 * p.columns), place(p.rows, p.columns)], &x, Ways::All);
    }
    for seen in late::launches("euler_step_bf16") {
        let p: EulerStepParams = seen.parameters();
        euler_step_on(&seen.row(p.x, p.count), &seen.row(p.velocity, p.count), p.delta, Ways::All);
    }
    for seen in late::launches("upsample_bf16") {
        let p: UpsampleParams = seen.parameters();
        let shape = [p.height, p.width, p.channels];
        upsample_on(&seen.row(p.x, shape.iter().product()), shape.map(|size| size as usize), Ways::One);
    }
}
