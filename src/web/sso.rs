//! The pages of a login with an identity provider ([`crate::sso`]): for who comes back from it, for who has to choose a
//! user name, and for who confirms something that way.
//!
//! The last page of a login names the client that gets the token: whoever was led here by a foreign link sees who wants to
//! be let in, and must press the button for it
//! ([spec](https://spec.matrix.org/latest/client-server-api/#security-considerations-5)).

use std::{net::IpAddr, time::Duration};

use http::{HeaderValue, Response, StatusCode, header};
use ruma::{OwnedUserId, api::client::uiaa::AuthType};
use serde::Deserialize;

use super::html;
use crate::{
    clock,
    error::{Error, Reason, Result},
    http::{Body, PageRequest, html::escape},
    outgoing::appservices::encode,
    server::Server,
    sso::{Identity, Purpose},
    store::{
        records::{Account, ProviderIdentity},
        trees::LOGIN_TOKENS,
    },
    users::{
        accounts, login_tokens,
        sign_ups::{self, With},
    },
};

/// How long the client has to use its token.
const TOKEN: Duration = Duration::from_secs(120);

/// What the provider sends a browser back with.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Return {
    state: String,
    code: String,
    error: String,
    error_description: String,
}

/// What the form for a user name sends.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Choice {
    key: String,
    username: String,
}

/// `GET /_matrix/conduit/sso/callback`: somebody comes back from the provider.
pub async fn return_from_provider(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    let back: Return = serde_html_form::from_str(page.request.uri().query().unwrap_or_default()).unwrap_or_default();
    told(receive(server, &page, back).await)
}

async fn receive(server: &Server, page: &PageRequest, back: Return) -> Result<Response<Body>> {
    if !back.error.is_empty() {
        let why = if back.error_description.is_empty() { back.error } else { back.error_description };
        return Err(Error::forbidden(format!("The identity provider did not let you in: {why}")));
    }
    let outgoing = &server.federation.outgoing;
    let (purpose, identity) = server.sso.finish(outgoing, page.request.headers(), &back.state, &back.code).await?;
    match purpose {
        Purpose::Login { redirect_url } => match account_of(server, &identity, page.address)? {
            Some(user) => let_in(server, &user, &redirect_url),
            None if server.config().sso.register => {
                let suggestion = identity.localpart.as_deref().map(localpart).unwrap_or_default();
                let key = server.sso.keep((identity, redirect_url))?;
                Ok(ask_for_name(&Choice { key, username: suggestion }, None))
            }
            None => Err(Error::forbidden("You have no account here. Ask the administrator of this server for one.")),
        },
        Purpose::Confirm { session } => confirm(server, &session, &identity.id),
    }
}

/// `POST /_matrix/conduit/sso/username`: somebody chose a user name.
pub async fn choose_name(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    told(chosen(server, &page))
}

fn chosen(server: &Server, page: &PageRequest) -> Result<Response<Body>> {
    let choice: Choice = serde_html_form::from_bytes(page.request.body()).unwrap_or_default();
    let (identity, redirect_url) = server.sso.kept(&choice.key)?;
    match register(server, &identity, choice.username.trim(), page.address) {
        Ok(user) => {
            server.sso.forget(&choice.key);
            let_in(server, &user, &redirect_url)
        }
        Err(error) => match error.reason() {
            Reason::Matrix { message, .. } => Ok(ask_for_name(&choice, Some(message))),
            _ => Err(error),
        },
    }
}

/// `GET /_matrix/client/v3/auth/m.login.sso/fallback/web`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#fallback)): somebody confirms who they are.
pub async fn begin_confirmation(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    told(send_to_confirm(server, &page).await)
}

async fn send_to_confirm(server: &Server, page: &PageRequest) -> Result<Response<Body>> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Query {
        session: String,
    }
    let query: Query = serde_html_form::from_str(page.request.uri().query().unwrap_or_default()).unwrap_or_default();
    let purpose = Purpose::Confirm { session: query.session };
    let departure = server.sso.begin(&server.federation.outgoing, purpose).await?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    for (name, value) in [(header::LOCATION, departure.location), (header::SET_COOKIE, departure.cookie)] {
        response.headers_mut().insert(name, HeaderValue::try_from(value).map_err(Error::internal)?);
    }
    Ok(response)
}

/// The account that the identity opens, if it opens one: linked, new, or of the same name.
fn account_of(server: &Server, identity: &Identity, address: IpAddr) -> Result<Option<OwnedUserId>> {
    let read = server.store.read();
    let linked = accounts::find_by_identity(&read, &identity.id)?;
    if let Some((user, account)) = linked {
        usable(&account)?;
        return Ok(Some(user));
    }
    let Some(name) = identity.localpart.as_deref().map(localpart) else { return Ok(None) };
    match accounts::find(&read, server.name(), &name)? {
        Some((user, account)) if server.config().sso.link_existing => {
            drop(read);
            usable(&account)?;
            server.store.write(|tx| accounts::add_identity(tx, &user, identity.id.clone()))?;
            Ok(Some(user))
        }
        Some(_) => Ok(None),
        None if server.config().sso.register => {
            drop(read);
            match register(server, identity, &name, address) {
                Ok(user) => Ok(Some(user)),
                Err(error) if error.status() == StatusCode::TOO_MANY_REQUESTS => Err(error),
                // A name that cannot be one here is chosen by the person.
                Err(_) => Ok(None),
            }
        }
        None => Ok(None),
    }
}

fn usable(account: &Account) -> Result<()> {
    if account.deactivated || account.locked {
        return Err(Error::forbidden("This account was closed. Ask the administrator of this server."));
    }
    Ok(())
}

/// What a user name can be made of: mail addresses lose their domain, and everything else what is not allowed.
fn localpart(claim: &str) -> String {
    let name = claim.split('@').next().unwrap_or_default().to_lowercase();
    name.chars().filter(|c| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-')).collect()
}

fn register(server: &Server, identity: &Identity, name: &str, address: IpAddr) -> Result<OwnedUserId> {
    let user = accounts::parse_new(server.name(), &server.appservices, name)?;
    let display_name = identity.display_name.clone();
    let display_name = display_name.unwrap_or_else(|| accounts::initial_display_name(&server.config(), &user));
    server.store.write(|tx| {
        let admin = sign_ups::admit(tx, &server.config(), &user, address, With::Identity)?;
        let account = Account { admin, created_ts: clock::now_ms(), ..Account::default() };
        accounts::create(tx, &user, &account, Some(&display_name))?;
        accounts::add_identity(tx, &user, identity.id.clone())
    })?;
    Ok(user)
}

/// The page that hands the client its token.
fn let_in(server: &Server, user: &OwnedUserId, redirect_url: &str) -> Result<Response<Body>> {
    let token = server.store.write(|tx| login_tokens::issue(tx, &LOGIN_TOKENS, user, TOKEN))?;
    let target = with_token(redirect_url, &token);
    let body = format!(
        "<p>You are <strong>{}</strong>. The client at <strong>{}</strong> is about to get access to this account.</p>\
         <p>If you did not just try to log in there, close this window.</p><p><a class=\"button\" href=\"{}\">Continue</a></p>",
        escape(user.as_str()),
        escape(client_of(redirect_url)),
        escape(&target)
    );
    Ok(html(StatusCode::OK, "Log in", &body))
}

/// The part of a client's address by which a person knows it.
fn client_of(url: &str) -> &str {
    match url.split_once("://") {
        Some(("http" | "https", rest)) => rest.split(['/', '?', '#']).next().unwrap_or(rest),
        _ => url.split_once(':').map_or(url, |(scheme, _)| scheme),
    }
}

/// Spec: the token is a parameter of the query, whatever else is there.
fn with_token(url: &str, token: &str) -> String {
    let (address, fragment) = url.split_once('#').map_or((url, None), |(address, fragment)| (address, Some(fragment)));
    let and = if address.contains('?') { '&' } else { '?' };
    let fragment = fragment.map(|fragment| format!("#{fragment}")).unwrap_or_default();
    format!("{address}{and}loginToken={}{fragment}", encode(token))
}

fn confirm(server: &Server, session: &str, id: &ProviderIdentity) -> Result<Response<Body>> {
    let found = accounts::find_by_identity(&server.store.read(), id)?;
    let (user, account) = found.ok_or_else(|| Error::forbidden("You have no account here."))?;
    usable(&account)?;
    let known = server.auth_sessions.update(session, |session| {
        session.user = Some(user);
        if !session.completed.contains(&AuthType::Sso) {
            session.completed.push(AuthType::Sso);
        }
    });
    if !known {
        return Err(Error::forbidden("This took too long. Go back to your client and try again."));
    }
    let body = "<p>That was it: close this window and continue in your client.</p>";
    Ok(html(StatusCode::OK, "Confirmed", body))
}

fn ask_for_name(choice: &Choice, error: Option<&str>) -> Response<Body> {
    let error = error.map(|text| format!("<p class=\"error\" role=\"alert\">{}</p>", escape(text))).unwrap_or_default();
    let body = format!(
        "{error}<p>Choose the name under which others find you here. It cannot be changed later.</p>\
         <form method=\"post\" action=\"/_matrix/conduit/sso/username\"><input type=\"hidden\" name=\"key\" value=\"{}\">\
         <label>User name<input name=\"username\" required autocomplete=\"username\" autocapitalize=\"none\" \
         spellcheck=\"false\" value=\"{}\"></label><button>Continue</button></form>",
        escape(&choice.key),
        escape(&choice.username)
    );
    let status = if error.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    html(status, "Choose a user name", &body)
}

/// What went wrong, as a page; faults of the server are not for people.
fn told(outcome: Result<Response<Body>>) -> Result<Response<Body>> {
    outcome.or_else(|error| match error.reason() {
        Reason::Matrix { status, message, .. } => {
            Ok(html(*status, "This did not work", &format!("<p>{}</p>", escape(message))))
        }
        _ => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_into_the_query() {
        assert_eq!(with_token("https://app.example/#/login", "t"), "https://app.example/?loginToken=t#/login");
        assert_eq!(with_token("https://app.example/?a=b", "t"), "https://app.example/?a=b&loginToken=t");
        assert_eq!(with_token("io.element.app:/callback", "t"), "io.element.app:/callback?loginToken=t");
    }

    #[test]
    fn names_of_clients_and_users() {
        assert_eq!(client_of("https://app.example:8080/path"), "app.example:8080");
        assert_eq!(client_of("io.element.app:/callback"), "io.element.app");
        assert_eq!(localpart("Älice.Smith+x@corp.example"), "lice.smithx");
    }
}
