//! What strange pictures do.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

use std::fs;
use std::path::{Path, PathBuf};

use image::{DynamicImage, GrayImage, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba};
use lighterage_identity::{
    Error, Keypoints, PIXELS_MAX, Photo, Points, TEMPLATE, align, crop, keypoints_beside, read_keypoints,
};

fn saved(image: impl Into<DynamicImage>, name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    image.into().save(&path).unwrap();
    (folder, path)
}

fn open(image: impl Into<DynamicImage>) -> Photo {
    let (_folder, path) = saved(image, "photo.png");
    Photo::open(&path).unwrap()
}

#[test]
fn grey_is_spread() {
    assert_eq!(open(GrayImage::from_pixel(2, 1, Luma([7]))).rgb(), [7; 6]);
}

#[test]
fn alpha_is_dropped_not_blended() {
    let image = image::RgbaImage::from_pixel(1, 1, Rgba([1, 2, 3, 0]));
    assert_eq!(open(image).rgb(), [1, 2, 3]);
    let image = image::GrayAlphaImage::from_pixel(1, 1, LumaA([9, 5]));
    assert_eq!(open(image).rgb(), [9; 3]);
}

#[test]
fn sixteen_bits_are_cut_to_eight() {
    let image: image::ImageBuffer<Rgb<u16>, _> =
        image::ImageBuffer::from_pixel(1, 1, Rgb([0xffff, 0x8080, 0]));
    assert_eq!(open(DynamicImage::ImageRgb16(image)).rgb(), [255, 128, 0]);
}

/// A JPEG of 16 x 8 pixels, red on the left, with an EXIF orientation put behind its first marker.
fn turned(orientation: u8) -> Photo {
    let image = RgbImage::from_fn(16, 8, |x, _| if x < 8 { Rgb([250, 0, 0]) } else { Rgb([0, 0, 250]) });
    let mut file = std::io::Cursor::new(Vec::new());
    DynamicImage::from(image).write_to(&mut file, ImageFormat::Jpeg).unwrap();
    let mut bytes = file.into_inner();
    let tag = [&b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..], &[orientation], &[0; 6]]
        .concat();
    let length = u16::try_from(tag.len() + 2).unwrap().to_be_bytes();
    bytes.splice(2..2, [&b"\xff\xe1"[..], &length, &tag].concat());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.jpg");
    fs::write(&path, bytes).unwrap();
    Photo::open(&path).unwrap()
}

#[test]
fn exif_turns_the_picture_upright() {
    let is_red = |photo: &Photo, x: usize, y: usize| photo.rgb()[3 * (y * photo.width() + x)] > 128;
    for (orientation, width, height, red) in [
        (1, 16, 8, (0, 0)),
        (2, 16, 8, (15, 0)),
        (3, 16, 8, (15, 7)),
        (6, 8, 16, (0, 0)),
        (8, 8, 16, (0, 15)),
    ] {
        let photo = turned(orientation);
        assert_eq!((photo.width(), photo.height()), (width, height), "orientation {orientation}");
        assert!(is_red(&photo, red.0, red.1), "orientation {orientation}");
        assert!(!is_red(&photo, width - 1 - red.0, height - 1 - red.1), "orientation {orientation}");
    }
}

#[test]
fn one_pixel_is_a_picture_but_no_aligned_crop() {
    let photo = open(RgbImage::from_pixel(1, 1, Rgb([1, 2, 3])));
    let refused = crop(&photo, "photo.png", Points::Detector(None)).unwrap_err().to_string();
    assert!(refused.starts_with("photo.png has 1 x 1 pixels and no keypoints"), "{refused}");
    // With keypoints it is a face, however little of it is seen.
    assert!(align(&photo, Keypoints(TEMPLATE)).unwrap().rgb().starts_with(&[1, 2, 3, 0]));
}

#[test]
fn fifty_megapixels_are_read() {
    let (_folder, path) = saved(GrayImage::from_pixel(10_000, 5_000, Luma([3])), "photo.png");
    let photo = Photo::open(&path).unwrap();
    assert_eq!((photo.width(), photo.height()), (10_000, 5_000));
    let face = align(&photo, Keypoints(TEMPLATE.map(|[x, y]| [x * 40.0, y * 40.0]))).unwrap();
    assert!(face.rgb().iter().all(|value| *value == 3));
}

#[test]
fn too_many_pixels_are_refused_before_they_are_decoded() {
    // A PNG whose header claims 2^31 pixels and that has none.
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\xff\xff\0\0\x80\0\x08\x02\0\0\0".to_vec();
    bytes.extend(crc(&bytes[12..]).to_be_bytes());
    bytes.extend(b"\0\0\0\x04IDAT\x78\x9c\x03\0");
    let start = bytes.len() - 8;
    bytes.extend(crc(&bytes[start..]).to_be_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.png");
    fs::write(&path, bytes).unwrap();
    let refused = Photo::open(&path).unwrap_err();
    assert!(
        matches!(refused, Error::Pixels { width: 65_535, height: 32_768, max: PIXELS_MAX, .. }),
        "{refused}"
    );
}

/// That of PNG chunks.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}

#[test]
fn what_is_no_picture_is_an_error_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.png");
    for bytes in [&b""[..], b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"] {
        fs::write(&path, bytes).unwrap();
        let refused = Photo::open(&path).unwrap_err().to_string();
        assert!(refused.contains("photo.png: not a readable picture"), "{refused}");
    }
    assert!(matches!(Photo::open(Path::new("/nowhere/photo.png")), Err(Error::File { .. })));
}

#[test]
fn keypoints_are_found_by_the_pictures_name() {
    let folder = tempfile::tempdir().unwrap();
    let (list, picture) = (folder.path().join("faces.json"), folder.path().join("b.png"));
    assert_eq!(keypoints_beside(&picture).unwrap(), None);
    let points = "[[1,2],[3,4],[5,6],[7,8],[9,10]]";
    let other = points.replace('9', "-9.5");
    fs::write(
        &list,
        format!(
            "[{{\"file\":\"a.png\",\"keypoints\":{points}}},{{\"file\":\"b.png\",\"keypoints\":{other}}}]"
        ),
    )
    .unwrap();
    assert_eq!(keypoints_beside(&picture).unwrap().unwrap().0[4], [-9.5, 10.0]);
    let missing = keypoints_beside(&folder.path().join("c.png")).unwrap_err().to_string();
    assert!(missing.contains("none of its 2 entries has the file \"c.png\""), "{missing}");
    for text in [points.to_owned(), format!("{{\"keypoints\":{points}}}")] {
        fs::write(&list, text).unwrap();
        assert_eq!(read_keypoints(&list, &picture).unwrap().0[0], [1.0, 2.0]);
    }
    for text in ["[[1,2],[3,4]]", "{}", "[[1,2],[3,4],[5,6],[7,8],[9,1e999]]", "five"] {
        fs::write(&list, text).unwrap();
        assert!(matches!(read_keypoints(&list, &picture), Err(Error::Keypoints { .. })), "{text}");
    }
}

#[test]
fn an_aligned_crop_is_taken_as_it_is() {
    let photo = open(RgbImage::from_pixel(112, 112, Rgb([5, 6, 7])));
    assert_eq!(crop(&photo, "x", Points::Detector(None)).unwrap(), photo);
    assert_eq!(crop(&photo, "x", Points::Aligned).unwrap(), photo);
    let larger = open(RgbImage::from_pixel(113, 112, Rgb([5, 6, 7])));
    assert!(matches!(
        crop(&larger, "x", Points::Aligned),
        Err(Error::NoKeypoints { width: 113, height: 112, .. })
    ));
}
