//! Forward extremities: what other servers fork stays as it is, and takes nothing back.

use conduit::rooms::{self, Outcome, event, extremities};
use ruma::{OwnedEventId, OwnedUserId};
use serde_json::{Value, json};

use super::{
    federated::{Federation, of},
    member, text,
};

/// Alice bans Dora, which Bob's server does not see; it writes beside that.
struct Fork {
    net: Federation,
    alice: OwnedUserId,
    bob: OwnedUserId,
    ban: OwnedEventId,
}

impl Fork {
    async fn new(version: u8) -> Self {
        let net = Federation::new(version, 3).await;
        let (alice, bob, carol) = (of(0, "alice"), of(1, "bob"), of(2, "carol"));
        let ban = net.send(0, &alice, member("ban", &carol)).await.unwrap().pdu.event_id;
        Self { net, alice, bob, ban }
    }

    /// Alice's server gets an event of Bob's that follows what his server had at the beginning, or `prev`.
    async fn bob_writes(&self, event: Value, prev: Option<&OwnedEventId>) -> OwnedEventId {
        let made = self.net.make(1, &self.bob, event, |event| {
            if let Some(prev) = prev {
                event["prev_events"] = json!([prev]);
            }
        });
        let id = self.net.note(made);
        assert!(matches!(self.net.give(0, &id).await, Outcome::Accepted(_)));
        id
    }

    fn extremities(&self) -> Vec<OwnedEventId> {
        let read = self.net.servers[0].store.read();
        let (no, _) = rooms::require(&read, &self.net.room).unwrap();
        let extremities = extremities::of(&read, no).unwrap();
        extremities.into_iter().map(|no| event::require(&read, no).unwrap().pdu.event_id.clone()).collect()
    }

    /// The ban holds, also for what is said next, and on all servers once they know all.
    async fn holds(&self) {
        assert!(self.net.state(0).values().any(|id| *id == self.ban));
        let said = self.net.send(0, &self.alice, text("is everybody here?")).await.unwrap();
        assert!(said.pdu.prev_events.len() <= 20 && said.pdu.prev_events.contains(&self.ban));
        assert_eq!(self.extremities(), [said.pdu.event_id]);
        for server in 1..3 {
            self.net.deliver_all(server).await;
            assert_eq!(self.net.state(server), self.net.state(0));
        }
    }
}

fn says(n: usize) -> Value {
    json!({ "type": "m.room.message", "content": { "body": n.to_string() } })
}

fn is_called(bob: &OwnedUserId, n: usize) -> Value {
    let content = json!({ "membership": "join", "displayname": n.to_string() });
    json!({ "type": "m.room.member", "state_key": bob, "content": content })
}

#[tokio::test]
async fn many_forks_of_one_server_take_nothing_back() {
    for version in [6, 12] {
        let fork = Fork::new(version).await;
        let mut first = None;
        for n in 0..40 {
            let id = fork.bob_writes(says(n), None).await;
            first.get_or_insert(id);
        }
        fork.bob_writes(is_called(&fork.bob, 1), first.as_ref()).await;
        assert_eq!(fork.extremities().len(), 41);
        fork.holds().await;
    }
}

#[tokio::test]
async fn very_many_push_out_each_other() {
    let fork = Fork::new(11).await;
    for n in 0..extremities::MOST + 20 {
        fork.bob_writes(says(n), None).await;
    }
    assert_eq!(fork.extremities().len(), extremities::MOST);
    fork.holds().await;
}

/// An event of ours names one for each state, so there are no more states than it can name.
#[tokio::test]
async fn many_states_push_out_each_other() {
    let fork = Fork::new(11).await;
    for n in 0..30 {
        fork.bob_writes(is_called(&fork.bob, n), None).await;
    }
    assert_eq!(fork.extremities().len(), 20);
    fork.holds().await;
}

/// Who may redact an event is known when it is here: until then, redactions of it wait side by side.
#[tokio::test]
async fn a_redaction_waits_whoever_else_names_its_event() {
    for version in [6, 12] {
        let net = Federation::new(version, 3).await;
        let (alice, bob, carol) = (of(0, "alice"), of(1, "bob"), of(2, "carol"));
        let spam = net.note(net.make(0, &bob, says(1), |_| ()));
        let redaction = |event: &mut Value| {
            let at = if version < 11 { event } else { &mut event["content"] };
            at["redacts"] = json!(spam);
        };
        let plain = json!({ "type": "m.room.redaction", "content": {} });
        let by_alice = net.note(net.make(0, &alice, plain.clone(), redaction));
        assert!(matches!(net.give(0, &by_alice).await, Outcome::Accepted(_)));
        let by_carol = net.note(net.make(0, &carol, plain, redaction));
        assert!(matches!(net.give(0, &by_carol).await, Outcome::Accepted(_)));
        let Outcome::Accepted(event) = net.give(0, &spam).await else { panic!("the event was not accepted") };
        let by = event::by_id(&net.servers[0].store.read(), &by_alice).unwrap().unwrap().no;
        assert_eq!((event.redacted_by, event.pdu.content.get()), (Some(by), "{}"));
    }
}
