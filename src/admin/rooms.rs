//! `rooms`: rooms that this server knows.

use ruma::OwnedRoomOrAliasId;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Answer, users::date};
use crate::{
    error::Result,
    ids::RoomNo,
    rooms::{self, Room, aliases, directory, event, members, servers, summary, timeline},
    server::Server,
    store::Read,
};

/// How many rows a list has unless another number is asked for.
const LIMIT: usize = 100;

/// What can be done with rooms. A room is an ID or an alias of this server.
#[derive(Clone, Debug, clap::Subcommand, Serialize, Deserialize)]
pub enum Command {
    /// List the rooms, those that something happened in lately first
    List {
        /// How many
        #[arg(long, default_value_t = LIMIT)]
        limit: usize,
    },
    /// Show a room
    Show { room: OwnedRoomOrAliasId },
    /// List the joined members of a room
    Members {
        room: OwnedRoomOrAliasId,
        /// How many
        #[arg(long, default_value_t = LIMIT)]
        limit: usize,
    },
    /// Show a room in the room directory
    Publish { room: OwnedRoomOrAliasId },
    /// Take a room out of the room directory
    Unpublish { room: OwnedRoomOrAliasId },
}

pub(super) fn run(server: &Server, command: Command) -> Result<Answer> {
    let read = server.store.read();
    match command {
        Command::List { limit } => list(&read, limit),
        Command::Show { room } => show(&read, &room),
        Command::Members { room, limit } => list_members(&read, &room, limit),
        Command::Publish { room } => publish(server, &room, true),
        Command::Unpublish { room } => publish(server, &room, false),
    }
}

fn find(read: &dyn Read, room: &OwnedRoomOrAliasId) -> Result<(RoomNo, Room)> {
    match <&ruma::RoomId>::try_from(&**room) {
        Ok(id) => rooms::require(read, id),
        Err(alias) => {
            let no = aliases::require(read, alias)?.room;
            Ok((no, rooms::get(read, no)?))
        }
    }
}

fn list(read: &dyn Read, limit: usize) -> Result<Answer> {
    let mut rows = Vec::new();
    for change in timeline::latest_changes(read).take(limit) {
        let no = change?.1;
        let room = rooms::get(read, no)?;
        let name = summary::of(read, no, &room)?.name;
        rows.push(vec![json!(room.id), json!(name), json!(room.joined), json!(room.local_joined)]);
    }
    Ok(Answer::Table(vec!["room", "name", "members", "of_this_server"], rows))
}

fn show(read: &dyn Read, room: &OwnedRoomOrAliasId) -> Result<Answer> {
    let (no, room) = find(read, room)?;
    let seen = summary::of(read, no, &room)?;
    let last = timeline::before(read, no, i64::MAX).next().transpose()?;
    let last = last.map(|(_, event)| event::require(read, event)).transpose()?;
    Ok(Answer::Fields(vec![
        ("room", json!(room.id)),
        ("name", json!(seen.name)),
        ("topic", json!(seen.topic)),
        ("version", json!(room.version)),
        ("aliases", json!(aliases::of_room(read, no)?)),
        ("join_rule", json!(seen.join_rule)),
        ("encryption", json!(seen.encryption)),
        ("published", json!(directory::is_published(read, no)?)),
        ("members", json!(room.joined)),
        ("members_of_this_server", json!(room.local_joined)),
        ("servers", json!(servers::count(read, no)?)),
        ("last_event", date(last.map(|event| event.received_ts))),
    ]))
}

fn list_members(read: &dyn Read, room: &OwnedRoomOrAliasId, limit: usize) -> Result<Answer> {
    let (no, _) = find(read, room)?;
    let mut rows = Vec::new();
    for row in members::joined(read, no).take(limit) {
        let (user, member) = row?;
        rows.push(vec![json!(user), json!(member.displayname)]);
    }
    Ok(Answer::Table(vec!["user", "name"], rows))
}

fn publish(server: &Server, room: &OwnedRoomOrAliasId, published: bool) -> Result<Answer> {
    let room = server.store.write(|tx| {
        let (no, room) = find(tx, room)?;
        directory::set_published(tx, no, published);
        Ok(room)
    })?;
    let state = if published { "is" } else { "is not" };
    Ok(Answer::Sentence(format!("{} {state} in the room directory.", room.id)))
}
