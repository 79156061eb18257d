//! The runner's handle of a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use crate::machine::cpu_of;
use crate::meter::Mark;

/// The time limit for a line of a process: discovery of a peer takes a second.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// The line that the NATS server prints when it accepts connections.
const NATS_READY: &str = "Server is ready";

/// The reason for an unusable process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// It could not start.
    #[error("cannot start {what}: {error}")]
    Start { what: String, error: std::io::Error },
    /// It ended or hangs.
    #[error("process {number} of the program does not answer")]
    Silent { number: usize },
    /// Its processes run, but count nothing.
    #[error("nothing was counted")]
    Idle,
    /// It printed an unexpected line.
    #[error("process {number} of the program printed `{line}`")]
    Strange { number: usize, line: String },
}

/// The process ends when this is dropped.
pub(crate) struct Process {
    number: usize,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    fn start(mut command: Command, number: usize) -> Result<Self, Broken> {
        let what = command.get_program().to_string_lossy().into_owned();
        let broken = |error| Broken::Start { what, error };
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(broken)?;
        let input = child.stdin.take();
        let output: Option<Box<dyn Read + Send>> = match child.stdout.take() {
            Some(output) => Some(Box::new(output)),
            None => child.stderr.take().map(|errors| Box::new(errors) as _),
        };
        let (line, lines) = sync_channel(256);
        std::thread::spawn(move || {
            for printed in BufReader::new(output.expect("one of them is piped")).lines() {
                if !printed.is_ok_and(|printed| line.send(printed).is_ok()) {
                    return;
                }
            }
        });
        Ok(Self {
            number,
            child,
            input,
            lines,
        })
    }

    /// Starts this program again and waits until it is ready. Returns the process, and its address if it has one.
    pub(crate) fn start_own(
        number: usize,
        arguments: Vec<String>,
    ) -> Result<(Self, Option<String>), Broken> {
        let own = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        let mut command = Command::new(own);
        command.args(arguments).stdout(Stdio::piped());
        let process = Self::start(command, number)?;
        let line = process.line()?;
        match line.strip_prefix("ready") {
            Some(at) => {
                let at = Some(at.trim()).filter(|at| !at.is_empty());
                Ok((process, at.map(str::to_owned)))
            }
            None => Err(Broken::Strange { number, line }),
        }
    }

    /// Starts a NATS server and waits until it is ready.
    pub(crate) fn start_nats(number: usize, mut server: Command) -> Result<Self, Broken> {
        server.stdout(Stdio::null()).stderr(Stdio::piped());
        let process = Self::start(server, number)?;
        while !process.line()?.contains(NATS_READY) {}
        Ok(process)
    }

    fn line(&self) -> Result<String, Broken> {
        let number = self.number;
        let line = self.lines.recv_timeout(ANSWER_MAX);
        line.map_err(|_| Broken::Silent { number })
    }

    /// Its counters.
    pub(crate) fn mark(&mut self) -> Result<Mark, Broken> {
        let number = self.number;
        let silent = |_| Broken::Silent { number };
        let input = self.input.as_mut().ok_or(Broken::Silent { number })?;
        writeln!(input, "mark").map_err(silent)?;
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|_| Broken::Strange { number, line })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time that it has used.
    pub(crate) fn cpu(&self) -> Result<Duration, Broken> {
        let number = self.number;
        cpu_of(self.id()).ok_or(Broken::Silent { number })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // This fails only if the process has ended already.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}
