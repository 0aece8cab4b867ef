//! What clients are told of other servers' rooms and users, looked up there and remembered for a while.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{
    Client, TestServer, encode,
    net::TestNet,
    peer::{Peer, answer},
};

/// Two servers, with alice on `a.test` and bob on `b.test`.
struct Two {
    net: TestNet,
    a: TestServer,
    _b: TestServer,
    alice: Client,
    bob: Client,
}

impl Two {
    async fn new() -> Self {
        let net = TestNet::new();
        let (a, b) = (net.server("a").await, net.server("b").await);
        Self { alice: a.register("alice").await, bob: b.register("bob").await, net, a, _b: b }
    }

    /// How often `b.test` asked `a.test` for what begins with `path`.
    fn asked(&self, path: &str) -> usize {
        let path = format!(" /_matrix/federation/v1/{path}");
        self.net.wire("b", "a").passed().iter().filter(|request| request.contains(&path)).count()
    }
}

async fn get(client: &Client, path: &str) -> Value {
    client.ok(Method::GET, path, Value::Null).await
}

#[tokio::test]
async fn aliases_of_other_servers() {
    let two = Two::new().await;
    let room = two.alice.create_room(json!({ "room_alias_name": "老虎" })).await;
    let path = |alias: &str| format!("/_matrix/client/v3/directory/room/{}", encode(alias));
    let found = get(&two.bob, &path("#老虎:a.test")).await;
    assert_eq!(found, json!({ "room_id": room, "servers": ["a.test"] }));
    assert_eq!(get(&two.bob, &path("#老虎:a.test")).await, found);
    assert_eq!(two.asked("query/directory"), 1, "remembered");
    let (status, error) = two.bob.get(&path("#none:a.test")).await;
    assert_eq!((status, error["errcode"].as_str()), (StatusCode::NOT_FOUND, Some("M_NOT_FOUND")));
    two.net.cut("a", "b");
    assert_eq!(two.bob.get(&path("#other:a.test")).await.0, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(get(&two.bob, &path("#老虎:a.test")).await, found, "as remembered");
}

#[tokio::test]
async fn a_room_names_only_aliases_that_lead_to_it() {
    let two = Two::new().await;
    let room = two.alice.create_room(json!({})).await;
    let set = |alias: &str| {
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.canonical_alias", encode(&room));
        let (alice, content) = (two.alice.clone(), json!({ "alt_aliases": [alias] }));
        async move { alice.put(&path, content).await }
    };
    two.bob.create_room(json!({ "room_alias_name": "elsewhere" })).await;
    for alias in ["#elsewhere:b.test", "#none:b.test", "#any:dead.test", "#none:a.test"] {
        let (status, error) = set(alias).await;
        assert_eq!((status, error["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some("M_BAD_ALIAS")), "{alias}");
    }
    let peer = Peer::new(&two.net, "p").await;
    let answered = json!({ "room_id": room, "servers": ["p.test"] });
    peer.on("/_matrix/federation/v1/query/directory", move |_| {
        let answered = answered.clone();
        async move { answer(200, &answered) }
    });
    assert_eq!(set("#here:p.test").await.0, StatusCode::OK);
}

#[tokio::test]
async fn profiles_of_other_servers_users() {
    let two = Two::new().await;
    let set = |field: &str, value: Value| {
        let path = format!("/_matrix/client/v3/profile/{}/{field}", two.alice.user_id);
        let (alice, body) = (two.alice.clone(), json!({ field: value }));
        async move { alice.ok(Method::PUT, &path, body).await }
    };
    set("displayname", json!("Alice")).await;
    set("org.example.shoe", json!({ "size": 38 })).await;
    let path = "/_matrix/client/v3/profile/@alice:a.test";
    let profile = get(&two.bob, path).await;
    assert_eq!(profile["displayname"], "Alice");
    assert_eq!(profile["org.example.shoe"], json!({ "size": 38 }));
    assert_eq!(get(&two.bob, &format!("{path}/displayname")).await, json!({ "displayname": "Alice" }));
    assert_eq!(get(&two.bob, &format!("{path}/avatar_url")).await, json!({}));
    assert_eq!(two.asked("query/profile"), 1, "remembered");
    assert_eq!(two.bob.get("/_matrix/client/v3/profile/@nobody:a.test").await.0, StatusCode::NOT_FOUND);
    assert_eq!(two.bob.get("/_matrix/client/v3/profile/@bobby:b.test").await.0, StatusCode::NOT_FOUND);
    drop(two.a);
}

#[tokio::test]
async fn what_peers_say_in_profiles_is_not_believed_blindly() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let peer = Peer::new(&net, "p").await;
    peer.on("/_matrix/federation/v1/query/profile", |_| async {
        answer(200, &json!({ "displayname": 7, "avatar_url": "", "org.example.x": null }))
    });
    let alice = a.register("alice").await;
    assert_eq!(get(&alice, "/_matrix/client/v3/profile/@mallory:p.test").await, json!({ "org.example.x": null }));
    let filler = "x".repeat(200_000);
    peer.on("/_matrix/federation/v1/query/profile", move |_| {
        let filler = filler.clone();
        async move { answer(200, &json!({ "displayname": filler })) }
    });
    let (status, _) = alice.get("/_matrix/client/v3/profile/@large:p.test").await;
    assert!(status.is_server_error(), "{status}");
}

#[tokio::test]
async fn room_directories_of_other_servers() {
    let two = Two::new().await;
    let mut rooms = Vec::new();
    for name in ["Teahouse", "Coffeehouse"] {
        rooms.push(two.alice.create_room(json!({ "visibility": "public", "name": name })).await);
    }
    let listed = |page: &Value| -> Vec<String> {
        page["chunk"].as_array().unwrap().iter().map(|room| room["room_id"].as_str().unwrap().to_owned()).collect()
    };
    let page = get(&two.bob, "/_matrix/client/v3/publicRooms?server=a.test").await;
    assert_eq!(listed(&page), rooms);
    assert_eq!(page["total_room_count_estimate"], 2);
    let first = get(&two.bob, "/_matrix/client/v3/publicRooms?server=a.test&limit=1").await;
    let since = first["next_batch"].as_str().unwrap();
    let second = get(&two.bob, &format!("/_matrix/client/v3/publicRooms?server=a.test&limit=1&since={since}")).await;
    assert_eq!([listed(&first), listed(&second)].concat(), rooms);
    let search = json!({ "filter": { "generic_search_term": "coffee" } });
    let found = two.bob.ok(Method::POST, "/_matrix/client/v3/publicRooms?server=a.test", search).await;
    assert_eq!(listed(&found), [rooms[1].clone()]);
    let own = get(&two.bob, "/_matrix/client/v3/publicRooms").await;
    assert_eq!(own["chunk"], json!([]));
}

/// The rooms of a walk through a space, page by page.
async fn walk(client: &Client, space: &str, query: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    let mut from = String::new();
    for _ in 0..20 {
        let path = format!("/_matrix/client/v1/rooms/{}/hierarchy?{query}{from}", encode(space));
        let page = get(client, &path).await;
        rooms.extend(page["rooms"].as_array().unwrap().iter().map(|room| room["room_id"].as_str().unwrap().to_owned()));
        match page["next_batch"].as_str() {
            Some(token) => from = format!("&from={token}"),
            None => return rooms,
        }
    }
    panic!("the walk does not end: {rooms:?}");
}

#[tokio::test]
async fn spaces_across_servers() {
    let two = Two::new().await;
    let (alice, bob) = (&two.alice, &two.bob);
    let space = json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } });
    let public = |name: &str| json!({ "preset": "public_chat", "name": name });
    // The ID of a room of version 11 says where to ask for it.
    let mut versioned = space.clone();
    versioned["room_version"] = json!("11");
    let top = alice.create_room(versioned).await;
    let open = alice.create_room(public("open")).await;
    let below = alice.create_room(space.clone()).await;
    let deep = alice.create_room(public("deep")).await;
    let secret = alice.create_room(json!({ "preset": "private_chat" })).await;
    let back_home = bob.create_room(public("bob's")).await;
    let mut order = 0;
    let mut link = |parent: &str, child: &str, via: &str| {
        order += 1;
        let content = json!({ "via": [via], "order": order.to_string(), "suggested": child == open });
        let (alice, parent, child) = (alice.clone(), parent.to_owned(), child.to_owned());
        async move { drop(alice.set_state(&parent, "m.space.child", &child, content).await) }
    };
    for child in [&open, &below, &secret] {
        link(&top, child, "a.test").await;
    }
    link(&top, &back_home, "b.test").await;
    link(&below, &deep, "a.test").await;
    link(&below, &top, "a.test").await; // a circle
    link(&top, "!nowhere:dead.test", "dead.test").await;

    let expected = [&top, &open, &below, &deep, &back_home].map(Clone::clone);
    assert_eq!(walk(bob, &top, "").await, expected);
    assert_eq!(walk(bob, &top, "limit=2").await, expected);
    assert_eq!(walk(bob, &top, "max_depth=1").await, [&top, &open, &below, &back_home].map(Clone::clone));
    assert_eq!(walk(bob, &top, "suggested_only=true").await, [&top, &open].map(Clone::clone));
    assert_eq!(two.asked("hierarchy"), 3, "each space once, and once with suggested rooms only");

    let (status, error) = bob.get(&format!("/_matrix/client/v1/rooms/{}/hierarchy", encode(&secret))).await;
    assert_eq!((status, error["errcode"].as_str()), (StatusCode::FORBIDDEN, Some("M_FORBIDDEN")));
}

#[tokio::test]
async fn summaries_of_rooms_elsewhere() {
    let two = Two::new().await;
    let room =
        two.alice.create_room(json!({ "preset": "public_chat", "name": "Teahouse", "room_alias_name": "tea" })).await;
    let secret = two.alice.create_room(json!({ "preset": "private_chat" })).await;
    let path = |room: &str, via: &str| format!("/_matrix/client/v1/room_summary/{}?via={via}", encode(room));
    for named in [path("#tea:a.test", "b.test"), path(&room, "a.test")] {
        let summary = get(&two.bob, &named).await;
        assert_eq!((&summary["room_id"], &summary["name"]), (&json!(room), &json!("Teahouse")));
        assert_eq!((&summary["membership"], &summary["join_rule"]), (&json!("leave"), &json!("public")));
        assert_eq!(summary["num_joined_members"], 1);
    }
    assert_eq!(two.bob.get(&path(&secret, "a.test")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(two.bob.get(&path("!unknown:c.test", "c.test")).await.0, StatusCode::NOT_FOUND);
}

/// Jumping to a time before this server came into the room brings the event there, and what is around it.
#[tokio::test]
async fn times_before_the_server_was_there() {
    let two = Two::new().await;
    let room = two.alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "old" })).await;
    let early = two.alice.send_text(&room, "early").await;
    two.alice.send_text(&room, "later").await;
    two.bob.join("#old:a.test").await;
    let event = |id: &str| format!("/_matrix/client/v3/rooms/{}/event/{}", encode(&room), encode(id));
    let time = get(&two.alice, &event(&early)).await["origin_server_ts"].as_u64().unwrap();
    let at = format!("/_matrix/client/v1/rooms/{}/timestamp_to_event?ts={time}&dir=f", encode(&room));
    let found = get(&two.bob, &at).await;
    assert_eq!(found["origin_server_ts"].as_u64(), Some(time), "not as late as bob's joining: {found}");
    let found = found["event_id"].as_str().unwrap();
    let around = format!("/_matrix/client/v3/rooms/{}/context/{}?limit=10", encode(&room), encode(found));
    assert!(get(&two.bob, &around).await.to_string().contains("early"));
    assert_eq!(get(&two.bob, &at).await["event_id"], found);
    assert!(two.asked("timestamp_to_event") <= 1, "history is whole here now");
}
