//! Streams and events: queues that are worked off when somebody waits, and points in them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::abi::{
    Code, INVALID_HANDLE, LAUNCH_TIMEOUT, NOT_READY, STREAM_CAPTURE_INVALIDATED, STREAM_CAPTURE_ISOLATION,
    STREAM_CAPTURE_UNSUPPORTED,
};
use crate::driver::{Driver, Result, named};
use crate::kernels::{Launch, Order};
use crate::memory::{Memory, pointer};
use crate::product::Product;

/// One piece of queued work. Host addresses are read and written when it is its turn.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// From and to the host, or on the device: whichever addresses are the device's are checked.
    Copy {
        target: u64,
        source: u64,
        bytes: usize,
        is_target_ours: bool,
        is_source_ours: bool,
    },
    Fill {
        target: u64,
        value: u8,
        bytes: usize,
    },
    Launch(Box<Launch>),
    /// Notes when an event with timing was.
    Time(u64),
    /// A product by the stand-in's cuBLASLt.
    Product(Box<Product>),
    /// Waits for a point of a stream.
    Wait(Point),
    /// In a graph: records the event when it is its turn.
    RecordExternal(u64),
    /// In a graph: waits for what the event recorded last when it is its turn.
    WaitExternal(u64),
    /// Waits until the word has the value.
    WaitValue {
        address: u64,
        value: u32,
    },
    /// Writes a word, seen by all when all before it is done.
    WriteValue {
        address: u64,
        value: u32,
    },
}

/// All work of a stream up to a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    stream: u64,
    count: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Streams {
    streams: BTreeMap<u64, Stream>,
    /// What each event recorded last.
    events: BTreeMap<u64, Option<Point>>,
    /// When those with timing were.
    times: BTreeMap<u64, Option<Instant>>,
}

#[derive(Debug, Default)]
struct Stream {
    queue: VecDeque<Operation>,
    /// Pieces of work that were queued, and those that are done.
    queued: u64,
    done: u64,
    /// Work that is being recorded; none of it if the recording was spoilt.
    recording: Option<std::result::Result<Vec<Operation>, Code>>,
    /// Of its launches.
    order: Order,
}

impl Streams {
    pub(crate) fn left(&self) -> u64 {
        (self.streams.len() + self.events.len()) as u64
    }

    pub(crate) fn add_stream(&mut self, handle: u64) {
        self.streams.insert(handle, Stream::default());
    }

    pub(crate) fn add_event(&mut self, handle: u64, has_timing: bool) {
        self.events.insert(handle, None);
        if has_timing {
            self.times.insert(handle, None);
        }
    }

    /// Milliseconds between two events that have timing and are complete.
    pub(crate) fn elapsed_ms(&self, from: u64, to: u64) -> Result<f32> {
        let time = |event: u64| self.times.get(&event).ok_or(INVALID_HANDLE)?.ok_or(NOT_READY);
        let (from, to) = (time(from)?, time(to)?);
        // The later one may be asked about first.
        let seconds = to.saturating_duration_since(from).as_secs_f32()
            - from.saturating_duration_since(to).as_secs_f32();
        Ok(seconds * 1e3)
    }

    pub(crate) fn remove_event(&mut self, handle: u64) -> Result {
        self.times.remove(&handle);
        self.events.remove(&handle).map(drop).ok_or(INVALID_HANDLE)
    }

    /// Whether a kernel of that module is queued.
    pub(crate) fn launches_of(&self, module: u64) -> bool {
        self.queued().any(|work| matches!(work, Operation::Launch(launch) if launch.module() == module))
    }

    /// Whether a product is queued whose workspace begins there.
    pub(crate) fn is_workspace(&self, address: u64) -> bool {
        self.queued()
            .any(|work| matches!(work, Operation::Product(product) if product.workspace.0 == address))
    }

    fn queued(&self) -> impl Iterator<Item = &Operation> {
        self.streams.values().flat_map(|stream| &stream.queue)
    }

    /// Queues work, or records it.
    pub(crate) fn push(&mut self, stream: u64, operation: Operation) -> Result {
        let stream = named(&mut self.streams, stream)?;
        match &mut stream.recording {
            Some(Ok(recorded)) => recorded.push(operation),
            Some(Err(code)) => return Err(*code),
            None => {
                stream.queue.push_back(operation);
                stream.queued += 1;
            }
        }
        Ok(())
    }

    pub(crate) fn record(&mut self, event: u64, stream: u64, is_external: bool) -> Result {
        named(&mut self.events, event)?;
        let named_stream = named(&mut self.streams, stream)?;
        match (named_stream.recording.is_some(), is_external) {
            (true, true) => self.push(stream, Operation::RecordExternal(event)),
            // An event recorded inside of a recording is a point in it, which nobody outside may wait for: not done here.
            (true, false) => Err(self.spoil(stream, STREAM_CAPTURE_UNSUPPORTED)),
            (false, _) => {
                if let Some(time) = self.times.get_mut(&event) {
                    *time = None;
                    self.push(stream, Operation::Time(event))?;
                }
                let named_stream = named(&mut self.streams, stream)?;
                let point = Point { stream, count: named_stream.queued };
                self.events.insert(event, Some(point));
                Ok(())
            }
        }
    }

    pub(crate) fn wait(&mut self, stream: u64, event: u64, is_external: bool) -> Result {
        let point = *self.events.get(&event).ok_or(INVALID_HANDLE)?;
        let is_recording = named(&mut self.streams, stream)?.recording.is_some();
        match (is_recording, is_external, point) {
            (true, true, _) => self.push(stream, Operation::WaitExternal(event)),
            (true, false, _) => Err(self.spoil(stream, STREAM_CAPTURE_ISOLATION)),
            (false, _, Some(point)) => self.push(stream, Operation::Wait(point)),
            (false, _, None) => Ok(()),
        }
    }

    pub(crate) fn begin(&mut self, stream: u64) -> Result {
        let stream = named(&mut self.streams, stream)?;
        if stream.recording.is_some() {
            return Err(STREAM_CAPTURE_UNSUPPORTED);
        }
        stream.recording = Some(Ok(Vec::new()));
        Ok(())
    }

    pub(crate) fn end(&mut self, stream: u64) -> Result<Vec<Operation>> {
        let recording =
            named(&mut self.streams, stream)?.recording.take().ok_or(STREAM_CAPTURE_UNSUPPORTED)?;
        recording.map_err(|_| STREAM_CAPTURE_INVALIDATED)
    }

    /// Ends a recording by something that cannot be recorded.
    fn spoil(&mut self, stream: u64, code: Code) -> Code {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.recording = Some(Err(STREAM_CAPTURE_INVALIDATED));
        }
        code
    }

    /// Of a stream's launches. A launch of a library's overlaps nothing, but those behind it may overlap it.
    fn order(&mut self, stream: u64, operation: &Operation) -> Result<&mut Order> {
        let order = &mut named(&mut self.streams, stream)?.order;
        match operation {
            Operation::Copy { .. } | Operation::Fill { .. } => order.end(),
            Operation::Product(_) => order.forget(),
            _ => (),
        }
        Ok(order)
    }

    fn is_done(&self, point: Point) -> bool {
        // A stream that is gone has done its work.
        self.streams.get(&point.stream).is_none_or(|stream| stream.done >= point.count)
    }
}

impl Driver {
    /// Works a stream off.
    pub(crate) fn synchronize(&mut self, stream: u64) -> Result {
        let named_stream = named(&mut self.streams.streams, stream)?;
        if named_stream.recording.is_some() {
            return Err(self.streams.spoil(stream, STREAM_CAPTURE_UNSUPPORTED));
        }
        let count = named_stream.queued;
        self.reach(Point { stream, count })
    }

    /// Works every stream off.
    pub(crate) fn synchronize_all(&mut self) -> Result {
        let streams: Vec<u64> = self.streams.streams.keys().copied().collect();
        streams.into_iter().try_for_each(|stream| self.synchronize(stream))
    }

    /// Whether the event's point is reached. Asking again and again gets there, if anything does: each time one more piece of work is done.
    pub(crate) fn query(&mut self, event: u64) -> Result<bool> {
        let Some(point) = *self.streams.events.get(&event).ok_or(INVALID_HANDLE)? else { return Ok(true) };
        self.look(point)
    }

    /// Whether a stream has done all its work, with the same effect.
    pub(crate) fn query_stream(&mut self, stream: u64) -> Result<bool> {
        let named_stream = named(&mut self.streams.streams, stream)?;
        if named_stream.recording.is_some() {
            return Err(self.streams.spoil(stream, STREAM_CAPTURE_UNSUPPORTED));
        }
        let count = named_stream.queued;
        self.look(Point { stream, count })
    }

    fn look(&mut self, point: Point) -> Result<bool> {
        if self.streams.is_done(point) {
            return Ok(true);
        }
        self.step(point.stream, &mut Vec::new())?;
        Ok(false)
    }

    pub(crate) fn synchronize_event(&mut self, event: u64) -> Result {
        match *self.streams.events.get(&event).ok_or(INVALID_HANDLE)? {
            Some(point) => self.reach(point),
            None => Ok(()),
        }
    }

    /// Waits, then forgets the stream.
    pub(crate) fn remove_stream(&mut self, stream: u64) -> Result {
        let outcome = self.synchronize(stream);
        self.streams.streams.remove(&stream).map(drop).ok_or(INVALID_HANDLE)?;
        // A context that has failed still forgets its streams.
        if self.failed.is_some() { Ok(()) } else { outcome }
    }

    /// Where a driver would wait for ever, because of words that nobody writes, the context fails.
    fn reach(&mut self, point: Point) -> Result {
        while !self.streams.is_done(point) {
            if !self.step(point.stream, &mut Vec::new())? {
                self.failed = Some(LAUNCH_TIMEOUT);
                return Err(LAUNCH_TIMEOUT);
            }
        }
        Ok(())
    }

    /// Does a piece of work that brings this stream on: its next one, or where that waits, one of a stream that it waits for. Streams that wait for this one are in `behind`.
    /// False if there is none.
    fn step(&mut self, stream: u64, behind: &mut Vec<u64>) -> Result<bool> {
        if let Some(code) = self.failed {
            // What was queued is never done: its callers have been told so, and may have given up the memory.
            return Err(code);
        }
        let Some(named_stream) = self.streams.streams.get(&stream) else { return Ok(false) };
        let Some(operation) = named_stream.queue.front().cloned() else { return Ok(false) };
        if let Some(others) = self.waits_for(&operation)? {
            behind.push(stream);
            let mut has_stepped = false;
            for other in others {
                has_stepped = has_stepped || (!behind.contains(&other) && self.step(other, behind)?);
            }
            behind.pop();
            return Ok(has_stepped);
        }
        let outcome = self.perform(&operation, stream);
        if let Some(stream) = self.streams.streams.get_mut(&stream) {
            stream.queue.pop_front();
            stream.done += 1;
        }
        if let Err(code) = outcome {
            self.failed = Some(code);
        }
        outcome.map(|()| true)
    }

    /// The streams that have to go on before this can be done; none if it can be done now.
    fn waits_for(&mut self, operation: &Operation) -> Result<Option<Vec<u64>>> {
        let point = match operation {
            Operation::Wait(point) => Some(*point),
            Operation::WaitExternal(event) => *named(&mut self.streams.events, *event)?,
            Operation::WaitValue { address, value } => {
                let is_there = read_word(&self.memory, *address)? == *value;
                // Any of them may write it.
                return Ok((!is_there).then(|| self.streams.streams.keys().copied().collect()));
            }
            _ => None,
        };
        Ok(point.filter(|point| !self.streams.is_done(*point)).map(|point| vec![point.stream]))
    }

    fn perform(&mut self, operation: &Operation, stream: u64) -> Result {
        let order = self.streams.order(stream, operation)?;
        match operation {
            Operation::Copy { target, source, bytes, is_target_ours, is_source_ours } => {
                if *is_target_ours {
                    self.memory.check(*target, *bytes as u64)?;
                }
                if *is_source_ours {
                    self.memory.check(*source, *bytes as u64)?;
                }
                // SAFETY: device ranges were checked; host ranges and that they do not overlap is what the caller promised when it queued.
                unsafe { pointer(*target).copy_from_nonoverlapping(pointer(*source), *bytes) };
                Ok(())
            }
            Operation::Fill { target, value, bytes } => {
                self.memory.check(*target, *bytes as u64)?;
                // SAFETY: checked just now.
                unsafe { pointer(*target).write_bytes(*value, *bytes) };
                Ok(())
            }
            Operation::Launch(launch) => launch.run(&self.memory, self.config, order),
            Operation::Time(event) => {
                // An event that is gone is asked by nobody.
                if let Some(time) = self.streams.times.get_mut(event) {
                    *time = Some(Instant::now());
                }
                Ok(())
            }
            Operation::Product(product) => {
                self.products_made += 1;
                product.run(&self.memory)
            }
            // They have been waited for.
            Operation::Wait(_) | Operation::WaitExternal(_) | Operation::WaitValue { .. } => Ok(()),
            Operation::WriteValue { address, value } => {
                self.memory.check_word(*address)?;
                // SAFETY: checked just now; who else looks at it does so as at an atomic.
                unsafe { AtomicU32::from_ptr(pointer(*address).cast()) }.store(*value, Ordering::SeqCst);
                Ok(())
            }
            Operation::RecordExternal(event) => {
                let count = self.streams.streams.get(&stream).map_or(0, |stream| stream.done + 1);
                // An event has to live as long as a graph may record it.
                *named(&mut self.streams.events, *event)? = Some(Point { stream, count });
                Ok(())
            }
        }
    }
}

fn read_word(memory: &Memory, address: u64) -> Result<u32> {
    memory.check_word(address)?;
    // SAFETY: checked just now; who else looks at it does so as at an atomic.
    Ok(unsafe { AtomicU32::from_ptr(pointer(address).cast()) }.load(Ordering::SeqCst))
}
