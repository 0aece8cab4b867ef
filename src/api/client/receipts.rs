//! Read receipts.

use std::sync::Arc;

use ruma::{
    EventId, RoomId,
    api::client::receipt::create_receipt::v3::{ReceiptType as Kind, Request, Response},
    events::receipt::{ReceiptThread, ReceiptType},
};
use serde_json::{json, value::to_raw_value};

use crate::{
    api::auth::User,
    error::{Error, Result},
    ids::RoomNo,
    rooms::{self, Event, event, members, receipts, visibility},
    server::Server,
    store::{Read, Tx},
    users::account_data,
};

/// The account data that holds a room's fully-read marker.
const FULLY_READ: &str = "m.fully_read";

/// `POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid))
pub async fn post_receipt(server: &Server, user: User, req: Request) -> Result<Response> {
    server.store.write(|tx| {
        let room = joined_room(tx, &user, &req.room_id)?;
        match req.receipt_type {
            Kind::Read | Kind::ReadPrivate => {
                let kind = ReceiptType::from(req.receipt_type.as_str());
                let event = event_in(tx, &user, room, &req.event_id)?;
                receipts::set(tx, &server.rooms, &user.id, &kind, &event, &req.thread, None).map(|_| ())
            }
            Kind::FullyRead if req.thread == ReceiptThread::Unthreaded => {
                set_fully_read(tx, &user, room, &req.event_id)
            }
            Kind::FullyRead => Err(Error::invalid_param("A fully-read marker is of no thread.")),
            _ => Err(Error::invalid_param("The server does not know this type of receipt.")),
        }
    })?;
    Ok(Response::new())
}

/// The room, which the caller is joined to.
///
/// # Errors
/// 404 `M_NOT_FOUND`, 403 `M_FORBIDDEN`.
pub(super) fn joined_room(read: &dyn Read, user: &User, id: &RoomId) -> Result<RoomNo> {
    let (room, _) = rooms::require(read, id)?;
    if members::is_joined(read, room, &user.id)? {
        Ok(room)
    } else {
        Err(Error::forbidden("You are not in this room."))
    }
}

/// The event with this ID in the room's timeline, if the caller may see it.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub(super) fn event_in(read: &dyn Read, user: &User, room: RoomNo, id: &EventId) -> Result<Arc<Event>> {
    let event = event::by_id(read, id)?.filter(|event| event.room == room && event.order != 0);
    match event {
        Some(event) if visibility::may_see_event(read, &user.id, &event)? => Ok(event),
        _ => Err(Error::not_found("There is no such event in this room.")),
    }
}

/// Moves the caller's fully-read marker to an event; it does not move backwards.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub(super) fn set_fully_read(tx: &mut Tx<'_>, user: &User, room: RoomNo, id: &EventId) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Content {
        event_id: ruma::OwnedEventId,
    }
    let event = event_in(tx, user, room, id)?;
    let earlier = account_data::get(tx, &user.id, Some(room), FULLY_READ)?;
    let earlier = earlier.and_then(|content| serde_json::from_str::<Content>(content.get()).ok());
    if let Some(Content { event_id }) = earlier
        && event::by_id(tx, &event_id)?.is_some_and(|earlier| earlier.order >= event.order)
    {
        return Ok(());
    }
    let content = to_raw_value(&json!({ "event_id": id }))?;
    account_data::put(tx, &user.id, Some(room), FULLY_READ, content).map(|_| ())
}
