//! `rooms`: rooms that this server knows.

use ruma::{OwnedRoomId, OwnedRoomOrAliasId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Answer, users::date};
use crate::{
    clock,
    error::Result,
    rooms::{
        self, aliases, blocks,
        deletion::{self, DeletionStage},
        directory, event, members, purge, servers, summary, timeline,
    },
    server::Server,
    store::{Direction, Read, records::Block, trees::ROOM_DELETIONS},
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
    /// Take everybody of this server out of a room and delete what is known of it here
    Delete {
        room: OwnedRoomOrAliasId,
        /// Let nobody of this server join it again
        #[arg(long)]
        block: bool,
        /// Delete the files as well that its messages name and nothing else does. Those of encrypted messages are not
        /// known to the server
        #[arg(long)]
        media: bool,
    },
    /// List the rooms that are being deleted, or were lately
    Deletions,
    /// Delete the messages of a room that came before so many days. What the room is built on stays
    PurgeHistory {
        room: OwnedRoomOrAliasId,
        /// How many days stay
        #[arg(long)]
        days: u32,
    },
    /// Let nobody of this server enter a room any more; who is in it stays
    Block { room: OwnedRoomOrAliasId },
    /// Let the users of this server enter a room again
    Unblock { room: OwnedRoomOrAliasId },
    /// List the blocked rooms
    Blocked,
    /// Show a room in the room directory
    Publish { room: OwnedRoomOrAliasId },
    /// Take a room out of the room directory
    Unpublish { room: OwnedRoomOrAliasId },
}

pub(super) fn run(server: &Server, command: Command, by: Option<&UserId>) -> Result<Answer> {
    let read = server.store.read();
    match command {
        Command::Delete { room, block, media } => delete(server, &room, block, media, by),
        Command::Deletions => list_deletions(&read),
        Command::PurgeHistory { room, days } => purge_history(server, &room, days),
        Command::Block { room } => server.store.write(|tx| {
            let id = find_id(tx, &room)?;
            blocks::block(tx, &id, by)?;
            Ok(Answer::Sentence(format!("{id} is blocked.")))
        }),
        Command::Unblock { room } => server.store.write(|tx| {
            let id = find_id(tx, &room)?;
            blocks::unblock(tx, &id);
            Ok(Answer::Sentence(format!("{id} is not blocked.")))
        }),
        Command::Blocked => {
            let row = |(id, block): (OwnedRoomId, Block)| vec![json!(id), date(Some(block.since)), json!(block.by)];
            let rows = blocks::all(&read).map(|found| found.map(row)).collect::<Result<_>>()?;
            Ok(Answer::Table(vec!["room", "since", "by"], rows))
        }
        Command::List { limit } => list(&read, limit),
        Command::Show { room } => show(&read, &room),
        Command::Members { room, limit } => list_members(&read, &room, limit),
        Command::Publish { room } => publish(server, &room, true),
        Command::Unpublish { room } => publish(server, &room, false),
    }
}

/// The ID of a room that the server need not know.
fn find_id(read: &dyn Read, room: &OwnedRoomOrAliasId) -> Result<OwnedRoomId> {
    match <&RoomId>::try_from(&**room) {
        Ok(id) => Ok(id.to_owned()),
        Err(_) => Ok(rooms::by_name(read, room)?.1.id),
    }
}

fn delete(server: &Server, room: &OwnedRoomOrAliasId, block: bool, media: bool, by: Option<&UserId>) -> Result<Answer> {
    let room = server.store.write(|tx| {
        let (no, room) = rooms::by_name(tx, room)?;
        deletion::begin(tx, no, by, media)?;
        if block {
            blocks::block(tx, &room.id, by)?;
        }
        Ok(room)
    })?;
    server.rooms.deletions.notify_one();
    let blocked = if block { " It is blocked." } else { "" };
    Ok(Answer::Sentence(format!("{} is being deleted; rooms deletions shows how far that is.{blocked}", room.id)))
}

fn list_deletions(read: &dyn Read) -> Result<Answer> {
    let mut rows = Vec::new();
    for row in ROOM_DELETIONS.scan(read, (), Direction::Forward) {
        let (no, deletion) = row?;
        let stage = match deletion.stage {
            DeletionStage::Leaving => "its users leave",
            DeletionStage::Telling(_) => "other servers are told",
            DeletionStage::Freeing => "its events are deleted",
            DeletionStage::Done(_) => "done",
        };
        let (id, since) = (rooms::get(read, no)?.id, date(Some(deletion.since)));
        rows.push(vec![json!(id), since, json!(stage), json!(deletion.events), json!(deletion.by)]);
    }
    Ok(Answer::Table(vec!["room", "since", "stage", "events", "by"], rows))
}

fn purge_history(server: &Server, room: &OwnedRoomOrAliasId, days: u32) -> Result<Answer> {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let before = clock::now_ms().saturating_sub(u64::from(days) * DAY_MS);
    let (room, any) = server.store.write(|tx| {
        let (no, room) = rooms::by_name(tx, room)?;
        Ok((room, purge::begin(tx, no, before)?))
    })?;
    if !any {
        return Ok(Answer::Sentence(format!("Nothing in {} is older than that.", room.id)));
    }
    server.rooms.deletions.notify_one();
    Ok(Answer::Sentence(format!("What is older than {days} days in {} is being deleted.", room.id)))
}

fn list(read: &dyn Read, limit: usize) -> Result<Answer> {
    let mut rows = Vec::new();
    for change in timeline::latest_changes(read) {
        let no = change?.1;
        let room = rooms::get(read, no)?;
        // Rooms that this server knows by an invitation alone, and what is left of deleted ones.
        if room.create.is_none() {
            continue;
        }
        if rows.len() == limit {
            break;
        }
        let name = summary::of(read, no, &room)?.name;
        rows.push(vec![json!(room.id), json!(name), json!(room.joined), json!(room.local_joined)]);
    }
    Ok(Answer::Table(vec!["room", "name", "members", "of_this_server"], rows))
}

fn show(read: &dyn Read, room: &OwnedRoomOrAliasId) -> Result<Answer> {
    let (no, room) = rooms::by_name(read, room)?;
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
    let (no, _) = rooms::by_name(read, room)?;
    let mut rows = Vec::new();
    for row in members::joined(read, no).take(limit) {
        let (user, member) = row?;
        rows.push(vec![json!(user), json!(member.displayname)]);
    }
    Ok(Answer::Table(vec!["user", "name"], rows))
}

fn publish(server: &Server, room: &OwnedRoomOrAliasId, published: bool) -> Result<Answer> {
    let room = server.store.write(|tx| {
        let (no, room) = rooms::by_name(tx, room)?;
        directory::set_published(tx, no, published);
        Ok(room)
    })?;
    let state = if published { "is" } else { "is not" };
    Ok(Answer::Sentence(format!("{} {state} in the room directory.", room.id)))
}
