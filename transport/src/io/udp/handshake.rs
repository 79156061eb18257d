//! The handshake of the UDP transport: one state machine without I/O for each side.
//!
//! ```text
//!   dialer                                            listener
//!     │── Hello: nonce, no cookie ────────────────────▶│  stateless
//!     │◀─ Cookie: MAC of address, nonce and time ──────│
//!     │── Hello: nonce, cookie ───────────────────────▶│  creates a transport
//!     │◀─ Accept: its proof ───────────────────────────│
//!     │── Prove: its proof ───────────────────────────▶│  admits or refuses the key
//!     │◀─ Welcome, or Refuse ──────────────────────────│
//! ```
//!
//! The dialer retransmits its last message until it receives a response; the acceptor only
//! responds. The response to an address that is not validated is shorter than the request, so the
//! listener amplifies nothing (compare RFC 9147, section 5.1).
//!
//! A proof is a signature ([`signed`](super::signed)) or a message of a Noise handshake
//! ([`noise`](super::noise)); the first Noise message takes the place of the nonce.

use std::net::SocketAddr;

use ring::hmac;

use super::noise::{NoiseAccept, NoiseDial, NoiseKey};
use super::packet_protection::{ConnectionTag, PacketProtection};
use super::signed::{SignedAccept, SignedDial};
use crate::io::identity::{Admission, Identity, random};
use crate::{End, NodeId};

pub(super) const NONCE_LEN: usize = 32;
pub(super) type HandshakeNonce = [u8; NONCE_LEN];
pub(super) const KEY_LEN: usize = 32;
pub(super) const SIGNATURE_LEN: usize = 64;
const COOKIE_LEN: usize = 16;
type Cookie = [u8; COOKIE_LEN];

const MAGIC_LEN: usize = 5;

const HELLO: u8 = 1;
const COOKIE: u8 = 2;
const ACCEPT: u8 = 3;
const PROVE: u8 = 4;
const WELCOME: u8 = 5;
const REFUSE: u8 = 6;

/// The validity of a cookie: at least this time, at most twice as long.
const COOKIE_SECONDS: u64 = 5;

/// The security of a connection, selected by its scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UdpSecurity {
    /// No encryption; each datagram carries a tag that observers on the path can read.
    Plain,
    /// Encryption and authentication of each datagram.
    Encrypted,
}

impl UdpSecurity {
    /// The first bytes of a Hello: protocol and version.
    const fn magic(self) -> &'static [u8; MAGIC_LEN] {
        match self {
            Self::Plain => b"svdg\x01",
            Self::Encrypted => b"svdn\x01",
        }
    }
}

/// The action that a handshake datagram requires.
#[derive(Debug)]
pub(super) enum HandshakeAction {
    /// None: the datagram is late, repeated or invalid.
    Ignore,
    /// Send [`DialerHandshake::message`] now.
    Transmit,
    /// Send this response.
    Reply(Vec<u8>),
    /// The peer is authenticated. Send the reply, if it is not empty.
    Open { peer: NodeId, reply: Vec<u8> },
    /// The handshake failed. Send the reply, if it is not empty.
    Failed { end: End, reply: Vec<u8> },
}

/// The dialer's side of the handshake.
#[derive(Debug)]
pub(super) struct DialerHandshake {
    security: UdpSecurity,
    expected: Option<NodeId>,
    proof: DialProof,
    state: DialerHandshakeState,
}

#[derive(Debug)]
enum DialProof {
    Signed(SignedDial),
    Noise(NoiseDial),
}

#[derive(Debug)]
enum DialerHandshakeState {
    AwaitAccept {
        cookie: Cookie,
    },
    AwaitWelcome {
        peer: NodeId,
        tag: ConnectionTag,
        message: Vec<u8>,
        /// `Some` until the transport opens and takes it.
        protection: Option<PacketProtection>,
    },
}

impl DialerHandshake {
    pub(super) fn new(
        security: UdpSecurity,
        identity: Identity,
        expected: Option<NodeId>,
    ) -> std::io::Result<Self> {
        let proof = match security {
            UdpSecurity::Plain => DialProof::Signed(SignedDial::new(identity)?),
            UdpSecurity::Encrypted => DialProof::Noise(NoiseDial::new(&identity)?),
        };
        Ok(Self {
            security,
            expected,
            proof,
            state: DialerHandshakeState::AwaitAccept {
                cookie: [0; COOKIE_LEN],
            },
        })
    }

    const fn nonce(&self) -> &HandshakeNonce {
        match &self.proof {
            DialProof::Signed(proof) => &proof.nonce,
            DialProof::Noise(proof) => &proof.hello,
        }
    }

    /// The message to send now and to retransmit until there is a response.
    pub(super) fn message(&self) -> Vec<u8> {
        match &self.state {
            DialerHandshakeState::AwaitAccept { cookie } => {
                [&[HELLO], &self.security.magic()[..], self.nonce(), cookie].concat()
            }
            DialerHandshakeState::AwaitWelcome { message, .. } => message.clone(),
        }
    }

    /// The packet protection and the identity of the peer, which may have opened the connection
    /// already.
    pub(super) const fn protection_mut(&mut self) -> Option<(&mut PacketProtection, NodeId)> {
        match &mut self.state {
            DialerHandshakeState::AwaitWelcome {
                protection: Some(protection),
                peer,
                ..
            } => Some((protection, *peer)),
            _ => None,
        }
    }

    /// Returns the packet protection when the transport opens.
    pub(super) const fn take_protection(&mut self) -> Option<PacketProtection> {
        match &mut self.state {
            DialerHandshakeState::AwaitWelcome { protection, .. } => protection.take(),
            DialerHandshakeState::AwaitAccept { .. } => None,
        }
    }

    pub(super) fn handle(&mut self, datagram: &[u8]) -> HandshakeAction {
        let Some((kind, rest)) = datagram.split_first() else {
            return HandshakeAction::Ignore;
        };
        let own = *self.nonce();
        match (&mut self.state, *kind) {
            (DialerHandshakeState::AwaitAccept { cookie }, COOKIE) => {
                let Some((nonce, rest)) = rest.split_first_chunk::<NONCE_LEN>() else {
                    return HandshakeAction::Ignore;
                };
                match <&Cookie>::try_from(rest) {
                    Ok(new) if *nonce == own && new != cookie => {
                        *cookie = *new;
                        HandshakeAction::Transmit
                    }
                    _ => HandshakeAction::Ignore,
                }
            }
            (DialerHandshakeState::AwaitAccept { .. }, ACCEPT) => self.handle_accept(rest),
            (DialerHandshakeState::AwaitWelcome { peer, tag, .. }, WELCOME) if rest == *tag => {
                HandshakeAction::Open {
                    peer: *peer,
                    reply: Vec::new(),
                }
            }
            (DialerHandshakeState::AwaitWelcome { tag, .. }, REFUSE) if rest == *tag => {
                HandshakeAction::Failed {
                    end: End::Refused {
                        detail: "this key is not admitted there".to_owned(),
                    },
                    reply: Vec::new(),
                }
            }
            _ => HandshakeAction::Ignore,
        }
    }

    fn handle_accept(&mut self, accept: &[u8]) -> HandshakeAction {
        let found = match &mut self.proof {
            DialProof::Signed(proof) => proof.check(accept),
            DialProof::Noise(proof) => proof.check(accept),
        };
        // An invalid proof does not end the handshake: it may be a forgery that arrived before the
        // genuine one.
        let Some(found) = found else {
            return HandshakeAction::Ignore;
        };
        if let Some(expected) = self.expected
            && expected != found
        {
            let end = End::WrongPeer { expected, found };
            let reply = Vec::new();
            return HandshakeAction::Failed { end, reply };
        }
        let proved = match &mut self.proof {
            DialProof::Signed(proof) => proof.prove(),
            DialProof::Noise(proof) => proof.prove(),
        };
        let Some((proof, tag, protection)) = proved else {
            return HandshakeAction::Ignore;
        };
        self.state = DialerHandshakeState::AwaitWelcome {
            peer: found,
            tag,
            message: [&[PROVE], &proof[..]].concat(),
            protection: Some(protection),
        };
        HandshakeAction::Transmit
    }
}

/// The acceptor's side of the handshake.
#[derive(Debug)]
pub(super) struct AcceptorHandshake {
    security: UdpSecurity,
    admission: Admission,
    dialer_nonce: HandshakeNonce,
    proof: AcceptProof,
    protection: Option<PacketProtection>,
}

#[derive(Debug)]
enum AcceptProof {
    Signed(SignedAccept),
    Noise(NoiseAccept),
}

/// The key with which a listener authenticates.
#[derive(Debug)]
pub(super) enum ListenerKey {
    Plain(Identity),
    Encrypted(NoiseKey),
}

impl ListenerKey {
    pub(super) fn new(security: UdpSecurity, identity: Identity) -> std::io::Result<Self> {
        Ok(match security {
            UdpSecurity::Plain => Self::Plain(identity),
            UdpSecurity::Encrypted => Self::Encrypted(NoiseKey::new(&identity)?),
        })
    }

    pub(super) const fn security(&self) -> UdpSecurity {
        match self {
            Self::Plain(_) => UdpSecurity::Plain,
            Self::Encrypted(_) => UdpSecurity::Encrypted,
        }
    }
}

impl AcceptorHandshake {
    /// Creates the side for a dialer whose Hello the [`HelloValidator`] accepted.
    pub(super) fn new(
        key: &ListenerKey,
        admission: Admission,
        dialer_nonce: HandshakeNonce,
    ) -> std::io::Result<Self> {
        let proof = match key {
            ListenerKey::Plain(identity) => {
                AcceptProof::Signed(SignedAccept::new(identity, dialer_nonce)?)
            }
            ListenerKey::Encrypted(key) => {
                AcceptProof::Noise(NoiseAccept::new(key, &dialer_nonce)?)
            }
        };
        Ok(Self {
            security: key.security(),
            admission,
            dialer_nonce,
            proof,
            protection: None,
        })
    }

    /// The response to the Hello.
    pub(super) fn message(&self) -> Vec<u8> {
        let proof = match &self.proof {
            AcceptProof::Signed(proof) => &proof.message,
            AcceptProof::Noise(proof) => &proof.message,
        };
        [&[ACCEPT], &proof[..]].concat()
    }

    /// Returns the packet protection when the transport opens.
    pub(super) const fn take_protection(&mut self) -> Option<PacketProtection> {
        self.protection.take()
    }

    pub(super) fn handle(&mut self, datagram: &[u8]) -> HandshakeAction {
        match datagram.split_first() {
            Some((&HELLO, rest)) => match parse_hello(self.security, rest) {
                Some((nonce, _)) if nonce == self.dialer_nonce => {
                    HandshakeAction::Reply(self.message())
                }
                _ => HandshakeAction::Ignore,
            },
            Some((&PROVE, rest)) => self.handle_prove(rest),
            _ => HandshakeAction::Ignore,
        }
    }

    fn handle_prove(&mut self, proof: &[u8]) -> HandshakeAction {
        let proved = match &mut self.proof {
            AcceptProof::Signed(own) => own.check(proof),
            AcceptProof::Noise(own) => own.check(proof),
        };
        let Some((peer, tag, protection)) = proved else {
            return HandshakeAction::Ignore;
        };
        if self.admission.admits(&peer) {
            self.protection = Some(protection);
            HandshakeAction::Open {
                peer,
                reply: [&[WELCOME], &tag[..]].concat(),
            }
        } else {
            HandshakeAction::Failed {
                end: End::NotAdmitted { peer },
                reply: [&[REFUSE], &tag[..]].concat(),
            }
        }
    }
}

/// The stateless validation of the source addresses of Hellos.
#[derive(Debug)]
pub(super) struct HelloValidator {
    security: UdpSecurity,
    key: hmac::Key,
}

/// The response of a listener to a datagram of an unknown peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HelloVerdict {
    /// The datagram is not a Hello.
    Ignore,
    /// Send this cookie and keep no state.
    SendCookie(Vec<u8>),
    /// The source address is validated: continue with an [`AcceptorHandshake`].
    Accept(HandshakeNonce),
}

impl HelloValidator {
    pub(super) fn new(security: UdpSecurity) -> std::io::Result<Self> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?);
        Ok(Self { security, key })
    }

    /// Validates a datagram. `seconds` is the time since the listener was created.
    pub(super) fn check_hello(
        &self,
        from: SocketAddr,
        seconds: u64,
        datagram: &[u8],
    ) -> HelloVerdict {
        let hello = datagram.strip_prefix(&[HELLO]);
        let Some((nonce, shown)) = hello.and_then(|rest| parse_hello(self.security, rest)) else {
            return HelloVerdict::Ignore;
        };
        let epoch = seconds / COOKIE_SECONDS;
        let fresh = self.cookie(from, &nonce, epoch);
        if shown == fresh || shown == self.cookie(from, &nonce, epoch.wrapping_sub(1)) {
            return HelloVerdict::Accept(nonce);
        }
        HelloVerdict::SendCookie([&[COOKIE], &nonce[..], &fresh].concat())
    }

    fn cookie(&self, from: SocketAddr, nonce: &HandshakeNonce, epoch: u64) -> Cookie {
        let mut context = hmac::Context::with_key(&self.key);
        match from.ip() {
            std::net::IpAddr::V4(ip) => context.update(&ip.octets()),
            std::net::IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        context.update(&from.port().to_be_bytes());
        context.update(nonce);
        context.update(&epoch.to_be_bytes());
        first_bytes(context.sign().as_ref())
    }
}

fn parse_hello(security: UdpSecurity, rest: &[u8]) -> Option<(HandshakeNonce, Cookie)> {
    let rest = rest.strip_prefix(security.magic())?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>()?;
    Some((*nonce, rest.try_into().ok()?))
}

/// The first `N` bytes of a 32-byte digest.
pub(super) fn first_bytes<const N: usize>(digest: &[u8]) -> [u8; N] {
    digest.first_chunk::<N>().copied().unwrap_or([0; N])
}

const _: () = assert!(COOKIE_LEN <= 32 && super::packet_protection::TAG_LEN <= 32);

// A response to an address that is not validated must not be longer than the request.
const _: () = assert!(1 + NONCE_LEN + COOKIE_LEN <= 1 + MAGIC_LEN + NONCE_LEN + COOKIE_LEN);

#[cfg(test)]
mod tests;
