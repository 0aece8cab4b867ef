//! Rooms that go from this server: because an administrator wants it, or because the last user of this server left.
//!
//! A deletion is a row in `ROOM_DELETIONS` and goes through stages, each of which a restart goes on with:
//!
//! 1. The users of this server leave, as they would by themselves.
//! 2. The other servers in the room are told that, for an hour at most.
//! 3. One transaction takes the room out of everybody's sight (`strip`): nobody is in it, it has no state, no aliases,
//!    and no create event, like a room that this server knows from outside (`outside.rs`).
//! 4. What is left of it is deleted in bounded transactions (`rows.rs`), then the files that only it named (`files.rs`).
//!
//! What stays for [`REMEMBERED`] is that the users left, with their own member events: their clients are told when they
//! ask next, however long they were offline. Nobody enters the room while it is being deleted (`blocks.rs`); after that it
//! can be joined again like any other, unless it is blocked.
//!
//! Invariant: after every commit the database is sound, where the check (`check/`) asks of a room in stage 4 only what
//! must hold for what is left of it.

mod files;
mod left;
mod rows;

use std::{collections::BTreeSet, time::Duration};

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};

pub use self::left::find_left;
pub(super) use self::rows::{delete_event, free_state, free_states, set_aside};
use super::{Rooms, aliases, deltas, directory, event, members, outbox::DELIVERED, servers, state};
pub use crate::store::records::{Deletion, DeletionStage};
use crate::{
    clock,
    error::{Error, Result},
    ids::{Position, RoomNo},
    media::files::Files,
    store::{Direction, Read, Tx, records::UserRoom, trees},
    users::account_data,
};

/// How long the other servers have to take the departures in.
const TELLING: Duration = Duration::from_secs(60 * 60);

/// How long it is kept that users left a room that was deleted.
const REMEMBERED: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Begins the deletion of a room; `media` says whether the files go that its events alone name.
///
/// # Errors
/// 400 `M_UNKNOWN` when it is being deleted already; when the database fails or a row is damaged.
pub fn begin(tx: &mut Tx<'_>, room: RoomNo, by: Option<&UserId>, media: bool) -> Result<()> {
    if is_under_way(tx, room)? {
        let message = "The room is being deleted already.";
        return Err(Error::bad_request(ruma::api::error::ErrorKind::Unknown, message));
    }
    let deletion = Deletion {
        by: by.map(ToOwned::to_owned),
        since: clock::now_ms(),
        media,
        stage: DeletionStage::Leaving,
        left: Vec::new(),
        stuck: Vec::new(),
        aliases: aliases::of_room(tx, room)?,
        events: 0,
    };
    trees::ROOM_DELETIONS.put(tx, room, &deletion);
    Ok(())
}

/// The deletion of a room that is under way, or the last one.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub fn get(read: &dyn Read, room: RoomNo) -> Result<Option<Deletion>> {
    trees::ROOM_DELETIONS.get(read, room)
}

/// Whether the room is being deleted.
///
/// # Errors
/// As [`get`].
pub fn is_under_way(read: &dyn Read, room: RoomNo) -> Result<bool> {
    Ok(get(read, room)?.is_some_and(|deletion| !matches!(deletion.stage, DeletionStage::Done(_))))
}

/// The rooms that the users of this server have to leave now, since they are being deleted.
///
/// # Errors
/// As [`get`].
pub fn leaving(read: &dyn Read) -> Result<Vec<(RoomNo, Deletion)>> {
    let all = trees::ROOM_DELETIONS.scan(read, (), Direction::Forward);
    all.filter(|row| row.as_ref().map_or(true, |(_, deletion)| deletion.stage == DeletionStage::Leaving)).collect()
}

/// The users of this server who have not left the room, and whether each is in it.
///
/// # Errors
/// As [`get`].
pub fn to_leave(rooms: &Rooms, room: RoomNo) -> Result<Vec<(OwnedUserId, bool)>> {
    let users = local_users(&rooms.store.read(), &rooms.server_name, room)?;
    let open = users.into_iter().filter(|(_, own)| !has_left(own));
    Ok(open.map(|(user, own)| (user, own.membership == MembershipState::Join)).collect())
}

/// Notes who left the room, and who could not.
///
/// # Errors
/// As [`get`].
pub fn have_left(rooms: &Rooms, room: RoomNo, deletion: Deletion) -> Result<()> {
    let last = trees::OUTGOING_LATEST.get(&rooms.store.read(), room)?;
    put(rooms, room, &Deletion { stage: DeletionStage::Telling(last.unwrap_or_default()), ..deletion })
}

/// Does what can be done now of all deletions, but for the leaving, which is `federation/chores.rs`'s.
///
/// # Errors
/// As [`get`]; when the disk fails.
pub async fn work(rooms: &Rooms, files: &Files) -> Result<()> {
    let deletions: Vec<_> =
        trees::ROOM_DELETIONS.scan(&rooms.store.read(), (), Direction::Forward).collect::<Result<_>>()?;
    for (room, deletion) in deletions {
        match deletion.stage {
            DeletionStage::Done(at) => forget(rooms, room, at)?,
            _ => advance(rooms, files, room, deletion).await?,
        }
    }
    Ok(())
}

/// Takes one deletion as far as it gets.
async fn advance(rooms: &Rooms, files: &Files, room: RoomNo, mut deletion: Deletion) -> Result<()> {
    if deletion.stage == DeletionStage::Leaving {
        return Ok(());
    }
    let id = super::get(&rooms.store.read(), room)?.id;
    if let DeletionStage::Telling(position) = deletion.stage {
        let patient = clock::now_ms().saturating_sub(deletion.since) < millis(TELLING);
        if patient && !is_told(rooms, room, position)? {
            return Ok(());
        }
        let _guard = rooms.lock(&id).await;
        let users = local_users(&rooms.store.read(), &rooms.server_name, room)?;
        deletion.stage = DeletionStage::Freeing;
        rooms.store.write(|tx| {
            trees::ROOM_DELETIONS.put(tx, room, &deletion);
            strip(tx, rooms, room, &users)
        })?;
    }
    let _guard = rooms.lock(&id).await;
    remember(rooms, room)?;
    rows::delete_all(rooms, room, &mut deletion).await?;
    let (files, _) = if deletion.media { files::delete_unnamed(rooms, files, room).await? } else { (0, 0) };
    deletion.stage = DeletionStage::Done(clock::now_ms());
    put(rooms, room, &deletion)?;
    tracing::info!("the room {id} is deleted: {} events, {files} files", deletion.events);
    Ok(())
}

fn put(rooms: &Rooms, room: RoomNo, deletion: &Deletion) -> Result<()> {
    rooms.store.write(|tx| {
        trees::ROOM_DELETIONS.put(tx, room, deletion);
        Ok(())
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The users of this server who have, or had, to do with the room.
fn local_users(read: &dyn Read, server: &ruma::ServerName, room: RoomNo) -> Result<Vec<(OwnedUserId, UserRoom)>> {
    let mut users = BTreeSet::new();
    for row in members::all(read, room) {
        let (user, _) = row?;
        if user.server_name() == server {
            users.insert(user);
        }
    }
    // Who was invited from outside is no member.
    for row in trees::ACCOUNTS.scan(read, (), Direction::Forward) {
        users.insert(row?.0);
    }
    let mut own_rooms = Vec::new();
    for user in users {
        if let Some(own) = members::user_room(read, &user, room)? {
            own_rooms.push((user, own));
        }
    }
    Ok(own_rooms)
}

/// Whether all other servers in the room know what is in the log of outgoing changes up to `position`.
fn is_told(rooms: &Rooms, room: RoomNo, position: Position) -> Result<bool> {
    let read = rooms.store.read();
    let id = super::get(&read, room)?.id;
    let departs = trees::DEPARTURES.scan(&read, (&*id,), Direction::Forward).next().is_some();
    if departs || trees::COUNTERS.get(&read, DELIVERED)?.unwrap_or(0) < position.0 {
        return Ok(false);
    }
    // Servers that cannot be reached are not in that count.
    for row in servers::joined(&read, room) {
        if trees::UNREACHED_SERVERS.get(&read, row?.0)?.is_some_and(|unreached| unreached.has < position) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes the room out of everybody's sight. `users` are those of this server who had to do with it.
fn strip(tx: &mut Tx<'_>, rooms: &Rooms, no: RoomNo, users: &[(OwnedUserId, UserRoom)]) -> Result<()> {
    let mut room = super::get(tx, no)?;
    for alias in aliases::of_room(tx, no)? {
        aliases::remove(tx, &alias)?;
    }
    directory::unlist(tx, no)?;
    trees::EXTREMITIES.delete(tx, no);
    trees::OUTGOING_LATEST.delete(tx, no);
    // Those who could not leave.
    for (user, _) in users.iter().filter(|(_, own)| !has_left(own)) {
        account_data::delete_room(tx, user, no)?;
        trees::USER_ROOMS.delete(tx, (&**user, no));
        trees::LOCAL_MEMBERS.delete(tx, (no, &**user));
        tx.wake(user);
    }
    (room.create, room.state) = (None, deltas::EMPTY);
    (room.partial, room.completed) = (None, None);
    trees::MISSING_MEMBERS.delete(tx, no);
    (room.joined, room.invited, room.local_joined) = (0, 0, 0);
    trees::ROOMS.put(tx, no, &room);
    let position = tx.next_position()?;
    state::changed(tx, no, position, deltas::EMPTY);
    let caches = rooms.caches.clone();
    tx.on_commit(move || drop(caches.local_members.remove(&no)));
    Ok(())
}

fn has_left(own: &UserRoom) -> bool {
    matches!(own.membership, MembershipState::Leave | MembershipState::Ban)
}

/// Keeps that users of this server left the room, with the events that say so, and nothing else of what they had there.
fn remember(rooms: &Rooms, no: RoomNo) -> Result<()> {
    let users = local_users(&rooms.store.read(), &rooms.server_name, no)?;
    for chunk in users.chunks(200) {
        rooms.store.write(|tx| {
            for (user, own) in chunk {
                account_data::delete_room(tx, user, no)?;
                if let Some(event) = event::get(tx, own.event)?.filter(|event| event.order != 0) {
                    rows::set_aside(tx, &event)?;
                }
                // What allowed it goes.
                trees::AUTH_EVENTS.delete(tx, own.event);
                let own =
                    UserRoom { forgotten: true, left: None, stripped: None, outside: Some(Vec::new()), ..own.clone() };
                trees::USER_ROOMS.put(tx, (&**user, no), &own);
                if trees::NOTICE_ROOMS.get(tx, &**user)? == Some(no) {
                    trees::NOTICE_ROOMS.delete(tx, &**user);
                }
                tx.wake(user);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Forgets a room that was deleted long ago, if nobody had to do with it since.
fn forget(rooms: &Rooms, no: RoomNo, done: u64) -> Result<()> {
    if clock::now_ms().saturating_sub(done) < millis(REMEMBERED) {
        return Ok(());
    }
    rooms.store.write(|tx| {
        trees::ROOM_DELETIONS.delete(tx, no);
        let room = super::get(tx, no)?;
        let users = local_users(tx, &rooms.server_name, no)?;
        let is_stub = room.create.is_none() && users.iter().all(|(_, own)| own.forgotten && own.left.is_none());
        if !is_stub || trees::CURRENT_STATE.scan(tx, (no,), Direction::Forward).next().is_some() {
            return Ok(());
        }
        for (user, own) in users {
            trees::USER_ROOMS.delete(tx, (&*user, no));
            if let Some(event) = event::get(tx, own.event)? {
                rows::delete_event(tx, &event)?;
            }
        }
        if let Some(changed) = trees::ROOM_CHANGED.get(tx, no)? {
            trees::ROOM_CHANGES.delete(tx, changed);
            trees::ROOM_CHANGED.delete(tx, no);
        }
        trees::ROOM_NOS.delete(tx, &*room.id);
        trees::ROOMS.delete(tx, no);
        Ok(())
    })
}
