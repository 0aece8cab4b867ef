//! Where clients find this server, told at the server name itself.

use ruma::api::client::discovery::discover_homeserver::{HomeserverInfo, Request, Response};

use super::rtc;
use crate::{api::auth::Anyone, error::Result, server::Server};

/// `GET /.well-known/matrix/client`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#getwell-knownmatrixclient))
pub async fn get_wellknown(server: &Server, _: Anyone, _: Request) -> Result<Response> {
    // Clients append paths that begin with a slash.
    let base_url = server.config().well_known_client().trim_end_matches('/').to_owned();
    let mut response = Response::new(HomeserverInfo::new(base_url));
    // MSC4143, a proposal.
    response.rtc_foci = rtc::foci(&server.config());
    Ok(response)
}
