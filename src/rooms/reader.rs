//! Another server that reads in a room: every operation in which one does begins with [`Reader::enter`], and takes
//! single events from the reader alone.
//!
//! A server that is in the room may have all of its events, since without them it could not check the later ones; but
//! what none of its users may see it gets redacted (`visibility.rs`). Rejected events are given to nobody. The state of
//! the room and the events that allow others are given whole.

use std::sync::Arc;

use ruma::{EventId, RoomId, ServerName, room_version_rules::RedactionRules};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    Room, acl, build, canonical,
    event::{self, Event, Status},
    partial, servers,
    visibility::{ServerGate, Sight},
};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    store::Read,
};

/// A server in a room, during one request; see the module.
pub struct Reader<'a> {
    /// What it reads from.
    pub read: &'a dyn Read,
    /// The room's number.
    pub no: RoomNo,
    /// The room's record.
    pub room: Room,
    gate: ServerGate<'a>,
    redaction: RedactionRules,
}

impl<'a> Reader<'a> {
    /// `server` in the room `id`.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` when this server does not know the room; 403 `M_FORBIDDEN` when the room does not let the server
    /// take part, or the server is not in it.
    pub fn enter(read: &'a dyn Read, server: &'a ServerName, id: &RoomId) -> Result<Self> {
        let (no, room) = super::require(read, id)?;
        acl::check(read, no, server)?;
        if !servers::is_in(read, no, server)? {
            return Err(Error::forbidden(format!("The server {server} is not in this room.")));
        }
        let redaction = build::rules(&room.version)?.redaction;
        Ok(Self { read, no, room, gate: ServerGate::new(read, server), redaction })
    }

    /// The event of the room with this ID, unless it was rejected. Whether the server may see its content is another
    /// question, which [`shown`](Self::shown) answers.
    ///
    /// # Errors
    /// When a row is damaged or the database fails.
    pub fn event(&self, id: &EventId) -> Result<Option<Arc<Event>>> {
        let event = event::by_id(self.read, id)?;
        Ok(event.filter(|event| event.room == self.no && event.status != Status::Rejected))
    }

    /// [`event`](Self::event), where the server must name one.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` when there is none; else as there.
    pub fn require(&self, id: &EventId) -> Result<Arc<Event>> {
        self.event(id)?.ok_or_else(|| Error::not_found(format!("This server has no event {id} of this room.")))
    }

    /// Whether the server may see all of an event of the room.
    ///
    /// # Errors
    /// As [`event`](Self::event).
    pub fn sees(&self, event: &Event) -> Result<bool> {
        Ok(self.gate.may_see(event)? == Sight::Whole)
    }

    /// An event of the room in its federation format, as much of it as the server may see.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` when the server may not see all of it as far as is known, and members are missing; else as
    /// [`event`](Self::event).
    pub fn shown(&self, event: &Event) -> Result<Option<Box<RawValue>>> {
        let sight = self.gate.may_see(event)?;
        if sight != Sight::Whole {
            partial::require_whole(&self.room)?;
        }
        match sight {
            Sight::Whole => Ok(Some(RawValue::from_string(event.pdu.json.clone())?)),
            Sight::Redacted => {
                let json = serde_json::from_str(&event.pdu.json)?;
                Ok(Some(to_raw_value(&canonical::redacted(json, &self.redaction)?)?))
            }
            Sight::Nothing => Ok(None),
        }
    }
}
