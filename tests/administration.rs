//! What administrators do to accounts: `api/client/admin.rs`.

use conduit::users::accounts;
use http::StatusCode;
use ruma::UserId;
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode};

/// A server with an administrator and a user.
async fn start() -> (TestServer, Client, Client) {
    let server = TestServer::start().await;
    let (admin, alice) = (server.register("admin").await, server.register("alice").await);
    let id = UserId::parse(&*admin.user_id).unwrap();
    let store = &server.handle.server().store;
    store.write(|tx| accounts::update(tx, &id, |account| account.admin = true)).unwrap();
    (server, admin, alice)
}

fn path(action: &str, user: &str) -> String {
    format!("/_matrix/client/v1/admin/{action}/{}", encode(user))
}

fn code(answer: &(StatusCode, Value)) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["errcode"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn whois_shows_sessions_to_oneself_and_to_administrators() {
    let (server, admin, alice) = start().await;
    let whois = |user: &str| format!("/_matrix/client/v3/admin/whois/{}", encode(user));
    for viewer in [&alice, &admin] {
        let (status, answer) = viewer.get(&whois(&alice.user_id)).await;
        assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!(alice.user_id)));
        let connection = &answer["devices"][&alice.device_id]["sessions"][0]["connections"][0];
        assert!(connection["ip"] == "127.0.0.1" && connection["last_seen"].is_u64(), "{answer}");
    }
    assert_eq!(code(&alice.get(&whois(&admin.user_id)).await), (403, "M_FORBIDDEN"));
    assert_eq!(code(&alice.get(&whois("@nobody:localhost")).await), (403, "M_FORBIDDEN"));
    assert_eq!(code(&admin.get(&whois("@nobody:localhost")).await), (404, "M_NOT_FOUND"));
    server.stop().await;
}

#[tokio::test]
async fn a_locked_account_can_only_log_out() {
    let (server, admin, alice) = start().await;
    let lock = path("lock", &alice.user_id);
    assert_eq!(admin.put(&lock, json!({ "locked": true })).await, (StatusCode::OK, json!({ "locked": true })));
    assert_eq!(admin.get(&lock).await.1, json!({ "locked": true }));
    let refused = alice.get("/_matrix/client/v3/account/whoami").await;
    assert_eq!((code(&refused), &refused.1["soft_logout"]), ((401, "M_USER_LOCKED"), &json!(true)));
    assert_eq!(admin.put(&lock, json!({ "locked": false })).await.0, StatusCode::OK);
    assert_eq!(alice.get("/_matrix/client/v3/account/whoami").await.0, StatusCode::OK);
    assert_eq!(admin.put(&lock, json!({ "locked": true })).await.0, StatusCode::OK);
    assert_eq!(alice.post("/_matrix/client/v3/logout", json!({})).await.0, StatusCode::OK);
    assert_eq!(code(&alice.get("/_matrix/client/v3/account/whoami").await), (401, "M_UNKNOWN_TOKEN"));
    server.stop().await;
}

#[tokio::test]
async fn a_suspended_account_reads_and_leaves_but_writes_nothing() {
    let (server, admin, alice) = start().await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let event = alice.send_text(&room, "before").await;
    let suspend = path("suspend", &alice.user_id);
    assert_eq!(admin.put(&suspend, json!({ "suspended": true })).await.1, json!({ "suspended": true }));
    assert_eq!(admin.get(&suspend).await.1, json!({ "suspended": true }));

    let room_path = format!("/_matrix/client/v3/rooms/{}", encode(&room));
    let message = json!({ "msgtype": "m.text", "body": "after" });
    let name = json!({ "displayname": "Alice the Great" });
    for refused in [
        alice.put(&format!("{room_path}/send/m.room.message/1"), message).await,
        alice.put(&format!("{room_path}/state/m.room.name/"), json!({ "name": "Mine" })).await,
        alice.put(&format!("/_matrix/client/v3/profile/{}/displayname", encode(&alice.user_id)), name).await,
        alice.post("/_matrix/client/v3/createRoom", json!({})).await,
        alice.post("/_matrix/media/v3/upload", json!("file")).await,
    ] {
        assert_eq!(code(&refused), (403, "M_USER_SUSPENDED"));
    }
    assert!(alice.sync("timeout=0").await["rooms"]["join"][&room].is_object());
    let redact = format!("{room_path}/redact/{}/1", encode(&event));
    assert_eq!(alice.put(&redact, json!({})).await.0, StatusCode::OK);
    assert_eq!(alice.post(&format!("{room_path}/leave"), json!({})).await.0, StatusCode::OK);

    assert_eq!(admin.put(&suspend, json!({ "suspended": false })).await.0, StatusCode::OK);
    alice.create_room(json!({})).await;
    server.stop().await;
}

#[tokio::test]
async fn only_administrators_moderate_and_only_other_accounts() {
    let (server, admin, alice) = start().await;
    for action in ["lock", "suspend"] {
        let body = json!({ "locked": true, "suspended": true });
        assert_eq!(code(&alice.put(&path(action, &admin.user_id), body.clone()).await), (403, "M_FORBIDDEN"));
        assert_eq!(code(&alice.get(&path(action, "@nobody:localhost")).await), (403, "M_FORBIDDEN"));
        assert_eq!(code(&admin.put(&path(action, &admin.user_id), body.clone()).await), (403, "M_FORBIDDEN"));
        assert_eq!(code(&admin.put(&path(action, "@nobody:localhost"), body.clone()).await), (404, "M_NOT_FOUND"));
        assert_eq!(code(&admin.put(&path(action, "@bob:elsewhere"), body).await), (400, "M_INVALID_PARAM"));
        assert_eq!(code(&admin.put(&path(action, &alice.user_id), json!({})).await), (400, "M_BAD_JSON"));
    }
    let capabilities = |answer: Value| answer["capabilities"]["m.account_moderation"].clone();
    let of_admin = capabilities(admin.get("/_matrix/client/v3/capabilities").await.1);
    assert_eq!(of_admin, json!({ "lock": true, "suspend": true }));
    let of_alice = capabilities(alice.get("/_matrix/client/v3/capabilities").await.1);
    assert_eq!(of_alice, Value::Null);
    server.stop().await;
}
