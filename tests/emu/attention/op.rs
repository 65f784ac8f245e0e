//! `ops::attention` itself, on `Host` and on `Host` with the emulated kernels: one call, one meaning.

use lighterage_device::{Device, Host, HostConfig, Ledger};
use lighterage_kernels::launch::Arch;
use lighterage_ops::{Attention, Mask as OpMask, attention};
use lighterage_shape::DType;

use super::case::{Case, IDLE, Inputs, Mask, Tensors, case};
use super::reference::Error;
use super::{OVERALL, assert_near};
use crate::device::{emulating, queue};

/// Both within the bounds of f64, and of each other.
fn check(case: Case) {
    let tensors = Tensors::of(&case);
    let host = Host::new(HostConfig { threads: 2, ..HostConfig::default() }).expect("a host");
    let on_host = run(&tensors, &case, &Device::new(host, Ledger::new(1 << 30), Ledger::new(0)));
    assert_near(&tensors, &case, &on_host, 1);
    for checks in [true, false] {
        let emulated = run(&tensors, &case, &emulating(case.target.arch, checks, 2));
        assert_near(&tensors, &case, &emulated, 1);
        let mut error = Error::default();
        error.add(&emulated, &on_host.iter().map(|value| f64::from(*value)).collect::<Vec<_>>());
        assert!(error.relative() <= OVERALL, "{case:?}: {:.2e} apart", error.relative());
    }
}

fn run(tensors: &Tensors, case: &Case, device: &Device<Host>) -> Vec<f32> {
    let queue = queue(device);
    let (row, heads) = (case.row(), case.heads);
    let tokens = case.queries.max(case.keys);
    let qkv =
        queue.upload_as(DType::Bf16, &tensors.qkv, &[tokens, 3 * row + case.gaps[0]], "qkv").expect("room");
    let part = |index: usize, rows: usize| {
        let columns = qkv.view().narrow(1, index * row, row).expect("inside");
        columns.rows(0, rows).expect("inside").split(1, heads).expect("whole heads")
    };
    let buckets = tensors.table.len() / heads;
    let table = queue.upload_as(DType::Bf16, &tensors.table, &[buckets, heads], "table").expect("room");
    let out = queue.tensor(DType::Bf16, &[case.queries, row], "out").expect("room");
    let mask = match case.mask {
        Mask::None => OpMask::None,
        Mask::Causal => OpMask::Causal,
        Mask::Buckets { max_distance, .. } => OpMask::RelativeBuckets { table: table.view(), max_distance },
    };
    let args = Attention {
        q: part(0, case.queries),
        k: part(1, case.keys),
        v: part(2, case.keys),
        out: out.view().split(1, heads).expect("whole heads"),
        scale: case.factor(),
        mask,
    };
    attention(&queue, &args).expect("launched");
    queue.read_f32(out.view()).expect("clean").expect("the host has bytes")
}

#[test]
fn the_heads_of_flux() {
    for arch in [Arch::Sm80, Arch::Sm89, Arch::Sm90a] {
        check(case([150, 150], 2, 128, arch, IDLE));
        check(case([70, 90], 2, 64, arch, IDLE));
    }
}

/// Enough keys that the op sets memory aside and the kernel cuts its tile.
#[test]
fn a_tile_in_pieces() {
    check(case([40, 1100], 1, 128, Arch::Sm90a, IDLE));
}

#[test]
fn the_encoders_masks() {
    let scores = Case { scale: 1.0, inputs: Inputs::Normal(0.5), ..case([50, 50], 2, 16, Arch::Sm86, IDLE) };
    for head_dim in [16, 64] {
        check(Case { head_dim, mask: Mask::Causal, ..scores });
        for (buckets, max_distance) in [(32, 128), (11, 20)] {
            check(Case { head_dim, mask: Mask::Buckets { buckets, max_distance }, ..scores });
        }
    }
}
