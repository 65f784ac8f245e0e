//! PyTorch's memory snapshots as traces.

use super::Trace;
use super::pickled::{Pickled, Value};
use super::recorder::Recorder;
use crate::{Error, Result};

/// An event of a snapshot that hands out or takes back.
struct Event {
    is_alloc: bool,
    address: u64,
    bytes: u64,
    stream: u64,
}

impl Trace {
    /// Reads the requests from a memory snapshot: of PyTorch (`torch.cuda.memory._dump_snapshot`), or from [`Snapshot::to_pickle`](crate::Snapshot::to_pickle).
    /// Of several devices the first that has events. What was alive before the first event comes first. The pickle is read without running anything.
    ///
    /// # Errors
    /// [`Error::Trace`] with the byte, or the number of the event, that cannot be read.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Self> {
        let pickled = Pickled::parse(bytes).map_err(|(position, reason)| Error::Trace {
            format: "snapshot, byte",
            position,
            reason,
        })?;
        let (device, events) = events(&pickled)?;
        let mut recorder = Recorder::default();
        for (address, bytes, stream) in alive_before(&pickled, device, &events)? {
            note(&mut recorder, 0, &Event { is_alloc: true, address, bytes, stream })?;
        }
        for (number, event) in events.iter().enumerate() {
            note(&mut recorder, number, event)?;
        }
        Ok(recorder.into_trace())
    }
}

fn note(recorder: &mut Recorder, number: usize, event: &Event) -> Result<()> {
    if !event.is_alloc {
        recorder.free(event.address);
        return Ok(());
    }
    let is_noted = recorder.allocate(event.address, event.stream, event.bytes);
    if is_noted { Ok(()) } else { Err(bad(number, "more than 256 streams")) }
}

/// The events of the first device that has any, and its number.
fn events(pickled: &Pickled<'_>) -> Result<(usize, Vec<Event>)> {
    let traces = pickled.get(pickled.root(), "device_traces").and_then(|traces| pickled.items(traces));
    let traces = traces.ok_or_else(|| bad(0, "there is no list `device_traces`"))?;
    for (device, trace) in traces.into_iter().enumerate() {
        let entries = pickled.items(trace).ok_or_else(|| bad(0, "a device's trace is no list"))?;
        if !entries.is_empty() {
            let read = entries.into_iter().enumerate().map(|(number, entry)| event(pickled, number, entry));
            let events = read.filter_map(Result::transpose).collect::<Result<_>>()?;
            return Ok((device, events));
        }
    }
    Ok((0, Vec::new()))
}

/// What an entry says; none for those of segments, and for the second of the two that say that a block is free.
fn event(pickled: &Pickled<'_>, number: usize, entry: &Value<'_>) -> Result<Option<Event>> {
    let Some(Value::Text(action)) = pickled.get(entry, "action") else {
        return Err(bad(number, "it has no action"));
    };
    let is_alloc = match *action {
        b"alloc" => true,
        b"free_requested" => false,
        _ => return Ok(None),
    };
    let field = |name: &str| {
        let found = count(pickled, entry, name);
        found.ok_or_else(|| bad(number, &format!("{name} is no number")))
    };
    Ok(Some(Event { is_alloc, address: field("addr")?, bytes: field("size")?, stream: field("stream")? }))
}

/// What was alive before the first event: what ends without a beginning, and what the segments show that never began.
fn alive_before(pickled: &Pickled<'_>, device: usize, events: &[Event]) -> Result<Vec<(u64, u64, u64)>> {
    let mut seen = Recorder::default();
    let mut before = Vec::new();
    for event in events {
        if event.is_alloc {
            // Streams do not matter here.
            let _ = seen.allocate(event.address, 0, event.bytes);
        } else if !seen.free(event.address) {
            before.push((event.address, event.bytes, event.stream));
        }
    }
    for (address, bytes, stream) in blocks(pickled, device)? {
        if !seen.is_alive(address) {
            before.push((address, bytes, stream));
        }
    }
    Ok(before)
}

/// Address, bytes and stream of the blocks that are handed out. A block is a value of its own: a few bytes can name one list of them any number of times.
fn blocks(pickled: &Pickled<'_>, device: usize) -> Result<Vec<(u64, u64, u64)>> {
    let list = |value: &Value<'_>, name: &str| {
        pickled.get(value, name).and_then(|list| pickled.items(list)).unwrap_or_default()
    };
    let (mut blocks, mut unseen) = (Vec::new(), pickled.len());
    for segment in list(pickled.root(), "segments") {
        if count(pickled, segment, "device").unwrap_or(0) != device as u64 {
            continue;
        }
        let stream = count(pickled, segment, "stream").unwrap_or(0);
        let mut address = count(pickled, segment, "address").unwrap_or(0);
        let parts = list(segment, "blocks");
        unseen = unseen.checked_sub(parts.len()).ok_or_else(|| bad(0, "segments share their blocks"))?;
        for block in parts {
            let bytes = count(pickled, block, "size").unwrap_or(0);
            let requested = count(pickled, block, "requested_size").unwrap_or(bytes);
            if matches!(pickled.get(block, "state"), Some(Value::Text(b"active_allocated"))) {
                blocks.push((address, requested, stream));
            }
            address = address.saturating_add(bytes);
        }
    }
    Ok(blocks)
}

fn count(pickled: &Pickled<'_>, value: &Value<'_>, name: &str) -> Option<u64> {
    match pickled.get(value, name) {
        Some(Value::Int(value)) => u64::try_from(*value).ok(),
        _ => None,
    }
}

fn bad(position: usize, reason: &str) -> Error {
    Error::Trace { format: "snapshot, event", position, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    /// What `pickle.dumps` makes of a snapshot of two devices, of which the second has a trace: `tests/data/make_snapshot.py`.
    const SNAPSHOT: &[u8] = include_bytes!("../../tests/data/snapshot.pickle");

    #[test]
    fn what_was_alive_before_comes_first() {
        let trace = Trace::from_snapshot(SNAPSHOT).unwrap();
        let expected = Trace::new([
            // Its end is in the trace, its beginning is not.
            Op::Alloc { id: 0, stream: 0, bytes: 700 },
            // It is in a segment, and in no event.
            Op::Alloc { id: 1, stream: 1, bytes: 900 },
            Op::Alloc { id: 2, stream: 1, bytes: 1000 },
            Op::Free { id: 0 },
            Op::Alloc { id: 0, stream: 0, bytes: 3 << 30 },
            Op::Free { id: 2 },
        ]);
        assert_eq!(trace, expected);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (bytes, said) in [
            (&b"}."[..], "snapshot, event at 0: there is no list `device_traces`"),
            (b"}X\x0d\x00\x00\x00device_traces]K\x01as.", "a device's trace is no list"),
            (b"}X\x0d\x00\x00\x00device_traces]]}aas.", "snapshot, event at 0: it has no action"),
            (
                b"}X\x0d\x00\x00\x00device_traces]]}X\x06\x00\x00\x00actionX\x05\x00\x00\x00allocsaas.",
                "addr is no number",
            ),
            (b"\x80\x04c", "snapshot, byte at 2: opcode 0x63"),
            (
                // One segment, with three times the same block, named nine times.
                b"}(X\x0d\x00\x00\x00device_traces]X\x08\x00\x00\x00segments](}q\x00X\x06\x00\x00\x00blocks](}q\x01h\x01h\x01es\
                  h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00eu.",
                "segments share their blocks",
            ),
        ] {
            let error = Trace::from_snapshot(bytes).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert_eq!(Trace::from_snapshot(b"}X\x0d\x00\x00\x00device_traces]s."), Ok(Trace::default()));
    }
}
