//! Valid configurations, and the errors of invalid ones.

use super::*;

fn parse(text: &str) -> Result<ZipperConfig, String> {
    ZipperConfig::parse(text, "zipper.yaml", &[]).map_err(|error| error.to_string())
}

fn with(text: &str, options: &[&str]) -> Result<ZipperConfig, String> {
    let overrides: Vec<Override> = options
        .iter()
        .map(|option| Override::from_option(option).unwrap())
        .collect();
    ZipperConfig::parse(text, "zipper.yaml", &overrides).map_err(|error| error.to_string())
}

const NODE: &str = "abababababababababababababababababababababababababababababababab";

#[test]
fn an_empty_file_gives_the_defaults() {
    for text in ["", "\n", "# nothing\n", "---\n"] {
        assert_eq!(parse(text), Ok(ZipperConfig::default()));
    }
    let addresses = ZipperConfig::default().addresses().unwrap();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["quic://127.0.0.1:9000", "tcp://127.0.0.1:9000"]);
}

#[test]
fn every_key_is_read() {
    let text = format!(
        "name: edge\nidentity: edge.key\nlisten: [quic://0.0.0.0:9000, 'tcp://[::1]:9001']\n\
         auth:\n  type: token\n  token: secret\nmesh:\n  region:\n    node: {NODE}\n    \
         addresses:\n    - quic://region.example:9000\nlimits:\n  clients: 10\n  workers: 2\n  \
         spin_us: 50\n  send_buffer_bytes: 1048576\n  message_max_bytes: 65536\n  stalled_max: 20\n  function_depth: 3\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.name, "edge");
    assert_eq!(config.identity, Some("edge.key".into()));
    assert_eq!(config.addresses().unwrap().len(), 2);
    assert_eq!(
        config.auth,
        Auth::Token {
            token: AuthToken("secret".into())
        }
    );
    assert_eq!(config.mesh["region"].addresses.len(), 1);
    assert_eq!((config.limits.clients, config.limits.spin_us), (10, 50));
    let limits = (config.limits.stalled_max, config.limits.function_depth);
    assert_eq!(limits, (20, 3));
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn host_and_port_are_a_short_form_for_quic_and_tcp() {
    let config = parse("host: 127.0.0.1\nport: 9100\n").unwrap();
    let addresses = config.addresses().unwrap();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["quic://127.0.0.1:9100", "tcp://127.0.0.1:9100"]);
}

/// Asserts that a text has exactly these problems.
fn assert_problems(text: &str, expected: &[&str]) {
    let error = ZipperConfig::parse(text, "zipper.yaml", &[]).expect_err(text);
    let found: Vec<String> = error.problems().iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn an_error_of_a_value_names_the_place_the_key_and_what_was_expected() {
    for (text, expected) in [
        (
            "nmae: edge\n",
            "1:1: unknown key `nmae`; did you mean `name`?",
        ),
        (
            "name: edge\nlimits:\n  cleints: 3\n",
            "3:3: unknown key `limits.cleints`; did you mean `clients`?",
        ),
        (
            "quite: other\n",
            "1:1: unknown key `quite`; expected one of `name`, `identity`, `listen`, `host`, \
             `port`, `auth`, `mesh`, `limits`, `metrics`, `log`",
        ),
        (
            "limits:\n  clients: 0\n",
            "2:12: `limits.clients`: expected a number from 1 to 65536, such as 1024; found `0`",
        ),
        (
            "limits:\n  spin_us: 51\n",
            "2:12: `limits.spin_us`: expected a number from 0 to 50, such as 50; found `51`",
        ),
        (
            "limits:\n  function_depth: 128\n",
            "2:19: `limits.function_depth`: expected a number from 1 to 127, such as 8; found `128`",
        ),
        (
            "limits: {clients: [3]}\n",
            "1:19: `limits.clients`: expected a number from 1 to 65536, such as 1024; found a list",
        ),
        (
            "port: many\n",
            "1:7: `port`: expected a number from 0 to 65535, such as 9000; found `many`",
        ),
        (
            "port: 70000\n",
            "1:7: `port`: expected a number from 0 to 65535, such as 9000; found `70000`",
        ),
        (
            "name: {}\n",
            "1:7: `name`: expected a text of 1 to 255 bytes, such as `edge`; found a map",
        ),
    ] {
        assert_problems(text, &[format!("zipper.yaml:{expected}").as_str()]);
    }
}

#[test]
fn an_error_of_a_section_names_its_keys() {
    for (text, expected) in [
        (
            "listen: [tcp://127.0.0.1:1]\nport: 2\n",
            "1:9: `host` and `port` are a short form of `listen`: give one or the other",
        ),
        (
            "host: here\n",
            "1:7: `host`: expected an IP address, such as 0.0.0.0; found `here`",
        ),
        (
            "listen: tcp://0.0.0.0:1\n",
            "1:9: `listen`: expected a list, such as [quic://0.0.0.0:9000]; found \
             `tcp://0.0.0.0:1`",
        ),
        (
            "mesh: [a]\n",
            "1:7: `mesh`: expected a map, such as {region: {node: KEY, addresses: \
             [quic://region.example:9000]}}; found a list",
        ),
        (
            "mesh:\n  a: {}\n",
            "2:3: `mesh.a.node`: the key is missing; expected the 64 hexadecimal digits that \
             `zipper keygen --show FILE` prints",
        ),
        ("name: a\nname: b\n", "2:1: the key `name` occurs twice"),
        (
            "auth: {type: tokn, token: x}\n",
            "1:14: `auth.type`: unknown type `tokn`; did you mean `token`?",
        ),
        (
            "auth: {type: token, token: ''}\n",
            "1:28: `auth.token`: expected a text of 1 to 1024 bytes",
        ),
        (
            "auth: {type: none, token: x}\n",
            "1:27: `auth.token`: not used with `type: none`; expected `type: token`",
        ),
        (
            "- a\n",
            "1:1: expected a map of keys and values, such as `name: edge`; found a list",
        ),
        (
            "name: a\n---\nname: b\n",
            "3:1: there are several documents, separated by `---`; expected one",
        ),
    ] {
        assert_problems(text, &[format!("zipper.yaml:{expected}").as_str()]);
    }
}

#[test]
fn an_address_to_listen_on_has_a_known_protocol_and_an_ip_address() {
    for (address, expected) in [
        (
            "http://x:1",
            "`listen`: unknown protocol `http`; expected one of",
        ),
        (
            "qiuc://0.0.0.0:1",
            "`listen`: unknown protocol `qiuc`; expected one of quic, tcp,",
        ),
        (
            "unix:///run/x",
            "`listen`: unknown protocol `unix`; expected one of",
        ),
        (
            "tcp://localhost:1",
            "`listen`: expected an IP address, such as quic://0.0.0.0:9000; found \
             `tcp://localhost:1`",
        ),
        ("here", "`listen`: an address begins with a protocol"),
    ] {
        let error = parse(&format!("listen: ['{address}']\n")).unwrap_err();
        let expected = format!("zipper.yaml:1:10: {expected}");
        assert!(error.starts_with(&expected), "{error}");
    }
    for scheme in ["quic", "tcp", "tcp+plain", "udp", "udp+plain"] {
        assert!(parse(&format!("listen: ['{scheme}://127.0.0.1:1']\n")).is_ok());
    }
    let mesh = format!("mesh: {{a: {{node: {NODE}, addresses: ['http://x:1']}}}}\n");
    let error = parse(&mesh).unwrap_err();
    assert!(
        error.contains("`mesh.a.addresses`: unknown protocol"),
        "{error}"
    );
}

#[test]
fn a_zipper_that_requires_no_token_listens_on_loopback_addresses_only() {
    let expected = |place: &str, key: &str, found: &str| {
        format!(
            "zipper.yaml:{place}: `{key}`: other hosts can reach `{found}`, and `auth` requires no \
             token; expected `auth: {{type: token, token: SECRET}}`, or `auth: {{type: open}}` to \
             admit every client"
        )
    };
    for auth in ["", "auth: {type: none}\n"] {
        for found in ["quic://0.0.0.0:0", "tcp://192.0.2.1:1", "udp://[::]:1"] {
            let text = format!("listen: ['tcp://127.0.0.1:1', '{found}']\n{auth}");
            assert_problems(&text, &[&expected("1:31", "listen", found)]);
        }
        for found in ["0.0.0.0", "192.0.2.1", "'[::]'"] {
            let text = format!("host: {found}\n{auth}");
            let found = found.trim_matches('\'');
            assert_problems(&text, &[&expected("1:7", "host", found)]);
        }
        let local =
            "listen: ['tcp://127.0.0.2:1', 'udp://[::1]:1', 'tcp://[::ffff:127.0.0.1]:1']\n";
        for text in [local, "host: 127.0.0.1\n", "host: '[::1]'\n", "port: 1\n"] {
            assert!(parse(&format!("{text}{auth}")).is_ok(), "{text}");
        }
    }
    for auth in ["auth: {type: token, token: x}\n", "auth: {type: open}\n"] {
        for text in ["listen: ['quic://0.0.0.0:0']\n", "host: 0.0.0.0\n"] {
            assert!(parse(&format!("{text}{auth}")).is_ok(), "{text}{auth}");
        }
    }
    assert_eq!(parse("auth: {type: open}\n").unwrap().auth, Auth::Open);
}

#[test]
fn all_problems_of_a_file_are_reported_at_once() {
    assert_problems(
        "nmae: a\nport: many\nlisten: [http://x:1]\nmesh:\n  b: {node: x}\nlimits:\n  workers: 0\n",
        &[
            "zipper.yaml:1:1: unknown key `nmae`; did you mean `name`?",
            "zipper.yaml:2:7: `port`: expected a number from 0 to 65535, such as 9000; found `many`",
            "zipper.yaml:3:9: `host` and `port` are a short form of `listen`: give one or the other",
            "zipper.yaml:3:10: `listen`: unknown protocol `http`; expected one of quic, tcp, \
             tcp+plain, udp, udp+plain",
            "zipper.yaml:5:13: `mesh.b.node`: a node id is 64 hexadecimal digits, as `zipper keygen` \
             prints it; found `x`",
            "zipper.yaml:7:12: `limits.workers`: expected a number from 1 to 256, such as 1; found \
             `0`",
        ],
    );
    let many: String = (0..50).map(|n| format!("k{n}: 1\n")).collect();
    let error = ZipperConfig::parse(&many, "zipper.yaml", &[]).unwrap_err();
    assert!(error.render().ends_with("and 30 more problems"), "{error}");
}

#[test]
fn an_excerpt_marks_what_is_wrong() {
    let error = ZipperConfig::parse("name: edge\nlimits:\n  clients: 0 # many\n", "a.yaml", &[]);
    let expected = "\
error: `limits.clients`: expected a number from 1 to 65536, such as 1024; found `0`
 --> a.yaml:3:12
  |
3 |   clients: 0
  |            ^";
    assert_eq!(error.unwrap_err().render(), expected);
}

#[test]
fn a_syntax_error_is_shown_in_its_line() {
    let error = ZipperConfig::parse("name: edge\nhost: a: b\n", "a.yaml", &[]).unwrap_err();
    let expected = "\
error: not valid YAML: mapping values are not allowed in this context; check indentation, quotes and brackets here
 --> a.yaml:2:8
  |
2 | host: a: b
  |        ^";
    assert_eq!(error.render(), expected);
}

#[test]
fn a_place_at_a_wide_character_or_at_the_end_of_a_line_is_shown() {
    for text in [
        "name: a\r\nname: b\r\n",
        "name:\r\n  'a\r\n",
        "é: 'ü\r\n",
        "ä: ö: ü",
        "[",
        "\u{feff}ö: {",
        "name: a\u{85}\u{2028}: b: c",
        "ö: |ü",
        "ö: %ü\n%ü",
    ] {
        let error = ZipperConfig::parse(text, "a.yaml", &[]).expect_err(text);
        assert!(error.render().starts_with("error: "), "{text}");
    }
}

#[test]
fn long_lines_and_values_are_shortened() {
    let long = "x".repeat(5_000);
    for text in [
        format!("name: {long}\n"),
        format!("{long}: 1\n"),
        format!("listen: ['{long}']\n"),
        format!("limits: {{clients: 1, {} workers: 0}}\n", " ".repeat(5_000)),
        format!("name: [{long}\n"),
    ] {
        let error = ZipperConfig::parse(&text, "zipper.yaml", &[]).unwrap_err();
        for line in error.render().lines() {
            assert!(line.chars().count() <= 260, "{line}");
        }
        for line in error.render().lines().skip(1) {
            assert!(line.chars().count() <= 130, "{line}");
        }
    }
}

#[test]
fn no_error_names_a_part_of_the_parser() {
    for text in [
        "name: [\n",
        "name: 'a\n",
        "a: b: c\n",
        "name: *a\n",
        "listen:\n- a\n b\n",
        "name: !!int x\n",
        "limits:\n  clients: 1\n workers: 1\n",
        "name: a\nname: b\n",
    ] {
        let error = ZipperConfig::parse(text, "zipper.yaml", &[]).unwrap_err();
        let shown = error.render();
        for jargon in [
            "u64",
            "u16",
            "sequence start",
            "Options",
            "Policy",
            "deserialize",
            "serde",
        ] {
            assert!(!shown.contains(jargon), "{shown}");
        }
    }
}

#[test]
fn a_repeated_key_or_address_is_named() {
    let mesh = format!("mesh:\n  a: {{node: {NODE}}}\n  b: {{node: {NODE}}}\n");
    let error = parse(&mesh).unwrap_err();
    assert!(
        error.contains("`mesh.b.node`: `a` has the same key"),
        "{error}"
    );
    let listen = |address| parse(&format!("listen: ['{address}', '{address}']\n"));
    let error = listen("tcp://127.0.0.1:9000").unwrap_err();
    assert!(
        error.contains("`listen`: `tcp://127.0.0.1:9000` occurs twice"),
        "{error}"
    );
    assert!(listen("tcp://127.0.0.1:0").is_ok());
}

#[test]
fn two_protocols_on_one_port_are_refused() {
    for (one, other, expected) in [
        ("quic://0.0.0.0:1", "udp://0.0.0.0:1", Some("UDP port 1")),
        (
            "udp+plain://0.0.0.0:1",
            "quic://127.0.0.1:1",
            Some("UDP port 1"),
        ),
        (
            "tcp://127.0.0.1:1",
            "tcp+plain://127.0.0.1:1",
            Some("TCP port 1"),
        ),
        ("tcp://127.0.0.1:1", "quic://127.0.0.1:1", None),
        ("tcp://127.0.0.1:1", "tcp+plain://127.0.0.2:1", None),
        ("tcp://127.0.0.1:1", "tcp+plain://127.0.0.1:2", None),
        ("quic://127.0.0.1:0", "udp://127.0.0.1:0", None),
    ] {
        let config = parse(&format!("listen: ['{one}', '{other}']\n"));
        match expected {
            Some(expected) => {
                let expected = format!("`listen`: `{other}` and `{one}` both need {expected}");
                assert!(config.unwrap_err().contains(&expected));
            }
            None => assert!(config.is_ok(), "{one} {other}"),
        }
    }
}

#[test]
fn a_key_without_a_value_has_its_default() {
    let text = "name:\nlisten:\nmesh:\n  # none yet\nlimits:\nauth:\n";
    assert_eq!(parse(text), Ok(ZipperConfig::default()));
}

#[test]
fn texts_are_read_as_they_are_written() {
    let name = |text: &str| parse(&format!("name: {text}\n")).unwrap().name;
    assert_eq!(name("0010"), "0010");
    assert_eq!(name("yes"), "yes");
    assert_eq!(name("1.50"), "1.50");
    assert_eq!(name("'a b'"), "a b");
    let token = parse("auth: {type: token, token: 0x0042}\n").unwrap().auth;
    let expected = AuthToken("0x0042".into());
    assert_eq!(token, Auth::Token { token: expected });
    let port = |text: &str| parse(&format!("port: {text}\n")).unwrap().port;
    assert_eq!((port("9_000"), port("'9000'")), (Some(9000), Some(9000)));
    assert_eq!(parse("\u{feff}name: 0010\n").unwrap().name, "0010");
    let aliased = parse("name: &n 0010\nhost: 127.0.0.1\nidentity: *n\n").unwrap();
    assert_eq!(aliased.identity, Some("0010".into()));
}

#[test]
fn a_token_is_never_shown() {
    for text in [
        "auth: {type: token, token: hunter2, x: 1}\n",
        "auth: hunter2\n",
        "auth: {type: token, tokn: hunter2}\n",
        "auth: {type: none, token: hunter2}\n",
        "auth:\n  type: token\n  token: 'hunter2\n",
        "auth:\n  type: token\n  token: [hunter2]\n",
        "password: hunter2\n",
    ] {
        let error = ZipperConfig::parse(text, "zipper.yaml", &[]).unwrap_err();
        let shown = format!("{}{error}{error:?}", error.render());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let error = with("", &["auth={type: token, tokn: hunter2}"]).unwrap_err();
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn options_replace_values_of_the_file() {
    let empty = with("name: a\n", &["name="]).unwrap();
    assert_eq!(empty, ZipperConfig::default());
    let config = with("name: a\n", &["name=b", "limits.clients=7", "mesh={}"]).unwrap();
    assert_eq!((config.name.as_str(), config.limits.clients), ("b", 7));
}

#[test]
fn a_wrong_option_is_named() {
    for (option, expected) in [
        (
            "limits.cleints=7",
            "--set limits.cleints: unknown key `limits.cleints`; did you mean `clients`?",
        ),
        (
            "name.x=7",
            "--set name.x: `name.x` cannot be set, because `name` is not a map",
        ),
    ] {
        assert_eq!(with("name: a\n", &[option]), Err(expected.to_owned()));
    }
    assert!(Override::from_option("name").is_err());
}

#[test]
fn variables_of_the_environment_are_read_in_order() {
    let variables = [
        ("ZIPPER__NAME", "edge"),
        ("PATH", "/bin"),
        ("ZIPPER__LIMITS__CLIENTS", "3"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let overrides = Override::from_environment(variables.into_iter());
    let config = ZipperConfig::parse("", "zipper.yaml", &overrides).unwrap();
    assert_eq!((config.name.as_str(), config.limits.clients), ("edge", 3));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = ZipperConfig::load(Path::new("/nowhere/zipper.yaml"), &[]).unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with("/nowhere/zipper.yaml: cannot be read")
    );
    let folder = ZipperConfig::load(Path::new("/"), &[]).unwrap_err();
    assert_eq!(folder.to_string(), "/: is a directory, not a file");
}

#[test]
fn nested_aliases_and_deep_lists_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let list = vec![format!("*a{}", n - 1); 9].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{list}]\n"));
    }
    assert!(parse(&bomb).is_err());
    assert!(parse(&"[".repeat(100_000)).is_err());
}

proptest::proptest! {
    #[test]
    fn no_text_causes_a_panic(text in "\\PC*") {
        let _either = ZipperConfig::parse(&text, "a", &[]).map_err(|error| error.render());
    }

    #[test]
    fn no_line_causes_a_panic(text in "(name|listen|mesh|auth|limits|port)[:\\[\\]{}&*! \n\t-]{0,9}[a-z0-9:/&*\\[{ -]{0,20}") {
        let _either = ZipperConfig::parse(&text, "a", &[]).map_err(|error| error.render());
    }
}

#[test]
fn the_example_shows_the_defaults() {
    let text = include_str!("../../../examples/zipper.yaml");
    let mut example = parse(text).unwrap();
    let defaults = ZipperConfig::default();
    assert_eq!(example.addresses(), defaults.addresses());
    example.listen = None;
    assert_eq!(example, defaults);
}

#[test]
fn the_log_level_is_one_of_six() {
    let level = |text: &str| parse(text).map(|config| config.log.map(|it| it.to_string()));
    assert_eq!(level("name: a"), Ok(None));
    for name in ["off", "error", "warn", "info", "debug", "trace"] {
        assert_eq!(level(&format!("log: {name}")), Ok(Some(name.to_owned())));
    }
    let error = level("log: nonsense").unwrap_err();
    let expected = "`log`: expected off, error, warn, info, debug or trace; found `nonsense`";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn metrics_are_served_on_loopback_unless_more_is_permitted() {
    let address = |text: &str| parse(text).map(|config| config.metrics.map(|it| it.to_string()));
    let some = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(address("name: edge"), Ok(None));
    assert_eq!(address("metrics: 127.0.0.1:9464"), some("127.0.0.1:9464"));
    assert_eq!(address("metrics: '[::1]:0'"), some("[::1]:0"));
    let public = "metrics: {address: '0.0.0.0:9464', public: true}";
    assert_eq!(address(public), some("0.0.0.0:9464"));
    let expected = "`metrics`: other machines may reach 0.0.0.0:9464, where no token is required; to \
                    permit it, write `metrics: {address: 0.0.0.0:9464, public: true}`";
    assert!(
        address("metrics: 0.0.0.0:9464")
            .unwrap_err()
            .contains(expected)
    );
    for (text, expected) in [
        (
            "metrics: 9464",
            "`metrics`: expected an IP address and a port, such as 127.0.0.1:9464; found `9464`",
        ),
        ("metrics: localhost:9464", "found `localhost:9464`"),
        (
            "metrics: {public: true}",
            "`metrics.address`: the key is missing",
        ),
        (
            "metrics: {address: '10.0.0.1:1'}",
            "`metrics.address`: other machines may reach 10.0.0.1:1",
        ),
        (
            "metrics: {address: '127.0.0.1:1', public: 1}",
            "`metrics.public`: expected `true` or `false`; found `1`",
        ),
        (
            "metrics: [1]",
            "`metrics`: expected an IP address and a port",
        ),
    ] {
        let error = address(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
