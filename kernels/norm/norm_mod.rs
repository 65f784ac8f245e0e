//! How `norm_mod.cu` is launched.

use std::sync::atomic::{AtomicU32, Ordering};

use super::rows::{Exact, image};
use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::NormModParams;

const PLAIN: [Exact; 1] = [Exact { columns: 3072, threads: 128, image: "norm_mod_3072_bf16" }];
const UPDATES: [Exact; 1] = [Exact { columns: 3072, threads: 128, image: "norm_mod_update_3072_bf16" }];

/// Temporary: which of [`TRIALS`] runs in place of what is chosen, from 1 on; 0: none.
pub static TRIAL: AtomicU32 = AtomicU32::new(0);

/// Temporary.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// As the bench calls it.
    pub name: &'static str,
    images: [&'static str; 2],
    threads: u32,
    /// Blocks for each multiprocessor, without and with update; 0: one for each row.
    resident: [u32; 2],
    overlaps: bool,
}

const fn trial(
    name: &'static str,
    images: [&'static str; 2],
    threads: u32,
    resident: [u32; 2],
    overlaps: bool,
) -> Trial {
    Trial { name, images, threads, resident, overlaps }
}

/// Temporary.
pub const TRIALS: [Trial; 13] = [
    trial("a 128x3", ["trial_a0", "trial_a1"], 128, [0, 0], false),
    trial("b 128x3 once", ["trial_b0", "trial_b1"], 128, [0, 0], false),
    trial("c 128x3 early vectors", ["trial_c0", "trial_c1"], 128, [0, 0], false),
    trial("d 192x2", ["trial_d0", "trial_d1"], 192, [0, 0], false),
    trial("e 384x1", ["trial_e0", "trial_e1"], 384, [0, 0], false),
    trial("f 128x3 resident", ["trial_f0", "trial_f1"], 128, [6, 5], false),
    trial("g 192x2 resident", ["trial_g0", "trial_g1"], 192, [5, 4], false),
    trial("h 384x1 resident", ["trial_h0", "trial_h1"], 384, [3, 3], false),
    trial("i 128x3 overlapping", ["trial_i0", "trial_i1"], 128, [0, 0], true),
    trial("j 192x2 overlapping", ["trial_j0", "trial_j1"], 192, [0, 0], true),
    trial("k 128x3 resident overlapping", ["trial_k0", "trial_k1"], 128, [6, 5], true),
    trial("l 64x6", ["trial_l0", "trial_l1"], 64, [0, 0], false),
    trial("m 192x2 early vectors", ["trial_m0", "trial_m1"], 192, [0, 0], false),
];

/// A block a row, on every architecture; images for the widths of models, with and without update, and one for any other row.
#[must_use]
pub fn launches(params: &NormModParams, target: Target) -> Launches {
    let p = params;
    let vectors = [p.first_shift, p.first_scale, p.second_shift, p.second_scale, p.first_gate, p.second_gate];
    let rows = [p.x, p.out, p.y, 2 * p.x_stride, 2 * p.out_stride, if p.y == 0 { 0 } else { 2 * p.y_stride }];
    let addresses = [vectors, rows].concat();
    let (image, threads) = if p.y == 0 {
        image(&PLAIN, "norm_mod_any_bf16", p.columns, &addresses)
    } else {
        image(&UPDATES, "norm_mod_update_any_bf16", p.columns, &addresses)
    };
    let trial = TRIAL.load(Ordering::Relaxed) as usize;
    if trial > 0 && image.ends_with("3072_bf16") {
        let trial = TRIALS[trial - 1];
        let blocks = match trial.resident[usize::from(p.y != 0)] {
            0 => p.rows.max(1),
            many => p.rows.clamp(1, many * target.multiprocessors),
        };
        let mut launch = Launch::new(trial.images[usize::from(p.y != 0)], Grid::line(blocks, trial.threads));
        if trial.overlaps && target.arch >= crate::launch::Arch::Sm90a {
            launch = launch.overlapping();
        }
        return Launches::of(&[launch]);
    }
    Launches::of(&[Launch::new(image, Grid::line(p.rows.max(1), threads))])
}
