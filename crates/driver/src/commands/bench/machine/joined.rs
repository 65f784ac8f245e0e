//! Two graphs on two streams that wait for each other's events, or flags, and a graph that is dropped while it runs: what the driver makes of both.
#![expect(unsafe_code, reason = "views that cross streams, and replays")]

use lighterage_device::{Cuda, Device, Event, Flags, Graph, Stream, StreamKind, View};
use lighterage_ops::{Queue, Tensor};
use lighterage_shape::DType;
use serde::Serialize;

use crate::failure::Result;

/// Copies before the event: some hundred microseconds on a GPU, long after the other graph has begun.
const DELAYS: usize = 4;
/// Those of a graph that is dropped while it runs: milliseconds.
const DELAYS_DROPPED: usize = 200;
/// Bytes that cross from one graph to the other.
const WORD: usize = 256;

/// In how many of the replays each graph found what the other one had written in the same replay.
#[derive(Debug, Serialize)]
pub(super) struct Joined {
    pub(super) replays: u32,
    /// The graph that records is launched before the one that waits.
    pub(super) recorder_first: u32,
    /// It is launched behind it.
    pub(super) waiter_first: u32,
    /// Both wait for each other, in the middle: the second of the first, and the first of the second.
    pub(super) both_ways: [u32; 2],
    /// Whether all replays were in order where the graph that records is launched first.
    pub(super) ordered: bool,
}

/// A graph that was dropped behind its launch.
#[derive(Debug, Serialize)]
pub(super) struct Dropped {
    /// Whether it was under way before and after that.
    pub(super) was_running: [bool; 2],
    /// Whether its last write arrived.
    pub(super) finished: bool,
}

pub(super) fn order(device: &Device<Cuda>, delay_bytes: u64, replays: u32) -> Result<Joined> {
    let pair = Pair::new(device, delay_bytes)?;
    let [there, back] = [device.event()?, device.event()?];
    let mut first = pair.first(&there, None)?;
    let mut second = pair.second(&there, None)?;
    let mut joined = [pair.first(&there, Some(&back))?, pair.second(&there, Some(&back))?];
    let (mut recorder_first, mut waiter_first, mut both_ways) = (0, 0, [0; 2]);
    for replay in 0..replays {
        // None of them is what the last two left.
        let [one, two, three] = [0, 1, 2].map(|turn| ((3 * replay + turn) % 251) as u8);
        pair.set(one)?;
        pair.replay_first(&mut first)?;
        pair.replay_second(&mut second)?;
        recorder_first += u32::from(pair.found(one)?[0]);
        pair.set(two)?;
        pair.replay_second(&mut second)?;
        pair.replay_first(&mut first)?;
        waiter_first += u32::from(pair.found(two)?[0]);
        pair.set(three)?;
        pair.replay_first(&mut joined[0])?;
        pair.replay_second(&mut joined[1])?;
        for (count, found) in both_ways.iter_mut().zip(pair.found(three)?) {
            *count += u32::from(found);
        }
    }
    Ok(Joined { replays, recorder_first, waiter_first, both_ways, ordered: recorder_first == replays })
}

/// Two graphs that wait for each other by flags.
#[derive(Debug, Serialize)]
pub(super) struct Flagged {
    pub(super) replays: u32,
    /// In how many of them each found what the other one had written in the same replay, launched first or second in turns.
    pub(super) found: [u32; 2],
    /// Whether all did.
    pub(super) by_flags: bool,
}

pub(super) fn flagged(device: &Device<Cuda>, delay_bytes: u64, replays: u32) -> Result<Flagged> {
    let (pair, flags) = (Pair::new(device, delay_bytes)?, device.flags(2)?);
    let mut graphs = [pair.first_flagged(&flags)?, pair.second_flagged(&flags)?];
    let mut found = [0; 2];
    for replay in 0..replays {
        let value = (replay % 251) as u8;
        pair.set(value)?;
        let [first, second] = &mut graphs;
        if replay % 2 == 0 {
            pair.replay_first(first)?;
            pair.replay_second(second)?;
        } else {
            pair.replay_second(second)?;
            pair.replay_first(first)?;
        }
        for (count, found) in found.iter_mut().zip(pair.found(value)?) {
            *count += u32::from(found);
        }
    }
    Ok(Flagged { replays, found, by_flags: found == [replays; 2] })
}

pub(super) fn dropped(device: &Device<Cuda>, delay_bytes: u64) -> Result<Dropped> {
    let (pair, ended) = (Pair::new(device, delay_bytes)?, device.event()?);
    let Pair { queue, source, sent, .. } = &pair;
    let stream = queue.stream();
    let mut graph = stream.capture(|| {
        pair.delay(DELAYS_DROPPED)?;
        stream.copy(sent.view(), source.view())
    })?;
    pair.set(1)?;
    stream.fill(sent.view(), 0)?;
    pair.replay_first(&mut graph)?;
    stream.record(&ended)?;
    let before = !ended.is_complete()?;
    drop(graph);
    let after = !ended.is_complete()?;
    let finished = queue.read::<u8>(sent.view())? == Some(vec![1; WORD]);
    Ok(Dropped { was_running: [before, after], finished })
}

/// Two streams, and what goes from the first to the second and back.
struct Pair {
    queue: Queue<Cuda>,
    other: Stream<Cuda>,
    delays: [Tensor<Cuda>; 2],
    source: Tensor<Cuda>,
    sent: Tensor<Cuda>,
    received: Tensor<Cuda>,
    returned: Tensor<Cuda>,
}

impl Pair {
    fn new(device: &Device<Cuda>, delay_bytes: u64) -> Result<Self> {
        let queue = super::queue(device)?;
        let count = usize::try_from(delay_bytes.max(1 << 10))?;
        let delay = || queue.zeros(DType::U8, &[count], "delay");
        let word = || queue.zeros(DType::U8, &[WORD], "word");
        Ok(Self {
            other: device.stream(StreamKind::Compute)?,
            delays: [delay()?, delay()?],
            source: word()?,
            sent: word()?,
            received: word()?,
            returned: word()?,
            queue,
        })
    }

    /// Waits, writes and says so; then fetches the answer, if there is one.
    fn first(&self, there: &Event<Cuda>, back: Option<&Event<Cuda>>) -> Result<Graph> {
        let stream = self.queue.stream();
        Ok(stream.capture(|| {
            self.delay(DELAYS)?;
            stream.copy(self.sent.view(), self.source.view())?;
            stream.record(there)?;
            if let Some(back) = back {
                stream.wait(back)?;
                stream.copy(self.returned.view(), self.received.view())?;
            }
            Ok(())
        })?)
    }

    /// Fetches what the first has written.
    fn second(&self, there: &Event<Cuda>, back: Option<&Event<Cuda>>) -> Result<Graph> {
        Ok(self.other.capture(|| {
            self.other.wait(there)?;
            self.other.copy(self.as_others(&self.received), self.as_others(&self.sent))?;
            back.map_or(Ok(()), |back| self.other.record(back))
        })?)
    }

    /// As `first`, both ways.
    fn first_flagged(&self, flags: &Flags<Cuda>) -> Result<Graph> {
        let stream = self.queue.stream();
        Ok(stream.capture(|| {
            self.delay(DELAYS)?;
            stream.copy(self.sent.view(), self.source.view())?;
            stream.raise(flags, 0)?;
            stream.take(flags, 1)?;
            stream.copy(self.returned.view(), self.received.view())
        })?)
    }

    fn second_flagged(&self, flags: &Flags<Cuda>) -> Result<Graph> {
        Ok(self.other.capture(|| {
            self.other.take(flags, 0)?;
            self.other.copy(self.as_others(&self.received), self.as_others(&self.sent))?;
            self.other.raise(flags, 1)
        })?)
    }

    fn delay(&self, copies: usize) -> lighterage_device::Result<()> {
        let [a, b] = &self.delays;
        (0..copies).try_for_each(|_| self.queue.stream().copy(a.view(), b.view()))
    }

    /// What the next replay is to hand over; both streams are idle then.
    fn set(&self, value: u8) -> Result<()> {
        self.queue.stream().fill(self.source.view(), value)?;
        self.wait()
    }

    fn replay_first(&self, graph: &mut Graph) -> Result<()> {
        // SAFETY: all tensors are there until `self` is gone, which waits for both streams. Whether the graphs are ordered is what is measured: they race for bytes
        // that any value is right in.
        Ok(unsafe { self.queue.stream().replay(graph) }?)
    }

    fn replay_second(&self, graph: &mut Graph) -> Result<()> {
        // SAFETY: as above.
        Ok(unsafe { self.other.replay(graph) }?)
    }

    /// Whether the value has come to the second stream, and back to the first.
    fn found(&self, value: u8) -> Result<[bool; 2]> {
        self.wait()?;
        let holds = |tensor: &Tensor<Cuda>| -> Result<bool> {
            Ok(self.queue.read::<u8>(tensor.view())? == Some(vec![value; WORD]))
        };
        Ok([holds(&self.received)?, holds(&self.returned)?])
    }

    fn wait(&self) -> Result<()> {
        self.queue.stream().synchronize()?;
        Ok(self.other.synchronize()?)
    }

    fn as_others<'a>(&self, tensor: &'a Tensor<Cuda>) -> View<'a> {
        let view = tensor.view();
        // SAFETY: the same bytes, mapped as long; `self` waits for both streams before they go.
        unsafe { View::new(view.address(), *view.layout(), self.other.id()) }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // A failure was reported by the call that it belongs to.
        let _ = self.wait();
    }
}
