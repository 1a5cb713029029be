//! Sizes in bytes, as people write them: `512M`, `1G`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::value::ValueError;

/// The units by their letter, powers of 1024.
const UNITS: [(char, u32); 4] = [('k', 10), ('m', 20), ('g', 30), ('t', 40)];

/// A number of bytes above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Size {
    bytes: u64,
}

impl Size {
    /// A size of so many bytes.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Self {
        Self { bytes }
    }

    /// So many bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.bytes
    }
}

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refused = || ValueError {
            text: text.to_owned(),
            reason: "is not a size such as `512M` or `2G`".to_owned(),
        };
        let lower = text.trim().to_ascii_lowercase();
        let short = lower
            .strip_suffix("ib")
            .or_else(|| lower.strip_suffix('b'))
            .unwrap_or(&lower);
        let (digits, power) = UNITS
            .iter()
            .find_map(|(letter, power)| Some((short.strip_suffix(*letter)?, *power)))
            .unwrap_or((short, 0));
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refused());
        }
        let number: u64 = digits.parse().map_err(|_| refused())?;
        let bytes = number.checked_mul(1 << power).ok_or_else(refused)?;
        Ok(Self { bytes })
    }
}

/// Bytes with the largest unit that gives at least one: `1.5 GiB`, `512 MiB`.
impl fmt::Display for Size {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .rev()
            .find(|(_, power)| self.bytes >= 1 << power);
        let Some((letter, power)) = unit else {
            return write!(formatter, "{} bytes", self.bytes);
        };
        let number = self.bytes as f64 / (1_u64 << power) as f64;
        let decimals = usize::from(!self.bytes.is_multiple_of(1 << power));
        let letter = letter.to_ascii_uppercase();
        write!(formatter, "{number:.decimals$} {letter}iB")
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.bytes.to_string()
    }
}

impl TryFrom<String> for Size {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let bytes = |text: &str| text.parse::<Size>().map(Size::bytes).ok();
        assert_eq!(bytes("512"), Some(512));
        assert_eq!(bytes("4k"), Some(4096));
        assert_eq!(bytes("512M"), Some(512 << 20));
        assert_eq!(bytes("1GiB"), Some(1 << 30));
        assert_eq!(bytes("2 TB"), None);
        for wrong in ["", "M", "-1", "1.5G", "1X", "99999999999T"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_shown_for_people() {
        let shown = |bytes| Size::from_bytes(bytes).to_string();
        assert_eq!(shown(100), "100 bytes");
        assert_eq!(shown(512 << 20), "512 MiB");
        assert_eq!(shown(3 << 29), "1.5 GiB");
    }
}
