//! How much an address may be sent that nobody has proved (RFC 9000, 8.1).

/// By how much the answers may be larger than the questions.
const FACTOR: u64 = 3;

/// What went to and fro between an acceptor and an address that is not proved yet.
///
/// The library keeps such an account too, but lets the last datagram exceed it (quinn issue 1082):
/// a first packet of 1252 bytes was answered with 4011. A datagram that this one stops is lost, as
/// any may be, and repeated when the peer has said more.
#[derive(Debug)]
pub(super) struct AmplificationLimit {
    /// The id that the client chose for us. Who names another has heard from us.
    first_id: Vec<u8>,
    received: u64,
    sent: u64,
}

impl AmplificationLimit {
    /// For a client whose first datagram was so long and addressed to `first_id`.
    pub(super) const fn new(first_id: Vec<u8>, received: u64) -> Self {
        Self {
            first_id,
            received,
            sent: 0,
        }
    }

    /// A datagram for this connection came; whether it proves the address, because it names an id
    /// that only we know and whom we told.
    pub(super) fn receive(&mut self, destination_id: &[u8], len: usize) -> bool {
        self.received += len as u64;
        destination_id != self.first_id
    }

    /// Whether so much more may be sent; if so, it counts as sent.
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
    fn no_more_than_three_times_as_much_goes_out_until_the_address_is_proved() {
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
