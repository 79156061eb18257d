//! A TCP connection that breaks after any byte of an exchange: the next connection completes it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use selvedge_driver::{
    Address, Admission, Dialers, Driver, DriverConfig, Endpoint, Event, Identity, LaneId,
    Listening, SessionConfig, TcpDialer, bind,
};
use selvedge_testkit::{Conditions, Proxy};

const PATIENCE: Duration = Duration::from_secs(30);

/// Messages from each side.
const COUNT: u8 = 12;

struct Stage {
    driver: Driver,
    keys: [Identity; 2],
    dialers: Dialers,
    direct: Address,
    proxy: Proxy,
    /// The receiver of accepted connections: one that broke in its handshake may be accepted late.
    acceptor: Arc<Mutex<Option<Endpoint>>>,
    _listening: Listening,
}

impl Stage {
    fn new() -> Self {
        let keys = [0, 1].map(|_| Identity::generate().expect("randomness"));
        let driver = Driver::new(DriverConfig::default()).expect("a thread");
        let address = "tcp+plain://127.0.0.1:0".parse().expect("an address");
        let listener = bind(&address, &keys[1], &Admission::anyone()).expect("a port");
        let acceptor = Arc::<Mutex<Option<Endpoint>>>::default();
        let current = Arc::clone(&acceptor);
        let listening = driver.listen(listener, move |connected| {
            if let Some(end) = &*current.lock().expect("nobody panics") {
                // A connection that has ended is refused; the test waits for messages.
                let _refused = end.attach(connected);
            }
        });
        let listening = listening.expect("it runs");
        let direct = listening.address().clone();
        let target = direct.as_socket().expect("an address");
        Self {
            driver,
            dialers: Arc::new([Arc::new(TcpDialer::new(keys[0].clone())) as _]),
            keys,
            direct,
            proxy: Proxy::tcp(target, Conditions::default()).expect("a socket"),
            acceptor,
            _listening: listening,
        }
    }

    fn endpoints(&self) -> [Endpoint; 2] {
        let [a, b] = [0, 1].map(|at: usize| self.keys[at].node_id());
        [(a, b), (b, a)].map(|(own, peer)| {
            let config = SessionConfig {
                ack_delay: Duration::from_millis(1),
                ..SessionConfig::default()
            };
            self.driver.endpoint(config, own, peer).expect("it runs")
        })
    }

    /// Dials. Returns whether the dialer considers the connection established.
    fn connect(&self, ends: &[Endpoint; 2], address: &Address) -> bool {
        let to = Some(self.keys[1].node_id());
        let dialed = self.driver.dial_blocking(&self.dialers, address, to);
        let connected = dialed.map(|connected| ends[0].attach(connected).expect("the right peer"));
        connected.is_ok()
    }

    /// Whether everything is acknowledged before the connection breaks.
    fn is_whole(ends: &[Endpoint; 2]) -> bool {
        loop {
            let broken =
                |event| matches!(event, Event::Detached { .. } | Event::AttachFailed { .. });
            if ends
                .iter()
                .any(|end| std::iter::from_fn(|| end.try_event()).any(broken))
            {
                return false;
            }
            let settled = |end: &Endpoint| end.flush(Duration::from_millis(1)).is_ok();
            if ends.iter().all(settled) {
                return true;
            }
        }
    }

    /// Breaks the first connection after so many bytes from one side. Returns whether it broke.
    fn run(&self, from: usize, bytes: u64) -> bool {
        let ends = self.endpoints();
        *self.acceptor.lock().expect("nobody panics") = Some(ends[1].clone());
        for number in 0..COUNT {
            for end in &ends {
                end.send(LaneId::FIRST, vec![number; 40].into())
                    .expect("room");
            }
        }
        self.proxy.kill_after(from, bytes);
        let through = Address::socket("tcp+plain", self.proxy.address());
        let begun = self.connect(&ends, &through);
        let whole = begun && Self::is_whole(&ends);
        if !whole {
            while !self.connect(&ends, &self.direct) {}
        }
        for end in &ends {
            for number in 0..COUNT {
                let message = end.recv_timeout(PATIENCE).expect("the next message");
                assert_eq!(
                    message.payload,
                    vec![number; 40],
                    "from {from}, after {bytes}"
                );
            }
        }
        for end in &ends {
            end.flush(PATIENCE).expect("all is acknowledged");
            assert!(
                end.try_recv().is_err(),
                "from {from}, after {bytes}: one too many"
            );
            let restarted = std::iter::from_fn(|| end.try_event())
                .any(|event| matches!(event, Event::PeerRestarted { .. }));
            assert!(
                !restarted,
                "from {from}, after {bytes}: taken for another process"
            );
        }
        ends.iter().for_each(Endpoint::abort);
        !whole
    }
}

#[test]
fn n3_a_connection_that_breaks_after_any_byte_is_resumed_without_loss_or_repeat() {
    let stage = Stage::new();
    for from in 0..2 {
        let mut broken = 0;
        // Until the whole exchange fits.
        while stage.run(from, broken + 1) {
            broken += 1;
        }
        println!("from side {from}: broken after each of {broken} bytes");
        assert!(broken > u64::from(COUNT) * 40, "{broken}");
    }
}
