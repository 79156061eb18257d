//! NATS through its Rust client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::job::Job;
use crate::meter::Meter;
use crate::nats_lean::{ACK, PROBE_INTERVAL, PROBED, QUESTION, window};
use crate::quic::block_on;

async fn connect(at: &str) -> Client {
    let client = async_nats::connect(at).await;
    client.expect("the server runs")
}

/// Echoes each request.
pub(crate) fn echo(job: &'static Job) {
    block_on(async move {
        let client = connect(job.address()).await;
        let mut questions = client.subscribe(QUESTION).await.expect("a subject");
        client.flush().await.expect("it is open");
        job.ready("");
        while let Some(question) = questions.next().await {
            let reply = question.reply.expect("a request has one");
            let answered = client.publish(reply, question.payload).await;
            answered.expect("it is open");
        }
    });
}

/// Sends requests, one at a time.
pub(crate) fn ask(job: &'static Job) {
    block_on(async move {
        let client = connect(job.address()).await;
        let payload = Bytes::from(job.payload());
        job.ready("");
        loop {
            let asked = Instant::now();
            if client.request(QUESTION, payload.clone()).await.is_err() {
                return;
            }
            job.meter.trip(asked.elapsed());
        }
    });
}

/// Counts messages and acknowledges them to the publisher.
async fn count_on(client: Client, mut messages: Subscriber, meter: Arc<Meter>, window: u64) {
    let mut taken = 0;
    while let Some(message) = messages.next().await {
        if message.payload.is_empty() {
            let answered = client.publish(ACK, PROBED.into()).await;
            answered.expect("it is open");
            continue;
        }
        meter.add_shared(1, message.payload.len());
        taken += 1;
        if taken % (window / 4) == 0 {
            let published = client.publish(ACK, Bytes::new()).await;
            published.expect("it is open");
        }
    }
}

/// Several subscribers, each on its own connection.
pub(crate) fn count(job: &'static Job, subscribers: u64) {
    block_on(async move {
        let window = window(job.size(), subscribers);
        let mut tasks = Vec::new();
        for _ in 0..subscribers {
            let client = connect(job.far_address()).await;
            let messages = client.subscribe(QUESTION).await.expect("a subject");
            client.flush().await.expect("it is open");
            let counting = count_on(client, messages, Arc::clone(&job.meter), window);
            tasks.push(tokio::spawn(counting));
        }
        job.ready("");
        for task in tasks {
            task.await.expect("counting does not panic");
        }
    });
}

/// Waits until messages pass from end to end, as the lean client does.
async fn probe(client: &Client, acks: &mut Subscriber) {
    loop {
        let asked = client.publish(QUESTION, Bytes::new()).await;
        asked.expect("it is open");
        if timeout(PROBE_INTERVAL, acks.next()).await.is_ok() {
            return;
        }
    }
}

/// Publishes as fast as the subscribers receive, so that the server does not disconnect slow ones.
pub(crate) fn flood(job: &'static Job, subscribers: u64) {
    block_on(async move {
        let window = window(job.size(), subscribers);
        let client = connect(job.address()).await;
        let mut acks = client.subscribe(ACK).await.expect("a subject");
        client.flush().await.expect("it is open");
        probe(&client, &mut acks).await;
        let taken = Arc::new((AtomicU64::new(0), Notify::new()));
        let acknowledged = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Some(ack) = acks.next().await {
                if ack.payload.is_empty() {
                    acknowledged.0.fetch_add(window / 4, Ordering::Relaxed);
                    acknowledged.1.notify_one();
                }
            }
        });
        let payload = Bytes::from(job.payload());
        job.ready("");
        let mut sent = 0_u64;
        loop {
            while sent * subscribers - taken.0.load(Ordering::Relaxed) >= window * subscribers {
                taken.1.notified().await;
            }
            if client.publish(QUESTION, payload.clone()).await.is_err() {
                return;
            }
            sent += 1;
        }
    });
}
