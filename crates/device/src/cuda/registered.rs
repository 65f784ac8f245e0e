//! Host memory that is page-locked where it lies.

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use super::Cuda;
use super::api::{check, give_back, size};
use super::memory::host_pointer;
use crate::ledger::Grant;
use crate::{Address, Device, Purpose, Result};

/// Host memory that somebody else owns, page-locked until this is dropped: copies from it run at the link's rate, without the driver's own buffer in
/// between.
#[derive(Debug)]
pub struct Registered {
    device: Device<Cuda>,
    first: Address,
    _grant: Grant,
}

impl Device<Cuda> {
    /// Page-locks `bytes` bytes of this process's memory, for reading by copies. They are charged to the host ledger first.
    ///
    /// # Errors
    /// [`Error::OutOfBudget`](crate::Error::OutOfBudget) from the host ledger, or a driver error where it is refused: for a file that is mapped read-only
    /// some systems do.
    ///
    /// # Safety
    /// - `first` is valid for `bytes` bytes of reads, and the memory stays mapped until the result is dropped.
    /// - Nobody registers an overlapping range.
    pub unsafe fn register(&self, first: *const u8, bytes: u64) -> Result<Registered> {
        self.take_deferred()?;
        let grant = self.host_ledger().grant(Purpose::Pinned, bytes)?;
        let context = &self.backend().context;
        context.enter()?;
        let reads_only =
            context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED)? != 0;
        let flags =
            sys::CU_MEMHOSTREGISTER_PORTABLE | if reads_only { sys::CU_MEMHOSTREGISTER_READ_ONLY } else { 0 };
        let first = Address(first.expose_provenance() as u64);
        // SAFETY: valid memory that stays mapped, as promised; copies only read it.
        let code = unsafe { sys::cuMemHostRegister_v2(host_pointer(first), size(bytes), flags) };
        check("cuMemHostRegister", code)?;
        Ok(Registered { device: self.clone(), first, _grant: grant })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let outcome = self.device.backend().context.enter().and_then(|()| {
            // SAFETY: registered by `register`; no copy from it is pending by the promise of whoever queued one.
            give_back("cuMemHostUnregister", || unsafe { sys::cuMemHostUnregister(host_pointer(self.first)) })
                .0
        });
        self.device.defer(outcome);
    }
}
