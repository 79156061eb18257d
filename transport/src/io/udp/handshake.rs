//! How two peers prove who they are by datagrams: two pure state machines.
//!
//! ```text
//!   dialer                                            listener
//!     │── Hello: nonce, no cookie ────────────────────▶│  keeps nothing
//!     │◀─ Cookie: of address, nonce and time ──────────│
//!     │── Hello: nonce, cookie ───────────────────────▶│  makes a transport
//!     │◀─ Accept: nonce, key, signature ───────────────│
//!     │── Prove: key, signature ──────────────────────▶│  admits, or refuses
//!     │◀─ Welcome, or Refuse ──────────────────────────│
//! ```
//!
//! The dialer repeats what it said last until it is answered; the acceptor only answers. Both sign
//! both nonces, so that nothing replayed is a proof; an answer to an unproved address is shorter
//! than the question, so that it amplifies nothing.

use std::net::SocketAddr;

use ring::{digest, hmac};

use crate::io::identity::{Admission, Identity, random, verify};
use crate::{End, NodeId};

/// The bytes that name a connection in each of its datagrams.
pub(super) const TAG_LEN: usize = 8;
pub(super) type Tag = [u8; TAG_LEN];

const NONCE_LEN: usize = 32;
type Nonce = [u8; NONCE_LEN];
const COOKIE_LEN: usize = 16;
type Cookie = [u8; COOKIE_LEN];
const KEY_LEN: usize = 32;
const SIGNATURE_LEN: usize = 64;

/// The first bytes of a Hello: what this is, and its version.
const MAGIC: &[u8; 5] = b"svdg\x01";

const HELLO: u8 = 1;
const COOKIE: u8 = 2;
const ACCEPT: u8 = 3;
const PROVE: u8 = 4;
const WELCOME: u8 = 5;
const REFUSE: u8 = 6;

/// What the two signatures are about, so that neither stands for the other, nor for anything else.
const ACCEPT_LABEL: &[u8] = b"selvedge/1 udp+plain accept";
const PROVE_LABEL: &[u8] = b"selvedge/1 udp+plain prove";

/// How long a cookie is good for: this time at the least, twice as long at the most.
const COOKIE_SECONDS: u64 = 5;

/// What a datagram of the handshake leads to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is late, repeated or rubbish.
    Nothing,
    /// Say [`Dialing::message`] now.
    Say,
    /// Answer this.
    Answer(Vec<u8>),
    /// The peer is known. Answer this, if it is not empty.
    Open { peer: NodeId, answer: Vec<u8> },
    /// It failed. Answer this, if it is not empty.
    Failed { end: End, answer: Vec<u8> },
}

/// The dialer's side.
#[derive(Debug)]
pub(super) struct Dialing {
    identity: Identity,
    expected: Option<NodeId>,
    nonce: Nonce,
    state: DialState,
}

#[derive(Debug)]
enum DialState {
    Greeting {
        cookie: Cookie,
    },
    Proving {
        peer: NodeId,
        tag: Tag,
        message: Vec<u8>,
    },
}

impl Dialing {
    pub(super) fn new(identity: Identity, expected: Option<NodeId>) -> std::io::Result<Self> {
        Ok(Self {
            identity,
            expected,
            nonce: random()?,
            state: DialState::Greeting {
                cookie: [0; COOKIE_LEN],
            },
        })
    }

    /// What to say now, and again until it is answered.
    pub(super) fn message(&self) -> Vec<u8> {
        match &self.state {
            DialState::Greeting { cookie } => [&[HELLO], &MAGIC[..], &self.nonce, cookie].concat(),
            DialState::Proving { message, .. } => message.clone(),
        }
    }

    /// The tag of the connection, and the peer that may already have opened it.
    pub(super) const fn tag(&self) -> Option<(Tag, NodeId)> {
        match &self.state {
            DialState::Greeting { .. } => None,
            DialState::Proving { tag, peer, .. } => Some((*tag, *peer)),
        }
    }

    pub(super) fn handle(&mut self, datagram: &[u8]) -> Outcome {
        let Some((kind, rest)) = datagram.split_first() else {
            return Outcome::Nothing;
        };
        match (&mut self.state, *kind) {
            (DialState::Greeting { cookie }, COOKIE) => {
                let Some((nonce, rest)) = rest.split_first_chunk::<NONCE_LEN>() else {
                    return Outcome::Nothing;
                };
                match <&Cookie>::try_from(rest) {
                    Ok(new) if *nonce == self.nonce && new != cookie => {
                        *cookie = *new;
                        Outcome::Say
                    }
                    _ => Outcome::Nothing,
                }
            }
            (DialState::Greeting { .. }, ACCEPT) => self.handle_accept(rest),
            (DialState::Proving { peer, tag, .. }, WELCOME) if rest == *tag => Outcome::Open {
                peer: *peer,
                answer: Vec::new(),
            },
            (DialState::Proving { tag, .. }, REFUSE) if rest == *tag => Outcome::Failed {
                end: End::Refused {
                    detail: "this key is not admitted there".to_owned(),
                },
                answer: Vec::new(),
            },
            _ => Outcome::Nothing,
        }
    }

    fn handle_accept(&mut self, rest: &[u8]) -> Outcome {
        let Some((nonce, rest)) = rest.split_first_chunk::<NONCE_LEN>() else {
            return Outcome::Nothing;
        };
        let Some((key, signature)) = rest.split_first_chunk::<KEY_LEN>() else {
            return Outcome::Nothing;
        };
        let found = NodeId::new(*key);
        let signed = [ACCEPT_LABEL, &self.nonce, nonce, key].concat();
        if signature.len() != SIGNATURE_LEN || !verify(&found, &signed, signature) {
            // Not the end: it may be a forgery that was faster than the peer.
            return Outcome::Nothing;
        }
        if let Some(expected) = self.expected
            && expected != found
        {
            let end = End::WrongPeer { expected, found };
            let answer = Vec::new();
            return Outcome::Failed { end, answer };
        }
        let own = self.identity.node_id();
        let signed = [PROVE_LABEL, &self.nonce, nonce, key, own.as_bytes()].concat();
        let signature = self.identity.sign(&signed);
        self.state = DialState::Proving {
            peer: found,
            tag: tag_of(&self.nonce, nonce),
            message: [&[PROVE], &own.as_bytes()[..], &signature].concat(),
        };
        Outcome::Say
    }
}

/// The acceptor's side.
#[derive(Debug)]
pub(super) struct Accepting {
    identity: Identity,
    admission: Admission,
    dialer_nonce: Nonce,
    nonce: Nonce,
    accept: Vec<u8>,
}

impl Accepting {
    /// For the dialer of a Hello that the [`Greeter`] took.
    pub(super) fn new(
        identity: Identity,
        admission: Admission,
        dialer_nonce: Nonce,
    ) -> std::io::Result<Self> {
        let nonce: Nonce = random()?;
        let key = identity.node_id();
        let signed = [ACCEPT_LABEL, &dialer_nonce, &nonce, key.as_bytes()].concat();
        let signature = identity.sign(&signed);
        let accept = [&[ACCEPT], &nonce[..], key.as_bytes(), &signature].concat();
        Ok(Self {
            identity,
            admission,
            dialer_nonce,
            nonce,
            accept,
        })
    }

    /// The answer to the Hello.
    pub(super) fn message(&self) -> Vec<u8> {
        self.accept.clone()
    }

    /// The tag of the connection.
    pub(super) fn tag(&self) -> Tag {
        tag_of(&self.dialer_nonce, &self.nonce)
    }

    /// Also after it is open, because the Welcome may have been lost.
    pub(super) fn handle(&self, datagram: &[u8]) -> Outcome {
        match datagram.split_first() {
            Some((&HELLO, rest)) => match read_hello(rest) {
                Some((nonce, _)) if nonce == self.dialer_nonce => {
                    Outcome::Answer(self.accept.clone())
                }
                _ => Outcome::Nothing,
            },
            Some((&PROVE, rest)) => self.handle_prove(rest),
            _ => Outcome::Nothing,
        }
    }

    fn handle_prove(&self, rest: &[u8]) -> Outcome {
        let Some((key, signature)) = rest.split_first_chunk::<KEY_LEN>() else {
            return Outcome::Nothing;
        };
        let peer = NodeId::new(*key);
        let own = self.identity.node_id();
        let signed = [
            PROVE_LABEL,
            &self.dialer_nonce,
            &self.nonce,
            own.as_bytes(),
            key,
        ]
        .concat();
        if signature.len() != SIGNATURE_LEN || !verify(&peer, &signed, signature) {
            return Outcome::Nothing;
        }
        if self.admission.admits(&peer) {
            Outcome::Open {
                peer,
                answer: [&[WELCOME], &self.tag()[..]].concat(),
            }
        } else {
            Outcome::Failed {
                end: End::NotAdmitted { peer },
                answer: [&[REFUSE], &self.tag()[..]].concat(),
            }
        }
    }
}

/// The listener's side, which keeps nothing about anyone.
#[derive(Debug)]
pub(super) struct Greeter {
    key: hmac::Key,
}

/// What a listener does about a stranger's datagram.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// It is no Hello.
    Ignore,
    /// Answer this; keep nothing.
    Ask(Vec<u8>),
    /// The stranger is where it says it is: go on with [`Accepting`].
    Accept(Nonce),
}

impl Greeter {
    pub(super) fn new() -> std::io::Result<Self> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?);
        Ok(Self { key })
    }

    /// `seconds` of the listener's own clock.
    pub(super) fn greet(&self, from: SocketAddr, seconds: u64, datagram: &[u8]) -> Greeting {
        let Some((nonce, shown)) = datagram.strip_prefix(&[HELLO]).and_then(read_hello) else {
            return Greeting::Ignore;
        };
        let epoch = seconds / COOKIE_SECONDS;
        let fresh = self.cookie(from, &nonce, epoch);
        if shown == fresh || shown == self.cookie(from, &nonce, epoch.wrapping_sub(1)) {
            return Greeting::Accept(nonce);
        }
        Greeting::Ask([&[COOKIE], &nonce[..], &fresh].concat())
    }

    fn cookie(&self, from: SocketAddr, nonce: &Nonce, epoch: u64) -> Cookie {
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

fn read_hello(rest: &[u8]) -> Option<(Nonce, Cookie)> {
    let (nonce, rest) = rest.strip_prefix(MAGIC)?.split_first_chunk::<NONCE_LEN>()?;
    Some((*nonce, rest.try_into().ok()?))
}

fn tag_of(dialer: &Nonce, acceptor: &Nonce) -> Tag {
    let digest = digest::digest(&digest::SHA256, &[&dialer[..], acceptor].concat());
    first_bytes(digest.as_ref())
}

/// The first bytes of a digest, of which there are 32.
fn first_bytes<const N: usize>(digest: &[u8]) -> [u8; N] {
    digest.first_chunk::<N>().copied().unwrap_or([0; N])
}

const _: () = assert!(COOKIE_LEN <= 32 && TAG_LEN <= 32);

// An answer to an address that is not proved must not be longer than the question.
const _: () = assert!(1 + NONCE_LEN + COOKIE_LEN <= 1 + MAGIC.len() + NONCE_LEN + COOKIE_LEN);

#[cfg(test)]
mod tests;
