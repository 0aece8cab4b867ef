//! What the client asks for that is not in the specification.

use matrix_sdk::ruma::events::room::message::RoomMessageEventContent;

use crate::{
    common::TestServer,
    device::{Device, How, room_with},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_that_are_followed() {
    let server = TestServer::start().await;
    let alice = Device::register(&server, "alice", How::Classic).await;
    let id = room_with(&alice, "Threads", &[]).await;
    let room = alice.joined(&id).await;
    let root = room.send(RoomMessageEventContent::text_plain("root")).await.unwrap().response.event_id;
    assert!(room.fetch_thread_subscription(root.clone()).await.unwrap().is_none());
    room.subscribe_thread(root.clone(), None).await.unwrap();
    assert!(!room.fetch_thread_subscription(root.clone()).await.unwrap().expect("a subscription").automatic);
    let changes = alice.fetch_thread_subscriptions(None, None, None).await.unwrap();
    assert!(changes.subscribed[&id].contains_key(&root));
    room.unsubscribe_thread(root.clone()).await.unwrap();
    assert!(room.fetch_thread_subscription(root).await.unwrap().is_none());
}
