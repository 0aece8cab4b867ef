//! Whose an access token is.

use ruma::api::client::account::whoami::v3::{Request, Response};

use crate::{api::auth::User, error::Result, server::Server};

/// `GET /_matrix/client/v3/account/whoami`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3accountwhoami))
pub async fn get_token_owner(_: &Server, user: User, _: Request) -> Result<Response> {
    let mut response = Response::new(user.id, user.guest);
    response.device_id = Some(user.device).filter(|device| !device.as_str().is_empty());
    Ok(response)
}
