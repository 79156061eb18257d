//! Workloads that take turns, and the cost of each turn: ratios within a round, medians over rounds.
#![allow(
    clippy::print_stdout,
    reason = "printing tables is what the programs that use it do"
)]

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::Workload;

/// The number of rounds.
const ROUNDS: usize = 7;

/// The approximate duration of one turn.
const TURN: Duration = Duration::from_millis(300);

/// The cost of one turn per message, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Wall time.
    pub wall_ns: f64,
    /// User and system time.
    pub cpu_ns: f64,
}

/// User and system time of all threads of this process in nanoseconds: the ticks of 10 ms in
/// /proc/self/stat would be 3 % of a turn.
#[must_use]
pub fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = u32::try_from(time.tv_nsec).expect("less than a second");
    Duration::new(u64::try_from(time.tv_sec).expect("not before zero"), nanos)
}

fn turn(load: &mut dyn Workload, count: u64) -> Cost {
    let (cpu_before, began) = (cpu(), Instant::now());
    load.run(count);
    let (wall, cpu) = (began.elapsed(), cpu() - cpu_before);
    let per = |time: Duration| time.as_nanos() as f64 / count as f64;
    Cost {
        wall_ns: per(wall),
        cpu_ns: per(cpu),
    }
}

fn timed(load: &mut dyn Workload, count: u64) -> Duration {
    let began = Instant::now();
    load.run(count);
    began.elapsed()
}

/// The number of messages that fill a turn.
///
/// Each count is tried twice and the faster attempt is used: a single pause of 51 ms in the first 16
/// messages had set all turns to 95 messages, and so short turns measure how threads start, end and wait
/// for a core.
fn count_for(load: &mut dyn Workload) -> u64 {
    let mut count = load.count_min();
    loop {
        let took = timed(load, count).min(timed(load, count));
        if took > TURN / 8 {
            let fill = TURN.as_secs_f64() / took.as_secs_f64();
            return load.count_min().max((count as f64 * fill) as u64 + 1);
        }
        count *= 4;
    }
}

/// The cost of a workload that is alone in the process: medians of several turns.
pub fn alone(load: &mut dyn Workload) -> Cost {
    let count = count_for(load);
    let turns: Vec<Cost> = (0..ROUNDS).map(|_| turn(load, count)).collect();
    let of = |pick: fn(&Cost) -> f64| median(turns.iter().map(pick).collect()).1;
    Cost {
        wall_ns: of(|cost| cost.wall_ns),
        cpu_ns: of(|cost| cost.cpu_ns),
    }
}

/// The minimum, the median and the maximum.
#[must_use]
pub fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (
        values[0],
        values[values.len() / 2],
        values[values.len() - 1],
    )
}

/// Prints a table that compares the other workloads with the first. Skipped if the title does not contain
/// the program's first argument.
pub fn compare(title: &str, loads: impl FnOnce() -> Vec<(String, Box<dyn Workload>)>) {
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
    let base = &loads[0].0;
    println!("\n**{title}**\n");
    println!("| | per message | speed, of {base} | CPU per message | CPU, of {base} |");
    println!("|---|---|---|---|---|");
    for (at, (name, _)) in loads.iter().enumerate() {
        row(name, &rounds, at);
    }
    for (name, load) in &loads {
        if let Some(losses) = load.losses() {
            println!("\n{name}: {losses}.");
        }
    }
}

fn row(name: &str, rounds: &[Vec<Cost>], at: usize) {
    let of = |pick: fn(&Cost) -> f64| median(rounds.iter().map(|round| pick(&round[at])).collect());
    let ratio = |pick: fn(&Cost, &Cost) -> f64| {
        median(
            rounds
                .iter()
                .map(|round| pick(&round[at], &round[0]))
                .collect(),
        )
    };
    let ((_, wall, _), (_, cpu, _)) = (of(|cost| cost.wall_ns), of(|cost| cost.cpu_ns));
    let (low, mid, high) = ratio(|own, base| base.wall_ns / own.wall_ns);
    let (_, cpu_ratio, _) = ratio(|own, base| own.cpu_ns / base.cpu_ns);
    println!(
        "| {name} | {} | {mid:.2} ({low:.2} to {high:.2}) | {} | {cpu_ratio:.2} |",
        time(wall),
        time(cpu)
    );
}

/// A duration as text.
#[must_use]
pub fn time(ns: f64) -> String {
    match ns {
        ..1e3 => format!("{ns:.0} ns"),
        ..1e6 => format!("{:.1} us", ns / 1e3),
        _ => format!("{:.2} ms", ns / 1e6),
    }
}
