//! Devices, and the authentication that deleting one asks for: `api/client/device_management.rs`, `api/uiaa.rs`.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{TestServer, encode};

fn auth(user: &str, password: &str) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
    })
}

#[tokio::test]
async fn devices_are_listed_and_renamed() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let (_, list) = alice.get("/_matrix/client/v3/devices").await;
    assert_eq!(list["devices"].as_array().unwrap().len(), 2);
    let path = format!("/_matrix/client/v3/devices/{}", phone.device_id);
    assert_eq!(alice.put(&path, json!({ "display_name": "Phone" })).await, (StatusCode::OK, json!({})));
    assert_eq!(alice.put(&path, json!({})).await.0, StatusCode::OK);
    let (_, device) = alice.get(&path).await;
    assert_eq!(device["display_name"], "Phone", "a request without a name changes nothing");
    let own = format!("/_matrix/client/v3/devices/{}", alice.device_id);
    let (_, device) = alice.get(&own).await;
    assert!(device["last_seen_ts"].is_u64() && device["last_seen_ip"] == "127.0.0.1", "{device}");
    assert_eq!(alice.get("/_matrix/client/v3/devices/NONE").await.0, StatusCode::NOT_FOUND);
    assert_eq!(
        alice.put("/_matrix/client/v3/devices/NONE", json!({ "display_name": "x" })).await.0,
        StatusCode::NOT_FOUND
    );
    let long = json!({ "display_name": "x".repeat(300) });
    assert_eq!(alice.put(&path, long).await.0, StatusCode::BAD_REQUEST);
    server.stop().await;
}

#[tokio::test]
async fn deleting_one_asks_for_the_password() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    server.register("bob").await;
    let (first, second) = (server.login("alice").await, server.login("alice").await);
    let path = format!("/_matrix/client/v3/devices/{}", first.device_id);
    let (status, challenge) = alice.delete(&path).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(challenge["session"].is_string() && challenge["params"].is_object());

    let with = |auth: Value| json!({ "auth": auth });
    let (status, answer) = alice.json(Method::DELETE, &path, Some(with(auth("alice", "wrong")))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer["errcode"], "M_FORBIDDEN");
    assert!(answer["flows"].is_array() && answer["session"].is_string() && answer["error"].is_string());
    let (status, _) = alice.json(Method::DELETE, &path, Some(with(auth("bob", "secret-bob")))).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "somebody else's password");

    // A session is good for what it was begun for, and for nothing else.
    let mut proof = auth("alice", "secret-alice");
    proof["session"] = challenge["session"].clone();
    let other = format!("/_matrix/client/v3/devices/{}", second.device_id);
    let same = with(json!({ "session": challenge["session"] }));
    alice.ok(Method::DELETE, &path, with(proof)).await;
    let reused = with(json!({ "session": challenge["session"] }));
    assert_eq!(alice.json(Method::DELETE, &other, Some(reused)).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(alice.json(Method::DELETE, &path, Some(same)).await.0, StatusCode::UNAUTHORIZED, "and once");
    assert_eq!(alice.get(&path).await.0, StatusCode::NOT_FOUND);
    assert_eq!(first.get("/_matrix/client/v3/account/whoami").await.0, StatusCode::UNAUTHORIZED);

    let many = json!({ "devices": [second.device_id, "UNKNOWN"], "auth": auth("@alice:localhost", "secret-alice") });
    alice.ok(Method::POST, "/_matrix/client/v3/delete_devices", many).await;
    assert_eq!(alice.get(&other).await.0, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn pushers_go_with_their_device() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let pusher = json!({
        "kind": "http", "app_id": "org.example", "pushkey": "key", "app_display_name": "App",
        "device_display_name": "Phone", "lang": "en", "data": { "url": "https://push.example/_matrix/push/v1/notify" },
    });
    phone.ok(Method::POST, "/_matrix/client/v3/pushers/set", pusher.clone()).await;
    let pushers = async || alice.ok(Method::GET, "/_matrix/client/v3/pushers", Value::Null).await["pushers"].clone();
    assert_eq!(pushers().await[0]["pushkey"], "key");
    for (field, bad) in [
        ("data", json!({ "url": "https://push.example/elsewhere" })),
        ("data", json!({ "url": "ftp://push.example/_matrix/push/v1/notify" })),
        ("kind", json!("carrier pigeon")),
        ("app_id", json!("x".repeat(65))),
        ("pushkey", json!("x".repeat(513))),
    ] {
        let mut wrong = pusher.clone();
        wrong[field] = bad;
        assert_eq!(alice.post("/_matrix/client/v3/pushers/set", wrong).await.0, StatusCode::BAD_REQUEST, "{field}");
    }
    // The same key of another user takes its place, unless that says otherwise.
    let bob = server.register("bob").await;
    let mut appended = pusher.clone();
    appended["append"] = json!(true);
    bob.ok(Method::POST, "/_matrix/client/v3/pushers/set", appended).await;
    assert_eq!(pushers().await.as_array().unwrap().len(), 1);
    bob.ok(Method::POST, "/_matrix/client/v3/pushers/set", pusher.clone()).await;
    assert_eq!(pushers().await, json!([]));

    phone.ok(Method::POST, "/_matrix/client/v3/pushers/set", pusher).await;
    assert_eq!(pushers().await.as_array().unwrap().len(), 1);
    phone.ok(Method::POST, "/_matrix/client/v3/logout", json!({})).await;
    assert_eq!(pushers().await, json!([]));
    server.stop().await;
}

#[tokio::test]
async fn notification_settings_of_a_device_go_with_it() {
    let server = TestServer::start().await;
    let (alice, phone) = (server.register("alice").await, server.login("alice").await);
    let path = |device: &str| {
        let kind = format!("org.matrix.msc3890.local_notification_settings.{device}");
        format!("/_matrix/client/v3/user/{}/account_data/{kind}", encode(&alice.user_id))
    };
    for device in [&alice, &phone] {
        alice.ok(Method::PUT, &path(&device.device_id), json!({ "is_silenced": true })).await;
    }
    phone.ok(Method::POST, "/_matrix/client/v3/logout", json!({})).await;
    assert_eq!(alice.get(&path(&phone.device_id)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(alice.get(&path(&alice.device_id)).await.0, StatusCode::OK);
}
