//! What there is of CUDA on this machine: looks, and makes no context.

use std::ffi::c_int;
use std::fmt;
use std::panic::catch_unwind;

use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute as Attribute};

use super::api::{attribute, check, check_of, init, name, version};
use crate::{Error, Result};

/// What [`probe`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CudaStatus {
    /// libcuda, which comes with NVIDIA's driver, is not on this machine.
    NoDriver,
    /// The driver is there and refuses.
    Failed {
        /// What it says.
        reason: String,
    },
    /// The driver answers.
    Ready {
        /// The newest CUDA version that it can run, major and minor.
        version: (u32, u32),
        /// The devices, by ordinal; there may be none.
        devices: Vec<CudaDevice>,
    },
}

impl CudaStatus {
    /// The devices, by ordinal; none where there is no driver, or one that refuses.
    #[must_use]
    pub fn devices(&self) -> &[CudaDevice] {
        if let Self::Ready { devices, .. } = self { devices } else { &[] }
    }
}

/// One device as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaDevice {
    /// Its name.
    pub name: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// Its compute capability, major and minor.
    pub capability: (u32, u32),
    /// Whether it has virtual memory management: reserve, create, map, set access.
    pub has_virtual_memory: bool,
}

/// Looks for the driver and its devices. It never panics, and makes no context.
///
/// ```
/// println!("{}", lighterage_device::cuda::probe());
/// ```
#[must_use]
pub fn probe() -> CudaStatus {
    // cudarc panics where the library, or a function in it, is missing. The first is asked before; the second means a driver older than the
    // calls below, none of which is younger than CUDA 10.2.
    // SAFETY: loads libcuda by its usual names and unloads it: as safe as the driver's own start-up code.
    if !unsafe { sys::is_culib_present() } {
        return CudaStatus::NoDriver;
    }
    let failed = |reason: String| CudaStatus::Failed { reason };
    match catch_unwind(ask) {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => failed(error.to_string()),
        Err(_) => failed("the driver lacks a function of CUDA 10.2".to_owned()),
    }
}

fn ask() -> Result<CudaStatus> {
    match init() {
        Err(Error::NoDevice { .. }) => {
            return Ok(CudaStatus::Ready { version: version()?, devices: Vec::new() });
        }
        started => started?,
    }
    let mut count: c_int = 0;
    // SAFETY: writes one int.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
    let devices = (0..count).map(device).collect::<Result<_>>()?;
    Ok(CudaStatus::Ready { version: version()?, devices })
}

fn device(ordinal: c_int) -> Result<CudaDevice> {
    let mut device: CUdevice = 0;
    // SAFETY: writes one device; the ordinal is below the count.
    let code = unsafe { sys::cuDeviceGet(&raw mut device, ordinal) };
    check_of("cuDeviceGet", format_args!("device {ordinal}"), code)?;
    let mut bytes = 0_usize;
    // SAFETY: writes one number; the device is the driver's.
    let code = unsafe { sys::cuDeviceTotalMem_v2(&raw mut bytes, device) };
    check_of("cuDeviceTotalMem", format_args!("device {ordinal}"), code)?;
    let attribute = |wanted| attribute(device, wanted);
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let virtual_memory = attribute(Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)?;
    Ok(CudaDevice {
        name: name(device)?,
        memory_bytes: bytes as u64,
        capability: (major, minor),
        has_virtual_memory: virtual_memory != 0,
    })
}

impl fmt::Display for CudaStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver => f.write_str("no CUDA driver: libcuda was not found"),
            Self::Failed { reason } => write!(f, "CUDA driver failed: {reason}"),
            Self::Ready { version: (major, minor), devices } => {
                write!(f, "CUDA {major}.{minor}, {} devices", devices.len())?;
                devices
                    .iter()
                    .enumerate()
                    .try_for_each(|(ordinal, device)| write!(f, "; {ordinal}: {device}"))
            }
        }
    }
}

impl fmt::Display for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, memory_bytes, capability: (major, minor), has_virtual_memory } = self;
        let virtual_memory = if *has_virtual_memory { "with" } else { "without" };
        write!(
            f,
            "{name}, {memory_bytes} bytes, compute {major}.{minor}, {virtual_memory} virtual memory management"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_answers_alike_twice() {
        let status = probe();
        println!("{status}");
        assert_eq!(status, probe());
    }

    #[test]
    fn status_names_version_and_devices() {
        let device = CudaDevice {
            name: "NVIDIA H100".to_owned(),
            memory_bytes: 80 << 30,
            capability: (9, 0),
            has_virtual_memory: true,
        };
        assert_eq!(
            CudaStatus::Ready { version: (13, 0), devices: vec![device] }.to_string(),
            "CUDA 13.0, 1 devices; 0: NVIDIA H100, 85899345920 bytes, compute 9.0, with virtual memory management"
        );
        assert_eq!(CudaStatus::NoDriver.to_string(), "no CUDA driver: libcuda was not found");
    }
}
