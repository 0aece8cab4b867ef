//! The real program, whose user bob comes into rooms of a peer.

use std::{fmt::Write as _, sync::Arc};

use conduit::config::Config;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Client, config, encode,
    net::TestNet,
    peer::{Peer, answer},
    process::{Process, program},
    synthetic::{Crowd, Made, Size, SyntheticRoom},
};

/// See the module.
pub struct Newcomer {
    pub net: TestNet,
    pub peer: Peer,
    /// Nobody: the members of the rooms are of the peer.
    pub crowd: Arc<Crowd>,
    pub directory: TempDir,
    pub config: Config,
    pub process: Process,
    pub bob: Client,
}

impl Newcomer {
    pub async fn new() -> Self {
        let net = TestNet::new();
        let peer = Self::peer(&net).await;
        let crowd = Crowd::new(&net, 0).await;
        let directory = TempDir::new().unwrap();
        let config = config(directory.path());
        let file = directory.path().join("conduit.toml");
        let mut options = std::fs::read_to_string(&file).unwrap();
        writeln!(options, "ca_certificates = [{:?}]\nip_range_denylist = []\ntrusted_servers = []", net.ca()).unwrap();
        std::fs::write(&file, options).unwrap();
        let process = Self::start(&directory);
        let bob = Client::new(process.base.clone()).register("bob").await;
        Self { net, peer, crowd, directory, config, process, bob }
    }

    /// The program over `directory`, when it answers.
    pub fn start(directory: &TempDir) -> Process {
        let started = Process::start(program(directory.path()));
        started.unwrap_or_else(|(status, log)| panic!("the server did not start ({status}):\n{log}"))
    }

    /// A peer that the program finds, and that takes what it is sent.
    pub async fn peer(net: &TestNet) -> Peer {
        let peer = Peer::at_an_address(net).await;
        peer.on("/_matrix/federation/v1/send/", |_| async { answer(200, &json!({ "pdus": {} })) });
        peer
    }

    /// A room of the peer.
    pub fn room(&self, size: Size) -> SyntheticRoom {
        SyntheticRoom::new(&self.peer, &self.crowd, size)
    }

    /// Has bob join; `None` if the program dies meanwhile.
    pub async fn join(&self, room: &SyntheticRoom) -> Option<()> {
        let path = format!("/_matrix/client/v3/join/{}?via={}", encode(room.id.as_str()), encode(&room.peer.name));
        self.bob.attempt(Method::POST, &path, b"{}".to_vec()).await.map(drop)
    }

    /// How many members bob is told that the room has.
    pub async fn members(&self, room: &SyntheticRoom) -> usize {
        let path = format!("/_matrix/client/v3/rooms/{}/joined_members", encode(room.id.as_str()));
        self.bob.ok(Method::GET, &path, Value::Null).await["joined"].as_object().unwrap().len()
    }

    /// The room's peer sends events, none of which is to be refused.
    pub async fn send(&self, room: &SyntheticRoom, id: &str, pdus: &[Made]) {
        let pdus: Vec<_> = pdus.iter().map(|(_, json)| json).collect();
        let body = json!({ "origin": room.peer.name, "origin_server_ts": 1, "pdus": pdus });
        let path = format!("/_matrix/federation/v1/send/{}", encode(id));
        let authorization = room.peer.authorization("localhost", &Method::PUT, &path, Some(&body));
        let anyone = Client::new(self.process.base.clone());
        let (status, _, answer) = anyone.with(Method::PUT, &path, &authorization, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let is_taken = |result: &Value| result.get("error").is_none();
        assert!(answer["pdus"].as_object().unwrap().values().all(is_taken), "{answer}");
    }

    /// A figure of the program's memory, in KiB, by its name in `/proc/PID/status`.
    pub fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }
}
