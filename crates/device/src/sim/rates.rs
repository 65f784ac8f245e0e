use crate::{Cost, MemoryCosts};

/// How fast a device is: what turns the [`Cost`] of a launch and the bytes of a copy into seconds.
///
/// Rates are what programs reach, not what a data sheet promises: see [`Profile`](crate::Profile).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Floating-point operations per second of matrix products and convolutions in bf16.
    pub product_flops: f64,
    /// Of attention in bf16.
    pub attention_flops: f64,
    /// Of everything else, and of every kernel in f32.
    pub vector_flops: f64,
    /// Bytes per second between kernels and device memory.
    pub memory_bytes: f64,
    /// Bytes per second from page-locked host memory to the device, and as many the other way at the same time.
    pub link_bytes: f64,
    /// The same from other host memory, which the driver copies through a buffer of its own.
    pub pageable_bytes: f64,
    /// Bytes of host memory that are page-locked in a second.
    pub lock_bytes: f64,
    /// Bytes per second that the host brings from files that it has read before, or is reading, into page-locked memory.
    pub read_bytes: f64,
    /// Seconds between one kernel and the next on a stream, whatever they do.
    pub launch_seconds: f64,
    /// Seconds that a copy takes before its first byte.
    pub copy_seconds: f64,
    /// Seconds of the host that a call takes which queues something.
    pub call_seconds: f64,
    /// By how much of itself a kernel is slower while a copy over the link runs beside it, for both use the same memory: 0, not at all.
    pub slowdown: f64,
    /// What calls on memory take the host.
    pub memory_calls: MemoryCosts,
}

impl Rates {
    /// Seconds of a kernel by itself: the longer of its arithmetic and its memory traffic, and the launch.
    ///
    /// ```
    /// use lighterage_device::{Cost, Profile};
    /// let rates = Profile::named("h100").unwrap().rates;
    /// let product = Cost { flops: 7e12, bytes: 1e8 };
    /// assert!((rates.kernel_seconds("linear_bf16", product) - 1e-2 * 7e14 / rates.product_flops).abs() < 1e-5);
    /// ```
    #[must_use]
    pub fn kernel_seconds(&self, name: &str, cost: Cost) -> f64 {
        let arithmetic = cost.flops / self.flops_of(name);
        arithmetic.max(cost.bytes / self.memory_bytes) + self.launch_seconds
    }

    /// Seconds of a copy from host memory with the link for itself.
    #[must_use]
    pub fn copy_seconds(&self, bytes: u64, is_pinned: bool) -> f64 {
        let rate = if is_pinned { self.link_bytes } else { self.pageable_bytes };
        as_f64(bytes) / rate + self.copy_seconds
    }

    /// Seconds of a copy or fill within device memory that moves so many bytes, reads and writes counted.
    #[must_use]
    pub fn move_seconds(&self, bytes: u64) -> f64 {
        as_f64(bytes) / self.memory_bytes + self.launch_seconds
    }

    /// Tensor cores run what has an image for them: bf16 products and attention.
    fn flops_of(&self, name: &str) -> f64 {
        match name {
            "linear_bf16" | "linear_cublaslt" | "linear_sums_bf16" | "conv2d_bf16" => self.product_flops,
            "attention_bf16" => self.attention_flops,
            _ => self.vector_flops,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of one copy are far below 2^52")]
pub(crate) const fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}
