//! Mails that this server sends, through the mail server that the administrator names.
//!
//! A mail is handed over while whoever asked for it waits, so that they hear when that does not work; from then on the
//! mail server cares for it, so there is no queue here. Connections are short-lived and few, and each mail has a deadline.
//!
//! Deliberately absent: receiving mails, and therefore hearing of those that come back.

mod letters;

use std::{fmt, sync::Arc, time::Duration};

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
        extension::ClientId,
    },
};
use parking_lot::RwLock;
use ruma::api::error::ErrorKind;
use tokio::{sync::Semaphore, time::timeout};

pub use self::letters::Letter;
use super::{Turn, Turns};
use crate::{
    clock,
    config::{Config, MailSecurity},
    error::{Error, Result},
};

/// How long the mail server may take to answer one command, and to take a mail.
const COMMAND: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(40);

/// How many mails are handed over at once; the others wait.
const AT_ONCE: usize = 4;

/// Sends mails.
pub struct Mailer {
    outlet: RwLock<Option<Arc<Outlet>>>,
    turns: Turns<String>,
    at_once: Semaphore,
}

/// The mail server, and in whose name it is given mails.
pub struct Outlet {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    host: String,
    sender: Mailbox,
    server_name: String,
}

impl Mailer {
    /// What sends mails through `outlet`; without one, none.
    pub fn new(outlet: Option<Outlet>) -> Self {
        let outlet = RwLock::new(outlet.map(Arc::new));
        Self { outlet, turns: Turns::default(), at_once: Semaphore::new(AT_ONCE) }
    }

    /// Sends mails through another outlet from now on.
    pub fn set(&self, outlet: Option<Outlet>) {
        *self.outlet.write() = outlet.map(Arc::new);
    }

    /// Whether there is a mail server.
    pub fn is_configured(&self) -> bool {
        self.outlet.read().is_some()
    }

    /// Waits for the turn to send what `key` names: a request that is repeated meanwhile finds it sent.
    pub async fn turn(&self, key: &str) -> Turn<'_, String> {
        self.turns.wait(&key.to_owned()).await
    }

    /// Hands a letter to the mail server, to be brought to an e-mail address.
    ///
    /// # Errors
    /// 502 `M_UNKNOWN` when the mail server does not take it; the log says why.
    pub async fn send(&self, address: &str, letter: &Letter) -> Result<()> {
        let Some(outlet) = self.outlet.read().clone() else { return Err(not_sent("This server sends no mails.")) };
        let mail = outlet.message(address, letter)?;
        let _permit = self.at_once.acquire().await.map_err(Error::internal)?;
        let failed = |why: &dyn fmt::Display| {
            // The address is nobody's business but its owner's.
            tracing::warn!("the mail server {} did not take a mail: {why}", outlet.host);
            not_sent("The mail could not be sent. Check the address, or try again later.")
        };
        match timeout(PATIENCE, outlet.transport.send(mail)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(&super::innermost(&error))),
            Err(_) => Err(failed(&"it took too long")),
        }
    }
}

fn not_sent(message: &str) -> Error {
    Error::new(http::StatusCode::BAD_GATEWAY, ErrorKind::Unknown, message)
}

impl Outlet {
    /// The mail server of the configuration, if it names one.
    ///
    /// # Errors
    /// When a configured certificate cannot be read.
    pub fn new(config: &Config) -> Result<Option<Self>> {
        let (Some(host), Some(sender)) = (&config.email.host, &config.email.from) else { return Ok(None) };
        let (default_port, tls) = match config.email.security {
            MailSecurity::StartTls => (587, Tls::Required(tls(config, host)?)),
            MailSecurity::Tls => (465, Tls::Wrapper(tls(config, host)?)),
            MailSecurity::None => (25, Tls::None),
        };
        let server_name = config.server_name.host().to_owned();
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(config.email.port.unwrap_or(default_port))
            .tls(tls)
            .hello_name(ClientId::Domain(server_name.clone()))
            .timeout(Some(COMMAND));
        if let (Some(username), Some(password)) = (&config.email.username, &config.email.password) {
            builder = builder.credentials(Credentials::new(username.clone(), password.expose().to_owned()));
        }
        Ok(Some(Self { transport: builder.build(), host: host.clone(), sender: sender.clone(), server_name }))
    }

    fn message(&self, address: &str, letter: &Letter) -> Result<Message> {
        let recipient: lettre::Address =
            address.parse().map_err(|_| Error::invalid_param("This is no e-mail address."))?;
        let id = format!("<{}@{}>", clock::random_string(24)?, self.server_name);
        let mut message = Message::builder()
            .from(self.sender.clone())
            .to(recipient.into())
            .subject(letter.subject.clone())
            .message_id(Some(id))
            .multipart(MultiPart::alternative_plain_html(letter.text(), letter.html()))
            .map_err(Error::internal)?;
        let mut header = |name, value: &str| {
            message.headers_mut().insert_raw(HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned()));
        };
        // Programs that answer mails are not to answer this one (RFC 3834, section 5).
        header("Auto-Submitted", "auto-generated");
        if let Some(url) = letter.unsubscribe_link() {
            // With one click (RFC 8058).
            header("List-Unsubscribe", &format!("<{url}>"));
            header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click");
        }
        Ok(message)
    }
}

/// Trusts the authorities of the system and those of the configuration, as every other connection does.
fn tls(config: &Config, host: &str) -> Result<TlsParameters> {
    let mut tls = TlsParameters::builder(host.to_owned());
    for path in &config.ca_certificates {
        let certificate = Certificate::from_pem(&std::fs::read(path)?);
        tls = tls.add_root_certificate(certificate.map_err(Error::internal)?);
    }
    tls.build().map_err(Error::internal)
}
