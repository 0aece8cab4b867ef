//! New users are brought into the rooms that the configuration, or the token they registered with, names; and the room for
//! questions to the administrators.
//!
//! Which rooms is written with the account (`users/accounts.rs`), so that a crash loses nothing; this works it off. A room
//! that cannot be entered is tried again for a day: its server may be away.

use std::{sync::Arc, time::Duration};

use ruma::{OwnedUserId, RoomOrAliasId, UserId, api::client::room::create_room::v3::RoomPreset, device_id};
use serde_json::json;

use super::room::administrators;
use crate::{
    clock,
    error::Result,
    federation::{invite, join},
    rooms::{
        self, aliases,
        create::{self, Creation},
        members,
        membership::Content,
    },
    server::Server,
    store::{Direction, records::Welcome, trees::WELCOMES},
    users::accounts,
};

/// How often a room is tried, each time after twice as long.
const ATTEMPTS: u32 = 11;

/// How long to wait after the first failure.
const FIRST_WAIT_MS: u64 = 60 * 1000;

/// How often to look what is due again.
const TICK: Duration = Duration::from_secs(60);

/// Brings new users into rooms until dropped.
pub async fn run(server: &Arc<Server>) {
    let Ok(bot) = accounts::server_user(server.name()) else { return std::future::pending().await };
    let subscription = server.store.hub().subscribe(&bot, device_id!("WELCOME"));
    loop {
        if let Err(error) = run_once(server, &bot).await {
            tracing::error!("new users could not be brought into their first rooms: {error}");
        }
        tokio::select! {
            () = subscription.woken() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

async fn run_once(server: &Arc<Server>, bot: &UserId) -> Result<()> {
    if server.config().support_room {
        support_room(server, bot).await?;
    }
    let longest = Duration::from_millis(FIRST_WAIT_MS << ATTEMPTS);
    let mut due: Vec<(OwnedUserId, Welcome)> =
        WELCOMES.scan(&server.store.read(), (), Direction::Forward).collect::<Result<_>>()?;
    due.retain(|(_, welcome)| clock::time_until(welcome.retry_at, longest).is_zero());
    for (user, mut welcome) in due {
        let mut open = Vec::new();
        for room in welcome.rooms {
            if let Err(error) = bring(server, bot, &user, &room).await {
                tracing::debug!("{user} cannot be brought into {room}: {error}");
                open.push(room);
            }
        }
        welcome.attempts += 1;
        welcome.retry_at = clock::now_ms() + (FIRST_WAIT_MS << welcome.attempts.min(ATTEMPTS));
        welcome.rooms = open;
        server.store.write(|tx| {
            if welcome.rooms.is_empty() || welcome.attempts >= ATTEMPTS {
                WELCOMES.delete(tx, &*user);
            } else {
                WELCOMES.put(tx, &*user, &welcome);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Joins the user to the room, with an invitation by the bot if it takes one.
async fn bring(server: &Arc<Server>, bot: &UserId, user: &UserId, room: &RoomOrAliasId) -> Result<()> {
    let here = rooms::by_name(&server.store.read(), room).ok();
    let is_in = here.as_ref().map(|(no, _)| members::is_joined(&server.store.read(), *no, bot)).transpose()?;
    if let Some((_, record)) = here
        && is_in == Some(true)
        && let Err(error) = invite::invite(&server.federation, &record.id, bot, user, None, false).await
    {
        tracing::debug!("{user} is not invited to {room}: {error}");
    }
    join::join_by_name(&server.federation, room, user).await.map(drop)
}

/// Makes the room for questions, if it is not there, and invites the administrators who never had to do with it.
async fn support_room(server: &Arc<Server>, bot: &UserId) -> Result<()> {
    let Some(alias) = accounts::support_alias(server.name()) else { return Ok(()) };
    let known = aliases::get(&server.store.read(), &alias)?;
    let no = match known {
        Some(known) => known.room,
        None => server.store.write(|tx| {
            accounts::ensure_server_user(tx, bot, "Server")?;
            let creation = Creation {
                creator: bot.to_owned(),
                version: server.config().default_room_version.clone(),
                content: [("m.federate".to_owned(), json!(false))].into_iter().collect(),
                preset: RoomPreset::PublicChat,
                published: false,
                alias: Some(alias),
                name: Some("Support".to_owned()),
                topic: Some(format!("Questions to the administrators of {}", server.name())),
                initial_state: Vec::new(),
                power_levels: Content::new(),
                invites: Vec::new(),
                is_direct: false,
            };
            let id = create::create(tx, &server.rooms, &creation)?;
            Ok(rooms::require(tx, &id)?.0)
        })?,
    };
    let id = rooms::get(&server.store.read(), no)?.id;
    let admins = administrators(&server.store.read())?;
    for admin in admins.iter().filter(|admin| *admin != bot) {
        if members::get(&server.store.read(), no, admin)?.is_none()
            && let Err(error) = invite::invite(&server.federation, &id, bot, admin, None, false).await
        {
            tracing::debug!("{admin} cannot be invited into the room for questions: {error}");
        }
    }
    Ok(())
}
