//! What concerns an application service
//! ([spec](https://spec.matrix.org/latest/application-service-api/#registration)).
//!
//! A room, when its ID or an alias of it is in one of the namespaces, or a user of the application service is joined to
//! it; beyond that an event of which such a user is the target. Rows are ordered by user, and what the names of a
//! namespace begin with is mostly obvious, so that its users among many others are found by a look or two.

use std::{cell::RefCell, collections::HashMap};

use ruma::{OwnedDeviceId, OwnedUserId, UserId, events::TimelineEventType};

use crate::{
    appservice::Registration,
    error::Result,
    ids::{Position, RoomNo},
    rooms::{self, Event, aliases, members, timeline},
    store::{
        Direction, Read,
        trees::{LOCAL_MEMBERS, MEMBERS, TO_DEVICE},
    },
};

/// What every user ID begins with.
const SIGIL: &str = "@";

/// What concerns one application service at one time.
pub(super) struct Interest<'a> {
    pub(super) read: &'a dyn Read,
    pub(super) service: &'a Registration,
    rooms: RefCell<HashMap<RoomNo, bool>>,
    /// Up to when rooms concern it that its users left.
    left: RefCell<HashMap<RoomNo, Position>>,
}

impl<'a> Interest<'a> {
    pub(super) fn new(read: &'a dyn Read, service: &'a Registration) -> Self {
        Self { read, service, rooms: RefCell::default(), left: RefCell::default() }
    }

    /// Whether all that happens in the room concerns it.
    ///
    /// # Errors
    /// When the database fails or a row is damaged; so for all functions here.
    pub(super) fn in_room(&self, room: RoomNo) -> Result<bool> {
        if let Some(known) = self.rooms.borrow().get(&room) {
            return Ok(*known);
        }
        let concerns = self.by_name(room)? || self.any_joined(room)?;
        self.rooms.borrow_mut().insert(room, concerns);
        Ok(concerns)
    }

    /// Makes what happened in the room up to `position` concern it, if no user of its own is there any more: its last user
    /// left meanwhile.
    pub(super) fn note_left(&self, room: RoomNo, position: Position) -> Result<()> {
        if self.left.borrow().contains_key(&room) || !self.in_room(room)? {
            self.left.borrow_mut().insert(room, position);
            self.rooms.borrow_mut().insert(room, true);
        }
        Ok(())
    }

    /// Whether something that happens in the room may concern it: one of its users has or had to do with the room.
    pub(super) fn may_concern(&self, room: RoomNo) -> Result<bool> {
        if self.in_room(room)? {
            return Ok(true);
        }
        for (from, to) in ranges(self.service) {
            for row in MEMBERS.range(self.read, (room, &*from), (room, &*to), Direction::Forward) {
                if self.service.has_user(&row?.0.1) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether the event concerns it.
    pub(super) fn in_event(&self, event: &Event) -> Result<bool> {
        let is_after = |left: &Position| event.order > timeline::order_of(*left);
        let is_over = self.left.borrow().get(&event.room).is_some_and(is_after);
        Ok((self.in_room(event.room)? && !is_over) || self.target(event).is_some())
    }

    /// The user of its own whom the event is about.
    pub(super) fn target(&self, event: &Event) -> Option<OwnedUserId> {
        let target = UserId::parse(event.pdu.state_key_of(&TimelineEventType::RoomMember)?).ok()?;
        self.service.has_user(&target).then_some(target)
    }

    /// Whether the user is one of its own, or in a room that concerns it.
    pub(super) fn in_user(&self, user: &UserId) -> Result<bool> {
        if self.service.has_user(user) {
            return Ok(true);
        }
        if user.server_name() == self.service.sender.server_name() {
            for room in members::joined_rooms(self.read, user)? {
                if self.in_room(room)? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        // Which rooms users of other servers are in is known by room only.
        for row in timeline::latest_changes(self.read) {
            let (_, room) = row?;
            if members::is_joined(self.read, room, user)? && self.in_room(room)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn by_name(&self, room: RoomNo) -> Result<bool> {
        if self.service.wants_aliases() {
            let aliases = aliases::of_room(self.read, room)?;
            if aliases.iter().any(|alias| self.service.has_alias(alias)) {
                return Ok(true);
            }
        }
        Ok(self.service.wants_rooms() && self.service.has_room(&rooms::get(self.read, room)?.id))
    }

    fn any_joined(&self, room: RoomNo) -> Result<bool> {
        for (from, to) in ranges(self.service) {
            for row in LOCAL_MEMBERS.range(self.read, (room, &*from), (room, &*to), Direction::Forward) {
                if self.service.has_user(&row?.0.1) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// The ranges of user IDs in which all users of the application service lie.
pub(super) fn ranges(service: &Registration) -> Vec<(String, String)> {
    let mut prefixes: Vec<&str> = service.user_prefixes().map(|prefix| prefix.max(SIGIL)).collect();
    prefixes.sort_unstable();
    // A range that begins like another lies in it.
    prefixes.dedup_by(|later, earlier| later.starts_with(&**earlier));
    prefixes.into_iter().map(|prefix| (prefix.to_owned(), after(prefix))).collect()
}

/// The least text that is greater than every one that begins with `prefix`, up to what user IDs consist of.
fn after(prefix: &str) -> String {
    format!("{prefix}{}", char::MAX)
}

/// The devices for which messages wait that came up to `until`, of users who are the application service's alone.
///
/// # Errors
/// When the database fails or a row is damaged.
pub(super) fn waiting_devices(
    read: &dyn Read,
    service: &Registration,
    until: Position,
) -> Result<Vec<(OwnedUserId, OwnedDeviceId)>> {
    let mut devices = Vec::new();
    for (from, to) in ranges(service) {
        for row in TO_DEVICE.range(read, (from,), (to,), Direction::Forward) {
            let ((user, device, position), _) = row?;
            if position <= until && service.owns_user(&user) {
                devices.push((user, device));
            }
        }
    }
    devices.dedup();
    Ok(devices)
}
