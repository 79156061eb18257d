//! The program as a user or a script runs it: output, errors and exit codes.

#[path = "cli/process.rs"]
mod process;

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use process::{TempFolder, ZipperProcess, zipper_command};

fn run(args: &[&str]) -> Output {
    zipper_command().args(args).output().expect("it starts")
}

fn run_with(args: &[&str], input: &[u8]) -> Output {
    let mut child = zipper_command()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // The program may end without reading its input.
    let _unread = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

/// Asserts an exit code, and that stderr contains a text.
fn assert_fails(output: &Output, code: i32, expected: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(expected), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn guest(name: &str) -> String {
    format!(
        "{}/../examples/guests/prebuilt/{name}.wasm",
        env!("CARGO_MANIFEST_DIR")
    )
}

#[test]
fn a_typo_in_the_configuration_is_reported_with_line_key_and_suggestion() {
    let folder = TempFolder::new();
    let config = folder.file("zipper.yaml", b"name: edge\nlimits:\n  cleints: 3\n");
    let expected = "error: unknown key `limits.cleints`; did you mean `clients`?\n --> ";
    for args in [&["serve", "-t", "-c"][..], &["serve", "-c"]] {
        assert_fails(&run(&[args, &[&config]].concat()), 2, expected);
    }
    assert_fails(
        &run(&["serve", "-c", "/nowhere/zipper.yaml"]),
        2,
        "cannot be read",
    );
    assert_fails(
        &run(&["serve", "--set", "limits.workers=0"]),
        2,
        "--set limits.workers",
    );
    assert_fails(
        &run(&["serve", "--set", "listen=['gopher://127.0.0.1:70']"]),
        2,
        "`listen`: unknown protocol `gopher`; expected one of quic, tcp",
    );
}

/// The only line on stderr, which must be an error in JSON.
fn json_error(output: &Output) -> serde_json::Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let line: serde_json::Value = serde_json::from_str(&stderr).expect("JSON");
    let error = line["error"].clone();
    let exit = error["exit"].as_i64().map(|exit| exit as i32);
    assert_eq!(exit, output.status.code(), "{stderr}");
    assert!(error["message"].is_string(), "{stderr}");
    assert!(error["retry"].is_boolean(), "{stderr}");
    error
}

#[test]
fn errors_are_json_on_request() {
    let folder = TempFolder::new();
    let config = folder.file("zipper.yaml", b"port: many\nnmae: edge\n");
    let json = ["--output", "json"];
    for (args, kind, side) in [
        (
            &["serve", "-t", "-c", &config][..],
            "configuration",
            "caller",
        ),
        (&["serve", "--nonsense"], "usage", "caller"),
        (&["sink"], "usage", "caller"),
        (
            &["sink", "-z", "http://x:1", "--observe", "0x10"],
            "usage",
            "caller",
        ),
        (
            &[
                "sink",
                "-z",
                "tcp://127.0.0.1:1",
                "--observe",
                "0x10",
                "--timeout",
                "1",
            ],
            "connect",
            "zipper",
        ),
        (
            &["run", "-z", "127.0.0.1:1", "/nowhere.wasm"],
            "function",
            "caller",
        ),
        (&["keygen", &config], "system", "system"),
    ] {
        let error = json_error(&run(&[args, &json].concat()));
        assert_eq!(
            (&error["kind"], &error["side"]),
            (&kind.into(), &side.into())
        );
    }
    let error = json_error(&run(&["serve", "-t", "-c", &config, "--output=json"]));
    let details = error["details"].as_array().expect("one for each problem");
    assert_eq!(details.len(), 2, "{error}");
    assert_eq!(
        (&details[1]["line"], &details[1]["column"]),
        (&2.into(), &1.into())
    );
    assert_eq!(details[1]["origin"], config.as_str());
    let by_environment = zipper_command()
        .args(["sink", "--nonsense"])
        .env("ZIPPER_OUTPUT", "json")
        .output()
        .expect("it starts");
    assert_eq!(json_error(&by_environment)["kind"], "usage");
}

#[test]
fn a_log_filter_that_makes_no_sense_is_refused() {
    for filter in ["nonsense", "info,nonsense", "selvedge_hub=loud"] {
        let output = run(&["version", "--log", filter]);
        assert_fails(&output, 2, "off, error, warn, info, debug or trace");
    }
    for filter in ["off", "INFO", "warn,selvedge_hub=debug"] {
        let output = run(&["version", "--log", filter]);
        assert!(output.status.success(), "{output:?}");
    }
    let by_environment = zipper_command()
        .arg("version")
        .env("ZIPPER_LOG", "nonsense")
        .output()
        .expect("it starts");
    assert_fails(&by_environment, 2, "off, error, warn, info, debug or trace");
}

#[test]
fn logs_are_json_on_request() {
    let args = ["sink", "-z", "tcp://127.0.0.1:1", "--observe", "0x10"];
    let log = ["--timeout", "1", "--log", "debug", "--log-format", "json"];
    let output = run(&[&args[..], &log].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let (error, logs): (Vec<&str>, Vec<&str>) = stderr
        .lines()
        .partition(|line| line.starts_with("zipper: "));
    assert_eq!(error.len(), 1, "{stderr}");
    assert!(!logs.is_empty(), "{stderr}");
    for line in logs {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        for key in ["timestamp", "level", "target", "message"] {
            assert!(event[key].is_string(), "{line}");
        }
    }
}

#[test]
fn a_closed_stderr_is_no_failure() {
    let zipper = ZipperProcess::start(&[]);
    let mut source = zipper_command()
        .args(["source", "-z", &zipper.address, "--tag", "0x10"])
        .args(["--allow-unobserved", "--log", "trace"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(source.stderr.take());
    let mut stdin = source.stdin.take().expect("it is piped");
    stdin.write_all(b"hello\n").expect("it reads");
    drop(stdin);
    let output = source.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.starts_with("sent 1 messages, 5 bytes"), "{stdout}");
}

#[test]
fn a_source_that_no_function_observes_fails_unless_that_is_allowed() {
    let zipper = ZipperProcess::start(&[]);
    let source = ["source", "-z", &zipper.address, "--tag", "0x10"];
    let json = ["--output", "json"];
    let refused = run_with(&[&source[..], &json].concat(), b"a\nb\n");
    assert_eq!(json_error(&refused)["kind"], "undelivered");
    let expected = "2 of 2 messages were observed by no function";
    assert_fails(&refused, 1, expected);
    for (args, is_delivered) in [
        (&[][..], false),
        (&["--allow-unobserved"], true),
        // Without settlement the zipper only acknowledges that it has the messages.
        (&["--level", "none"], true),
    ] {
        let output = run_with(&[&source[..], &json, args].concat(), b"a\nb\n");
        assert_eq!(output.status.success(), is_delivered, "{output:?}");
        let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(outcome["delivered"], is_delivered, "{outcome}");
        let unobserved = if args.contains(&"none") { 0 } else { 2 };
        assert_eq!(outcome["unobserved"], unobserved, "{outcome}");
        assert_eq!(
            (&outcome["settled"], &outcome["unsettled"]),
            (&0.into(), &0.into())
        );
    }
}

#[test]
fn a_source_without_permission_for_its_tag_fails_with_that_reason() {
    let anyone = "auth={type: permissions, anyone: {write: [0x11]}}";
    let zipper = ZipperProcess::start(&[anyone]);
    let source = ["source", "-z", &zipper.address, "--tag", "0x10"];
    // That nothing is observed may be permitted; this may not.
    let args = [&source[..], &["--allow-unobserved", "--output", "json"]].concat();
    let output = run_with(&args, b"a\nb\n");
    let expected = "2 of 2 messages were refused: this client has no permission to write their tag";
    assert_fails(&output, 1, expected);
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let expected = (&2.into(), &0.into(), &0.into());
    let found = (
        &outcome["abandoned"]["forbidden"],
        &outcome["unobserved"],
        &outcome["settled"],
    );
    assert_eq!((found, &outcome["delivered"]), (expected, &false.into()));
    let output = run_with(&source, b"a\nb\n");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.ends_with(": 0 settled, 2 forbidden\n"), "{stdout}");
}

#[test]
fn a_zipper_raises_its_descriptor_limit_to_the_hard_limit() {
    let serve = format!(
        "ulimit -S -n 64; exec {} serve",
        env!("CARGO_BIN_EXE_zipper")
    );
    let zipper = ZipperProcess::spawn(
        Command::new("sh").args(["-c", &format!("{serve} \"$@\""), "sh"]),
        &[],
    );
    let limits = format!("/proc/{}/limits", zipper.child.id());
    let limits = std::fs::read_to_string(limits).expect("Linux");
    let line = limits.lines().find(|it| it.starts_with("Max open files"));
    let mut words = line.expect("it is one of them").split_whitespace().skip(3);
    assert_eq!(words.next(), words.next(), "{limits}");
}

#[test]
fn a_port_in_use_is_named() {
    let zipper = ZipperProcess::start(&[]);
    let listen = format!("listen=['{}']", zipper.address);
    assert_fails(&run(&["serve", "--set", &listen]), 3, &zipper.address);
}

#[test]
fn a_neighbour_or_zipper_with_another_key_than_expected_is_named() {
    let zipper = ZipperProcess::start(&[]);
    let (at, key) = (zipper.address.as_str(), "ab".repeat(32));
    let mesh = format!("mesh={{other: {{node: {key}, addresses: ['{at}']}}}}");
    let serve = zipper_command()
        .args(["serve", "--set", "listen=['tcp://127.0.0.1:0']"])
        .args(["--set", &mesh])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let expected = format!("cannot connect; retrying peer={key} address={at}");
    wait_for_log(&mut KillOnDrop(serve).0, &expected);
    let source = ["source", "-z", at, "--tag", "0x10", "--node", &key];
    let output = run(&[&source[..], &["--timeout", "1"]].concat());
    assert_fails(&output, 3, &format!("no node with the key {key}"));
    assert_fails(&output, 3, &expected);
}

#[test]
fn a_zipper_is_not_its_own_neighbour() {
    let folder = TempFolder::new();
    let file = folder.0.join("node.key").display().to_string();
    let key = String::from_utf8(run(&["keygen", &file]).stdout).expect("text");
    let config = format!("identity: {file}\nmesh: {{me: {{node: {}}}}}\n", key.trim());
    let config = folder.file("zipper.yaml", config.as_bytes());
    let expected = "`mesh.me.node`: this is the key of this zipper itself";
    assert_fails(&run(&["serve", "-t", "-c", &config]), 2, expected);
}

#[test]
fn a_refused_client_reports_the_reason() {
    let zipper = ZipperProcess::start(&["auth={type: token, token: right}"]);
    let source = |token: &[&str]| {
        let args = [
            &["source", "-z", &zipper.address, "--tag", "0x10"][..],
            &["--allow-unobserved"],
            token,
        ]
        .concat();
        run_with(&args, b"hello\n")
    };
    assert_fails(&source(&[]), 4, "requires a token");
    assert_fails(&source(&["--token", "wrong"]), 4, "the token is wrong");
    let accepted = source(&["--token", "right"]);
    assert!(accepted.status.success(), "{accepted:?}");
}

#[test]
fn a_client_needs_the_message_limit_of_its_zipper() {
    let zipper = ZipperProcess::start(&["limits.message_max_bytes=65536"]);
    let at = zipper.address.as_str();
    let source = ["source", "-z", at, "--tag", "0x10"];
    assert_fails(&run_with(&source, b"x\n"), 3, "longest message");
    let limit = ["--message-max", "65536"];
    let sink = ["sink", "-z", at, "--observe", "0x10", "--count", "1"];
    let sink = zipper_command()
        .args(sink)
        .args(limit)
        .args(["--log", "info"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut sink = KillOnDrop(sink);
    wait_for_log(&mut sink.0, "reading");
    // The limit is that of the payload.
    let (longest, source) = (65536.to_string(), [&source[..], &limit].concat());
    let line = "x".repeat(65536);
    let mut stdout = sink.0.stdout.take().expect("it is piped");
    // The message is settled once it is printed, and it is longer than a pipe.
    let reading = std::thread::spawn(move || {
        let mut printed = String::new();
        std::io::Read::read_to_string(&mut stdout, &mut printed).expect("text");
        printed
    });
    let sent = run_with(&source, line.as_bytes());
    assert!(sent.status.success(), "{sent:?}");
    assert_eq!(reading.join().expect("it reads"), line.clone() + "\n");
    let expected = format!("exceeds the maximum of {longest} bytes");
    assert_fails(&run_with(&source, (line + "xxx").as_bytes()), 1, &expected);
}

#[test]
fn an_unreachable_zipper_is_named() {
    let args = [
        "sink",
        "-z",
        "tcp://127.0.0.1:1",
        "--observe",
        "0x10",
        "--timeout",
        "1",
    ];
    assert_fails(&run(&args), 3, "tcp://127.0.0.1:1");
    assert_fails(
        &run(&["sink", "-z", "nonsense", "--observe", "0x10"]),
        2,
        "nonsense",
    );
    // The longest limit is none: the client waits.
    let mut without_limit = zipper_command()
        .args(&args[..6])
        .args([&u64::MAX.to_string(), "--log", "info"])
        .stderr(Stdio::piped())
        .spawn()
        .map(KillOnDrop)
        .expect("it starts");
    wait_for_log(&mut without_limit.0, "no zipper answers yet");
    let reserved = ["sink", "-z", "127.0.0.1:1", "--observe", "0xf000"];
    assert_fails(&run(&reserved), 2, "reserved");
}

#[test]
fn case_5_every_byte_arrives_in_each_format() {
    let zipper = ZipperProcess::start(&[]);
    let at = zipper.address.as_str();
    let messages: [&[u8]; 5] = [b"text\r", b"\xff\xfe\0", b"", b"\r", "ä".as_bytes()];
    let lines = messages.join(&b"\n"[..]);
    let lines = [&lines[..], b"\n"].concat();
    let framed = messages.map(|message| [&[0, 0, 0, message.len() as u8], message].concat());
    let framed = framed.concat();
    for (format, input, output, tag) in [
        ("lines", &lines, &[][..], "0x20"),
        ("length-prefixed", &framed, &[], "0x21"),
        ("length-prefixed", &framed, &["--output", "json"], "0x22"),
    ] {
        let sink = ["sink", "-z", at, "--observe", tag, "--count", "5"];
        let sink = zipper_command()
            .args(sink)
            .args(["--format", format, "--log", "info"])
            .args(output)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut sink = KillOnDrop(sink);
        wait_for_log(&mut sink.0, "reading");
        let sent = run_with(
            &["source", "-z", at, "--tag", tag, "--format", format],
            input,
        );
        assert!(sent.status.success(), "{sent:?}");
        let mut printed = Vec::new();
        let stdout = sink.0.stdout.as_mut().expect("it is piped");
        std::io::Read::read_to_end(stdout, &mut printed).expect("bytes");
        if output.is_empty() {
            assert_eq!(printed, *input, "{format}");
            continue;
        }
        let printed = String::from_utf8(printed).expect("JSON");
        let payloads: Vec<_> = printed
            .lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                (line["payload"].clone(), line["payload_base64"].clone())
            })
            .collect();
        let text = |text: &str| (text.into(), serde_json::Value::Null);
        let bytes = (serde_json::Value::Null, "//4A".into());
        let expected = [text("text\r"), bytes, text(""), text("\r"), text("ä")];
        assert_eq!(payloads, expected);
    }
}

#[test]
fn the_steps_of_a_trace_and_the_start_of_a_function_are_shown_as_text() {
    let zipper = ZipperProcess::start(&[]);
    let at = zipper.address.as_str();
    let function = zipper_command()
        .args(["run", "-z", at, "--observe", "0x10", "--export", "triple"])
        .args(["--emit", "0x11", "--log", "warn", &guest("triple")])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut function = KillOnDrop(function);
    let mut stdout = std::io::BufReader::new(function.0.stdout.take().expect("it is piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("text");
    let expected = "function triple observes 0x0010, emits 0x0011, at zipper zipper ";
    assert!(line.starts_with(expected), "{line}");
    let sink = zipper_command()
        .args(["sink", "-z", at, "--observe", "0x11", "--count", "1"])
        .args(["--log", "info"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut sink = KillOnDrop(sink);
    let mut stderr = std::io::BufReader::new(sink.0.stderr.take().expect("it is piped"));
    let mut logged = String::new();
    while !logged.contains("reading") {
        let read = std::io::BufRead::read_line(&mut stderr, &mut logged).expect("text");
        assert!(read > 0, "{logged}");
    }
    let sent = run_with(&["source", "-z", at, "--tag", "0x10", "--trace"], b"1\n");
    assert!(sent.status.success(), "{sent:?}");
    std::io::Read::read_to_string(&mut stderr, &mut logged).expect("text");
    let trace = logged
        .lines()
        .find(|line| line.starts_with("trace of 0x0011: source +0 us, "));
    for step in ["zipper +", "triple +"] {
        assert!(trace.is_some_and(|it| it.contains(step)), "{logged}");
    }
}

#[test]
fn a_truncated_record_is_an_error_and_the_records_before_it_are_sent() {
    let zipper = ZipperProcess::start(&[]);
    let args = [
        "source",
        "-z",
        &zipper.address,
        "--tag",
        "0x10",
        "--format",
        "length-prefixed",
    ];
    let output = run_with(&args, b"\0\0\0\x02hi\0\0\0\x09cut");
    assert_fails(&output, 1, "3 of 9 bytes are there");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.starts_with("sent 1 messages, 2 bytes"), "{stdout}");
}

#[test]
fn a_missing_or_broken_function_is_named_before_the_client_connects() {
    let folder = TempFolder::new();
    let broken = folder.file("broken.wasm", b"\0asm\x01\0\0\0rubbish");
    let nowhere = ["run", "-z", "127.0.0.1:1", "/nowhere.wasm"];
    assert_fails(&run(&nowhere), 5, "/nowhere.wasm");
    assert_fails(
        &run(&["run", "-z", "127.0.0.1:1", &broken]),
        5,
        "broken.wasm",
    );
    let numeric = guest("triple");
    assert_fails(&run(&["run", "-z", "127.0.0.1:1", &numeric]), 5, "triple");
}

#[test]
fn a_numeric_export_runs_over_a_stream_of_numbers() {
    let zipper = ZipperProcess::start(&[]);
    let at = zipper.address.as_str();
    let numeric = guest("triple");
    let function = zipper_command()
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
    let sink = zipper_command()
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
    let (mut function, mut sink) = (KillOnDrop(function), KillOnDrop(sink));
    for (child, expected) in [(&mut function, "the function runs"), (&mut sink, "reading")] {
        wait_for_log(&mut child.0, expected);
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

/// A process that is killed when it is dropped.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _already_ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Waits until a process logs a line that contains a text.
fn wait_for_log(child: &mut Child, expected: &str) {
    let mut stderr = std::io::BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    while !line.contains(expected) {
        line.clear();
        let read = std::io::BufRead::read_line(&mut stderr, &mut line).expect("text");
        assert!(read > 0, "it ended before it logged {expected:?}");
    }
    // The pipe must stay open and be read, so that further log lines are written.
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
}

#[test]
fn the_demo_loses_nothing_over_a_link_that_is_cut() {
    let output = run(&["demo", "--seconds", "6", "--output", "json"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let end = stdout.lines().last().expect("the result");
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
fn keygen_creates_a_key_once_and_shows_it_again() {
    let folder = TempFolder::new();
    let file = folder.0.join("node.key").display().to_string();
    let made = run(&["keygen", &file]);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(run(&["keygen", "--show", &file]).stdout, made.stdout);
    assert_fails(&run(&["keygen", &file]), 1, "node.key");
    let rubbish = folder.file("rubbish.key", b"no key");
    assert_fails(&run(&["keygen", "--show", &rubbish]), 2, "rubbish.key");
}
