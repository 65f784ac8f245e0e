//! Tensor maps in the form of the hardware.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;

use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};
use lighterage_kernels::launch::{MAPS_MAX, TensorMap};

use super::api::{check_of, size};
use crate::{Address, Error, Result};

/// The tensor maps of a launch, as its second parameter takes them: one behind the other, 128 bytes each.
#[derive(Debug)]
pub(super) struct Encoded([CUtensorMap; MAPS_MAX]);

impl Encoded {
    /// Encodes them; the driver checks alignment and sizes.
    pub(super) fn new(maps: &[TensorMap]) -> Result<Self> {
        let mut encoded = Self([CUtensorMap { opaque: [0; 16] }; MAPS_MAX]);
        for (slot, map) in encoded.0.iter_mut().zip(maps) {
            *slot = encode(map)?;
        }
        Ok(encoded)
    }

    /// Where the parameter lies.
    pub(super) const fn parameter(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }
}

fn encode(map: &TensorMap) -> Result<CUtensorMap> {
    let (kind, swizzle) = (kind(map)?, swizzle(map)?);
    if map.rank == 0 || map.rank > 5 {
        return refused(map, "a tensor map has 1 to 5 dimensions");
    }
    // Every element of a box, none skipped.
    let steps = [1_u32; 5];
    let mut encoded = MaybeUninit::<CUtensorMap>::uninit();
    // SAFETY: writes one tensor map, reads `rank` numbers (one less of the strides) of arrays that have five; the address is only encoded.
    let code = unsafe {
        sys::cuTensorMapEncodeTiled(
            encoded.as_mut_ptr(),
            kind,
            map.rank,
            ptr::with_exposed_provenance_mut(size(map.address)),
            map.sizes.as_ptr(),
            map.strides.as_ptr(),
            map.box_sizes.as_ptr(),
            steps.as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    check_of("cuTensorMapEncodeTiled", format_args!("{map:?}"), code)?;
    // SAFETY: the call succeeded, so it wrote the whole map.
    Ok(unsafe { encoded.assume_init() })
}

fn kind(map: &TensorMap) -> Result<CUtensorMapDataType> {
    match map.element_bytes {
        2 => Ok(CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16),
        4 => Ok(CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32),
        _ => refused(map, "elements of a tensor map have 2 or 4 bytes"),
    }
}

fn swizzle(map: &TensorMap) -> Result<CUtensorMapSwizzle> {
    match map.swizzle_bytes {
        0 => Ok(CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE),
        32 => Ok(CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B),
        64 => Ok(CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B),
        128 => Ok(CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B),
        _ => refused(map, "a swizzle has 0, 32, 64 or 128 bytes"),
    }
}

fn refused<T>(map: &TensorMap, reason: &'static str) -> Result<T> {
    Err(Error::Range { call: "tensor map", address: Address(map.address), bytes: 0, reason })
}
