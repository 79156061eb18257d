//! Configurations that read, and what is said of those that do not.

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
    assert_eq!(addresses, ["quic://0.0.0.0:9000", "tcp://0.0.0.0:9000"]);
}

#[test]
fn every_key_is_read() {
    let text = format!(
        "name: edge\nidentity: edge.key\nlisten: [quic://0.0.0.0:9000, 'tcp://[::1]:9001']\n\
         auth:\n  type: token\n  token: secret\nmesh:\n  region:\n    node: {NODE}\n    \
         addresses:\n    - quic://region.example:9000\nlimits:\n  clients: 10\n  workers: 2\n  \
         spin_us: 50\n  send_buffer_bytes: 1048576\n  message_max_bytes: 65536\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.name, "edge");
    assert_eq!(config.identity, Some("edge.key".into()));
    assert_eq!(config.addresses().unwrap().len(), 2);
    assert_eq!(
        config.auth,
        Auth::Token {
            token: Secret("secret".into())
        }
    );
    assert_eq!(config.mesh["region"].addresses.len(), 1);
    assert_eq!((config.limits.clients, config.limits.spin_us), (10, 50));
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn host_and_port_are_short_for_quic_and_tcp() {
    let config = parse("host: 127.0.0.1\nport: 9100\n").unwrap();
    let addresses = config.addresses().unwrap();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["quic://127.0.0.1:9100", "tcp://127.0.0.1:9100"]);
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_was_meant() {
    for (text, expected) in [
        (
            "nmae: edge\n",
            "zipper.yaml:1:1: unknown key `nmae`; did you mean `name`?\n  | nmae: edge\n  | ^",
        ),
        (
            "name: edge\nlimits:\n  cleints: 3\n",
            "zipper.yaml:3:3: unknown key `cleints`; did you mean `clients`?\n  |   cleints: 3\n  |   ^",
        ),
        (
            "quite: other\n",
            "zipper.yaml:1:1: unknown key `quite`; expected one of `name`, `identity`, `listen`, \
             `host`, `port`, `auth`, `mesh`, `limits`\n  | quite: other\n  | ^",
        ),
        (
            "limits:\n  clients: 0\n",
            "zipper.yaml:2:3: `clients`: must be 1 to 65536, and is 0\n  |   clients: 0\n  |   ^",
        ),
        (
            "limits:\n  spin_us: 51\n",
            "zipper.yaml:2:3: `spin_us`: must be 0 to 50, and is 51\n  |   spin_us: 51\n  |   ^",
        ),
        (
            "listen: [tcp://0.0.0.0:1]\nport: 2\n",
            "zipper.yaml:1:1: `listen`: `host` and `port` are short for `listen`: give one or the \
             other\n  | listen: [tcp://0.0.0.0:1]\n  | ^",
        ),
    ] {
        assert_eq!(parse(text), Err(expected.to_owned()));
    }
}

#[test]
fn what_is_there_twice_is_named() {
    let mesh = format!("mesh:\n  a: {{node: {NODE}}}\n  b: {{node: {NODE}}}\n");
    let why = parse(&mesh).unwrap_err();
    assert!(why.contains("`a` and `b` have the same key"), "{why}");
    let listen = |address| parse(&format!("listen: ['{address}', '{address}']\n"));
    let why = listen("tcp://127.0.0.1:9000").unwrap_err();
    assert!(
        why.contains("`tcp://127.0.0.1:9000` is there twice"),
        "{why}"
    );
    assert!(listen("tcp://127.0.0.1:0").is_ok());
}

#[test]
fn wrong_types_and_texts_are_said_with_their_line() {
    for (text, place, what) in [
        ("port: many\n", "zipper.yaml:1:7", "many"),
        ("port: 70000\n", "zipper.yaml:1:7", ""),
        ("name: a\nname: b\n", "zipper.yaml:2:1", "name"),
        ("listen: [here]\n", "zipper.yaml:1:10", "here"),
        ("name: [\n", "zipper.yaml:", ""),
        ("mesh:\n  a: {node: x}\n", "zipper.yaml:2", "x"),
        ("mesh:\n  a: {}\n", "zipper.yaml:2", "node"),
        ("auth: {type: tokn, token: x}\n", "zipper.yaml:1", "token"),
        (
            "auth: {type: token, token: ''}\n",
            "zipper.yaml",
            "1 to 1024",
        ),
        ("- a\n", "zipper.yaml:1", ""),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(place), "{text:?}: {error}");
        assert!(error.contains(what), "{text:?}: {error}");
    }
}

#[test]
fn a_secret_is_not_shown_with_its_line() {
    let error = parse("auth: {type: token, token: hunter2, x: 1}\n").unwrap_err();
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn options_beat_the_file() {
    let config = with("name: a\n", &["name=b", "limits.clients=7", "mesh={}"]).unwrap();
    assert_eq!((config.name.as_str(), config.limits.clients), ("b", 7));
}

#[test]
fn a_wrong_option_is_named() {
    for (option, expected) in [
        (
            "limits.cleints=7",
            "--set limits.cleints: unknown key `cleints`; did you mean `clients`?",
        ),
        (
            "name.x=7",
            "--set name.x: there is no `x` in what is not a map",
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
fn bombs_of_aliases_are_refused() {
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
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _either = parse(&text);
    }

    #[test]
    fn no_line_makes_it_panic(text in "(name|listen|mesh|auth|limits|port)[:\\[\\]{}&*! \n\t-]{0,9}[a-z0-9:/&*\\[{ -]{0,20}") {
        let _either = parse(&text);
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
