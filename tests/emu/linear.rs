//! `linear_sm80.cu` and `linear_sm90a.cu` against fp64: every tile, ragged sizes, strides, epilogues, in place.

use lighterage_kernels::gemm::linear::{self, launches, launches_of, shape, workspace_bytes_of};
use lighterage_kernels::launch::{Arch, Launches, Target};
use lighterage_kernels::params::LinearParams;
use lighterage_testkit::Rng;

use crate::bounds::refuses;
use crate::buffer::Floats;
use crate::late::{self, Seen};
use crate::numerics::{FLUX_ROWS, SIZES, count};
use crate::product::{Exact, Finish, Matrix, assert_near};
use crate::runs::{self, Config, Mode};

#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    columns: usize,
    inner: usize,
    /// Elements between the rows of x, weight, residual and out.
    gaps: [usize; 4],
    /// Elements before x, weight, residual and out.
    offsets: [usize; 4],
    bias: bool,
    activation: u32,
    residual: Residual,
    target: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Residual {
    None,
    Plain,
    Gated,
    InPlace,
}

const PLAIN: Case = Case {
    rows: 1,
    columns: 1,
    inner: 1,
    gaps: [0; 4],
    offsets: [0; 4],
    bias: false,
    activation: 0,
    residual: Residual::None,
    target: Target::typical(Arch::Sm80),
};

/// On so few multiprocessors every block has several tiles.
const HOPPER: Case =
    Case { target: Target { multiprocessors: 2, ..Target::typical(Arch::Sm90a) }, ..EVERYTHING };

const EVERYTHING: Case = Case { bias: true, activation: 1, residual: Residual::Gated, ..PLAIN };

/// Which variant runs.
#[derive(Clone, Copy, Debug)]
enum Variant {
    Chosen,
    Named(&'static str),
}

#[test]
fn few_rows() {
    for (rows, columns, inner) in [(1, 33, 513), (16, 31, 128), (15, 129, 17), (1, 1, 1), (3, 64, 1)] {
        check(Case { rows, columns, inner, gaps: aligned(inner), ..EVERYTHING });
    }
    check(Case { rows: 2, columns: 40, inner: 0, bias: true, ..PLAIN });
}

#[test]
fn small_tiles() {
    for (rows, columns, inner) in [(17, 17, 127), (65, 63, 33), (64, 129, 96)] {
        check(Case { rows, columns, inner, gaps: aligned(inner), ..EVERYTHING });
    }
    check(Case { rows: 127, columns: 64, inner: 0, residual: Residual::Plain, ..PLAIN });
}

#[test]
fn large_tiles() {
    for (rows, columns, inner) in [(129, 127, 65), (128, 128, 32), (127, 130, 129)] {
        let case = Case { rows, columns, inner, gaps: aligned(inner), ..EVERYTHING };
        check_named(case, "linear_sm80_128x128_bf16");
        check_named(case, "linear_sm80_64x128_bf16");
    }
}

#[test]
fn every_epilogue() {
    for activation in 0..=5 {
        for residual in [Residual::None, Residual::Plain, Residual::Gated, Residual::InPlace] {
            let case = Case { rows: 18, columns: 40, inner: 64, bias: activation % 2 == 0, ..PLAIN };
            let configs = [Config { mode: Mode::Late, seed: 1, ..Config::default() }];
            let case = Case { activation, residual, ..case };
            compare(case, Variant::Chosen, &configs);
            compare(Case { rows: 5, ..case }, Variant::Chosen, &configs);
        }
    }
}

#[test]
fn rows_that_are_not_aligned() {
    for (rows, columns, inner) in [(5, 33, 27), (70, 65, 35)] {
        check(Case { rows, columns, inner, ..EVERYTHING });
        let offset =
            Case { rows, columns, inner: 40, offsets: [1, 2, 3, 4], gaps: [0, 8, 1, 3], ..EVERYTHING };
        check(offset);
    }
}

#[test]
fn columns_of_wider_rows() {
    // As in a single block: x is columns of a buffer, out columns of another, the residual in place.
    let case = Case {
        rows: 33,
        columns: 72,
        inner: 48,
        gaps: [16, 0, 24, 24],
        offsets: [8, 0, 16, 16],
        ..EVERYTHING
    };
    check(Case { residual: Residual::InPlace, ..case });
    check(case);
}

#[test]
fn a_flux_shape_cut_down() {
    // 512 text rows and 3072 inner, a part of the columns.
    let case = Case { rows: 512, columns: 136, inner: 768, ..EVERYTHING };
    compare(
        case,
        Variant::Named("linear_sm80_128x128_bf16"),
        &[Config { checks: false, ..Config::default() }],
    );
    let modulation = Case { rows: 1, columns: 256, inner: 3072, bias: true, ..PLAIN };
    compare(modulation, Variant::Chosen, &[Config::default()]);
}

/// So many rows, columns, terms, whichever tile takes them; aligned and not.
#[test]
fn sizes_of_either_side() {
    for size in SIZES {
        for [rows, columns, inner] in [[size, 24, 40], [20, size, 40], [20, 24, size], [3, size, 17]] {
            let case = Case { rows, columns, inner, ..EVERYTHING };
            let once = [Config::default()];
            compare(case, Variant::Chosen, &once);
            let case = Case { gaps: aligned(inner), ..case };
            compare(case, Variant::Chosen, &once);
            for config in linear::candidates(Arch::Sm80) {
                compare(case, Variant::Named(config.image), &once);
            }
        }
    }
}

#[test]
fn hopper_sizes_of_either_side() {
    for size in SIZES {
        for [rows, columns, inner] in [[size, 24, 40], [20, size, 40], [20, 24, size]] {
            let case = Case { rows, columns, inner, gaps: all_aligned(columns, inner), ..HOPPER };
            let images =
                BOXES.iter().chain(&[TALL, "linear_sm90a_128x256_bf16", "linear_sm90a_128x128_bf16"]);
            let fast = [Config { checks: false, ..Config::default() }];
            images.for_each(|image| compare(case, Variant::Named(image), &fast));
        }
    }
}

/// 512 rows of text and 64 x 64 patches, or 60 x 60, a few of their columns.
#[test]
fn the_rows_of_flux() {
    for rows in [FLUX_ROWS, 4112] {
        let fast = [Config { checks: false, ..Config::default() }];
        let case = Case { rows, columns: 72, inner: 64, ..EVERYTHING };
        compare(case, Variant::Named("linear_sm80_128x128_bf16"), &fast);
        let hopper = Case { target: Target::typical(Arch::Sm90a), ..case };
        compare(hopper, Variant::Chosen, &fast);
        compare(hopper, Variant::Named("linear_sm90a_pair_128x256_boxes_bf16"), &fast);
    }
}

/// A weight with a single 1 in every row picks a column of x, bit for bit.
#[test]
fn one_hot_weights_pick_columns() {
    for target in [PLAIN.target, HOPPER.target] {
        for rows in [3, 150] {
            let [columns, inner] = [264, 200];
            let case = Case { rows, columns, inner, target, ..PLAIN };
            if runs::lacks(target) {
                continue;
            }
            let picked = |column: usize| column * 37 % inner;
            let weight: Vec<f32> =
                (0..columns * inner).map(|i| f32::from(u8::from(i % inner == picked(i / inner)))).collect();
            let mut problem = Problem::new(case);
            problem.weight = (Matrix::of(&weight, inner, 0, 0), weight);
            let expected: Vec<f32> =
                (0..rows * columns).map(|i| problem.x.1[i / columns * inner + picked(i % columns)]).collect();
            let params =
                problem.params(&mut Matrix::of(&[], columns, 0, 0), &mut Matrix::of(&[], columns, 0, 0));
            for config in linear::variants(shape(&params), target.arch) {
                let fast = Config { checks: false, ..Config::default() };
                assert_eq!(
                    problem.run(Variant::Named(config.image), fast),
                    expected,
                    "{config:?}, {rows} rows"
                );
            }
        }
    }
}

#[test]
fn wide_tiles_give_the_same_bits() {
    let case = Case { rows: 130, columns: 150, inner: 200, ..EVERYTHING };
    let mut problem = Problem::new(case);
    let mut bits = linear::candidates(Arch::Sm80).iter().map(|config| {
        problem.run(Variant::Named(config.image), Config { checks: false, ..Config::default() })
    });
    let first = bits.next().expect("a variant");
    assert!(bits.all(|other| other == first), "the tile does not show in the result");
}

#[test]
fn hopper_tiles() {
    for (rows, columns, inner) in [(129, 257, 65), (17, 16, 513), (256, 100, 64)] {
        let case = Case { rows, columns, inner, gaps: aligned(inner), ..HOPPER };
        check_named(case, "linear_sm90a_128x128_bf16");
        check_named(case, "linear_sm90a_128x256_bf16");
    }
}

#[test]
fn hopper_variants_give_the_same_bits() {
    // Six tiles of 256 columns for two clusters; out is aligned, so that boxes are stored too.
    let case = Case { rows: 260, columns: 520, inner: 200, gaps: [0, 8, 3, 0], ..HOPPER };
    let case = Case { target: Target { multiprocessors: 4, ..case.target }, ..case };
    if runs::lacks(case.target) {
        return;
    }
    let mut problem = Problem::new(case);
    let images = BOXES.iter().chain(&[TALL, "linear_sm90a_128x256_bf16", "linear_sm90a_128x128_bf16"]);
    let mut bits =
        images.map(|image| problem.run(Variant::Named(image), Config { checks: false, ..Config::default() }));
    let first = bits.next().expect("a variant");
    assert!(bits.all(|other| other == first), "neither tile, nor cluster, nor store show in the result");
}

/// The variants whose tiles leave by TMA; in the first two two blocks work together.
const BOXES: [&str; 6] = [
    "linear_sm90a_pair_128x256_boxes_bf16",
    "linear_sm90a_pair_128x128_boxes_bf16",
    "linear_sm90a_128x256_boxes_bf16",
    "linear_sm90a_128x128_boxes_bf16",
    "linear_sm90a_128x64_boxes_bf16",
    TAIL,
];

const TAIL: &str = "linear_sm90a_128x256_boxes_tail_bf16";

/// Gaps after which `out` can be stored by TMA, too.
fn all_aligned(columns: usize, inner: usize) -> [usize; 4] {
    let [x, weight, residual, _] = aligned(inner);
    [x, weight, residual, columns.next_multiple_of(8) - columns]
}

#[test]
fn hopper_boxes_and_pairs() {
    // One above the other; one row of tiles, and a column too few; an odd row of tiles below two, over two and over three columns.
    for (rows, columns, inner) in [(200, 104, 200), (100, 296, 130), (257, 264, 65), (300, 520, 64)] {
        let case = Case { rows, columns, inner, gaps: all_aligned(columns, inner), ..HOPPER };
        // What differs between the variants shows in two of the shapes.
        let images = if [100, 257].contains(&rows) { &BOXES[..] } else { &BOXES[..1] };
        images.iter().for_each(|image| check_named(case, image));
    }
}

/// A ragged tile of 256 rows; one whose lower parts have no row; several tiles a block, in a ring that turns over.
#[test]
fn hopper_tall_tiles() {
    for (rows, columns, inner) in [(200, 104, 200), (257, 296, 65), (512, 152, 5 * 64)] {
        let case = Case { rows, columns, inner, gaps: all_aligned(columns, inner), ..HOPPER };
        check_named(case, TALL);
    }
}

const TALL: &str = "linear_sm90a_256x144_boxes_bf16";

/// One tile too many for two rounds of three blocks, and one for a fourth block; no whole round; nothing left over. In the middle of a column of tiles, so that two of the tails lie beyond
/// the last one.
#[test]
fn hopper_tails() {
    for (rows, columns, multiprocessors) in [(6 * 128 + 9, 200, 3), (200, 392, 7), (256, 264, 4)] {
        let target = Target { multiprocessors, ..HOPPER.target };
        let case = Case { rows, columns, inner: 9 * 64 - 8, gaps: [8, 0, 8, 16], target, ..HOPPER };
        check_named(Case { residual: Residual::InPlace, ..case }, TAIL);
    }
}

#[test]
fn hopper_boxes_with_every_epilogue() {
    let case = Case { rows: 130, columns: 264, inner: 64, ..HOPPER };
    let configs = [Config { mode: Mode::Late, seed: 1, ..Config::default() }];
    for (activation, bias) in [(0, true), (0, false), (1, true), (4, false)] {
        for residual in [Residual::None, Residual::Plain, Residual::Gated, Residual::InPlace] {
            let case = Case { activation, bias, residual, ..case };
            let images = BOXES[..2].iter().chain(&BOXES[4..]).chain(&[TALL]);
            images.for_each(|image| compare(case, Variant::Named(image), &configs));
        }
    }
}

/// A store by TMA would write past them: the twin that stores by threads does it.
#[test]
fn hopper_columns_that_end_within_16_bytes() {
    let case = Case { rows: 130, columns: 260, inner: 64, gaps: all_aligned(260, 64), ..HOPPER };
    let configs = [Config { mode: Mode::Late, seed: 1, ..Config::default() }];
    BOXES.iter().chain(&[TALL]).for_each(|image| compare(case, Variant::Named(image), &configs));
}

/// Both of two clusters have a part of one pair; then of a pair one above the other and one side by side, of whose blocks one has no tile; then whole pairs before.
#[test]
fn hopper_pieces_of_pairs() {
    let target = |multiprocessors| Target { multiprocessors, ..HOPPER.target };
    let case = |rows, columns, inner, multiprocessors| {
        let gaps = all_aligned(columns, inner);
        Case { rows, columns, inner, gaps, target: target(multiprocessors), ..HOPPER }
    };
    check_cut(case(129, 200, 16 * 64 - 7, 4), PAIR_CUT, &runs::all().collect::<Vec<_>>());
    let once = [Config { checks: false, ..Config::default() }];
    check_cut(case(300, 200, 21 * 64, 8), PAIR_CUT, &once);
    for residual in [Residual::None, Residual::InPlace, Residual::Gated] {
        check_cut(Case { residual, ..case(130, 5 * 256 - 8, 9 * 64, 8) }, PAIR_CUT, &once);
    }
}

#[test]
fn hopper_turns_of_the_ring() {
    // Five tiles for one block, nine stages each: the ring turns over between and within tiles.
    let target = Target { multiprocessors: 1, ..HOPPER.target };
    let case = Case { rows: 300, columns: 130, inner: 9 * 64, residual: Residual::InPlace, target, ..HOPPER };
    check_named(case, "linear_sm90a_128x128_bf16");
    check_named(case, "linear_sm90a_128x256_bf16");
    let pairs = Case { columns: 264, target: Target { multiprocessors: 2, ..target }, ..case };
    let pairs = Case { gaps: all_aligned(pairs.columns, pairs.inner), ..pairs };
    BOXES[..2].iter().for_each(|image| check_named(pairs, image));
}

/// One tile is left over for three blocks, then two for five: runs that end where a tile does, and one that goes on into the next.
#[test]
fn hopper_pieces() {
    let target = |multiprocessors| Target { multiprocessors, ..HOPPER.target };
    let case = |rows, columns, inner, multiprocessors| {
        let gaps = all_aligned(columns, inner);
        Case { rows, columns, inner, gaps, target: target(multiprocessors), ..HOPPER }
    };
    check_cut(case(129, 264, 16 * 64 - 7, 3), CUT, &runs::all().collect::<Vec<_>>());
    let once = [Config { checks: false, ..Config::default() }];
    for residual in [Residual::None, Residual::InPlace, Residual::Gated] {
        check_cut(Case { residual, ..case(6 * 128 + 1, 200, 21 * 64, 5) }, CUT, &once);
    }
    // No whole tile at all.
    check_cut(case(100, 296, 33 * 64, 132), CUT, &once);
}

fn check_cut(case: Case, variant: Variant, configs: &[Config]) {
    let mut problem = Problem::new(case);
    let of = |gap| Matrix::of(&problem.residual, case.columns, gap, 0);
    let (mut residual, mut out) = (of(case.gaps[2]), of(case.gaps[3]));
    let params = problem.params(&mut residual, &mut out);
    assert!(problem.workspace_bytes(variant, &params) > 0, "{case:?} is cut");
    compare(case, variant, configs);
}

const CUT: Variant = Variant::Named("linear_sm90a_128x256_boxes_cut_bf16");
const PAIR_CUT: Variant = Variant::Named("linear_sm90a_pair_128x256_boxes_cut_bf16");

#[test]
fn hopper_of_a_flux_shape_cut_down() {
    let target = Target { multiprocessors: 3, ..HOPPER.target };
    let case = Case { rows: 512, columns: 768, inner: 768, target, ..HOPPER };
    compare(case, Variant::Chosen, &[Config { checks: false, ..Config::default() }]);
}

#[test]
fn hopper_does_what_tma_cannot() {
    for case in [
        Case { rows: 20, columns: 20, inner: 15, ..HOPPER },
        Case { rows: 20, columns: 20, inner: 0, ..HOPPER },
    ] {
        compare(case, Variant::Chosen, &[Config::default()]);
    }
}

/// Every product of the bundled model's last step, encoders, modulation and decoder, with what they were given.
#[test]
fn activations_and_weights_of_the_model() {
    let launches = late::launches("linear_bf16");
    for seen in &launches {
        for target in [PLAIN.target, Target::typical(Arch::Sm90a)] {
            if !runs::lacks(target) {
                compare_problem(&mut Problem::seen(seen, target), Variant::Chosen, &[Config::default()]);
            }
        }
    }
    let params = || launches.iter().map(|seen| seen.parameters::<LinearParams>());
    for activation in [0, 1, 3, 4] {
        assert!(params().any(|p| p.activation == activation), "activation {activation}");
    }
    for (has_gate, has_residual) in [(false, false), (false, true), (true, true)] {
        let has = |p: LinearParams| (p.gate != 0, p.residual != 0) == (has_gate, has_residual);
        assert!(params().any(has), "gate {has_gate}, residual {has_residual}");
    }
}

/// The bounds see a gate that is left out, one taken for the residual's factor, and the last term of every sum left out.
#[test]
fn slips_on_activations_are_refused() {
    for seen in late::launches("linear_bf16") {
        let p: LinearParams = seen.parameters();
        if p.gate == 0 {
            continue;
        }
        let mut problem = Problem::seen(seen, PLAIN.target);
        let (case, expected) = (problem.case, problem.expected());
        let config = Config { checks: false, ..Config::default() };
        let accepts = |problem: &mut Problem| {
            let got = problem.run(Variant::Chosen, config);
            !refuses(|| assert_near("a slip", &got, &expected, case.columns))
        };
        assert!(accepts(&mut problem));
        problem.case = Case { residual: Residual::Plain, ..case };
        assert!(!accepts(&mut problem), "no gate");
        problem.case = Case { residual: Residual::None, ..case };
        assert!(!accepts(&mut problem), "neither gate nor residual");
        problem.case = Case { bias: false, ..case };
        assert!(!accepts(&mut problem), "no bias");
        problem.case = case;
        let last = case.inner - 1;
        problem.x.1.chunks_mut(case.inner).for_each(|row| row[last] = 0.0);
        problem.x.0 = Matrix::of(&problem.x.1, case.inner, 0, 0);
        assert!(!accepts(&mut problem), "without the last term");
    }
}

/// Gaps of x and weight after which rows of `inner` elements begin at multiples of 16 bytes.
fn aligned(inner: usize) -> [usize; 4] {
    let gap = inner.next_multiple_of(8) - inner;
    [gap, gap + 8, 3, 5]
}

fn check(case: Case) {
    compare(case, Variant::Chosen, &runs::all().collect::<Vec<_>>());
}

fn check_named(case: Case, image: &'static str) {
    compare(case, Variant::Named(image), &runs::all().collect::<Vec<_>>());
}

fn compare(case: Case, variant: Variant, configs: &[Config]) {
    if runs::lacks(case.target) {
        return;
    }
    compare_problem(&mut Problem::new(case), variant, configs);
}

fn compare_problem(problem: &mut Problem, variant: Variant, configs: &[Config]) {
    let case = problem.case;
    let expected = problem.expected();
    let mut first = None;
    for config in configs {
        let got = problem.run(variant, *config);
        let name = format!("{case:?} {variant:?} {config:?}");
        assert_near(&name, &got, &expected, case.columns);
        assert_eq!(first.get_or_insert(got.clone()), &got, "{name}: the same bits in every run");
    }
}

/// A case with its tensors.
struct Problem {
    case: Case,
    x: (Matrix, Vec<f32>),
    weight: (Matrix, Vec<f32>),
    bias: (Matrix, Vec<f32>),
    gate: (Matrix, Vec<f32>),
    residual: Vec<f32>,
}

impl Problem {
    fn new(case: Case) -> Self {
        let mut rng = Rng::from_env(3);
        let Case { rows, columns, inner, gaps, offsets, .. } = case;
        let scale = 1.0 / (inner.max(1) as f32).sqrt();
        let (_, residual) = Matrix::random(&mut rng, [rows, columns], 1.0, 0, 0);
        Self {
            case,
            x: Matrix::random(&mut rng, [rows, inner], 1.0, gaps[0], offsets[0]),
            weight: Matrix::random(&mut rng, [columns, inner], scale, gaps[1], offsets[1]),
            bias: Matrix::random(&mut rng, [1, columns], 1.0, 0, 0),
            gate: Matrix::random(&mut rng, [1, columns], 1.0, 0, 0),
            residual,
        }
    }

    /// What the model launches.
    fn seen(seen: &Seen, target: Target) -> Self {
        let p: LinearParams = seen.parameters();
        let matrix = |address, rows, columns, stride| {
            let values = seen.rows(address, [rows, columns], stride);
            (Matrix::of(&values, columns as usize, 0, 0), values)
        };
        let vector = |address| if address == 0 { None } else { Some(matrix(address, 1, p.columns, 0)) };
        let none = || (Matrix::of(&[], p.columns as usize, 0, 0), Vec::new());
        let residual = match (p.residual, p.gate) {
            (0, 0) => Residual::None,
            (_, 0) => Residual::Plain,
            _ => Residual::Gated,
        };
        let [rows, columns, inner] = [p.rows, p.columns, p.inner].map(|size| size as usize);
        let (bias, activation) = (p.bias != 0, p.activation);
        Self {
            case: Case { rows, columns, inner, bias, activation, residual, target, ..PLAIN },
            x: matrix(p.x, p.rows, p.inner, p.x_stride),
            weight: matrix(p.weight, p.columns, p.inner, p.weight_stride),
            bias: vector(p.bias).unwrap_or_else(none),
            gate: vector(p.gate).unwrap_or_else(none),
            residual: match p.residual {
                0 => vec![f32::NAN; rows * columns],
                _ => seen.rows(p.residual, [p.rows, p.columns], p.residual_stride),
            },
        }
    }

    fn expected(&self) -> Vec<Exact> {
        let Case { rows, columns, inner, residual, .. } = self.case;
        let cell = |row: usize, column: usize| {
            let x = &self.x.1[row * inner..][..inner];
            let weight = &self.weight.1[column * inner..][..inner];
            let products = || x.iter().zip(weight).map(|(x, weight)| f64::from(*x) * f64::from(*weight));
            let finish = Finish {
                bias: self.case.bias.then(|| self.bias.1[column]),
                activation: self.case.activation,
                gate: (residual == Residual::Gated).then(|| self.gate.1[column]),
                residual: (residual != Residual::None).then(|| self.residual[row * columns + column]),
            };
            finish.of(products().sum(), products().map(f64::abs).sum(), inner)
        };
        (0..rows).flat_map(|row| (0..columns).map(move |column| cell(row, column))).collect()
    }

    fn run(&mut self, variant: Variant, config: Config) -> Vec<f32> {
        let Case { columns, gaps, offsets, residual: kind, .. } = self.case;
        let poison = vec![f32::NAN; self.residual.len()];
        let mut residual = Matrix::of(&self.residual, columns, gaps[2], offsets[2]);
        let in_place = kind == Residual::InPlace;
        let mut out =
            Matrix::of(if in_place { &self.residual } else { &poison }, columns, gaps[3], offsets[3]);
        let params = self.params(&mut residual, &mut out);
        let bytes = self.workspace_bytes(variant, &params);
        let mut workspace = Floats::of(&vec![f32::NAN; usize::try_from(bytes / 4).expect("it is small")]);
        let address = if bytes == 0 { 0 } else { workspace.address() };
        let params = LinearParams { workspace: address, ..params };
        let launches = self.launches(variant, &params);
        let is_cut = bytes > 0;
        assert_eq!(launches.as_slice().len(), if is_cut { 2 } else { 1 }, "one launch, and one that joins");
        let regions = [
            workspace.region(),
            self.x.0.region(),
            self.weight.0.region(),
            self.bias.0.region(),
            self.gate.0.region(),
            residual.region(),
            out.region(),
        ];
        let config = Config { shared_bytes_max: self.case.target.arch.shared_bytes_max(), ..config };
        if let Some(report) = runs::launch(&launches, &params, &regions, config) {
            // Rows of 96 bytes without a swizzle, in which the tall tile waits, meet each bank twice.
            let allowed = if launches.as_slice()[0].image == TALL { report.matrix_loads } else { 0 };
            assert!(
                report.bank_conflicts <= allowed,
                "{:?}: {} conflicts, but the swizzle keeps ldmatrix free of them",
                self.case,
                report.bank_conflicts
            );
            if config.checks && !is_cut {
                let written = (self.case.rows * columns * 2) as u64;
                assert_eq!(report.global_bytes_written, written, "each element is written once");
            }
        }
        out.values()
    }

    fn params(&mut self, residual: &mut Matrix, out: &mut Matrix) -> LinearParams {
        let kind = self.case.residual;
        let when = |present: bool, address: u64| if present { address } else { 0 };
        let (residual_address, residual_stride) = match kind {
            Residual::InPlace => (out.address(), out.stride()),
            _ => (residual.address(), residual.stride()),
        };
        LinearParams {
            x: self.x.0.address(),
            weight: self.weight.0.address(),
            bias: when(self.case.bias, self.bias.0.address()),
            gate: when(kind == Residual::Gated, self.gate.0.address()),
            residual: when(kind != Residual::None, residual_address),
            out: out.address(),
            workspace: 0,
            x_stride: self.x.0.stride(),
            weight_stride: self.weight.0.stride(),
            residual_stride,
            out_stride: out.stride(),
            rows: count(self.case.rows),
            columns: count(self.case.columns),
            inner: count(self.case.inner),
            activation: self.case.activation,
        }
    }

    fn launches(&self, variant: Variant, params: &LinearParams) -> Launches {
        match variant {
            Variant::Chosen => launches(params, self.case.target),
            Variant::Named(image) => launches_of(self.named(image, params), params, self.case.target),
        }
    }

    /// Of the variant, where the test names it: what is chosen at sizes of tests is never cut.
    fn workspace_bytes(&self, variant: Variant, params: &LinearParams) -> u64 {
        match variant {
            Variant::Chosen => 0,
            Variant::Named(image) => workspace_bytes_of(self.named(image, params), params, self.case.target),
        }
    }

    fn named(&self, image: &str, params: &LinearParams) -> linear::Config {
        let target = self.case.target;
        let (shape, arch) = (shape(params), target.arch);
        let mut all =
            linear::variants(shape, arch).into_iter().chain(linear::candidates(arch).iter().copied());
        all.find(|config| config.image == image).expect("a variant of this architecture")
    }
}
