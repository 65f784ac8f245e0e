//! Every way in which wgmma takes its operands, from TMA boxes in every swizzle.

use bytemuck::bytes_of;
use lighterage_kernels::emu::{self, Config, Grid, Region, TensorMap};

use crate::buffer::Buffer;
use crate::planted::{TestParams, address_mut, small_numbers};
use crate::runs;

const SIZE: usize = 64;

#[test]
fn operands_without_swizzle() {
    check(0);
}

#[test]
fn operands_in_rows_of_32_bytes() {
    check(32);
}

#[test]
fn operands_in_rows_of_64_bytes() {
    check(64);
}

#[test]
fn operands_in_rows_of_128_bytes() {
    check(128);
}

/// K-major, transposed, or in registers.
fn check(swizzle_bytes: u32) {
    for x in ['k', 't', 'r'] {
        for y in ['k', 't'] {
            for config in runs::all() {
                run(swizzle_bytes, x, y, config);
            }
        }
    }
}

fn run(swizzle_bytes: u32, x_layout: char, y_layout: char, config: Config) {
    let (x, y) = (small_numbers(SIZE * SIZE, 11), small_numbers(SIZE * SIZE, 13));
    let (mut x_buffer, mut y_buffer) = (laid_out(&x, x_layout), laid_out(&y, y_layout));
    let mut out = vec![f32::NAN; SIZE * SIZE];
    let maps = [map(x_buffer.address(), swizzle_bytes), map(y_buffer.address(), swizzle_bytes)];
    let params = TestParams { x: x_buffer.address(), out: address_mut(&mut out), count: 0, padding: 0 };
    let grid = Grid { blocks: [1, 1, 1], threads: [128, 1, 1], shared_bytes: 2 * 8192 + 8 };
    let regions = [x_buffer.region(), y_buffer.region(), Region::of(&out)];
    let name = format!("test_layouts_{swizzle_bytes}_{x_layout}{y_layout}");
    // SAFETY: every address is that of a buffer that lives until the launch has ended, and the regions name them all.
    unsafe { emu::launch(&name, grid, bytes_of(&params), &maps, &regions, config) }
        .unwrap_or_else(|failure| panic!("{config:?}: {failure}"));
    for (index, got) in out.iter().enumerate() {
        let (row, column) = (index / SIZE, index % SIZE);
        // Whole numbers: the sum is exact.
        let expected: f32 = (0..SIZE).map(|k| x[row * SIZE + k] * y[column * SIZE + k]).sum();
        assert_eq!(*got, expected, "{name} with {config:?}: element {row}, {column}");
    }
}

fn laid_out(values: &[f32], layout: char) -> Buffer {
    let transposed: Vec<f32> =
        (0..SIZE * SIZE).map(|index| values[index % SIZE * SIZE + index / SIZE]).collect();
    Buffer::of(if layout == 't' { &transposed } else { values })
}

fn map(address: u64, swizzle_bytes: u32) -> TensorMap {
    let width = if swizzle_bytes == 0 { 16 } else { swizzle_bytes };
    TensorMap {
        address,
        sizes: [SIZE as u64, SIZE as u64, 0, 0, 0],
        strides: [SIZE as u64 * 2, 0, 0, 0],
        box_sizes: [width / 2, 64, 0, 0, 0],
        rank: 2,
        element_bytes: 2,
        swizzle_bytes,
    }
}
