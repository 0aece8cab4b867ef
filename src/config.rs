//! The configuration: every option, how it is read, and how it is documented.
//!
//! `options.rs` declares each option once: name, type, default and text. From that come the struct [`Config`], the keys
//! that are known, the file `conduit-example.toml` and what `conduit config` prints. An option that depends on others
//! by default is an `Option` with a method of the same name that gives the value in effect.
//!
//! A value that is wrong stops the start with one sentence ([`ConfigError`]); a key that is unknown, or has no meaning
//! here, is a warning. Every configuration of Conduit is understood.
//!
//! The files can be read again while the server runs (`reload.rs`): most options change then, some at the next start.
//!
//! Deliberately absent: includes, and options per user.

mod load;
mod memory;
mod nearest;
mod options;
mod print;
mod reload;
mod setting;
mod values;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use ruma::{OwnedServerName, ServerName};
use tracing_subscriber::EnvFilter;

use self::load::Reader;
pub use self::{
    options::{
        Config, Email, MatrixRtc, Media, Proxy, ProxyForAll, RateLimits, ServerNotices, Sso, Support, Tls, Turn,
        UrlPreview, WellKnown,
    },
    print::example,
    reload::{Changes, Current},
    values::{
        ByteSize, DatabaseBackend, HttpUrl, IpAddressDetection, IpRange, MailSecurity, MediaBackend, MediaScope, Mode,
        ProxyRule, ProxyUrl, RateLimit, Retention, Secret, SocketUrl, matches,
    },
};

/// Why the server cannot start with this configuration: one sentence for the administrator, with file and key.
#[derive(Debug)]
pub struct ConfigError(String);

impl ConfigError {
    /// An error with the given sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Who can register an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Nobody, except for the first account of all, with the token that is logged at the first start.
    Closed,
    /// Who has `registration_token`, or a token made by an administrator.
    Token,
    /// Everybody.
    Open,
}

impl Config {
    /// Reads the configuration from the file on the command line, else from the one in `CONDUIT_CONFIG`, and from the
    /// variables `CONDUIT_<KEY>` among `env`, which go before the file. Gives warnings to be logged as well.
    ///
    /// Fails if a file cannot be read, a value is wrong, or values contradict each other. With neither file nor
    /// variables, these are the defaults of a server to try out on this machine.
    pub fn load(
        path: Option<PathBuf>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let variables = load::our_variables(env);
        let file = load::file_to_read(path, &variables);
        let (mut config, mut reader) = (Self::default(), Reader::default());
        if let Some(path) = &file {
            reader.file(path, &mut config)?;
        }
        reader.environment(variables, &mut config)?;
        if let Some(path) = &file {
            // By accident a server would get a name that it can never change, or an empty database.
            for (key, what) in [("server_name", "the name of your server"), ("database_path", "where data is kept")] {
                if !reader.is_set(key) {
                    return Err(ConfigError(format!("{}: {key} is missing: set it to {what}", path.display())));
                }
            }
        }
        config.check(&mut reader)?;
        Ok((config, reader.warnings))
    }

    /// What is in effect, as TOML without secrets.
    pub fn effective(&self) -> String {
        let mut config = self.clone();
        config.memory_budget = Some(ByteSize(self.memory_budget()));
        config.max_upload_size = Some(ByteSize(self.max_upload_size()));
        config.media.path = Some(self.media_path());
        config.well_known.server = Some(self.well_known_server());
        print::effective(&config)
    }

    /// Bytes that the database and all caches may use together.
    pub fn memory_budget(&self) -> u64 {
        self.memory_budget.map_or_else(|| memory::default_budget(Path::new("/")), ByteSize::bytes)
    }

    /// Bytes of the largest file that can be uploaded.
    pub fn max_upload_size(&self) -> u64 {
        self.max_upload_size.unwrap_or(self.max_request_size).bytes()
    }

    /// The directory for media.
    pub fn media_path(&self) -> PathBuf {
        self.media.path.clone().unwrap_or_else(|| self.database_path.join("media"))
    }

    /// The address for clients, as `/.well-known/matrix/client` tells it.
    pub fn well_known_client(&self) -> String {
        match &self.well_known.client {
            Some(url) => url.as_str().to_owned(),
            None => format!("https://{}", self.server_name),
        }
    }

    /// The host and port for other servers, as `/.well-known/matrix/server` tells it.
    pub fn well_known_server(&self) -> OwnedServerName {
        let default = || match self.server_name.port() {
            Some(_) => self.server_name.clone(),
            None => ServerName::parse(format!("{}:443", self.server_name)).unwrap_or(self.server_name.clone()),
        };
        self.well_known.server.clone().unwrap_or_else(default)
    }

    /// Who can register an account.
    pub fn registration(&self) -> Registration {
        match (self.allow_registration, &self.registration_token) {
            (false, _) => Registration::Closed,
            (true, None) if self.allow_open_registration_without_token => Registration::Open,
            (true, _) => Registration::Token,
        }
    }

    /// What follows from several options together.
    fn check(&self, reader: &mut Reader) -> Result<(), ConfigError> {
        self.check_database(reader)?;
        self.check_registration(reader);
        EnvFilter::try_new(&self.log).map_err(|e| reader.error("log", e))?;
        if self.port.is_empty() && !self.address.is_empty() {
            return Err(reader.error("port", "there must be a port to listen on, unless address is an empty list"));
        }
        match (&self.tls.certs, &self.tls.key) {
            (Some(_), None) => return Err(reader.error("tls.certs", "the certificate needs its private key, tls.key")),
            (None, Some(_)) => return Err(reader.error("tls.key", "the private key needs its certificate, tls.certs")),
            _ => {}
        }
        if self.proxy.global.url.is_some() && !self.proxy.by_domain.is_empty() {
            return Err(reader.error("proxy.by_domain", "set this or proxy.global.url, but not both"));
        }
        self.check_email(reader)?;
        let turn = &self.turn;
        if !turn.uris.is_empty() && turn.secret.is_none() && (turn.username.is_none() || turn.password.is_none()) {
            reader.warnings.push(
                "turn.uris has no effect without turn.secret, or turn.username and turn.password: clients get no \
                 TURN server."
                    .to_owned(),
            );
        }
        let rtc = &self.matrix_rtc;
        if rtc.livekit_url.is_some() && rtc.service_url.is_none() && (rtc.key.is_none() || rtc.secret.is_none()) {
            reader.warnings.push(
                "matrix_rtc.livekit_url has no effect without matrix_rtc.key and matrix_rtc.secret: there are no group \
                 calls."
                    .to_owned(),
            );
        }
        if self.emergency_password.is_some() {
            reader.warnings.push("emergency_password is set. Remove it once you have your account back.".to_owned());
        }
        Ok(())
    }

    /// An administrator who has a database of another kind must not find an empty server instead of it.
    fn check_database(&self, reader: &mut Reader) -> Result<(), ConfigError> {
        let (name, file) = match self.database_backend {
            DatabaseBackend::RocksDb => return Ok(()),
            DatabaseBackend::Sqlite => ("SQLite", "conduit.db"),
            DatabaseBackend::Sled => ("sled", "db"),
        };
        let old = self.database_path.join(file);
        if old.exists() {
            return Err(reader.error(
                "database_backend",
                format!(
                    "{} is a {name} database, which this server cannot read: keep it with the server that wrote it, and \
                     set database_path to an empty directory to start anew",
                    old.display()
                ),
            ));
        }
        reader
            .warnings
            .push(format!("database_backend asks for {name}; RocksDB is used, as there is no {name} database."));
        Ok(())
    }

    fn check_email(&self, reader: &Reader) -> Result<(), ConfigError> {
        let email = &self.email;
        if email.host.is_some() && email.from.is_none() {
            return Err(reader.error("email.host", "set email.from as well, the address that mails come from"));
        }
        match (&email.username, &email.password) {
            (Some(_), None) => return Err(reader.error("email.username", "the account needs its email.password")),
            (None, Some(_)) => return Err(reader.error("email.password", "the password needs its email.username")),
            _ => {}
        }
        if email.host.is_none() && email.required_to_register {
            return Err(reader.error("email.required_to_register", "set email.host, so that addresses can be checked"));
        }
        Ok(())
    }

    /// Open registration is never an accident: see [`Config::registration`].
    fn check_registration(&self, reader: &mut Reader) {
        let warning = match (self.registration(), &self.registration_token) {
            (Registration::Open, _) => {
                "allow_open_registration_without_token is set: everybody can register on this server, spammers included."
            }
            (Registration::Token, None) => {
                "allow_registration is set without registration_token, so people can only register with a token made by \
                 an administrator. Set registration_token to a secret of your choice, or \
                 allow_open_registration_without_token = true if really everybody may register."
            }
            (Registration::Closed, Some(_)) => "registration_token has no effect, as allow_registration is false.",
            (Registration::Closed, None) if self.allow_open_registration_without_token => {
                "allow_open_registration_without_token has no effect, as allow_registration is false."
            }
            (Registration::Token, Some(_)) if self.allow_open_registration_without_token => {
                "allow_open_registration_without_token has no effect, as registration_token is set."
            }
            _ => return,
        };
        reader.warnings.push(warning.to_owned());
    }
}

impl Media {
    /// The limits for the media of a scope.
    pub fn limits(&self, scope: MediaScope) -> Retention {
        let entry = |wanted| self.retention.iter().find(|entry| entry.scope == wanted).copied();
        let fallback = || match scope {
            MediaScope::Local => Retention::default(),
            MediaScope::Remote | MediaScope::Thumbnail => options::unused_for_30_days(scope),
        };
        entry(Some(scope))
            .or_else(|| entry(None).map(|all| Retention { space: None, ..all }))
            .map_or_else(fallback, |found| Retention { scope: Some(scope), ..found })
    }

    /// The space for all media together.
    pub fn total_space(&self) -> Option<ByteSize> {
        self.retention.iter().find(|entry| entry.scope.is_none()).and_then(|all| all.space)
    }
}
