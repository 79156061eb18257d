//! Temporary folders, and zippers as processes.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A temporary folder, removed when it is dropped.
pub(crate) struct TempFolder(pub(crate) PathBuf);

impl TempFolder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("zipper-cli-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("a file");
        path.display().to_string()
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn zipper_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zipper"));
    command.stdin(Stdio::null());
    command
}

/// A zipper process, killed when it is dropped.
pub(crate) struct ZipperProcess {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl ZipperProcess {
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::spawn(zipper_command().arg("serve"), settings)
    }

    pub(crate) fn spawn(command: &mut Command, settings: &[&str]) -> Self {
        command.args(["--log", "error", "--set", "listen=['tcp://127.0.0.1:0']"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut stdout = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        std::io::BufRead::read_line(&mut stdout, &mut line).expect("it prints where it listens");
        let address = line.split("listens on ").nth(1).expect("an address");
        Self {
            address: address.trim().to_owned(),
            child,
        }
    }
}

impl Drop for ZipperProcess {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
