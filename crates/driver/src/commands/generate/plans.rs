use std::collections::VecDeque;

use lighterage_device::{Backend, Device};
use lighterage_pipeline::{Footprint, Forecast, Job};

use crate::device::PlaceArguments;
use crate::failure::Result;

/// Plans that are kept between the pictures of a run: most of a file's pictures need the same one.
#[derive(Debug, Default)]
pub(super) struct Plans {
    /// The oldest first.
    kept: VecDeque<Kept>,
    /// How many were made.
    pub(super) made: usize,
}

/// What a plan was made for, and the plan.
#[derive(Debug)]
struct Kept {
    footprint: Footprint,
    /// Granted before, and the limit, as the device's ledger had them.
    bytes: [u64; 2],
    forecast: Forecast,
}

/// More kinds of pictures than a file is likely to alternate between; a plan of a full-size model takes some 100 KB.
const KEPT_MAX: usize = 16;

impl Plans {
    /// The plan of a picture within what the device has left.
    pub(super) fn of<B: Backend>(
        &mut self,
        job: &Job,
        device: &Device<B>,
        place: &PlaceArguments,
    ) -> Result<&Forecast> {
        let footprint = job.footprint();
        let bytes = [device.ledger().granted_bytes(), device.ledger().limit_bytes()];
        let is_same = |kept: &Kept| kept.bytes == bytes && kept.footprint == footprint;
        let index = match self.kept.iter().position(is_same) {
            Some(index) => index,
            None => {
                let (_, forecast) = place.plans(job.survey(device.info().page_bytes)?).on(device)?;
                self.made += 1;
                if self.kept.len() == KEPT_MAX {
                    self.kept.pop_front();
                }
                self.kept.push_back(Kept { footprint, bytes, forecast });
                self.kept.len() - 1
            }
        };
        Ok(&self.kept[index].forecast)
    }
}
