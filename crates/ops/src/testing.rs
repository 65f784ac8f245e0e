//! What the tests of ops share: queues, tensors between guards, and the comparison with an exact value.
use std::sync::LazyLock;

use lighterage_allocator::{Config, Pool};
use lighterage_device::{
    Backend, Device, Host, HostConfig, Isa, Ledger, Purpose, Sim, SimConfig, StreamKind, View,
};
use lighterage_shape::DType;
use lighterage_testkit::Rng;

use crate::{Queue, Result, Tensor};

/// The element types that models compute with.
pub(crate) const DTYPES: [DType; 2] = [DType::F32, DType::Bf16];

/// Lengths around the sizes of vectors, lanes and warps, and a row of FLUX.
pub(crate) const COLUMNS: [usize; 8] = [1, 15, 16, 17, 127, 128, 129, 3072];

/// What is around every tensor: a value that both element types hold and no op computes.
const GUARD: f32 = -12_320_768.0;

/// Hosts of 1, 2, 3 and 5 threads, the odd ones on the portable path.
static QUEUES: LazyLock<Vec<Queue<Host>>> = LazyLock::new(|| {
    let host = |threads: usize| {
        let isa = (threads % 2 == 1).then_some(Isa::Portable);
        queue(Host::new(HostConfig { threads, isa, ..HostConfig::default() }).unwrap())
    };
    [1, 2, 3, 5].into_iter().map(host).collect()
});

/// A queue on a device with a gibibyte.
pub(crate) fn queue<B: Backend>(backend: B) -> Queue<B> {
    let device = Device::new(backend, Ledger::new(1 << 30), Ledger::new(1 << 20));
    let stream = device.stream(StreamKind::Compute).unwrap();
    Queue::new(Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 30 }).unwrap())
}

/// A queue without bytes behind it, for what is refused before any launch.
pub(crate) fn dry() -> Queue<Sim> {
    queue(Sim::new(SimConfig::default()).unwrap())
}

/// Runs `of` on hosts of several thread counts and instruction sets, fails unless all give the same bits, and returns them.
pub(crate) fn on_hosts(of: impl Fn(&Queue<Host>) -> Result<Vec<f32>>) -> Vec<f32> {
    let mut results = QUEUES.iter().map(|queue| of(queue).unwrap());
    let first = results.next().unwrap();
    for (index, other) in results.enumerate() {
        let same =
            first.len() == other.len() && first.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "host {} differs from host 0", index + 1);
    }
    first
}

/// Runs `of` on hosts of 1 and 3 threads on the machine's own path, for the products, whose bits depend on it; fails unless both give the same bits.
pub(crate) fn on_threads(of: impl Fn(&Queue<Host>) -> Result<Vec<f32>>) -> Vec<f32> {
    let run =
        |threads| of(&queue(Host::new(HostConfig { threads, ..HostConfig::default() }).unwrap())).unwrap();
    let (first, other) = (run(1), run(3));
    assert!(
        first.iter().map(|a| a.to_bits()).eq(other.iter().map(|b| b.to_bits())),
        "3 threads differ from 1"
    );
    first
}

/// Rows in the middle of a wider and taller tensor, so that their strides have gaps, their starts are odd and every stray write is seen.
#[derive(Debug)]
pub(crate) struct Board<B: Backend> {
    tensor: Tensor<B>,
    rows: usize,
    columns: usize,
    left: usize,
}

impl<B: Backend> Board<B> {
    /// The values as `rows` rows; with a gap, one element left and two right of each row are guards, else only whole rows are.
    pub(crate) fn new(
        queue: &Queue<B>,
        dtype: DType,
        [rows, columns]: [usize; 2],
        values: &[f32],
        gap: bool,
    ) -> Result<Self> {
        assert_eq!(values.len(), rows * columns, "values of {rows} rows of {columns}");
        let (left, right) = if gap { (1, 2) } else { (0, 0) };
        let pitch = left + columns + right;
        let mut all = vec![GUARD; (rows + 2) * pitch];
        for (row, values) in values.chunks(columns.max(1)).enumerate() {
            all[(row + 1) * pitch + left..][..columns].copy_from_slice(values);
        }
        let tensor = queue.upload_as(dtype, &all, &[rows + 2, pitch], "board")?;
        Ok(Self { tensor, rows, columns, left })
    }

    /// NaN everywhere: an output that is not wholly written shows it.
    pub(crate) fn poisoned(
        queue: &Queue<B>,
        dtype: DType,
        [rows, columns]: [usize; 2],
        gap: bool,
    ) -> Result<Self> {
        Self::new(queue, dtype, [rows, columns], &vec![f32::NAN; rows * columns], gap)
    }

    /// The rows.
    pub(crate) fn view(&self) -> View<'_> {
        self.tensor.view().rows(1, self.rows).unwrap().narrow(1, self.left, self.columns).unwrap()
    }

    /// The rows of a board without gaps, under another shape.
    pub(crate) fn shaped(&self, shape: &[usize]) -> View<'_> {
        self.view().reshape(shape).unwrap()
    }

    /// The values; fails if an element around them was written.
    pub(crate) fn read(&self, queue: &Queue<B>) -> Result<Vec<f32>> {
        let all = queue.read_f32(self.tensor.view())?.unwrap();
        let pitch = self.tensor.shape()[1];
        let mut values = Vec::new();
        for (index, value) in all.into_iter().enumerate() {
            let (row, column) = (index / pitch, index % pitch);
            let inside =
                (1..=self.rows).contains(&row) && (self.left..self.left + self.columns).contains(&column);
            if inside {
                values.push(value);
            } else {
                assert_eq!(
                    value, GUARD,
                    "row {row}, column {column} lies outside of the tensor and was written"
                );
            }
        }
        Ok(values)
    }
}

/// Normal values about `mean`, as the element type holds them.
pub(crate) fn normals(rng: &mut Rng, dtype: DType, count: usize, mean: f32) -> Vec<f32> {
    rng.normals(count, 1.0).into_iter().map(|value| held(dtype, value + mean)).collect()
}

/// The value as the element type holds it.
pub(crate) fn held(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F32 => value,
        _ => half::bf16::from_f32(value).to_f32(),
    }
}

/// Half a unit in the last place, relative: what one rounding to the element type costs at most.
pub(crate) fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2.0_f64.powi(-24),
        _ => 2.0_f64.powi(-8),
    }
}

/// Fails unless every value is within `f32_error` of the exact one before it was rounded to the element type.
pub(crate) fn assert_near(
    what: &str,
    dtype: DType,
    got: &[f32],
    exact: &[f64],
    f32_error: impl Fn(usize) -> f64,
) {
    assert_eq!(got.len(), exact.len(), "{what}: lengths differ");
    for (index, (got, exact)) in got.iter().zip(exact).enumerate() {
        let bound = f32_error(index)
            + rounding(dtype) * (exact.abs() + f32_error(index))
            + f64::from(f32::MIN_POSITIVE);
        let error = (f64::from(*got) - exact).abs();
        assert!(
            error <= bound,
            "{what} {dtype}: element {index} is {got}, exactly {exact}; error {error:e}, bound {bound:e}"
        );
    }
}

/// Fails unless the op was refused with this message.
pub(crate) fn assert_refused(result: Result<()>, message: &str) {
    match result {
        Ok(()) => panic!("should be refused: {message}"),
        Err(error) => assert_eq!(error.to_string(), message),
    }
}
