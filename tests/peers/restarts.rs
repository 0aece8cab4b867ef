//! Each server is down for a while; nothing is lost.

use serde_json::json;

use crate::{
    common::Client,
    side::Ours,
    synapse::Synapse,
    talk::{agree, event, join, tells, texts, until_equal},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_server_in_turn() {
    let (synapse, mut ours) = tokio::join!(Synapse::start("restarts"), Ours::start());
    let alice = ours.server().register("alice").await;
    let bob = synapse.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join(&bob, &alice, &room).await;
    tells(&alice, &bob, &room, "both are up").await;
    let mut said = vec!["both are up".to_owned()];

    // Ours is down.
    ours.stop().await;
    let mut missed = speak(&bob, &room, "ours is down").await;
    ours.resume().await;
    let alice = alice.at(ours.server());
    until_equal("alice has what she missed", wanted(&said, &missed), async || texts(&alice, &room, 10).await).await;
    said.append(&mut missed);
    tells(&alice, &bob, &room, "ours is up").await;
    said.push("ours is up".to_owned());
    agree(&alice, &bob, &room).await;

    // Synapse is down, and ours is started again in between, with the queue on the disk.
    synapse.stop().await;
    let mut missed = speak(&alice, &room, "Synapse is down").await;
    ours.stop().await;
    ours.resume().await;
    let alice = alice.at(ours.server());
    synapse.resume().await;
    until_equal("bob has what he missed", wanted(&said, &missed), async || texts(&bob, &room, 10).await).await;
    said.append(&mut missed);
    tells(&bob, &alice, &room, "Synapse is up").await;
    said.push("Synapse is up".to_owned());
    agree(&alice, &bob, &room).await;
    assert_eq!(texts(&alice, &room, 10).await, said);

    // What the one that was down never saw is not needed to go on.
    let topic = alice.set_state(&room, "m.room.topic", "", json!({ "topic": "the end" })).await;
    event(&bob, &room, &topic).await;
    ours.stop().await;
}

/// Says a few things; gives them.
async fn speak(user: &Client, room: &str, what: &str) -> Vec<String> {
    let texts: Vec<_> = (0..4).map(|number| format!("{what}, {number}")).collect();
    for text in &texts {
        user.send_text(room, text).await;
    }
    texts
}

fn wanted(said: &[String], missed: &[String]) -> Vec<String> {
    said.iter().chain(missed).cloned().collect()
}
