//! The network that a peer connects from.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::Address;

/// The network of a remote address, by which limits are shared among unknown peers: an IPv4 address, or
/// the 64 leading bits of an IPv6 address, since a single host usually owns all addresses below them
/// (RFC 6177, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerNetwork(IpAddr);

impl PeerNetwork {
    /// The network of an address; `None` for a name or a path.
    #[must_use]
    pub fn of(address: &Address) -> Option<Self> {
        address.as_socket().map(|socket| socket.ip().into())
    }

    /// Whether it is the host of this process. Behind a local proxy or tunnel every peer seems to be.
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        // All of ::/64 that is assigned is the loopback and the unspecified address (RFC 4291).
        match self.0 {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_unspecified(),
        }
    }
}

impl From<IpAddr> for PeerNetwork {
    fn from(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            ip @ IpAddr::V4(_) => ip,
        })
    }
}

/// `192.0.2.1` or `2001:db8::/64`.
impl fmt::Display for PeerNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => ip.fmt(f),
            IpAddr::V6(ip) => write!(f, "{ip}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Option<PeerNetwork> {
        PeerNetwork::of(&text.parse().expect("an address"))
    }

    #[test]
    fn addresses_of_one_network_are_equal() {
        for (one, other, is_equal) in [
            ("tcp://192.0.2.1:1", "quic://192.0.2.1:2", true),
            ("tcp://192.0.2.1:1", "tcp://192.0.2.2:1", false),
            ("tcp://192.0.2.1:1", "tcp://[::ffff:192.0.2.1]:1", true),
            (
                "tcp://[2001:db8::1]:1",
                "tcp://[2001:db8::ffff:1:2:3]:1",
                true,
            ),
            ("tcp://[2001:db8::1]:1", "tcp://[2001:db8:0:1::1]:1", false),
        ] {
            assert_eq!(network(one) == network(other), is_equal, "{one} {other}");
        }
        assert_eq!(network("tcp://example.com:1"), None);
        assert_eq!(network("unix:///run/x"), None);
    }

    #[test]
    fn a_network_is_displayed_and_the_own_host_recognised() {
        for (text, shown, is_loopback) in [
            ("tcp://192.0.2.1:1", "192.0.2.1", false),
            ("tcp://127.1.2.3:1", "127.1.2.3", true),
            ("tcp://[::ffff:127.0.0.1]:1", "127.0.0.1", true),
            ("tcp://[2001:db8::7]:1", "2001:db8::/64", false),
            ("tcp://[::1]:1", "::/64", true),
        ] {
            let network = network(text).expect("an IP address");
            assert_eq!(network.to_string(), shown);
            assert_eq!(network.is_loopback(), is_loopback, "{text}");
        }
    }
}
