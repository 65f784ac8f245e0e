use std::cell::RefCell;

use lighterage_testkit::{Golden, folder};

use super::*;

fn face(corners: [f32; 4], score: f32) -> Face {
    Face { corners, score, keypoints: Keypoints([[0.0; 2]; 5]) }
}

fn outputs(golden: &Golden) -> Vec<Output> {
    let kinds = ["scores", "boxes", "points"];
    let names = kinds.iter().flat_map(|kind| STRIDES.map(|stride| format!("{kind}.{stride}")));
    names
        .map(|name| Output { shape: golden.shape(&name).to_vec(), values: golden.values(&name).to_vec() })
        .collect()
}

/// numpy, by insightface's rules: `golden/identity/make_identity.py`.
#[test]
fn what_is_kept_of_random_outputs_is_what_numpy_keeps() {
    let golden = Golden::open(&folder("identity").join("scrfd.safetensors"));
    let found = suppressed(guesses(&levels(&outputs(&golden), 160).unwrap(), 160, 0.8));
    let expected: Vec<&[f32]> = golden.values("faces").chunks(15).collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.score, expected[4]);
        let points = found.keypoints.0.as_flattened();
        for (got, expected) in found
            .corners
            .iter()
            .map(|value| f64::from(*value))
            .chain(points.iter().copied())
            .zip(expected[..4].iter().chain(&expected[5..]))
        {
            // A few roundings of numbers up to 300.
            assert!((got - f64::from(*expected)).abs() < 1e-3, "{got} {expected}");
        }
    }
}

#[test]
fn the_order_of_the_outputs_does_not_matter() {
    let golden = Golden::open(&folder("identity").join("scrfd.safetensors"));
    let mut turned = outputs(&golden);
    turned.rotate_left(4);
    turned.iter_mut().for_each(|output| output.shape.insert(0, 1));
    assert_eq!(levels(&turned, 160), levels(&outputs(&golden), 160));
}

#[test]
fn other_networks_are_refused_with_their_shapes() {
    let golden = Golden::open(&folder("identity").join("scrfd.safetensors"));
    let mut fewer = outputs(&golden);
    fewer.pop();
    assert!(levels(&fewer, 160).unwrap_err().contains("it gives [[800, 1]"));
    assert!(levels(&outputs(&golden), 320).is_err());
}

#[test]
fn sizes_are_tried_until_one_shows_a_face() {
    let tried = RefCell::new(Vec::new());
    let faces_from = |first: usize| {
        tried.borrow_mut().clear();
        let found = ladder(|side| {
            tried.borrow_mut().push(side);
            Ok(if side <= first { vec![face([0.0; 4], 0.5)] } else { Vec::new() })
        });
        (found.unwrap().len(), tried.borrow().clone())
    };
    assert_eq!(faces_from(640), (1, vec![640]));
    assert_eq!(faces_from(320), (1, vec![640, 320]));
    assert_eq!(faces_from(160), (1, vec![640, 320, 160]));
    assert_eq!(faces_from(0), (0, vec![640, 320, 160]));
}

#[test]
fn the_largest_face_counts_and_of_equal_ones_the_worse_guess() {
    let small = face([0.0, 0.0, 5.0, 5.0], 0.9);
    let large = face([10.0, 10.0, 20.0, 20.0], 0.8);
    let equal = face([30.0, 30.0, 40.0, 40.0], 0.6);
    assert_eq!(largest(&[small, large]), Some(large));
    assert_eq!(largest(&[small, large, equal]), Some(equal));
    assert_eq!(largest(&[]), None);
}

#[test]
fn resizing_is_that_of_opencv() {
    let photo = Photo::open(&folder("identity").join("photo.png")).unwrap();
    let expected = Photo::open(&folder("identity").join("resized.png")).unwrap();
    let got = resized(&photo, expected.width(), expected.height());
    // OpenCV weighs with 11 bits: up to 255 * 2^-12 in each of two passes, which turns the rounding of one value in eight, by one level.
    let apart = got.iter().zip(expected.rgb()).map(|(got, expected)| (got - f32::from(*expected)).abs());
    let (count, most) =
        apart.fold((0, 0.0_f32), |(count, most), apart| (count + usize::from(apart > 0.0), most.max(apart)));
    assert!(most <= 1.0 && count * 8 <= got.len(), "{count} of {} differ, by up to {most}", got.len());
}

#[test]
fn pictures_of_any_proportions_are_scaled_into_the_square() {
    for (width, height, expected) in
        [(90, 70, 160.0 / 90.0), (70, 90, 160.0 / 90.0), (1, 1000, 0.16), (1000, 1, 1.0), (1, 1, 160.0)]
    {
        let photo = Photo::new(width, height, vec![255; 3 * width * height]);
        let (canvas, scale) = letterbox(&photo, 160);
        assert_eq!(canvas.len(), 3 * 160 * 160);
        assert!((f64::from(scale) - expected).abs() < 0.02 * expected, "{width} x {height}: {scale}");
        assert_eq!(canvas[0], 127.5 / 128.0);
        let is_filled = width == height;
        assert_eq!(canvas[160 * 160 - 1] < 0.0, !is_filled, "{width} x {height}");
    }
}

#[test]
fn colours_keep_their_order() {
    let (canvas, _) = letterbox(&Photo::new(1, 1, vec![255, 127, 0]), 160);
    let plane = 160 * 160;
    assert!(canvas[0] > 0.9 && canvas[plane].abs() < 0.1 && canvas[2 * plane] < -0.9);
}
