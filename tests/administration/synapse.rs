//! The API of Synapse's tools: `api/synapse_admin`.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{code, make_admin, start};
use crate::{
    common::{Client, TestServer, encode, net::TestNet},
    federation::joins::{join, until},
    media::upload,
};

pub const API: &str = "/_synapse/admin";

/// A request of an administrator that must succeed.
pub async fn get(admin: &Client, path: &str) -> Value {
    admin.ok(Method::GET, &format!("{API}{path}"), Value::Null).await
}

pub async fn post(admin: &Client, path: &str, body: Value) -> Value {
    admin.ok(Method::POST, &format!("{API}{path}"), body).await
}

#[tokio::test]
async fn only_administrators_are_answered() {
    let (server, admin, alice) = start().await;
    for path in ["/v2/users", "/v1/rooms", "/v1/event_reports", "/v1/server_version", "/v1/federation/destinations"] {
        assert_eq!(code(&alice.get(&format!("{API}{path}")).await), (403, "M_FORBIDDEN"), "{path}");
        assert_eq!(code(&server.anyone().get(&format!("{API}{path}")).await), (401, "M_MISSING_TOKEN"), "{path}");
        get(&admin, path).await;
    }
    // Refused before the body is looked at.
    assert_eq!(code(&alice.post(&format!("{API}/v1/send_server_notice"), json!({})).await), (403, "M_FORBIDDEN"));
    assert!(get(&admin, "/v1/server_version").await["server_version"].as_str().unwrap().starts_with("conduit "));
    assert_eq!(get(&admin, "/v1/background_updates/status").await["current_updates"], json!({}));
    server.stop().await;
}

#[tokio::test]
async fn accounts_are_listed_made_and_changed() {
    let server = TestServer::start_with(|config| config.admin_room = false).await;
    let (admin, alice) = (server.register("admin").await, server.register("alice").await);
    make_admin(&server, &admin);
    let user = |name: &str| format!("{API}/v2/users/{}", encode(&format!("@{name}:localhost")));
    let options = json!({ "password": "secret-bob", "displayname": "Bob the Builder", "admin": false });
    let (status, made) = admin.put(&user("bob"), options).await;
    assert_eq!((status, &made["displayname"]), (StatusCode::CREATED, &json!("Bob the Builder")));
    let bob = server.login("bob").await;
    let addresses = json!([
        { "medium": "email", "address": " Bob@Example.org" }, { "medium": "msisdn", "address": "+49 (30) 12345" },
    ]);
    let (status, changed) = admin.put(&user("bob"), json!({ "threepids": addresses, "displayname": "" })).await;
    assert_eq!((status, &changed["displayname"]), (StatusCode::OK, &Value::Null));
    assert_eq!(changed["threepids"][0]["address"], "bob@example.org");
    assert_eq!(changed["threepids"][1]["address"], "493012345");
    for address in ["email/users/BOB@example.org", "msisdn/users/+493012345"] {
        assert_eq!(get(&admin, &format!("/v1/threepid/{address}")).await["user_id"], bob.user_id, "{address}");
    }
    for (medium, address) in [("fax", "493012345"), ("email", "bob"), ("msisdn", "me"), ("msisdn", "")] {
        let wrong = json!({ "threepids": [{ "medium": medium, "address": address }], "admin": true });
        assert_eq!(code(&admin.put(&user("bob"), wrong).await), (400, "M_INVALID_PARAM"), "{medium} {address}");
    }
    let kept = admin.get(&user("bob")).await.1;
    assert_eq!((&kept["threepids"], &kept["admin"]), (&changed["threepids"], &json!(false)), "nothing was changed");
    admin.put(&user("bob"), json!({ "threepids": [] })).await;
    assert_eq!(code(&admin.get(&format!("{API}/v1/threepid/email/users/bob@example.org")).await), (404, "M_NOT_FOUND"));

    let page = get(&admin, "/v2/users?limit=2&order_by=name&dir=b").await;
    assert_eq!((&page["total"], &page["next_token"]), (&json!(3), &json!("2")));
    let names = |page: &Value| -> Vec<String> {
        page["users"].as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&page), ["@bob:localhost", "@alice:localhost"]);
    assert_eq!(names(&get(&admin, "/v2/users?name=ali").await), std::slice::from_ref(&alice.user_id));
    assert_eq!(names(&get(&admin, "/v2/users?admins=true").await), std::slice::from_ref(&admin.user_id));

    let path = |rest: &str| format!("{API}/v1/{rest}/{}", encode(&bob.user_id));
    post(&admin, &format!("/v1/reset_password/{}", encode(&bob.user_id)), json!({ "new_password": "other-secret" }))
        .await;
    assert_eq!(code(&bob.get("/_matrix/client/v3/account/whoami").await), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(admin.put(&path("suspend"), json!({ "suspend": true })).await.0, StatusCode::OK);
    assert_eq!(admin.get(&user("bob")).await.1["suspended"], true);
    let token = post(&admin, &format!("/v1/users/{}/login", encode(&alice.user_id)), json!({})).await;
    let mut as_alice = alice.clone();
    as_alice.token = token["access_token"].as_str().unwrap().to_owned();
    assert_eq!(as_alice.get("/_matrix/client/v3/account/whoami").await.1["user_id"], alice.user_id);
    let (status, refused) = admin.post(&format!("{API}/v1/users/{}/shadow_ban", encode(&bob.user_id)), json!({})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
    let own = format!("{API}/v1/users/{}/admin", encode(&admin.user_id));
    assert_eq!(code(&admin.put(&own, json!({ "admin": false })).await), (403, "M_FORBIDDEN"));
    let of_alice = format!("{API}/v1/users/{}/admin", encode(&alice.user_id));
    assert_eq!(admin.put(&of_alice, json!({ "admin": true })).await.0, StatusCode::OK);
    assert_eq!(alice.get(&of_alice).await.1, json!({ "admin": true }));
    assert_eq!(get(&admin, "/v1/username_available?username=carol").await["available"], true);
    assert_eq!(code(&admin.get(&format!("{API}/v1/username_available?username=bob")).await), (400, "M_USER_IN_USE"));

    post(&admin, &format!("/v1/deactivate/{}", encode(&bob.user_id)), json!({ "erase": true })).await;
    assert_eq!(names(&get(&admin, "/v3/users?deactivated=true").await), std::slice::from_ref(&bob.user_id));
    let gone = admin.get(&user("bob")).await.1;
    assert_eq!((&gone["deactivated"], &gone["erased"]), (&json!(true), &json!(true)));
    assert_eq!(admin.put(&user("bob"), json!({ "deactivated": false })).await.0, StatusCode::BAD_REQUEST);
    server.stop().await;
}

#[tokio::test]
async fn devices_rooms_and_data_of_an_account_are_shown() {
    let (server, admin, alice) = start().await;
    let phone = server.login("alice").await;
    let user = format!("/v2/users/{}", encode(&alice.user_id));
    assert_eq!(get(&admin, &format!("{user}/devices")).await["total"], 2);
    let device = format!("{API}{user}/devices/{}", phone.device_id);
    assert_eq!(admin.put(&device, json!({ "display_name": "Phone" })).await.0, StatusCode::OK);
    assert_eq!(admin.get(&device).await.1["display_name"], "Phone");
    assert_eq!(admin.delete(&device).await.0, StatusCode::OK);
    assert_eq!(code(&phone.get("/_matrix/client/v3/account/whoami").await), (401, "M_UNKNOWN_TOKEN"));
    let all = json!({ "devices": [alice.device_id] });
    let room = alice.create_room(json!({})).await;
    let data = format!("/_matrix/client/v3/user/{}/account_data/a.b", encode(&alice.user_id));
    alice.ok(Method::PUT, &data, json!({ "c": 1 })).await;
    let of_user = format!("/v1/users/{}", encode(&alice.user_id));
    assert_eq!(get(&admin, &format!("{of_user}/joined_rooms")).await["joined_rooms"], json!([room]));
    assert_eq!(get(&admin, &format!("{of_user}/memberships")).await["memberships"][&room], "join");
    assert_eq!(get(&admin, &format!("{of_user}/accountdata")).await["account_data"]["global"]["a.b"]["c"], 1);
    assert_eq!(get(&admin, &format!("{of_user}/pushers")).await["total"], 0);
    let whois = get(&admin, &format!("/v1/whois/{}", encode(&alice.user_id))).await;
    assert_eq!(whois["devices"][&alice.device_id]["sessions"][0]["connections"][0]["ip"], "127.0.0.1");
    post(&admin, &format!("{user}/delete_devices"), all).await;
    assert_eq!(get(&admin, &format!("{user}/devices")).await["devices"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn rooms_are_listed_shown_and_deleted() {
    let server = TestServer::start_with(|config| config.admin_room = false).await;
    let (admin, alice) = (server.register("admin").await, server.register("alice").await);
    make_admin(&server, &admin);
    let tea = alice.create_room(json!({ "name": "Tea", "preset": "public_chat", "visibility": "public" })).await;
    let event = alice.send_text(&tea, "first").await;
    alice.send_text(&tea, "second").await;
    let private = alice.create_room(json!({ "name": "Diary" })).await;

    let list = get(&admin, "/v1/rooms?order_by=name&limit=1").await;
    assert_eq!((&list["rooms"][0]["name"], &list["total_rooms"]), (&json!("Diary"), &json!(2)));
    assert_eq!((&list["next_batch"], &list["offset"]), (&json!(1), &json!(0)));
    let found = get(&admin, "/v1/rooms?search_term=tea").await;
    assert_eq!((&found["rooms"][0]["room_id"], &found["total_rooms"]), (&json!(tea), &json!(1)));
    assert_eq!(get(&admin, "/v1/rooms?public_rooms=false").await["rooms"][0]["room_id"], private);
    let path = format!("/v1/rooms/{}", encode(&tea));
    let shown = get(&admin, &path).await;
    assert_eq!((&shown["creator"], &shown["joined_local_devices"]), (&json!(alice.user_id), &json!(1)));
    assert_eq!((&shown["join_rules"], &shown["public"]), (&json!("public"), &json!(true)));
    assert_eq!(get(&admin, &format!("{path}/members")).await["members"], json!([alice.user_id]));
    let state = get(&admin, &format!("{path}/state?type=m.room.name")).await;
    assert_eq!(state["state"][0]["content"]["name"], "Tea");
    let messages = get(&admin, &format!("{path}/messages?limit=1")).await;
    assert_eq!(messages["chunk"][0]["content"]["body"], "second");
    let earlier = get(&admin, &format!("{path}/messages?limit=1&from={}", messages["end"].as_str().unwrap())).await;
    assert_eq!(earlier["chunk"][0]["content"]["body"], "first");
    assert_eq!(get(&admin, &format!("/v1/fetch_event/{}", encode(&event))).await["event"]["event_id"], event);
    assert_eq!(get(&admin, &format!("{path}/forward_extremities")).await["count"], 1);
    let context = get(&admin, &format!("{path}/context/{}?limit=2", encode(&event))).await;
    assert_eq!(
        (&context["event"]["event_id"], &context["events_before"].as_array().unwrap().len()),
        (&json!(event), &1)
    );
    assert_eq!(context["events_after"][0]["content"]["body"], "second");
    assert!(context["state"].to_string().contains("m.room.create"), "{context}");
    let found = get(&admin, &format!("{path}/timestamp_to_event?ts=0")).await;
    assert_eq!(
        found["event_id"],
        get(&admin, &format!("{path}/state?type=m.room.create")).await["state"][0]["event_id"]
    );
    let last = get(&admin, &format!("{path}/timestamp_to_event?ts=99999999999999&dir=b")).await;
    assert_eq!(last["event_id"], messages["chunk"][0]["event_id"]);
    let space = alice.create_room(json!({ "name": "Space", "creation_content": { "type": "m.space" } })).await;
    for room in [&tea, &private] {
        alice.set_state(&space, "m.space.child", room, json!({ "via": ["localhost"] })).await;
    }
    let walk = get(&admin, &format!("/v1/rooms/{}/hierarchy?limit=2", encode(&space))).await;
    let next = walk["next_batch"].as_str().unwrap();
    let rest = get(&admin, &format!("/v1/rooms/{}/hierarchy?limit=2&from={next}", encode(&space))).await;
    let ids = |page: &Value| -> Vec<Value> {
        page["rooms"].as_array().unwrap().iter().map(|room| room["room_id"].clone()).collect()
    };
    let mut walked = [ids(&walk), ids(&rest)].concat();
    assert_eq!(walked.remove(0), space);
    assert!(walked.len() == 2 && walked.contains(&json!(tea)) && walked.contains(&json!(private)), "{walked:?}");
    post(&admin, &format!("/v1/rooms/{}/make_room_admin", encode(&space)), json!({})).await;
    let gone = admin.ok(Method::DELETE, &format!("{API}/v2/rooms/{}", encode(&space)), json!({})).await;
    until("the space to be deleted", async || {
        let id = gone["delete_id"].as_str().unwrap();
        let status = get(&admin, &format!("/v2/rooms/delete_status/{id}")).await;
        (status["status"] == "complete").then_some(())
    })
    .await;

    // An administrator is let into a room and can look after it.
    post(&admin, &format!("/v1/rooms/{}/make_room_admin", encode(&private)), json!({})).await;
    admin.join(&private).await;
    admin.set_state(&private, "m.room.name", "", json!({ "name": "Public diary" })).await;
    post(&admin, &format!("/v1/join/{}", encode(&tea)), json!({ "user_id": admin.user_id })).await;

    post(&admin, &format!("/v1/purge_history/{}/{}", encode(&tea), encode(&event)), json!({})).await;
    until("the history to be deleted", async || {
        let status = get(&admin, &format!("/v1/purge_history_status/{}", encode(&tea))).await;
        (status["status"] == "complete").then_some(())
    })
    .await;

    let block = format!("{API}/v1/rooms/{}/block", encode(&private));
    assert_eq!(admin.put(&block, json!({ "block": true })).await.1, json!({ "block": true }));
    assert_eq!(admin.get(&block).await.1, json!({ "block": true, "user_id": admin.user_id }));
    let delete = format!("{API}/v2/rooms/{}", encode(&tea));
    let moved = json!({ "new_room_user_id": admin.user_id });
    assert_eq!(admin.json(Method::DELETE, &delete, Some(moved)).await.0, StatusCode::BAD_REQUEST);
    let begun = admin.ok(Method::DELETE, &delete, json!({ "block": true, "purge": true })).await;
    let id = begun["delete_id"].as_str().unwrap().to_owned();
    let outcome = until("the room to be deleted", async || {
        let status = get(&admin, &format!("/v2/rooms/delete_status/{id}")).await;
        (status["status"] == "complete").then_some(status)
    })
    .await;
    assert_eq!(outcome["shutdown_room"]["kicked_users"], json!([admin.user_id, alice.user_id]));
    let of_room = get(&admin, &format!("/v2/rooms/{}/delete_status", encode(&tea))).await;
    assert_eq!(of_room["results"], json!([outcome]));
    assert_eq!(get(&admin, "/v1/rooms").await["total_rooms"], 1);
    assert_eq!(code(&admin.get(&format!("{API}{path}")).await), (404, "M_NOT_FOUND"));
    let unknown = format!("{API}/v2/rooms/delete_status/1-1");
    assert_eq!(code(&admin.get(&unknown).await), (404, "M_NOT_FOUND"));
    server.stop().await;
}

#[tokio::test]
async fn files_are_shown_quarantined_and_deleted() {
    let (server, admin, alice) = start().await;
    let file = upload(&alice, "text/plain", "a.txt", b"some text".to_vec()).await;
    upload(&alice, "text/plain", "b.txt", b"other text".to_vec()).await;
    let room = alice.create_room(json!({})).await;
    let message = json!({ "msgtype": "m.file", "body": "file", "url": format!("mxc://{file}") });
    alice.send(&room, "m.room.message", message).await;
    let info = get(&admin, &format!("/v1/media/{file}")).await["media_info"].clone();
    assert_eq!((&info["user_id"], &info["media_length"]), (&json!(alice.user_id), &json!(9)));
    let of_room = format!("/v1/room/{}/media", encode(&room));
    assert_eq!(get(&admin, &of_room).await, json!({ "local": [format!("mxc://{file}")], "remote": [] }));
    let of_user = format!("/v1/users/{}/media", encode(&alice.user_id));
    assert_eq!(get(&admin, &of_user).await["total"], 2);
    let usage = get(&admin, "/v1/statistics/users/media").await;
    assert_eq!((&usage["users"][0]["media_count"], &usage["users"][0]["media_length"]), (&json!(2), &json!(19)));
    let largest = get(&admin, "/v1/statistics/database/rooms").await;
    assert!(largest["rooms"][0]["estimated_size"].as_u64().unwrap() > 0);

    let status =
        async |id: &str| alice.full(Method::GET, &format!("/_matrix/client/v1/media/download/{id}"), &[]).await.0;
    post(&admin, &format!("/v1/media/quarantine/{file}"), json!({})).await;
    assert_eq!(status(&file).await, StatusCode::NOT_FOUND);
    assert_eq!(get(&admin, &format!("/v1/media/{file}")).await["media_info"]["quarantined_by"], admin.user_id);
    post(&admin, &format!("/v1/media/unquarantine/{file}"), json!({})).await;
    assert_eq!(status(&file).await, StatusCode::OK);
    assert_eq!(post(&admin, &format!("{of_room}/quarantine"), json!({})).await["num_quarantined"], 1);
    post(&admin, &format!("/v1/media/unquarantine/{file}"), json!({})).await;

    let id = file.split_once('/').unwrap().1;
    // What is protected stays, unless it is deleted by name.
    post(&admin, &format!("/v1/media/protect/{id}"), json!({})).await;
    assert_eq!(get(&admin, &format!("/v1/media/{file}")).await["media_info"]["safe_from_quarantine"], true);
    assert_eq!(code(&admin.post(&format!("{API}/v1/media/quarantine/{file}"), json!({})).await), (403, "M_FORBIDDEN"));
    assert_eq!(post(&admin, &format!("{of_room}/quarantine"), json!({})).await["num_quarantined"], 0);
    let aged = post(&admin, "/v1/media/delete?before_ts=99999999999999&size_gt=9", json!({})).await;
    assert_eq!(aged["total"], 1, "the other file");
    assert_eq!(post(&admin, "/v1/media/delete?before_ts=99999999999999", json!({})).await["total"], 0);
    assert_eq!(code(&admin.post(&format!("{API}/v1/media/protect/none"), json!({})).await), (404, "M_NOT_FOUND"));
    post(&admin, &format!("/v1/media/unprotect/{id}"), json!({})).await;
    let other = upload(&alice, "text/plain", "c.txt", b"third text".to_vec()).await;
    let gone = admin.ok(Method::DELETE, &format!("{API}/v1/media/{file}"), json!({})).await;
    assert_eq!(gone, json!({ "deleted_media": [id], "total": 1 }));
    assert_eq!(code(&admin.get(&format!("{API}/v1/media/{file}")).await), (404, "M_NOT_FOUND"));
    assert_eq!(post(&admin, "/v1/media/delete?before_ts=1", json!({})).await["total"], 0);
    assert_eq!(post(&admin, "/v1/purge_media_cache?before_ts=99999999999999", json!({})).await["deleted"], 0);
    assert_eq!(admin.ok(Method::DELETE, &format!("{API}{of_user}"), json!({})).await["total"], 1);
    assert_eq!(status(&other).await, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn avatars_stay_when_old_files_are_deleted() {
    let (server, admin, alice) = start().await;
    let mut files = Vec::new();
    for name in ["profile", "room", "member", "message"] {
        files.push(format!("mxc://{}", upload(&admin, "text/plain", name, name.into()).await));
    }
    let profile = format!("/_matrix/client/v3/profile/{}/avatar_url", encode(&alice.user_id));
    alice.ok(Method::PUT, &profile, json!({ "avatar_url": files[0] })).await;
    let room = admin.create_room(json!({})).await;
    admin.set_state(&room, "m.room.avatar", "", json!({ "url": files[1] })).await;
    let member = json!({ "membership": "join", "avatar_url": files[2] });
    admin.set_state(&room, "m.room.member", &admin.user_id, member).await;
    let message = json!({ "msgtype": "m.file", "body": "file", "url": files[3] });
    admin.send(&room, "m.room.message", message).await;
    let all = "/v1/media/delete?before_ts=99999999999999";
    let deleted = post(&admin, all, json!({})).await["deleted_media"].clone();
    assert_eq!(deleted, json!([files[3].rsplit_once('/').unwrap().1]));
    assert_eq!(post(&admin, &format!("{all}&keep_profiles=false"), json!({})).await["total"], 3);
    server.stop().await;
}

#[tokio::test]
async fn the_files_of_a_user_are_listed_and_deleted_in_any_order() {
    let (server, admin, alice) = start().await;
    let path = format!("/v1/users/{}/media", encode(&alice.user_id));
    for name in ["three", "a", "twelve"] {
        upload(&alice, "text/plain", name, name.into()).await;
    }
    let sizes = async |query: &str| -> Vec<u64> {
        let list = get(&admin, &format!("{path}?{query}")).await;
        list["media"].as_array().unwrap().iter().map(|file| file["media_length"].as_u64().unwrap()).collect()
    };
    assert_eq!(sizes("order_by=media_length").await, [1, 5, 6], "upwards where an order is asked for");
    assert_eq!(sizes("order_by=media_length&dir=b&limit=2").await, [6, 5]);
    assert_eq!(sizes("order_by=upload_name&from=1").await, [5, 6]);
    let delete = async |query: &str| admin.ok(Method::DELETE, &format!("{API}{path}?{query}"), json!({})).await;
    assert_eq!(delete("limit=0").await["total"], 0);
    assert_eq!(delete("order_by=media_length&dir=b&limit=1").await["total"], 1);
    assert_eq!(sizes("order_by=media_length").await, [1, 5]);
    server.stop().await;
}

#[tokio::test]
async fn rooms_are_listed_with_the_largest_first() {
    let server = TestServer::start_with(|config| config.admin_room = false).await;
    let (admin, alice) = (server.register("admin").await, server.register("alice").await);
    make_admin(&server, &admin);
    let large = alice.create_room(json!({ "name": "Zoo", "preset": "public_chat", "room_version": "10" })).await;
    admin.join(&large).await;
    let small = alice.create_room(json!({ "name": "Attic", "preset": "private_chat", "room_version": "11" })).await;
    alice.set_state(&large, "m.room.topic", "", json!({ "topic": "animals" })).await;
    for (query, first) in [
        ("", &small),
        ("order_by=alphabetical", &small),
        ("order_by=name&dir=b", &large),
        ("order_by=size", &large),
        ("order_by=joined_members", &large),
        ("order_by=joined_members&dir=f", &large),
        ("order_by=joined_members&dir=b", &small),
        ("order_by=joined_local_members", &large),
        ("order_by=state_events", &large),
        ("order_by=version", &small),
    ] {
        assert_eq!(get(&admin, &format!("/v1/rooms?{query}")).await["rooms"][0]["room_id"], **first, "{query}");
    }
    server.stop().await;
}

#[tokio::test]
async fn registration_tokens_are_made_changed_and_deleted() {
    let (server, admin, _) = start().await;
    let path = |token: &str| format!("{API}/v1/registration_tokens/{token}");
    let made = post(&admin, "/v1/registration_tokens/new", json!({ "token": "tea", "uses_allowed": 2 })).await;
    let expected = json!({ "token": "tea", "uses_allowed": 2, "pending": 0, "completed": 0, "expiry_time": null });
    assert_eq!(made, expected);
    assert_eq!(code(&admin.post(&path("new"), json!({ "token": "t e a" })).await), (400, "M_INVALID_PARAM"));
    let short = post(&admin, "/v1/registration_tokens/new", json!({ "length": 5, "expiry_time": null })).await;
    assert_eq!(short["token"].as_str().unwrap().len(), 5);
    let changed = admin.put(&path("tea"), json!({ "uses_allowed": 0 })).await.1;
    assert_eq!((&changed["uses_allowed"], &changed["expiry_time"]), (&json!(0), &Value::Null));
    let past = admin.put(&path("tea"), json!({ "uses_allowed": 5, "expiry_time": 1 })).await;
    assert_eq!(code(&past), (400, "M_INVALID_PARAM"));
    let invalid = get(&admin, "/v1/registration_tokens?valid=false").await;
    assert_eq!(invalid["registration_tokens"], json!([changed]));
    let lifted = admin.put(&path("tea"), json!({ "uses_allowed": null })).await.1;
    assert_eq!(lifted["uses_allowed"], Value::Null);
    assert_eq!(admin.get(&path("tea")).await.1, lifted);
    assert_eq!(admin.delete(&path("tea")).await.0, StatusCode::OK);
    assert_eq!(code(&admin.get(&path("tea")).await), (404, "M_NOT_FOUND"));
    server.stop().await;
}

#[tokio::test]
async fn reports_are_shown_and_deleted() {
    let (server, admin, alice) = start().await;
    let room = alice.create_room(json!({ "name": "Tea" })).await;
    let event = alice.send_text(&room, "rude").await;
    let report = format!("/_matrix/client/v3/rooms/{}/report/{}", encode(&room), encode(&event));
    alice.ok(Method::POST, &report, json!({ "reason": "it is rude" })).await;
    let list = get(&admin, &format!("/v1/event_reports?user_id={}", encode(&alice.user_id))).await;
    let row = &list["event_reports"][0];
    assert_eq!((&row["event_id"], &row["sender"], &row["name"]), (&json!(event), &json!(alice.user_id), &json!("Tea")));
    assert_eq!(get(&admin, "/v1/event_reports?user_id=@x:y").await["total"], 0);
    let path = format!("/v1/event_reports/{}", row["id"]);
    assert_eq!(get(&admin, &path).await["event_json"]["content"]["body"], "rude");
    assert_eq!(admin.delete(&format!("{API}{path}")).await.0, StatusCode::OK);
    assert_eq!(code(&admin.get(&format!("{API}{path}")).await), (404, "M_NOT_FOUND"));
    server.stop().await;
}

#[tokio::test]
async fn destinations_are_shown() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    make_admin(&a, &alice);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join(&bob, &room, &["a.test"]).await;
    let list = get(&alice, "/v1/federation/destinations").await;
    assert_eq!((&list["destinations"][0]["destination"], &list["total"]), (&json!("b.test"), &json!(1)));
    for (part, total) in [("B.t", 1), ("c", 0)] {
        let found = get(&alice, &format!("/v1/federation/destinations?destination={part}&limit=5")).await;
        assert_eq!(found["total"], total, "{part}");
    }
    let path = "/v1/federation/destinations/b.test";
    assert_eq!(get(&alice, path).await["failure_ts"], Value::Null);
    assert_eq!(get(&alice, &format!("{path}/rooms")).await["rooms"][0]["room_id"], room);
    assert_eq!(code(&alice.post(&format!("{API}{path}/reset_connection"), json!({})).await), (400, "M_UNKNOWN"));
    net.cut("a", "b");
    alice.send_text(&room, "hello").await;
    until("a failure", async || get(&alice, path).await["failure_ts"].as_u64()).await;
    net.heal("a", "b");
    post(&alice, &format!("{path}/reset_connection"), json!({})).await;
    until("the server to be reached", async || get(&alice, path).await["failure_ts"].is_null().then_some(())).await;
}

#[tokio::test]
async fn notices_come_in_a_room_that_cannot_be_declined() {
    let server = TestServer::start_with(|config| config.server_notices.enabled = true).await;
    let (admin, alice) = (server.register("admin").await, server.register("alice").await);
    make_admin(&server, &admin);
    let content = json!({ "msgtype": "m.text", "body": "hello from the server" });
    let notice = json!({ "user_id": alice.user_id, "content": content });
    let event = post(&admin, "/v1/send_server_notice", notice.clone()).await["event_id"].clone();
    let sync = alice.sync("").await;
    let (room, invited) = sync["rooms"]["invite"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(invited["invite_state"]["events"][0]["sender"], "@conduit:localhost");
    let leave = format!("/_matrix/client/v3/rooms/{}/leave", encode(room));
    assert_eq!(code(&alice.post(&leave, json!({})).await), (403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"));
    alice.join(room).await;
    let sync = alice.sync("").await;
    let joined = &sync["rooms"]["join"][room];
    assert!(
        joined["timeline"]["events"].as_array().unwrap().iter().any(|shown| shown["event_id"] == event),
        "{joined}"
    );
    assert!(joined["account_data"].to_string().contains("m.server_notice"), "{joined}");
    assert_eq!(alice.post(&leave, json!({})).await.0, StatusCode::OK);

    // Once for each transaction, and in the same room again.
    let once = format!("{API}/v1/send_server_notice/7");
    let (first, second) = (admin.put(&once, notice.clone()).await, admin.put(&once, notice).await);
    assert_eq!((first.0, &first.1), (StatusCode::OK, &second.1));
    assert!(alice.sync("").await["rooms"]["invite"][room].is_object());
    server.stop().await;

    let (server, admin, alice) = start().await;
    let notice = json!({ "user_id": alice.user_id, "content": {} });
    let refused = admin.post(&format!("{API}/v1/send_server_notice"), notice).await;
    assert!(refused.1["error"].as_str().unwrap().contains("not enabled"), "{}", refused.1);
    server.stop().await;
}
