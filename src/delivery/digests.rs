//! Notifications by mail: what stays unread, gathered into one mail
//! ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3pushersset), pushers of kind `email`).
//!
//! What a pusher is to be told is noted for it as for those with a gateway (`gateways.rs`). Here it is looked at every
//! minute: once something has been unread for a while, and the last mail is long enough ago, everything unread goes into one
//! mail. So however much happens, a user gets at most four mails an hour, and none for what they read elsewhere.
//!
//! What could not be sent is in the next mail. Deliberately absent: mails about single messages.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{
    OwnedUserId, UserId,
    api::client::push::PusherIds,
    events::{TimelineEventType, room::member::MembershipState},
};

use crate::{
    clock,
    error::Result,
    ids::{Position, RoomNo},
    outgoing::mail::Letter,
    rooms::{self, Event, event, members, notifications::is_unread, summary},
    server::Server,
    store::{
        Direction, Read,
        trees::{PUSHER_STATES, PUSHES, PUSHKEYS},
    },
    users::pushers,
};

/// How long something is unread before a mail tells it.
pub const UNREAD_FOR: Duration = Duration::from_secs(10 * 60);

/// How long two mails to one pusher are apart at least.
pub const APART: Duration = Duration::from_secs(15 * 60);

/// How often pushers are looked at.
const LOOK: Duration = Duration::from_secs(60);

/// How many messages of a room a mail shows, and how many characters of each.
const MAX_SHOWN: usize = 3;
const MAX_TEXT: usize = 200;

/// Sends mails until the server stops, if it sends any.
pub async fn run(server: Arc<Server>) {
    let mut stopping = server.stopping.clone();
    let work = async {
        loop {
            if let Err(error) = send_due(&server, clock::now_ms()).await {
                tracing::error!("what is to be told by mail cannot be read or noted: {error}");
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => {}
        () = work, if server.mailer.is_configured() => {}
    }
}

/// Sends the mails that are due at `now`, in milliseconds since the Unix epoch.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn send_due(server: &Server, now: u64) -> Result<()> {
    let pushers: Vec<_> = {
        let read = server.store.read();
        let rows = PUSHKEYS.scan(&read, (pushers::EMAIL_APP,), Direction::Forward);
        rows.map(|row| row.map(|((_, address, user), ())| (user, address))).collect::<Result<_>>()?
    };
    for (user, address) in pushers {
        let ids = PusherIds::new(address, pushers::EMAIL_APP.to_owned());
        let Some(digest) = due(server, &user, &ids, now)? else { continue };
        server.store.durable().await?;
        let link = pushers::unsubscribe_link(&server.keys, &server.homeserver_url(), &user, &ids.pushkey)?;
        let letter = Letter::digest(server.name().as_str(), user.as_str(), digest.rooms, link);
        if server.mailer.send(&ids.pushkey, &letter).await.is_ok() {
            server
                .store
                .write(|tx| digest.told.iter().try_for_each(|at| pushers::told(tx, &user, &ids, Some(*at), None)))?;
        }
    }
    Ok(())
}

/// What a mail tells.
struct Digest {
    /// A paragraph for each room.
    rooms: Vec<String>,
    /// The places of the events.
    told: Vec<Position>,
}

/// The mail for a pusher, if one is due; that is noted then, so that no other one follows soon.
fn due(server: &Server, user: &OwnedUserId, ids: &PusherIds, now: u64) -> Result<Option<Digest>> {
    let read = server.store.read();
    let Some(state) = PUSHER_STATES.get(&read, (user, &ids.app_id, &ids.pushkey))? else { return Ok(None) };
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if state.waiting == 0 || now < state.mailed_ts.map_or(0, |at| at.saturating_add(millis(APART))) {
        return Ok(None);
    }
    let (mut unread, mut obsolete) = (BTreeMap::<RoomNo, Vec<Arc<Event>>>::new(), Vec::new());
    let (mut told, mut oldest) = (Vec::new(), u64::MAX);
    for row in PUSHES.scan(&read, (user, &ids.app_id, &ids.pushkey), Direction::Forward) {
        let ((.., position), push) = row?;
        match event::get(&read, push.event)? {
            Some(event) if event.redacted_by.is_none() && is_unread(&read, user, &event)? => {
                oldest = oldest.min(event.received_ts);
                told.push(position);
                unread.entry(event.room).or_default().push(event);
            }
            _ => obsolete.push(position),
        }
    }
    let is_due = !told.is_empty() && now >= oldest.saturating_add(millis(UNREAD_FOR));
    server.store.write(|tx| {
        obsolete.iter().try_for_each(|at| pushers::told(tx, user, ids, Some(*at), None))?;
        if is_due { pushers::mailed(tx, user, ids, now) } else { Ok(()) }
    })?;
    if !is_due {
        return Ok(None);
    }
    let rooms =
        unread.into_iter().map(|(room, events)| paragraph(&read, user, room, &events)).collect::<Result<_>>()?;
    Ok(Some(Digest { rooms, told }))
}

/// What is unread in a room: its name, how much, and the newest of it.
fn paragraph(read: &dyn Read, user: &UserId, room: RoomNo, events: &[Arc<Event>]) -> Result<String> {
    let record = rooms::get(read, room)?;
    let name = summary::name(read, room)?;
    let count = match events.len() {
        1 => "1 unread message".to_owned(),
        more => format!("{more} unread messages"),
    };
    let mut lines = vec![match name {
        Some(name) => format!("{name}: {count}"),
        None => format!("{count} in a room without a name ({})", record.id),
    }];
    for event in &events[events.len().saturating_sub(MAX_SHOWN)..] {
        let member = members::get(read, room, &event.pdu.sender)?;
        let sender = member.and_then(|member| member.displayname).unwrap_or_else(|| event.pdu.sender.to_string());
        lines.push(format!("{sender}: {}", excerpt(user, event)));
    }
    Ok(lines.join("\n"))
}

/// The beginning of a message, or in words what it is.
fn excerpt(user: &UserId, event: &Event) -> String {
    let content: serde_json::Value = event.pdu.content_as().unwrap_or_default();
    match &event.pdu.kind {
        TimelineEventType::RoomEncrypted => "an encrypted message".to_owned(),
        TimelineEventType::RoomMember
            if content["membership"] == MembershipState::Invite.as_str()
                && event.pdu.state_key.as_deref() == Some(user.as_str()) =>
        {
            "invites you".to_owned()
        }
        _ => match content["body"].as_str().map(|body| body.trim().chars().take(MAX_TEXT).collect::<String>()) {
            Some(text) if !text.is_empty() => text.split_whitespace().collect::<Vec<_>>().join(" "),
            _ => "something new".to_owned(),
        },
    }
}
