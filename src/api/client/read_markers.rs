//! Fully-read markers, with receipts along the way.

use ruma::{
    api::client::read_marker::set_read_marker::v3::{Request, Response},
    events::receipt::{ReceiptThread, ReceiptType},
};

use super::receipts::{event_in, joined_room, set_fully_read};
use crate::{api::auth::User, error::Result, rooms::receipts, server::Server};

/// `POST /_matrix/client/v3/rooms/{roomId}/read_markers`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidread_markers))
pub async fn set_read_marker(server: &Server, user: User, req: Request) -> Result<Response> {
    server.store.write(|tx| {
        let room = joined_room(tx, &user, &req.room_id)?;
        if let Some(id) = &req.fully_read {
            set_fully_read(tx, &user, room, id)?;
        }
        let marks = [(ReceiptType::Read, &req.read_receipt), (ReceiptType::ReadPrivate, &req.private_read_receipt)];
        for (kind, id) in marks {
            if let Some(id) = id {
                let event = event_in(tx, &user, room, id)?;
                receipts::set(tx, &server.rooms, &user.id, &kind, &event, &ReceiptThread::Unthreaded, None)?;
            }
        }
        Ok(())
    })?;
    Ok(Response::new())
}
