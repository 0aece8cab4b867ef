//! Devices that take messages for users who are logged in nowhere (MSC3814).

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    common::{Client, TestServer, encode},
    e2ee::{Key, device_keys, query},
};

const DEVICE: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

/// Makes a dehydrated device with an ID.
async fn dehydrate(client: &Client, id: &str) -> (StatusCode, Value) {
    let mut device = client.clone();
    device.device_id = id.to_owned();
    let key = Key::new();
    let mut fallback = json!({ "key": key.public, "fallback": true });
    key.sign(&mut fallback, &client.user_id, id);
    let body = json!({
        "device_id": id,
        "initial_device_display_name": "Dehydrated device",
        "device_data": { "algorithm": "org.matrix.msc3814.v2", "device_pickle": id, "nonce": "n" },
        "device_keys": device_keys(&device, &key),
        "fallback_keys": { "signed_curve25519:AAAA": fallback },
    });
    client.put(DEVICE, body).await
}

async fn send(from: &Client, to: &Client, device: &str, text: &str) {
    let path = format!("/_matrix/client/v3/sendToDevice/org.example.note/{text}");
    let body = json!({ "messages": { to.user_id.as_str(): { device: { "text": text } } } });
    from.ok(Method::PUT, &path, body).await;
}

#[tokio::test]
async fn a_dehydrated_device_takes_messages_until_it_is_made_a_real_one() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    assert_eq!(alice.get(DEVICE).await.1["errcode"], "M_NOT_FOUND");
    assert_eq!(alice.delete(DEVICE).await.0, StatusCode::NOT_FOUND);
    assert_eq!(dehydrate(&alice, "DRY").await, (StatusCode::OK, json!({ "device_id": "DRY" })));
    let found = alice.ok(Method::GET, DEVICE, Value::Null).await;
    let data = json!({ "algorithm": "org.matrix.msc3814.v2", "device_pickle": "DRY", "nonce": "n" });
    assert_eq!(found, json!({ "device_id": "DRY", "device_data": data }));

    // Others know it as a device, and can write to it.
    let keys = query(&bob, &alice.user_id).await;
    assert!(keys["device_keys"][&alice.user_id]["DRY"].is_object(), "{keys}");
    let claim = json!({ "one_time_keys": { alice.user_id.as_str(): { "DRY": "signed_curve25519" } } });
    let claimed = bob.ok(Method::POST, "/_matrix/client/v3/keys/claim", claim).await;
    assert!(claimed["one_time_keys"][&alice.user_id]["DRY"]["signed_curve25519:AAAA"].is_object(), "{claimed}");
    send(&bob, &alice, "DRY", "1").await;
    send(&bob, &alice, "*", "2").await;

    let laptop = server.login("alice").await;
    let events = format!("{DEVICE}/DRY/events");
    let told = laptop.ok(Method::POST, &events, json!({})).await;
    let texts: Vec<_> = told["events"].as_array().unwrap().iter().map(|event| &event["content"]["text"]).collect();
    assert_eq!(texts, ["1", "2"]);
    let rest = laptop.ok(Method::POST, &events, json!({ "next_batch": told["next_batch"] })).await;
    assert!(rest["events"].as_array().unwrap().is_empty() && rest["next_batch"].is_string(), "{rest}");
    let again = laptop.ok(Method::POST, &events, json!({})).await;
    assert_eq!(again["events"], told["events"], "a client that failed begins again");
    for (client, id) in [(&bob, "DRY"), (&laptop, laptop.device_id.as_str())] {
        let (status, answer) = client.post(&format!("{DEVICE}/{}/events", encode(id)), json!({})).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")));
    }

    assert_eq!(laptop.ok(Method::DELETE, DEVICE, Value::Null).await, json!({ "device_id": "DRY" }));
    assert_eq!(alice.get(DEVICE).await.0, StatusCode::NOT_FOUND);
    assert_eq!(query(&bob, &alice.user_id).await["device_keys"][&alice.user_id], json!({}));
}

#[tokio::test]
async fn a_user_has_one_and_it_is_none_of_the_others() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    dehydrate(&alice, "FIRST").await;
    assert_eq!(dehydrate(&alice, "SECOND").await.0, StatusCode::OK);
    let list = alice.ok(Method::GET, "/_matrix/client/v3/devices", Value::Null).await;
    let ids: Vec<_> = list["devices"].as_array().unwrap().iter().map(|device| &device["device_id"]).collect();
    assert_eq!(ids.len(), 2, "{list}");
    assert!(ids.contains(&&json!("SECOND")) && ids.contains(&&json!(alice.device_id)));
    let (status, answer) = dehydrate(&alice, &alice.device_id).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")));
    assert_eq!(alice.ok(Method::GET, DEVICE, Value::Null).await["device_id"], "SECOND", "nothing was changed");
    // It can be deleted as a device as well.
    let auth = json!({
        "type": "m.login.password", "password": "secret-alice",
        "identifier": { "type": "m.id.user", "user": alice.user_id },
    });
    let (_, challenge) = alice.post("/_matrix/client/v3/delete_devices", json!({ "devices": ["SECOND"] })).await;
    let mut auth = auth;
    auth["session"] = challenge["session"].clone();
    let body = json!({ "devices": ["SECOND"], "auth": auth });
    alice.ok(Method::POST, "/_matrix/client/v3/delete_devices", body).await;
    assert_eq!(alice.get(DEVICE).await.0, StatusCode::NOT_FOUND);
}
