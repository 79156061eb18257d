//! Version negotiation: its rule, and its bytes.

use proptest::prelude::*;

use super::*;
use crate::wire::WireMessage;

const fn offer(min: u8, max: u8, features: u64, required: u64) -> VersionOffer {
    VersionOffer {
        min,
        max,
        features,
        required,
    }
}

#[test]
fn the_highest_common_version_and_the_common_features_are_selected() {
    let own = offer(2, 5, 0b0111, 0);
    for (peer, version, features) in [
        (offer(2, 2, 0, 0), 2, 0),
        (offer(1, 3, 0b0001, 0), 3, 0b0001),
        (offer(4, 9, 0b1110, 0b0010), 5, 0b0110),
        (offer(5, 5, u64::MAX, 0), 5, 0b0111),
    ] {
        assert_eq!(own.select(&peer), Ok(Negotiated { version, features }));
    }
}

#[test]
fn an_unknown_feature_is_refused_only_if_it_is_required() {
    let own = offer(2, 3, 0b01, 0);
    assert!(own.select(&offer(2, 3, 0b10, 0)).is_ok());
    let refused = own.select(&offer(2, 3, 0b11, 0b11)).unwrap_err();
    assert_eq!(refused.missing, 0b10);
    let text = "this side speaks versions 2 to 3 of the protocol, the peer versions 2 to 3; \
                required features are missing: 0x2";
    assert_eq!(refused.to_string(), text);
    let refused = offer(2, 3, 0b01, 0b01).select(&own_without_features());
    assert_eq!(refused.unwrap_err().missing, 0b01);
}

const fn own_without_features() -> VersionOffer {
    offer(2, 3, 0, 0)
}

#[test]
fn ranges_without_a_common_version_are_refused_and_both_are_named() {
    for peer in [offer(4, 9, 0, 0), offer(0, 1, 0, 0), offer(9, 2, 0, 0)] {
        assert_eq!(own_without_features().select(&peer).unwrap_err().missing, 0);
    }
    let refused = own_without_features().select(&offer(4, 4, 0, 0));
    let text = "this side speaks versions 2 to 3 of the protocol, the peer version 4: \
                upgrade the older side";
    assert_eq!(refused.unwrap_err().to_string(), text);
}

#[test]
fn a_selection_outside_the_offer_is_refused() {
    let own = offer(2, 3, 0b01, 0);
    let selected = |version, features| Some(Negotiated { version, features });
    assert_eq!(own.accept(None), Ok(Negotiated::WITHOUT_NEGOTIATION));
    assert_eq!(own.accept(selected(3, 0b01)).ok(), selected(3, 0b01));
    for refused in [selected(4, 0), selected(1, 0), selected(3, 0b10)] {
        assert!(own.accept(refused).is_err(), "{refused:?}");
    }
    assert!(offer(3, 4, 0, 0).accept(None).is_err(), "version 2 is over");
    let requiring = offer(2, 3, 0b01, 0b01);
    assert!(requiring.accept(None).is_err(), "version 2 has no features");
    assert!(requiring.accept(selected(3, 0)).is_err());
}

#[test]
fn an_offer_has_the_layout_of_an_acknowledgement_of_version_2() {
    let bytes = WireMessage::VersionOffer(offer(2, 3, 0x10, 0x01)).encode();
    let mut expected = b"\x02\0\0selvedge/offer\x02\x03".to_vec();
    expected.extend(b"\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x01");
    assert_eq!(bytes.unwrap(), expected);
    // A kind, an empty text and 32 bytes: what version 2 reads as an acknowledgement.
    assert_eq!(expected.len(), 1 + 2 + 32);
}

proptest! {
    #[test]
    fn both_sides_compute_the_same(
        a in any::<(u8, u8, u64, u64)>(), b in any::<(u8, u8, u64, u64)>(),
    ) {
        let of = |(min, max, features, required): (u8, u8, u64, u64)| {
            offer(min.min(max), min.max(max), features, required & features)
        };
        let (a, b) = (of(a), of(b));
        prop_assert_eq!(a.select(&b).ok(), b.select(&a).ok());
        if let Ok(selected) = a.select(&b) {
            prop_assert_eq!(b.accept(Some(selected)), Ok(selected));
        }
    }

    #[test]
    fn any_offer_decodes_again(min: u8, max: u8, features: u64, required: u64) {
        let message = WireMessage::VersionOffer(offer(min, max, features, required));
        prop_assert_eq!(WireMessage::decode(message.encode().unwrap()), Ok(message));
    }
}
