//! Large rooms on paper: events of many servers, rightly signed, which a [`Peer`] hands out and one listener answers for.
//!
//! ```ignore
//! let net = TestNet::new();
//! let (peer, crowd) = (Peer::new(&net, "peer").await, Crowd::new(&net, 100).await);
//! let mut room = SyntheticRoom::new(&peer, &crowd, Size { members: 10_000, changes: 2 });
//! let server = net.server("a").await;
//! crowd.lead(&net, "a");
//! room.admit();
//! // ... bob joins it via peer.test
//! room.take_joins();
//! ```

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use conduit::{clock, rooms::canonical, signing, signing::SigningKeys};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use ruma::{CanonicalJsonObject, OwnedRoomId, RoomVersionId, ServerName, room_version_rules::RoomVersionRules};
use serde_json::{Value, json, value::RawValue};
use tokio::net::TcpListener;

use super::{
    TestServer, encode,
    net::{Gate, TestNet},
    peer::{Peer, answer, decode},
};

/// The version of every synthetic room.
const VERSION: RoomVersionId = RoomVersionId::V11;

/// Servers that exist by their keys only, behind one address.
pub struct Crowd {
    pub keys: Vec<Arc<SigningKeys>>,
    address: SocketAddr,
}

impl Crowd {
    /// So many servers, named `s0.crowd.test` and so on.
    pub async fn new(net: &TestNet, servers: usize) -> Arc<Self> {
        let keys: Vec<_> = (0..servers).map(|number| keys(&format!("s{number}.crowd.test"))).collect();
        let by_name: HashMap<String, Value> =
            keys.iter().map(|keys| (keys.server_name().to_string(), document(keys))).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (acceptor, by_name) = (net.acceptor("*.crowd.test"), Arc::new(by_name));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, by_name) = (acceptor.clone(), by_name.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let by_name = by_name.clone();
                        async move { Ok::<_, hyper::Error>(in_the_place_of_all(&by_name, request).await) }
                    });
                    auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        Arc::new(Self { keys, address })
    }

    /// Has a server of the net find them.
    pub fn lead(&self, net: &TestNet, from: &str) {
        for keys in &self.keys {
            net.lead(from, keys.server_name().as_str(), self.address);
        }
    }
}

/// Each has its keys, and listens.
async fn in_the_place_of_all(documents: &HashMap<String, Value>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    body.collect().await.ok();
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(parts.uri.host());
    let name = host.unwrap_or_default().split(':').next().unwrap_or_default();
    match (parts.uri.path(), documents.get(name)) {
        ("/_matrix/key/v2/server", Some(document)) => answer(200, document),
        (path, _) if path.starts_with("/_matrix/federation/v1/send/") => answer(200, &json!({ "pdus": {} })),
        _ => answer(404, &json!({})),
    }
}

fn keys(name: &str) -> Arc<SigningKeys> {
    let (version, pkcs8) = signing::generate().unwrap();
    Arc::new(SigningKeys::new(ServerName::parse(name).unwrap(), &version, &pkcs8, Vec::new()).unwrap())
}

fn document(keys: &SigningKeys) -> Value {
    let document = json!({
        "server_name": keys.server_name(),
        "verify_keys": { keys.id(): { "key": keys.public_key() } },
        "old_verify_keys": {},
        "valid_until_ts": clock::now_ms() + 24 * 3_600_000,
    });
    let mut document: CanonicalJsonObject = serde_json::from_value(document).unwrap();
    keys.sign_json(&mut document).unwrap();
    serde_json::to_value(document).unwrap()
}

/// How large a room is.
#[derive(Clone, Copy)]
pub struct Size {
    pub members: usize,
    /// How often each member changed its name: so many member events of each are in the auth chain only.
    pub changes: usize,
}

/// An event: its ID and its JSON.
pub type Made = (String, Box<RawValue>);

/// See the module.
pub struct SyntheticRoom {
    pub id: OwnedRoomId,
    pub peer: Peer,
    pub crowd: Arc<Crowd>,
    /// The current state, by type and state key.
    pub state: HashMap<(String, String), Made>,
    /// What is in the auth chains only.
    pub older: Vec<Made>,
    /// The newest event.
    pub last: String,
    depth: u64,
    rules: RoomVersionRules,
    /// The joins that were sent to the peer.
    joins: Arc<Mutex<Vec<Value>>>,
}

impl SyntheticRoom {
    /// A public room by admin of the peer, with members of the crowd.
    pub fn new(peer: &Peer, crowd: &Arc<Crowd>, size: Size) -> Self {
        let mut room = Self {
            id: format!("!{}:{}", clock::random_string(10).unwrap(), peer.name).try_into().unwrap(),
            peer: peer.clone(),
            crowd: crowd.clone(),
            state: HashMap::new(),
            older: Vec::new(),
            last: String::new(),
            depth: 0,
            rules: VERSION.rules().unwrap(),
            joins: Arc::default(),
        };
        let admin = room.admin();
        room.set(&admin, "m.room.create", "", json!({ "room_version": VERSION }));
        room.set(&admin, "m.room.member", &admin, json!({ "membership": "join" }));
        room.set(&admin, "m.room.power_levels", "", json!({ "users": { &*admin: 100 } }));
        room.set(&admin, "m.room.join_rules", "", json!({ "join_rule": "public" }));
        room.set(&admin, "m.room.history_visibility", "", json!({ "history_visibility": "shared" }));
        for number in 0..size.members {
            let user = room.member(number);
            for change in 0..=size.changes {
                let name = format!("Member {number}, as they are called for the {change}. time");
                room.set(&user, "m.room.member", &user, json!({ "membership": "join", "displayname": name }));
            }
        }
        room
    }

    pub fn admin(&self) -> String {
        format!("@admin:{}", self.peer.name)
    }

    /// The member with this number: of the crowd, or of the peer if there is none.
    pub fn member(&self, number: usize) -> String {
        match self.crowd.keys.len() {
            0 => format!("@member{number}:{}", self.peer.name),
            servers => format!("@member{number}:s{}.crowd.test", number % servers),
        }
    }

    /// A state event that follows the newest, in the place of what was set before.
    pub fn set(&mut self, sender: &str, kind: &str, key: &str, content: Value) -> Made {
        let made = self.make(sender, kind, Some(key), content, |_| {});
        self.last.clone_from(&made.0);
        self.older.extend(self.state.insert((kind.to_owned(), key.to_owned()), made.clone()));
        made
    }

    /// A message that follows the newest.
    pub fn say(&mut self, sender: &str, text: &str) -> Made {
        let made = self.make(sender, "m.room.message", None, json!({ "msgtype": "m.text", "body": text }), |_| {});
        self.last.clone_from(&made.0);
        made
    }

    /// An event that follows the newest, without taking its place; `change` changes it before it is hashed and signed.
    pub fn make(
        &mut self,
        sender: &str,
        kind: &str,
        key: Option<&str>,
        content: Value,
        change: impl FnOnce(&mut Value),
    ) -> Made {
        let server = sender.split_once(':').unwrap().1;
        let of_crowd = self.crowd.keys.iter().find(|keys| keys.server_name() == server);
        let keys = of_crowd.unwrap_or(&self.peer.keys).clone();
        self.make_by(&keys, sender, kind, key, content, change)
    }

    /// The same, signed with these keys.
    pub fn make_by(
        &mut self,
        keys: &SigningKeys,
        sender: &str,
        kind: &str,
        key: Option<&str>,
        content: Value,
        change: impl FnOnce(&mut Value),
    ) -> Made {
        self.depth += 1;
        let mut auth = vec![("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender)];
        if kind == "m.room.member" {
            auth.push(("m.room.join_rules", ""));
            auth.extend(key.filter(|key| *key != sender).map(|key| ("m.room.member", key)));
        }
        let auth = auth.into_iter().filter(|_| kind != "m.room.create");
        let auth = auth.filter_map(|(kind, key)| self.state.get(&(kind.to_owned(), key.to_owned())));
        let mut event = json!({
            "room_id": self.id,
            "sender": sender,
            "type": kind,
            "content": content,
            "depth": self.depth,
            "origin_server_ts": clock::now_ms(),
            "auth_events": auth.map(|(id, _)| id).collect::<Vec<_>>(),
            "prev_events": if self.last.is_empty() { vec![] } else { vec![&self.last] },
        });
        if let Some(key) = key {
            event["state_key"] = json!(key);
        }
        change(&mut event);
        self.sign(keys, event)
    }

    /// Hashes and signs an event.
    fn sign(&self, keys: &SigningKeys, mut event: Value) -> Made {
        event["hashes"] = json!({ "sha256": canonical::hash(&event.to_string()) });
        let text = canonical::reference_text(&event.to_string(), &self.rules.redaction).unwrap();
        let server = keys.server_name().as_str();
        event["signatures"] = json!({ server: { keys.id(): keys.sign(text.as_bytes()) } });
        let id = canonical::event_id(&text, self.rules.event_id_format);
        (id, serde_json::value::to_raw_value(&event).unwrap())
    }

    /// A template for a join of `user`.
    pub fn template(&self, user: &str) -> Value {
        let allowing = ["m.room.create", "m.room.power_levels", "m.room.join_rules"];
        let auth: Vec<_> = allowing.iter().map(|kind| &self.state[&((*kind).to_owned(), String::new())].0).collect();
        json!({ "room_version": VERSION, "event": {
            "type": "m.room.member", "room_id": self.id, "sender": user, "state_key": user,
            "content": { "membership": "join" }, "depth": self.depth + 1, "origin_server_ts": clock::now_ms(),
            "prev_events": [self.last], "auth_events": auth,
        } })
    }

    /// What is answered to a join: the state first, as most servers have it, then the auth chain.
    pub fn join_answer(&self) -> Bytes {
        let mut text = String::from("{\"origin\":\"\",\"members_omitted\":false");
        for (name, list) in [("state", self.state.values().collect::<Vec<_>>()), ("auth_chain", self.chain())] {
            text.push_str(&format!(",\"{name}\":["));
            for (number, (_, json)) in list.into_iter().enumerate() {
                text.push_str(if number == 0 { "" } else { "," });
                text.push_str(json.get());
            }
            text.push(']');
        }
        text.push('}');
        text.into()
    }

    /// The auth chain of the state.
    fn chain(&self) -> Vec<&Made> {
        let allowing = self.state.iter().filter(|((kind, _), _)| kind != "m.room.member").map(|(_, made)| made);
        allowing.chain(&self.older).collect()
    }

    /// The peer lets everybody in from now on, into the room as it is now.
    pub fn admit(&self) {
        let (template, whole, joins) = (self.template(""), self.join_answer(), self.joins.clone());
        let room = self.id.clone();
        self.peer.on(format!("/_matrix/federation/v1/make_join/{room}/"), move |request: Request<Bytes>| {
            let mut template = template.clone();
            let user = decode(request.uri().path().rsplit('/').next().unwrap());
            template["event"]["sender"] = json!(user);
            template["event"]["state_key"] = json!(user);
            async move { answer(200, &template) }
        });
        self.peer.on(format!("/_matrix/federation/v2/send_join/{room}/"), move |request: Request<Bytes>| {
            joins.lock().push(serde_json::from_slice(request.body()).unwrap());
            let whole = whole.clone();
            async move { json_answer(whole) }
        });
    }

    /// The peer lets everybody in from now on, into the room as it is now, and tells the members behind the gate only.
    pub fn admit_without_members(&self) -> Gate {
        self.admit();
        let is_member = |kind: &str, key: &str| kind == "m.room.member" && key != self.admin();
        let known: Vec<_> = self.state.iter().filter(|((kind, key), _)| !is_member(kind, key)).collect();
        let list = |made: Vec<&Made>| made.into_iter().map(|(_, json)| json.clone()).collect::<Vec<_>>();
        let known = list(known.into_iter().map(|(_, made)| made).collect());
        let (state, chain) = (list(self.state.values().collect()), list(self.chain()));
        let admin = list(vec![&self.state[&("m.room.member".to_owned(), self.admin())]]);
        let (joins, few) = (
            self.joins.clone(),
            json!({
                "origin": self.peer.name, "members_omitted": true, "servers_in_room": [self.peer.name],
                "state": known, "auth_chain": admin,
            }),
        );
        self.peer.on(format!("/_matrix/federation/v2/send_join/{}/", self.id), move |request: Request<Bytes>| {
            joins.lock().push(serde_json::from_slice(request.body()).unwrap());
            let few = answer(200, &few);
            async move { few }
        });
        let ids = |made: Vec<&Made>| made.into_iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
        let all = [&state[..], &chain].concat();
        let gate = Gate::closed();
        for (path, told, gate) in [
            ("state", json!({ "pdus": state, "auth_chain": chain }), Some(gate.clone())),
            (
                "state_ids",
                json!({ "pdu_ids": ids(self.state.values().collect()), "auth_chain_ids": ids(self.chain()) }),
                Some(gate.clone()),
            ),
            ("event_auth", json!({ "auth_chain": all }), None),
        ] {
            let told = Bytes::from(told.to_string());
            self.peer.on(format!("/_matrix/federation/v1/{path}/{}", self.id), move |_| {
                let (told, gate) = (told.clone(), gate.clone());
                async move {
                    if let Some(gate) = gate {
                        gate.passed().await;
                    }
                    json_answer(told)
                }
            });
        }
        gate
    }

    /// Who joined through the peer since is in the room as the peer has it, too.
    pub fn take_joins(&mut self) {
        for join in std::mem::take(&mut *self.joins.lock()) {
            let text = canonical::reference_text(&join.to_string(), &self.rules.redaction).unwrap();
            let id = canonical::event_id(&text, self.rules.event_id_format);
            self.depth = self.depth.max(join["depth"].as_u64().unwrap());
            self.last.clone_from(&id);
            let key = ("m.room.member".to_owned(), join["state_key"].as_str().unwrap().to_owned());
            let made = (id, serde_json::value::to_raw_value(&join).unwrap());
            self.older.extend(self.state.insert(key, made));
        }
    }

    /// The peer sends a transaction with these events; gives its status and what became of each.
    pub async fn send(&self, to: &TestServer, id: &str, pdus: &[Box<RawValue>], edus: &[Value]) -> (StatusCode, Value) {
        let path = format!("/_matrix/federation/v1/send/{}", encode(id));
        let body = json!({ "origin": self.peer.name, "origin_server_ts": clock::now_ms(), "pdus": pdus, "edus": edus });
        self.peer.ask(to, Method::PUT, &path, Some(body)).await
    }
}

/// An answer whose JSON is there already.
pub fn json_answer(body: Bytes) -> Response<Full<Bytes>> {
    Response::builder().header(header::CONTENT_TYPE, "application/json").body(Full::new(body)).unwrap()
}
