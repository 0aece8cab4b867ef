//! Replacing a room by one of another version, to the end.
//!
//! It takes several transactions, since the old room's policy server, if it has one, is asked about what is sent there
//! (`rooms/upgrade.rs`). The first notes the upgrade in `ROOM_UPGRADES`; after a crash in between, `chores.rs` has it
//! finished. So there is never a successor without a tombstone, nor a tombstone without the aliases.

use http::StatusCode;
use ruma::{OwnedRoomId, RoomId};

use super::{Federation, leave, policy};
use crate::{
    error::{Error, Result},
    ids::RoomNo,
    rooms::{
        self, RoomGuard,
        upgrade::{self, Upgrade},
    },
    store::{Direction, records::RoomUpgrade, trees::ROOM_UPGRADES},
};

/// Replaces the room; gives the new one's ID. If that was begun before a crash, it is what is finished.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the user may not; what the room's policy server answers if it refuses; when the database fails.
pub async fn replace(federation: &Federation, room: &RoomId, upgrade: &Upgrade) -> Result<OwnedRoomId> {
    let engine = &federation.rooms;
    let guard = engine.lock(room).await;
    let (old, row) = engine.store.write(|tx| {
        let (no, record) = match rooms::require(tx, room) {
            Err(error) if error.is_not_found() => return Err(Error::forbidden("You are not in this room.")),
            found => found?,
        };
        match ROOM_UPGRADES.get(tx, no)? {
            Some(row) => Ok((no, row)),
            None => Ok((no, upgrade::begin(tx, engine, no, &record, upgrade)?)),
        }
    })?;
    finish(federation, guard, old, &row).await
}

/// Finishes the upgrades that a crash interrupted.
///
/// # Errors
/// When the database fails.
pub async fn finish_all(federation: &Federation) -> Result<()> {
    let engine = &federation.rooms;
    let begun = ROOM_UPGRADES.scan(&engine.store.read(), (), Direction::Forward).collect::<Result<Vec<_>>>()?;
    for (old, _) in begun {
        let id = rooms::get(&engine.store.read(), old)?.id;
        let guard = engine.lock(&id).await;
        // One that is under way has the lock until it is done.
        let Some(row) = ROOM_UPGRADES.get(&engine.store.read(), old)? else { continue };
        match finish(federation, guard, old, &row).await {
            Ok(new) => tracing::info!("the upgrade of {id} to {new}, which was interrupted, is finished"),
            Err(error) if error.status() == StatusCode::INTERNAL_SERVER_ERROR => {
                tracing::error!("the upgrade of {id}, which was interrupted, fails and is tried again: {error}");
            }
            Err(error) => tracing::warn!("the upgrade of {id}, which was interrupted, is given up: {error}"),
        }
    }
    Ok(())
}

/// Does what is left to do of an upgrade. Without a tombstone, nothing is replaced.
async fn finish(federation: &Federation, guard: RoomGuard, old: RoomNo, row: &RoomUpgrade) -> Result<OwnedRoomId> {
    let (engine, user) = (&federation.rooms, &*row.user);
    let new = rooms::get(&engine.store.read(), row.new)?.id;
    if !upgrade::is_replaced_by(&engine.store.read(), old, &new)? {
        let tombstone = upgrade::tombstone(&new)?;
        let hand_over =
            policy::send_and(federation, &guard, user, tombstone, |tx, _| upgrade::hand_over(tx, old, row.new));
        if let Err(refused) = hand_over.await {
            done(federation, old)?;
            drop(guard);
            // What replaces nothing is of no use.
            leave::leave(federation, &new, user, None).await?;
            return Err(refused);
        }
    }
    let closing = upgrade::closing(&engine.store.read(), old, row.new)?;
    for draft in closing {
        match policy::send_and(federation, &guard, user, draft, |_, _| Ok(())).await {
            // It is the tombstone that counts.
            Err(error) if error.status() != StatusCode::INTERNAL_SERVER_ERROR => {
                tracing::debug!("{} stays open after its upgrade: {error}", guard.room());
            }
            sent => drop(sent?),
        }
    }
    done(federation, old)?;
    Ok(new)
}

fn done(federation: &Federation, old: RoomNo) -> Result<()> {
    federation.rooms.store.write(|tx| {
        ROOM_UPGRADES.delete(tx, old);
        Ok(())
    })
}
