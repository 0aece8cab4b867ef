//! What administrators see and do of other servers.

use serde_json::json;

use super::{ask, ask_for_json};
use crate::{
    common::net::TestNet,
    federation::joins::{join, until},
};

#[tokio::test]
async fn servers_that_cannot_be_reached_are_shown_tried_again_and_given_up() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    join(&bob, &room, &["a.test"]).await;
    let (_, list) = ask_for_json(&a, "federation list").await.unwrap();
    assert_eq!((&list[0]["server"], &list[0]["rooms"]), (&json!("b.test"), &json!(1)));
    assert_eq!(ask(&a, "federation list --failing").await.unwrap(), "None.");
    assert!(ask(&a, "federation retry b.test").await.unwrap_err().contains("nothing to retry"));
    assert!(ask(&a, "federation show c.test").await.unwrap_err().contains("nothing to do with"));

    net.cut("a", "b");
    alice.send_text(&room, "while it is away").await;
    let failures = async || {
        let (_, shown) = ask_for_json(&a, "federation show b.test").await.unwrap();
        shown["failures"].as_u64().unwrap()
    };
    until("a failure", async || (failures().await > 0).then_some(())).await;
    assert!(ask(&a, "federation list --failing").await.unwrap().contains("b.test"));
    net.heal("a", "b");
    ask(&a, "federation retry b.test").await.unwrap();
    until("the other server to have caught up", async || (failures().await == 0).then_some(())).await;

    net.cut("a", "b");
    alice.send_text(&room, "never told").await;
    until("a failure", async || (failures().await > 0).then_some(())).await;
    ask(&a, "federation forget b.test").await.unwrap();
    // Nothing waits, so it does not count as failing, although it cannot be reached.
    until("nothing to wait", async || (failures().await == 0).then_some(())).await;
}
