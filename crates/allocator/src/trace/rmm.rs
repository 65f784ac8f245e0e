//! The log of RMM's logging adaptor: a line for each request and its end.

use std::fmt::Write;

use super::recorder::Recorder;
use super::{Op, Trace};
use crate::{Error, Result};

const HEADER: &str = "Thread,Time,Action,Pointer,Size,Stream";

/// One line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) microseconds: u64,
    pub(crate) action: RowAction,
    pub(crate) pointer: u64,
    pub(crate) bytes: u64,
    pub(crate) stream: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowAction {
    Allocate,
    Failure,
    Free,
}

impl RowAction {
    const ALL: [(Self, &str); 3] =
        [(Self::Allocate, "allocate"), (Self::Failure, "allocate failure"), (Self::Free, "free")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(action, _)| *action == self).map_or("", |(_, name)| name)
    }
}

/// A log of one thread.
pub(crate) fn rmm_csv(rows: impl Iterator<Item = Row>) -> String {
    let mut text = format!("{HEADER}\n");
    for Row { microseconds, action, pointer, bytes, stream } in rows {
        let seconds = microseconds / 1_000_000;
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        let (seconds, rest) = (seconds % 60, microseconds % 1_000_000);
        let pointer = if pointer == 0 { "(nil)".to_owned() } else { format!("{pointer:#x}") };
        let action = action.name();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "0,{hours:02}:{minutes:02}:{seconds:02}.{rest:06},{action},{pointer},{bytes},{stream}"
        );
    }
    text
}

/// Where the columns are.
struct Columns {
    count: usize,
    action: usize,
    pointer: usize,
    bytes: usize,
    stream: usize,
}

impl Trace {
    /// The trace as RMM's logging adaptor writes it: a time is the number of an op, a pointer is made from the id.
    #[must_use]
    pub fn to_rmm_csv(&self) -> String {
        let mut alive = vec![(0, 0); self.ids()];
        rmm_csv((0..).zip(&self.ops).map(|(microseconds, op)| {
            let (action, id) = match *op {
                Op::Alloc { id, stream, bytes } => {
                    alive[id as usize] = (bytes, stream.into());
                    (RowAction::Allocate, id)
                }
                Op::Free { id } => (RowAction::Free, id),
            };
            let (bytes, stream) = alive[id as usize];
            Row { microseconds, action, pointer: (u64::from(id) + 1) << 20, bytes, stream }
        }))
    }

    /// Reads what RMM's logging adaptor wrote. Lines of refused requests, and ends of what was alive before the log began, are left out.
    ///
    /// ```
    /// use lighterage_allocator::Trace;
    /// let log = "Thread,Time,Action,Pointer,Size,Stream\n\
    ///            7,12:00:00.000001,allocate,0x7f0000000000,1024,0\n\
    ///            7,12:00:00.000002,free,0x7f0000000000,1024,0\n";
    /// assert_eq!(Trace::from_rmm_csv(log)?.peak_bytes(), 1024);
    /// # Ok::<(), lighterage_allocator::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Trace`] with the line that cannot be read.
    pub fn from_rmm_csv(text: &str) -> Result<Self> {
        let mut lines = (1..).zip(text.lines());
        let (_, header) = lines.next().ok_or_else(|| bad(1, "there is no header"))?;
        let columns = columns(header)?;
        let mut recorder = Recorder::default();
        for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            read(&mut recorder, &columns, line).map_err(|reason| bad(number, reason))?;
        }
        Ok(recorder.into_trace())
    }
}

fn columns(header: &str) -> Result<Columns> {
    let names: Vec<&str> = header.split(',').map(str::trim).collect();
    let find = |name: &str| {
        let position = names.iter().position(|known| known.eq_ignore_ascii_case(name));
        position.ok_or_else(|| bad(1, format!("the header has no column {name}: {HEADER} is expected")))
    };
    Ok(Columns {
        count: names.len(),
        action: find("Action")?,
        pointer: find("Pointer")?,
        bytes: find("Size")?,
        stream: find("Stream")?,
    })
}

fn read(recorder: &mut Recorder, columns: &Columns, line: &str) -> Result<(), String> {
    let cells: Vec<&str> = line.split(',').map(str::trim).collect();
    if cells.len() != columns.count {
        return Err(format!("{} cells, not {}", cells.len(), columns.count));
    }
    let action = cells[columns.action];
    let action = RowAction::ALL.iter().find(|(_, name)| *name == action);
    let (action, _) = action.ok_or_else(|| format!("there is no action {:?}", cells[columns.action]))?;
    if *action == RowAction::Failure {
        return Ok(());
    }
    let pointer = number(cells[columns.pointer])?;
    if *action == RowAction::Free {
        recorder.free(pointer);
        return Ok(());
    }
    let (bytes, stream) = (number(cells[columns.bytes])?, number(cells[columns.stream])?);
    if recorder.allocate(pointer, stream, bytes) { Ok(()) } else { Err("more than 256 streams".to_owned()) }
}

/// A number, with `0x` in front a hexadecimal one; `(nil)` is 0.
fn number(cell: &str) -> Result<u64, String> {
    let parsed = match (cell, cell.strip_prefix("0x")) {
        ("(nil)", _) => Ok(0),
        (_, Some(digits)) => u64::from_str_radix(digits, 16),
        (_, None) => cell.parse(),
    };
    parsed.map_err(|_| format!("{cell:?} is no number"))
}

fn bad(position: usize, reason: impl Into<String>) -> Error {
    Error::Trace { format: "RMM log, line", position, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_round() {
        let trace = Trace::new([
            Op::Alloc { id: 0, stream: 0, bytes: 1 << 40 },
            Op::Alloc { id: 1, stream: 1, bytes: 7 },
            Op::Free { id: 0 },
            Op::Alloc { id: 0, stream: 1, bytes: 9 },
        ]);
        assert_eq!(Trace::from_rmm_csv(&trace.to_rmm_csv()), Ok(trace));
    }

    /// Lines as RMM's documentation shows them, and what real logs have beside them.
    #[test]
    fn a_log_of_rmm_is_read() {
        let text = "Thread,Time,Action,Pointer,Size,Stream\r\n\
                    4124,23:30:04.254134,free,0x7f0000000600,512,0x7\r\n\
                    4124,23:30:04.254136,allocate,0x7f0000000000,1024,0x1\r\n\
                    4125,23:30:04.254140,allocate failure,(nil),99999999,0x1\r\n\
                    4125,23:30:04.254141,allocate,0x7f0000000400,32,0x2\r\n\
                    4124,23:30:04.254150,free,0x7f0000000000,1024,0x1\r\n\n";
        let expected = Trace::new([
            Op::Alloc { id: 0, stream: 0, bytes: 1024 },
            Op::Alloc { id: 1, stream: 1, bytes: 32 },
            Op::Free { id: 0 },
        ]);
        assert_eq!(Trace::from_rmm_csv(text), Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let with = |line: &str| format!("{HEADER}\n0,0,free,0x1,1,0\n{line}\n");
        let many = (0..257).map(|stream| format!("0,0,allocate,{},1,{stream}", stream + 1));
        for (text, said) in [
            (String::new(), "RMM log, line at 1: there is no header"),
            ("Thread,Time,Action,Pointer,Size\n".to_owned(), "at 1: the header has no column Stream"),
            (with("0,0,free,0x1,1"), "at 3: 5 cells, not 6"),
            (with("0,0,realloc,0x1,1,0"), "at 3: there is no action \"realloc\""),
            (with("0,0,allocate,0xg,1,0"), "at 3: \"0xg\" is no number"),
            (with("0,0,allocate,1,-1,0"), "at 3: \"-1\" is no number"),
            (with(&many.collect::<Vec<_>>().join("\n")), "at 259: more than 256 streams"),
        ] {
            let error = Trace::from_rmm_csv(&text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
