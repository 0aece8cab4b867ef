//! The figures of `docs/performance.md`: what the parts cost, against a real server in this process, over HTTP.
//!
//! `cargo bench` runs all; `cargo bench -- sync` those whose name contains "sync". Each line says what was done, how often,
//! and the median and 99th percentile of one. `FIGURES_EVENTS` sets the size of the large database (default 100,000; the
//! documented figure uses 1,000,000).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a benchmark ends in a panic when it fails, and prints

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Client, TestServer, encode};
use conduit::rooms::build::Draft;
use serde_json::json;

/// Resident memory of this process (server and client in one) in MB.
fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Runs `work` `count` times one after another and prints how long one takes.
async fn measure<F: Future>(name: &str, count: usize, mut work: impl FnMut(usize) -> F) {
    let mut times: Vec<Duration> = Vec::with_capacity(count);
    for index in 0..count {
        let start = Instant::now();
        work(index).await;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let ms = |place: usize| times[place.min(count - 1)].as_secs_f64() * 1000.0;
    println!("{name:<58} n={count:<6} p50={:>8.3} ms  p99={:>8.3} ms", ms(count / 2), ms(count * 99 / 100));
}

async fn rooms(client: &Client, count: usize) -> Vec<String> {
    let mut rooms = Vec::with_capacity(count);
    for index in 0..count {
        rooms.push(client.create_room(json!({ "name": format!("Room {index}"), "preset": "private_chat" })).await);
    }
    rooms
}

async fn append() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = rooms(&alice, 1).await.remove(0);
    measure("append: a message, one at a time, durable", 2000, |_| alice.send_text(&room, "hello")).await;
    server.stop().await;
}

async fn sync() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let rooms = rooms(&alice, 1000).await;
    for room in &rooms {
        alice.send_text(room, "hello").await;
    }
    let path = format!("/_matrix/client/v3/rooms/{}/invite", encode(&rooms[0]));
    alice.ok(http::Method::POST, &path, json!({ "user_id": bob.user_id })).await;
    bob.join(&rooms[0]).await;
    let mut since = alice.sync("").await["next_batch"].as_str().unwrap().to_owned();
    measure("sync: nothing new, 1,000 rooms joined", 500, |_| {
        let (alice, since) = (alice.clone(), since.clone());
        async move { alice.sync(&format!("since={since}&timeout=0")).await }
    })
    .await;
    let mut times = Vec::new();
    for index in 0..300 {
        bob.send_text(&rooms[0], &format!("message {index}")).await;
        let start = Instant::now();
        let answer = alice.sync(&format!("since={since}&timeout=0")).await;
        times.push(start.elapsed());
        since = answer["next_batch"].as_str().unwrap().to_owned();
        assert_eq!(answer["rooms"]["join"].as_object().unwrap().len(), 1);
    }
    times.sort_unstable();
    println!(
        "{:<58} n=300    p50={:>8.3} ms  p99={:>8.3} ms",
        "sync: 1 changed room of 1,000 joined",
        times[150].as_secs_f64() * 1000.0,
        times[297].as_secs_f64() * 1000.0
    );
    measure("sync: initial, 1,000 rooms", 10, |_| alice.sync("")).await;
    let window = json!({
        "conn_id": "bench",
        "lists": { "all": {
            "ranges": [[0, 19]],
            "timeline_limit": 1,
            "required_state": [["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"]],
        } },
    });
    let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0";
    measure("sync: sliding, first window of 20 of 1,000 rooms", 100, |_| {
        alice.ok(http::Method::POST, path, window.clone())
    })
    .await;
    server.stop().await;

    let server = TestServer::start().await;
    let carol = server.register("carol").await;
    for room in self::rooms(&carol, 200).await {
        for index in 0..20 {
            carol.send_text(&room, &format!("message {index}")).await;
        }
    }
    measure("sync: initial, 200 rooms of 20 messages", 20, |_| carol.sync("")).await;
    server.stop().await;
}

async fn start() {
    let events: usize = std::env::var("FIGURES_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let rooms = rooms(&alice, 100).await;
    let began = Instant::now();
    let state = server.handle.server().clone();
    let sender = ruma::UserId::parse(&alice.user_id).unwrap();
    for index in 0..events {
        let room = ruma::RoomId::parse(&rooms[index % rooms.len()]).unwrap();
        let guard = state.rooms.lock(&room).await;
        let content = json!({ "msgtype": "m.text", "body": format!("message {index} of many") });
        let content = serde_json::value::to_raw_value(&content).unwrap();
        state.rooms.send(&guard, &sender, Draft::message("m.room.message".into(), content)).unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("append: {events} events by the room engine alone: {:.0} a second", events as f64 / seconds);
    println!("memory: server and client of this benchmark after that: {:.0} MB resident", resident_mb());
    drop(state);
    let directory = server.stop().await;
    let began = Instant::now();
    let server = TestServer::start_in(directory, |_| {}).await;
    let listening = began.elapsed();
    server.anyone().get("/_matrix/client/versions").await;
    println!(
        "start: listening after {:.1} ms, first answer after {:.1} ms, database of {events} events",
        listening.as_secs_f64() * 1000.0,
        began.elapsed().as_secs_f64() * 1000.0
    );
    server.stop().await;
}

#[tokio::main]
async fn main() {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let asked = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str()));
    if asked("append") {
        append().await;
    }
    if asked("sync") {
        sync().await;
    }
    if asked("start") {
        start().await;
    }
}
