//! A database that the program cannot use: it says so in one sentence, ends, and leaves it as it is.

use std::{collections::BTreeMap, path::Path, process::Command};

use conduit::store::{SCHEMA, trees::COUNTERS};
use http::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use crate::common::{
    Client, TestServer, config, encode,
    process::{Process, program},
};

/// The files of a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect()
}

#[tokio::test]
async fn one_of_a_newer_program_is_refused_and_stays_as_it_is() {
    let server = TestServer::start().await;
    server.register("alice").await.create_room(serde_json::json!({})).await;
    let newer = |tx: &mut conduit::store::Tx<'_>| {
        COUNTERS.put(tx, "schema", &(SCHEMA + 1));
        Ok(())
    };
    server.handle.server().store.write(newer).unwrap();
    let directory = server.stop_unchecked().await;
    let folder = directory.path().join("db/rocksdb");
    {
        // It may have what this program has never heard of.
        let families = rocksdb::DB::list_cf(&rocksdb::Options::default(), &folder).unwrap();
        let mut database = rocksdb::DB::open_cf(&rocksdb::Options::default(), &folder, families).unwrap();
        database.create_cf("more", &rocksdb::Options::default()).unwrap();
    }
    let before = files(&folder);
    assert!(!before.is_empty());

    let Err((status, said)) = Process::start(program(directory.path())) else { panic!("it serves") };
    assert_eq!(status.code(), Some(1), "{said}");
    let lines: Vec<_> = said.lines().filter(|line| !line.contains("CONDUIT_")).collect();
    let sentence = format!("the database in {} has version {};", folder.display(), SCHEMA + 1);
    assert!(lines.len() == 1 && lines[0].contains(&sentence) && lines[0].contains("Nothing was changed."), "{said}");
    let check = program(directory.path()).arg("check").output().unwrap();
    assert_eq!(check.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&check.stderr).contains(&sentence));
    assert!(files(&folder) == before, "something changed");
}

#[test]
fn one_of_another_homeserver_is_refused_and_not_touched() {
    let directory = TempDir::new().unwrap();
    let database = config(directory.path()).database_path;
    std::fs::create_dir_all(&database).unwrap();
    std::fs::write(database.join("conduit.db"), "SQLite format 3").unwrap();
    let Err((status, said)) = Process::start(program(directory.path())) else { panic!("it serves") };
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("holds the database of another homeserver (conduit.db)"), "{said}");
    let files: Vec<_> = std::fs::read_dir(&database).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["conduit.db"]);
}

/// The program, which may not write files of more than a megabyte: to it, that is a full disk.
fn cramped(directory: &Path) -> Command {
    let program = program(directory);
    let mut shell = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 2048; exec \"$@\"";
    shell.env_remove("CONDUIT_BLESS").args(["-c", script, "sh"]).arg(program.get_program()).args(program.get_args());
    shell
}

/// It does not stay as something that answers and can do nothing: it ends, and is started again.
#[tokio::test]
async fn a_full_disk_ends_the_server_and_loses_nothing() {
    let directory = TempDir::new().unwrap();
    config(directory.path());
    let process = Process::start(cramped(directory.path())).unwrap_or_else(|(_, said)| panic!("{said}"));
    let alice = Client::new(process.base.clone()).register("alice").await;
    let room = alice.create_room(json!({})).await;
    let path = |n: usize| format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{n}", encode(&room));
    let mut sent = Vec::new();
    for n in 0..1_000 {
        // What does not compress.
        let body = conduit::clock::random_string(60_000).unwrap();
        let (status, answer) = alice.put(&path(n), json!({ "msgtype": "m.text", "body": body })).await;
        if status != StatusCode::OK {
            assert!(status.is_server_error(), "{status}");
            break;
        }
        sent.push(answer["event_id"].as_str().unwrap().to_owned());
    }
    let (status, said) = process.wait();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("the database cannot be written any more"), "{said}");

    let process = Process::start(program(directory.path())).unwrap_or_else(|(_, said)| panic!("{said}"));
    let alice = alice.moved(&process.base);
    for event in &sent {
        let path = format!("/_matrix/client/v3/rooms/{}/event/{}", encode(&room), encode(event));
        assert_eq!(alice.get(&path).await.0, StatusCode::OK);
    }
    alice.send_text(&room, "there is space again").await;
    process.terminate();
}
