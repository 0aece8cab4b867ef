//! New users and those who go.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{ask, start};
use crate::{
    common::{TestServer, encode},
    federation::joins::until,
    media::upload,
};

#[tokio::test]
async fn new_users_are_brought_into_their_first_rooms() {
    let server = TestServer::start_with(|config| {
        config.auto_join_rooms = vec!["#welcome:localhost".try_into().unwrap()];
        config.support_room = true;
    })
    .await;
    let alice = server.register("alice").await;
    let welcome = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "welcome" })).await;
    let club = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "club" })).await;
    ask(&server, "registration-tokens create for-the-club --room #club:localhost").await.unwrap();
    let body = json!({
        "username": "bob", "password": "secret-bob",
        "auth": { "type": "m.login.registration_token", "token": "for-the-club" },
    });
    let (status, answer) = server.anyone().post("/_matrix/client/v3/register", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let bob = server.anyone().logged_in(&answer);
    let support = "/_matrix/client/v3/directory/room/%23support:localhost";
    until("bob to be in three rooms", async || {
        let joined = bob.ok(Method::GET, "/_matrix/client/v3/joined_rooms", Value::Null).await;
        let support = bob.get(support).await.1["room_id"].clone();
        let joined = joined["joined_rooms"].as_array().unwrap().clone();
        [json!(welcome), json!(club), support].iter().all(|room| joined.contains(room)).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn of_who_is_erased_the_files_go() {
    let (server, _, alice) = start().await;
    let file = upload(&alice, "text/plain", "a.txt", b"of alice".to_vec()).await;
    let bob = server.register("bob").await;
    ask(&server, "users deactivate alice --erase").await.unwrap();
    until("the file to be deleted", async || {
        let path = format!("/_matrix/client/v1/media/download/{file}");
        (bob.get(&path).await.0 == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn a_user_is_written_to_by_command() {
    let server = TestServer::start_with(|config| config.server_notices.enabled = true).await;
    let alice = server.register("alice").await;
    ask(&server, "users notify alice 'The server is down on Sunday.'").await.unwrap();
    let sync = alice.sync("").await;
    let room = sync["rooms"]["invite"].as_object().unwrap().keys().next().unwrap().clone();
    alice.join(&room).await;
    let messages = format!("/_matrix/client/v3/rooms/{}/messages?dir=b", encode(&room));
    assert!(alice.get(&messages).await.1.to_string().contains("down on Sunday"));
    let invite = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/1", encode(&room));
    let answer = alice.put(&invite, json!({ "msgtype": "m.text", "body": "thanks" })).await;
    assert_eq!(answer.0, StatusCode::FORBIDDEN, "the room is for the server alone to write in");
    server.stop().await;
}

#[tokio::test]
async fn the_server_says_that_it_is_well() {
    let server = TestServer::start().await;
    let (status, _, body) = server.anyone().full(Method::GET, "/health", &[]).await;
    assert_eq!((status, body.as_ref()), (StatusCode::OK, &b"OK\n"[..]));
    server.stop().await;
}
