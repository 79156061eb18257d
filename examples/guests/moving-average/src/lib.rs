//! Averages the CPU load of a node: 0x10 (samples) -> 0x11 (averages).
//!
//! Takes JSON like `{"seq":17,"time_ms":1700000000000,"cpu_percent":12.5}` (other fields are ignored)
//! and gives one message each: `{"seq":17,"time_ms":1700000000000,"cpu_percent_average":11.9,
//! "samples":10,"window":10}`, the mean of the last `window` samples, rounded to hundredths.
//! Setting: `window` (default 10, 1 to 10000).

use std::cell::RefCell;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

#[allow(
    missing_docs,
    reason = "generated from the WIT, which holds the documentation"
)]
mod bindings {
    wit_bindgen::generate!({ path: "../../../wasm-host/wit", world: "stream-function" });
}
use bindings::selvedge::function::{config, output};
use bindings::{Failure, Guest};

const SAMPLES: u32 = 0x10;
const AVERAGES: u32 = 0x11;
const WINDOW_DEFAULT: usize = 10;
const WINDOW_MAX: usize = 10_000;

/// The message is not a sample.
const BAD_SAMPLE: i32 = 1;
/// The operator's setting makes no sense.
const BAD_SETTING: i32 = 2;

#[derive(Deserialize)]
struct Sample {
    seq: u64,
    #[serde(default)]
    time_ms: u64,
    cpu_percent: f64,
}

#[derive(Serialize)]
struct Average {
    seq: u64,
    time_ms: u64,
    cpu_percent_average: f64,
    samples: usize,
    window: usize,
}

thread_local! {
    static RECENT: RefCell<VecDeque<f64>> = const { RefCell::new(VecDeque::new()) };
}

struct MovingAverage;

impl Guest for MovingAverage {
    fn observe() -> Vec<u32> {
        vec![SAMPLES]
    }

    fn handle(_tag: u32, payload: Vec<u8>) -> Result<(), Failure> {
        let window = window()?;
        let sample: Sample = serde_json::from_slice(&payload)
            .map_err(|error| failure(BAD_SAMPLE, format!("not a sample: {error}")))?;
        let (mean, samples) = RECENT.with_borrow_mut(|recent| {
            recent.push_back(sample.cpu_percent);
            while recent.len() > window {
                recent.pop_front();
            }
            // Summed anew each time: a running sum would drift.
            (
                recent.iter().sum::<f64>() / recent.len() as f64,
                recent.len(),
            )
        });
        let average = Average {
            seq: sample.seq,
            time_ms: sample.time_ms,
            cpu_percent_average: (mean * 100.0).round() / 100.0,
            samples,
            window,
        };
        let json = serde_json::to_vec(&average)
            .map_err(|error| failure(BAD_SAMPLE, format!("no average: {error}")))?;
        output::emit(AVERAGES, &json);
        Ok(())
    }
}

fn window() -> Result<usize, Failure> {
    let Some(text) = config::get("window") else {
        return Ok(WINDOW_DEFAULT);
    };
    match text.parse() {
        Ok(window) if (1..=WINDOW_MAX).contains(&window) => Ok(window),
        _ => Err(failure(
            BAD_SETTING,
            format!("window is {text:?}, expected is 1 to {WINDOW_MAX}"),
        )),
    }
}

fn failure(code: i32, message: String) -> Failure {
    Failure { code, message }
}

bindings::export!(MovingAverage with_types_in bindings);
