//! Several room engines that hand each other their events, as servers do, without a network between them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    sync::Arc,
};

use conduit::rooms::{
    self, Draft, Event, Import, Outcome, Rooms, Signed, canonical, event,
    receive::{self, Received},
    state,
};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, ServerName, UserId,
    events::StateEventType,
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion},
    serde::Base64,
    signatures::PublicKeyMap,
};
use serde_json::{Value, json, value::RawValue};

use super::{World, make_room, version, world_of};

/// Servers in one room, and all events that they made.
pub struct Federation {
    /// The room engine of each.
    pub servers: Vec<Arc<Rooms>>,
    /// What they run in, if in nothing else.
    _worlds: Vec<World>,
    pub room: OwnedRoomId,
    pub version: RoomVersionId,
    pub keys: PublicKeyMap,
    events: RefCell<HashMap<OwnedEventId, Box<RawValue>>>,
}

/// The user of this name on server number `server`.
pub fn of(server: usize, name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:{}", server_name(server))).unwrap()
}

fn server_name(server: usize) -> String {
    format!("{}.test", ["a", "b", "c", "d"][server])
}

pub fn raw(json: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(json).unwrap()
}

impl Federation {
    /// A public room by alice of the first of `servers` servers, which `bob`, `carol` and so on of the others joined.
    pub async fn new(number: u8, servers: usize) -> Self {
        let worlds: Vec<_> =
            (0..servers).map(|server| world_of(<&ServerName>::try_from(&*server_name(server)).unwrap())).collect();
        let room = make_room(&worlds[0].rooms, number);
        let rooms = worlds.iter().map(|world| world.rooms.clone()).collect();
        let federation = Self { _worlds: worlds, ..Self::over(rooms, room, version(number)) };
        federation.collect(0);
        for (server, name) in (1..servers).zip(["bob", "carol", "dora"]) {
            federation.join(0, server, &of(server, name)).await;
        }
        for server in 1..servers {
            federation.deliver_all(server).await;
        }
        federation
    }

    /// These servers, of which the first has the room.
    pub fn over(servers: Vec<Arc<Rooms>>, room: OwnedRoomId, version: RoomVersionId) -> Self {
        let mut keys = PublicKeyMap::new();
        for server in &servers {
            let own = &server.keys;
            let key = Base64::parse(own.public_key()).unwrap();
            keys.entry(own.server_name().to_string()).or_default().insert(own.id().to_owned(), key);
        }
        Self { servers, _worlds: Vec::new(), room, version, keys, events: RefCell::default() }
    }

    /// Notes every event that a server has.
    pub fn collect(&self, server: usize) {
        let read = self.servers[server].store.read();
        let mut events = self.events.borrow_mut();
        for row in conduit::store::trees::EVENTS.scan(&read, (), conduit::store::Direction::Forward) {
            let (_, row) = row.unwrap();
            events.entry(row.event_id).or_insert_with(|| RawValue::from_string(row.json).unwrap());
        }
    }

    pub fn json(&self, id: &EventId) -> Box<RawValue> {
        self.events.borrow()[id].clone()
    }

    pub fn ids(&self) -> BTreeSet<OwnedEventId> {
        self.events.borrow().keys().cloned().collect()
    }

    pub fn parse(&self, json: &RawValue) -> Result<Received, String> {
        receive::parse(json, &self.version)
    }

    pub fn signed(&self, json: &RawValue) -> Signed {
        receive::verify(self.parse(json).unwrap(), &self.keys).unwrap()
    }

    /// Gives a server an event.
    pub async fn give(&self, server: usize, id: &EventId) -> Outcome {
        self.give_signed(server, self.signed(&self.json(id))).await
    }

    pub async fn give_signed(&self, server: usize, signed: Signed) -> Outcome {
        let rooms = &self.servers[server];
        let guard = rooms.lock(&self.room).await;
        rooms.receive(&guard, signed).await.unwrap()
    }

    /// Gives a server all events that there are, again and again, until none is missing any more.
    pub async fn deliver_all(&self, server: usize) {
        let mut open: Vec<_> = self.ids().into_iter().collect();
        self.deliver(server, &mut open).await;
        assert!(open.is_empty(), "{open:?} could not be delivered to server {server}");
    }

    /// Gives a server events in this order, and again those that miss something; leaves those that miss it still.
    pub async fn deliver(&self, server: usize, open: &mut Vec<OwnedEventId>) {
        loop {
            let mut left = Vec::new();
            for id in open.iter() {
                if let Outcome::Missing { .. } = self.give(server, id).await {
                    left.push(id.clone());
                }
            }
            let stuck = left.len() == open.len();
            *open = left;
            if open.is_empty() || stuck {
                return;
            }
        }
    }

    /// A user of a server says something.
    pub async fn send(&self, server: usize, sender: &UserId, draft: Draft) -> conduit::error::Result<Event> {
        let rooms = &self.servers[server];
        let guard = rooms.lock(&self.room).await;
        let sent = rooms.send(&guard, sender, draft)?;
        self.events
            .borrow_mut()
            .insert(sent.pdu.event_id.clone(), RawValue::from_string(sent.pdu.json.clone()).unwrap());
        Ok(sent)
    }

    /// An event as a server would make it for its user, signed by the server of `sender`, that follows what server `at`
    /// has; `change` changes it before it is hashed.
    pub fn make(&self, at: usize, sender: &UserId, event: Value, change: impl FnOnce(&mut Value)) -> Box<RawValue> {
        let rules = self.version.rules().unwrap();
        let read = self.servers[at].store.read();
        let (no, _) = rooms::require(&read, &self.room).unwrap();
        let extremities = conduit::store::trees::EXTREMITIES.get(&read, no).unwrap().unwrap().0;
        let prev: Vec<_> = extremities.into_iter().map(|no| event::require(&read, no).unwrap()).collect();
        let kind = event["type"].as_str().unwrap();
        let content = raw(&event["content"]);
        let keys = ruma::state_res::auth_types_for_event(
            &kind.into(),
            sender,
            event["state_key"].as_str(),
            &content,
            &rules.authorization,
        );
        let auth: Vec<_> =
            keys.unwrap().into_iter().filter_map(|(kind, key)| state::get(&read, no, &kind, &key).unwrap()).collect();
        let reference = |event: &Arc<Event>| match rules.events_reference_format {
            EventsReferenceFormatVersion::V1 => {
                let text = canonical::reference_text(&event.pdu.json, &rules.redaction).unwrap();
                json!([event.pdu.event_id, {"sha256": canonical::hash(&text)}])
            }
            _ => json!(event.pdu.event_id),
        };
        let mut event = event;
        event["room_id"] = json!(self.room);
        event["sender"] = json!(sender);
        event["origin_server_ts"] = json!(ruma::MilliSecondsSinceUnixEpoch::now());
        event["depth"] = json!(prev.iter().map(|event| event.pdu.depth).max().unwrap() + 1);
        event["prev_events"] = prev.iter().map(reference).collect();
        event["auth_events"] = auth.iter().map(reference).collect();
        if rules.event_id_format == EventIdFormatVersion::V1 {
            let id = format!("${}:{}", conduit::clock::random_string(12).unwrap(), sender.server_name());
            event["event_id"] = json!(id);
        }
        change(&mut event);
        self.sign(sender.server_name(), event)
    }

    /// Hashes and signs an event as one of the servers.
    pub fn sign(&self, server: &ServerName, mut event: Value) -> Box<RawValue> {
        let rules = self.version.rules().unwrap();
        event.as_object_mut().unwrap().remove("hashes");
        event.as_object_mut().unwrap().remove("signatures");
        event["hashes"] = json!({"sha256": canonical::hash(&event.to_string())});
        self.sign_as_it_is(server, event, &rules)
    }

    pub fn sign_as_it_is(
        &self,
        server: &ServerName,
        mut event: Value,
        rules: &ruma::room_version_rules::RoomVersionRules,
    ) -> Box<RawValue> {
        let keys = &self.servers.iter().find(|rooms| rooms.server_name == server).unwrap().keys;
        let text = canonical::reference_text(&event.to_string(), &rules.redaction).unwrap();
        event["signatures"] = json!({keys.server_name().as_str(): {keys.id(): keys.sign(text.as_bytes())}});
        raw(&event)
    }

    /// Notes an event that was made by hand.
    pub fn note(&self, json: Box<RawValue>) -> OwnedEventId {
        let id = self.parse(&json).unwrap().event_id().to_owned();
        self.events.borrow_mut().insert(id.clone(), json);
        id
    }

    /// A user of server `to` joins the room through server `from`.
    pub async fn join(&self, from: usize, to: usize, user: &UserId) -> Event {
        let content = json!({"membership": "join"});
        let event = json!({"type": "m.room.member", "state_key": user, "content": content});
        let join = self.make(from, user, event, |_| ());
        let id = self.note(join);
        let Outcome::Accepted(event) = self.give(from, &id).await else { panic!("the join was not accepted") };
        let (state, auth) = self.state_before(from, &event);
        let rooms = &self.servers[to];
        let guard = rooms.lock(&self.room).await;
        let import = Import { event: self.signed(&self.json(&id)), state, auth, omitted: None };
        let (_, joined) = rooms.import(&guard, &self.version, import).await.unwrap();
        assert_eq!(joined.pdu.event_id, id);
        joined
    }

    /// The state before an event that a server has, and the auth chains of both.
    pub fn state_before(&self, server: usize, event: &Event) -> (Vec<Signed>, Vec<Signed>) {
        let read = self.servers[server].store.read();
        let state: Vec<_> = state::at(&read, event.state_before)
            .unwrap()
            .into_values()
            .map(|no| event::require(&read, no).unwrap())
            .collect();
        let mut chain: BTreeMap<OwnedEventId, Arc<Event>> = BTreeMap::new();
        let mut open = event.pdu.auth_events.clone();
        open.extend(state.iter().flat_map(|event| event.pdu.auth_events.clone()));
        while let Some(id) = open.pop() {
            if let Entry::Vacant(place) = chain.entry(id) {
                let event = event::by_id(&read, place.key()).unwrap().unwrap();
                open.extend(event.pdu.auth_events.clone());
                place.insert(event);
            }
        }
        let signed = |event: &Arc<Event>| self.signed(&RawValue::from_string(event.pdu.json.clone()).unwrap());
        (state.iter().map(signed).collect(), chain.values().map(signed).collect())
    }

    /// The room's current state on a server.
    pub fn state(&self, server: usize) -> BTreeMap<(StateEventType, String), OwnedEventId> {
        let read = self.servers[server].store.read();
        let (no, _) = rooms::require(&read, &self.room).unwrap();
        let entry =
            |(key, no)| (state::key_of(&read, key).unwrap(), event::require(&read, no).unwrap().pdu.event_id.clone());
        state::all(&read, no).unwrap().into_iter().map(entry).collect()
    }

    /// The room's forward extremities on a server.
    pub fn extremities(&self, server: usize) -> BTreeSet<OwnedEventId> {
        let read = self.servers[server].store.read();
        let (no, _) = rooms::require(&read, &self.room).unwrap();
        let extremities = conduit::store::trees::EXTREMITIES.get(&read, no).unwrap().unwrap().0;
        extremities.into_iter().map(|no| event::require(&read, no).unwrap().pdu.event_id.clone()).collect()
    }
}
