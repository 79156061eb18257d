//! The key of a node: made, stored as PEM, used to sign.

use std::fmt;
use std::sync::{Arc, OnceLock};

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use crate::NodeId;

/// An Ed25519 key pair (RFC 8032): who this node is. Cheap to clone.
#[derive(Clone)]
pub struct Identity(Arc<Keys>);

struct Keys {
    pkcs8: Vec<u8>,
    pair: Ed25519KeyPair,
    node_id: NodeId,
    /// As the TLS library wants it, made on first use: one for all connections, not one for each.
    certified: OnceLock<Arc<CertifiedKey>>,
}

/// Why an [`Identity`] could not be made or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The text has no PEM block of a private key.
    #[error("no `-----BEGIN PRIVATE KEY-----` block (make a key with `zipper keygen`)")]
    NoKey,
    /// There is a private key, but not an Ed25519 key in PKCS#8 (RFC 8410).
    #[error("the private key is not Ed25519 in PKCS#8 (make one with `zipper keygen`)")]
    NotEd25519,
    /// The operating system gave no randomness. Retrying may help.
    #[error("the operating system gave no randomness")]
    NoRandomness,
}

impl Identity {
    /// A new random identity.
    ///
    /// # Errors
    /// [`IdentityError::NoRandomness`].
    pub fn generate() -> Result<Self, IdentityError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| IdentityError::NoRandomness)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Reads the first private key in `text`.
    ///
    /// # Errors
    /// [`IdentityError::NoKey`] and [`IdentityError::NotEd25519`].
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())
            .map_err(|_| IdentityError::NoKey)?;
        Self::from_pkcs8(key.secret_pkcs8_der())
    }

    /// The identity whose private key is `seed`: who knows the seed is that node. For keys that come
    /// from elsewhere, and for tests that must repeat themselves.
    ///
    /// # Errors
    /// [`IdentityError::NotEd25519`]; any 32 bytes are a key (RFC 8032, section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, IdentityError> {
        // RFC 8410, section 7: the key in PKCS#8, which is these bytes and the seed.
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

    /// The private key as PEM. Keep it where only its owner can read.
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

    /// The public half: who this is.
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

    /// The key pair for the TLS library, as `make` makes it of the private key.
    ///
    /// # Errors
    /// What `make` says.
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

/// Whether `signature` over `message` was made by the private half of `node`.
pub(crate) fn verify(node: &NodeId, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, node.as_bytes())
        .verify(message, signature)
        .is_ok()
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| std::io::Error::other("the operating system gave no randomness"))?;
    Ok(bytes)
}

/// Who may connect: asked with a proved identity, before the handshake ends.
#[derive(Clone)]
pub struct Admission(Arc<dyn Fn(&NodeId) -> bool + Send + Sync>);

impl Admission {
    /// Asks `admits`, on the worker that does the handshake: answer at once.
    #[must_use]
    pub fn new(admits: impl Fn(&NodeId) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(admits))
    }

    /// Anyone who proves an identity.
    #[must_use]
    pub fn anyone() -> Self {
        Self::new(|_| true)
    }

    /// Whether `node` may connect.
    #[must_use]
    pub fn admits(&self, node: &NodeId) -> bool {
        self.0(node)
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admission")
    }
}

/// Standard base64 with padding (RFC 4648, section 4), for the PEM of one 85-byte key.
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
    fn only_the_right_key_signs() {
        let (ours, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let signature = ours.sign(b"message");
        assert!(verify(&ours.node_id(), b"message", &signature));
        assert!(!verify(&ours.node_id(), b"massage", &signature));
        assert!(!verify(&other.node_id(), b"message", &signature));
    }

    #[test]
    fn rubbish_is_not_a_key() {
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
