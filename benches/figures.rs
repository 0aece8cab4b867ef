//! The figures of `docs/performance.md`: what the parts cost, against a real server in this process, over HTTP.
//!
//! `cargo bench` runs all; `cargo bench -- sync` those whose name contains "sync". Each line says what was done, how often,
//! and the median and 99th percentile of one. `FIGURES_EVENTS` sets the size of the large database (default 100,000; the
//! documented figure uses 1,000,000).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a benchmark ends in a panic when it fails, and prints

#[path = "../tests/common/mod.rs"]
mod common;
mod family;

use std::time::{Duration, Instant};

use common::{Client, TestServer, encode, net::TestNet};
use conduit::rooms::build::Draft;
use ruma::{OwnedRoomId, UserId, events::StateEventType};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

/// Resident memory in MB of the process `id`; of this one, which is server and client in one, as `self`.
fn resident_mb(id: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
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

/// A room of 10,000 members that another server joins, and what that server is sent then.
async fn federation() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    let id: OwnedRoomId = room.as_str().try_into().unwrap();
    let (own, other) = (a.handle.server().rooms.clone(), b.handle.server().rooms.clone());
    for number in 0..10_000 {
        let user = UserId::parse(format!("@user{number}:a.test")).unwrap();
        let guard = own.lock(&id).await;
        // Two events for each: they come in, and most change their name, which leaves the first in the auth chain.
        for content in [json!({"membership": "join"}), json!({"membership": "join", "displayname": "U"})] {
            let draft = Draft::state(StateEventType::RoomMember, user.as_str(), &content).unwrap();
            own.send(&guard, &user, draft).unwrap();
        }
    }
    let before = resident_mb("self");
    let path = format!("/_matrix/client/v3/join/{}?server_name=a.test", encode(&room));
    measure("federation: join of a room of 10,000 members", 1, |_| bob.post(&path, json!({}))).await;
    println!("  resident memory of both servers and the benchmark grew by {:.0} MB", resident_mb("self") - before);

    let alice_id = UserId::parse(&alice.user_id).unwrap();
    let version = ruma::RoomVersionId::V11;
    let mut events = Vec::new();
    for number in 0..1_000 {
        let content = to_raw_value(&json!({"msgtype": "m.text", "body": number.to_string()})).unwrap();
        let guard = own.lock(&id).await;
        let sent = own.send(&guard, &alice_id, Draft::message("m.room.message".into(), content)).unwrap();
        events.push(RawValue::from_string(sent.pdu.json).unwrap());
    }
    let verified = b.handle.server().federation.verify(&version, events.clone()).await.unwrap();
    measure("federation: signatures of 1,000 events", 5, |_| {
        b.handle.server().federation.verify(&version, events.clone())
    })
    .await;
    let mut verified = verified.into_iter();
    let guard = other.lock(&id).await;
    measure("federation: an event received", 1_000, |_| other.receive(&guard, verified.next().unwrap().1.unwrap()))
        .await;

    // Both sides change state without hearing of each other.
    let bob_id = UserId::parse(&bob.user_id).unwrap();
    let mut forks = Vec::new();
    for number in 0..20 {
        let name = json!({"membership": "join", "displayname": format!("Bob {number}")});
        let draft = Draft::state(StateEventType::RoomMember, bob_id.as_str(), &name).unwrap();
        other.send(&guard, &bob_id, draft).unwrap();
        let own_guard = own.lock(&id).await;
        let levels = json!({"users": {alice_id.as_str(): 100}, "events_default": number % 2});
        let draft = Draft::state(StateEventType::RoomPowerLevels, "", &levels).unwrap();
        let sent = own.send(&own_guard, &alice_id, draft).unwrap();
        forks.push(RawValue::from_string(sent.pdu.json).unwrap());
    }
    let mut forks = b.handle.server().federation.verify(&version, forks).await.unwrap().into_iter();
    measure("federation: an event that forks this room", 20, |_| {
        other.receive(&guard, forks.next().unwrap().1.unwrap())
    })
    .await;
    for (_, times) in other.resolution_times() {
        println!("  resolutions: {}, {:?} together, the longest {:?}", times.count, times.total, times.longest);
    }
    drop(guard);
    a.stop().await;
    b.stop().await;
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
