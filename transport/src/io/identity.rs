//! The key pair of a node: generation, PEM encoding, signatures, and the admission of peers.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use crate::NodeId;

/// An Ed25519 key pair (RFC 8032), which identifies this node. Cloning copies a pointer.
#[derive(Clone)]
pub struct Identity(Arc<Keys>);

struct Keys {
    pkcs8: Vec<u8>,
    pair: Ed25519KeyPair,
    node_id: NodeId,
    /// The key in the form of the TLS library, created on first use and shared by all connections.
    certified: OnceLock<Arc<CertifiedKey>>,
}

/// The error of creating or reading an [`Identity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The text contains no PEM block of a private key.
    #[error("no `-----BEGIN PRIVATE KEY-----` block (make a key with `zipper keygen`)")]
    NoKey,
    /// The private key is not an Ed25519 key in PKCS#8 (RFC 8410).
    #[error("the private key is not Ed25519 in PKCS#8 (make one with `zipper keygen`)")]
    NotEd25519,
    /// The random number generator of the operating system failed. A retry may succeed.
    #[error("the random number generator of the operating system failed")]
    NoRandomness,
}

impl Identity {
    /// Generates a random identity.
    ///
    /// # Errors
    /// [`IdentityError::NoRandomness`].
    pub fn generate() -> Result<Self, IdentityError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| IdentityError::NoRandomness)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Reads the first private key in `text`, in PEM.
    ///
    /// # Errors
    /// [`IdentityError::NoKey`] if there is none, [`IdentityError::NotEd25519`] if it is of another
    /// kind.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())
            .map_err(|_| IdentityError::NoKey)?;
        Self::from_pkcs8(key.secret_pkcs8_der())
    }

    /// Creates the identity whose private key is `seed`. Anyone with the seed can impersonate
    /// the node. Use it for keys from an external key store and for reproducible tests.
    ///
    /// # Errors
    /// [`IdentityError::NotEd25519`] if the library rejects the key; all 32-byte strings are valid
    /// keys (RFC 8032, section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, IdentityError> {
        // The PKCS#8 encoding of RFC 8410, section 7: this prefix and the seed.
        const PKCS8: [u8; 16] =
            *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
        Self::from_pkcs8(&[&PKCS8[..], seed].concat())
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, IdentityError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8)
            .map_err(|_| IdentityError::NotEd25519)?;
        let key = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| IdentityError::NotEd25519)?;
        Ok(Self(Arc::new(Keys {
            pkcs8: pkcs8.to_vec(),
            pair,
            node_id: NodeId::new(key),
            certified: OnceLock::new(),
        })))
    }

    /// Encodes the private key as PEM. Store it where only the owner of the node can read it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        let text = base64(&self.0.pkcs8);
        for start in (0..text.len()).step_by(64) {
            pem.push_str(&text[start..text.len().min(start + 64)]);
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        pem
    }

    /// The public key, which identifies the node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.0.node_id
    }

    /// Signs `message`.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.0.pair.sign(message).as_ref());
        signature
    }

    /// Returns the key pair in the form of the TLS library, created by `make` on the first call.
    ///
    /// # Errors
    /// The error of `make`.
    pub(crate) fn certified_key<E>(
        &self,
        make: impl FnOnce(&PrivateKeyDer<'_>) -> Result<CertifiedKey, E>,
    ) -> Result<Arc<CertifiedKey>, E> {
        if let Some(made) = self.0.certified.get() {
            return Ok(Arc::clone(made));
        }
        let key = PrivatePkcs8KeyDer::from(self.0.pkcs8.as_slice());
        let made = Arc::new(make(&PrivateKeyDer::Pkcs8(key))?);
        Ok(Arc::clone(self.0.certified.get_or_init(|| made)))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:#})", self.0.node_id)
    }
}

/// Whether `signature` is a valid signature of `message` by the private key of `node`.
pub(crate) fn verify(node: &NodeId, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, node.as_bytes())
        .verify(message, signature)
        .is_ok()
}

/// Returns cryptographically secure random bytes.
pub(crate) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| std::io::Error::other(IdentityError::NoRandomness))?;
    Ok(bytes)
}

/// Decides which authenticated peers may connect.
///
/// It is evaluated during the handshake, after the peer has proved its identity. A rejected dialer
/// ends with [`End::Refused`](crate::End::Refused), the accepting side with
/// [`End::NotAdmitted`](crate::End::NotAdmitted).
#[derive(Clone)]
pub struct Admission {
    admits: Arc<dyn Fn(&NodeId) -> bool + Send + Sync>,
    is_restricted: bool,
}

impl Admission {
    /// Uses `admits` as the decision. It runs on a worker during the handshake and must not block. A panic of it is
    /// logged, and refuses the peer.
    #[must_use]
    pub fn new(admits: impl Fn(&NodeId) -> bool + Send + Sync + 'static) -> Self {
        Self {
            admits: Arc::new(move |node| {
                let decided = catch_unwind(AssertUnwindSafe(|| admits(node)));
                decided.unwrap_or_else(|_| {
                    tracing::error!(%node, "the decision about a peer panicked; it is refused");
                    false
                })
            }),
            is_restricted: false,
        }
    }

    /// Admits every peer that proves an identity.
    #[must_use]
    pub fn anyone() -> Self {
        Self::new(|_| true)
    }

    /// The same decision, for peers that are still to prove that they may send: an accepted transport buffers
    /// at most [`UNADMITTED_LEN_MAX`](crate::UNADMITTED_LEN_MAX) bytes of such a peer until
    /// [`Transport::admit`](crate::Transport::admit).
    #[must_use]
    pub fn restricted(self) -> Self {
        Self {
            is_restricted: true,
            ..self
        }
    }

    /// Whether accepted transports are [restricted](Self::restricted).
    #[must_use]
    pub const fn is_restricted(&self) -> bool {
        self.is_restricted
    }

    /// Whether `node` is admitted.
    #[must_use]
    pub fn admits(&self, node: &NodeId) -> bool {
        (self.admits)(node)
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admission")
    }
}

/// Standard base64 with padding (RFC 4648, section 4), for the PEM encoding of one 85-byte key.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0_u32, |group, i| {
            group << 8 | u32::from(*chunk.get(i).unwrap_or(&0))
        });
        for i in 0..4 {
            let digit = char::from(DIGITS[(group >> (18 - 6 * i) & 63) as usize]);
            text.push(if i <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_identity_reads_back() {
        let identity = Identity::generate().unwrap();
        let read = Identity::from_pem(&identity.to_pem()).unwrap();
        assert_eq!(read.node_id(), identity.node_id());
    }

    #[test]
    fn a_seed_gives_the_key_of_the_rfc() {
        // RFC 8032, section 7.1, test 1.
        let hex = |text: &str| -> Vec<u8> {
            let digits = text.as_bytes().chunks(2);
            digits
                .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
                .collect()
        };
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let key = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let identity = Identity::from_seed(seed[..].try_into().unwrap()).unwrap();
        assert_eq!(identity.node_id().as_bytes()[..], key[..]);
        let read = Identity::from_pem(&identity.to_pem()).unwrap();
        assert_eq!(read.node_id(), identity.node_id());
    }

    #[test]
    fn only_the_matching_key_verifies_a_signature() {
        let (ours, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let signature = ours.sign(b"message");
        assert!(verify(&ours.node_id(), b"message", &signature));
        assert!(!verify(&ours.node_id(), b"massage", &signature));
        assert!(!verify(&other.node_id(), b"message", &signature));
    }

    #[test]
    fn malformed_pem_is_rejected() {
        assert_eq!(
            Identity::from_pem("hello").unwrap_err(),
            IdentityError::NoKey
        );
        let pem = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(
            Identity::from_pem(pem).unwrap_err(),
            IdentityError::NotEd25519
        );
    }

    #[test]
    fn base64_pads_as_the_rfc_shows() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
