//! Rooms that only other servers know: as seen in spaces, and each for itself
//! ([spec](https://spec.matrix.org/latest/server-server-api/#spaces)).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, api::federation::space::get_hierarchy::v1::Request};

use super::{Failure, Federation, Limits};
use crate::{
    clock,
    error::{Error, Result},
    rooms::{
        self, servers,
        spaces::{self, Child, Chunk, Known, Page, Step, Walk, Walker},
        summary::{Summary, Viewer},
    },
};

/// A space with its children, in bytes, and how long a server may take to describe it.
const LIMITS: Limits = Limits { body: 2 * 1024 * 1024, timeout: Duration::from_secs(10), redirects: 0 };

/// How many servers are asked about one room before it is given up.
const ATTEMPTS: usize = 3;

/// How many rooms are asked for at once.
const AT_ONCE: usize = 8;

/// How many rooms are asked for in one walk, and how long it may take, before its page ends.
const BUDGET: (usize, Duration) = (64, Duration::from_secs(25));

/// A room as another server describes it.
#[derive(Debug)]
pub struct Space {
    /// The room, and its children in their order.
    pub room: Chunk,
    /// How those of its children look that our users might see.
    children: HashMap<OwnedRoomId, Summary>,
    /// Those that they cannot see anywhere.
    inaccessible: HashSet<OwnedRoomId>,
}

/// A room with its children as another server describes it; `via` are servers that may know it.
///
/// # Errors
/// The failure of the last server that was asked.
pub async fn ask(
    federation: &Federation,
    room: &RoomId,
    via: &[OwnedServerName],
    suggested_only: bool,
) -> Result<Arc<Space>, Failure> {
    let key = (room.to_owned(), suggested_only);
    let own = room.server_name().map(ToOwned::to_owned);
    let candidates: Vec<_> = via.iter().chain(&own).filter(|server| *server != federation.server_name()).collect();
    let attempts = async {
        let mut failure = Failure::Unreachable("no server is known that is in the room".to_owned());
        for (at, server) in candidates.iter().enumerate() {
            if candidates.iter().take(at).any(|earlier| earlier == server) || at >= ATTEMPTS {
                continue;
            }
            let mut request = Request::new(room.to_owned());
            request.suggested_only = suggested_only;
            match federation.send_with(server, request, LIMITS).await {
                Ok(answer) if answer.room.summary.room_id == *room => {
                    let space = Space::of(answer, suggested_only);
                    let bytes = space.weight();
                    return Ok((Arc::new(space), bytes));
                }
                Ok(_) => failure = Failure::Malformed("it is about another room".to_owned()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    };
    federation.answers.spaces.get_or(&key, attempts).await
}

impl Space {
    fn of(answer: ruma::api::federation::space::get_hierarchy::v1::Response, suggested_only: bool) -> Self {
        let summary = Summary::from(answer.room.summary);
        let children = answer.room.children_state.iter().filter(|_| summary.is_space());
        let children = children.filter_map(|child| Child::from_stripped(child.json().get())).collect();
        let children_state = spaces::in_order(children, suggested_only);
        let named = |id: &RoomId| children_state.iter().any(|child| *child.state_key == *id);
        Self {
            children: answer
                .children
                .into_iter()
                .filter(|child| named(&child.room_id))
                .map(|child| (child.room_id.clone(), Summary::from(child)))
                .collect(),
            inaccessible: answer.inaccessible_children.into_iter().filter(|child| named(child)).collect(),
            room: Chunk { summary, children_state },
        }
    }

    fn weight(&self) -> usize {
        self.room.summary.weight()
            + self.room.children_state.iter().map(Child::weight).sum::<usize>()
            + self.children.values().map(|child| child.weight() + 64).sum::<usize>()
            + self.inaccessible.len() * 96
    }
}

/// A page of a walk through a space from the room `root`, as the viewer may see it, on from the token `from`.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the viewer may not see the first room, or nobody who can be asked knows it; 400
/// `M_INVALID_PARAM` for a token that is none or belongs to another walk.
pub async fn walk(
    federation: &Federation,
    viewer: Viewer<'_>,
    root: &RoomId,
    walk: Walk,
    from: Option<&str>,
) -> Result<Page> {
    let via = known_servers(federation, root)?;
    let mut walker = Walker::new(root, via, walk, from)?;
    let mut told = Told::new();
    while let Some(step) = walker.next() {
        if told.is_spent() {
            walker.pause();
        }
        let chunk = match known(federation, viewer, &step.room, walker.suggested_only())? {
            Known::Shown(chunk) => Some(chunk),
            Known::Hidden => None,
            Known::Unknown => told.elsewhere(federation, viewer, &step, &walker).await?,
        };
        match chunk {
            Some(chunk) => walker.found(&step, chunk),
            None if step.room == root => return Err(Error::forbidden("You may not see this room.")),
            None => {}
        }
    }
    Ok(walker.page())
}

fn known(federation: &Federation, viewer: Viewer<'_>, room: &RoomId, suggested_only: bool) -> Result<Known<Chunk>> {
    spaces::chunk(&federation.rooms.store.read(), viewer, room, suggested_only)
}

/// What other servers told in one walk.
struct Told {
    /// How many rooms were asked for, and until when some may be.
    asked: usize,
    deadline: Instant,
    children: HashMap<OwnedRoomId, Summary>,
    inaccessible: HashSet<OwnedRoomId>,
}

impl Told {
    fn new() -> Self {
        let deadline = clock::instant() + BUDGET.1;
        Self { asked: 0, deadline, children: HashMap::new(), inaccessible: HashSet::new() }
    }

    /// Whether no more rooms may be asked for.
    fn is_spent(&self) -> bool {
        self.asked >= BUDGET.0 || clock::instant() >= self.deadline
    }

    /// The room of a step, which this server does not know. Others that come soon are asked for at the same time.
    async fn elsewhere(
        &mut self,
        federation: &Federation,
        viewer: Viewer<'_>,
        step: &Step,
        walker: &Walker,
    ) -> Result<Option<Chunk>> {
        let suggested_only = walker.suggested_only();
        let Some(wanted) = self.open(step) else {
            let leaf = self.children.remove(&step.room);
            return shown(federation, viewer, leaf.map(|summary| Chunk { summary, children_state: Vec::new() }));
        };
        if self.is_spent() {
            return Ok(None);
        }
        let mut steps = vec![wanted];
        for step in walker.upcoming().filter_map(|step| self.open(step)) {
            if steps.len() == AT_ONCE {
                break;
            }
            if matches!(known(federation, viewer, &step.room, suggested_only)?, Known::Unknown) {
                steps.push(step);
            }
        }
        self.asked += steps.len();
        let answers = join_all(steps.iter().map(|step| ask(federation, &step.room, &step.via, suggested_only))).await;
        let Some(Ok(space)) = answers.into_iter().next() else { return Ok(None) };
        self.children.extend(space.children.iter().map(|(id, summary)| (id.clone(), summary.clone())));
        self.inaccessible.extend(space.inaccessible.iter().cloned());
        shown(federation, viewer, Some(space.room.clone()))
    }

    /// The step, if its room must be asked for: not one that nobody shows us, and not one without children whose
    /// parent's server described it.
    fn open<'s>(&self, step: &'s Step) -> Option<&'s Step> {
        let is_leaf = |summary: &Summary| !summary.is_space();
        let closed = self.inaccessible.contains(&step.room) || self.children.get(&step.room).is_some_and(is_leaf);
        (!closed).then_some(step)
    }
}

fn shown(federation: &Federation, viewer: Viewer<'_>, chunk: Option<Chunk>) -> Result<Option<Chunk>> {
    let Some(chunk) = chunk else { return Ok(None) };
    Ok(chunk.summary.may_be_shown(&federation.rooms.store.read(), viewer)?.then_some(chunk))
}

/// Servers that were in the room when this one last heard of it.
fn known_servers(federation: &Federation, room: &RoomId) -> Result<Vec<OwnedServerName>> {
    let read = federation.rooms.store.read();
    match rooms::find(&read, room)? {
        Some(no) => servers::to_join_through(&read, no, federation.server_name()),
        None => Ok(Vec::new()),
    }
}

/// The summary of a room that this server does not know, as the viewer may see it.
///
/// # Errors
/// 404 `M_NOT_FOUND` when nobody who was asked shows it.
pub async fn summary(
    federation: &Federation,
    viewer: Viewer<'_>,
    room: &RoomId,
    via: &[OwnedServerName],
) -> Result<Summary> {
    let mut via = via.to_vec();
    via.extend(known_servers(federation, room)?);
    let space = ask(federation, room, &via, false).await.ok();
    let chunk = shown(federation, viewer, space.map(|space| space.room.clone()))?;
    chunk.map(|chunk| chunk.summary).ok_or_else(|| Error::not_found("There is no such room, or you may not see it."))
}
