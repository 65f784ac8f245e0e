//! Graphs on a GPU: does a replay do what the launches do, and what the events between two graphs mean.

use std::any::Any;

use lighterage_device::{Backend, Cuda, Device};
use serde::Serialize;

use super::Arguments;
use super::chain::{self, Chain};
use super::joined::{self, Dropped, Joined};
use crate::failure::Result;

#[derive(Debug, Serialize)]
pub(super) struct Graphs {
    pub(super) chain: Chain,
    pub(super) joined: Joined,
    pub(super) dropped: Dropped,
}

/// None but on CUDA.
pub(super) fn measure<B: Backend>(device: &Device<B>, arguments: &Arguments) -> Result<Option<Graphs>> {
    let device: &dyn Any = device;
    let Some(device) = device.downcast_ref::<Device<Cuda>>() else { return Ok(None) };
    let bytes = arguments.copy.0.min(64 << 20);
    Ok(Some(Graphs {
        chain: chain::measure(device, arguments.graph_launches)?,
        joined: joined::order(device, bytes, arguments.graph_replays)?,
        dropped: joined::dropped(device, bytes)?,
    }))
}
