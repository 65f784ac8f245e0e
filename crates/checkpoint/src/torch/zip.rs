//! The records of a zip archive, all of them stored as they are.
use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::Fault;

const END: &[u8] = b"PK\x05\x06";
const END_64_LOCATOR: &[u8] = b"PK\x06\x07";
const END_64: &[u8] = b"PK\x06\x06";
const ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

const END_BYTES: usize = 22;
const LOCATOR_BYTES: usize = 20;
/// The end may be followed by a comment of so many bytes.
const COMMENT_BYTES_MAX: usize = u16::MAX as usize;
/// The header id of the extra field with 64-bit sizes.
const EXTRA_64: u16 = 1;

/// Where the bytes of each record are in the file, by name. They are inside of the file.
pub(super) type Records = BTreeMap<String, Range<usize>>;

/// Reads the central directory. Compressed and encrypted records are refused: torch writes neither.
pub(super) fn records(file: &[u8]) -> Result<Records, Fault> {
    let directory = directory(file)?;
    let mut rest = Bytes { file, at: directory.start };
    let mut records = Records::new();
    while rest.at < directory.end {
        let (name, range) = entry(&mut rest)?;
        if records.insert(name.clone(), range).is_some() {
            return fault(format!("record {name:?} is there twice"));
        }
    }
    Ok(records)
}

/// The bytes of the central directory.
fn directory(file: &[u8]) -> Result<Range<usize>, Fault> {
    let end = end_record(file)?;
    let mut record = Bytes { file, at: end + 12 };
    let (mut bytes, mut start) = (u64::from(record.u32()?), u64::from(record.u32()?));
    if let Some(large) = end_record_64(file, end)? {
        let mut record = Bytes { file, at: large + 40 };
        (bytes, start) = (record.u64()?, record.u64()?);
    }
    let finish = start.checked_add(bytes).filter(|finish| *finish <= end as u64);
    match finish {
        Some(finish) => Ok(index(start)?..index(finish)?),
        None => fault(format!(
            "the directory is said to be at byte {start}, with {bytes} bytes: truncated or damaged"
        )),
    }
}

fn end_record(file: &[u8]) -> Result<usize, Fault> {
    let last = file.len().checked_sub(END_BYTES);
    let first = file.len().saturating_sub(END_BYTES + COMMENT_BYTES_MAX);
    let found = last.and_then(|last| (first..=last).rev().find(|at| file[*at..].starts_with(END)));
    found.ok_or_else(|| Fault::Archive { message: "truncated: an archive without its directory".to_owned() })
}

/// Where the 64-bit form of the end record is, if there is one.
fn end_record_64(file: &[u8], end: usize) -> Result<Option<usize>, Fault> {
    let Some(locator) = end.checked_sub(LOCATOR_BYTES) else { return Ok(None) };
    if !file[locator..].starts_with(END_64_LOCATOR) {
        return Ok(None);
    }
    let at = index(Bytes { file, at: locator + 8 }.u64()?)?;
    if !file.get(at..).is_some_and(|rest| rest.starts_with(END_64)) {
        return fault(format!("no directory end at byte {at}"));
    }
    Ok(Some(at))
}

fn entry(rest: &mut Bytes<'_>) -> Result<(String, Range<usize>), Fault> {
    rest.expect(ENTRY)?;
    rest.skip(4)?;
    let (flags, method) = (rest.u16()?, rest.u16()?);
    rest.skip(8)?;
    let (mut packed, mut bytes) = (u64::from(rest.u32()?), u64::from(rest.u32()?));
    let [name, extra, comment] = [rest.u16()?, rest.u16()?, rest.u16()?].map(usize::from);
    rest.skip(8)?;
    let mut start = u64::from(rest.u32()?);
    let name = String::from_utf8_lossy(rest.take(name)?).into_owned();
    let extra = rest.take(extra)?;
    rest.skip(comment)?;
    let mut wide = wide(extra)?.into_iter();
    for value in [&mut bytes, &mut packed, &mut start] {
        // What does not fit 32 bits is in the extra field, in this order.
        if *value == u64::from(u32::MAX) {
            *value = wide.next().unwrap_or(*value);
        }
    }
    if method != 0 || packed != bytes || flags & 1 != 0 {
        return fault(format!("record {name:?} is compressed or encrypted, which torch never does"));
    }
    let range = data(rest.file, &name, start, bytes)?;
    Ok((name, range))
}

/// The 64-bit values of an entry's extra field, if it has any.
fn wide(extra: &[u8]) -> Result<Vec<u64>, Fault> {
    let mut fields = Bytes { file: extra, at: 0 };
    while extra.len() - fields.at >= 4 {
        let (id, length) = (fields.u16()?, usize::from(fields.u16()?));
        let field = fields.take(length)?;
        if id == EXTRA_64 {
            return Ok(field.as_chunks().0.iter().map(|value| u64::from_le_bytes(*value)).collect());
        }
    }
    Ok(Vec::new())
}

/// Behind the local header, whose name and extra field have lengths of their own.
fn data(file: &[u8], name: &str, start: u64, bytes: u64) -> Result<Range<usize>, Fault> {
    let mut local = Bytes { file, at: index(start)? };
    local.expect(LOCAL)?;
    local.skip(22)?;
    let [name_bytes, extra_bytes] = [local.u16()?, local.u16()?].map(usize::from);
    local.skip(name_bytes + extra_bytes)?;
    let end = (local.at as u64).checked_add(bytes).filter(|end| *end <= file.len() as u64);
    match end {
        Some(end) => Ok(local.at..index(end)?),
        None => fault(format!(
            "record {name:?} has {bytes} bytes from byte {} on: truncated or damaged",
            local.at
        )),
    }
}

/// Reads little-endian numbers, one behind the other.
struct Bytes<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let found = self.at.checked_add(count).and_then(|end| self.file.get(self.at..end));
        let Some(found) = found else { return fault(format!("truncated at byte {}", self.at)) };
        self.at += count;
        Ok(found)
    }

    fn skip(&mut self, count: usize) -> Result<(), Fault> {
        self.take(count).map(|_| ())
    }

    fn expect(&mut self, mark: &[u8]) -> Result<(), Fault> {
        let at = self.at;
        if self.take(mark.len())? == mark { Ok(()) } else { fault(format!("no record at byte {at}")) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let bytes = self.take(N)?;
        Ok(std::array::from_fn(|index| bytes[index]))
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }
}

fn index(value: u64) -> Result<usize, Fault> {
    usize::try_from(value).or_else(|_| fault(format!("byte {value} is beyond every file")))
}

fn fault<T>(message: String) -> Result<T, Fault> {
    Err(Fault::Archive { message })
}
