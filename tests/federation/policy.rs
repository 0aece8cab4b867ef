//! Rooms with a policy server: what it did not sign is not sent.

use std::sync::Arc;

use conduit::{
    rooms::{Draft, build, canonical},
    signing::{self, SigningKeys},
};
use http::{Method, StatusCode};
use ruma::{
    RoomId, RoomVersionId, ServerName, UserId,
    events::{StateEventType, TimelineEventType},
};
use serde_json::{Value, json, value::to_raw_value};

use crate::common::{
    Client, TestServer, encode,
    net::TestNet,
    peer::{Peer, answer},
};

const SIGN: &str = "/_matrix/policy/v1/sign";

/// A room of alice on `a.test` with the policy server `p.test`, which signs what does not speak of spam.
struct Guarded {
    net: TestNet,
    a: TestServer,
    alice: Client,
    peer: Peer,
    room: String,
    policy: Value,
}

impl Guarded {
    async fn new() -> Self {
        let net = TestNet::new();
        let a = net.server("a").await;
        let alice = a.register("alice").await;
        let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
        let peer = Peer::new(&net, "p").await;
        let (_, pkcs8) = signing::generate().unwrap();
        let name = ServerName::parse("p.test").unwrap();
        let keys = Arc::new(SigningKeys::new(name, "policy_server", &pkcs8, Vec::new()).unwrap());
        let policy = json!({ "via": "p.test", "public_keys": { "ed25519": keys.public_key() } });
        peer.on(SIGN, move |request| {
            let pdu = String::from_utf8(request.into_body().to_vec()).unwrap();
            let rules = build::rules(&RoomVersionId::V11).unwrap().redaction;
            let signature = keys.sign(canonical::reference_text(&pdu, &rules).unwrap().as_bytes());
            let signed = json!({ "p.test": { "ed25519:policy_server": signature } });
            let refused = json!({ "errcode": "M_FORBIDDEN", "error": "This looks like spam." });
            async move { if pdu.contains("spam") { answer(400, &refused) } else { answer(200, &signed) } }
        });
        Self { net, a, alice, peer, room, policy }
    }

    /// Has the policy server's user join the room.
    async fn join(&self) {
        self.join_as("@guardian:p.test").await;
    }

    async fn join_as(&self, user: &str) {
        let rooms = &self.a.handle.server().rooms;
        let guard = rooms.lock(&RoomId::parse(&*self.room).unwrap()).await;
        let content = json!({ "membership": "join" });
        let draft = Draft::state(StateEventType::RoomMember, user, &content).unwrap();
        rooms.send(&guard, &UserId::parse(user).unwrap(), draft).unwrap();
    }

    async fn say(&self, body: &str) -> (StatusCode, Value) {
        let txn = conduit::clock::random_string(8).unwrap();
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{txn}", encode(&self.room));
        self.alice.put(&path, json!({ "msgtype": "m.text", "body": body })).await
    }

    async fn choose(&self) {
        self.alice.set_state(&self.room, "m.room.policy", "", self.policy.clone()).await;
    }

    fn asked(&self) -> usize {
        self.net.wire("a", "p").passed().iter().filter(|request| request.ends_with(SIGN)).count()
    }
}

#[tokio::test]
async fn what_is_sent_has_the_signature() {
    let guarded = Guarded::new().await;
    guarded.choose().await;
    assert_eq!(guarded.say("before it has a user there").await.0, StatusCode::OK);
    assert_eq!(guarded.asked(), 0);
    guarded.join().await;
    let (status, sent) = guarded.say("hello").await;
    assert_eq!(status, StatusCode::OK, "{sent}");
    let path = format!("/_matrix/federation/v1/event/{}", encode(sent["event_id"].as_str().unwrap()));
    let (_, event) = guarded.peer.ask(&guarded.a, Method::GET, &path, None).await;
    let signatures = &event["pdus"][0]["signatures"];
    assert!(signatures["p.test"]["ed25519:policy_server"].is_string() && signatures["a.test"].is_object());
    guarded.alice.set_state(&guarded.room, "m.room.topic", "", json!({ "topic": "tea" })).await;
    assert_eq!(guarded.asked(), 2);
    guarded.choose().await;
    assert_eq!(guarded.asked(), 2, "not about the event that chooses it");
}

#[tokio::test]
async fn what_is_refused_is_not_sent() {
    let guarded = Guarded::new().await;
    guarded.choose().await;
    guarded.join().await;
    let (status, error) = guarded.say("spam").await;
    assert_eq!((status, &error["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_FORBIDDEN")));
    assert_eq!(error["error"], "This looks like spam.");
    let messages = format!("/_matrix/client/v3/rooms/{}/messages?dir=b", encode(&guarded.room));
    let page = guarded.alice.ok(Method::GET, &messages, Value::Null).await;
    assert!(!page.to_string().contains("spam"));

    guarded
        .peer
        .on(SIGN, |_| async { answer(200, &json!({ "p.test": { "ed25519:policy_server": "bm90IGEgc2lnbmF0dXJl" } })) });
    assert_eq!(guarded.say("wrongly signed").await.0, StatusCode::FORBIDDEN);
    guarded.peer.on(SIGN, |_| async { answer(200, &json!({})) });
    assert_eq!(guarded.say("not signed").await.0, StatusCode::FORBIDDEN);
    guarded.net.cut("a", "p");
    assert!(guarded.say("not asked").await.0.is_server_error());
    guarded.alice.set_state(&guarded.room, "m.room.policy", "", json!({})).await;
    assert_eq!(guarded.say("spam").await.0, StatusCode::OK, "the room has no policy server any more");
}

/// An event of bob on `b.test`, as that server would make and sign it.
fn event_of_bob(guarded: &Guarded, peer: &Peer, draft: Draft) -> Value {
    let rooms = &guarded.a.handle.server().rooms;
    let read = rooms.store.read();
    let no = conduit::rooms::find(&read, <&RoomId>::try_from(&*guarded.room).unwrap()).unwrap().unwrap();
    let bob = UserId::parse("@bob:b.test").unwrap();
    let made = build::prepare(rooms, &read, no, &bob, draft).unwrap();
    let rules = build::rules(&RoomVersionId::V11).unwrap().redaction;
    let signature = peer.keys.sign(canonical::reference_text(&made.pdu().json, &rules).unwrap().as_bytes());
    let mut event: Value = serde_json::from_str(&made.pdu().json).unwrap();
    event["signatures"] = json!({ "b.test": { peer.keys.id(): signature } });
    event
}

#[tokio::test]
async fn what_comes_without_the_signature_is_shown_only_if_it_is_given() {
    let guarded = Guarded::new().await;
    let peer = Peer::new(&guarded.net, "b").await;
    guarded.join_as("@bob:b.test").await;
    guarded.choose().await;
    guarded.join().await;
    for (number, body) in ["hello", "spam"].into_iter().enumerate() {
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": body })).unwrap();
        let event = event_of_bob(&guarded, &peer, Draft::message(TimelineEventType::RoomMessage, content));
        let transaction = json!({ "origin": "b.test", "origin_server_ts": 1, "pdus": [event], "edus": [] });
        let path = format!("/_matrix/federation/v1/send/{number}");
        let (status, answer) = peer.ask(&guarded.a, Method::PUT, &path, Some(transaction)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert!(answer["pdus"].as_object().unwrap().values().all(|result| *result == json!({})), "{answer}");
    }
    assert_eq!(guarded.asked(), 2);
    let messages = format!("/_matrix/client/v3/rooms/{}/messages?dir=b", encode(&guarded.room));
    let page = guarded.alice.ok(Method::GET, &messages, Value::Null).await.to_string();
    assert!(page.contains("hello") && !page.contains("spam"), "{page}");
}
