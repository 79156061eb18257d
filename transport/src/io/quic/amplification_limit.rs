//! The anti-amplification limit for an address that is not validated (RFC 9000, section 8.1).

/// The ratio of sent to received bytes that the limit allows.
const FACTOR: u64 = 3;

/// The numbers of bytes exchanged between an acceptor and an address that is not validated.
///
/// quinn-proto has the same limit, but lets the last datagram exceed it (quinn issue 1082): it
/// answered a first packet of 1252 bytes with 4011 bytes. A datagram rejected here counts as lost;
/// QUIC retransmits it when the peer has sent more.
#[derive(Debug)]
pub(super) struct AmplificationLimit {
    /// The destination connection id that the client chose. A client that uses another one has
    /// received a packet of this side.
    first_id: Vec<u8>,
    received: u64,
    sent: u64,
}

impl AmplificationLimit {
    /// Creates the limit for a client whose first datagram had `received` bytes and the destination
    /// id `first_id`.
    pub(super) const fn new(first_id: Vec<u8>, received: u64) -> Self {
        Self {
            first_id,
            received,
            sent: 0,
        }
    }

    /// Counts a received datagram of this connection. Returns whether it validates the address: its
    /// destination id is one that this side issued.
    pub(super) fn receive(&mut self, destination_id: &[u8], len: usize) -> bool {
        self.received += len as u64;
        destination_id != self.first_id
    }

    /// Counts `len` bytes as sent if the limit allows them. Returns whether it does.
    pub(super) const fn take(&mut self, len: usize) -> bool {
        let sent = self.sent + len as u64;
        if sent > FACTOR * self.received {
            return false;
        }
        self.sent = sent;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_three_times_the_received_bytes_are_sent_before_validation() {
        let mut amplification_limit = AmplificationLimit::new(vec![1, 2], 1252);
        assert!((0..3).all(|_| amplification_limit.take(1200)));
        assert!(
            !amplification_limit.take(157)
                && amplification_limit.take(156)
                && !amplification_limit.take(1)
        );
        assert!(!amplification_limit.receive(&[1, 2], 10));
        assert!(amplification_limit.take(30) && !amplification_limit.take(1));
        assert!(amplification_limit.receive(&[1, 2, 3], 10));
    }
}
