//! The mutual authentication of `tcp+plain://`, as a state machine without I/O.
//!
//! ```text
//!   dialer                                              acceptor
//!     │── Hello:   magic 8 │ version 1 │ key 32 │ nonce 32 ──▶│  takes the version, or refuses
//!     │◀─ Accept:  code 1 │ key 32 │ nonce 32 │ signature 64 ─│
//!     │   compares the key with the one that was dialed       │
//!     │── Prove:   signature 64 ─────────────────────────────▶│  admits, or refuses
//!     │◀─ Welcome: code 1 ────────────────────────────────────│
//! ```
//!
//! Every message has a fixed length, given above in bytes. A message in which the acceptor may
//! refuse begins with a code; a refusal consists of the code alone.
//!
//! Both sides sign the same transcript except for the role: label, version, role, both keys, both
//! nonces. A replayed signature is therefore invalid, one side's signature cannot be used as the
//! other's, and both sides agree on the identities.
//!
//! The handshake authenticates only the establishment of the connection. Subsequent bytes are
//! neither encrypted nor authenticated: anyone able to write into the stream can impersonate the
//! peer. Use it on trusted links only (loopback, a private network).

use crate::io::identity::{Admission, Identity, verify};
use crate::{End, NodeId, Role};

const MAGIC: &[u8; 8] = b"selvedge";
const VERSION: u8 = 1;
const LABEL: &[u8] = b"selvedge plain handshake";

const NONCE_LEN: usize = 32;
const KEY_LEN: usize = 32;
const SIGNATURE_LEN: usize = 64;

const HELLO_LEN: usize = MAGIC.len() + 1 + KEY_LEN + NONCE_LEN;
/// The length of an Accept after its code.
const ACCEPT_LEN: usize = KEY_LEN + NONCE_LEN + SIGNATURE_LEN;

/// The codes with which messages of the acceptor begin.
const CODE_ACCEPTED: u8 = 1;
const CODE_VERSION: u8 = 2;
const CODE_NOT_ADMITTED: u8 = 3;

/// Random bytes that are unique to one handshake.
pub(crate) type PlainNonce = [u8; NONCE_LEN];

/// One side of the handshake.
///
/// Pass [`handle`](Self::handle) exactly [`wanted`](Self::wanted) bytes at a time. Send the bytes
/// of [`take_output`](Self::take_output) after construction and after each call, also after a
/// failure.
#[derive(Debug)]
pub(crate) struct PlainHandshake {
    identity: Identity,
    nonce: PlainNonce,
    output: Vec<u8>,
    state: PlainHandshakeState,
}

/// The message that is expected next.
#[derive(Debug)]
enum PlainHandshakeState {
    /// The dialer waits for the code of an Accept.
    AwaitAcceptCode { expected: Option<NodeId> },
    /// The dialer waits for the remainder of the Accept.
    AwaitAccept { expected: Option<NodeId> },
    /// The dialer waits for the Welcome.
    AwaitWelcome { peer: NodeId },
    /// The acceptor waits for a Hello.
    AwaitHello { admission: Admission },
    /// The acceptor waits for a Prove.
    AwaitProof {
        admission: Admission,
        peer: NodeId,
        peer_nonce: PlainNonce,
    },
    /// The handshake succeeded or failed.
    Done,
}

/// The progress after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeStep {
    /// Another message is required.
    Wait,
    /// The peer is authenticated and has accepted this side.
    Open(NodeId),
}

impl PlainHandshake {
    /// Creates the side that dialed `expected`; `None` accepts every peer that proves an identity.
    pub(crate) fn dialer(identity: Identity, expected: Option<NodeId>, nonce: PlainNonce) -> Self {
        let key = *identity.node_id().as_bytes();
        Self {
            identity,
            nonce,
            output: [&MAGIC[..], &[VERSION], &key, &nonce].concat(),
            state: PlainHandshakeState::AwaitAcceptCode { expected },
        }
    }

    /// Creates the side that was dialed.
    pub(crate) const fn acceptor(
        identity: Identity,
        admission: Admission,
        nonce: PlainNonce,
    ) -> Self {
        Self {
            identity,
            nonce,
            output: Vec::new(),
            state: PlainHandshakeState::AwaitHello { admission },
        }
    }

    /// Returns the bytes to send now; empty if there are none.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The length of the next message in bytes; 0 if none is expected.
    pub(crate) const fn wanted(&self) -> usize {
        match self.state {
            PlainHandshakeState::AwaitAcceptCode { .. }
            | PlainHandshakeState::AwaitWelcome { .. } => 1,
            PlainHandshakeState::AwaitAccept { .. } => ACCEPT_LEN,
            PlainHandshakeState::AwaitHello { .. } => HELLO_LEN,
            PlainHandshakeState::AwaitProof { .. } => SIGNATURE_LEN,
            PlainHandshakeState::Done => 0,
        }
    }

    /// Handles the next message.
    ///
    /// # Errors
    /// The reason for which the handshake failed. A refusal may remain in the output.
    pub(crate) fn handle(&mut self, message: &[u8]) -> Result<HandshakeStep, End> {
        match std::mem::replace(&mut self.state, PlainHandshakeState::Done) {
            PlainHandshakeState::AwaitAcceptCode { expected } => {
                self.handle_code(message)?;
                self.state = PlainHandshakeState::AwaitAccept { expected };
                Ok(HandshakeStep::Wait)
            }
            PlainHandshakeState::AwaitAccept { expected } => self.handle_accept(message, expected),
            PlainHandshakeState::AwaitWelcome { peer } => {
                self.handle_code(message)?;
                Ok(HandshakeStep::Open(peer))
            }
            PlainHandshakeState::AwaitHello { admission } => self.handle_hello(message, admission),
            PlainHandshakeState::AwaitProof {
                admission,
                peer,
                peer_nonce,
            } => self.handle_prove(message, &admission, peer, &peer_nonce),
            PlainHandshakeState::Done => Err(unauthenticated("a message after the handshake")),
        }
    }

    fn handle_code(&self, message: &[u8]) -> Result<(), End> {
        let refused = |why: &str| {
            Err(End::Refused {
                detail: why.to_owned(),
            })
        };
        match message {
            [CODE_ACCEPTED] => Ok(()),
            [CODE_VERSION] => refused("the peer does not support this protocol version"),
            [CODE_NOT_ADMITTED] => refused("this key is not admitted there"),
            _ => Err(unauthenticated("the peer uses another protocol")),
        }
    }

    fn handle_accept(
        &mut self,
        message: &[u8],
        expected: Option<NodeId>,
    ) -> Result<HandshakeStep, End> {
        let fields = split_key(message).and_then(|(found, rest)| {
            let (nonce, signature) = rest.split_first_chunk::<NONCE_LEN>()?;
            Some((found, nonce, signature))
        });
        let (found, nonce, signature) = fields.ok_or_else(cut_short)?;
        let own = self.identity.node_id();
        let transcript = |role| transcript(role, (&own, &self.nonce), (&found, nonce));
        check(&found, &transcript(Role::Acceptor), signature)?;
        if let Some(expected) = expected
            && expected != found
        {
            return Err(End::WrongPeer { expected, found });
        }
        self.output = self.identity.sign(&transcript(Role::Dialer)).to_vec();
        self.state = PlainHandshakeState::AwaitWelcome { peer: found };
        Ok(HandshakeStep::Wait)
    }

    fn handle_hello(&mut self, message: &[u8], admission: Admission) -> Result<HandshakeStep, End> {
        let rest = message
            .strip_prefix(MAGIC)
            .ok_or_else(|| unauthenticated("the peer uses another protocol"))?;
        let (&version, rest) = rest.split_first().ok_or_else(cut_short)?;
        if version != VERSION {
            self.output = vec![CODE_VERSION];
            return Err(unauthenticated("the peer uses another protocol version"));
        }
        let (peer, nonce) = split_key(rest).ok_or_else(cut_short)?;
        let peer_nonce: PlainNonce = nonce.try_into().map_err(|_| cut_short())?;
        let own = self.identity.node_id();
        let signed = transcript(Role::Acceptor, (&peer, &peer_nonce), (&own, &self.nonce));
        let signature = self.identity.sign(&signed);
        self.output = [
            &[CODE_ACCEPTED],
            &own.as_bytes()[..],
            &self.nonce,
            &signature,
        ]
        .concat();
        self.state = PlainHandshakeState::AwaitProof {
            admission,
            peer,
            peer_nonce,
        };
        Ok(HandshakeStep::Wait)
    }

    fn handle_prove(
        &mut self,
        signature: &[u8],
        admission: &Admission,
        peer: NodeId,
        peer_nonce: &PlainNonce,
    ) -> Result<HandshakeStep, End> {
        let own = self.identity.node_id();
        let signed = transcript(Role::Dialer, (&peer, peer_nonce), (&own, &self.nonce));
        check(&peer, &signed, signature)?;
        // Checked after the signature, so that a peer learns only about a key that it holds whether
        // it is admitted.
        if !admission.admits(&peer) {
            self.output = vec![CODE_NOT_ADMITTED];
            return Err(End::NotAdmitted { peer });
        }
        self.output = vec![CODE_ACCEPTED];
        Ok(HandshakeStep::Open(peer))
    }
}

/// The bytes that the side of `role` signs. All parts except the label have fixed lengths.
fn transcript(
    role: Role,
    dialer: (&NodeId, &PlainNonce),
    acceptor: (&NodeId, &PlainNonce),
) -> Vec<u8> {
    let role = match role {
        Role::Dialer => b'd',
        Role::Acceptor => b'a',
    };
    [
        LABEL,
        &[VERSION, role],
        dialer.0.as_bytes(),
        acceptor.0.as_bytes(),
        dialer.1,
        acceptor.1,
    ]
    .concat()
}

fn check(peer: &NodeId, signed: &[u8], signature: &[u8]) -> Result<(), End> {
    if verify(peer, signed, signature) {
        Ok(())
    } else {
        Err(unauthenticated("the signature is wrong"))
    }
}

fn split_key(bytes: &[u8]) -> Option<(NodeId, &[u8])> {
    let (key, rest) = bytes.split_first_chunk::<KEY_LEN>()?;
    Some((NodeId::new(*key), rest))
}

fn cut_short() -> End {
    unauthenticated("a message is truncated")
}

fn unauthenticated(detail: &str) -> End {
    End::Unauthenticated {
        detail: detail.to_owned(),
    }
}

#[cfg(test)]
mod tests;
