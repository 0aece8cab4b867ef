//! The real program is killed by SIGKILL at random moments while clients write, or the power fails; then it starts again
//! over what is there.
//!
//! Each worker knows what was acknowledged to it and what it was waiting for when the server died: the former must be
//! there, the latter may be. A request that was not answered is sent again with the same transaction ID, as clients
//! do: it must then have happened exactly once.

#![allow(clippy::large_enum_variant)] // a handful of workers

use std::{path::Path, time::Duration};

use conduit::start;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{assert_sound, below, copy_files, power::Power, rounds};
use crate::{
    common::{
        Client, config, encode,
        process::{Process, program},
    },
    registration::with_secret,
};

/// Starts the program over `directory`; returns when it answers.
pub(super) fn start_program(directory: &Path, power: Option<&Power>) -> Process {
    let mut command = program(directory);
    if let Some(power) = power {
        power.watch(&mut command);
    }
    Process::start(command).unwrap_or_else(|(status, log)| panic!("the server did not start ({status}):\n{log}"))
}

/// A client that writes until the server dies.
enum Worker {
    Messages(Messages),
    Value(ValueSetter),
    ToDevice(ToDevice),
    Receipts(Receipts),
    Uploads(Uploads),
    Deletions(Deletions),
}

impl Worker {
    /// Writes until the server dies.
    async fn run(mut self, base: String) -> Self {
        let alive = async |worker: &mut Self| match worker {
            Self::Messages(worker) => worker.step().await,
            Self::Value(worker) => worker.step().await,
            Self::ToDevice(worker) => worker.step().await,
            Self::Receipts(worker) => worker.step().await,
            Self::Uploads(worker) => worker.step().await,
            Self::Deletions(worker) => worker.step().await,
        };
        self.client().base = base;
        while alive(&mut self).await.is_some() {}
        self
    }

    /// Looks for everything that was acknowledged.
    async fn verify(&mut self, base: &str) {
        self.client().base = base.to_owned();
        match self {
            Self::Messages(worker) => worker.verify().await,
            Self::Value(worker) => worker.verify().await,
            Self::ToDevice(worker) => worker.verify().await,
            Self::Receipts(worker) => worker.verify().await,
            Self::Uploads(worker) => worker.verify().await,
            Self::Deletions(worker) => worker.verify().await,
        }
    }

    fn client(&mut self) -> &mut Client {
        match self {
            Self::Messages(Messages { client, .. })
            | Self::Value(ValueSetter { client, .. })
            | Self::ToDevice(ToDevice { client, .. })
            | Self::Receipts(Receipts { client, .. })
            | Self::Uploads(Uploads { client, .. })
            | Self::Deletions(Deletions { client, .. }) => client,
        }
    }
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Sends messages into a room that others send into as well.
struct Messages {
    client: Client,
    room: String,
    sent: usize,
    /// IDs of the acknowledged events; their texts are their numbers.
    acknowledged: Vec<String>,
    verified: usize,
}

impl Messages {
    async fn step(&mut self) -> Option<()> {
        let room = encode(&self.room);
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{}", self.sent);
        let body = json!({ "msgtype": "m.text", "body": self.sent.to_string() }).to_string();
        let answer = self.client.attempt(Method::PUT, &path, body.into_bytes()).await?;
        self.acknowledged.push(json_of(&answer)["event_id"].as_str().unwrap().to_owned());
        self.sent += 1;
        Some(())
    }

    async fn verify(&mut self) {
        self.step().await.unwrap(); // what was sent, but not acknowledged, once more
        let room = format!("/_matrix/client/v3/rooms/{}", encode(&self.room));
        for (number, id) in self.acknowledged.iter().enumerate().skip(self.verified) {
            let event = self.client.ok(Method::GET, &format!("{room}/event/{}", encode(id)), Value::Null).await;
            assert_eq!(event["content"]["body"], number.to_string(), "{id}");
        }
        // The timeline has each once, in their order.
        let last_verified = self.verified.checked_sub(1).map(|last| self.acknowledged[last].clone());
        let (mut found, mut from) = (Vec::new(), String::new());
        'pages: loop {
            let page =
                self.client.ok(Method::GET, &format!("{room}/messages?dir=b&limit=1000{from}"), Value::Null).await;
            for event in page["chunk"].as_array().unwrap() {
                if last_verified.as_deref() == event["event_id"].as_str() {
                    break 'pages;
                }
                if event["sender"] == self.client.user_id && event["type"] == "m.room.message" {
                    found.push(event["event_id"].as_str().unwrap().to_owned());
                }
            }
            match page["end"].as_str() {
                Some(end) => from = format!("&from={end}"),
                None => break,
            }
        }
        found.reverse();
        assert_eq!(found, self.acknowledged[self.verified..], "the events of {} in the timeline", self.client.user_id);
        self.verified = self.acknowledged.len();
    }
}

/// Sets one value over and over: room state or account data.
struct ValueSetter {
    client: Client,
    path: String,
    value: u64,
}

impl ValueSetter {
    async fn step(&mut self) -> Option<()> {
        let body = json!({ "value": self.value + 1 }).to_string();
        self.client.attempt(Method::PUT, &self.path, body.into_bytes()).await?;
        self.value += 1;
        Some(())
    }

    async fn verify(&mut self) {
        let found = self.client.ok(Method::GET, &self.path, Value::Null).await["value"].as_u64().unwrap();
        assert!(found == self.value || found == self.value + 1, "{}: {found}, not {}", self.path, self.value);
        self.value = found;
    }
}

/// Sends messages to another device, which must get each once.
struct ToDevice {
    client: Client,
    receiver: Client,
    since: String,
    sent: usize,
    received: usize,
}

impl ToDevice {
    async fn step(&mut self) -> Option<()> {
        let path = format!("/_matrix/client/v3/sendToDevice/m.dummy/{}", self.sent);
        let body = json!({ "messages": { &self.receiver.user_id: { "*": { "number": self.sent } } } }).to_string();
        self.client.attempt(Method::PUT, &path, body.into_bytes()).await?;
        self.sent += 1;
        Some(())
    }

    async fn verify(&mut self) {
        self.step().await.unwrap(); // what was sent, but not acknowledged, once more
        self.receiver.base.clone_from(&self.client.base);
        let mut found = Vec::new();
        loop {
            let answer = self.receiver.sync(&format!("timeout=0{}", self.since)).await;
            self.since = format!("&since={}", answer["next_batch"].as_str().unwrap());
            let Some(events) = answer["to_device"]["events"].as_array().filter(|events| !events.is_empty()) else {
                break;
            };
            found.extend(events.iter().map(|event| event["content"]["number"].as_u64().unwrap() as usize));
        }
        let expected: Vec<_> = (self.received..self.sent).collect();
        assert_eq!(found, expected, "messages to a device");
        self.received = self.sent;
    }
}

/// Sends an event and a receipt for it.
struct Receipts {
    client: Client,
    room: String,
    sent: u64,
    acknowledged: Option<String>,
    under_way: Option<String>,
}

impl Receipts {
    async fn step(&mut self) -> Option<()> {
        let room = format!("/_matrix/client/v3/rooms/{}", encode(&self.room));
        let path = format!("{room}/send/m.room.message/{}", self.sent);
        let answer = self.client.attempt(Method::PUT, &path, b"{\"body\":\"a\"}".to_vec()).await?;
        self.sent += 1;
        let event = json_of(&answer)["event_id"].as_str().unwrap().to_owned();
        self.under_way = Some(event.clone());
        let path = format!("{room}/receipt/m.read/{}", encode(&event));
        self.client.attempt(Method::POST, &path, b"{}".to_vec()).await?;
        self.acknowledged = Some(event);
        Some(())
    }

    async fn verify(&mut self) {
        let answer = self.client.sync("timeout=0").await;
        let ephemeral = &answer["rooms"]["join"][&self.room]["ephemeral"]["events"];
        let receipts = ephemeral.as_array().into_iter().flatten().find(|event| event["type"] == "m.receipt");
        let found = receipts.and_then(|receipts| {
            let content = receipts["content"].as_object().unwrap();
            content.iter().find(|(_, by_type)| !by_type["m.read"][&self.client.user_id].is_null())
        });
        let found = found.map(|(event, _)| event.clone());
        assert!(found == self.acknowledged || found == self.under_way, "{found:?} is not {:?}", self.acknowledged);
        self.acknowledged = found;
    }
}

/// Uploads files.
struct Uploads {
    client: Client,
    /// URIs and contents.
    acknowledged: Vec<(String, Vec<u8>)>,
}

impl Uploads {
    async fn step(&mut self) -> Option<()> {
        let bytes = conduit::clock::random_bytes::<32>().unwrap().repeat(1 + below(2000) as usize);
        let answer = self.client.attempt(Method::POST, "/_matrix/media/v3/upload", bytes.clone()).await?;
        self.acknowledged.push((json_of(&answer)["content_uri"].as_str().unwrap().to_owned(), bytes));
        Some(())
    }

    async fn verify(&mut self) {
        for (uri, bytes) in self.acknowledged.drain(..) {
            let name = uri.strip_prefix("mxc://").unwrap();
            let path = format!("/_matrix/client/v1/media/download/{name}");
            let found = self.client.attempt(Method::GET, &path, Vec::new()).await.unwrap();
            assert_eq!(found, bytes, "{uri}");
        }
    }
}

/// An administrator who deletes rooms with what was said in them, and ends accounts; both goes on after the answer.
struct Deletions {
    client: Client,
    /// The rooms that are to go.
    rooms: Vec<String>,
    /// Somebody with a file and a room, whose account is to be ended.
    victim: Option<Client>,
    /// Whose account was.
    ended: Vec<String>,
}

impl Deletions {
    async fn step(&mut self) -> Option<()> {
        if let Some(victim) = &self.victim {
            let path = format!("/_synapse/admin/v1/deactivate/{}", encode(&victim.user_id));
            self.client.attempt(Method::POST, &path, b"{\"erase\":true}".to_vec()).await?;
            self.ended.extend(self.victim.take().map(|victim| victim.user_id));
        }
        let answer = self.client.attempt(Method::POST, "/_matrix/client/v3/createRoom", b"{}".to_vec()).await?;
        let room = json_of(&answer)["room_id"].as_str().unwrap().to_owned();
        for number in 0..5 {
            let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{number}", encode(&room));
            self.client.attempt(Method::PUT, &path, b"{\"body\":\"a\",\"msgtype\":\"m.text\"}".to_vec()).await?;
        }
        let path = format!("/_synapse/admin/v2/rooms/{}", encode(&room));
        self.client.attempt(Method::DELETE, &path, b"{\"purge\":true}".to_vec()).await?;
        self.rooms.push(room);
        Some(())
    }

    async fn verify(&mut self) {
        for room in self.rooms.drain(..) {
            let path = format!("/_synapse/admin/v2/rooms/{}/delete_status", encode(&room));
            while self.client.ok(Method::GET, &path, Value::Null).await["results"][0]["status"] != "complete" {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let path = format!("/_matrix/client/v3/rooms/{}/state", encode(&room));
            assert_ne!(self.client.get(&path).await.0, StatusCode::OK, "{room}");
        }
        for user in self.ended.drain(..) {
            let path = format!("/_synapse/admin/v2/users/{}", encode(&user));
            let found = self.client.ok(Method::GET, &path, Value::Null).await;
            assert_eq!((&found["deactivated"], &found["erased"]), (&json!(true), &json!(true)), "{found}");
        }
        if self.victim.is_none() {
            self.victim = Some(self.somebody().await);
        }
    }

    async fn somebody(&self) -> Client {
        let name = conduit::clock::random_string(8).unwrap().to_lowercase();
        let user = Client::new(self.client.base.clone()).register(&name).await;
        user.create_room(json!({})).await;
        user.raw(Method::POST, "/_matrix/media/v3/upload", "text/plain", name.into_bytes()).await;
        user
    }
}

/// Users, rooms, and a worker of each kind.
async fn workers(base: &str) -> Vec<Worker> {
    let anyone = Client::new(base.to_owned());
    let (alice, bob) = (anyone.register("alice").await, anyone.register("bob").await);
    let (_, admin) = with_secret(&anyone, "admin", true, "shared").await;
    let admin = anyone.logged_in(&admin);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let private = bob.create_room(json!({})).await;
    let state = format!("/_matrix/client/v3/rooms/{}/state/org.example.test/", encode(&room));
    let data = format!("/_matrix/client/v3/user/{}/account_data/org.example.test", encode(&alice.user_id));
    let since = bob.sync("timeout=0").await["next_batch"].as_str().unwrap().to_owned();
    let messages = |client: &Client| {
        let (client, room) = (client.clone(), room.clone());
        Worker::Messages(Messages { client, room, sent: 0, acknowledged: Vec::new(), verified: 0 })
    };
    let mut setters = Vec::new();
    for path in [state, data] {
        let mut setter = ValueSetter { client: alice.clone(), path, value: 0 };
        setter.step().await.unwrap();
        setters.push(Worker::Value(setter));
    }
    let mut workers = vec![
        messages(&alice),
        messages(&bob),
        Worker::ToDevice(ToDevice {
            client: alice.clone(),
            receiver: bob.clone(),
            since: format!("&since={since}"),
            sent: 0,
            received: 0,
        }),
        Worker::Receipts(Receipts { client: bob, room: private, sent: 0, acknowledged: None, under_way: None }),
        Worker::Uploads(Uploads { client: alice, acknowledged: Vec::new() }),
        Worker::Deletions(Deletions { client: admin, rooms: Vec::new(), victim: None, ended: Vec::new() }),
    ];
    workers.append(&mut setters);
    workers
}

/// Kills the program again and again, without or with the power, and looks at what is left.
async fn survives(power: Option<Power>) {
    let directory = TempDir::new().unwrap();
    let config = config(directory.path());
    let mut process = start_program(directory.path(), power.as_ref());
    let mut workers = workers(&process.base).await;
    for _ in 0..rounds(8) {
        let running: Vec<_> =
            workers.into_iter().map(|worker| tokio::spawn(worker.run(process.base.clone()))).collect();
        tokio::time::sleep(Duration::from_millis(20 + below(500))).await;
        process.kill();
        workers = Vec::new();
        for worker in running {
            workers.push(worker.await.unwrap());
        }
        if let Some(power) = &power {
            power.cut(&config.database_path);
        }
        // The program is to start over what the dead one left: the check looks at a copy.
        let copy = TempDir::new().unwrap();
        let folder = start::database_folder(copy.path());
        copy_files(&start::database_folder(&config.database_path), &folder).unwrap();
        let copied = conduit::config::Config { database_path: copy.path().to_owned(), ..config.clone() };
        assert_sound(&start::open_store(&copied).unwrap(), &config.media_path());

        process = start_program(directory.path(), power.as_ref());
        for worker in &mut workers {
            worker.verify(&process.base).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills() {
    survives(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_power_cuts() {
    survives(Some(Power::new())).await;
}
