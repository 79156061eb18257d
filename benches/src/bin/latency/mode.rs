//! A measured mode: the carrier of the bytes, and how its ends wait.

use std::fmt;
use std::str::FromStr;

/// One way to make round trips.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoundTripMode {
    /// `raw`, or a scheme.
    pub(crate) carrier: String,
    /// A zipper is between the two ends.
    pub(crate) zipper: bool,
    pub(crate) spin: bool,
    /// Both ends are blocking threads.
    pub(crate) thread: bool,
    pub(crate) hog: bool,
}

impl RoundTripMode {
    /// The same on raw sockets.
    pub(crate) fn raw(&self) -> Self {
        Self {
            carrier: "raw".into(),
            zipper: false,
            thread: false,
            ..self.clone()
        }
    }
}

impl FromStr for RoundTripMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split('/');
        let carrier = words.next().unwrap_or_default();
        let (zipper, carrier) = match carrier.strip_prefix("zipper-") {
            Some(carrier) => (true, carrier),
            None => (false, carrier),
        };
        let mut mode = Self {
            carrier: carrier.into(),
            zipper,
            spin: false,
            thread: false,
            hog: false,
        };
        for word in words {
            match word {
                "spin" => mode.spin = true,
                "thread" => mode.thread = true,
                "hog" => mode.hog = true,
                other => return Err(format!("`{other}` is not spin, thread or hog")),
            }
        }
        Ok(mode)
    }
}

impl fmt::Display for RoundTripMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.zipper {
            f.write_str("zipper-")?;
        }
        f.write_str(&self.carrier)?;
        for (is, word) in [
            (self.spin, "/spin"),
            (self.thread, "/thread"),
            (self.hog, "/hog"),
        ] {
            if is {
                f.write_str(word)?;
            }
        }
        Ok(())
    }
}
