//! Relations: what is bundled with an event, and what a redaction takes out again.

use conduit::{
    rooms::{Draft, Event, client_event, event::Request, relations},
    store::Direction,
};
use ruma::{OwnedUserId, device_id, owned_device_id};
use serde_json::{Value, json};

use super::{World, member, message, text, user, world};

fn related(body: &str, kind: &str, to: &Event) -> Draft {
    message(json!({
        "msgtype": "m.text", "body": body, "m.new_content": {"msgtype": "m.text", "body": body},
        "m.relates_to": {"rel_type": kind, "event_id": to.pdu.event_id},
    }))
}

fn shown(world: &World, event: &Event, viewer: &OwnedUserId) -> Value {
    let read = world.rooms.store.read();
    let event = world.event(event);
    let raw = client_event::timeline(&read, &event, Some((viewer, device_id!("D")))).unwrap();
    serde_json::from_str(raw.json().get()).unwrap()
}

#[tokio::test]
async fn edits_threads_and_references_are_bundled() {
    let world = world();
    let room = world.room(12);
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    for other in [&bob, &carol] {
        world.send(&room, other, member("join", other)).await.unwrap();
    }
    let root = world.send(&room, &alice, text("root")).await.unwrap();
    assert!(shown(&world, &root, &alice)["unsigned"].get("m.relations").is_none());

    world.send(&room, &bob, related("not yours", "m.replace", &root)).await.unwrap();
    assert!(shown(&world, &root, &alice)["unsigned"].get("m.relations").is_none());
    let first = world.send(&room, &alice, related("edit 1", "m.replace", &root)).await.unwrap();
    let second = world.send(&room, &alice, related("edit 2", "m.replace", &root)).await.unwrap();
    let edit = |world: &World| shown(world, &root, &alice)["unsigned"]["m.relations"]["m.replace"].clone();
    let newest =
        [&first, &second].into_iter().max_by_key(|edit| (edit.pdu.origin_server_ts, &edit.pdu.event_id)).unwrap();
    assert_eq!(edit(&world)["event_id"], newest.pdu.event_id.as_str());
    assert_eq!(shown(&world, &root, &alice)["content"]["body"], "root");

    let reply = world.send(&room, &bob, related("in thread", "m.thread", &root)).await.unwrap();
    let latest = world.send(&room, &bob, related("more", "m.thread", &root)).await.unwrap();
    let thread = |world: &World, viewer| shown(world, &root, viewer)["unsigned"]["m.relations"]["m.thread"].clone();
    assert_eq!(thread(&world, &bob)["count"], 2);
    assert_eq!(thread(&world, &bob)["latest_event"]["event_id"], latest.pdu.event_id.as_str());
    for (viewer, participated) in [(&alice, true), (&bob, true), (&carol, false)] {
        assert_eq!(thread(&world, viewer)["current_user_participated"], participated);
    }
    let reference = world.send(&room, &carol, related("see", "m.reference", &root)).await.unwrap();
    let references = shown(&world, &root, &alice)["unsigned"]["m.relations"]["m.reference"].clone();
    assert_eq!(references, json!({"chunk": [{"event_id": reference.pdu.event_id}]}));
    let read = world.rooms.store.read();
    assert_eq!(relations::of(&read, root.no, Direction::Forward).count(), 6);
    let threads: Vec<_> = relations::threads(&read, world.no(&room), i64::MAX).map(Result::unwrap).collect();
    assert_eq!(threads, [(latest.order, root.no)]);
    drop(read);

    // A redacted child is none any more.
    for child in [&latest, &second] {
        let redaction = Draft::redaction(child.pdu.event_id.clone(), None).unwrap();
        world.send(&room, &alice, redaction).await.unwrap();
    }
    assert_eq!(thread(&world, &bob)["count"], 1);
    assert_eq!(thread(&world, &bob)["latest_event"]["event_id"], reply.pdu.event_id.as_str());
    assert_eq!(edit(&world)["event_id"], first.pdu.event_id.as_str());
    let read = world.rooms.store.read();
    let threads: Vec<_> = relations::threads(&read, world.no(&room), i64::MAX).map(Result::unwrap).collect();
    assert_eq!(threads, [(reply.order, root.no)]);
    drop(read);

    // A redacted parent shows its thread, and no edit.
    world.send(&room, &alice, Draft::redaction(root.pdu.event_id.clone(), Some("why")).unwrap()).await.unwrap();
    let parent = shown(&world, &root, &alice);
    assert_eq!(parent["content"], json!({}));
    assert!(parent["unsigned"]["m.relations"].get("m.replace").is_none());
    assert_eq!(parent["unsigned"]["m.relations"]["m.thread"]["count"], 1);
    assert_eq!(parent["unsigned"]["redacted_because"]["content"]["reason"], "why");
}

/// The transaction ID is for the device that sent it; a state event tells what it replaced.
#[tokio::test]
async fn unsigned_is_for_the_viewer() {
    let world = world();
    let room = world.room(12);
    let (alice, bob) = (user("alice"), user("bob"));
    let mut draft = text("hi");
    draft.request = Some(Request::Transaction(owned_device_id!("D"), "txn".into()));
    let sent = world.send(&room, &alice, draft).await.unwrap();
    assert_eq!(shown(&world, &sent, &alice)["unsigned"]["transaction_id"], "txn");
    assert!(shown(&world, &sent, &bob)["unsigned"].get("transaction_id").is_none());
    assert_eq!(shown(&world, &sent, &alice)["unsigned"]["membership"], "join");
    assert_eq!(shown(&world, &sent, &bob)["unsigned"]["membership"], "leave");

    let invited = world.send(&room, &alice, member("invite", &bob)).await.unwrap();
    let joined = world.send(&room, &bob, member("join", &bob)).await.unwrap();
    let joined = shown(&world, &joined, &bob);
    assert_eq!(joined["unsigned"]["prev_content"], json!({"membership": "invite"}));
    assert_eq!(joined["unsigned"]["replaces_state"], invited.pdu.event_id.as_str());
    assert_eq!(joined["unsigned"]["membership"], "join");
}

/// What is said in one room about an event of another shows up nowhere.
#[tokio::test]
async fn relations_stay_in_their_room() {
    let world = world();
    let (room, other) = (world.room(12), world.room(12));
    let alice = user("alice");
    let root = world.send(&room, &alice, text("root")).await.unwrap();
    world.send(&other, &alice, related("elsewhere", "m.thread", &root)).await.unwrap();
    assert!(shown(&world, &root, &alice)["unsigned"].get("m.relations").is_none());
    assert_eq!(relations::of(&world.rooms.store.read(), root.no, Direction::Forward).count(), 0);
}

#[tokio::test]
async fn who_wrote_in_a_thread_did_until_all_of_it_is_redacted() {
    let world = world();
    let (room, other) = (world.room(12), world.room(12));
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    for user in [&bob, &carol] {
        world.send(&room, user, member("join", user)).await.unwrap();
    }
    let root = world.send(&room, &alice, text("root")).await.unwrap();
    let first = world.send(&room, &bob, related("one", "m.thread", &root)).await.unwrap();
    world.send(&room, &carol, related("two", "m.thread", &root)).await.unwrap();
    let last = world.send(&room, &bob, related("three", "m.thread", &root)).await.unwrap();
    let elsewhere = world.send(&other, &alice, related("four", "m.thread", &root)).await.unwrap();
    let redact = async |room, event: &Event| {
        world.send(room, &alice, Draft::redaction(event.pdu.event_id.clone(), None).unwrap()).await.unwrap()
    };
    let thread = |viewer| {
        let thread = shown(&world, &root, viewer)["unsigned"]["m.relations"]["m.thread"].clone();
        (thread["count"].clone(), thread["current_user_participated"].clone())
    };
    assert_eq!(thread(&bob), (json!(3), json!(true)));
    redact(&other, &elsewhere).await;
    assert_eq!(thread(&bob), (json!(3), json!(true)), "it never counted");
    redact(&room, &last).await;
    assert_eq!(thread(&bob), (json!(2), json!(true)));
    redact(&room, &first).await;
    assert_eq!(thread(&bob), (json!(1), json!(false)));
    assert_eq!(thread(&carol), (json!(1), json!(true)));
}
