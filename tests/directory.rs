//! Finding rooms: aliases, the room directory, spaces, summaries.

use crate::common::{Client, TestServer, encode};
use http::{Method, StatusCode};
use serde_json::{Value, json};

async fn read(client: &Client, path: &str) -> Value {
    client.ok(Method::GET, path, Value::Null).await
}

fn is_error((status, body): &(StatusCode, Value), wanted: u16, errcode: &str) {
    assert_eq!((status.as_u16(), body["errcode"].as_str()), (wanted, Some(errcode)), "{body}");
}

fn alias_path(name: &str) -> String {
    format!("/_matrix/client/v3/directory/room/{}", encode(&format!("#{name}:localhost")))
}

#[tokio::test]
async fn aliases() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "main" })).await;
    let point = json!({ "room_id": room });
    is_error(&bob.put(&alias_path("more"), point.clone()).await, 403, "M_FORBIDDEN");
    bob.join("#main:localhost").await;
    bob.ok(Method::PUT, &alias_path("möre"), point.clone()).await;
    is_error(&bob.put(&alias_path("möre"), point.clone()).await, 409, "M_ROOM_IN_USE");
    let elsewhere = format!("/_matrix/client/v3/directory/room/{}", encode("#x:elsewhere"));
    is_error(&bob.put(&elsewhere, point).await, 400, "M_INVALID_PARAM");
    assert_eq!(read(&server.anyone(), &alias_path("möre")).await["room_id"], json!(room));
    is_error(&alice.get(&alias_path("none")).await, 404, "M_NOT_FOUND");
    let local = format!("/_matrix/client/v3/rooms/{}/aliases", encode(&room));
    assert_eq!(read(&bob, &local).await["aliases"], json!(["#main:localhost", "#möre:localhost"]));
    let carol = server.register("carol").await;
    is_error(&carol.get(&local).await, 403, "M_FORBIDDEN");

    is_error(&bob.delete(&alias_path("main")).await, 403, "M_FORBIDDEN");
    is_error(&bob.delete(&alias_path("none")).await, 404, "M_NOT_FOUND");
    assert_eq!(bob.delete(&alias_path("möre")).await.0, StatusCode::OK);
    assert_eq!(alice.delete(&alias_path("main")).await.0, StatusCode::OK);
    let canonical = format!("/_matrix/client/v3/rooms/{}/state/m.room.canonical_alias", encode(&room));
    assert_eq!(read(&bob, &canonical).await, json!({}));
    assert_eq!(read(&bob, &local).await["aliases"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn public_rooms() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let small = alice.create_room(json!({ "visibility": "public", "topic": "All the Wombles" })).await;
    let space = alice.create_room(json!({ "visibility": "public", "creation_content": { "type": "m.space" } })).await;
    let large = alice.create_room(json!({ "visibility": "public", "name": "Large", "room_alias_name": "large" })).await;
    alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&large).await;

    let list = read(&server.anyone(), "/_matrix/client/v3/publicRooms").await;
    let ids: Vec<_> = list["chunk"].as_array().unwrap().iter().map(|room| room["room_id"].clone()).collect();
    assert_eq!(ids, [json!(large), json!(small), json!(space)]);
    assert_eq!(list["total_room_count_estimate"], 3);
    let first = &list["chunk"][0];
    assert_eq!(first["canonical_alias"], "#large:localhost");
    assert_eq!((&first["num_joined_members"], &first["join_rule"]), (&json!(2), &json!("public")));
    assert_eq!((&first["world_readable"], &first["guest_can_join"]), (&json!(false), &json!(false)));
    assert!(first.get("topic").is_none());

    let page = read(&alice, "/_matrix/client/v3/publicRooms?limit=2").await;
    let next = page["next_batch"].as_str().unwrap();
    let page = read(&alice, &format!("/_matrix/client/v3/publicRooms?limit=2&since={next}")).await;
    assert_eq!(page["chunk"][0]["room_id"], json!(space));
    assert!(page.get("next_batch").is_none() && page.get("prev_batch").is_some());

    let query = async |filter: Value| {
        let body = json!({ "filter": filter });
        let list = alice.ok(Method::POST, "/_matrix/client/v3/publicRooms", body).await;
        list["chunk"].as_array().unwrap().iter().map(|room| room["room_id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(query(json!({ "generic_search_term": "wombles" })).await, [json!(small)]);
    assert_eq!(query(json!({ "room_types": ["m.space"] })).await, [json!(space)]);
    assert_eq!(query(json!({ "room_types": [null] })).await.len(), 2);

    let listed = format!("/_matrix/client/v3/directory/list/room/{}", encode(&large));
    is_error(&bob.put(&listed, json!({ "visibility": "private" })).await, 403, "M_FORBIDDEN");
    alice.ok(Method::PUT, &listed, json!({ "visibility": "private" })).await;
    assert_eq!(read(&bob, &listed).await["visibility"], "private");
    alice.ok(Method::PUT, &listed, json!({})).await;
    assert_eq!(read(&bob, &listed).await["visibility"], "public");
    let nowhere = "/_matrix/client/v3/directory/list/room/%21no%3Alocalhost";
    is_error(&bob.get(nowhere).await, 404, "M_NOT_FOUND");
    server.stop().await;
}

#[tokio::test]
async fn spaces() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let space = async |name: &str| {
        alice
            .create_room(json!({ "preset": "public_chat", "name": name, "creation_content": { "type": "m.space" } }))
            .await
    };
    let (root, sub) = (space("root").await, space("sub").await);
    let one = alice.create_room(json!({ "preset": "public_chat", "name": "one" })).await;
    let two = alice.create_room(json!({ "preset": "public_chat", "name": "two" })).await;
    let secret = alice.create_room(json!({ "preset": "private_chat", "name": "secret" })).await;
    let via = json!(["localhost"]);
    alice.set_state(&root, "m.space.child", &two, json!({ "via": via, "suggested": true })).await;
    alice.set_state(&root, "m.space.child", &sub, json!({ "via": via, "order": "a" })).await;
    alice.set_state(&root, "m.space.child", &secret, json!({ "via": via, "order": "b" })).await;
    alice.set_state(&root, "m.space.child", "!unknown:elsewhere", json!({ "via": via })).await;
    alice.set_state(&sub, "m.space.child", &one, json!({ "via": via })).await;
    alice.set_state(&sub, "m.space.child", &root, json!({ "via": via })).await; // a loop

    let walk = async |client: &Client, query: &str| {
        read(client, &format!("/_matrix/client/v1/rooms/{}/hierarchy?{query}", encode(&root))).await
    };
    let names = |page: &Value| -> Vec<String> {
        page["rooms"].as_array().unwrap().iter().map(|room| room["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = walk(&alice, "").await;
    assert_eq!(names(&all), ["root", "sub", "one", "secret", "two"]);
    let children: Vec<_> =
        all["rooms"][0]["children_state"].as_array().unwrap().iter().map(|child| &child["state_key"]).collect();
    assert_eq!(children, [&sub, &secret, &two, "!unknown:elsewhere"]);
    assert!(all["rooms"][0]["children_state"][0]["origin_server_ts"].is_number());
    assert_eq!(names(&walk(&bob, "").await), ["root", "sub", "one", "two"]);
    assert_eq!(names(&walk(&bob, "max_depth=1").await), ["root", "sub", "two"]);
    let suggested = walk(&bob, "suggested_only=true").await;
    assert_eq!(names(&suggested), ["root", "two"]);
    assert_eq!(suggested["rooms"][0]["children_state"].as_array().unwrap().len(), 1);
    let page = walk(&bob, "limit=2&max_depth=5").await;
    assert_eq!(names(&page), ["root", "sub"]);
    let next = page["next_batch"].as_str().unwrap();
    assert_eq!(names(&walk(&bob, &format!("from={next}")).await), ["one", "two"]);
    let changed = format!("/_matrix/client/v1/rooms/{}/hierarchy?from={next}&max_depth=1", encode(&root));
    is_error(&bob.get(&changed).await, 400, "M_INVALID_PARAM");
    let hidden = format!("/_matrix/client/v1/rooms/{}/hierarchy", encode(&secret));
    is_error(&bob.get(&hidden).await, 403, "M_FORBIDDEN");

    alice.set_state(&root, "m.space.child", &sub, json!({})).await;
    assert_eq!(names(&walk(&bob, "").await), ["root", "two"]);
    server.stop().await;
}

#[tokio::test]
async fn summaries() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let public = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "p", "name": "P" })).await;
    let restricted = alice
        .create_room(json!({
            "preset": "public_chat",
            "room_version": "8",
            "initial_state": [
                { "type": "m.room.join_rules", "content": {
                    "join_rule": "restricted",
                    "allow": [{ "type": "m.room_membership", "room_id": public }],
                } },
                { "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
            ],
        }))
        .await;
    let of = |room: &str| format!("/_matrix/client/v1/room_summary/{}", encode(room));
    let summary = read(&server.anyone(), &of("#p:localhost")).await;
    assert_eq!((&summary["room_id"], &summary["name"]), (&json!(public), &json!("P")));
    assert!(summary.get("membership").is_none() && summary.get("allowed_room_ids").is_none());
    assert_eq!(read(&bob, &of(&public)).await["membership"], "leave");
    is_error(&server.anyone().get(&of(&restricted)).await, 404, "M_NOT_FOUND");
    is_error(&bob.get(&of(&restricted)).await, 404, "M_NOT_FOUND");
    bob.join(&public).await;
    let summary = read(&bob, &of(&restricted)).await;
    assert_eq!(summary["join_rule"], "restricted");
    assert_eq!(summary["allowed_room_ids"], json!([public]));
    assert_eq!((&summary["encryption"], &summary["room_version"]), (&json!("m.megolm.v1.aes-sha2"), &json!("8")));
    server.stop().await;
}
