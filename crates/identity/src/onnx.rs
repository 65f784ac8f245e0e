use std::path::{Path, PathBuf};

use rten::{Dimension, Model, Value};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;

use crate::{Error, Result};

/// A network in an ONNX file with one picture as its input, run on the host by rten.
pub(crate) struct Network {
    path: PathBuf,
    model: Model,
}

/// One output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Output {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Network {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let model = Model::load_file(path).map_err(|error| refused(path, &error))?;
        Ok(Self { path: path.to_owned(), model })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its one input is a picture of that size, as far as the file says it.
    pub(crate) fn reads(&self, side: usize) -> bool {
        let fits = |dimension: &Dimension, wanted| !matches!(dimension, Dimension::Fixed(extent) if *extent != wanted);
        let is_side =
            |dimension: &Dimension| matches!(dimension, Dimension::Fixed(extent) if *extent == side);
        match self.model.input_shape(0).as_deref() {
            Some([batch, channels, rows, columns]) => {
                fits(batch, 1) && fits(channels, 3) && is_side(rows) && is_side(columns)
            }
            _ => false,
        }
    }

    /// Every output for one picture, `[1, 3, side, side]`.
    pub(crate) fn run(&self, picture: Vec<f32>, side: usize) -> Result<Vec<Output>> {
        let &[input] = self.model.input_ids() else {
            return Err(
                self.refuse(&format!("it has {} inputs, should have one", self.model.input_ids().len()))
            );
        };
        let picture = Tensor::from_data(&[1, 3, side, side], picture);
        let outputs = self.model.run(vec![(input, picture.into())], self.model.output_ids(), None);
        let outputs = outputs.map_err(|error| refused(&self.path, &error))?;
        outputs.into_iter().map(|value| self.output(value)).collect()
    }

    pub(crate) fn refuse(&self, message: &impl ToString) -> Error {
        refused(&self.path, message)
    }

    fn output(&self, value: Value) -> Result<Output> {
        let tensor: Tensor<f32> =
            value.try_into().map_err(|_| self.refuse(&"an output that is not of f32"))?;
        Ok(Output { shape: tensor.shape().to_vec(), values: tensor.to_vec() })
    }
}

fn refused(path: &Path, message: &impl ToString) -> Error {
    Error::Onnx { path: path.to_owned(), message: message.to_string() }
}
