//! [Jumping to a date](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event).

use ruma::api::{
    Direction as Dir,
    client::room::get_event_by_timestamp::v1::{Request, Response},
};

use crate::{
    api::auth::User,
    error::{Error, Result},
    federation::timestamps,
    rooms::{Event, access, history, visibility::Gate},
    server::Server,
    store::Direction,
};

/// `GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event))
pub async fn get_event_by_timestamp(server: &Server, user: User, req: Request) -> Result<Response> {
    let mut found = nearest(server, &user, &req)?;
    let known = found.as_ref().map(|found| found.origin_server_ts);
    if timestamps::fetch_nearer(&server.federation, &req.room_id, req.ts, req.dir, known).await? {
        found = nearest(server, &user, &req)?;
    }
    found.ok_or_else(|| Error::not_found("There is no event from that time on in this direction."))
}

/// The nearest of the events that are here.
fn nearest(server: &Server, user: &User, req: &Request) -> Result<Option<Response>> {
    let snapshot = server.store.read();
    let readable = access::state_of(&snapshot, &user.id, &req.room_id)?;
    let direction = match req.dir {
        Dir::Forward => Direction::Forward,
        Dir::Backward => Direction::Backward,
    };
    let gate = Gate::new(&snapshot, &user.id);
    let may_see = |event: &Event| gate.may_see(event);
    let event = history::nearest(&snapshot, &may_see, readable.no, req.ts.get().into(), direction)?;
    Ok(event.map(|event| Response::new(event.pdu.event_id.clone(), event.pdu.origin_server_ts)))
}
