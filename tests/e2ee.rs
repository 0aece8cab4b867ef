//! End-to-end encryption: device keys, one-time keys, cross-signing, device lists, messages between devices, key backups.

use http::{Method, StatusCode};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use ruma::{
    CanonicalJsonObject,
    serde::{Base64, base64::Standard},
    signatures::to_canonical_json_string_for_signing,
};
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode};

pub const KEYS: &str = "/_matrix/client/v3/keys";
const ROOM_KEYS: &str = "/_matrix/client/v3/room_keys";

/// An ed25519 key of a client.
pub struct Key {
    pair: Ed25519KeyPair,
    pub public: String,
}

impl Key {
    pub fn new() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let public = Base64::<Standard, _>::new(pair.public_key().as_ref()).encode();
        Self { pair, public }
    }

    /// Adds a signature by `user` under the key ID `ed25519:{name}`.
    pub fn sign(&self, object: &mut Value, user: &str, name: &str) {
        let canonical: CanonicalJsonObject = serde_json::from_value(object.clone()).unwrap();
        let text = to_canonical_json_string_for_signing(&canonical).unwrap();
        let signature = Base64::<Standard, _>::new(self.pair.sign(text.as_bytes()).as_ref().to_vec()).encode();
        if object["signatures"].is_null() {
            object["signatures"] = json!({});
        }
        if object["signatures"][user].is_null() {
            object["signatures"][user] = json!({});
        }
        object["signatures"][user][format!("ed25519:{name}")] = signature.into();
    }

    /// The public key of a user's cross-signing key.
    pub fn cross_signing(&self, user: &str, usage: &str) -> Value {
        json!({ "user_id": user, "usage": [usage], "keys": { format!("ed25519:{}", self.public): self.public } })
    }
}

/// The identity keys of a client's device, signed by itself.
pub fn device_keys(client: &Client, key: &Key) -> Value {
    let device = &client.device_id;
    let mut keys = json!({
        "user_id": client.user_id,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": { format!("ed25519:{device}"): key.public, format!("curve25519:{device}"): key.public },
    });
    key.sign(&mut keys, &client.user_id, device);
    keys
}

pub async fn upload(client: &Client, body: Value) -> Value {
    client.ok(Method::POST, &format!("{KEYS}/upload"), body).await
}

pub async fn query(client: &Client, user: &str) -> Value {
    client.ok(Method::POST, &format!("{KEYS}/query"), json!({ "device_keys": { user: [] } })).await
}

#[tokio::test]
async fn device_keys_are_checked_and_found() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let keys = device_keys(&alice, &Key::new());
    upload(&alice, json!({ "device_keys": keys })).await;
    let found = query(&bob, &alice.user_id).await;
    let shown = &found["device_keys"][&alice.user_id][&alice.device_id];
    assert_eq!((&shown["keys"], &shown["signatures"]), (&keys["keys"], &keys["signatures"]));
    // A user without keys is there, with none; nobody is not; others' servers are not asked.
    let found = query(&alice, &bob.user_id).await;
    assert_eq!(found["device_keys"], json!({ &bob.user_id: {} }));
    assert_eq!(query(&alice, "@nobody:localhost").await["device_keys"], Value::Null);
    assert!(query(&alice, "@far:away").await["failures"]["away"].is_object());
    let path = format!("/_matrix/client/v3/devices/{}", alice.device_id);
    alice.ok(Method::PUT, &path, json!({ "display_name": "phone" })).await;
    let found = query(&bob, &alice.user_id).await;
    let shown = &found["device_keys"][&alice.user_id][&alice.device_id];
    assert_eq!(shown["unsigned"]["device_display_name"], "phone");
    let mut forged = device_keys(&bob, &Key::new());
    forged["algorithms"] = json!([]);
    for (body, code) in [
        (keys, "M_BAD_JSON"),
        (json!({ "user_id": bob.user_id, "device_id": bob.device_id }), "M_BAD_JSON"),
        (forged, "M_INVALID_SIGNATURE"),
    ] {
        let (status, answer) = bob.post(&format!("{KEYS}/upload"), json!({ "device_keys": body })).await;
        assert_eq!((status, answer["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some(code)), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn one_time_keys_are_handed_out_once_and_in_order() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let one = |name: &str| json!({ format!("signed_curve25519:{name}"): { "key": name } });
    let answer = upload(&alice, json!({})).await;
    assert_eq!(answer["one_time_key_counts"]["signed_curve25519"], 0);
    for (name, count) in [("b", 1), ("a", 2), ("b", 2)] {
        let answer = upload(&alice, json!({ "one_time_keys": one(name) })).await;
        assert_eq!(answer["one_time_key_counts"]["signed_curve25519"], count);
    }
    let another = json!({ "one_time_keys": { "signed_curve25519:a": { "key": "other" } } });
    let (status, answer) = alice.post(&format!("{KEYS}/upload"), another).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some("M_UNKNOWN")));
    let body = json!({ "one_time_keys": { &alice.user_id: { &alice.device_id: "signed_curve25519" } } });
    let claim = async || {
        let answer = bob.ok(Method::POST, &format!("{KEYS}/claim"), body.clone()).await;
        answer["one_time_keys"][&alice.user_id][&alice.device_id].clone()
    };
    assert_eq!(claim().await, one("b"));
    // The device repeats an upload whose answer it did not get: a key that was handed out does not come back.
    let answer = upload(&alice, json!({ "one_time_keys": one("b") })).await;
    assert_eq!(answer["one_time_key_counts"]["signed_curve25519"], 1);
    let fallback = json!({ "signed_curve25519:f": { "key": "f", "fallback": true } });
    upload(&alice, json!({ "fallback_keys": fallback })).await;
    let sync = alice.sync("").await;
    assert_eq!(sync["device_one_time_keys_count"]["signed_curve25519"], 1);
    assert_eq!(sync["device_unused_fallback_key_types"], json!(["signed_curve25519"]));
    assert_eq!(claim().await, one("a"));
    assert_eq!(claim().await, fallback);
    assert_eq!(claim().await, fallback);
    let sync = alice.sync("").await;
    assert_eq!(sync["device_one_time_keys_count"]["signed_curve25519"], 0);
    assert_eq!(sync["device_unused_fallback_key_types"], json!([]));
    server.stop().await;
}

/// Uploads three cross-signing keys; gives them, the master key first.
pub async fn bootstrap(client: &Client) -> [Key; 3] {
    let keys = [Key::new(), Key::new(), Key::new()];
    client.ok(Method::POST, &format!("{KEYS}/device_signing/upload"), signing_keys(client, &keys)).await;
    keys
}

pub fn signing_keys(client: &Client, [master, self_signing, user_signing]: &[Key; 3]) -> Value {
    let user = &client.user_id;
    let mut others =
        [self_signing.cross_signing(user, "self_signing"), user_signing.cross_signing(user, "user_signing")];
    for key in &mut others {
        master.sign(key, user, &master.public);
    }
    let [self_signing, user_signing] = others;
    json!({
        "master_key": master.cross_signing(user, "master"),
        "self_signing_key": self_signing,
        "user_signing_key": user_signing,
    })
}

#[tokio::test]
async fn cross_signing_keys_are_replaced_with_proof_only() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let path = format!("{KEYS}/device_signing/upload");
    let user = &alice.user_id;
    // Without a master key, and with a key that it did not sign.
    let (status, answer) =
        alice.post(&path, json!({ "self_signing_key": Key::new().cross_signing(user, "self_signing") })).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some("M_MISSING_PARAM")));
    let unsigned = json!({
        "master_key": Key::new().cross_signing(user, "master"),
        "self_signing_key": Key::new().cross_signing(user, "self_signing"),
    });
    let (status, answer) = alice.post(&path, unsigned).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some("M_INVALID_SIGNATURE")));
    // The first ones need no proof, nor do the same once more.
    let keys = bootstrap(&alice).await;
    alice.ok(Method::POST, &path, signing_keys(&alice, &keys)).await;
    let others = [Key::new(), Key::new(), Key::new()];
    let mut body = signing_keys(&alice, &others);
    let (status, challenge) = alice.post(&path, body.clone()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(challenge["flows"].is_array(), "{challenge}");
    body["auth"] = json!({
        "type": "m.login.password",
        "session": challenge["session"],
        "identifier": { "type": "m.id.user", "user": "alice" },
        "password": "secret-alice",
    });
    alice.ok(Method::POST, &path, body).await;
    let found = query(&alice, user).await;
    let master = &found["master_keys"][user]["keys"];
    assert_eq!(master, &others[0].cross_signing(user, "master")["keys"]);
    server.stop().await;
}

#[tokio::test]
async fn signatures_are_verified_and_shown_to_whom_they_concern() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let eve = server.register("eve").await;
    let [alice_key, bob_key] = [Key::new(), Key::new()];
    upload(&alice, json!({ "device_keys": device_keys(&alice, &alice_key) })).await;
    upload(&bob, json!({ "device_keys": device_keys(&bob, &bob_key) })).await;
    let [alice_master, alice_self, alice_user] = bootstrap(&alice).await;
    let [bob_master, ..] = bootstrap(&bob).await;
    // Alice signs her device, has it sign her master key, and signs Bob's master key.
    let mut device = device_keys(&alice, &alice_key);
    alice_self.sign(&mut device, &alice.user_id, &alice_self.public);
    let mut master = alice_master.cross_signing(&alice.user_id, "master");
    alice_key.sign(&mut master, &alice.user_id, &alice.device_id);
    let mut bobs = bob_master.cross_signing(&bob.user_id, "master");
    alice_user.sign(&mut bobs, &alice.user_id, &alice_user.public);
    let path = format!("{KEYS}/signatures/upload");
    let body = json!({
        &alice.user_id: { &alice.device_id: device, &alice_master.public: master },
        &bob.user_id: { &bob_master.public: bobs },
    });
    let answer = alice.ok(Method::POST, &path, body).await;
    assert_eq!(answer, json!({}));
    let by_alice = |found: &Value, section: &str, of: &Client| -> usize {
        let key = &found[section][&of.user_id];
        let key = if section == "device_keys" { &key[&of.device_id] } else { key };
        key["signatures"][&alice.user_id].as_object().map_or(0, serde_json::Map::len)
    };
    for viewer in [&alice, &bob, &eve] {
        let found = query(viewer, &alice.user_id).await;
        assert_eq!(by_alice(&found, "device_keys", &alice), 2);
        assert_eq!(by_alice(&found, "master_keys", &alice), 1);
        assert_eq!(found["user_signing_keys"].is_object(), viewer.user_id == alice.user_id);
        let found = query(viewer, &bob.user_id).await;
        let expected = usize::from(viewer.user_id == alice.user_id);
        assert_eq!(by_alice(&found, "master_keys", &bob), expected, "{}", viewer.user_id);
    }
    // What does not fit, or is signed by a key that may not sign it, is told for each key.
    let mut forged = alice_master.cross_signing(&alice.user_id, "master");
    Key::new().sign(&mut forged, &alice.user_id, &alice.device_id);
    let mut stranger = device_keys(&bob, &bob_key);
    alice_user.sign(&mut stranger, &alice.user_id, &alice_user.public);
    let body = json!({
        &alice.user_id: { &alice_master.public: forged, "NOSUCHDEVICE": device_keys(&alice, &alice_key) },
        &bob.user_id: { &bob.device_id: stranger },
    });
    let failures = alice.ok(Method::POST, &path, body).await["failures"].clone();
    assert_eq!(failures[&alice.user_id][&alice_master.public]["errcode"], "M_INVALID_SIGNATURE");
    assert_eq!(failures[&alice.user_id]["NOSUCHDEVICE"]["errcode"], "M_NOT_FOUND");
    assert_eq!(failures[&bob.user_id][&bob.device_id]["errcode"], "M_INVALID_SIGNATURE");
    server.stop().await;
}

#[tokio::test]
async fn device_lists_follow_keys_and_rooms() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let next = |sync: &Value| sync["next_batch"].as_str().unwrap().to_owned();
    let since = next(&alice.sync("").await);
    let lists = async |since: &str| {
        let sync = alice.sync(&format!("since={since}&timeout=0")).await;
        let token = next(&sync);
        let path = format!("{KEYS}/changes?from={since}&to={token}");
        let changes = alice.ok(Method::GET, &path, Value::Null).await;
        for section in ["changed", "left"] {
            let told = sync["device_lists"][section].as_array().cloned().unwrap_or_default();
            assert_eq!(changes[section].as_array().unwrap(), &told);
        }
        (changes, token)
    };
    // Bob's keys are nobody's business before he shares a room with Alice.
    upload(&bob, json!({ "device_keys": device_keys(&bob, &Key::new()) })).await;
    let (changes, since) = lists(&since).await;
    assert_eq!(changes, json!({ "changed": [], "left": [] }));
    bob.join(&room).await;
    let (changes, since) = lists(&since).await;
    assert_eq!(changes, json!({ "changed": [bob.user_id], "left": [] }));
    upload(&bob, json!({ "device_keys": device_keys(&bob, &Key::new()) })).await;
    upload(&alice, json!({ "device_keys": device_keys(&alice, &Key::new()) })).await;
    let (changes, since) = lists(&since).await;
    assert_eq!(changes, json!({ "changed": [alice.user_id, bob.user_id], "left": [] }));
    let leave = format!("/_matrix/client/v3/rooms/{}/leave", encode(&room));
    bob.ok(Method::POST, &leave, json!({})).await;
    let (changes, since) = lists(&since).await;
    assert_eq!(changes, json!({ "changed": [], "left": [bob.user_id] }));
    upload(&bob, json!({ "device_keys": device_keys(&bob, &Key::new()) })).await;
    assert_eq!(lists(&since).await.0, json!({ "changed": [], "left": [] }));
    server.stop().await;
}

#[tokio::test]
async fn messages_to_devices_stay_until_they_are_delivered() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let other = server.login("bob").await;
    let send = async |txn: &str, device: &str, text: &str| {
        let body = json!({ "messages": { &bob.user_id: { device: { "text": text } } } });
        alice.ok(Method::PUT, &format!("/_matrix/client/v3/sendToDevice/m.test/{txn}"), body).await;
    };
    send("1", &bob.device_id, "one").await;
    send("1", &bob.device_id, "one again").await;
    send("2", "*", "two").await;
    send("3", "NOSUCHDEVICE", "three").await;
    let texts = |sync: &Value| -> Vec<String> {
        let events = sync["to_device"]["events"].as_array().cloned().unwrap_or_default();
        events.iter().map(|event| event["content"]["text"].as_str().unwrap().to_owned()).collect()
    };
    let first = bob.sync("").await;
    assert_eq!(texts(&first), ["one", "two"]);
    assert_eq!(first["to_device"]["events"][0]["sender"], alice.user_id.as_str());
    assert_eq!(first["to_device"]["events"][0]["type"], "m.test");
    // The answer was lost: they come once more.
    let again = bob.sync("").await;
    assert_eq!(texts(&again), ["one", "two"]);
    let since = again["next_batch"].as_str().unwrap();
    assert!(texts(&bob.sync(&format!("since={since}&timeout=0")).await).is_empty());
    assert_eq!(texts(&other.sync("").await), ["two"]);
    server.stop().await;
}

#[tokio::test]
async fn a_long_queue_comes_in_parts() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for number in 0..250 {
        let body = json!({ "messages": { &bob.user_id: { "*": { "number": number } } } });
        alice.ok(Method::PUT, &format!("/_matrix/client/v3/sendToDevice/m.test/{number}"), body).await;
    }
    let mut numbers = Vec::new();
    let mut query = String::new();
    for _ in 0..3 {
        let sync = bob.sync(&query).await;
        let events = sync["to_device"]["events"].as_array().unwrap();
        assert!(events.len() <= 100);
        numbers.extend(events.iter().map(|event| event["content"]["number"].as_u64().unwrap()));
        query = format!("since={}&timeout=0", sync["next_batch"].as_str().unwrap());
    }
    assert_eq!(numbers, (0..250).collect::<Vec<_>>());
    server.stop().await;
}

#[tokio::test]
async fn a_deleted_device_takes_its_keys_along() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let other = server.login("alice").await;
    upload(&other, json!({ "device_keys": device_keys(&other, &Key::new()) })).await;
    other.ok(Method::POST, "/_matrix/client/v3/logout", json!({})).await;
    assert_eq!(query(&alice, &alice.user_id).await["device_keys"], json!({ &alice.user_id: {} }));
    server.stop().await;
}

fn session(index: u64, forwarded: u64, verified: bool) -> Value {
    json!({
        "first_message_index": index,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": { "ephemeral": "a", "ciphertext": "b", "mac": "c" },
    })
}

#[tokio::test]
async fn key_backups_keep_the_better_key() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let (status, _) = alice.get(&format!("{ROOM_KEYS}/version")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let algorithm = json!({ "algorithm": "m.megolm_backup.v1", "auth_data": { "a": 1 } });
    let answer = alice.ok(Method::POST, &format!("{ROOM_KEYS}/version"), algorithm.clone()).await;
    let version = answer["version"].as_str().unwrap().to_owned();
    let path = format!("{ROOM_KEYS}/keys/{}/s?version={version}", encode("!r:localhost"));
    let first = alice.ok(Method::PUT, &path, session(5, 5, false)).await;
    assert_eq!(first["count"], 1);
    for (key, replaces) in [
        (session(6, 0, false), false),
        (session(5, 6, false), false),
        (session(5, 4, false), true),
        (session(9, 9, true), true),
        (session(0, 0, false), false),
    ] {
        let before = alice.ok(Method::GET, &format!("{ROOM_KEYS}/version"), Value::Null).await["etag"].clone();
        let answer = alice.ok(Method::PUT, &path, key.clone()).await;
        assert_eq!(answer["etag"] != before, replaces, "{key}");
        assert_eq!(alice.ok(Method::GET, &path, Value::Null).await == key, replaces, "{key}");
    }
    let all = format!("{ROOM_KEYS}/keys?version={version}");
    let many = json!({ "rooms": { "!r:localhost": { "sessions": { "t": session(0, 0, true) } } } });
    assert_eq!(alice.ok(Method::PUT, &all, many).await["count"], 2);
    let found = alice.ok(Method::GET, &all, Value::Null).await;
    assert_eq!(found["rooms"]["!r:localhost"]["sessions"].as_object().unwrap().len(), 2);
    let empty = format!("{ROOM_KEYS}/keys/{}?version={version}", encode("!other:localhost"));
    assert_eq!(alice.ok(Method::GET, &empty, Value::Null).await, json!({ "sessions": {} }));
    let wrong = json!({ "algorithm": "another", "auth_data": {} });
    let (status, answer) = alice.put(&format!("{ROOM_KEYS}/version/{version}"), wrong).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some("M_INVALID_PARAM")));
    assert_eq!(alice.ok(Method::DELETE, &path, Value::Null).await["count"], 1);
    let (status, _) = alice.get(&path).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // A second version is the one that takes keys; the first can still be read, until it is deleted.
    let second = alice.ok(Method::POST, &format!("{ROOM_KEYS}/version"), algorithm).await["version"].clone();
    let (status, answer) = alice.put(&path, session(0, 0, true)).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::FORBIDDEN, Some("M_WRONG_ROOM_KEYS_VERSION")));
    assert_eq!(answer["current_version"], second);
    alice.ok(Method::GET, &all, Value::Null).await;
    for _ in 0..2 {
        alice.ok(Method::DELETE, &format!("{ROOM_KEYS}/version/{version}"), Value::Null).await;
    }
    for (path, status) in
        [(all.as_str(), StatusCode::NOT_FOUND), (&format!("{ROOM_KEYS}/version/77"), StatusCode::NOT_FOUND)]
    {
        assert_eq!(alice.get(path).await.0, status);
    }
    server.stop().await;
}
