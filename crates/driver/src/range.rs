//! Numbers of the command line that have a range, and what is said of one that is outside of it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use lighterage_pipeline::{SIDE_MAX, SIDE_STEP, STEPS_MAX};

use crate::size::Size;

/// A whole number of this range.
pub(crate) fn whole<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: Clone + Display + FromStr + PartialOrd + Send + Sync + 'static,
{
    within("whole number", range)
}

/// A number of this range, which NaN is in none of.
pub(crate) fn real(
    range: RangeInclusive<f64>,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    within("number", range)
}

fn within<T>(
    what: &'static str,
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: Clone + Display + FromStr + PartialOrd + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("not a {what} from {} to {}", range.start(), range.end()))
    }
}

/// So many bytes, as people write them.
pub(crate) fn bytes(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<Size, String> + Clone + Send + Sync + 'static {
    move |text| {
        let size: Size = text.parse()?;
        let [least, most] = [*range.start(), *range.end()].map(Size);
        if range.contains(&size.0) { Ok(size) } else { Err(format!("not a size from {least} to {most}")) }
    }
}

/// A finite number that is not negative.
pub(crate) fn scale<T: FromStr + Into<f64> + Copy>(text: &str) -> Result<T, String> {
    let is_one = |scale: &T| (0.0..=f64::MAX).contains(&(*scale).into());
    text.parse().ok().filter(is_one).ok_or_else(|| "not a finite number that is 0 or more".to_owned())
}

/// Steps of a loop.
pub(crate) fn steps(text: &str) -> Result<usize, String> {
    whole(1..=STEPS_MAX)(text)
}

/// A side of a picture, in pixels.
pub(crate) fn side(text: &str) -> Result<usize, String> {
    let range = format!("not a multiple of {SIDE_STEP} from {SIDE_STEP} to {SIDE_MAX}");
    let pixels: usize = text.parse().map_err(|_| range.clone())?;
    if !(SIDE_STEP..=SIDE_MAX).contains(&pixels) {
        return Err(range);
    }
    let below = pixels - pixels % SIDE_STEP;
    if below == pixels {
        Ok(pixels)
    } else {
        Err(format!("not a multiple of {SIDE_STEP}; the two nearest are {below} and {}", below + SIDE_STEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_inside() {
        let parse = whole(1..=1000_u32);
        assert_eq!(["1", "1000"].map(&parse), [Ok(1), Ok(1000)]);
        for text in ["0", "1001", "-1", "1.5", "", "4294967297"] {
            assert_eq!(parse(text), Err("not a whole number from 1 to 1000".to_owned()), "{text}");
        }
    }

    #[test]
    fn no_number_is_in_no_range() {
        let parse = real(0.0..=1.0);
        assert_eq!(["0", "1", "1e-3"].map(&parse), [Ok(0.0), Ok(1.0), Ok(1e-3)]);
        for text in ["NaN", "inf", "-inf", "-0.1", "1.1", "x"] {
            assert_eq!(parse(text), Err("not a number from 0 to 1".to_owned()), "{text}");
        }
        assert_eq!(scale::<f32>("3e38"), Ok(3e38));
        for text in ["NaN", "inf", "-1", "4e38"] {
            assert!(scale::<f32>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_a_range_too() {
        let parse = bytes(1..=4 << 20);
        assert_eq!(["1", "4MiB"].map(&parse), [Ok(Size(1)), Ok(Size(4 << 20))]);
        for text in ["0", "5MiB"] {
            assert_eq!(parse(text), Err("not a size from 1 byte to 4.0 MiB".to_owned()), "{text}");
        }
    }
}
