//! What every test needs: a server in this process, and clients that speak JSON to it.
//!
//! ```ignore
//! let server = TestServer::start().await;
//! let alice = server.register("alice").await;
//! let (status, body) = alice.post("/_matrix/client/v3/createRoom", json!({})).await;
//! ```
//!
//! Whenever a [`TestServer`] ends, stopped or dropped, the invariants of its database are checked;
//! [`TestServer::check`] does so in between.
#![allow(dead_code)] // not every test uses every helper

pub mod dns;
pub mod generated;
pub mod net;
pub mod newcomer;
pub mod peer;
pub mod process;
pub mod smtp;
pub mod synthetic;

use std::{
    error::Error,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use conduit::{check, config::Config, server::Server, start};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy, rt::TokioExecutor};
use serde_json::{Value, json};
use tempfile::TempDir;

type HttpClient = legacy::Client<legacy::connect::HttpConnector, Full<Bytes>>;

/// The registration token of every test server.
pub const TOKEN: &str = "letmein";

/// A running server and the folder of its database.
pub struct TestServer {
    checked: CheckedAtEnd, // dropped first, while the database is open
    pub handle: start::Handle,
    pub address: SocketAddr,
    pub directory: Arc<TempDir>,
    anyone: Client,
}

/// Checks the invariants of a server's database when it is dropped, unless the test failed before.
struct CheckedAtEnd(Weak<Server>);

impl CheckedAtEnd {
    fn check(&self) {
        if let Some(server) = self.0.upgrade() {
            let report = check::run(&server.store.read(), &server.media).unwrap();
            assert!(report.is_clean(), "the test left a database with faults:\n{report}");
        }
    }
}

impl Drop for CheckedAtEnd {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
    }
}

/// A client: one device of one user, or nobody.
#[derive(Clone)]
pub struct Client {
    pub base: String,
    pub user_id: String,
    pub device_id: String,
    pub token: String,
    http: HttpClient,
}

/// The configuration of a test server with its database in `directory`.
pub fn config(directory: &Path) -> Config {
    let options = format!(
        "[global]\nserver_name = \"localhost\"\naddress = \"127.0.0.1\"\nport = 0\ndatabase_path = {:?}\n\
         allow_registration = true\nregistration_token = \"{TOKEN}\"\nrate_limits = false\n\
         registration_shared_secret = \"shared\"\nmemory_budget = \"64MB\"\nallow_guest_registration = true\n",
        directory.join("db"),
    );
    let file = directory.join("conduit.toml");
    std::fs::write(&file, options).unwrap();
    Config::load(Some(file), std::iter::empty()).unwrap().0
}

/// The same for a server with another name.
pub fn config_in(directory: &TempDir, server_name: &str) -> Config {
    Config { server_name: server_name.try_into().unwrap(), ..config(directory.path()) }
}

impl TestServer {
    /// A fresh server.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A fresh server, its configuration changed by `change`.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(Arc::new(TempDir::new().unwrap()), change).await
    }

    /// A server over the database in `directory`, which may be another server's that has stopped.
    pub async fn start_in(directory: Arc<TempDir>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(directory.path());
        change(&mut config);
        Self::running(start::start(config).await.unwrap(), directory)
    }

    /// A server that runs already, over the database in `directory`.
    pub fn running(handle: start::Handle, directory: Arc<TempDir>) -> Self {
        let address = handle.addresses()[0];
        let anyone = Client::new(format!("http://{address}"));
        Self { checked: CheckedAtEnd(Arc::downgrade(handle.server())), handle, address, directory, anyone }
    }

    /// Stops the server; gives the folder of its database, to start again in.
    pub async fn stop(self) -> Arc<TempDir> {
        let Self { checked, handle, directory, .. } = self;
        drop(checked);
        handle.stop().await.unwrap();
        directory
    }

    /// [`stop`](Self::stop) without a check, for tests that put something into the database by hand.
    pub async fn stop_unchecked(self) -> Arc<TempDir> {
        let Self { checked, handle, directory, .. } = self;
        std::mem::forget(checked);
        handle.stop().await.unwrap();
        directory
    }

    /// Checks the invariants of the database.
    pub fn check(&self) {
        self.checked.check();
    }

    /// A client that is not logged in.
    pub fn anyone(&self) -> Client {
        self.anyone.clone()
    }

    /// Registers `name` with the password "secret-" + `name`.
    pub async fn register(&self, name: &str) -> Client {
        self.anyone.register(name).await
    }

    /// Logs another device of `name` in.
    pub async fn login(&self, name: &str) -> Client {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": name },
            "password": format!("secret-{name}"),
        });
        let anyone = self.anyone();
        let (status, answer) = anyone.post("/_matrix/client/v3/login", body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        anyone.logged_in(&answer)
    }
}

impl Client {
    /// A client that is not logged in, of the server at the URL `base`.
    pub fn new(base: String) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new()).build_http();
        Self { base, user_id: String::new(), device_id: String::new(), token: String::new(), http }
    }

    /// Registers `name` with the password "secret-" + `name`; gives its first device.
    pub async fn register(&self, name: &str) -> Self {
        let body = json!({
            "username": name,
            "password": format!("secret-{name}"),
            "auth": { "type": "m.login.registration_token", "token": TOKEN },
        });
        let (status, challenge) = self.post("/_matrix/client/v3/register", body.clone()).await;
        let answer = if status == StatusCode::OK {
            challenge
        } else {
            let mut body = body;
            body["auth"]["session"] = challenge["session"].clone();
            self.post("/_matrix/client/v3/register", body).await.1
        };
        self.logged_in(&answer)
    }

    /// The client that the answer of a login or registration makes.
    pub fn logged_in(&self, answer: &Value) -> Self {
        let text = |key: &str| answer[key].as_str().unwrap_or_else(|| panic!("no {key} in {answer}")).to_owned();
        Self {
            user_id: text("user_id"),
            device_id: text("device_id"),
            token: text("access_token"),
            base: self.base.clone(),
            http: self.http.clone(),
        }
    }

    /// The same device at another server over the same database.
    pub fn at(&self, server: &TestServer) -> Self {
        self.moved(&server.anyone.base)
    }

    /// The same device at a server with another URL.
    pub fn moved(&self, base: &str) -> Self {
        Self { base: base.to_owned(), ..self.clone() }
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.json(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.json(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.json(Method::PUT, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> (StatusCode, Value) {
        self.json(Method::DELETE, path, None).await
    }

    /// A request that must succeed; gives its answer.
    pub async fn ok(&self, method: Method, path: &str, body: Value) -> Value {
        let body = (method != Method::GET).then_some(body);
        let (status, answer) = self.json(method.clone(), path, body).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}: {answer}");
        answer
    }

    pub async fn json(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let (status, bytes) = self.raw(method, path, "application/json", body).await;
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// A request with any body; gives status and body as they come.
    pub async fn raw(&self, method: Method, path: &str, content_type: &str, body: Vec<u8>) -> (StatusCode, Bytes) {
        let content_type = if body.is_empty() { &[][..] } else { &[("content-type", content_type)] };
        let (status, _, body) = self.exchange(method, path, content_type, body).await;
        (status, body)
    }

    /// A request without a body but with headers; gives status, headers and body as they come.
    pub async fn full(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Bytes) {
        self.exchange(method, path, headers, Vec::new()).await
    }

    /// A request with headers and a body; gives status, headers and body as they come.
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (StatusCode, HeaderMap, Bytes) {
        self.try_exchange(method, path, headers, body).await.unwrap()
    }

    /// A request to a server that may die; gives the body of its answer with status 200, or nothing if none came.
    pub async fn attempt(&self, method: Method, path: &str, body: Vec<u8>) -> Option<Bytes> {
        let (status, _, body) = self.try_exchange(method, path, &[], body).await.ok()?;
        assert_eq!(status, StatusCode::OK, "{path}: {body:?}");
        Some(body)
    }

    async fn try_exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), Box<dyn Error + Send + Sync>> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !self.token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(60), self.http.request(request)).await??;
        let (parts, body) = answer.into_parts();
        Ok((parts.status, parts.headers, body.collect().await?.to_bytes()))
    }

    /// Creates a room; gives its ID.
    pub async fn create_room(&self, options: Value) -> String {
        let answer = self.ok(Method::POST, "/_matrix/client/v3/createRoom", options).await;
        answer["room_id"].as_str().unwrap().to_owned()
    }

    /// Joins a room by its ID or alias.
    pub async fn join(&self, room: &str) {
        self.ok(Method::POST, &format!("/_matrix/client/v3/join/{}", encode(room)), json!({})).await;
    }

    /// Sends a text message; gives the event's ID.
    pub async fn send_text(&self, room: &str, text: &str) -> String {
        self.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": text })).await
    }

    /// Sends an event; gives its ID.
    pub async fn send(&self, room: &str, kind: &str, content: Value) -> String {
        let txn = conduit::clock::random_string(12).unwrap();
        let path = format!("/_matrix/client/v3/rooms/{}/send/{kind}/{txn}", encode(room));
        self.ok(Method::PUT, &path, content).await["event_id"].as_str().unwrap().to_owned()
    }

    /// Sends a state event; gives its ID.
    pub async fn set_state(&self, room: &str, kind: &str, key: &str, content: Value) -> String {
        let path = format!("/_matrix/client/v3/rooms/{}/state/{kind}/{}", encode(room), encode(key));
        self.ok(Method::PUT, &path, content).await["event_id"].as_str().unwrap().to_owned()
    }

    /// A `/sync` with the given query (`""`, or `"since=...&timeout=0"`).
    pub async fn sync(&self, query: &str) -> Value {
        self.ok(Method::GET, &format!("/_matrix/client/v3/sync?{query}"), Value::Null).await
    }
}

/// Percent-encodes a path segment.
pub fn encode(segment: &str) -> String {
    segment
        .bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
