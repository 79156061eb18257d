//! A zipper process whose configuration is read again, after SIGHUP and for an operator.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A zipper with a configuration file, killed when it is dropped.
struct ReloadedZipper {
    child: Child,
    log: BufReader<ChildStderr>,
    address: String,
    folder: PathBuf,
}

impl ReloadedZipper {
    fn start(name: &str, settings: &str) -> Self {
        let name = format!("zipper-reload-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("zipper.yaml");
        std::fs::write(&config, settings).expect("a file");
        // Without the terminal of the tests: its end would be the meaning of SIGHUP.
        let mut child = Command::new("setsid")
            .args([env!("CARGO_BIN_EXE_zipper"), "serve", "-c"])
            .arg(&config)
            .args(["--set", "listen=['tcp://127.0.0.1:0']"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        stdout.read_line(&mut line).expect("text");
        let address = line.split("listens on ").nth(1).expect("an address");
        Self {
            log: BufReader::new(child.stderr.take().expect("it is piped")),
            address: address.trim().to_owned(),
            child,
            folder,
        }
    }

    fn configure(&self, settings: &str) {
        std::fs::write(self.folder.join("zipper.yaml"), settings).expect("a file");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for a log line that contains a text, and returns the line.
    fn wait_for_log(&mut self, expected: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.log.read_line(&mut line).expect("text");
            assert!(read > 0, "it ended without logging {expected:?}");
            if line.contains(expected) {
                return line;
            }
        }
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_zipper"))
            .args(args)
            .args(["-z", &self.address])
            .output()
            .expect("it starts")
    }

    fn stdout(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).expect("text")
    }
}

impl Drop for ReloadedZipper {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _reaped = self.child.wait();
        let _left_behind = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn sighup_applies_what_can_change_and_names_what_needs_a_restart() {
    let token = |token: &str| format!("auth: {{type: token, token: {token}}}\n");
    let mut zipper = ReloadedZipper::start("signal", &token("old"));
    zipper.stdout(&["status", "--token", "old"]);
    zipper.configure(&format!(
        "{}name: other\nlimits: {{clients: 5}}\n",
        token("new")
    ));
    zipper.signal(Signal::HUP);
    let line = zipper.wait_for_log("reloaded the configuration");
    assert!(line.contains("applied=\"auth, limits.clients\""), "{line}");
    assert!(line.contains("needs_restart=\"name\""), "{line}");
    assert_eq!(
        zipper.run(&["status", "--token", "old"]).status.code(),
        Some(4)
    );
    zipper.stdout(&["status", "--token", "new"]);
    zipper.configure("limits: {clients: many}\n");
    zipper.signal(Signal::HUP);
    zipper.wait_for_log("the configuration is wrong; nothing has changed");
    zipper.stdout(&["status", "--token", "new"]);
    zipper.signal(Signal::TERM);
    let mut rest = String::new();
    zipper.log.read_to_string(&mut rest).expect("text");
    assert_eq!(
        zipper.child.wait().expect("it ends").code(),
        Some(0),
        "{rest}"
    );
}

#[test]
fn an_operator_reloads_rotated_tokens_and_is_notified_of_errors() {
    let auth = "auth:\n  type: permissions\n  tokens:\n    ops: {token: ops, admin: all}\n    app: \
                {file: app.token, write: all}\n";
    let rotate = |folder: &PathBuf, token: &str| {
        std::fs::write(folder.join("app.token"), token).expect("a file");
    };
    let folder =
        std::env::temp_dir().join(format!("zipper-reload-{}-operator", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    rotate(&folder, "first");
    let zipper = ReloadedZipper::start("operator", auth);
    let source = |token: &str| {
        let output = zipper.run(&["source", "--tag", "0x10", "--token", token, "/dev/null"]);
        output.status.code()
    };
    assert_eq!((source("first"), source("second")), (Some(0), Some(4)));
    let reload = ["reload", "--token", "ops"];
    assert_eq!(zipper.stdout(&reload), "nothing has changed\n");
    rotate(&folder, "second");
    assert_eq!(zipper.stdout(&reload), "auth: in use\n");
    assert_eq!((source("first"), source("second")), (Some(4), Some(0)));
    zipper.configure(&format!("{auth}log: debug\nname: other\n"));
    let expected = "name: in use after a restart\nlog: in use\n";
    assert_eq!(zipper.stdout(&reload), expected);
    zipper.configure(&format!("{auth}nmae: x\n"));
    let output = zipper.run(&reload);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(
        stderr.contains("unknown key `nmae`; did you mean `name`?"),
        "{stderr}"
    );
    // The token of a source is not that of an operator.
    let refused = zipper.run(&["reload", "--token", "second"]);
    assert_eq!(refused.status.code(), Some(4));
}
