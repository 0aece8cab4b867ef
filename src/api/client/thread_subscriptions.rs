//! Threads that users follow ([MSC4306](https://github.com/matrix-org/matrix-spec-proposals/pull/4306), and
//! [MSC4308](https://github.com/matrix-org/matrix-spec-proposals/pull/4308) for what changed; both are proposals).

use std::sync::Arc;

use ruma::{
    EventId, RoomId, UserId,
    api::{
        client::threads::{
            get_thread_subscription, get_thread_subscriptions_changes, subscribe_thread, unsubscribe_thread,
        },
        error::ErrorKind,
    },
};

use crate::{
    answers_json,
    api::{auth::User, own::Json},
    error::{Error, Result},
    ids::Position,
    rooms::{Event, event, point::Point, relations, thread_subscriptions, visibility},
    server::Server,
    store::Read,
    sync::thread_subscriptions::{Changes, MAX},
};

/// `GET /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{threadRootId}/subscription`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4306))
pub async fn get_thread_subscription(
    server: &Server,
    user: User,
    req: get_thread_subscription::unstable::Request,
) -> Result<get_thread_subscription::unstable::Response> {
    let read = server.store.read();
    let root = visible(&read, &user.id, &req.room_id, &req.thread_root)?;
    let row = thread_subscriptions::get(&read, &user.id, root.no)?;
    let row = row.ok_or_else(|| Error::not_found("You do not follow this thread."))?;
    Ok(get_thread_subscription::unstable::Response::new(row.automatic))
}

/// `PUT /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{threadRootId}/subscription`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4306))
pub async fn subscribe_thread(
    server: &Server,
    user: User,
    req: subscribe_thread::unstable::Request,
) -> Result<subscribe_thread::unstable::Response> {
    let (root, cause) = {
        let read = server.store.read();
        let root = visible(&read, &user.id, &req.room_id, &req.thread_root)?;
        let cause = req.automatic.as_deref().map(|cause| visible(&read, &user.id, &req.room_id, cause)).transpose()?;
        (root, cause)
    };
    if cause.as_ref().is_some_and(|cause| !is_in_thread(cause, &req.thread_root)) {
        let message = "The event because of which the thread is to be followed is not in the thread.";
        return Err(Error::bad_request(ErrorKind::NotInThread, message));
    }
    server.store.write(|tx| thread_subscriptions::subscribe(tx, &server.rooms, &user.id, &root, cause.as_deref()))?;
    Ok(subscribe_thread::unstable::Response::new())
}

/// `DELETE /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{threadRootId}/subscription`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4306))
pub async fn unsubscribe_thread(
    server: &Server,
    user: User,
    req: unsubscribe_thread::unstable::Request,
) -> Result<unsubscribe_thread::unstable::Response> {
    let root = visible(&server.store.read(), &user.id, &req.room_id, &req.thread_root)?;
    server.store.write(|tx| thread_subscriptions::unsubscribe(tx, &user.id, &root))?;
    Ok(unsubscribe_thread::unstable::Response::new())
}

answers_json! {
    /// What changed looks here as it does in sliding sync.
    pub struct ChangesRequest(get_thread_subscriptions_changes::unstable::Request) => Changes;
}

/// `GET /_matrix/client/unstable/io.element.msc4308/thread_subscriptions`
/// ([proposal](https://github.com/matrix-org/matrix-spec-proposals/pull/4308))
pub async fn get_thread_subscriptions_changes(
    server: &Server,
    user: User,
    ChangesRequest(req): ChangesRequest,
) -> Result<Json<Changes>> {
    let read = server.store.read();
    let place = |token: Option<&str>| -> Result<Option<Position>> {
        let point = Point::parse_optional(token)?;
        Ok(point.map(|point| Position(u64::try_from(point.0).unwrap_or(0))))
    };
    let since = place(req.to.as_deref())?.unwrap_or_default();
    let upto = place(req.from.as_deref())?.unwrap_or(read.position()?);
    let limit = req.limit.map_or(100, |limit| usize::try_from(u64::from(limit)).unwrap_or(MAX));
    if limit == 0 {
        return Err(Error::invalid_param("limit must be greater than 0."));
    }
    Changes::between(&read, &user.id, since, upto, limit).map(|changes| Json(changes.paginated()))
}

/// An event of the room that the user may see.
fn visible(read: &dyn Read, user: &UserId, room: &RoomId, id: &EventId) -> Result<Arc<Event>> {
    let not_found = || Error::not_found("There is no such event in this room, or you may not see it.");
    let event = event::by_id(read, id)?.filter(|event| event.pdu.room_id == room).ok_or_else(not_found)?;
    if visibility::may_see_event(read, user, &event)? { Ok(event) } else { Err(not_found()) }
}

fn is_in_thread(event: &Event, root: &EventId) -> bool {
    let relation = relations::relation(&event.pdu.content);
    relation.is_some_and(|relation| relation.rel_type == "m.thread" && relation.event_id == root)
}
