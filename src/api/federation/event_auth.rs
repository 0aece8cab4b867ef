//! [Event authorisation](https://spec.matrix.org/latest/server-server-api/#retrieving-event-authorisation-information).

use http::{Request, Response};
use ruma::api::federation::authorization::get_event_authorization::v1;

use super::event_lists;
use crate::{
    api::auth::Origin,
    error::Result,
    http::Body,
    rooms::{auth_chains, reader::Reader},
    server::Server,
};

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1event_authroomideventid))
pub async fn get_event_auth(
    server: &Server,
    origin: Origin,
    req: v1::Request,
    _: Request<Body>,
) -> Result<Response<Body>> {
    let auth_chain = event_lists::made(server, origin.server, move |read, origin| {
        let reader = Reader::enter(read, origin, &req.room_id)?;
        auth_chains::of(read, [reader.require(&req.event_id)?.no])
    })
    .await?;
    Ok(event_lists::answer(server, String::new(), vec![("auth_chain", auth_chain.into_iter().collect())]))
}
