//! The course of the demo, from the first reading to the result.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvError, select, tick};
use selvedge_client::wire::Data;
use serde_json::{Value, json};

use crate::cli::error::CommandError;
use crate::cli::shutdown::Shutdown;
use crate::demo::fabric::{ALERTS, AVERAGES, DemoFabric, READINGS};
use crate::demo::readings::{MachineReading, Readings};
use crate::demo::screen::{Screen, View};
use crate::demo::tally::Tally;

/// Interval between two readings.
const PERIOD: Duration = Duration::from_millis(100);

/// Number of measurements of the idle load, before the functions start.
const IDLE_MEASUREMENTS: usize = 5;

/// Difference between the alert threshold and the idle load, in percent of all cores.
const ALERT_ABOVE_IDLE: f64 = 15.0;

/// Time limit for the last results.
const LATE_MAX: Duration = Duration::from_secs(15);

/// Time during which the demo loads all cores, to trigger the alert.
const BUSY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Scenario {
    screen: Screen,
    fabric: DemoFabric,
    readings: Readings,
    tally: Tally,
    seconds: u64,
    threshold: f64,
    average: f64,
    alerts: u64,
    has_route: bool,
    link: LinkState,
}

/// State of the link between the zippers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Up,
    Cut { at: Instant },
    Restored { after: Duration, over: &'static str },
}

impl Scenario {
    pub(crate) fn begin(seconds: u64, json: bool) -> Result<Self, CommandError> {
        let mut screen = Screen::new(json);
        let introduction = "\
This is Selvedge. A source sends readings of this machine (CPU, memory, network)
to the zipper `edge`, which forwards them over QUIC to the zipper `region`. Two
WebAssembly functions there compute a moving average and alerts, which travel
back to a sink at `edge`.";
        screen
            .print(introduction, &json!({"event": "begin", "seconds": seconds}))
            .map_err(CommandError::output)?;
        let mut readings = Readings::new()?;
        let threshold = idle_load(&mut readings) + ALERT_ABOVE_IDLE;
        let fabric = DemoFabric::start(threshold)?;
        // The first reading must not include the load of compiling the functions.
        let _settled = tick(PERIOD * 3).recv();
        readings.measure_load();
        Ok(Self {
            screen,
            fabric,
            readings,
            tally: Tally::default(),
            seconds,
            threshold,
            average: 0.0,
            alerts: 0,
            has_route: false,
            link: LinkState::Up,
        })
    }

    /// Runs the demo from the first reading to the result.
    pub(crate) fn play(mut self, shutdown: &Shutdown) -> Result<(), CommandError> {
        self.print_fabric()?;
        let began = Instant::now();
        let end = began + Duration::from_secs(self.seconds);
        let cut_at = began + Duration::from_secs(self.seconds) * 2 / 5;
        let busy_at = began + Duration::from_secs(self.seconds) / 5;
        let (mut is_busy, ticks) = (false, tick(PERIOD));
        let results = self.fabric.results.clone();
        while Instant::now() < end {
            select! {
                recv(ticks) -> _tick => self.send_reading()?,
                recv(results) -> data => self.receive(data)?,
                recv(shutdown.requested) -> _disconnected => {
                    self.print("Interrupted: closing gracefully.", json!({"event": "interrupted"}))?;
                    break;
                }
            }
            let now = Instant::now();
            if !is_busy && now >= busy_at {
                is_busy = true;
                self.load_cores()?;
            }
            if self.link == LinkState::Up && now >= cut_at {
                self.cut_link()?;
            }
            self.check_link()?;
        }
        self.wait_for_late_results(&results)?;
        self.finish()
    }

    fn print(&mut self, sentence: &str, event: Value) -> Result<(), CommandError> {
        let printed = self.screen.print(sentence, &event);
        printed.map_err(CommandError::output)
    }

    fn print_fabric(&mut self) -> Result<(), CommandError> {
        let (edge, region) = (self.fabric.edge.node_id(), self.fabric.region.node_id());
        let link = self.scheme().unwrap_or("nothing");
        let sentence = format!(
            "edge {edge:#} and region {region:#} are connected over {link}; each has proved its key.\n\
             Alert threshold: {:.0} % CPU (idle load plus {ALERT_ABOVE_IDLE:.0} points).",
            self.threshold
        );
        let event = json!({
            "event": "ready", "edge": edge.to_string(), "region": region.to_string(),
            "link": link, "threshold": self.threshold,
        });
        self.print(&sentence, event)
    }

    fn send_reading(&mut self) -> Result<(), CommandError> {
        let reading = self.readings.next();
        let payload = reading.to_json();
        let event = json!({
            "event": "reading", "seq": reading.seq, "cpu_percent": reading.cpu_percent,
            "average": self.average, "link": self.scheme(),
        });
        let trace = Some(vec![self.fabric.source.step("source")]);
        self.fabric
            .source
            .write_with(READINGS, None, trace, payload)
            .map_err(CommandError::internal)?;
        self.tally.sent(reading.seq);
        self.show(reading, &event).map_err(CommandError::output)
    }

    /// Protocol of the connection between the zippers.
    fn scheme(&self) -> Option<&'static str> {
        self.fabric.connection().map(|info| info.scheme)
    }

    fn show(&mut self, reading: MachineReading, event: &Value) -> io::Result<()> {
        let is_cut = matches!(self.link, LinkState::Cut { .. });
        let view = View {
            seq: reading.seq,
            cpu_percent: reading.cpu_percent,
            average: self.average,
            link: self.scheme().filter(|_| !is_cut),
            outstanding: self.outstanding(),
        };
        self.screen.show(view, event)
    }

    fn outstanding(&self) -> u64 {
        self.tally.sent_count() - self.tally.received_count()
    }

    fn receive(&mut self, data: Result<Data, RecvError>) -> Result<(), CommandError> {
        let data =
            data.map_err(|_| CommandError::internal("the sink has lost its connection to `edge`"))?;
        let payload: Value = serde_json::from_slice(&data.payload)
            .map_err(|error| CommandError::internal(format!("a result is not JSON: {error}")))?;
        if data.tag == AVERAGES {
            let seq = payload["seq"].as_u64();
            let seq = seq.ok_or_else(|| CommandError::internal("a result has no number"))?;
            self.tally.received(seq);
            self.average = payload["cpu_percent_average"].as_f64().unwrap_or_default();
            if !std::mem::replace(&mut self.has_route, true) {
                self.print_route(&data)?;
            }
        } else if data.tag == ALERTS {
            self.alerts += 1;
            let average = payload["cpu_percent_average"].as_f64().unwrap_or_default();
            let kind = payload["kind"].as_str().unwrap_or("?").to_owned();
            let sentence = format!("  ! alert {kind}: the average is {average:.1} %");
            self.print(&sentence, json!({"event": "alert", "alert": payload}))?;
        }
        Ok(())
    }

    fn print_route(&mut self, data: &Data) -> Result<(), CommandError> {
        let trace = data.trace.as_deref().unwrap_or_default();
        let begin = trace.first().map_or(0, |(_, time)| *time);
        let after = |time: u64| time.saturating_sub(begin);
        let hops = trace
            .iter()
            .map(|(name, time)| format!("\n  {name:<16} {:>7} us", after(*time)));
        let sentence = format!("Route of the first reading:{}", hops.collect::<String>());
        let steps: Vec<Value> = trace
            .iter()
            .map(|(name, time)| json!({"name": name, "after_us": after(*time)}))
            .collect();
        self.print(&sentence, json!({"event": "route", "steps": steps}))
    }

    /// Loads every core, so that the readings trigger the alert.
    fn load_cores(&mut self) -> Result<(), CommandError> {
        let sentence = format!(
            "Loading all cores for {} s, to trigger the alert.",
            BUSY.as_secs()
        );
        self.print(
            &sentence,
            json!({"event": "busy", "seconds": BUSY.as_secs()}),
        )?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..cores {
            std::thread::spawn(|| {
                let until = Instant::now() + BUSY;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            });
        }
        Ok(())
    }

    fn cut_link(&mut self) -> Result<(), CommandError> {
        self.fabric.link.cut();
        self.link = LinkState::Cut { at: Instant::now() };
        self.print(
            "Cutting the QUIC link between the zippers: it drops all datagrams from now on.",
            json!({"event": "cut"}),
        )
    }

    /// Reports the failover to another protocol after the link was cut.
    fn check_link(&mut self) -> Result<(), CommandError> {
        let LinkState::Cut { at } = self.link else {
            return Ok(());
        };
        let Some(over) = self.scheme().filter(|&scheme| scheme != "quic") else {
            return Ok(());
        };
        let after = at.elapsed();
        self.link = LinkState::Restored { after, over };
        let sentence = format!(
            "Failover to {over} after {:.1} s; {} results were delayed and arrive now.",
            after.as_secs_f64(),
            self.outstanding()
        );
        self.print(
            &sentence,
            json!({"event": "back", "over": over, "after_ms": after.as_millis() as u64}),
        )
    }

    /// Waits for the results that are outstanding after the last reading.
    fn wait_for_late_results(&mut self, results: &Receiver<Data>) -> Result<(), CommandError> {
        let deadline = Instant::now() + LATE_MAX;
        while self.tally.lost() > 0 && Instant::now() < deadline {
            if let Ok(data) = results.recv_timeout(PERIOD) {
                self.receive(Ok(data))?;
            }
            self.check_link()?;
        }
        Ok(())
    }

    /// Prints the result and closes the fabric.
    fn finish(mut self) -> Result<(), CommandError> {
        // A result that arrives now is a repeated one.
        let results = self.fabric.results.clone();
        while let Ok(data) = results.recv_timeout(PERIOD) {
            self.receive(Ok(data))?;
        }
        let (sent, received) = (self.tally.sent_count(), self.tally.received_count());
        let (lost, repeated) = (self.tally.lost(), self.tally.repeated());
        let reordered = self.tally.reordered();
        let sentence = format!(
            "Result: sent {sent}, received {received}, lost {lost}, repeated {repeated}, \
             out of order {reordered}; {} alerts.",
            self.alerts
        );
        let (over, after) = match self.link {
            LinkState::Restored { after, over } => (Some(over), Some(after.as_millis() as u64)),
            LinkState::Up | LinkState::Cut { .. } => (None, None),
        };
        let event = json!({
            "event": "end", "sent": sent, "received": received, "lost": lost, "repeated": repeated,
            "reordered": reordered, "alerts": self.alerts, "back_over": over, "back_after_ms": after,
        });
        self.print(&sentence, event)?;
        let is_perfect = self.tally.is_perfect();
        self.fabric.close();
        if is_perfect {
            Ok(())
        } else {
            Err(CommandError::internal(
                "results were lost, repeated or reordered: this is a bug, please report it",
            ))
        }
    }
}

/// Measures the CPU load before the demo adds any.
fn idle_load(readings: &mut Readings) -> f64 {
    let ticks = tick(PERIOD * 2);
    let loads = ticks.iter().take(IDLE_MEASUREMENTS);
    let loads = loads.map(|_| readings.measure_load());
    loads.sum::<f64>() / IDLE_MEASUREMENTS as f64
}
