//! An hour of a family of six: what the server does for them, in as little time as it takes, and what memory is left.
//!
//! Each has a phone, which uses sliding sync, and a computer, which uses classic `/sync`; all twelve wait for news all the
//! time. There are 50 rooms: one of all, one for each two, and others of some. In the hour 600 messages are written, each
//! after typing, each read by everyone else in the room; 30 pictures are sent and looked at as thumbnails and whole; keys are
//! exchanged, account data set. The waiting of a quiet hour, a request each 30 seconds, is made up for in the end.

use std::{path::Path, time::Duration};

use conduit::clock;
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::{
    common::{
        Client, TOKEN, encode,
        process::{Process, program},
    },
    resident_mb,
};

const NAMES: [&str; 6] = ["ada", "ben", "cleo", "dan", "eva", "finn"];
const ROOMS: usize = 50;
const MESSAGES: usize = 600;
const PICTURES: usize = 30;
/// Requests of one device that wait 30 seconds each, in an hour.
const POLLS: usize = 120;

/// A person with two devices.
struct Person {
    phone: Client,
    computer: Client,
}

/// A room and who is in it.
type Room = (String, Vec<usize>);

fn settings(directory: &Path) {
    let options = format!(
        "server_name = \"localhost\"\naddress = \"127.0.0.1\"\nport = 0\ndatabase_path = {:?}\nallow_registration = true\n\
         registration_token = \"{TOKEN}\"\nrate_limits = false\nmemory_budget = \"256MB\"\n",
        directory.join("db")
    );
    std::fs::write(directory.join("conduit.toml"), options).unwrap();
}

async fn people(base: &str) -> Vec<Person> {
    let anyone = Client::new(base.to_owned());
    let mut people = Vec::new();
    for name in NAMES {
        let phone = anyone.register(name).await;
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": name },
            "password": format!("secret-{name}"),
        });
        let answer = anyone.ok(Method::POST, "/_matrix/client/v3/login", body).await;
        people.push(Person { phone, computer: anyone.logged_in(&answer) });
    }
    people
}

async fn rooms(people: &[Person]) -> Vec<Room> {
    let mut members: Vec<Vec<usize>> = vec![(0..6).collect()];
    for one in 0..6 {
        members.extend((one + 1..6).map(|other| vec![one, other]));
    }
    while members.len() < ROOMS {
        let first = members.len() % 6;
        members.push((0..3 + members.len() % 3).map(|step| (first + step) % 6).collect());
    }
    let mut rooms = Vec::new();
    for members in members {
        let options = json!({
            "name": format!("Room {}", rooms.len()),
            "preset": "private_chat",
            "invite": members[1..].iter().map(|&who| people[who].phone.user_id.clone()).collect::<Vec<_>>(),
            "initial_state": [{ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } }],
        });
        let room = people[members[0]].phone.create_room(options).await;
        for &who in &members[1..] {
            people[who].phone.join(&room).await;
        }
        rooms.push((room, members));
    }
    rooms
}

/// A computer that waits for news, again and again.
fn classic(client: Client) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut since = String::new();
        loop {
            let answer = client.sync(&format!("timeout=30000{since}")).await;
            since = format!("&since={}", answer["next_batch"].as_str().unwrap());
        }
    })
}

/// One request of sliding sync, on the connection `id`.
fn window(id: &str, pos: &str, timeout: u64) -> (String, Value) {
    let path = format!("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout={timeout}{pos}");
    let body = json!({
        "conn_id": id,
        "lists": { "all": {
            "ranges": [[0, 19]],
            "timeline_limit": 20,
            "required_state": [["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"]],
        } },
        "extensions": {
            "e2ee": { "enabled": true }, "to_device": { "enabled": true }, "account_data": { "enabled": true },
            "receipts": { "enabled": true }, "typing": { "enabled": true },
        },
    });
    (path, body)
}

/// A phone that does so.
fn sliding(client: Client) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut pos = String::new();
        loop {
            let (path, body) = window("main", &pos, 30_000);
            let answer = client.ok(Method::POST, &path, body).await;
            pos = format!("&pos={}", answer["pos"].as_str().unwrap());
        }
    })
}

async fn write(people: &[Person], (room, members): &Room, number: usize, content: Value) {
    let writer = &people[members[number % members.len()]].phone;
    let path = format!("/_matrix/client/v3/rooms/{}", encode(room));
    let typing = format!("{path}/typing/{}", encode(&writer.user_id));
    writer.ok(Method::PUT, &typing, json!({ "typing": true, "timeout": 30_000 })).await;
    let event = writer.send(room, "m.room.encrypted", content).await;
    writer.ok(Method::PUT, &typing, json!({ "typing": false })).await;
    for reader in members.iter().map(|&who| &people[who]).filter(|person| person.phone.user_id != writer.user_id) {
        let receipt = format!("{path}/receipt/m.read/{}", encode(&event));
        reader.computer.ok(Method::POST, &receipt, json!({})).await;
    }
}

/// A picture of some megabytes, sent by one and looked at by the others.
async fn picture(people: &[Person], (room, members): &Room, number: usize) {
    let sender = &people[members[0]].phone;
    let noise = clock::random_bytes::<4096>().unwrap();
    let image = image::RgbImage::from_fn(1600, 1200, |x, y| {
        let at = (x * 7 + y * 13 + number as u32) as usize % (noise.len() - 3);
        image::Rgb([noise[at], noise[at + 1], noise[at + 2]])
    });
    let mut bytes = Vec::new();
    image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Jpeg).unwrap();
    let answer = sender.raw(Method::POST, "/_matrix/media/v3/upload", "image/jpeg", bytes).await.1;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let uri = answer["content_uri"].as_str().unwrap().to_owned();
    write(people, &(room.clone(), members.clone()), number, json!({ "ciphertext": uri, "algorithm": "m" })).await;
    let name = uri.strip_prefix("mxc://").unwrap();
    for reader in members.iter().map(|&who| &people[who]) {
        for path in [format!("thumbnail/{name}?width=600&height=400"), format!("download/{name}")] {
            let path = format!("/_matrix/client/v1/media/{path}");
            assert_eq!(reader.phone.raw(Method::GET, &path, "", Vec::new()).await.0, http::StatusCode::OK);
        }
    }
}

/// Room keys for every device of the room, and a note of one's own.
async fn keys_and_notes(people: &[Person], (_, members): &Room, number: usize) {
    let sender = &people[members[0]].phone;
    let key = json!({ "algorithm": "m.olm.v1.curve25519-aes-sha2", "ciphertext": "x".repeat(1500) });
    let messages: serde_json::Map<_, _> =
        members.iter().map(|&who| (people[who].phone.user_id.clone(), json!({ "*": key }))).collect();
    let path = format!("/_matrix/client/v3/sendToDevice/m.room.encrypted/k{number}");
    sender.ok(Method::PUT, &path, json!({ "messages": messages })).await;
    let path = format!("/_matrix/client/v3/user/{}/account_data/org.example.note", encode(&sender.user_id));
    sender.ok(Method::PUT, &path, json!({ "number": number })).await;
    let query =
        members.iter().map(|&who| (people[who].phone.user_id.clone(), json!([]))).collect::<serde_json::Map<_, _>>();
    sender.ok(Method::POST, "/_matrix/client/v3/keys/query", json!({ "device_keys": query })).await;
}

/// What all devices ask while nothing happens.
async fn quiet(people: &[Person]) {
    for person in people {
        let since = person.computer.sync("timeout=0").await["next_batch"].as_str().unwrap().to_owned();
        let (path, body) = window("quiet", "", 0);
        let mut pos = person.phone.ok(Method::POST, &path, body).await["pos"].as_str().unwrap().to_owned();
        for _ in 0..POLLS {
            person.computer.sync(&format!("timeout=0&since={since}")).await;
            let (path, body) = window("quiet", &format!("&pos={pos}"), 0);
            person.phone.ok(Method::POST, &path, body).await["pos"].as_str().unwrap().clone_into(&mut pos);
        }
    }
}

pub async fn run() {
    let directory = TempDir::new().unwrap();
    settings(directory.path());
    let process = Process::start(program(directory.path())).unwrap();
    let id = process.id().to_string();
    println!("family: a fresh server takes {:.0} MB", resident_mb(&id));
    let people = people(&process.base).await;
    let rooms = rooms(&people).await;
    println!("family: with 6 accounts and {ROOMS} rooms {:.0} MB", resident_mb(&id));
    let mut waiting: Vec<_> = people.iter().map(|person| classic(person.computer.clone())).collect();
    waiting.extend(people.iter().map(|person| sliding(person.phone.clone())));
    let began = clock::instant();
    let mut most = 0.0_f64;
    for number in 0..MESSAGES {
        // Half of what is written is written where all are.
        let room = &rooms[if number % 2 == 0 { 0 } else { number % ROOMS }];
        write(&people, room, number, json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x".repeat(300) }))
            .await;
        if number % (MESSAGES / PICTURES) == 0 {
            picture(&people, room, number).await;
        }
        if number % 10 == 0 {
            keys_and_notes(&people, room, number).await;
        }
        most = most.max(resident_mb(&id));
    }
    quiet(&people).await;
    let now = resident_mb(&id);
    println!("family: after an hour's traffic, done in {:.1?}, {now:.0} MB (at most {most:.0} MB)", began.elapsed());
    tokio::time::sleep(Duration::from_secs(30)).await;
    println!("family: half a minute later, twelve devices waiting, {:.0} MB", resident_mb(&id));
    waiting.iter().for_each(JoinHandle::abort);
    process.terminate();
}
