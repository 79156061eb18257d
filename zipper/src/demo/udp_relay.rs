//! A link that can be cut: relays datagrams between two local sockets.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Interval at which the threads check whether the relay was dropped.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum length of a datagram.
const DATAGRAM_LEN_MAX: usize = 65_535;

/// Relays datagrams between one caller and a listener, until it is dropped.
#[derive(Debug)]
pub(crate) struct UdpRelay {
    address: SocketAddr,
    state: Arc<RelayState>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct RelayState {
    is_cut: AtomicBool,
    is_dropped: AtomicBool,
}

impl UdpRelay {
    /// Relays the datagrams of one caller at a time to the address `to`, and the replies back.
    pub(crate) fn start(to: SocketAddr) -> io::Result<Self> {
        let outside = UdpSocket::bind("127.0.0.1:0")?;
        let inside = UdpSocket::bind("127.0.0.1:0")?;
        inside.connect(to)?;
        for socket in [&outside, &inside] {
            socket.set_read_timeout(Some(POLL_INTERVAL))?;
        }
        let address = outside.local_addr()?;
        let state = Arc::new(RelayState::default());
        let caller = Arc::new(std::sync::Mutex::new(None));
        let (to_inside, to_outside) = (
            (outside.try_clone()?, inside.try_clone()?),
            (inside, outside),
        );
        let (known, forward_state) = (Arc::clone(&caller), Arc::clone(&state));
        let forward = move || {
            relay(&forward_state, &to_inside.0, |bytes, from| {
                *known
                    .lock()
                    .expect("no thread panics while it holds the lock") = Some(from);
                to_inside.1.send(bytes)
            });
        };
        let back_state = Arc::clone(&state);
        let back = move || {
            relay(&back_state, &to_outside.0, |bytes, _| {
                let to = *caller
                    .lock()
                    .expect("no thread panics while it holds the lock");
                to.map_or(Ok(0), |to| to_outside.1.send_to(bytes, to))
            });
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let threads = vec![
            thread("demo-link-out").spawn(forward)?,
            thread("demo-link-back").spawn(back)?,
        ];
        Ok(Self {
            address,
            state,
            threads,
        })
    }

    /// Address for the caller.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drops all datagrams from now on, without notice to either side.
    pub(crate) fn cut(&self) {
        self.state.is_cut.store(true, Ordering::Relaxed);
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        self.state.is_dropped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn relay(
    state: &RelayState,
    from: &UdpSocket,
    mut forward: impl FnMut(&[u8], SocketAddr) -> io::Result<usize>,
) {
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    while !state.is_dropped.load(Ordering::Relaxed) {
        // A datagram that cannot be forwarded is lost, as on any link.
        if let Ok((len, from)) = from.recv_from(&mut buffer)
            && !state.is_cut.load(Ordering::Relaxed)
        {
            let _lost = forward(&buffer[..len], from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_pass_in_both_directions_until_the_link_is_cut() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let relay = UdpRelay::start(server.local_addr().unwrap()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(relay.address()).unwrap();
        client.send(b"there").unwrap();
        let mut buffer = [0; 16];
        let (len, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"there");
        server.send_to(b"back", from).unwrap();
        let len = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"back");
        relay.cut();
        client.send(b"lost").unwrap();
        server
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        assert!(server.recv_from(&mut buffer).is_err());
    }
}
