//! Figures for programs that watch over the server (`web/metrics.rs`).

use http::{Method, StatusCode};

use crate::common::{Client, TestServer};

/// The figures, by name with labels.
async fn figures(client: &Client) -> Vec<(String, f64)> {
    let (status, headers, body) = client.full(Method::GET, "/metrics", &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8(body.to_vec()).unwrap();
    let values = text.lines().filter(|line| !line.starts_with("# "));
    let parsed = values.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    });
    parsed.collect()
}

#[tokio::test]
async fn figures_are_given_at_an_address_of_their_own() {
    let server = TestServer::start_with(|config| config.metrics.address = "127.0.0.1:0".parse().ok()).await;
    let metrics = Client::new(format!("http://{}", server.handle.metrics_address().unwrap()));
    let value = async |name: &str| {
        let all = figures(&metrics).await;
        let found = all.iter().find(|(found, _)| found == name);
        found.unwrap_or_else(|| panic!("{name} is not among {all:?}")).1
    };
    let before = value("conduit_requests_total{status=\"4xx\"}").await;
    let position = value("conduit_stream_position").await;
    let alice = server.register("alice").await;
    alice.create_room(serde_json::json!({})).await;
    let unknown = "/_matrix/client/v3/account/whoami";
    assert_eq!(server.anyone().get(unknown).await.0, StatusCode::UNAUTHORIZED);
    assert!(value("conduit_requests_total{status=\"4xx\"}").await > before);
    assert!(value("conduit_requests_total{status=\"2xx\"}").await > 1.0);
    assert!(value("conduit_stream_position").await > position);
    for name in ["conduit_info{version=\"0.1.0\"}", "conduit_memory_budget_bytes", "process_resident_memory_bytes"] {
        assert!(value(name).await >= 1.0, "{name}");
    }
    for name in ["conduit_unreached_servers", "conduit_waiting_clients", "conduit_uptime_seconds"] {
        assert!(value(name).await >= 0.0, "{name}");
    }
    assert!(figures(&metrics).await.iter().any(|(name, _)| name.starts_with("conduit_disk_bytes{part=\"")));
    assert_eq!(metrics.get("/_matrix/client/versions").await.0, StatusCode::NOT_FOUND, "nothing else is there");
    assert_eq!(server.anyone().get("/metrics").await.0, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn without_an_address_there_are_none() {
    let server = TestServer::start().await;
    assert_eq!(server.handle.metrics_address(), None);
    assert_eq!(server.anyone().get("/metrics").await.0, StatusCode::NOT_FOUND);
    server.stop().await;
}
