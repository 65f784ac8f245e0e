//! The context of a device: what every other call needs to be current on its thread.

use std::ffi::c_int;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute};

use super::api::{self, check, check_of, give_back};
use super::flags::Words;
use crate::Result;

/// The primary context of one device, retained. Whoever holds something of the device holds this too.
#[derive(Debug)]
pub(super) struct Context {
    device: CUdevice,
    raw: Raw,
    /// Flags that work may wait for, so that a host that waits for work has to look at them.
    watched: Mutex<Vec<Weak<Words>>>,
}

/// The driver's pointer.
#[derive(Debug)]
struct Raw(CUcontext);

// SAFETY: a context may be current on any number of threads (driver API, "Context Management"); the pointer is never read here.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Context {
    /// The device with this number, as the driver counts; the driver has been started.
    pub(super) fn open(ordinal: u32) -> Result<Self> {
        let mut count: c_int = 0;
        // SAFETY: writes one int.
        check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
        let ordinal = match c_int::try_from(ordinal) {
            Ok(number) if number < count => number,
            _ => return api::no_device(format!("there is no device {ordinal}, the driver has {count}")),
        };
        let mut device: CUdevice = 0;
        // SAFETY: writes one device; the ordinal is below the count.
        let code = unsafe { sys::cuDeviceGet(&raw mut device, ordinal) };
        check_of("cuDeviceGet", format_args!("device {ordinal} of {count}"), code)?;
        let mut raw: CUcontext = ptr::null_mut();
        // SAFETY: writes one pointer; the device is the driver's.
        let code = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut raw, device) };
        check_of("cuDevicePrimaryCtxRetain", format_args!("device {ordinal} of {count}"), code)?;
        Ok(Self { device, raw: Raw(raw), watched: Mutex::default() })
    }

    /// Makes the context current on this thread, which the next call needs.
    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: retained by `open`, until the drop.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.raw.0) })
    }

    /// As [`enter`](Self::enter), for whoever waits or ends something and has to do so all the same: asked a second time where the first was refused. What was said
    /// first, and whether the context is current now.
    pub(super) fn enter_again(&self) -> (Result<()>, bool) {
        // SAFETY: retained by `open`, until the drop.
        give_back("cuCtxSetCurrent", || unsafe { sys::cuCtxSetCurrent(self.raw.0) })
    }

    /// As [`enter_again`](Self::enter_again), where nothing can be done unless it is current: what was said first, to be reported if nothing else is.
    pub(super) fn enter_all_the_same(&self) -> Result<Result<()>> {
        match self.enter_again() {
            (Err(error), false) => Err(error),
            (first, _) => Ok(first),
        }
    }

    /// As [`enter_again`](Self::enter_again), for whoever gives something back: nobody is left to hear of an error.
    pub(super) fn enter_to_give_back(&self) -> bool {
        self.enter_again().1
    }

    /// From now on whoever waits looks at these flags.
    pub(super) fn watch(&self, words: &Arc<Words>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|words| words.strong_count() > 0);
        watched.push(Arc::downgrade(words));
    }

    /// The flags that there are.
    pub(super) fn watched(&self) -> Vec<Arc<Words>> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.iter().filter_map(Weak::upgrade).collect()
    }

    /// The device.
    pub(super) const fn device(&self) -> CUdevice {
        self.device
    }

    /// A fact about the device, never negative.
    pub(super) fn attribute(&self, attribute: CUdevice_attribute) -> Result<u32> {
        api::attribute(self.device, attribute)
    }

    /// Bytes free and bytes in all, as the driver sees the whole device now.
    pub(super) fn memory(&self) -> Result<(u64, u64)> {
        self.enter()?;
        let (mut free, mut total) = (0_usize, 0_usize);
        // SAFETY: writes two numbers; a context is current.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
        Ok((free as u64, total as u64))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once by `open`; everything that needs it owns it and is gone. Nobody is left to hear of an error.
        let _ = give_back("cuDevicePrimaryCtxRelease", || unsafe {
            sys::cuDevicePrimaryCtxRelease_v2(self.device)
        });
    }
}
