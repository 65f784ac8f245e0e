use std::fmt;

/// How far two lists of values are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// `||got - expected|| / ||expected||`; infinite if NaN or infinities sit in different places, or if only `expected` is zero.
    pub relative_frobenius: f64,
    /// The largest absolute difference of two elements.
    pub max_abs: f64,
    /// Where it is.
    pub worst: usize,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "relative Frobenius error {:.3e}, max abs {:.3e} at element {}",
            self.relative_frobenius, self.max_abs, self.worst
        )
    }
}

/// Compares value by value, in `f64`. NaN and infinities must sit in the same places.
///
/// # Panics
/// If the lengths differ.
#[must_use]
pub fn difference(got: &[f32], expected: &[f32]) -> Difference {
    assert_eq!(got.len(), expected.len(), "lengths differ");
    let (mut error, mut norm) = (0.0_f64, 0.0_f64);
    let mut worst = Difference { relative_frobenius: 0.0, max_abs: 0.0, worst: 0 };
    for (index, (g, e)) in got.iter().zip(expected).enumerate() {
        let same_place =
            g.is_nan() == e.is_nan() && (g.is_infinite() || e.is_infinite()) == (g == e && e.is_infinite());
        if !same_place {
            return Difference { relative_frobenius: f64::INFINITY, max_abs: f64::INFINITY, worst: index };
        }
        if !e.is_finite() {
            continue;
        }
        let distance = (f64::from(*g) - f64::from(*e)).abs();
        error += distance * distance;
        norm += f64::from(*e) * f64::from(*e);
        if distance > worst.max_abs {
            worst.max_abs = distance;
            worst.worst = index;
        }
    }
    worst.relative_frobenius = if error == 0.0 { 0.0 } else { (error / norm).sqrt() };
    worst
}

/// `||got - expected|| / ||expected||`: see [`difference`].
#[must_use]
pub fn relative_frobenius(got: &[f32], expected: &[f32]) -> f64 {
    difference(got, expected).relative_frobenius
}

/// Fails with the worst element and its values if the relative Frobenius error is above `bound`.
///
/// # Panics
/// If it is, or if the lengths differ.
pub fn assert_close(what: &str, got: &[f32], expected: &[f32], bound: f64) {
    let difference = difference(got, expected);
    assert!(
        difference.relative_frobenius <= bound,
        "{what}: {difference} (got {:?}, expected {:?}), bound {bound:.1e}",
        got.get(difference.worst),
        expected.get(difference.worst)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_differ_by_nothing() {
        assert_eq!(relative_frobenius(&[1.0, f32::NAN, f32::INFINITY], &[1.0, f32::NAN, f32::INFINITY]), 0.0);
        assert_eq!(relative_frobenius(&[0.0], &[0.0]), 0.0);
    }

    #[test]
    fn error_is_relative_to_the_norm() {
        let found = difference(&[3.0, 4.5], &[3.0, 4.0]);
        assert!((found.relative_frobenius - 0.1).abs() < 1e-12);
        assert_eq!((found.max_abs, found.worst), (0.5, 1));
    }

    #[test]
    fn misplaced_nan_is_infinitely_wrong() {
        for (got, expected) in
            [(f32::NAN, 1.0), (1.0, f32::NAN), (f32::INFINITY, 1.0), (1.0, f32::NEG_INFINITY)]
        {
            assert_eq!(relative_frobenius(&[got], &[expected]), f64::INFINITY);
        }
        assert_eq!(relative_frobenius(&[f32::INFINITY], &[f32::NEG_INFINITY]), f64::INFINITY);
        assert_eq!(relative_frobenius(&[1.0], &[0.0]), f64::INFINITY);
    }
}
