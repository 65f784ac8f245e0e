//! The compiled kernels, embedded: empty without feature `cuda`.
//!
//! One fatbin for each source file: the driver takes from it the architecture that it has. `build.rs` makes them (`kernels/build/`).

use crate::launch::Arch;

/// The kernels of one source file, for some architectures.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// The file: `kernels/norm/rms_norm.cu`.
    pub source: &'static str,
    fatbin: Fatbin,
    /// Its kernels, by name.
    pub kernels: &'static [&'static str],
    /// The architectures that it was compiled for, the oldest first.
    pub archs: &'static [Arch],
}

/// Where the bytes are.
#[derive(Clone, Copy, Debug)]
enum Fatbin {
    /// In this crate's own.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there is none without the feature"))]
    Embedded { start: usize, bytes: usize },
    /// Somebody else's.
    Given(&'static [u8]),
}

impl Image {
    /// An image that does not come from this crate: for who compiles kernels otherwise, and for tests.
    #[must_use]
    pub const fn new(
        source: &'static str,
        fatbin: &'static [u8],
        kernels: &'static [&'static str],
        archs: &'static [Arch],
    ) -> Self {
        Self { source, fatbin: Fatbin::Given(fatbin), kernels, archs }
    }

    /// The bytes that `cuModuleLoadData` takes.
    #[must_use]
    pub fn fatbin(&self) -> &'static [u8] {
        match self.fatbin {
            Fatbin::Embedded { start, bytes } => &embedded()[start..start + bytes],
            Fatbin::Given(bytes) => bytes,
        }
    }
}

/// Every image that was built in, by source file.
///
/// ```
/// use lighterage_kernels::images;
/// for image in images::ALL {
///     println!("{}: {} kernels, {} bytes", image.source, image.kernels.len(), image.fatbin().len());
/// }
/// assert_eq!(images::ALL.is_empty(), !cfg!(feature = "cuda"));
/// ```
#[cfg(feature = "cuda")]
pub const ALL: &[Image] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Every image that was built in: none without feature `cuda`.
#[cfg(not(feature = "cuda"))]
pub const ALL: &[Image] = &[];

#[cfg(feature = "cuda")]
fn embedded() -> &'static [u8] {
    /// The driver reads headers of eight-byte numbers in place.
    #[repr(C, align(64))]
    struct Aligned<T: ?Sized>(T);
    static BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/images.fatbin")));
    &BYTES.0
}

#[cfg(not(feature = "cuda"))]
const fn embedded() -> &'static [u8] {
    &[]
}
