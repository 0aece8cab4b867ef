//! The program is killed while it takes in a room of another server: what it leaves is sound, and the next join goes on.

#![allow(clippy::zombie_processes)] // every process is waited for, or dies with the test that failed

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use conduit::start;
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{assert_sound, below, copy_files, kill::start_program, rounds};
use crate::common::{
    Client, config, encode,
    net::TestNet,
    peer::Peer,
    synthetic::{Crowd, Size, SyntheticRoom},
};

const MEMBERS: usize = 400;

async fn join(client: &Client, room: &SyntheticRoom) -> Option<()> {
    let path = format!("/_matrix/client/v3/join/{}?via={}", encode(room.id.as_str()), encode(&room.peer.name));
    client.attempt(Method::POST, &path, b"{}".to_vec()).await.map(drop)
}

async fn members(client: &Client, room: &SyntheticRoom) -> usize {
    let path = format!("/_matrix/client/v3/rooms/{}/joined_members", encode(room.id.as_str()));
    client.ok(Method::GET, &path, Value::Null).await["joined"].as_object().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_is_killed_goes_on_next_time() {
    let net = TestNet::new();
    let peer = Peer::at_an_address(&net).await;
    peer.on("/_matrix/federation/v1/send/", |_| async { crate::common::peer::answer(200, &json!({ "pdus": {} })) });
    let crowd = Crowd::new(&net, 0).await;
    let directory = TempDir::new().unwrap();
    let mut config = config(directory.path());
    let file = directory.path().join("conduit.toml");
    let mut options = std::fs::read_to_string(&file).unwrap();
    writeln!(options, "ca_certificates = [{:?}]\nip_range_denylist = []\ntrusted_servers = []", net.ca()).unwrap();
    std::fs::write(&file, options).unwrap();
    let mut process = start_program(directory.path(), None);
    let mut bob = Client::new(process.base.clone()).register("bob").await;

    // How long it takes when it is let, and one for each kill.
    let room = || SyntheticRoom::new(&peer, &crowd, Size { members: MEMBERS, changes: 1 });
    let whole = room();
    whole.admit();
    let began = Instant::now();
    join(&bob, &whole).await.unwrap();
    let takes = u64::try_from(began.elapsed().as_millis()).unwrap();
    assert_eq!(members(&bob, &whole).await, MEMBERS + 2);
    for _ in 0..rounds(3) {
        let room = room();
        room.admit();
        let joining = async { join(&bob, &room).await };
        let _ = tokio::time::timeout(Duration::from_millis(takes / 10 + below(takes)), joining).await;
        process.kill();
        let copy = TempDir::new().unwrap();
        let folder = start::database_folder(copy.path());
        copy_files(&start::database_folder(&config.database_path), &folder).unwrap();
        let media = config.media_path();
        let database_path = std::mem::replace(&mut config.database_path, copy.path().to_owned());
        assert_sound(&start::open_store(&config).unwrap(), &media);
        config.database_path = database_path;

        process = start_program(directory.path(), None);
        bob = bob.moved(&process.base);
        join(&bob, &room).await.unwrap();
        assert_eq!(members(&bob, &room).await, MEMBERS + 2);
    }
}
