//! Permissions, as tables.

use proptest::prelude::*;

use super::*;

fn set(ranges: &[&str]) -> TagSet {
    ranges
        .iter()
        .map(|it| it.parse::<TagRange>().unwrap())
        .collect()
}

fn grant(name: &str, write: &[&str], observe: &[&str]) -> Grant {
    Grant {
        name: name.into(),
        expires: None,
        permissions: Permissions {
            write: set(write),
            observe: set(observe),
            admin: TagSet::default(),
        },
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const KEY: NodeKey = [7; 32];
const STRANGER: NodeKey = [8; 32];

/// Two tokens, of which one expires at 100 s, and a key that expires at 200 s.
fn rules() -> AccessRules {
    let token = |token: &str, grant| TokenGrant {
        token: token.into(),
        grant,
    };
    let old = Grant {
        expires: Some(seconds(100)),
        ..grant("old", &["0x10"], &[])
    };
    let key = Grant {
        expires: Some(seconds(200)),
        ..grant("press", &["0x20"], &["0x30"])
    };
    AccessRules {
        tokens: vec![
            token("secret-1", old),
            token("secret-2", grant("new", &["0x10-0x1f"], &[])),
        ],
        keys: [(KEY, key)].into(),
        ..AccessRules::default()
    }
}

#[test]
fn ranges_are_read_and_joined() {
    for (ranges, inside, outside) in [
        (&["0x10"][..], &[0x10][..], &[0, 0xf, 0x11][..]),
        (
            &["0x10-0x1f", "0x18-0x2f", "7"],
            &[7, 0x10, 0x1f, 0x20, 0x2f],
            &[6, 8, 0xf, 0x30],
        ),
        (&["1-2", "3"], &[1, 2, 3], &[0, 4]),
        (&["all", "5"], &[0, 5, u32::MAX], &[]),
        (&[], &[], &[0, 1, u32::MAX]),
    ] {
        let set = set(ranges);
        for tag in inside {
            assert!(set.contains(Tag(*tag)), "{tag} in {ranges:?}");
        }
        for tag in outside {
            assert!(!set.contains(Tag(*tag)), "{tag} in {ranges:?}");
        }
    }
    assert!(set(&["all", "7"]).is_all() && !set(&["7"]).is_all());
    assert_eq!(set(&["1-2", "3"]), set(&["1-3"]));
    for malformed in ["", "0x1f-0x10", "a", "1-", "-1", "1-2-3", "ALL", "0xf000"] {
        assert!(malformed.parse::<TagRange>().is_err(), "{malformed}");
    }
}

#[test]
fn a_client_has_the_permissions_of_its_token_and_of_its_key() {
    // Key, token and time; the tags that it may write, and by what.
    let wrong = Err(AccessError::WrongToken);
    let expired = |kind, name: &str| {
        Err(AccessError::Expired {
            kind,
            name: name.into(),
        })
    };
    for (node, token, now, expected) in [
        (STRANGER, None, 0, Err(AccessError::TokenRequired)),
        (STRANGER, Some("secret"), 0, wrong.clone()),
        (STRANGER, Some(""), 0, wrong.clone()),
        (
            STRANGER,
            Some("secret-1"),
            99,
            Ok((&["0x10"][..], "token old", Some(100))),
        ),
        (STRANGER, Some("secret-1"), 100, expired("token", "old")),
        (
            STRANGER,
            Some("secret-2"),
            100,
            Ok((&["0x10-0x1f"], "token new", None)),
        ),
        (KEY, None, 100, Ok((&["0x20"], "key press", Some(200)))),
        (KEY, None, 200, expired("key", "press")),
        (
            KEY,
            Some("secret-2"),
            100,
            Ok((&["0x10-0x20"], "token new, key press", Some(200))),
        ),
        (
            KEY,
            Some("secret-2"),
            200,
            Ok((&["0x10-0x1f"], "token new", None)),
        ),
        (
            KEY,
            Some("secret-1"),
            50,
            Ok((&["0x10", "0x20"], "token old, key press", Some(100))),
        ),
        (KEY, Some("guess"), 0, wrong),
    ] {
        let client = Credentials {
            node,
            token,
            is_local: true,
        };
        let access = rules().admit(client, seconds(now));
        let expected =
            expected.map(|(write, by, expires)| (set(write), by.to_owned(), expires.map(seconds)));
        let access = access.map(|it| (it.permissions.write, it.granted_by, it.expires));
        assert_eq!(access, expected, "{token:?} at {now}");
    }
}

#[test]
fn the_simple_forms_permit_what_they_always_did() {
    let admit = |rules: &AccessRules, token, is_local| {
        let client = Credentials {
            node: STRANGER,
            token,
            is_local,
        };
        rules
            .admit(client, seconds(0))
            .map(|access| access.permissions)
    };
    let token = AccessRules::simple(Some("secret"));
    for is_local in [false, true] {
        assert_eq!(
            admit(&token, Some("secret"), is_local),
            Ok(Permissions::all())
        );
        assert_eq!(
            admit(&token, Some("guess"), is_local),
            Err(AccessError::WrongToken)
        );
        assert_eq!(
            admit(&token, None, is_local),
            Err(AccessError::TokenRequired)
        );
    }
    let open = AccessRules::simple(None);
    // A client may present a token that is not required.
    for presented in [None, Some("any")] {
        assert_eq!(admit(&open, presented, false), Ok(Permissions::data()));
        assert_eq!(admit(&open, presented, true), Ok(Permissions::all()));
    }
}

#[test]
fn a_client_without_any_permission_is_refused_with_the_reason() {
    let mut rules = rules();
    rules.tokens.clear();
    let client = Credentials {
        node: STRANGER,
        token: None,
        is_local: true,
    };
    let unknown = AccessError::UnknownKey(NodeId::new(STRANGER));
    assert_eq!(rules.admit(client, seconds(0)), Err(unknown));
    rules.anyone.observe = set(&["0x40"]);
    let access = rules.admit(client, seconds(0)).unwrap();
    assert_eq!(
        (access.permissions.observe, access.granted_by),
        (set(&["0x40"]), String::new())
    );
}

#[test]
fn a_client_that_can_do_nothing_with_its_permissions_is_refused() {
    let access = |write: &[&str], observe: &[&str], admin: &[&str]| Access {
        permissions: Permissions {
            write: set(write),
            observe: set(observe),
            admin: set(admin),
        },
        ..Access::default()
    };
    let observed = [Tag(1), Tag(2)];
    for (access, source, function) in [
        (access(&["9"], &[], &[]), true, true),
        (access(&[], &["2"], &[]), false, true),
        (access(&[], &["3"], &[]), false, false),
        (access(&[], &[], &["9"]), true, false),
    ] {
        assert_eq!(
            access.check_role(Role::Source, &[]).is_ok(),
            source,
            "{access:?}"
        );
        let is_function = access.check_role(Role::StreamFunction, &observed).is_ok();
        assert_eq!(is_function, function, "{access:?}");
    }
}

#[test]
fn tokens_are_not_shown() {
    assert!(!format!("{:?}", rules()).contains("secret"));
}

proptest! {
    #[test]
    fn a_set_has_the_tags_of_its_ranges(
        ranges in prop::collection::vec((0_u32..50, 0_u32..10), 0..8), tag in 0_u32..70,
    ) {
        let ranges: Vec<TagRange> = ranges
            .iter()
            .map(|&(first, len)| TagRange { first: Tag(first), last: Tag(first + len) })
            .collect();
        let is_inside = ranges.iter().any(|it| it.first <= Tag(tag) && Tag(tag) <= it.last);
        let set: TagSet = ranges.into_iter().collect();
        prop_assert_eq!(set.contains(Tag(tag)), is_inside);
    }
}
