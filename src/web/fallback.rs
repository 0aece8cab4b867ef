//! `GET` and `POST /_matrix/client/v3/auth/{stage}/fallback/web`: pages on which people pass a stage of an authentication
//! for which their client has no form ([spec](https://spec.matrix.org/latest/client-server-api/#fallback)). That of the
//! identity provider is in `sso.rs`.
//!
//! Whoever was led here by a foreign link is told what they would do. A password is asked for only where a client is logged
//! in to its account: who can use this page for an account without that could do with it what its owner does not want.

use http::{Response, StatusCode};
use ruma::api::client::uiaa::AuthType;
use serde::Deserialize;

use super::{asked, done, failed, html, notice, scripted, told};
use crate::{
    error::{Error, Result},
    http::{Body, PageRequest, html::escape, limits::Class},
    server::Server,
    store::records::Purpose,
    users::{
        accounts,
        auth_sessions::{AuthSession, Shown},
        registration_tokens, validations,
    },
};

const FAILED: &str = "This did not work";

/// What the forms send.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Form {
    password: String,
    token: String,
    sid: String,
    client_secret: String,
}

/// A stage of somebody's session.
struct Stage {
    kind: AuthType,
    id: String,
    session: AuthSession,
}

/// The form for a stage.
pub async fn show_stage(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    match Stage::of(server, &page) {
        Ok(stage) => stage.ask(StatusCode::OK, &Form::default(), None),
        Err(error) => failed(FAILED, error),
    }
}

/// Passes the stage.
pub async fn submit_stage(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    let form: Form = serde_html_form::from_bytes(page.request.body()).unwrap_or_default();
    let stage = match Stage::of(server, &page) {
        Ok(stage) => stage,
        Err(error) => return failed(FAILED, error),
    };
    match stage.pass(server, &page, &form).await {
        Ok(()) => done(),
        Err(error) => stage.ask(error.status(), &form, Some(&told(error)?)),
    }
}

impl Stage {
    /// The stage that the address of the page names.
    fn of(server: &Server, page: &PageRequest) -> Result<Self> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Query {
            session: String,
        }
        let query: Query =
            serde_html_form::from_str(page.request.uri().query().unwrap_or_default()).unwrap_or_default();
        let kind = AuthType::from(page.path_args.first().map(String::as_str).unwrap_or_default());
        let session = server.auth_sessions.find(&query.session)?;
        let has_page = match kind {
            AuthType::Dummy | AuthType::RegistrationToken => true,
            AuthType::Password => session.deed.is_some(),
            AuthType::EmailIdentity => session.purpose != Purpose::Add,
            _ => false,
        };
        match has_page {
            true => Ok(Self { kind, id: query.session, session }),
            false => Err(Error::not_found("There is no page for this. Go on in your client.")),
        }
    }

    /// The page with the stage's form.
    fn ask(&self, status: StatusCode, form: &Form, error: Option<&str>) -> Result<Response<Body>> {
        let (error, asked) = (notice(error), asked(self.session.deed.as_ref()));
        let button = "<button>Continue</button>";
        let fields = match self.kind {
            AuthType::EmailIdentity => return self.ask_for_address(status, form, &(error + &asked)),
            AuthType::Password => {
                "<label>Password<input type=\"password\" name=\"password\" required autocomplete=\"current-password\"></label>"
            }
            AuthType::RegistrationToken => {
                "<label>Registration token, which you got from the administrator\
                 <input name=\"token\" required autocomplete=\"off\"></label>"
            }
            _ => "",
        };
        let title = if self.session.deed.is_some() { "Do you want this?" } else { "One more step" };
        let body = format!("{error}{asked}<form method=\"post\">{fields}{button}</form>");
        Ok(html(status, title, &body))
    }

    /// The page on which a mail is asked for, and then whether its reader confirmed the address.
    fn ask_for_address(&self, status: StatusCode, form: &Form, above: &str) -> Result<Response<Body>> {
        let operation = match self.session.purpose {
            Purpose::ResetPassword => "/_matrix/client/v3/account/password/email/requestToken",
            Purpose::Register | Purpose::Add => "/_matrix/client/v3/register/email/requestToken",
        };
        let body = format!(
            "{above}<p class=\"error\" role=\"alert\" id=\"notice\" hidden></p><form id=\"ask\" data-operation=\"{operation}\">\
             <label>E-mail address<input type=\"email\" name=\"email\" required autocomplete=\"email\"></label>\
             <button>Send a mail</button></form><form id=\"go\" method=\"post\"{}><input type=\"hidden\" name=\"sid\" \
             value=\"{}\"><input type=\"hidden\" name=\"client_secret\" value=\"{}\"><p>Open the link in the mail, confirm \
             there, and come back to this page.</p><button>I have confirmed</button></form>",
            if form.sid.is_empty() { " hidden" } else { "" },
            escape(&form.sid),
            escape(&form.client_secret),
        );
        let mut page = scripted("Confirm your e-mail address", &body, include_str!("email_stage.js"))?;
        *page.status_mut() = status;
        Ok(page)
    }

    /// Checks what the form says, and notes that the stage is passed.
    async fn pass(&self, server: &Server, page: &PageRequest, form: &Form) -> Result<()> {
        let mut shown = Shown::default();
        match self.kind {
            AuthType::Password => {
                let user = self.session.deed.as_ref().map(|deed| deed.user.clone());
                let user = user.ok_or_else(|| Error::forbidden("It is not known whose password this is."))?;
                let account = accounts::require(&server.store.read(), &user)?;
                server.passwords.log_in(&server.limits, Some((user, account)), &form.password).await?;
            }
            AuthType::RegistrationToken => {
                server.limits.take_from(Class::Registration, page.address)?;
                shown.registration_token = Some(self.valid_token(server, form.token.trim())?);
            }
            AuthType::EmailIdentity => {
                validations::proven(&server.store.read(), self.session.purpose, &form.sid, &form.client_secret)?;
                shown.validation = Some(form.sid.clone());
            }
            _ => {}
        }
        server.auth_sessions.pass(&self.id, self.kind.clone(), shown).map(drop)
    }

    fn valid_token(&self, server: &Server, token: &str) -> Result<String> {
        let pending = server.auth_sessions.pending(token, Some(&self.id));
        match registration_tokens::is_valid(&server.store.read(), &server.config(), token, pending)? {
            true => Ok(token.to_owned()),
            false => Err(Error::forbidden("This registration token is not valid, or it was used up.")),
        }
    }
}
