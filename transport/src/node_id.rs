//! The identity of a node: its Ed25519 public key.

use std::fmt;
use std::str::FromStr;

/// The identity of a node: the 32 bytes of its Ed25519 public key (RFC 8032).
///
/// An open [`Transport`](crate::Transport) has verified that its peer holds the corresponding
/// private key. `{}` writes 64 lower-case hexadecimal digits; `{:#}` writes the first ten, for
/// logs. Parsing accepts exactly 64 hexadecimal digits of either case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// Wraps a public key.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if f.alternate() {
            &self.0[..5]
        } else {
            &self.0[..]
        };
        shown.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self:#})")
    }
}

/// The error for text that is not a [`NodeId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node id is 64 hexadecimal digits, as `zipper keygen` prints it")]
pub struct ParseNodeIdError;

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(ParseNodeIdError);
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Ok(Self(key))
    }
}

const fn hex_digit(digit: u8) -> Result<u8, ParseNodeIdError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(ParseNodeIdError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_id_parses_back() {
        let id = NodeId::new(std::array::from_fn(|i| (i * 7) as u8));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(format!("{id:#}"), "00070e151c");
    }

    #[test]
    fn text_that_is_not_an_id_is_refused() {
        for text in ["", "00", &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
            assert_eq!(text.parse::<NodeId>(), Err(ParseNodeIdError), "{text:?}");
        }
    }
}
