//! The users of this server in a room, by their class of push rules, kept in memory between events.
//!
//! Only the writer looks at rosters, so they need not agree with any snapshot but must agree with the transaction: each
//! has a stamp, which stands in the database too and changes there with every change of the room's members. A failed
//! transaction takes the row back, and with it every roster made in it. Stamps are never used twice by one process. A
//! user who changes push rules, or whom they ignore, makes the rosters of all their rooms go.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedUserId, RoomId, UserId, user_id};

use super::tally;
use crate::{
    clock,
    error::Result,
    ids::RoomNo,
    push::{compile::Compiled, rules},
    store::{Direction, Tx, trees},
    users::account_data,
};

/// The rosters of the rooms that were written to lately. Cheap to clone.
#[derive(Clone)]
pub struct Rosters(Arc<Shared>);

struct Shared {
    rooms: Cache<RoomNo, Arc<Roster>, ByBytes>,
    default: Arc<Compiled>,
    next_stamp: AtomicU64,
}

/// The users of this server in one room.
#[derive(Clone)]
pub(super) struct Roster {
    stamp: u64,
    /// By user ID in lower case, since rules match IDs without regard to case.
    members: HashMap<Arc<str>, Entry>,
    classes: Vec<Class>,
    /// Whom members ignore; few ignore anybody.
    ignored: HashMap<OwnedUserId, BTreeSet<OwnedUserId>>,
}

/// A member.
#[derive(Clone)]
pub(super) struct Entry {
    /// Who.
    pub user: OwnedUserId,
    /// Which of the roster's classes the member's rules are of; none for the default class.
    pub class: Option<usize>,
}

/// A class of push rules other than the default one.
#[derive(Clone)]
pub(super) struct Class {
    /// The rules.
    pub rules: Arc<Compiled>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<RoomNo, Arc<Roster>> for ByBytes {
    fn weight(&self, _: &RoomNo, roster: &Arc<Roster>) -> u64 {
        let members: usize = roster.members.keys().map(|id| 2 * id.len() + 96).sum();
        let classes: usize = roster.classes.iter().map(|class| class.rules.weight()).sum();
        let ignored: usize = roster.ignored.values().flatten().map(|id| id.as_bytes().len() + 48).sum();
        (members + classes + ignored + 128) as u64
    }
}

impl Rosters {
    /// No rosters yet; at most about `bytes` of them.
    pub fn new(bytes: u64) -> Self {
        let nobody = user_id!("@nobody:localhost");
        let default = Compiled::new(&rules::defaults(nobody), nobody, ruma::room_id!("!none:localhost"));
        Self(Arc::new(Shared {
            rooms: Cache::with_weighter(1024, bytes, ByBytes),
            default: Arc::new(default),
            next_stamp: AtomicU64::new(clock::now_ms() << 20), // beyond those of earlier processes
        }))
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> u64 {
        self.0.rooms.weight()
    }

    /// The server-default rules, which are the same in every room.
    pub(super) fn default_rules(&self) -> &Compiled {
        &self.0.default
    }

    /// The roster of a room as the transaction has it. Where a user's rules turn out to be of another class than at the
    /// last event, that is noted for `order`, the place of the event at hand.
    pub(super) fn get(&self, tx: &mut Tx<'_>, room: RoomNo, id: &RoomId, order: i64) -> Result<Arc<Roster>> {
        let stamp = trees::ROSTER_STAMPS.get(tx, room)?.unwrap_or(0);
        if let Some(roster) = self.0.rooms.get(&room).filter(|roster| roster.stamp == stamp) {
            return Ok(roster);
        }
        let users: Vec<OwnedUserId> = trees::LOCAL_MEMBERS
            .scan(tx, (room,), Direction::Forward)
            .map(|row| row.map(|((_, user), ())| user))
            .collect::<Result<_>>()?;
        let mut roster = Roster {
            stamp,
            members: HashMap::with_capacity(users.len()),
            classes: Vec::new(),
            ignored: HashMap::new(),
        };
        let mut noted = false;
        for user in users {
            noted |= self.add(tx, &mut roster, room, id, user, order)?;
        }
        let roster = Arc::new(roster);
        if noted {
            // What was noted is gone if the transaction fails, so the roster must not outlive it then.
            let (rosters, roster) = (self.clone(), roster.clone());
            tx.on_commit(move || rosters.0.rooms.insert(room, roster));
        } else {
            self.0.rooms.insert(room, roster.clone());
        }
        Ok(roster)
    }

    /// Adds a member; tells whether a change of class was noted.
    fn add(
        &self,
        tx: &mut Tx<'_>,
        roster: &mut Roster,
        room: RoomNo,
        id: &RoomId,
        user: OwnedUserId,
        order: i64,
    ) -> Result<bool> {
        let class = match account_data::get(tx, &user, None, rules::ACCOUNT_DATA)? {
            None => None,
            Some(content) => {
                let compiled = Compiled::new(&rules::parse(&user, Some(&content)), &user, id);
                roster.class(compiled, &self.0.default)
            }
        };
        let name =
            class.and_then(|index| roster.classes.get(index)).map_or(tally::DEFAULT, |class| class.rules.class());
        let mut marks = trees::READ_MARKS.get(tx, (room, &user))?.unwrap_or_default();
        let noted = marks.classes.last().map_or(tally::DEFAULT, |(_, name)| name) != name;
        if noted {
            marks.classes.push((order, name.to_owned()));
            let superfluous = marks.classes.len().saturating_sub(MAX_CLASSES);
            marks.classes.drain(..superfluous);
            trees::READ_MARKS.put(tx, (room, &user), &marks);
        }
        let ignored = account_data::ignored_users(tx, &user)?;
        if !ignored.is_empty() {
            roster.ignored.insert(user.clone(), ignored);
        }
        roster.members.insert(user.as_str().to_lowercase().into(), Entry { user, class });
        Ok(noted)
    }

    /// Brings the roster in step with a user of this server who joined or left.
    pub(super) fn member_changed(
        &self,
        tx: &mut Tx<'_>,
        room: RoomNo,
        id: &RoomId,
        user: &UserId,
        joined: bool,
        order: i64,
    ) -> Result<()> {
        let before = trees::ROSTER_STAMPS.get(tx, room)?.unwrap_or(0);
        let stamp = self.0.next_stamp.fetch_add(1, Ordering::Relaxed);
        trees::ROSTER_STAMPS.put(tx, room, &stamp);
        let Some(roster) = self.0.rooms.get(&room).filter(|roster| roster.stamp == before) else { return Ok(()) };
        let mut roster = Roster::clone(&roster);
        roster.stamp = stamp;
        roster.members.remove(user.as_str().to_lowercase().as_str());
        roster.ignored.remove(user);
        if joined {
            self.add(tx, &mut roster, room, id, user.to_owned(), order)?;
        }
        self.0.rooms.insert(room, Arc::new(roster));
        Ok(())
    }

    /// Forgets the rosters of rooms in which a user's rules change, or whom the user ignores. Called once the change is in.
    pub(super) fn forget(&self, rooms: &[RoomNo]) {
        for room in rooms {
            self.0.rooms.remove(room);
        }
    }
}

/// How many changes of class are remembered for a user in a room. Beyond that, counts of what has been unread for so
/// many changes are by the rules of a later one.
const MAX_CLASSES: usize = 32;

impl Roster {
    /// The index of the class with these rules.
    fn class(&mut self, rules: Compiled, default: &Compiled) -> Option<usize> {
        if rules.same(default) {
            return None;
        }
        let known = self.classes.iter().position(|class| class.rules.same(&rules));
        Some(known.unwrap_or_else(|| {
            self.classes.push(Class { rules: Arc::new(rules) });
            self.classes.len() - 1
        }))
    }

    /// Whether an event of `sender` can notify anybody here.
    pub fn is_empty_for(&self, sender: &UserId) -> bool {
        match self.members.len() {
            0 => true,
            1 => self.members.contains_key(sender.as_str().to_lowercase().as_str()),
            _ => false,
        }
    }

    /// The member whose ID in lower case this is.
    pub fn member(&self, lower: &str) -> Option<&Entry> {
        self.members.get(lower)
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = &Entry> {
        self.members.values()
    }

    /// The members who ignore this user.
    pub fn ignoring<'a>(&'a self, user: &'a UserId) -> impl Iterator<Item = &'a Entry> {
        let ignore = self.ignored.iter().filter(move |(_, ignored)| ignored.contains(user));
        ignore.filter_map(|(member, _)| self.member(&member.as_str().to_lowercase()))
    }

    /// The classes that are not the default one. Some may have lost their last member.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }
}
