//! Push rules and unread counts: by the API, and against a replay of the rules from scratch by ruma's own matching.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use conduit::{
    ids::RoomNo,
    push::{
        compile::{Compiled, Facts, Me, Properties},
        rules,
    },
    rooms::{
        self, Draft, Event, Rooms, append, build, members,
        notifications::{self, Counts, RoomCounts},
        power_levels, receipts,
    },
    store::Store,
};
use futures_util::FutureExt;
use http::{Method, StatusCode};
use proptest::prelude::*;
use ruma::{
    OwnedEventId, OwnedUserId, RoomVersionId, UInt, UserId,
    events::{
        StateEventType,
        receipt::{ReceiptThread, ReceiptType},
    },
    owned_user_id,
    push::{
        Action, ConditionalPushRule, EventMatchConditionData, HighlightTweakValue, NewConditionalPushRule,
        NewPatternedPushRule, NewPushRule, NewSimplePushRule, PushCondition, PushConditionRoomCtx, RuleKind, Ruleset,
        Tweak,
    },
    room_id,
    serde::Raw,
    server_name, user_id,
};
use serde_json::{Value, json, value::to_raw_value};
use tempfile::TempDir;

use crate::common::{TestServer, encode};

const USERS: usize = 4;

fn user(index: usize) -> OwnedUserId {
    UserId::parse(format!("@user{index}:localhost")).unwrap()
}

/// Something that happens in the room.
#[derive(Clone, Debug)]
enum Step {
    Say { sender: usize, what: What, body: &'static str },
    Read { user: usize, event: usize, private: bool, thread: u8 },
    Rule { user: usize, change: u8 },
    Leave(usize),
    Join(usize),
    Rename(usize, &'static str),
}

#[derive(Clone, Debug)]
enum What {
    Text,
    Notice,
    Encrypted,
    Topic,
    Mention(usize),
    Everybody,
    InThread(usize),
    React(usize),
    Edit(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = 0..USERS;
    let body = prop::sample::select(vec!["hello", "cake", "a piece of CAKE!", "User1", "cupcake", "tea time"]);
    let what = prop_oneof![
        4 => Just(What::Text),
        1 => Just(What::Notice),
        1 => Just(What::Encrypted),
        1 => Just(What::Topic),
        2 => (0..USERS).prop_map(What::Mention),
        1 => Just(What::Everybody),
        3 => (0..40_usize).prop_map(What::InThread),
        1 => (0..40_usize).prop_map(What::React),
        1 => (0..40_usize).prop_map(What::Edit),
    ];
    let step = prop_oneof![
        8 => (index.clone(), what, body).prop_map(|(sender, what, body)| Step::Say { sender, what, body }),
        4 => (index.clone(), 0..40_usize, any::<bool>(), 0..3_u8)
            .prop_map(|(user, event, private, thread)| Step::Read { user, event, private, thread }),
        2 => (index.clone(), 0..8_u8).prop_map(|(user, change)| Step::Rule { user, change }),
        1 => index.clone().prop_map(Step::Leave),
        1 => index.clone().prop_map(Step::Join),
        1 => (index, prop::sample::select(vec!["User1", "tea", "nobody"])).prop_map(|(user, name)| Step::Rename(user, name)),
    ];
    prop::collection::vec(step, 1..40)
}

/// An event as the replay knows it.
struct Said {
    event: Event,
    /// The place in the list of the root of its thread.
    thread: Option<usize>,
    /// Notification and highlight for each user whom it counts for.
    outcomes: BTreeMap<usize, (u64, u64)>,
}

/// How far a user has read.
#[derive(Clone, Default)]
struct Marks {
    joined: i64,
    unthreaded: i64,
    main: i64,
    threads: BTreeMap<usize, i64>,
}

/// The server's room engine, and beside it everything that happened, from which counts are computed in the plainest way.
struct World {
    _directory: TempDir,
    rooms: Rooms,
    room: RoomNo,
    said: Vec<Said>,
    marks: Vec<Marks>,
    names: Vec<Option<&'static str>>,
    joined: BTreeSet<usize>,
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let store = Arc::new(Store::open(directory.path(), server_name!("localhost"), 8 << 20).unwrap());
        let keys = store.signing_keys().unwrap();
        let rooms = Rooms::new(store.clone(), keys);
        let creator = user(0);
        let (room, _) = store
            .write(|tx| {
                let content = to_raw_value(&json!({}))?;
                let (room, event) = build::create(&rooms, tx, &RoomVersionId::V11, &creator, &content)?;
                let member = json!({ "membership": "join" });
                let member = Draft::state(StateEventType::RoomMember, creator.as_str(), &member)?;
                let authorized = build::prepare(&rooms, tx, room, &creator, member)?;
                append::append(tx, &rooms, authorized)?;
                let levels = json!({ "users": { creator.as_str(): 100 }, "events": { "m.room.topic": 0 } });
                for (kind, content) in [
                    (StateEventType::RoomPowerLevels, levels),
                    (StateEventType::RoomJoinRules, json!({ "join_rule": "public" })),
                ] {
                    let authorized = build::prepare(&rooms, tx, room, &creator, Draft::state(kind, "", &content)?)?;
                    append::append(tx, &rooms, authorized)?;
                }
                Ok((room, event))
            })
            .unwrap();
        let mut world = Self {
            _directory: directory,
            rooms,
            room,
            said: Vec::new(),
            marks: vec![Marks::default(); USERS],
            names: vec![None; USERS],
            joined: [0].into(),
        };
        // The creator's join is an event as well, from before which nothing counts; and sending is reading.
        world.marks[0].main = i64::MAX / 2;
        for index in 1..USERS {
            world.step(&Step::Join(index));
        }
        world.marks[0].main = world.last();
        world.mark_read_up_to_here(0);
        world
    }

    fn last(&self) -> i64 {
        self.said.last().map_or(0, |said| said.event.order)
    }

    fn mark_read_up_to_here(&mut self, index: usize) {
        let order = self.last();
        let room = self.room;
        self.rooms.store.write(|tx| notifications::read_up_to(tx, room, &user(index), None, order)).unwrap();
        self.marks[index].unthreaded = order;
    }

    fn send(&mut self, sender: usize, draft: Draft, thread: Option<usize>) -> bool {
        let id = rooms::get(&self.rooms.store.read(), self.room).unwrap().id;
        let guard = self.rooms.lock(&id).now_or_never().unwrap();
        let Ok(event) = self.rooms.send(&guard, &user(sender), draft) else { return false };
        let order = event.order;
        let outcomes =
            (0..USERS).filter(|index| *index != sender).map(|index| (index, self.outcome(index, &event))).collect();
        self.said.push(Said { event, thread, outcomes });
        match thread {
            Some(thread) => drop(self.marks[sender].threads.insert(thread, order)),
            None => self.marks[sender].main = order,
        }
        true
    }

    /// What ruma says of the event for a user, by the user's rules of now.
    fn outcome(&self, index: usize, event: &Event) -> (u64, u64) {
        let read = self.rooms.store.read();
        let record = rooms::get(&read, self.room).unwrap();
        let name = self.names[index].unwrap_or("\u{1}").to_owned();
        let mut context =
            PushConditionRoomCtx::new(record.id.clone(), UInt::try_from(record.joined).unwrap(), user(index), name);
        context.power_levels = Some(power_levels::of_room(&read, self.room, &record).unwrap().into());
        let ruleset = notifications::ruleset(&read, &user(index)).unwrap();
        by_ruma(&ruleset, &client_json(event), &context)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Say { sender, what, body } => self.say(*sender, what, body),
            Step::Read { user: reader, event, private, thread } => self.read(*reader, *event, *private, *thread),
            Step::Rule { user: owner, change } => self.change_rules(*owner, *change),
            Step::Leave(index) => {
                let content = json!({ "membership": "leave" });
                let draft = Draft::state(StateEventType::RoomMember, user(*index).as_str(), &content).unwrap();
                if self.joined.contains(index) && self.joined.len() > 1 && self.send(*index, draft, None) {
                    self.joined.remove(index);
                }
            }
            Step::Join(index) => {
                self.names[*index] = None;
                let rejoins = !self.joined.contains(index);
                let content = json!({ "membership": "join" });
                let draft = Draft::state(StateEventType::RoomMember, user(*index).as_str(), &content).unwrap();
                if self.send(*index, draft, None) && rejoins {
                    self.joined.insert(*index);
                    self.marks[*index] = Marks { joined: self.last(), ..Marks::default() };
                }
            }
            Step::Rename(index, name) => {
                if self.joined.contains(index) {
                    self.names[*index] = Some(name);
                    let content = json!({ "membership": "join", "displayname": name });
                    let draft = Draft::state(StateEventType::RoomMember, user(*index).as_str(), &content).unwrap();
                    assert!(self.send(*index, draft, None));
                }
            }
        }
    }

    fn say(&mut self, sender: usize, what: &What, body: &str) {
        if !self.joined.contains(&sender) {
            return;
        }
        let mut content = json!({ "msgtype": "m.text", "body": body });
        let mut kind = "m.room.message";
        let mut thread = None;
        match what {
            What::Text => {}
            What::Notice => content["msgtype"] = "m.notice".into(),
            What::Encrypted => kind = "m.room.encrypted",
            What::Topic => {
                let draft = Draft::state(StateEventType::RoomTopic, "", &json!({ "topic": body })).unwrap();
                self.send(sender, draft, None);
                return;
            }
            What::Mention(index) => content["m.mentions"] = json!({ "user_ids": [user(*index), "@x:y"] }),
            What::Everybody => content["m.mentions"] = json!({ "room": true }),
            What::InThread(root) | What::React(root) | What::Edit(root) => {
                if self.said.is_empty() {
                    return;
                }
                let target = root % self.said.len();
                let id = self.said[target].event.pdu.event_id.clone();
                thread = self.said[target].thread;
                let relation = match what {
                    What::InThread(_) => "m.thread",
                    What::React(_) => "m.annotation",
                    _ => "m.replace",
                };
                match what {
                    // A thread in a thread is one as far as counting goes; clients do not make such.
                    What::InThread(_) => thread = Some(target),
                    What::React(_) => kind = "m.reaction",
                    _ => {}
                }
                content["m.relates_to"] = json!({ "rel_type": relation, "event_id": id, "key": "x" });
                if self.hops(target) >= 3 {
                    return; // beyond how far relations are followed
                }
            }
        }
        let draft = Draft::message(kind.into(), to_raw_value(&content).unwrap());
        self.send(sender, draft, thread);
    }

    /// How many relations lead from an event to one that relates to none.
    fn hops(&self, index: usize) -> usize {
        let content: Value = serde_json::from_str(self.said[index].event.pdu.content.get()).unwrap();
        let Some(target) = content["m.relates_to"]["event_id"].as_str() else { return 0 };
        let target = self.said.iter().position(|said| said.event.pdu.event_id == target).unwrap();
        1 + self.hops(target)
    }

    fn read(&mut self, reader: usize, event: usize, private: bool, thread: u8) {
        if self.said.is_empty() || !self.joined.contains(&reader) {
            return;
        }
        let index = event % self.said.len();
        let event = self.said[index].event.clone();
        let own_thread = self.said[index].thread;
        let thread = match (thread, own_thread) {
            (0, _) => ReceiptThread::Unthreaded,
            (1, None) => ReceiptThread::Main,
            (1, Some(_)) => return,
            (_, Some(root)) => ReceiptThread::Thread(self.said[root].event.pdu.event_id.clone()),
            (_, None) => ReceiptThread::Thread(event.pdu.event_id.clone()),
        };
        let kind = if private { ReceiptType::ReadPrivate } else { ReceiptType::Read };
        let rooms = &self.rooms;
        rooms.store.write(|tx| receipts::set(tx, rooms, &user(reader), &kind, &event, &thread, None)).unwrap();
        let marks = &mut self.marks[reader];
        let mark = match (&thread, own_thread) {
            (ReceiptThread::Unthreaded, _) => &mut marks.unthreaded,
            (ReceiptThread::Thread(_), root) => marks.threads.entry(root.unwrap_or(index)).or_default(),
            _ => &mut marks.main,
        };
        *mark = (*mark).max(event.order);
    }

    fn change_rules(&mut self, owner: usize, change: u8) {
        let id = rooms::get(&self.rooms.store.read(), self.room).unwrap().id;
        let mut ruleset = notifications::ruleset(&self.rooms.store.read(), &user(owner)).unwrap();
        let highlight = vec![Action::Notify, Action::SetTweak(Tweak::Highlight(HighlightTweakValue::Yes))];
        let in_room = PushCondition::EventMatch(EventMatchConditionData::new("room_id".into(), id.to_string()));
        let new = match change {
            0 => Some(NewPushRule::Override(NewConditionalPushRule::new(id.to_string(), vec![in_room], vec![]))),
            1 => Some(NewPushRule::Room(NewSimplePushRule::new(id, vec![]))),
            2 => Some(NewPushRule::Content(NewPatternedPushRule::new("cake".into(), "cake".into(), highlight))),
            3 => Some(NewPushRule::Sender(NewSimplePushRule::new(user(1), highlight))),
            #[allow(deprecated)] // clients still have such rules
            4 => {
                let by_name =
                    NewConditionalPushRule::new("name".into(), vec![PushCondition::ContainsDisplayName], highlight);
                Some(NewPushRule::Override(by_name))
            }
            5 => {
                rules::set_enabled(&mut ruleset, RuleKind::Underride, ".m.rule.message", false).unwrap();
                None
            }
            6 => {
                rules::set_enabled(&mut ruleset, RuleKind::Override, ".m.rule.master", true).unwrap();
                None
            }
            _ => {
                ruleset = rules::defaults(&user(owner));
                None
            }
        };
        if let Some(new) = new {
            rules::insert(&mut ruleset, new, None, None).unwrap();
        }
        let rosters = &self.rooms.rosters;
        self.rooms.store.write(|tx| notifications::set_ruleset(tx, rosters, &user(owner), &ruleset)).unwrap();
    }

    /// The user's counts, by looking at every event.
    fn replay(&self, index: usize) -> RoomCounts {
        let marks = &self.marks[index];
        let mut counts = RoomCounts::default();
        let mut threads: BTreeMap<OwnedEventId, Counts> = BTreeMap::new();
        for said in &self.said {
            let mark = said.thread.map_or(marks.main, |root| marks.threads.get(&root).copied().unwrap_or(0));
            let Some((notification, highlight)) = said.outcomes.get(&index) else { continue };
            if said.event.order <= marks.joined.max(marks.unthreaded).max(mark) {
                continue;
            }
            let counts = match said.thread {
                Some(root) => threads.entry(self.said[root].event.pdu.event_id.clone()).or_default(),
                None => &mut counts.main,
            };
            counts.notification += notification;
            counts.highlight += highlight;
        }
        counts.threads = threads.into_iter().filter(|(_, counts)| *counts != Counts::default()).collect();
        counts
    }
}

fn client_json(event: &Event) -> Value {
    let mut json = json!({
        "type": event.pdu.kind.to_string(),
        "sender": event.pdu.sender,
        "event_id": event.pdu.event_id,
        "room_id": event.pdu.room_id,
        "content": serde_json::from_str::<Value>(event.pdu.content.get()).unwrap(),
    });
    if let Some(state_key) = &event.pdu.state_key {
        json["state_key"] = state_key.clone().into();
    }
    json
}

fn by_ruma(ruleset: &Ruleset, event: &Value, context: &PushConditionRoomCtx) -> (u64, u64) {
    let raw: Raw<Value> = Raw::new(event).unwrap();
    let actions = ruleset.get_actions(&raw, context).now_or_never().unwrap();
    let notify = actions.iter().any(Action::should_notify);
    (u64::from(notify), u64::from(notify && actions.iter().any(Action::is_highlight)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn counts_equal_a_replay_of_the_rules(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            let read = world.rooms.store.read();
            for index in world.joined.clone() {
                prop_assert!(members::is_joined(&read, world.room, &user(index)).unwrap());
                let counts = notifications::counts(&read, &user(index), world.room).unwrap();
                prop_assert_eq!(counts, world.replay(index), "user {} after {:?}", index, step);
            }
        }
    }

    #[test]
    fn patterns_match_as_ruma_has_it(
        pattern in "[ab A*?_-]{0,6}",
        text in "[ab A_-]{0,12}",
        key in prop::sample::select(vec!["content.body", "content.x"]),
    ) {
        // Of two wildcards in a row, ruma takes the second for a plain character where it matches words.
        let wild = |character: u8| matches!(character, b'*' | b'?');
        prop_assume!(key == "content.x" || !pattern.as_bytes().windows(2).any(|pair| pair.iter().all(|c| wild(*c))));
        let me = user_id!("@me:localhost");
        let room = room_id!("!room:localhost");
        let mut ruleset = Ruleset::new();
        let condition = PushCondition::EventMatch(EventMatchConditionData::new(key.to_owned(), pattern.clone()));
        let rule = NewConditionalPushRule::new("rule".into(), vec![condition], vec![Action::Notify]);
        ruleset.override_.insert(ConditionalPushRule::from(rule));
        let content = json!({ "body": text, "x": text });
        let event = json!({ "type": "m.room.message", "sender": "@you:localhost", "content": content });
        let context = PushConditionRoomCtx::new(room.to_owned(), UInt::from(2_u8), me.to_owned(), "me".to_owned());
        let expected = by_ruma(&ruleset, &event, &context);
        let content = to_raw_value(&content).unwrap();
        let properties = Properties {
            event_id: "$event",
            room_id: room,
            kind: &"m.room.message".into(),
            sender: user_id!("@you:localhost"),
            state_key: None,
            origin_server_ts: 0,
            content: &content,
        };
        let facts = Facts::new(&properties, 2, &|_| Ok(false)).unwrap();
        let outcome = Compiled::new(&ruleset, me, room).outcome(&facts, Some(Me { id: me, name: None, follows: false })).unwrap();
        prop_assert_eq!(u64::from(outcome.notify), expected.0, "{:?} on {:?}", pattern, text);
    }
}

#[test]
fn a_class_is_what_rules_do_in_a_room() {
    let room = room_id!("!room:localhost");
    let [alice, bob] = [owned_user_id!("@alice:localhost"), owned_user_id!("@bob:localhost")];
    let class = |user: &UserId, change: &dyn Fn(&mut Ruleset)| {
        let mut ruleset = rules::defaults(user);
        change(&mut ruleset);
        Compiled::new(&ruleset, user, room).class().to_owned()
    };
    let untouched = class(&alice, &|_| {});
    assert_eq!(untouched, class(&bob, &|_| {}));
    // Rules for another room change nothing here, and a mute of this one is the same whichever way it is written.
    let elsewhere = NewSimplePushRule::new(room_id!("!other:localhost").to_owned(), vec![]);
    assert_eq!(untouched, class(&bob, &|set| assert!(set.room.insert(elsewhere.clone().into()))));
    let mute = || {
        let condition = PushCondition::EventMatch(EventMatchConditionData::new("room_id".into(), room.to_string()));
        let rule = NewConditionalPushRule::new(room.to_string(), vec![condition], vec![]);
        move |set: &mut Ruleset| rules::insert(set, NewPushRule::Override(rule.clone()), None, None).unwrap()
    };
    assert_eq!(class(&alice, &mute()), class(&bob, &mute()));
    assert_ne!(untouched, class(&bob, &mute()));
}

#[tokio::test]
async fn rules_are_changed_by_the_api() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let path = |rest: &str| format!("/_matrix/client/v3/pushrules/{rest}");
    let all = alice.ok(Method::GET, &path(""), Value::Null).await;
    assert_eq!(all["global"]["override"][0]["rule_id"], ".m.rule.master");
    assert_eq!(all["global"], alice.ok(Method::GET, &path("global/"), Value::Null).await);
    let cake = json!({ "pattern": "cake", "actions": ["notify"] });
    alice.ok(Method::PUT, &path("global/content/cake"), cake.clone()).await;
    alice.ok(Method::PUT, &path("global/content/tea?after=cake"), cake.clone()).await;
    // Conditions can be absent.
    alice.ok(Method::PUT, &path("global/override/all"), json!({ "actions": ["dont_notify"] })).await;
    let all = alice.ok(Method::GET, &path("global/"), Value::Null).await;
    assert_eq!(all["content"][1]["rule_id"], "tea");
    assert_eq!(all["override"][1]["actions"], json!(["dont_notify"]));
    let enabled = path("global/content/cake/enabled");
    assert_eq!(alice.ok(Method::GET, &enabled, Value::Null).await["enabled"], true);
    alice.ok(Method::PUT, &enabled, json!({ "enabled": false })).await;
    assert_eq!(alice.ok(Method::GET, &enabled, Value::Null).await["enabled"], false);
    let actions = path("global/content/cake/actions");
    alice.ok(Method::PUT, &actions, json!({ "actions": [] })).await;
    assert_eq!(alice.ok(Method::GET, &actions, Value::Null).await["actions"], json!([]));
    for (method, rest, body, status, code) in [
        (Method::PUT, "global/content/.mine", cake.clone(), StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
        (Method::PUT, "global/content/a%2Fb", cake.clone(), StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
        (Method::PUT, "global/content/x?before=y", cake.clone(), StatusCode::BAD_REQUEST, "M_UNKNOWN"),
        (Method::PUT, "global/content/x", json!({ "actions": [] }), StatusCode::BAD_REQUEST, "M_BAD_JSON"),
        (Method::DELETE, "global/override/.m.rule.master", Value::Null, StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
        (Method::DELETE, "global/content/nothing", Value::Null, StatusCode::NOT_FOUND, "M_NOT_FOUND"),
        (Method::GET, "global/content/nothing/enabled", Value::Null, StatusCode::NOT_FOUND, "M_NOT_FOUND"),
        (Method::PUT, "global/room/nothing/actions", json!({ "actions": [] }), StatusCode::NOT_FOUND, "M_NOT_FOUND"),
    ] {
        let body = (!body.is_null()).then_some(body);
        let (found, answer) = alice.json(method.clone(), &path(rest), body).await;
        assert_eq!((found, answer["errcode"].as_str()), (status, Some(code)), "{method} {rest}: {answer}");
    }
    alice.ok(Method::DELETE, &path("global/content/cake"), Value::Null).await;
    let (status, _) = alice.get(&path("global/content/cake")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn receipts_and_notifications() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let first = alice.send_text(&room, "one").await;
    let mention = json!({ "msgtype": "m.text", "body": "two", "m.mentions": { "user_ids": [bob.user_id] } });
    let second = alice.send(&room, "m.room.message", mention).await;
    let list = bob.ok(Method::GET, "/_matrix/client/v3/notifications", Value::Null).await;
    let ids = |list: &Value| -> Vec<String> {
        let list = list["notifications"].as_array().unwrap();
        list.iter().map(|one| one["event"]["event_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&list), [second.clone(), first.clone()]);
    assert_eq!(list["notifications"][0]["read"], false);
    let highlights = bob.ok(Method::GET, "/_matrix/client/v3/notifications?only=highlight", Value::Null).await;
    assert_eq!(ids(&highlights), std::slice::from_ref(&second));
    let page = bob.ok(Method::GET, "/_matrix/client/v3/notifications?limit=1", Value::Null).await;
    let rest = format!("/_matrix/client/v3/notifications?from={}", page["next_token"].as_str().unwrap());
    assert_eq!(ids(&bob.ok(Method::GET, &rest, Value::Null).await), std::slice::from_ref(&first));
    let receipt = |kind: &str, event: &str| {
        format!("/_matrix/client/v3/rooms/{}/receipt/{kind}/{}", encode(&room), encode(event))
    };
    bob.ok(Method::POST, &receipt("m.read", &second), json!({})).await;
    let list = bob.ok(Method::GET, "/_matrix/client/v3/notifications", Value::Null).await;
    assert_eq!(list["notifications"][0]["read"], true);
    for (kind, event, body, status) in [
        ("m.read", "$nothing", json!({}), StatusCode::NOT_FOUND),
        ("m.unheard_of", first.as_str(), json!({}), StatusCode::BAD_REQUEST),
        ("m.read", first.as_str(), json!({ "thread_id": "" }), StatusCode::BAD_REQUEST),
        ("m.read", first.as_str(), json!({ "thread_id": second }), StatusCode::BAD_REQUEST),
        ("m.fully_read", first.as_str(), json!({ "thread_id": "main" }), StatusCode::BAD_REQUEST),
        ("m.fully_read", first.as_str(), json!({}), StatusCode::OK),
        ("m.read.private", first.as_str(), json!({ "thread_id": "main" }), StatusCode::OK),
    ] {
        let (found, answer) = bob.post(&receipt(kind, event), body).await;
        assert_eq!(found, status, "{kind} {event}: {answer}");
    }
    let markers = format!("/_matrix/client/v3/rooms/{}/read_markers", encode(&room));
    bob.ok(Method::POST, &markers, json!({ "m.fully_read": second, "m.read.private": second })).await;
    let marker = format!("/_matrix/client/v3/user/{}/rooms/{}/account_data/m.fully_read", bob.user_id, encode(&room));
    assert_eq!(bob.ok(Method::GET, &marker, Value::Null).await["event_id"], second.as_str());
    let eve = server.register("eve").await;
    let (status, _) = eve.post(&receipt("m.read", &first), json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    server.stop().await;
}

#[tokio::test]
async fn what_ignored_users_write_is_not_unread() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let (bob, carol) = (server.register("bob").await, server.register("carol").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    carol.join(&room).await;
    let mention = json!({ "msgtype": "m.text", "body": "you", "m.mentions": { "user_ids": [alice.user_id] } });
    let ignores = async |users: Value| {
        let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", encode(&alice.user_id));
        alice.ok(Method::PUT, &path, json!({ "ignored_users": users })).await;
    };
    let unread = async || {
        let counts = alice.sync("").await["rooms"]["join"][&room]["unread_notifications"].clone();
        (counts["notification_count"].as_u64().unwrap(), counts["highlight_count"].as_u64().unwrap())
    };
    // Who is written to before has a list of members in memory.
    carol.send_text(&room, "hello").await;
    ignores(json!({ bob.user_id.clone(): {} })).await;
    bob.send(&room, "m.room.message", mention.clone()).await;
    bob.send_text(&room, "nobody hears me").await;
    assert_eq!(unread().await, (1, 0));
    carol.send(&room, "m.room.message", mention.clone()).await;
    assert_eq!(unread().await, (2, 1));
    ignores(json!({})).await;
    bob.send(&room, "m.room.message", mention).await;
    assert_eq!(unread().await, (3, 2));
    server.stop().await;
}

#[tokio::test]
async fn threads_are_read_apart() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let since = bob.sync("timeout=0").await["next_batch"].as_str().unwrap().to_owned();
    let related = |to: &str, how: &str, mentions: Value| {
        let relation = json!({ "rel_type": how, "event_id": to });
        json!({ "msgtype": "m.text", "body": "x", "m.relates_to": relation, "m.mentions": mentions })
    };
    let message = "m.room.message";
    let for_bob = json!({ "user_ids": [bob.user_id] });
    let root = alice.send_text(&room, "root").await;
    let start = alice.send(&room, message, related(&root, "m.thread", json!({}))).await;
    alice.send(&room, message, related(&root, "m.thread", for_bob.clone())).await;
    let named = json!({ "msgtype": "m.text", "body": "y", "m.mentions": for_bob });
    let named = alice.send(&room, message, named).await;
    alice.send(&room, message, related(&root, "m.thread", json!({}))).await;
    let reference = alice.send(&room, message, related(&root, "m.reference", json!({}))).await;
    let reaction = alice.send(&room, "org.example.reaction", related(&reference, "m.annotation", json!({}))).await;

    let counts = async |filter: &str| {
        let answer = bob.sync(&format!("since={since}&timeout=0&filter={}", encode(filter))).await;
        let part = &answer["rooms"]["join"][&room];
        let pair = |counts: &Value| (counts["notification_count"].as_u64(), counts["highlight_count"].as_u64());
        let threads = part.get("unread_thread_notifications").map(|threads| pair(&threads[&root]));
        (pair(&part["unread_notifications"]), threads)
    };
    let pair = |notifications: u64, highlights: u64| (Some(notifications), Some(highlights));
    let apart = r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#;
    assert_eq!(counts("{}").await, (pair(6, 2), None));
    assert_eq!(counts(apart).await, (pair(3, 1), Some(pair(3, 1))));
    // Each receipt, what is unread altogether after it, in the main timeline, in the thread.
    for (event, thread, all, main, in_thread) in [
        (&root, Some("main"), pair(5, 2), pair(2, 1), Some(pair(3, 1))),
        (&start, Some(root.as_str()), pair(4, 2), pair(2, 1), Some(pair(2, 1))),
        (&named, None, pair(2, 0), pair(1, 0), Some(pair(1, 0))),
        (&reaction, Some(root.as_str()), pair(1, 0), pair(1, 0), None),
    ] {
        let path = format!("/_matrix/client/v3/rooms/{}/receipt/m.read/{}", encode(&room), encode(event));
        let body = thread.map_or(json!({}), |thread| json!({ "thread_id": thread }));
        bob.ok(Method::POST, &path, body).await;
        assert_eq!(counts("{}").await, (all, None), "{thread:?}");
        assert_eq!(counts(apart).await, (main, in_thread), "{thread:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn proposed_rules_for_polls_and_for_encrypted_events() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    carol.join(&room).await;
    let unread =
        || async { bob.sync("").await["rooms"]["join"][&room]["unread_notifications"]["notification_count"].clone() };
    alice.send(&room, "org.matrix.msc3381.poll.start", json!({ "question": "Tea?" })).await;
    assert_eq!(unread().await, 1);
    alice.send(&room, "org.matrix.msc3381.poll.response", json!({ "answer": "Yes" })).await;
    assert_eq!(unread().await, 1);

    let rules = "/_matrix/client/v3/pushrules/global";
    let mute = format!("{rules}/room/{}", encode(&room));
    bob.ok(Method::PUT, &mute, json!({ "actions": [] })).await;
    let rule = format!("{rules}/override/.org.matrix.msc4028.encrypted_event");
    let shown = bob.ok(Method::GET, &rule, Value::Null).await;
    assert_eq!((&shown["enabled"], &shown["default"]), (&json!(false), &json!(true)));
    alice.send(&room, "m.room.encrypted", json!({ "ciphertext": "1" })).await;
    assert_eq!(unread().await, 1);
    bob.ok(Method::PUT, &format!("{rule}/enabled"), json!({ "enabled": true })).await;
    alice.send(&room, "m.room.encrypted", json!({ "ciphertext": "2" })).await;
    assert_eq!(unread().await, 2);
}
