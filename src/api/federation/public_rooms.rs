//! [The published room directory](https://spec.matrix.org/latest/server-server-api/#published-room-directory), for other
//! servers.

use ruma::api::federation::directory::{get_public_rooms as list, get_public_rooms_filtered as query};
use ruma::directory::Filter;

use crate::{
    answers_json,
    api::{auth::Origin, own::Json},
    error::{Error, Result},
    rooms::directory::{self, Page},
    server::Server,
};

answers_json! {
    /// A request for the directory, whose answer writes all join rules out.
    pub struct ListRequest(list::v1::Request) => Page;
}
answers_json! {
    /// A search in the directory, whose answer writes all join rules out.
    pub struct QueryRequest(query::v1::Request) => Page;
}

/// `GET /_matrix/federation/v1/publicRooms`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1publicrooms))
pub async fn get_public_rooms(server: &Server, _: Origin, ListRequest(req): ListRequest) -> Result<Json<Page>> {
    require_shown(server)?;
    let limit = req.limit.map(u64::from).filter(|limit| *limit > 0);
    directory::page(&server.store.read(), &req.room_network, &Filter::new(), req.since.as_deref(), limit).map(Json)
}

/// `POST /_matrix/federation/v1/publicRooms`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1publicrooms))
pub async fn query_public_rooms(server: &Server, _: Origin, QueryRequest(req): QueryRequest) -> Result<Json<Page>> {
    require_shown(server)?;
    let limit = req.limit.map(u64::from).filter(|limit| *limit > 0);
    directory::page(&server.store.read(), &req.room_network, &req.filter, req.since.as_deref(), limit).map(Json)
}

/// The administrator may keep the directory from other servers.
fn require_shown(server: &Server) -> Result<()> {
    match server.config().allow_public_room_directory_over_federation {
        true => Ok(()),
        false => Err(Error::forbidden("This server does not show its room directory to other servers.")),
    }
}
