//! Every guest of `examples/guests`, in its committed binary. `SELVEDGE_GUESTS_DIR` selects another
//! directory, such as that of a fresh build.

use std::path::PathBuf;

use selvedge_wasm_host::{
    CallError, FunctionConfig, FunctionKind, Host, HostConfig, Instance, LoadError, NumericType,
    WasmFunction,
};
use serde_json::{Value, json};

fn guest(name: &str) -> PathBuf {
    let dir = std::env::var_os("SELVEDGE_GUESTS_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/guests/prebuilt"),
        PathBuf::from,
    );
    dir.join(name).with_extension("wasm")
}

fn load(name: &str, settings: &[(&str, &str)]) -> WasmFunction {
    let host = Host::new(HostConfig::default()).expect("a host");
    let mut config = FunctionConfig::named(name);
    config.config = settings
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect();
    host.load(guest(name), config).expect("the guest loads")
}

fn start(name: &str, settings: &[(&str, &str)]) -> Instance {
    load(name, settings)
        .instantiate()
        .expect("the guest starts")
}

/// The outputs of one message as (tag, payload); no guest here names a target.
fn handle(instance: &mut Instance, tag: u32, payload: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let outputs = instance
        .handle(tag, payload)
        .expect("the message is handled");
    outputs
        .map(|output| {
            assert_eq!(output.target, None);
            (output.tag, output.payload.to_vec())
        })
        .collect()
}

fn handle_json(instance: &mut Instance, tag: u32, payload: &Value) -> Vec<(u32, Value)> {
    let outputs = handle(instance, tag, payload.to_string().as_bytes());
    let parse = |(tag, json): (u32, Vec<u8>)| (tag, serde_json::from_slice(&json).expect("JSON"));
    outputs.into_iter().map(parse).collect()
}

#[test]
fn guests_declare_their_kind_and_the_tags_they_observe() {
    let cases = [
        ("moving-average", FunctionKind::Component, 0x10),
        ("threshold-alert", FunctionKind::Component, 0x11),
        ("word-split", FunctionKind::CoreModule, 0x20),
        ("word-count", FunctionKind::CoreModule, 0x21),
    ];
    for (name, kind, tag) in cases {
        let function = load(name, &[]);
        assert_eq!((function.name(), function.kind()), (name, kind));
        assert_eq!(function.observed(), [tag], "{name}");
    }
}

#[test]
fn moving_average_returns_the_mean_of_its_window() {
    let mut average = start("moving-average", &[("window", "3")]);
    let mut means = Vec::new();
    for (seq, cpu) in [(1, 10.0), (2, 20.0), (3, 60.0), (4, 25.0)] {
        let sample = json!({
            "seq": seq, "time_ms": 1_700_000_000_000_u64, "cpu_percent": cpu,
            "memory_used_bytes": 123, "net_received_bytes": 1, "net_sent_bytes": 2,
        });
        let outputs = handle_json(&mut average, 0x10, &sample);
        let [(0x11, json)] = outputs.as_slice() else {
            panic!("one output: {outputs:?}")
        };
        assert_eq!(
            (json["seq"].as_u64(), json["window"].as_u64()),
            (Some(seq), Some(3))
        );
        means.push(json["cpu_percent_average"].as_f64().expect("a number"));
    }
    assert_eq!(means, [10.0, 15.0, 30.0, 35.0]);
}

#[test]
fn moving_average_has_a_window_of_ten_by_default() {
    let mut average = start("moving-average", &[]);
    for seq in 1..=20 {
        let outputs = handle_json(&mut average, 0x10, &json!({"seq": seq, "cpu_percent": seq}));
        let expected = (1..=20)
            .filter(|n| *n <= seq && *n + 10 > seq)
            .collect::<Vec<_>>();
        let mean = f64::from(expected.iter().sum::<i32>()) / expected.len() as f64;
        assert_eq!(
            outputs[0].1["cpu_percent_average"].as_f64(),
            Some(mean),
            "after {seq}"
        );
    }
}

#[test]
fn moving_average_refuses_invalid_samples_and_keeps_its_window() {
    let mut average = start("moving-average", &[]);
    handle_json(&mut average, 0x10, &json!({"seq": 1, "cpu_percent": 10.0}));
    let error = average.handle(0x10, b"{not json").expect_err("no sample");
    assert!(
        matches!(&error, CallError::GuestError { code: 1, message } if message.contains("not a sample"))
    );
    assert!(!error.recycled());
    let outputs = handle_json(&mut average, 0x10, &json!({"seq": 2, "cpu_percent": 30.0}));
    assert_eq!(outputs[0].1["cpu_percent_average"], 20.0);
}

#[test]
fn an_invalid_setting_is_named_in_the_failure() {
    let mut average = start("moving-average", &[("window", "many")]);
    let error = average
        .handle(0x10, br#"{"seq":1,"cpu_percent":1}"#)
        .expect_err("refused");
    assert_eq!(
        error.to_string(),
        r#"the guest failed with code 2: window is "many", expected is 1 to 10000"#
    );
}

#[test]
fn threshold_alert_writes_only_when_the_threshold_is_crossed() {
    let mut alert = start(
        "threshold-alert",
        &[("threshold", "40"), ("hysteresis", "5")],
    );
    let mut alerts = Vec::new();
    for (seq, mean) in [
        (1, 10.0),
        (2, 40.0),
        (3, 90.0),
        (4, 36.0),
        (5, 34.9),
        (6, 38.0),
        (7, 41.0),
    ] {
        let average = json!({"seq": seq, "cpu_percent_average": mean, "window": 10});
        alerts.extend(handle_json(&mut alert, 0x11, &average));
    }
    let expected = [
        (2, "raised", 40.0),
        (5, "cleared", 34.9),
        (7, "raised", 41.0),
    ];
    let expected = expected.map(|(seq, kind, mean)| {
        let alert =
            json!({"seq": seq, "kind": kind, "cpu_percent_average": mean, "threshold": 40.0});
        (0x12, alert)
    });
    assert_eq!(alerts, expected);
}

#[test]
fn word_split_returns_the_words_of_a_line_in_lower_case() {
    let mut split = start("word-split", &[]);
    let line = b"--To be, or NOT to be: that's 2B\xc3\xa9\n";
    assert_eq!(
        handle(&mut split, 0x20, line),
        [(0x21, b"to\nbe\nor\nnot\nto\nbe\nthat\ns\nb".to_vec())]
    );
    assert_eq!(
        handle(&mut split, 0x20, b"12 34"),
        [],
        "no words are no end of the stream"
    );
    assert_eq!(
        handle(&mut split, 0x20, b""),
        [(0x21, Vec::new())],
        "the end is passed on"
    );
}

#[test]
fn word_count_returns_the_table_at_the_end_and_starts_over() {
    let mut count = start("word-count", &[]);
    assert_eq!(handle(&mut count, 0x21, b"to\nbe\nor\nnot\nto\nbe"), []);
    assert_eq!(handle(&mut count, 0x21, b"be"), []);
    let table = b"      3 be\n      1 not\n      1 or\n      2 to\n".to_vec();
    assert_eq!(
        handle(&mut count, 0x21, b""),
        [(0x22, table), (0x22, Vec::new())]
    );
    assert_eq!(
        handle(&mut count, 0x21, b""),
        [(0x22, Vec::new())],
        "nothing is left"
    );
}

#[test]
fn split_and_count_agree_with_a_reference_on_a_long_text() {
    let mut split = start("word-split", &[]);
    let mut count = start("word-count", &[]);
    let mut expected = std::collections::BTreeMap::<String, u64>::new();
    for line in 0..2000_u32 {
        // About six thousand different words, more than fit into one message.
        let text = format!(
            "The {}x, {}y; {}z\tthe END.",
            word(line),
            word(line * 7),
            word(line % 97)
        );
        for run in text
            .split(|c: char| !c.is_ascii_alphabetic())
            .filter(|run| !run.is_empty())
        {
            *expected.entry(run.to_ascii_lowercase()).or_default() += 1;
        }
        for (_, words) in handle(&mut split, 0x20, text.as_bytes()) {
            handle(&mut count, 0x21, &words);
        }
    }
    let messages = handle(&mut count, 0x21, b"");
    assert!(messages.len() > 2, "the table takes several messages");
    assert!(
        messages
            .iter()
            .all(|(tag, m)| *tag == 0x22 && m.len() <= 32 << 10)
    );
    assert!(messages.last().is_some_and(|(_, m)| m.is_empty()));
    let table: Vec<u8> = messages
        .into_iter()
        .flat_map(|(_, message)| message)
        .collect();
    let expected: String = expected
        .iter()
        .map(|(word, n)| format!("{n:7} {word}\n"))
        .collect();
    assert_eq!(String::from_utf8(table).expect("ASCII"), expected);
}

fn word(mut number: u32) -> String {
    let mut word = String::new();
    loop {
        word.push(char::from(b'a' + (number % 26) as u8));
        number /= 26;
        if number == 0 {
            return word;
        }
    }
}

#[test]
fn triple_triples_a_stream_of_numbers() {
    let host = Host::new(HostConfig::default()).expect("a host");
    let config = FunctionConfig::named("triple");
    let mut triple = host
        .load_numeric(guest("triple"), "triple", config)
        .expect("loads");
    assert_eq!(triple.signature(), (NumericType::F64, NumericType::F64));
    for number in [0.0, 1.0, -2.5, 1e300, f64::INFINITY] {
        assert_eq!(triple.call(number), Ok(3.0 * number));
    }
    assert_eq!(triple.stats().handled, 5);
}

#[test]
fn triple_is_refused_as_a_message_handler_with_its_kind() {
    let host = Host::new(HostConfig::default()).expect("a host");
    let error = host
        .load(guest("triple"), FunctionConfig::named("triple"))
        .expect_err("numeric");
    assert!(
        matches!(&error, LoadError::OnlyNumeric { exports } if exports == &["triple"]),
        "{error}"
    );
}
