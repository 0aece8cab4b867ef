//! What others write while a user of this server joins, before they know of it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::{Value, json};

use super::joins::try_join;
use crate::common::{
    Client, TestServer, encode,
    net::TestNet,
    peer::{Peer, answer, decode},
    synthetic::{Crowd, Made, Size, SyntheticRoom},
};

/// How the peer tells of the room's history.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tells {
    /// Everything, however early it was.
    All,
    /// What is asked for: nothing that is less deep.
    Since,
    /// Nothing, not even what its events follow.
    Nothing,
}

/// A room of a peer with some history, into which bob came; and how often a state was asked for.
struct Stage {
    net: TestNet,
    a: TestServer,
    bob: Client,
    room: SyntheticRoom,
    /// What was said before bob came, the earliest first.
    history: Vec<Made>,
    states: Arc<AtomicUsize>,
}

impl Stage {
    async fn new(tells: Tells) -> Self {
        let net = TestNet::new();
        let (peer, crowd) = (Peer::new(&net, "peer").await, Crowd::new(&net, 3).await);
        let a = net.server("a").await;
        crowd.lead(&net, "a");
        let bob = a.register("bob").await;
        let mut room = SyntheticRoom::new(&peer, &crowd, Size { members: 3, changes: 1 });
        let member = room.member(0);
        let history: Vec<Made> = (0..30).map(|number| room.say(&member, &format!("history {number}"))).collect();
        let states = tell(&room, &history, tells);
        room.admit();
        let (status, answer) = try_join(&bob, room.id.as_str(), &["peer.test"]).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        room.take_joins();
        Self { net, a, bob, room, history, states }
    }

    /// What a member says who has seen the room up to these events only.
    fn say(&mut self, text: &str, after: &[&str], depth: u64) -> Made {
        let member = self.room.member(1);
        self.room.make(&member, "m.room.message", None, json!({ "msgtype": "m.text", "body": text }), |event| {
            event["prev_events"] = json!(after);
            event["depth"] = json!(depth);
        })
    }

    /// Sends an event; gives why it was refused, if it was.
    async fn send(&self, (id, json): &Made) -> Option<String> {
        let (status, answer) = self.room.send(&self.a, id, std::slice::from_ref(json), &[]).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["pdus"][id].get("error").map(|why| why.as_str().unwrap().to_owned())
    }

    /// What bob is shown, the earliest first.
    async fn shown(&self) -> Vec<String> {
        let answer = self.bob.sync("").await;
        let events = answer["rooms"]["join"][self.room.id.as_str()]["timeline"]["events"].as_array().unwrap().clone();
        events.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
    }

    /// How many events the state has that bob sees.
    async fn state(&self) -> usize {
        let path = format!("/_matrix/client/v3/rooms/{}/state", encode(self.room.id.as_str()));
        self.bob.ok(http::Method::GET, &path, Value::Null).await.as_array().unwrap().len()
    }

    /// How many requests to the peer had this in their path.
    fn asked(&self, part: &str) -> usize {
        self.net.wire("a", "peer").passed().iter().filter(|request| request.contains(part)).count()
    }
}

/// Has the peer tell of the history, and the state after it; gives how often the state was asked for.
fn tell(room: &SyntheticRoom, history: &[Made], tells: Tells) -> Arc<AtomicUsize> {
    let events: Vec<(String, Value)> =
        history.iter().map(|(id, json)| (id.clone(), serde_json::from_str(json.get()).unwrap())).collect();
    let known = events.clone();
    room.peer.on("/_matrix/federation/v1/get_missing_events/", move |request: Request<Bytes>| {
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        let first = body["min_depth"].as_u64().unwrap_or(0);
        let is_told = |event: &&Value| match tells {
            Tells::All => true,
            Tells::Since => event["depth"].as_u64().unwrap() >= first,
            Tells::Nothing => false,
        };
        let told: Vec<_> = known.iter().map(|(_, event)| event).filter(is_told).rev().take(20).collect();
        let told = answer(200, &json!({ "events": told }));
        async move { told }
    });
    room.peer.on("/_matrix/federation/v1/event/", move |request: Request<Bytes>| {
        let id = decode(request.uri().path().rsplit('/').next().unwrap());
        let event = events.iter().find(|(known, _)| *known == id && tells != Tells::Nothing);
        let told = match event {
            Some((_, event)) => answer(200, &json!({ "origin": "peer.test", "origin_server_ts": 1, "pdus": [event] })),
            None => answer(404, &json!({ "errcode": "M_NOT_FOUND", "error": "No." })),
        };
        async move { told }
    });
    let state: Vec<_> = room.state.values().map(|(id, _)| id.clone()).collect();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    room.peer.on("/_matrix/federation/v1/state_ids/", move |_| {
        count.fetch_add(1, Relaxed);
        let told = answer(200, &json!({ "pdu_ids": state, "auth_chain_ids": [] }));
        async move { told }
    });
    asked
}

/// What follows the same event as the join needs nothing more: the state there is that before the join.
#[tokio::test]
async fn what_was_said_at_the_moment_of_a_join_is_heard() {
    for tells in [Tells::All, Tells::Since, Tells::Nothing] {
        let mut stage = Stage::new(tells).await;
        let latest = stage.history.last().unwrap().0.clone();
        let state = stage.state().await;
        let said = stage.say("at the same moment", &[&latest], 100);
        assert_eq!(stage.send(&said).await, None, "{tells:?}");
        let (answer, join) = (stage.say("and later", &[&said.0], 101), stage.room.last.clone());
        assert_eq!(stage.send(&answer).await, None, "{tells:?}");
        let both = stage.say("and both", &[&latest, &join], 101);
        assert_eq!(stage.send(&both).await, None, "{tells:?}");
        assert_eq!(stage.shown().await, ["at the same moment", "and later", "and both"]);
        assert_eq!((stage.states.load(Relaxed), stage.asked("/get_missing_events/")), (0, 0), "{tells:?}");
        assert_eq!(stage.state().await, state);
    }
}

/// What forked off earlier is heard as well, if its server shows what it follows.
#[tokio::test]
async fn what_forked_off_before_a_join_is_heard() {
    for tells in [Tells::All, Tells::Since, Tells::Nothing] {
        let mut stage = Stage::new(tells).await;
        let (before, state) = (stage.history[20].0.clone(), stage.state().await);
        let said = stage.say("from behind", &[&before], 30);
        let why = stage.send(&said).await;
        if tells == Tells::Nothing {
            assert!(why.is_some_and(|why| why.contains("fetched")));
            assert_eq!((stage.states.load(Relaxed), stage.shown().await), (0, Vec::<String>::new()));
            continue;
        }
        assert_eq!(why, None, "{tells:?}");
        // History is not told as news.
        assert_eq!((stage.states.load(Relaxed), stage.shown().await), (1, vec!["from behind".to_owned()]), "{tells:?}");
        let join = stage.room.last.clone();
        let older = stage.history[10].0.clone();
        let both = stage.say("with both eyes", &[&older, &join], 200);
        assert_eq!(stage.send(&both).await, None, "{tells:?}");
        assert_eq!(stage.shown().await, ["from behind", "with both eyes"], "{tells:?}");
        assert_eq!(stage.state().await, state);
    }
}
