//! `GET` and `POST /_matrix/conduit/reset-password`: the page behind a link from an administrator, on which a user sets a new
//! password.

use http::{Response, StatusCode};
use ruma::OwnedUserId;
use serde::Deserialize;

use super::{failed, html, notice, told};
use crate::{
    error::{Error, Result},
    http::{Body, PageRequest, html::escape},
    server::Server,
    users::{
        accounts,
        password_resets::{self, PAGE},
        passwords,
    },
};

/// What the form sends, and what stands in the link.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Form {
    token: String,
    password: String,
    again: String,
    /// Something if the devices are to be logged out: a box that is not checked is not sent.
    logout_devices: Option<String>,
}

/// The form.
pub async fn show_password_form(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    let form: Form = serde_html_form::from_str(page.request.uri().query().unwrap_or_default()).unwrap_or_default();
    match password_resets::user_of(&server.store.read(), &form.token) {
        Ok(user) => Ok(show(&user, &form, None)),
        Err(error) => failed("This link does not work", error),
    }
}

/// Sets the password.
pub async fn submit_password_form(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    let form: Form = serde_html_form::from_bytes(page.request.body()).unwrap_or_default();
    let user = match password_resets::user_of(&server.store.read(), &form.token) {
        Ok(user) => user,
        Err(error) => return failed("This link does not work", error),
    };
    match set(server, &form).await {
        Ok(()) => {
            let body = format!("<p>Log in as <strong>{}</strong> with it.</p>", escape(user.as_str()));
            Ok(html(StatusCode::OK, "Your password is set", &body))
        }
        Err(error) => Ok(show(&user, &form, Some(&told(error)?))),
    }
}

async fn set(server: &Server, form: &Form) -> Result<()> {
    if form.password != form.again {
        return Err(Error::invalid_param("The two passwords are not the same."));
    }
    passwords::check_new(&form.password, server.config().password_min_length)?;
    let hash = server.passwords.hash(form.password.clone()).await?;
    server.store.write(|tx| {
        let user = password_resets::user_of(tx, &form.token)?;
        accounts::set_password(tx, &user, hash, form.logout_devices.is_some(), None)
    })
}

fn show(user: &OwnedUserId, form: &Form, error: Option<&str>) -> Response<Body> {
    // Who may have lost a device wants it to be logged out: that is what the form begins with.
    let checked = if error.is_none() || form.logout_devices.is_some() { " checked" } else { "" };
    let body = format!(
        "{}<p>A new password for <strong>{}</strong>.</p><form method=\"post\" action=\"{PAGE}\"><input type=\"hidden\" \
         name=\"token\" value=\"{}\"><label>Password<input type=\"password\" name=\"password\" required \
         autocomplete=\"new-password\"></label><label>Password again<input type=\"password\" name=\"again\" required \
         autocomplete=\"new-password\"></label><label class=\"box\"><input type=\"checkbox\" name=\"logout_devices\"{checked}> \
         Log out everywhere. Encrypted messages that are not backed up are lost on the devices.</label>\
         <button>Set the password</button></form>",
        notice(error),
        escape(user.as_str()),
        escape(&form.token),
    );
    let status = if error.is_none() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    html(status, "Set a new password", &body)
}
