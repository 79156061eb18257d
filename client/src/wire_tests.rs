//! The encoding of messages, and bytes that are not messages.

use super::*;
use crate::settlement::InstanceId;
use proptest::prelude::*;

fn data() -> Data {
    Data {
        tag: Tag(0x10),
        origin: Origin {
            source: [7; 32],
            sequence: 3,
        },
        hops_left: 16,
        target: Some("t".into()),
        recipients: vec![Recipient {
            name: "f".into(),
            home: [2; 32],
        }],
        trace: Some(vec![("z".into(), 9)]),
        payload: Bytes::from_static(b"hi"),
    }
}

/// The messages of operators.
fn operator_samples() -> Vec<WireMessage> {
    vec![
        WireMessage::AdminRequest(AdminRequest {
            id: 7,
            query: AdminQuery::Clients as u8,
            after: Bytes::from_static(b"\x01\x02"),
        }),
        WireMessage::AdminReply(AdminReply::Page {
            id: 7,
            rows: vec![AdminRow::default(), row()],
            next: Some(Bytes::from_static(b"\x03")),
        }),
        WireMessage::AdminReply(AdminReply::Refused {
            id: 7,
            code: 403,
            message: "no".into(),
        }),
        WireMessage::Denial(Denial {
            permission: Permission::Observe,
            tags: vec![Tag(0x10), Tag(0x11)],
        }),
    ]
}

/// A delta with instances, of one of two entries.
fn listing_delta(entry: InterestEntry) -> WireMessage {
    let listing = InterestEntry {
        settled: Some(ListedInstances {
            redelivers: true,
            instances: vec![InstanceId(6), InstanceId(7)],
            away: vec![InstanceId(5)],
        }),
        ..entry.clone()
    };
    WireMessage::InterestDelta(InterestDelta {
        number: 3,
        lists_instances: true,
        updated: vec![listing, entry],
        withdrawn: Vec::new(),
    })
}

fn samples() -> Vec<WireMessage> {
    let (name, tags, target) = (String::from("f"), vec![Tag(16)], Some(String::from("t")));
    let policy = Policy::Nearest;
    let entry = InterestEntry {
        name: name.clone(),
        tags: tags.clone(),
        target: None,
        policy,
        path: vec![[3; 32], [4; 32]],
        settled: None,
        drops: None,
    };

    let role = Role::StreamFunction;
    let token = Some("s".into());
    let samples = vec![
        WireMessage::Handshake(Handshake {
            version: VERSION_MIN,
            role,
            name,
            token,
            tags,
            target,
            policy,
        }),
        WireMessage::HandshakeAck {
            name: "z".into(),
            node: [1; 32],
            negotiated: None,
        },
        WireMessage::Rejected {
            code: 5,
            message: "no".into(),
        },
        WireMessage::Goaway {
            message: "bye".into(),
        },
        WireMessage::Interest {
            generation: 1,
            entries: vec![entry.clone()],
        },
        WireMessage::Data(data()),
        WireMessage::VersionOffer(VersionOffer::OWN),
        WireMessage::HandshakeAck {
            name: "z".into(),
            node: [1; 32],
            negotiated: Some(Negotiated {
                version: 3,
                features: 1,
            }),
        },
        WireMessage::InterestDelta(InterestDelta {
            number: 2,
            lists_instances: false,
            updated: vec![entry.clone()],
            withdrawn: vec![WithdrawnRoute {
                name: "g".into(),
                target: Some("t".into()),
                home: [5; 32],
            }],
        }),
        listing_delta(entry),
    ];
    [samples, operator_samples()].concat()
}

/// A row with a value of each kind.
fn row() -> AdminRow {
    let values = [
        AdminValue::Number(9),
        AdminValue::Text("t".into()),
        AdminValue::Flag(true),
        AdminValue::Node([5; 32]),
        AdminValue::Tags(vec![Tag(0x10)]),
        AdminValue::Nodes(vec![[6; 32]]),
        AdminValue::Texts(vec!["a".into(), "b".into()]),
    ];
    AdminRow {
        fields: values.map(|value| ("f".into(), value)).into(),
    }
}

#[test]
fn the_length_of_a_row_is_known_before_it_is_encoded() {
    for rows in [vec![], vec![AdminRow::default()], vec![row(), row()]] {
        let len: usize = rows.iter().map(AdminRow::encoded_len).sum();
        let next = None;
        let page = WireMessage::AdminReply(AdminReply::Page { id: 1, rows, next });
        assert_eq!(page.encode().unwrap().len(), 1 + 4 + 1 + 2 + len + 1);
    }
}

#[test]
fn an_answer_above_its_maximum_is_refused() {
    let mut row = AdminRow::default();
    let texts = vec!["x".repeat(TEXT_LEN_MAX); TEXTS_MAX];
    row.push("f", AdminValue::Texts(texts));
    let page = |rows| AdminReply::Page {
        id: 1,
        rows,
        next: None,
    };
    assert!(
        WireMessage::AdminReply(page(vec![row.clone()]))
            .encode()
            .is_ok()
    );
    let refused = WireMessage::AdminReply(page(vec![row.clone(), row])).encode();
    assert!(matches!(
        refused,
        Err(WireError::TooLong {
            max: REPLY_LEN_MAX,
            ..
        })
    ));
    let long = [&[0x11][..], &[0; REPLY_LEN_MAX + 1]].concat();
    let refused = WireMessage::decode(long.into());
    assert!(matches!(
        refused,
        Err(WireError::TooLong {
            max: REPLY_LEN_MAX,
            ..
        })
    ));
    assert_eq!(AdminQuery::from_byte(0), None);
}

#[test]
fn messages_are_encoded_as_the_table_shows() {
    let handshake = b"\x01\x02\x02\0\x01f\x01\0\x01s\0\x01\0\0\0\x10\x01\0\x01t\x01";
    assert_eq!(samples()[0].encode().unwrap(), &handshake[..]);
    assert_eq!(samples()[2].encode().unwrap(), &b"\x03\0\x05\0\x02no"[..]);
    let mut expected = b"\x05\x0f\0\0\0\x10\x10\x03".to_vec();
    expected.extend([7; 32]);
    expected.extend(b"\0\x01t\0\x01\0\x01f");
    expected.extend([2; 32]);
    expected.extend(b"\0\x01\0\x01z\0\0\0\0\0\0\0\x09hi");
    assert_eq!(samples()[5].encode().unwrap(), expected);
    let expected = b"\x05\x10\0\0\0\x10\x10\x01\x02hi";
    assert_eq!(WireMessage::Data(plain()).encode().unwrap(), &expected[..]);
}

/// Data with the shortest header.
fn plain() -> Data {
    Data {
        origin: Origin {
            source: NO_SOURCE,
            sequence: 0x0102,
        },
        target: None,
        recipients: Vec::new(),
        trace: None,
        ..data()
    }
}

#[test]
fn data_in_another_encoding_than_the_shortest_is_refused() {
    let read = |bytes: &[u8]| WireMessage::decode(Bytes::copy_from_slice(bytes));
    let redundant = Err(WireError::Redundant);
    assert_eq!(read(b"\x05\x10\0\0\0\x10\x10\0\x02hi"), redundant);
    let mut no_source = b"\x05\x01\0\0\0\x10\x10\x02".to_vec();
    no_source.extend(NO_SOURCE);
    assert_eq!(read(&no_source), redundant);
    assert_eq!(read(b"\x05\x04\0\0\0\x10\x10\x02\0\0"), redundant);
    let unknown = Err(WireError::Unknown(0x80));
    assert_eq!(read(b"\x05\x80\0\0\0\x10\x10\x02"), unknown);
}

#[test]
fn each_message_decodes_again_and_each_truncation_is_detected() {
    for message in samples() {
        let bytes = message.encode().unwrap();
        assert_eq!(WireMessage::decode(bytes.clone()).as_ref(), Ok(&message));
        let payload = if let WireMessage::Data(data) = &message {
            data.payload.len()
        } else {
            0
        };
        for cut in 0..bytes.len() - payload {
            let read = WireMessage::decode(bytes.slice(..cut));
            if let Ok(WireMessage::HandshakeAck { negotiated, .. }) = read {
                // Without its last part it is the acknowledgement of version 2.
                assert_eq!((negotiated, bytes.len() - cut), (None, 9));
                continue;
            }
            assert_eq!(read, Err(WireError::Truncated));
        }
    }
}

#[test]
fn a_flipped_bit_is_refused_or_decodes_to_another_message() {
    for message in samples() {
        let bytes = message.encode().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(WireMessage::decode(flipped.into()), Ok(message.clone()));
        }
    }
}

#[test]
fn the_payload_is_not_copied() {
    let bytes = WireMessage::Data(data()).encode().unwrap();
    let Ok(WireMessage::Data(read)) = WireMessage::decode(bytes.clone()) else {
        panic!("it is data")
    };
    assert_eq!(read.payload.as_ptr(), bytes[bytes.len() - 2..].as_ptr());
}

#[test]
fn the_longest_handshake_has_its_maximal_length() {
    let text = || "x".repeat(TEXT_LEN_MAX);
    let handshake = WireMessage::Handshake(Handshake {
        version: VERSION,
        role: Role::StreamFunction,
        name: text(),
        token: Some(text()),
        tags: vec![Tag(0x10); TAGS_MAX],
        target: Some(text()),
        policy: Policy::All,
    });
    assert_eq!(handshake.encode().unwrap().len(), HANDSHAKE_LEN_MAX);
}

#[test]
fn a_length_above_its_maximum_is_refused() {
    let error = WireError::TooLong {
        len: 0xffff,
        max: TEXT_LEN_MAX,
    };
    assert_eq!(
        WireMessage::decode(Bytes::from_static(b"\x04\xff\xff")),
        Err(error)
    );
    let message = "x".repeat(TEXT_LEN_MAX + 1);
    assert!(WireMessage::Goaway { message }.encode().is_err());
}

proptest! {
    #[test]
    fn any_bytes_decode_without_a_panic(bytes: Vec<u8>) {
        if let Ok(message) = WireMessage::decode(bytes.clone().into()) {
            prop_assert_eq!(message.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn any_data_decodes_again(
        tag: u32, source: [u8; 32], sequence: u64, hops_left: u8,
        target: Option<String>, payload: Vec<u8>,
        recipients in prop::collection::vec(".{0,20}", 0..5),
        trace in prop::option::of(prop::collection::vec((".{0,20}", any::<u64>()), 0..5)),
    ) {
        let origin = Origin { source, sequence };
        let payload = payload.into();
        let recipients = recipients.into_iter().map(|name: String| Recipient { name, home: [4; 32] }).collect();
        let data = Data { tag: Tag(tag), origin, hops_left, target, recipients, trace, payload };
        let message = WireMessage::Data(data);
        prop_assert_eq!(WireMessage::decode(message.encode().unwrap()), Ok(message));
    }

    #[test]
    fn a_sourced_header_equals_the_general_encoding(sequence: u64, source: [u8; 32]) {
        prop_assume!(source != NO_SOURCE);
        let origin = Origin { source, sequence };
        let data = Data { origin, payload: Bytes::new(), ..plain() };
        let sourced = SourcedHeader::new(data.tag, data.hops_left, sequence, &source);
        prop_assert_eq!(sourced.bytes(), &data.encode().unwrap()[..]);
    }

    #[test]
    fn reading_in_place_agrees_with_decoding(
        mut bytes: Vec<u8>, flags in 0_u8.., sequence: u64, payload: Vec<u8>, source: [u8; 32],
    ) {
        let written = [NO_SOURCE, source].map(|source| {
            let origin = Origin { source, sequence };
            let data = Data { origin, payload: payload.clone().into(), ..plain() };
            data.encode().unwrap().to_vec()
        });
        if let [kind, second, ..] = bytes.as_mut_slice() {
            (*kind, *second) = (5, flags);
        }
        for bytes in written.into_iter().chain([bytes]) {
            for (read, has_source) in [(PlainMessage::read(&bytes), false), (PlainMessage::read_sourced(&bytes), true)] {
                let is_plain = |it: &Data| {
                    let has_none = it.target.is_none() && it.trace.is_none();
                    has_none && it.recipients.is_empty() && (it.origin.source != NO_SOURCE) == has_source
                };
                let decoded = match WireMessage::decode(bytes.clone().into()) {
                    Ok(WireMessage::Data(data)) => Some(data).filter(is_plain),
                    _ => None,
                };
                prop_assert_eq!(read.map(|it| it.tag), decoded.as_ref().map(|it| it.tag));
                prop_assert_eq!(read.map(|it| it.sequence), decoded.as_ref().map(|it| it.origin.sequence));
                let rest = read.map(|it| &bytes[it.payload_at..]);
                prop_assert_eq!(rest, decoded.as_ref().map(|it| &it.payload[..]));
            }
        }
    }
}
