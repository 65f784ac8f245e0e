//! Numbers and structs of the driver API's C interface (cuda.h of CUDA 13.0), as far as they are used here.

/// What a call answers.
pub(crate) type Code = u32;

pub(crate) const SUCCESS: Code = 0;
pub(crate) const INVALID_VALUE: Code = 1;
pub(crate) const OUT_OF_MEMORY: Code = 2;
pub(crate) const NOT_INITIALIZED: Code = 3;
pub(crate) const NO_DEVICE: Code = 100;
pub(crate) const INVALID_DEVICE: Code = 101;
pub(crate) const INVALID_CLUSTER_SIZE: Code = 912;
pub(crate) const INVALID_IMAGE: Code = 200;
pub(crate) const INVALID_CONTEXT: Code = 201;
pub(crate) const OPERATING_SYSTEM: Code = 304;
pub(crate) const INVALID_HANDLE: Code = 400;
pub(crate) const NOT_FOUND: Code = 500;
pub(crate) const NOT_READY: Code = 600;
pub(crate) const ILLEGAL_ADDRESS: Code = 700;
pub(crate) const LAUNCH_TIMEOUT: Code = 702;
pub(crate) const MISALIGNED_ADDRESS: Code = 716;
pub(crate) const LAUNCH_FAILED: Code = 719;
pub(crate) const NOT_SUPPORTED: Code = 801;
pub(crate) const STREAM_CAPTURE_UNSUPPORTED: Code = 900;
pub(crate) const STREAM_CAPTURE_INVALIDATED: Code = 901;
pub(crate) const STREAM_CAPTURE_ISOLATION: Code = 905;
pub(crate) const UNKNOWN: Code = 999;

/// `CUdevice_attribute`.
pub(crate) const ATTRIBUTE_MULTIPROCESSORS: u32 = 16;
pub(crate) const ATTRIBUTE_CAPABILITY_MAJOR: u32 = 75;
pub(crate) const ATTRIBUTE_CAPABILITY_MINOR: u32 = 76;
pub(crate) const ATTRIBUTE_REGISTER: u32 = 99;
pub(crate) const ATTRIBUTE_VIRTUAL_MEMORY: u32 = 102;
pub(crate) const ATTRIBUTE_READ_ONLY_REGISTER: u32 = 113;

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub(crate) const FUNCTION_SHARED_MAX: u32 = 8;

/// `CU_STREAM_NON_BLOCKING`, the only kind of stream that is made here.
pub(crate) const STREAM_NON_BLOCKING: u32 = 1;

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Location {
    /// 1: a device.
    pub(crate) kind: u32,
    pub(crate) id: i32,
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct AllocationProperties {
    /// 1: pinned.
    pub(crate) kind: u32,
    /// 0: shown to no other process.
    pub(crate) handle_kinds: u32,
    pub(crate) location: Location,
    pub(crate) win32_metadata: usize,
    pub(crate) compression: u8,
    pub(crate) rdma: u8,
    pub(crate) usage: u16,
    pub(crate) reserved: [u8; 4],
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessDescription {
    pub(crate) location: Location,
    /// 3: read and write.
    pub(crate) flags: u32,
}

/// `CUlaunchAttribute`, with the values that are one number.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaunchAttribute {
    pub(crate) id: u32,
    pub(crate) padding: [u8; 4],
    pub(crate) value: i32,
    pub(crate) rest: [u8; 60],
}

/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`.
pub(crate) const LAUNCH_OVERLAPS: u32 = 6;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaunchConfig {
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) stream: *mut std::ffi::c_void,
    pub(crate) attributes: *const LaunchAttribute,
    pub(crate) attribute_count: u32,
}

/// `CUstreamBatchMemOpParams`: of a wait or a write, which have the same fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryOperation {
    /// One of the two below.
    pub(crate) kind: u32,
    pub(crate) padding: u32,
    pub(crate) address: u64,
    /// The low 32 bits, for those kinds.
    pub(crate) value: u64,
    pub(crate) flags: u32,
    pub(crate) more_padding: u32,
    pub(crate) alias: u64,
    pub(crate) rest: u64,
}

/// `CU_STREAM_MEM_OP_WAIT_VALUE_32`, with `CU_STREAM_WAIT_VALUE_EQ`.
pub(crate) const WAIT_VALUE: u32 = 1;
pub(crate) const WAIT_VALUE_EQUAL: u32 = 1;
/// `CU_STREAM_MEM_OP_WRITE_VALUE_32`, with a barrier before it.
pub(crate) const WRITE_VALUE: u32 = 2;
pub(crate) const WRITE_VALUE_BEHIND_ALL: u32 = 0;
/// A batch has fewer operations than this.
pub(crate) const MEMORY_OPERATIONS_END: u32 = 256;

/// `CUtensorMap`: opaque to its users.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorMap(pub(crate) [u8; 128]);
