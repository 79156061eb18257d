//! Authentication with key agreement: `Noise_XX_25519_ChaChaPoly_SHA256`.
//!
//! A node is identified by an Ed25519 key, and Noise uses X25519 keys. Each side therefore creates
//! an X25519 key, signs it, and sends node key and signature in the encrypted payload of its
//! handshake message, as libp2p does. Noise proves that the peer holds the X25519 key; the
//! signature proves that this key belongs to the node.
//!
//! ```text
//!   Hello    -> e
//!   Accept   <- e, ee, s, es, { node key, signature of s }
//!   Prove    -> s, se, { node key, signature of s }
//! ```

use std::fmt;
use std::io;
use std::sync::Arc;

use snow::{Builder, HandshakeState};

use super::handshake::{HandshakeNonce, KEY_LEN, NONCE_LEN, SIGNATURE_LEN};
use super::packet_protection::{ConnectionTag, PacketProtection, TrafficSecret, derive};
use crate::NodeId;
use crate::io::identity::{Identity, verify};

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"selvedge/1 udp";
const LABEL: &[u8] = b"selvedge/1 udp noise key";

/// The maximum length of a handshake message: two keys, a payload and their authentication tags.
const MESSAGE_LEN_MAX: usize = 256;

const PAYLOAD_LEN: usize = KEY_LEN + SIGNATURE_LEN;

/// An X25519 key pair and the node's signature of it. Cloning copies a pointer.
#[derive(Clone)]
pub(super) struct NoiseKey(Arc<(Vec<u8>, Vec<u8>)>);

impl fmt::Debug for NoiseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoiseKey")
    }
}

impl NoiseKey {
    pub(super) fn new(identity: &Identity) -> io::Result<Self> {
        let pair = builder()
            .and_then(|builder| builder.generate_keypair())
            .map_err(io::Error::other)?;
        let signature = identity.sign(&[LABEL, &pair.public].concat());
        let payload = [&identity.node_id().as_bytes()[..], &signature].concat();
        Ok(Self(Arc::new((pair.private, payload))))
    }

    fn begin(
        &self,
        build: impl FnOnce(Builder<'_>) -> Result<HandshakeState, snow::Error>,
    ) -> io::Result<Box<HandshakeState>> {
        builder()
            .and_then(|builder| builder.local_private_key(&self.0.0))
            .and_then(|builder| builder.prologue(PROLOGUE))
            .and_then(build)
            .map(Box::new)
            .map_err(io::Error::other)
    }
}

fn builder<'a>() -> Result<Builder<'a>, snow::Error> {
    Ok(Builder::new(PATTERN.parse()?))
}

/// Writes the next message with a payload.
fn write(state: &mut HandshakeState, payload: &[u8]) -> Option<Vec<u8>> {
    let mut message = vec![0; MESSAGE_LEN_MAX];
    let len = state.write_message(payload, &mut message).ok()?;
    message.truncate(len);
    Some(message)
}

/// Reads the next message. Returns the node that signed the X25519 key.
fn read(state: &mut HandshakeState, message: &[u8]) -> Option<NodeId> {
    let mut payload = [0; MESSAGE_LEN_MAX];
    if message.len() > MESSAGE_LEN_MAX {
        return None;
    }
    let len = state.read_message(message, &mut payload).ok()?;
    let payload = payload[..len]
        .first_chunk::<PAYLOAD_LEN>()
        .filter(|_| len == PAYLOAD_LEN)?;
    let (key, signature) = payload.split_first_chunk::<KEY_LEN>()?;
    let node = NodeId::new(*key);
    let signed = [LABEL, state.get_remote_static()?].concat();
    verify(&node, &signed, signature).then_some(node)
}

/// Returns the traffic secrets of dialer and acceptor, and a tag that only both sides can derive.
fn split(state: &mut HandshakeState) -> (TrafficSecret, TrafficSecret, ConnectionTag) {
    let (dialer, acceptor) = state.dangerously_get_raw_split();
    (dialer, acceptor, derive(&acceptor, b"welcome"))
}

/// The dialer's side.
#[derive(Debug)]
pub(super) struct NoiseDial {
    state: Box<HandshakeState>,
    key: NoiseKey,
    pub(super) hello: HandshakeNonce,
}

impl NoiseDial {
    pub(super) fn new(identity: &Identity) -> io::Result<Self> {
        let key = NoiseKey::new(identity)?;
        let mut state = key.begin(|builder| builder.build_initiator())?;
        let message = write(&mut state, &[]);
        let hello = message.and_then(|message| message.try_into().ok());
        Ok(Self {
            state,
            key,
            hello: hello.ok_or_else(|| io::Error::other("unexpected length of a Noise message"))?,
        })
    }

    /// Verifies an Accept. Returns the authenticated peer.
    pub(super) fn check(&mut self, accept: &[u8]) -> Option<NodeId> {
        read(&mut self.state, accept)
    }

    /// Returns the proof of this side, the tag of the Welcome, and the packet protection.
    pub(super) fn prove(&mut self) -> Option<(Vec<u8>, ConnectionTag, PacketProtection)> {
        let message = write(&mut self.state, &self.key.0.1)?;
        let (dialer, acceptor, tag) = split(&mut self.state);
        Some((message, tag, PacketProtection::encrypted(dialer, acceptor)))
    }
}

/// The acceptor's side.
#[derive(Debug)]
pub(super) struct NoiseAccept {
    state: Box<HandshakeState>,
    pub(super) message: Vec<u8>,
}

impl NoiseAccept {
    pub(super) fn new(key: &NoiseKey, hello: &[u8; NONCE_LEN]) -> io::Result<Self> {
        let mut state = key.begin(|builder| builder.build_responder())?;
        state
            .read_message(hello, &mut [])
            .map_err(io::Error::other)?;
        let message = write(&mut state, &key.0.1);
        Ok(Self {
            state,
            message: message.ok_or_else(|| io::Error::other("a Noise message is too long"))?,
        })
    }

    /// Verifies a proof. Returns the authenticated peer, the tag of the Welcome, and the packet
    /// protection.
    pub(super) fn check(
        &mut self,
        proof: &[u8],
    ) -> Option<(NodeId, ConnectionTag, PacketProtection)> {
        let peer = read(&mut self.state, proof)?;
        let (dialer, acceptor, tag) = split(&mut self.state);
        Some((peer, tag, PacketProtection::encrypted(acceptor, dialer)))
    }
}
