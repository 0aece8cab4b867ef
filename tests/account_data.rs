//! What clients keep on the server: `api/client/account_data.rs`, `tags.rs`, `filter.rs`; and what they ask of it once:
//! `versions.rs`, `capabilities.rs`, `wellknown.rs`, `support.rs`, `voip.rs`, `openid.rs`, `report_content.rs`.

use conduit::{
    config::Secret,
    ids::Position,
    store::trees::{OPENID_TOKENS, REPORTS},
    users::{account_data, login_tokens},
};
use http::{Method, StatusCode};
use ring::hmac;
use ruma::UserId;
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode};

fn global(user: &Client, kind: &str) -> String {
    format!("/_matrix/client/v3/user/{}/account_data/{kind}", encode(&user.user_id))
}

fn of_room(user: &Client, room: &str, kind: &str) -> String {
    format!("/_matrix/client/v3/user/{}/rooms/{}/account_data/{kind}", encode(&user.user_id), encode(room))
}

#[tokio::test]
async fn account_data_is_kept_globally_and_by_room() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({})).await;
    for path in [global(&alice, "test.key"), of_room(&alice, &room, "test.key")] {
        assert_eq!(alice.get(&path).await.0, StatusCode::NOT_FOUND);
        for value in ["first", "second"] {
            alice.ok(Method::PUT, &path, json!({ "value": value })).await;
            assert_eq!(alice.get(&path).await.1, json!({ "value": value }));
        }
        assert_eq!(bob.get(&path).await.0, StatusCode::FORBIDDEN);
        assert_eq!(bob.put(&path, json!({})).await.0, StatusCode::FORBIDDEN);
        assert_eq!(alice.put(&path, json!([])).await.1["errcode"], "M_BAD_JSON");
    }
    for kind in ["m.fully_read", "m.push_rules"] {
        for path in [global(&alice, kind), of_room(&alice, &room, kind)] {
            let (status, answer) = alice.put(&path, json!({})).await;
            assert_eq!((status, answer["errcode"].as_str()), (StatusCode::METHOD_NOT_ALLOWED, Some("M_BAD_JSON")));
        }
    }
    assert_eq!(alice.put(&of_room(&alice, "!unknown", "test.key"), json!({})).await.0, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn deleted_account_data_is_told_once_and_is_gone() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({})).await;
    let stable = "/_matrix/client/v3";
    let events = |answer: &Value, of_room: bool| {
        let part = if of_room { &answer["rooms"]["join"][&room] } else { answer };
        let events = part["account_data"]["events"].as_array().cloned().unwrap_or_default();
        events.into_iter().find(|event| event["type"] == "test.key")
    };
    for (path, of_room) in [(global(&alice, "test.key"), false), (of_room(&alice, &room, "test.key"), true)] {
        let unstable = path.replace(stable, "/_matrix/client/unstable/org.matrix.msc3391");
        assert_eq!(alice.delete(&unstable).await.0, StatusCode::OK, "of what is not there");
        for by_put in [true, false] {
            alice.ok(Method::PUT, &path, json!({ "value": 1 })).await;
            let since = alice.sync("").await["next_batch"].as_str().unwrap().to_owned();
            match by_put {
                true => alice.ok(Method::PUT, &path, json!({})).await,
                false => alice.ok(Method::DELETE, &unstable, Value::Null).await,
            };
            assert_eq!(alice.get(&path).await.0, StatusCode::NOT_FOUND);
            let told = alice.sync(&format!("since={since}")).await;
            assert_eq!(events(&told, of_room), Some(json!({ "type": "test.key", "content": {} })));
            let all = alice.sync("").await;
            assert_eq!(events(&all, of_room), None);
            assert_eq!(all["rooms"]["join"][&room]["account_data"]["events"], json!([]));
        }
        assert_eq!(bob.delete(&unstable).await.0, StatusCode::FORBIDDEN);
        let rules = unstable.replace("test.key", "m.push_rules");
        assert_eq!(alice.delete(&rules).await.0, StatusCode::METHOD_NOT_ALLOWED);
    }
}

#[tokio::test]
async fn only_what_changed_is_read() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let id = UserId::parse(&alice.user_id).unwrap();
    for (kind, value) in [("org.a", 1), ("org.b", 1), ("org.a", 2)] {
        alice.ok(Method::PUT, &global(&alice, kind), json!({ "value": value })).await;
    }
    let store = &server.handle.server().store;
    let read = store.read();
    let kinds = |since| {
        let changes = account_data::changes(&read, &id, since).unwrap().into_iter();
        changes
            .map(|change| (change.kind, change.position))
            .filter(|(kind, _)| kind.starts_with("org."))
            .collect::<Vec<_>>()
    };
    let all = kinds(Position(0));
    assert_eq!(
        all.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(),
        ["org.b", "org.a"],
        "each once, at its last change"
    );
    assert_eq!(kinds(all[0].1), all[1..]);
    assert!(kinds(all[1].1).is_empty());
    drop(read);
    server.stop().await;
}

#[tokio::test]
async fn tags_have_an_order() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let tags = format!("/_matrix/client/v3/user/{}/rooms/{}/tags", encode(&alice.user_id), encode(&room));
    assert_eq!(alice.get(&tags).await, (StatusCode::OK, json!({ "tags": {} })));
    alice.ok(Method::PUT, &format!("{tags}/m.favourite"), json!({ "order": 0.25 })).await;
    alice.ok(Method::PUT, &format!("{tags}/u.work"), json!({})).await;
    assert_eq!(alice.get(&tags).await.1, json!({ "tags": { "m.favourite": { "order": 0.25 }, "u.work": {} } }));
    let (_, data) = alice.get(&of_room(&alice, &room, "m.tag")).await;
    assert_eq!(data["tags"]["m.favourite"]["order"], 0.25);
    alice.ok(Method::DELETE, &format!("{tags}/m.favourite"), json!({})).await;
    assert_eq!(alice.get(&tags).await.1, json!({ "tags": { "u.work": {} } }));
    let long = format!("{tags}/{}", "x".repeat(256));
    assert_eq!(alice.put(&long, json!({})).await.0, StatusCode::BAD_REQUEST);
    server.stop().await;
}

#[tokio::test]
async fn filters_are_named_by_their_content() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let path = format!("/_matrix/client/v3/user/{}/filter", encode(&alice.user_id));
    let filter = json!({ "room": { "timeline": { "limit": 10 } } });
    let id = alice.ok(Method::POST, &path, filter.clone()).await["filter_id"].as_str().unwrap().to_owned();
    assert_eq!(alice.ok(Method::POST, &path, filter.clone()).await["filter_id"], id);
    assert_eq!(alice.get(&format!("{path}/{id}")).await, (StatusCode::OK, filter.clone()));
    assert_eq!(alice.get(&format!("{path}/unknown")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(bob.post(&path, filter).await.0, StatusCode::FORBIDDEN);
    for bad in [
        json!({ "room": "not an object" }),
        json!({ "room": { "timeline": { "limit": "ten" } } }),
        json!({ "event_format": "petscii" }),
        json!({ "presence": { "senders": ["not a user"] } }),
    ] {
        assert_eq!(alice.post(&path, bad.clone()).await.1["errcode"], "M_BAD_JSON", "{bad}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_the_server_tells_of_itself() {
    let server = TestServer::start_with(|config| {
        config.well_known.support.email = Some("admin@example.org".into());
        config.turn.uris = vec!["turn:turn.example.org".into()];
        config.turn.secret = Some(Secret::new("turn"));
    })
    .await;
    let (anyone, alice) = (server.anyone(), server.register("alice").await);
    let (_, versions) = anyone.get("/_matrix/client/versions").await;
    assert!(versions["versions"].as_array().unwrap().contains(&json!("v1.11")));
    assert!(versions["unstable_features"].as_object().unwrap().values().all(Value::is_boolean));
    assert_eq!(anyone.get("/_matrix/client/v3/capabilities").await.0, StatusCode::UNAUTHORIZED);
    let (_, answer) = alice.get("/_matrix/client/v3/capabilities").await;
    let capabilities = &answer["capabilities"];
    assert_eq!(capabilities["m.change_password"], json!({ "enabled": true }));
    assert_eq!(capabilities["m.room_versions"]["default"], "12");
    assert_eq!(capabilities["m.room_versions"]["available"]["1"], "stable");
    let (_, client) = anyone.get("/.well-known/matrix/client").await;
    assert_eq!(client["m.homeserver"]["base_url"], "https://localhost");
    let (_, support) = anyone.get("/.well-known/matrix/support").await;
    assert_eq!(support["contacts"], json!([{ "role": "m.role.admin", "email_address": "admin@example.org" }]));

    let (_, turn) = alice.get("/_matrix/client/v3/voip/turnServer").await;
    let (username, password) = (turn["username"].as_str().unwrap(), turn["password"].as_str().unwrap());
    assert!(username.ends_with(":@alice:localhost"));
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"turn");
    let tag = ruma::serde::Base64::<ruma::serde::base64::Standard>::parse(password).unwrap();
    hmac::verify(&key, username.as_bytes(), tag.as_bytes()).unwrap();
    assert_eq!(password.len() % 4, 0, "padded");
    server.stop().await;

    let server = TestServer::start().await;
    assert_eq!(server.anyone().get("/.well-known/matrix/support").await.0, StatusCode::NOT_FOUND);
    let alice = server.register("alice").await;
    assert_eq!(alice.get("/_matrix/client/v3/voip/turnServer").await.0, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn openid_tokens_stand_for_the_user() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let path = format!("/_matrix/client/v3/user/{}/openid/request_token", encode(&alice.user_id));
    let token = alice.ok(Method::POST, &path, json!({})).await;
    assert_eq!((&token["token_type"], &token["matrix_server_name"]), (&json!("Bearer"), &json!("localhost")));
    assert_eq!(token["expires_in"], 3600);
    let read = server.handle.server().store.read();
    let user = login_tokens::user_of(&read, &OPENID_TOKENS, token["access_token"].as_str().unwrap()).unwrap();
    assert_eq!(user.unwrap(), alice.user_id.as_str());
    drop(read);
    assert_eq!(bob.post(&path, json!({})).await.0, StatusCode::FORBIDDEN);
    server.stop().await;
}

#[tokio::test]
async fn reports_are_kept() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let event = alice.send_text(&room, "spam").await;
    let of_room = format!("/_matrix/client/v3/rooms/{}/report", encode(&room));
    let of_event = format!("{of_room}/{}", encode(&event));
    assert_eq!(
        bob.post(&of_event, json!({ "reason": "spam", "score": -100 })).await.0,
        StatusCode::NOT_FOUND,
        "not joined"
    );
    bob.join(&room).await;
    for path in [&of_event, &of_room, &format!("/_matrix/client/v3/users/{}/report", encode(&alice.user_id))] {
        bob.ok(Method::POST, path, json!({ "reason": "spam" })).await;
    }
    assert_eq!(bob.post(&format!("{of_room}/$unknown"), json!({})).await.0, StatusCode::NOT_FOUND);
    let unknown = "/_matrix/client/v3/users/@nobody:localhost/report";
    assert_eq!(bob.post(unknown, json!({ "reason": "" })).await.0, StatusCode::NOT_FOUND);
    let read = server.handle.server().store.read();
    assert_eq!(REPORTS.scan(&read, (), conduit::store::Direction::Forward).count(), 3);
    drop(read);
    server.stop().await;
}
