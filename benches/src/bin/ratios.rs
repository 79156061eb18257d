//! Ours beside raw sockets, interleaved: ratios of time and of processor time, for benches/README.md.
//!
//! `cargo run --release -p selvedge-benches --bin ratios`
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::time::{Duration, Instant};

use selvedge_benches::{Load, SCHEMES, endpoint, hop::Hop, raw};

/// How often the loads take turns.
const ROUNDS: usize = 7;

/// How long one turn takes, about.
const TURN: Duration = Duration::from_millis(300);

/// What one turn has cost for each message.
#[derive(Clone, Copy)]
struct Cost {
    wall_ns: f64,
    cpu_ns: f64,
}

/// User and system time of this process: ticks of 10 ms (proc(5), /proc/pid/stat).
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = stat.rsplit_once(") ").expect("the name ends");
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

fn turn(load: &mut dyn Load, count: u64) -> Cost {
    let (cpu_before, began) = (cpu(), Instant::now());
    load.run(count);
    let (wall, cpu) = (began.elapsed(), cpu() - cpu_before);
    let per = |time: Duration| time.as_nanos() as f64 / count as f64;
    Cost {
        wall_ns: per(wall),
        cpu_ns: per(cpu),
    }
}

/// How many messages fill a turn.
fn count_for(load: &mut dyn Load) -> u64 {
    let mut count = 16;
    loop {
        let began = Instant::now();
        load.run(count);
        let took = began.elapsed();
        if took > TURN / 8 {
            let fill = TURN.as_secs_f64() / took.as_secs_f64();
            return (count as f64 * fill) as u64 + 1;
        }
        count *= 4;
    }
}

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (
        values[0],
        values[values.len() / 2],
        values[values.len() - 1],
    )
}

/// The first load is what the others are compared with. Skipped if the title lacks the first
/// argument of the program.
fn compare(title: &str, loads: impl FnOnce() -> Vec<(String, Box<dyn Load>)>) {
    if std::env::args()
        .nth(1)
        .is_some_and(|wanted| !title.contains(&wanted))
    {
        return;
    }
    let mut loads = loads();
    let counts: Vec<u64> = loads
        .iter_mut()
        .map(|(_, load)| count_for(load.as_mut()))
        .collect();
    let mut rounds: Vec<Vec<Cost>> = Vec::new();
    for _ in 0..ROUNDS {
        let turns = loads.iter_mut().zip(&counts);
        rounds.push(
            turns
                .map(|((_, load), &count)| turn(load.as_mut(), count))
                .collect(),
        );
    }
    println!("\n{title}\n");
    println!("| | per message | speed, of raw | CPU per message | CPU, of raw |");
    println!("|---|---|---|---|---|");
    for (at, (name, _)) in loads.iter().enumerate() {
        let of =
            |pick: fn(&Cost) -> f64| median(rounds.iter().map(|round| pick(&round[at])).collect());
        let ratio = |pick: fn(&Cost) -> f64, inverse: bool| {
            median(
                rounds
                    .iter()
                    .map(|round| pick(&round[at]) / pick(&round[0]))
                    .map(|ratio| if inverse { 1.0 / ratio } else { ratio })
                    .collect(),
            )
        };
        let ((_, wall, _), (_, cpu, _)) = (of(|cost| cost.wall_ns), of(|cost| cost.cpu_ns));
        let (low, mid, high) = ratio(|cost| cost.wall_ns, true);
        let (_, cpu_ratio, _) = ratio(|cost| cost.cpu_ns, false);
        println!(
            "| {name} | {} | {mid:.2} ({low:.2} to {high:.2}) | {} | {cpu_ratio:.2} |",
            time(wall),
            time(cpu)
        );
    }
}

fn time(ns: f64) -> String {
    match ns {
        ..1e3 => format!("{ns:.0} ns"),
        ..1e6 => format!("{:.1} us", ns / 1e3),
        _ => format!("{:.2} ms", ns / 1e6),
    }
}

fn boxed(name: &str, load: impl Load + 'static) -> (String, Box<dyn Load>) {
    (name.to_owned(), Box::new(load))
}

fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    compare("Round trip, 64 B", || {
        let mut loads = vec![
            boxed("raw tcp", raw::TcpRoundTrip::new(64)),
            boxed("raw udp", raw::UdpRoundTrip::new(64)),
        ];
        loads.extend(SCHEMES.map(|scheme| boxed(scheme, endpoint::RoundTrip::new(scheme, 64))));
        loads
    });
    for (title, len) in [
        ("Messages one way, 64 B", 64),
        ("Messages one way, 1 KiB", 1024),
        ("Bulk, messages of 1 MiB", 1 << 20),
    ] {
        compare(title, || {
            let mut loads = vec![boxed("raw tcp", raw::TcpOneWay::new(len))];
            loads.extend(SCHEMES.map(|scheme| boxed(scheme, endpoint::OneWay::new(scheme, len))));
            loads
        });
    }
    compare(
        "One hop by a zipper, 64 B, one at a time (raw: there and back)",
        || {
            vec![
                boxed("raw tcp", raw::TcpRoundTrip::new(64)),
                boxed("zipper, quic", Hop::new("quic", 64, 1)),
                boxed("zipper, tcp", Hop::new("tcp", 64, 1)),
            ]
        },
    );
    compare(
        "One hop by a zipper, 1 KiB, as many as go (raw: direct)",
        || {
            vec![
                boxed("raw tcp", raw::TcpOneWay::new(1024)),
                boxed("zipper, quic", Hop::new("quic", 1024, 0)),
                boxed("zipper, tcp", Hop::new("tcp", 1024, 0)),
            ]
        },
    );
}
