//! Identity servers and what they are asked: inviting people by their address, binding addresses and unbinding them.

use std::sync::Arc;

use bytes::Bytes;
use conduit::{admin::Command, config::IpRange};
use http::{Method, Request, StatusCode, header};
use parking_lot::Mutex;
use ring::digest;
use ruma::serde::{Base64, base64::UrlSafe};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

use super::joins::{join, membership, until_membership};
use crate::{
    administration::make_admin,
    common::{
        Client, TestServer, encode,
        net::TestNet,
        peer::{Peer, answer},
    },
};

/// An identity server that keeps its own idea of who has which address.
#[derive(Clone)]
struct Identity {
    peer: Peer,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Whose an address is, as `address medium`.
    bound: Vec<(String, String)>,
    pepper: u32,
    /// Whether it chooses another pepper before the next look-up.
    rotates: bool,
    /// The key that it has taken back.
    revoked: bool,
    /// What it answers in place of everything.
    refuses: Option<(u16, Value)>,
    asked: Vec<(String, Value)>,
}

impl Identity {
    async fn start(net: &TestNet) -> Self {
        let identity = Self { peer: Peer::new(net, "id").await, state: Arc::default() };
        let answering = identity.clone();
        identity.peer.on("/_matrix/identity/v2/", move |request| {
            let (status, body) = answering.answer(&request);
            async move { answer(status, &body) }
        });
        identity
    }

    fn answer(&self, request: &Request<Bytes>) -> (u16, Value) {
        let path = request.uri().path().rsplit("/v2/").next().unwrap().to_owned();
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let mut state = self.state.lock();
        state.asked.push((path.clone(), body.clone()));
        if let Some((status, refusal)) = &state.refuses {
            return (*status, refusal.clone());
        }
        let authorization =
            request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        match &*path {
            "pubkey/isvalid" => return (200, json!({ "valid": !state.revoked })),
            "3pid/unbind" => {
                assert!(authorization.unwrap().starts_with("X-Matrix origin=\"a.test\",destination=\"id.test\","));
                let threepid = &body["threepid"];
                let gone =
                    format!("{} {}", threepid["address"].as_str().unwrap(), threepid["medium"].as_str().unwrap());
                state.bound.retain(|(address, _)| *address != gone);
                return (200, json!({}));
            }
            _ => assert_eq!(authorization.as_deref(), Some("Bearer id-token")),
        }
        match &*path {
            "hash_details" => {
                (200, json!({ "lookup_pepper": state.pepper.to_string(), "algorithms": ["none", "sha256"] }))
            }
            "lookup" => {
                if std::mem::take(&mut state.rotates) {
                    state.pepper += 1;
                }
                if body["pepper"].as_str() != Some(&state.pepper.to_string()) {
                    return (400, json!({ "errcode": "M_INVALID_PEPPER", "error": "Another one now." }));
                }
                let hashed = |address: &str| {
                    let text = format!("{address} {}", state.pepper);
                    Base64::<UrlSafe, _>::new(digest::digest(&digest::SHA256, text.as_bytes())).encode()
                };
                let known = state.bound.iter().map(|(address, user)| (hashed(address), json!(user)));
                let asked = body["addresses"].as_array().unwrap();
                let mappings: serde_json::Map<_, _> = known.filter(|(hash, _)| asked.contains(&json!(hash))).collect();
                (200, json!({ "mappings": mappings }))
            }
            "store-invite" => {
                let key = |path: &str| {
                    let url = format!("https://id.test/_matrix/identity/v2/{path}");
                    json!({ "public_key": self.peer.keys.public_key(), "key_validity_url": url })
                };
                let keys = [key("pubkey/isvalid"), key("pubkey/ephemeral/isvalid")];
                (200, json!({ "token": "some.token", "public_keys": keys, "display_name": "c...@e..." }))
            }
            "3pid/bind" => {
                let user = body["mxid"].as_str().unwrap().to_owned();
                state.bound.push(("alice@example.org email".to_owned(), user.clone()));
                let answer = json!({
                    "address": "alice@example.org", "medium": "email", "mxid": user,
                    "not_before": 1, "not_after": 2, "ts": 1, "signatures": {},
                });
                (200, answer)
            }
            _ => (404, json!({ "errcode": "M_UNRECOGNIZED", "error": "not here" })),
        }
    }

    fn bind(&self, address: &str, user: &str) {
        self.state.lock().bound.push((format!("{address} email"), user.to_owned()));
    }

    /// The bodies of the requests to `path` since this was last asked.
    fn asked(&self, path: &str) -> Vec<Value> {
        let asked = std::mem::take(&mut self.state.lock().asked);
        asked.into_iter().filter(|(at, _)| at == path).map(|(_, body)| body).collect()
    }

    fn refuse(&self, refusal: Option<(u16, &str)>) {
        let refusal = refusal.map(|(status, code)| (status, json!({ "errcode": code, "error": "No." })));
        self.state.lock().refuses = refusal;
    }

    /// Its word that `user` has the address that `sender` invited.
    fn word(&self, sender: &str, user: &str) -> Value {
        self.peer.sign(json!({ "mxid": user, "sender": sender, "token": "some.token" }))
    }

    /// Tells `server` that the address which `sender` invited to `room` is that of a user there.
    async fn tell(&self, server: &TestServer, room: &str, sender: &str, user: &str, word: Value) {
        let invite = json!({
            "medium": "email", "address": "carol@example.org", "mxid": user, "room_id": room, "sender": sender,
            "signed": word,
        });
        let body = json!({ "medium": "email", "address": "carol@example.org", "mxid": user, "invites": [invite] });
        server.anyone().ok(Method::PUT, "/_matrix/federation/v1/3pid/onbind", body).await;
    }
}

fn addressed(address: &str) -> Value {
    json!({ "id_server": "id.test", "id_access_token": "id-token", "medium": "email", "address": address })
}

async fn invite(client: &Client, room: &str, address: &str) -> (StatusCode, Value) {
    client.post(&format!("/_matrix/client/v3/rooms/{}/invite", encode(room)), addressed(address)).await
}

fn code(answer: &(StatusCode, Value)) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["errcode"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn who_is_known_is_invited_at_once() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let identity = Identity::start(&net).await;
    let (alice, bob, carol) = (a.register("alice").await, b.register("bob").await, a.register("carol").await);
    identity.bind("bob@example.org", &bob.user_id);
    identity.bind("carol@example.org", &carol.user_id);
    identity.state.lock().rotates = true;
    let room = alice.create_room(json!({})).await;
    assert_eq!(invite(&alice, &room, "Bob@Example.org").await, (StatusCode::OK, json!({})));
    until_membership(&alice, &room, &bob.user_id, "invite").await;
    let lookups = identity.asked("lookup");
    assert_eq!(lookups.len(), 2, "once more with the new pepper");
    assert!(!json!(lookups).to_string().contains('@'), "the address itself is not told: {lookups:?}");

    let room = alice.create_room(json!({ "invite_3pid": [addressed("carol@example.org")] })).await;
    assert_eq!(membership(&alice, &room, &carol.user_id).await.as_deref(), Some("invite"));
}

#[tokio::test]
async fn who_is_not_known_is_invited_when_the_address_has_an_owner() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let identity = Identity::start(&net).await;
    let (alice, bob, carol) = (a.register("alice").await, b.register("bob").await, a.register("carol").await);
    for (server, target) in [(&b, &bob), (&a, &carol)] {
        let room = alice.create_room(json!({ "name": "Tea" })).await;
        assert_eq!(invite(&alice, &room, "carol@example.org").await, (StatusCode::OK, json!({})));
        let stored = identity.asked("store-invite").remove(0);
        let expected = json!({
            "medium": "email", "address": "carol@example.org", "room_id": room, "sender": alice.user_id,
            "room_name": "Tea", "room_join_rules": "invite", "sender_display_name": "alice",
        });
        assert_eq!(stored, expected);
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.third_party_invite/some.token", encode(&room));
        let content = alice.ok(Method::GET, &path, Value::Null).await;
        assert_eq!(
            (&content["display_name"], content["public_keys"].as_array().unwrap().len()),
            (&json!("c...@e..."), 2)
        );

        // What somebody else signed is nobody's word, nor is that of a key that was taken back.
        let mut forged = identity.word(&alice.user_id, &target.user_id);
        forged["mxid"] = json!("@mallory:b.test");
        identity.tell(server, &room, &alice.user_id, &target.user_id, forged).await;
        identity.state.lock().revoked = true;
        let word = identity.word(&alice.user_id, &target.user_id);
        identity.tell(server, &room, &alice.user_id, &target.user_id, word.clone()).await;
        assert_eq!(membership(&alice, &room, &target.user_id).await, None);
        assert_eq!(identity.asked("pubkey/isvalid").len(), 1);

        identity.state.lock().revoked = false;
        identity.tell(server, &room, &alice.user_id, &target.user_id, word).await;
        until_membership(&alice, &room, &target.user_id, "invite").await;
        join(target, &room, &[]).await;
        until_membership(&alice, &room, &target.user_id, "join").await;
    }
}

/// Who says that addresses were bound proves nothing, and has us ask servers of their choice: a few at a time.
#[tokio::test]
async fn words_that_keep_us_waiting_are_few() {
    let net = TestNet::new();
    let (a, identity) = (net.server("a").await, Identity::start(&net).await);
    let (alice, slow) = (a.register("alice").await, Peer::new(&net, "slow").await);
    let asked = Arc::new(Semaphore::new(0));
    let count = asked.clone();
    slow.on("/_matrix/federation/v1/exchange_third_party_invite/", move |_| {
        count.add_permits(1);
        std::future::pending()
    });
    let invite = json!({
        "medium": "email", "address": "x@example.org", "mxid": alice.user_id, "room_id": "!room:slow.test",
        "sender": "@mallory:slow.test", "signed": identity.word("@mallory:slow.test", &alice.user_id),
    });
    let body = json!({
        "medium": "email", "address": "x@example.org", "mxid": alice.user_id, "invites": vec![invite; 20],
    });
    let path = "/_matrix/federation/v1/3pid/onbind";
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let (anyone, body) = (a.anyone(), body.clone());
        waiting.spawn(async move { anyone.put(path, body).await });
    }
    drop(asked.acquire_many(4).await.unwrap());
    assert_eq!(code(&a.anyone().put(path, body.clone()).await), (429, "M_LIMIT_EXCEEDED"));
    waiting.shutdown().await;
}

#[tokio::test]
async fn who_has_the_word_of_the_identity_server_joins_with_it() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let identity = Identity::start(&net).await;
    let (alice, bob, carol) = (a.register("alice").await, b.register("bob").await, a.register("carol").await);
    for target in [&bob, &carol] {
        let room = alice.create_room(json!({ "invite_3pid": [addressed("carol@example.org")] })).await;
        let path = format!("/_matrix/client/v3/join/{}?via=a.test", encode(&room));
        assert_eq!(target.post(&path, json!({})).await.0, StatusCode::FORBIDDEN);
        let word = |user: &str| json!({ "third_party_signed": identity.word(&alice.user_id, user) });
        assert_eq!(code(&target.post(&path, word("@mallory:b.test")).await), (403, "M_FORBIDDEN"));
        let malformed = json!({ "third_party_signed": { "token": "some.token" } });
        assert_eq!(code(&target.post(&path, malformed).await), (400, "M_BAD_JSON"));
        let (status, answer) = target.post(&path, word(&target.user_id)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        until_membership(&alice, &room, &target.user_id, "join").await;
    }
}

#[tokio::test]
async fn what_an_identity_server_is_not_asked_or_refuses() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let identity = Identity::start(&net).await;
    let (alice, mallory) = (a.register("alice").await, a.register("mallory").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    assert_eq!(code(&invite(&mallory, &room, "carol@example.org").await), (403, "M_FORBIDDEN"));
    mallory.join(&room).await;
    assert_eq!(code(&invite(&mallory, &room, "carol@example.org").await), (403, "M_FORBIDDEN"));
    assert_eq!(code(&invite(&alice, &room, "carol").await), (400, "M_INVALID_PARAM"));
    let path = format!("/_matrix/client/v3/rooms/{}/invite", encode(&room));
    for (field, value) in [("id_server", "https://id.test/"), ("id_access_token", "a\nb"), ("medium", "pigeon")] {
        let mut body = addressed("carol@example.org");
        body[field] = json!(value);
        assert_eq!(code(&alice.post(&path, body).await), (400, "M_INVALID_PARAM"), "{field}");
    }
    assert!(identity.state.lock().asked.is_empty(), "nobody was told of the address");

    identity.refuse(Some((403, "M_TERMS_NOT_SIGNED")));
    assert_eq!(code(&invite(&alice, &room, "carol@example.org").await), (403, "M_TERMS_NOT_SIGNED"));
    // That a token is not valid there must not look to the client as if its own were not.
    identity.refuse(Some((401, "M_UNAUTHORIZED")));
    assert_eq!(code(&invite(&alice, &room, "carol@example.org").await), (502, "M_UNKNOWN"));
    identity.refuse(Some((500, "M_UNKNOWN")));
    assert_eq!(code(&invite(&alice, &room, "carol@example.org").await), (502, "M_UNKNOWN"));

    let b = net.server_with("b", |config| config.allow_identity_servers = false).await;
    let bob = b.register("bob").await;
    let room = bob.create_room(json!({})).await;
    assert_eq!(code(&invite(&bob, &room, "carol@example.org").await), (403, "M_THREEPID_DENIED"));
    let refused = bob.post("/_matrix/client/v3/createRoom", json!({ "invite_3pid": [addressed("c@d.org")] })).await;
    assert_eq!(code(&refused), (403, "M_THREEPID_DENIED"));

    let c = net.server_with("c", |config| config.ip_range_denylist = IpRange::private()).await;
    let carol = c.register("carol").await;
    let room = carol.create_room(json!({})).await;
    assert_eq!(code(&invite(&carol, &room, "dan@example.org").await), (504, "M_UNKNOWN"), "it is not in the internet");
}

#[tokio::test]
async fn addresses_are_bound_and_unbound() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let identity = Identity::start(&net).await;
    let alice = a.register("alice").await;
    let account = |path: &str| format!("/_matrix/client/v3/account{path}");
    let credentials =
        json!({ "client_secret": "s", "id_server": "id.test", "id_access_token": "id-token", "sid": "1" });
    let address = json!({ "medium": "email", "address": "Alice@example.org" });
    let named = json!({ "medium": "email", "address": "alice@example.org", "id_server": "id.test" });

    assert_eq!(alice.ok(Method::POST, &account("/3pid/bind"), credentials.clone()).await, json!({}));
    assert_eq!(identity.asked("3pid/bind"), [json!({ "sid": "1", "client_secret": "s", "mxid": alice.user_id })]);
    let unbound = |result: &str| json!({ "id_server_unbind_result": result });
    assert_eq!(alice.ok(Method::POST, &account("/3pid/unbind"), address.clone()).await, unbound("success"));
    let expected = json!({ "mxid": alice.user_id, "threepid": { "medium": "email", "address": "alice@example.org" } });
    assert_eq!(identity.asked("3pid/unbind"), [expected]);
    assert!(identity.state.lock().bound.is_empty());
    // It is forgotten where it was, so there is nothing more to do.
    assert_eq!(alice.ok(Method::POST, &account("/3pid/unbind"), address.clone()).await, unbound("no-support"));
    assert!(identity.asked("3pid/unbind").is_empty());
    assert_eq!(alice.ok(Method::POST, &account("/3pid/unbind"), named.clone()).await, unbound("success"));

    let deprecated = json!({ "three_pid_creds": credentials });
    assert_eq!(alice.ok(Method::POST, &account("/3pid"), deprecated).await, json!({}));
    identity.refuse(Some((501, "M_UNRECOGNIZED")));
    assert_eq!(alice.ok(Method::POST, &account("/3pid/delete"), address.clone()).await, unbound("no-support"));
    identity.refuse(Some((403, "M_FORBIDDEN")));
    assert_eq!(code(&alice.post(&account("/3pid/unbind"), named).await), (403, "M_FORBIDDEN"));
    assert_eq!(code(&alice.post(&account("/3pid/bind"), credentials.clone()).await), (403, "M_FORBIDDEN"));
    let deactivate = json!({ "auth": {
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "secret-alice",
    } });
    assert_eq!(alice.ok(Method::POST, &account("/deactivate"), deactivate).await, unbound("no-support"));

    identity.refuse(None);
    let bob = a.register("bob").await;
    bob.ok(Method::POST, &account("/3pid/bind"), credentials.clone()).await;
    let deactivate = json!({ "auth": {
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "bob" }, "password": "secret-bob",
    } });
    assert_eq!(bob.ok(Method::POST, &account("/deactivate"), deactivate).await, unbound("success"));
    assert!(identity.state.lock().bound.iter().all(|(_, user)| *user != bob.user_id));

    // Whoever ends an account, its addresses are taken back.
    let admin = a.register("admin").await;
    make_admin(&a, &admin);
    for (name, end) in [("carol", "users deactivate carol"), ("dan", "")] {
        let user = a.register(name).await;
        user.ok(Method::POST, &account("/3pid/bind"), credentials.clone()).await;
        assert!(identity.state.lock().bound.iter().any(|(_, owner)| *owner == user.user_id));
        if end.is_empty() {
            let path = format!("/_synapse/admin/v1/deactivate/{}", encode(&user.user_id));
            assert_eq!(admin.ok(Method::POST, &path, json!({})).await, unbound("success"));
        } else {
            Command::parse(end).unwrap().run(a.handle.server(), None).await.unwrap();
        }
        assert!(identity.state.lock().bound.iter().all(|(_, owner)| *owner != user.user_id));
    }
}
