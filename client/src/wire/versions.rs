//! Version negotiation: the version and the features that two peers use. [`super`] has the rule.

use std::fmt;

use bytes::{BufMut, Bytes};

use super::settlement::FEATURE_SETTLEMENT;
use super::{FEATURE_ADMIN, FEATURE_DENIALS, Rejection, WireError, get_u8, get_u64};

/// The lowest version that this build speaks.
pub const VERSION_MIN: u8 = 2;

/// The highest version that this build speaks, which it prefers. Version 3 is version 2 with negotiation.
pub const VERSION: u8 = 3;

/// A feature between zippers: a change of the interest table is sent as an
/// [`InterestDelta`](super::InterestDelta), not as a whole table.
pub const INTEREST_DELTAS: u64 = 1 << 0;

/// The features that this build implements.
pub const FEATURES: u64 = INTEREST_DELTAS | FEATURE_ADMIN | FEATURE_DENIALS | FEATURE_SETTLEMENT;

/// The last version without negotiation.
const VERSION_UNNEGOTIATED: u8 = 2;

/// Distinguishes an offer from an acknowledgement: no node has a key that begins like this.
const MARK: [u8; 14] = *b"selvedge/offer";

/// The versions and features that one side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionOffer {
    /// The lowest version.
    pub min: u8,
    /// The highest version.
    pub max: u8,
    /// Implemented features, as bits.
    pub features: u64,
    /// Features that the other side must implement, as bits.
    pub required: u64,
}

/// The version and the features that a connection uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// The highest version that both sides speak.
    pub version: u8,
    /// The features that both sides implement, as bits.
    pub features: u64,
}

/// Two peers have no version in common, or one lacks what the other requires.
///
/// A retry does not help before one side is upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionError {
    /// What this side speaks.
    pub own: VersionOffer,
    /// What the other side speaks.
    pub peer: VersionOffer,
    /// Required features that one side lacks; zero if the ranges have no version in common.
    pub missing: u64,
}

impl VersionOffer {
    /// What this build speaks.
    pub const OWN: Self = Self {
        min: VERSION_MIN,
        max: VERSION,
        features: FEATURES,
        required: 0,
    };

    /// The offer of a peer that sent none: the version of its handshake and no features.
    #[must_use]
    pub const fn without_negotiation(version: u8) -> Self {
        Self {
            min: version,
            max: version,
            features: 0,
            required: 0,
        }
    }

    /// The zipper's side: selects the version and the features to use with `peer`.
    ///
    /// # Errors
    /// [`VersionError`] if there is no common version or a required feature is missing.
    pub fn select(&self, peer: &Self) -> Result<Negotiated, VersionError> {
        let refused = |missing| VersionError {
            own: *self,
            peer: *peer,
            missing,
        };
        let version = self.max.min(peer.max);
        if version < self.min.max(peer.min) {
            return Err(refused(0));
        }
        let missing = peer.required & !self.features | self.required & !peer.features;
        if missing != 0 {
            return Err(refused(missing));
        }
        Ok(Negotiated {
            version,
            features: self.features & peer.features,
        })
    }

    /// The connecting side: checks the zipper's selection. A zipper of version 2 sends none.
    ///
    /// # Errors
    /// [`VersionError`] if the selection is not within this offer.
    pub fn accept(&self, selected: Option<Negotiated>) -> Result<Negotiated, VersionError> {
        let selected = selected.unwrap_or(Negotiated::WITHOUT_NEGOTIATION);
        let peer = Self {
            min: selected.version,
            max: selected.version,
            features: selected.features,
            // A feature that was not offered must not be used.
            required: selected.features,
        };
        self.select(&peer)
    }

    /// Whether `name` and `node` of an acknowledgement without more fields are an offer.
    pub(super) fn from_ack(name: &str, node: &[u8; 32]) -> Option<Self> {
        let values = node.strip_prefix(&MARK).filter(|_| name.is_empty())?;
        let (&[min, max], masks) = values.split_first_chunk()?;
        let (features, required) = masks.split_first_chunk()?;
        Some(Self {
            min,
            max,
            features: u64::from_be_bytes(*features),
            required: u64::from_be_bytes(required.try_into().ok()?),
        })
    }

    /// Appends the fields behind the kind byte.
    pub(super) fn encode_into(self, out: &mut Vec<u8>) {
        out.put_u16(0);
        out.put_slice(&MARK);
        out.put_slice(&[self.min, self.max]);
        out.put_u64(self.features);
        out.put_u64(self.required);
    }
}

impl Negotiated {
    /// With a peer that does not negotiate: version 2, no features.
    pub const WITHOUT_NEGOTIATION: Self = Self {
        version: VERSION_UNNEGOTIATED,
        features: 0,
    };

    /// Whether all of these features are in use.
    #[must_use]
    pub const fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    /// Appends the optional end of an acknowledgement.
    pub(super) fn encode_into(self, out: &mut Vec<u8>) {
        out.put_u8(self.version);
        out.put_u64(self.features);
    }

    /// Reads the optional end of an acknowledgement.
    pub(super) fn decode(b: &mut Bytes) -> Result<Option<Self>, WireError> {
        if b.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            version: get_u8(b)?,
            features: get_u64(b)?,
        }))
    }
}

/// The range of versions, such as `2 to 3`.
impl fmt::Display for VersionOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "version {}", self.min),
            false => write!(f, "versions {} to {}", self.min, self.max),
        }
    }
}

/// The version, and the features if there are any.
impl fmt::Display for Negotiated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {}", self.version)?;
        match self.features {
            0 => Ok(()),
            features => write!(f, " with features {features:#x}"),
        }
    }
}

impl fmt::Display for VersionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own, peer, missing } = self;
        write!(f, "this side speaks {own} of the protocol, the peer {peer}")?;
        match missing {
            0 => write!(f, ": upgrade the older side"),
            missing => write!(f, "; required features are missing: {missing:#x}"),
        }
    }
}

impl std::error::Error for VersionError {}

impl From<&VersionError> for Rejection {
    fn from(error: &VersionError) -> Self {
        match error.missing {
            0 => Self::Version,
            _ => Self::Feature,
        }
    }
}

#[cfg(test)]
#[path = "versions_tests.rs"]
mod tests;
