//! Whether a device does what it says.

use lighterage_kernels::base::self_test::{self, SelfTestParams};
use lighterage_shape::{DType, Layout};

use super::Cuda;
use crate::{
    Backend, Cost, Device, Error, Kernel, Launches, Ledger, Purpose, Result, StreamKind, Target, View,
    Workers,
};

/// `target[i] = source[i] + 1`, four floats. On the host it does nothing: the question is whether a GPU runs its image.
struct AddOne;

impl Kernel for AddOne {
    type Params = SelfTestParams;
    const NAME: &'static str = "self_test_add_one";

    unsafe fn host(_: &SelfTestParams, _: &Workers) {}

    fn cost(_: &SelfTestParams) -> Cost {
        Cost { flops: 4.0, bytes: 32.0 }
    }

    fn launches(params: &SelfTestParams, target: Target) -> Launches {
        self_test::launches(params, target)
    }
}

/// Takes memory of every kind, copies there and back, and runs one kernel in between.
///
/// # Errors
/// The first call that fails; [`Error::Stream`] if all succeed and the numbers are wrong.
pub fn self_test(cuda: Cuda) -> Result<()> {
    let page = cuda.info().page_bytes;
    let device = Device::new(cuda, Ledger::new(page), Ledger::new(page));
    let range = device.reserve(page)?;
    range.map(0, &device.create(Purpose::Activations, page)?)?;
    range.set_access(0, page)?;
    drop(device.pin(page)?);
    let stream = device.stream(StreamKind::Compute)?;
    // SAFETY: a page is mapped there until `range` is dropped, after the read has waited; this stream alone uses it.
    let view = unsafe { View::new(range.address(), Layout::contiguous(DType::F32, &[4]), stream.id()) };
    stream.upload(view, &[1_f32, 2.0, 3.0, 4.0])?;
    let at = range.address().0;
    // SAFETY: four floats are mapped there.
    unsafe { stream.launch::<AddOne>(&SelfTestParams { target: at, source: at }) }?;
    let got = stream.read::<f32>(view)?;
    if got == Some(vec![2.0, 3.0, 4.0, 5.0]) {
        return Ok(());
    }
    Err(Error::Stream(format!("a test kernel made {got:?} of [1, 2, 3, 4], 2 to 5 expected")))
}
