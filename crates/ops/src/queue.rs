use bytemuck::Pod;
use half::bf16;
use lighterage_allocator::{Buffer, Pool};
use lighterage_device::{Backend, Device, Stream, View};
use lighterage_shape::{DType, Element, Float, Layout};

use crate::{Error, Result};

/// A compute stream and the pool whose memory it orders: what every op takes first.
#[derive(Debug)]
pub struct Queue<B: Backend> {
    pool: Pool<B>,
}

impl<B: Backend> Clone for Queue<B> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone() }
    }
}

impl<B: Backend> Queue<B> {
    /// A queue on the pool's own stream.
    #[must_use]
    pub const fn new(pool: Pool<B>) -> Self {
        Self { pool }
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &Stream<B> {
        self.pool.stream()
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> &Pool<B> {
        &self.pool
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device<B> {
        self.pool.device()
    }

    /// A contiguous tensor with undefined contents; `tag` says what for, in statistics and errors.
    ///
    /// # Errors
    /// [`Error::Allocator`] if there is no memory.
    pub fn tensor(&self, dtype: DType, shape: &[usize], tag: &'static str) -> Result<Tensor<B>> {
        let layout = Layout::contiguous(dtype, shape);
        let buffer = self.pool.allocate((layout.bytes() as u64).max(1), tag)?;
        Ok(Tensor { buffer, layout })
    }

    /// A contiguous tensor with the given values.
    ///
    /// # Errors
    /// [`Error::Allocator`] if there is no memory, [`Error::Device`] if the sizes disagree or the copy fails.
    pub fn upload<T: Element + Pod>(
        &self,
        values: &[T],
        shape: &[usize],
        tag: &'static str,
    ) -> Result<Tensor<B>> {
        let tensor = self.tensor(T::DTYPE, shape, tag)?;
        self.stream().upload(tensor.view(), values)?;
        Ok(tensor)
    }

    /// A contiguous tensor of zeros.
    ///
    /// # Errors
    /// [`Error::Allocator`] if there is no memory, [`Error::Device`] if the fill is refused.
    pub fn zeros(&self, dtype: DType, shape: &[usize], tag: &'static str) -> Result<Tensor<B>> {
        let tensor = self.tensor(dtype, shape, tag)?;
        self.stream().fill(tensor.view(), 0)?;
        Ok(tensor)
    }

    /// A contiguous tensor with the given values in one of the element types that models compute with: f32 as they are, bf16
    /// rounded to nearest even.
    ///
    /// # Errors
    /// As [`upload`](Queue::upload), and [`Error::DType`] for other types.
    pub fn upload_as(
        &self,
        dtype: DType,
        values: &[f32],
        shape: &[usize],
        tag: &'static str,
    ) -> Result<Tensor<B>> {
        match dtype {
            DType::F32 => self.upload(values, shape, tag),
            DType::Bf16 => self.upload(
                &values.iter().map(|value| bf16::from_f32(*value)).collect::<Vec<_>>(),
                shape,
                tag,
            ),
            got => Err(Error::DType { op: "upload_as", tensor: tag, expected: DType::Bf16, got }),
        }
    }

    /// As [`upload_as`](Queue::upload_as), of values that are only made where memory has bytes: on `Sim` nobody looks at them.
    ///
    /// ```
    /// # use lighterage_allocator::{Config, Pool};
    /// # use lighterage_device::{Device, Ledger, Purpose, Sim, SimConfig, StreamKind};
    /// # use lighterage_ops::Queue;
    /// # use lighterage_shape::DType;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let device = Device::new(Sim::new(SimConfig::default())?, Ledger::new(2 << 20), Ledger::new(0));
    /// # let stream = device.stream(StreamKind::Compute)?;
    /// # let queue = Queue::new(Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 30 })?);
    /// let tensor = queue.upload_made(DType::Bf16, &[2, 3], "values", || panic!("nobody asks"))?;
    /// assert_eq!(tensor.shape(), &[2, 3]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`upload_as`](Queue::upload_as).
    pub fn upload_made(
        &self,
        dtype: DType,
        shape: &[usize],
        tag: &'static str,
        make: impl FnOnce() -> Vec<f32>,
    ) -> Result<Tensor<B>> {
        // Zeros that nobody touches cost no memory.
        let count = shape.iter().product();
        match dtype {
            _ if self.device().info().has_bytes => self.upload_as(dtype, &make(), shape, tag),
            DType::Bf16 => self.upload::<bf16>(&bytemuck::zeroed_vec(count), shape, tag),
            _ => self.upload_as(dtype, &bytemuck::zeroed_vec(count), shape, tag),
        }
    }

    /// The values of a contiguous f32 or bf16 tensor as f32, after all earlier work. `None` where memory has no bytes (`Sim`).
    ///
    /// # Errors
    /// As [`read`](Queue::read), and [`Error::DType`] for other types.
    pub fn read_f32(&self, view: View<'_>) -> Result<Option<Vec<f32>>> {
        match view.dtype() {
            DType::F32 => self.read(view),
            DType::Bf16 => {
                let values: Option<Vec<bf16>> = self.read(view)?;
                Ok(values.map(|values| values.into_iter().map(Float::to_f32).collect()))
            }
            got => Err(Error::DType { op: "read_f32", tensor: "view", expected: DType::F32, got }),
        }
    }

    /// The values of a contiguous tensor, after all earlier work. `None` where memory has no bytes (`Sim`).
    ///
    /// # Errors
    /// [`Error::DType`] if the view holds another element type, [`Error::Device`] if earlier work failed or the view is not contiguous.
    pub fn read<T: Element + Pod>(&self, view: View<'_>) -> Result<Option<Vec<T>>> {
        if view.dtype() != T::DTYPE {
            return Err(Error::DType { op: "read", tensor: "view", expected: T::DTYPE, got: view.dtype() });
        }
        Ok(self.stream().read(view)?)
    }
}

/// A contiguous tensor that owns its memory. Dropping it gives the memory back for later work of the same queue; work that was
/// launched on it before still finds it.
#[derive(Debug)]
pub struct Tensor<B: Backend> {
    buffer: Buffer<B>,
    layout: Layout,
}

impl<B: Backend> Tensor<B> {
    /// The whole tensor.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        // SAFETY: the buffer has the layout's bytes, mapped until its pool is gone, and the pool waits for its stream before that;
        // memory of a dropped buffer is only used again by later work of the same stream, which is the owner.
        unsafe { View::new(self.buffer.address(), self.layout, self.buffer.owner()) }
    }

    /// Element type and shape.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Element type.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.layout.dtype()
    }

    /// Extents.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_refused, dry, on_hosts};

    #[test]
    fn zeros_are_zero() {
        let got = on_hosts(|queue| {
            drop(queue.upload(&[f32::NAN; 64], &[64], "leaves its memory behind")?);
            Ok(queue.read_f32(queue.zeros(DType::F32, &[4, 16], "zeros")?.view())?.unwrap())
        });
        assert_eq!(got, [0.0; 64]);
    }

    #[test]
    fn bf16_is_rounded_on_the_way_in_and_exact_on_the_way_out() {
        let got = on_hosts(|queue| {
            let tensor = queue.upload_as(DType::Bf16, &[1.0, 1.001, -3.0], &[3], "values")?;
            Ok(queue.read_f32(tensor.view())?.unwrap())
        });
        assert_eq!(got, [1.0, 1.0, -3.0]);
    }

    #[test]
    fn other_element_types_are_refused() {
        let queue = dry();
        let ids = queue.upload(&[1_i32, 2], &[2], "ids").unwrap();
        assert_refused(queue.read_f32(ids.view()).map(|_| ()), "read_f32: view should be F32, is I32");
        assert_refused(queue.read::<u32>(ids.view()).map(|_| ()), "read: view should be U32, is I32");
        let refused = queue.upload_as(DType::I32, &[1.0], &[1], "ids").map(|_| ());
        assert_refused(refused, "upload_as: ids should be BF16, is I32");
    }

    #[test]
    fn a_device_without_bytes_has_no_values() {
        let queue = dry();
        let tensor = queue.upload(&[1.0_f32, 2.0], &[2], "values").unwrap();
        assert_eq!(queue.read_f32(tensor.view()).unwrap(), None);
    }
}
