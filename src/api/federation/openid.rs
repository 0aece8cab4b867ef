//! Whose the tokens are with which users prove to other services who they are.

use ruma::api::federation::openid::get_openid_userinfo::v1::{Request, Response};

use crate::{
    api::auth::Anyone,
    error::{Error, Result},
    server::Server,
    store::trees::OPENID_TOKENS,
    users::login_tokens,
};

/// `GET /_matrix/federation/v1/openid/userinfo`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1openiduserinfo))
pub async fn exchange_open_id_token(server: &Server, _: Anyone, req: Request) -> Result<Response> {
    let user = login_tokens::user_of(&server.store.read(), &OPENID_TOKENS, &req.access_token)?;
    user.map(Response::new).ok_or_else(|| Error::unknown_token(false, "The token is unknown, or has expired."))
}
