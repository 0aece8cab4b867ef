//! What a client misses while it is away reaches it when it is back: gaps, many rooms, a server that was restarted.

use std::sync::Arc;

use matrix_sdk::ruma::RoomId;

use crate::{
    common::TestServer,
    device::{Device, How, room_with, text, until, until_equal},
    encryption::encrypted_dm,
};

however_it_syncs!(a_long_absence, encrypted_while_away, a_restarted_server);

async fn a_long_absence(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let id = room_with(&alice, "Chronicle", &[&bob]).await;
    let mut wanted = Vec::new();
    for number in 0..5 {
        wanted.push(format!("before {number}"));
        alice.say(&id, &wanted[number]).await;
    }
    bob.reads(&id, "before 4").await;
    bob.pause().await;
    // More than a sync brings: the client finds a gap and fills it from the history.
    for number in 0..60 {
        wanted.push(format!("meanwhile {number}"));
        alice.say(&id, wanted.last().unwrap()).await;
    }
    let elsewhere = room_with(&alice, "Elsewhere", &[]).await;
    alice.joined(&elsewhere).await.invite_user_by_id(bob.me()).await.unwrap();
    bob.resume().await;
    bob.reads(&id, "meanwhile 59").await;
    bob.room_in(&elsewhere, matrix_sdk::RoomState::Invited).await;
    alice.say(&id, "after").await;
    wanted.push("after".to_owned());
    bob.reads(&id, "after").await;
    fill(&bob, &id).await;
    assert_eq!(bob.texts(&id).await, wanted);
}

/// Paginates backwards until the client holds the whole room.
async fn fill(device: &Device, room: &RoomId) {
    let (cache, _guards) = device.joined(room).await.event_cache().await.unwrap();
    let pagination = cache.pagination();
    until("the start of the room", async || {
        pagination.run_backwards_once(20).await.unwrap().reached_start.then_some(())
    })
    .await;
    let events = cache.events().await.unwrap();
    let ids: std::collections::BTreeSet<_> = events.iter().filter_map(|event| event.event_id()).collect();
    assert_eq!(ids.len(), events.len(), "an event came twice");
    assert!(events.first().and_then(text).is_none(), "a room begins with its creation");
}

async fn encrypted_while_away(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let dm = encrypted_dm(&alice, &bob).await;
    alice.say(&dm, "here").await;
    bob.reads(&dm, "here").await;
    bob.pause().await;
    // While he is away she gets another device, and each message has a key of its own.
    let tablet = Device::login(&server, "alice", how).await;
    for number in 0..7 {
        alice.joined(&dm).await.discard_room_key().await.unwrap();
        alice.say(&dm, &format!("key {number}")).await;
    }
    tablet.say(&dm, "from the tablet").await;
    bob.resume().await;
    for number in 0..7 {
        bob.reads(&dm, &format!("key {number}")).await;
    }
    bob.reads(&dm, "from the tablet").await;
    bob.say(&dm, "read all").await;
    tablet.reads(&dm, "read all").await;
    alice.reads(&dm, "read all").await;
}

async fn a_restarted_server(how: How) {
    let server = TestServer::start().await;
    let port = server.address.port();
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let dm = encrypted_dm(&alice, &bob).await;
    alice.say(&dm, "before").await;
    bob.reads(&dm, "before").await;
    alice.pause().await;
    bob.pause().await;
    let directory = server.stop().await;
    let _server = TestServer::start_in(Arc::clone(&directory), |config| config.port = vec![port]).await;
    alice.resume().await;
    bob.resume().await;
    alice.say(&dm, "after").await;
    bob.reads(&dm, "after").await;
    bob.say(&dm, "indeed").await;
    alice.reads(&dm, "indeed").await;
    until_equal("all of it", vec!["before", "after", "indeed"].into_iter().map(str::to_owned).collect(), async || {
        bob.texts(&dm).await
    })
    .await;
}
