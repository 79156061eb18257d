//! A link that can be cut: passes datagrams between two sockets of this machine.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often its threads look whether they are wanted.
const LOOK: Duration = Duration::from_millis(100);

/// A datagram, of whatever length.
const DATAGRAM_LEN_MAX: usize = 65_535;

/// Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_cut: AtomicBool,
    is_over: AtomicBool,
}

impl Relay {
    /// Listens for one caller at a time, and passes what it sends on to `to`, and back.
    pub(crate) fn start(to: SocketAddr) -> io::Result<Self> {
        let outside = UdpSocket::bind("127.0.0.1:0")?;
        let inside = UdpSocket::bind("127.0.0.1:0")?;
        inside.connect(to)?;
        for socket in [&outside, &inside] {
            socket.set_read_timeout(Some(LOOK))?;
        }
        let address = outside.local_addr()?;
        let shared = Arc::new(Shared::default());
        let caller = Arc::new(std::sync::Mutex::new(None));
        let (out, back) = (
            (outside.try_clone()?, inside.try_clone()?),
            (inside, outside),
        );
        let (known, told) = (Arc::clone(&caller), Arc::clone(&shared));
        let forth = move || {
            pass(&told, &out.0, |bytes, from| {
                *known.lock().expect("it is never held by who panics") = Some(from);
                out.1.send(bytes)
            });
        };
        let told = Arc::clone(&shared);
        let home = move || {
            pass(&told, &back.0, |bytes, _| {
                let to = *caller.lock().expect("it is never held by who panics");
                to.map_or(Ok(0), |to| back.1.send_to(bytes, to))
            });
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let threads = vec![
            thread("demo-link-out").spawn(forth)?,
            thread("demo-link-back").spawn(home)?,
        ];
        Ok(Self {
            address,
            shared,
            threads,
        })
    }

    /// Where to call it.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing comes through, and nobody is told.
    pub(crate) fn cut(&self) {
        self.shared.is_cut.store(true, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn pass(
    shared: &Shared,
    from: &UdpSocket,
    mut on: impl FnMut(&[u8], SocketAddr) -> io::Result<usize>,
) {
    let mut buffer = vec![0; DATAGRAM_LEN_MAX];
    while !shared.is_over.load(Ordering::Relaxed) {
        // A datagram that cannot be passed on is lost, as on any link.
        if let Ok((len, from)) = from.recv_from(&mut buffer)
            && !shared.is_cut.load(Ordering::Relaxed)
        {
            let _lost = on(&buffer[..len], from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_pass_both_ways_until_it_is_cut() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let relay = Relay::start(server.local_addr().unwrap()).unwrap();
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
