//! From what a pickle describes to tensors in the file.
use std::ops::Range;

use lighterage_shape::{Layout, RANK_MAX};

use super::machine::{Described, Id, Made, Value};
use super::zip::Records;
use crate::error::Fault;
use crate::header::{Entry, bytes_of};

/// The last part of the pickle's name in an archive.
const PICKLE: &str = "data.pkl";
/// Dictionaries within dictionaries, at most.
const DEPTH_MAX: usize = 8;
/// Values that are looked at, at most: a few bytes of pickle can share one dictionary a billion times.
const VISITS_MAX: usize = 1 << 20;
/// Bytes of all their names together, at most: one long key can stand before each of them.
const NAME_BYTES_MAX: usize = 1 << 24;

/// Where the pickle is.
pub(super) fn pickle(records: &Records) -> Result<Range<usize>, Fault> {
    let mut found = records.iter().filter(|(name, _)| name.ends_with(PICKLE));
    match (found.next(), found.next()) {
        (Some((_, range)), None) => Ok(range.clone()),
        _ => Err(Fault::Archive { message: format!("no torch file: it should hold one record {PICKLE}") }),
    }
}

/// Every tensor of the result, by name, and which names of the outermost dictionary are dictionaries.
pub(super) fn collect(
    made: &Made,
    file: &[u8],
    records: &Records,
) -> Result<(Vec<Entry>, Vec<String>), Fault> {
    check_byte_order(file, records)?;
    let mut walk = Walk { made, visits: 0, name_bytes: 0, found: Vec::new() };
    walk.visit(made.root, "", 0)?;
    let folder = records.keys().find_map(|name| name.strip_suffix(PICKLE)).unwrap_or_default();
    let entry = |(name, tensor): (String, &Described)| entry(name, tensor, folder, records);
    let mut entries = walk.found.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Fault::Duplicate { tensor: pair[0].name.clone() });
    }
    Ok((entries, groups(made)))
}

fn check_byte_order(file: &[u8], records: &Records) -> Result<(), Fault> {
    let order = records.iter().find(|(name, _)| name.ends_with("/byteorder"));
    match order.map(|(_, range)| &file[range.clone()]) {
        None | Some(b"little") => Ok(()),
        Some(other) => {
            let other = String::from_utf8_lossy(&other[..other.len().min(16)]).into_owned();
            Err(Fault::Archive { message: format!("its byte order is {other:?}, should be \"little\"") })
        }
    }
}

struct Walk<'a> {
    made: &'a Made,
    visits: usize,
    name_bytes: usize,
    found: Vec<(String, &'a Described)>,
}

impl Walk<'_> {
    fn visit(&mut self, id: Id, name: &str, depth: usize) -> Result<(), Fault> {
        self.visits += 1;
        self.name_bytes += name.len();
        if self.visits > VISITS_MAX || self.name_bytes > NAME_BYTES_MAX || depth > DEPTH_MAX {
            let message = format!(
                "nested deeper than {DEPTH_MAX}, or more than {VISITS_MAX} values or {NAME_BYTES_MAX} bytes of names"
            );
            return Err(Fault::Archive { message });
        }
        let made = self.made;
        match &made.heap[id] {
            Value::Tensor(tensor) => self.found.push((name.to_owned(), tensor)),
            Value::Dictionary(pairs) => {
                for (key, value) in pairs {
                    if let Value::Text(key) = &made.heap[*key] {
                        self.visit(*value, &joined(name, key), depth + 1)?;
                    }
                }
            }
            Value::List(items) | Value::Tuple(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.visit(*item, &joined(name, &index.to_string()), depth + 1)?;
                }
            }
            _ => (),
        }
        Ok(())
    }
}

fn joined(outer: &str, inner: &str) -> String {
    if outer.is_empty() { inner.to_owned() } else { format!("{outer}.{inner}") }
}

fn groups(made: &Made) -> Vec<String> {
    let Value::Dictionary(pairs) = &made.heap[made.root] else { return Vec::new() };
    let group = |(key, value): &(Id, Id)| match (&made.heap[*key], &made.heap[*value]) {
        (Value::Text(key), Value::Dictionary(_)) => Some(key.clone()),
        _ => None,
    };
    pairs.iter().filter_map(group).collect()
}

/// Checks one tensor against its record: then its range is inside of the file, aligned, and has the bytes of its layout.
fn entry(tensor: String, described: &Described, folder: &str, records: &Records) -> Result<Entry, Fault> {
    let Described { storage, offset, shape, strides } = described;
    let dtype = storage.dtype;
    if shape.len() > RANK_MAX {
        return Err(Fault::Rank { tensor, rank: shape.len(), limit: RANK_MAX });
    }
    let Some(bytes) = bytes_of(dtype, shape) else {
        return Err(Fault::Oversized { tensor, dtype, shape: shape.clone() });
    };
    if !is_contiguous(shape, strides) {
        return Err(Fault::Strides { tensor, shape: shape.clone(), strides: strides.clone() });
    }
    let record = format!("{folder}data/{}", storage.key);
    let Some(range) = records.get(&record) else { return Err(Fault::NoStorage { tensor, record }) };
    let begin = offset.saturating_mul(dtype.bytes() as u64);
    let end = begin.saturating_add(bytes);
    let data_bytes = range.len() as u64;
    if end > data_bytes || storage.elements.saturating_mul(dtype.bytes() as u64) > data_bytes {
        return Err(Fault::OutOfRange { tensor, begin, end, data_bytes });
    }
    // Within the record, whose range fits the file and so a usize.
    let at = |offset: u64| range.start + usize::try_from(offset).unwrap_or(range.len());
    let range = at(begin)..at(end);
    if !range.start.is_multiple_of(dtype.bytes()) {
        return Err(Fault::Misaligned { tensor, file_offset: range.start as u64, dtype });
    }
    let extents: Vec<usize> =
        shape.iter().map(|extent| usize::try_from(*extent).unwrap_or(usize::MAX)).collect();
    Ok(Entry { name: tensor, layout: Layout::contiguous(dtype, &extents), range })
}

/// In C order; strides of dimensions with one element, and of empty tensors, say nothing.
fn is_contiguous(shape: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1_u64;
    let dense = shape.iter().zip(strides).rev().all(|(extent, stride)| {
        let fits = *extent == 1 || *stride == expected;
        expected = expected.saturating_mul(*extent);
        fits
    });
    dense || shape.contains(&0)
}
