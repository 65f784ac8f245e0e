//! Detector and face network as ONNX files, which the tests write: small graphs with the inputs and outputs of the real ones.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

mod graph;

use graph::{Graph, red_detector};
use lighterage_checkpoint::Unmodified;
use lighterage_identity::{DETECTOR_FILE, Detector, Error, FaceNetwork, Photo, align, find_detector};

fn detector() -> (tempfile::TempDir, Detector) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(DETECTOR_FILE), red_detector()).unwrap();
    let detector = find_detector(folder.path()).unwrap().expect("the file is there");
    (folder, detector)
}

/// Black, with red squares: left, top, side.
fn photo(width: usize, height: usize, squares: &[[usize; 3]]) -> Photo {
    let mut rgb = vec![0; 3 * width * height];
    for &[left, top, side] in squares {
        for y in top..top + side {
            for x in left..left + side {
                rgb[3 * (y * width + x)] = 255;
            }
        }
    }
    Photo::new(width, height, rgb)
}

#[test]
fn a_red_cell_is_found_where_it_is() {
    let (_folder, detector) = detector();
    // 640 x 320: not scaled. The cell of 8 pixels at 400, 200.
    let faces = detector.faces(&photo(640, 320, &[[400, 200, 8]])).unwrap();
    assert_eq!(faces.len(), 1, "{faces:?}");
    assert_eq!(faces[0].corners, [392.0, 196.0, 416.0, 212.0]);
    assert_eq!(
        faces[0].keypoints.0,
        [[396.0, 200.0], [404.0, 200.0], [400.0, 204.0], [398.0, 208.0], [402.0, 208.0]]
    );
}

#[test]
fn places_are_those_of_the_photo_before_it_was_scaled() {
    let (_folder, detector) = detector();
    let faces = detector.faces(&photo(1280, 640, &[[800, 400, 16]])).unwrap();
    assert_eq!(faces.len(), 1, "{faces:?}");
    assert_eq!(faces[0].corners, [784.0, 392.0, 832.0, 424.0]);
}

#[test]
fn overlapping_guesses_are_one_face_and_the_largest_face_counts() {
    let (_folder, detector) = detector();
    // A cell of 8, and a cell of 32 with all the cells of 8 and 16 in it.
    let photo = photo(640, 640, &[[8, 8, 8], [320, 320, 32]]);
    let faces = detector.faces(&photo).unwrap();
    let widths: Vec<f32> = faces.iter().map(|face| face.corners[2] - face.corners[0]).collect();
    assert!(widths.iter().filter(|width| **width == 96.0).count() == 1, "{widths:?}");
    let largest = detector.largest(&photo, "x").unwrap();
    assert_eq!(largest.corners, [288.0, 304.0, 384.0, 368.0]);
}

/// A cell at the left border: its box and two of its points are outside of the photo, and what is not there is black in the crop.
#[test]
fn a_face_cut_off_by_the_border_is_a_face() {
    let (_folder, detector) = detector();
    let photo = photo(640, 640, &[[0, 320, 32]]);
    let face = detector.largest(&photo, "x").unwrap();
    assert_eq!(face.corners, [-32.0, 304.0, 64.0, 368.0]);
    assert_eq!(face.keypoints.0[0], [-16.0, 320.0]);
    let crop = align(&photo, face.keypoints).unwrap();
    let row = &crop.rgb()[3 * 112 * 60..][..3 * 112];
    assert_eq!(&row[..3], &[0; 3], "left of the photo");
    assert!(row.chunks(3).any(|pixel| pixel[0] == 255), "the face itself");
}

/// The smallest face that a cell of 8 pixels can show: 112 pixels of a crop are made of 15 of the photo.
#[test]
fn a_tiny_face_is_scaled_up() {
    let (_folder, detector) = detector();
    let photo = photo(640, 320, &[[400, 200, 8]]);
    let face = detector.largest(&photo, "x").unwrap();
    let crop = align(&photo, face.keypoints).unwrap();
    let red = crop.rgb().chunks(3).filter(|pixel| pixel[0] > 127).count();
    // 8 x 8 of the photo's pixels, each as large as the eyes' distance says: 35.2 of the template's over 8 of the photo's, in the least squares of all points.
    assert!((900..2200).contains(&red), "{red}");
}

/// Bright red with thin green lines: only when it is made small do the lines vanish between the pixels that are looked at.
#[test]
fn a_close_up_is_found_at_a_smaller_size() {
    let (_folder, detector) = detector();
    let mut rgb = vec![0; 3 * 640 * 640];
    for (index, pixel) in rgb.chunks_mut(3).enumerate() {
        let (x, y) = (index % 640, index / 640);
        let is_line = x % 4 == 0 || y % 4 == 0;
        pixel.copy_from_slice(if is_line { &[255, 255, 0] } else { &[255, 0, 0] });
    }
    let faces = detector.faces(&Photo::new(640, 640, rgb)).unwrap();
    assert!(!faces.is_empty());
    // A cell of 8 pixels at the side 160 is 96 wide here; at 640 it would be 24, at 320 48.
    assert!(faces.iter().all(|face| face.corners[2] - face.corners[0] >= 96.0), "{:?}", faces[0]);
}

#[test]
fn nobody_is_an_error_with_the_sizes() {
    let (_folder, detector) = detector();
    let refused = detector.largest(&photo(50, 60, &[]), "photo.png").unwrap_err();
    assert_eq!(refused.to_string(), "no face detected in photo.png, at none of the sizes [640, 320, 160]");
    assert!(detector.faces(&photo(1, 1, &[])).unwrap().is_empty());
}

/// The mean of each channel, at the places 0, 1 and 2 of 512 numbers.
fn channel_means(side: i64) -> Vec<u8> {
    biased_means(side, 0.0)
}

fn biased_means(side: i64, bias: f32) -> Vec<u8> {
    let mut graph = Graph::new("data", &[1, 3, side, side]);
    let pooled = graph.node("GlobalAveragePool", &["data"], &[]);
    let rows: Vec<[f32; 3]> =
        (0..512).map(|row| std::array::from_fn(|column| f32::from(u8::from(row == column)))).collect();
    let rows: Vec<&[f32]> = rows.iter().map(|row| &row[..]).collect();
    let numbers = graph.convolution(&pooled, &rows, &[bias; 512]);
    graph.output(&numbers, 512);
    graph.finish()
}

fn promise() -> Unmodified {
    // SAFETY: the files are the test's own.
    unsafe { Unmodified::promise() }
}

#[test]
fn any_network_for_crops_gives_an_embedding_of_blue_green_red() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("landmarks.onnx"), channel_means(192)).unwrap();
    std::fs::write(folder.path().join("glintr100.onnx"), channel_means(112)).unwrap();
    let refused = FaceNetwork::find(folder.path(), promise()).unwrap_err().to_string();
    assert!(refused.contains("glintr100.onnx is another network"), "{refused}");
    std::fs::write(folder.path().join("mine.onnx"), channel_means(112)).unwrap();
    let network = FaceNetwork::find(folder.path(), promise()).unwrap();
    let embedding = network.embed(&Photo::new(112, 112, [255, 0, 0].repeat(112 * 112))).unwrap();
    // Blue -1, green -1, red 1, of length 1.
    let third = 3.0_f32.sqrt().recip();
    for (got, expected) in embedding.values().iter().zip([-third, -third, third, 0.0]) {
        assert!((got - expected).abs() < 1e-5, "{got} {expected}");
    }
    std::fs::write(folder.path().join("other.onnx"), channel_means(112)).unwrap();
    assert!(
        FaceNetwork::find(folder.path(), promise()).unwrap_err().to_string().contains("several ONNX files")
    );
}

#[test]
fn an_embedding_that_is_no_direction_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.onnx");
    std::fs::write(&path, biased_means(112, f32::NAN)).unwrap();
    let network = FaceNetwork::open(&path, promise()).unwrap();
    let refused = network.embed(&Photo::new(112, 112, vec![0; 3 * 112 * 112])).unwrap_err().to_string();
    assert!(refused.contains("no direction"), "{refused}");
}

#[test]
fn what_is_no_network_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DETECTOR_FILE);
    std::fs::write(&path, b"no protobuf").unwrap();
    assert!(matches!(Detector::open(&path), Err(Error::Onnx { .. })));
    std::fs::write(&path, channel_means(640)).unwrap();
    let refused = Detector::open(&path).unwrap().faces(&photo(8, 8, &[])).unwrap_err().to_string();
    assert!(refused.contains("no face detector with keypoints"), "{refused}");
}
