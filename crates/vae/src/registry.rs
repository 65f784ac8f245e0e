use lighterage_checkpoint::Checkpoint;
use lighterage_pager::{TensorSpec, UnitId, UnitSpec, Units};
use lighterage_shape::DType;

use crate::Result;

/// Makes units of a checkpoint's tensors: what both halves need while they are made. Every unit is a weight and a bias.
pub(crate) struct Registry<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) dtype: DType,
    pub(crate) units: &'a mut Units,
}

impl Registry<'_> {
    /// Scale and shift of a group norm.
    pub(crate) fn norm(&mut self, name: &str, channels: usize) -> Result<UnitId> {
        let weight = self.whole(&format!("{name}.weight"), &[channels])?;
        self.with_bias(name, weight, channels)
    }

    /// A 3x3 convolution, `[out, 3, 3, inner]` on the device.
    pub(crate) fn conv(&mut self, name: &str, out: usize, inner: usize) -> Result<UnitId> {
        let shape = [out, 3, 3, inner];
        let weight = TensorSpec::convolution(self.checkpoint, &format!("{name}.weight"), &shape, self.dtype)?;
        self.with_bias(name, weight, out)
    }

    /// A linear over pixels, `[out, inner]`, which the file may write as a 1x1 convolution.
    pub(crate) fn pointwise(&mut self, name: &str, out: usize, inner: usize) -> Result<UnitId> {
        let weight = self.whole(&format!("{name}.weight"), &[out, inner])?;
        self.with_bias(name, weight, out)
    }

    /// Three square linears one above the other, `[3 channels, channels]`, or `[3 channels, channels, 1, 1]` if the file writes them as
    /// convolutions.
    pub(crate) fn qkv(&mut self, unit: &str, names: &[String; 3], channels: usize) -> Result<UnitId> {
        let weights = names.each_ref().map(|name| format!("{name}.weight"));
        let biases = names.each_ref().map(|name| format!("{name}.bias"));
        for (weight, bias) in weights.iter().zip(&biases) {
            // A stack only asks for enough rows; here they must be all.
            self.whole(weight, &[channels, channels])?;
            self.whole(bias, &[channels])?;
        }
        let rank = self.checkpoint.tensor(&weights[0])?.shape().len();
        let weight = self.stacked(&weights, channels, &[channels, 1, 1][..rank - 1])?;
        let bias = self.stacked(&biases, channels, &[])?;
        Ok(self.units.add(UnitSpec { name: unit.to_owned(), tensors: vec![weight, bias] }))
    }

    fn with_bias(&mut self, name: &str, weight: TensorSpec, out: usize) -> Result<UnitId> {
        let bias = self.whole(&format!("{name}.bias"), &[out])?;
        Ok(self.units.add(UnitSpec { name: name.to_owned(), tensors: vec![weight, bias] }))
    }

    fn whole(&self, name: &str, shape: &[usize]) -> Result<TensorSpec> {
        Ok(TensorSpec::whole(self.checkpoint, name, shape, self.dtype)?)
    }

    fn stacked(&self, names: &[String; 3], rows: usize, rest: &[usize]) -> Result<TensorSpec> {
        let pieces = names.each_ref().map(|name| (name.as_str(), 0..rows));
        let shape: Vec<usize> = std::iter::once(3 * rows).chain(rest.iter().copied()).collect();
        Ok(TensorSpec::stacked(self.checkpoint, &pieces, &shape, self.dtype)?)
    }
}
