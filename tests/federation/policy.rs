//! Rooms with a policy server: what it did not sign is not sent.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use conduit::{
    config::Config,
    rooms::{Draft, build, canonical},
    signing::{self, SigningKeys},
    store::trees::PROFILE_UPDATES,
};
use http::{Method, StatusCode};
use ruma::{
    RoomId, RoomVersionId, ServerName, UserId,
    events::{StateEventType, TimelineEventType},
};
use serde_json::{Value, json, value::to_raw_value};

use super::joins::until;
use crate::common::{
    Client, TestServer, encode,
    net::{Gate, TestNet},
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
    /// Whether the policy server finds everything to be spam.
    refuses: Arc<AtomicBool>,
}

impl Guarded {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let net = TestNet::new();
        let a = net.server_with("a", change).await;
        let alice = a.register("alice").await;
        let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
        let peer = Peer::new(&net, "p").await;
        let (_, pkcs8) = signing::generate().unwrap();
        let name = ServerName::parse("p.test").unwrap();
        let keys = Arc::new(SigningKeys::new(name, "policy_server", &pkcs8, Vec::new()).unwrap());
        let policy = json!({ "via": "p.test", "public_keys": { "ed25519": keys.public_key() } });
        let refuses = Arc::new(AtomicBool::new(false));
        let is_refused = refuses.clone();
        peer.on(SIGN, move |request| {
            let pdu = String::from_utf8(request.into_body().to_vec()).unwrap();
            let rules = build::rules(&RoomVersionId::V11).unwrap().redaction;
            let signature = keys.sign(canonical::reference_text(&pdu, &rules).unwrap().as_bytes());
            let signed = json!({ "p.test": { "ed25519:policy_server": signature } });
            let refused = json!({ "errcode": "M_FORBIDDEN", "error": "This looks like spam." });
            let is_spam = pdu.contains("spam") || is_refused.load(Relaxed);
            async move { if is_spam { answer(400, &refused) } else { answer(200, &signed) } }
        });
        Self { net, a, alice, peer, room, policy, refuses }
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

/// That this server asks others for as much as it may is nothing that a policy server says.
#[tokio::test]
async fn who_asks_a_lot_asks_the_policy_server_all_the_same() {
    let guarded = Guarded::with(|config| config.max_concurrent_requests = 1).await;
    guarded.choose().await;
    guarded.join().await;
    let slow = Peer::new(&guarded.net, "slow").await;
    let (asked, held) = (Gate::closed(), Gate::closed());
    let gates = (asked.clone(), held.clone());
    slow.on("/_matrix/federation/v1/query/profile", move |_| {
        let (asked, held) = gates.clone();
        async move {
            asked.open();
            held.passed().await;
            answer(200, &json!({}))
        }
    });
    let meanwhile = async {
        asked.passed().await;
        assert_eq!(guarded.say("hello").await.0, StatusCode::OK);
        held.open();
    };
    tokio::join!(guarded.alice.get("/_matrix/client/v3/profile/@somebody:slow.test"), meanwhile);
}

#[tokio::test]
async fn memberships_and_profiles_have_the_signature_too() {
    let guarded = Guarded::new().await;
    guarded.choose().await;
    guarded.join().await;
    let (alice, a) = (&guarded.alice, &guarded.a);
    let (bob, carol) = (a.register("bob").await, a.register("carol").await);
    let act = async |action: &str, body: Value| {
        let path = format!("/_matrix/client/v3/rooms/{}/{action}", encode(&guarded.room));
        alice.post(&path, body).await.0
    };
    let name = async |client: &Client, name: &str| {
        let path = format!("/_matrix/client/v3/profile/{}/displayname", encode(&client.user_id));
        client.ok(Method::PUT, &path, json!({ "displayname": name })).await;
    };
    let expect = |client: &Client, membership: &str, name: &str| {
        let read = a.handle.server().store.read();
        let no = conduit::rooms::find(&read, <&RoomId>::try_from(&*guarded.room).unwrap()).unwrap().unwrap();
        let user = <&UserId>::try_from(&*client.user_id).unwrap();
        let member = conduit::rooms::members::get(&read, no, user).unwrap().unwrap();
        let event = conduit::rooms::event::require(&read, member.event).unwrap().pdu.json.clone();
        assert!(event.contains("ed25519:policy_server"), "{event}");
        assert_eq!((member.membership.as_str(), member.displayname.as_deref()), (membership, Some(name)));
    };
    bob.join(&guarded.room).await;
    expect(&bob, "join", "bob");
    name(&bob, "Bob").await;
    expect(&bob, "join", "Bob");
    name(&bob, "Buy spam").await;
    expect(&bob, "join", "Bob");
    assert_eq!(act("invite", json!({ "user_id": carol.user_id })).await, StatusCode::OK);
    expect(&carol, "invite", "carol");
    assert_eq!(act("kick", json!({ "user_id": carol.user_id, "reason": "spam" })).await, StatusCode::BAD_REQUEST);
    expect(&carol, "invite", "carol");
    assert_eq!(act("kick", json!({ "user_id": carol.user_id })).await, StatusCode::OK);
    assert_eq!(act("ban", json!({ "user_id": carol.user_id })).await, StatusCode::OK);

    // What was refused is not tried again, and what the policy server could not be asked about is.
    let is_to_be_shown = |client: &Client| {
        let user = <&UserId>::try_from(&*client.user_id).unwrap();
        PROFILE_UPDATES.contains(&a.handle.server().store.read(), user).unwrap()
    };
    assert!(!is_to_be_shown(&bob));
    guarded.net.cut("a", "p");
    name(&bob, "Robert").await;
    assert!(is_to_be_shown(&bob));
    // Nobody is kept in a room since its policy server is gone.
    assert!(act("unban", json!({ "user_id": carol.user_id })).await.is_server_error());
    let leave = format!("/_matrix/client/v3/rooms/{}/leave", encode(&guarded.room));
    bob.ok(Method::POST, &leave, json!({})).await;
}

/// What the server does of itself is no exception: tombstones, guests and users who go, power that is given.
#[tokio::test]
async fn what_follows_from_a_decision_has_the_signature_too() {
    let guarded = Guarded::new().await;
    let (alice, a) = (&guarded.alice, &guarded.a);
    let bob = a.register("bob").await;
    let guest = a.anyone().ok(Method::POST, "/_matrix/client/v3/register?kind=guest", json!({})).await;
    let guest = a.anyone().logged_in(&guest);
    alice.set_state(&guarded.room, "m.room.guest_access", "", json!({ "guest_access": "can_join" })).await;
    bob.join(&guarded.room).await;
    guest.join(&guarded.room).await;
    guarded.choose().await;
    guarded.join().await;
    let signed = |kind: &str, key: &str| {
        let read = a.handle.server().store.read();
        let no = conduit::rooms::find(&read, <&RoomId>::try_from(&*guarded.room).unwrap()).unwrap().unwrap();
        let event = conduit::rooms::state::get(&read, no, &kind.into(), key).unwrap()?;
        event.pdu.json.contains("ed25519:policy_server").then(|| event.pdu.json.clone())
    };
    alice.set_state(&guarded.room, "m.room.guest_access", "", json!({ "guest_access": "forbidden" })).await;
    until("the guest to leave", async || {
        signed("m.room.member", &guest.user_id).filter(|json| json.contains("leave")).map(drop)
    })
    .await;
    let deactivate = "/_matrix/client/v3/account/deactivate";
    let who = json!({ "type": "m.id.user", "user": "bob" });
    let auth = json!({ "type": "m.login.password", "identifier": who, "password": "secret-bob" });
    bob.ok(Method::POST, deactivate, json!({ "auth": auth })).await;
    assert!(signed("m.room.member", &bob.user_id).unwrap().contains("leave"));

    // Where the tombstone is refused, nothing is replaced.
    let upgrade = format!("/_matrix/client/v3/rooms/{}/upgrade", encode(&guarded.room));
    guarded.refuses.store(true, Relaxed);
    let rooms = async || alice.ok(Method::GET, "/_matrix/client/v3/joined_rooms", Value::Null).await;
    let before = rooms().await;
    let (status, error) = alice.post(&upgrade, json!({ "new_version": "11" })).await;
    assert_eq!((status, &error["error"]), (StatusCode::BAD_REQUEST, &json!("This looks like spam.")));
    assert_eq!((rooms().await, signed("m.room.tombstone", "")), (before, None));
    guarded.refuses.store(false, Relaxed);
    alice.ok(Method::POST, &upgrade, json!({ "new_version": "11" })).await;
    assert!(signed("m.room.tombstone", "").is_some() && signed("m.room.power_levels", "").is_some());
}

/// Whatever does not ask is stopped.
#[tokio::test]
async fn nothing_of_this_server_goes_in_without_the_signature() {
    let guarded = Guarded::new().await;
    guarded.choose().await;
    guarded.join().await;
    let rooms = &guarded.a.handle.server().rooms;
    let guard = rooms.lock(&RoomId::parse(&*guarded.room).unwrap()).await;
    let alice = UserId::parse(&*guarded.alice.user_id).unwrap();
    let draft = Draft::state(StateEventType::RoomTopic, "", &json!({ "topic": "behind its back" })).unwrap();
    assert_eq!(rooms.send(&guard, &alice, draft).unwrap_err().status(), StatusCode::FORBIDDEN);
    let draft = Draft::state(StateEventType::RoomMember, alice.as_str(), &json!({ "membership": "leave" })).unwrap();
    rooms.send(&guard, &alice, draft).unwrap();
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
        let draft = Draft::message(TimelineEventType::RoomMessage, content);
        let (event, id) = peer.event(&guarded.a, &guarded.room, "@bob:b.test", draft, |_| {});
        let results = peer.transaction(&guarded.a, &number.to_string(), &[&event]).await;
        assert_eq!(results, json!({ id: {} }));
    }
    assert_eq!(guarded.asked(), 2);
    let messages = format!("/_matrix/client/v3/rooms/{}/messages?dir=b", encode(&guarded.room));
    let page = guarded.alice.ok(Method::GET, &messages, Value::Null).await.to_string();
    assert!(page.contains("hello") && !page.contains("spam"), "{page}");
}
