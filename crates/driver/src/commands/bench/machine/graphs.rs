//! Graphs on a GPU: does a replay do what the launches do, what the events and the flags between two graphs mean, and a step that streams its weights, both ways.

use std::any::Any;

use lighterage_device::{Backend, Cuda, Device};
use serde::Serialize;

use super::Arguments;
use super::chain::{self, Chain};
use super::joined::{self, Dropped, Flagged, Joined};
use super::paged::{self, Paged};
use crate::failure::Result;

#[derive(Debug, Serialize)]
pub(super) struct Graphs {
    pub(super) chain: Chain,
    pub(super) joined: Joined,
    pub(super) dropped: Dropped,
    pub(super) flagged: Flagged,
    pub(super) paged: Paged,
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
        flagged: joined::flagged(device, bytes, arguments.graph_replays)?,
        paged: paged::measure(device, arguments.graph_units, arguments.graph_unit_bytes.0)?,
    }))
}
