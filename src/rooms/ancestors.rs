//! Walks back along the references of events to those that they follow, for other servers.
//!
//! A walk visits each event once, so circles that a server made up end it, and stays in one room.

use std::collections::{BinaryHeap, HashSet, VecDeque};

use ruma::{EventId, OwnedEventId};
use serde_json::value::RawValue;

use super::{event, reader::Reader};
use crate::error::Result;

/// The events `from` and what came before them, the deepest first, as much of each as the reader may see.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub fn backwards(reader: &Reader<'_>, from: &[OwnedEventId], limit: usize) -> Result<Vec<Box<RawValue>>> {
    let mut seen = HashSet::new();
    let mut next = BinaryHeap::new();
    let mut reach = |next: &mut BinaryHeap<_>, id: &EventId| -> Result<()> {
        if seen.insert(id.to_owned())
            && let Some(event) = reader.event(id)?
        {
            next.push((event.pdu.depth, event.no));
        }
        Ok(())
    };
    for id in from {
        reach(&mut next, id)?;
    }
    let mut shown = Vec::new();
    while let Some((_, no)) = next.pop() {
        let event = event::require(reader.read, no)?;
        shown.extend(reader.shown(&event)?);
        if shown.len() >= limit {
            break;
        }
        for id in &event.pdu.prev_events {
            reach(&mut next, id)?;
        }
    }
    Ok(shown)
}

/// What lies between `earliest` and `latest`, both exclusive: the events before `latest`, the nearest first to be found
/// and the last in the list, down to the depth `min_depth`.
///
/// # Errors
/// As [`backwards`].
pub fn between(
    reader: &Reader<'_>,
    earliest: &[OwnedEventId],
    latest: &[OwnedEventId],
    min_depth: u64,
    limit: usize,
) -> Result<Vec<Box<RawValue>>> {
    let mut seen: HashSet<OwnedEventId> = earliest.iter().chain(latest).cloned().collect();
    let mut next = VecDeque::new();
    for id in latest {
        next.extend(reader.event(id)?);
    }
    let mut shown = VecDeque::new();
    while let Some(event) = next.pop_front() {
        for id in &event.pdu.prev_events {
            if shown.len() >= limit {
                return Ok(shown.into());
            }
            if seen.insert(id.clone())
                && let Some(before) = reader.event(id)?.filter(|before| before.pdu.depth >= min_depth)
            {
                if let Some(json) = reader.shown(&before)? {
                    shown.push_front(json);
                }
                next.push_back(before);
            }
        }
    }
    Ok(shown.into())
}
