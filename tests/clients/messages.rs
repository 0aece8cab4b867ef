//! Messages and what people do to them: edits, reactions, threads, redactions, receipts, counts, typing.

use matrix_sdk::{
    deserialized_responses::TimelineEvent,
    notification_settings::RoomNotificationMode,
    room::{IncludeRelations, ListThreadsOptions, Receipts, RelationsOptions, edit::EditedContent},
    ruma::{
        EventId, OwnedEventId, OwnedUserId, RoomId,
        api::client::receipt::create_receipt::v3::ReceiptType as Kind,
        events::{
            Mentions,
            reaction::ReactionEventContent,
            receipt::{ReceiptThread, ReceiptType},
            relation::{Annotation, RelationType},
            room::message::{RoomMessageEventContent, RoomMessageEventContentWithoutRelation},
        },
        push::RuleKind,
    },
};
use serde_json::{Value, json};

use crate::{
    common::TestServer,
    device::{Device, How, room_with, until, until_equal},
};

however_it_syncs!(typing, receipts_and_counts, notification_modes, edits_reactions_and_redactions, threads, sent_once);

async fn typing(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let id = room_with(&alice, "Talk", &[&bob]).await;
    let (room, theirs) = (alice.joined(&id).await, bob.joined(&id).await);
    let (_guard, mut typing) = room.subscribe_to_typing_notifications();
    let patience = std::time::Duration::from_secs(20);
    theirs.typing_notice(true).await.unwrap();
    assert_eq!(tokio::time::timeout(patience, typing.recv()).await.unwrap().unwrap(), [bob.me()]);
    theirs.typing_notice(false).await.unwrap();
    assert!(tokio::time::timeout(patience, typing.recv()).await.unwrap().unwrap().is_empty());
}

async fn receipts_and_counts(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let tablet = Device::login(&server, "bob", how).await;
    let id = room_with(&alice, "Counts", &[&bob]).await;
    let carol = server.register("carol").await; // three in the room: it is not one-to-one, where other rules apply
    alice.joined(&id).await.invite_user_by_id(&OwnedUserId::try_from(carol.user_id.as_str()).unwrap()).await.unwrap();
    carol.join(id.as_str()).await;
    let (room, theirs) = (alice.joined(&id).await, bob.joined(&id).await);
    let other = tablet.joined(&id).await;
    until_equal("all are in", 3, async || theirs.joined_members_count()).await;
    let start = room.send(RoomMessageEventContent::text_plain("start")).await.unwrap().response.event_id;
    bob.reads(&id, "start").await;
    theirs.send_single_receipt(Kind::Read, ReceiptThread::Unthreaded, start.clone()).await.unwrap();
    until_equal("nothing unread", (0, 0), async || counts(&theirs)).await;
    until("alice sees what bob has read", async || read_by(&room, &bob, &start).await.then_some(())).await;

    alice.say(&id, "one").await;
    alice.say(&id, "two").await;
    let mention =
        RoomMessageEventContent::text_plain("bob, look").add_mentions(Mentions::with_user_ids([bob.me().to_owned()]));
    let last = room.send(mention).await.unwrap().response.event_id;
    for (device, room) in [(&bob, &theirs), (&tablet, &other)] {
        device.reads(&id, "bob, look").await;
        until_equal("three unread, one of them for bob", (3, 1), async || counts(room)).await;
        until_equal("as the client counts", (3, 3, 1), async || {
            (room.num_unread_messages(), room.num_unread_notifications(), room.num_unread_mentions())
        })
        .await;
    }
    // A private receipt counts for bob alone; the read marker is for his devices.
    let receipts = Receipts::new().private_read_receipt(last.clone()).fully_read_marker(last.clone());
    theirs.send_multiple_receipts(receipts).await.unwrap();
    for room in [&theirs, &other] {
        until_equal("all read", (0, 0), async || counts(room)).await;
        until_equal("the marker", Some(last.clone()), async || room.fully_read_event_id()).await;
    }
    assert!(!read_by(&room, &bob, &last).await);
    theirs.send_multiple_receipts(Receipts::new().public_read_receipt(last.clone())).await.unwrap();
    until("alice sees it", async || read_by(&room, &bob, &last).await.then_some(())).await;
    // What one writes oneself is read.
    bob.say(&id, "my own").await;
    tablet.reads(&id, "my own").await;
    until_equal("one's own does not count", (0, 0), async || counts(&other)).await;
}

/// Unread messages that notify and those that highlight, as the server counts them.
fn counts(room: &matrix_sdk::Room) -> (u64, u64) {
    let counts = room.unread_notification_counts();
    (counts.notification_count, counts.highlight_count)
}

async fn read_by(room: &matrix_sdk::Room, reader: &Device, event: &EventId) -> bool {
    let receipt = room.load_user_receipt(ReceiptType::Read, ReceiptThread::Unthreaded, reader.me()).await.unwrap();
    receipt.is_some_and(|(on, _)| on == event)
}

async fn notification_modes(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let id = room_with(&alice, "Noise", &[&bob]).await;
    let theirs = bob.joined(&id).await;
    let settings = bob.notification_settings().await;

    settings.set_room_notification_mode(&id, RoomNotificationMode::Mute).await.unwrap();
    until_equal("muted", Some(RoomNotificationMode::Mute), async || theirs.user_defined_notification_mode().await)
        .await;
    alice.say(&id, "unheard").await;
    bob.reads(&id, "unheard").await;
    assert_eq!(counts(&theirs), (0, 0));
    settings.set_room_notification_mode(&id, RoomNotificationMode::MentionsAndKeywordsOnly).await.unwrap();
    settings.add_keyword("pizza".to_owned()).await.unwrap();
    until("the keyword is a rule", async || {
        let rules = bob.account().push_rules().await.unwrap();
        rules.get(RuleKind::Content, "pizza").map(|_| ())
    })
    .await;
    alice.say(&id, "unheard as well").await;
    alice.say(&id, "there is Pizza!").await;
    bob.reads(&id, "there is Pizza!").await;
    until_equal("the keyword is heard", (1, 0), async || counts(&theirs)).await;
    settings.set_room_notification_mode(&id, RoomNotificationMode::AllMessages).await.unwrap();
    alice.say(&id, "heard").await;
    until_equal("everything is heard", (2, 0), async || counts(&theirs)).await;
}

async fn edits_reactions_and_redactions(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let id = room_with(&alice, "Words", &[&bob]).await;
    let (room, theirs) = (alice.joined(&id).await, bob.joined(&id).await);

    let first = alice.say(&id, "frist").await;
    let fixed = RoomMessageEventContentWithoutRelation::text_plain("first");
    let edit = room.make_edit_event(&first, EditedContent::RoomMessage(fixed)).await.unwrap();
    let edit = room.send(edit).await.unwrap().response.event_id;
    let annotation = Annotation::new(first.clone(), "👍".to_owned());
    let reaction = theirs.send(ReactionEventContent::new(annotation.clone())).await.unwrap().response.event_id;
    assert!(theirs.send(ReactionEventContent::new(annotation)).await.is_err(), "the same reaction twice");
    for device in [&alice, &bob] {
        arrives(device, &id, &edit).await;
        arrives(device, &id, &reaction).await;
    }
    // Fetched anew, the message says what it was replaced by, and all relations can be listed.
    let fetched = bundled(&theirs.event(&first, None).await.unwrap());
    assert_eq!(fetched["m.replace"]["content"]["m.new_content"]["body"], "first");
    assert_eq!(relations(&theirs, &first, IncludeRelations::AllRelations).await, [reaction.clone(), edit.clone()]);
    let replacements = IncludeRelations::RelationsOfType(RelationType::Replacement);
    assert_eq!(relations(&theirs, &first, replacements).await, [edit]);

    theirs.redact(&reaction, None, None).await.unwrap();
    assert!(theirs.redact(&first, None, None).await.is_err(), "bob may not redact what alice wrote");
    room.redact(&first, Some("typo"), None).await.unwrap();
    for device in [&alice, &bob] {
        until("the message is gone", async || {
            let event =
                device.timeline(&id).await.into_iter().find(|event| event.event_id().as_ref() == Some(&first))?;
            let content: Value = event.raw().get_field("content").ok()??;
            content.as_object()?.is_empty().then_some(())
        })
        .await;
    }
    let redacted = theirs.event(&first, None).await.unwrap();
    let unsigned: Value = redacted.raw().get_field("unsigned").unwrap().unwrap();
    assert_eq!(unsigned["redacted_because"]["content"]["reason"], "typo");
    assert_eq!(redacted.raw().get_field::<Value>("content").unwrap(), Some(json!({})));

    let pinned = alice.say(&id, "read me").await;
    room.pin_event(&pinned).await.unwrap();
    until_equal("pinned", vec![pinned], async || theirs.load_pinned_events().await.unwrap().unwrap_or_default()).await;
}

async fn arrives(device: &Device, room: &RoomId, event: &EventId) {
    until(&format!("{} sees {event}", device.me()), async || {
        device.timeline(room).await.iter().any(|known| known.event_id().as_deref() == Some(event)).then_some(())
    })
    .await;
}

fn bundled(event: &TimelineEvent) -> Value {
    let mut unsigned: Value = event.raw().get_field("unsigned").unwrap().unwrap();
    unsigned["m.relations"].take()
}

async fn relations(room: &matrix_sdk::Room, event: &EventId, include_relations: IncludeRelations) -> Vec<OwnedEventId> {
    let options = RelationsOptions { include_relations, ..Default::default() };
    let relations = room.relations(event.to_owned(), options).await.unwrap();
    relations.chunk.iter().filter_map(TimelineEvent::event_id).collect()
}

async fn threads(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let id = room_with(&alice, "Threads", &[&bob]).await;
    let (room, theirs) = (alice.joined(&id).await, bob.joined(&id).await);
    let root = alice.say(&id, "root").await;
    alice.say(&id, "beside it").await;
    let mut last = None;
    for number in 0..3 {
        let reply = json!({
            "msgtype": "m.text",
            "body": format!("reply {number}"),
            "m.relates_to": { "rel_type": "m.thread", "event_id": root, "is_falling_back": true,
                "m.in_reply_to": { "event_id": last.as_ref().unwrap_or(&root) } },
        });
        last = Some(theirs.send_raw("m.room.message", reply).await.unwrap().response.event_id);
    }
    let last = last.unwrap();
    alice.reads(&id, "reply 2").await;
    let threads = room.list_threads(ListThreadsOptions::default()).await.unwrap();
    assert_eq!(threads.chunk.len(), 1);
    let summary = threads.chunk[0].thread_summary.summary().unwrap();
    assert_eq!((summary.num_replies, summary.latest_reply.as_ref()), (3, Some(&last)));
    // Both have a part in it: alice wrote the first message, bob the others.
    assert_eq!(bundled(&threads.chunk[0])["m.thread"]["current_user_participated"], true);
    assert_eq!(bundled(&theirs.event(&root, None).await.unwrap())["m.thread"]["current_user_participated"], true);
    let (cache, _guards) = room.event_cache().await.unwrap();
    let pagination = cache.thread_pagination(root.clone()).await.unwrap();
    until("the thread's start", async || pagination.run_backwards_once(2).await.unwrap().reached_start.then_some(()))
        .await;
    // A receipt within the thread.
    let thread = ReceiptThread::Thread(root);
    room.send_single_receipt(Kind::Read, thread.clone(), last.clone()).await.unwrap();
    until("bob sees that alice read the thread", async || {
        let receipt = theirs.load_user_receipt(ReceiptType::Read, thread.clone(), alice.me()).await.unwrap();
        receipt.filter(|(on, _)| *on == last)
    })
    .await;
}

async fn sent_once(how: How) {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", how).await;
    let bob = Device::register(&server, "bob", how).await;
    let id = room_with(&alice, "Queue", &[&bob]).await;
    let room = alice.joined(&id).await;
    // The queue of Element X, and the transaction by which it knows its own message when it comes back.
    for number in 0..5 {
        room.send_queue().send(RoomMessageEventContent::text_plain(format!("queued {number}")).into()).await.unwrap();
    }
    let wanted: Vec<_> = (0..5).map(|number| format!("queued {number}")).collect();
    until_equal("bob gets them in order", wanted, async || bob.texts(&id).await).await;
    let transaction = matrix_sdk::ruma::TransactionId::new();
    let again = RoomMessageEventContent::text_plain("again");
    let first = room.send(again.clone()).with_transaction_id(transaction.clone()).await.unwrap().response.event_id;
    let second = room.send(again).with_transaction_id(transaction.clone()).await.unwrap().response.event_id;
    assert_eq!(first, second);
    arrives(&alice, &id, &first).await;
    let own = room.event(&first, None).await.unwrap();
    let unsigned: Value = own.raw().get_field("unsigned").unwrap().unwrap();
    assert_eq!(unsigned["transaction_id"], transaction.as_str());
}
