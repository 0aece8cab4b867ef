//! The figures of `docs/performance.md`: what the parts cost, against a real server in this process, over HTTP.
//!
//! `cargo bench` runs all; `cargo bench -- sync` those whose name contains "sync". Each line says what was done, how often,
//! and the median and 99th percentile of one. `FIGURES_EVENTS` sets the size of the large database (default 100,000; the
//! documented figure uses 1,000,000), `FIGURES_MEMBERS` that of the large room (10,000).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a benchmark ends in a panic when it fails, and prints

#[path = "../tests/common/mod.rs"]
mod common;
mod family;

use std::time::{Duration, Instant};

use common::{
    Client, TestServer, encode,
    net::TestNet,
    peer::{Peer, answer},
    synthetic::{Crowd, Size, SyntheticRoom},
};
use conduit::rooms::build::Draft;
use ruma::{UserId, events::StateEventType};
use serde_json::{json, value::RawValue};

/// Resident memory in MB of the process `id`; of this one, which is server and client in one, as `self`.
fn resident_mb(id: &str) -> f64 {
    status_mb(id, "VmRSS:")
}

/// What the system says of a process under a name, in MB.
fn status_mb(id: &str, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Begins to look for the highest resident memory anew; gives what it is now.
fn reset_peak() -> f64 {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    resident_mb("self")
}

/// A number from the environment.
fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
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
    let events = number("FIGURES_EVENTS", 100_000);
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
    println!("memory: server and client of this benchmark after that: {:.0} MB resident", resident_mb("self"));
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

/// A room of 10,000 members on 100 servers, with 20,000 more events in its auth chains: it is joined, written into, and
/// forked. Then the same for 100 small rooms at once.
async fn federation() {
    let net = TestNet::new();
    let (peer, crowd) = (Peer::new(&net, "peer").await, Crowd::new(&net, 100).await);
    peer.on("/_matrix/federation/v1/send/", |_| async { answer(200, &json!({ "pdus": {} })) });
    let members = number("FIGURES_MEMBERS", 10_000);
    let mut big = SyntheticRoom::new(&peer, &crowd, Size { members, changes: 2 });
    let server = net.server("a").await;
    crowd.lead(&net, "a");
    big.admit();
    let bob = server.register("bob").await;
    let before = reset_peak();
    measure(&format!("federation: join of a room of {members} members"), 1, |_| enter(&bob, &big)).await;
    println!(
        "  memory grew by at most {:.0} MB meanwhile, to {:.0} MB",
        status_mb("self", "VmHWM:") - before,
        resident_mb("self")
    );
    let rooms = server.handle.server().rooms.clone();
    big.take_joins();

    let say = |room: &mut SyntheticRoom, number: usize| {
        let sender = room.member(number % 3);
        room.say(&sender, "one of many").1
    };
    let pdus: Vec<_> = (0..1_000).map(|number| say(&mut big, number)).collect();
    receive("federation: 50 events of one room", &server, &big, &pdus).await;

    // What the room's admin does and what bob does do not know of each other.
    let (bob_id, admin) = (UserId::parse(&bob.user_id).unwrap(), big.admin());
    let mut forks = Vec::new();
    for number in 0..20 {
        let guard = rooms.lock(&big.id).await;
        let name = json!({ "membership": "join", "displayname": format!("Bob {number}") });
        rooms.send(&guard, &bob_id, Draft::state(StateEventType::RoomMember, bob_id.as_str(), &name).unwrap()).unwrap();
        let levels = json!({ "users": { &*admin: 100 }, "events_default": number % 2 });
        forks.push(big.set(&admin, "m.room.power_levels", "", levels).1);
    }
    measure("federation: an event that forks the room", 20, |index| {
        let (big, server, fork) = (&big, &server, vec![forks[index].clone()]);
        async move { accepted(&big.send(server, &format!("fork {index}"), &fork, &[]).await, 1) }
    })
    .await;
    for (_, times) in rooms.resolution_times() {
        println!("  resolutions: {}, {:?} together, the longest {:?}", times.count, times.total, times.longest);
    }

    let mut small = Vec::new();
    for _ in 0..100 {
        let mut room = SyntheticRoom::new(&peer, &crowd, Size { members: 3, changes: 0 });
        room.admit();
        enter(&bob, &room).await;
        room.take_joins();
        small.push(room);
    }
    let pdus: Vec<_> = (0..1_000).map(|number| say(&mut small[number % 100], number / 100)).collect();
    receive("federation: 50 events of 50 rooms", &server, &big, &pdus).await;
    server.stop().await;
}

/// Joins a room through the peer that has it.
async fn enter(client: &Client, room: &SyntheticRoom) {
    let path = format!("/_matrix/client/v3/join/{}?via={}", encode(room.id.as_str()), room.peer.name);
    let (status, answer) = client.post(&path, json!({})).await;
    assert_eq!(status, 200, "{answer}");
}

/// Sends the events in transactions of 50.
async fn receive(name: &str, server: &TestServer, from: &SyntheticRoom, pdus: &[Box<RawValue>]) {
    let chunks: Vec<_> = pdus.chunks(50).collect();
    measure(name, chunks.len(), |index| {
        let chunk = chunks[index];
        async move { accepted(&from.send(server, &format!("{name} {index}"), chunk, &[]).await, chunk.len()) }
    })
    .await;
}

/// That a transaction of so many events was taken in whole.
fn accepted((status, answer): &(http::StatusCode, serde_json::Value), events: usize) {
    let results = answer["pdus"].as_object().unwrap();
    assert!(
        *status == 200 && results.len() == events && results.values().all(|result| *result == json!({})),
        "{answer}"
    );
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
    if asked("federation") {
        Box::pin(federation()).await;
    }
    if asked("family") {
        Box::pin(family::run()).await;
    }
    if asked("start") {
        start().await;
    }
}
