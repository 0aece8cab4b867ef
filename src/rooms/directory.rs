//! The published room directory: which rooms this server lists
//! ([spec](https://spec.matrix.org/latest/client-server-api/#published-room-directory)).
//!
//! Rooms are listed with the most joined members first, which needs only their records; summaries are made for the
//! page that is asked for, and for all rooms only when there is something to search for.

use std::collections::BTreeSet;

use ruma::directory::{Filter, RoomNetwork, RoomTypeFilter};
use serde::Serialize;

use super::summary::{self, Summary};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    store::{Direction, Read, Tx, records::Room, trees},
};

/// A page of the directory holds at most so many rooms.
const PAGE: usize = 500;

/// A page of the directory, as it is answered.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// Its rooms.
    #[serde(rename = "chunk")]
    pub rooms: Vec<Summary>,
    /// The token of the page after it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    /// The token of the page before it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// How many rooms there are on all pages, if it is known.
    #[serde(rename = "total_room_count_estimate", skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// Whether the room is published.
///
/// # Errors
/// When the store fails.
pub fn is_published(read: &dyn Read, room: RoomNo) -> Result<bool> {
    trees::PUBLISHED_ROOMS.contains(read, room)
}

/// Publishes a room, or no longer does.
pub fn set_published(tx: &mut Tx<'_>, room: RoomNo, published: bool) {
    if published {
        trees::PUBLISHED_ROOMS.put(tx, room, &());
    } else {
        trees::PUBLISHED_ROOMS.delete(tx, room);
    }
}

/// Lists a room for a network of an application service, or no longer does.
pub fn set_listed(tx: &mut Tx<'_>, appservice: &str, network: &str, room: RoomNo, listed: bool) {
    if listed {
        trees::NETWORK_ROOMS.put(tx, (appservice, network, room), &());
    } else {
        trees::NETWORK_ROOMS.delete(tx, (appservice, network, room));
    }
}

/// Takes a room out of the directory, and out of those of networks.
///
/// # Errors
/// When the store fails.
pub fn unlist(tx: &mut Tx<'_>, room: RoomNo) -> Result<()> {
    set_published(tx, room, false);
    let listed: Vec<_> = trees::NETWORK_ROOMS.scan(tx, (), Direction::Forward).collect::<Result<_>>()?;
    for (key, ()) in listed.into_iter().filter(|((_, _, no), ())| *no == room) {
        trees::NETWORK_ROOMS.delete(tx, key);
    }
    Ok(())
}

/// What clients call a network of an application service
/// (`instance_id` in [Third-party networks](https://spec.matrix.org/latest/client-server-api/#third-party-networks)).
pub fn instance_id(appservice: &str, network: &str) -> String {
    format!("{appservice}|{network}")
}

/// The rooms of `network` that pass the filter, from the token `since` on.
///
/// # Errors
/// 400 `M_INVALID_PARAM` when the token is none of ours.
pub fn page(
    read: &dyn Read,
    network: &RoomNetwork,
    filter: &Filter,
    since: Option<&str>,
    limit: Option<u64>,
) -> Result<Page> {
    let start = since.map_or(Ok(0), parse_token)?;
    let limit = limit.map_or(PAGE, |limit| usize::try_from(limit).unwrap_or(PAGE).clamp(1, PAGE));
    let (total, rooms) = if filter.is_empty() {
        let rooms = by_size(read, network)?;
        let page = rooms.iter().skip(start).take(limit);
        (rooms.len(), page.map(|(no, room)| summary::of(read, *no, room)).collect::<Result<_>>()?)
    } else {
        let mut found = Vec::new();
        for (no, room) in by_size(read, network)? {
            let summary = summary::of(read, no, &room)?;
            if passes(filter, &summary) {
                found.push(summary);
            }
        }
        (found.len(), found.into_iter().skip(start).take(limit).collect())
    };
    Ok(Page {
        rooms,
        next_batch: (start.saturating_add(limit) < total).then(|| token(start + limit)),
        prev_batch: (start > 0).then(|| token(start.saturating_sub(limit))),
        total: Some(total as u64),
    })
}

/// The listed rooms that someone is joined to, the largest first, and of equal ones the oldest.
fn by_size(read: &dyn Read, network: &RoomNetwork) -> Result<Vec<(RoomNo, Room)>> {
    let mut rooms = Vec::new();
    for no in listed(read, network)? {
        rooms.extend(trees::ROOMS.get(read, no)?.filter(|room| room.joined > 0).map(|room| (no, room)));
    }
    rooms.sort_by_key(|(no, room)| (std::cmp::Reverse(room.joined), *no));
    Ok(rooms)
}

/// The rooms that are published, listed for one network, or both published and listed for any.
fn listed(read: &dyn Read, network: &RoomNetwork) -> Result<BTreeSet<RoomNo>> {
    let published = trees::PUBLISHED_ROOMS.scan(read, (), Direction::Forward).map(|row| row.map(|(no, ())| no));
    let network_rooms = |rows: &mut dyn Iterator<Item = Result<((String, String, RoomNo), ())>>| {
        rows.map(|row| row.map(|((_, _, no), ())| no)).collect::<Result<BTreeSet<_>>>()
    };
    match network {
        RoomNetwork::ThirdParty(instance) => match instance.rsplit_once('|') {
            Some(of) => network_rooms(&mut trees::NETWORK_ROOMS.scan(read, of, Direction::Forward)),
            None => Ok(BTreeSet::new()),
        },
        RoomNetwork::All => {
            let mut all = network_rooms(&mut trees::NETWORK_ROOMS.scan(read, (), Direction::Forward))?;
            for no in published {
                all.insert(no?);
            }
            Ok(all)
        }
        _ => published.collect(),
    }
}

fn passes(filter: &Filter, summary: &Summary) -> bool {
    let of_type = |wanted: &RoomTypeFilter| wanted.as_str() == summary.room_type.as_deref();
    if !filter.room_types.is_empty() && !filter.room_types.iter().any(of_type) {
        return false;
    }
    let Some(term) = &filter.generic_search_term else { return true };
    let term = term.to_lowercase();
    let texts =
        [summary.name.as_deref(), summary.topic.as_deref(), summary.canonical_alias.as_deref().map(AsRef::as_ref)];
    texts.into_iter().flatten().any(|text: &str| text.to_lowercase().contains(&term))
}

fn token(start: usize) -> String {
    format!("d{start}")
}

fn parse_token(token: &str) -> Result<usize> {
    let start = token.strip_prefix('d').and_then(|start| start.parse().ok());
    start.ok_or_else(|| Error::invalid_param("This is no token of the room directory."))
}
