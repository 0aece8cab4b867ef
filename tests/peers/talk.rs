//! What users say and see, as requests of the client API that both servers answer.

use std::{collections::BTreeMap, fmt::Debug, future::Future, time::Duration};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Client, encode};

/// How long [`until`] waits; only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `probe` finds what it looks for.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let found = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Waits until `probe` gives `wanted`.
pub async fn until_equal<T: PartialEq + Debug, F: Future<Output = T>>(
    what: &str,
    wanted: T,
    mut probe: impl FnMut() -> F,
) {
    let mut last = None;
    let equal = async {
        loop {
            let value = probe().await;
            if value == wanted {
                return;
            }
            last = Some(value);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, equal).await.is_err() {
        panic!("{what}: wanted {wanted:?}, last {last:?}");
    }
}

/// The path of something in a room.
pub fn in_room(room: &str, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{rest}", encode(room))
}

/// Asks to join a room, by its ID or an alias, through the server `via`.
pub async fn ask_to_join(user: &Client, room: &str, via: &str) -> (StatusCode, Value) {
    let via = encode(via);
    let path = format!("/_matrix/client/v3/join/{}?server_name={via}&via={via}", encode(room));
    user.post(&path, json!({})).await
}

/// Joins a room, and waits until `host`, who is in it, sees that.
pub async fn join(user: &Client, host: &Client, room: &str) {
    let via = server_of(host);
    let (status, answer) = ask_to_join(user, room, via).await;
    assert_eq!(status, StatusCode::OK, "{} joins {room}: {answer}", user.user_id);
    membership_is(host, room, user, "join").await;
}

/// The server of a user.
pub fn server_of(user: &Client) -> &str {
    user.user_id.split_once(':').expect("a user ID").1
}

/// Does something to a user of a room: `invite`, `kick`, `ban`, `unban`.
pub async fn does(user: &Client, what: &str, room: &str, to: &Client) {
    user.ok(Method::POST, &in_room(room, what), json!({ "user_id": to.user_id })).await;
}

/// Leaves a room.
pub async fn leave(user: &Client, room: &str) {
    user.ok(Method::POST, &in_room(room, "leave"), json!({})).await;
}

/// The content of a state event, if there is one that `user` may see.
pub async fn state_event(user: &Client, room: &str, kind: &str, key: &str) -> Option<Value> {
    let (status, content) = user.get(&in_room(room, &format!("state/{kind}/{}", encode(key)))).await;
    (status == StatusCode::OK).then_some(content)
}

/// The membership of `of` in a room, as `user` sees it.
pub async fn membership(user: &Client, room: &str, of: &Client) -> Option<String> {
    let member = state_event(user, room, "m.room.member", &of.user_id).await?;
    Some(member["membership"].as_str()?.to_owned())
}

/// Waits until `user` sees that the membership of `of` is `wanted`.
pub async fn membership_is(user: &Client, room: &str, of: &Client, wanted: &str) {
    let what = format!("the membership of {} in {room} as {} sees it", of.user_id, user.user_id);
    until_equal(&what, Some(wanted.to_owned()), async || membership(user, room, of).await).await;
}

/// The events of the current state: the ID of each by its type and state key.
pub async fn state(user: &Client, room: &str) -> BTreeMap<(String, String), String> {
    let events = user.ok(Method::GET, &in_room(room, "state"), Value::Null).await;
    let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    let entry = |event| ((text(event, "type"), text(event, "state_key")), text(event, "event_id"));
    events.as_array().unwrap().iter().map(entry).collect()
}

/// Waits until two users, of different servers, see the same state of a room.
pub async fn agree(one: &Client, other: &Client, room: &str) {
    let what = format!("{} and {} see one state of {room}", one.user_id, other.user_id);
    until_equal(&what, true, async || state(one, room).await == state(other, room).await).await;
}

/// An event, once `user` sees it.
pub async fn event(user: &Client, room: &str, id: &str) -> Value {
    until(&format!("{} sees {id}", user.user_id), async || {
        let (status, event) = user.get(&in_room(room, &format!("event/{}", encode(id)))).await;
        (status == StatusCode::OK).then_some(event)
    })
    .await
}

/// One says something, the other hears it.
pub async fn tells(user: &Client, listener: &Client, room: &str, text: &str) -> String {
    let id = user.send_text(room, text).await;
    let heard = event(listener, room, &id).await;
    assert_eq!(heard["content"]["body"], text);
    id
}

/// All texts of a room that `user` can page back to, `page` events at a time, the oldest first.
pub async fn texts(user: &Client, room: &str, page: usize) -> Vec<String> {
    let mut texts = Vec::new();
    let mut from = String::new();
    loop {
        let path = in_room(room, &format!("messages?dir=b&limit={page}{from}"));
        let answer = user.ok(Method::GET, &path, Value::Null).await;
        let events = answer["chunk"].as_array().unwrap();
        texts.extend(events.iter().filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())));
        let Some(end) = answer["end"].as_str() else { break };
        from = format!("&from={}", encode(end));
    }
    texts.reverse();
    texts
}

/// Waits until `found` finds something in the answers of `/sync` that follow one another from the first on.
pub async fn synced<T>(user: &Client, what: &str, mut found: impl FnMut(&Value) -> Option<T>) -> T {
    let mut since = String::new();
    let waiting = async {
        loop {
            let answer = user.sync(&format!("timeout=1000{since}")).await;
            if let Some(found) = found(&answer) {
                return found;
            }
            since = format!("&since={}", encode(answer["next_batch"].as_str().unwrap()));
        }
    };
    let never = |_| panic!("{} never syncs {what}", user.user_id);
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(never)
}
