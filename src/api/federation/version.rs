//! What this server runs.

use ruma::api::federation::discovery::get_server_version::v1::{Request, Response, Server as Software};

use crate::{api::auth::Anyone, error::Result, server::Server};

/// `GET /_matrix/federation/v1/version`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1version))
pub async fn get_version(_: &Server, _: Anyone, _: Request) -> Result<Response> {
    let mut software = Software::new();
    software.name = Some("conduit".to_owned());
    software.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = Response::new();
    response.server = Some(software);
    Ok(response)
}
