//! Notifications to push gateways, with a gateway that takes only what the specification allows.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use conduit::{
    config::IpRange,
    store::{
        Direction,
        trees::{PUSHER_STATES, PUSHES},
    },
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};

use crate::common::{Client, TestServer, encode, net::TestNet};

/// A push gateway.
#[derive(Clone)]
struct Gateway {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// What it answers instead, if anything.
    fault: Mutex<Option<StatusCode>>,
    rejected: Mutex<Vec<String>>,
    refused: Mutex<usize>,
    heard: Mutex<Vec<Value>>,
    more: Notify,
}

impl Gateway {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = gateway.state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.clone();
                let service = service_fn(move |request| take(state.clone(), request));
                tokio::spawn(async move {
                    auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        gateway
    }

    fn fail(&self, with: Option<StatusCode>) {
        *self.state.fault.lock() = with;
    }

    fn heard(&self) -> Vec<Value> {
        self.state.heard.lock().clone()
    }

    /// Waits until so many notifications have come; gives them.
    async fn until(&self, count: usize) -> Vec<Value> {
        self.wait(|gateway| Some(gateway.heard()).filter(|heard| heard.len() >= count)).await
    }

    async fn until_refused(&self) {
        let before = *self.state.refused.lock();
        self.wait(|gateway| (*gateway.state.refused.lock() > before).then_some(())).await;
    }

    async fn wait<T>(&self, done: impl Fn(&Self) -> Option<T>) -> T {
        let wait = async {
            loop {
                let more = self.state.more.notified();
                if let Some(found) = done(self) {
                    return found;
                }
                more.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it does not come")
    }

    /// Sets a pusher of `client` with this gateway.
    async fn set_pusher(&self, client: &Client, pushkey: &str, more: Value) {
        let mut data = json!({ "url": format!("http://{}/_matrix/push/v1/notify", self.address) });
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pusher = json!({
            "app_id": "org.example.app", "pushkey": pushkey, "kind": "http", "app_display_name": "App",
            "device_display_name": "Phone", "lang": "en", "data": data,
        });
        client.ok(Method::POST, "/_matrix/client/v3/pushers/set", pusher).await;
    }
}

/// What a gateway may be sent; panics show up as answers that fail.
fn check(body: &Value) {
    let notification = &body["notification"];
    for key in notification.as_object().unwrap().keys() {
        let known = [
            "content",
            "counts",
            "devices",
            "event_id",
            "prio",
            "room_alias",
            "room_id",
            "room_name",
            "sender",
            "sender_display_name",
            "type",
            "user_is_target",
        ];
        assert!(known.contains(&key.as_str()), "{key}");
    }
    assert!(notification["event_id"].is_string() == notification["room_id"].is_string());
    assert!(matches!(notification["prio"].as_str(), None | Some("high" | "low")));
    let unread = &notification["counts"]["unread"];
    assert!(unread.is_null() || unread.as_u64().unwrap() > 0, "counts whose value is zero should be omitted");
    let devices = notification["devices"].as_array().unwrap();
    assert!(!devices.is_empty());
    for device in devices {
        assert!(device["app_id"].is_string() && device["pushkey"].is_string());
        assert!(device["pushkey_ts"].as_u64().unwrap() < 10_000_000_000, "in seconds");
        assert!(device["data"]["url"].is_null(), "the data of the pusher without its url");
    }
}

async fn take(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let right = request.uri().path() == "/_matrix/push/v1/notify"
        && request.method() == Method::POST
        && request.headers()["content-type"] == "application/json";
    let body: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes()).unwrap();
    let answer = |status, body: Value| {
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = status;
        Ok(response)
    };
    assert!(right);
    check(&body);
    let fault = *state.fault.lock();
    let taken = match fault {
        Some(status) => {
            *state.refused.lock() += 1;
            answer(status, json!({}))
        }
        None => {
            state.heard.lock().push(body["notification"].clone());
            answer(StatusCode::OK, json!({ "rejected": *state.rejected.lock() }))
        }
    };
    state.more.notify_waiters();
    taken
}

async fn server() -> TestServer {
    TestServer::start_with(|config| config.ip_range_denylist = Vec::new()).await
}

/// Alice and Bob in a room of Alice's.
async fn two(server: &TestServer) -> (Client, Client, String) {
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Kitchen" })).await;
    bob.join(&room).await;
    (alice, bob, room)
}

async fn read(client: &Client, room: &str, event: &str) {
    let path = format!("/_matrix/client/v3/rooms/{}/receipt/m.read/{}", encode(room), encode(event));
    client.ok(Method::POST, &path, json!({})).await;
}

fn waiting(server: &TestServer) -> usize {
    PUSHES.scan(&server.handle.server().store.read(), (), Direction::Forward).count()
}

#[tokio::test]
async fn a_message_is_pushed_with_what_the_gateway_may_know() {
    let (server, gateway) = (server().await, Gateway::start().await);
    let (alice, bob, room) = two(&server).await;
    gateway.set_pusher(&bob, "key", json!({ "default_payload": { "a": 1 } })).await;
    let event = alice.send_text(&room, "hello bob").await;
    let heard = gateway.until(1).await;
    let told = &heard[0];
    assert_eq!((&told["event_id"], &told["room_id"]), (&json!(event), &json!(room)));
    assert_eq!((&told["type"], &told["sender"]), (&json!("m.room.message"), &json!(alice.user_id)));
    assert_eq!((&told["sender_display_name"], &told["room_name"]), (&json!("alice"), &json!("Kitchen")));
    assert_eq!(told["content"]["body"], "hello bob");
    assert_eq!(told["counts"], json!({ "unread": 1 }));
    let device = &told["devices"][0];
    assert_eq!((&device["app_id"], &device["pushkey"]), (&json!("org.example.app"), &json!("key")));
    assert_eq!(device["data"], json!({ "default_payload": { "a": 1 } }));
    // A mention sounds; what Bob says himself is not pushed to him.
    bob.send_text(&room, "hello alice").await;
    let content = json!({ "msgtype": "m.text", "body": "you", "m.mentions": { "user_ids": [bob.user_id] } });
    let mention = alice.send(&room, "m.room.message", content).await;
    let heard = gateway.wait(|gateway| gateway.heard().into_iter().find(|told| told["event_id"] == mention)).await;
    assert_eq!(heard["devices"][0]["tweaks"]["highlight"], true);
    assert!(heard["prio"].is_null() || heard["prio"] == "high");
    assert!(gateway.heard().iter().all(|told| told["sender"] != bob.user_id));
    server.stop().await;
}

#[tokio::test]
async fn the_id_alone_if_the_client_wants_so() {
    let (server, gateway) = (server().await, Gateway::start().await);
    let (alice, bob, room) = two(&server).await;
    gateway.set_pusher(&bob, "key", json!({ "format": "event_id_only" })).await;
    let event = alice.send_text(&room, "secret").await;
    let told = gateway.until(1).await.remove(0);
    assert_eq!((&told["event_id"], &told["room_id"]), (&json!(event), &json!(room)));
    assert_eq!(told["counts"]["unread"], 1);
    for key in ["content", "sender", "type", "sender_display_name", "room_name", "user_is_target"] {
        assert!(told[key].is_null(), "{key}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_read_anywhere_is_taken_off_the_badge() {
    let (server, gateway) = (server().await, Gateway::start().await);
    let (alice, bob, room) = two(&server).await;
    let other = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    bob.join(&other).await;
    gateway.set_pusher(&bob, "key", json!({})).await;
    alice.send_text(&room, "one").await;
    let last = alice.send_text(&room, "two").await;
    alice.send_text(&other, "three").await;
    let counts: Vec<_> = gateway.until(3).await.iter().map(|told| told["counts"]["unread"].clone()).collect();
    assert_eq!(counts.last(), Some(&json!(3)), "over all rooms: {counts:?}");
    // On another device.
    let tablet = server.login("bob").await;
    read(&tablet, &room, &last).await;
    let badge = gateway.until(4).await.remove(3);
    assert!(badge["event_id"].is_null());
    assert_eq!((&badge["counts"]["unread"], &badge["prio"]), (&json!(1), &json!("low")));
    tablet.send_text(&other, "answered").await;
    let badge = gateway.until(5).await.remove(4);
    assert!(badge["event_id"].is_null() && badge["counts"]["unread"].is_null(), "nothing is unread: {badge}");
    server.stop().await;
}

/// An app sets its pusher whenever it starts.
#[tokio::test]
async fn a_pusher_that_is_set_again_loses_nothing() {
    let gateway = Gateway::start().await;
    let server = server().await;
    let (alice, bob, room) = two(&server).await;
    gateway.set_pusher(&bob, "phone", json!({})).await;
    gateway.fail(Some(StatusCode::BAD_GATEWAY));
    let event = alice.send_text(&room, "one").await;
    gateway.until_refused().await;
    gateway.set_pusher(&bob, "phone", json!({})).await;
    assert_eq!(waiting(&server), 1);
    gateway.fail(None);
    assert_eq!(gateway.until(1).await[0]["event_id"], event.as_str());
    gateway.set_pusher(&bob, "phone", json!({})).await;
    read(&bob, &room, &event).await;
    assert_eq!(gateway.until(2).await[1]["counts"]["unread"], Value::Null, "the badge is taken off");
}

#[tokio::test]
async fn notifications_are_kept_until_the_gateway_takes_them() {
    let (server, gateway) = (server().await, Gateway::start().await);
    let (alice, bob, room) = two(&server).await;
    gateway.set_pusher(&bob, "key", json!({})).await;
    gateway.fail(Some(StatusCode::BAD_GATEWAY));
    let first = alice.send_text(&room, "one").await;
    gateway.until_refused().await;
    let second = alice.send_text(&room, "two").await;
    // Over a restart, too.
    let directory = server.stop().await;
    gateway.fail(None);
    let server = TestServer::start_in(directory, |config| config.ip_range_denylist = Vec::new()).await;
    let heard = gateway.until(2).await;
    let events: Vec<_> = heard.iter().map(|told| told["event_id"].as_str().unwrap()).collect();
    assert_eq!(events, [first.as_str(), second.as_str()]);
    // What was read while the gateway was down is not told, but the badge is right in the end.
    let (alice, bob) = (alice.at(&server), bob.at(&server));
    gateway.fail(Some(StatusCode::TOO_MANY_REQUESTS));
    let third = alice.send_text(&room, "three").await;
    gateway.until_refused().await;
    read(&bob, &room, &third).await;
    gateway.fail(None);
    let badge = gateway.until(3).await.remove(2);
    assert!(badge["event_id"].is_null() && badge["counts"]["unread"].is_null(), "{badge}");
    while waiting(&server) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_rejected_pusher_goes_and_one_goes_with_its_device() {
    let (server, gateway) = (server().await, Gateway::start().await);
    let (alice, bob, room) = two(&server).await;
    let tablet = server.login("bob").await;
    gateway.set_pusher(&bob, "stale", json!({})).await;
    gateway.set_pusher(&tablet, "fresh", json!({})).await;
    *gateway.state.rejected.lock() = vec!["stale".to_owned()];
    alice.send_text(&room, "one").await;
    gateway.until(2).await;
    loop {
        let pushers = tablet.ok(Method::GET, "/_matrix/client/v3/pushers", Value::Null).await;
        let keys: Vec<_> = pushers["pushers"].as_array().unwrap().iter().map(|pusher| &pusher["pushkey"]).collect();
        if keys == ["fresh"] {
            break;
        }
    }
    gateway.fail(Some(StatusCode::BAD_GATEWAY));
    alice.send_text(&room, "two").await;
    gateway.until_refused().await;
    assert_eq!(waiting(&server), 1);
    tablet.ok(Method::POST, "/_matrix/client/v3/logout", json!({})).await;
    assert_eq!(waiting(&server), 0);
    assert_eq!(PUSHER_STATES.scan(&server.handle.server().store.read(), (), Direction::Forward).count(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_pusher_is_switched_off_and_on_from_another_device() {
    let (server, gateway) = (server().await, Gateway::start().await);
    let (alice, bob, room) = two(&server).await;
    for key in ["key", "other"] {
        gateway.set_pusher(&bob, key, json!({})).await;
    }
    let laptop = server.login("bob").await;
    let pushers = || async {
        let answer = laptop.ok(Method::GET, "/_matrix/client/v3/pushers", Value::Null).await;
        answer["pushers"].as_array().unwrap().iter().find(|pusher| pusher["pushkey"] == "key").unwrap().clone()
    };
    let switch = |mut pusher: Value, on: bool| {
        pusher["org.matrix.msc3881.enabled"] = on.into();
        let laptop = laptop.clone();
        async move { laptop.ok(Method::POST, "/_matrix/client/v3/pushers/set", pusher).await }
    };
    let state =
        |pusher: &Value| (pusher["org.matrix.msc3881.enabled"].clone(), pusher["org.matrix.msc3881.device_id"].clone());
    assert_eq!(state(&pushers().await), (json!(true), json!(bob.device_id)));
    switch(pushers().await, false).await;
    assert_eq!(state(&pushers().await), (json!(false), json!(bob.device_id)));
    let told = |event: String, key: &'static str| {
        move |gateway: &Gateway| {
            gateway.heard().into_iter().find(|told| told["event_id"] == event && told["devices"][0]["pushkey"] == key)
        }
    };
    let silent = alice.send_text(&room, "one").await;
    gateway.wait(told(silent.clone(), "other")).await;
    switch(pushers().await, true).await;
    let heard = alice.send_text(&room, "two").await;
    gateway.wait(told(heard, "key")).await;
    assert!(told(silent, "key")(&gateway).is_none(), "what came while it was off");
    server.stop().await;
}

#[tokio::test]
async fn invitations_into_rooms_of_other_servers_are_pushed() {
    let (net, gateway) = (TestNet::new(), Gateway::start().await);
    let (a, b) = (net.server("a").await, net.server_with("b", |config| config.ip_range_denylist = Vec::new()).await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    gateway.set_pusher(&bob, "key", json!({})).await;
    // A rule that asks for the power of who invites, which is not known here.
    let conditions = json!([{ "kind": "sender_notification_permission", "key": "room" }]);
    let rule = "/_matrix/client/v3/pushrules/global/override/powerful";
    bob.ok(Method::PUT, rule, json!({ "actions": [], "conditions": conditions })).await;
    let room = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    let told = gateway.until(1).await.remove(0);
    assert_eq!((&told["room_id"], &told["content"]["membership"]), (&json!(room), &json!("invite")));
    assert_eq!(told["user_is_target"], true);
    // Of one that Bob does not accept he is told no more.
    gateway.fail(Some(StatusCode::BAD_GATEWAY));
    let other = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    gateway.until_refused().await;
    bob.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{}/leave", encode(&other)), json!({})).await;
    gateway.fail(None);
    while waiting(&b) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(gateway.heard().iter().all(|told| told["room_id"] != json!(other)));
}

#[tokio::test]
async fn invitations_are_pushed_and_muted_rooms_are_not() {
    let (server, gateway) = (server().await, Gateway::start().await);
    let (alice, bob, room) = two(&server).await;
    gateway.set_pusher(&bob, "key", json!({})).await;
    let rule = format!("/_matrix/client/v3/pushrules/global/room/{}", encode(&room));
    bob.ok(Method::PUT, &rule, json!({ "actions": [] })).await;
    alice.send_text(&room, "nobody hears").await;
    let other = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    let told = gateway.until(1).await.remove(0);
    assert_eq!((&told["type"], &told["room_id"]), (&json!("m.room.member"), &json!(other)));
    assert_eq!(told["user_is_target"], true);
    assert_eq!(told["content"]["membership"], "invite");
    server.stop().await;
}

#[tokio::test]
async fn gateways_in_private_networks_need_to_be_allowed() {
    let server = TestServer::start().await;
    let gateway = Gateway::start().await;
    let (alice, bob, room) = two(&server).await;
    gateway.set_pusher(&bob, "key", json!({})).await;
    alice.send_text(&room, "one").await;
    while waiting(&server) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let directory = server.stop().await;
    assert!(gateway.heard().is_empty() && *gateway.state.refused.lock() == 0);
    let server = TestServer::start_in(directory, |config| config.ip_range_allowlist = IpRange::private()).await;
    gateway.until(1).await;
    server.stop().await;
}
