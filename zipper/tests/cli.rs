//! The program, as a person or a script meets it: what it says, and how it exits.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("zipper-cli-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("a file");
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

fn zipper() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zipper"));
    command.stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    zipper().args(args).output().expect("it starts")
}

fn run_with(args: &[&str], input: &[u8]) -> Output {
    let mut child = zipper()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A program that does not want it may be gone.
    let _gone = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

/// Asserts an exit code, and that stderr says something.
fn fails(output: &Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// A zipper that is killed at the end.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(settings: &[&str]) -> Self {
        Self::of(zipper().arg("serve"), settings)
    }

    fn of(command: &mut Command, settings: &[&str]) -> Self {
        command.args(["--log", "error", "--set", "listen=['tcp://127.0.0.1:0']"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut stdout = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        std::io::BufRead::read_line(&mut stdout, &mut line).expect("it says where it listens");
        let address = line.split("listens on ").nth(1).expect("an address");
        Self {
            address: address.trim().to_owned(),
            child,
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn guest(name: &str) -> String {
    format!(
        "{}/../examples/guests/prebuilt/{name}.wasm",
        env!("CARGO_MANIFEST_DIR")
    )
}

#[test]
fn a_configuration_with_a_typo_is_refused_with_line_key_and_what_was_meant() {
    let folder = Folder::new();
    let config = folder.file("zipper.yaml", b"name: edge\nlimits:\n  cleints: 3\n");
    let expected = "zipper.yaml:3:3: unknown key `cleints`; did you mean `clients`?";
    for args in [&["serve", "-t", "-c"][..], &["serve", "-c"]] {
        fails(&run(&[args, &[&config]].concat()), 2, expected);
    }
    fails(
        &run(&["serve", "-c", "/nowhere/zipper.yaml"]),
        2,
        "cannot be read",
    );
    fails(
        &run(&["serve", "--set", "limits.workers=0"]),
        2,
        "--set limits.workers",
    );
    fails(
        &run(&["serve", "--set", "listen=['gopher://127.0.0.1:70']"]),
        3,
        "this build has transports for",
    );
}

#[test]
fn a_zipper_takes_as_many_descriptors_as_it_may() {
    let serve = format!(
        "ulimit -S -n 64; exec {} serve",
        env!("CARGO_BIN_EXE_zipper")
    );
    let serving = Serving::of(
        Command::new("sh").args(["-c", &format!("{serve} \"$@\""), "sh"]),
        &[],
    );
    let limits = format!("/proc/{}/limits", serving.child.id());
    let limits = std::fs::read_to_string(limits).expect("Linux");
    let line = limits.lines().find(|it| it.starts_with("Max open files"));
    let mut words = line.expect("it is one of them").split_whitespace().skip(3);
    assert_eq!(words.next(), words.next(), "{limits}");
}

#[test]
fn a_port_in_use_is_named() {
    let serving = Serving::start(&[]);
    let listen = format!("listen=['{}']", serving.address);
    fails(&run(&["serve", "--set", &listen]), 3, &serving.address);
}

#[test]
fn a_neighbour_or_zipper_with_another_key_than_expected_is_named() {
    let serving = Serving::start(&[]);
    let (at, key) = (serving.address.as_str(), "ab".repeat(32));
    let mesh = format!("mesh={{other: {{node: {key}, addresses: ['{at}']}}}}");
    let serve = zipper()
        .args(["serve", "--set", "listen=['tcp://127.0.0.1:0']"])
        .args(["--set", &mesh])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let says = format!("cannot be reached; it is dialed again peer={key} address={at}");
    until_said(&mut Reaped(serve).0, &says);
    let source = ["source", "-z", at, "--tag", "0x10", "--node", &key];
    let output = run(&[&source[..], &["--timeout", "1"]].concat());
    fails(&output, 3, &format!("nobody with the key {key}"));
    fails(&output, 3, &says);
}

#[test]
fn a_zipper_is_not_its_own_neighbour() {
    let folder = Folder::new();
    let file = folder.0.join("node.key").display().to_string();
    let key = String::from_utf8(run(&["keygen", &file]).stdout).expect("text");
    let config = format!("identity: {file}\nmesh: {{me: {{node: {}}}}}\n", key.trim());
    let config = folder.file("zipper.yaml", config.as_bytes());
    let says = "`me` has the key of this zipper itself";
    fails(&run(&["serve", "-t", "-c", &config]), 2, says);
}

#[test]
fn who_is_not_let_in_learns_why() {
    let serving = Serving::start(&["auth={type: token, token: right}"]);
    let source = |token: &[&str]| {
        let args = [
            &["source", "-z", &serving.address, "--tag", "0x10"][..],
            token,
        ]
        .concat();
        run_with(&args, b"hello\n")
    };
    fails(&source(&[]), 4, "asks for a token");
    fails(&source(&["--token", "wrong"]), 4, "the token is wrong");
    let let_in = source(&["--token", "right"]);
    assert!(let_in.status.success(), "{let_in:?}");
}

#[test]
fn a_zipper_of_shorter_messages_lets_in_who_has_its_limit() {
    let serving = Serving::start(&["limits.message_max_bytes=65536"]);
    let at = serving.address.as_str();
    let source = ["source", "-z", at, "--tag", "0x10"];
    fails(&run_with(&source, b"x\n"), 3, "shorter messages");
    let limit = ["--message-max", "65536"];
    let sink = ["sink", "-z", at, "--observe", "0x10", "--count", "1"];
    let sink = zipper()
        .args(sink)
        .args(limit)
        .args(["--log", "info"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut sink = Reaped(sink);
    until_said(&mut sink.0, "reading");
    // The longest that is read is let through by the zipper, too.
    let (longest, source) = ((65536 - 1024).to_string(), [&source[..], &limit].concat());
    let line = "x".repeat(65536 - 1024);
    let sent = run_with(&source, line.as_bytes());
    assert!(sent.status.success(), "{sent:?}");
    let mut printed = String::new();
    let stdout = sink.0.stdout.as_mut().expect("it is piped");
    std::io::Read::read_to_string(stdout, &mut printed).expect("text");
    assert_eq!(printed, line.clone() + "\n");
    let says = format!("than the {longest} that are allowed");
    fails(&run_with(&source, (line + "xxx").as_bytes()), 1, &says);
}

#[test]
fn a_zipper_that_is_not_there_is_named() {
    let args = [
        "sink",
        "-z",
        "tcp://127.0.0.1:1",
        "--observe",
        "0x10",
        "--timeout",
        "5",
    ];
    fails(&run(&args), 3, "tcp://127.0.0.1:1");
    fails(
        &run(&["sink", "-z", "nonsense", "--observe", "0x10"]),
        2,
        "nonsense",
    );
    let for_ever = u64::MAX.to_string();
    let mut patient = args;
    patient[6] = &for_ever;
    fails(&run(&patient), 3, "tcp://127.0.0.1:1");
    let reserved = ["sink", "-z", "127.0.0.1:1", "--observe", "0xf000"];
    fails(&run(&reserved), 2, "reserved");
}

#[test]
fn an_input_that_ends_within_a_record_is_an_error_and_what_came_before_is_sent() {
    let serving = Serving::start(&[]);
    let args = [
        "source",
        "-z",
        &serving.address,
        "--tag",
        "0x10",
        "--format",
        "length-prefixed",
    ];
    let output = run_with(&args, b"\0\0\0\x02hi\0\0\0\x09cut");
    fails(&output, 1, "3 of 9 bytes are there");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.starts_with("sent 1 messages, 2 bytes"), "{stdout}");
}

#[test]
fn a_missing_or_broken_function_is_named_before_anything_is_connected() {
    let folder = Folder::new();
    let broken = folder.file("broken.wasm", b"\0asm\x01\0\0\0rubbish");
    let nowhere = ["run", "-z", "127.0.0.1:1", "/nowhere.wasm"];
    fails(&run(&nowhere), 5, "/nowhere.wasm");
    fails(
        &run(&["run", "-z", "127.0.0.1:1", &broken]),
        5,
        "broken.wasm",
    );
    let numeric = guest("triple");
    fails(&run(&["run", "-z", "127.0.0.1:1", &numeric]), 5, "triple");
}

#[test]
fn a_numeric_export_runs_over_a_stream_of_numbers() {
    let serving = Serving::start(&[]);
    let at = serving.address.as_str();
    let numeric = guest("triple");
    let function = zipper()
        .args([
            "run",
            "-z",
            at,
            "--observe",
            "0x10",
            "--export",
            "triple",
            "--emit",
            "0x11",
        ])
        .args(["--log", "info", &numeric])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let sink = zipper()
        .args([
            "sink",
            "-z",
            at,
            "--observe",
            "0x11",
            "--count",
            "3",
            "--log",
            "info",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let (mut function, mut sink) = (Reaped(function), Reaped(sink));
    for (child, says) in [(&mut function, "the function runs"), (&mut sink, "reading")] {
        until_said(&mut child.0, says);
    }
    let sent = run_with(
        &["source", "-z", at, "--tag", "0x10"],
        b"1\nno number\n2.5\n-4\n",
    );
    assert!(sent.status.success(), "{sent:?}");
    let mut printed = String::new();
    let stdout = sink.0.stdout.as_mut().expect("it is piped");
    std::io::Read::read_to_string(stdout, &mut printed).expect("text");
    assert_eq!(printed, "3\n7.5\n-12\n");
}

/// A process that is killed at the end.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Waits until a process has logged something.
fn until_said(child: &mut Child, says: &str) {
    let mut stderr = std::io::BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    while !line.contains(says) {
        line.clear();
        let read = std::io::BufRead::read_line(&mut stderr, &mut line).expect("text");
        assert!(read > 0, "it ended before it said {says:?}");
    }
    // Whoever logs to a closed pipe fails: go on reading.
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
}

#[test]
fn the_demo_loses_nothing_over_a_link_that_is_cut() {
    let output = run(&["demo", "--seconds", "6", "--output", "json"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let end = stdout.lines().last().expect("the count");
    let end: serde_json::Value = serde_json::from_str(end).expect("JSON");
    assert_eq!(end["event"], "end");
    assert_eq!(end["back_over"], "tcp");
    assert_eq!(end["received"], end["sent"]);
    assert_eq!((&end["lost"], &end["repeated"]), (&0.into(), &0.into()));
    let steps = stdout
        .lines()
        .find(|line| line.contains("\"route\""))
        .expect("a route");
    for name in ["source", "edge", "region", "moving-average"] {
        assert!(steps.contains(name), "{steps}");
    }
}

#[test]
fn keys_are_made_once_and_shown_again() {
    let folder = Folder::new();
    let file = folder.0.join("node.key").display().to_string();
    let made = run(&["keygen", &file]);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(run(&["keygen", "--show", &file]).stdout, made.stdout);
    fails(&run(&["keygen", &file]), 1, "node.key");
    let rubbish = folder.file("rubbish.key", b"no key");
    fails(&run(&["keygen", "--show", &rubbish]), 2, "rubbish.key");
}
