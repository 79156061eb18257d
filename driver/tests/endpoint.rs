//! The behaviour of an endpoint as its user sees it.

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use selvedge_driver::{
    AttachError, CloseReason, Endpoint, Event, FlushError, Inbox, Incoming, LaneId, SendBacklog,
    SendError, SessionConfig, TryRecvError,
};
use support::{PATIENCE, Two, expect_numbered, number, send_numbered, wait_for};

/// The smallest executor: parks the thread until it is woken.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park_timeout(PATIENCE),
        }
    }
}

#[test]
fn any_executor_can_send_and_receive() {
    let config = SessionConfig {
        send_buffer: 2000,
        ..SessionConfig::default()
    };
    let two = Two::with(1, config);
    two.connect(1);
    let sender = two.a.clone();
    let sending = std::thread::spawn(move || {
        block_on(async {
            for n in 0..2000 {
                sender
                    .send_async(LaneId::FIRST, number(n, 100))
                    .await
                    .unwrap();
            }
        });
    });
    block_on(async {
        for n in 0..2000 {
            let message = two.b.recv_async().await.unwrap();
            assert_eq!(support::number_of(&message.payload), n);
        }
    });
    sending.join().unwrap();
}

#[test]
fn a_flush_ends_when_the_peer_has_received_everything() {
    let two = Two::new(1);
    two.a.send(LaneId::FIRST, number(0, 100)).unwrap();
    let early = two.a.flush(Duration::ZERO);
    assert_eq!(
        early,
        Err(FlushError::TimedOut),
        "the peer is not connected yet"
    );
    two.connect(0);
    for n in 1..1000 {
        two.a.send(LaneId::FIRST, number(n, 100)).unwrap();
    }
    two.a.flush(PATIENCE).unwrap();
    for n in 0..1000 {
        let message = two.b.try_recv().expect("it has arrived already");
        assert_eq!(support::number_of(&message.payload), n);
    }
    two.a.send(LaneId::FIRST, number(1000, 100)).unwrap();
    block_on(two.a.flush_async()).unwrap();
    two.b.try_recv().expect("it has arrived already");
}

#[test]
fn the_counters_of_an_endpoint_that_only_sends_are_published() {
    let two = Two::new(1);
    two.connect(0);
    for round in 1..=10 {
        send_numbered(&two.a, 10).join().unwrap();
        two.a.flush(PATIENCE).unwrap();
        let sent = two.a.stats().bytes_sent;
        assert!(sent >= round * 10 * 64, "{sent} bytes after {round} rounds");
    }
}

#[test]
fn the_backlog_of_an_endpoint_is_what_the_peer_has_not_acknowledged() {
    let two = Two::new(1);
    assert_eq!(two.a.send_backlog(), SendBacklog::default());
    two.a.send(LaneId::FIRST, number(0, 100)).unwrap();
    let waiting = two.a.send_backlog();
    assert!(
        waiting.queued > 100 && waiting.in_flight == 0,
        "{waiting:?}"
    );
    two.connect(0);
    two.a.flush(PATIENCE).unwrap();
    assert_eq!(two.a.send_backlog(), SendBacklog::default());
}

#[test]
fn the_longest_timeout_does_not_overflow() {
    let two = Two::new(1);
    two.connect(0);
    let for_ever = Duration::MAX;
    two.a.send(LaneId::FIRST, number(0, 100)).unwrap();
    two.a.flush(for_ever).unwrap();
    assert!(two.b.wait_readable(Some(for_ever)));
    let message = two.b.recv_timeout(for_ever).unwrap();
    assert_eq!(support::number_of(&message.payload), 0);
    two.a.close();
    assert_eq!(two.a.wait_closed(for_ever), Some(CloseReason::Local));
    assert!(two.a.event_timeout(for_ever).is_some());
}

#[test]
fn neither_a_flush_nor_a_blocked_sender_waits_for_delayed_acknowledgements() {
    let config = SessionConfig {
        send_buffer: 2000,
        ack_delay: PATIENCE * 10,
        ..SessionConfig::default()
    };
    let two = Two::with(1, config);
    two.connect(0);
    for n in 0..10 {
        two.a.send(LaneId::FIRST, number(n, 900)).unwrap();
    }
    block_on(two.a.send_async(LaneId::FIRST, number(10, 900))).unwrap();
    two.a.send_parts(LaneId::FIRST, &[&[7; 900]]).unwrap();
    two.a.flush(PATIENCE).unwrap();
    two.a.send(LaneId::FIRST, number(11, 900)).unwrap();
    block_on(two.a.flush_async()).unwrap();
}

#[test]
fn a_flush_reports_messages_that_were_given_up() {
    let two = Two::new(1);
    two.a.send(LaneId::FIRST, number(0, 100)).unwrap();
    let mut flushing = pin!(two.a.flush_async());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(flushing.as_mut().poll(&mut cx).is_pending());
    two.a.abort();
    let given_up = block_on(flushing).unwrap_err();
    assert!(matches!(given_up, FlushError::AbandonedMessages(given_up) if given_up.messages == 1));
}

#[test]
fn a_small_window_slows_the_peer_down_and_loses_nothing() {
    let config = SessionConfig {
        receive_window: 4096,
        send_buffer: 8192,
        ..SessionConfig::default()
    };
    let two = Two::with(1, config);
    two.connect(0);
    let sender = send_numbered(&two.a, 5000);
    expect_numbered(&two.b, 5000);
    sender.join().unwrap();
}

#[test]
fn a_batch_that_fills_the_buffer_continues_where_it_stopped() {
    const COUNT: u64 = 5000;
    let two = Two::with(
        1,
        SessionConfig {
            receive_window: 4096,
            send_buffer: 8192,
            ..SessionConfig::default()
        },
    );
    two.connect(0);
    let sending = two.a.clone();
    let sender = std::thread::spawn(move || {
        let (mut next, mut waited) = (0, 0);
        block_on(std::future::poll_fn(|cx| {
            let mut batch = sending.sending();
            while next < COUNT {
                if batch.poll_room(cx, LaneId::FIRST, 16).is_pending() {
                    waited += 1;
                    return Poll::Pending;
                }
                let parts = [&next.to_be_bytes()[..], &[7; 8]];
                batch.try_send_parts(LaneId::FIRST, &parts).unwrap();
                next += 1;
            }
            Poll::Ready(())
        }));
        waited
    });
    let mut reader = two.b.reader();
    for n in 0..COUNT {
        let message = loop {
            match reader.try_recv() {
                Ok(message) => break message,
                Err(TryRecvError::Empty) => assert!(two.b.wait_readable(Some(PATIENCE))),
                Err(closed) => panic!("{closed}"),
            }
        };
        assert_eq!(message.payload[..8], n.to_be_bytes());
        assert_eq!(message.payload[8..], [7; 8]);
    }
    assert!(sender.join().unwrap() > 0, "the buffer was never full");
}

#[test]
fn messages_held_by_a_dropped_reader_return_to_the_queue() {
    let two = Two::new(1);
    two.connect(0);
    for text in ["one", "two", "three"] {
        two.a.send(LaneId::FIRST, Bytes::from(text)).unwrap();
    }
    two.a.flush(PATIENCE).unwrap();
    // All have arrived in the peer's process; its worker delivers them at once.
    let mut reader = two.b.reader();
    assert!(two.b.wait_readable(Some(PATIENCE)));
    assert_eq!(reader.try_recv().unwrap().payload, "one");
    drop(reader);
    assert_eq!(two.b.recv().unwrap().payload, "two");
    assert_eq!(two.b.recv().unwrap().payload, "three");
    let mut reader = two.b.reader();
    assert!(matches!(reader.try_recv(), Err(TryRecvError::Empty)));
    two.b.abort();
    assert!(two.b.wait_readable(None));
    assert!(matches!(reader.try_recv(), Err(TryRecvError::Closed(_))));
}

#[test]
fn a_select_returns_when_a_message_arrives() {
    let two = Two::new(1);
    two.connect(0);
    two.a
        .send(LaneId::FIRST, Bytes::from_static(b"hello"))
        .unwrap();
    let message = loop {
        crossbeam_channel::select! {
            recv(two.b.readable()) -> signal => signal.unwrap(),
            default(PATIENCE) => panic!("no signal"),
        }
        match two.b.try_recv() {
            Ok(message) => break message,
            Err(TryRecvError::Empty) => {}
            Err(closed) => panic!("{closed}"),
        }
    };
    assert_eq!(message.payload, "hello");
}

#[test]
fn an_orderly_close_delivers_all_accepted_messages() {
    for protocol in 0..3 {
        let two = Two::new(1);
        two.connect(protocol);
        let sender = send_numbered(&two.a, 10_000);
        sender.join().unwrap();
        two.a.close();
        expect_numbered(&two.b, 10_000);
        assert_eq!(two.b.recv().unwrap_err().0, CloseReason::Peer);
        let undelivered = wait_for(&two.a, |event| match event {
            Event::Closed {
                reason: CloseReason::Local,
                undelivered,
            } => Some(undelivered),
            _ => None,
        });
        assert!(undelivered.is_empty());
        let late = two.a.send(LaneId::FIRST, Bytes::new());
        assert!(matches!(late, Err(SendError::Closed(_))));
    }
}

/// Starts a thread that sends until the endpoint has closed. It returns the number of messages accepted.
fn send_until_refused(
    sender: &Endpoint,
    before_each: impl Fn() + Send + 'static,
) -> std::thread::JoinHandle<usize> {
    let sender = sender.clone();
    std::thread::spawn(move || {
        let accepted = |n: &u64| {
            before_each();
            sender.send(LaneId::FIRST, number(*n, 100)).is_ok()
        };
        (0..).take_while(accepted).count()
    })
}

#[test]
fn an_orderly_close_delivers_messages_sent_concurrently() {
    for _ in 0..100 {
        let two = Two::new(2);
        two.connect(1);
        // Slowly, so that everything is acknowledged from time to time.
        let sending = send_until_refused(&two.a, || (0..500).for_each(|_| std::hint::spin_loop()));
        let first = two.b.recv().unwrap();
        two.a.close();
        let rest = std::iter::from_fn(|| two.b.recv().ok());
        let arrived: Vec<_> = std::iter::once(first).chain(rest).collect();
        assert_eq!(two.a.wait_closed(PATIENCE), Some(CloseReason::Local));
        assert_eq!(arrived.len(), sending.join().unwrap());
    }
}

#[test]
fn all_undelivered_messages_are_reported_by_the_time_the_end_is_visible() {
    for _ in 0..20 {
        let two = Two::new(1);
        two.connect(0);
        let sending = send_until_refused(&two.a, || {});
        two.b.recv().unwrap();
        two.b.abort();
        assert_eq!(two.a.wait_closed(PATIENCE), Some(CloseReason::PeerAborted));
        let undelivered = std::iter::from_fn(|| two.a.try_event()).map(|event| match event {
            Event::Closed { undelivered, .. } => undelivered.len(),
            _ => 0,
        });
        let undelivered: usize = undelivered.sum();
        let arrived = 1 + std::iter::from_fn(|| two.b.try_recv().ok()).count();
        let sent = sending.join().unwrap();
        assert!(
            arrived + undelivered >= sent,
            "{sent} sent, {arrived} arrived, {undelivered} undelivered"
        );
    }
}

#[test]
fn an_endpoint_closed_before_it_is_connected_delivers_once_it_is() {
    let two = Two::new(1);
    send_numbered(&two.a, 1000).join().unwrap();
    two.a.close();
    // Until the close has been executed and sends are refused.
    let mut sent = 1000;
    loop {
        match two.a.try_send(LaneId::FIRST, number(sent, 8)) {
            Ok(()) => sent += 1,
            Err(SendError::Closed(_)) => break,
            Err(_) => std::thread::yield_now(),
        }
    }
    two.connect(0);
    let mut next = 0;
    while let Ok(message) = two.b.recv() {
        assert_eq!(support::number_of(&message.payload), next);
        next += 1;
    }
    assert_eq!(next, sent);
    assert_eq!(two.a.wait_closed(PATIENCE), Some(CloseReason::Local));
}

#[test]
fn a_stopped_driver_wakes_all_waiting_threads() {
    let two = Two::new(2);
    two.connect(0);
    let (a, b) = (two.a.clone(), two.b.clone());
    let waiting = std::thread::spawn(move || b.recv());
    drop(two);
    // Both ends stop here, in either order.
    assert!(waiting.join().unwrap().is_err());
    assert!(matches!(
        a.send(LaneId::FIRST, Bytes::new()),
        Err(SendError::Closed(_))
    ));
}

#[test]
fn a_connection_to_another_peer_is_refused() {
    let (one, other) = (Two::new(1), Two::new(1));
    let connected = other.dial_to_b();
    let refused = one.a.attach(connected).unwrap_err();
    assert!(
        matches!(refused, AttachError::WrongPeer { .. }),
        "{refused}"
    );
}

struct Echo(crossbeam_channel::Sender<Bytes>);

impl Inbox for Echo {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LaneId::FIRST) {
            assert_ne!(message.payload, "panic", "requested by the test");
            self.0.send(message.payload).expect("the test receives");
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

#[test]
fn an_inbox_that_panics_closes_its_endpoint_only() {
    let mut two = Two::new(1);
    let (got, messages) = crossbeam_channel::bounded(10);
    two.b = two.with_inbox(Box::new(Echo(got)));
    two.connect(0);
    two.a
        .send(LaneId::FIRST, Bytes::from_static(b"fine"))
        .unwrap();
    assert_eq!(messages.recv_timeout(PATIENCE).unwrap(), "fine");
    two.a
        .send(LaneId::FIRST, Bytes::from_static(b"panic"))
        .unwrap();
    assert_eq!(two.a.recv().unwrap_err().0, CloseReason::PeerAborted);
    let unaffected = Two::new(1);
    unaffected.connect(0);
    unaffected
        .a
        .send(LaneId::FIRST, Bytes::from_static(b"alive"))
        .unwrap();
    assert_eq!(unaffected.b.recv().unwrap().payload, "alive");
}

/// Panics when it is called for messages (none arrive) or when dropped messages are reported.
struct Fragile(crossbeam_channel::Sender<Event>);

impl Inbox for Fragile {
    fn on_messages(&mut self, _incoming: &mut Incoming<'_>) {
        panic!("requested by the test");
    }

    fn on_event(&mut self, event: Event) {
        assert!(
            !matches!(event, Event::Dropped { .. }),
            "requested by the test"
        );
        self.0.send(event).expect("the test receives");
    }
}

#[test]
fn events_not_delivered_to_an_inbox_that_panics_are_queued_for_the_user() {
    let two = Two::new(1);
    let config = SessionConfig {
        offline_policy: selvedge_endpoint::OfflinePolicy::DropOldest,
        send_buffer: 1000,
        ..SessionConfig::default()
    };
    let (seen, _events) = crossbeam_channel::bounded(10);
    let (own, peer) = (two.b.peer(), two.a.peer());
    let inbox = Box::new(Fragile(seen));
    let made = two.driver.endpoint_with_inbox(config, own, peer, inbox);
    let endpoint = made.unwrap();
    for n in 0..100 {
        endpoint.send(LaneId::FIRST, number(n, 100)).unwrap();
    }
    // The inbox receives an event about the dropped messages first.
    endpoint.abort();
    let undelivered = wait_for(&endpoint, |event| match event {
        Event::Closed { undelivered, .. } => Some(undelivered),
        _ => None,
    });
    let last = undelivered.last().map(|it| support::number_of(&it.payload));
    assert_eq!(last, Some(99));
}

#[test]
fn a_peer_is_notified_at_once_that_an_inbox_has_panicked() {
    let config = SessionConfig {
        heartbeat: 2 * PATIENCE,
        silence_max: 4 * PATIENCE,
        ..SessionConfig::default()
    };
    let mut two = Two::with(1, config.clone());
    let (seen, events) = crossbeam_channel::bounded(10);
    let (own, peer) = (two.a.peer(), two.b.peer());
    let inbox = Box::new(Fragile(seen));
    let made = two.driver.endpoint_with_inbox(config, own, peer, inbox);
    two.b = made.unwrap();
    two.connect(0);
    let attached = events.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(attached, Event::Attached { .. }), "{attached:?}");
    two.b.resume();
    let closed = two.a.recv_timeout(PATIENCE).unwrap_err();
    assert!(
        matches!(&closed, TryRecvError::Closed(closed) if closed.0 == CloseReason::PeerAborted),
        "{closed:?}"
    );
}

#[test]
fn n15_an_endpoint_whose_reader_has_stopped_blocks_no_other() {
    let two = Two::new(1);
    two.connect(0);
    let mut sent = 0;
    let mut send = || {
        let is_sent = two.a.try_send(LaneId::FIRST, number(sent, 10_000)).is_ok();
        sent += u64::from(is_sent);
        is_sent
    };
    // Until the send buffer, the connection and the receive window are full.
    loop {
        while send() {}
        let in_transit = Duration::from_millis(100);
        if two.a.flush(in_transit).is_err() && !send() {
            break;
        }
    }
    let others: Vec<_> = (0..9).map(|_| two.another()).collect();
    let senders: Vec<_> = others.iter().map(|(a, _)| send_numbered(a, 5000)).collect();
    for (_, b) in &others {
        expect_numbered(b, 5000);
    }
    for sender in senders {
        sender.join().unwrap();
    }
    expect_numbered(&two.b, sent);
}
