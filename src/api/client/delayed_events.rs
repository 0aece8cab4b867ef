//! Events that are sent later, unless their sender takes them back or puts them off
//! ([MSC4140](https://github.com/matrix-org/matrix-spec-proposals/pull/4140), a proposal). Calls live by them: who drops
//! out of a call without a word is taken out of it by the event that their client kept putting off.
//!
//! The operations that send events take the delay as a query parameter ([`Timed`]), or the proposal's newer operation
//! does. Whoever knows a delay ID may put the event off, send it or take it back without logging in, so that a service of
//! the call can do it. [`run`] sends what is due. An event is sent as if its sender sent it then: with the rules,
//! and the state of the room, of that time.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::StatusCode;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, RoomId, TransactionId, UInt,
    api::{
        IncomingRequest, Metadata,
        auth_scheme::NoAccessToken,
        client::delayed_events::{
            DelayedEventData, get_all_delayed_events, get_delayed_event, send_delayed_event,
            update_delayed_event::{self, UpdateAction},
        },
        error::{DeserializationError, ErrorKind},
    },
    events::TimelineEventType,
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{room_send, room_state};
use crate::{
    answers_json,
    api::{
        auth::{Anyone, User},
        own::{self, Json},
    },
    clock,
    error::{Error, Result},
    rooms::{self, Draft, Event, build, delayed_events, event::Request, members, sticky::Sticky},
    server::Server,
    store::{
        Tx,
        records::{DelayedEvent, Ending},
    },
    users::{accounts, transactions},
};

/// How many rows are looked at to find what is due.
const AT_ONCE: usize = 1_000;

/// When an event that failed by a fault of ours, or of the room's policy server, is tried again, and for how long.
const AGAIN: Duration = Duration::from_secs(10);
const TRIED_FOR_MS: u64 = 60 * 60 * 1000;

/// A request that sends an event, which may say how many milliseconds later.
pub struct Timed<R> {
    /// What is to be sent.
    pub request: R,
    /// How much later, in milliseconds; none for at once.
    pub delay: Option<u64>,
}

impl<R: Metadata> Metadata for Timed<R> {
    const METHOD: http::Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest> IncomingRequest for Timed<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = Json<Sent>;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        #[derive(Deserialize)]
        struct Query {
            #[serde(rename = "org.matrix.msc4140.delay")]
            delay: Option<u64>,
        }
        let Query { delay } = own::query(&request)?;
        Ok(Self { request: R::try_from_http_request_inner(request, path_args)?, delay })
    }
}

/// Whether a request that sends an event says nothing of a delay. One that does, and repeats another with its transaction ID,
/// may leave out the content, which is known already.
pub fn is_sent_at_once(uri: &http::Uri) -> bool {
    !uri.query().is_some_and(|query| query.contains("org.matrix.msc4140.delay="))
}

/// What the sending of an event is answered with.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Sent {
    /// It is sent.
    Now {
        /// The event.
        event_id: OwnedEventId,
    },
    /// It is to be sent.
    Later {
        /// What to call it by until then.
        delay_id: String,
    },
}

/// Has `draft` sent `delay` milliseconds later; gives the delay ID, or that of the first request with this operation and
/// transaction ID.
///
/// # Errors
/// 403 `M_FORBIDDEN` when the sender is not in the room, or the delay is longer than the administrator allows; 429
/// `M_LIMIT_EXCEEDED` when too many wait; those of [`build::check`].
pub(super) fn schedule(
    server: &Server,
    user: &User,
    room: &RoomId,
    draft: Draft,
    delay: u64,
    transaction: Option<(String, &TransactionId)>,
) -> Result<String> {
    let longest = server.config().delayed_events.max_delay.as_millis();
    if u128::from(delay) > longest {
        let message = format!("An event can be delayed by {longest} milliseconds at most.");
        return Err(Error::forbidden(message));
    }
    let now = clock::now_ms();
    let event = DelayedEvent {
        user: user.id.clone(),
        device: user.device.clone(),
        room: room.to_owned(),
        kind: draft.kind.to_string(),
        state_key: draft.state_key.clone(),
        content: draft.content.clone(),
        timestamp: draft.timestamp.map(|ts| ts.get().into()),
        sticky: draft.sticky.map(|sticky| sticky.duration_ms),
        delay,
        running_since: now,
        due: now.saturating_add(delay),
        over: None,
    };
    let id = server.store.write(|tx| {
        let transaction = transaction.as_ref().map(|(operation, id)| (operation.as_str(), *id));
        if let Some((operation, id)) = transaction
            && let Some(answer) = transactions::answer(tx, &user.id, &user.device, operation, id)?
        {
            return Ok(answer);
        }
        let member = match rooms::find(tx, room)? {
            Some(no) if members::is_joined(tx, no, &user.id)? => Some(no),
            _ => None,
        };
        let no = member.ok_or_else(|| Error::forbidden("You are not in this room."))?;
        build::check(&rooms::get(tx, no)?, &user.id, &draft)?;
        let answer = delayed_events::schedule(tx, no, &event, server.config().delayed_events.max_per_user)?;
        if let Some((operation, id)) = transaction {
            transactions::remember(tx, &user.id, &user.device, operation, id, &answer)?;
        }
        Ok(answer)
    })?;
    server.delayed_events.notify_one();
    Ok(id)
}

/// `PUT /_matrix/client/unstable/org.matrix.msc4140/rooms/{roomId}/delayed_event/{eventType}/{txnId}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4140))
pub async fn send_delayed_event(
    server: &Server,
    user: User,
    req: send_delayed_event::unstable::Request,
) -> Result<send_delayed_event::unstable::Response> {
    let kind = req.event_type.to_string();
    room_send::check_encryption(server, &kind)?;
    let operation = format!("delayed_event/{}/{kind}", req.room_id);
    let mut draft = match req.state_key {
        Some(key) => Draft::raw_state(kind.into(), key, req.content.into_json()),
        None => Draft::message(req.event_type, req.content.into_json()),
    };
    draft.sticky = req.sticky_duration_ms.map(Sticky::from);
    let delay = u64::try_from(req.delay.as_millis()).unwrap_or(u64::MAX);
    let id = schedule(server, &user, &req.room_id, draft, delay, Some((operation, &req.txn_id)))?;
    Ok(send_delayed_event::unstable::Response::new(id))
}

/// `GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4140))
pub async fn get_all_delayed_events(
    server: &Server,
    user: User,
    _: get_all_delayed_events::unstable::Request,
) -> Result<get_all_delayed_events::unstable::Response> {
    let read = server.store.read();
    let mut waiting = delayed_events::waiting_of(&read, &user.id).collect::<Result<Vec<_>>>()?;
    waiting.sort_by_key(|(_, event)| event.due);
    let events = waiting.into_iter().map(|(id, event)| shown(id, event)).collect();
    Ok(get_all_delayed_events::unstable::Response::new(events))
}

/// `GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4140))
pub async fn get_delayed_event(
    server: &Server,
    user: User,
    req: get_delayed_event::unstable::Request,
) -> Result<get_delayed_event::unstable::Response> {
    let event = delayed_events::require(&server.store.read(), &req.delay_id)?;
    if event.user != user.id {
        return Err(Error::not_found("You have no such delayed event."));
    }
    Ok(get_delayed_event::unstable::Response::new(shown(req.delay_id, event)))
}

fn shown(id: String, event: DelayedEvent) -> DelayedEventData {
    let time = |ms: u64| MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms));
    let mut data = DelayedEventData::new(
        id,
        event.room,
        event.kind.into(),
        event.state_key,
        Raw::from_json(event.content),
        Duration::from_millis(event.delay),
        time(event.running_since),
    );
    if let Some(over) = event.over {
        data.finalized_ts = Some(time(over.at));
        match over.how {
            Ending::Sent(event) => data.event_id = Some(event),
            Ending::Cancelled => {}
            Ending::Failed(code, message) => {
                data.error = serde_json::from_value(json!({ "errcode": code, "error": message })).ok();
            }
        }
    }
    data
}

answers_json! {
    /// Ruma wants a token where the action is in the body; clients that have none know the delay ID.
    pub struct UpdateRequest(update_delayed_event::unstable_v1::Request, NoAccessToken) => serde_json::Value;
}

/// `POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}`, as an earlier form of the proposal has it
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4140))
pub async fn update_delayed_event_v1(
    server: &Server,
    _: Anyone,
    UpdateRequest(req): UpdateRequest,
) -> Result<Json<serde_json::Value>> {
    match update(server, &req.delay_id, &req.action).await? {
        true => Ok(Json(json!({}))),
        false => Err(Error::invalid_param("action must be restart, send or cancel.")),
    }
}

/// `POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}/{action}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4140))
pub async fn update_delayed_event(
    server: &Server,
    _: Anyone,
    req: update_delayed_event::unstable_v2::Request,
) -> Result<update_delayed_event::unstable_v2::Response> {
    match update(server, &req.delay_id, &req.action).await? {
        true => Ok(update_delayed_event::unstable_v2::Response::new()),
        false => {
            let message = "There is nothing else to do with a delayed event than restart, send and cancel.";
            Err(Error::new(StatusCode::NOT_FOUND, ErrorKind::Unrecognized, message))
        }
    }
}

/// Does what a client wants done with a delayed event; tells whether there is such an action.
async fn update(server: &Server, id: &str, action: &UpdateAction) -> Result<bool> {
    match action {
        UpdateAction::Restart => server.store.write(|tx| delayed_events::restart(tx, id))?,
        UpdateAction::Cancel => server.store.write(|tx| delayed_events::end(tx, id, Ending::Cancelled))?,
        UpdateAction::Send => send(server, id).await?,
        _ => return Ok(false),
    }
    Ok(true)
}

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
    for (at, id) in delayed_events::first(&read, AT_ONCE)? {
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
    }
    Ok((rooms, wait))
}

/// Sends one whose time has come. That it failed is noted in its row.
async fn send_due(server: &Server, id: &str) {
    let Err(error) = send(server, id).await else { return };
    tracing::debug!("a delayed event was not sent: {error}");
    if error.status().is_server_error() {
        // Whatever is wrong, what else waits for the room will meet it too.
        tokio::time::sleep(AGAIN).await;
    }
}

/// Sends a delayed event now. Where its sender may not send it, it is over; where that fails by no fault of its own, it is
/// tried again later.
async fn send(server: &Server, id: &str) -> Result<()> {
    let event = delayed_events::require_waiting(&server.store.read(), id)?;
    let Err(error) = try_send(server, id, &event).await else { return Ok(()) };
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

async fn try_send(server: &Server, id: &str, event: &DelayedEvent) -> Result<()> {
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
    // Nothing is sent where the state is as it should be.
    server.store.write(|tx| match delayed_events::require(tx, id)?.over {
        None => delayed_events::end(tx, id, Ending::Sent(set)),
        Some(_) => Ok(()),
    })
}
