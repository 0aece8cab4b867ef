//! The user directory: searching for people (spec: client-server API, "User Directory").
//!
//! Whom a user finds: users of this server (all of them, if the administrator wants that), and whoever is in a room that
//! the searcher is in too or that everybody can join or read. Users of this server are shown by their profile, never by a
//! name that they use in one room only; others by the member event of a room that the searcher may see.
//!
//! There is no index: a search reads rows, a bounded number of them.

use std::collections::HashSet;

use ruma::{
    OwnedUserId, ServerName, UserId, events::StateEventType, events::room::history_visibility::HistoryVisibility,
};
use serde::Deserialize;

use super::{join_rules, members, state};
use crate::{
    error::Result,
    ids::RoomNo,
    store::{
        Direction, Read,
        trees::{ACCOUNTS, ROOMS},
    },
    users::profiles,
};

/// How many rows one search reads at most.
const MAX_ROWS: usize = 50_000;

/// Someone who was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who it is.
    pub user: OwnedUserId,
    /// The display name.
    pub display_name: Option<String>,
    /// The avatar.
    pub avatar_url: Option<String>,
}

/// A search on its way.
struct Search<'a> {
    read: &'a dyn Read,
    server: &'a ServerName,
    searcher: &'a UserId,
    words: Vec<String>,
    seen: HashSet<OwnedUserId>,
    rows: usize,
    found: Vec<(u8, Found)>,
}

/// The users whom `searcher` finds by `term`, the best first, at most `limit`; and whether there are more. With
/// `all_local`, every user of this server can be found.
///
/// # Errors
/// When a row is corrupt or the database fails.
pub fn search(
    read: &dyn Read,
    server: &ServerName,
    searcher: &UserId,
    term: &str,
    limit: usize,
    all_local: bool,
) -> Result<(Vec<Found>, bool)> {
    let words: Vec<_> = term.split_whitespace().map(str::to_lowercase).collect();
    let mut search = Search { read, server, searcher, words, seen: HashSet::new(), rows: 0, found: Vec::new() };
    if search.words.is_empty() {
        return Ok((Vec::new(), false));
    }
    for room in members::joined_rooms(read, searcher)? {
        search.room(room)?;
    }
    if all_local {
        search.accounts()?;
    }
    search.open_rooms()?;
    let Search { mut found, .. } = search;
    found.sort_by(|(rank, a), (other, b)| rank.cmp(other).then_with(|| a.user.cmp(&b.user)));
    let limited = found.len() > limit;
    Ok((found.into_iter().take(limit).map(|(_, found)| found).collect(), limited))
}

impl Search<'_> {
    /// Whether another row may be read.
    fn may_go_on(&mut self) -> bool {
        self.rows += 1;
        self.rows <= MAX_ROWS
    }

    fn room(&mut self, room: RoomNo) -> Result<()> {
        for row in members::joined(self.read, room) {
            let (user, member) = row?;
            if !self.may_go_on() {
                return Ok(());
            }
            self.consider(user, member.displayname, member.avatar_url)?;
        }
        Ok(())
    }

    fn accounts(&mut self) -> Result<()> {
        for row in ACCOUNTS.scan(self.read, (), Direction::Forward) {
            let (user, account) = row?;
            if !self.may_go_on() {
                return Ok(());
            }
            if !account.deactivated && !account.guest {
                self.consider(user, None, None)?;
            }
        }
        Ok(())
    }

    fn open_rooms(&mut self) -> Result<()> {
        for row in ROOMS.scan(self.read, (), Direction::Forward) {
            let (room, _) = row?;
            if !self.may_go_on() {
                return Ok(());
            }
            if is_open(self.read, room)? {
                self.room(room)?;
            }
        }
        Ok(())
    }

    /// Adds a user if they fit and were not considered before.
    fn consider(&mut self, user: OwnedUserId, name: Option<String>, avatar: Option<String>) -> Result<()> {
        if user == self.searcher || !self.seen.insert(user.clone()) {
            return Ok(());
        }
        let (display_name, avatar_url) = if user.server_name() == self.server {
            let profile = profiles::get(self.read, &user)?;
            (profile.display_name().map(str::to_owned), profile.avatar_url().map(str::to_owned))
        } else {
            (name, avatar)
        };
        if let Some(rank) = rank(&self.words, &user, display_name.as_deref()) {
            self.found.push((rank, Found { user, display_name, avatar_url }));
        }
        Ok(())
    }
}

/// How well a user fits: every word must be in the user ID or the display name; whole ones and beginnings come first.
fn rank(words: &[String], user: &UserId, display_name: Option<&str>) -> Option<u8> {
    let id = user.as_str().to_lowercase();
    let localpart = user.localpart().to_lowercase();
    let name = display_name.unwrap_or_default().to_lowercase();
    if !words.iter().all(|word| id.contains(word) || name.contains(word)) {
        return None;
    }
    let term = words.join(" ");
    let nameless = u8::from(display_name.is_none());
    Some(if [&id, &localpart, &name].contains(&&term) {
        nameless
    } else if localpart.starts_with(&term) || name.starts_with(&term) || id.starts_with(&term) {
        2 + nameless
    } else {
        4 + nameless
    })
}

/// Whether everybody can join the room or read it.
fn is_open(read: &dyn Read, room: RoomNo) -> Result<bool> {
    #[derive(Deserialize)]
    struct Visibility {
        history_visibility: HistoryVisibility,
    }
    if join_rules::of_room(read, room)?.kind == ruma::room::JoinRuleKind::Public {
        return Ok(true);
    }
    let visibility: Option<Visibility> = state::content(read, room, &StateEventType::RoomHistoryVisibility, "")?;
    Ok(visibility.is_some_and(|content| content.history_visibility == HistoryVisibility::WorldReadable))
}
