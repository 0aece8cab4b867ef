//! What Element X's room list asks of sliding sync: a first screen, a window that grows to all rooms, subscriptions to
//! the rooms on screen, filters, other connections beside it.

use std::{collections::BTreeSet, future::ready};

use matrix_sdk::{
    SlidingSync, SlidingSyncList, SlidingSyncMode,
    cross_process_lock::CrossProcessLockConfig,
    ruma::{
        OwnedRoomId, RoomId,
        api::client::sync::sync_events::v5::request::{ListFilters, RoomSubscription},
        directory::RoomTypeFilter,
        events::StateEventType,
        room::RoomType,
    },
};
use serde_json::json;

use crate::{
    common::{Client as Plain, TestServer},
    device::{
        Device, How, enabled_account_data, enabled_receipts, enabled_typing, encryption_sync, required_state, text,
        until_equal,
    },
};

const ROOMS: usize = 130;

/// A user with many rooms, each with one message; the last in the list is the newest.
async fn many_rooms(server: &TestServer, count: usize) -> (Plain, Vec<OwnedRoomId>) {
    let alice = server.register("alice").await;
    let mut rooms = Vec::new();
    for number in 0..count {
        let room = alice.create_room(json!({ "name": format!("Room {number}") })).await;
        alice.send_text(&room, &format!("in room {number}")).await;
        rooms.push(OwnedRoomId::try_from(room).unwrap());
    }
    (alice, rooms)
}

/// A device that does not synchronise by itself.
async fn paused(server: &TestServer) -> Device {
    let device = Device::login(server, "alice", How::Classic).await;
    device.pause().await;
    device
}

async fn all_rooms(device: &Device) -> SlidingSync {
    let list = SlidingSyncList::builder("all_rooms")
        .sync_mode(SlidingSyncMode::new_selective().add_range(0..=19))
        .timeline_limit(1)
        .required_state(required_state())
        .filters(Some(ListFilters::default()));
    device
        .sliding_sync("room-list")
        .unwrap()
        .with_account_data_extension(enabled_account_data())
        .with_receipt_extension(enabled_receipts())
        .with_typing_extension(enabled_typing())
        .share_pos()
        .add_cached_list(list)
        .await
        .unwrap()
        .build()
        .await
        .unwrap()
}

/// One exchange; the rooms that it updated.
async fn exchange(connection: &SlidingSync) -> BTreeSet<OwnedRoomId> {
    connection.sync_once().await.unwrap().rooms.into_iter().collect()
}

async fn set_mode(connection: &SlidingSync, mode: impl Into<SlidingSyncMode>) {
    let mode = mode.into();
    connection
        .on_list("all_rooms", move |list| {
            list.set_sync_mode(mode);
            ready(())
        })
        .await
        .unwrap();
}

async fn total(connection: &SlidingSync) -> Option<u32> {
    connection.on_list("all_rooms", |list| ready(list.maximum_number_of_rooms())).await.unwrap()
}

fn set<'a>(rooms: impl IntoIterator<Item = &'a OwnedRoomId>) -> BTreeSet<OwnedRoomId> {
    rooms.into_iter().cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_screen_growth_and_order() {
    let server = TestServer::start().await;
    let (alice, rooms) = many_rooms(&server, ROOMS).await;
    let device = paused(&server).await;
    let connection = all_rooms(&device).await;

    // The first answer holds exactly the newest twenty, and how many there are.
    assert_eq!(exchange(&connection).await, set(&rooms[ROOMS - 20..]));
    assert_eq!(total(&connection).await, Some(ROOMS as u32));
    let newest = device.get_room(&rooms[ROOMS - 1]).unwrap();
    assert_eq!(newest.name().as_deref(), Some("Room 129"));
    assert_eq!(newest.joined_members_count(), 1);
    assert!(newest.is_state_partially_or_fully_synced());

    // It grows by a hundred; known rooms do not come again.
    set_mode(&connection, SlidingSyncMode::new_growing(100)).await;
    assert_eq!(exchange(&connection).await, set(&rooms[ROOMS - 100..ROOMS - 20]));
    assert_eq!(exchange(&connection).await, set(&rooms[..ROOMS - 100]));
    assert_eq!(device.joined_rooms().len(), ROOMS);

    // A message moves its room to the top; nothing else comes.
    alice.send_text(rooms[0].as_str(), "up").await;
    assert_eq!(exchange(&connection).await, set([&rooms[0]]));
    let stamp = |room: &OwnedRoomId| u64::from(device.get_room(room).unwrap().recency_stamp().unwrap());
    let top = stamp(&rooms[0]);
    assert!(rooms[1..].iter().all(|room| stamp(room) < top));
    // What nobody wrote does not: a display name, a receipt, a topic.
    alice.set_state(rooms[1].as_str(), "m.room.topic", "", json!({ "topic": "new" })).await;
    assert_eq!(exchange(&connection).await, set([&rooms[1]]));
    assert_eq!(device.get_room(&rooms[1]).unwrap().topic().as_deref(), Some("new"));
    assert!(stamp(&rooms[1]) < top);

    // The application starts again: the same position goes on with a fresh first screen.
    let again = all_rooms(&device).await;
    alice.send_text(rooms[2].as_str(), "while it was closed").await;
    assert_eq!(exchange(&again).await, set([&rooms[2]]));
    assert_eq!(total(&again).await, Some(ROOMS as u32));
    // And with a lost position all begins anew.
    again.expire_session().await;
    assert_eq!(exchange(&again).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions() {
    let server = TestServer::start().await;
    let (alice, rooms) = many_rooms(&server, 25).await;
    for number in 0..30 {
        alice.send_text(rooms[24].as_str(), &format!("message {number}")).await;
        alice.send_text(rooms[0].as_str(), &format!("message {number}")).await;
    }
    alice.set_state(rooms[0].as_str(), "m.room.pinned_events", "", json!({ "pinned": ["$pinned"] })).await;
    for room in &rooms[1..25] {
        alice.send_text(room.as_str(), "newer").await;
    }
    let device = paused(&server).await;
    let connection = all_rooms(&device).await;
    assert_eq!(exchange(&connection).await, set(&rooms[5..]));
    holds(&device, &rooms[24], 1, "newer").await;

    // A room on screen: known from the list with one event, now with twenty; one outside of the window comes whole.
    connection.subscribe_to_rooms(&[&rooms[24], &rooms[0]], Some(on_screen()), true);
    assert_eq!(exchange(&connection).await, set([&rooms[0], &rooms[24]]));
    holds(&device, &rooms[24], 20, "newer").await;
    holds(&device, &rooms[0], 19, "message 29").await;
    assert_eq!(device.get_room(&rooms[0]).unwrap().pinned_event_ids().map(|pinned| pinned.len()), Some(1));
    alice.send_text(rooms[0].as_str(), "live").await;
    assert_eq!(exchange(&connection).await, set([&rooms[0]]));
    holds(&device, &rooms[0], 20, "live").await;

    // Another room is opened instead of both.
    connection.clear_and_subscribe_to_rooms(&[&rooms[3]], Some(on_screen()), true);
    assert!(exchange(&connection).await.contains(&rooms[3]));
    alice.send_text(rooms[3].as_str(), "here").await;
    assert_eq!(exchange(&connection).await, set([&rooms[3]]));
    holds(&device, &rooms[3], 3, "here").await;
}

/// What Element X asks for in a room on screen.
fn on_screen() -> RoomSubscription {
    let mut subscription = RoomSubscription::default();
    subscription.required_state = required_state();
    subscription.required_state.push((StateEventType::RoomPinnedEvents, String::new()));
    subscription.timeline_limit = 20u32.into();
    subscription
}

/// Waits until the device holds so many texts of a room, the newest of them `last`: its event cache takes them in
/// beside the exchange.
async fn holds(device: &Device, room: &RoomId, count: usize, last: &str) {
    until_equal(&format!("texts of {room}"), (count, Some(last.to_owned())), async || {
        let mut texts = device.texts(room).await;
        (texts.len(), texts.pop())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters() {
    let server = TestServer::start().await;
    let (alice, mut rooms) = many_rooms(&server, 3).await;
    let space = alice.create_room(json!({ "name": "Space", "creation_content": { "type": "m.space" } })).await;
    let space = OwnedRoomId::try_from(space).unwrap();
    let bob = server.register("bob").await;
    let invited = bob.create_room(json!({ "name": "Party", "invite": [alice.user_id] })).await;
    let invited = OwnedRoomId::try_from(invited).unwrap();
    let secret = alice.create_room(json!({ "initial_state": [{ "type": "m.room.encryption", "state_key": "",
        "content": { "algorithm": "m.megolm.v1.aes-sha2" } }] }));
    let secret = OwnedRoomId::try_from(secret.await).unwrap();
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.direct", crate::common::encode(&alice.user_id));
    alice.ok(http::Method::PUT, &path, json!({ "@bob:localhost": [rooms[0]] })).await;
    rooms.push(secret.clone());

    let device = paused(&server).await;
    let list = |name: &str, set: fn(&mut ListFilters)| {
        let mut filters = ListFilters::default();
        set(&mut filters);
        let list = SlidingSyncList::builder(name).sync_mode(SlidingSyncMode::new_selective().add_range(0..=99));
        list.filters(Some(filters)).required_state(required_state())
    };
    let lists = [
        (list("invites", |filters| filters.is_invite = Some(true)), set([&invited])),
        (list("spaces", |filters| filters.room_types = vec![RoomTypeFilter::Space]), set([&space])),
        (
            list("rooms", |filters| {
                filters.is_invite = Some(false);
                filters.not_room_types = vec![RoomTypeFilter::Space];
            }),
            set(&rooms),
        ),
        (list("people", |filters| filters.is_dm = Some(true)), set([&rooms[0]])),
        (list("secret", |filters| filters.is_encrypted = Some(true)), set([&secret])),
        (list("all", |_| {}), &(&set(&rooms) | &set([&space])) | &set([&invited])),
    ];
    for (number, (list, wanted)) in lists.into_iter().enumerate() {
        let connection = device.sliding_sync(format!("list {number}")).unwrap().add_list(list).build().await.unwrap();
        assert_eq!(exchange(&connection).await, wanted, "list {number}");
    }
    assert_eq!(device.get_room(&space).unwrap().room_type(), Some(RoomType::Space));
}

/// Fetching what a push message announced: another connection, a few events of one room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification() {
    let server = TestServer::start().await;
    let (alice, rooms) = many_rooms(&server, 2).await;
    let device = paused(&server).await;
    let main = all_rooms(&device).await;
    exchange(&main).await;
    let event = alice.send_text(rooms[0].as_str(), "ping").await;

    let notifications = device.notification_client(CrossProcessLockConfig::SingleProcess).await.unwrap();
    let mut invites = ListFilters::default();
    invites.is_invite = Some(true);
    let connection = notifications
        .sliding_sync("notifications")
        .unwrap()
        .add_list(
            SlidingSyncList::builder("invites")
                .sync_mode(SlidingSyncMode::new_selective().add_range(0..=16))
                .timeline_limit(8)
                .filters(Some(invites))
                .requires_timeout(|_| matrix_sdk::sliding_sync::PollTimeout::Some(0)),
        )
        .build()
        .await
        .unwrap();
    let mut subscription = RoomSubscription::default();
    subscription.required_state = required_state();
    subscription.timeline_limit = 16u32.into();
    connection.subscribe_to_rooms(&[&rooms[0]], Some(subscription), true);
    assert_eq!(exchange(&connection).await, set([&rooms[0]]));
    let room = notifications.get_room(&rooms[0]).unwrap();
    let event = matrix_sdk::ruma::OwnedEventId::try_from(event).unwrap();
    let around = room.event_with_context(&event, true, 4u32.into(), None).await.unwrap();
    assert_eq!(around.event.as_ref().and_then(text).as_deref(), Some("ping"));
    assert!(!around.events_before.is_empty() && around.events_after.is_empty());

    // The main connection was not disturbed.
    assert_eq!(exchange(&main).await, set([&rooms[0]]));
    let keys = encryption_sync(&device).await;
    assert!(exchange(&keys).await.is_empty());
}
