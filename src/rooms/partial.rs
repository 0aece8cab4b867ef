//! Rooms whose members are not all known yet: faster joins
//! ([spec](https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2send_joinroomideventid), `omit_members`;
//! MSC3902).
//!
//! Nearly all of a large room's state are its members. A join can be told the rest alone, and the room is used at once.
//! What is known then is put on a *floor*, a state of which nothing is known (`deltas.rs`), and whatever happens is stacked
//! upon it. [`Rooms::complete`] takes the members when they are here: it fills the floor with one row, which completes
//! every state above; goes through the events that came meanwhile once more (`recheck.rs`); and enters the members into
//! the indexes over the current state, in chunks.
//!
//! Invariants: `Room::partial` says that members are missing, as long as a user of this server is in the room
//! `MISSING_MEMBERS` that they are to be asked for; without it, the current state is whole. `MEMBERS` and the like have
//! only who is known, and never guess. If everyone leaves before, the room stays as it is; whoever joins it then joins it
//! anew.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, UserId, events::TimelineEventType};

use super::{
    Event, Room, RoomGuard, Rooms, deltas, effects,
    event::{self, Status},
    members, receipts, servers, state, timeline,
};
use crate::{
    error::{Error, Result},
    ids::{EventNo, RoomNo, StateKeyNo, StateNo},
    store::{
        Direction, Read, Tx,
        records::{MissingMembers, Partial},
        trees,
    },
};

/// How many members are entered at a time.
const CHUNK: usize = 200;

/// How many events' states are asked for that were guessed.
const GUESSES: usize = 50;

/// What a server says that lets a user in without telling the members.
#[derive(Debug)]
pub struct Omitted {
    /// The server.
    pub via: OwnedServerName,
    /// The servers that are in the room.
    pub servers: Vec<OwnedServerName>,
}

/// Makes `known`, which is the room's current state already, one whose members are to come: all that was told of the state
/// before the event `join`. The caller writes `room`.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub(super) fn begin(
    tx: &mut Tx<'_>,
    room_no: RoomNo,
    room: &mut Room,
    known: &BTreeMap<StateKeyNo, EventNo>,
    join: &EventId,
    omitted: Omitted,
) -> Result<()> {
    let floor = deltas::floor(tx)?;
    let known = deltas::apply(tx, floor, &known.iter().map(|(key, event)| (*key, Some(*event))).collect::<Vec<_>>())?;
    let position = tx.next_position()?;
    room.state = known;
    state::changed(tx, room_no, position, known);
    servers::told(tx, room_no, &omitted.servers, position)?;
    let servers = omitted.servers.len() as u64;
    room.partial = Some(Partial { floor, known, servers, filled: false });
    let missing = MissingMembers { join: join.to_owned(), via: omitted.via, attempts: 0, next: 0 };
    trees::MISSING_MEMBERS.put(tx, room_no, &missing);
    Ok(())
}

/// Refuses another server what needs all members, as if this one were not in the room, so that it asks elsewhere.
///
/// # Errors
/// 404 `M_NOT_FOUND` when members are missing.
pub fn require_whole(room: &Room) -> Result<()> {
    match room.partial {
        Some(_) => Err(Error::not_found("This server does not know all of the room yet. Ask another one.")),
        None => Ok(()),
    }
}

/// The member event of an event's sender, as the event names it: the word to take where the state does not have it yet.
///
/// # Errors
/// As for all functions here.
pub fn sender_as_named(read: &dyn Read, event: &Event) -> Result<Option<Arc<Event>>> {
    for id in &event.pdu.auth_events {
        let named = event::by_id(read, id)?.filter(|named| {
            named.status != Status::Rejected
                && named.pdu.kind == TimelineEventType::RoomMember
                && named.pdu.state_key.as_deref() == Some(event.pdu.sender.as_str())
        });
        if named.is_some() {
            return Ok(named);
        }
    }
    Ok(None)
}

/// The rooms whose members are to be asked for.
pub fn waiting(read: &dyn Read) -> impl Iterator<Item = Result<(RoomNo, MissingMembers)>> + '_ {
    trees::MISSING_MEMBERS.scan(read, (), Direction::Forward)
}

/// Whether members of the room are missing and going to come.
///
/// # Errors
/// As for all functions here.
pub fn is_awaited(read: &dyn Read, room: RoomNo) -> Result<bool> {
    Ok(trees::MISSING_MEMBERS.contains(read, room)? && super::get(read, room)?.local_joined > 0)
}

/// Whether it is not known what a user is in the room, since members are missing that are going to come.
///
/// # Errors
/// As for all functions here.
pub fn is_unknown(read: &dyn Read, room: RoomNo, user: &UserId) -> Result<bool> {
    Ok(is_awaited(read, room)? && members::get(read, room, user)?.is_none())
}

/// Whether a user of another server is joined, or may be: nothing is known of the user, and the server is in the room.
///
/// # Errors
/// As for all functions here.
pub fn may_be_joined(read: &dyn Read, room: RoomNo, user: &UserId) -> Result<bool> {
    Ok(members::is_joined(read, room, user)?
        || (is_unknown(read, room, user)? && servers::is_in(read, room, user.server_name())?))
}

impl Rooms {
    /// The events that came since the join and before which the state was guessed
    /// ([`receive_guessing`](Self::receive_guessing)), some at most.
    ///
    /// # Errors
    /// As for all functions here.
    pub fn guessed(&self, room: RoomNo) -> Result<Vec<OwnedEventId>> {
        let read = self.store.read();
        let Some(join) = join(&read, room)? else { return Ok(Vec::new()) };
        let mut guessed = Vec::new();
        for row in trees::GAPS.scan(&read, (room,), Direction::Forward) {
            let ((_, _, follower), order) = row?;
            if order > join.order && guessed.len() < GUESSES {
                let id = event::require(&read, follower)?.pdu.event_id.clone();
                if !guessed.contains(&id) {
                    guessed.push(id);
                }
            }
        }
        Ok(guessed)
    }

    /// Takes the whole state before `join`, by which this server came into the room; all of it is here already, as far as
    /// any server has it. `states` are those before events for which they were [guessed](Self::guessed). Can be repeated
    /// when it was interrupted; does nothing if the room was joined by another event since.
    ///
    /// # Errors
    /// When `state` is no state of a room; as for all functions here.
    pub async fn complete(
        &self,
        room: &RoomId,
        join: &EventId,
        state: &[OwnedEventId],
        states: &BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
    ) -> Result<()> {
        let guard = self.lock(room).await;
        let (no, record) = super::require(&self.store.read(), room)?;
        let is_joined = trees::MISSING_MEMBERS.get(&self.store.read(), no)?.is_some_and(|row| row.join == join);
        let Some(partial) = record.partial.filter(|_| is_joined) else { return Ok(()) };
        if !partial.filled {
            self.fill(no, &partial, state)?;
        }
        self.recheck(&guard, no, states).await?;
        drop(guard);
        let members: Vec<_> = deltas::all(&self.store.read(), partial.floor)?.into_iter().collect();
        for chunk in members.chunks(CHUNK) {
            let guard = self.lock(room).await;
            self.enter(&guard, no, partial.floor, chunk)?;
            tokio::task::yield_now().await;
        }
        let _guard = self.lock(room).await;
        self.store.write(|tx| {
            let Some(mut record) = standing_on(tx, no, partial.floor)? else { return Ok(()) };
            let position = tx.next_position()?;
            (record.partial, record.completed) = (None, Some(position));
            trees::ROOMS.put(tx, no, &record);
            trees::MISSING_MEMBERS.delete(tx, no);
            servers::forget_told(tx, no)?;
            receipts::forget_made_up(tx, no)?;
            timeline::changed(tx, no, position)?;
            let members = effects::local_members(tx, self, no)?;
            tx.wake_all(members);
            Ok(())
        })
    }

    /// Puts beneath what is known what was not.
    fn fill(&self, room: RoomNo, partial: &Partial, state: &[OwnedEventId]) -> Result<()> {
        let (mut missing, create) = self.wanted(room, state)?;
        let read = self.store.read();
        let known = deltas::all(&read, partial.known)?;
        missing.retain(|key, _| !known.contains_key(key));
        if missing.is_empty() {
            // Everything was known: any of that will do.
            missing.extend(known.into_iter().find(|(_, event)| *event == create));
        }
        drop(read);
        self.store.write(|tx| {
            deltas::fill(tx, partial.floor, missing)?;
            let mut record = super::get(tx, room)?;
            record.partial = Some(Partial { filled: true, ..partial.clone() });
            trees::ROOMS.put(tx, room, &record);
            Ok(())
        })?;
        self.resolver.forget();
        Ok(())
    }

    /// Enters what came in from beneath into the indexes over the current state, where that does not say otherwise.
    fn enter(&self, _guard: &RoomGuard, no: RoomNo, floor: StateNo, members: &[(StateKeyNo, EventNo)]) -> Result<()> {
        self.store.write(|tx| {
            let Some(mut record) = standing_on(tx, no, floor)? else { return Ok(()) };
            let mut new = Vec::with_capacity(members.len());
            for &(key, event) in members {
                if !trees::CURRENT_STATE.contains(tx, (no, key))?
                    && deltas::lookup(tx, record.state, key)? == Some(event)
                {
                    new.push((key, event::require(tx, event)?));
                }
            }
            if new.is_empty() {
                return Ok(());
            }
            let position = tx.next_position()?;
            let changes: Vec<_> = new.iter().map(|(key, event)| (*key, Some(&**event))).collect();
            effects::state_changed(tx, self, no, &mut record, position, &changes)?;
            trees::ROOMS.put(tx, no, &record);
            Ok(())
        })
    }
}

/// The room, if it still stands on this floor: it may have been joined anew.
fn standing_on(read: &dyn Read, room: RoomNo, floor: StateNo) -> Result<Option<Room>> {
    let room = super::get(read, room)?;
    Ok(room.partial.as_ref().is_some_and(|partial| partial.floor == floor).then_some(room))
}

/// The event by which this server came into the room.
pub(super) fn join(read: &dyn Read, room: RoomNo) -> Result<Option<Arc<Event>>> {
    let Some(missing) = trees::MISSING_MEMBERS.get(read, room)? else { return Ok(None) };
    let join = event::by_id(read, &missing.join)?;
    join.map(Some).ok_or_else(|| Error::corrupt(trees::MISSING_MEMBERS.name, room.0.to_be_bytes()))
}
