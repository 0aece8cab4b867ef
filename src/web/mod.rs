//! Pages for people, in plain HTML: nothing fetched from elsewhere, no cookie but that of `sso.rs`, and no script but where
//! a client waits for the page to call it.
//!
//! Text that comes from outside goes through [`escape`](crate::http::html::escape) before it stands in a page. The policy of
//! every page forbids scripts but its own, frames and foreign targets of forms, so that a mistake there would still do
//! nothing.

pub mod confirm_email;
pub mod fallback;
pub mod health;
pub mod login;
pub mod metrics;
pub mod register;
pub mod reset_password;
pub mod sso;
pub mod unsubscribe;

use http::{HeaderValue, Method, Response, StatusCode, header};

use crate::{
    clock,
    error::{Error, Reason, Result},
    http::{Body, Route, html::escape, page},
    server::Server,
    users::{auth_sessions::Deed, password_resets, pushers, validations},
};

const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

const STYLE: &str = "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:32rem;margin:2rem auto;padding:0 1rem;\
color-scheme:light dark}label{display:block;margin-top:1rem}input{font:inherit;width:100%;box-sizing:border-box;\
padding:.4rem}.box input{width:auto}button{font:inherit;margin-top:1.5rem;padding:.5rem 1.5rem}.error{border-left:.3rem solid #c33;\
padding-left:1rem}";

/// Every page.
pub fn routes() -> Vec<Route<Server>> {
    vec![
        page(Method::GET, "/health", health::show_health),
        page(Method::GET, "/register", register::show_registration),
        page(Method::POST, "/register", register::submit_registration),
        page(Method::GET, crate::sso::CALLBACK, sso::return_from_provider),
        page(Method::POST, sso::USERNAME, sso::choose_name),
        page(Method::GET, "/_matrix/client/v3/auth/m.login.sso/fallback/web", sso::begin_confirmation).rate_limited(),
        page(Method::POST, sso::CONFIRM, sso::confirm),
        page(Method::GET, "/_matrix/client/v3/auth/{stage}/fallback/web", fallback::show_stage),
        page(Method::POST, "/_matrix/client/v3/auth/{stage}/fallback/web", fallback::submit_stage),
        page(Method::GET, "/_matrix/static/client/login/", login::show_login),
        page(Method::GET, validations::PAGE, confirm_email::show_confirmation),
        page(Method::POST, validations::PAGE, confirm_email::submit_confirmation),
        page(Method::GET, password_resets::PAGE, reset_password::show_password_form),
        page(Method::POST, password_resets::PAGE, reset_password::submit_password_form),
        page(Method::GET, pushers::UNSUBSCRIBE_PAGE, unsubscribe::show_end_of_mails),
        page(Method::POST, pushers::UNSUBSCRIBE_PAGE, unsubscribe::submit_end_of_mails),
    ]
}

/// The page with figures, which has an address of its own.
pub fn metrics() -> Route<Server> {
    page(Method::GET, "/metrics", metrics::show_metrics)
}

/// What a person is told of an error.
///
/// # Errors
/// The same one, if it is a fault of ours.
fn told(error: Error) -> Result<String> {
    match error.reason() {
        Reason::Matrix { message, .. } => Ok(message.clone()),
        _ => Err(error),
    }
}

/// What went wrong, above a form; nothing for nothing.
fn notice(error: Option<&str>) -> String {
    error.map(|text| format!("<p class=\"error\" role=\"alert\">{}</p>", escape(text))).unwrap_or_default()
}

/// A page that says nothing but what went wrong.
///
/// # Errors
/// As [`told`].
fn failed(title: &str, error: Error) -> Result<Response<Body>> {
    let status = error.status();
    Ok(html(status, title, &notice(Some(&told(error)?))))
}

/// What a person is asked to confirm for a client.
fn asked(deed: Option<&Deed>) -> String {
    match deed {
        Some(deed) => format!(
            "<p>You are <strong>{}</strong>. A client that is logged in to this account wants to <strong>{}</strong>.</p>\
             <p>If you did not just ask for this, close this window: somebody else may use your account.</p>",
            escape(deed.user.as_str()),
            escape(&deed.what),
        ),
        None => "<p>If you did not just begin this in your client, close this window.</p>".to_owned(),
    }
}

/// The page at the end of a stage, which tells the client that it is passed
/// ([spec](https://spec.matrix.org/latest/client-server-api/#fallback)).
///
/// # Errors
/// As [`scripted`].
fn done() -> Result<Response<Body>> {
    const TELL: &str = "window.onAuthDone ? window.onAuthDone() : window.opener?.postMessage('authDone', '*')";
    scripted("Confirmed", "<p>That was it: close this window and continue in your client.</p>", TELL)
}

/// [`html`] with a script of our own, which may ask this server.
///
/// # Errors
/// When the system gives no random bytes.
fn scripted(title: &str, body: &str, script: &str) -> Result<Response<Body>> {
    let nonce = clock::random_string(24)?;
    let mut response = html(StatusCode::OK, title, &format!("{body}<script nonce=\"{nonce}\">{script}</script>"));
    let policy = format!("{POLICY}; script-src 'nonce-{nonce}'; connect-src 'self'");
    let policy = HeaderValue::try_from(policy).map_err(Error::internal)?;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// A page with this title and body, both HTML already.
fn html(status: StatusCode, title: &str, body: &str) -> Response<Body> {
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><title>{title}</title><style>{STYLE}</style></head>\
         <body><main><h1>{title}</h1>{body}</main></body></html>"
    );
    let mut response = Response::new(Body::full(page));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
