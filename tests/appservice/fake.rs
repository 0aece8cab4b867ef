//! An application service as strict as the specification lets it be.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::Notify,
    task::{JoinHandle, JoinSet},
};

use crate::common::{Client, TestServer};

pub const AS_TOKEN: &str = "as-token-of-irc";
pub const HS_TOKEN: &str = "hs-token-of-irc";

/// The fields that a transaction can have.
const FIELDS: [&str; 7] = [
    "events",
    "ephemeral",
    "de.sorunome.msc2409.ephemeral",
    "de.sorunome.msc2409.to_device",
    "org.matrix.msc3202.device_lists",
    "org.matrix.msc3202.device_one_time_keys_count",
    "org.matrix.msc3202.device_unused_fallback_key_types",
];

type Answer = (StatusCode, Value);
type Query = Box<dyn Fn(String) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// What it got and how it answers.
#[derive(Default)]
struct State {
    /// Transactions that it took, by ID.
    taken: BTreeMap<u64, Value>,
    /// Bodies of transactions that it refused, by ID.
    refused: BTreeMap<u64, Value>,
    /// The status with which it refuses transactions.
    refuse: Option<StatusCode>,
    /// What a homeserver must not do.
    faults: Vec<String>,
    /// Everything else that it was asked: method and path with query.
    asked: Vec<String>,
    /// Whether it is from before version 1.
    legacy: bool,
}

/// A running application service.
pub struct Fake {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
    query: Mutex<Option<Arc<Query>>>,
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Notify::new(), query: Mutex::default() });
        let serving = tokio::spawn({
            let shared = shared.clone();
            async move {
                let mut connections = JoinSet::new(); // they end with it
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let shared = shared.clone();
                    let service = service_fn(move |request| {
                        let shared = shared.clone();
                        async move { Ok::<_, Infallible>(shared.answer(request).await) }
                    });
                    connections.spawn(
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                    );
                }
            }
        });
        Self { address, shared, serving }
    }

    /// A registration called `irc` for it, with more lines of YAML.
    pub fn registration(&self, more: &str) -> String {
        format!(
            "id: irc\nurl: http://{}\nas_token: {AS_TOKEN}\nhs_token: {HS_TOKEN}\nsender_localpart: ircbot\n\
             namespaces:\n  users:\n    - exclusive: true\n      regex: '@_irc_.*'\n  aliases:\n    - exclusive: true\n      \
             regex: '#irc_.*'\n{more}\n",
            self.address
        )
    }

    /// A server that it is registered with.
    pub async fn server(&self, more: &str) -> TestServer {
        let directory = Arc::new(tempfile::TempDir::new().unwrap());
        let file = directory.path().join("irc.yaml");
        std::fs::write(&file, self.registration(more)).unwrap();
        TestServer::start_in(directory, |config| config.appservice_registrations = vec![file]).await
    }

    /// Starts a server again that stopped.
    pub async fn restart(&self, directory: Arc<tempfile::TempDir>) -> TestServer {
        let file = directory.path().join("irc.yaml");
        TestServer::start_in(directory, |config| config.appservice_registrations = vec![file]).await
    }

    /// From now on refuses transactions with this status, or takes them.
    pub fn refuse(&self, status: Option<StatusCode>) {
        self.shared.state.lock().unwrap().refuse = status;
    }

    /// From now on is one of before version 1.
    pub fn become_legacy(&self) {
        self.shared.state.lock().unwrap().legacy = true;
    }

    /// How it answers to everything but transactions and pings: by the path after `/_matrix/app/v1/`.
    pub fn on_query<F, R>(&self, query: F)
    where
        F: Fn(String) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        *self.shared.query.lock().unwrap() = Some(Arc::new(Box::new(move |path| Box::pin(query(path)))));
    }

    /// What it was asked besides transactions.
    pub fn asked(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().asked.clone()
    }

    /// The transactions that it took, in their order.
    pub fn taken(&self) -> Vec<(u64, Value)> {
        self.shared.state.lock().unwrap().taken.iter().map(|(id, body)| (*id, body.clone())).collect()
    }

    /// The transactions that it refused.
    pub fn refused(&self) -> Vec<(u64, Value)> {
        self.shared.state.lock().unwrap().refused.iter().map(|(id, body)| (*id, body.clone())).collect()
    }

    /// Waits until `found` gives something of what it got.
    pub async fn wait<T>(&self, what: &str, found: impl Fn(&Self) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let changed = self.shared.changed.notified();
                if let Some(found) = found(self) {
                    return found;
                }
                changed.await;
            }
        };
        let timed = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        timed.unwrap_or_else(|_| panic!("no {what} came; there are {:#?}", self.taken()))
    }

    /// All entries of the lists called `list` in the transactions that it took.
    pub fn all(&self, list: &str) -> Vec<Value> {
        self.taken().iter().flat_map(|(_, body)| body[list].as_array().cloned().unwrap_or_default()).collect()
    }

    /// Waits for an entry of such a list that `fits`.
    pub async fn entry(&self, list: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.wait(list, |fake| fake.all(list).into_iter().find(&fits)).await
    }

    /// Waits for the event with this ID.
    pub async fn event(&self, id: &str) -> Value {
        self.entry("events", |event| event["event_id"] == id).await
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
        if !std::thread::panicking() {
            let faults = &self.shared.state.lock().unwrap().faults;
            assert!(faults.is_empty(), "the homeserver did what it must not: {faults:#?}");
        }
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = parts.uri.path_and_query().unwrap().to_string();
        let (status, answer) = if self.state.lock().unwrap().legacy {
            self.legacy(&parts.method, &path, &body).await
        } else {
            self.check_head(&parts, &body);
            self.strict(&parts.method, &path, &body).await
        };
        self.changed.notify_waiters();
        let body = Bytes::from(answer.to_string());
        Response::builder().status(status).header(header::CONTENT_TYPE, "application/json").body(body.into()).unwrap()
    }

    fn fault(&self, fault: String) {
        self.state.lock().unwrap().faults.push(fault);
    }

    fn check_head(&self, parts: &http::request::Parts, body: &[u8]) {
        let is = |name, value: &str| parts.headers.get(name).is_some_and(|found| found == value);
        if !is(header::AUTHORIZATION, &format!("Bearer {HS_TOKEN}")) {
            self.fault(format!("wrong token: {:?}", parts.headers));
        }
        if !body.is_empty() && !is(header::CONTENT_TYPE, "application/json") {
            self.fault(format!("wrong type of content: {:?}", parts.headers));
        }
        if parts.uri.to_string().contains("access_token") {
            self.fault(format!("a token in the path {}", parts.uri));
        }
    }

    async fn strict(&self, method: &Method, path: &str, body: &[u8]) -> Answer {
        let Some(path) = path.strip_prefix("/_matrix/app/v1/") else {
            self.fault(format!("{method} {path} is nothing of the specification"));
            return (StatusCode::NOT_FOUND, json!({ "errcode": "M_UNRECOGNIZED" }));
        };
        match (method.as_str(), path.split_once('/')) {
            ("PUT", Some(("transactions", id))) => self.transaction(id, body),
            ("POST", None) if path == "ping" => {
                self.state.lock().unwrap().asked.push(format!("ping {}", String::from_utf8_lossy(body)));
                match self.state.lock().unwrap().refuse {
                    Some(status) => (status, json!({ "errcode": "M_FORBIDDEN" })),
                    None => (StatusCode::OK, json!({})),
                }
            }
            ("GET", Some(("users" | "rooms" | "thirdparty", _))) => self.query(path).await,
            _ => {
                self.fault(format!("{method} {path} is nothing of the specification"));
                (StatusCode::NOT_FOUND, json!({ "errcode": "M_UNRECOGNIZED" }))
            }
        }
    }

    async fn query(&self, path: &str) -> Answer {
        self.state.lock().unwrap().asked.push(path.to_owned());
        let query = self.query.lock().unwrap().clone();
        match query {
            Some(query) => query(path.to_owned()).await,
            None => (StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND" })),
        }
    }

    /// Checks a transaction, and takes it unless told otherwise.
    fn transaction(&self, id: &str, body: &[u8]) -> Answer {
        let Ok(number) = id.parse::<u64>() else {
            self.fault(format!("the ID {id} is no number"));
            return (StatusCode::BAD_REQUEST, json!({}));
        };
        let body: Value = serde_json::from_slice(body).unwrap();
        for field in body.as_object().unwrap().keys().filter(|field| !FIELDS.contains(&field.as_str())) {
            self.fault(format!("a transaction has no field {field}"));
        }
        for event in body["events"].as_array().unwrap() {
            for field in ["event_id", "room_id", "type", "sender", "origin_server_ts", "content"] {
                if event[field].is_null() {
                    self.fault(format!("{event} has no {field}"));
                }
            }
        }
        let mut state = self.state.lock().unwrap();
        if state.refused.get(&number).or(state.taken.get(&number)).is_some_and(|earlier| *earlier != body) {
            state.faults.push(format!("transaction {number} is another the second time: {body}"));
        }
        if state.taken.keys().next_back().is_some_and(|last| *last > number) {
            state.faults.push(format!("transaction {number} comes late"));
        }
        if let Some(status) = state.refuse {
            state.refused.insert(number, body);
            return (status, json!({ "errcode": "M_UNKNOWN" }));
        }
        state.taken.insert(number, body);
        (StatusCode::OK, json!({}))
    }

    /// Knows the paths, and the way to show the token, of before version 1.
    async fn legacy(&self, method: &Method, path: &str, body: &[u8]) -> Answer {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if path.starts_with("/_matrix/app/v1/") {
            return (StatusCode::NOT_FOUND, json!({}));
        }
        if !query.split('&').any(|pair| pair == format!("access_token={HS_TOKEN}")) {
            return (StatusCode::FORBIDDEN, json!({ "errcode": "M_FORBIDDEN" }));
        }
        match path.strip_prefix("/transactions/") {
            Some(id) if method == Method::PUT => self.transaction(id, body),
            _ => self.query(path).await,
        }
    }
}

/// The application service as a client of `server`: as its sender.
pub fn client(server: &TestServer) -> Client {
    with_token(server, AS_TOKEN)
}

/// Whoever has the token as a client of `server`.
pub fn with_token(server: &TestServer, token: &str) -> Client {
    let mut client = server.anyone();
    client.token = token.to_owned();
    client
}
