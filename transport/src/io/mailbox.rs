//! How a listener hands a datagram to the transport that owns it, on whatever worker that is.
//!
//! A pair of Unix datagram sockets: queue, bound and wake-up in one, and it moves between polls
//! like any socket. Few datagrams go this way: those of a peer whose address has just changed, and
//! those that arrived before the peer's own socket was connected. So the copy does not matter.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::{Buf, BytesMut};
use mio::net::UnixDatagram;
use mio::{Interest, Registry, Token};

use super::datagram_socket::DatagramMeta;
use crate::ReadBuffer;

/// Address family (1), address (16), port (2), congestion mark (1).
const HEADER_LEN: usize = 20;

/// The longest datagram that is forwarded, in bytes. Paths with a larger MTU than this are loopback
/// ones, where no address changes.
pub(super) const LETTER_LEN_MAX: usize = 16 * 1024;

/// The listener's end. It goes with the mailbox: a listener that nobody knocks at does not look for
/// what has gone, and must not keep a descriptor of each connection that it ever had.
#[derive(Debug)]
pub(super) struct Slot {
    socket: Weak<UnixDatagram>,
    waiting: Arc<AtomicUsize>,
}

/// The transport's end.
#[derive(Debug)]
pub(super) struct Mailbox {
    socket: UnixDatagram,
    /// Of the slot, which does not own it.
    _other: Arc<UnixDatagram>,
    /// Letters sent and not yet read, so that a transport without any need not ask the kernel. It is
    /// raised before a letter is sent and lowered after it was read: it is never too low.
    waiting: Arc<AtomicUsize>,
}

/// A slot and its mailbox. The kernel's default buffer (`net.core.wmem_default`, 212,992 bytes)
/// bounds what waits between them.
pub(super) fn pair() -> io::Result<(Slot, Mailbox)> {
    let (ours, theirs) = UnixDatagram::pair()?;
    let (ours, waiting) = (Arc::new(ours), Arc::new(AtomicUsize::new(0)));
    let slot = Slot {
        socket: Arc::downgrade(&ours),
        waiting: Arc::clone(&waiting),
    };
    let mailbox = Mailbox {
        socket: theirs,
        _other: ours,
        waiting,
    };
    Ok((slot, mailbox))
}

impl Slot {
    /// Hands a datagram over; `false` when the mailbox is full or gone, and the datagram is lost.
    pub(super) fn put(&self, meta: &DatagramMeta, datagram: &[u8]) -> bool {
        let Some(socket) = self.socket.upgrade() else {
            return false;
        };
        if datagram.len() > LETTER_LEN_MAX {
            return false;
        }
        let letter = write_letter(meta, datagram);
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let sent = socket.send(&letter).is_ok();
        if !sent {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        sent
    }
}

impl Mailbox {
    /// The next letter; `None` when there is none.
    pub(super) fn take(&self, buffer: &mut ReadBuffer) -> Option<(DatagramMeta, BytesMut)> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let space = buffer.space(HEADER_LEN + LETTER_LEN_MAX);
        let len = self.socket.recv(space).ok()?;
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        read_letter(buffer.take(len))
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, Interest::READABLE)
    }

    pub(super) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut self.socket)
    }
}

fn write_letter(meta: &DatagramMeta, datagram: &[u8]) -> Vec<u8> {
    let (is_v4, ip) = match meta.remote.ip() {
        IpAddr::V4(ip) => (1, ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => (0, ip),
    };
    let mut out = Vec::with_capacity(HEADER_LEN + datagram.len());
    out.push(is_v4);
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&meta.remote.port().to_be_bytes());
    out.push(meta.ecn.map_or(0, |ecn| ecn as u8));
    out.extend_from_slice(datagram);
    out
}

fn read_letter(mut letter: BytesMut) -> Option<(DatagramMeta, BytesMut)> {
    if letter.len() < HEADER_LEN {
        return None;
    }
    let is_v4 = letter.get_u8() == 1;
    let ip = Ipv6Addr::from(letter.get_u128());
    let port = letter.get_u16();
    let ecn = quinn_udp::EcnCodepoint::from_bits(letter.get_u8());
    let ip = match ip.to_ipv4_mapped() {
        Some(v4) if is_v4 => IpAddr::V4(v4),
        _ => IpAddr::V6(ip),
    };
    let meta = DatagramMeta {
        remote: SocketAddr::new(ip, port),
        local_ip: None,
        ecn,
    };
    Some((meta, letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_arrives_as_it_was_put() {
        let (slot, mailbox) = pair().unwrap();
        let mut buffer = ReadBuffer::default();
        assert!(mailbox.take(&mut buffer).is_none());
        for remote in ["192.0.2.1:7", "[2001:db8::1]:9", "[::ffff:192.0.2.1]:7"] {
            let meta = DatagramMeta {
                remote: remote.parse().unwrap(),
                local_ip: None,
                ecn: Some(quinn_udp::EcnCodepoint::Ce),
            };
            assert!(slot.put(&meta, b"datagram"));
            let (read, bytes) = mailbox.take(&mut buffer).unwrap();
            assert_eq!((read.remote, read.ecn), (meta.remote, meta.ecn));
            assert_eq!(&bytes[..], b"datagram");
        }
        assert!(mailbox.take(&mut buffer).is_none());
    }

    #[test]
    fn a_full_or_orphaned_mailbox_refuses() {
        let (slot, mailbox) = pair().unwrap();
        let meta = DatagramMeta {
            remote: "192.0.2.1:7".parse().unwrap(),
            local_ip: None,
            ecn: None,
        };
        let put = (0..10_000).take_while(|_| slot.put(&meta, &[0; 1200]));
        assert!(put.count() < 10_000);
        assert!(!slot.put(&meta, &[0; LETTER_LEN_MAX + 1]));
        drop(mailbox);
        assert!(!slot.put(&meta, b"x"));
    }
}
