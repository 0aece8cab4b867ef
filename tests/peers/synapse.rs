//! A Synapse: its configuration, its process, its accounts.

use std::{
    env, fs,
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex},
};

use http::StatusCode;
use ruma::serde::Base64;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::OnceCell};

use crate::{
    common::Client,
    front::{Front, root},
    talk::until,
};

/// Where what outlives a test runs: the fronts of the Synapse that tests share.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// The Synapse that tests share.
static SHARED: OnceCell<Synapse> = OnceCell::const_new();

/// A script that keeps the process: that ends, and its folder goes, when this test binary does, however it ends. An order to `keep`
/// the folder says that the server will be started again.
const KEEPER: &str = r#"
trap : INT TERM
folder=$1; shift
"$@" & server=$!
read -r order
kill "$server"; wait "$server"
[ "$order" = keep ] || rm -rf "$folder"
"#;

/// A Synapse, running or stopped.
pub struct Synapse {
    folder: PathBuf,
    /// What it says; this file stays.
    log: PathBuf,
    servers: Front,
    clients: Front,
    keeper: Mutex<Option<Child>>,
}

impl Synapse {
    /// The one that most tests share, which is never stopped.
    pub async fn shared() -> &'static Self {
        SHARED.get_or_init(async || RUNTIME.spawn(Self::start("shared")).await.unwrap()).await
    }

    /// A fresh one, whose log is named after what it is for.
    pub async fn start(what_for: &str) -> Self {
        let synapse = Self {
            folder: tempfile::Builder::new().prefix("synapse-").tempdir().unwrap().keep(),
            log: Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("synapse-{what_for}.log")),
            servers: Front::tls().await,
            clients: Front::plain().await,
            keeper: Mutex::default(),
        };
        synapse.configure();
        fs::write(&synapse.log, "").unwrap();
        synapse.resume().await;
        synapse
    }

    /// Its name, for other servers.
    pub fn name(&self) -> String {
        format!("localhost:{}", self.servers.port())
    }

    /// Its URL, for clients.
    pub fn url(&self) -> String {
        self.clients.url()
    }

    /// Starts it, and waits until it answers.
    pub async fn resume(&self) {
        let said_before = fs::read_to_string(&self.log).unwrap().len();
        let log = fs::OpenOptions::new().append(true).open(&self.log).unwrap();
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&self.folder)
            .arg(python())
            .args(["-m", "synapse.app.homeserver", "-c"])
            .arg(self.folder.join("homeserver.yaml"))
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.keeper.lock().unwrap() = Some(keeper);
        // It listens on any port that is free, and says on which.
        let port: u16 = until(&format!("Synapse starts; see {}", self.log.display()), async || {
            let said = fs::read_to_string(&self.log).unwrap();
            let (_, port) = said[said_before..].split_once("SynapseSite starting on ")?;
            port.split_once('\n')?.0.parse().ok()
        })
        .await;
        for front in [&self.servers, &self.clients] {
            front.lead_to((Ipv4Addr::LOCALHOST, port).into());
        }
    }

    /// Stops it; [`Synapse::resume`] starts it again with the same name and data.
    pub async fn stop(&self) {
        let mut keeper = self.keeper.lock().unwrap().take().expect("it runs");
        for front in [&self.servers, &self.clients] {
            front.shut();
        }
        keeper.stdin.take().unwrap().write_all(b"keep\n").unwrap();
        tokio::task::spawn_blocking(move || keeper.wait().unwrap()).await.unwrap();
    }

    /// Registers a user with the password that [`crate::device::password`] gives.
    pub async fn register(&self, name: &str) -> Client {
        let anyone = Client::new(self.url());
        let body = json!({
            "username": name,
            "password": crate::device::password(name),
            "auth": { "type": "m.login.dummy" },
        });
        let (status, answer) = anyone.post("/_matrix/client/v3/register", body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        anyone.logged_in(&answer)
    }

    fn configure(&self) {
        let write = |name: &str, text: &str| fs::write(self.folder.join(name), text).unwrap();
        let seed: Base64 = Base64::new(conduit::clock::random_bytes::<32>().unwrap().to_vec());
        write("signing.key", &format!("ed25519 a_test {}\n", seed.encode()));
        write("root.pem", &root());
        write("log.yaml", &logging().to_string());
        write("homeserver.yaml", &configuration(&self.folder, &self.name()).to_string());
    }
}

/// The Python that `.ci/venv` installed Synapse for.
fn python() -> PathBuf {
    let cache = || {
        let home = || PathBuf::from(env::var_os("HOME").expect("a home folder")).join(".cache");
        env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("conduit-ci")
    };
    let python = env::var_os("CONDUIT_CI_VENVS").map_or_else(cache, PathBuf::from).join("venv-synapse/bin/python");
    assert!(python.exists(), "there is no {}: `make synapse` installs it", python.display());
    python
}

/// The configuration; YAML has JSON in it.
fn configuration(folder: &Path, name: &str) -> Value {
    let often = json!({ "per_second": 10_000, "burst_count": 10_000 });
    json!({
        "server_name": name,
        "pid_file": folder.join("pid"),
        "listeners": [{
            "port": 0,
            "bind_addresses": ["127.0.0.1"],
            "type": "http",
            "resources": [{ "names": ["client", "federation"], "compress": false }],
        }],
        "database": { "name": "sqlite3", "args": { "database": folder.join("database") } },
        "log_config": folder.join("log.yaml"),
        "media_store_path": folder.join("media"),
        "signing_key_path": folder.join("signing.key"),
        "macaroon_secret_key": "macaroons",
        "form_secret": "forms",
        "bcrypt_rounds": 4,
        "report_stats": false,
        "enable_registration": true,
        "enable_registration_without_verification": true,
        "trusted_key_servers": [],
        "federation_custom_ca_list": [folder.join("root.pem")],
        "ip_range_blacklist": [],
        "federation": {
            "client_timeout": "20s",
            "max_short_retries": 1,
            "destination_min_retry_interval": 200, // milliseconds
            "destination_retry_multiplier": 2,
            "destination_max_retry_interval": 1000,
        },
        "experimental_features": { "msc4222_enabled": true },
        "enable_authenticated_media": true,
        "allow_public_rooms_over_federation": true,
        "room_list_publication_rules": [{ "action": "allow" }],
        "rc_message": often,
        "rc_registration": often,
        "rc_login": { "address": often, "account": often, "failed_attempts": often },
        "rc_joins": { "local": often, "remote": often },
        "rc_joins_per_room": often,
        "rc_invites": { "per_room": often, "per_user": often, "per_issuer": often },
        "rc_room_creation": often,
        "rc_media_create": often,
        "rc_presence": { "per_user": often },
        "rc_federation": { "sleep_limit": 10_000, "reject_limit": 10_000, "concurrent": 100 },
    })
}

/// Everything goes to the standard output.
fn logging() -> Value {
    json!({
        "version": 1,
        "formatters": { "line": { "format": "%(asctime)s %(levelname)s %(name)s %(message)s" } },
        "handlers": { "output": { "class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stdout" } },
        "root": { "level": "INFO", "handlers": ["output"] },
        "disable_existing_loggers": false,
    })
}
