//! What application services may do, and what nobody else may.

use conduit::{store::Tx, users::accounts};
use http::{Method, StatusCode};
use ruma::UserId;
use serde_json::{Value, json};

use super::fake::{Fake, client};
use crate::common::{Client, encode};

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";
const REGISTER: &str = "/_matrix/client/v3/register";
const LOGIN: &str = "/_matrix/client/v3/login";

fn ghost(name: &str) -> Value {
    json!({ "type": "m.login.application_service", "username": name, "inhibit_login": true })
}

/// Asserts status and error code of an answer.
#[track_caller]
fn refused((status, answer): (StatusCode, Value), wanted: StatusCode, code: &str) {
    assert_eq!((status, answer["errcode"].as_str()), (wanted, Some(code)), "{answer}");
}

#[tokio::test]
async fn users_of_a_namespace_are_registered_and_acted_as() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let service = client(&server);
    let me = service.ok(Method::GET, WHOAMI, Value::Null).await;
    assert_eq!(me, json!({ "user_id": "@ircbot:localhost" }), "the sender needs no registration");

    let as_bob = format!("{WHOAMI}?user_id=@_irc_Bob:localhost");
    refused(service.get(&as_bob).await, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    let answer = service.ok(Method::POST, REGISTER, ghost("_irc_Bob")).await;
    assert_eq!(answer, json!({ "user_id": "@_irc_Bob:localhost" }), "the name is as it was spelled");
    refused(service.post(REGISTER, ghost("_irc_Bob")).await, StatusCode::BAD_REQUEST, "M_USER_IN_USE");
    assert_eq!(service.ok(Method::GET, &as_bob, Value::Null).await["user_id"], "@_irc_Bob:localhost");

    // A registration without inhibit_login is a login, too; so is a login without password.
    let answer = service.ok(
        Method::POST,
        REGISTER,
        json!({
            "type": "m.login.application_service", "username": "_irc_eve", "device_id": "EVE",
        }),
    );
    let eve = service.logged_in(&answer.await);
    let body = json!({
        "type": "m.login.application_service", "identifier": { "type": "m.id.user", "user": "@_irc_eve:localhost" },
    });
    let eve_again = service.logged_in(&service.ok(Method::POST, LOGIN, body).await);
    for device in [&eve, &eve_again] {
        let me = device.ok(Method::GET, WHOAMI, Value::Null).await;
        assert_eq!((&me["user_id"], &me["device_id"]), (&json!("@_irc_eve:localhost"), &json!(device.device_id)));
    }
    let flows = server.anyone().ok(Method::GET, LOGIN, Value::Null).await;
    assert!(flows["flows"].as_array().unwrap().contains(&json!({ "type": "m.login.application_service" })), "{flows}");

    // Whose account was ended is acted as no more.
    service.ok(Method::POST, "/_matrix/client/v3/account/deactivate?user_id=@_irc_eve:localhost", json!({})).await;
    refused(service.get(&format!("{WHOAMI}?user_id=@_irc_eve:localhost")).await, StatusCode::FORBIDDEN, "M_FORBIDDEN");
}

#[tokio::test]
async fn who_is_suspended_writes_nothing_through_an_application_service_either() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let service = client(&server);
    service.ok(Method::POST, REGISTER, ghost("_irc_bob")).await;
    let bob = UserId::parse("@_irc_bob:localhost").unwrap();
    let suspend = |tx: &mut Tx<'_>| accounts::update(tx, &bob, |account| account.suspended = true);
    server.handle.server().store.write(suspend).unwrap();
    let create = format!("/_matrix/client/v3/createRoom?user_id={bob}");
    refused(service.post(&create, json!({})).await, StatusCode::FORBIDDEN, "M_USER_SUSPENDED");
    assert_eq!(service.ok(Method::GET, &format!("{WHOAMI}?user_id={bob}"), Value::Null).await["user_id"], bob.as_str());
}

#[tokio::test]
async fn nobody_acts_outside_of_their_namespaces() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let alice = server.register("alice").await;
    let service = client(&server);
    for user in ["@alice:localhost", "@_irc_bob:elsewhere.org", "@nobody:localhost"] {
        refused(service.get(&format!("{WHOAMI}?user_id={user}")).await, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    }
    refused(service.get(&format!("{WHOAMI}?user_id=bob")).await, StatusCode::BAD_REQUEST, "M_INVALID_PARAM");
    refused(service.post(REGISTER, ghost("bob")).await, StatusCode::BAD_REQUEST, "M_EXCLUSIVE");
    let login =
        json!({ "type": "m.login.application_service", "identifier": { "type": "m.id.user", "user": "alice" } });
    refused(service.post(LOGIN, login.clone()).await, StatusCode::BAD_REQUEST, "M_EXCLUSIVE");

    let anyone = server.anyone();
    for (client, code) in [(&anyone, "M_MISSING_TOKEN"), (&alice, "M_UNKNOWN_TOKEN")] {
        refused(client.post(REGISTER, ghost("_irc_bob")).await, StatusCode::UNAUTHORIZED, code);
        refused(client.post(LOGIN, login.clone()).await, StatusCode::UNAUTHORIZED, code);
    }
    // To others, user_id says nothing.
    let me = alice.ok(Method::GET, &format!("{WHOAMI}?user_id=@_irc_bob:localhost&device_id=X"), Value::Null).await;
    assert_eq!(me["user_id"], "@alice:localhost");

    // Names of an exclusive namespace are for its application service.
    for name in ["_irc_bob", "_IRC_bob", "ircbot"] {
        let available = format!("/_matrix/client/v3/register/available?username={name}");
        refused(anyone.get(&available).await, StatusCode::BAD_REQUEST, "M_EXCLUSIVE");
        let body = json!({ "username": name, "password": "secret-secret" });
        refused(anyone.post(REGISTER, body).await, StatusCode::BAD_REQUEST, "M_EXCLUSIVE");
    }
    let room = alice.create_room(json!({})).await;
    let path = |alias: &str| format!("/_matrix/client/v3/directory/room/{}", encode(alias));
    let body = json!({ "room_id": room });
    refused(alice.put(&path("#irc_x:localhost"), body.clone()).await, StatusCode::BAD_REQUEST, "M_EXCLUSIVE");
    let named = json!({ "room_alias_name": "irc_x" });
    refused(alice.post("/_matrix/client/v3/createRoom", named.clone()).await, StatusCode::BAD_REQUEST, "M_EXCLUSIVE");
    let own = service.create_room(named).await;
    refused(
        service.put(&path("#other:localhost"), json!({ "room_id": own })).await,
        StatusCode::BAD_REQUEST,
        "M_EXCLUSIVE",
    );
    // It has all power over aliases of its own.
    service.ok(Method::DELETE, &path("#irc_x:localhost"), Value::Null).await;
    refused(anyone.get(&path("#irc_x:localhost")).await, StatusCode::NOT_FOUND, "M_NOT_FOUND");
}

#[tokio::test]
async fn devices_are_made_and_named_without_a_login() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let service = client(&server);
    service.ok(Method::POST, REGISTER, ghost("_irc_bob")).await;
    let bob = "user_id=@_irc_bob:localhost";
    let device = format!("/_matrix/client/v3/devices/BRIDGE?{bob}");
    refused(service.get(&device).await, StatusCode::NOT_FOUND, "M_NOT_FOUND");
    for name in ["device_id", "org.matrix.msc3202.device_id"] {
        refused(
            service.get(&format!("{WHOAMI}?{bob}&{name}=BRIDGE")).await,
            StatusCode::BAD_REQUEST,
            "M_UNKNOWN_DEVICE",
        );
    }
    assert_eq!(service.put(&device, json!({ "display_name": "Bridge" })).await.0, StatusCode::CREATED);
    assert_eq!(service.put(&device, json!({ "display_name": "The bridge" })).await.0, StatusCode::OK);
    assert_eq!(service.ok(Method::GET, &device, Value::Null).await["display_name"], "The bridge");
    for name in ["device_id", "org.matrix.msc3202.device_id"] {
        let me = service.ok(Method::GET, &format!("{WHOAMI}?{bob}&{name}=BRIDGE"), Value::Null).await;
        assert_eq!(me["device_id"], "BRIDGE");
    }
    let seen = service.ok(Method::GET, &device, Value::Null).await["last_seen_ts"].clone();
    assert!(seen.is_u64(), "using it was noted");

    // What needs a device fails without one.
    let keys = json!({ "one_time_keys": { "signed_curve25519:A": { "key": "a" } } });
    let upload = format!("/_matrix/client/v3/keys/upload?{bob}");
    refused(service.post(&upload, keys.clone()).await, StatusCode::BAD_REQUEST, "M_MISSING_PARAM");
    let answer = service.ok(Method::POST, &format!("{upload}&device_id=BRIDGE"), keys).await;
    assert_eq!(answer["one_time_key_counts"]["signed_curve25519"], 1);

    // No password is asked for, neither for replacing cross-signing keys nor for deleting devices.
    for key in ["A".repeat(43), format!("B{}", "A".repeat(42))] {
        let master = json!({
            "user_id": "@_irc_bob:localhost", "usage": ["master"], "keys": { format!("ed25519:{key}"): key },
        });
        let path = format!("/_matrix/client/v3/keys/device_signing/upload?{bob}");
        service.ok(Method::POST, &path, json!({ "master_key": master })).await;
    }
    service.ok(Method::DELETE, &device, json!({})).await;
    refused(service.get(&device).await, StatusCode::NOT_FOUND, "M_NOT_FOUND");

    // Others make devices by logging in.
    let alice = server.register("alice").await;
    refused(alice.put("/_matrix/client/v3/devices/NEW", json!({})).await, StatusCode::NOT_FOUND, "M_NOT_FOUND");
}

#[tokio::test]
async fn times_are_as_application_services_say() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let (service, alice) = (client(&server), server.register("alice").await);
    let room = service.create_room(json!({ "preset": "public_chat" })).await;
    alice.join(&room).await;
    let at = async |client: &Client, event: &Value| {
        let path =
            format!("/_matrix/client/v3/rooms/{}/event/{}", encode(&room), encode(event["event_id"].as_str().unwrap()));
        client.ok(Method::GET, &path, Value::Null).await["origin_server_ts"].as_u64().unwrap()
    };
    let send = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/1?ts=1234", encode(&room));
    let state = format!("/_matrix/client/v3/rooms/{}/state/m.room.topic/?ts=5678", encode(&room));
    let text = json!({ "msgtype": "m.text", "body": "old" });
    let sent = service.ok(Method::PUT, &send, text.clone()).await;
    assert_eq!(at(&service, &sent).await, 1234);
    let sent = service.ok(Method::PUT, &state, json!({ "topic": "old" })).await;
    assert_eq!(at(&service, &sent).await, 5678);
    let sent = alice.ok(Method::PUT, &send, text.clone()).await;
    assert!(at(&alice, &sent).await > 1_600_000_000_000, "to others, ts says nothing");
    for wrong in ["-1", "now", "9007199254740992"] {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/2?ts={wrong}", encode(&room));
        refused(service.put(&path, text.clone()).await, StatusCode::BAD_REQUEST, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn limits_are_as_registered() {
    let fake = Fake::start().await;
    for (line, limited) in [("rate_limited: false", false), ("rate_limited: true", true), ("", true)] {
        let directory = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
        let file = directory.path().join("irc.yaml");
        std::fs::write(&file, fake.registration(line)).unwrap();
        let server = crate::common::TestServer::start_in(directory, |config| {
            config.appservice_registrations = vec![file];
            config.rate_limits.enabled = true;
        });
        let server = server.await;
        let service = client(&server);
        service.ok(Method::POST, REGISTER, ghost("_irc_bob")).await;
        let room = service.create_room(json!({ "preset": "public_chat" })).await;
        let join = format!("/_matrix/client/v3/join/{}?user_id=@_irc_bob:localhost", encode(&room));
        let mut statuses = Vec::new();
        for _ in 0..60 {
            statuses.push(service.post(&join, json!({})).await.0);
            service.send_text(&room, "the sender is never limited").await;
        }
        assert_eq!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS), limited, "{line}");
    }
}

#[tokio::test]
async fn pings_tell_what_is_wrong() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let service = client(&server);
    let ping = "/_matrix/client/v1/appservice/irc/ping";
    let answer = service.ok(Method::POST, ping, json!({ "transaction_id": "meow" })).await;
    assert!(answer["duration_ms"].is_u64(), "{answer}");
    assert_eq!(fake.asked(), [r#"ping {"transaction_id":"meow"}"#]);
    service.ok(Method::POST, ping, json!({})).await;
    assert_eq!(fake.asked()[1], "ping {}");

    fake.refuse(Some(StatusCode::FORBIDDEN));
    let (status, answer) = service.post(ping, json!({})).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_GATEWAY, &json!("M_BAD_STATUS")));
    assert_eq!((&answer["status"], &answer["body"]), (&json!(403), &json!(r#"{"errcode":"M_FORBIDDEN"}"#)));

    let other = "/_matrix/client/v1/appservice/other/ping";
    refused(service.post(other, json!({})).await, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    let alice = server.register("alice").await;
    refused(alice.post(ping, json!({})).await, StatusCode::FORBIDDEN, "M_FORBIDDEN");

    drop(fake);
    // Its last connection is still open, and dies with the first request.
    let (status, answer) = service.post(ping, json!({})).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_GATEWAY, &json!("M_CONNECTION_FAILED")), "{answer}");
}
