//! `GET /_matrix/static/client/login/`: the page on which people log in whose client knows no way to
//! ([spec](https://spec.matrix.org/latest/client-server-api/#login-fallback)).
//!
//! Its script calls the operations of a login like any client, so their rules and limits hold.

use http::Response;

use super::scripted;
use crate::{
    error::Result,
    http::{Body, PageRequest, html::escape},
    server::Server,
};

/// The form, and a link to the identity provider if there is one.
pub async fn show_login(server: &Server, _: PageRequest) -> Result<Response<Body>> {
    let provider = match server.sso.is_enabled() {
        true => format!(
            "<p><a class=\"button\" href=\"/_matrix/client/v3/login/sso/redirect\">Log in with {}</a></p>",
            escape(&server.config().sso.name)
        ),
        false => String::new(),
    };
    let body = format!(
        "<p class=\"error\" role=\"alert\" hidden></p><form><label>User name or e-mail address<input name=\"user\" required \
         autocomplete=\"username\" autocapitalize=\"none\" spellcheck=\"false\"></label><label>Password<input \
         type=\"password\" name=\"password\" required autocomplete=\"current-password\"></label><button>Log in</button>\
         </form>{provider}"
    );
    let title = format!("Log in to {}", escape(server.name().as_str()));
    scripted(&title, &body, include_str!("login.js"))
}
