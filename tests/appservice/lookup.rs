//! What application services are asked, and what they list.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::fake::{Fake, client};
use crate::common::encode;

#[tokio::test]
async fn rooms_and_users_are_made_when_somebody_asks_for_them() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let (service, alice) = (client(&server), server.register("alice").await);
    fake.on_query({
        let service = service.clone();
        move |path| {
            let service = service.clone();
            async move {
                if path == "rooms/%23irc_rust%3alocalhost" {
                    service.create_room(json!({ "preset": "public_chat", "room_alias_name": "irc_rust" })).await;
                } else if path == "users/%40_irc_bob%3alocalhost" {
                    let body =
                        json!({ "type": "m.login.application_service", "username": "_irc_bob", "inhibit_login": true });
                    service.ok(Method::POST, "/_matrix/client/v3/register", body).await;
                } else {
                    return (StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND" }));
                }
                (StatusCode::OK, json!({}))
            }
        }
    });
    let room = alice.create_room(json!({})).await;
    let invite = format!("/_matrix/client/v3/rooms/{}/invite", encode(&room));
    alice.ok(Method::POST, &invite, json!({ "user_id": "@_irc_bob:localhost" })).await;
    assert_eq!(fake.asked(), ["users/%40_irc_bob%3alocalhost"]);
    let profile = |name: &str| format!("/_matrix/client/v3/profile/@_irc_{name}:localhost");
    alice.ok(Method::GET, &profile("bob"), Value::Null).await;
    assert_eq!(fake.asked().len(), 1, "who is there is not asked for");
    assert_eq!(alice.get(&profile("nobody")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(fake.asked()[1..], ["users/%40_irc_nobody%3alocalhost"]);

    let alias = |name: &str| format!("/_matrix/client/v3/directory/room/%23{name}:localhost");
    for _ in 0..2 {
        alice.ok(Method::GET, &alias("irc_rust"), Value::Null).await;
    }
    assert_eq!(fake.asked()[2..], ["rooms/%23irc_rust%3alocalhost"], "once");
    for name in ["irc_none", "other"] {
        assert_eq!(alice.get(&alias(name)).await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(fake.asked()[3..], ["rooms/%23irc_none%3alocalhost"], "aliases of others are not its own");

    // The invitation comes with what the one who is invited may know of the room.
    let invited = fake.entry("events", |event| event["state_key"] == "@_irc_bob:localhost").await;
    let stripped = invited["unsigned"]["invite_room_state"].as_array().unwrap();
    assert!(stripped.iter().any(|event| event["type"] == "m.room.create"), "{stripped:?}");
}

#[tokio::test]
async fn other_networks_are_looked_up_through_them() {
    let fake = Fake::start().await;
    let server = fake.server("protocols: [irc, gone]").await;
    let alice = server.register("alice").await;
    fake.on_query(async |path| match path.as_str() {
        "thirdparty/protocol/irc" => (
            StatusCode::OK,
            json!({
                "user_fields": ["nick"], "location_fields": ["channel"], "icon": "mxc://a/b", "field_types": {},
                "instances": [{ "network_id": "libera", "desc": "Libera", "fields": {} }],
            }),
        ),
        "thirdparty/location/irc?channel=%23rust" => {
            (StatusCode::OK, json!([{ "alias": "#irc_rust:localhost", "protocol": "irc", "fields": {} }]))
        }
        "thirdparty/user/irc?nick=a%26b" => {
            (StatusCode::OK, json!([{ "userid": "@_irc_ab:localhost", "protocol": "irc", "fields": {} }]))
        }
        "thirdparty/location?alias=%23irc_rust%3alocalhost" => {
            (StatusCode::OK, json!([{ "alias": "#irc_rust:localhost", "protocol": "irc", "fields": {} }]))
        }
        "thirdparty/user?userid=%40_irc_ab%3alocalhost" => {
            (StatusCode::OK, json!([{ "userid": "@_irc_ab:localhost", "protocol": "irc", "fields": {} }]))
        }
        "thirdparty/user/irc?nick=nobody" => (StatusCode::OK, json!([])),
        _ => (StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND" })),
    });
    let ask = async |path: &str| alice.get(&format!("/_matrix/client/v3/thirdparty/{path}")).await;
    let (status, all) = ask("protocols").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(all.as_object().unwrap().keys().collect::<Vec<_>>(), ["irc"], "one that does not answer is left out");
    assert_eq!(all["irc"]["instances"][0]["instance_id"], "irc|libera");
    assert_eq!(ask("protocol/irc").await, (StatusCode::OK, all["irc"].clone()));
    for path in ["location/irc?channel=%23rust", "location?alias=%23irc_rust:localhost"] {
        let (status, found) = ask(path).await;
        assert_eq!((status, &found[0]["alias"]), (StatusCode::OK, &json!("#irc_rust:localhost")), "{path}");
    }
    for path in ["user/irc?nick=a%26b", "user?userid=@_irc_ab:localhost"] {
        let (status, found) = ask(path).await;
        assert_eq!((status, &found[0]["userid"]), (StatusCode::OK, &json!("@_irc_ab:localhost")), "{path}");
    }
    for path in
        ["protocol/gone", "protocol/xmpp", "location/xmpp", "user/irc?nick=nobody", "user?userid=@alice:localhost"]
    {
        let (status, answer) = ask(path).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")), "{path}");
    }
}

#[tokio::test]
async fn rooms_are_listed_for_their_networks() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let (service, alice) = (client(&server), server.register("alice").await);
    let bridged = service.create_room(json!({ "preset": "public_chat" })).await;
    let published = alice.create_room(json!({ "visibility": "public" })).await;
    let list = |network: &str| format!("/_matrix/client/v3/directory/list/appservice/{network}/{}", encode(&bridged));
    service.ok(Method::PUT, &list("libera"), json!({ "visibility": "public" })).await;
    assert_eq!(alice.put(&list("libera"), json!({ "visibility": "public" })).await.0, StatusCode::FORBIDDEN);

    let rooms = async |body: Value| {
        let answer = alice.ok(Method::POST, "/_matrix/client/v3/publicRooms", body).await;
        let mut rooms: Vec<String> = answer["chunk"]
            .as_array()
            .unwrap()
            .iter()
            .map(|room| room["room_id"].as_str().unwrap().to_owned())
            .collect();
        rooms.sort();
        rooms
    };
    let mut both = vec![bridged.clone(), published.clone()];
    both.sort();
    assert_eq!(rooms(json!({})).await, [published.as_str()]);
    assert_eq!(rooms(json!({ "third_party_instance_id": "irc|libera" })).await, [bridged.as_str()]);
    assert_eq!(rooms(json!({ "include_all_networks": true })).await, both);
    assert!(rooms(json!({ "third_party_instance_id": "irc|oftc" })).await.is_empty());
    service.ok(Method::PUT, &list("libera"), json!({ "visibility": "private" })).await;
    assert!(rooms(json!({ "third_party_instance_id": "irc|libera" })).await.is_empty());
}
