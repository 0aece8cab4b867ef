//! New access tokens for old refresh tokens.

use ruma::api::client::session::refresh_token::v3::{Request, Response};

use super::login::lifetimes;
use crate::{api::auth::Anyone, error::Result, server::Server, users::tokens};

/// `POST /_matrix/client/v3/refresh`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3refresh))
pub async fn refresh(server: &Server, _: Anyone, req: Request) -> Result<Response> {
    let lifetimes = lifetimes(&server.config());
    let issued = server.store.write(|tx| tokens::refresh(tx, &req.refresh_token, lifetimes))?;
    let mut response = Response::new(issued.access);
    response.refresh_token = issued.refresh;
    response.expires_in_ms = issued.expires_in;
    Ok(response)
}
