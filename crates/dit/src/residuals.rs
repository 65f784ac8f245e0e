use lighterage_device::{Backend, View};
use lighterage_ops::{self as ops, Queue};
use lighterage_shape::DType;

use crate::error::expect_view;
use crate::trunk::Place;
use crate::{Config, Error, Result};

/// What a `ControlNet` adds to the image rows behind the blocks of the transformer.
///
/// `m` residuals serve `n` blocks: block `i` takes number `i / ceil(n / m)`, so that the last group may be short (diffusers'
/// `FluxTransformer2DModel`). An empty list adds nothing.
#[derive(Clone, Copy, Debug)]
pub struct Residuals<'a> {
    /// For the double blocks, each `[image, width]`.
    pub double: &'a [View<'a>],
    /// For the single blocks, each `[image, width]`.
    pub single: &'a [View<'a>],
    /// Factor on all of them.
    pub scale: f32,
}

impl Residuals<'_> {
    pub(crate) fn check(&self, config: &Config, dtype: DType, image_rows: usize) -> Result<()> {
        for (name, list, blocks) in [
            ("double residuals", self.double, config.num_layers),
            ("single residuals", self.single, config.num_single_layers),
        ] {
            if list.len() > blocks {
                let needs = format!("at most {blocks}, the number of blocks");
                return Err(Error::Value { name, got: list.len().to_string(), needs });
            }
            for (index, view) in list.iter().enumerate() {
                expect_view(&format!("{name}.{index}"), *view, dtype, &[image_rows, config.width()])?;
            }
        }
        Ok(())
    }

    /// Adds what belongs behind `place` to `image`, in place.
    pub(crate) fn add<B: Backend>(
        &self,
        queue: &Queue<B>,
        config: &Config,
        place: Place,
        image: View<'_>,
    ) -> Result<()> {
        let (list, index) = match place {
            Place::Double(block) => (self.double, serving(block, config.num_layers, self.double.len())),
            Place::Single(block) => {
                (self.single, serving(block, config.num_single_layers, self.single.len()))
            }
        };
        if let Some(residual) = index.and_then(|index| list.get(index)) {
            ops::add(queue, &ops::Add { a: image, b: *residual, scale: self.scale, out: image })?;
        }
        Ok(())
    }
}

/// Which of `residuals` serves `block` of `blocks`.
fn serving(block: usize, blocks: usize, residuals: usize) -> Option<usize> {
    (residuals > 0).then(|| block / blocks.div_ceil(residuals))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(blocks: usize, residuals: usize, expected: &[usize]) {
        let found: Vec<usize> = (0..blocks).filter_map(|block| serving(block, blocks, residuals)).collect();
        assert_eq!(found, expected, "{residuals} residuals for {blocks} blocks");
    }

    #[test]
    fn groups_are_as_long_as_the_ceiling_and_the_last_is_short() {
        check(19, 4, &[0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3]);
        check(5, 2, &[0, 0, 0, 1, 1]);
        check(3, 3, &[0, 1, 2]);
        check(3, 1, &[0, 0, 0]);
        check(3, 0, &[]);
    }

    #[test]
    fn released_infusenet_serves_38_single_blocks_by_fours() {
        let expected: Vec<usize> = (0..38).map(|block| block / 4).collect();
        check(38, 10, &expected);
    }
}
