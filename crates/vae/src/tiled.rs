use half::bf16;
use lighterage_device::{Backend, View};
use lighterage_ops::{Queue, Tensor};
use lighterage_shape::DType;

use crate::run::Run;
use crate::{Axis, Result, Tiling};

/// What one latent position stands for, on both sides of a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Input positions along one side.
    pub(crate) input: usize,
    /// Output positions along one side.
    pub(crate) output: usize,
    /// Channels of the output.
    pub(crate) channels: usize,
}

/// Runs `pass` on the image, or on each of its tiles, whose results are blended on the host, in a fixed order.
pub(crate) fn in_tiles<B: Backend>(
    image: View<'_>,
    scale: Scale,
    tiling: Option<Tiling>,
    run: &Run<'_, B>,
    pass: impl Fn(View<'_>) -> Result<Tensor<B>>,
) -> Result<Tensor<B>> {
    let extents = [image.shape()[0], image.shape()[1]].map(|side| side / scale.input);
    let axes = extents.map(|extent| tiling.map_or(Axis::whole(extent), |tiling| tiling.axis(extent)));
    if axes.iter().all(|axis| axis.count() == 1) {
        return pass(image);
    }
    let [rows, columns] = axes;
    let mut picture = Picture::new(extents.map(|extent| extent * scale.output), scale.channels);
    for row in 0..rows.count() {
        for column in 0..columns.count() {
            let spans = [rows.span(row), columns.span(column)];
            let tile = cut(
                image,
                spans.each_ref().map(|span| span.start * scale.input..span.end * scale.input),
                run,
            )?;
            let result = pass(tile.view())?;
            drop(tile);
            if let Some(values) = read_f32(run.queue, &result)? {
                let start = spans.map(|span| span.start * scale.output);
                let weights = [rows.weights(row, scale.output), columns.weights(column, scale.output)];
                picture.add(start, &weights, &values);
            }
        }
    }
    picture.upload(run)
}

/// A tile of an image, contiguous.
fn cut<B: Backend>(
    image: View<'_>,
    [rows, columns]: [std::ops::Range<usize>; 2],
    run: &Run<'_, B>,
) -> Result<Tensor<B>> {
    let tile = run.image([rows.len(), columns.len(), image.shape()[2]], "vae tile")?;
    for (index, row) in rows.enumerate() {
        let source = image.rows(row, 1)?.narrow(1, columns.start, columns.len())?;
        run.queue.stream().copy(tile.view().rows(index, 1)?, source)?;
    }
    Ok(tile)
}

/// The blended result, on the host.
struct Picture {
    size: [usize; 2],
    channels: usize,
    values: Vec<f32>,
}

impl Picture {
    fn new(size: [usize; 2], channels: usize) -> Self {
        Self { size, channels, values: vec![0.0; size[0] * size[1] * channels] }
    }

    /// Adds a tile that starts at `start`, weighted along both sides.
    fn add(&mut self, start: [usize; 2], [down, across]: &[Vec<f32>; 2], tile: &[f32]) {
        let tile_rows = tile.chunks_exact(across.len() * self.channels);
        let rows = self.values.chunks_exact_mut(self.size[1] * self.channels).skip(start[0]);
        for ((row, tile_row), down) in rows.zip(tile_rows).zip(down) {
            let pixels = row.chunks_exact_mut(self.channels).skip(start[1]);
            for ((pixel, tile_pixel), across) in pixels.zip(tile_row.chunks_exact(self.channels)).zip(across)
            {
                for (value, tile_value) in pixel.iter_mut().zip(tile_pixel) {
                    *value += down * across * tile_value;
                }
            }
        }
    }

    fn upload<B: Backend>(self, run: &Run<'_, B>) -> Result<Tensor<B>> {
        let shape = [self.size[0], self.size[1], self.channels];
        Ok(run.queue.upload_made(run.dtype, &shape, "vae blended", || self.values)?)
    }
}

/// A tensor's values as f32; `None` where memory has no bytes (`Sim`).
pub(crate) fn read_f32<B: Backend>(queue: &Queue<B>, tensor: &Tensor<B>) -> Result<Option<Vec<f32>>> {
    if tensor.dtype() == DType::F32 {
        return Ok(queue.read::<f32>(tensor.view())?);
    }
    let values = queue.read::<bf16>(tensor.view())?;
    Ok(values.map(|values| values.into_iter().map(bf16::to_f32).collect()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lighterage_allocator::{Config as PoolConfig, Pool};
    use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
    use lighterage_pager::{Pager, Units};
    use lighterage_testkit::Rng;

    use super::*;

    /// A pass that copies its tile: what comes out must be what went in.
    fn check_copy(height: usize, width: usize, tile: usize) {
        let device = Device::new(
            Host::new(HostConfig::default()).unwrap(),
            Ledger::new(1 << 26),
            Ledger::new(1 << 26),
        );
        let stream = device.stream(StreamKind::Compute).unwrap();
        let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 26 };
        let queue = Queue::new(Pool::new(&stream, config).unwrap());
        let pager = Pager::resident(&stream, Arc::new(Units::default())).unwrap();
        let run = Run { queue: &queue, pager: &pager, dtype: DType::F32, groups: 1 };

        let shape = [height, width, 3];
        let values = Rng::new(5).normals(shape.iter().product(), 1.0);
        let image = queue.upload(&values, &shape, "test input").unwrap();
        let copy = |tile: View<'_>| {
            let out = queue.tensor(DType::F32, tile.shape(), "test output")?;
            queue.stream().copy(out.view(), tile)?;
            Ok(out)
        };
        let scale = Scale { input: 1, output: 1, channels: 3 };
        let tiling = Some(Tiling::new(tile, 1).unwrap());
        let result = in_tiles(image.view(), scale, tiling, &run, copy).unwrap();
        assert_eq!(result.shape(), shape);
        let result = read_f32(&queue, &result).unwrap().unwrap();
        for (at, (got, expected)) in result.iter().zip(&values).enumerate() {
            // Up to 16 weighted terms, each with 4 roundings of 2^-24 (two weights, two products and a sum), of weights that sum to 1.
            let bound = expected.abs() * 64.0 * 2.0_f32.powi(-24);
            assert!(
                (got - expected).abs() <= bound,
                "{height} x {width}, tile {tile}, at {at}: {got}, not {expected}"
            );
        }
    }

    #[test]
    fn tiles_that_change_nothing_blend_to_the_image() {
        for (height, width, tile) in [(8, 8, 4), (9, 31, 8), (5, 64, 16), (33, 7, 5), (16, 17, 16)] {
            check_copy(height, width, tile);
        }
    }
}
