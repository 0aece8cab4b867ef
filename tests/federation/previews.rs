//! Previews of web pages.

use bytes::Bytes;
use conduit::config::Config;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::{
    common::{Client, encode, net::TestNet, peer::Peer},
    media::picture,
};

fn page(html: &'static str) -> Response<Full<Bytes>> {
    Response::builder().header("content-type", "text/html; charset=utf-8").body(Full::new(html.into())).unwrap()
}

fn moved(to: &'static str) -> Response<Full<Bytes>> {
    Response::builder().status(302).header("location", to).body(Full::default()).unwrap()
}

fn enabled(config: &mut Config) {
    config.url_preview.enabled = true;
}

async fn preview(client: &Client, url: &str) -> (StatusCode, Value) {
    client.get(&format!("/_matrix/client/v1/media/preview_url?url={}", encode(url))).await
}

#[tokio::test]
async fn a_page_is_shown_with_its_picture_and_fetched_once() {
    let net = TestNet::new();
    let a = net.server_with("a", enabled).await;
    let alice = a.register("alice").await;
    let web = Peer::new(&net, "web").await;
    web.on("/page", |_| async {
        page("<title>plain</title><meta property=og:title content='A page'><meta property=og:image content=a.png>")
    });
    web.on("/a.png", |_| async {
        Response::builder().header("content-type", "image/png").body(Full::new(picture(40, 30).into())).unwrap()
    });
    let (status, shown) = preview(&alice, "https://web.test/page#part").await;
    assert_eq!(status, StatusCode::OK, "{shown}");
    assert_eq!(shown["og:title"], "A page");
    assert_eq!((&shown["og:image:width"], &shown["og:image:height"]), (&json!(40), &json!(30)));
    assert_eq!(shown["matrix:image:size"], picture(40, 30).len());
    let image = shown["og:image"].as_str().unwrap().strip_prefix("mxc://").unwrap();
    let path = format!("/_matrix/client/v1/media/download/{image}");
    assert_eq!(alice.full(Method::GET, &path, &[]).await.2, picture(40, 30));
    let old = format!("/_matrix/media/v3/preview_url?url={}", encode("https://web.test/page"));
    assert_eq!(alice.get(&old).await.1, shown);
    assert_eq!(net.wire("a", "web").passed(), ["GET /page", "GET /a.png"]);
}

#[tokio::test]
async fn what_is_no_page_or_leads_nowhere_is_empty_or_an_error() {
    let net = TestNet::new();
    let a = net.server_with("a", enabled).await;
    let alice = a.register("alice").await;
    let web = Peer::new(&net, "web").await;
    web.on("/moved", |_| async { moved("/there") });
    web.on("/there", |_| async { page("<title>There</title>") });
    web.on("/loop", |_| async { moved("https://web.test/loop") });
    web.on("/data", |_| async {
        Response::builder()
            .header("content-type", "application/pdf")
            .body(Full::new("<title>no</title>".into()))
            .unwrap()
    });
    web.on("/nopicture", |_| async {
        page("<title>T</title><meta property=og:image content=/data><meta property=og:image:width content=9>")
    });
    assert_eq!(preview(&alice, "https://web.test/moved").await.1, json!({ "og:title": "There" }));
    assert_eq!(preview(&alice, "https://web.test/data").await.1, json!({}));
    assert_eq!(preview(&alice, "https://web.test/missing").await.1, json!({}));
    assert_eq!(preview(&alice, "https://web.test/nopicture").await.1, json!({ "og:title": "T" }));
    assert_eq!(preview(&alice, "https://web.test/loop").await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(preview(&alice, "https://nowhere.test/").await.0, StatusCode::GATEWAY_TIMEOUT);
    for url in ["", "ftp://web.test/", "web.test", "https://user@web.test/", "https://"] {
        assert_eq!(preview(&alice, url).await.0, StatusCode::BAD_REQUEST, "{url}");
    }
    let (status, _) = preview(&a.anyone(), "https://web.test/there").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn nothing_is_fetched_where_the_administrator_does_not_want_it() {
    let net = TestNet::new();
    let web = Peer::new(&net, "web").await;
    let _sub = Peer::new(&net, "sub.web.test").await;
    web.on("/", |_| async { page("<title>T</title>") });
    let off = net.server("off").await;
    let denied = net
        .server_with("denied", |config| {
            enabled(config);
            config.url_preview.deny_domains = vec!["web.test".to_owned()];
        })
        .await;
    let private = net
        .server_with("private", |config| {
            enabled(config);
            config.ip_range_denylist = conduit::config::IpRange::private();
        })
        .await;
    for (server, name) in [(&off, "off"), (&denied, "denied")] {
        let alice = server.register("alice").await;
        for url in ["https://web.test/", "https://sub.web.test/"] {
            assert_eq!(preview(&alice, url).await, (StatusCode::OK, json!({})), "{name}");
        }
        assert!(net.wire(name, "web").passed().is_empty());
    }
    let alice = private.register("alice").await;
    for url in ["https://web.test/", "http://127.0.0.1/", "http://[::1]:8008/", "http://[::ffff:10.0.0.1]/"] {
        assert_eq!(preview(&alice, url).await.0, StatusCode::GATEWAY_TIMEOUT, "{url}");
    }
    assert!(net.wire("private", "web").passed().is_empty());
}
