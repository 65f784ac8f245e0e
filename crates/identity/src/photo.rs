use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};

use crate::{Error, Result};

/// The most pixels of a picture that are read: beyond any camera of today, and 300 MB.
pub const PIXELS_MAX: u64 = 100_000_000;

/// Bytes that a decoder may ask for: 16 bits for each of four channels of the largest picture, and as much again for its own work.
const DECODER_BYTES_MAX: u64 = 16 * PIXELS_MAX;

/// A picture as the pipelines see one: red, green, blue, 8 bits each, upright.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Photo {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Photo {
    /// Reads a PNG, JPEG or WebP, known by its bytes.
    ///
    /// It becomes what the reference pipelines make of it with Pillow's `convert("RGB")`: grey is spread over the channels, an alpha channel is dropped (not
    /// blended), 16 bits are cut to 8. It is turned upright by its EXIF orientation, which they leave to the user.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Picture`], or [`Error::Pixels`] above [`PIXELS_MAX`], before any of them is decoded.
    pub fn open(path: &Path) -> Result<Self> {
        let file = |source| Error::File { path: path.to_owned(), source };
        let picture = |source: ImageError| Error::Picture { path: path.to_owned(), source: Box::new(source) };
        let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(file)?;
        let mut decoder = reader.into_decoder().map_err(picture)?;
        let (width, height) = decoder.dimensions();
        if u64::from(width) * u64::from(height) > PIXELS_MAX {
            return Err(Error::Pixels { path: path.to_owned(), width, height, max: PIXELS_MAX });
        }
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(DECODER_BYTES_MAX);
        decoder.set_limits(limits).map_err(picture)?;
        let orientation = decoder.orientation().map_err(picture)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(picture)?;
        image.apply_orientation(orientation);
        let (width, height) = (image.width() as usize, image.height() as usize);
        Ok(Self { width, height, rgb: image.into_rgb8().into_raw() })
    }

    /// A picture from its values, `[height, width, 3]`.
    ///
    /// # Panics
    /// If there are not that many, or none.
    #[must_use]
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Self {
        assert_eq!(rgb.len(), 3 * width * height, "values of {width} x {height} pixels");
        assert!(!rgb.is_empty(), "a picture without pixels");
        Self { width, height, rgb }
    }

    /// Pixels of a row.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    #[must_use]
    pub const fn height(&self) -> usize {
        self.height
    }

    /// `[height, width, 3]`.
    #[must_use]
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The three values of a pixel.
    pub(crate) fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let start = 3 * (y * self.width + x);
        std::array::from_fn(|channel| self.rgb[start + channel])
    }
}
