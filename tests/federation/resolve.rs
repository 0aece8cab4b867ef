//! Finding servers: the well-known file, SRV records, ports; and resolvers that are slow.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use conduit::{
    config::Config,
    federation::{Failure, Limits},
    outgoing::{self, Network, Outgoing, Reach, Ways},
};
use hickory_resolver::proto::rr::RecordType;
use http::Request;
use ruma::{ServerName, api::federation::discovery::get_server_version};
use serde_json::json;
use tempfile::TempDir;

use crate::common::{
    TestServer,
    dns::Dns,
    net::{TestNet, name},
    peer::{Peer, answer},
};

/// The port in the Host header with which `from` asks `to` for its version, as `to` tells it.
async fn host_asked(from: &TestServer, to: &str) -> Result<String, Failure> {
    let to = ServerName::parse(name(to)).unwrap();
    let request = get_server_version::v1::Request::new();
    let response = from.handle.server().federation.send_with(&to, request, Limits::default()).await?;
    Ok(response.server.unwrap().version.unwrap())
}

/// A peer that tells under which name it was asked.
async fn telling_peer(net: &TestNet, short: &str) -> Peer {
    let peer = Peer::new(net, short).await;
    peer.on("/_matrix/federation/v1/version", |request| async move {
        let host = request.headers().get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
        let host = host.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap_or_default();
        answer(200, &json!({ "server": { "version": host } }))
    });
    peer
}

fn delegates_to(peer: &Peer, target: &'static str) {
    peer.on("/.well-known/matrix/server", move |_| async move { answer(200, &json!({ "m.server": target })) });
}

#[tokio::test]
async fn the_well_known_file_names_who_answers() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let front = Peer::new(&net, "front").await;
    let _back = telling_peer(&net, "back").await;
    delegates_to(&front, "back.test:8443");
    assert_eq!(host_asked(&a, "front").await.unwrap(), "back.test:8443");
    // What it said is remembered.
    assert_eq!(host_asked(&a, "front").await.unwrap(), "back.test:8443");
    assert_eq!(net.wire("a", "front").passed(), ["GET /.well-known/matrix/server"]);
}

#[tokio::test]
async fn the_file_is_found_through_redirects_but_not_through_loops() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let (front, loops) = (Peer::new(&net, "front").await, telling_peer(&net, "loops").await);
    let _back = telling_peer(&net, "back").await;
    front.on("/.well-known/matrix/server", |_| async {
        let mut moved = answer(301, &json!({}));
        moved.headers_mut().insert("location", "/elsewhere".parse().unwrap());
        moved
    });
    front.on("/elsewhere", |_| async { answer(200, &json!({ "m.server": "back.test" })) });
    assert_eq!(host_asked(&a, "front").await.unwrap(), "back.test");
    loops.on("/.well-known/matrix/server", |_| async {
        let mut moved = answer(302, &json!({}));
        moved.headers_mut().insert("location", "https://loops.test/.well-known/matrix/server".parse().unwrap());
        moved
    });
    assert_eq!(host_asked(&a, "loops").await.unwrap(), "loops.test");
    let asked = net.wire("a", "loops").passed().len();
    assert!(asked <= 12, "{asked} requests");
}

#[tokio::test]
async fn a_file_that_is_no_such_file_is_as_none() {
    let net = TestNet::new();
    let a = net.server("a").await;
    for (index, file) in
        [json!({}), json!([]), json!({ "m.server": "" }), json!({ "m.server": "a b" })].iter().enumerate()
    {
        let short = format!("peer{index}");
        let peer = telling_peer(&net, &short).await;
        let file = file.clone();
        peer.on("/.well-known/matrix/server", move |_| {
            let file = file.clone();
            async move { answer(200, &file) }
        });
        assert_eq!(host_asked(&a, &short).await.unwrap(), format!("{short}.test"));
    }
    let huge = telling_peer(&net, "huge").await;
    huge.on("/.well-known/matrix/server", |_| async {
        answer(200, &json!({ "m.server": "back.test", "padding": "x".repeat(60 * 1024) }))
    });
    assert_eq!(host_asked(&a, "huge").await.unwrap(), "huge.test");
}

#[tokio::test]
async fn a_port_in_the_name_is_final() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let peer = telling_peer(&net, "peer").await;
    delegates_to(&peer, "elsewhere.test");
    let to = ServerName::parse("peer.test:1234").unwrap();
    let request = get_server_version::v1::Request::new();
    let response = a.handle.server().federation.send(&to, request).await.unwrap();
    assert_eq!(response.server.unwrap().version.unwrap(), "peer.test:1234");
    assert_eq!(net.wire("a", "peer").passed(), ["GET /_matrix/federation/v1/version"]);
}

#[tokio::test]
async fn srv_records_name_host_and_port_and_the_certificate_is_for_the_server() {
    let net = TestNet::new();
    let dns = Dns::start().await;
    let a = net.server_at("a", Network::Resolver(dns.address)).await;
    let _peer = telling_peer(&net, "peer").await;
    let port = net.open("peer").await.port();
    dns.here("host.test");
    // Nothing listens at the first; the old name of the service is not looked at once the new one is there.
    dns.service("_matrix-fed._tcp.peer.test", 10, "host.test", 1);
    dns.service("_matrix-fed._tcp.peer.test", 20, "host.test", port);
    dns.service("_matrix._tcp.peer.test", 0, "host.test", 2);
    assert_eq!(host_asked(&a, "peer").await.unwrap(), "peer.test");
    assert!(!dns.queries().contains(&("_matrix._tcp.peer.test".to_owned(), RecordType::SRV)));

    let _old = telling_peer(&net, "old").await;
    let port = net.open("old").await.port();
    dns.service("_matrix._tcp.old.test", 0, "host.test", port);
    assert_eq!(host_asked(&a, "old").await.unwrap(), "old.test");

    // A record that leads to somebody else's server is not believed: the certificate there is for another name.
    dns.service("_matrix-fed._tcp.stolen.test", 0, "host.test", port);
    let failure = host_asked(&a, "stolen").await.unwrap_err();
    assert!(matches!(&failure, Failure::Unreachable(why) if why.contains("certificate")), "{failure}");
}

#[tokio::test]
async fn names_are_asked_for_once_and_remembered() {
    let net = TestNet::new();
    let dns = Dns::start().await;
    let a = net.server_at("a", Network::Resolver(dns.address)).await;
    let _peer = telling_peer(&net, "peer").await;
    let port = net.open("peer").await.port();
    dns.here("host.test");
    dns.service("_matrix-fed._tcp.peer.test", 0, "host.test", port);
    let asked = futures_util::future::join_all((0..20).map(|_| host_asked(&a, "peer"))).await;
    assert!(asked.iter().all(Result::is_ok), "{asked:?}");
    let mut queries = dns.queries();
    let count = queries.len();
    queries.sort();
    queries.dedup();
    assert_eq!(queries.len(), count, "asked twice: {queries:?}");
}

#[tokio::test]
async fn a_resolver_that_drops_what_comes_too_fast_is_asked_more_slowly() {
    let dns = Dns::start().await;
    let folder = TempDir::new().unwrap();
    let config = Config { database_path: folder.path().to_owned(), ip_range_denylist: Vec::new(), ..Config::default() };
    let outgoing = Arc::new(Outgoing::new(Ways::new(&config).unwrap(), Network::Resolver(dns.address)));
    let names: Vec<_> = (0..150).map(|index| format!("host{index}.test")).collect();
    names.iter().for_each(|name| dns.here(name));
    dns.limit(10);
    let limits = outgoing::Limits { timeout: Duration::from_secs(60), ..outgoing::Limits::default() };
    let asked = names.iter().map(|name| {
        let request = Request::get(format!("http://{name}:1/")).body(Bytes::new()).unwrap();
        outgoing.request(Reach::Public, request, limits)
    });
    for answer in futures_util::future::join_all(asked).await {
        // Every name is found; nothing listens there.
        let error = answer.unwrap_err();
        assert!(error.why.contains("refused"), "{error}");
    }
}
