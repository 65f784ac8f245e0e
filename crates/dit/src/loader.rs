use std::collections::BTreeSet;

use lighterage_checkpoint::Checkpoint;
use lighterage_pager::{TensorSpec, UnitId, UnitSpec, Units};
use lighterage_shape::DType;

use crate::adapter::{Adapters, Change, joined, refuse};
use crate::linear::{AdapterUnit, LinearUnit};
use crate::names::{Module, Names, Part};
use crate::{Config, Error, Result};

/// The extents that every block needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dims {
    /// Element type of weights and activations.
    pub(crate) dtype: DType,
    /// Columns of the residual stream.
    pub(crate) width: usize,
    /// Heads.
    pub(crate) heads: usize,
    /// Elements of one head.
    pub(crate) head: usize,
    /// Hidden columns of the feed-forward networks.
    pub(crate) mlp: usize,
}

/// Registers the units of a model: checks names and shapes against the checkpoint, moves no weight.
#[derive(Debug)]
pub(crate) struct Loader<'a> {
    pub(crate) names: Names,
    pub(crate) dims: Dims,
    checkpoint: &'a Checkpoint,
    units: &'a mut Units,
    label: &'static str,
    adapters: Option<&'a Adapters>,
    /// Stored modules that were asked for, in both spellings, joined.
    known: BTreeSet<String>,
}

impl<'a> Loader<'a> {
    /// `label` goes before the name of every unit, so that two models in one list can be told apart.
    pub(crate) fn new(
        config: &Config,
        checkpoint: &'a Checkpoint,
        dtype: DType,
        units: &'a mut Units,
        label: &'static str,
    ) -> Result<Self> {
        config.check()?;
        if !matches!(dtype, DType::Bf16 | DType::F32) {
            return Err(Error::Value {
                name: "dtype",
                got: dtype.to_string(),
                needs: "BF16 or F32".to_owned(),
            });
        }
        let names = Names::detect(checkpoint)?;
        let (width, heads, head) = (config.width(), config.num_attention_heads, config.attention_head_dim);
        let dims = Dims { dtype, width, heads, head, mlp: mlp_columns(checkpoint, names, width) };
        Ok(Self { names, dims, checkpoint, units, label, adapters: None, known: BTreeSet::new() })
    }

    /// The same with low-rank changes to its linears.
    pub(crate) const fn adapted(mut self, adapters: Option<&'a Adapters>) -> Self {
        self.adapters = adapters;
        self
    }

    /// Refuses adapters for modules that were not asked for.
    pub(crate) fn check_adapters(&self) -> Result<()> {
        self.adapters.map_or(Ok(()), |adapters| adapters.check(|module| self.known.contains(module)))
    }

    /// Refuses a checkpoint with more numbered blocks than the configuration has.
    pub(crate) fn check_layers(
        &self,
        field: &'static str,
        layers: usize,
        diffusers: &str,
        bfl: &str,
    ) -> Result<()> {
        let prefix = self.names.pick(diffusers, bfl);
        Ok(self.checkpoint.check_layers(field, layers, &prefix)?)
    }

    /// One unit: a weight `[columns, inner]` and its bias `[columns]`; and one for each adapter.
    pub(crate) fn linear(&mut self, module: &Module, inner: usize) -> Result<LinearUnit> {
        let columns = module.parts.iter().map(|part| part.rows.len()).sum();
        let weight = self.stacked(module, ".weight", &[columns, inner])?;
        let bias = self.stacked(module, ".bias", &[columns])?;
        let name = format!("{}{}", self.label, module.label);
        let unit = self.units.add(UnitSpec { name, tensors: vec![weight, bias] });
        Ok(LinearUnit { unit, columns, adapters: self.changes(module, inner)? })
    }

    /// The adapters of a linear, whichever way they spell it: in the order of their files, then of the rows.
    fn changes(&mut self, module: &Module, inner: usize) -> Result<Vec<AdapterUnit>> {
        let mut found = Vec::new();
        let Some(adapters) = self.adapters else { return Ok(found) };
        for parts in &module.spelled {
            let mut start = 0;
            for part in parts {
                self.known.insert(joined(&part.module));
                for change in adapters.of(&part.module) {
                    found.extend(self.change(&change?, part, start, inner)?);
                }
                start += part.rows.len();
            }
        }
        Ok(found)
    }

    /// One adapter's change to the rows of a part, which are the linear's columns from `start` on; none if it does not reach them.
    fn change(
        &mut self,
        change: &Change<'_>,
        part: &Part,
        start: usize,
        inner: usize,
    ) -> Result<Option<AdapterUnit>> {
        let Change { checkpoint, down, up, scale } = change;
        let (rank, reaches) = (down.shape()[0], up.shape()[0]);
        // XLabs changes q, k and v of a single block's first linear, and leaves the rows behind them alone.
        let leaves_mlp = part.of > 3 * self.dims.width && reaches == 3 * self.dims.width;
        if reaches != part.of && !leaves_mlp {
            let message = format!("it changes {reaches} columns, the module has {}", part.of);
            return refuse(checkpoint, up.name(), &message);
        }
        let rows = part.rows.start..part.rows.end.min(reaches);
        if rows.is_empty() {
            return Ok(None);
        }
        let columns = rows.len();
        let tensors = vec![
            TensorSpec::whole(checkpoint, down.name(), &[rank, inner], self.dims.dtype)?,
            TensorSpec::stacked(checkpoint, &[(up.name(), rows)], &[columns, rank], self.dims.dtype)?,
        ];
        let unit = self.units.add(UnitSpec { name: format!("adapter.{}", part.module), tensors });
        Ok(Some(AdapterUnit { unit, rank, scale: *scale, start, columns }))
    }

    /// One unit of several vectors of a head's length.
    pub(crate) fn norms(&mut self, label: &str, tensors: &[String]) -> Result<UnitId> {
        let spec =
            |name: &String| TensorSpec::whole(self.checkpoint, name, &[self.dims.head], self.dims.dtype);
        let tensors = tensors.iter().map(spec).collect::<Result<Vec<_>, _>>()?;
        Ok(self.units.add(UnitSpec { name: format!("{}{label}", self.label), tensors }))
    }

    fn stacked(&self, module: &Module, suffix: &str, shape: &[usize]) -> Result<TensorSpec> {
        let mut pieces = Vec::new();
        for part in &module.parts {
            let name = format!("{}{suffix}", part.module);
            self.check_shape(&name, part.of, &shape[1..])?;
            pieces.push((name, part.rows.clone()));
        }
        let pieces: Vec<_> = pieces.iter().map(|(name, rows)| (name.as_str(), rows.clone())).collect();
        Ok(TensorSpec::stacked(self.checkpoint, &pieces, shape, self.dims.dtype)?)
    }

    /// Stricter than `stacked`, which takes a tensor with more rows than are wanted: here every row is spoken for.
    fn check_shape(&self, name: &str, rows: usize, rest: &[usize]) -> Result<()> {
        let tensor = self.checkpoint.tensor(name)?;
        let expected = [&[rows], rest].concat();
        if tensor.shape() == expected {
            return Ok(());
        }
        let (path, tensor, got) = (tensor.path().into(), name.to_owned(), tensor.shape().to_vec());
        Err(lighterage_pager::Error::Shape { path, tensor, expected, got }.into())
    }
}

/// The width of the feed-forward networks, which no configuration names: from the first block's shapes, else four times the width.
pub(crate) fn mlp_columns(checkpoint: &Checkpoint, names: Names, width: usize) -> usize {
    names
        .mlp_witnesses(width)
        .iter()
        .find_map(|(name, before)| checkpoint.get(name)?.shape().first()?.checked_sub(*before))
        .unwrap_or(4 * width)
}
