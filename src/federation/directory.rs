//! Rooms by their aliases, and lists of rooms, of this server and of others.

use std::sync::Arc;

use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, ServerName,
    api::federation::{
        directory::{get_public_rooms, get_public_rooms_filtered},
        query::get_room_information,
    },
    directory::{Filter, RoomNetwork},
    room::RoomSummary,
};

use super::{Federation, Limits};
use crate::{
    error::{Error, Result},
    outgoing::appservices,
    rooms::{self, aliases, directory::Page, servers, summary::Summary},
};

/// How many servers to join through are kept for an alias.
const SERVERS: usize = 50;

/// The largest page of another server's rooms, in rooms and in bytes.
const PAGE: (u64, usize) = (500, 2 * 1024 * 1024);

/// The room that an alias stands for, and the servers through which it can be joined, the best first.
#[derive(Clone, Debug)]
pub struct Located {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The servers; at most 51.
    pub servers: Vec<OwnedServerName>,
}

/// The room that an alias of this or another server stands for.
///
/// # Errors
/// 404 `M_NOT_FOUND` when there is no such alias; those of [`Failure`](super::Failure) when its server cannot be asked.
pub async fn locate(federation: &Federation, alias: &RoomAliasId) -> Result<Located> {
    let server = alias.server_name();
    if server == federation.server_name() {
        let store = &federation.rooms.store;
        appservices::query_room_alias(&federation.outgoing, &federation.appservices, store, alias).await?;
        let read = federation.rooms.store.read();
        let room = aliases::require(&read, alias)?.room;
        let servers = servers::to_join_through(&read, room, server)?;
        return Ok(Located { room_id: rooms::get(&read, room)?.id, servers });
    }
    let ask = async {
        let limits = Limits { body: 256 * 1024, ..Limits::default() };
        let request = get_room_information::v1::Request::new(alias.to_owned());
        let answer = federation.send_with(server, request, limits).await?;
        let mut servers = answer.servers;
        servers.truncate(SERVERS);
        // The server of the alias need not be in the room, but if it is, nobody is more likely to let us in.
        if !servers.iter().any(|listed| listed == server) {
            servers.push(server.to_owned());
        }
        let bytes = servers.iter().map(|server| server.as_str().len() + 32).sum();
        Ok((Arc::new(Located { room_id: answer.room_id, servers }), bytes))
    };
    let located = federation.answers.aliases.get_or(alias, ask).await?;
    Ok(Arc::unwrap_or_clone(located))
}

/// What is asked of a room directory.
pub struct Listing<'a> {
    /// Of which network the rooms are to be.
    pub network: &'a RoomNetwork,
    /// What to search for.
    pub filter: &'a Filter,
    /// The token of the page, of the server that is asked.
    pub since: Option<&'a str>,
    /// How many rooms to give at most.
    pub limit: Option<u64>,
}

/// A page of the room directory of another server.
///
/// # Errors
/// Those of [`Failure`](super::Failure).
pub async fn page_of(federation: &Federation, server: &ServerName, listing: Listing<'_>) -> Result<Arc<Page>> {
    let Listing { network, filter, since, limit } = listing;
    let limit = limit.map_or(PAGE.0, |limit| limit.clamp(1, PAGE.0));
    let limits = Limits { body: PAGE.1, ..Limits::default() };
    let key = format!("{server} {network:?} {limit} {since:?} {}", serde_json::to_string(filter)?);
    let ask = async {
        let page = if filter.is_empty() {
            let mut request = get_public_rooms::v1::Request::new();
            request.limit = limit.try_into().ok();
            request.since = since.map(ToOwned::to_owned);
            request.room_network = network.clone();
            let page = federation.send_with(server, request, limits).await?;
            (page.chunk, page.next_batch, page.prev_batch, page.total_room_count_estimate)
        } else {
            let mut request = get_public_rooms_filtered::v1::Request::new();
            request.limit = limit.try_into().ok();
            request.since = since.map(ToOwned::to_owned);
            request.room_network = network.clone();
            request.filter = filter.clone();
            let page = federation.send_with(server, request, limits).await?;
            (page.chunk, page.next_batch, page.prev_batch, page.total_room_count_estimate)
        };
        let (chunk, next_batch, prev_batch, total) = page;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let rooms: Vec<Summary> = chunk.into_iter().take(limit).map(|room| RoomSummary::from(room).into()).collect();
        let bytes = rooms.iter().map(Summary::weight).sum();
        Ok((Arc::new(Page { rooms, next_batch, prev_batch, total: total.map(u64::from) }), bytes))
    };
    federation.answers.public_rooms.get_or(&*key, ask).await.map_err(Error::from)
}
