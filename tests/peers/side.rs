//! The two servers of a test.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use crate::{
    common::{Client, TestServer},
    device::{Device, How},
    front::{Front, root},
    synapse::Synapse,
};

/// A homeserver of a test.
pub enum Side {
    Ours(Box<Ours>),
    Theirs(&'static Synapse),
}

/// A server of ours with what stands before it.
pub struct Ours {
    server: Option<TestServer>,
    directory: Arc<TempDir>,
    front: Front,
}

/// A fresh server of ours, and the Synapse that tests share.
pub async fn pair() -> (Side, Side) {
    let (ours, theirs) = tokio::join!(Ours::start(), Synapse::shared());
    (Side::Ours(Box::new(ours)), Side::Theirs(theirs))
}

impl Side {
    /// The server's name.
    pub fn name(&self) -> String {
        match self {
            Self::Ours(ours) => ours.name(),
            Self::Theirs(synapse) => synapse.name(),
        }
    }

    /// A client that is not logged in.
    pub fn anyone(&self) -> Client {
        match self {
            Self::Ours(ours) => ours.server().anyone(),
            Self::Theirs(synapse) => Client::new(synapse.url()),
        }
    }

    /// Registers a user; the name gets a number, since other tests use the same server.
    pub async fn register(&self, name: &str) -> Client {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{name}{}", COUNT.fetch_add(1, Ordering::Relaxed));
        match self {
            Self::Ours(ours) => ours.server().register(&name).await,
            Self::Theirs(synapse) => synapse.register(&name).await,
        }
    }

    /// Registers a user with a device that encrypts.
    pub async fn device(&self, name: &str) -> Device {
        let user = self.register(name).await;
        let localpart = user.user_id.trim_start_matches('@').split(':').next().unwrap();
        Device::login_at(&user.base, localpart, How::Classic).await
    }
}

impl Ours {
    /// A fresh one.
    pub async fn start() -> Self {
        let mut ours = Self { server: None, directory: Arc::new(TempDir::new().unwrap()), front: Front::tls().await };
        ours.resume().await;
        ours
    }

    /// Its name, for other servers.
    pub fn name(&self) -> String {
        format!("127.0.0.1:{}", self.front.port())
    }

    /// The running server.
    pub fn server(&self) -> &TestServer {
        self.server.as_ref().expect("it runs")
    }

    /// Starts it.
    pub async fn resume(&mut self) {
        let name = self.name();
        let trusted = self.directory.path().join("root.pem");
        std::fs::write(&trusted, root()).unwrap();
        let server = TestServer::start_in(self.directory.clone(), |config| {
            config.server_name = name.try_into().unwrap();
            config.ca_certificates = vec![trusted];
            config.ip_range_denylist = Vec::new();
            config.trusted_servers = Vec::new();
        })
        .await;
        self.front.lead_to(server.address);
        self.server = Some(server);
    }

    /// Stops it; [`Ours::resume`] starts it again with the same name and data.
    pub async fn stop(&mut self) {
        self.front.shut();
        self.server.take().expect("it runs").stop().await;
    }
}
