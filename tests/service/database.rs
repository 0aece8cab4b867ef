//! A database that the program cannot use: it says so in one sentence, ends, and leaves it as it is.

use std::{collections::BTreeMap, path::Path};

use conduit::store::{SCHEMA, trees::COUNTERS};
use tempfile::TempDir;

use crate::common::{
    TestServer, config,
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
