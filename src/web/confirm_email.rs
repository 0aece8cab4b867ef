//! `GET` and `POST /_matrix/conduit/confirm-email`: the page behind the link of a mail, on which its reader confirms.
//!
//! Opening the link does nothing: programs that look for dangerous mails open every link. Where the client wants the reader
//! to go on is a link as well, with its host in plain sight, so that the page leads nobody astray.

use http::{Response, StatusCode};
use serde::Deserialize;

use super::{failed, html};
use crate::{
    error::Result,
    http::{Body, PageRequest, html::escape},
    server::Server,
    store::records::{Purpose, Validation},
    users::validations::{self, PAGE},
};

/// What stands in the link, and in the form.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Link {
    sid: String,
    token: String,
}

/// Asks whether the reader confirms.
pub async fn show_confirmation(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    let link: Link = serde_html_form::from_str(page.request.uri().query().unwrap_or_default()).unwrap_or_default();
    match validations::of_link(&server.store.read(), &link.sid, &link.token) {
        Ok(found) => Ok(question(server, &link, &found)),
        Err(error) => failed("This link does not work", error),
    }
}

/// Confirms.
pub async fn submit_confirmation(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    let link: Link = serde_html_form::from_bytes(page.request.body()).unwrap_or_default();
    let confirmed = server.store.write(|tx| validations::confirm(tx, &link.sid, &link.token))?;
    match confirmed {
        Some(found) => Ok(done(&found)),
        None => match validations::of_link(&server.store.read(), &link.sid, &link.token) {
            Ok(found) => Ok(question(server, &link, &found)),
            Err(error) => failed("This link does not work", error),
        },
    }
}

fn question(server: &Server, link: &Link, found: &Validation) -> Response<Body> {
    let (address, name) = (escape(&found.address), escape(server.name().as_str()));
    let (title, what, button) = match found.purpose {
        Purpose::Register => (
            "Confirm your e-mail address",
            format!("Somebody is registering an account at {name} with the address <strong>{address}</strong>."),
            "Confirm the address",
        ),
        Purpose::Add => (
            "Confirm your e-mail address",
            format!("Somebody wants to add the address <strong>{address}</strong> to their account at {name}."),
            "Confirm the address",
        ),
        Purpose::ResetPassword => (
            "Allow a new password",
            format!(
                "Somebody wants to set a new password for the account at {name} that has <strong>{address}</strong>."
            ),
            "Allow a new password",
        ),
    };
    let (sid, token) = (escape(&link.sid), escape(&link.token));
    let body = format!(
        "<p>{what}</p><p>If that is you, go on. If not, close this page.</p><form method=\"post\" action=\"{PAGE}\">\
         <input type=\"hidden\" name=\"sid\" value=\"{sid}\"><input type=\"hidden\" name=\"token\" value=\"{token}\">\
         <button>{button}</button></form>"
    );
    html(StatusCode::OK, title, &body)
}

fn done(found: &Validation) -> Response<Body> {
    let host = found.next_link.as_ref().and_then(|link| Some(link.parse::<http::Uri>().ok()?.host()?.to_owned()));
    let next = match (&found.next_link, host) {
        (Some(link), Some(host)) => {
            format!("<p><a href=\"{}\" rel=\"noreferrer\">Go on to {}</a></p>", escape(link), escape(&host))
        }
        _ => String::new(),
    };
    let body = format!("<p>You can go back to your client now, where you began.</p>{next}");
    html(StatusCode::OK, "Done", &body)
}
