//! The registration page.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{TOKEN, TestServer};

async fn submit(server: &TestServer, form: &str) -> (StatusCode, String) {
    let body = form.as_bytes().to_vec();
    let (status, body) =
        server.anyone().raw(Method::POST, "/register", "application/x-www-form-urlencoded", body).await;
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn people_sign_up_on_the_page() {
    let server = TestServer::start().await;
    server.register("admin").await;
    let (status, headers, body) = server.anyone().full(Method::GET, "/register?token=%22%3E%3Cscript%3E", &[]).await;
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains("value=\"&quot;&gt;&lt;script&gt;\""), "the token of the link is escaped: {body}");
    assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));

    let form = format!("token={TOKEN}&username=Alice&password=secret-alice&again=");
    let (status, page) = submit(&server, &format!("{form}other")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(page.contains("not the same") && page.contains("value=\"Alice\""), "{page}");
    let (status, page) = submit(&server, "token=wrong&username=alice&password=secret-alice&again=secret-alice").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(page.contains("token is not valid"), "{page}");

    let (status, page) = submit(&server, &format!("{form}secret-alice")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    assert!(page.contains("@alice:localhost"));
    server.login("alice").await;
    assert_eq!(submit(&server, &format!("{form}secret-alice")).await.0, StatusCode::BAD_REQUEST, "the name is taken");
    server.stop().await;
}

#[tokio::test]
async fn the_first_account_administrates_and_then_the_door_closes() {
    let server = TestServer::start_with(|config| {
        config.allow_registration = false;
        config.registration_token = None;
    })
    .await;
    let token = conduit::users::registration_tokens::first_start(&server.handle.server().store).unwrap().unwrap();
    let form = format!("token={token}&username=root&password=secret-root&again=secret-root");
    assert_eq!(submit(&server, &form).await.0, StatusCode::OK);
    let state = server.handle.server().clone();
    let user = ruma::user_id!("@root:localhost");
    assert!(conduit::users::accounts::require(&state.store.read(), user).unwrap().admin);
    drop(state);
    assert_eq!(submit(&server, &form.replace("root", "two")).await.0, StatusCode::FORBIDDEN);
    let (status, answer) = server.anyone().post("/_matrix/client/v3/register", json!({ "username": "x" })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &Value::from("M_FORBIDDEN")));
    server.stop().await;
}
