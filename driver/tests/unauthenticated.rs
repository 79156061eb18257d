//! What unauthenticated peers may cost a driver: concurrent handshakes, and descriptors.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use selvedge_driver::{
    Admission, Connected, Dialers, Driver, DriverConfig, Identity, Listening, TcpDialer,
    TcpListener,
};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Far longer than any step takes; it only expires in case of a bug.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a listener without descriptors pauses.
const PAUSE: Duration = Duration::from_millis(100);

/// Set in the child process of a test.
const ALONE: &str = "SELVEDGE_TEST_ALONE";

/// A driver that listens on `tcp://`, and its accepted connections.
struct ListeningDriver {
    driver: Driver,
    listening: Listening,
    arrivals: Receiver<Connected>,
    dialers: Dialers,
}

impl ListeningDriver {
    fn new(config: DriverConfig) -> Self {
        let driver = Driver::new(config).expect("a driver");
        let [ours, theirs] = [0, 1].map(|_| Identity::generate().expect("randomness"));
        let address = "tcp://127.0.0.1:0".parse().expect("an address");
        let listener = TcpListener::bind(&address, ours, Admission::anyone()).expect("a port");
        let (accepted, arrivals) = crossbeam_channel::bounded(64);
        let listening = driver.listen(Box::new(listener), move |connected| {
            drop(accepted.try_send(connected));
        });
        Self {
            listening: listening.expect("the driver runs"),
            arrivals,
            dialers: Arc::new([Arc::new(TcpDialer::new(theirs)) as _]),
            driver,
        }
    }

    fn address(&self) -> SocketAddr {
        let address = self.listening.address();
        address.as_socket().expect("it is a socket address")
    }

    /// An honest peer connects.
    fn expect_honest(&self) {
        let address = self.listening.address();
        let dialed = self.driver.dial_blocking(&self.dialers, address, None);
        // Held until it is accepted: a connection that is closed at once may not be.
        let _dialed = dialed.expect("a connection");
        self.arrivals.recv_timeout(PATIENCE).expect("an arrival");
    }

    fn connect_only(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(self.address())
    }
}

#[test]
fn n1_a_worker_bounds_the_number_and_the_time_of_handshakes() {
    let target = ListeningDriver::new(DriverConfig {
        handshakes_max: 8,
        handshake_max: Duration::from_secs(1),
        ..DriverConfig::default()
    });
    let few: Vec<_> = (0..4).map(|_| target.connect_only().unwrap()).collect();
    target.expect_honest();
    let many: Vec<_> = (0..16).map(|_| target.connect_only().unwrap()).collect();
    let begin = Instant::now();
    let ends = few.into_iter().chain(many).map(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Nothing is sent to a peer that sends nothing.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        stream
    });
    // Kept, so that it is not their closing that makes room.
    let ended: Vec<_> = ends.collect();
    assert_eq!(ended.len(), 20);
    assert!(begin.elapsed() < PATIENCE);
    target.expect_honest();
}

#[test]
fn mute_connections_replace_each_other_and_an_honest_peer_is_accepted_beside_them() {
    let target = ListeningDriver::new(DriverConfig {
        handshakes_max: 8,
        // None of them ends by itself while the test runs.
        handshake_max: 2 * PATIENCE,
        ..DriverConfig::default()
    });
    let mut mute: Vec<_> = (0..24).map(|_| target.connect_only().unwrap()).collect();
    target.expect_honest();
    // The oldest were closed: 16 for the others, and one for the honest peer.
    for stream in &mut mute[..16] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    target.expect_honest();
}

#[test]
fn n12_connections_above_the_accept_rate_wait_and_an_honest_peer_behind_them_is_accepted() {
    let target = ListeningDriver::new(DriverConfig {
        accepts_per_second: 100.try_into().unwrap(),
        ..DriverConfig::default()
    });
    let begin = Instant::now();
    let connections: Vec<_> = (0..64).map(|_| target.connect_only().unwrap()).collect();
    target.expect_honest();
    // 65 at 100 a second, of which ten and the last batch of 32 may be accepted at once.
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_millis(200), "{waited:?}");
    drop(connections);
}

#[test]
fn n16_a_driver_without_descriptors_pauses_without_spinning_and_recovers() {
    let name = "n16_a_driver_without_descriptors_pauses_without_spinning_and_recovers";
    if std::env::var_os(ALONE).is_none() {
        return run_alone(name, 64);
    }
    let (pause, pauses) = crossbeam_channel::unbounded();
    tracing::subscriber::set_global_default(Pauses(pause)).unwrap();
    let target = ListeningDriver::new(DriverConfig::default());
    target.expect_honest();
    let mut stat = File::open("/proc/self/stat").unwrap();

    let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    // An odd number of descriptors is left. Each peer takes one and each accept takes one, and a peer
    // connects before it is accepted: in the end at least one is not.
    files.truncate(files.len() - 11);
    let connections: Vec<_> = std::iter::from_fn(|| target.connect_only().ok()).collect();
    pauses.recv_timeout(PATIENCE).unwrap();
    let (begin, used) = (Instant::now(), processor_time(&mut stat));
    for _ in 0..5 {
        pauses.recv_timeout(PATIENCE).unwrap();
    }
    let (passed, used) = (begin.elapsed(), processor_time(&mut stat) - used);
    let tries = 5 + pauses.len() as u32;
    assert!(PAUSE * (tries - 1) <= passed, "{tries} tries in {passed:?}");
    assert!(used < passed / 2, "{used:?} of {passed:?} were spent");

    drop((connections, files));
    target.expect_honest();
}

/// Runs one test of this program in a separate process that may open so many descriptors.
fn run_alone(test: &str, descriptors: usize) {
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -n \"$0\" && exec \"$@\""])
        .arg(descriptors.to_string())
        .arg(std::env::current_exe().expect("a path"))
        .args([test, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("a shell");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{test}, alone: {}\n{printed}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The processor time of this process (proc(5): fields 14 and 15, in ticks of 10 ms).
fn processor_time(stat: &mut File) -> Duration {
    let mut text = String::new();
    stat.rewind().expect("a seek");
    stat.read_to_string(&mut text).expect("text");
    // The name of the program, in parentheses, may contain spaces.
    let (_, fields) = text.rsplit_once(") ").expect("a name");
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks = ticks.map(|field| field.parse::<u32>().expect("a number"));
    Duration::from_millis(10) * ticks.sum::<u32>()
}

/// Reports the pauses of a listener, which logs a warning each time it cannot accept.
struct Pauses(Sender<()>);

impl Subscriber for Pauses {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.target().contains("tcp::listener")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        // After the test, there is no receiver.
        let _ = self.0.send(());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
