//! `auth: {type: permissions}`: what is read, and what is refused.

use super::*;
use crate::config::ZipperConfig;

const NODE: &str = "abababababababababababababababababababababababababababababababab";

fn parse(text: &str) -> Result<Auth, String> {
    let config = ZipperConfig::parse(text, "zipper.yaml", &[]);
    config.map(|it| it.auth).map_err(|error| error.to_string())
}

fn auth(text: &str) -> Auth {
    parse(&format!("auth:\n  type: permissions\n{text}")).unwrap()
}

#[test]
fn tokens_and_keys_are_read_with_their_permissions() {
    let text = format!(
        "  tokens:\n    sensors: {{env: T, expires: 2027-01-31, write: [0x10, 0x20-0x2f]}}\n    \
         ops: {{token: secret, expires: '2027-01-31T00:00:01Z', admin: all}}\n  keys:\n    \
         press: {{node: {NODE}, observe: 0x30}}\n  anyone: {{observe: [0x40]}}\n"
    );
    let variable = |name: &str| (name == "T").then(|| "from-env\n".to_owned());
    let rules = auth(&text).access_rules("zipper.yaml", variable);
    let rules = rules.unwrap().expect("it is no simple form");
    assert!(!format!("{rules:?}").contains("secret"));
    let [sensors, ops] = &rules.tokens[..] else {
        panic!("{rules:?}")
    };
    assert_eq!(
        (&*sensors.token, &*sensors.grant.name),
        ("from-env", "sensors")
    );
    assert_eq!((&*ops.token, &*ops.grant.name), ("secret", "ops"));
    // 2027-01-31 is day 20,849 after 1970-01-01.
    let day = Duration::from_secs(20_849 * 86_400);
    assert_eq!(sensors.grant.expires, Some(day));
    assert_eq!(ops.grant.expires, Some(day + Duration::from_secs(1)));
    let set = |texts: &[&str]| -> TagSet {
        texts
            .iter()
            .map(|it| it.parse::<TagRange>().unwrap())
            .collect()
    };
    assert_eq!(sensors.grant.permissions.write, set(&["0x10", "0x20-0x2f"]));
    assert!(ops.grant.permissions.admin.is_all());
    let press = &rules.keys[&[0xab; 32]];
    assert_eq!(
        (&*press.name, &press.permissions.observe),
        ("press", &set(&["0x30"]))
    );
    assert_eq!(rules.anyone.observe, set(&["0x40"]));
    assert_eq!(Auth::None.access_rules("", |_| None), Ok(None));
}

#[test]
fn tokens_of_files_are_relative_to_the_configuration_and_every_missing_one_is_reported() {
    let folder = std::env::temp_dir().join(format!("zipper-tokens-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("ops.token"), "from-file\n").unwrap();
    std::fs::write(folder.join("long.token"), "x".repeat(2000)).unwrap();
    let with = |tokens: &str| {
        let text = format!("auth:\n  type: permissions\n  tokens:\n{tokens}");
        let path = folder.join("zipper.yaml");
        std::fs::write(&path, text).unwrap();
        let config = ZipperConfig::load(&path, &[]).unwrap();
        config.auth.access_rules("zipper.yaml", |_| None)
    };
    let rules = with("    ops: {file: ops.token, admin: all}\n")
        .unwrap()
        .unwrap();
    assert_eq!(rules.tokens[0].token, "from-file");
    let error = with(
        "    a: {file: none.token, admin: all}\n    b: {env: B, admin: all}\n    c: {file: \
         long.token, admin: all}\n    d: {token: same, admin: all}\n    e: {token: same, admin: all}\n",
    );
    let problems = error.unwrap_err().to_string();
    for expected in [
        "`auth.tokens.a`: ",
        "none.token: cannot be read: No such file",
        "`auth.tokens.b`: the environment variable B is not set",
        "`auth.tokens.c`: expected a token of 1 to 1024 bytes in ",
        "`auth.tokens.e`: `d` has the same token",
    ] {
        assert!(problems.contains(expected), "{expected}: {problems}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn contradictions_and_typing_errors_are_reported() {
    for (text, expected) in [
        ("", "`auth.tokens`: the key is missing"),
        (
            "  tokens: {a: {admin: all}}",
            "`auth.tokens.a`: expected one of `token`, `file` and `env`",
        ),
        (
            "  tokens: {a: {token: x, env: X, admin: all}}",
            "expected one of `token`, `file` and `env`",
        ),
        (
            "  tokens: {a: {token: x}}",
            "`auth.tokens.a`: it permits nothing",
        ),
        (
            "  tokens: {a: {token: '', admin: all}}",
            "`auth.tokens.a.token`: expected a text of 1 to 1024",
        ),
        (
            "  tokens: {a: {token: x, wirte: all}}",
            "did you mean `write`?",
        ),
        (
            "  tokens: {a: {token: x, write: [0x1f-0x10]}}",
            "`auth.tokens.a.write`: expected `all`, or tags",
        ),
        (
            "  tokens: {a: {token: x, admin: all, expires: soon}}",
            "`auth.tokens.a.expires`: expected a time of UTC",
        ),
        (
            "  tokens: {a: {token: x, admin: all, expires: 2027-02-30}}",
            "expected a time of UTC",
        ),
        (
            "  token: x\n  tokens: {a: {token: x, admin: all}}",
            "`auth.token`: not used with `type: permissions`",
        ),
        (
            "  keys: {a: {write: all}}",
            "`auth.keys.a.node`: the key is missing",
        ),
        (
            "  keys: {a: {node: 1, write: all}}",
            "`auth.keys.a.node`: expected the 64 hexadecimal digits",
        ),
    ] {
        let error = parse(&format!("auth:\n  type: permissions\n{text}\n")).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let error = parse("auth: {type: none, anyone: {write: all}}").unwrap_err();
    assert!(
        error.contains("`tokens`, `keys` and `anyone` require `type: permissions`"),
        "{error}"
    );
}
