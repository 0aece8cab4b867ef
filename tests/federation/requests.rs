//! Signed requests, in and out.

use std::time::Duration;

use conduit::federation::{Failure, Limits};
use http::{Method, StatusCode};
use ruma::{
    ServerName,
    api::{error::ErrorKind, federation::discovery::get_server_version},
};
use serde_json::{Value, json};

use crate::common::{
    TestServer,
    net::{Fate, TestNet, name},
    peer::{Peer, answer},
};

/// An operation that is for servers alone, whatever it says beyond that.
const SIGNED: &str = "/_matrix/federation/v1/media/download/nothing";

fn limits(body: usize, timeout: Duration) -> Limits {
    Limits { body, timeout, redirects: 0 }
}

/// What `from` is told by `to` about its version.
async fn version(from: &TestServer, to: &str, limits: Limits) -> Result<String, Failure> {
    let to = ServerName::parse(name(to)).unwrap();
    let request = get_server_version::v1::Request::new();
    let response = from.handle.server().federation.send_with(&to, request, limits).await?;
    Ok(response.server.and_then(|server| server.name).unwrap_or_default())
}

#[tokio::test]
async fn servers_reach_each_other_and_not_when_they_are_cut_off() {
    let net = TestNet::new();
    let (a, _b) = (net.server("a").await, net.server("b").await);
    assert_eq!(version(&a, "b", Limits::default()).await.unwrap(), "conduit");
    let wire = net.wire("a", "b");
    assert_eq!(wire.passed(), ["GET /.well-known/matrix/server", "GET /_matrix/federation/v1/version"]);
    net.cut("a", "b");
    assert!(matches!(version(&a, "b", Limits::default()).await, Err(Failure::Unreachable(_))));
    net.heal("a", "b");
    assert_eq!(version(&a, "b", Limits::default()).await.unwrap(), "conduit");
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    assert!(version(&a, "b", Limits::default()).await.is_ok());
    let directory = b.stop().await;
    assert!(version(&a, "b", Limits::default()).await.is_err());
    let _b = net.start_in("b", directory, |_| {}).await;
    assert!(version(&a, "b", Limits::default()).await.is_ok());
}

#[tokio::test]
async fn what_is_not_for_us_or_not_rightly_signed_is_refused() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let (peer, other) = (Peer::new(&net, "peer").await, Peer::new(&net, "other").await);
    let anyone = a.anyone();
    let get = Method::GET;
    let unauthorized = |(status, _, body): (StatusCode, http::HeaderMap, Value)| {
        assert_eq!((status, &body["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_UNAUTHORIZED")), "{body}");
    };
    let (status, body) = anyone.get(SIGNED).await;
    assert_eq!((status, &body["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_UNAUTHORIZED")), "{body}");
    // For another server, with a right signature for that one.
    unauthorized(anyone.with(get.clone(), SIGNED, &peer.authorization("b.test", &get, SIGNED, None), None).await);
    // Of another path, another method, another body.
    unauthorized(anyone.with(get.clone(), SIGNED, &peer.authorization("a.test", &get, "/other", None), None).await);
    unauthorized(
        anyone.with(get.clone(), SIGNED, &peer.authorization("a.test", &Method::PUT, SIGNED, None), None).await,
    );
    let body = json!({ "a": 1 });
    unauthorized(
        anyone.with(get.clone(), SIGNED, &peer.authorization("a.test", &get, SIGNED, Some(&body)), None).await,
    );
    // In another's name.
    let forged = peer.authorization("a.test", &get, SIGNED, None).replace("peer.test", "other.test");
    unauthorized(anyone.with(get.clone(), SIGNED, &forged, None).await);
    let forged = forged.replace(peer.keys.id(), other.keys.id());
    unauthorized(anyone.with(get.clone(), SIGNED, &forged, None).await);
    // In ours, and of a server that is not there.
    let own = peer.authorization("a.test", &get, SIGNED, None).replace("peer.test", "a.test");
    unauthorized(anyone.with(get.clone(), SIGNED, &own, None).await);
    let nobody = peer.authorization("a.test", &get, SIGNED, None).replace("peer.test", "nobody.test");
    unauthorized(anyone.with(get, SIGNED, &nobody, None).await);
    for nonsense in
        ["X-Matrix", "X-Matrix origin=", "Bearer abc", "X-Matrix origin=\"a\",origin=\"b\",key=\"\",sig=\"\""]
    {
        unauthorized(anyone.with(Method::GET, SIGNED, nonsense, None).await);
    }
}

#[tokio::test]
async fn signatures_are_accepted_in_every_form_of_the_header() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let peer = Peer::new(&net, "peer").await;
    let quoted = peer.authorization("a.test", &Method::GET, SIGNED, None);
    let accepted = |header: String| {
        let anyone = a.anyone();
        async move {
            let (status, _, body) = anyone.with(Method::GET, SIGNED, &header, None).await;
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{header}: {body}");
        }
    };
    accepted(quoted.clone()).await;
    // Older servers put nothing in quotation marks, colons, slashes and all.
    accepted(quoted.replace('"', "")).await;
    accepted(quoted.replace(',', ", ").replace("X-Matrix", "x-matrix")).await;
    // Servers from before Matrix 1.3 do not say whom they ask.
    accepted(quoted.replace("destination=\"a.test\",", "")).await;
}

#[tokio::test]
async fn denied_servers_are_neither_asked_nor_answered() {
    let net = TestNet::new();
    let a = net.server_with("a", |config| config.denied_servers = vec!["*.test".to_owned()]).await;
    let peer = Peer::new(&net, "peer").await;
    assert!(matches!(version(&a, "peer", Limits::default()).await, Err(Failure::Denied)));
    let (status, body) = peer.ask(&a, Method::GET, SIGNED, None).await;
    assert_eq!((status, &body["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")));
    let alone = net.server_with("alone", |config| config.allow_federation = false).await;
    assert!(matches!(version(&alone, "peer", Limits::default()).await, Err(Failure::Denied)));
    let (status, _) = peer.ask(&alone, Method::GET, SIGNED, None).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(alone.anyone().get("/.well-known/matrix/server").await.0, StatusCode::NOT_FOUND);
    let friends = net.server_with("friends", |config| config.allowed_servers = vec!["peer.test".to_owned()]).await;
    assert!(!matches!(version(&friends, "peer", Limits::default()).await, Err(Failure::Denied)));
    assert!(matches!(version(&friends, "a", Limits::default()).await, Err(Failure::Denied)));
}

#[tokio::test]
async fn answers_that_are_huge_slow_wrong_or_elsewhere_are_failures() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let peer = Peer::new(&net, "peer").await;
    peer.on("/_matrix/federation/v1/version", |_| async {
        answer(200, &json!({ "server": { "name": "x".repeat(10_000) } }))
    });
    let failure = version(&a, "peer", limits(1_000, Duration::from_secs(10))).await.unwrap_err();
    assert!(matches!(&failure, Failure::Unreachable(why) if why.contains("larger")), "{failure}");
    assert_eq!(version(&a, "peer", limits(20_000, Duration::from_secs(10))).await.unwrap().len(), 10_000);
    peer.on("/_matrix/federation/v1/version", |_| async { answer(200, &json!([])) });
    assert!(matches!(version(&a, "peer", Limits::default()).await, Err(Failure::Malformed(_))));
    peer.on("/_matrix/federation/v1/version", |_| async {
        answer(403, &json!({ "errcode": "M_FORBIDDEN", "error": "not you" }))
    });
    let failure = version(&a, "peer", Limits::default()).await.unwrap_err();
    let Failure::Status { status, kind, message } = failure else { panic!("{failure}") };
    assert_eq!((status.as_u16(), kind, &*message), (403, Some(ErrorKind::Forbidden), "not you"));
    // Redirects of signed requests are not followed: they would be signed for somebody else.
    peer.on("/_matrix/federation/v1/version", |_| async {
        let mut elsewhere = answer(307, &json!({}));
        elsewhere.headers_mut().insert("location", "https://a.test/_matrix/federation/v1/version".parse().unwrap());
        elsewhere
    });
    let failure = version(&a, "peer", Limits::default()).await.unwrap_err();
    assert!(matches!(failure, Failure::Status { status, .. } if status == 307), "{failure}");
    net.wire("a", "peer").decide(|_| Fate::IsLate(Duration::from_secs(3600)));
    let failure = version(&a, "peer", limits(1_000, Duration::from_millis(200))).await.unwrap_err();
    assert!(matches!(&failure, Failure::Unreachable(why) if why.contains("in time")), "{failure}");
}

#[tokio::test]
async fn private_networks_are_not_reached_into_unless_they_are_allowed() {
    let net = TestNet::new();
    let private = |config: &mut conduit::config::Config| {
        config.ip_range_denylist = conduit::config::IpRange::private();
    };
    let a = net.server_with("a", private).await;
    let b = net
        .server_with("b", |config| {
            private(config);
            config.ip_range_allowlist = conduit::config::IpRange::private();
        })
        .await;
    let _peer = Peer::new(&net, "peer").await;
    let failure = version(&a, "peer", Limits::default()).await.unwrap_err();
    assert!(matches!(&failure, Failure::Unreachable(why) if why.contains("does not reach into")), "{failure}");
    assert!(net.wire("a", "peer").passed().is_empty());
    let failure = version(&b, "peer", Limits::default()).await.unwrap_err();
    assert!(matches!(failure, Failure::Status { .. }), "{failure}");
}

#[tokio::test]
async fn a_certificate_for_another_name_or_of_an_unknown_authority_is_refused() {
    let (net, elsewhere) = (TestNet::new(), TestNet::new());
    let _peer = Peer::new(&net, "peer").await;
    let a = net.server_with("a", |config| config.ca_certificates = vec![elsewhere.ca()]).await;
    let failure = version(&a, "peer", Limits::default()).await.unwrap_err();
    assert!(matches!(&failure, Failure::Unreachable(why) if why.contains("certificate")), "{failure}");
    let b = net.server("b").await;
    net.redirect("b", "peer", "a");
    let failure = version(&b, "peer", Limits::default()).await.unwrap_err();
    assert!(matches!(&failure, Failure::Unreachable(why) if why.contains("certificate")), "{failure}");
}
