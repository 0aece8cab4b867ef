//! A token with which a logged-in user logs in another client, once (`m.login.token`).

use std::time::Duration;

use ruma::api::client::session::get_login_token::v1::{Request, Response};

use crate::{
    api::{auth::User, uiaa},
    error::Result,
    server::Server,
    store::trees::LOGIN_TOKENS,
    users::login_tokens,
};

/// How long such a token is good: time enough to show it to another device.
const LIFETIME: Duration = Duration::from_secs(120);

/// `POST /_matrix/client/v1/login/get_token`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv1loginget_token))
pub async fn generate_login_token(server: &Server, user: User, req: Request) -> Result<Response> {
    uiaa::check(server, &user, "log in another client", req.auth.as_ref()).await?;
    let token = server.store.write(|tx| login_tokens::issue(tx, &LOGIN_TOKENS, &user.id, LIFETIME))?;
    Ok(Response::new(LIFETIME, token))
}
