//! One run: a program's processes start, settle, are counted for a while, and end.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::machine::cpu_of_others;
use crate::meter::Mark;
use crate::process::{Broken, Process};
use crate::programs::{Group, Part, Program};

/// How long a program runs before counting starts: windows open, paths are probed.
const SETTLE: Duration = Duration::from_millis(300);

/// The settings of all runs.
pub(crate) struct Stage {
    /// The duration of counting.
    pub(crate) length: Duration,
    /// The folder of the certificate.
    pub(crate) folder: PathBuf,
    /// The NATS server, if there is one.
    pub(crate) nats_server: Option<PathBuf>,
}

/// The result of a run: a line of the raw results.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) group: String,
    pub(crate) size: usize,
    pub(crate) program: String,
    pub(crate) has_hog: bool,
    pub(crate) round: usize,
    /// The cores that other processes used during the run.
    pub(crate) foreign_cores: f64,
    pub(crate) seconds: f64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// User and system time of all processes, in seconds.
    pub(crate) cpu_seconds: f64,
    /// The same of each process, in the order of the program's parts; older results do not have it.
    #[serde(default)]
    pub(crate) cpu_seconds_of_parts: Vec<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) packets_lost: u64,
    pub(crate) send_errors: u64,
    /// The largest datagram in bytes; 0 if not applicable.
    pub(crate) mtu: u16,
}

/// A program with all processes running.
struct Running {
    processes: Vec<Process>,
    /// Whether each process answers requests for counters.
    ours: Vec<usize>,
}

impl Running {
    fn start(stage: &Stage, group: &Group, size: usize, program: &Program) -> Result<Self, Broken> {
        let (mut running, mut addresses) = (Self::none(), Vec::new());
        for (number, part) in program.parts.iter().enumerate() {
            let process = match (part, &stage.nats_server) {
                (Part::Own(_), _) => {
                    running.ours.push(number);
                    let options = [
                        ("--group", group.name.to_owned()),
                        ("--program", program.name.to_owned()),
                        ("--part", number.to_string()),
                        ("--size", size.to_string()),
                        ("--folder", stage.folder.display().to_string()),
                    ];
                    let options = options.map(|(name, value)| [name.to_owned(), value]);
                    let options = options.into_iter().flatten().chain(addresses.clone());
                    let part = std::iter::once("part".to_owned());
                    let order = part.chain(options).collect();
                    let (process, address) = Process::start_own(number, order)?;
                    addresses.extend(address);
                    process
                }
                (Part::Nats(role), Some(server)) => {
                    let made = role.command(server, &stage.folder, &addresses);
                    let what = server.display().to_string();
                    let (command, own) = made.map_err(|error| Broken::Start { what, error })?;
                    addresses.extend(own);
                    Process::start_nats(number, command)?
                }
                (Part::Nats(_), None) => return Err(Broken::Silent { number }),
            };
            running.processes.push(process);
        }
        Ok(running)
    }

    const fn none() -> Self {
        Self {
            processes: Vec::new(),
            ours: Vec::new(),
        }
    }

    fn marks(&mut self) -> Result<Vec<Mark>, Broken> {
        let ours = self.ours.iter();
        ours.map(|&number| self.processes[number].mark()).collect()
    }

    /// The CPU time of each process.
    fn cpu(&self) -> Result<Vec<Duration>, Broken> {
        self.processes.iter().map(Process::cpu).collect()
    }
}

/// Runs a program once. `hog` is the process of an endless loop beside it, if any.
pub(crate) fn run(
    stage: &Stage,
    (group, size): (&Group, usize),
    program: &Program,
    round: usize,
    hog: Option<&Process>,
) -> Result<Record, Broken> {
    let mut running = Running::start(stage, group, size, program)?;
    sleep(SETTLE);
    let own: Vec<u32> = running
        .processes
        .iter()
        .chain(hog)
        .map(Process::id)
        .collect();
    let before = running.marks()?;
    let (others, began, cpu) = (cpu_of_others(&own), Instant::now(), running.cpu()?);
    sleep(stage.length);
    let (cpu_after, took) = (running.cpu()?, began.elapsed().as_secs_f64());
    let cpu = cpu_after.iter().zip(&cpu);
    let cpu: Vec<Duration> = cpu.map(|(after, before)| *after - *before).collect();
    let others = cpu_of_others(&own).saturating_sub(others);
    let after = running.marks()?;
    // One process counts; the same or another one reports losses and times.
    let pairs = || before.iter().zip(&after);
    let counted = pairs().max_by_key(|(before, after)| {
        after.messages + after.bytes - before.messages - before.bytes
    });
    let (first, last) = counted
        .map(|(before, after)| (*before, *after))
        .unwrap_or_default();
    if last.messages + last.bytes == first.messages + first.bytes {
        return Err(Broken::Idle);
    }
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let losses = |of: fn(&Mark) -> u64| pairs().map(|(before, after)| of(after) - of(before)).sum();
    Ok(Record {
        group: group.name.to_owned(),
        size,
        program: program.name.to_owned(),
        has_hog: hog.is_some(),
        round,
        foreign_cores: others.as_secs_f64() / took,
        seconds: (last.at - first.at).as_secs_f64(),
        messages: last.messages - first.messages,
        bytes: last.bytes - first.bytes,
        cpu_seconds: cpu.iter().sum::<Duration>().as_secs_f64(),
        cpu_seconds_of_parts: cpu.iter().map(Duration::as_secs_f64).collect(),
        p50_us: last.p50.map(micros),
        p99_us: last.p99.map(micros),
        packets_lost: losses(|mark| mark.losses.packets_lost),
        send_errors: losses(|mark| mark.losses.send_errors),
        mtu: after
            .iter()
            .map(|mark| mark.losses.mtu)
            .max()
            .unwrap_or_default(),
    })
}
