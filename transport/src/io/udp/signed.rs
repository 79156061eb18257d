//! Authentication without encryption. Each side signs both nonces, so a replayed signature is
//! invalid.

use ring::digest;

use super::handshake::{HandshakeNonce, KEY_LEN, NONCE_LEN, SIGNATURE_LEN, first_bytes};
use super::packet_protection::{ConnectionTag, PacketProtection};
use crate::NodeId;
use crate::io::identity::{Identity, random, verify};

/// The contexts of the two signatures. They prevent the use of one as the other or in another
/// protocol.
const ACCEPT_LABEL: &[u8] = b"selvedge/1 udp+plain accept";
const PROVE_LABEL: &[u8] = b"selvedge/1 udp+plain prove";

/// The dialer's side.
#[derive(Debug)]
pub(super) struct SignedDial {
    identity: Identity,
    pub(super) nonce: HandshakeNonce,
    /// `Some` once the peer is authenticated.
    peer: Option<(NodeId, HandshakeNonce)>,
}

impl SignedDial {
    pub(super) fn new(identity: Identity) -> std::io::Result<Self> {
        Ok(Self {
            identity,
            nonce: random()?,
            peer: None,
        })
    }

    /// Verifies an Accept. Returns the authenticated peer.
    pub(super) fn check(&mut self, accept: &[u8]) -> Option<NodeId> {
        let (nonce, rest) = accept.split_first_chunk::<NONCE_LEN>()?;
        let (key, signature) = rest.split_first_chunk::<KEY_LEN>()?;
        let found = NodeId::new(*key);
        let signed = [ACCEPT_LABEL, &self.nonce, nonce, key].concat();
        if signature.len() != SIGNATURE_LEN || !verify(&found, &signed, signature) {
            return None;
        }
        self.peer = Some((found, *nonce));
        Some(found)
    }

    /// Returns the proof of this side, the tag of the Welcome, and the packet protection.
    pub(super) fn prove(&self) -> Option<(Vec<u8>, ConnectionTag, PacketProtection)> {
        let (peer, nonce) = &self.peer?;
        let own = self.identity.node_id();
        let signed = [
            PROVE_LABEL,
            &self.nonce,
            nonce,
            peer.as_bytes(),
            own.as_bytes(),
        ]
        .concat();
        let signature = self.identity.sign(&signed);
        let tag = tag_of(&self.nonce, nonce);
        let message = [&own.as_bytes()[..], &signature].concat();
        Some((message, tag, PacketProtection::Tagged(tag)))
    }
}

/// The acceptor's side.
#[derive(Debug)]
pub(super) struct SignedAccept {
    own: NodeId,
    dialer_nonce: HandshakeNonce,
    nonce: HandshakeNonce,
    pub(super) message: Vec<u8>,
}

impl SignedAccept {
    pub(super) fn new(identity: &Identity, dialer_nonce: HandshakeNonce) -> std::io::Result<Self> {
        let nonce: HandshakeNonce = random()?;
        let own = identity.node_id();
        let signed = [ACCEPT_LABEL, &dialer_nonce, &nonce, own.as_bytes()].concat();
        let message = [&nonce[..], own.as_bytes(), &identity.sign(&signed)].concat();
        Ok(Self {
            own,
            dialer_nonce,
            nonce,
            message,
        })
    }

    /// Verifies a proof. Returns the authenticated peer, the tag of the Welcome, and the packet
    /// protection.
    pub(super) fn check(&self, proof: &[u8]) -> Option<(NodeId, ConnectionTag, PacketProtection)> {
        let (key, signature) = proof.split_first_chunk::<KEY_LEN>()?;
        let peer = NodeId::new(*key);
        let signed = [
            PROVE_LABEL,
            &self.dialer_nonce,
            &self.nonce,
            self.own.as_bytes(),
            key,
        ]
        .concat();
        let is_proved = signature.len() == SIGNATURE_LEN && verify(&peer, &signed, signature);
        let tag = tag_of(&self.dialer_nonce, &self.nonce);
        is_proved.then_some((peer, tag, PacketProtection::Tagged(tag)))
    }
}

fn tag_of(dialer: &HandshakeNonce, acceptor: &HandshakeNonce) -> ConnectionTag {
    let digest = digest::digest(&digest::SHA256, &[&dialer[..], acceptor].concat());
    first_bytes(digest.as_ref())
}
