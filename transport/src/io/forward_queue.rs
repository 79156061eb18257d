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
const QUEUE_LEN_MAX: usize = 212_992;

/// A datagram, and where it came from.
type ForwardedDatagram = (DatagramMeta, BytesMut);

/// The polls at which the transports of one listener are registered. A handle to one is a descriptor,
/// so transports at the same poll share it.
#[derive(Debug)]
pub(super) struct PollHandles {
    /// Added to one poll, it can be taken out of that one only: so the kernel says which it is.
    probe: UnixDatagram,
    handles: Mutex<Vec<Weak<Registry>>>,
}

impl PollHandles {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            probe: UnixDatagram::unbound()?,
            handles: Mutex::default(),
        })
    }

    /// A handle to the poll of `registry`, which outlives this call.
    fn handle(&self, registry: &Registry) -> io::Result<Arc<Registry>> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.retain(|handle| handle.strong_count() > 0);
        let fd = self.probe.as_raw_fd();
        registry.register(&mut SourceFd(&fd), Token(0), Interest::READABLE)?;
        let mut candidates = handles.iter().filter_map(Weak::upgrade);
        if let Some(same) = candidates.find(|it| it.deregister(&mut SourceFd(&fd)).is_ok()) {
            return Ok(same);
        }
        registry.deregister(&mut SourceFd(&fd))?;
        let handle = Arc::new(registry.try_clone()?);
        handles.push(Arc::downgrade(&handle));
        Ok(handle)
    }
}

/// What a slot and its mailbox share.
#[derive(Debug, Default)]
struct SharedQueue {
    /// So that a transport without mail need not lock. Set before the bell is rung.
    has_datagrams: AtomicBool,
    queued: Mutex<QueuedDatagrams>,
}

#[derive(Debug, Default)]
struct QueuedDatagrams {
    datagrams: VecDeque<ForwardedDatagram>,
    /// Of all letters, in bytes.
    len: usize,
    /// Where the transport is registered.
    registration: Option<(Arc<Registry>, Token)>,
    wake_socket: Option<UnixDatagram>,
}

impl SharedQueue {
    fn queued(&self) -> MutexGuard<'_, QueuedDatagrams> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueuedDatagrams {
    fn wake(&mut self) {
        if let (None, Some((registry, token))) = (&self.wake_socket, &self.registration) {
            // Without a descriptor for it the letter waits for whatever wakes the transport next.
            self.wake_socket = new_wake_socket(registry, *token)
                .inspect_err(|error| tracing::debug!(%error, "a transport is not told of its mail"))
                .ok();
        }
    }
}

/// A socket that nobody writes to is ready for writing: one event, as soon as it is registered.
fn new_wake_socket(registry: &Registry, token: Token) -> io::Result<UnixDatagram> {
    let wake_socket = UnixDatagram::unbound()?;
    registry.register(
        &mut SourceFd(&wake_socket.as_raw_fd()),
        token,
        Interest::WRITABLE,
    )?;
    Ok(wake_socket)
}

fn cost(bytes: &[u8]) -> usize {
    bytes.len() + size_of::<ForwardedDatagram>()
}

/// The listener's end. It goes with the mailbox: a listener that nobody knocks at does not look for
/// what has gone, and must not keep the mail of each connection that it ever had.
#[derive(Debug)]
pub(super) struct ForwardSender(Weak<SharedQueue>);

/// The transport's end.
#[derive(Debug)]
pub(super) struct ForwardQueue {
    shared: Arc<SharedQueue>,
    polls: Arc<PollHandles>,
}

/// A slot and its mailbox.
pub(super) fn channel(polls: &Arc<PollHandles>) -> (ForwardSender, ForwardQueue) {
    let shared = Arc::<SharedQueue>::default();
    let sender = ForwardSender(Arc::downgrade(&shared));
    let polls = Arc::clone(polls);
    (sender, ForwardQueue { shared, polls })
}

impl ForwardSender {
    /// Hands a datagram over; `false` when the mailbox is full or gone, and the datagram is lost.
    pub(super) fn push(&self, meta: &DatagramMeta, bytes: &[u8]) -> bool {
        let Some(shared) = self.0.upgrade() else {
            return false;
        };
        let mut queued = shared.queued();
        let len = queued.len + cost(bytes);
        if len > QUEUE_LEN_MAX {
            return false;
        }
        queued.len = len;
        // Copied, since it would keep the whole block of the listener's worker.
        queued.datagrams.push_back((*meta, BytesMut::from(bytes)));
        shared.has_datagrams.store(true, Ordering::Release);
        queued.wake();
        true
    }
}

impl ForwardQueue {
    /// The next letter; `None` when there is none.
    pub(super) fn pop(&self) -> Option<ForwardedDatagram> {
        if !self.shared.has_datagrams.load(Ordering::Acquire) {
            return None;
        }
        let mut queued = self.shared.queued();
        let datagram = queued.datagrams.pop_front();
        match &datagram {
            Some((_, bytes)) => queued.len -= cost(bytes),
            None => {
                self.shared.has_datagrams.store(false, Ordering::Release);
                queued.datagrams = VecDeque::new();
                queued.wake_socket = None;
            }
        }
        datagram
    }

    /// From now on mail is announced under `token`. What waits already is not: who registers a
    /// transport asks it at once.
    pub(super) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let handle = self.polls.handle(registry)?;
        self.shared.queued().registration = Some((handle, token));
        Ok(())
    }

    pub(super) fn deregister(&self) {
        let mut queued = self.shared.queued();
        // Closed, the bell is out of the poll.
        (queued.registration, queued.wake_socket) = (None, None);
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

    fn new_channel() -> (ForwardSender, ForwardQueue) {
        channel(&Arc::new(PollHandles::new().expect("a descriptor")))
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
        let (sender, queue) = new_channel();
        assert!(queue.pop().is_none());
        for remote in ["192.0.2.1:7", "[2001:db8::1]:9", "[::ffff:192.0.2.1]:7"] {
            let meta = meta(remote);
            assert!(sender.push(&meta, b"datagram"));
            let (read, content) = queue.pop().unwrap();
            assert_eq!((read.remote, read.ecn), (meta.remote, meta.ecn));
            assert_eq!(&content[..], b"datagram");
        }
        assert!(queue.pop().is_none());
    }

    #[test]
    fn a_full_or_orphaned_mailbox_refuses() {
        let (sender, queue) = new_channel();
        let meta = meta("192.0.2.1:7");
        assert!(!sender.push(&meta, &[0; QUEUE_LEN_MAX]));
        for bytes in [&[0; 1200][..], &[]] {
            let push = (0..10_000).take_while(|_| sender.push(&meta, bytes));
            assert!((100..10_000).contains(&push.count()));
            while queue.pop().is_some() {}
        }
        assert!(sender.push(&meta, b"there is room again"));
        drop(queue);
        assert!(!sender.push(&meta, b"x"));
    }

    #[test]
    fn mail_is_announced_where_the_transport_is_and_only_there() {
        let mut polls = [(); 2].map(|()| Poll::new().unwrap());
        let (sender, queue) = new_channel();
        let meta = meta("192.0.2.1:7");
        for _ in 0..2 {
            for (at, token) in [(0, 3), (1, 4), (1, 5)] {
                queue.register(polls[at].registry(), Token(token)).unwrap();
                assert!(polls.iter_mut().all(|poll| events(poll).is_empty()));
                for _ in 0..2 {
                    assert!(sender.push(&meta, b"a") && sender.push(&meta, b"b"));
                    assert_eq!(events(&mut polls[at]), [token]);
                    assert!(events(&mut polls[1 - at]).is_empty());
                    while queue.pop().is_some() {}
                }
                // Told, and not taken before it moves.
                assert!(sender.push(&meta, b"c"));
                queue.deregister();
                assert!(polls.iter_mut().all(|poll| events(poll).is_empty()));
                assert!(sender.push(&meta, b"d"));
                let taken = std::iter::from_fn(|| queue.pop());
                assert_eq!(
                    taken.map(|(_, content)| content[0]).collect::<Vec<_>>(),
                    b"cd"
                );
            }
        }
    }

    #[test]
    fn transports_at_one_poll_share_a_handle_to_it() {
        let [poll, other] = [(); 2].map(|()| Poll::new().unwrap());
        let polls = PollHandles::new().unwrap();
        let handle = |poll: &Poll| polls.handle(poll.registry()).unwrap();
        let (one, two, other_handle) = (handle(&poll), handle(&poll), handle(&other));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other_handle));
        assert!(Arc::ptr_eq(&other_handle, &handle(&other)));
        let gone = Arc::downgrade(&one);
        drop((one, two));
        assert!(gone.upgrade().is_none());
        let _known = handle(&poll);
        assert_eq!(polls.handles.lock().unwrap().len(), 2);
    }
}
