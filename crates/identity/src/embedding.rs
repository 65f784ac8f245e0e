use std::path::Path;

use lighterage_checkpoint::Checkpoint;

use crate::{Error, Result, arcface};

/// Who it is, in numbers: two pictures of one person give vectors that point almost the same way.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding(Vec<f32>);

impl Embedding {
    /// Of length 1.
    #[must_use]
    pub fn normalised(values: Vec<f32>) -> Self {
        let length = values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
        #[expect(clippy::cast_possible_truncation, reason = "rounded once")]
        let values = values.into_iter().map(|value| (f64::from(value) / length) as f32).collect();
        Self(values)
    }

    /// Reads one tensor of a safetensors file: `[count]`, or with leading dimensions of 1. Without a name it has to be the only one.
    ///
    /// The values are taken as they are: whoever made them has decided about their length.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], or [`Error::Embedding`] if it is no vector of finite floats or there are several.
    pub fn read(checkpoint: &Checkpoint, name: Option<&str>) -> Result<Self> {
        let path = checkpoint.path();
        let tensor = match name {
            Some(name) => checkpoint.tensor(name)?,
            None => {
                let mut tensors = checkpoint.tensors();
                match (tensors.next(), tensors.next()) {
                    (Some(only), None) => only,
                    (first, _) => {
                        let names: Vec<&str> =
                            checkpoint.tensors().map(lighterage_checkpoint::Tensor::name).collect();
                        let many = if first.is_some() { names.join(", ") } else { "none".to_owned() };
                        return refuse(path, format!("name one of its tensors, as FILE:NAME: {many}"));
                    }
                }
            }
        };
        let values = arcface::values(tensor).filter(|values| values.iter().all(|value| value.is_finite()));
        let is_vector = tensor.shape().iter().filter(|extent| **extent != 1).count() <= 1;
        match values {
            Some(values) if is_vector && !values.is_empty() => Ok(Self(values)),
            _ => refuse(
                path,
                format!(
                    "tensor {:?} should be a vector of finite floats, is {}",
                    tensor.name(),
                    tensor.layout()
                ),
            ),
        }
    }

    /// The numbers.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.0
    }

    /// The cosine of the angle to another one: 1 for the same direction, around 0 for strangers.
    ///
    /// # Panics
    /// If they have different lengths.
    #[must_use]
    pub fn cosine(&self, other: &Self) -> f64 {
        assert_eq!(self.0.len(), other.0.len(), "numbers of two embeddings");
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        dot(&self.0, &other.0) / (dot(&self.0, &self.0) * dot(&other.0, &other.0)).sqrt()
    }
}

fn refuse<T>(path: &Path, message: String) -> Result<T> {
    Err(Error::Embedding { path: path.to_owned(), message })
}
