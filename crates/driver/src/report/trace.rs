use std::io::{self, Write};

use lighterage_device::{Counter, Dependency, Recording, Span, StreamId, StreamKind, What};

/// What the recording is of.
pub(super) struct About<'a> {
    pub(super) device: &'a str,
    pub(super) cap_bytes: u64,
}

/// One process, the host's thread and the streams' (Chrome's trace event format, which Perfetto reads).
const PROCESS: u32 = 1;
const HOST: usize = 1;
const FIRST_STREAM: usize = 2;

/// Writes a recording as a JSON object with `traceEvents`: times in microseconds, complete events (`X`) for what a stream or the host did, asynchronous ones
/// (`b`, `e`) for leases, which overlap, counters (`C`), and a flow (`s`, `f`) from what an event was recorded behind to the wait for it.
pub(super) fn write(file: &mut dyn Write, about: &About<'_>, recording: &Recording) -> io::Result<()> {
    let mut events = Events { file, recording, is_first: true };
    write!(
        events.file,
        "{{\"displayTimeUnit\":\"ns\",\"otherData\":{{\"program\":\"lighterage {}\",\"device\":{},\"cap_bytes\":{},\"dropped\":{}}},\"traceEvents\":[",
        env!("CARGO_PKG_VERSION"),
        text(about.device),
        about.cap_bytes,
        recording.dropped,
    )?;
    events.names(about)?;
    events.spans()?;
    events.flows()?;
    events.counters(about)?;
    writeln!(events.file, "\n]}}")
}

struct Events<'a> {
    file: &'a mut dyn Write,
    recording: &'a Recording,
    is_first: bool,
}

impl Events<'_> {
    fn event(&mut self, fields: &str) -> io::Result<()> {
        let comma = if std::mem::take(&mut self.is_first) { "" } else { "," };
        write!(self.file, "{comma}\n{{\"pid\":{PROCESS},{fields}}}")
    }

    /// Who is who.
    fn names(&mut self, about: &About<'_>) -> io::Result<()> {
        let process = text(&format!("lighterage on {}", about.device));
        self.event(&format!("\"ph\":\"M\",\"name\":\"process_name\",\"args\":{{\"name\":{process}}}"))?;
        let mut threads = vec![(HOST, "host".to_owned())];
        threads.extend(self.recording.streams.iter().map(|(id, kind)| {
            let name = match kind {
                StreamKind::Compute => "compute stream",
                StreamKind::Copy => "copy stream",
            };
            (self.thread(Some(*id)), format!("{name} ({id})"))
        }));
        for (thread, name) in threads {
            let name = text(&name);
            self.event(&format!(
                "\"tid\":{thread},\"ph\":\"M\",\"name\":\"thread_name\",\"args\":{{\"name\":{name}}}"
            ))?;
            self.event(&format!(
                "\"tid\":{thread},\"ph\":\"M\",\"name\":\"thread_sort_index\",\"args\":{{\"sort_index\":{thread}}}"
            ))?;
        }
        Ok(())
    }

    fn thread(&self, stream: Option<StreamId>) -> usize {
        let place = stream.and_then(|id| self.recording.streams.iter().position(|(known, _)| *known == id));
        place.map_or(HOST, |place| FIRST_STREAM + place)
    }

    /// Nested ones from the outside in: by begin, the longest first.
    fn spans(&mut self) -> io::Result<()> {
        let mut order: Vec<usize> = (0..self.recording.spans.len()).collect();
        let spans = &self.recording.spans;
        order.sort_by_key(|index| (spans[*index].begin_ns, std::cmp::Reverse(spans[*index].end_ns)));
        for index in order {
            let span = self.recording.spans[index].clone();
            let (thread, name, category) =
                (self.thread(span.stream), text(&label(&span)), category(span.what));
            let common = format!("\"tid\":{thread},\"name\":{name},\"cat\":\"{category}\"");
            if span.what == What::Lease {
                let (begin, end, bytes) = (us(span.begin_ns), us(span.end_ns), span.bytes);
                self.event(&format!(
                    "{common},\"ph\":\"b\",\"id\":{index},\"ts\":{begin},\"args\":{{\"bytes\":{bytes}}}"
                ))?;
                self.event(&format!("{common},\"ph\":\"e\",\"id\":{index},\"ts\":{end}"))?;
            } else {
                let (ts, duration) = (us(span.begin_ns), us(span.end_ns.saturating_sub(span.begin_ns)));
                let arguments = match span.bytes {
                    0 => String::new(),
                    bytes => format!(",\"args\":{{\"bytes\":{bytes}}}"),
                };
                self.event(&format!("{common},\"ph\":\"X\",\"ts\":{ts},\"dur\":{duration}{arguments}"))?;
            }
        }
        Ok(())
    }

    /// A flow begins within the last thing that its stream did before the event, and ends in the wait.
    fn flows(&mut self) -> io::Result<()> {
        let mut work: Vec<&Span> = self.recording.spans.iter().filter(|span| span.what.is_work()).collect();
        work.sort_by_key(|span| span.end_ns);
        for (number, Dependency { from, at_ns, wait }) in self.recording.dependencies.iter().enumerate() {
            let before = work.partition_point(|span| span.end_ns <= *at_ns);
            let Some(source) = work[..before].iter().rev().find(|span| span.stream == Some(*from)) else {
                continue;
            };
            let wait = &self.recording.spans[*wait];
            let (thread, at) = (self.thread(source.stream), us(source.begin_ns.midpoint(source.end_ns)));
            let (waiting, until) =
                (self.thread(wait.stream), us(wait.begin_ns.max(source.end_ns).min(wait.end_ns)));
            let common = format!("\"name\":\"event\",\"cat\":\"event\",\"id\":{number}");
            self.event(&format!("\"tid\":{thread},{common},\"ph\":\"s\",\"ts\":{at}"))?;
            self.event(&format!("\"tid\":{waiting},{common},\"ph\":\"f\",\"bp\":\"e\",\"ts\":{until}"))?;
        }
        Ok(())
    }

    fn counters(&mut self, about: &About<'_>) -> io::Result<()> {
        let begin = us(self.recording.begin_ns);
        if about.cap_bytes < 1 << 60 {
            let cap = about.cap_bytes;
            self.event(&format!(
                "\"ph\":\"C\",\"name\":\"device: cap\",\"ts\":{begin},\"args\":{{\"bytes\":{cap}}}"
            ))?;
        }
        for sample in &self.recording.samples {
            let name = match sample.counter {
                Counter::Granted(purpose) => format!("device: {purpose}"),
                Counter::Pinned(purpose) => format!("host: {purpose}"),
                Counter::InUse => "pool: in use".to_owned(),
                Counter::Allocated => "allocator: in use".to_owned(),
                Counter::Pending => "allocator: pending".to_owned(),
                Counter::Reserved => "allocator: reserved".to_owned(),
                Counter::Idle => "allocator: idle".to_owned(),
            };
            let (at, bytes) = (us(sample.at_ns), sample.bytes);
            self.event(&format!(
                "\"ph\":\"C\",\"name\":\"{name}\",\"ts\":{at},\"args\":{{\"bytes\":{bytes}}}"
            ))?;
        }
        Ok(())
    }
}

fn label(span: &Span) -> String {
    match span.what {
        What::Step => format!("step {}", span.name),
        _ => span.name.to_string(),
    }
}

const fn category(what: What) -> &'static str {
    match what {
        What::Phase => "phase",
        What::Step => "step",
        What::Lease => "lease",
        What::Arrival => "weights",
        What::Kernel => "kernel",
        What::CopyIn | What::CopyOut | What::Move => "copy",
        What::Wait => "wait",
    }
}

/// Microseconds with all their nanoseconds.
fn us(nanoseconds: u64) -> String {
    format!("{}.{:03}", nanoseconds / 1000, nanoseconds % 1000)
}

/// As a JSON string.
fn text(plain: &str) -> String {
    serde_json::Value::from(plain).to_string()
}
