//! Sticky events that soft-failed are looked at again when their room's state changes (MSC4354).

use conduit::{
    ids::Position,
    rooms::{Draft, Outcome, event, event::Status, sticky},
    store::trees,
};
use ruma::{EventId, OwnedEventId, OwnedUserId, events::StateEventType};
use serde_json::json;

use super::{
    federated::{Federation, of},
    member, state, text,
};

const STICKY: Option<sticky::Sticky> = Some(sticky::Sticky { duration_ms: 600_000 });

/// Alice kicks Bob while Bob kicks Carol, who says something meanwhile. What undoes what is known only when all is.
struct Quarrel {
    net: Federation,
    carol: OwnedUserId,
    kicks_bob: OwnedEventId,
    kicks_carol: OwnedEventId,
}

impl Quarrel {
    async fn new(version: u8) -> Self {
        let net = Federation::new(version, 4).await;
        let (alice, bob, carol) = (of(0, "alice"), of(1, "bob"), of(2, "carol"));
        let mut users = json!({ bob.as_str(): 50 });
        if version < 12 {
            users[alice.as_str()] = json!(100);
        }
        let levels = json!({ "users": users, "events": { "org.example.seat": 0 } });
        net.send(0, &alice, state(StateEventType::RoomPowerLevels, "", levels)).await.unwrap();
        for server in 1..4 {
            net.deliver_all(server).await;
        }
        let kicks_carol = net.send(1, &bob, member("leave", &carol)).await.unwrap().pdu.event_id;
        let kicks_bob = net.send(0, &alice, member("leave", &bob)).await.unwrap().pdu.event_id;
        Self { net, carol, kicks_bob, kicks_carol }
    }

    async fn says(&self, draft: Draft) -> OwnedEventId {
        self.net.send(2, &self.carol, draft).await.unwrap().pdu.event_id
    }

    async fn soft_fails(&self, id: &EventId) {
        assert!(matches!(self.net.give(3, id).await, Outcome::SoftFailed(_)));
    }

    /// Dora's server hears of it and looks again.
    async fn bob_was_kicked(&self) {
        let rooms = &self.net.servers[3];
        assert_eq!(trees::STICKY_RECHECKS.verify(&rooms.store.read()).unwrap().0, 0);
        assert!(matches!(self.net.give(3, &self.kicks_bob).await, Outcome::Accepted(_)));
        assert_ne!(trees::STICKY_RECHECKS.verify(&rooms.store.read()).unwrap().0, 0);
        rooms.look_again().await.unwrap();
        assert_eq!(trees::STICKY_RECHECKS.verify(&rooms.store.read()).unwrap().0, 0);
    }

    fn status(&self, id: &EventId) -> Status {
        event::by_id(&self.net.servers[3].store.read(), id).unwrap().unwrap().status
    }

    /// What sticks on Dora's server.
    fn sticky(&self) -> Vec<OwnedEventId> {
        let read = self.net.servers[3].store.read();
        let (no, _) = conduit::rooms::require(&read, &self.net.room).unwrap();
        sticky::after(&read, no, Position(0)).map(|row| row.unwrap().1.pdu.event_id.clone()).collect()
    }

    /// All know all, and agree.
    async fn end(&self) {
        for server in 0..4 {
            self.net.deliver_all(server).await;
            self.net.servers[server].look_again().await.unwrap();
        }
        self.net.send(3, &of(3, "dora"), text("are we done?")).await.unwrap();
        for server in 0..3 {
            self.net.deliver_all(server).await;
            assert_eq!(self.net.state(server), self.net.state(3), "server {server}");
        }
    }
}

#[tokio::test]
async fn what_is_allowed_after_all_sticks_from_then_on() {
    for version in [6, 12] {
        let quarrel = Quarrel::new(version).await;
        let call = quarrel.says(Draft { sticky: STICKY, ..text("in the call") }).await;
        let chat = quarrel.says(text("hello")).await;
        assert!(matches!(quarrel.net.give(3, &quarrel.kicks_carol).await, Outcome::Accepted(_)));
        quarrel.soft_fails(&call).await;
        quarrel.soft_fails(&chat).await;
        assert!(quarrel.sticky().is_empty());
        let first = event::by_id(&quarrel.net.servers[3].store.read(), &call).unwrap().unwrap();

        quarrel.bob_was_kicked().await;
        assert_eq!(quarrel.sticky(), std::slice::from_ref(&call));
        let event = event::by_id(&quarrel.net.servers[3].store.read(), &call).unwrap().unwrap();
        assert_eq!((event.no, event.received_ts), (first.no, first.received_ts), "it sticks no longer for that");
        let latest = conduit::rooms::timeline::before(&quarrel.net.servers[3].store.read(), event.room, i64::MAX)
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(latest, (event.order, event.no), "it is new");
        assert!(!quarrel.net.extremities(3).contains(&call), "others follow it already, as far as is known here");
        assert_eq!(quarrel.status(&chat), Status::SoftFailed, "it does not stick");
        quarrel.end().await;
    }
}

/// A state event takes its place in the graph and in the room's state.
#[tokio::test]
async fn state_that_sticks_is_set() {
    let quarrel = Quarrel::new(11).await;
    let first = quarrel.says(text("I was here")).await;
    let seat = state(StateEventType::from("org.example.seat"), "carol", json!({ "seat": 1 }));
    let seat = quarrel.says(Draft { sticky: STICKY, ..seat }).await;
    assert!(matches!(quarrel.net.give(3, &first).await, Outcome::Accepted(_)));
    assert!(matches!(quarrel.net.give(3, &quarrel.kicks_carol).await, Outcome::Accepted(_)));
    quarrel.soft_fails(&seat).await;
    let key = (StateEventType::from("org.example.seat"), "carol".to_owned());
    assert!(!quarrel.net.state(3).contains_key(&key));

    quarrel.bob_was_kicked().await;
    assert_eq!(quarrel.net.state(3)[&key], seat);
    let extremities = quarrel.net.extremities(3);
    assert!(extremities.contains(&seat) && !extremities.contains(&first), "nothing followed it");
    quarrel.end().await;
}

#[tokio::test]
async fn what_a_policy_server_is_against_never_sticks() {
    let quarrel = Quarrel::new(11).await;
    let spam = quarrel.says(Draft { sticky: STICKY, ..text("buy") }).await;
    let call = quarrel.says(Draft { sticky: STICKY, ..text("in the call") }).await;
    assert!(matches!(quarrel.net.give(3, &quarrel.kicks_carol).await, Outcome::Accepted(_)));
    let signed = quarrel.net.signed(&quarrel.net.json(&spam)).not_recommended();
    assert!(matches!(quarrel.net.give_signed(3, signed).await, Outcome::SoftFailed(_)));
    quarrel.soft_fails(&call).await;
    quarrel.bob_was_kicked().await;
    assert_eq!((quarrel.status(&spam), quarrel.sticky()), (Status::SoftFailed, vec![call]));
}

/// What a change does not concern is not looked at, and what is still forbidden waits for the next one.
#[tokio::test]
async fn only_what_may_be_allowed_is_looked_at() {
    let net = Federation::new(11, 3).await;
    let (alice, bob, carol) = (of(0, "alice"), of(1, "bob"), of(2, "carol"));
    let banned = net.send(0, &alice, member("ban", &bob)).await.unwrap().pdu.event_id;
    let call = net.send(1, &bob, Draft { sticky: STICKY, ..text("in the call") }).await.unwrap().pdu.event_id;
    assert!(matches!(net.give(0, &call).await, Outcome::SoftFailed(_)));
    let rooms = &net.servers[0];
    let due = || trees::STICKY_RECHECKS.verify(&rooms.store.read()).unwrap().0;
    let status = || event::by_id(&rooms.store.read(), &call).unwrap().unwrap().status;
    net.send(0, &alice, state(StateEventType::RoomTopic, "", json!({ "topic": "tea" }))).await.unwrap();
    net.send(0, &alice, member("leave", &carol)).await.unwrap();
    assert_eq!(due(), 0, "another's membership, and what forbids nothing");
    net.send(0, &alice, member("leave", &bob)).await.unwrap();
    assert_eq!(due(), 1);
    rooms.look_again().await.unwrap();
    assert_eq!((due(), status()), (0, Status::SoftFailed), "he is not back yet");
    net.give(1, &banned).await;
    net.deliver_all(1).await;
    let join = net.send(1, &bob, member("join", &bob)).await.unwrap().pdu.event_id;
    assert!(matches!(net.give(0, &join).await, Outcome::Accepted(_)));
    rooms.look_again().await.unwrap();
    assert_eq!((due(), status()), (0, Status::Accepted));
}
