//! Rough measurements that reveal a collapse. Run with `--release -- --ignored --nocapture`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use selvedge_transport::{Admission, FrameOrder, Identity, Instant, QuicDialer, UdpDialer};

use crate::quic_connections::listener;
use crate::test_bed::TestBed;
use crate::udp;

/// Runs the dialer with `ours` and the listener with `theirs`, on a thread each.
fn on_two_threads(
    ours: impl FnOnce(&mut TestBed, usize),
    theirs: impl FnOnce(&mut TestBed) + Send + 'static,
) {
    let (sender, address) = mpsc::channel();
    let server = thread::spawn(move || {
        let mut bed = TestBed::new();
        sender
            .send(bed.listen(listener(
                &Identity::generate().unwrap(),
                Admission::anyone(),
            )))
            .unwrap();
        theirs(&mut bed);
    });
    let mut bed = TestBed::new();
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let dialing = bed.dial(&dialer, address.recv().unwrap(), None);
    bed.until("it is open", |bed| bed.sides[dialing].is_open());
    ours(&mut bed, dialing);
    server.join().unwrap();
}

fn bulk(len: usize, total: usize) {
    let frames = total / len;
    let started = Instant::now();
    on_two_threads(
        move |bed, dialing| {
            let body = Bytes::from(vec![7; len]);
            for _ in 0..frames {
                bed.sides[dialing].push(FrameOrder::Lane(0), body.clone());
            }
            bed.until("all is sent", |bed| !bed.sides[dialing].inbox.is_empty());
        },
        move |bed| {
            let mut got = 0;
            let mut began = None;
            bed.until("everything has arrived", |bed| {
                if let Some(side) = bed.sides.first_mut() {
                    if !side.inbox.is_empty() && began.is_none() {
                        began = Some(Instant::now());
                    }
                    got += side.inbox.len();
                    side.inbox.clear();
                }
                got == frames
            });
            let took = began.unwrap().elapsed().as_secs_f64();
            println!(
                "bulk {len} B: {:.0} MB/s, {:.2} M/s",
                total as f64 / took / 1e6,
                frames as f64 / took / 1e6
            );
            bed.sides[0].push(FrameOrder::Control, Bytes::from_static(b"done"));
            bed.turn(Duration::ZERO);
            bed.turn(Duration::from_millis(50));
        },
    );
    println!("  with connecting: {:?}", started.elapsed());
}

#[test]
#[ignore = "a measurement: .ci/figures runs it"]
fn bulk_and_round_trip() {
    for _ in 0..2 {
        bulk(64 * 1024, 4 << 30);
        bulk(8 * 1024, 2 << 30);
        bulk(1024, 1 << 30);
        bulk(64, 1 << 28);
    }
    round_trip();
}

/// Prints the rates of both sides, because the receiver may lose datagrams.
#[test]
#[ignore = "a measurement: .ci/figures runs it"]
fn datagrams_of_plain_udp() {
    for len in [64, 1000, 1191] {
        let mut bed = TestBed::new();
        bed.listen(udp::listener(
            &Identity::generate().unwrap(),
            Admission::anyone(),
        ));
        let dialer = UdpDialer::new(Identity::generate().unwrap());
        let (dialing, accepted) = bed.connect(&dialer);
        let mut other = TestBed::new();
        let moved = bed.remove(accepted.max(dialing));
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        let receiver = thread::spawn(move || {
            let place = other.adopt(moved);
            let mut got = 0;
            while !until.load(Ordering::Relaxed) {
                other.turn(Duration::from_millis(1));
                got += other.sides[place].inbox.len();
                other.sides[place].inbox.clear();
            }
            got
        });
        const FRAMES: usize = 4_000_000;
        let body = Bytes::from(vec![7; len]);
        for _ in 0..FRAMES {
            bed.sides[0].push(FrameOrder::Lane(0), body.clone());
        }
        let began = Instant::now();
        while !bed.sides[0].queue.frames.is_empty() {
            bed.turn(Duration::ZERO);
        }
        let took = began.elapsed().as_secs_f64();
        is_over.store(true, Ordering::Relaxed);
        let got = receiver.join().unwrap();
        println!(
            "udp {len} B: sent {:.2} M/s, received {:.2} M/s",
            FRAMES as f64 / took / 1e6,
            got as f64 / took / 1e6
        );
    }
}

fn round_trip() {
    const ROUNDS: usize = 20_000;
    on_two_threads(
        |bed, dialing| {
            let body = Bytes::from(vec![7; 64]);
            let mut times = Vec::with_capacity(ROUNDS);
            for _ in 0..ROUNDS {
                let began = Instant::now();
                bed.sides[dialing].push(FrameOrder::Lane(0), body.clone());
                bed.turn(Duration::ZERO);
                while bed.sides[dialing].inbox.is_empty() {
                    bed.turn(Duration::from_millis(20));
                }
                bed.sides[dialing].inbox.clear();
                times.push(began.elapsed());
            }
            times.sort();
            println!(
                "round trip of 64 B: p50 {:?} p99 {:?}",
                times[ROUNDS / 2],
                times[ROUNDS * 99 / 100]
            );
        },
        |bed| {
            let mut seen = 0;
            while seen < ROUNDS {
                bed.turn(Duration::from_millis(20));
                let Some(side) = bed.sides.first_mut() else {
                    continue;
                };
                if let Some(frame) = side.inbox.pop() {
                    seen += 1;
                    side.push(FrameOrder::Lane(0), frame);
                    bed.turn(Duration::ZERO);
                }
            }
            bed.turn(Duration::from_millis(50));
        },
    );
}
