use std::path::PathBuf;

use lighterage_shape::DType;

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a checkpoint could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such tensor.
    #[error("{}: tensor {tensor:?} is missing", path.display())]
    Missing {
        /// The file, index or folder that was opened.
        path: PathBuf,
        /// The name that was asked for.
        tensor: String,
    },
    /// Of layers that are numbered the checkpoint has more than the model is said to have: its result would be another model's.
    #[error("{}: {field} is {layers}, and tensor {tensor:?} belongs to one more", path.display())]
    MoreLayers {
        /// The file, index or folder that was opened.
        path: PathBuf,
        /// What the configuration calls the number of layers.
        field: &'static str,
        /// That number.
        layers: usize,
        /// A tensor of a layer behind them.
        tensor: String,
    },
    /// The operating system refused.
    #[error("{}: cannot {call}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        call: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// A pipe, a device or a folder where a file should be.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// What it is called.
        path: PathBuf,
    },
    /// A file that breaks the format.
    #[error("{}: {fault}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// An index that is not JSON of the known form.
    #[error("{}: {message}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// An index that names a file outside of its folder.
    #[error("{}: tensor {tensor:?} is said to be in {shard:?}, which is not a file inside the index's folder", path.display())]
    ShardOutside {
        /// The index.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard as the index writes it.
        shard: String,
    },
    /// An index that names a file which is not there.
    #[error("{}: shard {shard:?} is missing, with tensor {tensor:?}{}", path.display(), and_more(*tensors - 1))]
    ShardMissing {
        /// The index.
        path: PathBuf,
        /// The shard as the index writes it.
        shard: String,
        /// The first tensor in it.
        tensor: String,
        /// How many tensors are said to be in it.
        tensors: usize,
    },
    /// An index that names a tensor which its shard does not have.
    #[error("{}: tensor {tensor:?} is said to be in {shard:?}, which does not have it", path.display())]
    NotInShard {
        /// The index.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard as the index writes it.
        shard: String,
    },
    /// A tensor that two shards have.
    #[error("{}: tensor {tensor:?} is also in {}", path.display(), other.display())]
    InTwoShards {
        /// The second shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first shard.
        other: PathBuf,
    },
    /// A folder with no checkpoint in it.
    #[error("{}: no *.safetensors and no *.safetensors.index.json in this folder", path.display())]
    NoCandidate {
        /// The folder.
        path: PathBuf,
    },
    /// A folder with more than one checkpoint in it.
    #[error("{}: {} checkpoints in this folder, name one: {}", path.display(), found.len(), found.join(", "))]
    Candidates {
        /// The folder.
        path: PathBuf,
        /// The names of the files, sorted.
        found: Vec<String>,
    },
    /// A weight that is NaN or infinite.
    #[error("{}: tensor {tensor:?} has {value} at element {element} of {elements}", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first such element, in C order.
        element: usize,
        /// How many elements there are.
        elements: usize,
        /// What it is.
        value: f64,
    },
    /// Tensors that cannot be written as given.
    #[error("{}: cannot write: {fault}", path.display())]
    Write {
        /// The file that was to be written. It is untouched.
        path: PathBuf,
        /// What is wrong with the tensors.
        fault: Fault,
    },
}

/// What is wrong with one safetensors file. Offsets are in bytes from the start of the data area, but where it says `file`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Too short for the eight bytes of the header's length.
    #[error("not a safetensors file, or a truncated one: {}, and the header's length alone takes 8", bytes(*file_bytes))]
    TooShort {
        /// Bytes of the file.
        file_bytes: u64,
    },
    /// A header without bytes.
    #[error("not a safetensors file, or a damaged one: its header would have 0 bytes")]
    NoHeader,
    /// A header beyond the limit.
    #[error(
        "not a safetensors file, or a damaged one: its header would have {declared} bytes, at most {limit} are read"
    )]
    HeaderTooLarge {
        /// Bytes that the file claims.
        declared: u64,
        /// [`HEADER_BYTES_MAX`](crate::HEADER_BYTES_MAX).
        limit: u64,
    },
    /// A header that ends after the file.
    #[error("truncated: the header should have {declared} bytes, {available} are there")]
    HeaderTruncated {
        /// Bytes that the file claims.
        declared: u64,
        /// Bytes after the length.
        available: u64,
    },
    /// A header that is not JSON of the known form.
    #[error("the header is not valid: {message}")]
    HeaderJson {
        /// What is wrong, with line and column.
        message: String,
    },
    /// A name that occurs twice.
    #[error("tensor {tensor:?} is there twice")]
    Duplicate {
        /// The name.
        tensor: String,
    },
    /// An element type that is not known.
    #[error("tensor {tensor:?} has the unknown element type {dtype:?}")]
    DType {
        /// The tensor.
        tensor: String,
        /// What the header says, cut at 32 characters.
        dtype: String,
    },
    /// More dimensions than a layout can have.
    #[error("tensor {tensor:?} has {rank} dimensions, at most {limit} are supported")]
    Rank {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        rank: usize,
        /// [`RANK_MAX`](lighterage_shape::RANK_MAX).
        limit: usize,
    },
    /// A shape whose bytes cannot be counted.
    #[error("tensor {tensor:?} is oversized: {dtype}{shape:?} has more than 2^63 bytes")]
    Oversized {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// A range that is reversed or leaves the data area.
    #[error(
        "tensor {tensor:?} is at {begin}..{end}, the file has {} of data (truncated or damaged)",
        bytes(*data_bytes)
    )]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// First byte.
        begin: u64,
        /// One after the last byte.
        end: u64,
        /// Bytes of the data area.
        data_bytes: u64,
    },
    /// A range that does not have the bytes of the shape.
    #[error("tensor {tensor:?} has {got} bytes, {dtype}{shape:?} needs {expected}")]
    Size {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes that element type and shape need.
        expected: u64,
        /// Bytes of its range.
        got: u64,
    },
    /// A tensor that begins before the previous one ends.
    #[error(
        "tensor {tensor:?} begins at {begin}, inside of tensor {previous:?}, which ends at {previous_end}"
    )]
    Overlap {
        /// The tensor.
        tensor: String,
        /// Its first byte.
        begin: u64,
        /// The tensor before it.
        previous: String,
        /// One after that one's last byte.
        previous_end: u64,
    },
    /// Bytes before a tensor that belong to none.
    #[error("tensor {tensor:?} begins at {begin}, a gap of {} after {previous_end}", bytes(begin - previous_end))]
    Gap {
        /// The tensor.
        tensor: String,
        /// Its first byte.
        begin: u64,
        /// Where the bytes before it end.
        previous_end: u64,
    },
    /// Bytes after the last tensor that belong to none.
    #[error("{} after the last tensor: it ends at {end}, the data at {data_bytes}", bytes(data_bytes - end))]
    Trailing {
        /// One after the last tensor's last byte.
        end: u64,
        /// Bytes of the data area.
        data_bytes: u64,
    },
    /// A torch file whose archive is damaged or none that torch writes.
    #[error("not a readable torch file: {message}")]
    Archive {
        /// What is wrong.
        message: String,
    },
    /// A pickle that ends early or says what no list of tensors needs.
    #[error("the pickle is not valid at byte {byte}: {message}")]
    Pickle {
        /// Where, from the start of the pickle.
        byte: usize,
        /// What is wrong.
        message: String,
    },
    /// A pickle that wants to import something that rebuilds no tensor. Nothing was imported.
    #[error("the pickle wants {module}.{name}, which is not among what rebuilds tensors: refused")]
    Forbidden {
        /// The module, cut at 64 characters.
        module: String,
        /// The name in it, cut at 64 characters.
        name: String,
    },
    /// A torch file of before 1.6, or a pickle of something else.
    #[error("a bare pickle, as torch wrote before 1.6: open it with a newer torch and save it again")]
    BarePickle,
    /// A tensor of a pickle that does not lie in C order.
    #[error(
        "tensor {tensor:?} of shape {shape:?} has the strides {strides:?}: only contiguous tensors are read"
    )]
    Strides {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its strides, in elements.
        strides: Vec<u64>,
    },
    /// A tensor whose values are not in the archive.
    #[error("tensor {tensor:?} is said to be in {record:?}, which the archive does not have")]
    NoStorage {
        /// The tensor.
        tensor: String,
        /// The record.
        record: String,
    },
    /// Data that is not aligned for its element type.
    #[error("tensor {tensor:?} is at byte {file_offset} of the file, {dtype} needs a multiple of {}", dtype.bytes())]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Its first byte, from the start of the file.
        file_offset: u64,
        /// Its element type.
        dtype: DType,
    },
}

/// `1 byte`, `2 bytes`.
fn bytes(count: u64) -> String {
    if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") }
}

fn and_more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" and {count} more") }
}
