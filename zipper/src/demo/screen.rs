//! Output of the demo: a moving curve on a terminal, lines elsewhere, JSON for programs.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

/// Number of readings in the curve.
const CURVE_LEN: usize = 40;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScreenMode {
    Terminal,
    Lines,
    Json,
}

/// State that is shown with a reading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) seq: u64,
    pub(crate) cpu_percent: f64,
    pub(crate) average: f64,
    /// The protocol between the zippers; none while the link is down.
    pub(crate) link: Option<&'static str>,
    /// Number of results that are outstanding.
    pub(crate) outstanding: u64,
}

#[derive(Debug)]
pub(crate) struct Screen {
    mode: ScreenMode,
    recent: VecDeque<f64>,
    has_curve: bool,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        let mode = if json {
            ScreenMode::Json
        } else if io::stdout().is_terminal() {
            ScreenMode::Terminal
        } else {
            ScreenMode::Lines
        };
        Self::with_mode(mode)
    }

    const fn with_mode(mode: ScreenMode) -> Self {
        Self {
            mode,
            recent: VecDeque::new(),
            has_curve: false,
        }
    }

    /// Prints a sentence, or an event in JSON mode.
    pub(crate) fn print(&mut self, sentence: &str, event: &Value) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self.mode {
            ScreenMode::Json => writeln!(out, "{event}")?,
            ScreenMode::Lines => writeln!(out, "{sentence}")?,
            ScreenMode::Terminal => {
                if std::mem::take(&mut self.has_curve) {
                    // The curve is redrawn below the sentence.
                    write!(out, "\r\x1b[K")?;
                }
                writeln!(out, "{sentence}")?;
            }
        }
        out.flush()
    }

    /// Shows a reading. Without a terminal, one in ten is shown.
    pub(crate) fn show(&mut self, view: View, event: &Value) -> io::Result<()> {
        self.recent.push_back(view.cpu_percent);
        if self.recent.len() > CURVE_LEN {
            self.recent.pop_front();
        }
        let line = self.line(view);
        let mut out = io::stdout().lock();
        match self.mode {
            ScreenMode::Json => writeln!(out, "{event}")?,
            ScreenMode::Lines if view.seq.is_multiple_of(10) => writeln!(out, "{line}")?,
            ScreenMode::Lines => {}
            ScreenMode::Terminal => {
                self.has_curve = true;
                write!(out, "\r\x1b[K{line}")?;
            }
        }
        out.flush()
    }

    fn line(&self, view: View) -> String {
        let link = match view.link {
            Some(link) => format!("link {link}"),
            None => format!("link DOWN, {} results outstanding", view.outstanding),
        };
        let curve = match self.mode {
            ScreenMode::Terminal => format!("{} ", curve(&self.recent)),
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
    fn a_link_that_is_down_is_shown_with_the_outstanding_results() {
        let screen = Screen::with_mode(ScreenMode::Lines);
        let view = View {
            seq: 10,
            cpu_percent: 12.34,
            average: 11.0,
            link: None,
            outstanding: 7,
        };
        assert_eq!(
            screen.line(view),
            "  cpu  12.3 %  average  11.0 %  link DOWN, 7 results outstanding"
        );
    }
}
