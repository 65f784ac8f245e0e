//! Finds tensors in safetensors files, single, sharded or in the folder of a pipeline, and in torch's pickles without executing them; writes
//! safetensors files.
//!
//! # What
//!
//! [`Checkpoint::open`] maps files and reads their headers, nothing else: a 24 GB checkpoint opens in milliseconds, and the bytes of a
//! [`Tensor`] are slices of the mapped file, read by the operating system when they are first touched. A clone of a tensor keeps its
//! file mapped, so nothing above needs a lifetime. [`write()`] makes small files (latents, outputs) in the same format.
//!
//! # Why so
//!
//! *Checked once, trusted after.* [`Header::parse`] accepts a file only if its tensors are of known types, fit their shapes, are aligned,
//! and cover the data area without gap or overlap. From then on a tensor's range is inside its file by construction, and no reader
//! checks again. Files come from strangers: every refusal is a [`Fault`] with the tensor and the numbers, nothing panics, and no
//! allocation is larger than a small multiple of the header, which is itself bounded ([`HEADER_BYTES_MAX`]).
//!
//! *A pickle is a program.* Torch's own files ([`Archive`]) hold one that rebuilds the tensors. It is run on a machine of twenty lines of state that can make
//! containers and describe tensors, and knows seven imports and torch's storage classes, each by name; any other import or opcode is refused with its name
//! before anything of it happens. The tensors' bytes lie uncompressed in the archive, so they are slices of the mapped file as well.
//!
//! *Identity, not names.* Two checkpoints may hold different weights under one name. Whoever caches by tensor uses
//! [`Tensor::identity`]: file (path, size, time of change, SHA-256 of the header), name and offset.
//!
//! *One unsafe promise.* A mapped file that another process truncates kills this one. Nothing in this crate can prevent that, so the
//! caller promises it once, as a value ([`Unmodified`]), and everything after is safe.
//!
//! # What not
//!
//! No conversion, no device, no model: which names a model wants and what it makes of them is `pager`'s and the models' business.
//! No torch files of before 1.6 (a bare pickle), no tensors that are not contiguous.
//!
//! # Example
//!
//! ```
//! use lighterage_checkpoint::{Checkpoint, NewTensor, Unmodified, write};
//! use lighterage_shape::DType;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("model.safetensors");
//! write(&path, &[NewTensor { name: "norm.weight", dtype: DType::F32, shape: &[2], bytes: &[0; 8] }])?;
//!
//! // SAFETY: the folder is ours, and nobody else writes to it.
//! let promise = unsafe { Unmodified::promise() };
//! let checkpoint = Checkpoint::open(folder.path(), promise)?;
//! assert_eq!(checkpoint.tensor("norm.weight")?.shape(), &[2]);
//! # Ok(()) }
//! ```

mod checkpoint;
mod error;
mod file;
mod fingerprint;
mod finite;
mod header;
mod identity;
mod index;
mod md5;
mod recipe;
mod shapes;
mod tensor;
mod torch;
mod write;

pub use checkpoint::Checkpoint;
pub use error::{Error, Fault, Result};
pub use file::Unmodified;
pub use fingerprint::{fingerprint, grouped_fingerprint};
pub use header::{Entry, HEADER_BYTES_MAX, Header};
pub use identity::{FileIdentity, TensorIdentity};
pub use recipe::{Piece, Recipe};
pub use shapes::Shape;
pub use tensor::Tensor;
pub use torch::{Archive, PICKLE_BYTES_MAX};
pub use write::{NewTensor, Planned, write, write_streamed};
