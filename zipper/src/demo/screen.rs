//! Shows what happens: a curve on a terminal, plain lines elsewhere, JSON for programs.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

/// How many readings the curve shows.
const CURVE_LEN: usize = 40;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Terminal,
    Lines,
    Json,
}

/// What is seen now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) seq: u64,
    pub(crate) cpu_percent: f64,
    pub(crate) average: f64,
    /// The protocol between the zippers; none while the link is down.
    pub(crate) link: Option<&'static str>,
    /// Results that have not come back yet.
    pub(crate) open: u64,
}

#[derive(Debug)]
pub(crate) struct Screen {
    mode: Mode,
    recent: VecDeque<f64>,
    has_curve: bool,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        let mode = if json {
            Mode::Json
        } else if io::stdout().is_terminal() {
            Mode::Terminal
        } else {
            Mode::Lines
        };
        Self::with_mode(mode)
    }

    const fn with_mode(mode: Mode) -> Self {
        Self {
            mode,
            recent: VecDeque::new(),
            has_curve: false,
        }
    }

    /// Says a sentence to people, or an event to programs.
    pub(crate) fn say(&mut self, sentence: &str, event: &Value) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self.mode {
            Mode::Json => writeln!(out, "{event}")?,
            Mode::Lines => writeln!(out, "{sentence}")?,
            Mode::Terminal => {
                if std::mem::take(&mut self.has_curve) {
                    // The curve goes on below.
                    write!(out, "\r\x1b[K")?;
                }
                writeln!(out, "{sentence}")?;
            }
        }
        out.flush()
    }

    /// Shows a reading: each on a terminal, one in ten elsewhere.
    pub(crate) fn show(&mut self, view: View, event: &Value) -> io::Result<()> {
        self.recent.push_back(view.cpu_percent);
        if self.recent.len() > CURVE_LEN {
            self.recent.pop_front();
        }
        let line = self.line(view);
        let mut out = io::stdout().lock();
        match self.mode {
            Mode::Json => writeln!(out, "{event}")?,
            Mode::Lines if view.seq.is_multiple_of(10) => writeln!(out, "{line}")?,
            Mode::Lines => {}
            Mode::Terminal => {
                self.has_curve = true;
                write!(out, "\r\x1b[K{line}")?;
            }
        }
        out.flush()
    }

    fn line(&self, view: View) -> String {
        let link = match view.link {
            Some(link) => format!("link {link}"),
            None => format!("link DOWN, {} results wait", view.open),
        };
        let curve = match self.mode {
            Mode::Terminal => format!("{} ", curve(&self.recent)),
            _ => String::new(),
        };
        format!(
            "  {curve}cpu {:5.1} %  average {:5.1} %  {link}",
            view.cpu_percent, view.average
        )
    }
}

fn curve(recent: &VecDeque<f64>) -> String {
    let bar = |percent: &f64| {
        let step = percent.clamp(0.0, 100.0) / 100.0 * (BARS.len() - 1) as f64;
        BARS[step.round() as usize]
    };
    let drawn: String = recent.iter().map(bar).collect();
    format!("{drawn:>CURVE_LEN$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_has_a_bar_for_each_reading() {
        let drawn = curve(&VecDeque::from([0.0, 50.0, 100.0, 250.0]));
        assert_eq!(drawn.trim_start(), "▁▅██");
        assert_eq!(drawn.chars().count(), CURVE_LEN);
    }

    #[test]
    fn a_link_that_is_down_is_said_with_what_waits() {
        let screen = Screen::with_mode(Mode::Lines);
        let view = View {
            seq: 10,
            cpu_percent: 12.34,
            average: 11.0,
            link: None,
            open: 7,
        };
        assert_eq!(
            screen.line(view),
            "  cpu  12.3 %  average  11.0 %  link DOWN, 7 results wait"
        );
    }
}
