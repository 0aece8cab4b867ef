//! Logging in with an identity provider, and confirming what one does with it.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use conduit::{
    config::{Config, RateLimit, Secret, Sso},
    users::accounts,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use ruma::{
    UserId,
    serde::{Base64, base64::UrlSafe},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::common::{Client, TestServer, encode};

const SECRET: &str = "a secret: with a colon";

/// An identity provider as strict as its specification.
struct Provider {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    key: EcdsaKeyPair,
    base: String,
    /// What each code that was given out stands for.
    codes: Mutex<HashMap<String, LoggedIn>>,
}

/// The query of an authorization request, and the claims about who logged in.
type LoggedIn = (HashMap<String, String>, Value);

impl Drop for Provider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn base64(bytes: &[u8]) -> String {
    Base64::<UrlSafe, _>::new(bytes).encode()
}

fn query(text: &str) -> HashMap<String, String> {
    serde_html_form::from_str(text).unwrap()
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let shared = Arc::new(Shared { key, base: format!("http://{address}"), codes: Mutex::default() });
        let of = shared.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = of.clone();
                let service = service_fn(move |request| {
                    let shared = shared.clone();
                    async move { Ok::<_, Infallible>(shared.answer(request).await) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, shared, serving }
    }

    /// A server that knows it.
    async fn server(&self, change: impl FnOnce(&mut Config)) -> TestServer {
        let provider = format!(
            "[global]\nserver_name = \"localhost\"\ndatabase_path = \"/nowhere\"\n\
             [global.sso]\nissuer = \"http://{}\"\nclient_id = \"matrix\"\n",
            self.address
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("conduit.toml");
        std::fs::write(&file, provider).unwrap();
        let sso: Sso = Config::load(Some(file), std::iter::empty()).unwrap().0.sso;
        TestServer::start_with(|config| {
            config.sso = sso;
            config.sso.client_secret = Some(Secret::new(SECRET));
            change(config);
        })
        .await
    }

    /// Somebody logs in who was sent to `location`; gives the query with which they are sent back.
    fn log_in(&self, location: &str, claims: Value) -> String {
        let asked = query(location.strip_prefix(&format!("{}/authorize?", self.shared.base)).unwrap());
        assert_eq!(
            (&*asked["response_type"], &*asked["client_id"], &*asked["scope"]),
            ("code", "matrix", "openid profile")
        );
        assert_eq!(asked["redirect_uri"], "https://localhost/_matrix/conduit/sso/callback");
        assert_eq!(asked["code_challenge_method"], "S256");
        let code = conduit::clock::random_string(12).unwrap();
        let back = format!("state={}&code={code}", asked["state"]);
        self.shared.codes.lock().unwrap().insert(code, (asked, claims));
        back
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let base = &self.base;
        let answer = match (parts.method.as_str(), parts.uri.path()) {
            ("GET", "/.well-known/openid-configuration") => json!({
                "issuer": base,
                "authorization_endpoint": format!("{base}/authorize"),
                "token_endpoint": format!("{base}/token"),
                "jwks_uri": format!("{base}/keys"),
            }),
            ("GET", "/keys") => {
                let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
                json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "k", "x": base64(x), "y": base64(y) }] })
            }
            ("POST", "/token") => return self.token(&parts.headers, &query(&body)),
            _ => return status(StatusCode::NOT_FOUND),
        };
        Response::new(Full::from(answer.to_string()))
    }

    fn token(&self, headers: &HeaderMap, form: &HashMap<String, String>) -> Response<Full<Bytes>> {
        if proven(headers).as_deref() != Some(SECRET) {
            return status(StatusCode::UNAUTHORIZED);
        }
        let Some((asked, claims)) = self.codes.lock().unwrap().remove(&form["code"]) else {
            return status(StatusCode::BAD_REQUEST);
        };
        let challenge = base64(digest(&SHA256, form["code_verifier"].as_bytes()).as_ref());
        if challenge != asked["code_challenge"] || form["redirect_uri"] != asked["redirect_uri"] {
            return status(StatusCode::BAD_REQUEST);
        }
        let mut whole = json!({
            "iss": self.base,
            "aud": "matrix",
            "nonce": asked["nonce"],
            "exp": conduit::clock::now_ms() / 1000 + 60,
        });
        whole.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let header = json!({ "alg": "ES256", "kid": "k" });
        let signed = format!("{}.{}", base64(header.to_string().as_bytes()), base64(whole.to_string().as_bytes()));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        let token = format!("{signed}.{}", base64(signature.as_ref()));
        Response::new(Full::from(json!({ "id_token": token, "token_type": "Bearer" }).to_string()))
    }
}

/// The password that the client `matrix` shows, encoded as RFC 6749, 2.3.1, says.
fn proven(headers: &HeaderMap) -> Option<String> {
    let both = headers[header::AUTHORIZATION].to_str().ok()?.strip_prefix("Basic ")?;
    assert_eq!(both.len() % 4, 0, "it is padded");
    let both: Base64 = Base64::parse(both).ok()?;
    let both = String::from_utf8(both.into_inner()).ok()?;
    query(&format!("password={}", both.strip_prefix("matrix:")?)).remove("password")
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// A browser: where it was sent, and the cookie that it got.
struct Browser {
    location: String,
    cookie: String,
}

async fn open(server: &TestServer, path: &str) -> Browser {
    let (status, headers, body) = server.anyone().full(Method::GET, path, &[]).await;
    assert!(status.is_redirection(), "{status} {body:?}");
    let cookie = headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("HttpOnly; SameSite=Lax; Secure"), "{cookie}");
    Browser {
        location: headers[header::LOCATION].to_str().unwrap().to_owned(),
        cookie: cookie.split(';').next().unwrap().to_owned(),
    }
}

const CLIENT: &str = "https://app.example/?a=b#/login";

async fn begin(server: &TestServer) -> Browser {
    open(server, &format!("/_matrix/client/v3/login/sso/redirect/sso?redirectUrl={}", encode(CLIENT))).await
}

impl Browser {
    /// Comes back from the provider; gives the page.
    async fn come_back(&self, server: &TestServer, query: &str) -> (StatusCode, String) {
        let path = format!("/_matrix/conduit/sso/callback?{query}");
        let (status, _, body) = server.anyone().full(Method::GET, &path, &[("cookie", &self.cookie)]).await;
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

/// What stands between two texts of a page.
fn between<'a>(page: &'a str, before: &str, after: &str) -> &'a str {
    page.split_once(before).and_then(|(_, rest)| rest.split_once(after)).unwrap_or_else(|| panic!("{page}")).0
}

/// Logs in with the token that a page hands to the client.
async fn use_token(server: &TestServer, page: &str) -> Client {
    assert!(page.contains("<strong>app.example</strong>"), "it says who gets the token: {page}");
    let target = between(page, "href=\"", "\"").replace("&amp;", "&");
    let token = between(&target, "https://app.example/?a=b&loginToken=", "#/login");
    let login = json!({ "type": "m.login.token", "token": token });
    let (status, answer) = server.anyone().post("/_matrix/client/v3/login", login).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    server.anyone().logged_in(&answer)
}

#[tokio::test]
async fn who_is_new_gets_an_account_and_later_the_same_one() {
    let provider = Provider::start().await;
    let server = provider.server(|_| {}).await;
    let (_, flows) = server.anyone().get("/_matrix/client/v3/login").await;
    let sso = flows["flows"].as_array().unwrap().iter().find(|flow| flow["type"] == "m.login.sso").unwrap();
    let provider_shown = &sso["identity_providers"][0];
    assert_eq!((&provider_shown["id"], &provider_shown["name"]), (&json!("sso"), &json!("Single sign-on")));

    let claims = json!({ "sub": "1", "preferred_username": "Alice@corp.example", "name": "Alice Smith" });
    let browser = begin(&server).await;
    let (status, page) = browser.come_back(&server, &provider.log_in(&browser.location, claims)).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let alice = use_token(&server, &page).await;
    assert_eq!(alice.user_id, "@alice:localhost");
    let (_, profile) = alice.get("/_matrix/client/v3/profile/@alice:localhost").await;
    assert_eq!(profile["displayname"], "Alice Smith");

    // The provider's name for her counts, whatever she is called there by now.
    let browser = begin(&server).await;
    let back = provider.log_in(&browser.location, json!({ "sub": "1", "preferred_username": "married" }));
    let (_, page) = browser.come_back(&server, &back).await;
    assert_eq!(use_token(&server, &page).await.user_id, "@alice:localhost");

    // An attempt is good once.
    let (status, page) = browser.come_back(&server, &back).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{page}");
}

#[tokio::test]
async fn whose_name_is_taken_chooses_another() {
    let provider = Provider::start().await;
    let server = provider.server(|_| {}).await;
    server.register("alice").await;
    let browser = begin(&server).await;
    let back = provider.log_in(&browser.location, json!({ "sub": "2", "preferred_username": "alice" }));
    let (status, page) = browser.come_back(&server, &back).await;
    assert!(status == StatusCode::OK && page.contains("Choose a user name"), "{page}");
    let key = between(&page, "name=\"key\" value=\"", "\"").to_owned();
    let choose = async |name: &str| {
        let form = format!("key={key}&username={name}").into_bytes();
        let path = "/_matrix/conduit/sso/username";
        let answer = server.anyone().raw(Method::POST, path, "application/x-www-form-urlencoded", form).await;
        (answer.0, String::from_utf8(answer.1.to_vec()).unwrap())
    };
    let (status, page) = choose("alice").await;
    assert!(status == StatusCode::BAD_REQUEST && page.contains("taken"), "{page}");
    let (status, page) = choose("alice2").await;
    assert_eq!(status, StatusCode::OK, "{page}");
    assert_eq!(use_token(&server, &page).await.user_id, "@alice2:localhost");
    assert_eq!(choose("alice3").await.0, StatusCode::FORBIDDEN, "one account for each");
}

/// They count as other registrations do, but do not need registration to be open.
#[tokio::test]
async fn so_many_accounts_come_from_one_address_in_a_day() {
    let provider = Provider::start().await;
    let server = provider.server(|config| {
        config.allow_registration = false;
        config.rate_limits.enabled = true;
        config.rate_limits.accounts_per_address = 1;
    });
    let server = server.await;
    let come = async |sub: &str, name: &str| {
        let browser = begin(&server).await;
        let claims = json!({ "sub": sub, "preferred_username": name });
        browser.come_back(&server, &provider.log_in(&browser.location, claims)).await
    };
    assert_eq!(come("1", "alice").await.0, StatusCode::OK);
    let (status, page) = come("2", "bob").await;
    assert!(status == StatusCode::TOO_MANY_REQUESTS && page.contains("Too many accounts"), "{page}");
    assert_eq!(come("1", "alice").await.0, StatusCode::OK, "who has an account gets in");
}

#[tokio::test]
async fn accounts_of_the_same_name_are_opened_only_where_that_is_wanted() {
    let provider = Provider::start().await;
    let server = provider.server(|config| config.sso.link_existing = true).await;
    server.register("alice").await;
    let browser = begin(&server).await;
    let back = provider.log_in(&browser.location, json!({ "sub": "1", "preferred_username": "alice" }));
    let (_, page) = browser.come_back(&server, &back).await;
    assert_eq!(use_token(&server, &page).await.user_id, "@alice:localhost");

    let server = provider.server(|config| config.sso.register = false).await;
    let browser = begin(&server).await;
    let back = provider.log_in(&browser.location, json!({ "sub": "1", "preferred_username": "alice" }));
    let (status, page) = browser.come_back(&server, &back).await;
    assert!(status == StatusCode::FORBIDDEN && page.contains("no account here"), "{page}");
}

/// Somebody logs in for whom the provider says this; gives the page.
async fn come(provider: &Provider, server: &TestServer, sub: &str, name: &str) -> (StatusCode, String) {
    let browser = begin(server).await;
    let back = provider.log_in(&browser.location, json!({ "sub": sub, "preferred_username": name }));
    browser.come_back(server, &back).await
}

#[tokio::test]
async fn a_name_that_only_resembles_that_of_an_account_does_not_open_it() {
    let provider = Provider::start().await;
    let server = provider.server(|config| {
        config.sso.link_existing = true;
        config.server_notices.user = "helper".to_owned();
    });
    let server = server.await;
    for name in ["jos", "alice", "bob"] {
        server.register(name).await;
    }
    let running = server.handle.server();
    let make = |name: &str| {
        let user = UserId::parse(format!("@{name}:localhost")).unwrap();
        running.store.write(|tx| accounts::ensure_server_user(tx, &user, "Server")).unwrap();
    };
    ["conduit", "helper", "irc_bob"].into_iter().for_each(make);
    let yaml = "id: irc\nurl: null\nas_token: a\nhs_token: h\nsender_localpart: ircbot\nnamespaces:\n  users:\n  \
                - exclusive: true\n    regex: \"@irc_.*\"\n";
    running.appservices.add(&running.store, yaml).unwrap();

    for name in ["José", "bob@corp.example", "conduit", "helper", "irc_bob", "@alice:localhost"] {
        let (status, page) = come(&provider, &server, name, name).await;
        assert!(status == StatusCode::OK && page.contains("Choose a user name"), "{name}: {page}");
    }
    let (_, page) = come(&provider, &server, "1", "Alice").await;
    assert_eq!(use_token(&server, &page).await.user_id, "@alice:localhost", "capitals make no difference");
    let (_, page) = come(&provider, &server, "2", "alice").await;
    assert!(page.contains("Choose a user name"), "somebody else of that name by now: {page}");
}

#[tokio::test]
async fn who_is_asked_for_a_name_gets_none_once_newcomers_are_not_wanted_any_more() {
    let provider = Provider::start().await;
    let server = provider.server(|_| {}).await;
    server.register("alice").await;
    let (_, page) = come(&provider, &server, "2", "alice").await;
    let key = between(&page, "name=\"key\" value=\"", "\"").to_owned();
    let running = server.handle.server();
    let mut config = Config::clone(&running.config());
    config.sso.register = false;
    running.config.set(config);
    let form = format!("key={key}&username=alice2").into_bytes();
    let (path, kind) = ("/_matrix/conduit/sso/username", "application/x-www-form-urlencoded");
    let (status, page) = server.anyone().raw(Method::POST, path, kind, form).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(String::from_utf8_lossy(&page).contains("no account here"));
    assert!(accounts::find(&running.store.read(), running.name(), "alice2").unwrap().is_none());
}

#[tokio::test]
async fn so_many_go_to_the_provider_from_one_network() {
    let provider = Provider::start().await;
    let server = provider.server(|config| {
        config.rate_limits.enabled = true;
        config.rate_limits.login = RateLimit { per_second: 0.001, burst: 2 };
    });
    let server = server.await;
    let redirect = format!("/_matrix/client/v3/login/sso/redirect?redirectUrl={}", encode(CLIENT));
    let confirmation = "/_matrix/client/v3/auth/m.login.sso/fallback/web?session=x";
    open(&server, &redirect).await;
    open(&server, confirmation).await;
    for path in [&redirect, confirmation, &redirect.replace("?", "/sso?")] {
        assert_eq!(server.anyone().full(Method::GET, path, &[]).await.0, StatusCode::TOO_MANY_REQUESTS, "{path}");
    }
}

#[tokio::test]
async fn nobody_is_led_into_another_account() {
    let provider = Provider::start().await;
    let server = provider.server(|_| {}).await;
    let (mallory, alice) = (begin(&server).await, begin(&server).await);
    let back = provider.log_in(&mallory.location, json!({ "sub": "666", "preferred_username": "mallory" }));
    assert_eq!(alice.come_back(&server, &back).await.0, StatusCode::FORBIDDEN, "a link of another browser");
    let error = "error=access_denied&error_description=%3Cb%3Eno%3C%2Fb%3E";
    let (status, page) = alice.come_back(&server, error).await;
    assert!(status == StatusCode::FORBIDDEN && page.contains("&lt;b&gt;no&lt;/b&gt;"), "{page}");
    // What the provider says must be for this attempt.
    let back = provider.log_in(&alice.location, json!({ "sub": "1", "preferred_username": "alice", "nonce": "old" }));
    assert_eq!(alice.come_back(&server, &back).await.0, StatusCode::FORBIDDEN);
    for address in ["javascript:alert(1)", "data:text/html,x", "nothing", "https://a b"] {
        let path = format!("/_matrix/client/v3/login/sso/redirect?redirectUrl={}", encode(address));
        let (status, answer) = server.anyone().get(&path).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")), "{address}");
    }
    let path = "/_matrix/client/v3/login/sso/redirect/other?redirectUrl=https%3A%2F%2Fa.example";
    assert_eq!(server.anyone().get(path).await.0, StatusCode::NOT_FOUND);
    let closed = TestServer::start().await;
    let path = "/_matrix/client/v3/login/sso/redirect?redirectUrl=https%3A%2F%2Fa.example";
    assert_eq!(closed.anyone().get(path).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_one_does_is_confirmed_with_the_provider() {
    let provider = Provider::start().await;
    let server = provider.server(|_| {}).await;
    let mut devices = Vec::new();
    for claims in
        [json!({ "sub": "1", "preferred_username": "alice" }), json!({ "sub": "2", "preferred_username": "bob" })]
    {
        let browser = begin(&server).await;
        let (_, page) = browser.come_back(&server, &provider.log_in(&browser.location, claims)).await;
        devices.push(use_token(&server, &page).await);
    }
    let alice = &devices[0];
    let (_, answer) = alice.get("/_matrix/client/v3/capabilities").await;
    assert_eq!(answer["capabilities"]["m.get_login_token"]["enabled"], true);
    assert_eq!(answer["capabilities"]["m.change_password"]["enabled"], false);
    let browser = begin(&server).await;
    let back = provider.log_in(&browser.location, json!({ "sub": "1" }));
    let other = use_token(&server, &browser.come_back(&server, &back).await.1).await;
    let path = format!("/_matrix/client/v3/devices/{}", encode(&other.device_id));
    let delete = async |session: Option<&Value>| {
        let body = session.map_or(json!({}), |session| json!({ "auth": { "session": session } }));
        alice.json(Method::DELETE, &path, Some(body)).await
    };
    let confirm = async |session: &Value, subject: &str| {
        let session = session.as_str().unwrap();
        let page = format!("/_matrix/client/v3/auth/m.login.sso/fallback/web?session={session}");
        let browser = open(&server, &page).await;
        assert!(browser.location.contains("prompt=login"), "{}", browser.location);
        browser.come_back(&server, &provider.log_in(&browser.location, json!({ "sub": subject }))).await
    };
    let agree = async |page: &str| {
        let field = |name: &str| between(page, &format!("name=\"{name}\" value=\""), "\"").to_owned();
        let form = format!("session={}&page={}", field("session"), field("page")).into_bytes();
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        let answer = server.anyone().exchange(Method::POST, "/_matrix/conduit/sso/confirm", &kind, form).await;
        let policy = answer.1["content-security-policy"].to_str().unwrap().to_owned();
        (answer.0, policy, String::from_utf8(answer.2.to_vec()).unwrap())
    };
    let (status, challenge) = delete(None).await;
    assert_eq!((status, &challenge["flows"]), (StatusCode::UNAUTHORIZED, &json!([{ "stages": ["m.login.sso"] }])));
    let session = &challenge["session"];
    assert_eq!(delete(Some(session)).await.0, StatusCode::UNAUTHORIZED, "nothing is confirmed yet");
    assert_eq!(confirm(session, "2").await.0, StatusCode::FORBIDDEN, "Bob cannot confirm what Alice does");
    let (status, page) = confirm(session, "1").await;
    let asked = page.contains("@alice:localhost") && page.contains(&format!("delete device {}", other.device_id));
    assert!(status == StatusCode::OK && asked, "it says what is to be done: {page}");
    assert_eq!(delete(Some(session)).await.0, StatusCode::UNAUTHORIZED, "nobody has said yes yet");
    let forged = page.replace("name=\"page\" value=\"", "name=\"page\" value=\"x");
    assert_eq!(agree(&forged).await.0, StatusCode::FORBIDDEN, "nobody else says it");
    let (status, policy, page) = agree(&page).await;
    assert!(status == StatusCode::OK && page.contains("Confirmed"), "{page}");
    assert!(page.contains("window.onAuthDone()") && policy.contains("script-src 'nonce-"), "the client hears of it");
    let (status, answer) = delete(Some(session)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(confirm(&json!("unknown"), "1").await.0, StatusCode::FORBIDDEN);
}
