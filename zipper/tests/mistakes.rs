//! Mistakes that users make, each with the error that they get: the place, what is wrong, and what was
//! expected, in the terms of the user.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Words of parsers, of the operating system's interfaces and of Rust.
const JARGON: [&str; 16] = [
    "u64",
    "u16",
    "usize",
    "invalid digit",
    "ParseIntError",
    "sequence start",
    "deserialize",
    "serde",
    "Options",
    "Policy {",
    "Some(",
    "None)",
    "Err(",
    "panicked",
    "RUST_BACKTRACE",
    "unwrap",
];

fn zipper(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zipper"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("it starts")
}

/// Asserts the exit code, a part of the error, and that the error has no jargon and is short.
fn assert_mistake(args: &[&str], code: i32, expected: &str) {
    let output = zipper(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.contains(expected), "{args:?}: {stderr}");
    for word in JARGON {
        assert!(!stderr.contains(word), "{args:?}: {word}: {stderr}");
    }
    for line in stderr.lines() {
        assert!(line.chars().count() <= 300, "{args:?}: {line}");
    }
}

/// A folder with one configuration, removed when it is dropped.
struct Config(PathBuf);

impl Config {
    fn new(text: &str) -> Self {
        let number = text.bytes().fold(0_u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        let name = format!("zipper-mistakes-{}-{number:x}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("zipper.yaml"), text).expect("a file");
        Self(folder)
    }

    fn path(&self) -> String {
        self.0.join("zipper.yaml").display().to_string()
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn case_23_a_mistake_on_the_command_line_is_explained() {
    let sink = ["sink", "-z", "tcp://127.0.0.1:1"];
    let long = "x".repeat(5000);
    for (command, args, expected) in [
        (
            &["snik"][..],
            &[][..],
            "a similar subcommand exists: 'sink'",
        ),
        (&["sink"], &["--observe", "0x10"], "--zipper <ADDR>"),
        (&sink, &[], "--observe <TAG>"),
        (
            &sink,
            &["--observe", "sixteen"],
            "expected a number such as 0x0010 or 16",
        ),
        (&sink, &["--observe", "0xf000"], "reserved"),
        (
            &sink,
            &["--observe", "0x10", "--count", "many"],
            "expected a whole number, such as 10",
        ),
        (
            &sink,
            &["--observe", "0x10", "--timeout", "1.5"],
            "expected a whole number, such as 10",
        ),
        (
            &sink,
            &["--observe", "0x10", "--message-max", "1GB"],
            "expected a whole number from 65536 to 1073741824",
        ),
        (
            &sink,
            &["--observe", "0x10", "--node", "abc"],
            "a node id is 64 hexadecimal digits",
        ),
        (
            &sink,
            &["--observe", "0x10", "--format", "csv"],
            "[possible values: lines,",
        ),
        (
            &sink,
            &["--observe", "0x10", "--wait", "--timeout", "5"],
            "cannot be used with",
        ),
        (
            &sink,
            &["--observe", "0x10", "--shutdown-timeout", "0"],
            "from 3 to 86400",
        ),
        (
            &["sink", "-z", "http://x:1"],
            &["--observe", "0x10"],
            "unknown protocol `http`",
        ),
        (
            &["sink", "-z", "nowhere"],
            &["--observe", "0x10"],
            "--zipper nowhere",
        ),
        (
            &["sink", "-z", &long],
            &["--observe", "0x10"],
            "--zipper xxx",
        ),
    ] {
        assert_mistake(&[command, args].concat(), 2, expected);
    }
}

#[test]
fn case_23_a_mistake_of_a_command_s_own_options_is_explained() {
    let source = ["source", "-z", "tcp://127.0.0.1:1", "--tag", "0x10"];
    let run = ["run", "-z", "127.0.0.1:1", "x.wasm"];
    for (command, args, expected) in [
        (&source[..], &["/nowhere.txt"][..], "/nowhere.txt: "),
        (&source, &["/"], "/: is a directory"),
        (
            &source,
            &["--identity", "/nowhere.key"],
            "`zipper keygen /nowhere.key` creates a key",
        ),
        (&run, &["--memory", "lots"], "from 1 to 4096"),
        (&run, &["--config", "window"], "expected KEY=VALUE"),
        (&run, &["--export", "f"], "--emit <TAG>"),
        (&["demo"], &["--seconds", "soon"], "from 1 to 86400"),
        (
            &["version"],
            &["--log", "loud"],
            "expected off, error, warn, info, debug or trace",
        ),
    ] {
        assert_mistake(&[command, args].concat(), 2, expected);
    }
}

#[test]
fn case_23_a_mistake_in_a_configuration_is_explained_with_its_line() {
    for (text, expected) in [
        ("nmae: edge\n", "did you mean `name`?\n --> "),
        ("limits:\n  clients: many\n", "zipper.yaml:2:12"),
        (
            "limits:\n  clients: -1\n",
            "expected a number from 1 to 65536",
        ),
        (
            "limits:\n  workers: 1.5\n",
            "`limits.workers`: expected a number",
        ),
        ("listen: quic://0.0.0.0:1\n", "`listen`: expected a list"),
        ("listen: [quic://0.0.0.0]\n", "`listen`: "),
        (
            "listen: ['quic://0.0.0.0:1', 'udp://0.0.0.0:1']\n",
            "both need UDP port 1",
        ),
        ("auth: token\n", "`auth`: expected a map"),
        ("auth: {type: tokn, token: x}\n", "did you mean `token`?"),
        (
            "mesh: {a: {node: 12}}\n",
            "a node id is 64 hexadecimal digits",
        ),
        ("name: a\nname: b\n", "the key `name` occurs twice"),
        ("name: [\n", "not valid YAML"),
        ("name:\tx: y\n", "not valid YAML"),
        ("identity: nowhere.key\n", "`zipper keygen "),
    ] {
        let config = Config::new(text);
        for args in [&["serve", "-t", "-c"][..], &["serve", "-c"]] {
            assert_mistake(&[args, &[&config.path()]].concat(), 2, expected);
        }
    }
}

#[test]
fn case_22_a_check_reports_what_serve_would_refuse() {
    // An address of documentation (RFC 5737), which no host has.
    for listen in ["tcp://192.0.2.1:9000", "quic://192.0.2.1:9000"] {
        let config = Config::new(&format!(
            "listen: ['{listen}']\nauth: {{type: token, token: x}}\n"
        ));
        for args in [&["serve", "-t", "-c"][..], &["serve", "-c"]] {
            assert_mistake(&[args, &[&config.path()]].concat(), 3, listen);
        }
    }
}

#[test]
fn s6_no_log_contains_a_secret_and_a_key_that_others_can_read_is_reported() {
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::fs::PermissionsExt;
    const TOKEN: &str = "a-secret-that-nothing-may-print";
    let folder = Config::new("# s6\n");
    let key = folder.0.join("node.key").display().to_string();
    let made = zipper(&["keygen", &key]);
    assert!(made.status.success(), "{made:?}");
    let pem = std::fs::read_to_string(&key).expect("a key");
    let secret = pem.lines().nth(1).expect("the key itself").to_owned();
    for mode in [0o600, 0o644] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&key, permissions).expect("it is ours");
        let mut serving = Command::new(env!("CARGO_BIN_EXE_zipper"))
            .args([
                "serve",
                "--log",
                "trace",
                "--set",
                "listen=['tcp://127.0.0.1:0']",
            ])
            .args(["--set", &format!("identity={key}")])
            .args(["--set", &format!("auth={{type: token, token: {TOKEN}}}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let mut out = BufReader::new(serving.stdout.take().expect("it is piped"));
        out.read_line(&mut line).expect("the address");
        let at = line.trim().rsplit(' ').next().expect("an address");
        let mut log = String::new();
        for (token, code) in [(TOKEN, 0), ("another-secret-that-nothing-may-print", 4)] {
            let args = [
                "source",
                "-z",
                at,
                "--tag",
                "0x10",
                "--token",
                token,
                "--log",
                "trace",
                "--allow-unobserved",
                "--timeout",
                "2",
            ];
            let source = zipper(&args);
            log += &String::from_utf8_lossy(&source.stderr);
            log += &String::from_utf8_lossy(&source.stdout);
            assert_eq!(source.status.code(), Some(code), "{log}");
        }
        serving.kill().expect("it runs");
        let mut serve_log = serving.stderr.take().expect("it is piped");
        serve_log.read_to_string(&mut log).expect("text");
        let _status = serving.wait();
        assert!(log.contains(" TRACE ") || log.contains("TRACE"), "{log}");
        for secret in [TOKEN, "another-secret", &secret] {
            assert!(!log.contains(secret), "{secret} in\n{log}");
        }
        assert_eq!(
            log.contains("other users can read the private key"),
            mode == 0o644,
            "{log}"
        );
    }
}
