//! Amounts as people write them: bytes with a unit, processors with a fraction, durations with a unit.
//!
//! A bare number is refused everywhere: `memory: 512` has been read as bytes, KiB and MiB by different tools.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// How a size is written, as a regular expression for editors.
pub(crate) const SIZE_PATTERN: &str = "^[0-9]+(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$";
/// How a duration is written, as a regular expression for editors.
pub(crate) const DURATION_PATTERN: &str = "^[0-9]+(ms|s|m|h)$";
/// Longest text of either: 19 digits hold every `u64` that matters, and three letters of unit.
pub(crate) const AMOUNT_MAX: usize = 22;

const KIB: u64 = 1024;
const MIB: u64 = KIB * 1024;
const GIB: u64 = MIB * 1024;
const TIB: u64 = GIB * 1024;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many kibibytes (1,024 bytes each).
    pub const fn kibibytes(count: u64) -> Self {
        Self(count.saturating_mul(KIB))
    }

    /// So many mebibytes (1,048,576 bytes each).
    pub const fn mebibytes(count: u64) -> Self {
        Self(count.saturating_mul(MIB))
    }

    /// So many gibibytes (1,073,741,824 bytes each).
    pub const fn gibibytes(count: u64) -> Self {
        Self(count.saturating_mul(GIB))
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// A share of processor time in thousandths of one processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpus(u32);

impl Cpus {
    /// So many thousandths of a processor.
    pub const fn from_milli(milli: u32) -> Self {
        Self(milli)
    }

    /// Thousandths of a processor: 1,500 is one and a half.
    pub const fn milli(self) -> u32 {
        self.0
    }
}

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// It does not begin with a digit.
    #[error("it does not begin with a number")]
    Number,
    /// A fraction.
    #[error("it has a fraction")]
    Fraction,
    /// No unit.
    #[error("it has no unit")]
    NoUnit,
    /// A unit that is not known.
    #[error("its unit is not known")]
    Unit,
    /// More than fits.
    #[error("the number is too large")]
    Overflow,
    /// More decimals than the kernel can act on.
    #[error("it has more than three decimals")]
    Decimals,
}

impl FromStr for ByteSize {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (number, unit) = split(text)?;
        let factor = match unit {
            "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "KiB" => KIB,
            "MiB" => MIB,
            "GiB" => GIB,
            "TiB" => TIB,
            _ => return Err(AmountError::Unit),
        };
        number.checked_mul(factor).map(Self).ok_or(AmountError::Overflow)
    }
}

impl FromStr for Cpus {
    type Err = AmountError;

    /// Exact decimal arithmetic: a binary fraction would round `0.1` before anybody looked at it.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) {
            return Err(AmountError::Number);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 3 {
            return Err(AmountError::Decimals);
        }
        let milli: u32 = format!("{fraction:0<3}").parse().ok().ok_or(AmountError::Number)?;
        let whole: u32 = whole.parse().ok().ok_or(AmountError::Overflow)?;
        whole
            .checked_mul(1_000)
            .and_then(|whole| whole.checked_add(milli))
            .map(Self)
            .ok_or(AmountError::Overflow)
    }
}

/// Reads a duration such as `500ms`, `30s`, `10m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, AmountError> {
    let (number, unit) = split(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(AmountError::Unit),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or(AmountError::Overflow)
}

/// Writes a duration the way that [`duration`] reads it.
pub(crate) fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms.checked_div(size).unwrap_or(0));
        }
    }
    format!("{ms}ms")
}

fn split(text: &str) -> Result<(u64, &str), AmountError> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = text.strip_suffix(unit).unwrap_or("");
    if number.is_empty() {
        return Err(AmountError::Number);
    }
    if unit.is_empty() {
        return Err(AmountError::NoUnit);
    }
    if unit.starts_with('.') {
        return Err(AmountError::Fraction);
    }
    let number = number.parse().ok().ok_or(AmountError::Overflow)?;
    Ok((number, unit))
}

impl fmt::Display for ByteSize {
    /// With the largest binary unit that keeps the number whole: `512MiB`, `1536KiB`, `1000B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)] {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0.checked_div(size).unwrap_or(0));
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:04}", self.0);
        let (whole, fraction) = text.split_at_checked(text.len().saturating_sub(3)).unwrap_or((&text, ""));
        match fraction.trim_end_matches('0') {
            "" => f.write_str(whole),
            fraction => write!(f, "{whole}.{fraction}"),
        }
    }
}

impl Serialize for ByteSize {
    /// As an integer, in bytes.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl Serialize for Cpus {
    /// As an integer, in thousandths of a processor.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("256MiB", 268_435_456),
            ("64KiB", 65_536),
            ("1GiB", 1_073_741_824),
            ("500MB", 500_000_000),
            ("12B", 12),
            ("3kB", 3_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::from_bytes(bytes)), "{text}");
        }
        for (text, error) in [
            ("", AmountError::Number),
            ("MiB", AmountError::Number),
            ("-1MiB", AmountError::Number),
            ("512", AmountError::NoUnit),
            ("1.5GiB", AmountError::Fraction),
            ("1 GiB", AmountError::Unit),
            ("1mib", AmountError::Unit),
            ("1G", AmountError::Unit),
            ("18446744073709551616B", AmountError::Overflow),
            ("99999999TiB", AmountError::Overflow),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(error), "{text}");
        }
    }

    #[test]
    fn sizes_print_as_they_are_read() {
        for size in [0, 1, 1000, 1024, 1536 * 1024, 512 << 20, 1 << 30, 3 << 40, u64::MAX] {
            let size = ByteSize::from_bytes(size);
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        assert_eq!(ByteSize::mebibytes(512).to_string(), "512MiB");
    }

    #[test]
    fn cpus() {
        for (text, milli) in
            [("1", 1000), ("0.1", 100), ("1.5", 1500), ("2.250", 2250), ("0.001", 1), ("64", 64000)]
        {
            assert_eq!(text.parse(), Ok(Cpus::from_milli(milli)), "{text}");
        }
        assert_eq!("0.0001".parse::<Cpus>(), Err(AmountError::Decimals));
        assert_eq!("5000000".parse::<Cpus>(), Err(AmountError::Overflow));
        for bad in ["", ".5", "-1", "1e3", "1.5.2", "NaN"] {
            assert_eq!(bad.parse::<Cpus>(), Err(AmountError::Number), "{bad}");
        }
        for milli in [0, 1, 100, 999, 1000, 1500, 64000] {
            let cpus = Cpus::from_milli(milli);
            assert_eq!(cpus.to_string().parse(), Ok(cpus));
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("10m", 600_000), ("1h", 3_600_000)] {
            let duration = duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(ms));
            assert_eq!(duration_text(duration), text);
        }
        assert_eq!(duration("30"), Err(AmountError::NoUnit));
        assert_eq!(duration("0.5s"), Err(AmountError::Fraction));
        assert_eq!(duration("1d"), Err(AmountError::Unit));
        assert_eq!(duration("9999999999999999999h"), Err(AmountError::Overflow));
    }
}
