//! Threads that users follow (MSC4306), and what changed about them (MSC4308).

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode};

const CHANGES: &str = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=b";

fn path(room: &str, root: &str) -> String {
    let (room, root) = (encode(room), encode(root));
    format!("/_matrix/client/unstable/io.element.msc4306/rooms/{room}/thread/{root}/subscription")
}

async fn reply(client: &Client, room: &str, root: &str, text: &str) -> String {
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    client.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": text, "m.relates_to": relation })).await
}

#[tokio::test]
async fn threads_are_followed_and_no_longer_followed() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({})).await;
    let root = alice.send_text(&room, "root").await;
    let path = path(&room, &root);
    let of = |answer: (StatusCode, Value)| (answer.0.as_u16(), answer.1["automatic"].as_bool());
    assert_eq!(of(alice.get(&path).await), (404, None));
    assert_eq!(alice.delete(&path).await.0, StatusCode::OK, "of what is not followed");
    alice.ok(Method::PUT, &path, json!({})).await;
    assert_eq!(of(alice.get(&path).await), (200, Some(false)));
    alice.ok(Method::DELETE, &path, json!({})).await;
    assert_eq!(of(alice.get(&path).await), (404, None));
    for (client, root) in [(&bob, root.as_str()), (&alice, "$nothing")] {
        let path = self::path(&room, root);
        assert_eq!(client.put(&path, json!({})).await.0, StatusCode::NOT_FOUND);
        assert_eq!(client.get(&path).await.0, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_client_follows_by_itself_unless_the_user_said_no_since() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let root = alice.send_text(&room, "root").await;
    let path = path(&room, &root);
    let automatic = |cause: &str| {
        let (alice, path, body) = (alice.clone(), path.clone(), json!({ "automatic": cause }));
        async move { alice.put(&path, body).await }
    };
    let is_automatic = || async { alice.get(&path).await.1["automatic"].as_bool() };
    let first = reply(&alice, &room, &root, "1").await;
    let other = alice.send_text(&room, "other root").await;
    let elsewhere = reply(&alice, &room, &other, "elsewhere").await;
    for cause in [&root, &elsewhere] {
        let (status, answer) = automatic(cause).await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (400, &json!("IO.ELEMENT.MSC4306.M_NOT_IN_THREAD")));
    }
    assert_eq!(automatic(&first).await.0, StatusCode::OK);
    assert_eq!(is_automatic().await, Some(true));
    alice.ok(Method::PUT, &path, json!({})).await;
    assert_eq!(is_automatic().await, Some(false));
    assert_eq!(automatic(&first).await.0, StatusCode::OK);
    assert_eq!(is_automatic().await, Some(false), "what the user wants stands above what a client guesses");

    let second = reply(&alice, &room, &root, "2").await;
    alice.ok(Method::DELETE, &path, json!({})).await;
    let third = reply(&alice, &room, &root, "3").await;
    for cause in [&first, &second] {
        let (status, answer) = automatic(cause).await;
        let wanted = json!("IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION");
        assert_eq!((status.as_u16(), &answer["errcode"]), (409, &wanted));
        assert_eq!(alice.get(&path).await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(automatic(&third).await.0, StatusCode::OK);
    assert_eq!(is_automatic().await, Some(true));
}

/// A sliding sync with the extension alone; gives the new `pos` and what the extension says.
async fn slide(client: &Client, pos: Option<&str>, limit: u64) -> (String, Value) {
    let name = "io.element.msc4308.thread_subscriptions";
    let query = pos.map_or(String::new(), |pos| format!("?timeout=20000&pos={pos}"));
    let path = format!("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync{query}");
    let answer =
        client.ok(Method::POST, &path, json!({ "extensions": { name: { "enabled": true, "limit": limit } } })).await;
    (answer["pos"].as_str().unwrap().to_owned(), answer["extensions"][name].clone())
}

#[tokio::test]
async fn sliding_sync_tells_what_changed_and_where_the_rest_is() {
    let server = TestServer::start().await;
    let (alice, phone) = (server.register("alice").await, server.login("alice").await);
    let room = alice.create_room(json!({})).await;
    let mut roots = Vec::new();
    for n in 0..3 {
        let root = alice.send_text(&room, &n.to_string()).await;
        alice.ok(Method::PUT, &path(&room, &root), json!({})).await;
        roots.push(root);
    }
    let (pos, told) = slide(&phone, None, 2).await;
    let subscribed = told["subscribed"][&room].as_object().unwrap();
    assert_eq!(subscribed.len(), 2, "{told}");
    let stamps = [&roots[1], &roots[2]].map(|root| subscribed[root]["bump_stamp"].as_u64().unwrap());
    assert!(stamps[0] < stamps[1] && subscribed[&roots[1]]["automatic"] == false);
    let from = told["prev_batch"].as_str().unwrap();
    let rest = phone.ok(Method::GET, &format!("{CHANGES}&from={from}"), Value::Null).await;
    assert_eq!(rest["subscribed"][&room].as_object().unwrap().keys().collect::<Vec<_>>(), [&roots[0]]);
    assert!(rest.get("end").is_none() && rest.get("prev_batch").is_none(), "{rest}");

    // A change wakes the other device.
    let last = path(&room, &roots[2]);
    let change = alice.ok(Method::DELETE, &last, json!({}));
    let (waiting, changed) = tokio::join!(slide(&phone, Some(&pos), 2), change);
    assert_eq!(changed, json!({}));
    let (_, told) = waiting;
    assert!(told["unsubscribed"][&room][&roots[2]]["bump_stamp"].as_u64().unwrap() > stamps[1], "{told}");
    assert_eq!(told["subscribed"], json!({}), "{told}");

    let all = phone.ok(Method::GET, &format!("{CHANGES}&limit=1"), Value::Null).await;
    assert!(all["unsubscribed"][&room][&roots[2]].is_object() && all["end"].is_string(), "{all}");
    let none = phone.ok(Method::GET, &format!("{CHANGES}&to={pos}&limit=1"), Value::Null).await;
    assert!(none["unsubscribed"][&room][&roots[2]].is_object() && none.get("end").is_none(), "{none}");
    assert_eq!(phone.get(&format!("{CHANGES}&limit=0")).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn from_the_first_one_on_only_threads_notify_that_are_followed() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    carol.join(&room).await;
    let unread = |client: &Client| {
        let (client, room) = (client.clone(), room.clone());
        async move {
            let answer = client.sync("").await;
            answer["rooms"]["join"][&room]["unread_notifications"]["notification_count"].as_u64().unwrap()
        }
    };
    let (first, second) = (alice.send_text(&room, "first").await, alice.send_text(&room, "second").await);
    for root in [&first, &second] {
        reply(&alice, &room, root, "1").await;
    }
    assert_eq!((unread(&bob).await, unread(&carol).await), (4, 4), "before, all notify");

    let rules = "/_matrix/client/v3/pushrules/global";
    let has_rules = |rules: &Value| rules["postcontent"].as_array().is_some_and(|rules| rules.len() == 2);
    assert!(!has_rules(&bob.ok(Method::GET, &format!("{rules}/"), Value::Null).await));
    bob.ok(Method::PUT, &path(&room, &first), json!({})).await;
    assert!(has_rules(&bob.ok(Method::GET, &format!("{rules}/"), Value::Null).await));
    reply(&alice, &room, &first, "2").await;
    assert_eq!((unread(&bob).await, unread(&carol).await), (5, 5));
    reply(&alice, &room, &second, "2").await;
    assert_eq!((unread(&bob).await, unread(&carol).await), (5, 6), "carol follows none, and hears of all");
    let mention = json!({
        "msgtype": "m.text", "body": "bob", "m.mentions": { "user_ids": [bob.user_id] },
        "m.relates_to": { "rel_type": "m.thread", "event_id": second },
    });
    alice.send(&room, "m.room.message", mention).await;
    assert_eq!(unread(&bob).await, 6, "a mention notifies everywhere");

    bob.ok(Method::DELETE, &path(&room, &first), json!({})).await;
    reply(&alice, &room, &first, "3").await;
    assert_eq!(unread(&bob).await, 6);
    alice.send_text(&room, "no thread").await;
    assert_eq!(unread(&bob).await, 7);
    let list = bob.ok(Method::GET, "/_matrix/client/v3/notifications?limit=1", Value::Null).await;
    assert_eq!(list["notifications"][0]["event"]["content"]["body"], "no thread");
}
