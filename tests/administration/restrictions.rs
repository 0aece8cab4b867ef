//! What Synapse's tools have accounts kept from, and what they do about what accounts said
//! (`api/synapse_admin/restrictions.rs`).

use conduit::{
    config::{HttpUrl, RateLimit},
    federation::user_redactions::{self, Wanted},
};
use http::{Method, StatusCode};
use ruma::UserId;
use serde_json::{Value, json};

use super::{
    code, make_admin, start,
    synapse::{API, get, post},
};
use crate::{
    common::{Client, TestServer, encode},
    federation::joins::until,
};

#[tokio::test]
async fn an_account_may_have_a_limit_of_its_own_or_none() {
    let server = TestServer::start_with(|config| {
        config.rate_limits.enabled = true;
        config.rate_limits.send = RateLimit { per_second: 0.001, burst: 1 };
    })
    .await;
    let (admin, alice) = (server.register("admin").await, server.register("alice").await);
    make_admin(&server, &admin);
    let room = alice.create_room(json!({})).await;
    let mut number = 0;
    let mut send = async || {
        number += 1;
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{number}", encode(&room));
        alice.put(&path, json!({ "msgtype": "m.text", "body": "hello" })).await.0
    };
    assert_eq!([send().await, send().await], [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS]);

    let limit = format!("/v1/users/{}/override_ratelimit", encode(&alice.user_id));
    assert_eq!(get(&admin, &limit).await, json!({}));
    let none = json!({ "messages_per_second": 0, "burst_count": 0 });
    assert_eq!(post(&admin, &limit, none.clone()).await, none);
    for _ in 0..5 {
        assert_eq!(send().await, StatusCode::OK);
    }
    let own = json!({ "messages_per_second": 1, "burst_count": 2 });
    assert_eq!(post(&admin, &limit, own.clone()).await, own);
    assert_eq!(get(&admin, &limit).await, own);
    let mut sent = 0;
    while send().await == StatusCode::OK {
        sent += 1;
        assert!(sent < 1_000, "there is no limit");
    }
    assert_eq!(admin.ok(Method::DELETE, &format!("{API}{limit}"), Value::Null).await, json!({}));
    assert_eq!(send().await, StatusCode::TOO_MANY_REQUESTS, "as for everybody");
    let unknown = format!("{API}/v1/users/{}/override_ratelimit", encode("@nobody:localhost"));
    assert_eq!(code(&admin.post(&unknown, own).await), (404, "M_NOT_FOUND"));
    server.stop().await;
}

/// The texts of a room's messages as a client sees them; `null` where one is redacted.
async fn texts(client: &Client, room: &str) -> Vec<Value> {
    let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100", encode(room));
    let page = client.ok(Method::GET, &path, Value::Null).await;
    let messages = page["chunk"].as_array().unwrap().iter().filter(|event| event["type"] == "m.room.message");
    messages.map(|event| event["content"]["body"].clone()).collect()
}

async fn outcome(admin: &Client, id: &str) -> Value {
    until("the redactions to end", async || {
        let status = get(admin, &format!("/v1/user/redact_status/{id}")).await;
        (status["status"] == "complete").then_some(status)
    })
    .await
}

#[tokio::test]
async fn what_somebody_sent_is_redacted() {
    let (server, admin, alice) = start().await;
    let bob = server.register("bob").await;
    let (tea, coffee) = (bob.create_room(json!({ "preset": "public_chat" })).await, alice.create_room(json!({})).await);
    alice.join(&tea).await;
    for number in 0..3 {
        alice.send_text(&tea, &format!("spam {number}")).await;
    }
    bob.send_text(&tea, "an answer").await;
    alice.send_text(&coffee, "elsewhere").await;

    let redact = format!("/v1/user/{}/redact", encode(&alice.user_id));
    let two = json!({ "rooms": [tea], "limit": 2, "reason": "spam" });
    let begun = post(&admin, &redact, two).await;
    assert_eq!(outcome(&admin, begun["redact_id"].as_str().unwrap()).await["failed_redactions"], json!({}));
    assert_eq!(texts(&bob, &tea).await, [json!("an answer"), Value::Null, Value::Null, json!("spam 0")]);

    let begun = post(&admin, &redact, json!({ "rooms": [] })).await;
    outcome(&admin, begun["redact_id"].as_str().unwrap()).await;
    assert_eq!(texts(&bob, &tea).await, [json!("an answer"), Value::Null, Value::Null, Value::Null]);
    assert_eq!(texts(&alice, &coffee).await, [Value::Null]);
    let state = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", encode(&tea), encode(&alice.user_id));
    assert_eq!(bob.ok(Method::GET, &state, Value::Null).await, json!({ "membership": "join" }), "without a name");

    // An administrator who has no say in a room hears so.
    let spam = alice.send_text(&tea, "more").await;
    let begun = post(&admin, &redact, json!({ "rooms": [tea], "use_admin": true })).await;
    let outcome = outcome(&admin, begun["redact_id"].as_str().unwrap()).await;
    assert!(outcome["failed_redactions"][&spam].is_string(), "{outcome}");

    let path = format!("{API}{redact}");
    assert_eq!(code(&admin.post(&path, json!({ "rooms": ["!none:localhost"] })).await), (404, "M_NOT_FOUND"));
    assert_eq!(code(&admin.post(&path, json!({ "rooms": [], "limit": 0 })).await), (400, "M_INVALID_PARAM"));
    assert_eq!(code(&admin.get(&format!("{API}/v1/user/redact_status/none")).await), (404, "M_NOT_FOUND"));
    server.stop().await;
}

#[tokio::test]
async fn redactions_that_were_under_way_go_on_after_a_restart() {
    let (server, admin, alice) = start().await;
    let room = alice.create_room(json!({})).await;
    for number in 0..3 {
        alice.send_text(&room, &format!("spam {number}")).await;
    }
    let user = UserId::parse(&*alice.user_id).unwrap();
    let wanted = Wanted {
        user: user.clone(),
        by: user,
        reason: None,
        rooms: Vec::new(),
        limit: 1_000,
        after_ts: Some(1),
        before_ts: None,
    };
    // Nobody is told of it, so that the server finds it when it starts again.
    let id = server.handle.server().store.write(|tx| user_redactions::begin(tx, wanted)).unwrap();
    let server = TestServer::start_in(server.stop().await, |_| {}).await;
    let again = |client: &Client| {
        let mut client = client.clone();
        client.base = server.anyone().base;
        client
    };
    outcome(&again(&admin), &id).await;
    assert_eq!(texts(&again(&alice), &room).await, [Value::Null, Value::Null, Value::Null]);
    server.stop().await;
}

#[tokio::test]
async fn who_somebody_is_at_the_identity_provider_is_set_and_found() {
    let server = TestServer::start_with(|config| {
        let text = "[global.sso]\nissuer = \"https://id.test\"\nclient_id = \"matrix\"\n";
        config.sso.issuer = issuer(text);
        config.sso.client_id = Some("matrix".to_owned());
    })
    .await;
    let (admin, alice) = (server.register("admin").await, server.register("alice").await);
    make_admin(&server, &admin);
    let path = format!("{API}/v2/users/{}", encode(&alice.user_id));
    let ids = |provider: &str| json!({ "external_ids": [{ "auth_provider": provider, "external_id": "1234" }] });
    let (status, shown) = admin.put(&path, ids("sso")).await;
    assert_eq!(status, StatusCode::OK, "{shown}");
    assert_eq!(shown["external_ids"], ids("https://id.test")["external_ids"]);
    for provider in ["sso", "https://id.test"] {
        let found = get(&admin, &format!("/v1/auth_providers/{}/users/1234", encode(provider))).await;
        assert_eq!(found, json!({ "user_id": alice.user_id }));
    }
    assert_eq!(code(&admin.put(&path, ids("https://other.test")).await), (400, "M_INVALID_PARAM"));
    let taken = admin.put(&format!("{API}/v2/users/{}", encode(&admin.user_id)), ids("sso")).await;
    assert_eq!(code(&taken), (400, "M_INVALID_PARAM"));
    assert_eq!(admin.put(&path, json!({ "external_ids": [] })).await.1["external_ids"], json!([]));
    let found = admin.get(&format!("{API}/v1/auth_providers/sso/users/1234")).await;
    assert_eq!(code(&found), (404, "M_NOT_FOUND"));
    server.stop().await;
}

/// The issuer that a configuration names.
fn issuer(text: &str) -> Option<HttpUrl> {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("conduit.toml");
    std::fs::write(&file, format!("[global]\nserver_name = \"x\"\ndatabase_path = \"d\"\n{text}")).unwrap();
    conduit::config::Config::load(Some(file), std::iter::empty()).unwrap().0.sso.issuer
}
