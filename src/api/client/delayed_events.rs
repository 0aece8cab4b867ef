//! Events that are sent later, unless their sender takes them back or puts them off
//! ([MSC4140](https://github.com/matrix-org/matrix-spec-proposals/pull/4140), accepted). Calls live by them: who drops
//! out of a call without a word is taken out of it by the event that their client kept putting off.
//!
//! Each operation has the name that it was accepted under, and that from before, which clients use until a version of
//! the specification has the other. What differs between the two is in [`is_accepted`] and where it is asked: under the
//! earlier names, whoever knows a delay ID may put the event off, send it or take it back without logging in, so that a
//! service of the call can do it, and answers have the fields of both times. The operations that send events take a
//! delay as a query parameter as well ([`Timed`]), which was not accepted. Listing what waits is left to another
//! proposal (MSC4486), so it has its earlier name alone.
//!
//! [`run`] sends what is due. An event is sent as if its sender sent it then: with the rules, and the state of the
//! room, of that time.

mod due;

pub use due::run;
use http::StatusCode;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedTransactionId, RoomId, TransactionId,
    api::{
        IncomingRequest, Metadata,
        auth_scheme::{AccessToken, AccessTokenOptional, NoAccessToken},
        client::delayed_events::{
            get_all_delayed_events, get_delayed_event, send_delayed_event,
            update_delayed_event::{self, UpdateAction},
        },
        error::{DeserializationError, ErrorKind},
    },
    events::{TimelineEventType, sticky::StickyDurationMs},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value as JsonValue, json, value::RawValue};

use super::room_send;
use crate::{
    answers_json,
    api::{
        auth::{Anyone, User},
        own::{self, Json},
    },
    clock,
    error::{Error, Result},
    reads,
    rooms::{self, Draft, build, delayed_events, members, sticky::Sticky},
    server::Server,
    stands_in_for,
    store::{
        Read,
        records::{DelayedEvent, Ending},
    },
    users::transactions,
};

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

/// Whether a request that sends an event says nothing of a delay. One that does, and repeats another with its
/// transaction ID, may leave out the content, which is known already.
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
/// 403 `M_FORBIDDEN` when the sender is not in the room, or the administrator wants no delayed events; 400
/// `M_DELAY_TOO_LARGE` when the delay is longer than the administrator allows; 429 `M_LIMIT_EXCEEDED` when too many
/// wait; those of [`build::check`].
pub(super) fn schedule(
    server: &Server,
    user: &User,
    room: &RoomId,
    draft: Draft,
    delay: u64,
    transaction: Option<(String, &TransactionId)>,
) -> Result<String> {
    let longest = server.config().delayed_events.max_delay.as_millis();
    if longest == 0 {
        return Err(Error::forbidden("This server sends no events later."));
    }
    if u128::from(delay) > longest {
        let message = format!("An event can be delayed by {longest} milliseconds at most.");
        return Err(Error::custom(StatusCode::BAD_REQUEST, "M_DELAY_TOO_LARGE", message));
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

/// Whether a request is for the name that an operation was accepted under.
fn is_accepted(request: &http::Request<&[u8]>) -> bool {
    !request.uri().path().starts_with("/_matrix/client/unstable/")
}

/// An event, and how much later it is to be sent.
pub struct ToDelay {
    path: (OwnedRoomId, TimelineEventType, OwnedTransactionId),
    query: ToDelayQuery,
    body: ToDelayBody,
}

#[derive(Deserialize)]
struct ToDelayQuery {
    ts: Option<MilliSecondsSinceUnixEpoch>,
    #[serde(rename = "org.matrix.msc4354.sticky_duration_ms")]
    sticky_duration_ms: Option<StickyDurationMs>,
}

#[derive(Deserialize)]
struct ToDelayBody {
    #[serde(alias = "delay")]
    delay_ms: u64,
    state_key: Option<String>,
    content: Box<RawValue>,
}

stands_in_for!(ToDelay, send_delayed_event::unstable::Request);
reads!(ToDelay => Json<Sent>, |request, path_args| {
    Self { path: own::path(path_args)?, query: own::query(&request)?, body: own::body(&request)? }
});

/// `PUT /_matrix/client/v3/rooms/{roomId}/delayed_event/{eventType}/{txnId}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4140))
pub async fn send_delayed_event(server: &Server, user: User, req: ToDelay) -> Result<Json<Sent>> {
    let (room, kind, txn) = req.path;
    let ToDelayBody { delay_ms, state_key, content } = req.body;
    if delay_ms == 0 {
        return Err(Error::invalid_param("delay_ms must be greater than 0."));
    }
    room_send::check_encryption(server, &kind.to_string())?;
    let operation = format!("delayed_event/{room}/{kind}");
    let mut draft = Draft::message(kind, content);
    draft.state_key = state_key;
    draft.sticky = req.query.sticky_duration_ms.map(Sticky::from);
    draft.timestamp = req.query.ts.filter(|_| user.appservice.is_some());
    let delay_id = schedule(server, &user, &room, draft, delay_ms, Some((operation, &txn)))?;
    Ok(Json(Sent::Later { delay_id }))
}

answers_json! {
    /// Which of the user's wait.
    pub struct ListRequest(get_all_delayed_events::unstable::Request, AccessToken) => JsonValue;
}

/// `GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events`, as an earlier form of the proposal has it
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4140))
pub async fn get_all_delayed_events(server: &Server, user: User, _: ListRequest) -> Result<Json<JsonValue>> {
    let read = server.store.read();
    let mut waiting = delayed_events::waiting_of(&read, &user.id).collect::<Result<Vec<_>>>()?;
    waiting.sort_by_key(|(_, event)| event.due);
    let events: Vec<_> = waiting.into_iter().map(|(id, event)| with_earlier_names(shown(&id, event))).collect();
    Ok(Json(json!({ "delayed_events": events })))
}

/// Which delayed event.
pub struct OneRequest {
    id: String,
    accepted: bool,
}

stands_in_for!(OneRequest, get_delayed_event::unstable::Request);
reads!(OneRequest => Json<JsonValue>, |request, path_args| {
    let (id,) = own::path(path_args)?;
    Self { id, accepted: is_accepted(&request) }
});

/// `GET /_matrix/client/v1/delayed_events/{delayId}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4140))
pub async fn get_delayed_event(server: &Server, user: User, req: OneRequest) -> Result<Json<JsonValue>> {
    let event = delayed_events::require_of(&server.store.read(), &req.id, &user.id)?;
    let shown = shown(&req.id, event);
    Ok(Json(if req.accepted { shown } else { with_earlier_names(shown) }))
}

fn shown(id: &str, event: DelayedEvent) -> JsonValue {
    let mut shown = json!({
        "delay_id": id,
        "room_id": event.room,
        "type": event.kind,
        "delay_ms": event.delay,
        "delayed_since_ts": event.running_since,
        "content": event.content,
    });
    if let Some(key) = event.state_key {
        shown["state_key"] = json!(key);
    }
    if let Some(over) = event.over {
        let mut finalised = json!({ "finalised_ts": over.at });
        match over.how {
            Ending::Sent(event) => finalised["event_id"] = json!(event),
            Ending::Cancelled => {}
            Ending::Failed(code, message) => finalised["error"] = json!({ "errcode": code, "error": message }),
        }
        shown["finalised"] = finalised;
    }
    shown
}

/// With the fields that the proposal had before it was accepted.
fn with_earlier_names(mut shown: JsonValue) -> JsonValue {
    shown["delay"] = shown["delay_ms"].clone();
    shown["running_since"] = shown["delayed_since_ts"].clone();
    if let Some(finalised) = shown["finalised"].as_object().cloned() {
        for (name, value) in finalised {
            shown[name] = value;
        }
    }
    shown
}

/// What to do with which delayed event.
pub struct ActRequest {
    id: String,
    action: String,
    accepted: bool,
}

stands_in_for!(ActRequest, update_delayed_event::unstable_v2::Request, AccessTokenOptional);
reads!(ActRequest => Json<JsonValue>, |request, path_args| {
    let (id, action) = own::path(path_args)?;
    Self { id, action, accepted: is_accepted(&request) }
});

/// `POST /_matrix/client/v1/delayed_events/{delayId}/{action}`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4140)): only its sender may, but under the
/// earlier name nobody needs a token.
pub async fn update_delayed_event(server: &Server, user: Option<User>, req: ActRequest) -> Result<Json<JsonValue>> {
    match &user {
        Some(user) => drop(delayed_events::require_of(&server.store.read(), &req.id, &user.id)?),
        None if req.accepted => {
            let message = "Only who sends the event can do this: log in first.";
            return Err(Error::new(StatusCode::UNAUTHORIZED, ErrorKind::MissingToken, message));
        }
        None => {}
    }
    match update(server, &req.id, &UpdateAction::from(req.action), req.accepted).await? {
        true => Ok(Json(json!({}))),
        false => {
            let message = "There is nothing else to do with a delayed event than restart, send and cancel.";
            Err(Error::new(StatusCode::NOT_FOUND, ErrorKind::Unrecognized, message))
        }
    }
}

answers_json! {
    /// Ruma wants a token where the action is in the body; clients that have none know the delay ID.
    pub struct UpdateRequest(update_delayed_event::unstable_v1::Request, NoAccessToken) => JsonValue;
}

/// `POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}`, as an earlier form of the proposal has it
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4140))
pub async fn update_delayed_event_v1(
    server: &Server,
    _: Anyone,
    UpdateRequest(req): UpdateRequest,
) -> Result<Json<JsonValue>> {
    match update(server, &req.delay_id, &req.action, false).await? {
        true => Ok(Json(json!({}))),
        false => Err(Error::invalid_param("action must be restart, send or cancel.")),
    }
}

/// Does what a client wants done with a delayed event; tells whether there is such an action.
async fn update(server: &Server, id: &str, action: &UpdateAction, accepted: bool) -> Result<bool> {
    let done = match action {
        UpdateAction::Restart => server.store.write(|tx| delayed_events::restart(tx, id)),
        UpdateAction::Cancel => server.store.write(|tx| delayed_events::end(tx, id, Ending::Cancelled)),
        UpdateAction::Send => {
            let event = delayed_events::require_waiting(&server.store.read(), id);
            match event {
                Ok(event) => due::send(server, id, &event).await,
                Err(error) => Err(error),
            }
        }
        _ => return Ok(false),
    };
    match done {
        Err(error) if error.is_not_found() => when_over(&server.store.read(), id, action, accepted, error)?,
        done => done?,
    }
    Ok(true)
}

/// What is answered where an event waits no more: it is no error to ask again for what was done ("to allow safely
/// retrying requests").
fn when_over(read: &dyn Read, id: &str, action: &UpdateAction, accepted: bool, error: Error) -> Result<()> {
    match (action, delayed_events::require(read, id)?.over.map(|over| over.how)) {
        (UpdateAction::Send, Some(Ending::Sent(_)))
        | (UpdateAction::Cancel, Some(Ending::Cancelled | Ending::Failed(..))) => Ok(()),
        (_, Some(_)) if accepted => {
            let message = "The delayed event is over already, in another way.";
            Err(Error::new(StatusCode::CONFLICT, ErrorKind::Unknown, message))
        }
        _ => Err(error),
    }
}
