//! What a decision asks for beyond itself: a new display name shows in each of the user's rooms, a deactivated account
//! leaves all of them, guests leave a room that admits none any more, everybody leaves one that is being deleted, what
//! somebody sent who was banned is redacted, and so is what relates to a redacted event; a room that is being upgraded is
//! replaced to the end; what would stick to a room but for its state is looked at again.
//!
//! The decision and a row in a queue are one transaction (`users/profiles.rs`, `users/accounts.rs`, and in `rooms`
//! `guests.rs`, `redaction.rs`, `related_redactions.rs`, `upgrade.rs`, `sticky.rs`). Who changed a name or ended an
//! account does the first rooms at once, so that few rooms are done when the request is answered; the rest is done in the
//! background, one room after the other, also after a crash. What is done twice changes nothing the second time.

use ruma::{OwnedEventId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};

use super::{Federation, leave, policy, room_upgrades};
use crate::{
    clock,
    error::Result,
    ids::{Position, RoomNo},
    rooms::{
        self, Draft, Rooms, delayed_events, deletion, guests, members, membership, redaction, related_redactions,
        thread_subscriptions,
    },
    store::{
        Direction, Read,
        records::RelatedRedaction,
        trees::{DEACTIVATED_USERS, PROFILE_UPDATES, ROOMS_WITHOUT_GUESTS, SENDER_REDACTIONS},
    },
    users::profiles,
};

/// In how many rooms a request does its chores itself.
pub const AT_ONCE: usize = 20;

/// For how long redactions are tried that fail by no fault of their own, in milliseconds.
const TRIED_FOR_MS: u64 = 60 * 60 * 1000;

/// Does what is queued; of what may be much, some, and then it has itself called again.
///
/// # Errors
/// When the database fails.
pub async fn all(federation: &Federation) -> Result<()> {
    let (updates, leaves, closed) = {
        let read = federation.rooms.store.read();
        let updates: Vec<(OwnedUserId, Position)> =
            PROFILE_UPDATES.scan(&read, (), Direction::Forward).collect::<Result<_>>()?;
        let leaves: Vec<OwnedUserId> = DEACTIVATED_USERS
            .scan(&read, (), Direction::Forward)
            .map(|row| row.map(|row| row.0))
            .collect::<Result<_>>()?;
        let closed: Vec<RoomNo> = ROOMS_WITHOUT_GUESTS
            .scan(&read, (), Direction::Forward)
            .map(|row| row.map(|row| row.0))
            .collect::<Result<_>>()?;
        (updates, leaves, closed)
    };
    for (user, queued) in updates.iter().filter(|(user, _)| federation.pauses.is_over(user)) {
        if show_profile(federation, user, usize::MAX).await? {
            federation.pauses.end(user);
        } else if federation.pauses.fails(user) {
            tracing::warn!(
                "some rooms do not show the new name or picture of {user}: their policy servers cannot be asked"
            );
            end_update(federation, user, Some(*queued))?;
        }
    }
    for user in leaves {
        leave_all(federation, &user, usize::MAX).await?;
    }
    for room in closed {
        remove_guests(federation, room).await?;
    }
    room_upgrades::finish_all(federation).await?;
    redact(&federation.rooms).await?;
    redact_related(federation).await?;
    federation.rooms.look_again().await?;
    while redaction::forget_originals(&federation.rooms)? {}
    Ok(())
}

/// Has the guests of this server leave the room, unless it admits them again. A guest whom the room's rules do not let
/// go stays, and that is logged.
async fn remove_guests(federation: &Federation, room: RoomNo) -> Result<()> {
    let id = rooms::get(&federation.rooms.store.read(), room)?.id;
    let guard = federation.rooms.lock(&id).await;
    let departures = guests::departures(&federation.rooms.store.read(), room)?;
    for (guest, left) in departures {
        if let Err(error) = policy::send_and(federation, &guard, &guest, left, |_, _| Ok(())).await {
            tracing::warn!("{id} admits no guests any more, but the guest {guest} cannot leave: {error}");
        }
    }
    federation.rooms.store.write(|tx| {
        ROOMS_WITHOUT_GUESTS.delete(tx, room);
        Ok(())
    })
}

/// Has the users of this server leave the rooms that are being deleted.
///
/// # Errors
/// When the database fails.
pub async fn leave_deleted(federation: &Federation) -> Result<()> {
    let rooms = &federation.rooms;
    let leaving = deletion::leaving(&rooms.store.read())?;
    for (room, mut deletion) in leaving {
        let id = rooms::get(&rooms.store.read(), room)?.id;
        for (user, is_joined) in deletion::to_leave(rooms, room)? {
            let reason = Some("An administrator of the server deletes the room there.".to_owned());
            match leave::leave(federation, &id, &user, reason).await {
                Ok(()) if is_joined => deletion.left.push(user),
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!("{user} cannot leave {id}, which is being deleted: {error}");
                    deletion.stuck.push(user);
                }
            }
        }
        deletion::have_left(rooms, room, deletion)?;
    }
    Ok(())
}

/// Redacts what users sent who were taken out of rooms, in small transactions.
async fn redact(rooms: &Rooms) -> Result<()> {
    let waiting: Vec<(RoomNo, OwnedUserId)> = SENDER_REDACTIONS
        .scan(&rooms.store.read(), (), Direction::Forward)
        .map(|row| row.map(|row| row.0))
        .collect::<Result<_>>()?;
    for (room, user) in waiting {
        let id = rooms::get(&rooms.store.read(), room)?.id;
        loop {
            let _guard = rooms.lock(&id).await;
            if !redaction::continue_with(rooms, room, &user)? {
                break;
            }
        }
    }
    Ok(())
}

/// Redacts some more of what relates to redacted events.
async fn redact_related(federation: &Federation) -> Result<()> {
    let waiting = related_redactions::all(&federation.rooms.store.read())?;
    for (place, row) in waiting {
        let (id, page) = {
            let read = federation.rooms.store.read();
            (rooms::get(&read, place.0)?.id, related_redactions::page(&read, place.0, &row)?)
        };
        let patient = clock::now_ms().saturating_sub(row.since) < TRIED_FOR_MS;
        if !redact_all(federation, &id, &row, &page.events).await? && patient {
            continue;
        }
        if federation.rooms.store.write(|tx| related_redactions::done(tx, place, &page))? {
            federation.rooms.chores.notify_one();
        }
    }
    Ok(())
}

/// Redacts events as far as that is allowed; tells whether none failed that might succeed later.
async fn redact_all(
    federation: &Federation,
    room: &RoomId,
    row: &RelatedRedaction,
    events: &[OwnedEventId],
) -> Result<bool> {
    for event in events {
        let guard = federation.rooms.lock(room).await;
        let draft = Draft::redaction(event.clone(), row.reason.as_deref())?;
        if let Err(error) = policy::send_and(federation, &guard, &row.sender, draft, |_, _| Ok(())).await {
            tracing::debug!("{event} is not redacted with what it relates to: {error}");
            if error.status().is_server_error() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Sends member events into rooms that show an older profile of `user`, into `limit` rooms at most. Gives whether all
/// rooms are done.
///
/// # Errors
/// When the database fails.
pub async fn show_profile(federation: &Federation, user: &UserId, limit: usize) -> Result<bool> {
    let (queued, behind) = {
        let read = federation.rooms.store.read();
        (PROFILE_UPDATES.get(&read, user)?, rooms_behind(&read, user)?)
    };
    let mut done = behind.len() <= limit;
    for room in behind.iter().take(limit) {
        done &= show_profile_in(federation, user, *room).await?;
    }
    if done {
        end_update(federation, user, queued)?;
    }
    Ok(done)
}

/// Notes that a profile is shown as it was at `queued`. A later change is somebody else's chore.
fn end_update(federation: &Federation, user: &UserId, queued: Option<Position>) -> Result<()> {
    federation.rooms.store.write(|tx| {
        if PROFILE_UPDATES.get(tx, user)? == queued {
            PROFILE_UPDATES.delete(tx, user);
        }
        Ok(())
    })
}

fn rooms_behind(read: &dyn Read, user: &UserId) -> Result<Vec<RoomNo>> {
    let mut behind = Vec::new();
    for room in members::joined_rooms(read, user)? {
        if is_behind(read, user, room)? {
            behind.push(room);
        }
    }
    Ok(behind)
}

fn is_behind(read: &dyn Read, user: &UserId, room: RoomNo) -> Result<bool> {
    let profile = profiles::get(read, user)?;
    let member = members::get(read, room, user)?;
    Ok(member.is_some_and(|member| {
        member.membership == MembershipState::Join
            && (member.displayname.as_deref() != profile.display_name()
                || member.avatar_url.as_deref() != profile.avatar_url())
    }))
}

/// Shows the profile in one room as far as the room lets the user; gives whether nothing failed that might succeed later.
async fn show_profile_in(federation: &Federation, user: &UserId, room: RoomNo) -> Result<bool> {
    let id = rooms::get(&federation.rooms.store.read(), room)?.id;
    let guard = federation.rooms.lock(&id).await;
    let draft = {
        let read = federation.rooms.store.read();
        if !is_behind(&read, user, room)? {
            return Ok(true);
        }
        membership::draft(user, membership::with_profile(&read, user, &MembershipState::Join)?)?
    };
    let Err(error) = policy::send_and(federation, &guard, user, draft, |_, _| Ok(())).await else { return Ok(true) };
    tracing::debug!("{user}'s profile cannot be shown in {id}: {error}");
    Ok(!error.status().is_server_error())
}

/// Takes a user whose account was deactivated out of their rooms, out of `limit` at most, and declines their
/// invitations. Gives whether all rooms are done.
///
/// # Errors
/// When the database fails.
pub async fn leave_all(federation: &Federation, user: &UserId, limit: usize) -> Result<bool> {
    let left = {
        let read = federation.rooms.store.read();
        let mut ids = Vec::new();
        for row in members::rooms_of(&read, user) {
            let (room, user_room) = row?;
            if matches!(user_room.membership, MembershipState::Join | MembershipState::Invite | MembershipState::Knock)
            {
                ids.push(rooms::get(&read, room)?.id);
            }
        }
        ids
    };
    for id in left.iter().take(limit) {
        if let Err(error) = leave::leave(federation, id, user, None).await {
            tracing::warn!("{user} was deactivated but cannot leave {id}: {error}");
        }
    }
    let done = left.len() <= limit;
    if done {
        federation.rooms.store.write(|tx| {
            DEACTIVATED_USERS.delete(tx, user);
            delayed_events::forget_all(tx, user)?;
            thread_subscriptions::forget_all(tx, user)
        })?;
    }
    Ok(done)
}
