//! Auth chains: an event, the events that allow it, those that allow these, and so on to the create event.
//!
//! State resolution asks in what the auth chains of several states differ. `AUTH_EVENTS` has each state event's auth
//! events as numbers, and its *rank*, which is higher than theirs. Going through the events by falling rank, all that
//! leads to an event is known when it is reached; and as soon as whatever is still open belongs to all chains, nothing
//! beneath can differ. So the walk ends near the fork, however old the room is.

use std::collections::{BTreeSet, BinaryHeap, HashMap};

use super::{Pdu, event};
use crate::{
    error::{Error, Result},
    ids::EventNo,
    store::{Read, Tx, records::AuthEvents, trees},
};

/// The most chains that are compared at a time: one bit for each.
pub const MAX_CHAINS: usize = 32;

/// Enters a state event.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub(super) fn index(tx: &mut Tx<'_>, no: EventNo, pdu: &Pdu) -> Result<()> {
    let mut row = AuthEvents { rank: 1, events: Vec::with_capacity(pdu.auth_events.len()) };
    for id in &pdu.auth_events {
        let auth = event::intern(tx, id)?;
        let rank = trees::AUTH_EVENTS.get(tx, auth)?.map_or(0, |row| row.rank);
        row.rank = row.rank.max(rank + 1);
        row.events.push(auth);
    }
    trees::AUTH_EVENTS.put(tx, no, &row);
    Ok(())
}

/// The auth events of a state event, and its rank.
///
/// # Errors
/// `Corrupt` when there is no row for it; else as [`index`].
pub fn get(read: &dyn Read, no: EventNo) -> Result<AuthEvents> {
    trees::AUTH_EVENTS.get(read, no)?.ok_or_else(|| Error::corrupt(trees::AUTH_EVENTS.name, no.0.to_be_bytes()))
}

/// The auth chain of some events: the events that allow them, those that allow these, and so on. The events themselves
/// are in it only where another of them names them.
///
/// # Errors
/// When a row is damaged or the database fails.
pub fn of(read: &dyn Read, events: impl IntoIterator<Item = EventNo>) -> Result<BTreeSet<EventNo>> {
    let mut open: Vec<EventNo> = Vec::new();
    for no in events {
        match trees::AUTH_EVENTS.get(read, no)? {
            Some(row) => open.extend(row.events),
            // Events that are no state allow no others, and are not in the index.
            None => {
                for id in &event::require(read, no)?.pdu.auth_events {
                    open.extend(event::no_of(read, id)?);
                }
            }
        }
    }
    let mut chain = BTreeSet::new();
    while let Some(no) = open.pop() {
        // What is not in the index is not here.
        if !chain.contains(&no)
            && let Some(row) = trees::AUTH_EVENTS.get(read, no)?
        {
            chain.insert(no);
            open.extend(row.events);
        }
    }
    Ok(chain)
}

/// The events of which each is in the auth chain of some of `states`, but not of all. The chain of a state is that of its
/// events, without these unless others name them; `shared` are the events that all states have.
///
/// # Errors
/// As [`get`]; when there are more than [`MAX_CHAINS`] states.
pub fn difference(
    read: &dyn Read,
    states: &[BTreeSet<EventNo>],
    shared: impl Iterator<Item = EventNo>,
) -> Result<BTreeSet<EventNo>> {
    if states.len() > MAX_CHAINS {
        return Err(Error::internal("too many states to compare"));
    }
    let all = u32::MAX >> (MAX_CHAINS - states.len());
    let mut walk = Walk { read, all, chains: HashMap::new(), open: BinaryHeap::new(), undecided: 0 };
    for (index, state) in states.iter().enumerate() {
        for event in state {
            walk.enter(get(read, *event)?.events, 1 << index)?;
        }
    }
    for event in shared {
        walk.enter(get(read, event)?.events, all)?;
    }
    let mut different = BTreeSet::new();
    while walk.undecided > 0
        && let Some((_, no)) = walk.open.pop()
    {
        let Some((chains, row)) = walk.chains.get(&no).cloned() else { continue };
        if chains != all {
            walk.undecided -= 1;
            different.insert(no);
        }
        walk.enter(row.events, chains)?;
    }
    Ok(different)
}

/// A walk down several chains at once.
struct Walk<'a> {
    read: &'a dyn Read,
    /// The bits of all chains.
    all: u32,
    /// The events that were reached: the chains they are in as far as is known, and their rows.
    chains: HashMap<EventNo, (u32, AuthEvents)>,
    /// Those of them that were not gone on from, by rank.
    open: BinaryHeap<(u64, EventNo)>,
    /// How many of these are not in all chains.
    undecided: usize,
}

impl Walk<'_> {
    fn enter(&mut self, events: Vec<EventNo>, of: u32) -> Result<()> {
        for no in events {
            if let Some((chains, _)) = self.chains.get_mut(&no) {
                let before = *chains;
                *chains |= of;
                self.undecided -= usize::from(before != self.all && *chains == self.all);
            } else {
                let row = get(self.read, no)?;
                self.open.push((row.rank, no));
                self.chains.insert(no, (of, row));
                self.undecided += usize::from(of != self.all);
            }
        }
        Ok(())
    }
}

/// The events on the paths between the `ends` along auth events, with these
/// ([Conflicted state subgraph](https://spec.matrix.org/latest/rooms/v12/#definitions)).
///
/// # Errors
/// As [`get`].
pub fn between(read: &dyn Read, ends: &BTreeSet<EventNo>) -> Result<BTreeSet<EventNo>> {
    let mut rows: HashMap<EventNo, AuthEvents> = HashMap::new();
    for end in ends {
        rows.insert(*end, get(read, *end)?);
    }
    // Nothing of a lower rank than all ends leads to one of them.
    let lowest = rows.values().map(|row| row.rank).min().unwrap_or(0);
    let mut open: Vec<EventNo> = ends.iter().copied().collect();
    while let Some(no) = open.pop() {
        for auth in rows.get(&no).map(|row| row.events.clone()).unwrap_or_default() {
            if rows.contains_key(&auth) {
                continue;
            }
            let row = get(read, auth)?;
            if row.rank > lowest {
                open.push(auth);
                rows.insert(auth, row);
            }
        }
    }
    // By rising rank, whether an event leads to an end is known from what it names.
    let mut by_rank: Vec<_> = rows.iter().map(|(no, row)| (row.rank, *no)).collect();
    by_rank.sort_unstable();
    let mut leads = ends.clone();
    for (_, no) in by_rank {
        if rows.get(&no).is_some_and(|row| row.events.iter().any(|auth| leads.contains(auth))) {
            leads.insert(no);
        }
    }
    Ok(leads)
}
