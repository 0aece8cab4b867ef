//! The program is killed while it takes in a room of another server: what it leaves is sound, and the next join goes on.

#![allow(clippy::zombie_processes)] // every process is waited for, or dies with the test that failed

use std::time::{Duration, Instant};

use conduit::{
    start,
    store::{Direction, trees},
};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{assert_sound, below, copy_files, rounds};
use crate::common::{
    encode,
    newcomer::Newcomer,
    synthetic::{Size, SyntheticRoom},
};

const MEMBERS: usize = 400;

fn room(stage: &Newcomer) -> SyntheticRoom {
    stage.room(Size { members: MEMBERS, changes: 1 })
}

/// Kills the program, looks at what it leaves, and starts it again.
fn restart(mut stage: Newcomer) -> Newcomer {
    stage.process.kill();
    let copy = TempDir::new().unwrap();
    let folder = start::database_folder(copy.path());
    copy_files(&start::database_folder(&stage.config.database_path), &folder).unwrap();
    let media = stage.config.media_path();
    let path = std::mem::replace(&mut stage.config.database_path, copy.path().to_owned());
    assert_sound(&start::open_store(&stage.config).unwrap(), &media);
    stage.config.database_path = path;
    stage.process = Newcomer::start(&stage.directory);
    stage.bob = stage.bob.moved(&stage.process.base);
    stage
}

/// Some time in which something that takes so long may be anywhere.
fn anywhere(takes: Duration) -> Duration {
    let takes = u64::try_from(takes.as_millis()).unwrap().max(10);
    Duration::from_millis(takes / 10 + below(takes))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_is_killed_goes_on_next_time() {
    let mut stage = Newcomer::new().await;
    // How long it takes when it is let, and one for each kill.
    let whole = room(&stage);
    whole.admit();
    let began = Instant::now();
    stage.join(&whole).await.unwrap();
    let takes = began.elapsed();
    assert_eq!(stage.members(&whole).await, MEMBERS + 2);
    for _ in 0..rounds(3) {
        let room = room(&stage);
        room.admit();
        let _ = tokio::time::timeout(anywhere(takes), stage.join(&room)).await;
        stage = restart(stage);
        stage.join(&room).await.unwrap();
        assert_eq!(stage.members(&room).await, MEMBERS + 2);
    }
}

/// While the members of a room come in, and what was said meanwhile is checked once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_were_coming_in_when_it_was_killed_come_in_after_it() {
    let mut stage = Newcomer::new().await;
    let mut takes = None;
    for _ in 0..=rounds(3) {
        let mut room = room(&stage);
        // Somebody is not in the room any more, and nobody here knows.
        let (gone, member, other) = (room.member(0), room.member(1), room.member(2));
        let before = room.state[&("m.room.member".to_owned(), gone.clone())].clone();
        room.set(&gone, "m.room.member", &gone, json!({ "membership": "leave" }));
        let gate = room.admit_without_members();
        stage.join(&room).await.unwrap();
        room.take_joins();
        let left = room.state.insert(("m.room.member".to_owned(), gone.clone()), before).unwrap();
        let mut said = Vec::new();
        for number in 0..40 {
            // Forked again and again.
            let last = room.last.clone();
            said.push(room.say(&member, &format!("one {number}")));
            room.last = last;
            said.push(room.say(&other, &format!("two {number}")));
            if number % 10 == 5 {
                said.push(room.say(&gone, &format!("gone {number}")));
                said.push(room.set(&room.admin(), "m.room.topic", "", json!({ "topic": number })));
            }
        }
        room.state.insert(("m.room.member".to_owned(), gone.clone()), left);
        for (number, chunk) in said.chunks(50).enumerate() {
            stage.send(&room, &format!("{} {number}", room.id), chunk).await;
        }
        gate.open();
        let began = Instant::now();
        if let Some(takes) = takes {
            tokio::time::sleep(anywhere(takes)).await;
            stage = restart(stage);
        }
        // Waits for all members.
        assert_eq!(stage.members(&room).await, MEMBERS + 1);
        takes.get_or_insert(began.elapsed());
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100", encode(room.id.as_str()));
        let page = stage.bob.ok(Method::GET, &path, Value::Null).await["chunk"].to_string();
        let shown = |sender: &str| page.matches(&format!("\"sender\":\"{sender}\"")).count();
        assert_eq!((shown(&member), shown(&other), shown(&gone)), (40, 40, 0), "{page}");
    }
    let Newcomer { process, config, .. } = restart(stage);
    process.kill();
    let store = start::open_store(&config).unwrap();
    assert_eq!(trees::MISSING_MEMBERS.scan(&store.read(), (), Direction::Forward).count(), 0);
}
