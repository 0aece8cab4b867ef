//! What administrators do: `api/client/admin.rs`, the commands of `admin/`, and the API of Synapse's tools.

mod destinations;
mod documentation;
mod files;
mod metrics;
mod reload;
mod restrictions;
mod rooms;
mod synapse;
mod synapse_more;
mod users;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use conduit::{
    admin::{Command, Format, socket},
    users::accounts,
};
use http::StatusCode;
use ruma::UserId;
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode};

/// A server with an administrator and a user.
async fn start() -> (TestServer, Client, Client) {
    let server = TestServer::start().await;
    let (admin, alice) = (server.register("admin").await, server.register("alice").await);
    make_admin(&server, &admin);
    (server, admin, alice)
}

pub fn make_admin(server: &TestServer, user: &Client) {
    let id = UserId::parse(&*user.user_id).unwrap();
    let store = &server.handle.server().store;
    store.write(|tx| accounts::update(tx, &id, |account| account.admin = true)).unwrap();
}

/// Does a command as whoever sits at the machine does; gives its answer, or what went wrong.
async fn ask(server: &TestServer, line: &str) -> Result<String, String> {
    ask_for_json(server, line).await.map(|(text, _)| text)
}

async fn ask_for_json(server: &TestServer, line: &str) -> Result<(String, Value), String> {
    let command = Command::parse(line).unwrap();
    let answer = Box::pin(command.run(server.handle.server(), None)).await;
    answer.map(|answer| (answer.to_string(), answer.to_json())).map_err(|error| error.to_string())
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
    admin.join(&room).await;
    let (event, other) = (alice.send_text(&room, "before").await, admin.send_text(&room, "before").await);
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
        // However it is spelled.
        alice.put(&format!("{room_path}/%73end/m.room.message/5"), json!({ "body": "after" })).await,
        alice.post("/_matrix/client/v3/%63reateRoom", json!({})).await,
        alice.post("/_matrix/%63lient/v3/createRoom", json!({})).await,
        alice.post("/_matrix/media/v3/upload", json!("file")).await,
        alice.put(&format!("{room_path}/redact/{}/2", encode(&other)), json!({})).await,
        alice.put(&format!("{room_path}/send/m.room.redaction/3"), json!({ "redacts": other })).await,
        alice.put(&format!("{room_path}/send/m.room.redaction/4"), json!({ "redacts": "$unknown" })).await,
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

/// Waits for the answer to what `admin` writes in the administration room.
async fn command(admin: &Client, room: &str, line: &str) -> String {
    let asked = admin.send_text(room, line).await;
    let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=10", encode(room));
    loop {
        let page = admin.get(&path).await.1;
        let events = page["chunk"].as_array().unwrap();
        let before: Vec<_> = events.iter().take_while(|event| event["event_id"] != *asked).collect();
        if let Some(answer) = before.last() {
            assert_eq!(
                (&answer["sender"], &answer["content"]["msgtype"]),
                (&json!("@conduit:localhost"), &json!("m.notice"))
            );
            return answer["content"]["body"].as_str().unwrap().to_owned();
        }
        admin.sync("timeout=100").await;
    }
}

#[tokio::test]
async fn administrators_give_commands_in_their_room() {
    let (server, admin, alice) = start().await;
    let mut answer = admin.sync("timeout=0").await;
    while answer["rooms"]["invite"].as_object().is_none_or(serde_json::Map::is_empty) {
        answer = admin.sync(&format!("timeout=1000&since={}", answer["next_batch"].as_str().unwrap())).await;
    }
    let room = answer["rooms"]["invite"].as_object().unwrap().keys().next().unwrap().clone();
    admin.join(&room).await;
    assert_eq!(admin.get("/_matrix/client/v3/directory/room/%23admins:localhost").await.1["room_id"], *room);

    assert!(command(&admin, &room, "!admin").await.contains("registration-tokens"));
    assert!(command(&admin, &room, "!admin users lock \"").await.contains("quotation"));
    assert!(command(&admin, &room, "!admin users lock nobody").await.starts_with("There is no account"));
    assert_eq!(command(&admin, &room, "!admin users lock alice").await, "@alice:localhost is locked.");
    assert_eq!(code(&alice.get("/_matrix/client/v3/account/whoami").await), (401, "M_USER_LOCKED"));
    let list = command(&admin, &room, "!admin users list").await;
    assert!(list.lines().any(|line| line.starts_with("@alice:localhost ") && line.contains(" locked ")), "{list}");
    command(&admin, &room, "!admin users unlock @alice:localhost").await;
    let created = command(&admin, &room, "!admin registration-tokens create for-bob --uses 1 --days 7").await;
    assert!(created.contains("for-bob"), "{created}");
    assert!(command(&admin, &room, "!admin registration-tokens list").await.contains("for-bob"));

    // Who is in the room but no administrator commands nothing.
    let invite = json!({ "user_id": alice.user_id });
    assert_eq!(
        admin.post(&format!("/_matrix/client/v3/rooms/{}/invite", encode(&room)), invite).await.0,
        StatusCode::OK
    );
    alice.join(&room).await;
    assert_eq!(command(&alice, &room, "!admin users list").await, "Only administrators can do this.");

    let report = format!("/_matrix/client/v3/users/{}/report", encode(&alice.user_id));
    assert_eq!(admin.post(&report, json!({ "reason": "is <rude>" })).await.0, StatusCode::OK);
    let mut sync = admin.sync("timeout=0").await;
    while !sync.to_string().contains("reports @alice:localhost: is <rude>") {
        sync = admin.sync(&format!("timeout=1000&since={}", sync["next_batch"].as_str().unwrap())).await;
    }
    assert!(sync.to_string().contains("is &lt;rude&gt;"), "the formatted text is escaped");
    server.stop().await;
}

/// Each command is attended to by itself.
#[tokio::test]
async fn who_is_slow_to_ask_holds_up_no_other_command() {
    let (server, ..) = start().await;
    let folder = server.handle.server().config().database_path.clone();
    let command = || Command::parse("rooms list").unwrap();
    let asking = tokio::task::spawn_blocking(move || {
        let mut slow = UnixStream::connect(socket::path(&folder)).unwrap();
        let other = socket::ask(&folder, command(), Format::Json);
        writeln!(slow, "{}", json!({ "command": command() })).unwrap();
        let mut answer = String::new();
        slow.read_to_string(&mut answer).unwrap();
        (other, answer)
    });
    let (other, answer) = asking.await.unwrap();
    let answer: Value = serde_json::from_str(&answer).expect("it was waited for all the while");
    assert!(other.is_ok() && answer["done"].is_string(), "{other:?} {answer}");
    server.stop().await;
}

#[tokio::test]
async fn commands_reach_the_running_server_through_its_socket() {
    let (server, _, alice) = start().await;
    let folder = server.handle.server().config().database_path.clone();
    let ask = async |line: &str, format| {
        let (folder, command) = (folder.clone(), Command::parse(line).unwrap());
        tokio::task::spawn_blocking(move || socket::ask(&folder, command, format)).await.unwrap()
    };
    let text = Format::Text;
    let answer = ask("users create bob --password secret-bob", text).await;
    assert_eq!(answer.unwrap(), "@bob:localhost is registered.");
    server.login("bob").await;
    let answer = ask("users create bob", text).await;
    assert_eq!(answer.unwrap_err(), "This user name is taken.");
    let list: Value = serde_json::from_str(&ask("users list", Format::Json).await.unwrap()).unwrap();
    assert!(list.as_array().unwrap().iter().any(|row| row["user"] == *alice.user_id), "{list}");
    let reset = ask("users reset-password alice", text).await.unwrap();
    assert!(reset.starts_with("@alice:localhost has a new password. The password is "), "{reset}");
    assert_eq!(code(&alice.get("/_matrix/client/v3/account/whoami").await), (401, "M_UNKNOWN_TOKEN"));
    let lines = [
        "server status",
        "server disk",
        "server trees",
        "server resolutions",
        "server memory",
        "server compact",
        "rooms list",
        "keys list",
        "keys of elsewhere",
        "reports list",
        "users show bob",
    ];
    for line in lines {
        ask(line, text).await.unwrap();
    }
    let table = ask("users list", Format::Markdown).await.unwrap();
    assert!(table.contains("| @bob:localhost |"), "{table}");
    assert!(ask("server log warn", text).await.unwrap_err().contains("does not keep its log"), "in a test");
    let directory = server.stop().await;
    let refused = ask("server status", text).await.unwrap_err();
    assert!(refused.contains("Is it running"), "{refused}");
    drop(directory);
}
