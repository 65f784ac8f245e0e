use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
use lighterage_kernels::norm;
use lighterage_kernels::params::RmsNormParams;
use lighterage_ops::{Queue, RmsNorm, rms_norm};
use lighterage_shape::DType;
use lighterage_testkit::Rng;

use crate::buffer::Buffer;
use crate::late;
use crate::numerics::{
    FLUX_ROWS, SIZES, assert_near_units, assert_rounded_once, count, normals, round, round_exact,
};
use crate::runs;

const EPS: f32 = 1e-6;

#[test]
fn one_row() {
    check(1, 256);
}

#[test]
fn columns_that_fill_no_vector() {
    check(5, 77);
}

#[test]
fn rows_that_fill_no_block() {
    check(6, 3072);
}

#[test]
fn rows_that_are_not_aligned() {
    check(3, 100);
}

#[test]
fn sizes_of_either_side() {
    for size in SIZES {
        check_in(size, 24, &[runs::Config::default()]);
        check_in(2, size, &[runs::Config::default()]);
    }
}

/// Where the mean square is about eps, and where it is nothing.
#[test]
fn rows_of_tiny_numbers() {
    for deviation in [1e-3, 0.0] {
        check_of(5, 256, [0.0, deviation], &runs::all().collect::<Vec<_>>());
    }
}

/// Means of 40 and 400 standard deviations: the square of the mean is all of the mean square.
#[test]
fn rows_of_large_means() {
    for mean in [40.0, 400.0] {
        for columns in [256, 4096] {
            check_of(2, columns, [mean, 1.0], &runs::all().collect::<Vec<_>>());
        }
    }
}

#[test]
fn as_many_rows_as_flux_has() {
    check_in(FLUX_ROWS, 24, &[runs::Config { checks: false, ..runs::Config::default() }]);
}

/// T5's rows, as many as FLUX has of text.
#[test]
fn the_rows_of_t5() {
    check_in(512, 4096, &[runs::Config { checks: false, ..runs::Config::default() }]);
}

/// What T5 of the bundled model has in its last block and behind it.
#[test]
fn activations_of_the_model() {
    for seen in late::launches("rms_norm_bf16") {
        let p: RmsNormParams = seen.parameters();
        assert_eq!(p.eps, EPS);
        let x = seen.rows(p.x, [p.rows, p.columns], p.x_stride);
        check_on(&x, &seen.row(p.weight, p.columns), &runs::all().collect::<Vec<_>>());
    }
}

/// The kernel, over all runs, and `ops`' host reference against fp64.
fn check(rows: usize, columns: usize) {
    check_in(rows, columns, &runs::all().collect::<Vec<_>>());
}

fn check_in(rows: usize, columns: usize, configs: &[runs::Config]) {
    check_of(rows, columns, [0.0, 1.0], configs);
}

fn check_of(rows: usize, columns: usize, [mean, deviation]: [f32; 2], configs: &[runs::Config]) {
    let mut rng = Rng::from_env(11);
    let x: Vec<f32> = rng.normals(rows * columns, deviation).iter().map(|x| round(mean + x)).collect();
    check_on(&x, &normals(&mut rng, columns, 0.0), configs);
}

fn check_on(x: &[f32], weight: &[f32], configs: &[runs::Config]) {
    let shape = [x.len() / weight.len(), weight.len()];
    let (exact, slack) = exact(x, weight);
    assert_near_units(&on_host(x, weight, shape), &exact, &slack);
    for config in configs {
        let got = by_kernel(x, weight, shape, *config);
        assert_near_units(&got, &exact, &slack);
        assert_rounded_once(2.0e-3, &got, &exact);
    }
}

/// In fp64, but rounded before the weight as the formula says; and how far off a right result is where fp32 lets that rounding fall the other way: the sums
/// differ by their order, 2^-20 relative at most.
fn exact(x: &[f32], weight: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let rows = x.chunks(weight.len()).flat_map(|row| {
        let square = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64;
        let inverse = 1.0 / (square + f64::from(EPS)).sqrt();
        row.iter().zip(weight).map(move |(x, w)| {
            let [normed, weight] = [f64::from(*x) * inverse, f64::from(*w)];
            let off = [-1.0, 1.0].map(|sign| round_exact(normed * (1.0 + sign * 2.0_f64.powi(-20))));
            (round_exact(normed) * weight, (off[1] - off[0]).abs() * weight.abs())
        })
    });
    rows.unzip()
}

fn by_kernel(x: &[f32], weight: &[f32], [rows, columns]: [usize; 2], config: runs::Config) -> Vec<f32> {
    let (mut x, mut weight, mut out) = (Buffer::of(x), Buffer::of(weight), Buffer::poisoned(x.len()));
    let params = RmsNormParams {
        x: x.address(),
        weight: weight.address(),
        out: out.address(),
        x_stride: columns as u64,
        out_stride: columns as u64,
        rows: count(rows),
        columns: count(columns),
        eps: EPS,
        padding: 0,
    };
    let launches = norm::rms_norm::launches(&params, runs::target());
    let regions = [x.region(), weight.region(), out.region()];
    let report = runs::launch(&launches, &params, &regions, config);
    if let Some(report) = report.filter(|_| config.checks) {
        let written = (rows * columns * 2) as u64;
        assert_eq!(report.global_bytes_written, written, "each output element is written once");
    }
    out.values()
}

fn on_host(x: &[f32], weight: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    let host = Host::new(HostConfig::default()).expect("a host");
    let device = Device::new(host, Ledger::new(1 << 26), Ledger::new(0));
    let stream = device.stream(StreamKind::Compute).expect("a stream");
    let pool = Pool::new(&stream, PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 26 })
        .expect("a pool");
    let queue = Queue::new(pool);
    let x = queue.upload_as(DType::Bf16, x, &[rows, columns], "x").expect("room");
    let weight = queue.upload_as(DType::Bf16, weight, &[columns], "weight").expect("room");
    let out = queue.tensor(DType::Bf16, &[rows, columns], "out").expect("room");
    rms_norm(&queue, &RmsNorm { x: x.view(), weight: weight.view(), eps: EPS, out: out.view() })
        .expect("launched");
    queue.read_f32(out.view()).expect("read").expect("the host has bytes")
}
