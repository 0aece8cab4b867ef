//! The list of what the user was notified of.

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::push::get_notifications::v3::{Notification, Request, Response},
};

use crate::{
    api::auth::User,
    error::{Error, Result},
    rooms::{client_event::View, notifications},
    server::Server,
};

/// How many notifications one response has, if the client does not say, and at most.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;

/// `GET /_matrix/client/v3/notifications`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3notifications))
pub async fn get_notifications(server: &Server, user: User, req: Request) -> Result<Response> {
    let before = match req.from.as_deref() {
        None | Some("") => i64::MAX,
        Some(token) => token.parse().map_err(|_| Error::invalid_param("from is no token of this server."))?,
    };
    let limit = req.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let highlights_only = req.only.as_deref() == Some("highlight");
    let read = server.store.read();
    let (found, next) = notifications::list(&read, &user.id, before, limit, highlights_only)?;
    let mut response = Response::new(Vec::with_capacity(found.len()));
    let view = View::new(&read, Some((&user.id, &user.device)));
    for notified in found {
        if !view.may_see(&notified.event)? {
            continue;
        }
        let event = view.timeline(&notified.event)?;
        let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(notified.event.received_ts));
        let room = notified.event.pdu.room_id.clone();
        response.notifications.push(Notification::new(notified.actions, event, notified.read, room, ts));
    }
    response.next_token = next.map(|order| order.to_string());
    Ok(response)
}
