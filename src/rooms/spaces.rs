//! Walking a space: the rooms below a room, by their `m.space.child` events
//! ([spec](https://spec.matrix.org/latest/client-server-api/#discovering-rooms-within-spaces)).
//!
//! The walk is depth first, visits each room once, so loops end it, and keeps no state between pages: a token says how
//! many rooms were given already, and the walk starts over and skips these. Rooms that only other servers know are left
//! out.

use std::collections::HashSet;

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, events::StateEventType};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Room,
    event::{self, Event},
    summary::{self, Summary},
};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    store::{Direction, Read, trees},
};

/// Rooms per page: by default and at most.
const PAGE: usize = 50;

/// How deep a walk goes at most.
const DEPTH: u64 = 100;

/// The rooms that a walk looks at, over all pages; a larger space ends there.
const ROOMS: usize = 5_000;

/// What a client asks for.
#[derive(Clone, Copy)]
pub struct Walk {
    /// How deep to go below the first room.
    pub max_depth: Option<u64>,
    /// Whether to go only where children are suggested.
    pub suggested_only: bool,
    /// How many rooms to give.
    pub limit: Option<u64>,
}

/// A room of a space, as it is shown.
#[derive(Serialize)]
pub struct Chunk {
    /// The room.
    #[serde(flatten)]
    pub summary: Summary,
    /// Its children, if it is a space.
    pub children_state: Vec<Child>,
}

/// An `m.space.child` event in stripped form, with its time.
#[derive(Clone, Serialize)]
pub struct Child {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The child room.
    pub state_key: OwnedRoomId,
    content: Box<RawValue>,
    sender: OwnedUserId,
    origin_server_ts: u64,
    #[serde(skip)]
    order: Option<String>,
    #[serde(skip)]
    suggested: bool,
}

/// The rooms of a page, and the token of the next.
pub struct Page {
    /// In the order of the walk.
    pub rooms: Vec<Chunk>,
    /// The token of the next page, if there is one.
    pub next_batch: Option<String>,
}

/// Walks from the room `root`, as `user` may see it, on from the token `from`.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the user may not see the first room or it is not known; 400 `M_INVALID_PARAM` for a token that
/// is none or belongs to another walk.
pub fn page(read: &dyn Read, user: &UserId, root: &RoomId, walk: Walk, from: Option<&str>) -> Result<Page> {
    let forbidden = || Error::forbidden("You may not see this room.");
    let root = visible(read, user, root)?.ok_or_else(forbidden)?;
    let (start, walk) = from.map_or(Ok((0, walk)), |token| walk.resume(token))?;
    let limit = walk.limit.map_or(PAGE, |limit| usize::try_from(limit).unwrap_or(PAGE).clamp(1, PAGE));
    let max_depth = walk.max_depth.unwrap_or(DEPTH).min(DEPTH);

    let mut rooms = Vec::new();
    let (mut seen, mut found) = (HashSet::from([root.0]), 0);
    let mut stack = vec![(0, root)];
    while let Some((depth, (no, room))) = stack.pop() {
        if rooms.len() == limit {
            return Ok(Page { rooms, next_batch: Some(walk.token(found)) });
        }
        let children = children(read, no, walk.suggested_only)?;
        if depth < max_depth {
            // The last one pushed is walked next, so they go onto the stack in reverse order.
            for child in children.iter().rev() {
                if seen.len() < ROOMS
                    && let Some(known) = visible(read, user, &child.state_key)?
                    && seen.insert(known.0)
                {
                    stack.push((depth + 1, known));
                }
            }
        }
        if found >= start {
            rooms.push(Chunk { summary: summary::of(read, no, &room)?, children_state: children });
        }
        found += 1;
    }
    Ok(Page { rooms, next_batch: None })
}

/// The room, if the server knows it and the user may see it.
fn visible(read: &dyn Read, user: &UserId, id: &RoomId) -> Result<Option<(RoomNo, Room)>> {
    let Some(no) = super::find(read, id)? else { return Ok(None) };
    let room = super::get(read, no)?;
    Ok(summary::may_be_shown(read, no, &room, Some(user))?.then_some((no, room)))
}

/// The children of a space in their order: by their `order`, then by the time of their event, then by ID
/// ([spec](https://spec.matrix.org/latest/client-server-api/#ordering-of-children-within-a-space)).
fn children(read: &dyn Read, space: RoomNo, suggested_only: bool) -> Result<Vec<Child>> {
    if summary::room_type(read, space)?.as_deref() != Some(summary::SPACE) {
        return Ok(Vec::new());
    }
    let mut children = Vec::new();
    for event in child_events(read, space)? {
        children.extend(Child::of(&event).filter(|child| child.suggested || !suggested_only));
    }
    children.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
    Ok(children)
}

/// All `m.space.child` events in the room's current state, removed ones too.
///
/// The rooms that are anyone's children are far fewer than the members of a large space, so these are gone through and
/// not the room's state.
///
/// # Errors
/// When the store fails.
pub fn child_events(read: &dyn Read, space: RoomNo) -> Result<Vec<Event>> {
    let kind = StateEventType::SpaceChild.to_string();
    let mut events = Vec::new();
    for row in trees::STATE_KEY_NOS.scan(read, (&*kind,), Direction::Forward) {
        let (_, key) = row?;
        if let Some(no) = trees::CURRENT_STATE.get(read, (space, key))? {
            events.push(event::require(read, no)?);
        }
    }
    Ok(events)
}

impl Child {
    /// Takes an `m.space.child` event; `None` for one that was removed, which is one without `via`.
    fn of(event: &Event) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: serde_json::Value,
            #[serde(default)]
            order: serde_json::Value,
            #[serde(default)]
            suggested: serde_json::Value,
        }
        let content: Content = event.pdu.content_as()?;
        content.via.as_array()?;
        let is_valid = |order: &str| order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7E).contains(&byte));
        Some(Self {
            kind: "m.space.child",
            state_key: RoomId::parse(event.pdu.state_key.as_deref()?).ok()?,
            content: event.pdu.content.clone(),
            sender: event.pdu.sender.clone(),
            origin_server_ts: event.pdu.origin_server_ts.get().into(),
            order: content.order.as_str().filter(|order| is_valid(order)).map(ToOwned::to_owned),
            suggested: content.suggested.as_bool().unwrap_or(false),
        })
    }

    fn sort_key(&self) -> (bool, Option<&str>, u64, &RoomId) {
        (self.order.is_none(), self.order.as_deref(), self.origin_server_ts, &self.state_key)
    }
}

impl Walk {
    /// The token of the page that starts after `found` rooms. It carries what must not change between pages.
    fn token(self, found: usize) -> String {
        let depth = self.max_depth.map(|depth| depth.to_string()).unwrap_or_default();
        format!("h{found}_{depth}_{}", u8::from(self.suggested_only))
    }

    /// Where the token's page starts, and the walk it belongs to, which the client need not describe again.
    fn resume(self, token: &str) -> Result<(usize, Self)> {
        let parse = || {
            let mut parts = token.strip_prefix('h')?.split('_');
            let found = parts.next()?.parse().ok()?;
            let depth = parts.next()?;
            let max_depth = if depth.is_empty() { None } else { Some(depth.parse().ok()?) };
            let suggested_only = parts.next()? == "1";
            Some((found, Self { max_depth, suggested_only, limit: self.limit }))
        };
        let (found, walk) = parse().ok_or_else(|| Error::invalid_param("This is no token of this operation."))?;
        let changed = self.max_depth.is_some_and(|depth| Some(depth) != walk.max_depth)
            || (self.suggested_only && !walk.suggested_only);
        if changed {
            return Err(Error::invalid_param("suggested_only and max_depth cannot change from page to page."));
        }
        Ok((found, walk))
    }
}
