//! Reports when a load crosses a threshold: 0x11 (averages) -> 0x12 (alerts).
//!
//! Takes JSON like `{"seq":17,"cpu_percent_average":61.2}` (other fields are ignored). Writes only when
//! the average crosses: `{"seq":17,"kind":"raised","cpu_percent_average":61.2,"threshold":50.0}` when
//! it reaches the threshold, `"kind":"cleared"` when it is below `threshold - hysteresis` again.
//! Settings: `threshold` (default 50), `hysteresis` (default 0, not negative).

use std::cell::Cell;

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

const AVERAGES: u32 = 0x11;
const ALERTS: u32 = 0x12;
const THRESHOLD_DEFAULT: f64 = 50.0;
const HYSTERESIS_DEFAULT: f64 = 0.0;

/// The message is not an average.
const BAD_AVERAGE: i32 = 1;
/// The operator's setting makes no sense.
const BAD_SETTING: i32 = 2;

#[derive(Deserialize)]
struct Average {
    seq: u64,
    cpu_percent_average: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Raised,
    Cleared,
}

#[derive(Serialize)]
struct Alert {
    seq: u64,
    kind: Kind,
    cpu_percent_average: f64,
    threshold: f64,
}

thread_local! {
    static RAISED: Cell<bool> = const { Cell::new(false) };
}

struct ThresholdAlert;

impl Guest for ThresholdAlert {
    fn observe() -> Vec<u32> {
        vec![AVERAGES]
    }

    fn handle(_tag: u32, payload: Vec<u8>) -> Result<(), Failure> {
        let threshold = setting("threshold", THRESHOLD_DEFAULT)?;
        let hysteresis = setting("hysteresis", HYSTERESIS_DEFAULT)?.max(0.0);
        let Average {
            seq,
            cpu_percent_average,
        } = serde_json::from_slice(&payload)
            .map_err(|error| failure(BAD_AVERAGE, format!("not an average: {error}")))?;
        let kind = match RAISED.get() {
            false if cpu_percent_average >= threshold => Kind::Raised,
            true if cpu_percent_average < threshold - hysteresis => Kind::Cleared,
            _ => return Ok(()),
        };
        RAISED.set(matches!(kind, Kind::Raised));
        let alert = Alert {
            seq,
            kind,
            cpu_percent_average,
            threshold,
        };
        let json = serde_json::to_vec(&alert)
            .map_err(|error| failure(BAD_AVERAGE, format!("no alert: {error}")))?;
        output::emit(ALERTS, &json);
        Ok(())
    }
}

fn setting(key: &str, default: f64) -> Result<f64, Failure> {
    let Some(text) = config::get(key) else {
        return Ok(default);
    };
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(failure(
            BAD_SETTING,
            format!("{key} is {text:?}, expected is a number"),
        )),
    }
}

fn failure(code: i32, message: String) -> Failure {
    Failure { code, message }
}

bindings::export!(ThresholdAlert with_types_in bindings);
