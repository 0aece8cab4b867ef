//! Events by number and by ID.
//!
//! An event is stored once, under its number. A number can be older than its event: one that an event refers to gets a
//! number before it arrives. Rows change in two ways only: an outlier gets its place, and a redaction prunes its target
//! (`redaction.rs`). Events that are read often stay in memory, taken apart (`store/memory.rs`), so they come shared.

use std::sync::Arc;

use ruma::{EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UserId, events::TimelineEventType, state_res};
use serde_json::value::RawValue;

use super::pdu::Pdu;
pub use crate::store::records::{Request, Status};
use crate::{
    error::{Error, Result},
    ids::{EventNo, RoomNo, StateNo},
    store::{Read, Tx, Weigh, records::EventRow, trees},
};

/// A stored event with what the server knows about it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number.
    pub no: EventNo,
    /// The room it is in.
    pub room: RoomNo,
    /// Its place in the room's timeline: a live event's position, something negative for earlier history, 0 if it is
    /// in no timeline.
    pub order: i64,
    /// The room's state before it; `StateNo::UNKNOWN` if where it stands in the graph is not known.
    pub state_before: StateNo,
    /// The room's state after it: the same, but for a state event that was not rejected.
    pub state_after: StateNo,
    /// What the checks said of it.
    pub status: Status,
    /// The event that redacted it.
    pub redacted_by: Option<EventNo>,
    /// When the server got or made it, in milliseconds since the Unix epoch.
    pub received_ts: u64,
    /// The request of a client of this server that it came about by.
    pub request: Option<Request>,
    /// The event itself.
    pub pdu: Pdu,
    /// Whether the room's version puts a redaction's target into its content.
    pub redacts_in_content: bool,
}

/// The event with number `no`; `None` if it is not (yet) here.
///
/// # Errors
/// When the row is damaged or the database fails.
pub fn get(read: &dyn Read, no: EventNo) -> Result<Option<Arc<Event>>> {
    trees::EVENTS.made(read, no, |row| Event::from_row(no, row))
}

/// The event with number `no`, which another row says is here.
///
/// # Errors
/// `Corrupt` if it is not.
pub fn require(read: &dyn Read, no: EventNo) -> Result<Arc<Event>> {
    get(read, no)?.ok_or_else(|| corrupt(no))
}

/// The event with this ID, in whatever room.
///
/// # Errors
/// As [`get`].
pub fn by_id(read: &dyn Read, id: &EventId) -> Result<Option<Arc<Event>>> {
    match no_of(read, id)? {
        Some(no) => get(read, no),
        None => Ok(None),
    }
}

/// The number of the event with this ID, if it is here or referred to.
///
/// # Errors
/// As [`get`].
pub fn no_of(read: &dyn Read, id: &EventId) -> Result<Option<EventNo>> {
    trees::EVENT_NOS.get(read, id)
}

/// The ID of the event with number `no`, which another row says is here.
///
/// # Errors
/// `Corrupt` if it is not.
pub fn id_of(read: &dyn Read, no: EventNo) -> Result<OwnedEventId> {
    Ok(trees::EVENTS.get(read, no)?.ok_or_else(|| corrupt(no))?.event_id)
}

/// The number of the event with this ID; a new one if it has none.
///
/// # Errors
/// As [`get`].
pub fn intern(tx: &mut Tx<'_>, id: &EventId) -> Result<EventNo> {
    match no_of(tx, id)? {
        Some(no) => Ok(no),
        None => number(tx, id),
    }
}

/// A new number for the event with this ID, which has none.
///
/// # Errors
/// As [`get`].
pub(super) fn number(tx: &mut Tx<'_>, id: &EventId) -> Result<EventNo> {
    let no = EventNo(tx.next("event")?);
    trees::EVENT_NOS.put(tx, id, &no);
    Ok(no)
}

/// Writes the row of an event, and whether it stands in no timeline.
pub(super) fn put(tx: &mut Tx<'_>, event: &Event) {
    trees::EVENTS.put_made(tx, event.no, &event.to_row(), Arc::new(event.clone()));
    if event.order == 0 {
        trees::OFF_TIMELINE.put(tx, (event.room, event.no), &());
    }
}

fn corrupt(no: EventNo) -> Error {
    Error::corrupt(trees::EVENTS.name, no.0.to_be_bytes())
}

impl Event {
    /// Takes a row apart.
    ///
    /// # Errors
    /// `Corrupt` when its JSON is no event.
    pub fn from_row(no: EventNo, row: EventRow) -> Result<Self> {
        let pdu = Pdu::parse(row.event_id, row.json, row.redacts_in_content).ok_or_else(|| corrupt(no))?;
        Ok(Self {
            no,
            room: row.room,
            order: row.order,
            state_before: row.state_before,
            state_after: row.state_after,
            status: row.status,
            redacted_by: row.redacted_by,
            received_ts: row.received_ts,
            request: row.request,
            pdu,
            redacts_in_content: row.redacts_in_content,
        })
    }

    /// The row that [`from_row`](Self::from_row) reads.
    pub fn to_row(&self) -> EventRow {
        EventRow {
            event_id: self.pdu.event_id.clone(),
            room: self.room,
            order: self.order,
            state_before: self.state_before,
            state_after: self.state_after,
            status: self.status,
            redacts_in_content: self.redacts_in_content,
            redacted_by: self.redacted_by,
            received_ts: self.received_ts,
            request: self.request.clone(),
            json: self.pdu.json.clone(),
        }
    }

    /// Whether it has its place in the graph, and so the states around it are known.
    pub fn is_placed(&self) -> bool {
        self.state_before != StateNo::UNKNOWN
    }

    /// Whether it is a state event.
    pub fn is_state(&self) -> bool {
        self.pdu.state_key.is_some()
    }
}

impl Weigh for Event {
    fn weight(&self) -> usize {
        let references = self.pdu.prev_events.len() + self.pdu.auth_events.len();
        size_of::<Self>() + self.pdu.json.len() + self.pdu.content.get().len() + references * 64 + 192
    }
}

impl state_res::Event for Event {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.pdu.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.pdu.room_id()
    }

    fn sender(&self) -> &UserId {
        &self.pdu.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.pdu.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.pdu.kind
    }

    fn content(&self) -> &RawValue {
        &self.pdu.content
    }

    fn state_key(&self) -> Option<&str> {
        self.pdu.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        self.pdu.prev_events()
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        self.pdu.auth_events()
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.pdu.redacts()
    }

    fn rejected(&self) -> bool {
        self.status == Status::Rejected
    }
}
