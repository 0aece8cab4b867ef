//! The invariants of the database, which hold after every commit, and so after every crash.
//!
//! [`run`] reads a snapshot from beginning to end and says what is not as it must be: rows that do not decode, indexes
//! that disagree with what they index, counts that are wrong, references to nothing, media files that are missing. It
//! derives what it compares with from the primary rows by itself, not with the code that keeps the indexes. Tests run it
//! on every server that they stop; `conduit check` runs it for an administrator.
//!
//! It repairs nothing, and never ends at a fault: all are counted, and the first [`MAX_FAULTS`] are told.

mod delayed_events;
mod encryption;
mod events;
mod media;
mod members;
mod notifications;
mod outgoing;
mod relations;
mod rooms;
mod users;

use std::{
    collections::HashSet,
    fmt::{self, Debug, Display},
};

use ruma::OwnedServerName;

use crate::{
    error::{Error, Reason, Result},
    ids::RoomNo,
    media::files::Files,
    store::{
        Direction, Read, Tree, Value,
        key::Key,
        records::DeletionStage,
        trees::{self, ALL, COUNTERS, IDENTITY, ROOM_DELETIONS},
    },
};

/// How many faults are told in words.
pub const MAX_FAULTS: usize = 200;

/// What was checked, and what was found.
#[derive(Debug, Default)]
pub struct Report {
    /// The parts of the check and how many rows each looked at.
    pub parts: Vec<(&'static str, u64)>,
    /// The first faults, a sentence each.
    pub faults: Vec<String>,
    /// How many more there are.
    pub more_faults: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (part, rows) in &self.parts {
            writeln!(f, "checked {part}: {rows} rows")?;
        }
        for fault in &self.faults {
            writeln!(f, "fault: {fault}")?;
        }
        match (self.faults.len(), self.more_faults) {
            (0, _) => writeln!(f, "no faults"),
            (_, 0) => writeln!(f, "faults: {}", self.faults.len()),
            (told, more) => writeln!(f, "faults: {}, of which the first {told} are told", told as u64 + more),
        }
    }
}

/// Checks everything that `read` shows, and that the files which it names are among `files`.
///
/// # Errors
/// When the database cannot be read. What can be read and is wrong is in the report.
pub fn run(read: &dyn Read, files: &Files) -> Result<Report> {
    let server_name = IDENTITY.get(read, "server_name")?.unwrap_or_default();
    let server_name = server_name.try_into().map_err(|_| Error::corrupt(IDENTITY.name, b"server_name"))?;
    let going = ROOM_DELETIONS.scan(read, (), Direction::Forward).filter_map(|row| {
        row.ok().filter(|(_, deletion)| deletion.stage == DeletionStage::Freeing).map(|(room, _)| room)
    });
    let mut checker = Checker { read, server_name, going: going.collect(), report: Report::default(), rows: 0 };
    checker.part("that rows decode", decode)?;
    checker.part("numbers and rooms", rooms::check)?;
    checker.part("events and timelines", events::check)?;
    checker.part("relations between events", relations::check)?;
    checker.part("members", members::check)?;
    checker.part("receipts and unread counts", notifications::check)?;
    checker.part("accounts and devices", users::check)?;
    checker.part("encryption keys and messages to devices", encryption::check)?;
    checker.part("what other servers are to be told", outgoing::check)?;
    checker.part("events that are to be sent later", delayed_events::check)?;
    checker.part("media", |checker| media::check(checker, files))?;
    Ok(checker.report)
}

/// Every row of every tree decodes. The first that does not is told for each tree.
fn decode(checker: &mut Checker<'_>) -> Result<()> {
    for tree in ALL {
        match (tree.verify)(checker.read) {
            Ok((rows, _)) => checker.rows += rows,
            Err(error) => checker.tolerate(Err(error))?,
        }
    }
    Ok(())
}

/// A running check.
struct Checker<'a> {
    read: &'a dyn Read,
    server_name: OwnedServerName,
    /// Rooms whose rows are being deleted: what is left of them need not agree.
    going: HashSet<RoomNo>,
    report: Report,
    rows: u64,
}

impl<'a> Checker<'a> {
    fn part(&mut self, name: &'static str, check: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.rows = 0;
        let outcome = check(self);
        self.tolerate(outcome)?;
        self.report.parts.push((name, self.rows));
        Ok(())
    }

    fn fault(&mut self, fault: impl Display) {
        let fault = fault.to_string();
        if self.report.faults.contains(&fault) {
            return;
        }
        if self.report.faults.len() < MAX_FAULTS {
            self.report.faults.push(fault);
        } else {
            self.report.more_faults += 1;
        }
    }

    fn expect(&mut self, holds: bool, fault: impl Display) {
        if !holds {
            self.fault(fault);
        }
    }

    /// Turns a damaged row into a fault.
    fn tolerate(&mut self, outcome: Result<()>) -> Result<()> {
        match outcome {
            Err(error) if matches!(error.reason(), Reason::Corrupt { .. }) => self.fault(error),
            other => return other,
        }
        Ok(())
    }

    /// Calls `check` with every row of a tree. A damaged row ends the check of one row only.
    fn each<K: Key, V: Value>(
        &mut self,
        tree: Tree<K, V>,
        mut check: impl FnMut(&mut Self, K, V) -> Result<()>,
    ) -> Result<()> {
        let read: &'a dyn Read = self.read;
        for row in tree.scan(read, (), Direction::Forward) {
            self.rows += 1;
            let outcome = row.and_then(|(key, value)| check(self, key, value));
            self.tolerate(outcome)?;
        }
        Ok(())
    }

    /// For every row of `tree` there is the row of `other` that `key` names, and it agrees.
    fn has<K: Key + Debug, V: Value, L: Key, W: Value>(
        &mut self,
        tree: Tree<K, V>,
        other: Tree<L, W>,
        key: impl Fn(&K, &V) -> L,
        agrees: impl Fn(&K, &V, &W) -> bool,
    ) -> Result<()> {
        let name = tree.name;
        self.each(tree, |checker, own_key, value| {
            match other.get(checker.read, key(&own_key, &value))? {
                None => checker.fault(format_args!("{name} {own_key:?} has no row in {}", other.name)),
                Some(found) if !agrees(&own_key, &value, &found) => {
                    checker.fault(format_args!("{name} {own_key:?} disagrees with its row in {}", other.name));
                }
                Some(_) => {}
            }
            Ok(())
        })
    }

    /// The counter has reached `number`, which was given out.
    fn given_out(&mut self, counter: &str, number: u64) -> Result<()> {
        let counted = COUNTERS.get(self.read, counter)?.unwrap_or(0);
        self.expect(number <= counted, format_args!("the counter {counter} is at {counted}, but {number} is in use"));
        Ok(())
    }
}

/// For [`Checker::has`], where the row need only be there.
fn any<K, V, W>(_: &K, _: &V, _: &W) -> bool {
    true
}

/// Whether there is a room with this number.
fn room_exists(checker: &Checker<'_>, room: RoomNo) -> Result<bool> {
    trees::ROOMS.contains(checker.read, room)
}
