use lighterage_checkpoint::Checkpoint;
use lighterage_pager::{TensorSpec, UnitId, UnitSpec, Units};
use lighterage_shape::DType;

use crate::{Error, Result};

/// Makes units of a checkpoint's tensors: what both encoders need while they are made.
pub(crate) struct Registry<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) dtype: DType,
    pub(crate) units: &'a mut Units,
}

impl Registry<'_> {
    /// One tensor.
    pub(crate) fn single(&mut self, name: &str, shape: &[usize]) -> Result<UnitId> {
        let tensor = self.whole(name, shape)?;
        Ok(self.add(name, vec![tensor]))
    }

    /// Linears of equal shape one above the other, `[out, inner]` each.
    pub(crate) fn stack(&mut self, unit: &str, names: &[String], out: usize, inner: usize) -> Result<UnitId> {
        let weight = self.stacked(names, ".weight", out, &[inner])?;
        Ok(self.add(unit, vec![weight]))
    }

    /// As `stack`, with biases.
    pub(crate) fn biased_stack(
        &mut self,
        unit: &str,
        names: &[String],
        out: usize,
        inner: usize,
    ) -> Result<UnitId> {
        let weight = self.stacked(names, ".weight", out, &[inner])?;
        let bias = self.stacked(names, ".bias", out, &[])?;
        Ok(self.add(unit, vec![weight, bias]))
    }

    /// A linear with its bias.
    pub(crate) fn linear(&mut self, name: &str, out: usize, inner: usize) -> Result<UnitId> {
        let tensors = vec![
            self.whole(&format!("{name}.weight"), &[out, inner])?,
            self.whole(&format!("{name}.bias"), &[out])?,
        ];
        Ok(self.add(name, tensors))
    }

    /// Scale and shift of an affine layer norm.
    pub(crate) fn layer_norm(&mut self, name: &str, columns: usize) -> Result<UnitId> {
        let tensors = vec![
            self.whole(&format!("{name}.weight"), &[columns])?,
            self.whole(&format!("{name}.bias"), &[columns])?,
        ];
        Ok(self.add(name, tensors))
    }

    /// The rows of a table for some ids; refuses ids that are not in it.
    pub(crate) fn rows(&self, name: &str, ids: &[u32], columns: usize) -> Result<TensorSpec> {
        let vocabulary = self.checkpoint.tensor(name)?.shape().first().copied().unwrap_or(0);
        let outside = ids.iter().position(|id| usize::try_from(*id).map_or(true, |id| id >= vocabulary));
        if let Some(position) = outside {
            return Err(Error::Id { id: ids[position], position, vocabulary, tensor: name.to_owned() });
        }
        Ok(TensorSpec::gathered(self.checkpoint, name, ids, columns, self.dtype)?)
    }

    pub(crate) fn add(&mut self, name: &str, tensors: Vec<TensorSpec>) -> UnitId {
        self.units.add(UnitSpec { name: name.to_owned(), tensors })
    }

    fn whole(&self, name: &str, shape: &[usize]) -> Result<TensorSpec> {
        Ok(TensorSpec::whole(self.checkpoint, name, shape, self.dtype)?)
    }

    fn stacked(&self, names: &[String], suffix: &str, rows: usize, rest: &[usize]) -> Result<TensorSpec> {
        let full: Vec<String> = names.iter().map(|name| format!("{name}{suffix}")).collect();
        let single: Vec<usize> = std::iter::once(rows).chain(rest.iter().copied()).collect();
        // A stack only asks for enough rows; here they must be all.
        full.iter().try_for_each(|name| self.whole(name, &single).map(drop))?;
        let pieces: Vec<_> = full.iter().map(|name| (name.as_str(), 0..rows)).collect();
        let shape: Vec<usize> = std::iter::once(rows * names.len()).chain(rest.iter().copied()).collect();
        Ok(TensorSpec::stacked(self.checkpoint, &pieces, &shape, self.dtype)?)
    }
}
