use std::io::{self, Write};

use png::{BitDepth, ColorType, Encoder, EncodingError};

/// A text chunk: keyword and text.
pub(crate) type Text = (&'static str, String);

/// Writes 8-bit RGB as a PNG with text chunks in front of the pixels. Equal input gives equal bytes.
pub(crate) fn write(
    out: &mut dyn Write,
    [width, height]: [usize; 2],
    rgb: &[u8],
    texts: &[Text],
) -> io::Result<()> {
    let side = |pixels: usize| u32::try_from(pixels).map_err(io::Error::other);
    let mut encoder = Encoder::new(out, side(width)?, side(height)?);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    for (keyword, text) in texts {
        let (keyword, text) = ((*keyword).to_owned(), text.clone());
        if is_plain(&text) {
            encoder.add_text_chunk(keyword, text)
        } else {
            encoder.add_itxt_chunk(keyword, text)
        }
        .map_err(to_io)?;
    }
    let mut writer = encoder.write_header().map_err(to_io)?;
    writer.write_image_data(rgb).map_err(to_io)?;
    writer.finish().map_err(to_io)
}

fn to_io(error: EncodingError) -> io::Error {
    match error {
        EncodingError::IoError(error) => error,
        error => io::Error::other(error),
    }
}

/// Whether a tEXt chunk can hold it: Latin-1 without controls but the line feed (PNG specification, 11.3.3.2). Others go into iTXt.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || (c <= '\u{ff}' && !c.is_control()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts as a reader finds them: those of tEXt and those of iTXt.
    fn check(texts: &[Text], latin: &[&str], utf8: &[&str]) {
        let mut file = Vec::new();
        let rgb: Vec<u8> = (0..2 * 3 * 3).collect();
        write(&mut file, [2, 3], &rgb, texts).unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, rgb);
        let info = reader.info();
        let found: Vec<_> = info.uncompressed_latin1_text.iter().map(|chunk| chunk.text.clone()).collect();
        assert_eq!(found, latin);
        let found: Vec<_> = info.utf8_text.iter().map(|chunk| chunk.get_text().unwrap()).collect();
        assert_eq!(found, utf8);
    }

    #[test]
    fn latin_texts_are_plain_chunks() {
        check(&[("Prompt", "a\nb é ÿ".to_owned()), ("Seed", "1".to_owned())], &["a\nb é ÿ", "1"], &[]);
    }

    #[test]
    fn other_texts_are_international_chunks() {
        check(&[("Prompt", "赤い猫 😀".to_owned()), ("Seed", "1".to_owned())], &["1"], &["赤い猫 😀"]);
        check(&[("Prompt", "tab\there".to_owned())], &[], &["tab\there"]);
    }
}
