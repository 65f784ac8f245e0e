use lighterage_allocator::{Config, Pool};
use lighterage_device::{Backend, Device, Error, Purpose, StreamKind};
use lighterage_ops::Queue;

use crate::device::Work;
use crate::failure::Result;
use crate::size::Size;

/// Asks a device for everything that a run asks it for, a page of each.
pub(super) struct Trial;

/// What was tried, and what came of it: a sentence for ok, or why not and what to do.
pub(super) type Tried = (&'static str, Result<String, String>);

/// Bytes to pin: enough to need more than one page of any size.
const PINNED_BYTES: u64 = 4 << 20;

impl Work for Trial {
    type Output = Vec<Tried>;

    fn run<B: Backend>(self, device: &Device<B>) -> Result<Vec<Tried>> {
        let info = device.info();
        let memory = format!(
            "pages of {}, a cap of {}; reserve, create, map twice, set access and unmap work",
            Size(info.page_bytes),
            Size(device.ledger().cap_bytes())
        );
        Ok(vec![
            ("mapped memory", told(map(device), memory, "a larger --vram, or another --device")),
            (
                "pinned memory",
                told(
                    pin(device),
                    format!("{} pinned and given back", Size(PINNED_BYTES)),
                    "ulimit -l, or --host-memory",
                ),
            ),
            (
                "copies",
                told(copy(device), "to the device and back, unchanged".to_owned(), "another --device"),
            ),
        ])
    }
}

fn told(outcome: Result<(), String>, good: String, remedy: &str) -> Result<String, String> {
    outcome.map(|()| good).map_err(|error| format!("{error}; try {remedy}"))
}

/// One page, mapped at two addresses, as the ring of the pager is.
fn map<B: Backend>(device: &Device<B>) -> Result<(), String> {
    let page = device.info().page_bytes;
    let go = || -> Result<(), Error> {
        let addresses = device.reserve(2 * page)?;
        let chunk = device.create(Purpose::Ring, page)?;
        addresses.map(0, &chunk)?;
        addresses.map(page, &chunk)?;
        addresses.set_access(0, 2 * page)?;
        addresses.unmap(0, 2 * page)?;
        drop((addresses, chunk));
        // What went wrong while things were dropped.
        device.take_deferred()
    };
    go().map_err(|error| error.to_string())
}

fn pin<B: Backend>(device: &Device<B>) -> Result<(), String> {
    let go = || -> Result<(), Error> {
        drop(device.pin(PINNED_BYTES)?);
        device.take_deferred()
    };
    go().map_err(|error| error.to_string())
}

fn copy<B: Backend>(device: &Device<B>) -> Result<(), String> {
    let values: Vec<f32> = (0_u8..=255).map(f32::from).collect();
    let go = || -> Result<Option<Vec<f32>>> {
        let stream = device.stream(StreamKind::Compute)?;
        let config = Config { purpose: Purpose::Activations, reserve_bytes: 1 << 30 };
        let queue = Queue::new(Pool::new(&stream, config)?);
        let there = queue.upload(&values, &[values.len()], "doctor")?;
        Ok(queue.read(there.view())?)
    };
    match go() {
        Ok(back) if back.as_ref().is_none_or(|back| *back == values) => Ok(()),
        Ok(_) => Err("values came back changed".to_owned()),
        Err(failure) => Err(failure.to_string()),
    }
}
