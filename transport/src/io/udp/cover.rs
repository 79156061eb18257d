//! What lies around the frames of an open connection: a tag that names it, or encryption.
//!
//! ```text
//! tagged   │ kind: 1 │ tag: 8 │ frame │
//! sealed   │ 64: 1 │ counter: 8 │ { kind: 1 │ frame } encrypted │ authentication: 16 │
//! ```
//!
//! Sealed datagrams are encrypted by AES-256-GCM, as TLS and QUIC are where the processor has it:
//! bulk of 1.21 GB/s by ChaCha20-Poly1305 became 2.20 (1 MiB messages, loopback). The keys come from
//! the secrets that the Noise handshake gave (section 11 of its specification allows transport
//! messages out of order, with an explicit counter); the first nine bytes are authenticated too.
//! Each key serves [`EPOCH_LEN`] datagrams; the next one follows from the same secret by HKDF
//! (RFC 5869), as in QUIC (RFC 9001, section 6), and nothing leads back. Which key it is follows
//! from the counter.

use bytes::{Buf, BytesMut};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{self, HKDF_SHA256, Prk};

use super::replay::Replay;

/// The bytes that name a tagged connection in each of its datagrams, and a Welcome in any.
pub(super) const TAG_LEN: usize = 8;
pub(super) type Tag = [u8; TAG_LEN];

/// What the first byte of a sealed datagram is.
pub(super) const SEALED: u8 = 64;

const COUNTER_LEN: usize = 8;
const HEADER_LEN: usize = 1 + COUNTER_LEN;
const AUTH_LEN: usize = 16;

/// So many datagrams are sealed with one key, so that a stolen one opens 1.2 GB at the most. More than
/// a window holds, so that one former key is enough for what comes late.
const EPOCH_LEN: u64 = 1 << 20;

pub(super) type Secret = [u8; 32];

/// How the datagrams of one connection are told from others.
#[derive(Debug)]
pub(super) enum Cover {
    Tagged(Tag),
    Sealed(Box<Sealed>),
}

/// Bytes that every datagram has more than its frame.
pub(super) const TAGGED_OVERHEAD: usize = 1 + TAG_LEN;
pub(super) const SEALED_OVERHEAD: usize = HEADER_LEN + 1 + AUTH_LEN;

impl Cover {
    /// Encryption with the secrets of the two directions.
    pub(super) fn sealed(outgoing: Secret, incoming: Secret) -> Self {
        Self::Sealed(Box::new(Sealed {
            outgoing: Key::first(outgoing),
            counter: 0,
            incoming: Key::first(incoming),
            former: None,
            replay: Replay::default(),
        }))
    }

    pub(super) const fn overhead(&self) -> usize {
        match self {
            Self::Tagged(_) => TAGGED_OVERHEAD,
            Self::Sealed(_) => SEALED_OVERHEAD,
        }
    }

    /// Appends a datagram to `out`.
    pub(super) fn wrap(&mut self, kind: u8, frame: [&[u8]; 2], out: &mut Vec<u8>) {
        match self {
            Self::Tagged(tag) => {
                out.push(kind);
                out.extend_from_slice(tag);
                out.extend_from_slice(frame[0]);
                out.extend_from_slice(frame[1]);
            }
            Self::Sealed(sealed) => sealed.seal(kind, frame, out),
        }
    }

    /// The kind and the frame of a datagram; `None` when it is not of this connection, was changed
    /// or is a replay.
    pub(super) fn unwrap(&mut self, mut datagram: BytesMut) -> Option<(u8, BytesMut)> {
        match self {
            Self::Tagged(tag) => {
                let (&kind, rest) = datagram.split_first()?;
                if kind == SEALED || rest.first_chunk::<TAG_LEN>()? != tag {
                    return None;
                }
                datagram.advance(TAGGED_OVERHEAD);
                Some((kind, datagram))
            }
            Self::Sealed(sealed) => sealed.open(datagram),
        }
    }
}

/// The keys of one connection.
#[derive(Debug)]
pub(super) struct Sealed {
    outgoing: Key,
    counter: u64,
    incoming: Key,
    /// The key before, for what comes late.
    former: Option<Key>,
    replay: Replay,
}

impl Sealed {
    fn seal(&mut self, kind: u8, frame: [&[u8]; 2], out: &mut Vec<u8>) {
        let counter = self.counter;
        self.counter += 1;
        if counter / EPOCH_LEN > self.outgoing.epoch {
            self.outgoing = self.outgoing.next();
        }
        let header = header(counter);
        out.extend_from_slice(&header);
        let begin = out.len();
        out.push(kind);
        out.extend_from_slice(frame[0]);
        out.extend_from_slice(frame[1]);
        let sealed = self.outgoing.key.seal_in_place_separate_tag(
            nonce(counter),
            Aad::from(header),
            &mut out[begin..],
        );
        match sealed {
            Ok(tag) => out.extend_from_slice(tag.as_ref()),
            // Only beyond 256 GiB. Without its tag nobody takes it.
            Err(_) => debug_assert!(false, "a datagram is short enough to seal"),
        }
    }

    fn open(&mut self, mut datagram: BytesMut) -> Option<(u8, BytesMut)> {
        let header = *datagram.first_chunk::<HEADER_LEN>()?;
        let counter = u64::from_be_bytes(*header.last_chunk()?);
        if header[0] != SEALED || !self.replay.is_new(counter) {
            return None;
        }
        let epoch = counter / EPOCH_LEN;
        let next = match epoch.checked_sub(self.incoming.epoch) {
            Some(0) => None,
            Some(1) => Some(self.incoming.next()),
            Some(_) => return None,
            None => {
                let former = self.former.as_ref()?;
                if former.epoch != epoch {
                    return None;
                }
                None
            }
        };
        let key = match (&next, &self.former) {
            (Some(next), _) => next,
            (None, Some(former)) if former.epoch == epoch => former,
            (None, _) => &self.incoming,
        };
        let sealed = datagram.get_mut(HEADER_LEN..)?;
        let opened = key
            .key
            .open_in_place(nonce(counter), Aad::from(header), sealed);
        let len = opened.ok()?.len();
        if let Some(next) = next {
            self.former = Some(std::mem::replace(&mut self.incoming, next));
        }
        self.replay.mark(counter);
        datagram.truncate(HEADER_LEN + len);
        datagram.advance(HEADER_LEN);
        let kind = *datagram.first()?;
        datagram.advance(1);
        Some((kind, datagram))
    }
}

/// A key and the secret that the next one comes from.
struct Key {
    epoch: u64,
    secret: Secret,
    key: LessSafeKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key(epoch {})", self.epoch)
    }
}

impl Key {
    fn first(secret: Secret) -> Self {
        Self::of(0, secret)
    }

    fn of(epoch: u64, secret: Secret) -> Self {
        let bytes: Secret = derive(&secret, b"key");
        #[allow(clippy::expect_used, reason = "AES-256 takes any 32 bytes")]
        let key = UnboundKey::new(&AES_256_GCM, &bytes).expect("32 bytes are a key");
        Self {
            epoch,
            secret,
            key: LessSafeKey::new(key),
        }
    }

    fn next(&self) -> Self {
        Self::of(self.epoch + 1, derive(&self.secret, b"next"))
    }
}

struct Len(usize);

impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// Other bytes from a secret, for a purpose.
pub(super) fn derive<const N: usize>(secret: &Secret, purpose: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let info = [b"selvedge/1 udp ", purpose];
    let expanded = Prk::new_less_safe(HKDF_SHA256, secret)
        .expand(&info, Len(N))
        .and_then(|okm| okm.fill(&mut out));
    debug_assert!(expanded.is_ok(), "HKDF gives up to 8,160 bytes");
    out
}

fn header(counter: u64) -> [u8; HEADER_LEN] {
    let mut header = [SEALED; HEADER_LEN];
    header[1..].copy_from_slice(&counter.to_be_bytes());
    header
}

/// Four zeros and the counter (Noise, section 12.4).
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - COUNTER_LEN..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Cover, Cover) {
        let (there, back) = ([1; 32], [2; 32]);
        (Cover::sealed(there, back), Cover::sealed(back, there))
    }

    fn wrapped(cover: &mut Cover, text: &[u8]) -> BytesMut {
        let mut out = Vec::new();
        cover.wrap(33, [b"", text], &mut out);
        assert_eq!(out.len(), cover.overhead() + text.len());
        BytesMut::from(&out[..])
    }

    fn opened(cover: &mut Cover, datagram: &BytesMut) -> Option<Vec<u8>> {
        let (kind, frame) = cover.unwrap(datagram.clone())?;
        assert_eq!(kind, 33);
        Some(frame.to_vec())
    }

    fn counter_of(cover: &mut Cover) -> &mut u64 {
        match cover {
            Cover::Sealed(sealed) => &mut sealed.counter,
            Cover::Tagged(_) => panic!("no counter"),
        }
    }

    #[test]
    fn what_was_sealed_opens_once_and_hides_its_text() {
        let (mut ours, mut theirs) = pair();
        let datagram = wrapped(&mut ours, b"the text of it");
        assert!(!datagram.windows(4).any(|four| four == b"text"));
        assert_eq!(opened(&mut theirs, &datagram).unwrap(), b"the text of it");
        assert_eq!(opened(&mut theirs, &datagram), None, "a replay");
        assert_eq!(opened(&mut ours, &datagram), None, "a reflection");
    }

    #[test]
    fn n13_no_changed_bit_and_no_truncation_opens_and_none_spoils_the_next() {
        let (mut ours, mut theirs) = pair();
        let datagram = wrapped(&mut ours, b"text");
        for bit in 0..datagram.len() * 8 {
            let mut changed = datagram.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(opened(&mut theirs, &changed), None, "bit {bit}");
        }
        for len in 0..datagram.len() {
            let cut = BytesMut::from(&datagram[..len]);
            assert_eq!(opened(&mut theirs, &cut), None, "cut to {len}");
        }
        assert_eq!(opened(&mut theirs, &datagram).unwrap(), b"text");
    }

    #[test]
    fn keys_change_and_what_comes_late_still_opens() {
        let (mut ours, mut theirs) = pair();
        for epoch in 1..5 {
            *counter_of(&mut ours) = epoch * EPOCH_LEN - 2;
            let late = wrapped(&mut ours, b"late");
            let [before, after] = [b"before", b"after!"].map(|text| wrapped(&mut ours, text));
            assert_eq!(opened(&mut theirs, &before).unwrap(), b"before");
            assert_eq!(opened(&mut theirs, &after).unwrap(), b"after!");
            assert_eq!(opened(&mut theirs, &late).unwrap(), b"late");
        }
    }

    #[test]
    fn a_key_too_far_ahead_is_not_tried() {
        let (mut ours, mut theirs) = pair();
        let first = wrapped(&mut ours, b"first");
        let mut forged = wrapped(&mut ours, b"forged");
        forged[1..9].copy_from_slice(&(EPOCH_LEN + 1).to_be_bytes());
        assert_eq!(opened(&mut theirs, &forged), None);
        *counter_of(&mut ours) = EPOCH_LEN;
        wrapped(&mut ours, b"the next key");
        *counter_of(&mut ours) = 2 * EPOCH_LEN;
        let far = wrapped(&mut ours, b"two keys on");
        assert_eq!(opened(&mut theirs, &far), None);
        assert_eq!(opened(&mut theirs, &first).unwrap(), b"first");
    }
}
