//! Making accounts: `api/client/registration.rs`, `registration_tokens.rs`, `api/synapse_admin.rs`.

use conduit::{
    admin::Command,
    clock,
    store::{
        Direction,
        records::RegistrationToken,
        trees::{ACCOUNTS, REGISTRATION_TOKENS, SIGN_UPS},
    },
    users::registration_tokens,
};
use http::{Method, StatusCode};
use ring::hmac;
use ruma::UserId;
use serde_json::{Value, json};

use crate::{
    common::{Client, TOKEN, TestServer},
    federation::joins::until,
};

const REGISTER: &str = "/_matrix/client/v3/register";

fn open(config: &mut conduit::config::Config) {
    config.registration_token = None;
    config.allow_open_registration_without_token = true;
}

fn dummy(name: &str) -> Value {
    json!({ "username": name, "password": "sUp3rs3kr1t", "auth": { "type": "m.login.dummy" } })
}

fn with_token(name: &str, token: &str) -> Value {
    json!({
        "username": name,
        "password": "sUp3rs3kr1t",
        "auth": { "type": "m.login.registration_token", "token": token },
    })
}

#[tokio::test]
async fn open_registration_takes_a_dummy_without_a_session() {
    let server = TestServer::start_with(open).await;
    let anyone = server.anyone();
    let (status, challenge) = anyone.post(REGISTER, json!({})).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(challenge["session"].is_string() && challenge["params"].is_object());
    let stages: Vec<_> = challenge["flows"].as_array().unwrap().iter().map(|flow| flow["stages"].clone()).collect();
    assert!(stages.contains(&json!(["m.login.dummy"])), "{challenge}");

    let (status, answer) = anyone.post(REGISTER, dummy("user-UPPER")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["user_id"], "@user-upper:localhost");
    let (status, answer) = anyone.logged_in(&answer).get("/_matrix/client/v3/account/whoami").await;
    assert_eq!((status, answer["user_id"].as_str()), (StatusCode::OK, Some("@user-upper:localhost")));

    let (status, answer) = anyone.post(REGISTER, dummy("user-upper")).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some("M_USER_IN_USE")));
    server.stop().await;
}

#[tokio::test]
async fn names_follow_the_grammar() {
    let server = TestServer::start_with(open).await;
    let anyone = server.anyone();
    for bad in [
        "a!b",
        "a\"b",
        "a:b",
        "a?b",
        "a\\b",
        "a@b",
        "a[b",
        "a{b",
        "a|b",
        "a£b",
        "é",
        "a\nb",
        "a'b",
        "",
        "_a",
        "@a:elsewhere",
    ] {
        let (status, answer) = anyone.post(REGISTER, dummy(bad)).await;
        assert_eq!(
            (status, answer["errcode"].as_str()),
            (StatusCode::BAD_REQUEST, Some("M_INVALID_USERNAME")),
            "{bad}"
        );
    }
    let (_, answer) = anyone.post(REGISTER, dummy(&"a".repeat(300))).await;
    assert_eq!(answer["errcode"], "M_INVALID_USERNAME");
    let (_, answer) = anyone.post(REGISTER, dummy("conduit")).await;
    assert_eq!(answer["errcode"], "M_EXCLUSIVE");
    for good in ["q3._=-/+", "@whole:localhost"] {
        let (status, answer) = anyone.post(REGISTER, dummy(good)).await;
        assert_eq!(status, StatusCode::OK, "{good}: {answer}");
    }
    let available = |name: &str| format!("{REGISTER}/available?username={name}");
    assert_eq!(anyone.get(&available("free")).await, (StatusCode::OK, json!({ "available": true })));
    assert_eq!(anyone.get(&available("whole")).await.1["errcode"], "M_USER_IN_USE");
    assert_eq!(anyone.get(&available("a,b")).await.1["errcode"], "M_INVALID_USERNAME");
    server.stop().await;
}

#[tokio::test]
async fn parameters_are_checked_before_and_kept() {
    let server = TestServer::start_with(open).await;
    let anyone = server.anyone();
    let short = json!({ "username": "a", "password": "short", "auth": { "type": "m.login.dummy" } });
    assert_eq!(anyone.post(REGISTER, short).await.1["errcode"], "M_WEAK_PASSWORD");
    let none = json!({ "username": "a", "auth": { "type": "m.login.dummy" } });
    assert_eq!(anyone.post(REGISTER, none).await.1["errcode"], "M_MISSING_PARAM");

    let mut body = dummy("device");
    body["device_id"] = json!("my_device");
    body["initial_device_display_name"] = json!("Jungle Phone");
    let (_, answer) = anyone.post(REGISTER, body).await;
    assert_eq!(answer["device_id"], "my_device");
    let (_, device) = anyone.logged_in(&answer).get("/_matrix/client/v3/devices/my_device").await;
    assert_eq!(device["display_name"], "Jungle Phone");

    let mut body = dummy("inhibited");
    body["inhibit_login"] = json!(true);
    assert_eq!(anyone.post(REGISTER, body).await, (StatusCode::OK, json!({ "user_id": "@inhibited:localhost" })));

    let mut nameless = dummy("");
    nameless.as_object_mut().unwrap().remove("username");
    let (status, answer) = anyone.post(REGISTER, nameless).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let appservice = json!({ "type": "m.login.application_service", "username": "bridge" });
    assert_eq!(anyone.post(REGISTER, appservice).await.0, StatusCode::UNAUTHORIZED);
    server.stop().await;
}

#[tokio::test]
async fn a_finished_session_answers_again_with_the_same_account() {
    let server = TestServer::start_with(open).await;
    let anyone = server.anyone();
    let mut body = dummy("once");
    body.as_object_mut().unwrap().remove("auth");
    let (_, challenge) = anyone.post(REGISTER, body.clone()).await;
    body["auth"] = json!({ "type": "m.login.dummy", "session": challenge["session"] });
    let (status, first) = anyone.post(REGISTER, body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{first}");
    let (status, second) = anyone.post(REGISTER, body).await;
    assert_eq!(status, StatusCode::OK, "{second}");
    assert_eq!((&first["user_id"], &first["device_id"]), (&second["user_id"], &second["device_id"]));
    let (status, _) = anyone.logged_in(&second).get("/_matrix/client/v3/account/whoami").await;
    assert_eq!(status, StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn tokens_count_their_uses() {
    let server = TestServer::start().await;
    let anyone = server.anyone();
    let store = &server.handle.server().store;
    let row = |uses, expires| RegistrationToken { uses_allowed: uses, expires_ts: expires, ..Default::default() };
    store
        .write(|tx| {
            REGISTRATION_TOKENS.put(tx, "two", &row(Some(2), None));
            REGISTRATION_TOKENS.put(tx, "old", &row(None, Some(clock::now_ms() - 1)));
            Ok(())
        })
        .unwrap();
    let valid = async |token: &str| {
        let path = format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={token}");
        anyone.get(&path).await.1["valid"].as_bool().unwrap()
    };
    assert!(valid("two").await && valid(TOKEN).await);
    assert!(!valid("old").await && !valid("unknown").await);
    let (status, answer) = anyone.post(REGISTER, with_token("a", "old")).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::UNAUTHORIZED, Some("M_FORBIDDEN")));
    assert!(answer["flows"].is_array() && answer["session"].is_string());
    for name in ["a", "b"] {
        assert_eq!(anyone.post(REGISTER, with_token(name, "two")).await.0, StatusCode::OK);
    }
    assert!(!valid("two").await);
    assert_eq!(anyone.post(REGISTER, with_token("c", "two")).await.0, StatusCode::UNAUTHORIZED);
    for name in ["c", "d"] {
        assert_eq!(anyone.post(REGISTER, with_token(name, TOKEN)).await.0, StatusCode::OK);
    }
    assert_eq!(anyone.post(REGISTER, dummy("e")).await.0, StatusCode::UNAUTHORIZED, "a dummy is no token");
    server.stop().await;
}

#[tokio::test]
async fn a_use_that_has_begun_counts() {
    let server = TestServer::start().await;
    let anyone = server.anyone();
    let row = RegistrationToken { uses_allowed: Some(1), ..Default::default() };
    server
        .handle
        .server()
        .store
        .write(|tx| {
            REGISTRATION_TOKENS.put(tx, "one", &row);
            Ok(())
        })
        .unwrap();
    let session = async |name: &str| {
        let (_, challenge) = anyone.post(REGISTER, json!({ "username": name })).await;
        json!({ "type": "m.login.registration_token", "token": "one", "session": challenge["session"] })
    };
    let (first, second) = (session("first").await, session("second").await);
    // The token is shown, but the password is missing still.
    let (status, answer) = anyone.post(REGISTER, json!({ "username": "first", "auth": first })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let body = |name: &str, auth: &Value| json!({ "username": name, "password": "sUp3rs3kr1t", "auth": auth });
    assert_eq!(anyone.post(REGISTER, body("second", &second)).await.0, StatusCode::UNAUTHORIZED);
    let done = json!({ "session": first["session"] });
    assert_eq!(anyone.post(REGISTER, body("first", &done)).await.0, StatusCode::OK, "stages stay completed");
    server.stop().await;
}

#[tokio::test]
async fn the_first_account_is_an_administrator() {
    let server = TestServer::start_with(|config| config.allow_registration = false).await;
    let anyone = server.anyone();
    let state = server.handle.server();
    let token = registration_tokens::first_start(&state.store).unwrap().unwrap();
    assert_eq!(registration_tokens::first_start(&state.store).unwrap().as_ref(), Some(&token), "the same again");
    assert_eq!(anyone.post(REGISTER, with_token("mallory", "guess")).await.0, StatusCode::UNAUTHORIZED);
    let (status, answer) = anyone.post(REGISTER, with_token("admin", &token)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let admin = UserId::parse("@admin:localhost").unwrap();
    assert!(ACCOUNTS.get(&state.store.read(), &admin).unwrap().unwrap().admin);
    let (status, answer) = anyone.post(REGISTER, with_token("second", &token)).await;
    assert_eq!(
        (status, answer["errcode"].as_str()),
        (StatusCode::FORBIDDEN, Some("M_FORBIDDEN")),
        "closed from now on"
    );
    assert!(registration_tokens::first_start(&state.store).unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn guests_look_around_and_become_users() {
    let server = TestServer::start().await;
    let anyone = server.anyone();
    let (status, answer) =
        anyone.post("/_matrix/client/v3/register?kind=guest", json!({ "device_id": "ignored" })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_ne!(answer["device_id"], "ignored");
    let guest = anyone.logged_in(&answer);
    let (_, whoami) = guest.get("/_matrix/client/v3/account/whoami").await;
    assert_eq!(whoami["is_guest"], true);
    let (status, answer) = guest.post("/_matrix/client/v3/user_directory/search", json!({ "search_term": "a" })).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::FORBIDDEN, Some("M_GUEST_ACCESS_FORBIDDEN")));

    let alice = server.register("alice").await;
    let (open, closed) = (
        alice.create_room(json!({ "preset": "private_chat", "initial_state": [{ "type": "m.room.join_rules", "content": { "join_rule": "public" } }] })).await,
        alice.create_room(json!({ "preset": "public_chat" })).await,
    );
    guest.join(&open).await;
    guest.send(&open, "org.example.any", json!({})).await;
    let (status, answer) = guest.post(&format!("/_matrix/client/v3/join/{closed}"), json!({})).await;
    assert_eq!((status, answer["errcode"].as_str()), (StatusCode::FORBIDDEN, Some("M_GUEST_ACCESS_FORBIDDEN")));

    let name = guest.user_id.trim_start_matches('@').split(':').next().unwrap();
    let mut body = with_token(name, TOKEN);
    body["guest_access_token"] = json!(guest.token);
    let (status, answer) = anyone.post(REGISTER, body).await;
    assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!(guest.user_id)), "{answer}");
    let (_, whoami) = anyone.logged_in(&answer).get("/_matrix/client/v3/account/whoami").await;
    assert_ne!(whoami["is_guest"], true);
    server.stop().await;

    let server = TestServer::start_with(|config| config.allow_guest_registration = false).await;
    let (status, _) = server.anyone().post("/_matrix/client/v3/register?kind=guest", json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    server.stop().await;
}

/// Registers somebody with the shared secret.
pub async fn with_secret(anyone: &Client, name: &str, admin: bool, secret: &str) -> (StatusCode, Value) {
    let nonce = anyone.ok(Method::GET, "/_synapse/admin/v1/register", Value::Null).await["nonce"].clone();
    let text = format!("{}\0{name}\0pw\0{}", nonce.as_str().unwrap(), if admin { "admin" } else { "notadmin" });
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    let mac: String = hmac::sign(&key, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let body = json!({ "nonce": nonce, "username": name, "password": "pw", "admin": admin, "mac": mac });
    anyone.post("/_synapse/admin/v1/register", body).await
}

#[tokio::test]
async fn tools_register_with_the_shared_secret() {
    let server = TestServer::start().await;
    let anyone = server.anyone();
    let (status, answer) = with_secret(&anyone, "Tool-ADMIN", true, "shared").await;
    assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!("@tool-admin:localhost")), "{answer}");
    assert!(answer["access_token"].is_string());
    let admin = UserId::parse("@tool-admin:localhost").unwrap();
    assert!(ACCOUNTS.get(&server.handle.server().store.read(), &admin).unwrap().unwrap().admin);
    assert_eq!(with_secret(&anyone, "us,er", false, "shared").await.1["errcode"], "M_INVALID_USERNAME");
    assert_eq!(with_secret(&anyone, "other", false, "wrong").await.0, StatusCode::FORBIDDEN);
    let stale = json!({ "nonce": "x", "username": "a", "password": "b", "mac": "00" });
    assert_eq!(anyone.post("/_synapse/admin/v1/register", stale).await.0, StatusCode::BAD_REQUEST);
    server.stop().await;
}

/// Registration with limits on the number of accounts alone.
fn limited(config: &mut conduit::config::Config) {
    config.rate_limits.enabled = true;
    config.rate_limits.registration.burst = 1_000;
    config.rate_limits.accounts_per_address = 2;
    config.rate_limits.accounts_per_day = 3;
    config.rate_limits.open_registrations_per_hour = 1_000;
}

/// Changes when and where from the accounts up to now were registered.
fn rewrite_sign_ups(server: &TestServer, back: u64, network: [u8; 4]) {
    let store = &server.handle.server().store;
    let change = store.write(|tx| {
        for row in SIGN_UPS.scan(tx, (), Direction::Forward).collect::<conduit::error::Result<Vec<_>>>()? {
            let ((at, user), mut row) = row;
            SIGN_UPS.delete(tx, (at, &*user));
            row.network = network.into();
            SIGN_UPS.put(tx, (at - back, &*user), &row);
        }
        Ok(())
    });
    change.unwrap();
}

#[tokio::test]
async fn so_many_accounts_a_day_from_one_address_and_altogether() {
    let server = TestServer::start_with(limited).await;
    let anyone = server.anyone();
    let register = async |name: &str| {
        let (status, answer) = anyone.post(REGISTER, with_token(name, TOKEN)).await;
        (status.as_u16(), answer)
    };
    assert_eq!((register("a").await.0, register("b").await.0), (200, 200));
    let (status, answer) = register("c").await;
    assert_eq!((status, &answer["errcode"]), (429, &json!("M_LIMIT_EXCEEDED")), "{answer}");
    let wait = answer["retry_after_ms"].as_u64().unwrap();
    assert!((86_000_000..=86_400_000).contains(&wait), "until the first is a day old: {wait}");
    let page = "username=c&password=secret-cc&again=secret-cc&token=".to_owned() + TOKEN;
    let form = "application/x-www-form-urlencoded";
    let (status, page) = anyone.raw(Method::POST, "/register", form, page.into_bytes()).await;
    assert!(status == StatusCode::BAD_REQUEST && String::from_utf8_lossy(&page).contains("Try again tomorrow"));
    // Guests are another matter, and so is a token whose uses are counted.
    let guest = async || anyone.post("/_matrix/client/v3/register?kind=guest", json!({})).await.0;
    assert_eq!((guest().await, guest().await, guest().await.as_u16()), (StatusCode::OK, StatusCode::OK, 429));
    let row = RegistrationToken { uses_allowed: Some(1), created_ts: clock::now_ms(), ..RegistrationToken::default() };
    let token = server.handle.server().store.write(|tx| registration_tokens::create(tx, None, &row)).unwrap();
    assert_eq!(anyone.post(REGISTER, with_token("invited", &token)).await.0, StatusCode::OK);

    // The first two came from elsewhere: one more is allowed altogether.
    rewrite_sign_ups(&server, 0, [192, 0, 2, 1]);
    assert_eq!((register("c").await.0, register("d").await.0), (200, 429));
    // A restart forgives nothing, a day does.
    let directory = server.stop().await;
    let server = TestServer::start_in(directory, limited).await;
    let anyone = server.anyone();
    assert_eq!(anyone.post(REGISTER, with_token("d", TOKEN)).await.0.as_u16(), 429);
    rewrite_sign_ups(&server, 24 * 60 * 60 * 1000, [192, 0, 2, 1]);
    assert_eq!(anyone.post(REGISTER, with_token("d", TOKEN)).await.0, StatusCode::OK);
    assert_eq!(
        SIGN_UPS.scan(&server.handle.server().store.read(), (), Direction::Forward).count(),
        1,
        "none is kept longer"
    );
    server.stop().await;
}

#[tokio::test]
async fn open_registration_closes_by_itself_and_administrators_hear_of_it() {
    let choose = |config: &mut conduit::config::Config| {
        open(config);
        limited(config);
        config.rate_limits.accounts_per_address = 1_000;
        config.rate_limits.accounts_per_day = 1_000;
        config.rate_limits.open_registrations_per_hour = 2;
    };
    let server = TestServer::start_with(choose).await;
    let first = registration_tokens::first_start(&server.handle.server().store).unwrap().unwrap();
    let anyone = server.anyone();
    let (status, answer) = anyone.post(REGISTER, with_token("admin", &first)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let admin = anyone.logged_in(&answer);
    assert_eq!(anyone.post(REGISTER, dummy("one")).await.0, StatusCode::OK);
    assert_eq!(anyone.post(REGISTER, dummy("two")).await.0, StatusCode::OK);
    let (status, answer) = anyone.post(REGISTER, dummy("three")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    assert_eq!(answer["flows"], json!([{ "stages": ["m.login.registration_token"] }]));
    let notice = until("a notice in the administration room", async || {
        let sync = admin.sync("").await;
        if let Some(invited) = sync["rooms"]["invite"].as_object().and_then(|rooms| rooms.keys().next().cloned()) {
            admin.join(&invited).await;
        }
        let told = sync["rooms"]["join"].to_string();
        told.contains("registration is closed now").then_some(())
    });
    notice.await;

    let directory = server.stop().await;
    let server = TestServer::start_in(directory, choose).await;
    let anyone = server.anyone();
    assert_eq!(anyone.post(REGISTER, dummy("three")).await.0, StatusCode::UNAUTHORIZED);
    let state = server.handle.server();
    let run = async |line: &str| Command::parse(line).unwrap().run(state, None).await.unwrap().to_string();
    assert!(run("server status").await.contains("closed by itself"));
    assert_eq!(run("server open-registration").await.trim(), "Registration is open again.");
    assert_eq!(anyone.post(REGISTER, dummy("three")).await.0, StatusCode::OK);
    assert_eq!(anyone.post(REGISTER, dummy("four")).await.0, StatusCode::OK, "those of before count no more");
    assert_eq!(anyone.post(REGISTER, dummy("five")).await.0, StatusCode::UNAUTHORIZED);
    server.stop().await;
}
