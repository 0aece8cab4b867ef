//! The room engine, driven directly over a store in a temporary folder.

mod deltas;
mod events;
mod extremities;
pub mod federated;
mod graph;
mod members;
mod relations;
mod resolve;
mod second_look;
mod servers;
mod visibility;
mod worked_examples;

use std::sync::Arc;

use conduit::{
    check,
    ids::RoomNo,
    media::files::Files,
    rooms::{Draft, Event, Rooms, append, build, event},
    store::Store,
};
use ruma::{
    OwnedRoomId, OwnedUserId, RoomVersionId, ServerName, UserId,
    events::{StateEventType, TimelineEventType},
    server_name,
};
use serde_json::{Value, json, value::to_raw_value};
use tempfile::TempDir;

/// A room engine of its own.
pub struct World {
    pub rooms: Arc<Rooms>,
    folder: TempDir,
}

/// What the rows say of rooms fits together after every test.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let files = Files::existing(self.folder.path().join("media"));
            let report = check::run(&self.rooms.store.read(), &files).unwrap();
            assert!(report.is_clean(), "{report}");
        }
    }
}

pub fn world() -> World {
    world_of(server_name!("localhost"))
}

/// The room engine of a server with this name.
pub fn world_of(name: &ServerName) -> World {
    let folder = TempDir::new().unwrap();
    let store = Arc::new(Store::open(folder.path(), name, 8 << 20).unwrap());
    let keys = store.signing_keys().unwrap();
    World { rooms: Arc::new(Rooms::new(store, keys)), folder }
}

pub fn user(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:localhost")).unwrap()
}

pub fn version(number: u8) -> RoomVersionId {
    RoomVersionId::try_from(number.to_string()).unwrap()
}

pub fn state(kind: StateEventType, key: &str, content: Value) -> Draft {
    Draft::state(kind, key, &content).unwrap()
}

pub fn member(membership: &str, of: &UserId) -> Draft {
    state(StateEventType::RoomMember, of.as_str(), json!({"membership": membership}))
}

pub fn text(body: &str) -> Draft {
    message(json!({"msgtype": "m.text", "body": body}))
}

pub fn message(content: Value) -> Draft {
    Draft::message(TimelineEventType::RoomMessage, to_raw_value(&content).unwrap())
}

/// A public room by alice, with what every room has.
pub fn make_room(rooms: &Rooms, number: u8) -> OwnedRoomId {
    let alice = UserId::parse(format!("@alice:{}", rooms.server_name)).unwrap();
    let version = version(number);
    let mut users = json!({alice.as_str(): 100});
    if number >= 12 {
        users = json!({});
    }
    let drafts = [
        member("join", &alice),
        state(StateEventType::RoomPowerLevels, "", json!({"users": users})),
        state(StateEventType::RoomJoinRules, "", json!({"join_rule": "public"})),
        state(StateEventType::RoomHistoryVisibility, "", json!({"history_visibility": "shared"})),
    ];
    rooms
        .store
        .write(|tx| {
            let content = to_raw_value(&json!({})).unwrap();
            let (no, create) = build::create(rooms, tx, &version, &alice, &content)?;
            for draft in drafts {
                let authorized = build::prepare(rooms, tx, no, &alice, draft)?;
                append::append(tx, rooms, authorized)?;
            }
            Ok(create.pdu.room_id)
        })
        .unwrap()
}

impl World {
    /// A public room by alice, with what every room has.
    pub fn room(&self, number: u8) -> OwnedRoomId {
        make_room(&self.rooms, number)
    }

    pub async fn send(&self, room: &OwnedRoomId, sender: &UserId, draft: Draft) -> conduit::error::Result<Event> {
        let guard = self.rooms.lock(room).await;
        self.rooms.send(&guard, sender, draft)
    }

    pub fn no(&self, room: &OwnedRoomId) -> RoomNo {
        conduit::rooms::find(&self.rooms.store.read(), room).unwrap().unwrap()
    }

    pub fn event(&self, event: &Event) -> Arc<Event> {
        event::require(&self.rooms.store.read(), event.no).unwrap()
    }
}

/// The status of the error that something ended in, or 200.
pub fn status<T>(result: &conduit::error::Result<T>) -> u16 {
    result.as_ref().map_or_else(|error| error.status().as_u16(), |_| 200)
}
