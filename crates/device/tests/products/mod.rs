//! A small linear, whoever multiplies it.

use std::fmt::Write as _;

use lighterage_device::{
    Address, Backend, Cost, Cuda, Device, Kernel, Launches, ProductTable, Reservation, Result, Stream,
    StreamKind, Target, View, Workers,
};
use lighterage_kernels::gemm::linear;
use lighterage_kernels::gemm::table::Algorithm;
use lighterage_kernels::launch::Product;
use lighterage_kernels::params::LinearParams;
use lighterage_shape::{DType, Layout};

use crate::{PAGE, memory};

/// The kernel of ours that takes it where the library does not.
pub(crate) const OWN: &str = "linear_sm80_rows16_bf16";

const SIZES: [u32; 3] = [8, 16, 32];
const ROWS: usize = SIZES[0] as usize;
const COLUMNS: usize = SIZES[1] as usize;
const INNER: usize = SIZES[2] as usize;
/// Elements from the start of the memory; rows of out are further apart than they are long.
const WEIGHT: usize = ROWS * INNER;
const BIAS: usize = WEIGHT + COLUMNS * INNER;
const OUT: usize = BIAS + COLUMNS;
const OUT_STRIDE: usize = COLUMNS + 8;
const ELEMENTS: usize = OUT + ROWS * OUT_STRIDE;

/// A table that gives it to the stand-in's cuBLASLt, by one of its three algorithms.
pub(crate) fn table(algorithm: u64) -> ProductTable {
    table_with(algorithm, 8 << 20)
}

pub(crate) fn table_with(index: u64, workspace_bytes: u64) -> ProductTable {
    table_of(index, workspace_bytes, &[format!("{ROWS} {COLUMNS} {INNER} bias")])
}

/// Lines of rows, columns, inner size and what comes after the sums.
pub(crate) fn table_of<L: std::fmt::Display>(index: u64, workspace_bytes: u64, lines: &[L]) -> ProductTable {
    let algorithm = Algorithm([u64::from_be_bytes(*b"stand-in"), index, 0, 0, 0, 0, 0, !index]);
    let mut text = format!("lighterage-gemm-table 1\ncublaslt 130100 {workspace_bytes}\n");
    for line in lines {
        writeln!(text, "90a {line} cublaslt {algorithm}").unwrap();
    }
    ProductTable::parse(&text).unwrap()
}

/// What a launch is said to cost.
pub(crate) const COST: Cost = Cost { flops: 8192.0, bytes: 1760.0 };

/// As `ops` has it.
pub(crate) struct Linear;

impl Kernel for Linear {
    type Params = LinearParams;
    const NAME: &'static str = "linear_bf16";

    unsafe fn host(_: &LinearParams, _: &Workers) {}

    fn cost(_: &LinearParams) -> Cost {
        COST
    }

    fn launches(params: &LinearParams, target: Target) -> Launches {
        linear::launches(params, target)
    }
}

/// `out = x weight^T + bias` in one piece of memory.
pub(crate) struct Dense(LinearParams);

impl Dense {
    pub(crate) fn at(address: Address) -> Self {
        let place = |elements: usize| address.offset(elements as u64 * 2).0;
        Self(LinearParams {
            x: place(0),
            weight: place(WEIGHT),
            bias: place(BIAS),
            out: place(OUT),
            x_stride: INNER as u64,
            weight_stride: INNER as u64,
            out_stride: OUT_STRIDE as u64,
            rows: SIZES[0],
            columns: SIZES[1],
            inner: SIZES[2],
            ..LinearParams::default()
        })
    }

    /// All of its memory.
    pub(crate) fn operands<'a>(range: &Reservation<Cuda>, stream: &Stream<Cuda>) -> View<'a> {
        let layout = Layout::contiguous(DType::Bf16, &[ELEMENTS]);
        // SAFETY: the tests map what they view and wait for their streams before they unmap it.
        unsafe { View::new(range.address(), layout, stream.id()) }
    }

    pub(crate) fn multiply(&self, stream: &Stream<Cuda>) -> Result<()> {
        // SAFETY: every caller has mapped a page there, which is more than it reaches.
        unsafe { stream.launch::<Linear>(&self.0) }
    }

    /// As [`multiply`](Self::multiply), below what keeps a book of streams and memory.
    pub(crate) fn multiply_on(&self, cuda: &Cuda, stream: &<Cuda as Backend>::Stream) -> Result<()> {
        // SAFETY: every caller has mapped a page there, which is more than it reaches.
        unsafe { cuda.launch::<Linear>(stream, &self.0) }
    }

    /// As a table's line sees it.
    pub(crate) fn product(&self) -> Product {
        let plan = linear::Plan::CublasLt(Algorithm([0; 8]));
        *linear::launches_by(plan, &self.0, Target::typical(lighterage_kernels::launch::Arch::Sm90a))
            .product()
            .unwrap()
    }
}

pub(crate) struct Run<'a> {
    pub(crate) stream: &'a Stream<Cuda>,
    pub(crate) product: &'a Dense,
}

/// Multiplies, and once more by `more`, and holds the result against f64; its bits. Sums of 32 in f32, one rounding to bf16: 2^-8 of the sum of what was added.
pub(crate) fn check(device: &Device<Cuda>, more: impl FnOnce(&Run<'_>)) -> Vec<u16> {
    let range = memory(device, 1).unwrap();
    assert!(ELEMENTS as u64 * 2 <= PAGE);
    let stream = device.stream(StreamKind::Compute).unwrap();
    let values: Vec<u16> =
        (0..ELEMENTS).map(|index| bf16(((index * 7919) % 251) as f32 / 125.0 - 1.0)).collect();
    let (all, product) = (Dense::operands(&range, &stream), Dense::at(range.address()));
    stream.upload(all, &values).unwrap();
    product.multiply(&stream).unwrap();
    more(&Run { stream: &stream, product: &product });
    let after = stream.read::<u16>(all).unwrap().unwrap();
    assert_eq!(after[..OUT], values[..OUT], "operands");
    let value = |index: usize| f64::from(f32::from_bits(u32::from(values[index]) << 16));
    for row in 0..ROWS {
        for column in 0..OUT_STRIDE {
            let place = OUT + row * OUT_STRIDE + column;
            if column >= COLUMNS {
                assert_eq!(after[place], values[place], "between the rows");
                continue;
            }
            let terms = (0..INNER).map(|k| value(row * INNER + k) * value(WEIGHT + column * INNER + k));
            let terms: Vec<f64> = terms.chain([value(BIAS + column)]).collect();
            let got = f64::from(f32::from_bits(u32::from(after[place]) << 16));
            let size: f64 = terms.iter().map(|term| term.abs()).sum();
            let error = (got - terms.iter().sum::<f64>()).abs();
            assert!(error <= size / 256.0, "[{row}, {column}]: {got}, {error} off");
        }
    }
    after[OUT..].to_vec()
}

fn bf16(value: f32) -> u16 {
    (value.to_bits() >> 16) as u16
}
