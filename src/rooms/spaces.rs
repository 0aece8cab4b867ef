//! Spaces: the rooms below a room, by their `m.space.child` events
//! ([spec](https://spec.matrix.org/latest/client-server-api/#discovering-rooms-within-spaces)).
//!
//! [`chunk`] is one room with its children as this server knows it. [`Walker`] goes through a space, room after room:
//! whoever drives it looks each room up, here or at another server. The walk is depth first, visits each room once, so
//! loops end it, and keeps no state between pages: a token says how many rooms were given already, and the walk starts
//! over and skips these.

use std::{collections::HashSet, sync::Arc};

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, events::StateEventType};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    event::{self, Event},
    summary::{self, Summary, Viewer},
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

/// How many children of one room are looked at.
const CHILDREN: usize = 1_000;

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
#[derive(Clone, Debug, Serialize)]
pub struct Chunk {
    /// The room.
    #[serde(flatten)]
    pub summary: Summary,
    /// Its children, if it is a space.
    pub children_state: Vec<Child>,
}

/// An `m.space.child` event in stripped form, with its time.
#[derive(Clone, Debug, Serialize)]
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
    #[serde(skip)]
    via: Vec<OwnedServerName>,
}

/// The rooms of a page, and the token of the next.
#[derive(Serialize)]
pub struct Page {
    /// In the order of the walk.
    pub rooms: Vec<Chunk>,
    /// The token of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
}

/// A space as another server is told of it.
#[derive(Serialize)]
pub struct Hierarchy {
    /// The space.
    pub room: Chunk,
    /// Those of its children that the server's users can join or read.
    pub children: Vec<Summary>,
    /// Those that they cannot.
    pub inaccessible_children: Vec<OwnedRoomId>,
}

/// What this server knows of a room.
pub enum Known<T> {
    /// How it is, and the viewer may see it.
    Shown(T),
    /// How it is, and the viewer may not see it.
    Hidden,
    /// Not how it is now: other servers may.
    Unknown,
}

/// A room and its children as this server knows them.
///
/// # Errors
/// When the store fails; so for all functions here.
pub fn chunk(read: &dyn Read, viewer: Viewer<'_>, id: &RoomId, suggested_only: bool) -> Result<Known<Chunk>> {
    Ok(match summary(read, viewer, id)? {
        Known::Shown(summary) => {
            let children_state = children(read, id, &summary, suggested_only)?;
            Known::Shown(Chunk { summary, children_state })
        }
        Known::Hidden => Known::Hidden,
        Known::Unknown => Known::Unknown,
    })
}

/// A room as this server knows it.
///
/// # Errors
/// As [`chunk`].
pub fn summary(read: &dyn Read, viewer: Viewer<'_>, id: &RoomId) -> Result<Known<Summary>> {
    let Some(no) = super::find(read, id)? else { return Ok(Known::Unknown) };
    let room = super::get(read, no)?;
    if !room.is_resident() {
        Ok(Known::Unknown)
    } else if summary::may_be_shown(read, no, &room, viewer)? {
        summary::of(read, no, &room).map(Known::Shown)
    } else {
        Ok(Known::Hidden)
    }
}

/// The space and its children, for another server
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1hierarchyroomid)). `None` if the
/// viewer may not see it or this server does not know how it is; children of which it does not know are left out.
///
/// # Errors
/// As [`chunk`].
pub fn hierarchy(read: &dyn Read, viewer: Viewer<'_>, id: &RoomId, suggested_only: bool) -> Result<Option<Hierarchy>> {
    let Known::Shown(space) = chunk(read, viewer, id, suggested_only)? else { return Ok(None) };
    let mut hierarchy = Hierarchy { room: space, children: Vec::new(), inaccessible_children: Vec::new() };
    for child in &hierarchy.room.children_state {
        match summary(read, viewer, &child.state_key)? {
            Known::Shown(summary) => hierarchy.children.push(summary),
            Known::Hidden => hierarchy.inaccessible_children.push(child.state_key.clone()),
            Known::Unknown => {}
        }
    }
    Ok(Some(hierarchy))
}

/// The children of a space in their order: by their `order`, then by the time of their event, then by ID
/// ([spec](https://spec.matrix.org/latest/client-server-api/#ordering-of-children-within-a-space)).
fn children(read: &dyn Read, id: &RoomId, summary: &Summary, suggested_only: bool) -> Result<Vec<Child>> {
    if !summary.is_space() {
        return Ok(Vec::new());
    }
    let (no, _) = super::require(read, id)?;
    let children = child_events(read, no)?.into_iter().filter_map(|event| Child::of(&event)).collect();
    Ok(in_order(children, suggested_only))
}

/// The children in their order, without those that are not suggested if these are not wanted.
pub fn in_order(mut children: Vec<Child>, suggested_only: bool) -> Vec<Child> {
    children.retain(|child| child.suggested || !suggested_only);
    children.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
    children.truncate(CHILDREN);
    children
}

/// All `m.space.child` events in the room's current state, removed ones too.
///
/// The rooms that are anyone's children are far fewer than the members of a large space, so these are gone through and
/// not the room's state.
///
/// # Errors
/// As [`chunk`].
pub fn child_events(read: &dyn Read, space: RoomNo) -> Result<Vec<Arc<Event>>> {
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

/// The fields of an `m.space.child` event in stripped form.
#[derive(Deserialize)]
struct Stripped {
    #[serde(rename = "type")]
    kind: String,
    state_key: OwnedRoomId,
    content: Box<RawValue>,
    sender: OwnedUserId,
    origin_server_ts: u64,
}

impl Child {
    /// Takes an `m.space.child` event; `None` for one that was removed, which is one without `via`.
    fn of(event: &Event) -> Option<Self> {
        Self::from_parts(Stripped {
            kind: event.pdu.kind.to_string(),
            state_key: RoomId::parse(event.pdu.state_key.as_deref()?).ok()?,
            content: event.pdu.content.clone(),
            sender: event.pdu.sender.clone(),
            origin_server_ts: event.pdu.origin_server_ts.get().into(),
        })
    }

    /// Takes one in stripped form, as another server sends it; `None` as well if it is none.
    pub fn from_stripped(json: &str) -> Option<Self> {
        Self::from_parts(serde_json::from_str(json).ok()?)
    }

    fn from_parts(event: Stripped) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: serde_json::Value,
            #[serde(default)]
            order: serde_json::Value,
            #[serde(default)]
            suggested: serde_json::Value,
        }
        const KIND: &str = "m.space.child";
        let content: Content = serde_json::from_str(event.content.get()).ok()?;
        let via = content.via.as_array().filter(|_| event.kind == KIND)?;
        let is_valid = |order: &str| order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7E).contains(&byte));
        Some(Self {
            kind: KIND,
            state_key: event.state_key,
            content: event.content,
            sender: event.sender,
            origin_server_ts: event.origin_server_ts,
            order: content.order.as_str().filter(|order| is_valid(order)).map(ToOwned::to_owned),
            suggested: content.suggested.as_bool().unwrap_or(false),
            via: via.iter().filter_map(|server| server.as_str()?.try_into().ok()).collect(),
        })
    }

    /// About how many bytes it takes in memory.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.content.get().len() + 128 + 48 * self.via.len()
    }

    fn sort_key(&self) -> (bool, Option<&str>, u64, &RoomId) {
        (self.order.is_none(), self.order.as_deref(), self.origin_server_ts, &self.state_key)
    }
}

/// A room that a walk comes to.
#[derive(Clone, Debug)]
pub struct Step {
    /// The room.
    pub room: OwnedRoomId,
    /// The servers that its parent names, through which it can be found.
    pub via: Vec<OwnedServerName>,
    depth: u64,
}

/// A walk on its way; see the module.
pub struct Walker {
    walk: Walk,
    start: usize,
    found: usize,
    seen: HashSet<OwnedRoomId>,
    stack: Vec<Step>,
    rooms: Vec<Chunk>,
    /// Whether there is another page.
    more: bool,
}

impl Walker {
    /// Begins at the room `root`, or goes on from the token `from`.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` for a token that is none or belongs to another walk.
    pub fn new(root: &RoomId, via: Vec<OwnedServerName>, walk: Walk, from: Option<&str>) -> Result<Self> {
        let (start, walk) = from.map_or(Ok((0, walk)), |token| walk.resume(token))?;
        let first = Step { room: root.to_owned(), via, depth: 0 };
        let seen = HashSet::from([root.to_owned()]);
        Ok(Self { walk, start, found: 0, seen, stack: vec![first], rooms: Vec::new(), more: false })
    }

    /// Whether the walk goes only where children are suggested.
    pub fn suggested_only(&self) -> bool {
        self.walk.suggested_only
    }

    /// The rooms that come next, the nearest first.
    pub fn upcoming(&self) -> impl Iterator<Item = &Step> {
        self.stack.iter().rev()
    }

    /// The next room to look up; `None` once the page is complete.
    #[expect(clippy::should_implement_trait, reason = "the caller has a word in what comes next")]
    pub fn next(&mut self) -> Option<Step> {
        if self.more { None } else { self.stack.pop() }
    }

    /// Goes on below the room of a step, which looks like this; its children must be in their order.
    pub fn found(&mut self, step: &Step, chunk: Chunk) {
        let limit = self.walk.limit.map_or(PAGE, |limit| usize::try_from(limit).unwrap_or(PAGE).clamp(1, PAGE));
        if self.rooms.len() == limit {
            self.more = true;
            return;
        }
        if step.depth < self.walk.max_depth.unwrap_or(DEPTH).min(DEPTH) {
            // The last one pushed is walked next, so they go onto the stack in reverse order.
            for child in chunk.children_state.iter().rev() {
                if self.seen.len() < ROOMS && self.seen.insert(child.state_key.clone()) {
                    let (room, via) = (child.state_key.clone(), child.via.clone());
                    self.stack.push(Step { room, via, depth: step.depth + 1 });
                }
            }
        }
        if self.found >= self.start {
            self.rooms.push(chunk);
        }
        self.found += 1;
    }

    /// Ends the page here if it has any room: the next goes on.
    pub fn pause(&mut self) {
        self.more = !self.rooms.is_empty();
    }

    /// The rooms that were found.
    pub fn page(self) -> Page {
        Page { next_batch: self.more.then(|| self.walk.token(self.found)), rooms: self.rooms }
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
