//! How two peers prove who they are by datagrams: two pure state machines.
//!
//! ```text
//!   dialer                                            listener
//!     │── Hello: nonce, no cookie ────────────────────▶│  keeps nothing
//!     │◀─ Cookie: of address, nonce and time ──────────│
//!     │── Hello: nonce, cookie ───────────────────────▶│  makes a transport
//!     │◀─ Accept: its proof ───────────────────────────│
//!     │── Prove: its proof ───────────────────────────▶│  admits, or refuses
//!     │◀─ Welcome, or Refuse ──────────────────────────│
//! ```
//!
//! The dialer repeats what it said last until it is answered; the acceptor only answers. An answer
//! to an unproved address is shorter than the question, so that it amplifies nothing.
//!
//! The proofs are signatures ([`signed`](super::signed)), or the messages of a Noise handshake, whose
//! first one takes the place of the nonce ([`noise`](super::noise)).

use std::net::SocketAddr;

use ring::hmac;

use super::cover::{Cover, Tag};
use super::noise::{NoiseAccept, NoiseDial, NoiseKey};
use super::signed::{SignedAccept, SignedDial};
use crate::io::identity::{Admission, Identity, random};
use crate::{End, NodeId};

pub(super) const NONCE_LEN: usize = 32;
pub(super) type Nonce = [u8; NONCE_LEN];
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

/// How long a cookie is good for: this time at the least, twice as long at the most.
const COOKIE_SECONDS: u64 = 5;

/// What the frames are to be protected by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    /// Nothing but a tag that those on the path can see.
    Plain,
    /// Encryption.
    Sealed,
}

impl Protection {
    /// The first bytes of a Hello: what this is, and its version.
    const fn magic(self) -> &'static [u8; MAGIC_LEN] {
        match self {
            Self::Plain => b"svdg\x01",
            Self::Sealed => b"svdn\x01",
        }
    }
}

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
    protection: Protection,
    expected: Option<NodeId>,
    proof: DialProof,
    state: DialState,
}

#[derive(Debug)]
enum DialProof {
    Signed(SignedDial),
    Noise(NoiseDial),
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
        /// Until it is open.
        cover: Option<Cover>,
    },
}

impl Dialing {
    pub(super) fn new(
        protection: Protection,
        identity: Identity,
        expected: Option<NodeId>,
    ) -> std::io::Result<Self> {
        let proof = match protection {
            Protection::Plain => DialProof::Signed(SignedDial::new(identity)?),
            Protection::Sealed => DialProof::Noise(NoiseDial::new(&identity)?),
        };
        Ok(Self {
            protection,
            expected,
            proof,
            state: DialState::Greeting {
                cookie: [0; COOKIE_LEN],
            },
        })
    }

    const fn nonce(&self) -> &Nonce {
        match &self.proof {
            DialProof::Signed(proof) => &proof.nonce,
            DialProof::Noise(proof) => &proof.hello,
        }
    }

    /// What to say now, and again until it is answered.
    pub(super) fn message(&self) -> Vec<u8> {
        match &self.state {
            DialState::Greeting { cookie } => {
                [&[HELLO], &self.protection.magic()[..], self.nonce(), cookie].concat()
            }
            DialState::Proving { message, .. } => message.clone(),
        }
    }

    /// What covers the connection, and the peer that may already have opened it.
    pub(super) const fn cover_mut(&mut self) -> Option<(&mut Cover, NodeId)> {
        match &mut self.state {
            DialState::Proving {
                cover: Some(cover),
                peer,
                ..
            } => Some((cover, *peer)),
            _ => None,
        }
    }

    /// What covers the connection from now on: it is open.
    pub(super) const fn take_cover(&mut self) -> Option<Cover> {
        match &mut self.state {
            DialState::Proving { cover, .. } => cover.take(),
            DialState::Greeting { .. } => None,
        }
    }

    pub(super) fn handle(&mut self, datagram: &[u8]) -> Outcome {
        let Some((kind, rest)) = datagram.split_first() else {
            return Outcome::Nothing;
        };
        let own = *self.nonce();
        match (&mut self.state, *kind) {
            (DialState::Greeting { cookie }, COOKIE) => {
                let Some((nonce, rest)) = rest.split_first_chunk::<NONCE_LEN>() else {
                    return Outcome::Nothing;
                };
                match <&Cookie>::try_from(rest) {
                    Ok(new) if *nonce == own && new != cookie => {
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

    fn handle_accept(&mut self, accept: &[u8]) -> Outcome {
        let found = match &mut self.proof {
            DialProof::Signed(proof) => proof.check(accept),
            DialProof::Noise(proof) => proof.check(accept),
        };
        // Not the end if there is none: it may be a forgery that was faster than the peer.
        let Some(found) = found else {
            return Outcome::Nothing;
        };
        if let Some(expected) = self.expected
            && expected != found
        {
            let end = End::WrongPeer { expected, found };
            let answer = Vec::new();
            return Outcome::Failed { end, answer };
        }
        let proved = match &mut self.proof {
            DialProof::Signed(proof) => proof.prove(),
            DialProof::Noise(proof) => proof.prove(),
        };
        let Some((proof, tag, cover)) = proved else {
            return Outcome::Nothing;
        };
        self.state = DialState::Proving {
            peer: found,
            tag,
            message: [&[PROVE], &proof[..]].concat(),
            cover: Some(cover),
        };
        Outcome::Say
    }
}

/// The acceptor's side.
#[derive(Debug)]
pub(super) struct Accepting {
    protection: Protection,
    admission: Admission,
    dialer_nonce: Nonce,
    proof: AcceptProof,
    cover: Option<Cover>,
}

#[derive(Debug)]
enum AcceptProof {
    Signed(SignedAccept),
    Noise(NoiseAccept),
}

/// What a listener proves itself with.
#[derive(Debug)]
pub(super) enum ListenKey {
    Plain(Identity),
    Sealed(NoiseKey),
}

impl ListenKey {
    pub(super) fn new(protection: Protection, identity: Identity) -> std::io::Result<Self> {
        Ok(match protection {
            Protection::Plain => Self::Plain(identity),
            Protection::Sealed => Self::Sealed(NoiseKey::new(&identity)?),
        })
    }

    pub(super) const fn protection(&self) -> Protection {
        match self {
            Self::Plain(_) => Protection::Plain,
            Self::Sealed(_) => Protection::Sealed,
        }
    }
}

impl Accepting {
    /// For the dialer of a Hello that the [`Greeter`] took.
    pub(super) fn new(
        key: &ListenKey,
        admission: Admission,
        dialer_nonce: Nonce,
    ) -> std::io::Result<Self> {
        let proof = match key {
            ListenKey::Plain(identity) => {
                AcceptProof::Signed(SignedAccept::new(identity, dialer_nonce)?)
            }
            ListenKey::Sealed(key) => AcceptProof::Noise(NoiseAccept::new(key, &dialer_nonce)?),
        };
        Ok(Self {
            protection: key.protection(),
            admission,
            dialer_nonce,
            proof,
            cover: None,
        })
    }

    /// The answer to the Hello.
    pub(super) fn message(&self) -> Vec<u8> {
        let proof = match &self.proof {
            AcceptProof::Signed(proof) => &proof.message,
            AcceptProof::Noise(proof) => &proof.message,
        };
        [&[ACCEPT], &proof[..]].concat()
    }

    /// What covers the connection from now on: it is open.
    pub(super) const fn take_cover(&mut self) -> Option<Cover> {
        self.cover.take()
    }

    pub(super) fn handle(&mut self, datagram: &[u8]) -> Outcome {
        match datagram.split_first() {
            Some((&HELLO, rest)) => match read_hello(self.protection, rest) {
                Some((nonce, _)) if nonce == self.dialer_nonce => Outcome::Answer(self.message()),
                _ => Outcome::Nothing,
            },
            Some((&PROVE, rest)) => self.handle_prove(rest),
            _ => Outcome::Nothing,
        }
    }

    fn handle_prove(&mut self, proof: &[u8]) -> Outcome {
        let proved = match &mut self.proof {
            AcceptProof::Signed(own) => own.check(proof),
            AcceptProof::Noise(own) => own.check(proof),
        };
        let Some((peer, tag, cover)) = proved else {
            return Outcome::Nothing;
        };
        if self.admission.admits(&peer) {
            self.cover = Some(cover);
            Outcome::Open {
                peer,
                answer: [&[WELCOME], &tag[..]].concat(),
            }
        } else {
            Outcome::Failed {
                end: End::NotAdmitted { peer },
                answer: [&[REFUSE], &tag[..]].concat(),
            }
        }
    }
}

/// The listener's side, which keeps nothing about anyone.
#[derive(Debug)]
pub(super) struct Greeter {
    protection: Protection,
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
    pub(super) fn new(protection: Protection) -> std::io::Result<Self> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?);
        Ok(Self { protection, key })
    }

    /// `seconds` of the listener's own clock.
    pub(super) fn greet(&self, from: SocketAddr, seconds: u64, datagram: &[u8]) -> Greeting {
        let hello = datagram.strip_prefix(&[HELLO]);
        let Some((nonce, shown)) = hello.and_then(|rest| read_hello(self.protection, rest)) else {
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

fn read_hello(protection: Protection, rest: &[u8]) -> Option<(Nonce, Cookie)> {
    let rest = rest.strip_prefix(protection.magic())?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>()?;
    Some((*nonce, rest.try_into().ok()?))
}

/// The first bytes of a digest, of which there are 32.
pub(super) fn first_bytes<const N: usize>(digest: &[u8]) -> [u8; N] {
    digest.first_chunk::<N>().copied().unwrap_or([0; N])
}

const _: () = assert!(COOKIE_LEN <= 32 && super::cover::TAG_LEN <= 32);

// An answer to an address that is not proved must not be longer than the question.
const _: () = assert!(1 + NONCE_LEN + COOKIE_LEN <= 1 + MAGIC_LEN + NONCE_LEN + COOKIE_LEN);

#[cfg(test)]
mod tests;
