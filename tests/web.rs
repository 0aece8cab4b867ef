//! The registration page, and the pages for clients that have no forms of their own: `web/fallback.rs`, `web/login.rs`.

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

fn stage(kind: &str, session: &Value) -> String {
    format!("/_matrix/client/v3/auth/{kind}/fallback/web?session={}", session.as_str().unwrap())
}

/// The page at an address, as it comes or after its form was sent; its script must be one that the policy lets run.
async fn page(server: &TestServer, path: &str, form: Option<&str>) -> (StatusCode, String) {
    let (method, headers) = match form {
        None => (Method::GET, &[][..]),
        Some(_) => (Method::POST, &[("content-type", "application/x-www-form-urlencoded")][..]),
    };
    let body = form.unwrap_or_default().as_bytes().to_vec();
    let (status, headers, body) = server.anyone().exchange(method, path, headers, body).await;
    let (policy, body) =
        (headers["content-security-policy"].to_str().unwrap(), String::from_utf8(body.to_vec()).unwrap());
    match body.split_once("<script nonce=\"") {
        Some((_, rest)) => {
            assert!(policy.contains(&format!("'nonce-{}'", rest.split_once('"').unwrap().0)), "{policy}")
        }
        None => assert!(!policy.contains("script-src") && !body.contains("<script"), "{body}"),
    }
    (status, body)
}

#[tokio::test]
async fn a_password_is_shown_on_a_page_that_says_what_for() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let (path, what) = ("/_matrix/client/v3/delete_devices", json!({ "devices": ["TABLET"] }));
    let (status, challenge) = alice.post(path, what.clone()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{challenge}");
    let address = stage("m.login.password", &challenge["session"]);
    let (status, form) = page(&server, &address, None).await;
    assert!(status == StatusCode::OK && form.contains("@alice:localhost") && form.contains("TABLET"), "{form}");
    let (status, form) = page(&server, &address, Some("password=wrong")).await;
    assert!(status == StatusCode::UNAUTHORIZED && form.contains("is wrong") && form.contains("<form"), "{form}");
    let again = json!({ "devices": ["TABLET"], "auth": { "session": challenge["session"] } });
    assert_eq!(alice.post(path, again.clone()).await.0, StatusCode::UNAUTHORIZED);
    let (status, done) = page(&server, &address, Some("password=secret-alice")).await;
    assert!(status == StatusCode::OK && done.contains("onAuthDone") && done.contains("authDone"), "{done}");
    assert_eq!(alice.post(path, again.clone()).await.0, StatusCode::OK);
    assert_eq!(alice.post(path, again).await.0, StatusCode::UNAUTHORIZED, "good for one time");
    server.stop().await;
}

#[tokio::test]
async fn people_register_through_pages() {
    let server = TestServer::start().await;
    server.register("admin").await;
    let wanted = json!({ "username": "bob", "password": "secret-bob" });
    let path = "/_matrix/client/v3/register";
    let session = server.anyone().post(path, wanted.clone()).await.1["session"].clone();
    let address = stage("m.login.registration_token", &session);
    assert_eq!(page(&server, &address, None).await.0, StatusCode::OK);
    let (status, form) = page(&server, &address, Some("token=wrong")).await;
    assert!(status == StatusCode::FORBIDDEN && form.contains("not valid"), "{form}");
    let (status, done) = page(&server, &address, Some(&format!("token={TOKEN}"))).await;
    assert!(status == StatusCode::OK && done.contains("onAuthDone"), "{done}");
    // A stage that is in no flow changes nothing.
    assert!(page(&server, &stage("m.login.dummy", &session), Some("")).await.1.contains("onAuthDone"));
    let mut again = wanted;
    again["auth"] = json!({ "session": session });
    assert_eq!(server.anyone().post(path, again).await.0, StatusCode::OK);
    server.login("bob").await;
    server.stop().await;
}

#[tokio::test]
async fn what_has_no_page() {
    let server = TestServer::start().await;
    server.register("alice").await;
    let deactivate = "/_matrix/client/v3/account/deactivate";
    let session = server.anyone().post(deactivate, json!({})).await.1["session"].clone();
    // Nobody is to confirm with their password what somebody else does who is not logged in.
    for form in [None, Some("password=secret-alice")] {
        assert_eq!(page(&server, &stage("m.login.password", &session), form).await.0, StatusCode::NOT_FOUND);
        assert_eq!(page(&server, &stage("m.login.recaptcha", &session), form).await.0, StatusCode::NOT_FOUND);
        assert_eq!(page(&server, &stage("m.login.dummy", &json!("none")), form).await.0, StatusCode::FORBIDDEN);
    }
    server.stop().await;
}

#[tokio::test]
async fn clients_that_cannot_log_in_show_a_page() {
    let server = TestServer::start().await;
    for path in ["/_matrix/static/client/login/?device_id=X", "/_matrix/static/client/login"] {
        let (status, body) = page(&server, path, None).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("matrixLogin") && !body.contains("sso/redirect"), "{body}");
    }
    server.stop().await;
}
