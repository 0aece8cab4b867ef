//! Searching the text of messages
//! ([spec](https://spec.matrix.org/latest/client-server-api/#server-side-search)).
//!
//! There is no index: a request reads timelines from the newest event on, of all rooms at once, and looks at a bounded
//! number of events. In the order of time it can go on from there; by rank, what is ranked is what was looked at. On a
//! server of families that reaches back for years, and encrypted rooms have no text to find anyway.

use std::{
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use ruma::{UserId, events::TimelineEventType};
use serde::Deserialize;

use super::{
    event::{self, Event},
    timeline::{self, Place},
    visibility::Gate,
};
use crate::{
    error::{Error, Result},
    ids::{EventNo, RoomNo},
    store::Read,
};

/// How many events one request looks at.
const LOOKED_AT: usize = 20_000;

/// How many places of a timeline are read at once, so that no iterators stay open while others are read.
const BATCH: usize = 64;

/// What to search for.
pub struct Search<'a> {
    /// The words; an event must have them all.
    pub words: Vec<String>,
    /// Which texts to look at.
    pub keys: Keys,
    /// Whether the best results come first, and not the newest.
    pub by_rank: bool,
    /// How many results to give.
    pub limit: usize,
    /// The token to go on from.
    pub from: Option<Token>,
    /// Which events are wanted at all.
    pub wanted: &'a dyn Fn(&Event) -> bool,
}

/// Which texts of events are searched.
#[derive(Clone, Copy)]
pub struct Keys {
    /// The bodies of messages.
    pub body: bool,
    /// The names of rooms.
    pub name: bool,
    /// The topics of rooms.
    pub topic: bool,
}

/// A result.
pub struct Hit {
    /// The event.
    pub event: Arc<Event>,
    /// How well it matches.
    pub rank: f64,
}

/// Results of a search.
pub struct Found {
    /// In the order that was asked for.
    pub hits: Vec<Hit>,
    /// How many there are on all pages, as far as was looked.
    pub count: usize,
    /// Where to go on.
    pub next: Option<Token>,
}

/// Where to go on with a search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token {
    /// Newest first: before the event with this order, with the count of the first page.
    Before(i64, usize),
    /// Best first: after so many results.
    After(usize),
}

impl Token {
    /// Reads what [`Display`](std::fmt::Display) wrote.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` when it is no such thing.
    pub fn parse(token: &str) -> Result<Self> {
        let parse = || match token.split_at_checked(1)? {
            ("b", rest) => {
                let (order, count) = rest.split_once('_')?;
                Some(Self::Before(order.parse().ok()?, count.parse().ok()?))
            }
            ("a", rest) => rest.parse().ok().map(Self::After),
            _ => None,
        };
        parse().ok_or_else(|| Error::invalid_param("This is no token of a search."))
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Before(order, count) => write!(f, "b{order}_{count}"),
            Self::After(skipped) => write!(f, "a{skipped}"),
        }
    }
}

/// Searches rooms that the user may read, each up to (and with) the event at the given order.
///
/// # Errors
/// When the store fails.
pub fn search(read: &dyn Read, user: &UserId, rooms: &[(RoomNo, i64)], search: &Search<'_>) -> Result<Found> {
    if search.words.is_empty() {
        return Ok(Found { hits: Vec::new(), count: 0, next: None });
    }
    if search.by_rank { best(read, user, rooms, search) } else { newest(read, user, rooms, search) }
}

/// The newest results. Only the first page looks for more than it gives, to count them.
fn newest(read: &dyn Read, user: &UserId, rooms: &[(RoomNo, i64)], search: &Search<'_>) -> Result<Found> {
    let (before, known) = match search.from {
        Some(Token::Before(order, count)) => (order, Some(count)),
        _ => (i64::MAX, None),
    };
    let mut walk = Walk::new(read, user, rooms, before)?;
    let mut found = Found { hits: Vec::new(), count: 0, next: None };
    let mut reached = before;
    while let Some((order, hit)) = walk.next(search)? {
        found.count += usize::from(hit.is_some());
        if found.hits.len() < search.limit {
            reached = order;
            found.hits.extend(hit);
        } else if known.is_some() {
            break;
        }
    }
    found.count = known.unwrap_or(found.count);
    if found.hits.len() == search.limit || walk.looked_at == LOOKED_AT {
        found.next = Some(Token::Before(reached, found.count));
    }
    Ok(found)
}

/// The best results.
fn best(read: &dyn Read, user: &UserId, rooms: &[(RoomNo, i64)], search: &Search<'_>) -> Result<Found> {
    let skipped = match search.from {
        Some(Token::After(skipped)) => skipped,
        _ => 0,
    };
    let mut walk = Walk::new(read, user, rooms, i64::MAX)?;
    let mut all: Vec<(f64, EventNo)> = Vec::new();
    while let Some((_, hit)) = walk.next(search)? {
        all.extend(hit.map(|hit| (hit.rank, hit.event.no)));
    }
    // A stable sort: equal ones stay newest first.
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let page = all.iter().skip(skipped).take(search.limit);
    let hits =
        page.map(|&(rank, no)| Ok(Hit { event: event::require(read, no)?, rank })).collect::<Result<Vec<_>>>()?;
    let next = (hits.len() == search.limit).then(|| Token::After(skipped + hits.len()));
    Ok(Found { hits, count: all.len(), next })
}

/// A walk through several timelines at once, newest event first.
struct Walk<'r> {
    read: &'r dyn Read,
    gate: Gate<'r>,
    rooms: Vec<Cursor>,
    /// The order of the next event of each room, and the room's index.
    next: BinaryHeap<(i64, usize)>,
    looked_at: usize,
}

struct Cursor {
    room: RoomNo,
    places: VecDeque<Place>,
}

impl Cursor {
    /// Reads on before `order`; gives the next event's order.
    fn refill(&mut self, read: &dyn Read, order: i64) -> Result<Option<i64>> {
        if self.places.is_empty() {
            self.places = timeline::before(read, self.room, order).take(BATCH).collect::<Result<_>>()?;
        }
        Ok(self.places.front().map(|(order, _)| *order))
    }
}

impl<'r> Walk<'r> {
    fn new(read: &'r dyn Read, user: &'r UserId, rooms: &[(RoomNo, i64)], before: i64) -> Result<Self> {
        let mut walk = Self {
            read,
            gate: Gate::new(read, user),
            rooms: Vec::with_capacity(rooms.len()),
            next: BinaryHeap::new(),
            looked_at: 0,
        };
        for &(room, last) in rooms {
            let mut cursor = Cursor { room, places: VecDeque::new() };
            if let Some(order) = cursor.refill(read, before.min(last.saturating_add(1)))? {
                walk.next.push((order, walk.rooms.len()));
                walk.rooms.push(cursor);
            }
        }
        Ok(walk)
    }

    /// The next event's order, with the event if it is a hit; `None` at the end of the walk.
    fn next(&mut self, search: &Search<'_>) -> Result<Option<(i64, Option<Hit>)>> {
        if self.looked_at == LOOKED_AT {
            return Ok(None);
        }
        let Some((order, index)) = self.next.pop() else { return Ok(None) };
        let Some(cursor) = self.rooms.get_mut(index) else { return Ok(None) };
        let Some((_, no)) = cursor.places.pop_front() else { return Ok(None) };
        self.next.extend(cursor.refill(self.read, order)?.map(|order| (order, index)));
        self.looked_at += 1;
        let event = event::require(self.read, no)?;
        let rank = search.rank(&event).filter(|_| (search.wanted)(&event));
        let hit = match rank {
            Some(rank) if self.gate.may_see(&event)? => Some(Hit { event, rank }),
            _ => None,
        };
        Ok(Some((order, hit)))
    }
}

impl Search<'_> {
    /// How well the event matches: the part of its words that are searched for. `None` if one of those is missing.
    fn rank(&self, event: &Event) -> Option<f64> {
        #[derive(Deserialize)]
        struct Texts {
            body: Option<String>,
            name: Option<String>,
            topic: Option<String>,
        }
        let wanted = match event.pdu.kind {
            TimelineEventType::RoomMessage => self.keys.body,
            TimelineEventType::RoomName => self.keys.name,
            TimelineEventType::RoomTopic => self.keys.topic,
            _ => false,
        };
        if !wanted {
            return None;
        }
        let texts: Texts = event.pdu.content_as()?;
        let text = match event.pdu.kind {
            TimelineEventType::RoomName => texts.name,
            TimelineEventType::RoomTopic => texts.topic,
            _ => texts.body,
        }?;
        let of_text = words(&text);
        let mut matched = 0;
        for word in &self.words {
            let matches = of_text.iter().filter(|candidate| is_match(word, candidate)).count();
            if matches == 0 {
                return None;
            }
            matched += matches;
        }
        Some(matched as f64 / of_text.len().max(1) as f64)
    }
}

/// A word matches one that begins with it. In scripts that put no spaces between words it may stand anywhere.
fn is_match(word: &str, candidate: &str) -> bool {
    if word.is_ascii() { candidate.starts_with(word) } else { candidate.contains(word) }
}

/// The words of a text, in lower case.
pub fn words(text: &str) -> Vec<String> {
    let parts = text.split(|character: char| !character.is_alphanumeric()).filter(|part| !part.is_empty());
    parts.map(str::to_lowercase).collect()
}
