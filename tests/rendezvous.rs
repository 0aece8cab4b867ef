//! Where two devices meet before one of them is logged in (MSC4108, MSC4388).

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Client, TestServer};

const WITH_HEADERS: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";
const WITH_JSON: &str = "/_matrix/client/unstable/io.element.msc4388/rendezvous";

/// A request with a text and headers; gives the status, the `ETag` and the body.
async fn exchange(
    client: &Client,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    text: &str,
) -> (u16, String, String) {
    let mut headers = headers.to_vec();
    headers.push(("content-type", "text/plain"));
    let (status, answered, body) = client.exchange(method, path, &headers, text.as_bytes().to_vec()).await;
    let etag = answered.get("etag").map_or("", |value| value.to_str().unwrap());
    (status.as_u16(), etag.to_owned(), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn messages_are_left_with_headers() {
    let server = TestServer::start().await;
    let client = server.anyone();
    let (status, headers, body) =
        client.exchange(Method::POST, WITH_HEADERS, &[("content-type", "text/plain")], b"hello".to_vec()).await;
    assert_eq!(status, StatusCode::CREATED);
    for name in ["etag", "expires", "last-modified"] {
        assert!(headers.contains_key(name), "{name}");
    }
    assert_eq!(
        (&headers["cache-control"], &headers["access-control-expose-headers"]),
        (&"no-store".parse().unwrap(), &"ETag".parse().unwrap())
    );
    let url = serde_json::from_slice::<Value>(&body).unwrap()["url"].as_str().unwrap().to_owned();
    let path = url.strip_prefix("https://localhost").unwrap();
    assert!(path.starts_with(WITH_HEADERS));

    let (status, first, text) = exchange(&client, Method::GET, path, &[], "").await;
    assert_eq!((status, text.as_str()), (200, "hello"));
    assert_eq!(exchange(&client, Method::GET, path, &[("if-none-match", &first)], "").await.0, 304);
    let (status, second, _) = exchange(&client, Method::PUT, path, &[("if-match", &first)], "answer").await;
    assert!(status == 202 && second != first);
    assert_eq!(exchange(&client, Method::PUT, path, &[("if-match", &first)], "late").await.0, 412);
    assert_eq!(exchange(&client, Method::PUT, path, &[], "blind").await.0, 400);
    let (status, _, text) = exchange(&client, Method::GET, path, &[("if-none-match", &first)], "").await;
    assert_eq!((status, text.as_str()), (200, "answer"));
    let long = "x".repeat(4097);
    assert_eq!(exchange(&client, Method::PUT, path, &[("if-match", &second)], &long).await.0, 413);
    assert_eq!(exchange(&client, Method::DELETE, path, &[], "").await.0, 204);
    assert_eq!(exchange(&client, Method::GET, path, &[], "").await.0, 404);
    assert_eq!(exchange(&client, Method::DELETE, path, &[], "").await.0, 404);
}

#[tokio::test]
async fn messages_are_left_as_json() {
    let server = TestServer::start().await;
    let client = server.anyone();
    assert_eq!(client.ok(Method::GET, WITH_JSON, Value::Null).await, json!({ "create_available": true }));
    let made = client.ok(Method::POST, WITH_JSON, json!({ "data": "hello" })).await;
    let path = format!("{WITH_JSON}/{}", made["id"].as_str().unwrap());
    let found = client.ok(Method::GET, &path, Value::Null).await;
    assert_eq!((&found["data"], &found["sequence_token"]), (&json!("hello"), &made["sequence_token"]));
    let left = found["expires_in_ms"].as_u64().unwrap();
    assert!((1..=300_000).contains(&left), "{left}");
    let write = |token: &Value, data: &str| {
        let (client, path) = (client.clone(), path.clone());
        let body = json!({ "sequence_token": token, "data": data });
        async move { client.put(&path, body).await }
    };
    let (status, answer) = write(&made["sequence_token"], "answer").await;
    assert_eq!(status, StatusCode::OK);
    let (status, conflict) = write(&made["sequence_token"], "late").await;
    assert_eq!(status, StatusCode::CONFLICT, "{conflict}");
    assert_eq!(conflict["errcode"], "IO_ELEMENT_MSC4388_CONCURRENT_WRITE");
    assert_eq!(write(&answer["sequence_token"], &"x".repeat(4097)).await.1["errcode"], "M_TOO_LARGE");
    assert_eq!(client.ok(Method::GET, &path, Value::Null).await["data"], "answer");
    client.ok(Method::DELETE, &path, Value::Null).await;
    assert_eq!(client.get(&path).await.1["errcode"], "M_NOT_FOUND");
}
