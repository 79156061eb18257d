//! Connection ids that encode the slot of a transport, readable by the listener only.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator};
use ring::aead::quic::{AES_128, HeaderProtectionKey};

use crate::io::identity::random;

/// The length of a connection id: a nonce of 4 bytes and a slot of 4 bytes.
pub(super) const CID_LEN: usize = 8;
const NONCE_LEN: usize = 4;

/// The key that encrypts slots in connection ids. A slot in plain text would allow an observer to
/// correlate the ids of one connection, which RFC 9000, section 5.1, forbids.
///
/// The slot is XORed with a mask that AES derives from the nonce, the construction of QUIC header
/// protection (RFC 9001, section 5.4).
#[derive(Clone)]
pub(super) struct CidKey(Arc<HeaderProtectionKey>);

impl CidKey {
    pub(super) fn generate() -> std::io::Result<Self> {
        let key = HeaderProtectionKey::new(&AES_128, &random::<16>()?)
            .map_err(|_| std::io::Error::other("AES-128 rejected a key of 16 bytes"))?;
        Ok(Self(Arc::new(key)))
    }

    fn mask(&self, nonce: [u8; NONCE_LEN]) -> u32 {
        let mut sample = [0; 16];
        sample[..NONCE_LEN].copy_from_slice(&nonce);
        // Fails only for a sample of another length than 16 bytes.
        let [a, b, c, d, _] = self.0.new_mask(&sample).unwrap_or_default();
        u32::from_be_bytes([a, b, c, d])
    }

    fn encode(&self, slot: u32, nonce: [u8; NONCE_LEN]) -> [u8; CID_LEN] {
        let mut cid = [0; CID_LEN];
        cid[..NONCE_LEN].copy_from_slice(&nonce);
        cid[NONCE_LEN..].copy_from_slice(&(slot ^ self.mask(nonce)).to_be_bytes());
        cid
    }

    /// Decrypts the slot in a connection id. Every id of the right length yields *some* slot.
    pub(super) fn decode(&self, cid: &[u8]) -> Option<u32> {
        let cid: [u8; CID_LEN] = cid.try_into().ok()?;
        let [a, b, c, d, w, x, y, z] = cid;
        Some(u32::from_be_bytes([w, x, y, z]) ^ self.mask([a, b, c, d]))
    }
}

/// Generates the connection ids of one slot.
pub(super) struct SlotCids {
    pub(super) key: CidKey,
    pub(super) slot: u32,
}

impl ConnectionIdGenerator for SlotCids {
    fn generate_cid(&mut self) -> ConnectionId {
        // The nonce must be unpredictable, because it is public. Without a random number generator
        // TLS fails as well, so the default value is never used.
        let nonce = random().unwrap_or_default();
        ConnectionId::new(&self.key.encode(self.slot, nonce))
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_decodes_the_slot_of_an_id() {
        let (key, other) = (CidKey::generate().unwrap(), CidKey::generate().unwrap());
        let mut seen = std::collections::HashSet::new();
        for slot in [0, 1, 77, u32::MAX] {
            let mut cids = SlotCids {
                key: key.clone(),
                slot,
            };
            for _ in 0..100 {
                let cid = cids.generate_cid();
                assert!(seen.insert(cid.to_vec()));
                assert_eq!(key.decode(&cid), Some(slot));
            }
            assert_ne!(other.decode(&cids.generate_cid()), Some(slot));
        }
        assert_eq!(key.decode(b"short"), None);
        assert_eq!(key.decode(&[0; 20]), None);
    }
}
