//! What is to be told to another server is told, whenever the process is killed.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use conduit::{
    config::Config,
    rooms, start,
    store::trees::{ROOM_SERVERS, ROOMS},
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use ruma::{OwnedServerName, RoomId, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::Notify};

use super::{assert_sound, below, kill::start_program, rounds};
use crate::common::{Client, config, encode, net::TestNet};

/// What the other server heard: the texts of messages, in the order in which they came first.
#[derive(Default)]
struct Heard {
    texts: Mutex<Vec<String>>,
    more: Notify,
}

/// Another server at a port of its own. It fails now and then, before or after it has taken a transaction.
async fn listen(net: &TestNet) -> (SocketAddr, Arc<Heard>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, heard) = (listener.local_addr().unwrap(), Arc::new(Heard::default()));
    let (acceptor, hearing) = (net.acceptor("127.0.0.1"), heard.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, heard) = (acceptor.clone(), hearing.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request| take(heard.clone(), request));
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, heard)
}

async fn take(heard: Arc<Heard>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let answer = |status, body: Value| {
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = status;
        Ok(response)
    };
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let chance = below(24);
    if !path.starts_with("/_matrix/federation/v1/send/") || chance == 0 {
        return answer(StatusCode::NOT_FOUND, json!({ "errcode": "M_UNRECOGNIZED", "error": "" }));
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let mut texts = heard.texts.lock();
    for text in body["pdus"].as_array().into_iter().flatten().filter_map(|pdu| pdu["content"]["body"].as_str()) {
        if !texts.iter().any(|known| known == text) {
            texts.push(text.to_owned());
        }
    }
    heard.more.notify_waiters();
    if chance == 1 {
        return answer(StatusCode::BAD_GATEWAY, json!({}));
    }
    answer(StatusCode::OK, json!({ "pdus": {} }))
}

/// Makes another server take part in a room, or no longer, while no process runs.
fn set_present(config: &Config, room: &str, name: &OwnedServerName, present: bool) {
    let store = start::open_store(config).unwrap();
    let room = rooms::find(&store.read(), &RoomId::parse(room).unwrap()).unwrap().unwrap();
    store
        .write(|tx| {
            let mut record = rooms::get(tx, room)?;
            let since = tx.next_position()?;
            if present {
                ROOM_SERVERS.put(tx, (room, name), &(1, since));
                record.joined += 1;
            } else {
                ROOM_SERVERS.delete(tx, (room, name));
                record.joined -= 1;
            }
            ROOMS.put(tx, room, &record);
            Ok(())
        })
        .unwrap();
}

/// Sends messages with rising numbers until the server dies; gives the number of those that it acknowledged.
async fn send(client: Client, room: String, mut sent: usize) -> usize {
    loop {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{sent}", encode(&room));
        let body = json!({ "msgtype": "m.text", "body": sent.to_string() }).to_string();
        match client.attempt(Method::PUT, &path, body.into_bytes()).await {
            Some(_) => sent += 1,
            None => return sent,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_be_told_survives_kills() {
    let net = TestNet::new();
    let (address, heard) = listen(&net).await;
    let other = ServerName::parse(address.to_string()).unwrap();
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    let file = directory.path().join("conduit.toml");
    let options = std::fs::read_to_string(&file).unwrap();
    let more = format!("ca_certificates = [{:?}]\nip_range_denylist = []\ntrusted_servers = []\n", net.ca());
    std::fs::write(&file, format!("{options}{more}")).unwrap();

    let process = start_program(directory.path(), None);
    let alice = Client::new(process.base.clone()).register("alice").await;
    let room = alice.create_room(json!({})).await;
    process.kill();
    set_present(&config, &room, &other, true);

    let mut sent = 0;
    for _ in 0..rounds(6) {
        let process = start_program(directory.path(), None);
        let sending = tokio::spawn(send(alice.moved(&process.base), room.clone(), sent));
        tokio::time::sleep(Duration::from_millis(20 + below(500))).await;
        process.kill();
        sent = sending.await.unwrap();
    }
    let process = start_program(directory.path(), None);
    alice.moved(&process.base).send_text(&room, "the last").await;
    let told = async {
        loop {
            let more = heard.more.notified();
            if heard.texts.lock().iter().any(|text| text == "the last") {
                return;
            }
            more.await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), told).await.expect("it is not told");
    process.kill();
    let texts: Vec<String> = heard.texts.lock().clone();
    let numbers: Vec<usize> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    let missing: BTreeSet<_> = (0..sent).filter(|number| !numbers.contains(number)).collect();
    assert!(missing.is_empty(), "of {sent}, these were acknowledged and never told: {missing:?}");
    set_present(&config, &room, &other, false);
    assert_sound(&start::open_store(&config).unwrap(), &config.media_path());
}
