//! Several servers in this process that federate, over TLS with certificates of a test authority.
//!
//! ```ignore
//! let net = TestNet::new();
//! let a = net.server("a").await; // a.test
//! let b = net.server("b").await;
//! net.cut("a", "b"); // neither reaches the other
//! net.heal("a", "b");
//! ```
//!
//! Each server listens without TLS, as behind a reverse proxy; between each two of them stands a *wire* for each
//! direction: a small proxy that has the certificate of the server it leads to, and that a test can tell to lose, delay
//! or repeat requests ([`TestNet::wire`]). A server that is stopped keeps its name; start it again with
//! [`TestNet::start_in`]. A peer that is no conduit at all is [`TestNet::peer`].

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use conduit::{
    config::Config,
    outgoing::{NameMap, Network},
    start,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::{Mutex, RwLock};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ruma::ServerName;
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;

use super::{TestServer, config};

/// What a wire does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Passes,
    /// The connection breaks before it arrives.
    IsLost,
    /// It is answered with 404 `M_UNRECOGNIZED`.
    IsRefused,
    /// It arrives, but the answer is lost.
    IsUnanswered,
    /// It arrives after this long.
    IsLate(Duration),
    /// It arrives once the gate is open.
    IsHeld(Gate),
    /// It arrives twice.
    IsRepeated,
}

/// What holds requests back until it is opened.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub async fn passed(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

impl PartialEq for Gate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Gate {}

/// A request on a wire, as far as its fate may depend on it.
#[derive(Clone, Debug)]
pub struct Passing {
    pub method: http::Method,
    pub path: String,
    pub body: Bytes,
}

type Decide = Box<dyn Fn(&Passing) -> Fate + Send + Sync>;

/// The way from one server to another.
pub struct Wire {
    decide: Mutex<Decide>,
    passed: Mutex<Vec<String>>,
}

impl Wire {
    /// Decides from now on what becomes of requests.
    pub fn decide(&self, decide: impl Fn(&Passing) -> Fate + Send + Sync + 'static) {
        *self.decide.lock() = Box::new(decide);
    }

    /// "METHOD /path" of every request that came by, whatever became of it.
    pub fn passed(&self) -> Vec<String> {
        self.passed.lock().clone()
    }
}

/// What answers in the place of a server.
pub type Answering =
    Arc<dyn Fn(Request<Bytes>) -> Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>> + Send + Sync>;

#[derive(Clone)]
enum Behind {
    /// A server that listens here without TLS.
    Address(SocketAddr),
    /// A function.
    Function(Answering),
}

/// See the module.
#[derive(Clone)]
pub struct TestNet(Arc<Inner>);

struct Inner {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    /// Where each server is, by its name.
    behind: RwLock<HashMap<String, Behind>>,
    /// Each server's view of where names lead: onto its own wires.
    maps: Mutex<HashMap<String, NameMap>>,
    wires: Mutex<HashMap<(String, String), Arc<Wire>>>,
}

/// The full name of the server that tests call `short`.
pub fn name(short: &str) -> String {
    if short.contains('.') || short == "localhost" { short.to_owned() } else { format!("{short}.test") }
}

impl TestNet {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        Self(Arc::new(Inner {
            folder,
            issuer: Issuer::new(params, key),
            behind: RwLock::default(),
            maps: Mutex::default(),
            wires: Mutex::default(),
        }))
    }

    /// The certificate of the test authority.
    pub fn ca(&self) -> PathBuf {
        self.0.folder.path().join("ca.pem")
    }

    /// A fresh server named `short` + ".test".
    pub async fn server(&self, short: &str) -> TestServer {
        self.server_with(short, |_| {}).await
    }

    /// The same, its configuration changed by `change`.
    pub async fn server_with(&self, short: &str, change: impl FnOnce(&mut Config)) -> TestServer {
        self.start_in(short, Arc::new(TempDir::new().unwrap()), change).await
    }

    /// A fresh server that finds names as `network` says, and others of the net not by themselves.
    pub async fn server_at(&self, short: &str, network: Network) -> TestServer {
        self.server_at_with(short, network, |_| {}).await
    }

    /// The same, its configuration changed by `change`.
    pub async fn server_at_with(&self, short: &str, network: Network, change: impl FnOnce(&mut Config)) -> TestServer {
        self.start(short, Arc::new(TempDir::new().unwrap()), change, Some(network)).await
    }

    /// A server over the database in `directory`, which may be that of the same server stopped before.
    pub async fn start_in(&self, short: &str, directory: Arc<TempDir>, change: impl FnOnce(&mut Config)) -> TestServer {
        self.start(short, directory, change, None).await
    }

    async fn start(
        &self,
        short: &str,
        directory: Arc<TempDir>,
        change: impl FnOnce(&mut Config),
        network: Option<Network>,
    ) -> TestServer {
        let name = name(short);
        let mut config = config(directory.path());
        config.server_name = ServerName::parse(&*name).unwrap();
        config.ca_certificates = vec![self.ca()];
        config.ip_range_denylist = Vec::new();
        config.trusted_servers = Vec::new();
        change(&mut config);
        let map = self.0.maps.lock().entry(name.clone()).or_default().clone();
        let handle = start::start_in(config, network.unwrap_or(Network::Names(map))).await.unwrap();
        let address = handle.addresses()[0];
        self.place(&name, Behind::Address(address)).await;
        TestServer::running(handle, directory)
    }

    /// A peer that is no server of ours: `answer` answers every request to it.
    pub async fn peer<F>(&self, short: &str, answer: impl Fn(Request<Bytes>) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let answer: Answering = Arc::new(move |request| Box::pin(answer(request)));
        self.place(&name(short), Behind::Function(answer)).await;
    }

    /// The wire from one server to another. Both must have been there.
    pub fn wire(&self, from: &str, to: &str) -> Arc<Wire> {
        self.0.wires.lock()[&(name(from), name(to))].clone()
    }

    /// Where anybody reaches a server, over a wire of its own.
    pub async fn open(&self, short: &str) -> SocketAddr {
        self.0.maps.lock().entry("anybody".to_owned()).or_default();
        self.lay("anybody", &name(short)).await;
        self.0.maps.lock()["anybody"].read()[&name(short)]
    }

    /// Has `from` find `to` where `instead` is.
    pub fn redirect(&self, from: &str, to: &str, instead: &str) {
        let map = self.0.maps.lock()[&name(from)].clone();
        let address = map.read()[&name(instead)];
        map.write().insert(name(to), address);
    }

    /// Has `from` find a server of that whole name at an address of the test's own.
    pub fn lead(&self, from: &str, to: &str, address: SocketAddr) {
        let map = self.0.maps.lock()[&name(from)].clone();
        map.write().insert(to.to_owned(), address);
    }

    /// Loses every request between two servers, both ways.
    pub fn cut(&self, one: &str, other: &str) {
        self.wire(one, other).decide(|_| Fate::IsLost);
        if let Some(back) = self.0.wires.lock().get(&(name(other), name(one))) {
            back.decide(|_| Fate::IsLost);
        }
    }

    /// Lets requests between two servers pass again.
    pub fn heal(&self, one: &str, other: &str) {
        self.wire(one, other).decide(|_| Fate::Passes);
        if let Some(back) = self.0.wires.lock().get(&(name(other), name(one))) {
            back.decide(|_| Fate::Passes);
        }
    }

    /// Puts a server in its place, and lays the wires between it and all others.
    async fn place(&self, name: &str, behind: Behind) {
        self.0.behind.write().insert(name.to_owned(), behind);
        let all: Vec<String> = self.0.behind.read().keys().cloned().collect();
        for other in &all {
            self.lay(name, other).await;
            self.lay(other, name).await;
        }
    }

    async fn lay(&self, from: &str, to: &str) {
        let Some(map) = self.0.maps.lock().get(from).cloned() else { return };
        let ends = (from.to_owned(), to.to_owned());
        if self.0.wires.lock().contains_key(&ends) {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        map.write().insert(to.to_owned(), listener.local_addr().unwrap());
        let wire = Arc::new(Wire { decide: Mutex::new(Box::new(|_| Fate::Passes)), passed: Mutex::default() });
        self.0.wires.lock().insert(ends, wire.clone());
        let acceptor = self.acceptor(to);
        let client = legacy::Client::builder(TokioExecutor::new()).build_http();
        let front = Front { wire, net: Arc::downgrade(&self.0), to: to.to_owned(), client };
        tokio::spawn(serve(listener, acceptor, Arc::new(front)));
    }

    /// TLS with a certificate for `name`.
    pub fn acceptor(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0.issuer).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// The far end of a wire: what has the certificate of the server behind it.
struct Front {
    wire: Arc<Wire>,
    net: Weak<Inner>,
    to: String,
    client: legacy::Client<legacy::connect::HttpConnector, Full<Bytes>>,
}

/// Serves one wire for as long as the net is there.
async fn serve(listener: TcpListener, acceptor: TlsAcceptor, front: Arc<Front>) {
    while let Ok((stream, _)) = listener.accept().await {
        if front.net.strong_count() == 0 {
            return;
        }
        let (acceptor, front) = (acceptor.clone(), front.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| front.clone().pass(request));
            // An error breaks the connection, which is what a lost request looks like.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Front {
    /// A request that came over the wire, up to its answer.
    async fn pass(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let lost = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| lost())?.to_bytes();
        let path = parts.uri.path_and_query().map(|path| path.as_str().to_owned()).unwrap_or_default();
        let passing = Passing { method: parts.method.clone(), path, body: body.clone() };
        self.wire.passed.lock().push(format!("{} {}", passing.method, passing.path));
        let fate = (self.wire.decide.lock())(&passing);
        let behind = self.net.upgrade().and_then(|net| net.behind.read().get(&self.to).cloned()).ok_or_else(lost)?;
        let arrive = || arrive(Request::from_parts(parts.clone(), body.clone()), behind.clone(), &self.client);
        match fate {
            Fate::Passes => {}
            Fate::IsLost => return Err(lost()),
            Fate::IsRefused => return Ok(refusal()),
            Fate::IsUnanswered => {
                let _ = arrive().await;
                return Err(lost());
            }
            Fate::IsLate(delay) => tokio::time::sleep(delay).await,
            Fate::IsHeld(gate) => gate.passed().await,
            Fate::IsRepeated => {
                let _ = arrive().await;
            }
        }
        arrive().await.map_err(|()| lost())
    }
}

fn refusal() -> Response<Full<Bytes>> {
    let body = Bytes::from_static(br#"{"errcode":"M_UNRECOGNIZED","error":"No."}"#);
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

async fn arrive(
    mut request: Request<Bytes>,
    behind: Behind,
    client: &legacy::Client<legacy::connect::HttpConnector, Full<Bytes>>,
) -> Result<Response<Full<Bytes>>, ()> {
    let address = match behind {
        Behind::Function(answer) => return Ok(answer(request).await),
        Behind::Address(address) => address,
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() = format!("http://{address}{path}").parse().unwrap();
    *request.version_mut() = http::Version::HTTP_11;
    request.headers_mut().remove(http::header::HOST);
    let Ok(response) = client.request(request.map(Full::new)).await else {
        // As a reverse proxy answers for a server that is down.
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        return Ok(response);
    };
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(http::header::TRANSFER_ENCODING);
    parts.headers.remove(http::header::CONNECTION);
    let body = body.collect().await.map_err(|_| ())?.to_bytes();
    Ok(Response::from_parts(parts, Full::new(body)))
}
