//! [Logging in with an identity provider](https://spec.matrix.org/latest/client-server-api/#client-login-via-sso): where a
//! client sends its user's browser. The pages for who comes back are in `src/web/sso.rs`.

use ruma::api::client::session::{sso_login, sso_login_with_provider};

use crate::{
    api::auth::Anyone,
    error::{Error, Result},
    server::Server,
    sso::{Departure, Purpose},
};

/// The name of the one provider, among those that a client can choose from.
pub(in crate::api) const PROVIDER: &str = "sso";

/// The longest address of a client that is taken.
const MAX_ADDRESS: usize = 4096;

/// `GET /_matrix/client/v3/login/sso/redirect`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3loginssoredirect))
pub async fn redirect_to_sso(
    server: &Server,
    _: Anyone,
    req: sso_login::v3::Request,
) -> Result<sso_login::v3::Response> {
    let Departure { location, cookie } = depart(server, req.redirect_url).await?;
    let mut response = sso_login::v3::Response::new(location);
    response.cookie = Some(cookie);
    Ok(response)
}

/// `GET /_matrix/client/v3/login/sso/redirect/{idpId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3loginssoredirectidpid))
pub async fn redirect_to_idp(
    server: &Server,
    _: Anyone,
    req: sso_login_with_provider::v3::Request,
) -> Result<sso_login_with_provider::v3::Response> {
    if req.idp_id != PROVIDER {
        return Err(Error::not_found("This server has no identity provider of that name."));
    }
    let Departure { location, cookie } = depart(server, req.redirect_url).await?;
    let mut response = sso_login_with_provider::v3::Response::new(location);
    response.cookie = Some(cookie);
    Ok(response)
}

async fn depart(server: &Server, redirect_url: String) -> Result<Departure> {
    if !is_address(&redirect_url) {
        return Err(Error::invalid_param("redirectUrl is not the address of a client."));
    }
    server.sso.begin(&server.federation.outgoing, Purpose::Login { redirect_url }).await
}

/// Whether a browser may be sent there: clients on phones have schemes of their own, but none that a browser would run.
fn is_address(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once(':') else { return false };
    let scheme = scheme.to_ascii_lowercase();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    !rest.is_empty()
        && url.len() <= MAX_ADDRESS
        && !url.chars().any(|c| c.is_control() || c.is_whitespace())
        && scheme.bytes().all(is_name)
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && !matches!(scheme.as_str(), "javascript" | "data" | "vbscript" | "blob" | "file" | "about" | "view-source")
}
