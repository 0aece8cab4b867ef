//! Coming and going: joins by ID, by alias, through a restricted rule, after a knock; in each room version.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    common::encode,
    side::{Side, pair},
    talk::{
        agree, ask_to_join, does, in_room, join, leave, membership, membership_is, state_event, synced, tells, texts,
        until,
    },
};

both_ways!(
    by_id,
    by_alias,
    of_a_public_room_that_was_looked_up,
    of_a_restricted_room,
    after_a_knock,
    again_with_history,
    room_version_6,
    room_version_10,
    room_version_11,
    room_version_12,
);

async fn by_id(host: &Side, guest: &Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let private = alice.create_room(json!({ "preset": "private_chat" })).await;
    assert_eq!(ask_to_join(&bob, &private, &host.name()).await.0, StatusCode::FORBIDDEN);

    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Garden" })).await;
    tells(&alice, &alice, &room, "before").await;
    join(&bob, &alice, &room).await;
    tells(&alice, &bob, &room, "hello").await;
    tells(&bob, &alice, &room, "hello yourself").await;
    agree(&alice, &bob, &room).await;
    assert_eq!(state_event(&bob, &room, "m.room.name", "").await, Some(json!({ "name": "Garden" })));
    assert_eq!(texts(&bob, &room, 50).await, ["before", "hello", "hello yourself"]);

    leave(&bob, &room).await;
    membership_is(&alice, &room, &bob, "leave").await;
}

async fn by_alias(host: &Side, guest: &Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let name = alice.user_id.trim_start_matches('@').split(':').next().unwrap();
    let room = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": name })).await;
    let alias = format!("#{name}:{}", host.name());
    let path = format!("/_matrix/client/v3/directory/room/{}", encode(&alias));
    let found = bob.ok(Method::GET, &path, Value::Null).await;
    assert_eq!(found["room_id"], room);
    assert_eq!(found["servers"], json!([host.name()]));

    let none = format!("/_matrix/client/v3/directory/room/{}", encode(&format!("#none:{}", host.name())));
    let (status, answer) = bob.get(&none).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")));

    // The alias says through whom.
    bob.join(&alias).await;
    tells(&bob, &alice, &room, "found it").await;
}

async fn of_a_public_room_that_was_looked_up(host: &Side, guest: &Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let topic = format!("seen from afar by {}", bob.user_id);
    let options = json!({ "preset": "public_chat", "visibility": "public", "topic": topic });
    let room = alice.create_room(options).await;
    let path = format!("/_matrix/client/v3/publicRooms?server={}", encode(&host.name()));
    let found = until("the room is listed", async || {
        let filter = json!({ "filter": { "generic_search_term": "seen from afar" } });
        let answer = bob.ok(Method::POST, &path, filter).await;
        answer["chunk"].as_array().unwrap().iter().find(|entry| entry["room_id"] == room.as_str()).cloned()
    })
    .await;
    assert_eq!(found["topic"], topic);
    assert_eq!(found["num_joined_members"], 1);
    join(&bob, &alice, &room).await;
}

async fn of_a_restricted_room(host: &Side, guest: &Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let club = alice.create_room(json!({ "preset": "public_chat" })).await;
    let rule = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": club }] });
    let rule = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule }]);
    let room = alice.create_room(json!({ "initial_state": rule })).await;

    assert_eq!(ask_to_join(&bob, &room, &host.name()).await.0, StatusCode::FORBIDDEN);
    join(&bob, &alice, &club).await;
    join(&bob, &alice, &room).await;
    let member = state_event(&bob, &room, "m.room.member", &bob.user_id).await.unwrap();
    assert_eq!(member["join_authorised_via_users_server"], alice.user_id);
    tells(&bob, &alice, &room, "a member of the club").await;
    agree(&alice, &bob, &room).await;

    // The guest's server is in the room now, but none of its users may invite.
    let carol = guest.register("carol").await;
    assert_eq!(ask_to_join(&carol, &room, &host.name()).await.0, StatusCode::FORBIDDEN);
    join(&carol, &alice, &club).await;
    join(&carol, &alice, &room).await;
}

async fn after_a_knock(host: &Side, guest: &Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let room = knockable(&alice).await;
    assert_eq!(ask_to_join(&bob, &room, &host.name()).await.0, StatusCode::FORBIDDEN);
    knock(&bob, &room, &host.name()).await;
    membership_is(&alice, &room, &bob, "knock").await;
    let seen = synced(&bob, "the knock", |answer| {
        let events = answer["rooms"]["knock"][&room]["knock_state"]["events"].as_array()?.clone();
        events.into_iter().find(|event| event["type"] == "m.room.name")
    })
    .await;
    assert_eq!(seen["content"]["name"], "Behind a door");

    does(&alice, "invite", &room, &bob).await;
    synced(&bob, "the invitation", |answer| answer["rooms"]["invite"].get(&room).cloned()).await;
    join(&bob, &alice, &room).await;
    tells(&bob, &alice, &room, "thank you").await;
}

// Synapse does not tell other servers that a user of its own took a knock back. (Nor does it tell or take that one was
// refused: there is no test of that.)

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_knock_is_taken_back() {
    let (guest, host) = pair().await;
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let room = knockable(&alice).await;
    knock(&bob, &room, &host.name()).await;
    membership_is(&alice, &room, &bob, "knock").await;
    leave(&bob, &room).await;
    membership_is(&alice, &room, &bob, "leave").await;
}

async fn again_with_history(host: &Side, guest: &Side) {
    let (alice, bob) = (host.register("alice").await, guest.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join(&bob, &alice, &room).await;
    tells(&alice, &bob, &room, "first").await;
    leave(&bob, &room).await;
    membership_is(&alice, &room, &bob, "leave").await;
    for number in 0..5 {
        alice.send_text(&room, &format!("meanwhile {number}")).await;
    }
    alice.set_state(&room, "m.room.topic", "", json!({ "topic": "changed meanwhile" })).await;

    join(&bob, &alice, &room).await;
    assert_eq!(state_event(&bob, &room, "m.room.topic", "").await.unwrap()["topic"], "changed meanwhile");
    tells(&alice, &bob, &room, "welcome back").await;
    agree(&alice, &bob, &room).await;
    let mut all = vec!["first".to_owned()];
    all.extend((0..5).map(|number| format!("meanwhile {number}")));
    all.push("welcome back".to_owned());
    crate::talk::until_equal("bob sees all", all, async || texts(&bob, &room, 3).await).await;
}

async fn room_version_6(host: &Side, guest: &Side) {
    version(host, guest, "6").await;
}

async fn room_version_10(host: &Side, guest: &Side) {
    version(host, guest, "10").await;
}

async fn room_version_11(host: &Side, guest: &Side) {
    version(host, guest, "11").await;
}

async fn room_version_12(host: &Side, guest: &Side) {
    version(host, guest, "12").await;
}

/// A room of a version: members of both servers talk, change its state, invite, redact, go.
async fn version(host: &Side, guest: &Side, version: &str) {
    let (alice, bob, carol) =
        (host.register("alice").await, guest.register("bob").await, guest.register("carol").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "room_version": version })).await;
    join(&bob, &alice, &room).await;
    let create = state_event(&bob, &room, "m.room.create", "").await.unwrap();
    assert_eq!(create["room_version"], version);

    let mut levels = state_event(&alice, &room, "m.room.power_levels", "").await.unwrap();
    levels["users"][&bob.user_id] = json!(50);
    let promotion = alice.set_state(&room, "m.room.power_levels", "", levels).await;
    crate::talk::event(&bob, &room, &promotion).await;
    let topic = bob.set_state(&room, "m.room.topic", "", json!({ "topic": "by bob" })).await;
    crate::talk::event(&alice, &room, &topic).await;

    let slip = tells(&alice, &bob, &room, "a slip").await;
    let path = in_room(&room, &format!("redact/{}/1", encode(&slip)));
    bob.ok(Method::PUT, &path, json!({ "reason": "slipped" })).await;
    until("the redaction arrives", async || {
        let event = crate::talk::event(&alice, &room, &slip).await;
        event["content"].as_object().unwrap().is_empty().then_some(())
    })
    .await;

    does(&alice, "invite", &room, &carol).await;
    synced(&carol, "the invitation", |answer| answer["rooms"]["invite"].get(&room).cloned()).await;
    join(&carol, &alice, &room).await;
    does(&bob, "kick", &room, &carol).await;
    membership_is(&alice, &room, &carol, "leave").await;
    assert_eq!(membership(&bob, &room, &carol).await.as_deref(), Some("leave"));
    agree(&alice, &bob, &room).await;
}

async fn knockable(host: &crate::common::Client) -> String {
    let rule = json!([{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }]);
    host.create_room(json!({ "name": "Behind a door", "initial_state": rule })).await
}

async fn knock(user: &crate::common::Client, room: &str, via: &str) {
    let via = encode(via);
    let path = format!("/_matrix/client/v3/knock/{}?server_name={via}&via={via}", encode(room));
    user.ok(Method::POST, &path, json!({ "reason": "may I?" })).await;
}
