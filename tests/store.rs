//! The store: key order, transactions, durability across a restart, refusal of foreign databases.

use std::sync::Arc;

use conduit::{
    error::Error,
    ids::{EventNo, RoomNo, StateNo},
    store::{
        Direction, Read, Store, Value, Weigh,
        key::{Encode, Key},
        records::{EventRow, Request, Status},
        trees,
    },
};
use proptest::prelude::*;
use ruma::{owned_event_id, server_name};
use tempfile::TempDir;

const MEMORY: usize = 8 << 20;

fn store(folder: &TempDir) -> Store {
    Store::open(folder.path(), server_name!("localhost"), MEMORY).unwrap()
}

fn bytes(key: impl Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.encode(&mut bytes);
    bytes
}

fn round_trip<K: Key + PartialEq + std::fmt::Debug>(key: &K) {
    let encoded = bytes(key);
    let mut rest = encoded.as_slice();
    assert_eq!(K::decode(&mut rest).as_ref(), Some(key));
    assert!(rest.is_empty());
}

proptest! {
    #[test]
    fn keys_round_trip_and_keep_their_order(
        a: (String, u64, Vec<u8>, i64),
        b: (String, u64, Vec<u8>, i64),
    ) {
        round_trip(&a);
        prop_assert_eq!(bytes(&a).cmp(&bytes(&b)), a.cmp(&b));
        prop_assert_eq!(bytes(&(a.2.clone(), a.3)).cmp(&bytes(&(b.2.clone(), b.3))), (a.2, a.3).cmp(&(b.2, b.3)));
    }

    #[test]
    fn keys_keep_a_whole_part_as_prefix(a: String, b: String, rest: u64) {
        let (prefix, key) = (bytes((&a,)), bytes((&b, rest)));
        prop_assert_eq!(key.starts_with(&prefix), a == b);
    }

    #[test]
    fn decoding_anything_does_not_panic(input: Vec<u8>) {
        let _ = <(String, Option<u64>, bool, Vec<u8>)>::decode(&mut input.as_slice());
        let _ = ruma::OwnedUserId::decode(&mut input.as_slice());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))] // each opens a database

    /// What a transaction reads is what the database reads after it.
    #[test]
    fn a_transaction_reads_its_own_writes(
        before in prop::collection::btree_map("[a-d]{1,2}", 0u64..9, 0..8),
        changes in prop::collection::btree_map("[a-d]{1,2}", prop::option::of(0u64..9), 0..8),
    ) {
        let folder = TempDir::new().unwrap();
        let store = store(&folder);
        store.write(|tx| {
            for (key, value) in &before {
                trees::COUNTERS.put(tx, key, value);
            }
            Ok(())
        }).unwrap();
        let rows = |read: &dyn Read, direction| {
            trees::COUNTERS.scan(read, (), direction).collect::<Result<Vec<_>, _>>().unwrap()
        };
        let (forward, backward) = store.write(|tx| {
            for (key, value) in &changes {
                match value {
                    Some(value) => trees::COUNTERS.put(tx, key, value),
                    None => trees::COUNTERS.delete(tx, key),
                }
            }
            Ok((rows(tx, Direction::Forward), rows(tx, Direction::Backward)))
        }).unwrap();
        let snapshot = store.read();
        prop_assert_eq!(&forward, &rows(&snapshot, Direction::Forward));
        prop_assert_eq!(&backward, &rows(&snapshot, Direction::Backward));
        prop_assert_eq!(forward.into_iter().rev().collect::<Vec<_>>(), backward);
    }
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let store = store(&folder);
    let failed = store.write(|tx| {
        trees::COUNTERS.put(tx, "x", &1);
        Err::<(), _>(conduit::error::Error::not_found("no"))
    });
    assert!(failed.is_err());
    assert_eq!(trees::COUNTERS.get(&store.read(), "x").unwrap(), None);
}

#[test]
fn a_snapshot_does_not_move() {
    let folder = TempDir::new().unwrap();
    let store = store(&folder);
    let before = store.read();
    let position = store.write(|tx| tx.next_position()).unwrap();
    assert!(before.position().unwrap() < position);
    assert_eq!(store.read().position().unwrap(), position);
}

#[tokio::test]
async fn positions_grow_across_a_restart() {
    let folder = TempDir::new().unwrap();
    let first = store(&folder);
    let position = first.write(|tx| tx.next_position()).unwrap();
    first.durable().await.unwrap();
    drop(first);
    assert!(store(&folder).read().position().unwrap() > position);
}

#[test]
fn a_database_of_another_server_or_a_newer_program_is_refused() {
    let folder = TempDir::new().unwrap();
    let first = store(&folder);
    assert!(Store::open(folder.path(), server_name!("localhost"), MEMORY).is_err(), "two processes");
    first
        .write(|tx| {
            trees::COUNTERS.put(tx, "schema", &(conduit::store::SCHEMA + 1));
            Ok(())
        })
        .unwrap();
    drop(first);
    let error = Store::open(folder.path(), server_name!("localhost"), MEMORY).err().unwrap();
    assert!(error.to_string().contains("the program that wrote it"), "{error}");

    let folder = TempDir::new().unwrap();
    drop(store(&folder));
    let error = Store::open(folder.path(), server_name!("example.org"), MEMORY).err().unwrap();
    assert!(error.to_string().contains("server_name"), "{error}");
}

#[test]
fn every_tree_has_a_place_of_its_own() {
    let mut places: Vec<_> = trees::ALL.iter().map(|tree| (tree.family.name(), tree.prefix)).collect();
    places.sort_unstable();
    places.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1]));
}

/// What a reader made of an event's row.
struct Made(String);

impl Weigh for Made {
    fn weight(&self) -> usize {
        self.0.len()
    }
}

fn event_row(json: &str) -> EventRow {
    EventRow {
        event_id: owned_event_id!("$event"),
        room: RoomNo(1),
        order: 1,
        state_before: StateNo(1),
        state_after: StateNo(1),
        status: Status::Accepted,
        redacts_in_content: true,
        redacted_by: None,
        received_ts: 0,
        request: None,
        json: json.to_owned(),
    }
}

/// Events that were to be sent later have a row of another form.
#[test]
fn the_row_of_an_event_knows_what_asked_for_it() {
    let by = |request| EventRow { request, ..event_row("{}") };
    let rows =
        [by(None), by(Some(Request::Transaction("D".into(), "t".into()))), by(Some(Request::Delay("d".to_owned())))];
    let bytes = rows.clone().map(|row| row.to_bytes());
    assert_eq!(bytes.clone().map(|bytes| bytes[0]), [1, 1, 2]);
    assert_eq!(bytes.map(|bytes| EventRow::from_bytes(&bytes).unwrap()), rows);
}

/// What is remembered of a row is what the reader's own snapshot shows, whoever read or wrote it in between.
#[test]
fn remembered_rows_are_those_of_the_snapshot() {
    const NO: EventNo = EventNo(1);
    let made = |read: &dyn Read| {
        let made = trees::EVENTS.made(read, NO, |row| Ok(Made(row.json))).unwrap();
        made.map(|made| made.0.clone())
    };
    let shows = |read: &dyn Read, json: &str| assert_eq!(made(read).as_deref(), Some(json));
    let folder = TempDir::new().unwrap();
    let store = store(&folder);
    let write = |json: &str| {
        store.write(|tx| {
            trees::EVENTS.put(tx, NO, &event_row(json));
            Ok(())
        })
    };
    let before = store.read();
    write("one").unwrap();
    let one = store.read();
    write("two").unwrap();
    let two = store.read();
    for _ in 0..2 {
        shows(&two, "two");
        shows(&one, "one");
        assert_eq!(made(&before), None);
    }

    let failed: Result<(), _> = store.write(|tx| {
        shows(tx, "two");
        trees::EVENTS.put(tx, NO, &event_row("three"));
        shows(tx, "three");
        trees::EVENTS.put_made(tx, NO, &event_row("four"), Arc::new(Made("made".to_owned())));
        shows(tx, "made");
        Err(Error::internal("no more"))
    });
    assert!(failed.is_err());
    shows(&store.read(), "two");

    store
        .write(|tx| {
            trees::EVENTS.put_made(tx, NO, &event_row("five"), Arc::new(Made("made".to_owned())));
            Ok(())
        })
        .unwrap();
    shows(&store.read(), "made");
    shows(&two, "two");
    store
        .write(|tx| {
            trees::EVENTS.delete(tx, NO);
            Ok(())
        })
        .unwrap();
    assert_eq!(made(&store.read()), None);
    shows(&two, "two");
    shows(&one, "one");
}
