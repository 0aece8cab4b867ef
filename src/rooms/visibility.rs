//! THE gate: which events of a room a user may see, and another server.
//!
//! Every event that leaves for a client passes [`Gate::may_see`], whatever endpoint asks. The rules are those of
//! [Room History Visibility](https://spec.matrix.org/latest/client-server-api/#server-behaviour-7): they look at the
//! room's state *at the event*, which every event names. Neighbouring events share their state, so a [`Gate`], made for
//! one request, remembers what it found. For servers the same rules hold with any of their users in the user's place
//! ([`ServerGate`]); what they may not see they get redacted, since the room's graph must stay whole.
//!
//! Deliberately absent: what a user does not want to see (ignored users, filters).

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
};

use ruma::{
    OwnedUserId, ServerName, UserId,
    events::{
        StateEventType, TimelineEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};
use serde::Deserialize;

use super::{
    deltas,
    event::{self, Event, Status},
    members, state,
};
use crate::{
    error::Result,
    ids::{EventNo, RoomNo, StateKeyNo, StateNo},
    store::{Direction, Read, records::UserRoom, trees::ERASED_USERS, trees::MEMBERS},
};

/// The type of events that tie a room's graph together and say nothing: nobody is to see them.
pub const DUMMY_EVENT: &str = "org.matrix.dummy_event";

/// Whether the user may see the event.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub fn may_see_event(read: &dyn Read, user: &UserId, event: &Event) -> Result<bool> {
    Gate::new(read, user).may_see(event)
}

/// Whether the user may see what goes on in the room now: a member of it, or anybody if it is world-readable.
///
/// # Errors
/// As [`may_see_event`].
pub fn may_see_current(read: &dyn Read, user: &UserId, room: RoomNo) -> Result<bool> {
    Ok(members::is_joined(read, room, user)? || current(read, room)? == HistoryVisibility::WorldReadable)
}

/// The room's history visibility now; `shared` if it is not set or not understood.
///
/// # Errors
/// As [`may_see_event`].
pub fn current(read: &dyn Read, room: RoomNo) -> Result<HistoryVisibility> {
    let content: Option<Content> = state::content(read, room, &StateEventType::RoomHistoryVisibility, "")?;
    Ok(content.map_or(HistoryVisibility::Shared, |content| understood(content.history_visibility)))
}

#[derive(Deserialize)]
struct Content {
    history_visibility: HistoryVisibility,
}

#[derive(Deserialize)]
struct MemberContent {
    membership: MembershipState,
}

fn understood(visibility: HistoryVisibility) -> HistoryVisibility {
    match visibility {
        known @ (HistoryVisibility::Invited
        | HistoryVisibility::Joined
        | HistoryVisibility::Shared
        | HistoryVisibility::WorldReadable) => known,
        _ => HistoryVisibility::Shared,
    }
}

/// The gate for one user during one request.
pub struct Gate<'a> {
    read: &'a dyn Read,
    user: &'a UserId,
    dummy: TimelineEventType,
    known: RefCell<Known>,
}

/// What the gate found so far.
#[derive(Default)]
struct Known {
    keys: Option<Keys>,
    user_rooms: HashMap<RoomNo, Option<UserRoom>>,
    visibility: Option<(StateNo, HistoryVisibility)>,
    visibility_events: HashMap<EventNo, HistoryVisibility>,
    membership: Option<(StateNo, MembershipState)>,
    membership_events: HashMap<EventNo, MembershipState>,
    forgotten: HashMap<OwnedUserId, bool>,
}

/// The numbers of the state keys that the gate looks at; none if no room has them.
#[derive(Clone, Copy)]
struct Keys {
    visibility: Option<StateKeyNo>,
    member: Option<StateKeyNo>,
}

impl<'a> Gate<'a> {
    /// The gate for `user`.
    pub fn new(read: &'a dyn Read, user: &'a UserId) -> Self {
        Self { read, user, dummy: DUMMY_EVENT.into(), known: RefCell::default() }
    }

    /// Whether the user may see the event.
    ///
    /// # Errors
    /// As [`may_see_event`].
    pub fn may_see(&self, event: &Event) -> Result<bool> {
        // One's own membership is one's own business, also before joining: an invite, a refusal, a ban; also if other
        // servers alone know where in the room's graph it stands.
        let is_own = event.pdu.state_key_of(&TimelineEventType::RoomMember) == Some(self.user.as_str());
        if is_own && matches!(event.status, Status::Accepted | Status::Outlier) {
            return Ok(true);
        }
        if event.status != Status::Accepted || event.pdu.kind == self.dummy {
            return Ok(false);
        }
        if event.pdu.state_key.is_none() && self.is_forgotten(&event.pdu.sender)? {
            return Ok(self.membership_at(event.state_before)? == MembershipState::Join);
        }
        let by_before = self.allows(event, event.state_before)?;
        if by_before || event.pdu.state_key_of(&TimelineEventType::RoomHistoryVisibility).is_none() {
            return Ok(by_before);
        }
        self.allows(event, event.state_after)
    }

    /// Whether the sender asked to be forgotten when they deactivated their account: then only those who were in the room
    /// at the time see what they said
    /// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3accountdeactivate)).
    fn is_forgotten(&self, sender: &UserId) -> Result<bool> {
        if let Some(forgotten) = self.known.borrow().forgotten.get(sender) {
            return Ok(*forgotten);
        }
        let forgotten = ERASED_USERS.contains(self.read, sender)?;
        self.known.borrow_mut().forgotten.insert(sender.to_owned(), forgotten);
        Ok(forgotten)
    }

    /// Whether the rules allow the event where `state` is the room's state at it.
    fn allows(&self, event: &Event, state: StateNo) -> Result<bool> {
        let visibility = self.visibility_at(state)?;
        Ok(match visibility {
            HistoryVisibility::WorldReadable => true,
            HistoryVisibility::Shared => {
                self.joined_later(event)? || self.membership_at(state)? == MembershipState::Join
            }
            HistoryVisibility::Invited => {
                matches!(self.membership_at(state)?, MembershipState::Join | MembershipState::Invite)
            }
            _ => self.membership_at(state)? == MembershipState::Join,
        })
    }

    /// Whether the user was joined at some time after the event: is now, or was until some later event.
    fn joined_later(&self, event: &Event) -> Result<bool> {
        let mut known = self.known.borrow_mut();
        let row = match known.user_rooms.entry(event.room) {
            Entry::Occupied(row) => row.into_mut(),
            Entry::Vacant(empty) => empty.insert(members::user_room(self.read, self.user, event.room)?),
        };
        Ok(row.as_ref().is_some_and(|row| {
            row.membership == MembershipState::Join || row.left.is_some_and(|left| event.order < left)
        }))
    }

    fn keys(&self) -> Result<Keys> {
        if let Some(keys) = self.known.borrow().keys {
            return Ok(keys);
        }
        let keys = Keys {
            visibility: state::key_no(self.read, &StateEventType::RoomHistoryVisibility, "")?,
            member: state::key_no(self.read, &StateEventType::RoomMember, self.user.as_str())?,
        };
        self.known.borrow_mut().keys = Some(keys);
        Ok(keys)
    }

    fn lookup(&self, state: StateNo, key: Option<StateKeyNo>) -> Result<Option<EventNo>> {
        key.map_or(Ok(None), |key| deltas::lookup(self.read, state, key))
    }

    /// The history visibility that is set in a state.
    fn visibility_at(&self, state: StateNo) -> Result<HistoryVisibility> {
        if let Some((known, visibility)) = &self.known.borrow().visibility
            && *known == state
        {
            return Ok(visibility.clone());
        }
        let visibility = match self.lookup(state, self.keys()?.visibility)? {
            None => HistoryVisibility::Shared,
            Some(no) => self.visibility_of(no)?,
        };
        self.known.borrow_mut().visibility = Some((state, visibility.clone()));
        Ok(visibility)
    }

    fn visibility_of(&self, no: EventNo) -> Result<HistoryVisibility> {
        if let Some(visibility) = self.known.borrow().visibility_events.get(&no) {
            return Ok(visibility.clone());
        }
        let content: Option<Content> = event::require(self.read, no)?.pdu.content_as();
        let visibility = content.map_or(HistoryVisibility::Shared, |content| understood(content.history_visibility));
        self.known.borrow_mut().visibility_events.insert(no, visibility.clone());
        Ok(visibility)
    }

    /// The user's membership in a state; `leave` if there is none.
    ///
    /// # Errors
    /// As [`may_see_event`].
    pub fn membership_at(&self, state: StateNo) -> Result<MembershipState> {
        if let Some((known, membership)) = &self.known.borrow().membership
            && *known == state
        {
            return Ok(membership.clone());
        }
        let membership = match self.lookup(state, self.keys()?.member)? {
            None => MembershipState::Leave,
            Some(no) => self.membership_of(no)?,
        };
        self.known.borrow_mut().membership = Some((state, membership.clone()));
        Ok(membership)
    }

    fn membership_of(&self, no: EventNo) -> Result<MembershipState> {
        if let Some(membership) = self.known.borrow().membership_events.get(&no) {
            return Ok(membership.clone());
        }
        let content: Option<MemberContent> = event::require(self.read, no)?.pdu.content_as();
        let membership = content.map_or(MembershipState::Leave, |content| content.membership);
        self.known.borrow_mut().membership_events.insert(no, membership.clone());
        Ok(membership)
    }
}

/// How much of an event another server may see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sight {
    /// All of it.
    Whole,
    /// What a redaction would leave.
    Redacted,
    /// Nothing: the event was rejected.
    Nothing,
}

/// How much of the event the server may see. Whether it may ask about the room at all is the caller's question.
///
/// # Errors
/// As [`may_see_event`].
pub fn may_server_see(read: &dyn Read, server: &ServerName, event: &Event) -> Result<Sight> {
    ServerGate::new(read, server).may_see(event)
}

/// The gate for one server during one request.
pub struct ServerGate<'a> {
    read: &'a dyn Read,
    server: &'a ServerName,
    known: RefCell<KnownOfServer>,
}

/// What the gate found so far.
#[derive(Default)]
struct KnownOfServer {
    visibility_key: Option<Option<StateKeyNo>>,
    visibility: HashMap<StateNo, HistoryVisibility>,
    members: HashMap<RoomNo, Vec<StateKeyNo>>,
    memberships: HashMap<EventNo, MembershipState>,
}

impl<'a> ServerGate<'a> {
    /// The gate for `server`.
    pub fn new(read: &'a dyn Read, server: &'a ServerName) -> Self {
        Self { read, server, known: RefCell::default() }
    }

    /// How much of the event the server may see.
    ///
    /// Soft-failed events are shown, since a server that accepted them asks others for what came before. State whose place
    /// in the graph is not known is shown as well: whoever may read the room's state may read it.
    ///
    /// # Errors
    /// As [`may_see_event`].
    pub fn may_see(&self, event: &Event) -> Result<Sight> {
        if event.status == Status::Rejected {
            return Ok(Sight::Nothing);
        }
        if !event.is_placed() {
            return Ok(if event.is_state() { Sight::Whole } else { Sight::Redacted });
        }
        let of_its_own =
            event.pdu.state_key_of(&TimelineEventType::RoomMember).and_then(|user| UserId::parse(user).ok());
        if of_its_own.is_some_and(|user| user.server_name() == self.server) {
            return Ok(Sight::Whole);
        }
        let erased = event.pdu.state_key.is_none() && ERASED_USERS.contains(self.read, &*event.pdu.sender)?;
        let seen = match self.visibility_at(event.state_before)? {
            _ if erased => self.has_member(event, &[MembershipState::Join])?,
            HistoryVisibility::Invited => self.has_member(event, &[MembershipState::Join, MembershipState::Invite])?,
            HistoryVisibility::Joined => self.has_member(event, &[MembershipState::Join])?,
            _ => true,
        };
        Ok(if seen { Sight::Whole } else { Sight::Redacted })
    }

    /// The history visibility that is set in a state.
    fn visibility_at(&self, state: StateNo) -> Result<HistoryVisibility> {
        let mut known = self.known.borrow_mut();
        if let Some(visibility) = known.visibility.get(&state) {
            return Ok(visibility.clone());
        }
        let key = match known.visibility_key {
            Some(key) => key,
            None => *known.visibility_key.insert(state::key_no(self.read, &StateEventType::RoomHistoryVisibility, "")?),
        };
        let set = key.map(|key| deltas::lookup(self.read, state, key)).transpose()?.flatten();
        let content: Option<Content> = match set {
            Some(no) => event::require(self.read, no)?.pdu.content_as(),
            None => None,
        };
        let visibility = content.map_or(HistoryVisibility::Shared, |content| understood(content.history_visibility));
        known.visibility.insert(state, visibility.clone());
        Ok(visibility)
    }

    /// Whether a user of the server had one of these memberships before the event or after it.
    fn has_member(&self, event: &Event, memberships: &[MembershipState]) -> Result<bool> {
        let mut known = self.known.borrow_mut();
        let known = &mut *known;
        let members = match known.members.entry(event.room) {
            Entry::Occupied(members) => members.into_mut(),
            Entry::Vacant(empty) => empty.insert(self.members(event.room)?),
        };
        for key in members {
            let Some(no) = deltas::lookup(self.read, event.state_before, *key)? else { continue };
            let membership = match known.memberships.entry(no) {
                Entry::Occupied(membership) => membership.into_mut(),
                Entry::Vacant(empty) => {
                    let content: Option<MemberContent> = event::require(self.read, no)?.pdu.content_as();
                    empty.insert(content.map_or(MembershipState::Leave, |content| content.membership))
                }
            };
            if memberships.contains(membership) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The state keys of all users of the server who have or had to do with the room.
    fn members(&self, room: RoomNo) -> Result<Vec<StateKeyNo>> {
        let mut keys = Vec::new();
        for row in MEMBERS.scan(self.read, (room,), Direction::Forward) {
            let ((_, user), _) = row?;
            if user.server_name() == self.server {
                keys.extend(state::key_no(self.read, &StateEventType::RoomMember, user.as_str())?);
            }
        }
        Ok(keys)
    }
}
