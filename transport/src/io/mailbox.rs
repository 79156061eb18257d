//! How a listener hands a datagram to the transport that owns it, on whatever worker that is.
//!
//! A queue in memory, and a bell that is there only while something waits: a socket that is ready
//! from the start, which the listener registers under the transport's token. So a transport that
//! nobody has mail for needs no descriptor beside its own; a pair of sockets for each let 10,000
//! ends over QUIC reach the 20,000 descriptors that a process often has.
//!
//! Few datagrams go this way: those of a peer whose address has just changed, and those that arrived
//! before the peer's own socket was connected. So the copy and the system calls do not matter.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::BytesMut;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::datagram_socket::DatagramMeta;

/// What may wait for one transport, in bytes: as much as a socket holds by default
/// (`net.core.wmem_default`).
const WAITING_LEN_MAX: usize = 212_992;

/// A datagram, and where it came from.
type Letter = (DatagramMeta, BytesMut);

/// The polls at which the transports of one listener are registered. A handle to one is a descriptor,
/// so transports at the same poll share it.
#[derive(Debug)]
pub(super) struct Polls {
    /// Added to one poll, it can be taken out of that one only: so the kernel says which it is.
    probe: UnixDatagram,
    known: Mutex<Vec<Weak<Registry>>>,
}

impl Polls {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            probe: UnixDatagram::unbound()?,
            known: Mutex::default(),
        })
    }

    /// A handle to the poll of `registry`, which outlives this call.
    fn handle(&self, registry: &Registry) -> io::Result<Arc<Registry>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|handle| handle.strong_count() > 0);
        let fd = self.probe.as_raw_fd();
        registry.register(&mut SourceFd(&fd), Token(0), Interest::READABLE)?;
        let mut handles = known.iter().filter_map(Weak::upgrade);
        if let Some(same) = handles.find(|it| it.deregister(&mut SourceFd(&fd)).is_ok()) {
            return Ok(same);
        }
        registry.deregister(&mut SourceFd(&fd))?;
        let handle = Arc::new(registry.try_clone()?);
        known.push(Arc::downgrade(&handle));
        Ok(handle)
    }
}

/// What a slot and its mailbox share.
#[derive(Debug, Default)]
struct Shared {
    /// So that a transport without mail need not lock. Set before the bell is rung.
    has_any: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    letters: VecDeque<Letter>,
    /// Of all letters, in bytes.
    len: usize,
    /// Where the transport is registered.
    place: Option<(Arc<Registry>, Token)>,
    bell: Option<UnixDatagram>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn ring(&mut self) {
        if let (None, Some((registry, token))) = (&self.bell, &self.place) {
            // Without a descriptor for it the letter waits for whatever wakes the transport next.
            self.bell = new_bell(registry, *token)
                .inspect_err(|error| tracing::debug!(%error, "a transport is not told of its mail"))
                .ok();
        }
    }
}

/// A socket that nobody writes to is ready for writing: one event, as soon as it is registered.
fn new_bell(registry: &Registry, token: Token) -> io::Result<UnixDatagram> {
    let bell = UnixDatagram::unbound()?;
    registry.register(&mut SourceFd(&bell.as_raw_fd()), token, Interest::WRITABLE)?;
    Ok(bell)
}

fn cost(datagram: &[u8]) -> usize {
    datagram.len() + size_of::<Letter>()
}

/// The listener's end. It goes with the mailbox: a listener that nobody knocks at does not look for
/// what has gone, and must not keep the mail of each connection that it ever had.
#[derive(Debug)]
pub(super) struct Slot(Weak<Shared>);

/// The transport's end.
#[derive(Debug)]
pub(super) struct Mailbox {
    shared: Arc<Shared>,
    polls: Arc<Polls>,
}

/// A slot and its mailbox.
pub(super) fn pair(polls: &Arc<Polls>) -> (Slot, Mailbox) {
    let shared = Arc::<Shared>::default();
    let slot = Slot(Arc::downgrade(&shared));
    let polls = Arc::clone(polls);
    (slot, Mailbox { shared, polls })
}

impl Slot {
    /// Hands a datagram over; `false` when the mailbox is full or gone, and the datagram is lost.
    pub(super) fn put(&self, meta: &DatagramMeta, datagram: &[u8]) -> bool {
        let Some(shared) = self.0.upgrade() else {
            return false;
        };
        let mut waiting = shared.waiting();
        let len = waiting.len + cost(datagram);
        if len > WAITING_LEN_MAX {
            return false;
        }
        waiting.len = len;
        // Copied, since it would keep the whole block of the listener's worker.
        waiting.letters.push_back((*meta, BytesMut::from(datagram)));
        shared.has_any.store(true, Ordering::Release);
        waiting.ring();
        true
    }
}

impl Mailbox {
    /// The next letter; `None` when there is none.
    pub(super) fn take(&self) -> Option<Letter> {
        if !self.shared.has_any.load(Ordering::Acquire) {
            return None;
        }
        let mut waiting = self.shared.waiting();
        let letter = waiting.letters.pop_front();
        match &letter {
            Some((_, datagram)) => waiting.len -= cost(datagram),
            None => {
                self.shared.has_any.store(false, Ordering::Release);
                waiting.letters = VecDeque::new();
                waiting.bell = None;
            }
        }
        letter
    }

    /// From now on mail is announced under `token`. What waits already is not: who registers a
    /// transport asks it at once.
    pub(super) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let handle = self.polls.handle(registry)?;
        self.shared.waiting().place = Some((handle, token));
        Ok(())
    }

    pub(super) fn deregister(&self) {
        let mut waiting = self.shared.waiting();
        // Closed, the bell is out of the poll.
        (waiting.place, waiting.bell) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    fn meta(remote: &str) -> DatagramMeta {
        DatagramMeta {
            remote: remote.parse().expect("an address"),
            local_ip: None,
            ecn: Some(quinn_udp::EcnCodepoint::Ce),
        }
    }

    fn new_pair() -> (Slot, Mailbox) {
        pair(&Arc::new(Polls::new().expect("a descriptor")))
    }

    /// The tokens of the events that have come.
    fn events(poll: &mut Poll) -> Vec<usize> {
        let mut events = Events::with_capacity(8);
        let polled = poll.poll(&mut events, Some(Duration::ZERO));
        polled.expect("nothing interrupts it");
        events.iter().map(|event| event.token().0).collect()
    }

    #[test]
    fn a_letter_arrives_as_it_was_put() {
        let (slot, mailbox) = new_pair();
        assert!(mailbox.take().is_none());
        for remote in ["192.0.2.1:7", "[2001:db8::1]:9", "[::ffff:192.0.2.1]:7"] {
            let meta = meta(remote);
            assert!(slot.put(&meta, b"datagram"));
            let (read, bytes) = mailbox.take().unwrap();
            assert_eq!((read.remote, read.ecn), (meta.remote, meta.ecn));
            assert_eq!(&bytes[..], b"datagram");
        }
        assert!(mailbox.take().is_none());
    }

    #[test]
    fn a_full_or_orphaned_mailbox_refuses() {
        let (slot, mailbox) = new_pair();
        let meta = meta("192.0.2.1:7");
        assert!(!slot.put(&meta, &[0; WAITING_LEN_MAX]));
        for datagram in [&[0; 1200][..], &[]] {
            let put = (0..10_000).take_while(|_| slot.put(&meta, datagram));
            assert!((100..10_000).contains(&put.count()));
            while mailbox.take().is_some() {}
        }
        assert!(slot.put(&meta, b"there is room again"));
        drop(mailbox);
        assert!(!slot.put(&meta, b"x"));
    }

    #[test]
    fn mail_is_announced_where_the_transport_is_and_only_there() {
        let mut polls = [(); 2].map(|()| Poll::new().unwrap());
        let (slot, mailbox) = new_pair();
        let meta = meta("192.0.2.1:7");
        for _ in 0..2 {
            for (at, token) in [(0, 3), (1, 4), (1, 5)] {
                mailbox
                    .register(polls[at].registry(), Token(token))
                    .unwrap();
                assert!(polls.iter_mut().all(|poll| events(poll).is_empty()));
                for _ in 0..2 {
                    assert!(slot.put(&meta, b"a") && slot.put(&meta, b"b"));
                    assert_eq!(events(&mut polls[at]), [token]);
                    assert!(events(&mut polls[1 - at]).is_empty());
                    while mailbox.take().is_some() {}
                }
                // Told, and not taken before it moves.
                assert!(slot.put(&meta, b"c"));
                mailbox.deregister();
                assert!(polls.iter_mut().all(|poll| events(poll).is_empty()));
                assert!(slot.put(&meta, b"d"));
                let taken = std::iter::from_fn(|| mailbox.take());
                assert_eq!(taken.map(|(_, bytes)| bytes[0]).collect::<Vec<_>>(), b"cd");
            }
        }
    }

    #[test]
    fn transports_at_one_poll_share_a_handle_to_it() {
        let [poll, other] = [(); 2].map(|()| Poll::new().unwrap());
        let polls = Polls::new().unwrap();
        let handle = |poll: &Poll| polls.handle(poll.registry()).unwrap();
        let (one, two, elsewhere) = (handle(&poll), handle(&poll), handle(&other));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &elsewhere));
        assert!(Arc::ptr_eq(&elsewhere, &handle(&other)));
        let gone = Arc::downgrade(&one);
        drop((one, two));
        assert!(gone.upgrade().is_none());
        let _known = handle(&poll);
        assert_eq!(polls.known.lock().unwrap().len(), 2);
    }
}
