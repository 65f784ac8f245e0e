use std::collections::BTreeSet;

use lighterage_checkpoint::Tensor;
use rayon::prelude::*;

use crate::Result;
use crate::units::Units;

/// Looks for NaN and infinities in all tensors that units come from, each once and whole.
///
/// # Errors
/// [`Error::Checkpoint`](crate::Error::Checkpoint) with file, tensor and element: the first one, in the order of units, tensors and pieces.
pub fn check_finite(units: &Units) -> Result<()> {
    let mut seen = BTreeSet::new();
    let tensors = units.iter().flat_map(|(_, unit)| &unit.tensors).flat_map(|tensor| tensor.pieces());
    let tensors: Vec<&Tensor> =
        tensors.map(|piece| &piece.tensor).filter(|tensor| seen.insert(tensor.identity())).collect();
    let found = tensors.par_iter().find_map_first(|tensor| tensor.check_finite().err());
    found.map_or(Ok(()), |error| Err(error.into()))
}
