use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use lighterage_shape::{DType, Layout, RANK_MAX};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::Fault;

/// The largest header that is read, in bytes: the limit of the format's own reader.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Bytes of the little-endian length in front of the header.
const LENGTH_BYTES: usize = 8;
/// Not a tensor: free-form texts.
pub(crate) const METADATA_KEY: &str = "__metadata__";

/// What a file's header says, checked against the file.
///
/// The format (<https://github.com/huggingface/safetensors>, README, "Format"): eight bytes of little-endian length, a JSON object that
/// may be padded with spaces, then the data, which the tensors cover without gap or overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// By name.
    entries: Vec<Entry>,
    metadata: BTreeMap<String, String>,
    bytes: usize,
}

/// One tensor of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Element type and shape, in C order.
    pub layout: Layout,
    /// Its bytes, from the start of the file; inside of the file, and as many as the layout has.
    pub range: Range<usize>,
}

impl Header {
    /// Reads and checks the header of a whole file.
    ///
    /// # Errors
    /// The [`Fault`] that was found first: of the header's length, of its JSON, of single tensors in the order of their names, of their
    /// arrangement in the order of their offsets.
    pub fn parse(file: &[u8]) -> Result<Self, Fault> {
        let json = json_bytes(file)?;
        let bytes = LENGTH_BYTES + json.len();
        let raw: RawHeader =
            serde_json::from_slice(json).map_err(|error| Fault::HeaderJson { message: error.to_string() })?;
        let named = sorted(raw.tensors)?;
        let data_bytes = (file.len() - bytes) as u64;
        let entries = named
            .into_iter()
            .map(|(name, raw)| entry(name, &raw, bytes, data_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        check_arrangement(&entries, bytes, data_bytes)?;
        Ok(Self { entries, metadata: raw.metadata, bytes })
    }

    /// All tensors, by name.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The file's free-form texts.
    #[must_use]
    pub const fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Bytes of length and JSON: where the data begins in the file.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }
}

fn json_bytes(file: &[u8]) -> Result<&[u8], Fault> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(Fault::TooShort { file_bytes: file.len() as u64 });
    };
    let declared = u64::from_le_bytes(*length);
    let available = rest.len() as u64;
    match declared {
        0 => Err(Fault::NoHeader),
        _ if declared > HEADER_BYTES_MAX => Err(Fault::HeaderTooLarge { declared, limit: HEADER_BYTES_MAX }),
        _ if declared > available => Err(Fault::HeaderTruncated { declared, available }),
        _ => begins_with_brace(&rest[..bounded(declared)]),
    }
}

fn begins_with_brace(json: &[u8]) -> Result<&[u8], Fault> {
    if json.starts_with(b"{") {
        return Ok(json);
    }
    let first = json[..json.len().min(1)].escape_ascii();
    Err(Fault::HeaderJson { message: format!("it should begin with '{{', not with '{first}'") })
}

fn sorted(mut tensors: Vec<(String, RawEntry)>) -> Result<Vec<(String, RawEntry)>, Fault> {
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    match tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(Fault::Duplicate { tensor: pair[0].0.clone() }),
        None => Ok(tensors),
    }
}

fn entry(tensor: String, raw: &RawEntry, data_start: usize, data_bytes: u64) -> Result<Entry, Fault> {
    let (layout, expected) = checked_layout(&tensor, raw)?;
    let [begin, end] = raw.data_offsets;
    if begin > end || end > data_bytes {
        return Err(Fault::OutOfRange { tensor, begin, end, data_bytes });
    }
    if end - begin != expected {
        let shape = layout.shape().to_vec();
        return Err(Fault::Size { tensor, dtype: layout.dtype(), shape, expected, got: end - begin });
    }
    // Both are at most the length of a slice.
    let range = data_start + bounded(begin)..data_start + bounded(end);
    if begin < end && !range.start.is_multiple_of(layout.dtype().bytes()) {
        return Err(Fault::Misaligned { tensor, file_offset: range.start as u64, dtype: layout.dtype() });
    }
    Ok(Entry { name: tensor, layout, range })
}

/// The layout, and its bytes.
fn checked_layout(tensor: &str, raw: &RawEntry) -> Result<(Layout, u64), Fault> {
    let dtype = DType::from_name(&raw.dtype).ok_or_else(|| Fault::DType {
        tensor: tensor.to_owned(),
        dtype: raw.dtype.chars().take(32).collect(),
    })?;
    let shape = raw.shape.extents().ok_or_else(|| Fault::Rank {
        tensor: tensor.to_owned(),
        rank: raw.shape.rank,
        limit: RANK_MAX,
    })?;
    let bytes = bytes_of(dtype, shape).ok_or_else(|| Fault::Oversized {
        tensor: tensor.to_owned(),
        dtype,
        shape: shape.to_vec(),
    })?;
    let mut extents = [0; RANK_MAX];
    for (extent, value) in extents.iter_mut().zip(shape) {
        *extent = bounded(*value);
    }
    Ok((Layout::contiguous(dtype, &extents[..shape.len()]), bytes))
}

/// Bytes of a shape. Extents of zero count as one on the way: strides are products too, and must not overflow either.
pub(crate) fn bytes_of(dtype: DType, shape: &[u64]) -> Option<u64> {
    let span =
        shape.iter().try_fold(dtype.bytes() as u64, |bytes, extent| bytes.checked_mul((*extent).max(1)))?;
    let empty = shape.contains(&0);
    (span <= i64::MAX as u64).then_some(if empty { 0 } else { span })
}

/// A number that was checked to be below `i64::MAX`, as an index.
fn bounded(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn check_arrangement(entries: &[Entry], data_start: usize, data_bytes: u64) -> Result<(), Fault> {
    let mut by_offset: Vec<&Entry> = entries.iter().collect();
    by_offset.sort_by_key(|entry| (entry.range.start, entry.range.end));
    let relative = |offset: usize| (offset - data_start) as u64;
    let (mut previous, mut previous_end) = ("", 0);
    for entry in by_offset {
        let begin = relative(entry.range.start);
        let tensor = || entry.name.clone();
        if begin < previous_end {
            return Err(Fault::Overlap {
                tensor: tensor(),
                begin,
                previous: previous.to_owned(),
                previous_end,
            });
        }
        if begin > previous_end {
            return Err(Fault::Gap { tensor: tensor(), begin, previous_end });
        }
        (previous, previous_end) = (&entry.name, relative(entry.range.end));
    }
    if previous_end == data_bytes { Ok(()) } else { Err(Fault::Trailing { end: previous_end, data_bytes }) }
}

/// The header as JSON has it: keys in their order, twice if they are there twice.
struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
#[serde(expecting = "an object with dtype, shape and data_offsets")]
struct RawEntry {
    dtype: String,
    shape: RawShape,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader { tensors: Vec::new(), metadata: BTreeMap::new() };
        let mut metadata: Option<Texts> = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != METADATA_KEY {
                let value =
                    map.next_value().map_err(|error| A::Error::custom(format!("tensor {key:?}: {error}")))?;
                header.tensors.push((key, value));
            } else if metadata.replace(map.next_value()?).is_some() {
                return Err(A::Error::custom(format!("{METADATA_KEY} is there twice")));
            }
        }
        header.metadata = metadata.map(|texts| texts.0).unwrap_or_default();
        Ok(header)
    }
}

/// Texts by key; a key that is there twice is an error.
#[derive(Debug)]
pub(crate) struct Texts(pub(crate) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if texts.contains_key(&key) {
                return Err(A::Error::custom(format!("{key:?} is there twice")));
            }
            texts.insert(key, value);
        }
        Ok(Texts(texts))
    }
}

/// Up to [`RANK_MAX`] extents; the rest of a longer list is counted, not kept.
struct RawShape {
    extents: [u64; RANK_MAX],
    rank: usize,
}

impl RawShape {
    fn extents(&self) -> Option<&[u64]> {
        self.extents.get(..self.rank)
    }
}

impl<'de> Deserialize<'de> for RawShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = RawShape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of extents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawShape, A::Error> {
        let mut shape = RawShape { extents: [0; RANK_MAX], rank: 0 };
        while shape.rank < RANK_MAX {
            let Some(extent) = list.next_element()? else { return Ok(shape) };
            shape.extents[shape.rank] = extent;
            shape.rank += 1;
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            shape.rank += 1;
        }
        Ok(shape)
    }
}
