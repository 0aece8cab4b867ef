//! Sockets, with a toy server behind them: both HTTP versions, TLS, unix sockets, limits, graceful stop.

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use conduit::{
    error::Result,
    http::{
        Body, Info, PageRequest, Router, State,
        listen::{self, ListenOptions, Timeouts, TlsFiles, UnixSocket},
        page,
    },
};
use http::{HeaderName, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioIo},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::{Notify, watch},
    task::JoinHandle,
};

#[derive(Default)]
struct Toy {
    /// Told when `/slow` has begun, and when it may end.
    began: Notify,
    go_on: Notify,
}

impl State for Toy {
    fn max_request_size(&self) -> usize {
        1 << 20
    }

    fn address_header(&self) -> Option<HeaderName> {
        Some(HeaderName::from_static("x-forwarded-for"))
    }

    fn limit(&self, _: &Info, _: Option<&str>, _: IpAddr) -> Result<()> {
        Ok(())
    }

    async fn durable(&self) -> Result<()> {
        Ok(())
    }
}

async fn address(_: &Toy, request: PageRequest) -> Result<Response<Body>> {
    Ok(Response::new(Body::full(request.address.to_string())))
}

async fn length(_: &Toy, request: PageRequest) -> Result<Response<Body>> {
    Ok(Response::new(Body::full(request.request.body().len().to_string())))
}

async fn large(_: &Toy, _: PageRequest) -> Result<Response<Body>> {
    let pieces = futures_util::stream::iter((0..1024).map(|_| Ok(Bytes::from_static(&[7; 8192]))));
    Ok(Response::new(Body::stream(pieces, Some(1024 * 8192))))
}

async fn slow(toy: &Toy, _: PageRequest) -> Result<Response<Body>> {
    toy.began.notify_one();
    toy.go_on.notified().await;
    Ok(Response::new(Body::full("done")))
}

struct Running {
    toy: Arc<Toy>,
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

async fn start(options: ListenOptions) -> Running {
    let router = Router::builder()
        .add(page(Method::GET, "/address", address))
        .add(page(Method::POST, "/length", length))
        .add(page(Method::GET, "/large", large))
        .add(page(Method::GET, "/slow", slow))
        .build()
        .unwrap();
    let (stop, stopped) = watch::channel(false);
    let listeners = listen::bind(&options).await.unwrap();
    let addresses = listeners.addresses();
    let toy = Arc::new(Toy::default());
    let serving = tokio::spawn(listeners.serve(router, Arc::clone(&toy), stopped));
    Running { toy, addresses, stop, serving }
}

fn tcp() -> ListenOptions {
    ListenOptions { tcp: vec![([127, 0, 0, 1], 0).into()], ..ListenOptions::default() }
}

type Client = legacy::Client<legacy::connect::HttpConnector, Full<Bytes>>;

impl Running {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses[0])
    }

    async fn ask(&self, client: &Client, method: Method, path: &str, body: Vec<u8>) -> (Version, StatusCode, Bytes) {
        let request = Request::builder().method(method).uri(self.url(path)).body(Full::from(body)).unwrap();
        let (head, body) = client.request(request).await.unwrap().into_parts();
        (head.version, head.status, body.collect().await.unwrap().to_bytes())
    }
}

/// Sends `text` on a connection and reads until the server closes it.
async fn exchange(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn both_versions_and_streams() {
    let server = start(tcp()).await;
    let http1 = legacy::Client::builder(TokioExecutor::new()).build_http();
    let http2 = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    for (client, version) in [(http1, Version::HTTP_11), (http2, Version::HTTP_2)] {
        let found = server.ask(&client, Method::GET, "/address", vec![]).await;
        assert_eq!(found, (version, StatusCode::OK, Bytes::from("127.0.0.1")));
        let posted = server.ask(&client, Method::POST, "/length", vec![0; 1 << 20]).await;
        assert_eq!(posted.2, "1048576");
        let large = server.ask(&client, Method::GET, "/large", vec![]).await;
        assert_eq!(large.2.len(), 1024 * 8192);
        assert!(large.2.iter().all(|byte| *byte == 7));
    }
}

#[tokio::test]
async fn keeps_alive_and_pipelines() {
    let server = start(tcp()).await;
    let one = "GET /address HTTP/1.1\r\nHost: a\r\n\r\n";
    let last = "GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = exchange(server.addresses[0], &format!("{one}{one}{last}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2);
    assert_eq!(answer.matches("HTTP/1.1 404 Not Found").count(), 1);
    assert_eq!(answer.matches("access-control-allow-origin: *").count(), 3);
}

#[tokio::test]
async fn refuses_what_is_too_large() {
    let server = start(tcp()).await;
    let announced = "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\nConnection: close\r\n\r\n";
    let answer = exchange(server.addresses[0], announced).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains(r#""errcode":"M_TOO_LARGE""#), "{answer}");
    let headers = format!("GET /address HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let mut stream = TcpStream::connect(server.addresses[0]).await.unwrap();
    // The server may close before it has read all.
    _ = stream.write_all(headers.as_bytes()).await;
    let mut answer = Vec::new();
    _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "), "{}", answer.escape_ascii());
}

#[tokio::test]
async fn believes_a_proxy_on_this_machine() {
    let server = start(tcp()).await;
    for (forwarded, address) in [
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::1"),
        ("unknown", "127.0.0.1"),
    ] {
        let request = format!("GET /address HTTP/1.0\r\nX-Forwarded-For: {forwarded}\r\n\r\n");
        assert!(exchange(server.addresses[0], &request).await.ends_with(&format!("\r\n\r\n{address}")), "{forwarded}");
    }
}

#[tokio::test]
async fn stop_lets_requests_finish() {
    let server = start(tcp()).await;
    let idle = TcpStream::connect(server.addresses[0]).await.unwrap();
    let request = "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n";
    let asking = tokio::spawn(exchange(server.addresses[0], request));
    server.toy.began.notified().await;
    server.stop.send(true).unwrap();
    // Who waits for the listening socket to close needs no clock: connecting fails from then on.
    while TcpStream::connect(server.addresses[0]).await.is_ok() {
        tokio::task::yield_now().await;
    }
    server.toy.go_on.notify_one();
    let answer = asking.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"), "{answer}");
    server.serving.await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let server = start(ListenOptions { max_connections: 1, ..tcp() }).await;
    let mut first = TcpStream::connect(server.addresses[0]).await.unwrap();
    first.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    server.toy.began.notified().await;
    let second = tokio::spawn(exchange(server.addresses[0], "GET /address HTTP/1.0\r\n\r\n"));
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    server.toy.go_on.notify_one();
    assert!(second.await.unwrap().ends_with("127.0.0.1"));
}

#[tokio::test]
async fn unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("conduit.sock");
    // What a server that was killed leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let unix = Some(UnixSocket { path: path.clone(), mode: 0o660 });
    let server = start(ListenOptions { unix: unix.clone(), ..ListenOptions::default() }).await;
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    assert!(listen::bind(&ListenOptions { unix, ..ListenOptions::default() }).await.is_err(), "it is in use");
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /address HTTP/1.0\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("203.0.113.9"), "{answer}");
    server.stop.send(true).unwrap();
    server.serving.await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn tls_with_http2_by_alpn() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let files = TlsFiles { certs: folder.join("cert.pem"), key: folder.join("key.pem") };
    let broken = TlsFiles { key: files.certs.clone(), ..files.clone() };
    assert!(listen::bind(&ListenOptions { tls: Some(broken), ..tcp() }).await.is_err());

    let server = start(ListenOptions { tls: Some(files.clone()), ..tcp() }).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.certs).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(server.addresses[0]).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://localhost/address").body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "127.0.0.1");
}

#[tokio::test]
async fn silent_connections_are_closed() {
    let moment = Duration::from_millis(20);
    let hasty = Timeouts { first_request: moment, idle: moment };
    let server = start(ListenOptions { timeouts: hasty, ..tcp() }).await;
    assert_eq!(exchange(server.addresses[0], "").await, "");
    let half = exchange(server.addresses[0], "GET /address HTTP/1.1\r\nHost:").await;
    assert!(!half.contains("200"), "{half}");

    let server = start(ListenOptions { timeouts: Timeouts { idle: moment, ..Timeouts::default() }, ..tcp() }).await;
    let kept = exchange(server.addresses[0], "GET /address HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(kept.ends_with("127.0.0.1"), "{kept}");
}

/// A client that goes away ends its handler.
#[tokio::test]
async fn handlers_end_with_their_client() {
    let server = start(tcp()).await;
    let asking = tokio::spawn({
        let address = server.addresses[0];
        async move { exchange(address, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await }
    });
    server.toy.began.notified().await;
    asking.abort();
    // It never goes on, and yet the server need not wait for it.
    server.stop.send(true).unwrap();
    server.serving.await.unwrap();
}
