//! `GET` and `POST /register`: the page on which people sign up, with the token they were given.
//!
//! The same rules as for `/_matrix/client/v3/register` hold, since both use the same functions. There is nothing to forge
//! from another site: no cookie says who is asking, and the token must be in the form.

use std::net::IpAddr;

use http::{Response, StatusCode, header};
use ruma::OwnedUserId;
use serde::Deserialize;

use super::{html, notice, told};
use crate::{
    clock,
    config::Registration,
    error::{Error, Result},
    http::{Body, PageRequest, html::escape},
    server::Server,
    store::records::Account,
    users::{
        accounts, passwords, registration_tokens,
        sign_ups::{self, With},
    },
};

/// What the form sends, and what the link to it may fill in.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Form {
    token: String,
    username: String,
    password: String,
    again: String,
}

/// What the form has to ask for.
enum Door {
    Closed,
    /// Who registers needs an e-mail address, which a client has confirmed.
    Clients,
    Open,
    Token,
}

/// The form, with the token of the link in it.
pub async fn show_registration(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    let form = serde_html_form::from_str(page.request.uri().query().unwrap_or_default()).unwrap_or_default();
    Ok(show(&door(server)?, &form, None))
}

/// Makes the account that the form asks for.
pub async fn submit_registration(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    let form: Form = serde_html_form::from_bytes(page.request.body()).unwrap_or_default();
    let door = door(server)?;
    match register(server, &door, &form, page.address).await {
        Ok(user) => Ok(welcome(server, &user, &page)),
        Err(error) => Ok(show(&door, &form, Some(&told(error)?))),
    }
}

fn door(server: &Server) -> Result<Door> {
    let (read, config) = (server.store.read(), server.config());
    let awaits_administrator = registration_tokens::awaits_administrator(&read)?;
    Ok(match sign_ups::registration(&read, &config)? {
        // The first account is the administrator's, who has the token of the first start.
        _ if awaits_administrator => Door::Token,
        Registration::Open | Registration::Token if config.email.required_to_register => Door::Clients,
        Registration::Open => Door::Open,
        Registration::Token => Door::Token,
        Registration::Closed => Door::Closed,
    })
}

async fn register(server: &Server, door: &Door, form: &Form, address: IpAddr) -> Result<OwnedUserId> {
    if matches!(door, Door::Closed | Door::Clients) {
        return Err(Error::forbidden("Nobody can register on this page."));
    }
    let user = accounts::parse_new(&server.config(), &server.appservices, form.username.trim())?;
    if form.password != form.again {
        return Err(Error::invalid_param("The two passwords are not the same."));
    }
    passwords::check_new(&form.password, server.config().password_min_length)?;
    let token = matches!(door, Door::Token).then(|| form.token.trim());
    let with = token.map_or(With::Nothing, With::Token);
    // Before the expensive hash; it is all checked again in the transaction.
    check(server, &user, token)?;
    sign_ups::check(&server.store.read(), &server.config(), address, with)?;
    let password_hash = server.passwords.hash(form.password.clone()).await?;
    server.store.write(|tx| {
        let admin = sign_ups::admit(tx, &server.config(), &user, address, with)?;
        let created_ts = clock::now_ms();
        let account = Account { password_hash: Some(password_hash), admin, created_ts, ..Account::default() };
        let name = accounts::initial_display_name(&server.config(), &user);
        accounts::create(tx, &user, &account, Some(&name))
    })?;
    Ok(user)
}

/// Whether the name is free and the token, if there must be one, is valid.
fn check(server: &Server, user: &OwnedUserId, token: Option<&str>) -> Result<()> {
    let snapshot = server.store.read();
    accounts::require_free(&snapshot, user)?;
    match token {
        Some(token) if !registration_tokens::is_valid(&snapshot, &server.config(), token, 0)? => {
            Err(Error::forbidden("This registration token is not valid, or it was used up."))
        }
        _ => Ok(()),
    }
}

fn show(door: &Door, form: &Form, error: Option<&str>) -> Response<Body> {
    if matches!(door, Door::Closed) {
        let body = "<p>Nobody can register on this server. Ask its administrator for an account.</p>";
        return html(StatusCode::FORBIDDEN, "Registration is closed", body);
    }
    if matches!(door, Door::Clients) {
        let body = "<p>This server wants to know an e-mail address of yours. Register in a Matrix client, such as Element, \
                    which lets you confirm it.</p>";
        return html(StatusCode::FORBIDDEN, "Register in a client", body);
    }
    let error = notice(error);
    let token = match door {
        Door::Token => format!(
            "<label>Registration token, which you got from the administrator\
             <input name=\"token\" required autocomplete=\"off\" value=\"{}\"></label>",
            escape(&form.token)
        ),
        Door::Open | Door::Closed | Door::Clients => String::new(),
    };
    let body = format!(
        "{error}<form method=\"post\" action=\"/register\">{token}<label>User name<input name=\"username\" required \
         autocomplete=\"username\" autocapitalize=\"none\" spellcheck=\"false\" value=\"{}\"></label><label>Password<input \
         type=\"password\" name=\"password\" required autocomplete=\"new-password\"></label><label>Password again<input \
         type=\"password\" name=\"again\" required autocomplete=\"new-password\"></label><button>Register</button></form>",
        escape(&form.username)
    );
    let status = if error.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    html(status, "Register an account", &body)
}

fn welcome(server: &Server, user: &OwnedUserId, page: &PageRequest) -> Response<Body> {
    // A server on trial at localhost is reached the way the page was.
    let host = page.request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let homeserver = match host {
        Some(host) if server.name() == "localhost" && server.config().well_known.client.is_none() => {
            format!("http://{host}")
        }
        _ => server.config().well_known_client(),
    };
    let body = format!(
        "<p>Your account is <strong>{}</strong>.</p><p>To use it, open a Matrix client such as Element, choose \
         <strong>{}</strong> as the homeserver, and log in with your user name and password.</p>",
        escape(user.as_str()),
        escape(&homeserver)
    );
    html(StatusCode::OK, "Welcome", &body)
}
