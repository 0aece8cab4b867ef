//! What is fuzzed: a function for each target of `fuzz/`, which takes any bytes and panics if something is wrong.
//! Nothing here needs the rest of the tests, since `fuzz/` compiles this file by itself.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io::Cursor,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use conduit::{
    appservice::registration::Registration,
    config::Config,
    http::{Body, Router},
    ids::{EventNo, Position, RoomNo},
    media::{
        disposition, multipart, open_graph,
        thumbnails::{self, Size},
    },
    outgoing::{NameMap, Network},
    push::glob::Glob,
    rooms::receive,
    server::Server,
    start,
    store::key::{Encode, Key},
    users::{
        accounts,
        devices::{self, Login},
    },
};
use http::{Method, Request, StatusCode, header};
use ruma::{
    OwnedDeviceId, OwnedEventId, OwnedServerName, OwnedUserId, RoomVersionId, server_name, signatures::PublicKeyMap,
    user_id,
};
use serde_json::{Value, json, value::RawValue};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Keys of the database: what decodes is written again as it was, and two keys compare as their bytes do.
pub fn key(data: &[u8]) {
    fn again<K: Key + Ord + Debug>(data: &[u8]) {
        let mut rest = data;
        let Some(first) = K::decode(&mut rest) else { return };
        let bytes = |key: &K| {
            let mut bytes = Vec::new();
            Encode::encode(key, &mut bytes);
            bytes
        };
        let consumed = &data[..data.len() - rest.len()];
        assert_eq!(bytes(&first), consumed, "{first:?} is written in one way");
        if let Some(second) = K::decode(&mut rest) {
            assert_eq!(bytes(&first).cmp(&bytes(&second)), first.cmp(&second), "{first:?} and {second:?}");
        }
    }
    again::<(String, u64, Vec<u8>, i64)>(data);
    again::<(Option<u64>, bool, String)>(data);
    again::<(u8, u16, u32)>(data);
    again::<(RoomNo, i64, EventNo)>(data);
    again::<(OwnedUserId, OwnedDeviceId, Position)>(data);
    again::<(OwnedServerName, OwnedEventId)>(data);
}

/// Events of other servers, of a room version that the first byte says.
pub fn pdu(data: &[u8]) {
    let Some((version, json)) = data.split_first() else { return };
    let Ok(json) = String::from_utf8(json.to_vec()).map(RawValue::from_string) else { return };
    let Ok(json) = json else { return };
    let version = RoomVersionId::try_from((1 + version % 12).to_string()).unwrap();
    if let Ok(received) = receive::parse(&json, &version) {
        assert!(!received.event_id().as_str().is_empty());
        let needed = received.signers().count();
        let verified = receive::verify(received, &PublicKeyMap::new());
        assert!(verified.is_err() && needed > 0, "an event that nobody signed passes");
    }
}

/// Files as servers send them, cut into pieces of the size that the first byte says; and the headers around them.
pub fn multipart(data: &[u8]) {
    fn read(body: &[u8], size: usize) -> Result<(usize, Vec<u8>), String> {
        let mut reader = multipart::Reader::new("b");
        let (mut heads, mut file) = (0, Vec::new());
        for piece in body.chunks(size.max(1)) {
            reader.push(piece);
            loop {
                match reader.piece()? {
                    multipart::Piece::None => break,
                    multipart::Piece::Headers(_) => heads += 1,
                    multipart::Piece::File(bytes) => file.extend_from_slice(&bytes),
                    multipart::Piece::End => return Ok((heads, file)),
                }
            }
        }
        Ok((heads, file))
    }
    let Some((size, body)) = data.split_first() else { return };
    if let (Ok(whole), Ok(pieces)) = (read(body, usize::MAX), read(body, usize::from(*size))) {
        assert!(whole.0 <= 1 && whole.0 == pieces.0);
        // Without its end, what could be the end's beginning is held back.
        assert!(whole.1.starts_with(&pieces.1) || pieces.1.starts_with(&whole.1));
    }
    let Ok(text) = std::str::from_utf8(body) else { return };
    multipart::boundary(text);
    assert!(disposition::content_type(Some(text)).len() <= text.len().max(64));
    let header = disposition::content_disposition(text, Some(text));
    assert!(http::HeaderValue::try_from(header).is_ok(), "what is written is a header");
    disposition::range(Some(text), 1000);
}

/// Pages that are previewed.
pub fn page(data: &[u8]) {
    let found = open_graph::of_page(&String::from_utf8_lossy(data));
    assert!(found.len() <= 60 && found.values().all(|value| value.chars().count() <= 1000));
}

/// Pictures that thumbnails are made of.
pub fn picture(data: &[u8]) {
    let size = Size::for_request(96, 96, None);
    for animated in [false, true] {
        drop(thumbnails::make(|| Ok(Cursor::new(data)), size, animated));
    }
}

/// Patterns of push rules and the texts that they are tried on, separated by a zero byte.
pub fn pattern(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (pattern, text) = text.split_once('\0').unwrap_or((&text, &text));
    let glob = Glob::new(pattern);
    glob.matches(text);
    glob.matches_words(&text.to_lowercase());
}

/// Registrations of application services, and the configuration: `file` is one that can be written.
pub fn settings(data: &[u8], file: &Path) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(registration) = Registration::parse(text, server_name!("localhost"))
    {
        registration.has_user(user_id!("@alice:localhost"));
    }
    std::fs::write(file, data).unwrap();
    if let Ok((config, _)) = Config::load(Some(file.to_owned()), std::iter::empty()) {
        let shown = config.effective();
        assert!(toml::from_str::<toml::Table>(&shown).is_ok(), "what is printed can be read: {shown}");
    }
}

/// A server that answers requests without a socket.
pub struct World {
    runtime: Runtime,
    router: Router<Server>,
    handle: start::Handle,
    token: String,
    /// IDs that mean something, one letter each: see [`World::fill`].
    ids: BTreeMap<char, String>,
    _folder: TempDir,
}

/// What ends the login that the requests are made with.
const LEFT_OUT: &[&str] = &["logout", "logout_all", "deactivate_account", "change_password"];

/// A long poll is not waited for.
const PATIENCE: Duration = Duration::from_millis(200);

impl World {
    /// A server that reaches no other, with a user who has a room.
    pub fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("conduit.toml");
        let options = format!(
            "server_name = \"localhost\"\naddress = \"127.0.0.1\"\nport = 0\ndatabase_path = {:?}\nlog = \"error\"\n\
             rate_limits = false\nmemory_budget = \"64MB\"\nadmin_room = false\n",
            folder.path().join("db")
        );
        std::fs::write(&file, options).unwrap();
        let config = Config::load(Some(file), std::iter::empty()).unwrap().0;
        let runtime = Runtime::new().unwrap();
        let handle = runtime.block_on(Box::pin(start::start_in(config, Network::Names(NameMap::default())))).unwrap();
        let (alice, login) = (user_id!("@alice:localhost"), Login::default());
        let token = handle.server().store.write(|tx| {
            accounts::create(tx, alice, &Default::default(), Some("Alice"))?;
            Ok(devices::log_in(tx, alice, &login)?.1.access)
        });
        let router = start::router().unwrap();
        let ids = BTreeMap::from([('u', alice.to_string()), ('s', "localhost".to_owned())]);
        let mut world = Self { runtime, router, handle, token: token.unwrap(), ids, _folder: folder };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let options = json!({ "preset": "public_chat", "room_alias_name": "tea" }).to_string();
        let room = self.json(Method::POST, "/_matrix/client/v3/createRoom", options)["room_id"].clone();
        let room = room.as_str().unwrap().to_owned();
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
        let event = self.json(Method::PUT, &path, json!({ "body": "hello" }).to_string())["event_id"].clone();
        self.ids.insert('r', room);
        self.ids.insert('e', event.as_str().unwrap().to_owned());
        self.ids.insert('a', "#tea:localhost".to_owned());
    }

    fn json(&self, method: Method, path: &str, body: String) -> Value {
        let (status, answer) = self.ask(method, path, &format!("Bearer {}", self.token), body.into_bytes()).unwrap();
        assert_eq!(status, StatusCode::OK, "{path}: {answer:?}");
        serde_json::from_slice(&answer).unwrap()
    }

    fn ask(&self, method: Method, path: &str, authorization: &str, body: Vec<u8>) -> Option<(StatusCode, Vec<u8>)> {
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        let request = request.header(header::AUTHORIZATION, authorization).body(Body::full(body)).ok()?;
        let server: &Arc<Server> = self.handle.server();
        let answered = self.runtime.block_on(async {
            let address = IpAddr::from(Ipv4Addr::LOCALHOST);
            let exchange = async {
                let (head, mut body) = self.router.answer(server, request, address).await.into_parts();
                let mut bytes = Vec::new();
                while let Some(part) = body.next().await.unwrap() {
                    bytes.extend_from_slice(&part);
                }
                (head.status, bytes)
            };
            tokio::time::timeout(PATIENCE, exchange).await
        });
        answered.ok()
    }

    /// Any path at all: the router finds a route or says that there is none.
    pub fn path(&self, data: &[u8]) {
        let Ok(path) = std::str::from_utf8(data) else { return };
        // A method of no route: no handler runs.
        if let Some((status, answer)) = self.ask(Method::TRACE, &format!("/{path}"), "", Vec::new()) {
            assert!(status.is_client_error(), "{path}: {status}");
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert!(answer["errcode"].is_string(), "{path}: {answer}");
        }
    }

    /// A request: two bytes choose the route; then, up to the first line break, come the variables of its path, separated
    /// by slashes, and the query; the next line is what another server says of itself, if it is a route for servers; the
    /// rest is the body.
    pub fn request(&self, data: &[u8]) {
        let Some((&[high, low], rest)) = data.split_first_chunk() else { return };
        let routes: Vec<_> = self.router.routes().filter(|(info, _)| !LEFT_OUT.contains(&info.operation)).collect();
        let (info, _) = routes[usize::from(u16::from_be_bytes([high, low])) % routes.len()];
        let mut lines = rest.splitn(3, |byte| *byte == b'\n');
        let mut line = || String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let (target, signature) = (line(), line());
        let body = lines.next().unwrap_or_default().to_vec();
        let path = self.fill(info.path, &target);
        let authorization = match info.path.starts_with("/_matrix/federation") {
            true => format!("X-Matrix {signature}"),
            false => format!("Bearer {}", self.token),
        };
        let Some((status, answer)) = self.ask(info.method.clone(), &path, &authorization, body) else { return };
        let elsewhere = [StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT].contains(&status);
        assert!(elsewhere || !status.is_server_error(), "{path}: {status} {}", String::from_utf8_lossy(&answer));
    }

    /// The path with its variables from `target`, in which a letter after a tilde is the ID that goes by it.
    fn fill(&self, path: &str, target: &str) -> String {
        let mut target = target.to_owned();
        for (letter, id) in &self.ids {
            target = target.replace(&format!("~{letter}"), &id.replace('#', "%23").replace('$', "%24"));
        }
        let (variables, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut variables = variables.split('/');
        let mut fill = |part: &str| match part.starts_with('{') {
            true => variables.next().unwrap_or("x").to_owned(),
            false => part.to_owned(),
        };
        let path = path.split('/').map(&mut fill).collect::<Vec<_>>().join("/");
        format!("{path}?{query}")
    }
}
