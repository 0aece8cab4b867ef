//! The delayed events whose time has come, and how one is sent.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use ruma::{MilliSecondsSinceUnixEpoch, OwnedRoomId, UInt, events::TimelineEventType};

use super::super::{room_send, room_state};
use crate::{
    clock,
    error::{Error, Result},
    rooms::{Draft, Event, delayed_events, event::Request, sticky::Sticky},
    server::Server,
    store::{
        Tx,
        records::{DelayedEvent, Ending},
    },
    users::accounts,
};

/// How many rows are looked at to find what is due.
const AT_ONCE: usize = 1_000;

/// When an event that failed by a fault of ours, or of the room's policy server, is tried again, and for how long.
const AGAIN: Duration = Duration::from_secs(10);
const TRIED_FOR_MS: u64 = 60 * 60 * 1000;

/// Sends what is due. Does not return.
///
/// Rooms are independent of each other, since one may have a policy server that takes its time; in a room, events are
/// sent in the order of their times.
pub async fn run(server: &Server) {
    let mut busy: HashSet<OwnedRoomId> = HashSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        let more = server.delayed_events.notified();
        let wait = match due(server, &busy) {
            Ok((rooms, wait)) => {
                for (room, ids) in rooms {
                    busy.insert(room.clone());
                    running.push(async move {
                        for id in ids {
                            send_due(server, &id).await;
                        }
                        room
                    });
                }
                wait
            }
            Err(error) => {
                tracing::error!("delayed events cannot be read: {error}");
                Some(AGAIN)
            }
        };
        tokio::select! {
            Some(room) = running.next() => { busy.remove(&room); }
            () = more => {}
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

/// A room and the delayed events that are due in it, by their IDs.
type Due = (OwnedRoomId, Vec<String>);

/// What is due in rooms that are not `busy`, and how long it is until more is. What is to be forgotten is.
fn due(server: &Server, busy: &HashSet<OwnedRoomId>) -> Result<(Vec<Due>, Option<Duration>)> {
    let now = clock::now_ms();
    let mut rooms: Vec<Due> = Vec::new();
    let mut old = Vec::new();
    let mut wait = None;
    let read = server.store.read();
    let first = delayed_events::first(&read, AT_ONCE)?;
    let is_all = first.len() < AT_ONCE;
    for (at, id) in first {
        if at > now {
            wait = Some(Duration::from_millis(at - now));
            break;
        }
        let event = delayed_events::require(&read, &id)?;
        if event.over.is_some() {
            old.push(id);
        } else if let Some((_, ids)) = rooms.iter_mut().find(|(room, _)| *room == event.room) {
            ids.push(id);
        } else if !busy.contains(&event.room) {
            rooms.push((event.room, vec![id]));
        }
    }
    if !old.is_empty() {
        server.store.write(|tx| old.iter().try_for_each(|id| delayed_events::forget(tx, id)))?;
        // There may be more behind them.
        wait = wait.or((!is_all).then_some(Duration::ZERO));
    }
    Ok((rooms, wait))
}

/// The same, and waits where the server is at fault. That it failed is noted in its row.
async fn send_due(server: &Server, id: &str) {
    let Err(error) = send_or_end(server, id).await else { return };
    tracing::debug!("a delayed event was not sent: {error}");
    if error.status().is_server_error() {
        // Whatever is wrong, what else waits for the room will meet it too.
        tokio::time::sleep(AGAIN).await;
    }
}

/// Sends one whose time has come. Where its sender may not send it, it is over; where that fails by no fault of its
/// own, it is tried again later.
async fn send_or_end(server: &Server, id: &str) -> Result<()> {
    let event = delayed_events::require_waiting(&server.store.read(), id)?;
    // What else is due in its room may have taken long, and it was put off meanwhile.
    if event.due > clock::now_ms() {
        return Ok(());
    }
    let Err(error) = send(server, id, &event).await else { return Ok(()) };
    let overdue = clock::now_ms().saturating_sub(event.running_since.saturating_add(event.delay));
    let (code, message) = error.told();
    server.store.write(|tx| match delayed_events::require_waiting(tx, id) {
        // Taken back or put off meanwhile.
        Ok(now) if now.due != event.due => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
        Ok(_) if error.status().is_server_error() && overdue < TRIED_FOR_MS => delayed_events::put_off(tx, id, AGAIN),
        Ok(_) => delayed_events::end(tx, id, Ending::Failed(code, message)),
    })?;
    Err(error)
}

/// Sends a delayed event now.
///
/// # Errors
/// As for an event that its sender sends now, and then it waits on; 404 `M_NOT_FOUND` where it waits no more.
pub(super) async fn send(server: &Server, id: &str, event: &DelayedEvent) -> Result<()> {
    let account = accounts::require(&server.store.read(), &event.user)?;
    if account.deactivated || account.locked || account.suspended {
        return Err(Error::forbidden("The sender's account may not send events any more."));
    }
    let mut draft = Draft::message(event.kind.as_str().into(), event.content.clone());
    draft.state_key = event.state_key.clone();
    draft.request = Some(Request::Delay(id.to_owned()));
    if draft.kind == TimelineEventType::RoomRedaction {
        draft.redacts = Some(room_send::redacts(&draft.content)?);
    }
    draft.sticky = event.sticky.map(|duration_ms| Sticky { duration_ms });
    draft.timestamp = event.timestamp.map(|ms| MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms)));
    // In the transaction that appends the event: whoever took it back or put it off until then did so in time.
    let over = |tx: &mut Tx<'_>, sent: &Event| {
        if delayed_events::require_waiting(tx, id)?.due != event.due {
            return Err(Error::not_found("The delayed event was put off meanwhile."));
        }
        delayed_events::end(tx, id, Ending::Sent(sent.pdu.event_id.clone()))
    };
    if event.state_key.is_none() {
        return room_send::send_now(server, &event.user, &event.room, draft, over).await.map(drop);
    }
    let set = room_state::set(server, &event.user, &event.room, draft, over).await?;
    // `over` was not called where the state was as it should be, or where another server signed an invitation.
    server.store.write(|tx| match delayed_events::require(tx, id)?.over {
        None => delayed_events::end(tx, id, Ending::Sent(set)),
        Some(_) => Ok(()),
    })
}
