//! Rooms whose graph has many ends.
//!
//! Servers that write at the same time fork a room's graph; the next event that follows all its ends makes one of them
//! again. In a room where this server's users only read, ends add up, and each is one more state to resolve whenever an
//! event comes. So from [`MANY`] on, a user of this server who may writes an event that nobody sees and that follows them
//! all: `org.matrix.dummy_event`, as other servers do. It is not sent to anybody, since all of them may have the same idea;
//! who gets a later event of this server's fetches it.
//!
//! Bounds: [`ROOMS`] rooms a minute, each once in [`PAUSE`] at most, whatever comes of it; only rooms that changed are
//! looked at.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ruma::OwnedUserId;
use serde_json::value::RawValue;

use super::{Federation, policy};
use crate::{
    clock,
    error::Result,
    ids::{Position, RoomNo},
    rooms::{self, Draft, extremities, members, power_levels, timeline, visibility::DUMMY_EVENT},
    store::Read,
};

/// From how many ends on a room's graph is tied together.
pub const MANY: usize = 10;

/// How many rooms are seen to at a time.
const ROOMS: usize = 5;

/// How long a room is left alone after that.
const PAUSE: Duration = Duration::from_secs(10 * 60);

/// How often rooms are looked for.
const EVERY: Duration = Duration::from_secs(60);

/// Ties rooms together for as long as the server runs.
pub async fn run(federation: &Federation) {
    let mut ticks = tokio::time::interval(EVERY);
    let mut ends = LooseEnds::default();
    loop {
        ticks.tick().await;
        if let Err(error) = ends.tie(federation).await {
            tracing::error!("rooms whose graph has many ends could not be looked for: {error}");
        }
    }
}

/// Which rooms were looked at, and seen to lately.
#[derive(Default)]
pub struct LooseEnds {
    seen: Position,
    lately: HashMap<RoomNo, Instant>,
}

impl LooseEnds {
    /// Ties some of the rooms that have many ends; gives how many.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub async fn tie(&mut self, federation: &Federation) -> Result<usize> {
        self.lately.retain(|_, at| at.elapsed() < PAUSE);
        let rooms = self.next(&federation.rooms.store.read())?;
        let mut tied = 0;
        for room in rooms {
            self.lately.insert(room, clock::instant());
            match tie(federation, room).await {
                Ok(done) => tied += usize::from(done),
                Err(error) => tracing::debug!("the ends of room {room:?} stay as they are: {error}"),
            }
        }
        Ok(tied)
    }

    /// The rooms to see to now. What is left over is looked at again.
    fn next(&mut self, read: &dyn Read) -> Result<Vec<RoomNo>> {
        let mut rooms = Vec::new();
        for row in timeline::changed_since(read, self.seen) {
            let (changed, room) = row?;
            if rooms.len() == ROOMS {
                break;
            }
            let ends = extremities::of(read, room)?.len();
            if ends >= MANY && !self.lately.contains_key(&room) {
                rooms.push(room);
            }
            self.seen = changed;
        }
        Ok(rooms)
    }
}

/// Sends the event, if somebody of this server may.
async fn tie(federation: &Federation, room: RoomNo) -> Result<bool> {
    let engine = &federation.rooms;
    let (id, sender) = {
        let read = engine.store.read();
        (rooms::get(&read, room)?.id, sender(&read, room)?)
    };
    let Some(sender) = sender else { return Ok(false) };
    let guard = engine.lock(&id).await;
    let nothing = RawValue::from_string("{}".to_owned())?;
    let authorized = policy::prepare(federation, &guard, &sender, Draft::message(DUMMY_EVENT.into(), nothing)).await?;
    engine.append(authorized.for_ourselves(), |_, _| Ok(())).map(|_| true)
}

/// A user of this server who may send the event.
fn sender(read: &dyn Read, no: RoomNo) -> Result<Option<OwnedUserId>> {
    let room = rooms::get(read, no)?;
    if room.create.is_none() || room.local_joined == 0 {
        return Ok(None);
    }
    let powers = power_levels::of_room(read, no, &room)?;
    let may_send = |user: &OwnedUserId| powers.user_can_send_message(user, DUMMY_EVENT.into());
    Ok(members::local_joined(read, no)?.into_iter().find(may_send))
}
