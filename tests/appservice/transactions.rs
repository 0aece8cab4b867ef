//! What application services are told, and when.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::fake::{AS_TOKEN, Fake, client};
use crate::common::{Client, TestServer, encode};

const REGISTER: &str = "/_matrix/client/v3/register";

/// A ghost with a login of its own.
async fn ghost(service: &Client, name: &str) -> Client {
    let body = json!({ "type": "m.login.application_service", "username": name });
    service.logged_in(&service.ok(Method::POST, REGISTER, body).await)
}

/// Waits until all that happened so far was told: sends something as the sender, and waits for that.
async fn settle(fake: &Fake, server: &TestServer) {
    let service = client(server);
    let room = service.create_room(json!({})).await;
    let event = service.send_text(&room, "settled").await;
    fake.event(&event).await;
}

fn ids(fake: &Fake, room: &str) -> Vec<String> {
    let events = fake.all("events").into_iter().filter(|event| event["room_id"] == room);
    events.map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_concerns_it_comes_in_order_and_nothing_else() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let (service, alice) = (client(&server), server.register("alice").await);
    let bob = ghost(&service, "_irc_bob").await;
    let private = alice.create_room(json!({})).await;
    alice.send_text(&private, "nobody else's business").await;

    // Being invited is of interest, and from the joining on all that happens.
    let room = alice.create_room(json!({})).await;
    let before = alice.send_text(&room, "before").await;
    let invite = format!("/_matrix/client/v3/rooms/{}/invite", encode(&room));
    alice.ok(Method::POST, &invite, json!({ "user_id": bob.user_id })).await;
    let invited = fake.entry("events", |event| event["state_key"] == bob.user_id.as_str()).await;
    assert_eq!(invited["content"]["membership"], "invite");
    bob.join(&room).await;
    fake.entry("events", |event| {
        event["state_key"] == bob.user_id.as_str() && event["content"]["membership"] == "join"
    })
    .await;
    let mut sent = Vec::new();
    for count in 0..250 {
        sent.push(alice.send_text(&room, &format!("message {count}")).await);
    }
    let last = fake.event(sent.last().unwrap()).await;
    assert_eq!(last["content"]["body"], "message 249");
    assert_eq!(last["sender"], alice.user_id.as_str());
    let got = ids(&fake, &room);
    assert_eq!(got[2..], sent, "in order, each once");
    assert!(!got.contains(&before));

    // Its leaving is told, and after that nothing more.
    let leave = format!("/_matrix/client/v3/rooms/{}/leave", encode(&room));
    bob.ok(Method::POST, &leave, json!({})).await;
    let left = |event: &Value| event["state_key"] == bob.user_id.as_str() && event["content"]["membership"] == "leave";
    fake.entry("events", left).await;
    let after = alice.send_text(&room, "after").await;
    settle(&fake, &server).await;
    assert!(!ids(&fake, &room).contains(&after));
    assert!(ids(&fake, &private).is_empty());
}

#[tokio::test]
async fn rooms_are_of_interest_for_their_names() {
    let fake = Fake::start().await;
    let server = fake.server("  rooms:\n    - exclusive: false\n      regex: '!.*'").await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let event = alice.send_text(&room, "by the room's ID").await;
    fake.event(&event).await;
    drop((server, fake));

    let fake = Fake::start().await;
    let server = fake.server("").await;
    let (service, alice) = (client(&server), server.register("alice").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let unnamed = alice.send_text(&room, "nobody's").await;
    service.join(&room).await;
    let alias = "/_matrix/client/v3/directory/room/%23irc_a:localhost";
    service.ok(Method::PUT, alias, json!({ "room_id": room })).await;
    let leave = format!("/_matrix/client/v3/rooms/{}/leave", encode(&room));
    service.ok(Method::POST, &leave, json!({})).await;
    settle(&fake, &server).await;
    let event = alice.send_text(&room, "by the room's alias").await;
    fake.event(&event).await;
    assert!(!ids(&fake, &room).contains(&unnamed));
}

#[tokio::test]
async fn what_is_not_taken_is_sent_again_as_it_was_also_after_a_restart() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let service = client(&server);
    let room = service.create_room(json!({})).await;
    settle(&fake, &server).await;

    fake.refuse(Some(StatusCode::SERVICE_UNAVAILABLE));
    let mut sent = vec![service.send_text(&room, "refused").await];
    fake.wait("refused transaction", |fake| (!fake.refused().is_empty()).then_some(())).await;
    for count in 0..150 {
        sent.push(service.send_text(&room, &format!("meanwhile {count}")).await);
    }
    let server = fake.restart(server.stop().await).await;
    fake.refuse(None);
    let service = client(&server);
    sent.push(service.send_text(&room, "after the restart").await);
    fake.event(sent.last().unwrap()).await;
    // That a transaction is the same again, the fake checks.
    let got = ids(&fake, &room);
    assert_eq!(got[got.len() - sent.len()..], sent, "each once, in order");
    let refused: Vec<u64> = fake.refused().into_iter().map(|(id, _)| id).collect();
    assert_eq!(refused.len(), 1, "one at a time: {refused:?}");
    assert!(fake.taken().iter().any(|(id, _)| *id == refused[0]), "under its ID");
}

#[tokio::test]
async fn those_of_before_version_1_are_told_in_their_way() {
    let fake = Fake::start().await;
    fake.become_legacy();
    let server = fake.server("").await;
    let service = client(&server);
    let room = service.create_room(json!({})).await;
    let event = service.send_text(&room, "hello").await;
    fake.event(&event).await;
}

#[tokio::test]
async fn typing_receipts_and_presence_come_to_who_wants_them() {
    for (line, list) in [
        ("receive_ephemeral: true", "ephemeral"),
        ("de.sorunome.msc2409.push_ephemeral: true", "de.sorunome.msc2409.ephemeral"),
    ] {
        let fake = Fake::start().await;
        let server = fake.server(line).await;
        let (service, alice) = (client(&server), server.register("alice").await);
        let bob = ghost(&service, "_irc_bob").await;
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        let elsewhere = alice.create_room(json!({})).await;
        bob.join(&room).await;
        let event = bob.send_text(&room, "read me").await;
        let other = alice.send_text(&elsewhere, "not this").await;

        for room in [&elsewhere, &room] {
            let typing = format!("/_matrix/client/v3/rooms/{}/typing/{}", encode(room), encode(&alice.user_id));
            alice.ok(Method::PUT, &typing, json!({ "typing": true, "timeout": 30000 })).await;
        }
        let typing = fake.entry(list, |edu| edu["type"] == "m.typing").await;
        assert_eq!(typing["content"], json!({ "user_ids": [alice.user_id] }));
        assert_eq!(typing["room_id"], room.as_str());

        let receipt = |room: &str, kind: &str, event: &str| {
            format!("/_matrix/client/v3/rooms/{}/receipt/{kind}/{}", encode(room), encode(event))
        };
        alice.ok(Method::POST, &receipt(&elsewhere, "m.read", &other), json!({})).await;
        alice.ok(Method::POST, &receipt(&room, "m.read.private", &event), json!({})).await;
        bob.ok(Method::POST, &receipt(&room, "m.read.private", &event), json!({})).await;
        alice.ok(Method::POST, &receipt(&room, "m.read", &event), json!({})).await;
        let kinds = |kind: &'static str, user: &str| {
            let user = user.to_owned();
            move |edu: &Value| edu["content"].as_object().unwrap().values().any(|kinds| !kinds[kind][&user].is_null())
        };
        let read = fake.entry(list, kinds("m.read", &alice.user_id)).await;
        assert_eq!(read["room_id"], room.as_str());
        fake.entry(list, kinds("m.read.private", &bob.user_id)).await;

        let presence = format!("/_matrix/client/v3/presence/{}/status", encode(&alice.user_id));
        alice.ok(Method::PUT, &presence, json!({ "presence": "online", "status_msg": "here" })).await;
        let told = fake.entry(list, |edu| edu["type"] == "m.presence").await;
        assert_eq!((&told["sender"], &told["content"]["status_msg"]), (&json!(alice.user_id), &json!("here")));

        settle(&fake, &server).await;
        let all = fake.all(list);
        assert!(!all.iter().any(kinds("m.read.private", &alice.user_id)), "private is private");
        assert!(!all.iter().any(|edu| edu["room_id"] == elsewhere.as_str()), "what does not concern it is not told");
    }
}

#[tokio::test]
async fn ephemeral_events_are_not_for_who_does_not_ask() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let (service, alice) = (client(&server), server.register("alice").await);
    let room = service.create_room(json!({ "preset": "public_chat" })).await;
    alice.join(&room).await;
    let typing = format!("/_matrix/client/v3/rooms/{}/typing/{}", encode(&room), encode(&alice.user_id));
    alice.ok(Method::PUT, &typing, json!({ "typing": true, "timeout": 30000 })).await;
    settle(&fake, &server).await;
    assert!(fake.taken().iter().all(|(_, body)| body.as_object().unwrap().keys().eq(["events"])));
}

#[tokio::test]
async fn encryption_needs_no_sync() {
    let fake = Fake::start().await;
    let server = fake.server("receive_ephemeral: true\norg.matrix.msc3202: true").await;
    let (service, alice) = (client(&server), server.register("alice").await);
    let device = "/_matrix/client/v3/devices/BRIDGE";
    assert_eq!(service.put(device, json!({})).await.0, StatusCode::CREATED);
    let keys = json!({
        "one_time_keys": { "signed_curve25519:A": { "key": "a" }, "signed_curve25519:B": { "key": "b" } },
        "fallback_keys": { "signed_curve25519:F": { "key": "f", "fallback": true } },
    });
    service.ok(Method::POST, "/_matrix/client/v3/keys/upload?device_id=BRIDGE", keys).await;
    let counts = |fake: &Fake, wanted: u64| {
        let found = fake.taken().into_iter().rev().find_map(|(_, body)| {
            let of_device = |list: &str| body[list]["@ircbot:localhost"]["BRIDGE"].clone();
            let counts = of_device("org.matrix.msc3202.device_one_time_keys_count");
            let fallback = of_device("org.matrix.msc3202.device_unused_fallback_key_types");
            (!counts.is_null()).then_some((counts, fallback))
        });
        found.filter(|(counts, _)| counts["signed_curve25519"] == wanted)
    };
    let (_, fallback) = fake.wait("counts", |fake| counts(fake, 2)).await;
    assert_eq!(fallback, json!(["signed_curve25519"]));
    let claim = json!({ "one_time_keys": { "@ircbot:localhost": { "BRIDGE": "signed_curve25519" } } });
    for left in [1, 0, 0] {
        alice.ok(Method::POST, "/_matrix/client/v3/keys/claim", claim.clone()).await;
        fake.wait("counts", |fake| counts(fake, left)).await;
    }
    let unused = fake.wait("fallback", |fake| counts(fake, 0).filter(|(_, fallback)| *fallback == json!([]))).await;
    assert_eq!(unused.1, json!([]));

    // Messages come while they are not taken, once and in order, and are gone then.
    fake.refuse(Some(StatusCode::BAD_GATEWAY));
    for count in 0..150 {
        let path = format!("/_matrix/client/v3/sendToDevice/m.test/{count}");
        let messages = json!({ "messages": { "@ircbot:localhost": { "BRIDGE": { "count": count } } } });
        alice.ok(Method::PUT, &path, messages).await;
    }
    let server = fake.restart(server.stop().await).await;
    fake.refuse(None);
    let list = "de.sorunome.msc2409.to_device";
    let last = fake.entry(list, |message| message["content"]["count"] == 149).await;
    assert_eq!(
        last,
        json!({
            "type": "m.test", "sender": alice.user_id, "content": { "count": 149 },
            "to_user_id": "@ircbot:localhost", "to_device_id": "BRIDGE",
        })
    );
    let counts: Vec<_> = fake.all(list).iter().map(|message| message["content"]["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, (0..150).collect::<Vec<_>>());
    settle(&fake, &server).await;
    let synced = client(&server).sync("device_id=BRIDGE").await;
    assert!(synced["to_device"]["events"].as_array().is_none_or(Vec::is_empty), "{synced}");
}

/// A bridge whose devices synced goes over to transactions, with one under way.
#[tokio::test]
async fn messages_that_waited_for_a_sync_are_told_before_they_go() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let (service, alice) = (client(&server), server.register("alice").await);
    assert_eq!(service.put("/_matrix/client/v3/devices/BRIDGE", json!({})).await.0, StatusCode::CREATED);
    let send = async |server: &TestServer, count: u64| {
        let alice = alice.at(server);
        let path = format!("/_matrix/client/v3/sendToDevice/m.test/{count}");
        let messages = json!({ "messages": { "@ircbot:localhost": { "BRIDGE": { "count": count } } } });
        alice.ok(Method::PUT, &path, messages).await;
    };
    // More than one transaction holds.
    for count in 0..150 {
        send(&server, count).await;
    }
    settle(&fake, &server).await;
    let told = fake.all("events").len();
    fake.refuse(Some(StatusCode::BAD_GATEWAY));
    service.create_room(json!({})).await;
    fake.wait("a refusal", |fake| (!fake.refused().is_empty()).then_some(())).await;
    send(&server, 150).await;
    let directory = server.stop().await;
    std::fs::write(directory.path().join("irc.yaml"), fake.registration("org.matrix.msc3202: true")).unwrap();
    let server = fake.restart(directory).await;
    fake.refuse(None);
    send(&server, 151).await;
    let list = "de.sorunome.msc2409.to_device";
    fake.entry(list, |message| message["content"]["count"] == 151).await;
    let counts: Vec<_> = fake.all(list).iter().map(|message| message["content"]["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, (0..152).collect::<Vec<_>>());
    settle(&fake, &server).await;
    let ids: Vec<_> = fake.all("events").into_iter().map(|event| event["event_id"].clone()).collect();
    let distinct: std::collections::BTreeSet<_> = ids.iter().map(Value::to_string).collect();
    assert!(ids.len() == distinct.len() && ids.len() > told, "nothing is told twice");
}

/// What is said after its last user left is not for a bridge that was away meanwhile.
#[tokio::test]
async fn what_follows_its_leaving_is_not_told_late() {
    let fake = Fake::start().await;
    let server = fake.server("").await;
    let (service, alice) = (client(&server), server.register("alice").await);
    let bob = ghost(&service, "_irc_bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    settle(&fake, &server).await;
    fake.refuse(Some(StatusCode::BAD_GATEWAY));
    service.create_room(json!({})).await;
    fake.wait("a refusal", |fake| (!fake.refused().is_empty()).then_some(())).await;
    let before = alice.send_text(&room, "before").await;
    let kick = format!("/_matrix/client/v3/rooms/{}/kick", encode(&room));
    alice.ok(Method::POST, &kick, json!({ "user_id": bob.user_id })).await;
    let after = alice.send_text(&room, "after").await;
    fake.refuse(None);
    settle(&fake, &server).await;
    let told = ids(&fake, &room);
    assert!(told.contains(&before) && !told.contains(&after), "{told:?}");
}

#[tokio::test]
async fn device_lists_are_told_of_those_in_its_rooms() {
    let fake = Fake::start().await;
    let server = fake.server("org.matrix.msc3202: true").await;
    let service = client(&server);
    let (alice, carol) = (server.register("alice").await, server.register("carol").await);
    let room = service.create_room(json!({ "preset": "public_chat" })).await;
    let list = |fake: &Fake, list: &str, user: &str| {
        let told = |body: &Value| body["org.matrix.msc3202.device_lists"][list].as_array().cloned().unwrap_or_default();
        fake.taken().iter().filter(|(_, body)| told(body).contains(&json!(user))).count()
    };
    alice.join(&room).await;
    fake.wait("change", |fake| (list(fake, "changed", &alice.user_id) == 1).then_some(())).await;
    for client in [&carol, &alice] {
        let keys = json!({
            "user_id": client.user_id, "device_id": client.device_id, "algorithms": [], "keys": {}, "signatures": {},
        });
        client.ok(Method::POST, "/_matrix/client/v3/keys/upload", json!({ "device_keys": keys })).await;
    }
    fake.wait("change", |fake| (list(fake, "changed", &alice.user_id) == 2).then_some(())).await;
    let leave = format!("/_matrix/client/v3/rooms/{}/leave", encode(&room));
    alice.ok(Method::POST, &leave, json!({})).await;
    fake.wait("leaving", |fake| (list(fake, "left", &alice.user_id) == 1).then_some(())).await;
    assert_eq!(list(&fake, "changed", &carol.user_id), 0, "she is in no room of its");
}

#[tokio::test]
async fn devices_that_sync_keep_their_messages() {
    let fake = Fake::start().await;
    let server = fake.server("receive_ephemeral: true").await;
    let (service, alice) = (client(&server), server.register("alice").await);
    let bob = ghost(&service, "_irc_bob").await;
    assert_ne!(bob.token, AS_TOKEN);
    let messages = json!({ "messages": { &bob.user_id: { &bob.device_id: { "text": "hello" } } } });
    alice.ok(Method::PUT, "/_matrix/client/v3/sendToDevice/m.test/1", messages).await;
    fake.entry("de.sorunome.msc2409.to_device", |message| message["type"] == "m.test").await;
    settle(&fake, &server).await;
    assert_eq!(bob.sync("").await["to_device"]["events"][0]["content"]["text"], "hello");
}
