//! Logging in and out: `api/client/login.rs`, `login_token.rs`, `refresh.rs`, `logout.rs`, `password_management.rs`,
//! `account_deactivation.rs`.

use std::time::Duration;

use conduit::{
    config::Secret,
    store::{records::ThreePid, trees::ACCESS_TOKENS},
    users::{accounts, threepids, tokens},
};
use http::{Method, StatusCode};
use ring::hmac;
use ruma::{
    UserId,
    serde::{Base64, base64::UrlSafe},
};
use serde_json::{Value, json};

use crate::common::{Client, TestServer};

const LOGIN: &str = "/_matrix/client/v3/login";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

fn by_password(user: &str, password: &str) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
    })
}

async fn is_logged_in(client: &Client) -> bool {
    client.get(WHOAMI).await.0 == StatusCode::OK
}

#[tokio::test]
async fn with_a_password_in_every_form() {
    let server = TestServer::start().await;
    server.register("alice").await;
    let anyone = server.anyone();
    let (_, flows) = anyone.get(LOGIN).await;
    let kinds: Vec<_> = flows["flows"].as_array().unwrap().iter().map(|flow| flow["type"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"m.login.password") && kinds.contains(&"m.login.token"), "{flows}");

    for user in ["alice", "@alice:localhost", "@ALICE:localhost"] {
        let (status, answer) = anyone.post(LOGIN, by_password(user, "secret-alice")).await;
        assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!("@alice:localhost")), "{user}");
        assert!(is_logged_in(&anyone.logged_in(&answer)).await);
    }
    let old_form = json!({ "type": "m.login.password", "user": "alice", "password": "secret-alice" });
    assert_eq!(anyone.post(LOGIN, old_form).await.0, StatusCode::OK);

    let alice = UserId::parse("@alice:localhost").unwrap();
    let mail = ThreePid { medium: "email".into(), address: "alice@example.org".into(), validated_at: 1, added_at: 2 };
    server.handle.server().store.write(|tx| threepids::add(tx, &alice, mail)).unwrap();
    let by_mail = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.thirdparty", "medium": "email", "address": "Alice@Example.org" },
        "password": "secret-alice",
    });
    let (status, answer) = anyone.post(LOGIN, by_mail).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (_, threepids) = anyone.logged_in(&answer).get("/_matrix/client/v3/account/3pid").await;
    assert_eq!(threepids["threepids"][0]["address"], "alice@example.org");
    server.stop().await;
}

#[tokio::test]
async fn what_is_refused() {
    let server = TestServer::start().await;
    server.register("alice").await;
    let anyone = server.anyone();
    for (user, password) in [("alice", "wrong"), ("nobody", "secret-alice"), ("@alice:elsewhere", "secret-alice")] {
        let (status, answer) = anyone.post(LOGIN, by_password(user, password)).await;
        assert_eq!((status, answer["errcode"].as_str()), (StatusCode::FORBIDDEN, Some("M_FORBIDDEN")), "{user}");
    }
    for (body, code) in [
        (json!({}), "M_BAD_JSON"),
        (json!({ "type": "m.login.unheard" }), "M_UNKNOWN"),
        (json!({ "type": "m.login.password", "password": "x" }), "M_MISSING_PARAM"),
        (json!({ "type": "m.login.password", "user": "alice" }), "M_MISSING_PARAM"),
        (json!({ "type": 1 }), "M_BAD_JSON"),
    ] {
        let (status, answer) = anyone.post(LOGIN, body.clone()).await;
        assert_eq!((status, answer["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some(code)), "{body}");
    }
    let mut stranger = anyone.clone();
    assert_eq!(stranger.get(WHOAMI).await.1["errcode"], "M_MISSING_TOKEN");
    stranger.token = "unknown".into();
    let (status, answer) = stranger.get(WHOAMI).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::UNAUTHORIZED, Some("M_UNKNOWN_TOKEN")));
    server.stop().await;
}

#[tokio::test]
async fn a_device_has_one_token_at_a_time() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let mut body = by_password("alice", "secret-alice");
    body["device_id"] = json!("PHONE");
    body["initial_device_display_name"] = json!("Phone");
    let first = server.anyone().logged_in(&server.anyone().post(LOGIN, body.clone()).await.1);
    body["initial_device_display_name"] = json!("Another name");
    let second = server.anyone().logged_in(&server.anyone().post(LOGIN, body).await.1);
    assert_eq!(second.device_id, "PHONE");
    assert!(!is_logged_in(&first).await && is_logged_in(&second).await);
    let (_, device) = alice.get("/_matrix/client/v3/devices/PHONE").await;
    assert_eq!(device["display_name"], "Phone", "the name of a known device stays");

    assert_eq!(second.post("/_matrix/client/v3/logout", json!({})).await.0, StatusCode::OK);
    assert!(!is_logged_in(&second).await && is_logged_in(&alice).await);
    assert_eq!(alice.get("/_matrix/client/v3/devices/PHONE").await.0, StatusCode::NOT_FOUND);
    let other = server.login("alice").await;
    assert_eq!(alice.post("/_matrix/client/v3/logout/all", json!({})).await.0, StatusCode::OK);
    assert!(!is_logged_in(&other).await && !is_logged_in(&alice).await);
    server.stop().await;
}

#[tokio::test]
async fn refresh_can_be_repeated_until_it_worked() {
    let server = TestServer::start().await;
    server.register("alice").await;
    let anyone = server.anyone();
    let mut body = by_password("alice", "secret-alice");
    body["refresh_token"] = json!(true);
    let (_, login) = anyone.post(LOGIN, body).await;
    assert_eq!(login["expires_in_ms"], 3_600_000);
    let first = anyone.logged_in(&login);
    let refresh =
        async |token: &Value| anyone.post("/_matrix/client/v3/refresh", json!({ "refresh_token": token })).await;
    let using = |answer: &Value| {
        let mut client = first.clone();
        client.token = answer["access_token"].as_str().unwrap().into();
        client
    };

    let (status, lost) = refresh(&login["refresh_token"]).await;
    assert_eq!(status, StatusCode::OK, "{lost}");
    let (status, second) = refresh(&login["refresh_token"]).await;
    assert_eq!(status, StatusCode::OK, "the old refresh token works until the new tokens are used");
    assert!(!is_logged_in(&using(&lost)).await, "what was never used is void");
    assert!(is_logged_in(&first).await, "and so is nothing else");
    assert!(is_logged_in(&using(&second)).await);
    assert!(!is_logged_in(&first).await);
    assert_eq!(refresh(&login["refresh_token"]).await.0, StatusCode::UNAUTHORIZED);

    // Using the new refresh token counts as well.
    let (_, third) = refresh(&second["refresh_token"]).await;
    let (_, fourth) = refresh(&third["refresh_token"]).await;
    assert!(!is_logged_in(&using(&second)).await);
    assert!(is_logged_in(&using(&fourth)).await);
    let (status, answer) = refresh(&json!("unknown")).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::UNAUTHORIZED, Some("M_UNKNOWN_TOKEN")));
    server.stop().await;
}

#[tokio::test]
async fn an_expired_token_is_a_soft_logout() {
    let server = TestServer::start_with(|config| config.access_token_ttl = Duration::ZERO).await;
    server.register("alice").await;
    let mut body = by_password("alice", "secret-alice");
    body["refresh_token"] = json!(true);
    let (_, login) = server.anyone().post(LOGIN, body).await;
    let alice = server.anyone().logged_in(&login);
    let (status, answer) = alice.get(WHOAMI).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!((&answer["errcode"], &answer["soft_logout"]), (&json!("M_UNKNOWN_TOKEN"), &json!(true)));
    server.stop().await;
}

#[tokio::test]
async fn a_locked_account_is_told_so() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let id = UserId::parse(&alice.user_id).unwrap();
    let lock = |locked| {
        server.handle.server().store.write(|tx| accounts::update(tx, &id, |account| account.locked = locked)).unwrap();
    };
    lock(true);
    let (status, answer) = alice.get(WHOAMI).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!((&answer["errcode"], &answer["soft_logout"]), (&json!("M_USER_LOCKED"), &json!(true)));
    let (_, answer) = server.anyone().post(LOGIN, by_password("alice", "secret-alice")).await;
    assert_eq!(answer["errcode"], "M_USER_LOCKED");
    lock(false);
    assert!(is_logged_in(&alice).await);
    server.stop().await;
}

#[tokio::test]
async fn tokens_are_stored_as_hashes() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let read = server.handle.server().store.read();
    assert!(!ACCESS_TOKENS.contains(&read, &alice.token).unwrap());
    assert!(ACCESS_TOKENS.contains(&read, &tokens::hash(&alice.token)).unwrap());
    drop(read);
    server.stop().await;
}

#[tokio::test]
async fn a_login_token_works_once() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let path = "/_matrix/client/v1/login/get_token";
    let (status, challenge) = alice.post(path, json!({})).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let mut auth = by_password("alice", "secret-alice");
    auth["session"] = challenge["session"].clone();
    let token = alice.ok(Method::POST, path, json!({ "auth": auth })).await["login_token"].clone();
    let body = json!({ "type": "m.login.token", "token": token });
    let (status, answer) = server.anyone().post(LOGIN, body.clone()).await;
    assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!(alice.user_id)), "{answer}");
    assert_eq!(server.anyone().post(LOGIN, body).await.0, StatusCode::FORBIDDEN);
    server.stop().await;
}

fn jwt(secret: &str, claims: &Value) -> String {
    let part = |value: &Value| Base64::<UrlSafe, _>::new(value.to_string().into_bytes()).encode();
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", Base64::<UrlSafe, _>::new(tag.as_ref()).encode())
}

#[tokio::test]
async fn json_web_tokens_log_in() {
    let server = TestServer::start_with(|config| config.jwt_secret = Some(Secret::new("jwt"))).await;
    server.register("alice").await;
    let login =
        async |kind: &str, token: String| server.anyone().post(LOGIN, json!({ "type": kind, "token": token })).await;
    for (kind, user) in [("org.matrix.login.jwt", "alice"), ("m.login.token", "Alice"), ("org.matrix.login.jwt", "new")]
    {
        let (status, answer) = login(kind, jwt("jwt", &json!({ "sub": user }))).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["user_id"], format!("@{}:localhost", user.to_lowercase()));
    }
    let kind = "org.matrix.login.jwt";
    assert_eq!(login(kind, jwt("other", &json!({ "sub": "alice" }))).await.0, StatusCode::FORBIDDEN);
    assert_eq!(login(kind, jwt("jwt", &json!({ "sub": "alice", "exp": 1 }))).await.0, StatusCode::FORBIDDEN);
    assert_eq!(login(kind, "a.b.c".into()).await.0, StatusCode::FORBIDDEN);
    server.stop().await;
}

#[tokio::test]
async fn json_web_tokens_are_for_people() {
    let server = TestServer::start_with(|config| {
        config.jwt_secret = Some(Secret::new("jwt"));
        config.server_notices.user = "helper".to_owned();
    });
    let server = server.await;
    let running = server.handle.server();
    let yaml = "id: irc\nurl: null\nas_token: a\nhs_token: h\nsender_localpart: ircbot\nnamespaces:\n  users:\n  \
                - exclusive: true\n    regex: \"@irc_.*\"\n";
    running.appservices.add(&running.store, yaml).unwrap();
    for existing in [false, true] {
        for name in ["conduit", "@conduit:localhost", "helper", "irc_bob", "ircbot"] {
            let token = jwt("jwt", &json!({ "sub": name }));
            let (status, answer) =
                server.anyone().post(LOGIN, json!({ "type": "org.matrix.login.jwt", "token": token })).await;
            assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_EXCLUSIVE")), "{name}");
            if !existing && !name.starts_with('@') {
                let user = UserId::parse(format!("@{name}:localhost")).unwrap();
                running.store.write(|tx| accounts::ensure_server_user(tx, &user, "Server")).unwrap();
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn the_emergency_password_makes_an_administrator() {
    let server = TestServer::start_with(|config| config.emergency_password = Some(Secret::new("help"))).await;
    let (status, answer) = server.anyone().post(LOGIN, by_password("conduit", "help")).await;
    assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!("@conduit:localhost")), "{answer}");
    assert_eq!(server.anyone().post(LOGIN, by_password("conduit", "wrong")).await.0, StatusCode::FORBIDDEN);
    let directory = server.stop().await;
    let server = TestServer::start_in(directory, |_| {}).await;
    assert_eq!(server.anyone().post(LOGIN, by_password("conduit", "help")).await.0, StatusCode::FORBIDDEN);
    server.stop().await;
}

#[tokio::test]
async fn a_new_password_ends_the_other_logins() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let other = server.login("alice").await;
    let path = "/_matrix/client/v3/account/password";
    let change = |auth: &str, new: &str, logout: bool| json!({ "auth": by_password("alice", auth), "new_password": new, "logout_devices": logout });
    assert_eq!(alice.post(path, json!({ "new_password": "x" })).await.1["errcode"], "M_WEAK_PASSWORD");
    let (status, answer) = alice.post(path, change("wrong", "new-password", true)).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::UNAUTHORIZED, Some("M_FORBIDDEN")));
    assert!(is_logged_in(&other).await);
    alice.ok(Method::POST, path, change("secret-alice", "new-password", true)).await;
    assert!(!is_logged_in(&other).await && is_logged_in(&alice).await);
    assert_eq!(server.anyone().post(LOGIN, by_password("alice", "secret-alice")).await.0, StatusCode::FORBIDDEN);

    let (_, answer) = server.anyone().post(LOGIN, by_password("alice", "new-password")).await;
    let kept = server.anyone().logged_in(&answer);
    alice.ok(Method::POST, path, change("new-password", "third-password", false)).await;
    assert!(is_logged_in(&kept).await);
    // Who is logged out nowhere shows the old password instead of a token.
    let (status, answer) = server.anyone().post(path, change("third-password", "fourth-password", true)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(!is_logged_in(&alice).await);
    server.stop().await;
}

#[tokio::test]
async fn a_deactivated_account_is_gone() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let said = bob.send_text(&room, "forget me").await;
    let path = "/_matrix/client/v3/account/deactivate";
    let (status, challenge) = bob.post(path, json!({})).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(challenge["flows"], json!([{ "stages": ["m.login.password"] }]));
    assert_eq!(bob.post(path, json!({ "auth": by_password("bob", "wrong") })).await.0, StatusCode::UNAUTHORIZED);
    let answer = bob.ok(Method::POST, path, json!({ "auth": by_password("bob", "secret-bob"), "erase": true })).await;
    assert!(answer["id_server_unbind_result"].is_string());
    assert!(!is_logged_in(&bob).await);
    assert_eq!(server.anyone().post(LOGIN, by_password("bob", "secret-bob")).await.0, StatusCode::FORBIDDEN);
    let (_, answer) = server.anyone().get("/_matrix/client/v3/register/available?username=bob").await;
    assert_eq!(answer["errcode"], "M_USER_IN_USE");
    let members = alice.ok(Method::GET, &format!("/_matrix/client/v3/rooms/{room}/joined_members"), Value::Null).await;
    assert!(members["joined"].get("@bob:localhost").is_none(), "{members}");

    // What an erased user said stays with those who were there.
    let carol = server.register("carol").await;
    carol.join(&room).await;
    let path = format!("/_matrix/client/v3/rooms/{room}/event/{said}");
    assert_eq!(alice.get(&path).await.0, StatusCode::OK);
    assert_eq!(carol.get(&path).await.0, StatusCode::NOT_FOUND);
    server.stop().await;
}
