//! Making rooms, and who is in them.

use conduit::{
    rooms::{
        self,
        upgrade::{self, Upgrade},
    },
    store::trees,
};
use http::{Method, StatusCode};
use ruma::{RoomId, RoomVersionId, UserId};
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode};

fn state_path(room: &str, kind: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/state/{kind}/", encode(room))
}

async fn state(client: &Client, room: &str, kind: &str) -> Value {
    client.ok(Method::GET, &state_path(room, kind), Value::Null).await
}

async fn member(client: &Client, room: &str, of: &Client) -> Value {
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", encode(room), encode(&of.user_id));
    client.ok(Method::GET, &path, Value::Null).await
}

async fn act(client: &Client, room: &str, action: &str, body: Value) -> (StatusCode, Value) {
    client.post(&format!("/_matrix/client/v3/rooms/{}/{action}", encode(room)), body).await
}

fn is_error((status, body): &(StatusCode, Value), wanted: u16, errcode: &str) {
    assert_eq!((status.as_u16(), body["errcode"].as_str()), (wanted, Some(errcode)), "{body}");
}

#[tokio::test]
async fn create_room_with_everything() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice
        .create_room(json!({
            "preset": "private_chat",
            "room_alias_name": "pub",
            "name": "The Pub",
            "topic": "All about happy hour",
            "visibility": "public",
            "is_direct": true,
            "invite": [bob.user_id, bob.user_id, alice.user_id],
            "creation_content": { "m.federate": false, "type": "m.space", "room_version": "1", "creator": "@x:y" },
            "initial_state": [
                { "type": "m.room.name", "content": { "name": "Overridden" } },
                { "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } },
                { "type": "org.example.a", "state_key": "b", "content": { "c": 1 } },
            ],
            "power_level_content_override": { "events_default": 7 },
        }))
        .await;
    let create = state(&alice, &room, "m.room.create").await;
    assert_eq!(create, json!({ "m.federate": false, "type": "m.space", "room_version": "12" }));
    assert_eq!(state(&alice, &room, "m.room.name").await, json!({ "name": "The Pub" }));
    let topic = state(&alice, &room, "m.room.topic").await;
    assert_eq!(topic["topic"], "All about happy hour");
    assert_eq!(topic["m.topic"]["m.text"][0]["body"], "All about happy hour");
    assert_eq!(state(&alice, &room, "m.room.join_rules").await, json!({ "join_rule": "invite" }));
    assert_eq!(state(&alice, &room, "m.room.history_visibility").await["history_visibility"], "joined");
    assert_eq!(state(&alice, &room, "m.room.guest_access").await["guest_access"], "can_join");
    assert_eq!(state(&alice, &room, "m.room.canonical_alias").await["alias"], "#pub:localhost");
    let levels = state(&alice, &room, "m.room.power_levels").await;
    assert_eq!((&levels["users"], &levels["events_default"]), (&json!({}), &json!(7)));
    assert_eq!(levels["events"]["m.room.tombstone"], 150);
    let invite = member(&alice, &room, &bob).await;
    assert_eq!((&invite["membership"], &invite["is_direct"]), (&json!("invite"), &json!(true)));
    let custom = format!("/_matrix/client/v3/rooms/{}/state/org.example.a/b", encode(&room));
    assert_eq!(alice.get(&custom).await.1, json!({ "c": 1 }));
    let alias = alice.get("/_matrix/client/v3/directory/room/%23pub%3Alocalhost").await.1;
    assert_eq!(alias, json!({ "room_id": room, "servers": ["localhost"] }));
    let events = alice.get(&format!("/_matrix/client/v3/rooms/{}/messages?dir=f&limit=20", encode(&room))).await.1;
    let types: Vec<_> =
        events["chunk"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "m.room.create",
            "m.room.member",
            "m.room.power_levels",
            "m.room.canonical_alias",
            "m.room.join_rules",
            "m.room.guest_access",
            "m.room.history_visibility",
            "org.example.a",
            "m.room.name",
            "m.room.topic",
            "m.room.member",
        ]
    );
    server.stop().await;
}

#[tokio::test]
async fn create_room_refusals_change_nothing() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    alice.create_room(json!({ "room_alias_name": "taken" })).await;
    let create = |body: Value| {
        let alice = alice.clone();
        async move { alice.post("/_matrix/client/v3/createRoom", body).await }
    };
    is_error(&create(json!({ "room_version": "1000" })).await, 400, "M_UNSUPPORTED_ROOM_VERSION");
    is_error(&create(json!({ "room_version": 1 })).await, 400, "M_BAD_JSON");
    // Also where nobody reads the field.
    let odd = b"{ \"unknown\": \"a\x81\" }".to_vec();
    let (status, answer) = alice.raw(Method::POST, "/_matrix/client/v3/createRoom", "application/json", odd).await;
    is_error(&(status, serde_json::from_slice(&answer).unwrap()), 400, "M_NOT_JSON");
    is_error(&create(json!({ "room_alias_name": "taken" })).await, 400, "M_ROOM_IN_USE");
    is_error(&create(json!({ "room_alias_name": "a:b" })).await, 400, "M_INVALID_PARAM");
    is_error(&create(json!({ "preset": "odd" })).await, 400, "M_INVALID_PARAM");
    is_error(&create(json!({ "creation_content": { "additional_creators": "@a:b" } })).await, 400, "M_BAD_JSON");
    is_error(&create(json!({ "creation_content": { "additional_creators": ["a"] } })).await, 400, "M_BAD_JSON");
    let weak = json!({ "room_version": "11", "name": "x", "power_level_content_override": { "users": {} } });
    is_error(&create(weak).await, 400, "M_INVALID_ROOM_STATE");
    let listed = json!({ "power_level_content_override": { "users": { alice.user_id.clone(): 100 } } });
    is_error(&create(listed).await, 400, "M_INVALID_ROOM_STATE");
    let (status, _) = create(json!({ "power_level_content_override": { "ban": 9007199254740992_i64 } })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let joined = alice.get("/_matrix/client/v3/joined_rooms").await.1;
    assert_eq!(joined["joined_rooms"].as_array().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn all_room_versions_and_presets() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for version in 1..=12 {
        let version = version.to_string();
        let room = alice
            .create_room(json!({ "room_version": version, "preset": "trusted_private_chat", "invite": [bob.user_id] }))
            .await;
        let create = state(&alice, &room, "m.room.create").await;
        assert_eq!(create["room_version"].as_str(), Some(&*version));
        bob.join(&room).await;
        bob.set_state(&room, "m.room.power_levels", "", {
            let mut levels = state(&bob, &room, "m.room.power_levels").await;
            levels["ban"] = json!(60);
            levels
        })
        .await;
        if version == "12" {
            assert_eq!(create["additional_creators"], json!([bob.user_id]));
            assert_eq!(state(&alice, &room, "m.room.power_levels").await["users"], json!({}));
        }
        bob.send_text(&room, "hello").await;
    }
    let public = alice.create_room(json!({ "visibility": "public" })).await;
    assert_eq!(state(&alice, &public, "m.room.join_rules").await["join_rule"], "public");
    is_error(&alice.get(&state_path(&public, "m.room.guest_access")).await, 404, "M_NOT_FOUND");
    server.stop().await;
}

#[tokio::test]
async fn joining_and_leaving() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    is_error(&act(&bob, &room, "join", json!({})).await, 403, "M_FORBIDDEN");
    is_error(&bob.post("/_matrix/client/v3/join/%21nowhere%3Alocalhost", json!({})).await, 404, "M_NOT_FOUND");
    is_error(&bob.post("/_matrix/client/v3/join/%23nowhere%3Alocalhost", json!({})).await, 404, "M_NOT_FOUND");
    assert_eq!(act(&alice, &room, "invite", json!({ "user_id": bob.user_id, "reason": "come" })).await.0, 200);
    assert_eq!(act(&alice, &room, "invite", json!({ "user_id": bob.user_id })).await.0, 200);
    assert_eq!(member(&alice, &room, &bob).await["reason"], "come");

    // No body at all, and twice: the second changes nothing.
    let path = format!("/_matrix/client/v3/join/{}", encode(&room));
    let (status, _) = bob.raw(Method::POST, &path, "application/json", Vec::new()).await;
    assert_eq!(status, StatusCode::OK);
    let before = member(&bob, &room, &bob).await;
    assert_eq!(act(&bob, &room, "join", json!({ "foo": "bar" })).await.0, 200);
    assert_eq!(member(&bob, &room, &bob).await, before);
    is_error(&act(&alice, &room, "invite", json!({ "user_id": bob.user_id })).await, 403, "M_FORBIDDEN");
    is_error(&act(&alice, &room, "invite", json!({ "user_id": alice.user_id })).await, 403, "M_FORBIDDEN");
    is_error(&act(&bob, &room, "forget", json!({})).await, 400, "M_UNKNOWN");

    assert_eq!(act(&bob, &room, "leave", json!({ "reason": "bye" })).await.0, 200);
    assert_eq!(act(&bob, &room, "leave", json!({})).await.0, 200);
    assert_eq!(member(&alice, &room, &bob).await["reason"], "bye");
    assert_eq!(act(&bob, &room, "forget", json!({})).await.0, 200);
    let messages = format!("/_matrix/client/v3/rooms/{}/messages", encode(&room));
    is_error(&bob.get(&messages).await, 403, "M_FORBIDDEN");

    // A custom field of the join goes into the event.
    let public = alice.create_room(json!({ "preset": "public_chat" })).await;
    assert_eq!(act(&bob, &public, "join", json!({ "foo": "bar", "membership": "ban" })).await.0, 200);
    let event = member(&alice, &public, &bob).await;
    assert_eq!((&event["foo"], &event["membership"]), (&json!("bar"), &json!("join")));
    server.stop().await;
}

#[tokio::test]
async fn rejecting_an_invitation_to_an_empty_room() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    assert_eq!(act(&alice, &room, "leave", json!({})).await.0, 200);
    assert_eq!(act(&bob, &room, "leave", json!({})).await.0, 200);
    assert_eq!(act(&bob, &room, "forget", json!({})).await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn kick_ban_unban_knock() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice
        .create_room(json!({
            "initial_state": [{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }],
        }))
        .await;
    let bob_id = json!({ "user_id": bob.user_id, "reason": "why" });
    is_error(&act(&alice, &room, "kick", bob_id.clone()).await, 403, "M_FORBIDDEN");
    is_error(&act(&bob, &room, "ban", json!({ "user_id": alice.user_id })).await, 403, "M_FORBIDDEN");
    let knock = bob.post(&format!("/_matrix/client/v3/knock/{}", encode(&room)), json!({ "reason": "hi" })).await;
    assert_eq!(knock, (StatusCode::OK, json!({ "room_id": room })));
    assert_eq!(member(&alice, &room, &bob).await["membership"], "knock");
    assert_eq!(act(&alice, &room, "invite", bob_id.clone()).await.0, 200);
    bob.join(&room).await;
    assert_eq!(act(&alice, &room, "kick", bob_id.clone()).await.0, 200);
    assert_eq!(member(&alice, &room, &bob).await["reason"], "why");
    is_error(&act(&alice, &room, "unban", bob_id.clone()).await, 403, "M_FORBIDDEN");
    assert_eq!(act(&alice, &room, "ban", bob_id.clone()).await.0, 200);
    let knock = bob.post(&format!("/_matrix/client/v3/knock/{}", encode(&room)), json!({})).await;
    is_error(&knock, 403, "M_FORBIDDEN");
    is_error(&act(&bob, &room, "leave", json!({})).await, 403, "M_FORBIDDEN");
    assert_eq!(act(&alice, &room, "unban", bob_id).await.0, 200);
    assert_eq!(member(&alice, &room, &bob).await["membership"], "leave");
    server.stop().await;
}

#[tokio::test]
async fn restricted_rooms() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let space = alice.create_room(json!({ "preset": "public_chat" })).await;
    let room = alice
        .create_room(json!({
            "preset": "public_chat",
            "initial_state": [{
                "type": "m.room.join_rules",
                "content": {
                    "join_rule": "restricted",
                    "allow": ["odd", { "type": "m.room_membership", "room_id": space }],
                },
            }],
        }))
        .await;
    is_error(&act(&bob, &room, "join", json!({})).await, 403, "M_FORBIDDEN");
    bob.join(&space).await;
    bob.join(&room).await;
    assert_eq!(member(&bob, &room, &bob).await["join_authorised_via_users_server"], alice.user_id);
    // Who authorises is not for the client to say, nor needed for a new name.
    let renamed = json!({ "membership": "join", "displayname": "Bobby", "join_authorised_via_users_server": "unused" });
    bob.set_state(&room, "m.room.member", &bob.user_id, renamed.clone()).await;
    let own = member(&bob, &room, &bob).await;
    assert_eq!((&own["displayname"], own.get("join_authorised_via_users_server")), (&json!("Bobby"), None));
    act(&bob, &room, "leave", json!({})).await;
    bob.set_state(&room, "m.room.member", &bob.user_id, renamed.clone()).await;
    assert_eq!(member(&bob, &room, &bob).await["join_authorised_via_users_server"], alice.user_id);
    act(&bob, &room, "leave", json!({})).await;
    act(&bob, &space, "leave", json!({})).await;
    let path = format!("{}{}", state_path(&room, "m.room.member"), encode(&bob.user_id));
    is_error(&bob.put(&path, renamed).await, 403, "M_FORBIDDEN");
    server.stop().await;
}

#[tokio::test]
async fn setting_state() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let first = alice.set_state(&room, "org.example.x", "", json!({ "a": 1, "b": 2 })).await;
    // Equal content is the same event, and the path may end with or without a slash.
    let path = format!("/_matrix/client/v3/rooms/{}/state/org.example.x", encode(&room));
    let again = alice.ok(Method::PUT, &path, json!({ "b": 2, "a": 1 })).await;
    assert_eq!(again["event_id"], json!(first));
    assert_eq!(alice.ok(Method::GET, &path, Value::Null).await, json!({ "a": 1, "b": 2 }));
    let event = alice.ok(Method::GET, &format!("{path}?format=event"), Value::Null).await;
    assert_eq!((&event["event_id"], &event["room_id"]), (&json!(first), &json!(room)));

    is_error(&alice.put(&state_path(&room, "m.room.create"), json!({})).await, 400, "M_BAD_JSON");
    let alias = state_path(&room, "m.room.canonical_alias");
    is_error(&alice.put(&alias, json!({ "alias": "#none:localhost" })).await, 400, "M_BAD_ALIAS");
    is_error(&alice.put(&alias, json!({ "alias": "%invalid:localhost" })).await, 400, "M_INVALID_PARAM");
    is_error(&alice.put(&alias, json!({ "alt_aliases": ["#none:localhost"] })).await, 400, "M_BAD_ALIAS");
    let levels = state_path(&room, "m.room.power_levels");
    let listed = json!({ "users": { alice.user_id.clone(): 100 } });
    assert_eq!(alice.put(&levels, listed).await.0, StatusCode::BAD_REQUEST);
    let large = json!({ "text": "x".repeat(65_536) });
    is_error(&alice.put(&path, large).await, 413, "M_TOO_LARGE");
    is_error(&alice.put(&path, json!({ "float": 1.5 })).await, 400, "M_BAD_JSON");
    server.stop().await;
}

#[tokio::test]
async fn upgrading() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for (from, to) in [("11", "12"), ("12", "12"), ("12", "11"), ("5", "10")] {
        let name = format!("room-{from}-{to}");
        let old = alice
            .create_room(json!({
                "room_version": from,
                "preset": "public_chat",
                "visibility": "public",
                "name": "Old",
                "room_alias_name": name,
                "initial_state": [{ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } }],
            }))
            .await;
        bob.join(&old).await;
        let path = format!("/_matrix/client/v3/rooms/{}/upgrade", encode(&old));
        is_error(&bob.post(&path, json!({ "new_version": to })).await, 403, "M_FORBIDDEN");
        is_error(&alice.post(&path, json!({ "new_version": "x" })).await, 400, "M_UNSUPPORTED_ROOM_VERSION");
        let answer = alice.ok(Method::POST, &path, json!({ "new_version": to })).await;
        let new = answer["replacement_room"].as_str().unwrap();

        let create = state(&alice, new, "m.room.create").await;
        assert_eq!((&create["room_version"], &create["predecessor"]["room_id"]), (&json!(to), &json!(old)));
        assert_eq!(create["predecessor"].get("event_id").is_none(), to == "12");
        assert_eq!(state(&alice, &old, "m.room.tombstone").await["replacement_room"], new);
        assert_eq!(state(&alice, new, "m.room.name").await["name"], "Old");
        assert_eq!(state(&alice, new, "m.room.encryption").await["algorithm"], "m.megolm.v1.aes-sha2");
        assert_eq!(state(&alice, new, "m.room.join_rules").await["join_rule"], "public");
        let alias = format!("#{name}:localhost");
        assert_eq!(state(&alice, new, "m.room.canonical_alias").await["alias"], json!(alias));
        assert_eq!(state(&alice, &old, "m.room.canonical_alias").await, json!({}));
        let resolved = alice.get(&format!("/_matrix/client/v3/directory/room/{}", encode(&alias))).await.1;
        assert_eq!(resolved["room_id"], new);
        let listed = |room: &str| format!("/_matrix/client/v3/directory/list/room/{}", encode(room));
        assert_eq!(alice.get(&listed(new)).await.1["visibility"], "public");
        assert_eq!(alice.get(&listed(&old)).await.1["visibility"], "private");
        let levels = state(&alice, &old, "m.room.power_levels").await;
        assert_eq!((&levels["events_default"], &levels["invite"]), (&json!(50), &json!(50)));
        let levels = state(&alice, new, "m.room.power_levels").await;
        let own = levels["users"].get(&alice.user_id);
        assert_eq!(own.is_none(), to == "12", "{levels}");
        bob.join(new).await;
    }
    server.stop().await;
}

/// Its transactions are one after the other: a crash can come in between.
#[tokio::test]
async fn an_upgrade_that_was_interrupted_is_finished() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let rooms = &server.handle.server().rooms;
    for tombstone_is_there in [false, true] {
        let name = format!("room-{tombstone_is_there}");
        let old = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": name })).await;
        let id = RoomId::parse(&old).unwrap();
        let user = UserId::parse(&alice.user_id).unwrap();
        let guard = rooms.lock(&id).await;
        let upgrade = Upgrade { user: user.clone(), version: RoomVersionId::V12, additional_creators: Vec::new() };
        let begun = rooms.store.write(|tx| {
            let (no, room) = rooms::require(tx, &id)?;
            Ok((no, upgrade::begin(tx, rooms, no, &room, &upgrade)?))
        });
        let (no, row) = begun.unwrap();
        let new = rooms::get(&rooms.store.read(), row.new).unwrap().id;
        if tombstone_is_there {
            let authorized = rooms.prepare(&guard, &user, upgrade::tombstone(&new).unwrap()).unwrap();
            rooms.append(authorized, |tx, _| upgrade::hand_over(tx, no, row.new)).unwrap();
        }
        drop(guard);
        rooms.chores.notify_one();
        while trees::ROOM_UPGRADES.contains(&rooms.store.read(), no).unwrap() {
            tokio::task::yield_now().await;
        }
        assert_eq!(state(&alice, &old, "m.room.tombstone").await["replacement_room"], new.as_str());
        assert_eq!(state(&alice, &old, "m.room.power_levels").await["events_default"], 50);
        let alias = encode(&format!("#{name}:localhost"));
        let resolved = alice.get(&format!("/_matrix/client/v3/directory/room/{alias}")).await.1;
        assert_eq!(resolved["room_id"], new.as_str());
    }
    server.stop().await;
}

#[tokio::test]
async fn what_users_set_goes_on_after_an_upgrade() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let old = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&old).await;
    let user = format!("/_matrix/client/v3/user/{}", encode(&bob.user_id));
    let rule = |room: &str| format!("/_matrix/client/v3/pushrules/global/room/{}", encode(room));
    let tags = |room: &str| format!("{user}/rooms/{}/tags", encode(room));
    bob.ok(Method::PUT, &rule(&old), json!({ "actions": [] })).await;
    bob.ok(Method::PUT, &format!("{}/m.favourite", tags(&old)), json!({ "order": 0.5 })).await;
    let direct = format!("{user}/account_data/m.direct");
    bob.ok(Method::PUT, &direct, json!({ alice.user_id.clone(): [old] })).await;
    let silence = json!({
        "actions": [],
        "conditions": [{ "kind": "event_match", "key": "room_id", "pattern": old }],
    });
    let overriding = |room: &str| format!("/_matrix/client/v3/pushrules/global/override/{}", encode(room));
    bob.ok(Method::PUT, &overriding(&old), silence).await;

    let path = format!("/_matrix/client/v3/rooms/{}/upgrade", encode(&old));
    let answer = alice.ok(Method::POST, &path, json!({ "new_version": "12" })).await;
    let new = answer["replacement_room"].as_str().unwrap();
    assert_eq!(bob.get(&rule(new)).await.0, StatusCode::OK);
    let copy = bob.ok(Method::GET, &overriding(new), Value::Null).await;
    assert_eq!(copy["conditions"][0]["pattern"], new);
    bob.join(new).await;
    let tagged = bob.ok(Method::GET, &tags(new), Value::Null).await;
    assert_eq!(tagged["tags"]["m.favourite"]["order"], 0.5);
    assert_eq!(bob.ok(Method::GET, &direct, Value::Null).await[&alice.user_id], json!([old, new]));
    server.stop().await;
}

#[tokio::test]
async fn what_users_set_goes_on_after_an_upgrade_by_hand() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let old = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&old).await;
    let rule = |room: &str| format!("/_matrix/client/v3/pushrules/global/room/{}", encode(room));
    let tags = |user: &Client, room: &str| {
        format!("/_matrix/client/v3/user/{}/rooms/{}/tags", encode(&user.user_id), encode(room))
    };
    for user in [&alice, &bob] {
        user.ok(Method::PUT, &rule(&old), json!({ "actions": ["dont_notify"] })).await;
        user.ok(Method::PUT, &format!("{}/m.favourite", tags(user, &old)), json!({ "order": 0.5 })).await;
    }
    let predecessor = json!({ "predecessor": { "room_id": old } });
    let new = alice.create_room(json!({ "preset": "public_chat", "creation_content": predecessor })).await;
    let other = alice.create_room(json!({})).await;
    let tombstone = |room: &str| json!({ "body": "gone", "replacement_room": room });
    alice.set_state(&old, "m.room.tombstone", "", tombstone(&other)).await;
    for room in [&new, &other] {
        assert_eq!(alice.get(&rule(room)).await.0, StatusCode::NOT_FOUND, "only one of both rooms says so");
    }
    alice.set_state(&old, "m.room.tombstone", "", tombstone(&new)).await;
    let name = json!({ "membership": "join", "displayname": "Bob" });
    bob.set_state(&new, "m.room.member", &bob.user_id, name).await;
    for user in [&alice, &bob] {
        let rule = user.ok(Method::GET, &rule(&new), Value::Null).await;
        assert_eq!(rule["actions"], json!(["dont_notify"]));
        let tags = user.ok(Method::GET, &tags(user, &new), Value::Null).await;
        assert_eq!(tags["tags"]["m.favourite"]["order"], 0.5);
    }
    server.stop().await;
}

#[tokio::test]
async fn what_a_new_room_cannot_begin_with() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for (kind, key, content) in [
        ("m.room.member", bob.user_id.as_str(), json!({ "membership": "invite" })),
        ("m.room.member", alice.user_id.as_str(), json!({ "membership": "leave" })),
        ("m.room.create", "", json!({})),
    ] {
        let state = json!([{ "type": kind, "state_key": key, "content": content }]);
        let created = alice.post("/_matrix/client/v3/createRoom", json!({ "initial_state": state })).await;
        is_error(&created, 400, "M_INVALID_ROOM_STATE");
    }
    assert!(bob.sync("").await.get("rooms").is_none() && alice.sync("").await.get("rooms").is_none());
    server.stop().await;
}

#[tokio::test]
async fn state_that_stays_as_it_is_is_for_those_who_may_set_it() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let levels = json!({ "events": { "org.example.mood": 0 } });
    alice.set_state(&room, "m.room.power_levels", "", levels).await;
    let good = json!({ "mood": "good" });
    let once = bob.set_state(&room, "org.example.mood", "", good.clone()).await;
    assert_eq!(bob.set_state(&room, "org.example.mood", "", good.clone()).await, once);
    let levels = json!({});
    alice.set_state(&room, "m.room.power_levels", "", levels).await;
    let path = state_path(&room, "org.example.mood");
    is_error(&bob.put(&path, good.clone()).await, 403, "M_FORBIDDEN");
    act(&bob, &room, "leave", json!({})).await;
    is_error(&bob.put(&path, good).await, 403, "M_FORBIDDEN");
    server.stop().await;
}

#[tokio::test]
async fn blocked_invitations() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let answer = alice.ok(Method::GET, "/_matrix/client/versions", Value::Null).await;
    let features = &answer["unstable_features"];
    assert_eq!((&features["org.matrix.msc4380"], &features["org.matrix.msc4380.stable"]), (&json!(true), &json!(true)));
    let account_data = format!("/_matrix/client/v3/user/{}/account_data", encode(&bob.user_id));
    let stable = format!("{account_data}/m.invite_permission_config");
    bob.ok(Method::PUT, &stable, json!({ "default_action": "block" })).await;
    let room = alice.create_room(json!({})).await;
    let blocked = act(&alice, &room, "invite", json!({ "user_id": bob.user_id })).await;
    is_error(&blocked, 403, "M_INVITE_BLOCKED");
    let created = alice.post("/_matrix/client/v3/createRoom", json!({ "invite": [bob.user_id] })).await;
    is_error(&created, 403, "M_INVITE_BLOCKED");
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", encode(&room), encode(&bob.user_id));
    is_error(&alice.put(&path, json!({ "membership": "invite" })).await, 403, "M_INVITE_BLOCKED");

    // What was set under the name from before counts only until the other is set.
    let earlier = format!("{account_data}/org.matrix.msc4380.invite_permission_config");
    bob.ok(Method::PUT, &earlier, json!({ "default_action": "block" })).await;
    bob.ok(Method::PUT, &stable, json!({})).await;
    is_error(&act(&alice, &room, "invite", json!({ "user_id": bob.user_id })).await, 403, "M_INVITE_BLOCKED");
    bob.ok(Method::PUT, &stable, json!({ "default_action": "allow" })).await;
    assert_eq!(act(&alice, &room, "invite", json!({ "user_id": bob.user_id })).await.0, StatusCode::OK);
    server.stop().await;
}
