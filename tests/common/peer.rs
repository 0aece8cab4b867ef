//! A peer that speaks for itself: it signs what a test wants, right or wrong, and answers what a test wants.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use conduit::{
    clock,
    rooms::{self, Draft, build, canonical},
    signing::{self, SigningKeys},
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use ruma::{CanonicalJsonObject, RoomId, RoomVersionId, ServerName, UserId};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    TestServer,
    net::{TestNet, name},
};

type Answers = Pin<Box<dyn Future<Output = Option<Response<Full<Bytes>>>> + Send>>;
type Handler = Arc<dyn Fn(Request<Bytes>) -> Answers + Send + Sync>;

/// A server name with keys, which answers at its place in a [`TestNet`].
#[derive(Clone)]
pub struct Peer {
    pub name: String,
    pub keys: Arc<SigningKeys>,
    handlers: Arc<Mutex<Vec<Handler>>>,
}

/// An answer in JSON.
pub fn answer(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Full::new(body.to_string().into())).unwrap()
}

/// The ID of an event of a room of version 10.
pub fn event_id(event: &Value) -> String {
    let rules = RoomVersionId::V10.rules().unwrap();
    let text = canonical::reference_text(&event.to_string(), &rules.redaction).unwrap();
    canonical::event_id(&text, rules.event_id_format)
}

/// A path or a part of one without its percent-encoding.
pub fn decode(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).unwrap()
}

impl Peer {
    /// A peer named `short` + ".test" that publishes its keys, delegates to nobody, and knows nothing else.
    pub async fn new(net: &TestNet, short: &str) -> Self {
        let peer = Self::named(name(short));
        let answering = peer.clone();
        net.peer(short, move |request| answering.clone().answer(request)).await;
        peer
    }

    /// A name with keys that answers nowhere.
    pub fn with_keys(name: String, keys: SigningKeys) -> Self {
        Self { name, keys: Arc::new(keys), handlers: Arc::default() }
    }

    /// A peer that is named by its address, where anybody finds it who trusts the certificates of the net.
    pub async fn at_an_address(net: &TestNet) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Self::named(listener.local_addr().unwrap().to_string());
        let (acceptor, answering) = (net.acceptor("127.0.0.1"), peer.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, peer) = (acceptor.clone(), answering.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let peer = peer.clone();
                        async move {
                            let (parts, body) = request.into_parts();
                            let body = body.collect().await?.to_bytes();
                            Ok::<_, hyper::Error>(peer.answer(Request::from_parts(parts, body)).await)
                        }
                    });
                    auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        peer
    }

    fn named(name: String) -> Self {
        let (version, pkcs8) = signing::generate().unwrap();
        let keys = SigningKeys::new(ServerName::parse(&*name).unwrap(), &version, &pkcs8, Vec::new()).unwrap();
        Self::with_keys(name, keys)
    }

    /// Answers requests whose path, decoded, begins with `path` by `handler`, before all that was said earlier.
    pub fn on<F>(&self, path: impl Into<String>, handler: impl Fn(Request<Bytes>) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let path = path.into();
        let handler: Handler = Arc::new(move |request| {
            let fits = decode(request.uri().path()).starts_with(&path);
            let answer = fits.then(|| handler(request));
            Box::pin(async move {
                match answer {
                    Some(answer) => Some(answer.await),
                    None => None,
                }
            })
        });
        self.handlers.lock().insert(0, handler);
    }

    /// Its document of keys, signed; `change` is applied before.
    pub fn document(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut document = json!({
            "server_name": self.name,
            "verify_keys": { self.keys.id(): { "key": self.keys.public_key() } },
            "old_verify_keys": {},
            "valid_until_ts": clock::now_ms() + 3_600_000,
        });
        change(&mut document);
        self.sign(document)
    }

    /// A JSON object with its signature.
    pub fn sign(&self, object: Value) -> Value {
        let mut object: CanonicalJsonObject = serde_json::from_value(object).unwrap();
        self.keys.sign_json(&mut object).unwrap();
        serde_json::to_value(object).unwrap()
    }

    /// An event of a room of version 10, hashed and signed, with its ID.
    pub fn pdu(&self, mut event: Value) -> (String, Value) {
        event["hashes"] = json!({ "sha256": canonical::hash(&event.to_string()) });
        let redaction = RoomVersionId::V10.rules().unwrap().redaction;
        let text = canonical::reference_text(&event.to_string(), &redaction).unwrap();
        event["signatures"] = json!({ &*self.name: { self.keys.id(): self.keys.sign(text.as_bytes()) } });
        (event_id(&event), event)
    }

    /// An event of one of its users, who is in a room of `server`, as it follows there now; `change` is applied before it is
    /// hashed and signed. Gives the event and its ID, for room versions from 4 on.
    pub fn event(
        &self,
        server: &TestServer,
        room: &str,
        sender: &str,
        draft: Draft,
        change: impl FnOnce(&mut Value),
    ) -> (Value, String) {
        let rooms = &server.handle.server().rooms;
        let read = rooms.store.read();
        let (no, record) = rooms::require(&read, <&RoomId>::try_from(room).unwrap()).unwrap();
        let made = build::prepare(rooms, &read, no, <&UserId>::try_from(sender).unwrap(), draft).unwrap();
        let mut event: Value = serde_json::from_str(&made.pdu().json).unwrap();
        event.as_object_mut().unwrap().retain(|field, _| field != "signatures" && field != "hashes");
        change(&mut event);
        event["hashes"] = json!({ "sha256": canonical::hash(&event.to_string()) });
        let rules = build::rules(&record.version).unwrap();
        let text = canonical::reference_text(&event.to_string(), &rules.redaction).unwrap();
        event["signatures"] = json!({ &self.name: { self.keys.id(): self.keys.sign(text.as_bytes()) } });
        (event, canonical::event_id(&text, rules.event_id_format))
    }

    /// Sends events to `server` in a transaction; gives what became of each.
    pub async fn transaction(&self, server: &TestServer, id: &str, pdus: &[&Value]) -> Value {
        let transaction = json!({ "origin": self.name, "origin_server_ts": 1, "pdus": pdus, "edus": [] });
        let path = format!("/_matrix/federation/v1/send/{id}");
        let (status, answer) = self.ask(server, Method::PUT, &path, Some(transaction)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["pdus"].clone()
    }

    async fn answer(self, request: Request<Bytes>) -> Response<Full<Bytes>> {
        let handlers = self.handlers.lock().clone();
        for handler in handlers {
            if let Some(answer) = handler(request.clone()).await {
                return answer;
            }
        }
        match request.uri().path() {
            "/_matrix/key/v2/server" => answer(200, &self.document(|_| {})),
            _ => answer(404, &json!({ "errcode": "M_UNRECOGNIZED", "error": "not here" })),
        }
    }

    /// The Authorization header for a request to `destination`.
    pub fn authorization(&self, destination: &str, method: &Method, path: &str, body: Option<&Value>) -> String {
        let mut object =
            json!({ "method": method.as_str(), "uri": path, "origin": self.name, "destination": destination });
        if let Some(body) = body {
            object["content"] = body.clone();
        }
        let object: CanonicalJsonObject = serde_json::from_value(object).unwrap();
        let sig = self.keys.sign(serde_json::to_string(&object).unwrap().as_bytes());
        let (origin, key) = (&self.name, self.keys.id());
        format!("X-Matrix origin=\"{origin}\",destination=\"{destination}\",key=\"{key}\",sig=\"{sig}\"")
    }

    /// A signed request to `server`; gives status and answer.
    pub async fn ask(
        &self,
        server: &TestServer,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let destination = server.handle.server().name().as_str();
        let authorization = self.authorization(destination, &method, path, body.as_ref());
        let (status, _, answer) = server.anyone().with(method, path, &authorization, body).await;
        (status, answer)
    }
}

impl super::Client {
    /// A request with an Authorization header of one's own.
    pub async fn with(
        &self,
        method: Method,
        path: &str,
        authorization: &str,
        body: Option<Value>,
    ) -> (StatusCode, HeaderMap, Value) {
        let headers = [("authorization", authorization), ("content-type", "application/json")];
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let (status, headers, bytes) = self.exchange(method, path, &headers, body).await;
        (status, headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}
