//! The steps of `docs/kernel-ladder`: the same results, and the bytes that its page says.

use lighterage_kernels::launch::{Grid, Launch, Launches};
use lighterage_kernels::params::RmsNormParams;
use lighterage_testkit::Rng;

use crate::buffer::Buffer;
use crate::numerics::{assert_rounded_once, count, normals, round_exact};
use crate::runs;

const ROWS: usize = 6;
const COLUMNS: usize = 3072;
const EPS: f32 = 1e-6;

#[test]
fn one_thread_a_row() {
    check("ladder_step1", Grid::line(1, 128), 2);
}

#[test]
fn one_block_a_row() {
    check("ladder_step2", Grid::line(count(ROWS), 256), 2);
}

#[test]
fn one_warp_a_row() {
    check("ladder_step3", Grid::line(2, 128), 2);
}

#[test]
fn sixteen_bytes_a_load() {
    check("ladder_step4", Grid::line(2, 128), 2);
}

#[test]
fn the_row_in_registers() {
    check("ladder_step5", Grid::line(2, 128), 1);
}

#[test]
fn four_warps_a_row() {
    check("ladder_step6", Grid::line(count(ROWS), 128), 1);
}

fn check(image: &'static str, grid: Grid, readings_of_x: usize) {
    let mut rng = Rng::from_env(61);
    let (x, weight) = (normals(&mut rng, ROWS * COLUMNS, 0.0), normals(&mut rng, COLUMNS, 1.0));
    let exact: Vec<f64> = x.chunks(COLUMNS).flat_map(|row| exact(row, &weight)).collect();
    for config in runs::all() {
        let (mut x, mut weight, mut out) = (Buffer::of(&x), Buffer::of(&weight), Buffer::poisoned(x.len()));
        let params = RmsNormParams {
            x: x.address(),
            weight: weight.address(),
            out: out.address(),
            x_stride: COLUMNS as u64,
            out_stride: COLUMNS as u64,
            rows: count(ROWS),
            columns: count(COLUMNS),
            eps: EPS,
            padding: 0,
        };
        let regions = [x.region(), weight.region(), out.region()];
        let report = runs::launch(&Launches::of(&[Launch::new(image, grid)]), &params, &regions, config)
            .expect("the emulator counts");
        let matrix = 2 * ROWS * COLUMNS;
        let moved = (report.global_bytes_read, report.global_bytes_written);
        assert_eq!(moved, ((matrix * (readings_of_x + 1)) as u64, matrix as u64));
        assert_rounded_once(2.0e-3, &out.values(), &exact);
    }
}

fn exact(row: &[f32], weight: &[f32]) -> Vec<f64> {
    let square = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64;
    let inverse = 1.0 / (square + f64::from(EPS)).sqrt();
    row.iter()
        .zip(weight)
        .map(|(x, weight)| round_exact(f64::from(*x) * inverse) * f64::from(*weight))
        .collect()
}
