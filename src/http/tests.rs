//! Routing, decoding and answering, with a toy server and real request types.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, Method, Request, Response, StatusCode, header};
use proptest::prelude::*;
use ruma::api::{
    auth_scheme::{AccessToken, AuthScheme, NoAccessToken},
    client::{
        account::whoami, media::create_content, membership::join_room_by_id, profile, push, session::get_login_types,
        state, tag::create_tag,
    },
    error::ErrorKind,
    federation::{authentication::ServerSignatures, transactions::send_transaction_message},
};
use serde_json::{Value, json};

use super::*;
use crate::error::{Error, Result};

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

#[derive(Default)]
struct Toy {
    handled: AtomicUsize,
    synced: AtomicUsize,
    disk_full: AtomicBool,
}

impl State for Toy {
    fn max_request_size(&self) -> usize {
        1000
    }

    fn address_header(&self) -> Option<HeaderName> {
        None
    }

    fn limit(&self, _: &Info, caller: Option<&str>, _: IpAddr) -> Result<()> {
        if caller == Some("@eager:b") { Err(Error::limit_exceeded(Duration::from_millis(1500))) } else { Ok(()) }
    }

    async fn durable(&self) -> Result<()> {
        self.synced.fetch_add(1, Ordering::Relaxed);
        if self.disk_full.load(Ordering::Relaxed) { Err(Error::internal("disk full")) } else { Ok(()) }
    }
}

struct Anyone;

impl Caller<Toy, NoAccessToken> for Anyone {
    async fn authenticate(_: &Toy, (): (), _: &Request<Bytes>, _: IpAddr) -> Result<Self> {
        Ok(Self)
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

struct User(String);

impl Caller<Toy, AccessToken> for User {
    async fn authenticate(_: &Toy, token: String, request: &Request<Bytes>, _: IpAddr) -> Result<Self> {
        assert!(request.body().is_empty(), "authentication comes before the body");
        if token == "wrong" { Err(Error::unknown_token(false, "Unknown.")) } else { Ok(Self(format!("@{token}:b"))) }
    }

    fn name(&self) -> Option<&str> {
        Some(&self.0)
    }
}

struct Origin(usize);

impl Caller<Toy, ServerSignatures> for Origin {
    const COVERS_BODY: bool = true;

    async fn authenticate(
        _: &Toy,
        _: <ServerSignatures as AuthScheme>::Output,
        request: &Request<Bytes>,
        _: IpAddr,
    ) -> Result<Self> {
        Ok(Self(request.body().len()))
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

async fn login_types(toy: &Toy, _: Anyone, _: get_login_types::v3::Request) -> Result<get_login_types::v3::Response> {
    toy.handled.fetch_add(1, Ordering::Relaxed);
    Ok(get_login_types::v3::Response::new(vec![]))
}

async fn token_owner(_: &Toy, user: User, _: whoami::v3::Request) -> Result<whoami::v3::Response> {
    match user.0.as_str() {
        "@broken:b" => Err(Error::internal("a secret")),
        "@asked:b" => Err(Error::uiaa(json!({ "session": "s", "flows": [] }))),
        name => Ok(whoami::v3::Response::new(name.try_into().map_err(Error::internal)?, false)),
    }
}

async fn join_room_by_id(
    _: &Toy,
    _: User,
    request: join_room_by_id::v3::Request,
) -> Result<join_room_by_id::v3::Response> {
    Ok(join_room_by_id::v3::Response::new(request.room_id))
}

type GetState = state::get_state_event_for_key::v3::Request;

async fn get_state(_: &Toy, _: User, request: GetState) -> Result<state::get_state_event_for_key::v3::Response> {
    let echo = json!({ "type": request.event_type, "key": request.state_key });
    Ok(state::get_state_event_for_key::v3::Response::new(serde_json::value::to_raw_value(&echo)?))
}

async fn send_state(
    _: &Toy,
    _: User,
    request: state::send_state_event::v3::Request,
) -> Result<state::send_state_event::v3::Response> {
    assert!(request.body.json().get().starts_with('{'));
    Ok(state::send_state_event::v3::Response::new("$e".try_into().map_err(Error::internal)?))
}

async fn set_tag(_: &Toy, _: User, _: create_tag::v3::Request) -> Result<create_tag::v3::Response> {
    Ok(create_tag::v3::Response::new())
}

async fn push_rules(
    _: &Toy,
    _: User,
    _: push::get_pushrules_all::v3::Request,
) -> Result<push::get_pushrules_all::v3::Response> {
    Ok(push::get_pushrules_all::v3::Response::new(Default::default()))
}

async fn get_field(
    _: &Toy,
    _: Anyone,
    _: profile::get_profile_field::v3::Request,
) -> Result<profile::get_profile_field::v3::Response> {
    Err(Error::not_found("any field"))
}

async fn delete_field(
    _: &Toy,
    _: User,
    request: profile::delete_profile_field::v3::Request,
) -> Result<profile::delete_profile_field::v3::Response> {
    Err(Error::forbidden(request.field.as_str()))
}

async fn get_display_name(
    _: &Toy,
    _: Anyone,
    _: profile::get_display_name::v3::Request,
) -> Result<profile::get_display_name::v3::Response> {
    Err(Error::not_found("display name"))
}

async fn upload(_: &Toy, _: User, request: create_content::v3::Request, raw: Request<Body>) -> Result<Response<Body>> {
    let mut body = raw.into_body();
    let mut length = 0;
    while let Some(bytes) = body.next().await? {
        length += bytes.len();
    }
    let name = request.filename.unwrap_or_default();
    Ok(Response::new(Body::full(format!("{name} {length}"))))
}

async fn transaction(
    _: &Toy,
    origin: Origin,
    _: send_transaction_message::v1::Request,
) -> Result<send_transaction_message::v1::Response> {
    Err(Error::forbidden(origin.0.to_string()))
}

async fn reset_page(_: &Toy, page: PageRequest) -> Result<Response<Body>> {
    Ok(Response::new(Body::full(page.path_args.concat())))
}

fn router() -> Router<Toy> {
    Router::builder()
        .add(on(login_types))
        .add(on(token_owner))
        .add(on(join_room_by_id).body_limit(100))
        .add(on(get_state))
        .add(on(send_state).body_required())
        .add(on(set_tag))
        .add(on(push_rules))
        .add(on(get_field))
        .add(on(delete_field))
        .add(on(get_display_name))
        .add(stream(upload).body_limit(1000))
        .add(on(transaction))
        .add(page(Method::GET, "/_reset/{token}", reset_page).also("/_old/{token}"))
        .build()
        .unwrap()
}

fn request(method: Method, uri: &str, token: Option<&str>, body: impl Into<Bytes>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, token);
    }
    request.body(Body::full(body)).unwrap()
}

async fn ask_raw(toy: &Toy, request: Request<Body>) -> (Response<()>, Bytes) {
    let (head, body) = router().answer(toy, request, PEER).await.into_parts();
    assert_eq!(head.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    (Response::from_parts(head, ()), http_body_util::BodyExt::collect(body).await.unwrap().to_bytes())
}

async fn ask(method: Method, uri: &str, token: Option<&str>, body: &'static str) -> (StatusCode, Value) {
    let (head, body) = ask_raw(&Toy::default(), request(method, uri, token, body)).await;
    let status = head.status();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()))
}

async fn get(uri: &str) -> (StatusCode, Value) {
    ask(Method::GET, uri, Some("Bearer a"), "").await
}

fn error((status, body): &(StatusCode, Value)) -> (u16, &str) {
    (status.as_u16(), body["errcode"].as_str().unwrap())
}

#[tokio::test]
async fn paths_and_methods() {
    assert_eq!(get("/_matrix/client/v3/login").await.0, 200);
    assert_eq!(get("/_matrix/client/r0/login").await.0, 200);
    assert_eq!(get("/_matrix/client/%76%33/login").await.0, 200);
    assert_eq!(error(&get("/_matrix/client/v3/login/").await), (404, "M_UNRECOGNIZED"));
    assert_eq!(error(&get("/_matrix/client%2Fv3/login").await), (404, "M_UNRECOGNIZED"));
    assert_eq!(error(&get("/").await), (404, "M_UNRECOGNIZED"));
    assert_eq!(error(&get(&"/a".repeat(100)).await), (404, "M_UNRECOGNIZED"));
    assert_eq!(error(&get("/_matrix/%ff").await), (400, "M_INVALID_PARAM"));
    assert_eq!(get("/_matrix/client/v3/pushrules/").await.0, 200);
    assert_eq!(get("/_matrix/client/v3/pushrules").await.0, 200);
    assert_eq!(get("/_reset/a%2fb%C3%A4%zz").await.1, "a/bä%zz");
    assert_eq!(get("/_old/x").await.1, "x");

    let wrong = request(Method::PATCH, "/_matrix/client/v3/login", None, "");
    let (head, body) = ask_raw(&Toy::default(), wrong).await;
    assert_eq!(head.status(), 405);
    assert_eq!(head.headers()[header::ALLOW], "GET");
    assert!(body.starts_with(br#"{"errcode":"M_UNRECOGNIZED""#));
}

#[tokio::test]
async fn literals_beat_variables_but_not_methods() {
    let displayname = "/_matrix/client/v3/profile/@a:b/displayname";
    assert_eq!(get(displayname).await.1["error"], "display name");
    assert_eq!(get("/_matrix/client/v3/profile/@a:b/avatar_url").await.1["error"], "any field");
    assert_eq!(ask(Method::DELETE, displayname, Some("Bearer a"), "").await.1["error"], "displayname");
    assert_eq!(error(&ask(Method::POST, displayname, None, "").await), (405, "M_UNRECOGNIZED"));
}

#[tokio::test]
async fn head_and_options() {
    let toy = Toy::default();
    let (head, _) = ask_raw(&toy, request(Method::HEAD, "/_matrix/client/v3/login", None, "")).await;
    assert_eq!((head.status().as_u16(), toy.handled.load(Ordering::Relaxed)), (200, 1));
    for path in ["/_matrix/client/v3/login", "/nowhere"] {
        let (head, body) = ask_raw(&toy, request(Method::OPTIONS, path, None, "")).await;
        assert_eq!((head.status().as_u16(), body.len()), (204, 0));
        assert!(head.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().contains("Authorization"));
    }
    assert_eq!(toy.handled.load(Ordering::Relaxed), 1, "a preflight runs nothing");
}

#[tokio::test]
async fn state_keys_may_be_empty() {
    let base = "/_matrix/client/v3/rooms/!a:b/state/m.room.name";
    for (suffix, key) in [("", ""), ("/", ""), ("/k", "k"), ("?format=content", "")] {
        let (status, body) = get(&format!("{base}{suffix}")).await;
        assert_eq!((status.as_u16(), &body["key"]), (200, &json!(key)), "{suffix}: {body}");
    }
    assert_eq!(get("/_matrix/client/r0/rooms/!a:b/state/m.room.name").await.0, 200);
}

#[tokio::test]
async fn tokens() {
    let path = "/_matrix/client/v3/account/whoami";
    let with = async |token: Option<&'static str>| ask(Method::GET, path, token, "").await;
    assert_eq!(with(Some("Bearer a")).await.1["user_id"], "@a:b");
    assert_eq!(with(Some("bearer a")).await.1["user_id"], "@a:b");
    assert_eq!(error(&with(None).await), (401, "M_MISSING_TOKEN"));
    assert_eq!(error(&with(Some("Basic YTpi")).await), (401, "M_MISSING_TOKEN"));
    assert_eq!(error(&with(Some("Bearer wrong")).await), (401, "M_UNKNOWN_TOKEN"));
    let (_, body) = ask(Method::GET, &format!("{path}?access_token=a"), None, "").await;
    assert_eq!(body["user_id"], "@a:b");
    let unsigned = ask(Method::PUT, "/_matrix/federation/v1/send/1", None, "{}").await;
    assert_eq!(error(&unsigned), (401, "M_UNAUTHORIZED"));
    let signed = Some(r#"X-Matrix origin="a",destination="b",key="ed25519:1",sig="abcd""#);
    let transaction = r#"{"origin":"a","origin_server_ts":1}"#;
    let (_, body) = ask(Method::PUT, "/_matrix/federation/v1/send/1", signed, transaction).await;
    assert_eq!(body["error"], transaction.len().to_string(), "a signature covers the body");
}

#[tokio::test]
async fn bodies() {
    let join = "/_matrix/client/v3/rooms/!a:b/join";
    let post = async |body: &'static str| ask(Method::POST, join, Some("Bearer a"), body).await;
    for body in ["", " ", "null", "{}", r#"{"reason":"r","reason2":1}"#] {
        assert_eq!(post(body).await.0, 200, "{body}");
    }
    assert_eq!(error(&post("{").await), (400, "M_NOT_JSON"));
    assert_eq!(error(&post("hello").await), (400, "M_NOT_JSON"));
    assert_eq!(error(&post(r#"{"reason":5}"#).await), (400, "M_BAD_JSON"));
    assert_eq!(error(&post("[]").await), (400, "M_BAD_JSON"));
    assert_eq!(error(&post("5").await), (400, "M_BAD_JSON"));
    assert!(!post("5").await.1["error"].as_str().unwrap().contains("struct"), "no names of our types");
    let invalid = request(Method::POST, join, Some("Bearer a"), &b"{\"reason\":\"\xff\"}"[..]);
    assert!(ask_raw(&Toy::default(), invalid).await.1.starts_with(br#"{"errcode":"M_NOT_JSON""#));
    let large = Box::leak(format!(r#"{{"reason":"{}"}}"#, "x".repeat(100)).into_boxed_str());
    assert_eq!(error(&post(large).await), (413, "M_TOO_LARGE"));

    let state = "/_matrix/client/v3/rooms/!a:b/state/m.room.name";
    for (body, code) in [("", "M_NOT_JSON"), ("null", "M_BAD_JSON"), ("[]", "M_BAD_JSON")] {
        assert_eq!(error(&ask(Method::PUT, state, Some("Bearer a"), body).await), (400, code), "{body}");
    }
    assert_eq!(ask(Method::PUT, state, Some("Bearer a"), "{}").await.0, 200);
    let room = ask(Method::POST, "/_matrix/client/v3/rooms/nonsense/join", Some("Bearer a"), "").await;
    assert_eq!(error(&room), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn streams() {
    let upload = "/_matrix/media/v3/upload?filename=f";
    let post = async |length: usize| {
        ask_raw(&Toy::default(), request(Method::POST, upload, Some("Bearer a"), vec![0; length])).await
    };
    assert_eq!(post(1000).await.1, "f 1000");
    assert_eq!(post(1001).await.0.status(), 413);
    let pieces = futures_util::stream::iter((0..20).map(|_| Ok(Bytes::from_static(&[0; 60]))));
    let endless = request(Method::POST, upload, Some("Bearer a"), "").map(|_| Body::stream(pieces, None));
    assert_eq!(ask_raw(&Toy::default(), endless).await.0.status(), 413, "an unannounced body has the same limit");
    assert_eq!(error(&ask(Method::POST, upload, None, "").await), (401, "M_MISSING_TOKEN"));
}

#[tokio::test]
async fn all_bodies_together_are_bounded() {
    let held = body::Held::default();
    let pieces = |count: usize| {
        Body::stream(futures_util::stream::iter((0..count).map(|_| Ok(Bytes::from_static(&[0; 10])))), None)
    };
    let mut first = held.share(100);
    let mut second = held.share(100);
    assert_eq!(pieces(6).collect(1000, &mut first).await.unwrap().len(), 60);
    assert_eq!(pieces(6).collect(1000, &mut second).await.unwrap_err().status(), 429);
    second.shrink_to(0);
    first.shrink_to(10);
    assert_eq!(second.grow(91).unwrap_err().status(), 429);
    drop((first, second));
    assert_eq!(pieces(6).collect(1000, &mut held.share(100)).await.unwrap().len(), 60);
}

#[tokio::test]
async fn faults_limits_and_challenges() {
    let join = "/_matrix/client/v3/rooms/!a:b/join";
    let (head, body) = ask_raw(&Toy::default(), request(Method::POST, join, Some("Bearer eager"), "")).await;
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((head.status().as_u16(), head.headers()[header::RETRY_AFTER].as_bytes()), (429, &b"2"[..]));
    assert_eq!((&body["errcode"], &body["retry_after_ms"]), (&json!("M_LIMIT_EXCEEDED"), &json!(1500)));

    let whoami = "/_matrix/client/v3/account/whoami";
    let broken = ask(Method::GET, whoami, Some("Bearer broken"), "").await;
    assert_eq!(broken.1, json!({ "errcode": "M_UNKNOWN", "error": "Internal server error" }));
    assert_eq!(broken.0, 500);
    let asked = ask(Method::GET, whoami, Some("Bearer asked"), "").await;
    assert_eq!(asked, (StatusCode::UNAUTHORIZED, json!({ "session": "s", "flows": [] })));
}

#[tokio::test]
async fn nothing_leaves_before_it_is_durable() {
    let toy = Toy::default();
    ask_raw(&toy, request(Method::GET, "/_matrix/client/v3/login", None, "")).await;
    ask_raw(&toy, request(Method::GET, "/_matrix/client/v3/account/whoami", Some("Bearer broken"), "")).await;
    assert_eq!(toy.synced.load(Ordering::Relaxed), 2);
    toy.disk_full.store(true, Ordering::Relaxed);
    let (head, _) = ask_raw(&toy, request(Method::GET, "/_matrix/client/v3/login", None, "")).await;
    assert_eq!(head.status(), 500);
}

#[test]
fn clashes() {
    let clash = Router::builder().add(on(login_types)).add(on(login_types)).build().err().unwrap();
    assert!(matches!(clash, Clash::Taken { first: "login_types", .. }), "{clash}");
    let variables = page(Method::GET, "/_reset/{other}", reset_page);
    assert!(Router::builder().add(page(Method::GET, "/_reset/{token}", reset_page)).add(variables).build().is_err());
    let long = Box::leak("/a".repeat(20).into_boxed_str());
    assert!(matches!(Router::builder().add(page(Method::GET, long, reset_page)).build(), Err(Clash::TooLong(_))));
    let operations: Vec<_> = router().routes().map(|(info, _)| info.operation).collect();
    assert_eq!(operations.first(), Some(&"login_types"));
}

/// An error of the specification keeps its status, code and text.
#[test]
fn errors_are_told_as_they_are() {
    let error = Error::new(StatusCode::IM_A_TEAPOT, ErrorKind::BadAlias, "Not that one.");
    assert_eq!(errors::error_response(&error, "").status(), 418);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_path_panics(path in "(/[a-z_%/0-9]{0,12}|/_matrix/client/(v3|r0)/(profile|rooms)(/[%a-f!@:]{0,6}){0,4}|\\PC*)") {
        if let Ok(uri) = path.parse::<http::Uri>() {
            let mut request = request(Method::GET, "/", Some("Bearer a"), "");
            *request.uri_mut() = uri;
            let response = futures_util::FutureExt::now_or_never(router().answer(&Toy::default(), request, PEER));
            prop_assert!(response.is_some());
        }
    }

    #[test]
    fn no_body_panics(
        path in prop::sample::select(vec![
            (Method::PUT, "/_matrix/client/v3/user/@a:b/rooms/!a:b/tags/x"),
            (Method::POST, "/_matrix/client/v3/rooms/!a:b/join"),
            (Method::PUT, "/_matrix/client/v3/rooms/!a:b/state/m.room.name/x"),
            (Method::PUT, "/_matrix/federation/v1/send/1"),
        ]),
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[\\[\\]{}:,\"a-z0-9.eE\\\\-]{0,60}".prop_map(String::into_bytes),
        ],
    ) {
        let signed = r#"X-Matrix origin="a",key="ed25519:1",sig="abcd""#;
        let token = if path.1.contains("federation") { signed } else { "Bearer a" };
        let request = request(path.0, path.1, Some(token), body);
        let response = futures_util::FutureExt::now_or_never(router().answer(&Toy::default(), request, PEER)).unwrap();
        prop_assert!(response.status() != StatusCode::INTERNAL_SERVER_ERROR);
    }
}
