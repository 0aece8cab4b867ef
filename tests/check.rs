//! `check` sees what is wrong, and `conduit check` tells it. That sound databases have no faults is shown by every other
//! test (`common`).

use std::process::{Command, Output};

use conduit::{
    check::{self, Report},
    error::{Error, Result},
    ids::{EventNo, Position, RoomNo, StateNo},
    rooms,
    store::{
        Direction, Tx,
        records::{EventList, MediaContent, Thumbnail},
        trees::*,
    },
};
use http::Method;
use ruma::{RoomId, UserId, events::room::member::MembershipState};
use serde_json::json;
use tempfile::TempDir;

use crate::common::{TestServer, config};

/// What is broken, and words of the fault that must be found.
type Break = (&'static str, fn(&mut Tx<'_>, RoomNo, &UserId) -> Result<()>);

/// The first row of a tree, changed.
macro_rules! change {
    ($tree:ident, $tx:ident, $row:ident => $change:expr) => {{
        let (key, mut $row) = $tree.scan($tx, (), Direction::Forward).next().unwrap()?;
        $change;
        $tree.put($tx, key, &$row);
        Ok(())
    }};
}

/// The first row of a tree, removed.
macro_rules! remove {
    ($tree:ident, $tx:ident) => {{
        let (key, _) = $tree.scan($tx, (), Direction::Forward).next().unwrap()?;
        $tree.delete($tx, key);
        Ok(())
    }};
}

const BREAKS: &[Break] = &[
    ("tree RELATIONS is damaged", |tx, _, _| {
        // A value of another type under the same byte: a row that does not decode.
        let other = conduit::store::Tree::<u64, ()>::new("OTHER", RELATIONS.family, RELATIONS.prefix);
        other.put(tx, 1_u64, &());
        Ok(())
    }),
    ("the counter event is at 1", |tx, _, _| {
        COUNTERS.put(tx, "event", &1);
        Ok(())
    }),
    ("has no row in ROOMS", |tx, room, _| {
        ROOMS.delete(tx, room);
        Ok(())
    }),
    ("is stored as", |tx, _, _| remove!(EVENT_NOS, tx)),
    ("hashes to", |tx, _, _| change!(EVENTS, tx, row => row.json = row.json.replace("\"depth\":1", "\"depth\":7"))),
    ("is not at its place in the timeline", |tx, _, _| remove!(TIMELINE, tx)),
    ("disagrees with its row in EVENTS", |tx, _, _| change!(TIMELINE, tx, row => row.0 += 1)),
    ("is not the one before with the event", |tx, _, _| change!(EVENTS, tx, row => row.state_after = StateNo(0))),
    ("CURRENT_STATE of room", |tx, _, _| change!(CURRENT_STATE, tx, row => row.0 += 1)),
    ("has 0 forward extremities", |tx, room, _| {
        EXTREMITIES.put(tx, room, &EventList::default());
        Ok(())
    }),
    ("is a forward extremity, but", |tx, room, _| {
        EXTREMITIES.put(tx, room, &EventList(vec![EventNo(1)]));
        Ok(())
    }),
    ("is listed as None", |tx, _, _| remove!(RELATIONS, tx)),
    ("the thread of event", |tx, _, _| change!(AGGREGATES, tx, row => row.thread = None)),
    ("what their event does", |tx, _, _| change!(MEMBERS, tx, row => row.displayname = Some("X".to_owned()))),
    ("members, not", |tx, _, _| change!(ROOMS, tx, row => row.joined += 1)),
    ("ROOM_SERVERS has 3 users", |tx, _, _| change!(ROOM_SERVERS, tx, row => row.0 += 1)),
    ("ROOM_SERVERS has no row", |tx, _, _| remove!(ROOM_SERVERS, tx)),
    ("LOCAL_MEMBERS of room", |tx, _, _| remove!(LOCAL_MEMBERS, tx)),
    ("USER_ROOMS", |tx, _, _| change!(USER_ROOMS, tx, row => row.membership = MembershipState::Ban)),
    ("has no row in RECEIPT_CHANGES", |tx, _, _| remove!(RECEIPT_CHANGES, tx)),
    ("not what its log ends in", |tx, _, _| change!(TALLIES, tx, row => row.1.0 += 1)),
    ("ACCESS_TOKENS", |tx, _, _| change!(ACCESS_TOKENS, tx, row => row.next = true)),
    ("a token of device", |tx, _, _| remove!(ACCESS_TOKENS, tx)),
    ("DEVICES", |tx, _, user| {
        ACCOUNTS.delete(tx, user);
        Ok(())
    }),
    ("ACCOUNT_DATA_CHANGES", |tx, _, _| change!(ACCOUNT_DATA, tx, row => row.position = Position(1))),
    ("messages wait for", |tx, _, _| change!(TO_DEVICE_WAITING, tx, row => row += 1)),
    ("is missing or of another size", |tx, _, _| {
        let content = MediaContent { hash: "00".repeat(32), size: 1, content_type: None, filename: None };
        THUMBNAILS.put(tx, ("x", "y"), &Thumbnail::Made(content));
        Ok(())
    }),
];

#[tokio::test]
async fn faults_are_found() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let root = alice.send_text(&room, "root").await;
    let thread = json!({ "rel_type": "m.thread", "event_id": root });
    alice.send(&room, "m.room.message", json!({ "msgtype": "m.text", "body": "b", "m.relates_to": thread })).await;
    let bob = server.register("bob").await;
    alice.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{room}/invite"), json!({ "user_id": bob.user_id })).await;
    bob.join(&room).await;
    let last = alice.send_text(&room, "hello bob").await;
    bob.ok(Method::POST, &format!("/_matrix/client/v3/rooms/{room}/receipt/m.read/{last}"), json!({})).await;
    let data = format!("/_matrix/client/v3/user/{}/account_data/a", alice.user_id);
    alice.ok(Method::PUT, &data, json!({ "a": 1 })).await;
    let messages = json!({ "messages": { &bob.user_id: { "*": { "a": 1 } } } });
    alice.ok(Method::PUT, "/_matrix/client/v3/sendToDevice/m.dummy/1", messages).await;

    let state = server.handle.server();
    let room_no = rooms::find(&state.store.read(), <&RoomId>::try_from(&*room).unwrap()).unwrap().unwrap();
    let user = UserId::parse(&*alice.user_id).unwrap();
    for (words, change) in BREAKS {
        let mut report = Report::default();
        // The transaction shows what it breaks, and then does not happen.
        let outcome = state.store.write(|tx| {
            change(tx, room_no, &user)?;
            report = check::run(tx, &state.media)?;
            Err::<(), _>(Error::not_found("taken back"))
        });
        assert!(outcome.is_err_and(|error| error.is_not_found()), "{words}");
        assert!(report.faults.iter().any(|fault| fault.contains(words)), "no fault with {words:?}:\n{report}");
    }
    server.stop().await;
}

fn conduit_check(directory: &TempDir) -> Output {
    let file = directory.path().join("conduit.toml");
    Command::new(env!("CARGO_BIN_EXE_conduit")).arg("-c").arg(file).arg("check").output().unwrap()
}

#[tokio::test]
async fn the_command_checks_a_stopped_server() {
    let directory = TempDir::new().unwrap();
    config(directory.path());
    let output = conduit_check(&directory);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no database in"), "{output:?}");

    let server = TestServer::start_in(directory.into(), |_| {}).await;
    server.register("alice").await.create_room(json!({})).await;
    let output = conduit_check(&server.directory);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a server that runs already"), "{output:?}");

    let directory = server.stop().await;
    let output = conduit_check(&directory);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("checked that rows decode") && text.ends_with("no faults\n"), "{text}");

    let mut broken = config(directory.path());
    broken.memory_budget = None;
    {
        let store = conduit::start::open_store(&broken).unwrap();
        store.write(|tx| change!(ROOMS, tx, row => row.joined = 5)).unwrap();
    }
    let output = conduit_check(&directory);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("fault: ") && text.contains("counts (5, 0, 1) members"), "{text}");
}
