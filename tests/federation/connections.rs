//! Connections: addresses that do not answer, proxies, peers that stall.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use conduit::{
    config::{Config, IpRange, ProxyUrl},
    outgoing::{Limits, Network, Outgoing, Reach, Unreachable, Ways},
};
use http::Request;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use crate::common::{dns::Dns, net::TestNet};

fn client(network: Network, change: impl FnOnce(&mut Config)) -> Outgoing {
    let folder = TempDir::new().unwrap();
    let mut config =
        Config { database_path: folder.path().to_owned(), ip_range_denylist: Vec::new(), ..Config::default() };
    change(&mut config);
    Outgoing::new(Ways::new(&config).unwrap(), network)
}

async fn get(client: &Outgoing, url: &str, timeout: Duration) -> Result<String, Unreachable> {
    let request = Request::get(url).body(Bytes::new()).unwrap();
    let limits = Limits { body: 10_000, timeout, redirects: 0 };
    let answer = client.request(Reach::Public, request, limits).await?;
    Ok(String::from_utf8_lossy(answer.body()).into_owned())
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// Answers whatever comes first on a connection with `answer`, which may be HTTP or not, and keeps it open.
async fn saying(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() && stream.write_all(answer).await.is_ok() {
                open.push(stream);
            }
        }
    });
    address
}

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_host_is_reached_at_the_address_that_answers() {
    let port = saying(HELLO).await.port();
    let dns = Dns::start().await;
    // The first address refuses: nothing listens on IPv6.
    dns.at("host.test", "::1");
    dns.at("host.test", "127.0.0.1");
    let client = client(Network::Resolver(dns.address), |_| {});
    assert_eq!(get(&client, &format!("http://host.test:{port}/"), LONG).await.unwrap(), "hello");
}

#[tokio::test]
async fn peers_that_stall_or_never_end_are_given_up() {
    let client = client(Network::System, |_| {});
    let silent = saying(b"").await;
    for scheme in ["http", "https"] {
        let error = get(&client, &format!("{scheme}://{silent}/"), SHORT).await.unwrap_err();
        assert!(error.why.contains("in time"), "{scheme}: {error}");
    }
    let half = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nhalf").await;
    assert!(get(&client, &format!("http://{half}/"), SHORT).await.unwrap_err().why.contains("in time"));
    let nonsense = saying(b"220 mail.example.org ESMTP\r\n").await;
    assert!(get(&client, &format!("http://{nonsense}/"), LONG).await.is_err());

    let endless = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = endless.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = endless.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        while stream.write_all(b"400\r\n").await.is_ok()
            && stream.write_all(&[b'x'; 0x400]).await.is_ok()
            && stream.write_all(b"\r\n").await.is_ok()
        {}
    });
    let error = get(&client, &format!("http://{address}/"), LONG).await.unwrap_err();
    assert!(error.why.contains("larger"), "{error}");
    let headers = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = headers.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = headers.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while stream.write_all(b"x-padding: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").await.is_ok() {}
    });
    assert!(get(&client, &format!("http://{address}/"), LONG).await.is_err());
}

/// A proxy that notes whom it connects to, and leads all of them to `target`.
async fn proxy(target: SocketAddr, socks: bool) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let wanted = if socks { socks_handshake(&mut stream).await } else { connect_handshake(&mut stream).await };
            notes.lock().push(wanted);
            let mut far = TcpStream::connect(target).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut stream, &mut far).await });
        }
    });
    (address, asked)
}

async fn connect_handshake(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    String::from_utf8(head).unwrap()
}

async fn socks_handshake(stream: &mut TcpStream) -> String {
    let mut hello = [0; 3];
    stream.read_exact(&mut hello).await.unwrap();
    stream.write_all(&[5, 0]).await.unwrap();
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.unwrap();
    let host = if head[3] == 3 {
        let mut name = vec![0; usize::from(stream.read_u8().await.unwrap())];
        stream.read_exact(&mut name).await.unwrap();
        String::from_utf8(name).unwrap()
    } else {
        let mut octets = [0; 4];
        stream.read_exact(&mut octets).await.unwrap();
        std::net::Ipv4Addr::from(octets).to_string()
    };
    let port = stream.read_u16().await.unwrap();
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
    format!("{host}:{port}")
}

fn through(url: String) -> impl FnOnce(&mut Config) {
    move |config| config.proxy.global.url = Some(ProxyUrl::new(url))
}

#[tokio::test]
async fn requests_go_through_the_proxy_by_name_or_by_address() {
    let target = saying(HELLO).await;
    let dns = Dns::start().await;
    dns.here("host.test");
    let network = || Network::Resolver(dns.address);

    let (address, asked) = proxy(target, true).await;
    let client_by_name = client(network(), through(format!("socks5h://{address}")));
    assert_eq!(get(&client_by_name, "http://host.test:81/", LONG).await.unwrap(), "hello");
    assert_eq!(*asked.lock(), ["host.test:81"]);
    assert!(dns.queries().is_empty(), "the name was looked up around the proxy");

    let (address, asked) = proxy(target, true).await;
    let client_by_address = client(network(), through(format!("socks5://{address}")));
    assert_eq!(get(&client_by_address, "http://host.test:81/", LONG).await.unwrap(), "hello");
    assert_eq!(*asked.lock(), ["127.0.0.1:81"]);

    let (address, asked) = proxy(target, false).await;
    let with_login = client(network(), through(format!("http://user:secret@{address}")));
    assert_eq!(get(&with_login, "http://host.test:81/", LONG).await.unwrap(), "hello");
    let head = asked.lock().pop().unwrap();
    assert!(head.starts_with("CONNECT host.test:81 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Basic dXNlcjpzZWNyZXQ=\r\n"), "{head}");
}

/// A proxy that resolves names must not be a way around `ip_range_denylist` for addresses, however they are written.
#[tokio::test]
async fn what_is_not_reached_is_not_reached_through_a_proxy() {
    let target = saying(HELLO).await;
    let (address, asked) = proxy(target, true).await;
    let public = client(Network::System, |config| {
        config.ip_range_denylist = IpRange::private();
        through(format!("socks5h://{address}"))(config);
    });
    for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f000001", "127.0.0.1."] {
        let error = get(&public, &format!("http://{host}:81/"), LONG).await.unwrap_err();
        assert!(error.why.contains("does not reach into"), "{host}: {error}");
    }
    assert!(asked.lock().is_empty(), "{asked:?}");
    for host in ["8.8.8.8", "1password.test"] {
        assert_eq!(get(&public, &format!("http://{host}:81/"), LONG).await.unwrap(), "hello");
    }
    assert_eq!(*asked.lock(), ["8.8.8.8:81", "1password.test:81"]);
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(Mutex::new(0));
    let count = connections.clone();
    let target = a.address;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            *count.lock() += 1;
            let mut far = TcpStream::connect(target).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let client = client(Network::System, |_| {});
    for _ in 0..5 {
        get(&client, &format!("http://{address}/_matrix/federation/v1/version"), LONG).await.unwrap();
    }
    assert_eq!(*connections.lock(), 1);
}
