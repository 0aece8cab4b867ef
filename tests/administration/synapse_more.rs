//! What Ketesa and other tools ask beside the everyday: `api/synapse_admin`.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    code, start,
    synapse::{API, get, post},
};
use crate::{
    common::encode,
    e2ee::{Key, signing_keys},
};

#[tokio::test]
async fn reports_of_users_have_a_list_of_their_own() {
    let (server, admin, alice) = start().await;
    let room = alice.create_room(json!({})).await;
    let report = json!({ "reason": "it is rude" });
    alice.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/report", encode(&room)), report.clone()).await;
    let path = format!("/_matrix/client/v3/users/{}/report", encode(&admin.user_id));
    alice.ok(Method::POST, &path, report).await;

    let list = get(&admin, "/v1/user_reports").await;
    assert_eq!(list["total"], 1);
    let row = &list["user_reports"][0];
    assert_eq!((&row["user_id"], &row["target_user_id"]), (&json!(alice.user_id), &json!(admin.user_id)));
    assert!(row["reason"] == "it is rude" && row["received_ts"].is_u64(), "{row}");
    for (query, total) in [("user_id=@alice:localhost", 1), ("target_user_id=@alice:localhost", 0)] {
        assert_eq!(get(&admin, &format!("/v1/user_reports?{query}")).await["total"], total, "{query}");
    }
    let events = get(&admin, "/v1/event_reports").await;
    assert_eq!((&events["total"], &events["event_reports"][0]["room_id"]), (&json!(1), &json!(room)));

    let of_event = format!("{API}/v1/event_reports/{}", row["id"]);
    assert_eq!(code(&admin.get(&of_event).await), (404, "M_NOT_FOUND"), "it is about no event");
    let path = format!("/v1/user_reports/{}", row["id"]);
    assert_eq!(get(&admin, &path).await, *row);
    assert_eq!(admin.delete(&format!("{API}{path}")).await.0, StatusCode::OK);
    assert_eq!(code(&admin.delete(&format!("{API}{path}")).await), (404, "M_NOT_FOUND"));
    server.stop().await;
}

#[tokio::test]
async fn rooms_that_a_user_joined_are_counted_also_those_left() {
    let (server, admin, alice) = start().await;
    let left = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/leave", encode(&left)), json!({})).await;
    alice.create_room(json!({})).await;
    let invited = admin.create_room(json!({ "invite": [alice.user_id] })).await;
    alice.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/leave", encode(&invited)), json!({})).await;
    let path = format!("/v1/users/{}/cumulative_joined_room_count", encode(&alice.user_id));
    let count =
        async |from: &str| get(&admin, &format!("{path}?from_ts={from}")).await["cumulative_joined_room_count"].clone();
    assert_eq!(count("0").await, 2);
    assert_eq!(count("99999999999999").await, 0);
    assert_eq!(admin.get(&format!("{API}{path}")).await.0, StatusCode::BAD_REQUEST, "from_ts is missing");
    let path = format!("/v1/users/{}/sent_invite_count", encode(&admin.user_id));
    let invited_from = async |from: &str| get(&admin, &format!("{path}?from_ts={from}")).await["invite_count"].clone();
    assert_eq!((invited_from("0").await, invited_from("99999999999999").await), (json!(1), json!(0)));
    assert_eq!(admin.get(&format!("{API}{path}")).await.0, StatusCode::BAD_REQUEST, "from_ts is missing");
    server.stop().await;
}

#[tokio::test]
async fn what_is_done_in_the_background_is_listed() {
    let (server, admin, alice) = start().await;
    let room = alice.create_room(json!({})).await;
    assert_eq!(get(&admin, "/v1/scheduled_tasks").await, json!({ "scheduled_tasks": [] }));
    let path = format!("{API}/v2/rooms/{}", encode(&room));
    let deletion = admin.ok(Method::DELETE, &path, json!({})).await["delete_id"].clone();
    let redaction = post(&admin, &format!("/v1/user/{}/redact", encode(&alice.user_id)), json!({ "rooms": [] })).await;
    loop {
        let done = get(&admin, "/v1/scheduled_tasks?status=complete").await["scheduled_tasks"].clone();
        if done.as_array().unwrap().len() == 2 {
            break;
        }
        tokio::task::yield_now().await;
    }
    let path = format!("/v1/scheduled_tasks?action_name=shutdown_and_purge_room&resource_id={}", encode(&room));
    let task = &get(&admin, &path).await["scheduled_tasks"][0];
    assert_eq!((&task["id"], &task["result"]["kicked_users"][0]), (&deletion, &json!(alice.user_id)));
    let tasks = get(&admin, "/v1/scheduled_tasks?action_name=redact_all_events&job_status=complete").await;
    let task = &tasks["scheduled_tasks"][0];
    assert_eq!((&task["id"], &task["resource_id"]), (&redaction["redact_id"], &json!(alice.user_id)));
    assert!(task["timestamp_ms"].is_u64(), "{task}");
    assert_eq!(get(&admin, "/v1/scheduled_tasks?max_timestamp=1").await["scheduled_tasks"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_here_is_refused_with_a_reason() {
    let (server, admin, alice) = start().await;
    let features = format!("{API}/v1/experimental_features/{}", encode(&alice.user_id));
    assert_eq!(admin.ok(Method::GET, &features, Value::Null).await, json!({ "features": {} }));
    for body in [json!({ "features": { "msc3881": true } }), json!({})] {
        assert_eq!(code(&admin.put(&features, body).await), (400, "M_UNKNOWN"));
    }
    let unknown = format!("{API}/v1/experimental_features/{}", encode("@nobody:localhost"));
    assert_eq!(code(&admin.get(&unknown).await), (404, "M_NOT_FOUND"));
    let room = alice.create_room(json!({})).await;
    let extremities = format!("{API}/v1/rooms/{}/forward_extremities", encode(&room));
    assert_eq!(code(&admin.delete(&extremities).await), (400, "M_UNRECOGNIZED"));
    assert_eq!(admin.ok(Method::GET, &extremities, Value::Null).await["count"], 1);
    server.stop().await;
}

#[tokio::test]
async fn keys_are_replaced_once_without_a_password_where_an_administrator_lets_them() {
    let (server, admin, alice) = start().await;
    let allow = format!("/v1/users/{}/_allow_cross_signing_replacement_without_uia", encode(&alice.user_id));
    assert_eq!(
        code(&admin.post(&format!("{API}{allow}"), json!({})).await),
        (404, "M_NOT_FOUND"),
        "there are none yet"
    );
    let upload = async || {
        let keys = signing_keys(&alice, &[Key::new(), Key::new(), Key::new()]);
        alice.post("/_matrix/client/v3/keys/device_signing/upload", keys).await.0
    };
    assert_eq!([upload().await, upload().await], [StatusCode::OK, StatusCode::UNAUTHORIZED]);
    let answer = post(&admin, &allow, json!({})).await;
    assert!(answer["updatable_without_uia_before_ms"].is_u64(), "{answer}");
    assert_eq!([upload().await, upload().await], [StatusCode::OK, StatusCode::UNAUTHORIZED], "once");
    assert_eq!(alice.post(&format!("{API}{allow}"), json!({})).await.0, StatusCode::FORBIDDEN);
    server.stop().await;
}
