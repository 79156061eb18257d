//! The same work on Selvedge, raw sockets and peers, in turn: one table, raw results and a plot.
//!
//! This is the runner. It starts itself again for each process of each program (`part`).
#![forbid(unsafe_code)]

mod certificate;
mod job;
mod machine;
mod meter;
#[cfg(feature = "peers")]
mod nats_async;
mod nats_lean;
mod nats_server;
mod ours;
mod plot;
mod process;
mod programs;
mod quic;
mod raw;
mod report;
mod results;
mod rounds;
mod rows;
mod run;
mod watched;
#[cfg(feature = "peers")]
mod zenoh_peer;
mod zipper;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::job::{Job, Order};
use crate::meter::{Meter, print_line};
use crate::programs::{Group, Part};
use crate::results::Results;
use crate::rounds::{Bout, Failed, run_bout};
use crate::run::Stage;

/// Runs the same work on Selvedge, raw sockets and peers, and prints one table.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Command {
    /// One process of a program; the runner starts it.
    #[command(hide = true)]
    Part(Order),
    /// A process with an endless loop.
    #[command(hide = true)]
    Hog,
}

#[derive(Args)]
struct Settings {
    /// Only rows that begin with this: "rtt", "bulk 65536", "messages", "hop 64", "hop-rtt", "two-hops",
    /// "fan-out", "rtt 64 hog". May be given several times.
    #[arg(long)]
    rows: Vec<String>,
    /// The number of rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Short runs, as a smoke test.
    #[arg(long)]
    quick: bool,
    /// Repeats everything beside an endless loop; rates in at most three rounds.
    #[arg(long)]
    hog: bool,
    /// Appends to the existing results and reports all of them; with --rounds 0 nothing runs.
    #[arg(long)]
    append: bool,
    /// The folder for the results.
    #[arg(long, default_value = "target/compare")]
    folder: PathBuf,
    /// A further file for the table.
    #[arg(long)]
    table: Option<PathBuf>,
    /// The file for the plot.
    #[arg(long)]
    plot: Option<PathBuf>,
    /// The NATS server; without it the NATS programs are skipped.
    #[arg(long)]
    nats_server: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Part(order)) => part(order),
        Some(Command::Hog) => hog(),
        None => compare(&cli.settings),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            let _nobody_reads = writeln!(io::stderr(), "compare: {failed}");
            ExitCode::FAILURE
        }
    }
}

fn compare(settings: &Settings) -> Result<(), Failed> {
    fs::create_dir_all(&settings.folder)?;
    certificate::make(&settings.folder)?;
    let stage = Stage {
        length: Duration::from_millis(if settings.quick { 300 } else { 800 }),
        folder: settings.folder.clone(),
        nats_server: settings.nats_server.clone(),
    };
    let path = settings.folder.join("results.jsonl");
    let mut records = Vec::new();
    if settings.append && path.exists() {
        for line in BufReader::new(File::open(&path)?).lines() {
            records.push(serde_json::from_str(&line?).map_err(io::Error::from)?);
        }
    }
    let mut options = File::options();
    options.create(true).append(settings.append);
    options.write(true).truncate(!settings.append);
    let mut file = options.open(&path)?;
    for bout in Bout::matching(&settings.rows, settings.hog) {
        if settings.rounds > 0 {
            let _nobody_reads = writeln!(io::stderr(), "compare: {}", bout.name());
        }
        records.extend(run_bout(&stage, &bout, settings.rounds, &mut file)?);
    }
    let results = Results(records);
    let report = report::report(&results);
    fs::write(settings.folder.join("table.md"), &report)?;
    if let Some(path) = &settings.table {
        fs::write(path, &report)?;
    }
    if let Some(path) = &settings.plot
        && let Some(plot) = plot::plot(&results)
    {
        fs::write(path, plot)?;
    }
    io::stdout().write_all(report.as_bytes())?;
    Ok(())
}

/// Runs one process of a program.
fn part(order: Order) -> Result<(), Failed> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    let program = Group::find(&order.group).and_then(|group| group.program(&order.program));
    let Some(Part::Own(work)) = program.and_then(|program| program.parts.get(order.part)) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
    };
    let meter = Arc::new(Meter::new());
    let job = Job {
        order,
        meter: Arc::clone(&meter),
    };
    // It lives as long as the process, so that tasks can refer to it.
    let job = Box::leak(Box::new(job));
    std::thread::spawn(move || meter.serve());
    // On the main thread, so that the process ends with it in any case.
    work(job);
    Ok(())
}

/// An endless loop, as a busy neighbour of the machine.
fn hog() -> Result<(), Failed> {
    std::thread::spawn(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    print_line("ready");
    Meter::new().serve()
}
