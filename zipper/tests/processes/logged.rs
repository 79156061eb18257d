//! The program as a process whose log the test reads.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

/// A process whose log is read line by line; killed when it is dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) log: BufReader<ChildStderr>,
    pub(crate) logged: String,
}

impl Process {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_zipper")).args(args))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let log = BufReader::new(child.stderr.take().expect("it is piped"));
        Self {
            child,
            log,
            logged: String::new(),
        }
    }

    /// Waits until a zipper listens, and returns its address.
    pub(crate) fn wait_for_start(&mut self) -> String {
        let stdout = self.child.stdout.as_mut().expect("it is piped");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        read.expect("it prints where it listens");
        let at = line.split("listens on ").nth(1).expect("an address");
        at.trim().to_owned()
    }

    /// Waits for a log line that contains a text, and returns the line.
    pub(crate) fn wait_for_log(&mut self, expected: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.log.read_line(&mut line).expect("text");
            assert!(
                read > 0,
                "it ended without logging {expected:?}: {}",
                self.logged
            );
            self.logged += &line;
            if line.contains(expected) {
                return line;
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
