//! The keys of servers: published, fetched, passed on, believed.

use std::{
    collections::BTreeMap,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use conduit::{
    clock,
    federation::keys::{Needed, is_signed},
    signing::{self, SigningKeys},
    store::{Direction, records::ServerKeyDocument, trees},
};
use http::{Method, StatusCode};
use ruma::{CanonicalJsonObject, OwnedServerName, ServerName, serde::Base64, signatures::PublicKeySet};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::timeout};

use crate::common::{
    TestServer,
    net::{Fate, TestNet},
    peer::{Peer, answer},
};

fn needed(peer: &Peer, time: u64) -> Needed {
    let server = OwnedServerName::try_from(peer.name.as_str()).unwrap();
    Needed::from([(server, [(peer.keys.id().try_into().unwrap(), time)].into())])
}

/// The key of `peer` as `server` knows it, if it is valid at `time`.
async fn key(server: &TestServer, peer: &Peer, time: u64) -> Option<Base64> {
    let federation = &server.handle.server().federation;
    let known = federation.keys.fetch(federation, &needed(peer, time)).await.unwrap();
    let name = ServerName::parse(&*peer.name).unwrap();
    known.valid_at([&*name], Some(time)).remove(&peer.name)?.remove(peer.keys.id())
}

fn object(value: &Value) -> CanonicalJsonObject {
    serde_json::from_value(value.clone()).unwrap()
}

fn only(id: &str, key: &str) -> PublicKeySet {
    BTreeMap::from([(id.to_owned(), Base64::parse(key).unwrap())])
}

#[tokio::test]
async fn our_keys_are_published_and_signed() {
    let server = TestServer::start().await;
    for path in ["/_matrix/key/v2/server", "/_matrix/key/v2/server/", "/_matrix/key/v2/server/ed25519:auto"] {
        let (status, document) = server.anyone().get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {document}");
        let keys = &server.handle.server().keys;
        assert_eq!(document["verify_keys"][keys.id()]["key"], keys.public_key());
        assert!(document["valid_until_ts"].as_u64().unwrap() > clock::now_ms() + 3_600_000);
        let set = only(keys.id(), &keys.public_key());
        is_signed(&object(&document), keys.server_name(), &set).unwrap();
    }
}

#[tokio::test]
async fn after_a_rotation_the_old_key_is_one_that_signed_once() {
    let net = TestNet::new();
    let (a, b) = (net.server("a").await, net.server("b").await);
    let old = a.handle.server().keys.id().to_owned();
    let before = clock::now_ms();
    let federation = &b.handle.server().federation;
    let server = ServerName::parse("a.test").unwrap();
    let of = |id: &str, time| Needed::from([(server.clone(), [(id.try_into().unwrap(), time)].into())]);
    let known = async |id: &str, time| {
        let known = federation.keys.fetch(federation, &of(id, time)).await.unwrap();
        known.valid_at([&*server], Some(time))["a.test"].contains_key(id)
    };
    assert!(known(&old, before).await);
    let directory = a.stop().await;
    let store = conduit::start::open_store(&crate::common::config_in(&directory, "a.test")).unwrap();
    let new = store.rotate_signing_key().unwrap();
    drop(store);
    let a = net.start_in("a", directory, |_| {}).await;
    let (_, document) = a.anyone().get("/_matrix/key/v2/server").await;
    assert_eq!(document["verify_keys"].as_object().unwrap().keys().collect::<Vec<_>>(), [&new]);
    assert!(document["old_verify_keys"][&old]["expired_ts"].as_u64().unwrap() >= before);
    // Learning of the new key, others learn that the old one signs nothing any more.
    assert!(known(&new, clock::now_ms()).await);
    assert!(known(&old, before).await && !known(&old, clock::now_ms() + 1).await);
}

#[tokio::test]
async fn keys_are_fetched_once_and_kept() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let peer = Peer::new(&net, "peer").await;
    let now = clock::now_ms();
    let all = futures_util::future::join_all((0..10).map(|_| key(&a, &peer, now))).await;
    assert!(all.iter().all(Option::is_some));
    let fetched =
        |net: &TestNet| net.wire("a", "peer").passed().iter().filter(|passed| passed.contains("/key/")).count();
    assert_eq!(fetched(&net), 1);
    // Also over a restart, and when the peer is gone.
    let directory = a.stop().await;
    let a = net.start_in("a", directory, |_| {}).await;
    net.cut("a", "peer");
    assert!(key(&a, &peer, now).await.is_some());
    assert_eq!(fetched(&net), 1);
}

#[tokio::test]
async fn documents_that_their_server_did_not_sign_teach_nothing() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let now = clock::now_ms();
    type Change = (&'static str, fn(&Peer) -> Value);
    let changes: [Change; 5] = [
        ("unsigned", |peer| {
            let mut document = peer.document(|_| {});
            document.as_object_mut().unwrap().remove("signatures");
            document
        }),
        ("changed", |peer| {
            let mut document = peer.document(|_| {});
            document["valid_until_ts"] = json!(clock::now_ms() + 1);
            document
        }),
        ("elsewhere", |peer| peer.document(|document| document["server_name"] = json!("other.test"))),
        ("nonsense", |_| json!([1, 2])),
        ("expired", |peer| peer.document(|document| document["valid_until_ts"] = json!(5))),
    ];
    for (short, document) in changes {
        let peer = Peer::new(&net, short).await;
        let own = peer.clone();
        peer.on("/_matrix/key/v2/server", move |_| {
            let document = document(&own);
            async move { answer(200, &document) }
        });
        assert_eq!(key(&a, &peer, now).await, None, "{short}");
    }
}

#[tokio::test]
async fn a_server_that_fails_is_not_asked_again_at_once() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let peer = Peer::new(&net, "peer").await;
    peer.on("/_matrix/key/v2/server", |_| async { answer(500, &json!({})) });
    for _ in 0..5 {
        assert_eq!(key(&a, &peer, clock::now_ms()).await, None);
    }
    let asked = net.wire("a", "peer").passed().iter().filter(|passed| passed.contains("/key/")).count();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn no_key_is_believed_for_more_than_a_week_ahead_and_old_ones_until_they_expired() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let now = clock::now_ms();
    let day = 24 * 3_600_000;
    let peer = Peer::new(&net, "peer").await;
    let own = peer.clone();
    peer.on("/_matrix/key/v2/server", move |_| {
        let document = own.document(|document| document["valid_until_ts"] = json!(now + 365 * day));
        async move { answer(200, &document) }
    });
    assert!(key(&a, &peer, now + 6 * day).await.is_some());
    assert!(key(&a, &peer, now + 8 * day).await.is_none());

    let old = Peer::new(&net, "old").await;
    let own = old.clone();
    old.on("/_matrix/key/v2/server", move |_| {
        let document = own.document(|document| {
            document["old_verify_keys"] =
                json!({ "ed25519:past": { "key": own.keys.public_key(), "expired_ts": now - day } });
        });
        async move { answer(200, &document) }
    });
    let federation = &a.handle.server().federation;
    let name = ServerName::parse(&*old.name).unwrap();
    let at = |time: u64| {
        let needed = Needed::from([(name.clone(), [("ed25519:past".try_into().unwrap(), time)].into())]);
        let name = name.clone();
        async move {
            let known = federation.keys.fetch(federation, &needed).await.unwrap();
            known.valid_at([&*name], Some(time)).remove(name.as_str()).is_some_and(|keys| !keys.is_empty())
        }
    };
    assert!(at(now - 2 * day).await);
    assert!(!at(now).await);
}

#[tokio::test]
async fn this_server_passes_keys_on_with_its_own_signature_also_of_servers_that_are_gone() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let peer = Peer::new(&net, "peer").await;
    let keys = a.handle.server().keys.clone();
    let check = |answer: Value| {
        let documents = answer["server_keys"].as_array().unwrap().clone();
        assert_eq!(documents.len(), 1, "{answer}");
        let document = object(&documents[0]);
        is_signed(&document, keys.server_name(), &only(keys.id(), &keys.public_key())).unwrap();
        let name = ServerName::parse(&*peer.name).unwrap();
        is_signed(&document, &name, &only(peer.keys.id(), &peer.keys.public_key())).unwrap();
    };
    let anyone = a.anyone();
    check(anyone.ok(Method::GET, "/_matrix/key/v2/query/peer.test", Value::Null).await);
    let asked = json!({ "server_keys": { "peer.test": { peer.keys.id(): { "minimum_valid_until_ts": 1 } } } });
    check(anyone.ok(Method::POST, "/_matrix/key/v2/query", asked.clone()).await);
    let all = json!({ "server_keys": { "peer.test": {}, "nobody.test": {} } });
    check(anyone.ok(Method::POST, "/_matrix/key/v2/query", all).await);
    net.cut("a", "peer");
    let mut later = asked;
    later["server_keys"]["peer.test"][peer.keys.id()]["minimum_valid_until_ts"] = json!(clock::now_ms() + 999_999_999);
    check(anyone.ok(Method::POST, "/_matrix/key/v2/query", later).await);
    let own = anyone.ok(Method::GET, "/_matrix/key/v2/query/a.test", Value::Null).await;
    assert_eq!(own["server_keys"][0]["server_name"], "a.test");
}

/// Keys of servers that this one has nothing to do with are not stored, whoever has us ask for them, but passed on; once
/// something that stays is signed with them, they are.
#[tokio::test]
async fn keys_of_strangers_are_not_stored() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let (named, caller) = (Peer::new(&net, "named").await, Peer::new(&net, "caller").await);
    let store = &a.handle.server().store;
    let stored = || {
        let read = store.read();
        let documents = trees::SERVER_KEY_DOCUMENTS.scan(&read, (), Direction::Forward).count();
        (documents, trees::SERVER_KEYS.scan(&read, (), Direction::Forward).count())
    };
    let anyone = a.anyone();
    for _ in 0..2 {
        let answer = anyone.ok(Method::GET, "/_matrix/key/v2/query/named.test", Value::Null).await;
        assert_eq!(answer["server_keys"][0]["server_name"], "named.test");
    }
    let (status, answer) = caller.ask(&a, Method::GET, "/_matrix/federation/v1/event/$nothing", None).await;
    assert_ne!(status, StatusCode::UNAUTHORIZED, "{answer}");
    assert_eq!(stored(), (0, 0));
    let asked = |short: &str| net.wire("a", short).passed().iter().filter(|passed| passed.contains("/key/")).count();
    assert_eq!((asked("named"), asked("caller")), (1, 1));
    for peer in [&named, &caller] {
        assert!(key(&a, peer, clock::now_ms()).await.is_some());
    }
    assert_eq!((asked("named"), asked("caller")), (1, 1), "they were known");
    assert_eq!(stored(), (2, 2));
}

/// A server that says each time that it has other keys does not fill the database.
#[tokio::test]
async fn a_server_has_a_bounded_number_of_keys() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let peer = Peer::new(&net, "peer").await;
    let federation = &a.handle.server().federation;
    let server = OwnedServerName::try_from(peer.name.as_str()).unwrap();
    for round in 0..6 {
        let document = peer.document(|document| {
            for number in 0..60 {
                let key = json!({ "key": peer.keys.public_key(), "expired_ts": 1_000 * round + number });
                document["verify_keys"][format!("ed25519:now_{round}_{number}")] = key.clone();
                document["old_verify_keys"][format!("ed25519:old_{round}_{number}")] = key;
            }
        });
        peer.on("/_matrix/key/v2/server", move |_| {
            let document = document.clone();
            async move { answer(200, &document) }
        });
        let id = format!("ed25519:now_{round}_0");
        let needed = Needed::from([(server.clone(), [(id.as_str().try_into().unwrap(), clock::now_ms())].into())]);
        let known = federation.keys.fetch(federation, &needed).await.unwrap();
        assert!(known.valid_at([&*server], None)[server.as_str()].contains_key(&id), "{round}");
    }
    let read = a.handle.server().store.read();
    let kept = trees::SERVER_KEYS.scan(&read, (&*server,), Direction::Forward).count();
    assert_eq!(kept, 256);
    assert!(key(&a, &peer, clock::now_ms()).await.is_some());
}

/// What a server says of itself holds, also after it said that its keys are valid for ever, or our clock was wrong.
#[tokio::test]
async fn a_servers_own_word_is_the_newest() {
    let net = TestNet::new();
    let a = net.server("a").await;
    let peer = Peer::new(&net, "peer").await;
    let (now, year) = (clock::now_ms(), 365 * 24 * 3_600_000);
    let (version, pkcs8) = signing::generate().unwrap();
    let server = OwnedServerName::try_from(peer.name.as_str()).unwrap();
    let keys = SigningKeys::new(server.clone(), &version, &pkcs8, Vec::new()).unwrap();
    let later = Peer::with_keys(peer.name.clone(), keys);
    let publish = |document: Value| {
        peer.on("/_matrix/key/v2/server", move |_| {
            let document = document.clone();
            async move { answer(200, &document) }
        });
    };
    publish(peer.document(|document| document["valid_until_ts"] = json!(now + year)));
    assert!(key(&a, &peer, now + 1_000_000).await.is_some());
    // It withdraws the key, for one that is valid for an hour.
    let old = json!({ peer.keys.id(): { "key": peer.keys.public_key(), "expired_ts": now } });
    publish(later.document(|document| document["old_verify_keys"] = old));
    let store = &a.handle.server().store;
    let federation = &a.handle.server().federation;
    // As if the document had come while the clock was a year ahead.
    store
        .write(|tx| {
            let row = trees::SERVER_KEY_DOCUMENTS.get(tx, &server)?.unwrap();
            let row = ServerKeyDocument { fetched_ts: now + year, ..row };
            trees::SERVER_KEY_DOCUMENTS.put(tx, &server, &row);
            Ok(())
        })
        .unwrap();
    let document = federation.keys.document(federation, &server, 0).await.unwrap().unwrap();
    assert!(serde_json::to_string(&document).unwrap().contains(later.keys.id()));
    assert!(key(&a, &peer, now + 1_000_000).await.is_none());
}

#[tokio::test]
async fn a_trusted_server_tells_the_keys_of_one_that_is_gone_and_a_lying_one_is_not_believed() {
    let net = TestNet::new();
    let notary = net.server("notary").await;
    let peer = Peer::new(&net, "peer").await;
    let now = clock::now_ms();
    assert!(key(&notary, &peer, now).await.is_some());
    let trusting = |config: &mut conduit::config::Config| {
        config.trusted_servers = vec!["notary.test".try_into().unwrap()];
    };
    let a = net.server_with("a", trusting).await;
    net.cut("a", "peer");
    assert!(key(&a, &peer, now).await.is_some());
    assert!(net.wire("a", "notary").passed().iter().any(|passed| passed == "POST /_matrix/key/v2/query"));

    // One that makes up a key in the name of another: the document is not signed by that one.
    let liar = Peer::new(&net, "liar").await;
    let victim = Peer::new(&net, "victim").await;
    let (lying, named) = (liar.clone(), victim.clone());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    liar.on("/_matrix/key/v2/query", move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        let document = lying.sign(json!({
            "server_name": named.name,
            "verify_keys": { named.keys.id(): { "key": lying.keys.public_key() } },
            "valid_until_ts": clock::now_ms() + 3_600_000,
        }));
        async move { answer(200, &json!({ "server_keys": [document] })) }
    });
    let b = net.server_with("b", |config| config.trusted_servers = vec!["liar.test".try_into().unwrap()]).await;
    net.cut("b", "victim");
    assert_eq!(key(&b, &victim, now).await, None);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

/// A server that lets us wait is not waited for where somebody else tells its keys.
#[tokio::test]
async fn a_trusted_server_is_asked_while_another_does_not_answer() {
    let net = TestNet::new();
    let notary = net.server("notary").await;
    let peer = Peer::new(&net, "peer").await;
    let now = clock::now_ms();
    assert!(key(&notary, &peer, now).await.is_some());
    // Counts those who wait at the peer.
    let waiting = Arc::new(());
    let waits = waiting.clone();
    peer.on("/_matrix/key/v2/server", move |_| {
        let waits = waits.clone();
        async move {
            let _waits = waits;
            std::future::pending().await
        }
    });
    let alone = Arc::strong_count(&waiting);
    let a = net.server_with("a", |config| config.trusted_servers = vec!["notary.test".try_into().unwrap()]).await;
    let at_the_time = Arc::new(AtomicUsize::new(0));
    let count = at_the_time.clone();
    net.wire("a", "notary").decide(move |passing| {
        if passing.path.contains("/query") {
            count.store(Arc::strong_count(&waiting), Ordering::Relaxed);
        }
        Fate::Passes
    });
    assert!(key(&a, &peer, now).await.is_some());
    assert!(at_the_time.load(Ordering::Relaxed) > alone);
}

/// Nor is a trusted server that lets us wait, where the server itself tells.
#[tokio::test]
async fn a_trusted_server_that_does_not_answer_is_not_waited_for() {
    let net = TestNet::new();
    let (notary, peer) = (Peer::new(&net, "notary").await, Peer::new(&net, "peer").await);
    let asked = Arc::new(Notify::new());
    let notary_asked = asked.clone();
    notary.on("/_matrix/key/v2/query", move |_| {
        notary_asked.notify_one();
        std::future::pending()
    });
    let own = peer.clone();
    peer.on("/_matrix/key/v2/server", move |_| {
        let (asked, document) = (asked.clone(), own.document(|_| {}));
        async move {
            asked.notified().await;
            answer(200, &document)
        }
    });
    let a = net.server_with("a", |config| config.trusted_servers = vec!["notary.test".try_into().unwrap()]).await;
    // Less than the notary is given.
    let found = timeout(Duration::from_secs(20), key(&a, &peer, clock::now_ms())).await;
    assert!(found.expect("the notary is waited for").is_some());
}

#[tokio::test]
async fn many_servers_are_asked_for_in_one_question_to_a_notary() {
    let net = TestNet::new();
    let notary = net.server("notary").await;
    let mut peers = Vec::new();
    for index in 0..10 {
        peers.push(Peer::new(&net, &format!("peer{index}")).await);
    }
    let a = net.server_with("a", |config| config.trusted_servers = vec!["notary.test".try_into().unwrap()]).await;
    let now = clock::now_ms();
    let all: Needed = peers.iter().flat_map(|peer| needed(peer, now)).collect();
    let federation = &a.handle.server().federation;
    let known = federation.keys.fetch(federation, &all).await.unwrap();
    for peer in &peers {
        let name = ServerName::parse(&*peer.name).unwrap();
        assert!(known.valid_at([&*name], Some(now))[&peer.name].contains_key(peer.keys.id()));
        assert!(net.wire("a", peer.name.trim_end_matches(".test")).passed().is_empty());
    }
    let questions = net.wire("a", "notary").passed();
    assert_eq!(questions.iter().filter(|passed| passed.contains("/query")).count(), 1, "{questions:?}");
    notary.check();
}
