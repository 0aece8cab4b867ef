//! The other servers as destinations: what an administrator asks of them.
//!
//! How far they are and why they failed is kept by `delivery/servers.rs`, which also hears what is said here
//! ([`Federation::heard_from`], [`Federation::given_up`]).

use std::collections::BTreeMap;

use ruma::{OwnedServerName, ServerName};

use super::Federation;
use crate::{
    error::{Error, Result},
    rooms::servers,
    store::{
        Direction, Read,
        records::{Failures, UnreachedServer},
        trees::{SERVER_ROOMS, TO_SERVERS, TO_SERVERS_WAITING, UNREACHED_SERVERS},
    },
};

/// How things stand with another server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// In how many rooms of this server it is.
    pub rooms: u64,
    /// How many messages to devices wait for it.
    pub waiting: u64,
    /// How it failed, if it did not take what was sent to it last.
    pub failures: Option<Failures>,
    /// Why, in words.
    pub why: String,
}

/// All servers that share a room with this one, or that something waits for.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn all(read: &dyn Read, own: &ServerName) -> Result<BTreeMap<OwnedServerName, Destination>> {
    let mut found: BTreeMap<OwnedServerName, Destination> = BTreeMap::new();
    for row in SERVER_ROOMS.scan(read, (), Direction::Forward) {
        let ((server, _), ()) = row?;
        if server != own {
            found.entry(server).or_default().rooms += 1;
        }
    }
    for row in TO_SERVERS_WAITING.scan(read, (), Direction::Forward) {
        let (server, waiting) = row?;
        found.entry(server).or_default().waiting = waiting;
    }
    for row in UNREACHED_SERVERS.scan(read, (), Direction::Forward) {
        let (server, UnreachedServer { failures, why, .. }) = row?;
        let destination = found.entry(server).or_default();
        (destination.failures, destination.why) = (failures, why);
    }
    Ok(found)
}

/// One of them.
///
/// # Errors
/// 404 `M_NOT_FOUND` when this server has nothing to do with it.
pub fn get(read: &dyn Read, server: &ServerName) -> Result<Destination> {
    let rooms = servers::rooms_of(read, server).try_fold(0, |count, row| row.map(|_| count + 1))?;
    let waiting = TO_SERVERS_WAITING.get(read, server)?.unwrap_or(0);
    let unreached = UNREACHED_SERVERS.get(read, server)?;
    if rooms == 0 && waiting == 0 && unreached.is_none() {
        return Err(Error::not_found(format!("This server has nothing to do with {server}.")));
    }
    let (failures, why) = unreached.map(|row| (row.failures, row.why)).unwrap_or_default();
    Ok(Destination { rooms, waiting, failures, why })
}

/// Gives up what waits for a server: messages to devices, and whatever it missed while it could not be reached. Gives how
/// many messages went. Of what comes later it is told as before.
///
/// # Errors
/// 404 `M_NOT_FOUND` when this server has nothing to do with it.
pub fn give_up(federation: &Federation, server: &ServerName) -> Result<u64> {
    let waiting = federation.rooms.store.write(|tx| {
        let waiting = get(tx, server)?.waiting;
        TO_SERVERS.delete_all(tx, (server,))?;
        TO_SERVERS_WAITING.delete(tx, server);
        Ok(waiting)
    })?;
    federation.given_up(server);
    Ok(waiting)
}
