//! Whether a registration token is good for an account.

use ruma::api::client::account::check_registration_token_validity::v1::{Request, Response};

use crate::{api::auth::Anyone, error::Result, server::Server, users::registration_tokens};

/// `GET /_matrix/client/v1/register/m.login.registration_token/validity`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1registermloginregistration_tokenvalidity))
pub async fn registration_token_validity(server: &Server, _: Anyone, req: Request) -> Result<Response> {
    let pending = server.auth_sessions.pending(&req.token, None);
    let read = server.store.read();
    Ok(Response::new(registration_tokens::is_valid(&read, &server.config(), &req.token, pending)?))
}
