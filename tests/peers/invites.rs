//! Invitations to users of the other server.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    common::{Client, encode},
    side::Side,
    talk::{agree, ask_to_join, does, join, leave, membership, membership_is, synced, tells, until},
};

both_ways!(accepted, rejected, taken_back, of_one_who_was_there_before, into_a_conversation_of_two);

/// Waits until an invitation arrives; gives the state that comes with it.
async fn invited(user: &Client, room: &str) -> Vec<Value> {
    synced(user, "the invitation", |answer| {
        Some(answer["rooms"]["invite"].get(room)?["invite_state"]["events"].as_array()?.clone())
    })
    .await
}

async fn accepted(host: &Side, guest: &Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let room = alice.create_room(json!({ "preset": "private_chat", "name": "Kitchen" })).await;
    does(&alice, "invite", &room, &bob).await;
    let shown = invited(&bob, &room).await;
    let find = |kind: &str| shown.iter().find(|event| event["type"] == kind);
    assert_eq!(find("m.room.name").unwrap()["content"]["name"], "Kitchen");
    assert!(find("m.room.create").is_some());
    let member = |event: &&Value| event["type"] == "m.room.member" && event["state_key"] == bob.user_id.as_str();
    assert_eq!(shown.iter().find(member).unwrap()["content"]["membership"], "invite");

    join(&bob, &alice, &room).await;
    tells(&alice, &bob, &room, "come in").await;
    agree(&alice, &bob, &room).await;
}

async fn rejected(host: &Side, guest: &Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let room = alice.create_room(json!({ "preset": "private_chat", "invite": [bob.user_id] })).await;
    invited(&bob, &room).await;
    leave(&bob, &room).await;
    membership_is(&alice, &room, &bob, "leave").await;
    until("the invitation is gone", async || bob.sync("").await["rooms"]["invite"].get(&room).is_none().then_some(()))
        .await;
    assert_eq!(ask_to_join(&bob, &room, &host.name()).await.0, StatusCode::FORBIDDEN);
    bob.ok(Method::POST, &crate::talk::in_room(&room, "forget"), json!({})).await;
}

async fn taken_back(host: &Side, guest: &Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let room = alice.create_room(json!({ "preset": "private_chat", "invite": [bob.user_id] })).await;
    invited(&bob, &room).await;
    does(&alice, "kick", &room, &bob).await;
    synced(&bob, "that the invitation was taken back", |answer| answer["rooms"]["leave"].get(&room).cloned()).await;
    assert_eq!(ask_to_join(&bob, &room, &host.name()).await.0, StatusCode::FORBIDDEN);
}

async fn of_one_who_was_there_before(host: &Side, guest: &Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let room = alice.create_room(json!({ "preset": "private_chat", "invite": [bob.user_id] })).await;
    invited(&bob, &room).await;
    join(&bob, &alice, &room).await;
    leave(&bob, &room).await;
    membership_is(&alice, &room, &bob, "leave").await;
    does(&alice, "invite", &room, &bob).await;
    invited(&bob, &room).await;
    join(&bob, &alice, &room).await;
    tells(&alice, &bob, &room, "there you are").await;
    agree(&alice, &bob, &room).await;
}

async fn into_a_conversation_of_two(host: &Side, guest: &Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let options = json!({ "preset": "trusted_private_chat", "is_direct": true, "invite": [bob.user_id] });
    let room = alice.create_room(options).await;
    let shown = invited(&bob, &room).await;
    let member = |event: &&Value| event["type"] == "m.room.member" && event["state_key"] == bob.user_id.as_str();
    assert_eq!(shown.iter().find(member).unwrap()["content"]["is_direct"], true);
    join(&bob, &alice, &room).await;

    // Both are of the same power, so the guest may change what only the host may in other rooms.
    let id = bob.set_state(&room, "m.room.name", "", json!({ "name": "ours" })).await;
    crate::talk::event(&alice, &room, &id).await;

    // And may invite a third, of the host's server, who was not asked by anybody there.
    let carol = host.register("carol").await;
    does(&bob, "invite", &room, &carol).await;
    invited(&carol, &room).await;
    carol.join(&room).await;
    membership_is(&bob, &room, &carol, "join").await;
    assert_eq!(membership(&alice, &room, &carol).await.as_deref(), Some("join"));
    let path = format!("/_matrix/client/v3/profile/{}/displayname", encode(&carol.user_id));
    carol.ok(Method::PUT, &path, json!({ "displayname": "Carol" })).await;
    until("bob sees carol's name", async || {
        let member = crate::talk::state_event(&bob, &room, "m.room.member", &carol.user_id).await?;
        (member["displayname"] == "Carol").then_some(())
    })
    .await;
}
