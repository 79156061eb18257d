//! What happens in the demonstration, in order.

use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select, tick};
use selvedge_client::step;
use selvedge_client::wire::Data;
use serde_json::{Value, json};

use crate::cli::fault::Fault;
use crate::demo::readings::{Reading, Readings};
use crate::demo::screen::{Screen, View};
use crate::demo::stage::{ALERTS, AVERAGES, READINGS, Stage};
use crate::demo::tally::Tally;

/// Ten readings a second.
const PERIOD: Duration = Duration::from_millis(100);

/// How many readings tell the load before the functions start.
const WARM_UP: usize = 5;

/// How much above that load the alert is raised, in percent of all cores.
const ALERT_ABOVE: f64 = 15.0;

/// How long the last results may take.
const LATE_MAX: Duration = Duration::from_secs(15);

/// How long the demonstration keeps the cores busy, so that there is something to alert of.
const BUSY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Story {
    screen: Screen,
    stage: Stage,
    readings: Readings,
    tally: Tally,
    seconds: u64,
    threshold: f64,
    average: f64,
    alerts: u64,
    has_route: bool,
    link: Link,
}

/// What has become of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Whole,
    Cut { at: Instant },
    Back { after: Duration, over: &'static str },
}

impl Story {
    pub(crate) fn begin(seconds: u64, json: bool) -> Result<Self, Fault> {
        let mut screen = Screen::new(json);
        let introduction = "\
This is Selvedge. Readings of this machine (load, memory, network) travel from a
source to the zipper `edge`, by QUIC to the zipper `region`, there through two
WebAssembly functions (an average, and an alert made from it), and back to a
sink.";
        screen
            .say(introduction, &json!({"event": "begin", "seconds": seconds}))
            .map_err(Fault::output)?;
        let mut readings = Readings::new()?;
        let threshold = usual_load(&mut readings) + ALERT_ABOVE;
        let stage = Stage::set(threshold)?;
        // Compiling the guests is over: the first reading must not show it.
        let _settled = tick(PERIOD * 3).recv();
        readings.look();
        Ok(Self {
            screen,
            stage,
            readings,
            tally: Tally::default(),
            seconds,
            threshold,
            average: 0.0,
            alerts: 0,
            has_route: false,
            link: Link::Whole,
        })
    }

    /// Tells it from the first reading to the count.
    pub(crate) fn tell(mut self, interrupted: &Receiver<Infallible>) -> Result<(), Fault> {
        self.say_who_is_there()?;
        let began = Instant::now();
        let end = began + Duration::from_secs(self.seconds);
        let cut_at = began + Duration::from_secs(self.seconds) * 2 / 5;
        let busy_at = began + Duration::from_secs(self.seconds) / 5;
        let (mut is_busy, ticks) = (false, tick(PERIOD));
        let results = self.stage.results.clone();
        while Instant::now() < end {
            select! {
                recv(ticks) -> _ => self.send_reading()?,
                recv(results) -> data => self.take(data)?,
                recv(interrupted) -> _ => {
                    self.say("Interrupted: ending in order.", json!({"event": "interrupted"}))?;
                    break;
                }
            }
            let now = Instant::now();
            if !is_busy && now >= busy_at {
                is_busy = true;
                self.keep_busy()?;
            }
            if self.link == Link::Whole && now >= cut_at {
                self.cut()?;
            }
            self.look_at_link()?;
        }
        self.wait_for_late(&results)?;
        self.count()
    }

    fn say(&mut self, sentence: &str, event: Value) -> Result<(), Fault> {
        self.screen.say(sentence, &event).map_err(Fault::output)
    }

    fn say_who_is_there(&mut self) -> Result<(), Fault> {
        let (edge, region) = (self.stage.edge.node_id(), self.stage.region.node_id());
        let link = self
            .stage
            .connection()
            .map_or("nothing", |info| info.scheme);
        let sentence = format!(
            "edge {edge:#}, region {region:#}: connected by {link}, each has proved its key.\n\
             An alert is raised above {:.0} % (the usual load, and {ALERT_ABOVE:.0} more).",
            self.threshold
        );
        let event = json!({
            "event": "ready", "edge": edge.to_string(), "region": region.to_string(),
            "link": link, "threshold": self.threshold,
        });
        self.say(&sentence, event)
    }

    fn send_reading(&mut self) -> Result<(), Fault> {
        let reading = self.readings.next();
        let payload = reading.to_json();
        let event: Value = json!({"event": "reading", "seq": reading.seq, "cpu_percent": reading.cpu_percent,
            "average": self.average, "link": self.scheme()});
        let trace = Some(vec![step("source")]);
        self.stage
            .source
            .write_with(READINGS, None, trace, payload)
            .map_err(Fault::failed)?;
        self.tally.sent(reading.seq);
        self.show(reading, &event).map_err(Fault::output)
    }

    fn scheme(&self) -> Option<&'static str> {
        self.stage.connection().map(|info| info.scheme)
    }

    fn show(&mut self, reading: Reading, event: &Value) -> io::Result<()> {
        let is_silent = matches!(self.link, Link::Cut { .. });
        let view = View {
            seq: reading.seq,
            cpu_percent: reading.cpu_percent,
            average: self.average,
            link: self.scheme().filter(|_| !is_silent),
            open: self.tally.sent_count() - self.tally.received_count(),
        };
        self.screen.show(view, event)
    }

    fn take(&mut self, data: Result<Data, crossbeam_channel::RecvError>) -> Result<(), Fault> {
        let data = data.map_err(|_| Fault::failed("the sink has lost its zipper"))?;
        let payload: Value = serde_json::from_slice(&data.payload)
            .map_err(|error| Fault::failed(format!("a result is no JSON: {error}")))?;
        if data.tag == AVERAGES {
            let seq = payload["seq"].as_u64();
            self.tally
                .received(seq.ok_or_else(|| Fault::failed("a result has no number"))?);
            self.average = payload["cpu_percent_average"].as_f64().unwrap_or_default();
            if !std::mem::replace(&mut self.has_route, true) {
                self.say_route(&data)?;
            }
        } else if data.tag == ALERTS {
            self.alerts += 1;
            let average = payload["cpu_percent_average"].as_f64().unwrap_or_default();
            let kind = payload["kind"].as_str().unwrap_or("?").to_owned();
            let sentence = format!("  ! alert {kind}: the average is {average:.1} %");
            self.say(&sentence, json!({"event": "alert", "alert": payload}))?;
        }
        Ok(())
    }

    fn say_route(&mut self, data: &Data) -> Result<(), Fault> {
        let trace = data.trace.as_deref().unwrap_or_default();
        let begin = trace.first().map_or(0, |(_, time)| *time);
        let after = |time: u64| time.saturating_sub(begin);
        let hops = trace
            .iter()
            .map(|(name, time)| format!("\n  {name:<16} {:>7} us", after(*time)));
        let sentence = format!("The way of the first reading:{}", hops.collect::<String>());
        let steps: Vec<Value> = trace
            .iter()
            .map(|(name, time)| json!({"name": name, "after_us": after(*time)}))
            .collect();
        self.say(&sentence, json!({"event": "route", "steps": steps}))
    }

    /// Real work on every core: the readings show it.
    fn keep_busy(&mut self) -> Result<(), Fault> {
        let sentence = format!(
            "Keeping the cores busy for {} s, to have something to alert of.",
            BUSY.as_secs()
        );
        self.say(
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

    fn cut(&mut self) -> Result<(), Fault> {
        self.stage.link.cut();
        self.link = Link::Cut { at: Instant::now() };
        self.say(
            "Cutting the QUIC link between the zippers: no datagram passes any more.",
            json!({"event": "cut"}),
        )
    }

    fn look_at_link(&mut self) -> Result<(), Fault> {
        let Link::Cut { at } = self.link else {
            return Ok(());
        };
        let Some(over) = self.scheme().filter(|&scheme| scheme != "quic") else {
            return Ok(());
        };
        let after = at.elapsed();
        self.link = Link::Back { after, over };
        let open = self.tally.sent_count() - self.tally.received_count();
        let sentence = format!(
            "Back over {over} after {:.1} s. {open} results waited for it and come now.",
            after.as_secs_f64()
        );
        self.say(
            &sentence,
            json!({"event": "back", "over": over, "after_ms": after.as_millis() as u64}),
        )
    }

    /// Results that are still on their way when the last reading has been sent.
    fn wait_for_late(&mut self, results: &Receiver<Data>) -> Result<(), Fault> {
        let deadline = Instant::now() + LATE_MAX;
        while self.tally.lost() > 0 && Instant::now() < deadline {
            if let Ok(data) = results.recv_timeout(PERIOD) {
                self.take(Ok(data))?;
            }
            self.look_at_link()?;
        }
        Ok(())
    }

    fn count(mut self) -> Result<(), Fault> {
        // What arrives only now would be a repeat.
        let results = self.stage.results.clone();
        while let Ok(data) = results.recv_timeout(PERIOD) {
            self.take(Ok(data))?;
        }
        let (sent, received) = (self.tally.sent_count(), self.tally.received_count());
        let (lost, repeated) = (self.tally.lost(), self.tally.repeated());
        let disordered = self.tally.disordered();
        let sentence = format!(
            "Counted: sent {sent}, received {received}, lost {lost}, repeated {repeated}, \
             out of order {disordered}; {} alerts.",
            self.alerts
        );
        let (over, after) = match self.link {
            Link::Back { after, over } => (Some(over), Some(after.as_millis() as u64)),
            Link::Whole | Link::Cut { .. } => (None, None),
        };
        let event = json!({
            "event": "end", "sent": sent, "received": received, "lost": lost, "repeated": repeated,
            "disordered": disordered, "alerts": self.alerts, "back_over": over, "back_after_ms": after,
        });
        self.say(&sentence, event)?;
        let is_perfect = self.tally.is_perfect();
        self.stage.end();
        if is_perfect {
            Ok(())
        } else {
            Err(Fault::failed(
                "the count is not perfect: this is a bug, please tell us",
            ))
        }
    }
}

/// The load before the demonstration puts any on the machine.
fn usual_load(readings: &mut Readings) -> f64 {
    let ticks = tick(PERIOD * 2);
    let loads = ticks.iter().take(WARM_UP).map(|_| readings.look());
    loads.sum::<f64>() / WARM_UP as f64
}
