//! [The threads of a room](https://spec.matrix.org/latest/client-server-api/#querying-threads-in-a-room).

use std::sync::Arc;

use ruma::api::client::threads::get_threads::v1::{IncludeThreads, Request, Response};

use super::message_pagination::view;
use crate::{
    api::auth::User,
    error::{Error, Result},
    ids::EventNo,
    rooms::{
        access::{self, Readable},
        build, event, history,
        point::Point,
        redaction, relations,
    },
    server::Server,
    store::Read,
    users::account_data,
};

/// Threads per page: by default and at most.
const PAGE: u64 = 20;
const MAX_PAGE: u64 = 100;

/// How many threads one request looks at.
const LOOKED_AT: usize = 1_000;

/// Places and roots of threads.
type Threads<'r> = Box<dyn Iterator<Item = Result<(i64, EventNo)>> + 'r>;

/// `GET /_matrix/client/v1/rooms/{roomId}/threads`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidthreads))
pub async fn get_thread_roots(server: &Server, user: User, req: Request) -> Result<Response> {
    let snapshot = server.store.read();
    let readable = access::history_of(&snapshot, &user.id, &req.room_id)?;
    let limit = req.limit.map_or(PAGE, u64::from).min(MAX_PAGE);
    if limit == 0 {
        return Err(Error::invalid_param("limit must be greater than 0."));
    }
    let last = readable.until.map_or(i64::MAX, |until| until.saturating_add(1));
    let from = Point::parse_optional(req.from.as_deref())?;
    let before = from.map_or(last, |from| from.0.saturating_add(1).min(last));
    let ignored = account_data::ignored_users(&snapshot, &user.id)?;
    let view = view(&snapshot, &user, ignored.clone());
    let rules = build::rules(&readable.room.version)?.redaction;

    let mut response = Response::new(Vec::new());
    let mut reached = None;
    for (looked_at, row) in threads(&snapshot, &readable, before)?.enumerate() {
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
            response.chunk.push(if history::is_ignored(&ignored, &event) {
                view.room_timeline(&redaction::pruned(Arc::unwrap_or_clone(event), &rules)?)?
            } else {
                view.room_timeline(&event)?
            });
        }
    }
    Ok(response)
}

/// The threads of the room, each at the place of the newest event in it that the user can see, if that is `before` some
/// place; the newest first.
fn threads<'r>(read: &'r dyn Read, room: &Readable, before: i64) -> Result<Threads<'r>> {
    let listed = relations::threads(read, room.no, before);
    let Some(until) = room.until else { return Ok(Box::new(listed)) };
    // Those that went on after the user left stand further up in the list.
    let mut threads: Vec<(i64, EventNo)> = listed.take(LOOKED_AT + 1).collect::<Result<_>>()?;
    let last = until.saturating_add(1);
    for row in relations::threads(read, room.no, i64::MAX).take(LOOKED_AT) {
        let (newest, root) = row?;
        if newest < last {
            break;
        }
        let seen = relations::newest_in_thread(read, root, last)?.filter(|order| *order < before);
        threads.extend(seen.map(|order| (order, root)));
    }
    threads.sort_unstable_by(|a, b| b.cmp(a));
    Ok(Box::new(threads.into_iter().map(Ok)))
}
