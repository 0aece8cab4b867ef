//! Finding the event nearest to a time where this server does not have all of a room's history
//! ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid)).

use std::time::Duration;

use futures_util::future::join_all;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId,
    api::{Direction, federation::event::get_event_by_timestamp::v1::Request},
};

use super::{Federation, Limits};
use crate::{
    error::Result,
    rooms::{self, backfill, event, servers},
};

/// How many servers of the room are asked.
const SERVERS: usize = 4;

/// How long they may take.
const LIMITS: Limits = Limits { body: 64 * 1024, timeout: Duration::from_secs(10), redirects: 0 };

/// How often history is fetched to get at the event.
const ROUNDS: usize = 5;

/// How long a person waits for all that.
const LONGEST: Duration = Duration::from_secs(30);

/// Asks other servers for an event nearer to `time` in the given direction than `known`, the nearest that is here, and
/// fetches history up to it; gives whether events came, so that another look is worthwhile. Where history is whole here,
/// nobody is asked.
///
/// # Errors
/// When the database fails.
pub async fn fetch_nearer(
    federation: &Federation,
    room: &RoomId,
    time: MilliSecondsSinceUnixEpoch,
    direction: Direction,
    known: Option<MilliSecondsSinceUnixEpoch>,
) -> Result<bool> {
    match tokio::time::timeout(LONGEST, fetch(federation, room, time, direction, known)).await {
        Ok(came) => came,
        // What came until now is here.
        Err(_) => Ok(true),
    }
}

async fn fetch(
    federation: &Federation,
    room: &RoomId,
    time: MilliSecondsSinceUnixEpoch,
    direction: Direction,
    known: Option<MilliSecondsSinceUnixEpoch>,
) -> Result<bool> {
    let servers = {
        let read = federation.rooms.store.read();
        let (no, _) = rooms::require(&read, room)?;
        if backfill::edges(&read, no)?.is_empty() {
            return Ok(false);
        }
        servers::to_join_through(&read, no, federation.server_name())?
    };
    let others = servers.iter().filter(|server| *server != federation.server_name()).take(SERVERS);
    let request = || Request::new(room.to_owned(), time, direction);
    let answers = join_all(others.map(|server| federation.send_with(server, request(), LIMITS))).await;
    let distance = |at: MilliSecondsSinceUnixEpoch| match direction {
        Direction::Forward => u64::from(at.get()).checked_sub(time.get().into()),
        Direction::Backward => u64::from(time.get()).checked_sub(at.get().into()),
    };
    let nearest = answers
        .into_iter()
        .flatten()
        .filter_map(|answer| Some((distance(answer.origin_server_ts)?, answer.event_id)))
        .min();
    match nearest {
        Some((found, event)) if known.and_then(distance).is_none_or(|known| found < known) => {
            fetch_up_to(federation, room, event).await
        }
        _ => Ok(false),
    }
}

/// Fetches history until the event is among it; whether any came.
async fn fetch_up_to(federation: &Federation, room: &RoomId, event: OwnedEventId) -> Result<bool> {
    let mut came = false;
    for _ in 0..ROUNDS {
        let edges = {
            let read = federation.rooms.store.read();
            if event::by_id(&read, &event)?.is_some_and(|event| event.is_placed()) {
                break;
            }
            backfill::edges(&read, rooms::require(&read, room)?.0)?
        };
        let Some(edge) = edges.first() else { break };
        if !federation.backfill(room, edge).await? {
            break;
        }
        came = true;
    }
    Ok(came)
}
