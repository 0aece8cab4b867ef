//! [The threads of a room](https://spec.matrix.org/latest/client-server-api/#querying-threads-in-a-room).

use ruma::api::client::threads::get_threads::v1::{IncludeThreads, Request, Response};

use super::message_pagination::view;
use crate::{
    api::auth::User,
    error::{Error, Result},
    rooms::{access, event, point::Point, relations},
    server::Server,
    users::account_data,
};

/// Threads per page: by default and at most.
const PAGE: u64 = 20;
const MAX_PAGE: u64 = 100;

/// How many threads one request looks at.
const LOOKED_AT: usize = 1_000;

/// `GET /_matrix/client/v1/rooms/{roomId}/threads`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidthreads))
pub async fn get_thread_roots(server: &Server, user: User, req: Request) -> Result<Response> {
    let snapshot = server.store.read();
    let readable = access::history_of(&snapshot, &user.id, &req.room_id)?;
    let limit = req.limit.map_or(PAGE, u64::from).min(MAX_PAGE);
    if limit == 0 {
        return Err(Error::invalid_param("limit must be greater than 0."));
    }
    let from = Point::parse_optional(req.from.as_deref())?.or(readable.until.map(Point::after));
    let before = from.map_or(i64::MAX, |from| from.0.saturating_add(1));
    let view = view(&snapshot, &user, account_data::ignored_users(&snapshot, &user.id)?);

    let mut response = Response::new(Vec::new());
    let mut reached = None;
    for (looked_at, row) in relations::threads(&snapshot, readable.no, before).enumerate() {
        let (order, root) = row?;
        if response.chunk.len() as u64 == limit || looked_at == LOOKED_AT {
            response.next_batch = reached.map(|point: Point| point.to_string());
            break;
        }
        reached = Some(Point::before(order));
        let event = event::require(&snapshot, root)?;
        let wanted =
            req.include != IncludeThreads::Participated || relations::participated(&snapshot, &event, &user.id)?;
        if wanted && view.may_see(&event)? {
            response.chunk.push(view.room_timeline(&event)?);
        }
    }
    Ok(response)
}
