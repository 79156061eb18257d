//! Connection ids that tell the listener, and nobody else, which transport a packet belongs to.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator};
use ring::aead::quic::{AES_128, HeaderProtectionKey};

use crate::io::identity::random;

/// A nonce of 4 bytes and a slot of 4 bytes.
pub(super) const CID_LEN: usize = 8;
const NONCE_LEN: usize = 4;

/// Hides slots in connection ids: a slot in the clear would let an observer link the ids of one
/// connection, which RFC 9000 (5.1) forbids.
///
/// The slot is masked with AES of the nonce, by the same construction as QUIC's header protection.
#[derive(Clone)]
pub(super) struct CidKey(Arc<HeaderProtectionKey>);

impl CidKey {
    pub(super) fn generate() -> std::io::Result<Self> {
        let key = HeaderProtectionKey::new(&AES_128, &random::<16>()?)
            .map_err(|_| std::io::Error::other("AES-128 takes a key of 16 bytes"))?;
        Ok(Self(Arc::new(key)))
    }

    fn mask(&self, nonce: [u8; NONCE_LEN]) -> u32 {
        let mut sample = [0; 16];
        sample[..NONCE_LEN].copy_from_slice(&nonce);
        // It fails only for a sample of another length than 16.
        let [a, b, c, d, _] = self.0.new_mask(&sample).unwrap_or_default();
        u32::from_be_bytes([a, b, c, d])
    }

    fn encode(&self, slot: u32, nonce: [u8; NONCE_LEN]) -> [u8; CID_LEN] {
        let mut cid = [0; CID_LEN];
        cid[..NONCE_LEN].copy_from_slice(&nonce);
        cid[NONCE_LEN..].copy_from_slice(&(slot ^ self.mask(nonce)).to_be_bytes());
        cid
    }

    /// The slot in a connection id. Every id of the right length names *some* slot.
    pub(super) fn decode(&self, cid: &[u8]) -> Option<u32> {
        let cid: [u8; CID_LEN] = cid.try_into().ok()?;
        let [a, b, c, d, w, x, y, z] = cid;
        Some(u32::from_be_bytes([w, x, y, z]) ^ self.mask([a, b, c, d]))
    }
}

/// Makes the connection ids of one slot.
pub(super) struct SlotCids {
    pub(super) key: CidKey,
    pub(super) slot: u32,
}

impl ConnectionIdGenerator for SlotCids {
    fn generate_cid(&mut self) -> ConnectionId {
        // Random, because a nonce is seen by everyone. Without randomness there is no TLS either,
        // so what comes out then does not matter.
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
    fn an_id_names_its_slot_to_the_key_only() {
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
