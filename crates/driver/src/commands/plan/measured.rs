//! A card as `bench machine --json` measured it.

use std::path::Path;

use lighterage_device::{Arch, CallCost, MemoryCosts, Profile, Rates};
use serde::Deserialize;

use crate::failure::{Failure, Result};

/// What of the measurement a plan needs. Anything else in the file is of no interest.
#[derive(Debug, Deserialize)]
struct Machine {
    device: String,
    #[serde(default)]
    isa: String,
    copy_bytes_per_second: f64,
    pinned_to_device_bytes_per_second: Option<f64>,
    pageable_to_device_bytes_per_second: f64,
    page_locking_bytes_per_second: Option<f64>,
    gemm_bf16_flops_per_second: f64,
    queue_seconds: f64,
    #[serde(default)]
    memory_calls: Vec<MemoryCall>,
}

/// What calls on a chunk of that length took, beside so many others.
#[derive(Debug, Deserialize)]
struct MemoryCall {
    bytes: u64,
    create_seconds: f64,
    map_seconds: f64,
    set_access_seconds: f64,
    unmap_seconds: f64,
    destroy_seconds: f64,
}

impl Machine {
    /// By the shortest chunk that was measured: streamed weights are mapped page by page. One map after the other, as opening a run was seen to cost what each of its maps does.
    fn memory_costs(&self) -> MemoryCosts {
        let Some(call) = self.memory_calls.iter().min_by_key(|call| call.bytes) else {
            return MemoryCosts::H100;
        };
        let each = |seconds_per_map| CallCost { seconds_per_map, ..CallCost::of(0.0) };
        MemoryCosts {
            create: CallCost::of(call.create_seconds),
            destroy: CallCost::of(call.destroy_seconds),
            map: CallCost::of(call.map_seconds),
            set_access: each(call.set_access_seconds),
            unmap: each(call.unmap_seconds),
            ..MemoryCosts::H100
        }
    }
}

/// Attention reaches a little less than products do, and what runs without tensor cores a small part of them: neither is measured. The second hardly matters, since
/// such kernels wait for memory.
const ATTENTION_SHARE: f64 = 0.9;
const VECTOR_SHARE: f64 = 0.1;
/// Bytes a second from the page cache to page-locked memory, which several threads copy, and page-locking where that was not measured.
const READ: f64 = 10e9;
const LOCK: f64 = 2.4e9;

/// The profile in a file.
pub(super) fn read(path: &Path) -> Result<Profile> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::Refused(format!("{}: {error}", path.display())))?;
    let machine: Machine = serde_json::from_str(&text).map_err(|error| {
        Failure::Usage(format!("{}: not the output of `bench machine --json`: {error}", path.display()))
    })?;
    let rates = Rates {
        product_flops: machine.gemm_bf16_flops_per_second,
        attention_flops: ATTENTION_SHARE * machine.gemm_bf16_flops_per_second,
        vector_flops: VECTOR_SHARE * machine.gemm_bf16_flops_per_second,
        memory_bytes: machine.copy_bytes_per_second,
        link_bytes: machine
            .pinned_to_device_bytes_per_second
            .unwrap_or(machine.pageable_to_device_bytes_per_second),
        pageable_bytes: machine.pageable_to_device_bytes_per_second,
        lock_bytes: machine.page_locking_bytes_per_second.unwrap_or(LOCK),
        read_bytes: READ,
        launch_seconds: 2e-6,
        copy_seconds: 2e-6,
        call_seconds: machine.queue_seconds,
        slowdown: 0.0,
        memory_calls: machine.memory_costs(),
    };
    let Rates { product_flops, memory_bytes, link_bytes, pageable_bytes, lock_bytes, .. } = rates;
    let measured = [product_flops, memory_bytes, link_bytes, pageable_bytes, lock_bytes];
    if !measured.iter().all(|rate| rate.is_finite() && *rate > 0.0) {
        return Err(Failure::Usage(format!("{}: a rate is not above 0", path.display())));
    }
    // How much memory the card has is no part of a plan: budgets are given.
    Ok(Profile {
        name: machine.device,
        // What is no GPU is planned for as the first card of the list.
        arch: Arch::ALL
            .into_iter()
            .find(|arch| machine.isa.split(',').next() == Some(arch.to_string().as_str()))
            .unwrap_or(Arch::Sm90a),
        memory_bytes: u64::MAX,
        rates,
        source: format!("measured, {}", path.display()),
    })
}
