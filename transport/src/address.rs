//! The address of a node: `quic://host:port`, `tcp://host:port`, `unix:///path`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The maximum length of an address, in bytes. A DNS name has at most 253 (RFC 1035, section
/// 2.3.4).
pub const ADDRESS_LEN_MAX: usize = 320;

/// The address of a node: a scheme, which selects the protocol, and a place.
///
/// Text of more than [`ADDRESS_LEN_MAX`] bytes does not parse. A parsed address prints as the same
/// text.
///
/// ```
/// # use selvedge_transport::Address;
/// let address: Address = "quic://edge.example:9000".parse()?;
/// assert_eq!(address.scheme(), "quic");
/// assert_eq!(address.to_string(), "quic://edge.example:9000");
/// # Ok::<(), selvedge_transport::ParseAddressError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    scheme: String,
    place: Place,
}

/// The part of an [`Address`] after `://`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// An IP address and a port.
    Socket(SocketAddr),
    /// A DNS name and a port. The driver resolves the name outside the workers.
    Name {
        /// The DNS name.
        host: String,
        /// The port.
        port: u16,
    },
    /// A path in the file system.
    Path(String),
}

impl Address {
    /// An address of `scheme` at an IP address and port.
    #[must_use]
    pub fn socket(scheme: &str, socket: SocketAddr) -> Self {
        Self {
            scheme: scheme.to_owned(),
            place: Place::Socket(socket),
        }
    }

    /// An address of `scheme` at a path.
    #[must_use]
    pub fn path(scheme: &str, path: &str) -> Self {
        Self {
            scheme: scheme.to_owned(),
            place: Place::Path(path.to_owned()),
        }
    }

    /// The scheme, which selects the protocol: the part before `://`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The place: the part after `://`.
    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// The IP address and port; `None` for a DNS name or a path.
    #[must_use]
    pub const fn as_socket(&self) -> Option<SocketAddr> {
        match self.place {
            Place::Socket(socket) => Some(socket),
            Place::Name { .. } | Place::Path(_) => None,
        }
    }

    /// The same scheme at a resolved IP address and port.
    #[must_use]
    pub fn at(&self, socket: SocketAddr) -> Self {
        Self::socket(&self.scheme, socket)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Socket(socket) => write!(f, "{}://{socket}", self.scheme),
            Place::Name { host, port } => write!(f, "{}://{host}:{port}", self.scheme),
            Place::Path(path) => write!(f, "{}://{path}", self.scheme),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error for text that is not an [`Address`]. The message states the expected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseAddressError {
    /// The text contains no `://`.
    #[error("an address begins with a protocol, as in `quic://{text}`")]
    NoScheme {
        /// The rejected text.
        text: String,
    },
    /// The scheme contains characters other than lower-case letters, digits, `+` and `-`.
    #[error("`{scheme}` is not a protocol name (lower-case letters, digits, `+`, `-`)")]
    BadScheme {
        /// The rejected scheme.
        scheme: String,
    },
    /// The port is missing or not a number from 0 to 65535.
    #[error("`{text}` needs a port from 0 to 65535, as in `host:9000`")]
    BadPort {
        /// The rejected text.
        text: String,
    },
    /// The host is neither an IP address nor a DNS name.
    #[error("`{host}` is neither an IP address ([..] around IPv6) nor a DNS name")]
    BadHost {
        /// The rejected host.
        host: String,
    },
    /// The text is longer than [`ADDRESS_LEN_MAX`].
    #[error("an address has at most {ADDRESS_LEN_MAX} bytes")]
    TooLong,
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > ADDRESS_LEN_MAX {
            return Err(ParseAddressError::TooLong);
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| ParseAddressError::NoScheme {
                text: text.to_owned(),
            })?;
        let is_scheme_byte =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-".contains(&b);
        if scheme.is_empty() || !scheme.bytes().all(is_scheme_byte) {
            return Err(ParseAddressError::BadScheme {
                scheme: scheme.to_owned(),
            });
        }
        Ok(Self {
            scheme: scheme.to_owned(),
            place: parse_place(rest)?,
        })
    }
}

fn parse_place(text: &str) -> Result<Place, ParseAddressError> {
    if text.starts_with('/') {
        return Ok(Place::Path(text.to_owned()));
    }
    let bad_port = || ParseAddressError::BadPort {
        text: text.to_owned(),
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(bad_port)?;
    // `u16::from_str` accepts a leading plus sign, which is not valid in an address.
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad_port());
    }
    let port = port.parse().map_err(|_| bad_port())?;
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'))
        && let Ok(ip) = v6.parse::<Ipv6Addr>()
    {
        return Ok(Place::Socket(SocketAddr::new(IpAddr::V6(ip), port)));
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Place::Socket(SocketAddr::new(IpAddr::V4(ip), port)));
    }
    if is_dns_name(host) {
        return Ok(Place::Name {
            host: host.to_owned(),
            port,
        });
    }
    Err(ParseAddressError::BadHost {
        host: host.to_owned(),
    })
}

/// Accepts labels of 1 to 63 letters, digits, hyphens and underscores (RFC 1123, section 2.1), not
/// all of them digits.
fn is_dns_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253
        && host.trim_end_matches('.').split('.').all(is_label)
        && !host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_address_parses_back() {
        for text in [
            "quic://127.0.0.1:9000",
            "tcp://[::1]:0",
            "tcp+plain://edge.example:65535",
            "udp://localhost:1",
            "unix:///tmp/node.sock",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn an_invalid_address_reports_the_expected_form() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("localhost:9000", "`quic://localhost:9000`");
        check("QUIC://a:1", "not a protocol name");
        check("://a:1", "not a protocol name");
        check("quic://a", "needs a port");
        check("quic://a:", "needs a port");
        check("quic://a:+1", "needs a port");
        check("quic://a:65536", "needs a port");
        check("quic://::1:9000", "neither an IP address");
        check("quic://256.0.0.1:1", "neither an IP address");
        check("quic://a b:1", "neither an IP address");
        check("quic://:1", "neither an IP address");
        check(
            &format!("quic://{}:1", "a".repeat(400)),
            "at most 320 bytes",
        );
    }
}
