//! Kernel images in the driver.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUmodule};
use lighterage_kernels::images::Image;
use lighterage_kernels::launch::Arch;

use super::api::{check_of, give_back};
use super::context::Context;
use crate::Result;

/// Every kernel that there is for a device, loaded at once: a load in the middle of a run would allocate behind the ledger's back, and may wait for
/// the device.
#[derive(Debug)]
pub(super) struct Modules {
    modules: Vec<Module>,
    functions: BTreeMap<&'static str, Function>,
    /// Dropped last.
    context: Arc<Context>,
}

/// A loaded image.
#[derive(Debug)]
struct Module(CUmodule);

// SAFETY: modules may be used from any thread in which their context is current; the pointer is never read here.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A kernel in a loaded image.
#[derive(Debug)]
pub(super) struct Function {
    raw: CUfunction,
    /// Dynamic shared memory that it was allowed so far.
    shared_bytes: AtomicU32,
}

// SAFETY: a kernel may be launched from any thread in which its context is current; the pointer is never read here.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// Dynamic shared memory that every kernel has without asking (CUDA C++ Programming Guide, "Shared Memory").
const SHARED_FREE: u32 = 48 << 10;

impl Modules {
    /// Loads the images that are for `arch`, and every kernel in them: since CUDA 12.2 the driver leaves a kernel's code on the host until it is first launched, unless it is
    /// told (CUDA Programming Guide, "Lazy Loading"; driver API, `cuFuncLoad`), and what the ledger is told of the modules would be less than they take later.
    pub(super) fn load(context: &Arc<Context>, images: &[Image], arch: Arch) -> Result<Self> {
        context.enter()?;
        let mut loaded =
            Self { modules: Vec::new(), functions: BTreeMap::new(), context: Arc::clone(context) };
        for image in images.iter().filter(|image| image.archs.contains(&arch)) {
            loaded.add(image)?;
        }
        Ok(loaded)
    }

    /// The kernel of that name.
    pub(super) fn function(&self, name: &str) -> Option<&Function> {
        self.functions.get(name)
    }

    /// How many kernels.
    pub(super) fn len(&self) -> usize {
        self.functions.len()
    }

    fn add(&mut self, image: &Image) -> Result<()> {
        let mut module: CUmodule = ptr::null_mut();
        // SAFETY: writes one pointer; the image is a whole fatbin, made by nvcc and embedded with the alignment of its headers; it lives forever.
        let code = unsafe { sys::cuModuleLoadData(&raw mut module, image.fatbin().as_ptr().cast()) };
        let bytes = image.fatbin().len();
        check_of("cuModuleLoadData", format_args!("{}, {bytes} bytes", image.source), code)?;
        self.modules.push(Module(module));
        for name in image.kernels {
            let symbol = CString::new(*name).unwrap_or_default();
            let mut raw: CUfunction = ptr::null_mut();
            // SAFETY: writes one pointer; the module is loaded and the name ends in zero.
            let code = unsafe { sys::cuModuleGetFunction(&raw mut raw, module, symbol.as_ptr()) };
            check_of("cuModuleGetFunction", format_args!("{name} of {}", image.source), code)?;
            // SAFETY: the module is loaded, and the function is of it.
            let code = unsafe { sys::cuFuncLoad(raw) };
            check_of("cuFuncLoad", format_args!("{name} of {}", image.source), code)?;
            self.functions.insert(name, Function { raw, shared_bytes: AtomicU32::new(SHARED_FREE) });
        }
        Ok(())
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        if !self.context.enter_to_give_back() {
            return;
        }
        for module in &self.modules {
            // SAFETY: loaded by `add`; streams and graphs own it too, and a stream waits for its work before it goes, so no kernel of it runs. Nobody is left to hear of an error.
            let _ = give_back("cuModuleUnload", || unsafe { sys::cuModuleUnload(module.0) });
        }
    }
}

impl Function {
    /// The driver's pointer, once the kernel may have that much dynamic shared memory.
    pub(super) fn with_shared(&self, bytes: u32) -> Result<CUfunction> {
        // Two threads may both ask for more; the larger number wins, and asking twice is harmless.
        if bytes > self.shared_bytes.load(Ordering::Relaxed) {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let value = i32::try_from(bytes).unwrap_or(i32::MAX);
            // SAFETY: the module lives as long as `self`.
            let code = unsafe { sys::cuFuncSetAttribute(self.raw, attribute, value) };
            check_of("cuFuncSetAttribute", format_args!("{bytes} bytes of dynamic shared memory"), code)?;
            self.shared_bytes.fetch_max(bytes, Ordering::Relaxed);
        }
        Ok(self.raw)
    }
}
