//! The files that the events of a deleted room named, and nothing else does.

use std::collections::HashSet;

use ruma::OwnedServerName;

use super::Rooms;
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    media::{self, files::Files, removal},
    store::{Direction, Read, Store, trees},
};

/// Deletes them; gives how many files went, and how many bytes they had.
///
/// Whether something else names a file is found out by looking at all events and profiles, so this takes as long as the
/// database is large; nobody waits for it.
///
/// # Errors
/// When the database or the disk fails.
pub(super) async fn delete_unnamed(rooms: &Rooms, files: &Files, room: RoomNo) -> Result<(u64, u64)> {
    let (store, files) = (rooms.store.clone(), files.clone());
    let work = tokio::task::spawn_blocking(move || {
        let mut unnamed = noted(&store.read(), room)?;
        if unnamed.is_empty() {
            return Ok((0, 0));
        }
        let all = unnamed.clone();
        keep_named(&store.read(), &mut unnamed)?;
        let removed = removal::remove(&store, &files, false, |item| {
            item.uri().is_some_and(|(server, id)| unnamed.contains(&(server.to_owned(), id.to_owned())))
        })?;
        forget(&store, room, all)?;
        Ok((removed.files, removed.bytes))
    });
    work.await.map_err(Error::internal)?
}

type Names = HashSet<(OwnedServerName, String)>;

fn noted(read: &dyn Read, room: RoomNo) -> Result<Names> {
    let rows = trees::FREED_MEDIA.scan(read, (room,), Direction::Forward);
    rows.map(|row| row.map(|((_, server, id), ())| (server, id))).collect()
}

/// Takes out what an event of another room or a profile names.
fn keep_named(read: &dyn Read, unnamed: &mut Names) -> Result<()> {
    let mut look = |text: &str| {
        for (server, id) in media::named_in(text) {
            unnamed.remove(&(server, id.to_owned()));
        }
    };
    for row in trees::EVENTS.scan(read, (), Direction::Forward) {
        look(&row?.1.json);
    }
    for row in trees::PROFILES.scan(read, (), Direction::Forward) {
        look(&serde_json::to_string(&row?.1.fields)?);
    }
    Ok(())
}

fn forget(store: &Store, room: RoomNo, names: Names) -> Result<()> {
    let names: Vec<_> = names.into_iter().collect();
    for chunk in names.chunks(500) {
        store.write(|tx| {
            chunk.iter().for_each(|(server, id)| trees::FREED_MEDIA.delete(tx, (room, server, id)));
            Ok(())
        })?;
    }
    Ok(())
}
