/// T5's bucket of a distance `key - query`, bidirectional (Raffel et al. 2020, section 2.1; the arithmetic in f32 and its order are those
/// of the reference code, since a distance on the edge of a bucket would otherwise change sides).
///
/// Half of the buckets are for keys after the query. Of each half the first half hold one distance each, the others grow
/// logarithmically up to `max_distance`; everything beyond shares the last. An odd number of buckets leaves the last of them unused.
#[inline]
#[expect(clippy::cast_precision_loss, reason = "distances and buckets are far below 2^24")]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "truncated as in the reference, and positive"
)]
pub(super) fn bucket(distance: i64, buckets: u32, max_distance: u32) -> u32 {
    let half = buckets / 2;
    let side = if distance > 0 { half } else { 0 };
    let exact = half / 2;
    let Ok(distance) = u32::try_from(distance.unsigned_abs()) else { return side + half - 1 };
    if distance < exact {
        return side + distance;
    }
    // f64 and one rounding: within an ulp of any library's single-precision logarithm.
    let ln = |ratio: f64| ratio.ln() as f32;
    let ratio = f64::from(distance as f32 / exact as f32);
    let grown = ln(ratio) / ln(f64::from(max_distance) / f64::from(exact)) * (half - exact) as f32;
    side + (exact + grown as u32).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::bucket;

    /// T5's own sizes: 32 buckets, distances up to 128.
    #[test]
    fn edges_of_the_buckets() {
        // After the query 16 buckets more. 8 to 127 are spread over 8 buckets that double every two: 8, 12 (11.3), 16, 23 (22.6), 32, 46 (45.3), 64, 91 (90.5).
        let edges = [
            (0, 0),
            (1, 1),
            (7, 7),
            (8, 8),
            (11, 8),
            (12, 9),
            (15, 9),
            (16, 10),
            (22, 10),
            (23, 11),
            (31, 11),
            (32, 12),
        ];
        let far =
            [(45, 12), (46, 13), (63, 13), (64, 14), (90, 14), (91, 15), (127, 15), (128, 15), (100_000, 15)];
        for (distance, expected) in edges.into_iter().chain(far) {
            assert_eq!(bucket(-distance, 32, 128), expected, "distance -{distance}");
            if distance > 0 {
                assert_eq!(bucket(distance, 32, 128), expected + 16, "distance {distance}");
            }
        }
        assert_eq!(bucket(i64::MAX, 32, 128), 31);
        assert_eq!(bucket(i64::MIN, 32, 128), 15);
    }

    #[test]
    fn every_bucket_is_inside() {
        for buckets in [4, 5, 6, 7, 11, 32, 33, 64] {
            for distance in -300..=300 {
                assert!(bucket(distance, buckets, 20) < buckets, "distance {distance} of {buckets} buckets");
            }
        }
    }
}
