//! Profiles, presence and the user directory: `api/client/profile.rs`, `presence.rs`, `users.rs`, `mutual_rooms.rs`.

use http::{Method, StatusCode};
use ruma::presence::PresenceState;
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode, net::TestNet};

fn path(user: &str, field: &str) -> String {
    format!("/_matrix/client/v3/profile/{}/{field}", encode(user))
}

async fn member(client: &Client, room: &str, user: &str) -> Value {
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", encode(room), encode(user));
    client.ok(Method::GET, &path, Value::Null).await
}

#[tokio::test]
async fn fields_are_set_read_and_removed() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (id, anyone) = (alice.user_id.as_str(), server.anyone());
    assert_eq!(anyone.get(&path(id, "displayname")).await.1, json!({ "displayname": "alice" }));
    for (field, value) in [
        ("displayname", json!("Alice")),
        ("avatar_url", json!("mxc://localhost/abc")),
        ("m.tz", json!("Europe/Berlin")),
        ("org.example.pets", json!({ "cats": 2 })),
    ] {
        assert_eq!(alice.put(&path(id, field), json!({ field: value })).await, (StatusCode::OK, json!({})), "{field}");
        assert_eq!(anyone.get(&path(id, field)).await, (StatusCode::OK, json!({ field: value })));
    }
    let whole = format!("/_matrix/client/v3/profile/{}", encode(id));
    assert_eq!(
        anyone.get(&whole).await.1,
        json!({
            "displayname": "Alice", "avatar_url": "mxc://localhost/abc", "m.tz": "Europe/Berlin",
            "org.example.pets": { "cats": 2 },
        })
    );
    assert_eq!(alice.delete(&path(id, "org.example.pets")).await.0, StatusCode::OK);
    assert_eq!(anyone.get(&path(id, "org.example.pets")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(alice.put(&path(id, "avatar_url"), json!({ "avatar_url": "" })).await.0, StatusCode::OK);
    assert_eq!(anyone.get(&path(id, "avatar_url")).await, (StatusCode::OK, json!({})));

    assert_eq!(bob.put(&path(id, "displayname"), json!({ "displayname": "x" })).await.0, StatusCode::FORBIDDEN);
    assert_eq!(anyone.get(&path("@nobody:localhost", "displayname")).await.0, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn what_a_profile_cannot_hold() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let id = alice.user_id.as_str();
    let long = format!("org.{}", "x".repeat(260));
    for (field, body, code) in [
        ("displayname", json!({ "displayname": 1 }), "M_BAD_JSON"),
        ("displayname", json!({ "other": "x" }), "M_MISSING_PARAM"),
        ("displayname", json!({ "displayname": "x".repeat(2_000) }), "M_TOO_LARGE"),
        ("plain", json!({ "plain": 1 }), "M_INVALID_PARAM"),
        ("Org.Example", json!({ "Org.Example": 1 }), "M_INVALID_PARAM"),
        (long.as_str(), json!({ long.as_str(): 1 }), "M_KEY_TOO_LARGE"),
        ("org.example.big", json!({ "org.example.big": "x".repeat(70_000) }), "M_PROFILE_TOO_LARGE"),
    ] {
        let (status, answer) = alice.put(&path(id, field), body).await;
        assert_eq!((status, answer["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some(code)), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_new_name_shows_in_rooms() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let id = alice.user_id.as_str();
    let room = alice.create_room(json!({})).await;
    alice.ok(Method::PUT, &path(id, "displayname"), json!({ "displayname": "Alice" })).await;
    alice.ok(Method::PUT, &path(id, "avatar_url"), json!({ "avatar_url": "mxc://localhost/abc" })).await;
    let shown = member(&alice, &room, id).await;
    assert_eq!(shown, json!({ "membership": "join", "displayname": "Alice", "avatar_url": "mxc://localhost/abc" }));
    alice.ok(Method::DELETE, &path(id, "displayname"), json!({})).await;
    assert!(member(&alice, &room, id).await.get("displayname").is_none());
    server.stop().await;
}

#[tokio::test]
async fn a_new_name_reaches_many_rooms_in_the_background() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let id = alice.user_id.as_str();
    let mut rooms = Vec::new();
    for _ in 0..25 {
        rooms.push(alice.create_room(json!({})).await);
    }
    alice.ok(Method::PUT, &path(id, "displayname"), json!({ "displayname": "Alice" })).await;
    for room in &rooms {
        while member(&alice, room, id).await["displayname"] != "Alice" {
            tokio::task::yield_now().await;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn presence_is_for_those_who_share_a_room() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let status = |user: &Client| format!("/_matrix/client/v3/presence/{}/status", encode(&user.user_id));
    alice.ok(Method::PUT, &status(&alice), json!({ "presence": "unavailable", "status_msg": "Lunch" })).await;
    let (code, own) = alice.get(&status(&alice)).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!((&own["presence"], &own["status_msg"]), (&json!("unavailable"), &json!("Lunch")));
    assert_eq!(bob.get(&status(&alice)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(bob.put(&status(&alice), json!({ "presence": "online" })).await.0, StatusCode::FORBIDDEN);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    assert_eq!(bob.get(&status(&alice)).await.1["presence"], "unavailable");
    assert_eq!(alice.put(&status(&alice), json!({ "presence": "busy" })).await.0, StatusCode::BAD_REQUEST);
    server.stop().await;
}

#[tokio::test]
async fn the_best_of_a_users_clients_is_shown() {
    let server = TestServer::start().await;
    let phone = server.register("alice").await;
    let laptop = server.login("alice").await;
    let path = format!("/_matrix/client/v3/presence/{}/status", encode(&phone.user_id));
    let shown = async || phone.get(&path).await.1["presence"].clone();
    let state = server.handle.server().clone();
    let now = || state.store.read().position().unwrap();
    let since = now();
    phone.sync("timeout=0&set_presence=unavailable").await;
    assert_eq!(shown().await, "unavailable");
    laptop.sync("timeout=0&set_presence=online").await;
    assert_eq!(state.presence.changed(since, now()).len(), 1, "that somebody comes online is a change");
    // Each goes on as before: that is none.
    let since = now();
    for _ in 0..2 {
        for (client, presence) in [(&phone, "unavailable"), (&laptop, "online")] {
            client.sync(&format!("timeout=0&set_presence={presence}")).await;
            assert_eq!(shown().await, "online");
        }
    }
    assert!(state.presence.changed(since, now()).is_empty());
    laptop.ok(Method::PUT, &path, json!({ "presence": "offline" })).await;
    assert_eq!(shown().await, "unavailable");
    // Speaking tells that the user is there, whatever the client asks for.
    let room = phone.create_room(json!({})).await;
    phone.send_text(&room, "Here I am").await;
    assert_eq!(shown().await, "online");
    drop(state);
    server.stop().await;
}

#[tokio::test]
async fn more_clients_than_are_remembered_do_not_change_what_is_shown() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let (state, user) = (server.handle.server(), ruma::UserId::parse(&alice.user_id).unwrap());
    let devices: Vec<_> = (0..40).map(|no| ruma::OwnedDeviceId::from(format!("D{no}"))).collect();
    let round = || {
        for (no, device) in devices.iter().enumerate() {
            let asked = if no == 0 { PresenceState::Online } else { PresenceState::Unavailable };
            state.presence.seen(&state.store, &user, device, &asked).unwrap();
        }
        assert_eq!(state.presence.get(&user).presence, PresenceState::Online);
    };
    round();
    let since = state.store.read().position().unwrap();
    round();
    assert!(state.presence.changed(since, state.store.read().position().unwrap()).is_empty());
    server.stop().await;
}

#[tokio::test]
async fn people_are_found_by_name_and_id() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice.ok(Method::PUT, &path(&alice.user_id, "displayname"), json!({ "displayname": "Wonder Woman" })).await;
    let search = async |client: &Client, term: &str| {
        let answer =
            client.ok(Method::POST, "/_matrix/client/v3/user_directory/search", json!({ "search_term": term })).await;
        let ids = answer["results"].as_array().unwrap().iter().map(|user| user["user_id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(search(&bob, "alice").await, [alice.user_id.as_str()]);
    assert_eq!(search(&bob, "woman WONDER").await, [alice.user_id.as_str()]);
    assert_eq!(search(&bob, &alice.user_id).await, [alice.user_id.as_str()]);
    assert!(search(&bob, "nobody").await.is_empty() && search(&bob, " ").await.is_empty());
    assert!(search(&bob, "bob").await.is_empty(), "nobody looks for themselves");
    server.stop().await;

    let server = TestServer::start_with(|config| config.user_directory_all_users = false).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    assert!(search(&bob, "alice").await.is_empty());
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    assert!(search(&bob, "alice").await.is_empty());
    let rules = format!("/_matrix/client/v3/rooms/{}/state/m.room.join_rules/", encode(&room));
    alice.ok(Method::PUT, &rules, json!({ "join_rule": "public" })).await;
    assert_eq!(search(&bob, "alice").await, [alice.user_id.as_str()]);
    server.stop().await;
}

#[tokio::test]
async fn a_name_used_in_one_room_stays_there() {
    let server = TestServer::start().await;
    let (alice, eve) = (server.register("alice").await, server.register("eve").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let nick = json!({ "membership": "join", "displayname": "Freddy" });
    alice.set_state(&room, "m.room.member", &alice.user_id, nick).await;
    let path = "/_matrix/client/v3/user_directory/search";
    assert_eq!(eve.post(path, json!({ "search_term": "freddy" })).await.1["results"], json!([]));
    let (_, found) = eve.post(path, json!({ "search_term": "alice", "limit": 1 })).await;
    assert_eq!(found["results"][0]["display_name"], "alice");
    server.stop().await;
}

#[tokio::test]
async fn mutual_rooms_are_those_of_both() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.create_room(json!({})).await;
    bob.join(&room).await;
    let path = |user: &str| format!("/_matrix/client/v1/mutual_rooms?user_id={}", encode(user));
    let (status, answer) = alice.get(&path(&bob.user_id)).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({ "joined": [room], "count": 1 })));
    assert_eq!(alice.get(&path("@nobody:localhost")).await.1["joined"], json!([]));
    assert_eq!(alice.get(&path(&alice.user_id)).await.0, StatusCode::BAD_REQUEST);
    server.stop().await;
}

#[tokio::test]
async fn who_may_look_profiles_up_is_the_administrators_choice() {
    let server = TestServer::start_with(|config| config.allow_profile_lookup_without_auth = false).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let whole = format!("/_matrix/client/v3/profile/{}", encode(&alice.user_id));
    let name = path(&alice.user_id, "displayname");
    for path in [&whole, &name] {
        let (status, answer) = server.anyone().get(path).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_MISSING_TOKEN")));
        assert_eq!(bob.get(path).await.0, StatusCode::OK);
    }
    server.stop().await;

    let server = TestServer::start_with(|config| config.profile_lookup_in_shared_rooms_only = true).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for path in [&whole, &name] {
        assert_eq!(server.anyone().get(path).await.0, StatusCode::UNAUTHORIZED);
        let (status, answer) = bob.get(path).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")));
        assert_eq!(alice.get(path).await.0, StatusCode::OK, "one's own");
    }
    let nobody = bob.get(&path("@nobody:localhost", "displayname")).await;
    assert_eq!(nobody.0, StatusCode::FORBIDDEN, "nor who exists");
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    assert_eq!(bob.get(&whole).await.1["displayname"], "alice");
    server.stop().await;
}

#[tokio::test]
async fn other_servers_look_profiles_up_if_the_administrator_wants() {
    let net = TestNet::new();
    let a = net.server_with("a", |config| config.allow_profile_lookup_over_federation = false).await;
    let b = net.server("b").await;
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let (status, answer) = bob.get(&path(&alice.user_id, "displayname")).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")), "{answer}");
    let of_bob = alice.ok(Method::GET, &path(&bob.user_id, "displayname"), Value::Null).await;
    assert_eq!(of_bob["displayname"], "bob");
    let of_alice = alice.ok(Method::GET, &path(&alice.user_id, "displayname"), Value::Null).await;
    assert_eq!(of_alice["displayname"], "alice");
}
