//! Negotiation of the protocol's version and features between two sessions.
//!
//! Each side states in its `Hello` the range of versions that it speaks and two sets of features.
//! Both sides compute the same result from the two offers:
//!
//! - The version is the highest one that is in both ranges. Without a common version the session
//!   ends with [`CloseReason::Incompatible`](crate::CloseReason::Incompatible).
//! - An **optional** feature (the low half of the set) is used if both sides offer it. A side
//!   ignores an optional feature that it does not know.
//! - A **required** feature (the high half) must be offered by both sides: a side that does not know
//!   it refuses the session.
//!
//! Version 1 refuses a `Hello` with another version byte or with trailing bytes, and it compares
//! `message_max` with its own by `<` alone. The offer therefore travels in the upper 22 of the 62
//! bits of that number, where version 1 ignores it, and the version byte stays 1:
//!
//! ```text
//! required 6b | optional 6b | min - 1 5b | max - 1 5b | message_max 40b
//! ```
//!
//! The offer of version 1 is 0 in all of them, so its `Hello` has the same bytes as before there
//! were offers. Consequences: `message_max` is limited to 1 TiB, and since version 1 cannot compare
//! it any more, the other side compares in both directions.

use std::fmt;

/// Bits of `message_max` in a `Hello`; the offer is above them.
const MESSAGE_MAX_BITS: u32 = 40;

/// The largest `message_max` that a `Hello` can state.
pub(crate) const MESSAGE_MAX: u64 = (1 << MESSAGE_MAX_BITS) - 1;

const VERSION_BITS: u32 = 5;
const VERSION_MASK: u64 = (1 << VERSION_BITS) - 1;

/// Versions of the protocol between two sessions, the lowest and the highest that a side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The lowest version; at least 1.
    pub min: u8,
    /// The highest version; at most 32.
    pub max: u8,
}

impl VersionRange {
    const fn highest_common(self, other: Self) -> Option<u8> {
        let (min, max) = (
            if self.min > other.min {
                self.min
            } else {
                other.min
            },
            if self.max < other.max {
                self.max
            } else {
                other.max
            },
        );
        if min <= max { Some(max) } else { None }
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{} to {}", self.min, self.max),
        }
    }
}

/// A set of 12 features: the low 6 bits are optional, the high 6 bits are required of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FeatureSet(u16);

impl FeatureSet {
    const HALF: u32 = 6;
    const OPTIONAL: u16 = (1 << Self::HALF) - 1;
    const ALL: u16 = (1 << (2 * Self::HALF)) - 1;

    pub(crate) const fn new(bits: u16) -> Self {
        Self(bits & Self::ALL)
    }

    const fn optional(self) -> u16 {
        self.0 & Self::OPTIONAL
    }

    const fn required(self) -> u16 {
        self.0 & !Self::OPTIONAL
    }
}

/// What one side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionOffer {
    pub(crate) versions: VersionRange,
    pub(crate) features: FeatureSet,
}

/// What the two sides of a session use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionAgreement {
    pub(crate) version: u8,
    pub(crate) features: FeatureSet,
}

impl SessionOffer {
    /// What this build speaks: version 1, without features.
    pub(crate) const SUPPORTED: Self = Self::of_versions(1, 1);

    /// What a peer speaks that knows of no offers.
    pub(crate) const VERSION_1: Self = Self::of_versions(1, 1);

    pub(crate) const fn of_versions(min: u8, max: u8) -> Self {
        Self {
            versions: VersionRange { min, max },
            features: FeatureSet::new(0),
        }
    }

    /// `message_max` with this offer above it, as a `Hello` has it.
    pub(crate) fn pack(self, message_max: u64) -> u64 {
        let VersionRange { min, max } = self.versions;
        let features = u64::from(self.features.0);
        let versions = u64::from(max - 1) | u64::from(min - 1) << VERSION_BITS;
        let offer = versions | features << (2 * VERSION_BITS);
        message_max.min(MESSAGE_MAX) | offer << MESSAGE_MAX_BITS
    }

    /// The offer and `message_max` in a `Hello`; `None` if the range of versions is empty.
    pub(crate) const fn unpack(packed: u64) -> Option<(Self, u64)> {
        let offer = packed >> MESSAGE_MAX_BITS;
        let max = 1 + (offer & VERSION_MASK) as u8;
        let min = 1 + (offer >> VERSION_BITS & VERSION_MASK) as u8;
        let offer = Self {
            versions: VersionRange { min, max },
            features: FeatureSet::new((offer >> (2 * VERSION_BITS)) as u16),
        };
        if min <= max {
            Some((offer, packed & MESSAGE_MAX))
        } else {
            None
        }
    }

    /// What both sides use, computed alike by both.
    pub(crate) const fn agree(self, peer: Self) -> Result<SessionAgreement, Incompatibility> {
        let Some(version) = self.versions.highest_common(peer.versions) else {
            return Err(Incompatibility::Versions {
                own: self.versions,
                peer: peer.versions,
            });
        };
        let (own, theirs) = (self.features.required(), peer.features.required());
        if own != theirs {
            return Err(Incompatibility::Features {
                missing: (own ^ theirs) >> FeatureSet::HALF,
            });
        }
        let optional = self.features.optional() & peer.features.optional();
        Ok(SessionAgreement {
            version,
            features: FeatureSet::new(own | optional),
        })
    }
}

/// Why two sessions cannot exchange messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Incompatibility {
    /// There is no version that both sides speak. One of them must be upgraded.
    #[error("this side speaks version {own}, the peer version {peer}")]
    Versions {
        /// The versions of this side.
        own: VersionRange,
        /// The versions of the peer.
        peer: VersionRange,
    },
    /// One side requires features that the other lacks. One of them must be upgraded.
    #[error("one side requires the features {missing:#b}, which the other lacks")]
    Features {
        /// The required features that only one side has.
        missing: u16,
    },
    /// The limits of the two configurations differ
    /// ([`SessionConfig::message_max`](crate::SessionConfig::message_max)).
    #[error("the longest message is {own} bytes here and {peer} bytes at the peer")]
    MessageMax {
        /// The limit of this side, in bytes.
        own: u64,
        /// The limit of the peer, in bytes.
        peer: u64,
    },
    /// The introduction of the peer has a layout that this side does not know.
    #[error("the peer's introduction has the unknown layout {0}")]
    Layout(u8),
    /// The peer refused this side, and did not state its own versions.
    #[error("the peer refused: its versions, features or longest message differ")]
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_features(bits: u16) -> SessionOffer {
        SessionOffer {
            features: FeatureSet::new(bits),
            ..SessionOffer::of_versions(1, 3)
        }
    }

    #[test]
    fn the_offer_of_version_1_leaves_message_max_as_it_was() {
        assert_eq!(SessionOffer::VERSION_1.pack(64 << 20), 64 << 20);
        let unpacked = SessionOffer::unpack(64 << 20);
        assert_eq!(unpacked, Some((SessionOffer::VERSION_1, 64 << 20)));
    }

    #[test]
    fn every_offer_survives_the_way_through_a_hello() {
        for (min, max) in (1..=32).flat_map(|max| (1..=max).map(move |min| (min, max))) {
            for bits in [0, 1, 0b11_1111, 1 << 6, 1 << 11, 0xfff] {
                let offer = SessionOffer {
                    features: FeatureSet::new(bits),
                    ..SessionOffer::of_versions(min, max)
                };
                let packed = offer.pack(MESSAGE_MAX);
                assert!(packed <= crate::varint::VARINT_MAX);
                assert_eq!(SessionOffer::unpack(packed), Some((offer, MESSAGE_MAX)));
            }
        }
        let empty = SessionOffer::of_versions(3, 2).pack(7);
        assert_eq!(SessionOffer::unpack(empty), None);
    }

    #[test]
    fn both_sides_agree_on_the_highest_common_version() {
        for (own, peer, version) in [
            ((1, 1), (1, 1), 1),
            ((1, 2), (1, 1), 1),
            ((1, 3), (2, 5), 3),
            ((2, 32), (1, 2), 2),
        ] {
            let own = SessionOffer::of_versions(own.0, own.1);
            let peer = SessionOffer::of_versions(peer.0, peer.1);
            assert_eq!(own.agree(peer).unwrap().version, version);
            assert_eq!(own.agree(peer), peer.agree(own));
        }
    }

    #[test]
    fn ranges_without_a_common_version_are_both_named() {
        let own = SessionOffer::of_versions(2, 3);
        let error = own.agree(SessionOffer::VERSION_1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "this side speaks version 2 to 3, the peer version 1"
        );
    }

    #[test]
    fn unknown_optional_features_are_ignored_and_unknown_required_ones_refused() {
        let agreed = with_features(0b101).agree(with_features(0b110)).unwrap();
        assert_eq!(agreed.features, FeatureSet::new(0b100));
        let refused = Err(Incompatibility::Features { missing: 0b10 });
        let (requires, lacks) = (with_features(1 << 7), with_features(0b1));
        assert_eq!(lacks.agree(requires), refused);
        assert_eq!(requires.agree(lacks), refused);
        assert!(requires.agree(requires).is_ok());
    }
}
