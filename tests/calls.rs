//! Group calls: where they go (MSC4143), and the tokens for the LiveKit server (MSC4195).

use std::sync::Arc;

use bytes::Bytes;
use conduit::config::Config;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use parking_lot::Mutex;
use ring::{digest, hmac};
use ruma::serde::{
    Base64,
    base64::{Standard, UrlSafe},
};
use serde_json::{Value, json};

use crate::common::{Client, TestServer, encode, net::TestNet, peer::answer};

const TRANSPORTS: &str = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports";
const SERVICE: &str = "/_matrix/client/unstable/rs.conduit.livekit";
const SECRET: &str = "a secret of the LiveKit server";

/// A LiveKit server's API, which notes the rooms that it makes.
#[derive(Clone, Default)]
struct LiveKit {
    rooms: Arc<Mutex<Vec<String>>>,
    fails: Arc<Mutex<bool>>,
}

impl LiveKit {
    async fn start(net: &TestNet) -> Self {
        let livekit = Self::default();
        let answering = livekit.clone();
        net.peer("livekit", move |request| {
            let livekit = answering.clone();
            async move { livekit.create(&request) }
        })
        .await;
        livekit
    }

    fn create(&self, request: &Request<Bytes>) -> Response<Full<Bytes>> {
        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/twirp/livekit.RoomService/CreateRoom"));
        if *self.fails.lock() {
            return answer(503, &json!({ "code": "unavailable" }));
        }
        let token = request.headers()[header::AUTHORIZATION].to_str().unwrap().strip_prefix("Bearer ").unwrap();
        assert_eq!(claims(token)["video"], json!({ "roomCreate": true }));
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        self.rooms.lock().push(body["name"].as_str().unwrap().to_owned());
        answer(200, &json!({ "sid": "RM_1", "name": body["name"] }))
    }

    fn made(&self) -> Vec<String> {
        self.rooms.lock().clone()
    }
}

/// What a token says, if it is signed as it must be.
fn claims(token: &str) -> Value {
    let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("not three parts: {token}") };
    let read = |part: &str| Base64::<UrlSafe>::parse(part).unwrap().into_inner();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    hmac::verify(&key, format!("{head}.{body}").as_bytes(), &read(signature)).unwrap();
    let head: Value = serde_json::from_slice(&read(head)).unwrap();
    assert_eq!(head, json!({ "alg": "HS256", "typ": "JWT" }));
    serde_json::from_slice(&read(body)).unwrap()
}

fn name(parts: Value) -> String {
    let hash = digest::digest(&digest::SHA256, parts.to_string().as_bytes());
    Base64::<Standard, _>::new(hash.as_ref()).encode()
}

fn with_livekit(config: &mut Config) {
    // A secret is read from a configuration only.
    let folder = config.database_path.parent().unwrap();
    let file = folder.join("rtc.toml");
    let text = format!(
        "[global]\nserver_name = \"a.test\"\ndatabase_path = \"db\"\n\
         [global.matrix_rtc]\nlivekit_url = \"wss://livekit.test/\"\nkey = \"conduit\"\nsecret = \"{SECRET}\"\n"
    );
    std::fs::write(&file, text).unwrap();
    config.matrix_rtc = Config::load(Some(file), std::iter::empty()).unwrap().0.matrix_rtc;
}

async fn openid(client: &Client) -> Value {
    let path = format!("/_matrix/client/v3/user/{}/openid/request_token", encode(&client.user_id));
    client.ok(Method::POST, &path, json!({})).await
}

/// Asks `server` for a token, as a web page does that knows an OpenID token alone.
async fn token(server: &TestServer, room: &str, openid: &Value) -> (StatusCode, Value) {
    let body = json!({ "room": room, "openid_token": openid, "device_id": "PHONE" });
    server.anyone().post(&format!("{SERVICE}/sfu/get"), body).await
}

#[tokio::test]
async fn clients_are_told_where_calls_go_with_a_token_and_without() {
    let net = TestNet::new();
    let server = net.server_with("a", with_livekit).await;
    let alice = server.register("alice").await;
    let foci = json!([{ "type": "livekit", "livekit_service_url": format!("https://a.test{SERVICE}") }]);
    for client in [&alice, &server.anyone()] {
        assert_eq!(client.ok(Method::GET, TRANSPORTS, Value::Null).await, json!({ "rtc_transports": foci }));
    }
    let well_known = alice.ok(Method::GET, "/.well-known/matrix/client", Value::Null).await;
    assert_eq!(well_known["org.matrix.msc4143.rtc_foci"], foci);

    let without = TestServer::start().await;
    let none = without.anyone();
    assert_eq!(none.ok(Method::GET, TRANSPORTS, Value::Null).await, json!({ "rtc_transports": [] }));
    assert!(none.get("/.well-known/matrix/client").await.1.get("org.matrix.msc4143.rtc_foci").is_none());
}

#[tokio::test]
async fn a_service_of_its_own_is_told_of_instead() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "[global]\nserver_name = \"a.test\"\ndatabase_path = \"db\"\n\
        [global.matrix_rtc]\nservice_url = \"https://jwt.example.org/livekit/\"\n";
    std::fs::write(file.path(), text).unwrap();
    let rtc = Config::load(Some(file.path().to_owned()), std::iter::empty()).unwrap().0.matrix_rtc;
    let server = TestServer::start_with(|config| config.matrix_rtc = rtc).await;
    let answer = server.anyone().ok(Method::GET, TRANSPORTS, Value::Null).await;
    assert_eq!(answer["rtc_transports"][0]["livekit_service_url"], "https://jwt.example.org/livekit");
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    assert_eq!(token(&server, &room, &openid(&alice).await).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn users_of_this_server_begin_calls_and_those_of_others_come_to_them() {
    let net = TestNet::new();
    let livekit = LiveKit::start(&net).await;
    let (a, b) = (net.server_with("a", with_livekit).await, net.server("b").await);
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.ok(Method::POST, &format!("/_matrix/client/v3/join/{}?server_name=a.test", encode(&room)), json!({})).await;

    let (status, remote) = token(&a, &room, &openid(&bob).await).await;
    assert_eq!(status, StatusCode::OK, "{remote}");
    assert!(livekit.made().is_empty(), "a user of another server begins no call");
    assert_eq!(claims(remote["jwt"].as_str().unwrap())["sub"], format!("{}:PHONE", bob.user_id));

    let (status, local) = token(&a, &room, &openid(&alice).await).await;
    assert_eq!((status, &local["url"]), (StatusCode::OK, &json!("wss://livekit.test")), "{local}");
    let claims = claims(local["jwt"].as_str().unwrap());
    let alias = name(json!([room, "m.call#ROOM"]));
    assert_eq!(livekit.made(), [alias.as_str()]);
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!("conduit"), &json!(format!("{}:PHONE", alice.user_id))));
    let grant = json!({ "roomJoin": true, "room": alias, "canPublish": true, "canSubscribe": true });
    assert_eq!(claims["video"], grant);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["nbf"].as_u64().unwrap(), 3_600);

    *livekit.fails.lock() = true;
    assert_eq!(token(&a, &room, &openid(&alice).await).await.0, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn tokens_for_slots_name_the_member() {
    let net = TestNet::new();
    let livekit = LiveKit::start(&net).await;
    let server = net.server_with("a", with_livekit).await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let openid = openid(&alice).await;
    let ask = |user: &str| {
        let member = json!({ "id": "xyz", "claimed_user_id": user, "claimed_device_id": "PHONE" });
        let body = json!({ "room_id": room, "slot_id": "m.call#ROOM", "openid_token": openid, "member": member });
        let anyone = server.anyone();
        async move { anyone.post(&format!("{SERVICE}/get_token"), body).await }
    };
    let (status, granted) = ask(&alice.user_id).await;
    assert_eq!(status, StatusCode::OK, "{granted}");
    let claims = claims(granted["jwt"].as_str().unwrap());
    assert_eq!(claims["sub"], name(json!([alice.user_id, "PHONE", "xyz"])));
    assert_eq!(claims["video"]["room"], name(json!([room, "m.call#ROOM"])), "the same room as without slots");
    assert_eq!(livekit.made().len(), 1);
    assert_eq!(ask("@bob:a.test").await.1["errcode"], "M_UNAUTHORIZED");
}

#[tokio::test]
async fn nobody_gets_in_who_is_not_who_they_say_or_not_in_the_room() {
    let net = TestNet::new();
    let livekit = LiveKit::start(&net).await;
    let a = net.server_with("a", with_livekit).await;
    net.peer("liar", |_| async { answer(200, &json!({ "sub": "@alice:a.test" })) }).await;
    let (alice, bob) = (a.register("alice").await, a.register("bob").await);
    let room = alice.create_room(json!({})).await;
    let (status, answer) = token(&a, &room, &openid(&bob).await).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")));
    assert_eq!(token(&a, "!nowhere:a.test", &openid(&bob).await).await.0, StatusCode::FORBIDDEN);
    for server in ["a.test", "liar.test", "nowhere.test"] {
        let invented = json!({ "access_token": "x", "token_type": "Bearer", "matrix_server_name": server });
        let (status, answer) = token(&a, &room, &invented).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_UNAUTHORIZED")), "{server}");
    }
    let body = json!({ "room": room });
    assert_eq!(a.anyone().post(&format!("{SERVICE}/sfu/get"), body).await.1["errcode"], "M_BAD_JSON");
    assert!(livekit.made().is_empty());
    // A web page of any origin may ask.
    let (status, headers, _) = a.anyone().full(Method::OPTIONS, &format!("{SERVICE}/sfu/get"), &[]).await;
    assert_eq!(
        (status, &headers["access-control-allow-origin"]),
        (StatusCode::NO_CONTENT, &header::HeaderValue::from_static("*"))
    );
}
