//! Log lines of guests reach the operator, within a limit.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use selvedge_wasm_host::{FunctionConfig, GuestLimits};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{host, module, patient, start};

/// Collects the output of a log subscriber.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The log lines of `run` at info and above.
fn logged(run: impl FnOnce()) -> String {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_ansi(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let bytes = lines.0.lock().expect("no panic").clone();
    String::from_utf8(bytes).expect("UTF-8")
}

/// Logs the message at the level that is the tag.
const LOGGER: &str = r#"(func (export "handle") (param i32 i32 i32) (result i32)
    (call $log (local.get 0) (local.get 1) (local.get 2)) (i32.const 0))"#;

#[test]
fn a_line_has_the_level_the_function_and_no_control_characters() {
    let text = logged(|| {
        let function = host().load_bytes(&module(LOGGER), FunctionConfig::named("speaker"));
        let mut guest = function.expect("loads").instantiate().expect("starts");
        for (level, line) in [
            (1, "too fine"),
            (2, "two\nlines \u{1b}[31m"),
            (3, "warned"),
            (99, "odd level"),
        ] {
            assert!(guest.handle(level, line.as_bytes()).is_ok());
        }
        assert!(guest.handle(4, b"bad \xff byte").is_ok());
    });
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    assert_eq!(
        lines,
        [
            r#"INFO guest: two\nlines \u{1b}[31m function="speaker""#,
            r#"WARN guest: warned function="speaker""#,
            r#"ERROR guest: odd level function="speaker""#,
            "ERROR guest: bad \u{fffd} byte function=\"speaker\"",
        ]
    );
}

#[test]
fn excess_lines_are_dropped_and_counted_and_the_call_continues() {
    let limits = GuestLimits {
        log_bytes_per_second: 1,
        ..patient()
    };
    let mut guest = start(&module(LOGGER), limits);
    for _ in 0..10 {
        assert!(guest.handle(2, b"more than a byte").is_ok());
    }
    assert_eq!(
        (guest.stats().log_lines_dropped, guest.stats().handled),
        (10, 10)
    );
}

#[test]
fn a_trap_does_not_refill_the_log_budget() {
    let text = r#"(func (export "handle") (param i32 i32 i32) (result i32)
        (call $log (local.get 0) (local.get 1) (local.get 2)) unreachable)"#;
    let limits = GuestLimits {
        log_bytes_per_second: 0,
        ..patient()
    };
    let mut guest = start(&module(text), limits);
    for _ in 0..10 {
        assert!(guest.handle(2, b"line").is_err());
    }
    assert_eq!(
        (guest.stats().log_lines_dropped, guest.stats().recycled),
        (10, 10)
    );
}
