//! A QUIC client that deviates from this project's, on a socket of its own.

use std::any::Any;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::crypto::{
    self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{
    ClientConfig, ConnectError, Connection, ConnectionHandle, ConnectionId, DatagramEvent, Dir,
    Endpoint, EndpointConfig, Event, Side, TransportError,
};

use crate::raw_tls::{self, Wrong};

/// A connection of such a client.
pub(crate) struct RawQuic {
    socket: UdpSocket,
    listener: SocketAddr,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    conn: Connection,
    /// The reason for which the connection was lost.
    pub(crate) lost: Option<String>,
}

impl RawQuic {
    /// Starts to connect from an address of this host; it sends nothing yet.
    pub(crate) fn new(from: &str, listener: SocketAddr, wrong: Wrong) -> Self {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let tls = QuicClientConfig::try_from(raw_tls::client(wrong)).unwrap();
        let tls: Arc<dyn crypto::ClientConfig> = match wrong {
            Wrong::Tls12 => Arc::new(OldConfig(Arc::new(tls))),
            _ => Arc::new(tls),
        };
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        let config = ClientConfig::new(tls);
        let begun = endpoint.connect(Instant::now(), config, listener, "selvedge");
        let (handle, conn) = begun.unwrap();
        Self {
            socket,
            listener,
            endpoint,
            handle,
            conn,
            lost: None,
        }
    }

    /// The next datagram to send.
    pub(crate) fn next_datagram(&mut self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let transmit = self.conn.poll_transmit(Instant::now(), 1, &mut bytes)?;
        bytes.truncate(transmit.size);
        Some(bytes)
    }

    pub(crate) fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.listener).unwrap();
    }

    /// The datagrams that have arrived and were not read.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 65_536];
        std::iter::from_fn(|| {
            let len = self.socket.recv(&mut buffer).ok()?;
            Some(buffer[..len].to_vec())
        })
        .collect()
    }

    /// Advances the client. Once it considers itself connected, it sends a frame.
    pub(crate) fn pump(&mut self) {
        let now = Instant::now();
        for datagram in self.received() {
            let mut answer = Vec::new();
            let bytes = datagram[..].into();
            let event = self
                .endpoint
                .handle(now, self.listener, None, None, bytes, &mut answer);
            if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                self.conn.handle_event(event);
            }
        }
        if self.conn.poll_timeout().is_some_and(|at| at <= now) {
            self.conn.handle_timeout(now);
        }
        while let Some(event) = self.conn.poll_endpoint_events() {
            if let Some(answer) = self.endpoint.handle_event(self.handle, event) {
                self.conn.handle_event(answer);
            }
        }
        while let Some(event) = self.conn.poll() {
            match event {
                Event::Connected => self.send_frame(),
                Event::ConnectionLost { reason } => self.lost = Some(reason.to_string()),
                _ => {}
            }
        }
        while let Some(datagram) = self.next_datagram() {
            // The listener may have closed its socket.
            drop(self.socket.send_to(&datagram, self.listener));
        }
    }

    fn send_frame(&mut self) {
        let Some(stream) = self.conn.streams().open(Dir::Uni) else {
            return;
        };
        // The stream type of control, and a frame of 5 bytes.
        let bytes = b"\x00\x05\x00\x00\x00hello";
        drop(self.conn.send_stream(stream).write(bytes));
    }
}

/// A client session that offers TLS 1.2, which rustls cannot be configured to do.
struct OldConfig(Arc<QuicClientConfig>);

impl crypto::ClientConfig for OldConfig {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let session = Arc::clone(&self.0).start_session(version, server_name, params)?;
        Ok(Box::new(OldSession(session)))
    }
}

struct OldSession(Box<dyn Session>);

impl Session for OldSession {
    fn write_handshake(&mut self, bytes: &mut Vec<u8>) -> Option<Keys> {
        let begin = bytes.len();
        let keys = self.0.write_handshake(bytes);
        if bytes.len() > begin {
            raw_tls::offer_tls12_only(&mut bytes[begin..]);
        }
        keys
    }

    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        self.0.initial_keys(id, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.0.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.0.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.0.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.0.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.0.read_handshake(bytes)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.0.transport_parameters()
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.0.next_1rtt_keys()
    }

    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.0.is_valid_retry(id, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.0.export_keying_material(output, label, context)
    }
}
