//! What the newest versions of the specification ask of a server, since clients take it for granted where `/versions`
//! names them.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{TestServer, encode};

#[tokio::test]
async fn what_is_claimed_is_there() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let versions = server.anyone().ok(Method::GET, "/_matrix/client/versions", Value::Null).await;
    let claims = |version: &str| versions["versions"].as_array().unwrap().contains(&json!(version));
    assert!(["v1.17", "v1.18", "v1.19"].into_iter().all(claims), "{versions}");

    // 1.17: names in messages notify nobody any more (MSC4210). Devices of application services: `appservice/acting.rs`.
    let rules = alice.ok(Method::GET, "/_matrix/client/v3/pushrules/", Value::Null).await.to_string();
    for gone in [".m.rule.contains_display_name", ".m.rule.contains_user_name", ".m.rule.roomnotif"] {
        assert!(!rules.contains(gone), "{gone}");
    }

    // 1.18: redactions through /send (MSC4169). Locking and suspending: `administration.rs`; blocked invitations:
    // `rooms_api.rs`; policy servers: `federation/policy.rs`.
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let event = alice.send_text(&room, "oh").await;
    alice.send(&room, "m.room.redaction", json!({ "redacts": event })).await;
    let path = format!("/_matrix/client/v3/rooms/{}/event/{}", encode(&room), encode(&event));
    assert_eq!(bob.ok(Method::GET, &path, Value::Null).await["content"], json!({}));

    // 1.19: mutual rooms (MSC2666), and what a state event replaces.
    let path = format!("/_matrix/client/v1/mutual_rooms?user_id={}", encode(&bob.user_id));
    let (status, answer) = alice.get(&path).await;
    assert_eq!((status, &answer["joined"]), (StatusCode::OK, &json!([room])), "{answer}");
    let first = alice.set_state(&room, "m.room.topic", "", json!({ "topic": "tea" })).await;
    let second = alice.set_state(&room, "m.room.topic", "", json!({ "topic": "cake" })).await;
    let path = format!("/_matrix/client/v3/rooms/{}/event/{}", encode(&room), encode(&second));
    assert_eq!(bob.ok(Method::GET, &path, Value::Null).await["unsigned"]["replaces_state"], json!(first));
    server.stop().await;
}
