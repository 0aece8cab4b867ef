//! Bringing a database of an earlier schema up to date, when it is opened.
//!
//! Each step can be cut off and begun anew: the version is written last.

use super::{Direction, Store, trees};
use crate::{
    error::Result,
    ids::{EventNo, RoomNo},
};

/// How many rows one transaction writes.
const CHUNK: usize = 1000;

/// From version 2 to 3: `OFF_TIMELINE` has the events of each room that stand in no timeline.
///
/// # Errors
/// When the database fails or a row is damaged.
pub(super) fn list_events_off_timeline(store: &Store) -> Result<()> {
    let read = store.read();
    let mut found: Vec<(RoomNo, EventNo)> = Vec::with_capacity(CHUNK);
    let write = |found: &mut Vec<(RoomNo, EventNo)>| {
        store.write(|tx| {
            found.drain(..).for_each(|key| trees::OFF_TIMELINE.put(tx, key, &()));
            Ok(())
        })
    };
    for row in trees::EVENTS.scan(&read, (), Direction::Forward) {
        let (no, row) = row?;
        if row.order == 0 {
            found.push((row.room, no));
        }
        if found.len() == CHUNK {
            write(&mut found)?;
        }
    }
    write(&mut found)
}
