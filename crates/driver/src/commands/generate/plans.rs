use std::collections::VecDeque;

use lighterage_device::{Backend, Device};
use lighterage_pipeline::{Footprint, Forecast, Job};

use crate::failure::Result;

/// Plans that are kept between the pictures of a run: most of a file's pictures need the same one.
#[derive(Debug, Default)]
pub(super) struct Plans {
    /// The oldest first.
    kept: VecDeque<(Footprint, Forecast)>,
    /// How many were made.
    pub(super) made: usize,
}

/// More kinds of pictures than a file is likely to alternate between; a plan of a full-size model takes some 100 KB.
const KEPT_MAX: usize = 16;

impl Plans {
    /// The plan of a picture within what the device has left.
    pub(super) fn of<B: Backend>(&mut self, job: &Job, device: &Device<B>) -> Result<&Forecast> {
        let (footprint, budget) = (job.footprint(), device.ledger().free_bytes());
        let is_same = |(known, forecast): &(Footprint, Forecast)| {
            forecast.budget_bytes == budget && *known == footprint
        };
        let index = match self.kept.iter().position(is_same) {
            Some(index) => index,
            None => {
                let forecast = job.survey(device.info().page_bytes)?.within(budget)?;
                self.made += 1;
                if self.kept.len() == KEPT_MAX {
                    self.kept.pop_front();
                }
                self.kept.push_back((footprint, forecast));
                self.kept.len() - 1
            }
        };
        Ok(&self.kept[index].1)
    }
}
