//! [Sending messages](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid).

use std::sync::Arc;

use ruma::{
    EventId, OwnedEventId, RoomId, TransactionId, UserId,
    api::{client::message::send_message_event::v3::Request, error::ErrorKind},
    events::TimelineEventType,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::delayed_events::{Sent, Timed, schedule};
use crate::{
    api::{auth::User, own::Json},
    error::{Error, Result},
    federation::policy,
    ids::EventNo,
    rooms::{self, Event, RoomGuard, build::Draft, event, relations, sticky::Sticky},
    server::Server,
    store::{Direction, Read, Tx},
    users::{accounts, tokens, transactions},
};

/// How many relations of an event are looked through for an equal annotation.
const RELATIONS: usize = 1_000;

/// `PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid))
pub async fn send_message(
    server: &Server,
    user: User,
    Timed { request: req, delay }: Timed<Request>,
) -> Result<Json<Sent>> {
    check_encryption(server, &req.event_type.to_string())?;
    server.presence.active(&server.store, &user.id)?;
    let operation = format!("{}/{}", req.room_id, req.event_type);
    let mut draft = Draft::message(TimelineEventType::from(req.event_type), req.body.into_json());
    draft.sticky = req.sticky_duration_ms.map(Sticky::from);
    draft.timestamp = req.timestamp.filter(|_| user.appservice.is_some());
    if draft.kind == TimelineEventType::RoomRedaction {
        draft.redacts = Some(redacts(&draft.content)?);
    }
    Ok(Json(match delay {
        Some(delay) => {
            let transaction = Some((format!("delay/{operation}"), &*req.txn_id));
            Sent::Later { delay_id: schedule(server, &user, &req.room_id, draft, delay, transaction)? }
        }
        None => {
            let operation = format!("send/{operation}");
            let event_id = send_once(server, &user, &req.room_id, operation, &req.txn_id, draft, |_, _| Ok(())).await?;
            Sent::Now { event_id }
        }
    }))
}

/// Sends an event of a client, or gives the ID of the one that its first request with this transaction ID made. The
/// room's lock is held throughout, so of two equal requests at once, one finds what the other sent. `also` is written
/// with the event.
///
/// # Errors
/// As sending; what `also` returns; 400 `M_DUPLICATE_ANNOTATION`; 400 `M_UNKNOWN` for a thread below an event that
/// cannot have one; 403 `M_USER_SUSPENDED` for a redaction of another's event by a suspended user.
pub(super) async fn send_once(
    server: &Server,
    user: &User,
    room: &RoomId,
    operation: String,
    id: &TransactionId,
    mut draft: Draft,
    also: impl FnOnce(&mut Tx<'_>, &Event) -> Result<()>,
) -> Result<OwnedEventId> {
    let guard = server.rooms.lock(room).await;
    draft.request = Some(event::Request::Transaction(user.device.clone(), id.to_owned()));
    {
        let snapshot = server.store.read();
        if let Some(event) = transactions::answer(&snapshot, &user.id, &user.device, &operation, id)? {
            return EventId::parse(event).map_err(Error::internal);
        }
    }
    send_locked(server, &guard, &user.id, draft, |tx, event| {
        transactions::remember(tx, &user.id, &user.device, &operation, id, event.pdu.event_id.as_str())?;
        also(tx, event)
    })
    .await
}

/// Sends an event that no transaction ID belongs to; `also` is written with it.
///
/// # Errors
/// As [`send_once`]; what `also` returns.
pub(super) async fn send_now(
    server: &Server,
    user: &UserId,
    room: &RoomId,
    draft: Draft,
    also: impl FnOnce(&mut Tx<'_>, &Event) -> Result<()>,
) -> Result<OwnedEventId> {
    let guard = server.rooms.lock(room).await;
    send_locked(server, &guard, user, draft, also).await
}

async fn send_locked(
    server: &Server,
    guard: &RoomGuard,
    user: &UserId,
    draft: Draft,
    also: impl FnOnce(&mut Tx<'_>, &Event) -> Result<()>,
) -> Result<OwnedEventId> {
    {
        let snapshot = server.store.read();
        if rooms::find(&snapshot, guard.room())?.is_none() {
            return Err(Error::forbidden("You are not in this room."));
        }
        check_redaction(&snapshot, user, &draft)?;
        check_relation(&snapshot, user, &draft)?;
    }
    Ok(policy::send_and(&server.federation, guard, user, draft, also).await?.pdu.event_id)
}

/// Refuses encryption where the operator does not want it.
///
/// # Errors
/// 403 `M_FORBIDDEN`.
pub(super) fn check_encryption(server: &Server, kind: &str) -> Result<()> {
    if !server.config().allow_encryption && matches!(kind, "m.room.encrypted" | "m.room.encryption") {
        return Err(Error::forbidden("Encryption is disabled on this server."));
    }
    Ok(())
}

/// What a redaction in the content's form redacts; clients use it in all room versions.
///
/// # Errors
/// 400 `M_BAD_JSON`.
pub(super) fn redacts(content: &RawValue) -> Result<OwnedEventId> {
    #[derive(Deserialize)]
    struct Content {
        redacts: OwnedEventId,
    }
    let content: Content = serde_json::from_str(content.get())
        .map_err(|_| Error::bad_json("A redaction names the event to redact as redacts in its content."))?;
    Ok(content.redacts)
}

/// Refuses that a suspended user redacts what is not their own
/// ([spec](https://spec.matrix.org/latest/client-server-api/#account-suspension)).
fn check_redaction(read: &dyn Read, user: &UserId, draft: &Draft) -> Result<()> {
    let Some(target) = &draft.redacts else { return Ok(()) };
    let is_own = |event: Arc<Event>| event.pdu.sender == user;
    if accounts::is_suspended(read, user)? && !event::by_id(read, target)?.is_some_and(is_own) {
        return Err(tokens::suspended());
    }
    Ok(())
}

#[derive(Deserialize)]
struct Related {
    #[serde(rename = "m.relates_to")]
    relates_to: RelatesTo,
}

#[derive(Deserialize)]
struct RelatesTo {
    rel_type: String,
    event_id: OwnedEventId,
    key: Option<String>,
}

/// Refuses a second equal annotation
/// ([spec](https://spec.matrix.org/latest/client-server-api/#avoiding-duplicate-annotations)) and threads in threads
/// ([spec](https://spec.matrix.org/latest/client-server-api/#validation-of-mthread-relationships)).
fn check_relation(read: &dyn Read, user: &UserId, draft: &Draft) -> Result<()> {
    // Most events have no relation: a search is cheaper than parsing them all.
    if !draft.content.get().contains("m.relates_to") {
        return Ok(());
    }
    let Ok(Related { relates_to }) = serde_json::from_str(draft.content.get()) else { return Ok(()) };
    let Some(target) = event::by_id(read, &relates_to.event_id)? else { return Ok(()) };
    match relates_to.rel_type.as_str() {
        "m.annotation" if has_annotation(read, user, target.no, &draft.kind, &relates_to)? => {
            let message = "You have annotated this event with the same key already.";
            Err(Error::bad_request(ErrorKind::DuplicateAnnotation, message))
        }
        "m.thread" if target.pdu.content_as::<Related>().is_some() => {
            let message = "A thread cannot start at an event that relates to another one.";
            Err(Error::bad_request(ErrorKind::Unknown, message))
        }
        _ => Ok(()),
    }
}

fn has_annotation(
    read: &dyn Read,
    user: &UserId,
    target: EventNo,
    kind: &TimelineEventType,
    wanted: &RelatesTo,
) -> Result<bool> {
    for row in relations::of(read, target, Direction::Backward).take(RELATIONS) {
        let (_, no, relation) = row?;
        if relation != "m.annotation" {
            continue;
        }
        let event = event::require(read, no)?;
        // A redacted annotation has lost its relation, and may be made anew.
        let is_equal = event.pdu.sender == user
            && event.pdu.kind == *kind
            && event.pdu.content_as::<Related>().is_some_and(|other| other.relates_to.key == wanted.key);
        if is_equal {
            return Ok(true);
        }
    }
    Ok(false)
}
