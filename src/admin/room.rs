//! The administration room: administrators write commands there, and hear of what users report and of what needs them.
//!
//! `@conduit` of this server makes the room when there is an administrator, and invites each of them once. Who may
//! command is decided by the account's flag when the command is read, not by who is in the room. The bot is a client of
//! its own room: it waits for what wakes its user, and two counters say how far it got. A command is counted before it is
//! done, so that a crash in the middle does not do it twice.

use std::sync::Arc;

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId, api::client::room::create_room::v3::RoomPreset, device_id,
    events::TimelineEventType,
};
use serde::Deserialize;
use serde_json::{json, value::to_raw_value};

use super::{Command, reports::about, told};
use crate::{
    error::Result,
    federation::invite,
    http::html,
    ids::RoomNo,
    rooms::{
        self, Draft, Event, aliases,
        create::{self, Creation},
        event, members,
        membership::Content,
        timeline,
    },
    server::Server,
    store::{
        Direction, Read, Tx,
        trees::{ACCOUNTS, COUNTERS, IDENTITY, REPORTS},
    },
    users::{accounts, sign_ups},
};

/// What commands in the room begin with.
pub const PREFIX: &str = "!admin";

/// The alias of the room.
const ALIAS: &str = "admins";

/// The row of [`IDENTITY`] that names the room.
const ROOM: &str = "administration_room";

/// The counter of the place in the room's timeline up to which commands were read.
const READ: &str = "administration_read";

/// The counter of the report up to which the room was told.
const REPORTED: &str = "administration_reported";

/// The counter with the time of the closing of registration that the room was told of last.
const TOLD_CLOSED: &str = "administration_told_closed";

/// The longest answer, in bytes, so that it fits into an event twice.
const MAX_ANSWER: usize = 24 * 1024;

/// Looks after the room until dropped.
pub async fn attend(server: &Arc<Server>) {
    let Ok(bot) = accounts::server_user(server.name()) else { return std::future::pending().await };
    let subscription = server.store.hub().subscribe(&bot, device_id!("ROOM"));
    loop {
        if let Err(error) = attend_once(server, &bot).await {
            tracing::error!("the administration room cannot be served: {error}");
        }
        subscription.woken().await;
    }
}

async fn attend_once(server: &Server, bot: &UserId) -> Result<()> {
    let admins = administrators(&server.store.read())?;
    let known = IDENTITY.get(&server.store.read(), ROOM)?.and_then(|id| RoomId::parse(id).ok());
    // It may have been deleted like any other.
    let known =
        known.filter(|id| rooms::require(&server.store.read(), id).is_ok_and(|(_, room)| room.create.is_some()));
    let room = match known {
        Some(room) => room,
        None if admins.is_empty() => return Ok(()),
        None => server.store.write(|tx| make(server, tx, bot))?,
    };
    invite(server, &room, bot, &admins).await?;
    tell_reports(server, &room, bot).await?;
    tell_closed(server, &room, bot).await?;
    obey(server, &room, bot).await
}

/// The administrators' accounts.
pub(super) fn administrators(read: &dyn Read) -> Result<Vec<OwnedUserId>> {
    let rows = ACCOUNTS.scan(read, (), Direction::Forward);
    rows.filter(|row| row.as_ref().map_or(true, |(_, account)| account.admin && !account.deactivated))
        .map(|row| row.map(|(user, _)| user))
        .collect()
}

fn make(server: &Server, tx: &mut Tx<'_>, bot: &UserId) -> Result<OwnedRoomId> {
    accounts::ensure_server_user(tx, bot, "Server")?;
    // Somebody may have the alias already, or an application service claim all of its kind.
    let alias = aliases::parse_new(server.name(), &server.appservices, None, ALIAS).ok();
    let taken = alias.as_deref().map(|alias| aliases::get(tx, alias)).transpose()?.flatten().is_some();
    let creation = Creation {
        creator: bot.to_owned(),
        version: server.config().default_room_version.clone(),
        content: [("m.federate".to_owned(), json!(false))].into_iter().collect(),
        preset: RoomPreset::PrivateChat,
        published: false,
        alias: alias.filter(|_| !taken),
        name: Some(format!("Administration of {}", server.name())),
        topic: Some(format!("Write commands for the server here: {PREFIX} help")),
        initial_state: Vec::new(),
        power_levels: Content::new(),
        invites: Vec::new(),
        is_direct: false,
    };
    let room = create::create(tx, &server.rooms, &creation)?;
    IDENTITY.put(tx, ROOM, &room.to_string());
    Ok(room)
}

/// Invites the administrators who never had to do with the room.
async fn invite(server: &Server, room: &RoomId, bot: &UserId, admins: &[OwnedUserId]) -> Result<()> {
    for admin in admins.iter().filter(|admin| *admin != bot) {
        let no = rooms::require(&server.store.read(), room)?.0;
        if members::get(&server.store.read(), no, admin)?.is_none()
            && let Err(error) = invite::invite(&server.federation, room, bot, admin, None, false).await
        {
            tracing::debug!("{admin} cannot be invited into the administration room: {error}");
        }
    }
    Ok(())
}

/// Tells the room of the reports that it does not know.
async fn tell_reports(server: &Server, room: &RoomId, bot: &UserId) -> Result<()> {
    let since = COUNTERS.get(&server.store.read(), REPORTED)?.unwrap_or(0);
    let reports =
        REPORTS.range(&server.store.read(), since + 1, u64::MAX, Direction::Forward).collect::<Result<Vec<_>>>()?;
    for (number, report) in reports {
        let about = about(&report);
        let text = format!("Report {number}: {} reports {about}: {}", report.reporter, report.reason);
        say(server, room, bot, &text, |tx| COUNTERS.put(tx, REPORTED, &number)).await?;
    }
    Ok(())
}

/// Tells the room that registration has closed by itself, if it does not know.
async fn tell_closed(server: &Server, room: &RoomId, bot: &UserId) -> Result<()> {
    let (closed, told) = {
        let read = server.store.read();
        (COUNTERS.get(&read, sign_ups::CLOSED)?, COUNTERS.get(&read, TOLD_CLOSED)?)
    };
    match closed {
        Some(closed) if told != Some(closed) => {
            let text = sign_ups::closing_words(&server.config());
            say(server, room, bot, &text, |tx| COUNTERS.put(tx, TOLD_CLOSED, &closed)).await
        }
        _ => Ok(()),
    }
}

/// Does the commands that were written since the last time.
async fn obey(server: &Server, room: &RoomId, bot: &UserId) -> Result<()> {
    let no = rooms::require(&server.store.read(), room)?.0;
    while let Some((event, command)) = next_command(server, no, bot)? {
        let place = u64::try_from(event.order).unwrap_or(0);
        server.store.write(|tx| {
            COUNTERS.put(tx, READ, &place);
            Ok(())
        })?;
        if !ACCOUNTS.get(&server.store.read(), &event.pdu.sender)?.is_some_and(|account| account.admin) {
            say(server, room, bot, "Only administrators can do this.", |_| {}).await?;
            continue;
        }
        let text = match Command::parse(&command) {
            Err(message) => message,
            Ok(command) => match Box::pin(command.run(server, Some(&event.pdu.sender))).await {
                Ok(answer) => answer.to_string(),
                Err(error) => told(&error),
            },
        };
        say(server, room, bot, &text, |_| {}).await?;
    }
    Ok(())
}

/// The next message that is a command, without the prefix.
fn next_command(server: &Server, room: RoomNo, bot: &UserId) -> Result<Option<(Arc<Event>, String)>> {
    #[derive(Deserialize)]
    struct Message {
        msgtype: String,
        body: String,
    }
    let read = server.store.read();
    let since = COUNTERS.get(&read, READ)?.and_then(|place| i64::try_from(place).ok()).unwrap_or(0);
    for place in timeline::after(&read, room, since) {
        let event = event::require(&read, place?.1)?;
        if event.pdu.sender == bot || event.pdu.kind != TimelineEventType::RoomMessage {
            continue;
        }
        let Some(message) = event.pdu.content_as::<Message>() else { continue };
        if message.msgtype == "m.text"
            && let Some(command) = message.body.strip_prefix(PREFIX)
            && (command.is_empty() || command.starts_with(char::is_whitespace))
        {
            let command = command.to_owned();
            return Ok(Some((event, command)));
        }
    }
    Ok(None)
}

/// Says something in the room, as text of fixed width, and writes `also` with it.
async fn say(server: &Server, room: &RoomId, bot: &UserId, text: &str, also: impl FnOnce(&mut Tx<'_>)) -> Result<()> {
    let mut text = text.trim_end().to_owned();
    if text.len() > MAX_ANSWER {
        text.truncate(text.floor_char_boundary(MAX_ANSWER));
        text.push_str("\n... and more; `conduit admin` on the server shows all.");
    }
    let content = json!({
        "msgtype": "m.notice",
        "body": text,
        "format": "org.matrix.custom.html",
        "formatted_body": format!("<pre><code>{}</code></pre>", html::escape(&text)),
    });
    let draft = Draft::message(TimelineEventType::RoomMessage, to_raw_value(&content)?);
    let guard = server.rooms.lock(room).await;
    server.rooms.send_and(&guard, bot, draft, |tx, _| {
        also(tx);
        Ok(())
    })?;
    Ok(())
}
