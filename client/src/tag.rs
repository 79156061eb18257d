//! Tags, by which functions select the messages that they observe.

use std::fmt;
use std::str::FromStr;

/// The number by which functions select the messages that they observe.
///
/// Displayed in hexadecimal with at least four digits (`0x0010`); parsed from decimal or hexadecimal
/// text (`16`, `0x10`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u32);

/// Why a text is not a tag that users may choose. The caller has to change the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// The text is neither a decimal number nor a hexadecimal one that begins with `0x`.
    #[error("`{0}` is not a tag: expected a number such as 0x0010 or 16")]
    Malformed(String),
    /// The tag is in the range that is reserved for the system.
    #[error("tag {0} is reserved: the range 0xf000 to 0xffff belongs to the system")]
    Reserved(Tag),
}

impl Tag {
    /// Whether the tag is reserved for the system: 0xf000 to 0xffff.
    pub const fn is_reserved(self) -> bool {
        matches!(self.0, 0xf000..=0xffff)
    }

    /// The tag of that number, if users may choose it.
    ///
    /// # Errors
    /// [`TagError::Reserved`].
    pub fn for_user(value: u32) -> Result<Self, TagError> {
        let tag = Self(value);
        if tag.is_reserved() {
            Err(TagError::Reserved(tag))
        } else {
            Ok(tag)
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => (digits, 16),
            None => (text, 10),
        };
        let malformed = || TagError::Malformed(text.to_owned());
        if !digits.starts_with(|c: char| c.is_digit(radix)) {
            return Err(malformed());
        }
        Self::for_user(u32::from_str_radix(digits, radix).map_err(|_| malformed())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_displayed_tag_parses_to_the_same_tag() {
        for value in [0, 0x10, 0xefff, 0x1_0000, u32::MAX] {
            assert_eq!(Tag(value).to_string().parse(), Ok(Tag(value)));
            assert_eq!(value.to_string().parse(), Ok(Tag(value)));
        }
        assert_eq!(Tag(16).to_string(), "0x0010");
        assert_eq!(Tag(0x12345).to_string(), "0x12345");
    }

    #[test]
    fn reserved_tags_and_malformed_texts_are_refused() {
        for value in [0xf000, 0xffff] {
            assert_eq!(Tag::for_user(value), Err(TagError::Reserved(Tag(value))));
        }
        for text in ["", "0x", "x10", "+1", "0x+1", "-1", "1 ", "4294967296"] {
            assert_eq!(
                text.parse::<Tag>(),
                Err(TagError::Malformed(text.to_owned()))
            );
        }
    }
}
