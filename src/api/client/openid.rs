//! Tokens with which users prove to other services who they are.

use ruma::{
    api::client::account::request_openid_token::v3::{Request, Response},
    authentication::TokenType,
};

use crate::{api::auth::User, error::Result, server::Server, store::trees::OPENID_TOKENS, users::login_tokens};

/// `POST /_matrix/client/v3/user/{userId}/openid/request_token`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3useruseridopenidrequest_token))
pub async fn request_open_id_token(server: &Server, user: User, req: Request) -> Result<Response> {
    user.require_self(&req.user_id, "You cannot prove to be somebody else.")?;
    let ttl = server.config().openid_token_ttl;
    let token = server.store.write(|tx| login_tokens::issue(tx, &OPENID_TOKENS, &user.id, ttl))?;
    Ok(Response::new(token, TokenType::Bearer, server.name().to_owned(), ttl))
}
