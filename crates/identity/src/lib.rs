//! From a photo to the tokens that say who is in it: face detection, alignment, embedding, the resampler; and the drawing that says how the
//! face is turned.
//!
//! # What
//!
//! | step | in | out | by |
//! |---|---|---|---|
//! | [`Photo::open`] | a file | upright pixels | `image` |
//! | [`Detector`], or [`read_keypoints`] | pixels | boxes and five points | SCRFD through rten, or a JSON file |
//! | [`align()`] | pixels, points | 112 x 112 | a similarity, bilinear |
//! | [`FaceNetwork`] | 112 x 112 | an [`Embedding`] of 512 numbers | IR-SE natively, or any such ONNX file |
//! | [`Resampler`] | the embedding | tokens for InfuseNet | the device's ops, its weights paged |
//! | [`fit`], [`draw`] | another photo's points | the control picture | `OpenCV`'s shapes |
//!
//! Each can be used alone; `lighterage identity` prints or saves every one of them.
//!
//! # Why so
//!
//! *The host is enough.* Detector and face network run once per person: 13 billion operations and 176 MB, a second or two on two cores, before a picture that takes a thousand times
//! as much. On the device they would need strided convolutions with both paddings, batch norm and `PReLU` as kernels of their own, in every configuration, and a phase
//! in every plan. So they are plain loops on the host in every configuration, in the module `layers`, and their bits depend neither on the device nor on the number of
//! threads. The resampler is InfuseNet's side of the border: transformer ops, paged like every other weight.
//!
//! *The published networks, as published.* The embedding that InfiniteYou was trained with is that of facexlib's IR-SE50 on a **blue-green-red** crop, of length 1; not
//! insightface's glintr100, which lies in the same folder and is passed over. Crops are cut as `OpenCV` cuts them, to the 32nd of a pixel.
//!
//! *A detector is somebody else's file.* SCRFD's weights may not be shipped, so none are; rten runs the user's own, in pure Rust, and its nine outputs are told apart by their shapes, not by
//! their order. Without one, points come from a `faces.json`.
//!
//! *What a strange photo does* is decided: grey is spread, alpha dropped and 16 bits cut as Pillow does; EXIF turns it upright; more than [`PIXELS_MAX`] is refused before it is decoded;
//! several faces: the largest; none: an error with the sizes that were tried; a face beyond the border: black there.
//!
//! # What not
//!
//! No training, no comparison of faces beyond a cosine, no tracking. The other networks of antelopev2 (landmarks, age) are not used by InfiniteYou and not here. The detector's and the ONNX
//! networks' bits are rten's: they may differ between machines, and only its outputs' places matter.
//!
//! # Sources
//!
//! Rules and constants: bytedance/InfiniteYou (`pipeline_infu_flux.py`, `resampler.py`), insightface (`retinaface.py`, `face_align.py`), facexlib (`arcface_arch.py`), `OpenCV`
//! (`imgwarp.cpp`, `drawing.cpp`). Networks: Guo et al. 2021 (SCRFD), Deng et al. 2019 (`ArcFace`), Hu et al. 2018 (squeeze and excite).
//!
//! # Example
//!
//! ```
//! use lighterage_checkpoint::{Checkpoint, Unmodified};
//! use lighterage_identity::{Embedding, FaceNetwork, Photo, Points, crop, keypoints_beside};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo");
//! // SAFETY: nobody changes the bundled files while this runs.
//! let promise = unsafe { Unmodified::promise() };
//! let network = FaceNetwork::find(&demo.join("infinite-you"), promise)?;
//!
//! let path = demo.join("faces/cleo.png");
//! let points = keypoints_beside(&path)?.expect("faces.json is there");
//! let face = crop(&Photo::open(&path)?, "cleo.png", Points::Given(points))?;
//! let embedding = network.embed(&face)?;
//!
//! let known = Checkpoint::open(&demo.join("faces/embeddings.safetensors"), promise)?;
//! assert!(embedding.cosine(&Embedding::read(&known, Some("cleo"))?) > 0.995);
//! assert!(embedding.cosine(&Embedding::read(&known, Some("dan"))?) < 0.5);
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod photo;

mod keypoints;
mod scrfd;

mod align;

mod arcface;
mod embedding;
mod face;
mod layers;
mod onnx;

mod resampler;

mod drawing;

mod error;

pub use align::{CROP_SIDE, Similarity, TEMPLATE, align};
pub use arcface::ArcFace;
pub use drawing::{Fitted, draw, fit};
pub use embedding::Embedding;
pub use error::{Error, Result};
pub use face::{
    DETECTOR_FILE, FaceNetwork, KEYPOINTS_FILE, Points, crop, find_detector, find_points, keypoints_beside,
};
pub use keypoints::{Keypoints, read_keypoints};
pub use photo::{PIXELS_MAX, Photo};
pub use resampler::{HEAD, Resampler};
pub use scrfd::{DETECTION_SIDES, Detector, Face, largest};
