use std::path::PathBuf;

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why no identity could be had, with the numbers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A picture that cannot be decoded.
    #[error("{}: not a readable picture: {source}", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        source: Box<image::ImageError>,
    },
    /// A picture with too many pixels.
    #[error("{}: {width} x {height} pixels, at most {max} are read", path.display())]
    Pixels {
        /// The file.
        path: PathBuf,
        /// Pixels of a row.
        width: u32,
        /// Rows.
        height: u32,
        /// [`PIXELS_MAX`](crate::PIXELS_MAX).
        max: u64,
    },
    /// A picture too long or too broad to be scaled to another's width or height.
    #[error("a picture of {width} x {height} pixels would have {pixels} when scaled, at most {max} are made")]
    Proportions {
        /// Pixels of a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Of the scaled picture.
        pixels: u64,
        /// [`PIXELS_MAX`](crate::PIXELS_MAX).
        max: u64,
    },
    /// A list of keypoints that is no JSON of the known form.
    #[error("{}: {message}", path.display())]
    Keypoints {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Keypoints from which no alignment follows.
    #[error("five keypoints around {x} {y} give no size: no face can be aligned by them")]
    Degenerate {
        /// Pixels from the left.
        x: f64,
        /// Pixels from the top.
        y: f64,
    },
    /// A detector that found nobody.
    #[error("no face detected in {picture}, at none of the sizes {sizes:?}")]
    NoFace {
        /// Which picture.
        picture: String,
        /// The sides that were tried, in pixels.
        sizes: Vec<usize>,
    },
    /// Neither keypoints nor a detector, and not an aligned crop.
    #[error(
        "{picture} has {width} x {height} pixels and no keypoints: give them, or a folder with a face detector, or an aligned crop of {side} x {side}"
    )]
    NoKeypoints {
        /// Which picture.
        picture: String,
        /// Pixels of a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Side of an aligned crop.
        side: usize,
    },
    /// A face network that is not the one known.
    #[error("{}: no IR-SE face network: {message}", path.display())]
    Network {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// An ONNX file that cannot be loaded or run, or whose outputs are not those of its kind.
    #[error("{}: {message}", path.display())]
    Onnx {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// An embedding that cannot be one.
    #[error("{}: {message}", path.display())]
    Embedding {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A projector whose tensors do not fit together.
    #[error("{}: no resampler: {message}", path.display())]
    Resampler {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the numbers.
        message: String,
    },
    /// A tensor is missing or misshapen.
    #[error(transparent)]
    Checkpoint(Box<lighterage_checkpoint::Error>),
    /// Weights cannot be had.
    #[error(transparent)]
    Pager(Box<lighterage_pager::Error>),
    /// An op refused.
    #[error(transparent)]
    Ops(Box<lighterage_ops::Error>),
    /// The device refused.
    #[error(transparent)]
    Device(Box<lighterage_device::Error>),
}

lighterage_ops::boxed_errors! {
    Error:
    Checkpoint(lighterage_checkpoint::Error),
    Pager(lighterage_pager::Error),
    Ops(lighterage_ops::Error),
    Device(lighterage_device::Error),
}
