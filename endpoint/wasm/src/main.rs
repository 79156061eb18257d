//! Two Sessions exchange messages over a lossy path in virtual time: what a browser would run.
//!
//! Without imports a module for `wasm32-unknown-unknown` can neither print nor read arguments, and
//! exports of its own would need `unsafe`. The report therefore stays in linear memory, where
//! `run.mjs` finds it by its prefix; the exit code of `main` is the result. A native build prints it.
#![forbid(unsafe_code)]

mod exchange;
mod path;

use std::process::ExitCode;

use crate::exchange::{Exchange, Report};

/// The default seed; `SELVEDGE_SEED` replaces it when the module is built.
const SEED: &str = match option_env!("SELVEDGE_SEED") {
    Some(seed) => seed,
    None => "20261129",
};

/// Messages in each direction.
const MESSAGES: u32 = 1000;

/// Shows a line: on a terminal, or where `run.mjs` looks for it.
fn show(line: &str) {
    let line = format!("selvedge-wasm> {line}\n");
    if cfg!(target_arch = "wasm32") {
        std::hint::black_box(line.leak());
    } else {
        #[allow(clippy::print_stdout, reason = "the native build is a command")]
        {
            print!("{line}");
        }
    }
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| show(&format!("panic: {panic}"))));
    let Ok(seed) = SEED.parse() else {
        show("SELVEDGE_SEED is not a number");
        return ExitCode::FAILURE;
    };
    match Exchange::new(seed, MESSAGES).run() {
        Ok(report) => {
            show(&summary(seed, &report));
            ExitCode::SUCCESS
        }
        Err(error) => {
            show(&format!("seed {seed}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn summary(seed: u64, report: &Report) -> String {
    let Report {
        messages,
        bytes,
        milliseconds,
        path,
    } = report;
    format!(
        "seed {seed}: {messages} messages, {bytes} bytes, exactly once and in order, in {milliseconds} ms of \
         virtual time; datagrams: {} sent, {} lost, {} duplicated, {} overtaken",
        path.sent, path.lost, path.duplicated, path.overtaken
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_exactly_once_and_in_order() {
        for seed in 0..10 {
            let report = Exchange::new(seed, MESSAGES).run().unwrap();
            assert_eq!(report.messages, 2 * MESSAGES);
            let path = report.path;
            assert!(path.lost > 0 && path.duplicated > 0 && path.overtaken > 0);
        }
    }
}
