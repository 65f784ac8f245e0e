use lighterage_pager::Units;

use crate::{Face, Negation, Options};

/// All that a plan depends on: jobs with the same footprint on the same device have the same [`Survey`](crate::Survey), so the forecast of one is that of all.
///
/// It is the options but for the prompts, the seed and who the person is, and the sizes of all weights: prompts are padded to one length, so that different ones
/// read as many rows of the encoders' tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Footprint {
    options: Options,
    phases: Vec<Vec<Extent>>,
}

/// Of one tensor of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    bytes: u64,
    /// Whether a tensor is converted on its way, and so kept on the host, depends on how many it is made of.
    pieces: usize,
}

impl Footprint {
    pub(crate) fn new<'u>(options: &Options, phases: impl Iterator<Item = &'u Units>) -> Self {
        let extents = |units: &Units| {
            let tensors = units.iter().flat_map(|(_, unit)| &unit.tensors);
            tensors.map(|tensor| Extent { bytes: tensor.bytes(), pieces: tensor.pieces().len() }).collect()
        };
        Self { options: anonymous(options), phases: phases.map(extents).collect() }
    }
}

fn anonymous(options: &Options) -> Options {
    let negative = options
        .negative
        .as_ref()
        .map(|Negation { scale, .. }| Negation { prompt: String::new(), scale: *scale });
    let face = options.face.clone().map(|face| Face { embedding: Vec::new(), control: None, ..face });
    Options { prompt: String::new(), seed: 0, negative, face, ..options.clone() }
}
