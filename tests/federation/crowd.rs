//! Joining a room of many servers through a resolver that answers twenty queries a second, and drops the others.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use conduit::{
    clock,
    config::Config,
    outgoing::Network,
    rooms::{Outcome, servers},
    signing::{self, SigningKeys},
    store::{
        records::{ServerKey, ServerKeyDocument},
        trees,
    },
};
use http::{Method, Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use ruma::{RoomId, RoomVersionId, ServerName, UserId};
use serde_json::{Value, json, value::to_raw_value};
use tokio::net::TcpListener;

use super::joins::{join, until};
use crate::common::{
    TestServer,
    dns::Dns,
    encode,
    net::TestNet,
    peer::{Peer, answer},
};

/// Servers `s0.crowd.test` and so on, all at one port of this machine: they tell their keys and nothing else.
struct Crowd {
    members: BTreeMap<String, Peer>,
    address: SocketAddr,
}

impl Crowd {
    async fn new(net: &TestNet, count: usize) -> Self {
        let (_, pkcs8) = signing::generate().unwrap();
        let member = |number: usize| {
            let name = format!("s{number}.crowd.test");
            let keys = SigningKeys::new(ServerName::parse(&*name).unwrap(), "crowd", &pkcs8, Vec::new()).unwrap();
            (name.clone(), Peer::with_keys(name, keys))
        };
        let members: BTreeMap<_, _> = (0..count).map(member).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (acceptor, telling) = (net.acceptor("*.crowd.test"), Arc::new(members.clone()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, members) = (acceptor.clone(), telling.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let answer = tell(&members, &request);
                        async move { Ok::<_, hyper::Error>(answer) }
                    });
                    // An error is a client that has gone.
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { members, address }
    }

    /// Has a user of each join a room of `server`, as its events say. Their keys it is told beforehand.
    async fn join(&self, server: &TestServer, room: &RoomId) {
        let (rooms, federation) = (&server.handle.server().rooms, &server.handle.server().federation);
        let (now, valid_until_ts) = (clock::now_ms(), clock::now_ms() + 86_400_000);
        rooms
            .store
            .write(|tx| {
                for peer in self.members.values() {
                    let name = ServerName::parse(&*peer.name).unwrap();
                    let document = peer.document(|document| document["valid_until_ts"] = json!(valid_until_ts));
                    let document = ServerKeyDocument { json: document.to_string(), valid_until_ts, fetched_ts: now };
                    trees::SERVER_KEY_DOCUMENTS.put(tx, &name, &document);
                    let key = ServerKey { key: peer.keys.public_key(), valid_until_ts };
                    trees::SERVER_KEYS.put(tx, (&name, peer.keys.id()), &key);
                }
                Ok(())
            })
            .unwrap();
        for (name, peer) in &self.members {
            let user = UserId::parse(format!("@user:{name}")).unwrap();
            let content = to_raw_value(&json!({ "membership": "join" })).unwrap();
            let draft = conduit::rooms::Draft::raw_state("m.room.member".into(), user.as_str(), content);
            let (event, _) = peer.event(server, room.as_str(), user.as_str(), draft, |_| {});
            let pdus = vec![to_raw_value(&event).unwrap()];
            let (_, signed) = federation.verify(&RoomVersionId::V11, pdus).await.unwrap().remove(0);
            let guard = rooms.lock(room).await;
            let outcome = rooms.receive(&guard, signed.unwrap()).await.unwrap();
            assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
        }
    }
}

/// What a server of the crowd answers.
fn tell(members: &BTreeMap<String, Peer>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let host = request.uri().host().map(str::to_owned);
    let host = host.or_else(|| Some(request.headers().get(header::HOST)?.to_str().ok()?.to_owned()));
    match host.and_then(|host| members.get(&host)).filter(|_| request.uri().path() == "/_matrix/key/v2/server") {
        Some(peer) => answer(200, &peer.document(|_| {})),
        None => answer(404, &json!({ "errcode": "M_UNRECOGNIZED", "error": "No." })),
    }
}

/// What the server of the present thread logs as wrong.
#[derive(Clone, Default)]
struct Faults(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Faults {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bob joins a room of `count` servers, and is heard in it. `trusts` says whether his server trusts that of the room to
/// tell the keys of others.
async fn joins(count: usize, trusts: bool) {
    let faults = Faults::default();
    let writer = faults.clone();
    let log =
        tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).with_writer(move || writer.clone()).finish();
    let _log = tracing::subscriber::set_default(log);

    let net = TestNet::new();
    let a = net.server("a").await;
    let alice = a.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    let crowd = Crowd::new(&net, count).await;
    crowd.members.keys().for_each(|name| net.lead("a", name, crowd.address));
    crowd.join(&a, <&RoomId>::try_from(&*room).unwrap()).await;

    let dns = Dns::start().await;
    dns.here("here.test");
    dns.service("_matrix-fed._tcp.a.test", 0, "here.test", net.open("a").await.port());
    for name in crowd.members.keys() {
        dns.service(&format!("_matrix-fed._tcp.{name}"), 0, "here.test", crowd.address.port());
    }
    dns.limit(2);
    let trusted = trusts.then(|| ServerName::parse("a.test").unwrap());
    let change = |config: &mut Config| config.trusted_servers = trusted.into_iter().collect();
    let b = net.server_at_with("b", Network::Resolver(dns.address), change).await;
    let bob = b.register("bob").await;
    let begun = Instant::now();
    join(&bob, &room, &["a.test"]).await;
    let (joined, queries) = (begun.elapsed(), dns.queries().len());
    let members = format!("/_matrix/client/v3/rooms/{}/joined_members", encode(&room));
    let members = bob.ok(Method::GET, &members, Value::Null).await;
    assert_eq!(members["joined"].as_object().unwrap().len(), count + 2);
    let whole = begun.elapsed();
    bob.send_text(&room, "here I am").await;
    let messages = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=1", encode(&room));
    until("bob's message", async || alice.get(&messages).await.1.to_string().contains("here I am").then_some(())).await;
    #[allow(clippy::print_stdout)] // the figures, for who asked for a large crowd
    {
        let heard = begun.elapsed();
        println!(
            "{count} servers: joined in {joined:?} with {queries} queries, whole in {whole:?}, heard in {heard:?}"
        );
    }
    let read = b.handle.server().store.read();
    let no = conduit::rooms::find(&read, <&RoomId>::try_from(&*room).unwrap()).unwrap().unwrap();
    assert_eq!(servers::count(&read, no).unwrap(), count + 2);
    drop(read);
    b.stop().await;
    assert_eq!(String::from_utf8_lossy(&faults.0.lock()), "");
}

/// Each is asked for its keys.
#[tokio::test]
async fn a_room_of_some_servers_is_joined_through_a_slow_resolver() {
    joins(4, false).await;
}

/// `CONDUIT_CROWD` has the room be of more servers, 3,000 for example.
#[tokio::test]
async fn a_room_of_many_servers_is_joined_through_a_slow_resolver() {
    joins(std::env::var("CONDUIT_CROWD").map_or(100, |count| count.parse().unwrap()), true).await;
}
