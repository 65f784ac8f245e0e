use std::fmt;
use std::str::FromStr;

/// Bytes, as people write them: `12GiB`, `1.5GB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// Units by name, in lower case; the longest that fits comes first.
const UNITS: [(&str, u64); 22] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("pib", 1 << 50),
    ("eib", 1 << 60),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("pb", 1_000_000_000_000_000),
    ("eb", 1_000_000_000_000_000_000),
    ("bytes", 1),
    ("byte", 1),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("p", 1 << 50),
    ("e", 1 << 60),
    ("b", 1),
    ("", 1),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let (number, unit) = UNITS
            .into_iter()
            .find_map(|(name, unit)| Some((lower.strip_suffix(name)?.trim_end(), unit)))
            .ok_or("not a size")?;
        bytes(number, unit)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a size: write 12GiB, 1.5GB or bytes"))
    }
}

/// Exact, so that no budget is rounded up: a fraction of a byte is cut off, and none that is written as one is meant.
fn bytes(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= 20;
    if whole.is_empty()
        || !digits(whole)
        || !digits(fraction)
        || (number.contains('.') && (fraction.is_empty() || unit == 1))
    {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value: u128 = format!("{whole}{fraction}").parse().ok()?;
    u64::try_from(value.checked_mul(u128::from(unit))? / scale).ok()
}

impl fmt::Display for Size {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 byte"),
            bytes if bytes < 1 << 10 => write!(f, "{bytes} bytes"),
            bytes if bytes < 1 << 20 => write!(f, "{:.1} KiB", bytes as f64 / 1024.0),
            bytes if bytes < 1 << 30 => write!(f, "{:.1} MiB", bytes as f64 / 1_048_576.0),
            bytes => write!(f, "{:.2} GiB", bytes as f64 / 1_073_741_824.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written() {
        for (text, expected) in [
            ("0", 0),
            ("4096", 4096),
            ("12GiB", 12 << 30),
            ("12 gib", 12 << 30),
            ("12GB", 12_000_000_000),
            ("1.5GiB", 3 << 29),
            ("0.1kB", 100),
            ("2M", 2 << 20),
            ("1 byte", 1),
            ("17 bytes", 17),
            ("10EiB", 10 << 60),
            ("2.5PB", 2_500_000_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Size(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "GiB",
            "-1",
            "1e9",
            "1.2.3",
            ".5GiB",
            "1.GiB",
            "1.5",
            "0.5 bytes",
            "16EiB",
            "12XB",
            "NaN",
            "18446744073709551616",
            "99999999TiB",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_with_the_unit_that_fits() {
        for (bytes, expected) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (17, "17 bytes"),
            (1536, "1.5 KiB"),
            (5 << 20, "5.0 MiB"),
            (3 << 29, "1.50 GiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), expected);
        }
    }
}
