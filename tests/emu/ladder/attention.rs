//! The steps of `docs/kernel-ladder`: each is right, and each has what its page says: what it reads, and how.

use lighterage_kernels::attention;
use lighterage_kernels::launch::{Arch, Grid, Launch, Launches, Target};

use crate::attention::assert_near;
use crate::attention::case::{Case, IDLE, Tensors, case};
use crate::runs::{self, Config, Report};

const QUERIES: usize = 70;
const KEYS: usize = 90;
const HEAD_DIM: usize = 128;

/// Bytes of one row.
const ROW: u64 = 2 * HEAD_DIM as u64;

const CASE: Case = case([QUERIES, KEYS], 1, HEAD_DIM, Arch::Sm89, IDLE);

/// Runs a step in both modes and every order; gives the counts.
fn check(case: Case, launches: impl Fn() -> Option<Launch>) -> Report {
    let tensors = Tensors::of(&case);
    let mut counts = Report::default();
    for config in runs::all() {
        let config = Config { shared_bytes_max: case.target.arch.shared_bytes_max(), ..config };
        let (got, report) = tensors.run(&case, config, |params| match launches() {
            Some(launch) => Launches::of(&[launch]),
            None => attention::launches(params, case.target),
        });
        assert_near(&tensors, &case, &got, 1);
        counts = report.expect("the emulator counts");
    }
    counts
}

fn step(image: &'static str, tile: u32, shared_bytes: u32) -> Report {
    let queries = u32::try_from(QUERIES).expect("a few");
    let blocks = [queries.div_ceil(tile), 1, 1];
    check(CASE, || Some(Launch::new(image, Grid { blocks, threads: 128, shared_bytes })))
}

#[test]
fn step_1_reads_every_key_three_times_for_every_query() {
    let pairs = (QUERIES * KEYS) as u64;
    // Three scores, q and k each time, and the value.
    assert_eq!(step("ladder_step1_bf16", 128, 0).global_bytes_read, pairs * (3 * 2 + 1) * ROW);
}

#[test]
fn step_2_reads_every_key_once_for_every_query() {
    let pairs = (QUERIES * KEYS) as u64;
    assert_eq!(step("ladder_step2_bf16", 128, 0).global_bytes_read, pairs * 3 * ROW);
}

#[test]
fn step_3_reads_every_key_once_for_every_block() {
    // One block of 128 threads, each with a query: the last one again where there are no more.
    assert_eq!(step("ladder_step3_bf16", 128, 0).global_bytes_read, (2 * KEYS as u64 + 128) * ROW);
}

#[test]
fn step_4_multiplies_on_tensor_cores_and_meets_every_bank_eight_times() {
    let report = step("ladder_step4_bf16", 64, 3 * 64 * 256);
    // Two blocks of 4 warps, two tiles of keys; 8 x 8 products for the scores, 4 x 16 for the output.
    assert_eq!(report.matrix_products, 2 * 4 * 2 * (64 + 64));
    // ldmatrix: 8 for the queries, 32 and 32 a tile, four matrices each, seven passes more than one for each.
    assert_eq!(report.bank_conflicts, 2 * 4 * (8 + 2 * 64) * 4 * 7);
}

#[test]
fn step_5_meets_no_bank_twice() {
    let report = check(CASE, || None);
    // Five warps have queries; the other three rest.
    assert_eq!(report.matrix_products, 5 * 2 * (64 + 64));
    assert_eq!(report.bank_conflicts, 0);
}

#[test]
fn step_6_has_its_operands_fetched_by_tma() {
    let hopper = Case { target: Target::typical(Arch::Sm90a), ..CASE };
    let report = check(hopper, || None);
    // One tile, one block of keys, two warpgroups: 8 products for the scores, 8 for the output each.
    assert_eq!(report.matrix_products, 2 * 16);
    // q, k and v in two halves, out in two for each warpgroup.
    assert_eq!(report.bulk_copies, 3 * 2 + 2 * 2);
}
