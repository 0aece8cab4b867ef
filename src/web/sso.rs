//! The pages of a login with an identity provider ([`crate::sso`]): for who comes back from it, for who has to choose a
//! user name, and for who confirms something that way.
//!
//! The last page of a login names the client that gets the token: whoever was led here by a foreign link sees who wants to
//! be let in, and must press the button for it
//! ([spec](https://spec.matrix.org/latest/client-server-api/#security-considerations-5)).

use std::{net::IpAddr, time::Duration};

use http::{HeaderValue, Response, StatusCode, header};
use ruma::OwnedUserId;
use serde::Deserialize;

use super::{asked, done, html};
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

/// Where the form for a user name goes.
pub const USERNAME: &str = "/_matrix/conduit/sso/username";

/// Where the form goes on which somebody says that they want what is to be done.
pub const CONFIRM: &str = "/_matrix/conduit/sso/confirm";

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

/// What the form sends of who wants what is to be done.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Agreement {
    session: String,
    page: String,
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
            None => {
                require_open(server)?;
                let suggestion = identity.localpart.as_deref().map(localpart).unwrap_or_default();
                let key = server.sso.keep((identity, redirect_url))?;
                Ok(ask_for_name(&Choice { key, username: suggestion }, None))
            }
        },
        Purpose::Confirm { session } => ask_to_confirm(server, &session, &identity.id),
    }
}

/// Refuses newcomers where the administrator wants none.
fn require_open(server: &Server) -> Result<()> {
    match server.config().sso.register {
        true => Ok(()),
        false => Err(Error::forbidden("You have no account here. Ask the administrator of this server for one.")),
    }
}

/// `POST /_matrix/conduit/sso/username`: somebody chose a user name.
pub async fn choose_name(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    told(chosen(server, &page))
}

fn chosen(server: &Server, page: &PageRequest) -> Result<Response<Body>> {
    let choice: Choice = serde_html_form::from_bytes(page.request.body()).unwrap_or_default();
    let (identity, redirect_url) = server.sso.kept(&choice.key)?;
    require_open(server)?; // it may have been, when they were asked
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
    drop(read);
    let (Some(claim), options) = (identity.localpart.as_deref(), &server.config().sso) else { return Ok(None) };
    if options.link_existing
        && let Some(user) = link(server, claim, &identity.id)?
    {
        return Ok(Some(user));
    }
    if !options.register {
        return Ok(None);
    }
    match register(server, identity, &localpart(claim), address) {
        Ok(user) => Ok(Some(user)),
        Err(error) if error.status() == StatusCode::TOO_MANY_REQUESTS => Err(error),
        // A name that is taken or cannot be one here: the person chooses another.
        Err(_) => Ok(None),
    }
}

/// Opens the account that was there before to who is called exactly as it is at the provider, but for capitals: what only
/// resembles the name may be somebody else. It opens for one person of the provider, who may be called otherwise by now.
fn link(server: &Server, claim: &str, id: &ProviderIdentity) -> Result<Option<OwnedUserId>> {
    server.store.write(|tx| {
        let Some((user, account)) = accounts::find(tx, server.name(), claim)? else { return Ok(None) };
        let is_theirs = user.localpart().eq_ignore_ascii_case(claim)
            && !account.identities.iter().any(|own| own.issuer == id.issuer)
            && accounts::check_person(&server.config(), &server.appservices, &user).is_ok();
        if !is_theirs {
            return Ok(None);
        }
        usable(&account)?;
        accounts::add_identity(tx, &user, id.clone())?;
        Ok(Some(user))
    })
}

fn usable(account: &Account) -> Result<()> {
    if account.deactivated || account.locked {
        return Err(Error::forbidden("This account was closed. Ask the administrator of this server."));
    }
    Ok(())
}

/// What the name of a new account can be made of: mail addresses lose their domain, and everything else what is not allowed.
fn localpart(claim: &str) -> String {
    let name = claim.split('@').next().unwrap_or_default().to_lowercase();
    name.chars().filter(|c| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-')).collect()
}

fn register(server: &Server, identity: &Identity, name: &str, address: IpAddr) -> Result<OwnedUserId> {
    let user = accounts::parse_new(&server.config(), &server.appservices, name)?;
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

/// Spec: the token is a parameter of the query, whatever else is there but tokens.
fn with_token(url: &str, token: &str) -> String {
    let (address, fragment) = url.split_once('#').map_or((url, None), |(address, fragment)| (address, Some(fragment)));
    let (address, query) = address.split_once('?').unwrap_or((address, ""));
    let is_other = |pair: &&str| !pair.is_empty() && !is_token(pair);
    let others: String = query.split('&').filter(is_other).map(|pair| format!("{pair}&")).collect();
    let fragment = fragment.map(|fragment| format!("#{fragment}")).unwrap_or_default();
    format!("{address}?{others}loginToken={}{fragment}", encode(token))
}

/// Whether a part of a query is a token for whoever decodes it.
fn is_token(pair: &str) -> bool {
    let decoded: Vec<(String, String)> = serde_html_form::from_str(pair).unwrap_or_default();
    decoded.iter().any(|(name, _)| name == "loginToken")
}

/// The page that asks who came back whether they want what the client wants: the provider may have let them through
/// without a word, and somebody else may use the client
/// ([spec](https://spec.matrix.org/latest/client-server-api/#sso-during-user-interactive-authentication)).
fn ask_to_confirm(server: &Server, session: &str, id: &ProviderIdentity) -> Result<Response<Body>> {
    let found = accounts::find_by_identity(&server.store.read(), id)?;
    let (user, account) = found.ok_or_else(|| Error::forbidden("You have no account here."))?;
    usable(&account)?;
    let (deed, page) = server.auth_sessions.ask(session, &user)?;
    let body = format!(
        "{}<form method=\"post\" action=\"{CONFIRM}\"><input type=\"hidden\" name=\"session\" value=\"{}\">\
         <input type=\"hidden\" name=\"page\" value=\"{}\"><button>Confirm</button></form>",
        asked(Some(&deed)),
        escape(session),
        escape(&page)
    );
    Ok(html(StatusCode::OK, "Do you want this?", &body))
}

/// `POST /_matrix/conduit/sso/confirm`: somebody wants what they were asked about.
pub async fn confirm(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    let yes: Agreement = serde_html_form::from_bytes(page.request.body()).unwrap_or_default();
    told(server.auth_sessions.agree(&yes.session, &yes.page).and_then(|()| done()))
}

fn ask_for_name(choice: &Choice, error: Option<&str>) -> Response<Body> {
    let error = error.map(|text| format!("<p class=\"error\" role=\"alert\">{}</p>", escape(text))).unwrap_or_default();
    let body = format!(
        "{error}<p>Choose the name under which others find you here. It cannot be changed later.</p>\
         <form method=\"post\" action=\"{USERNAME}\"><input type=\"hidden\" name=\"key\" value=\"{}\">\
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
        let forged = "https://app.example/?loginToken=mine&a=b&login%54oken=mine&%6CoginToken&loginToken=mine";
        assert_eq!(with_token(forged, "t"), "https://app.example/?a=b&loginToken=t");
    }

    #[test]
    fn names_of_clients_and_users() {
        assert_eq!(client_of("https://app.example:8080/path"), "app.example:8080");
        assert_eq!(client_of("io.element.app:/callback"), "io.element.app");
        assert_eq!(localpart("Älice.Smith+x@corp.example"), "lice.smithx");
    }
}
