//! What happens in a room of both servers.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    common::{Client, encode},
    side::Side,
    talk::{
        agree, ask_to_join, does, event, in_room, join, membership, membership_is, state_event, synced, tells, texts,
        until, until_equal,
    },
};

both_ways!(
    relations_and_redactions,
    typing_and_receipts,
    presence,
    media,
    history_is_fetched,
    history_before_the_join_is_hidden,
    kicks_and_bans,
    a_banned_server,
    upgrade,
    spaces,
    names_of_users,
    both_change_at_once,
);

/// A public room of `host` that one user of each server is in.
async fn shared_room(host: &Side, guest: &Side) -> (Client, Client, String) {
    let (alice, bob) = tokio::join!(host.register("alice"), guest.register("bob"));
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join(&bob, &alice, &room).await;
    (alice, bob, room)
}

async fn relations_and_redactions(host: &Side, guest: &Side) {
    let (alice, bob, room) = shared_room(host, guest).await;
    let id = tells(&alice, &bob, &room, "a thouhgt").await;
    let relation = json!({ "rel_type": "m.annotation", "event_id": id, "key": "👍" });
    let like = bob.send(&room, "m.reaction", json!({ "m.relates_to": relation })).await;
    assert_eq!(event(&alice, &room, &like).await["content"]["m.relates_to"]["key"], "👍");

    let edit = json!({
        "msgtype": "m.text", "body": "* a thought",
        "m.new_content": { "msgtype": "m.text", "body": "a thought" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": id },
    });
    let edit = alice.send(&room, "m.room.message", edit).await;
    event(&bob, &room, &edit).await;
    let replaced = event(&bob, &room, &id).await;
    assert_eq!(replaced["unsigned"]["m.relations"]["m.replace"]["event_id"], edit);

    let thread = json!({ "msgtype": "m.text", "body": "and another", "m.relates_to": { "rel_type": "m.thread", "event_id": id } });
    let answer = bob.send(&room, "m.room.message", thread).await;
    event(&alice, &room, &answer).await;
    let path = format!("/_matrix/client/v1/rooms/{}/threads", encode(&room));
    let threads = alice.ok(Method::GET, &path, Value::Null).await;
    assert_eq!(threads["chunk"][0]["event_id"], id);

    for (user, other, target) in [(&bob, &alice, &like), (&alice, &bob, &id)] {
        let path = in_room(&room, &format!("redact/{}/{}", encode(target), encode(&user.device_id)));
        user.ok(Method::PUT, &path, json!({})).await;
        until("the redaction arrives", async || {
            event(other, &room, target).await["unsigned"].get("redacted_because").map(|_| ())
        })
        .await;
    }
}

async fn typing_and_receipts(host: &Side, guest: &Side) {
    let (alice, bob, room) = shared_room(host, guest).await;
    let id = tells(&alice, &bob, &room, "did you see this?").await;
    for (user, other) in [(&bob, &alice), (&alice, &bob)] {
        let path = in_room(&room, &format!("typing/{}", encode(&user.user_id)));
        user.ok(Method::PUT, &path, json!({ "typing": true, "timeout": 20_000 })).await;
        synced(other, "that the other is typing", |answer| {
            let typing = ephemeral(answer, &room, "m.typing")?["content"]["user_ids"].clone();
            typing.as_array()?.contains(&json!(user.user_id)).then_some(())
        })
        .await;
        user.ok(Method::PUT, &path, json!({ "typing": false })).await;
    }
    let path = in_room(&room, &format!("receipt/m.read/{}", encode(&id)));
    bob.ok(Method::POST, &path, json!({})).await;
    let receipt = |answer: &Value| {
        let receipts = ephemeral(answer, &room, "m.receipt")?["content"][&id]["m.read"].clone();
        Some(receipts.get(&bob.user_id)?["ts"].is_u64())
    };
    assert!(synced(&alice, "the receipt", receipt).await);
}

/// An ephemeral event of a room in an answer of `/sync`.
fn ephemeral(answer: &Value, room: &str, kind: &str) -> Option<Value> {
    let events = answer["rooms"]["join"].get(room)?["ephemeral"]["events"].as_array()?;
    events.iter().find(|event| event["type"] == kind).cloned()
}

async fn presence(host: &Side, guest: &Side) {
    // A server of ours tells others only if its administrator wants that, so here it is Synapse's user who is seen.
    let (theirs, ours) = if matches!(host, Side::Theirs(_)) { (host, guest) } else { (guest, host) };
    let (alice, bob, _) = shared_room(theirs, ours).await;
    let path = format!("/_matrix/client/v3/presence/{}/status", encode(&alice.user_id));
    alice.ok(Method::PUT, &path, json!({ "presence": "online", "status_msg": "in the garden" })).await;
    synced(&bob, "alice's presence", |answer| {
        let events = answer["presence"]["events"].as_array()?;
        let of_alice = events.iter().find(|event| event["sender"] == alice.user_id.as_str())?;
        (of_alice["content"]["status_msg"] == "in the garden").then_some(())
    })
    .await;
}

async fn media(host: &Side, guest: &Side) {
    let (alice, bob, _) = shared_room(host, guest).await;
    let picture = png(300, 200);
    let (status, answer) =
        alice.raw(Method::POST, "/_matrix/media/v3/upload?filename=garden.png", "image/png", picture.clone()).await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let uri = answer["content_uri"].as_str().unwrap().trim_start_matches("mxc://").to_owned();

    let path = format!("/_matrix/client/v1/media/download/{uri}");
    let (status, headers, body) = bob.full(Method::GET, &path, &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "image/png");
    assert!(headers["content-disposition"].to_str().unwrap().contains("garden.png"));
    assert_eq!(body, picture);

    let path = format!("/_matrix/client/v1/media/thumbnail/{uri}?width=32&height=32&method=crop");
    let (status, headers, body) = bob.full(Method::GET, &path, &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(headers["content-type"].to_str().unwrap().starts_with("image/"));
    assert!(!body.is_empty() && body.len() < picture.len());

    let path = format!("/_matrix/client/v1/media/download/{}/none", host.name());
    assert_eq!(bob.get(&path).await.0, StatusCode::NOT_FOUND);
}

/// A picture of one colour.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let noise = |x: u32, y: u32| image::Rgb([(x * y % 251) as u8, (x % 256) as u8, (y % 256) as u8]);
    image::RgbImage::from_fn(width, height, noise).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

async fn history_is_fetched(host: &Side, guest: &Side) {
    let (alice, bob) = tokio::join!(host.register("alice"), guest.register("bob"));
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let mut said: Vec<_> = (0..60).map(|number| format!("line {number}")).collect();
    for text in &said {
        alice.send_text(&room, text).await;
    }
    join(&bob, &alice, &room).await;
    tells(&alice, &bob, &room, "that was all").await;
    said.push("that was all".to_owned());
    until_equal("bob pages back to the first", said, async || texts(&bob, &room, 10).await).await;
}

async fn history_before_the_join_is_hidden(host: &Side, guest: &Side) {
    let (alice, bob) = tokio::join!(host.register("alice"), guest.register("bob"));
    let visibility = json!({ "history_visibility": "joined" });
    let visibility = json!([{ "type": "m.room.history_visibility", "state_key": "", "content": visibility }]);
    let room = alice.create_room(json!({ "preset": "public_chat", "initial_state": visibility })).await;
    let secret = alice.send_text(&room, "a secret").await;
    join(&bob, &alice, &room).await;
    tells(&alice, &bob, &room, "no secret").await;
    assert_eq!(texts(&bob, &room, 10).await, ["no secret"]);
    let path = in_room(&room, &format!("event/{}", encode(&secret)));
    assert!(bob.get(&path).await.0.is_client_error());
}

async fn kicks_and_bans(host: &Side, guest: &Side) {
    let (alice, bob, room) = shared_room(host, guest).await;
    does(&alice, "kick", &room, &bob).await;
    synced(&bob, "the kick", |answer| answer["rooms"]["leave"].get(&room).cloned()).await;
    join(&bob, &alice, &room).await;

    does(&alice, "ban", &room, &bob).await;
    until_equal("bob knows of the ban", StatusCode::FORBIDDEN, async || {
        let path = in_room(&room, &format!("send/m.room.message/{}", conduit::clock::random_string(8).unwrap()));
        bob.put(&path, json!({ "msgtype": "m.text", "body": "?" })).await.0
    })
    .await;
    assert_eq!(ask_to_join(&bob, &room, &host.name()).await.0, StatusCode::FORBIDDEN);
    assert_eq!(membership(&alice, &room, &bob).await.as_deref(), Some("ban"));

    does(&alice, "unban", &room, &bob).await;
    join(&bob, &alice, &room).await;
    tells(&bob, &alice, &room, "sorry").await;
    agree(&alice, &bob, &room).await;
}

async fn a_banned_server(host: &Side, guest: &Side) {
    let (alice, bob, room) = shared_room(host, guest).await;
    let elsewhere = alice.create_room(json!({ "preset": "public_chat" })).await;
    join(&bob, &alice, &elsewhere).await;
    let name = guest.name();
    let banned = name.split(':').next().unwrap();
    let list = json!({ "allow": ["*"], "deny": [banned], "allow_ip_literals": true });
    let acl = alice.set_state(&room, "m.room.server_acl", "", list).await;
    event(&alice, &room, &acl).await;

    // One server's events are sent in order: when the second is heard, the first was not taken.
    let path = in_room(&room, "send/m.room.message/1");
    let (_, unheard) = bob.put(&path, json!({ "msgtype": "m.text", "body": "is there anybody?" })).await;
    tells(&bob, &alice, &elsewhere, "here is somebody").await;
    if let Some(unheard) = unheard["event_id"].as_str() {
        let path = in_room(&room, &format!("event/{}", encode(unheard)));
        assert!(alice.get(&path).await.0.is_client_error());
    }
}

async fn upgrade(host: &Side, guest: &Side) {
    let (alice, bob) = tokio::join!(host.register("alice"), guest.register("bob"));
    let old = alice.create_room(json!({ "preset": "public_chat", "room_version": "10", "name": "Old" })).await;
    join(&bob, &alice, &old).await;
    let answer = alice.ok(Method::POST, &in_room(&old, "upgrade"), json!({ "new_version": "12" })).await;
    let new = answer["replacement_room"].as_str().unwrap().to_owned();
    let tombstone = until("the tombstone", async || state_event(&bob, &old, "m.room.tombstone", "").await).await;
    assert_eq!(tombstone["replacement_room"], new);
    join(&bob, &alice, &new).await;
    let create = state_event(&bob, &new, "m.room.create", "").await.unwrap();
    assert_eq!(create["predecessor"]["room_id"], old);
    assert_eq!(state_event(&bob, &new, "m.room.name", "").await.unwrap()["name"], "Old");
    tells(&bob, &alice, &new, "like new").await;
}

async fn spaces(host: &Side, guest: &Side) {
    let (alice, bob) = tokio::join!(host.register("alice"), guest.register("bob"));
    let options = json!({ "preset": "public_chat", "name": "Space", "creation_content": { "type": "m.space" } });
    let space = alice.create_room(options).await;
    let public = alice.create_room(json!({ "preset": "public_chat", "name": "Open" })).await;
    let private = alice.create_room(json!({ "preset": "private_chat", "name": "Closed" })).await;
    for child in [&public, &private] {
        alice.set_state(&space, "m.space.child", child, json!({ "via": [host.name()] })).await;
    }
    join(&bob, &alice, &space).await;
    let path = format!("/_matrix/client/v1/rooms/{}/hierarchy", encode(&space));
    let seen = until("the rooms of the space", async || {
        let answer = bob.ok(Method::GET, &path, Value::Null).await;
        let rooms: Vec<_> = answer["rooms"].as_array()?.iter().map(|room| room["room_id"].clone()).collect();
        (rooms.len() > 1).then_some(rooms)
    })
    .await;
    assert_eq!(seen, [json!(space), json!(public)]);
    join(&bob, &alice, &public).await;
}

async fn names_of_users(host: &Side, guest: &Side) {
    let (alice, bob, room) = shared_room(host, guest).await;
    for (user, other) in [(&alice, &bob), (&bob, &alice)] {
        let path = format!("/_matrix/client/v3/profile/{}/displayname", encode(&user.user_id));
        let name = format!("The name of {}", user.user_id);
        user.ok(Method::PUT, &path, json!({ "displayname": name })).await;
        until_equal("the name in the room", Some(json!(name)), async || {
            Some(state_event(other, &room, "m.room.member", &user.user_id).await?["displayname"].clone())
        })
        .await;
    }
}

async fn both_change_at_once(host: &Side, guest: &Side) {
    let (alice, bob, room) = shared_room(host, guest).await;
    let mut levels = state_event(&alice, &room, "m.room.power_levels", "").await.unwrap();
    levels["users"][&bob.user_id] = json!(100);
    let promotion = alice.set_state(&room, "m.room.power_levels", "", levels).await;
    event(&bob, &room, &promotion).await;
    for round in 0..5 {
        let topic = |user: &Client| json!({ "topic": format!("{} in round {round}", user.user_id) });
        let name = |user: &Client| json!({ "name": format!("{} in round {round}", user.user_id) });
        let change = async |user: &Client| {
            user.set_state(&room, "m.room.topic", "", topic(user)).await;
            user.send_text(&room, &format!("{} was here in round {round}", user.user_id)).await;
            user.set_state(&room, "m.room.name", "", name(user)).await;
        };
        tokio::join!(change(&alice), change(&bob));
        agree(&alice, &bob, &room).await;
    }
    let count = |texts: Vec<String>| texts.len();
    for user in [&alice, &bob] {
        until_equal("all texts", 10, async || count(texts(user, &room, 50).await)).await;
    }
    membership_is(&alice, &room, &bob, "join").await;
}
