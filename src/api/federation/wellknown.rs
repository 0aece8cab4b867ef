//! Where other servers find this one, told at the server name itself.

use ruma::api::federation::discovery::discover_homeserver::{Request, Response};

use crate::{
    api::auth::Anyone,
    error::{Error, Result},
    server::Server,
};

/// `GET /.well-known/matrix/server`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#getwell-knownmatrixserver))
///
/// 404 on a server that does not federate.
pub async fn get_well_known(server: &Server, _: Anyone, _: Request) -> Result<Response> {
    if !server.config().allow_federation {
        return Err(Error::not_found("This server does not exchange messages with others."));
    }
    Ok(Response::new(server.config().well_known_server()))
}
