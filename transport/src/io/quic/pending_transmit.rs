//! Packets that wait until the socket is writable.

pub(super) struct PendingTransmit {
    pub(super) bytes: Vec<u8>,
    pub(super) transmit: quinn_proto::Transmit,
}

/// Converts to the form of quinn-udp. The source address is that of the connected socket.
pub(super) fn outgoing<'a>(
    transmit: &quinn_proto::Transmit,
    bytes: &'a [u8],
) -> quinn_udp::Transmit<'a> {
    quinn_udp::Transmit {
        destination: transmit.destination,
        ecn: transmit
            .ecn
            .and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
        contents: &bytes[..transmit.size],
        segment_size: transmit.segment_size,
        src_ip: None,
    }
}
