//! Push gateways are told of what a user is to be notified of
//! ([Push Gateway API](https://spec.matrix.org/latest/push-gateway-api/)).
//!
//! [`run`] follows the stream from a stored place. In each room that changed it asks for every member with a pusher
//! what the push rules do about the new events, and writes a row for each pusher that is to be told (`users/pushers.rs`), in
//! the transaction that moves the place on. So a notification is neither lost nor made twice, and stays until the gateway
//! has taken it; what the user has read meanwhile is not told any more. When a user reads somewhere, or writes, the unread
//! count that the gateways show may be wrong: it is counted once more, and told if it is another.
//!
//! Invariants: a pusher's notifications arrive in order; one that the gateway rejects is removed, and whatever waits for
//! a pusher goes with it. What is noted for pushers of kind `email` goes out in mails (`digests.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use ruma::{
    OwnedUserId, SecondsSinceUnixEpoch, UInt, UserId,
    api::{
        client::push::{Pusher, PusherIds, PusherKind},
        push_gateway::send_event_notification::v1::{Device, Notification, NotificationCounts, NotificationPriority},
    },
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    push::{Action, HighlightTweakValue, HttpPusherData, PushFormat, SoundTweakValue, Tweak},
};
use serde::{Deserialize, Serialize};

use super::{
    lines::Lines,
    queue::{Failures, Gate, Pace, Queue, Refusal},
};
use crate::{
    error::{Error, Result},
    ids::{Position, RoomNo},
    outgoing::{Limits, Reach},
    rooms::{
        self, Event, event, members,
        notifications::{actions, is_unread, unread_everywhere},
        receipts, state, timeline,
    },
    server::Server,
    store::{
        Direction, Read,
        records::Push,
        trees::{COUNTERS, LOCAL_MEMBERS, PUSHER_STATES, PUSHERS, PUSHES, PUSHKEYS},
    },
    users::pushers,
};

/// A gateway that restarts is back within seconds; one that is gone is asked once an hour.
const PACE: Pace = Pace {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(60 * 60),
    longest_later: Duration::from_secs(24 * 60 * 60),
};

/// How many notifications are in memory at a time: to gateways that took the last, to those that did not, and to those
/// that take long.
const GATE: (usize, usize, usize) = (32, 16, 64);

/// How long a gateway may take, and how much it may answer.
const LIMITS: Limits = Limits { body: 64 * 1024, timeout: Duration::from_secs(30), redirects: 0 };

/// The counter that says up to where the stream was looked through.
const PUSHED: &str = "pushed";

/// So many positions can go by without anything to push before it is written down that they were looked through.
const UNWRITTEN: u64 = 10_000;

/// A pusher: its user, `app_id` and `pushkey`.
type PusherKey = (OwnedUserId, String, String);

/// Tells push gateways what happens, until the server stops.
pub async fn run(server: Arc<Server>) {
    let mut stopping = server.stopping.clone();
    let mut gateways = match Gateways::open(server) {
        Ok(gateways) => gateways,
        Err(error) => return tracing::error!("nothing can be sent to push gateways: {error}"),
    };
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => {}
        () = gateways.follow() => {}
    }
    gateways.lines.shutdown().await;
}

struct Gateways {
    server: Arc<Server>,
    lines: Lines<PusherKey, Line>,
    /// Up to here the stream was looked through.
    read: Position,
    /// The same as it is written down.
    written: Position,
}

impl Gateways {
    /// As they were left: a line for each pusher that something waits for.
    fn open(server: Arc<Server>) -> Result<Self> {
        let (live, failing, slow) = GATE;
        let lines = Lines::new(server.store.clone(), PACE, Gate::new(live, failing, slow));
        let (read, waiting) = {
            let snapshot = server.store.read();
            // What happened before there were pushers is no news.
            let read = COUNTERS.get(&snapshot, PUSHED)?.map_or_else(|| snapshot.position(), |at| Ok(Position(at)))?;
            let mut waiting = Vec::new();
            for row in PUSHER_STATES.scan(&snapshot, (), Direction::Forward) {
                let (key, state) = row?;
                waiting.extend((state.waiting > 0 || state.recount.is_some()).then_some(key));
            }
            (read, waiting)
        };
        let mut gateways = Self { server, lines, read, written: Position(0) };
        for key in waiting {
            gateways.wake(key);
        }
        Ok(gateways)
    }

    fn wake(&mut self, key: PusherKey) {
        let line = || Line {
            server: self.server.clone(),
            user: key.0.clone(),
            ids: PusherIds::new(key.2.clone(), key.1.clone()),
        };
        self.lines.wake(&key, None, line);
    }

    /// Looks through the stream as it grows, and keeps the lines going. Does not return.
    async fn follow(&mut self) {
        let server = self.server.clone();
        loop {
            let more = server.store.hub().delivery();
            if let Err(error) = self.look_through().await {
                tracing::error!("what is to be pushed cannot be read or noted: {error}");
            }
            tokio::select! {
                () = more => {}
                _ = self.lines.ended() => {}
            }
        }
    }

    /// Notes whom the gateways are to tell of what is new, and wakes their lines.
    async fn look_through(&mut self) -> Result<()> {
        let (server, after) = (self.server.clone(), self.read);
        let work = tokio::task::spawn_blocking(move || News::after(&server, after));
        let news = work.await.map_err(Error::internal)??;
        if news.pushes.is_empty() && news.recounts.is_empty() && news.until.0 - self.written.0 < UNWRITTEN {
            self.read = news.until;
            return Ok(());
        }
        let told = self.server.store.write(|tx| {
            let mut told = BTreeSet::new();
            COUNTERS.put(tx, PUSHED, &news.until.0);
            for ((user, position), push) in &news.pushes {
                for Pusher { ids, kind, .. } in enabled_pushers(tx, user)? {
                    pushers::notify(tx, user, &ids, *position, push)?;
                    if matches!(kind, PusherKind::Http(_)) {
                        told.insert((user.clone(), ids.app_id, ids.pushkey));
                    }
                }
            }
            for user in &news.recounts {
                for ids in http_pushers(tx, user)? {
                    pushers::recount(tx, user, &ids, news.until)?;
                    told.insert((user.clone(), ids.app_id, ids.pushkey));
                }
            }
            Ok(told)
        })?;
        (self.read, self.written) = (news.until, news.until);
        for key in told {
            self.wake(key);
        }
        Ok(())
    }
}

/// The user's pushers that are on.
fn enabled_pushers(read: &dyn Read, user: &UserId) -> Result<Vec<Pusher>> {
    let mut enabled = Vec::new();
    for row in pushers::all(read, user) {
        let row = row?;
        if !row.disabled {
            enabled.push(serde_json::from_value(row.pusher)?);
        }
    }
    Ok(enabled)
}

/// Those of them that a gateway stands behind.
fn http_pushers(read: &dyn Read, user: &UserId) -> Result<Vec<PusherIds>> {
    let pushers = enabled_pushers(read, user)?.into_iter();
    Ok(pushers.filter(|pusher| matches!(pusher.kind, PusherKind::Http(_))).map(|pusher| pusher.ids).collect())
}

/// What is new in the stream for users who have pushers.
struct News {
    until: Position,
    /// Events that notify, by whom they notify and their place.
    pushes: BTreeMap<(OwnedUserId, Position), Push>,
    /// Users who may have less unread than before.
    recounts: BTreeSet<OwnedUserId>,
}

impl News {
    fn after(server: &Server, after: Position) -> Result<Self> {
        let read = server.store.read();
        let mut news = Self { until: read.position()?, pushes: BTreeMap::new(), recounts: BTreeSet::new() };
        for row in timeline::changed_since(&read, after) {
            let (_, room) = row?;
            if rooms::get(&read, room)?.is_resident() {
                news.add_room(&read, room, after)?;
            } else {
                news.add_outside(&read, room, after)?;
            }
        }
        Ok(news)
    }

    /// Adds what is new in a room that this server is in.
    fn add_room(&mut self, read: &dyn Read, room: RoomNo, after: Position) -> Result<()> {
        let joined = pushed_members(read, room)?;
        for user in &joined {
            if receipts::own_changed(read, room, after, user)? {
                self.recounts.insert(user.clone());
            }
        }
        for place in timeline::after(read, room, timeline::order_of(after)) {
            let (order, no) = place?;
            let event = event::require(read, no)?;
            let subject = event.pdu.state_key_of(&TimelineEventType::RoomMember).map(UserId::parse);
            if let Some(Ok(user)) = subject {
                self.add_invitation(read, room, &user, after)?;
            }
            for user in &joined {
                if event.pdu.sender == *user {
                    self.recounts.insert(user.clone()); // to write is to have read
                }
                self.add_event(read, user, &event, Position(order.unsigned_abs()))?;
            }
        }
        Ok(())
    }

    /// Adds the invitations into a room that this server is not in. They stand with those who are invited and nowhere else.
    fn add_outside(&mut self, read: &dyn Read, room: RoomNo, after: Position) -> Result<()> {
        for row in PUSHKEYS.scan(read, (), Direction::Forward) {
            self.add_invitation(read, room, &row?.0.2, after)?;
        }
        Ok(())
    }

    /// Adds the user's invitation to the room, if that is new; its event need not have a place in the timeline.
    fn add_invitation(&mut self, read: &dyn Read, room: RoomNo, user: &OwnedUserId, after: Position) -> Result<()> {
        let Some(own) = members::user_room(read, user, room)? else { return Ok(()) };
        if own.membership != MembershipState::Invite || own.position <= after || !has_pusher(read, user)? {
            return Ok(());
        }
        match event::get(read, own.event)? {
            Some(event) => self.add_event(read, user, &event, own.position),
            None => Ok(()),
        }
    }

    fn add_event(&mut self, read: &dyn Read, user: &OwnedUserId, event: &Event, position: Position) -> Result<()> {
        let Some(actions) = actions(read, user, event)? else { return Ok(()) };
        let sound = actions.iter().find_map(Action::sound).map(|sound| sound.as_str().to_owned());
        let highlight = actions.iter().any(Action::is_highlight);
        self.pushes.insert((user.clone(), position), Push { event: event.no, sound, highlight });
        Ok(())
    }
}

/// The users of this server who are joined to the room and have pushers. Found among all who are joined or all who have
/// pushers, whichever are fewer.
fn pushed_members(read: &dyn Read, room: RoomNo) -> Result<BTreeSet<OwnedUserId>> {
    let mut members = LOCAL_MEMBERS.scan(read, (room,), Direction::Forward);
    let mut pushkeys = PUSHKEYS.scan(read, (), Direction::Forward);
    let (mut joined, mut owners) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let Some(row) = members.next() else { return those(joined, |user| has_pusher(read, user)) };
        joined.insert(row?.0.1);
        let Some(row) = pushkeys.next() else {
            return those(owners, |user| LOCAL_MEMBERS.contains(read, (room, user)));
        };
        owners.insert(row?.0.2);
    }
}

fn those(users: BTreeSet<OwnedUserId>, are: impl Fn(&OwnedUserId) -> Result<bool>) -> Result<BTreeSet<OwnedUserId>> {
    users.into_iter().filter_map(|user| are(&user).map(|is| is.then_some(user)).transpose()).collect()
}

fn has_pusher(read: &dyn Read, user: &UserId) -> Result<bool> {
    PUSHERS.scan(read, (user,), Direction::Forward).next().transpose().map(|row| row.is_some())
}

/// What is sent for one pusher.
struct Line {
    server: Arc<Server>,
    user: OwnedUserId,
    ids: PusherIds,
}

/// A notification, and what is to be noted once the gateway has it.
struct Told {
    url: String,
    notification: Notification,
    event: Option<Position>,
    unread: u64,
    at: Position,
}

/// What waits for a pusher.
#[derive(Default)]
struct Waiting {
    /// The first event that is still unread, and its place.
    first: Option<(Position, Push, Arc<Event>)>,
    /// The places of those before it, which are not to be told any more.
    obsolete: Vec<Position>,
}

impl Line {
    fn key(&self) -> (&UserId, &String, &String) {
        (&self.user, &self.ids.app_id, &self.ids.pushkey)
    }

    /// What waits for the pusher.
    fn waiting(&self, read: &dyn Read) -> Result<Waiting> {
        let mut waiting = Waiting::default();
        for row in PUSHES.scan(read, self.key(), Direction::Forward) {
            let ((_, _, _, position), push) = row?;
            match event::get(read, push.event)? {
                Some(event) if event.redacted_by.is_none() && is_unread(read, &self.user, &event)? => {
                    waiting.first = Some((position, push, event));
                    break;
                }
                _ => waiting.obsolete.push(position),
            }
        }
        Ok(waiting)
    }

    fn notification(&self, read: &dyn Read, event: &Event, push: &Push, http: &HttpPusherData) -> Result<Notification> {
        let pdu = &event.pdu;
        let room = rooms::get(read, event.room)?;
        let mut notification = Notification::new(Vec::new());
        notification.event_id = Some(pdu.event_id.clone());
        notification.room_id = Some(room.id);
        let urgent = push.highlight || push.sound.is_some() || pdu.kind == TimelineEventType::RoomEncrypted;
        notification.prio = if urgent { NotificationPriority::High } else { NotificationPriority::Low };
        if http.format == Some(PushFormat::EventIdOnly) {
            return Ok(notification);
        }
        notification.event_type = Some(pdu.kind.clone());
        notification.sender = Some(pdu.sender.clone());
        notification.sender_display_name =
            members::get(read, event.room, &pdu.sender)?.and_then(|member| member.displayname);
        notification.room_name = text(read, event.room, StateEventType::RoomName, "name")?;
        let alias = text(read, event.room, StateEventType::RoomCanonicalAlias, "alias")?;
        notification.room_alias = alias.and_then(|alias| alias.try_into().ok());
        let is_member = pdu.kind == TimelineEventType::RoomMember;
        notification.user_is_target = is_member && pdu.state_key.as_deref() == Some(self.user.as_str());
        notification.content = Some(pdu.content.clone());
        Ok(notification)
    }

    /// Whether the gateway need not be told that so much is unread: it knows, or nobody has read anything.
    fn knows(&self, read: &dyn Read, unread: u64) -> Result<bool> {
        let state = PUSHER_STATES.get(read, self.key())?;
        Ok(state.is_none_or(|state| state.told == unread || state.recount.is_none()))
    }

    fn device(&self, pusher: HttpPusherData, created_ts: u64, push: Option<&Push>) -> Device {
        let mut device = Device::new(self.ids.app_id.clone(), self.ids.pushkey.clone());
        device.pushkey_ts = Some(SecondsSinceUnixEpoch(UInt::new_saturating(created_ts / 1000)));
        device.data = pusher.into();
        if let Some(push) = push {
            device.tweaks.extend(push.sound.clone().map(|sound| Tweak::Sound(SoundTweakValue::from(sound))));
            device.tweaks.extend(push.highlight.then_some(Tweak::Highlight(HighlightTweakValue::Yes)));
        }
        device
    }
}

/// A notification of nothing but the unread count.
fn badge() -> Notification {
    let mut notification = Notification::new(Vec::new());
    notification.prio = NotificationPriority::Low;
    notification
}

/// A text in the content of one of the room's state events.
fn text(read: &dyn Read, room: RoomNo, kind: StateEventType, field: &str) -> Result<Option<String>> {
    let content = state::get(read, room, &kind, "")?.and_then(|event| event.pdu.content_as::<serde_json::Value>());
    let text = content.as_ref().and_then(|content| content.get(field)?.as_str());
    Ok(text.filter(|text| !text.is_empty()).map(str::to_owned))
}

impl Queue for Line {
    type Batch = Told;

    fn next(&self) -> Result<Option<Told>> {
        let read = self.server.store.read();
        let Some(row) = PUSHERS.get(&read, self.key())? else { return Ok(None) };
        let pusher: Pusher = serde_json::from_value(row.pusher)?;
        let PusherKind::Http(http) = pusher.kind else { return Ok(None) };
        let Waiting { first, obsolete } = self.waiting(&read)?;
        let (unread, at) = (unread_everywhere(&read, &self.user)?, read.position()?);
        let knows = first.is_none() && self.knows(&read, unread)?;
        self.server.store.write(|tx| {
            obsolete.iter().try_for_each(|at| pushers::told(tx, &self.user, &self.ids, Some(*at), None))?;
            if knows { pushers::recounted(tx, &self.user, &self.ids, at) } else { Ok(()) }
        })?;
        if knows {
            return Ok(None);
        }
        let mut notification = match &first {
            Some((_, push, event)) => self.notification(&read, event, push, &http)?,
            None => badge(),
        };
        let url = http.url.clone();
        notification.counts = NotificationCounts::new(UInt::new_saturating(unread), UInt::MIN);
        notification.devices = vec![self.device(http, row.created_ts, first.as_ref().map(|(_, push, _)| push))];
        Ok(Some(Told { url, notification, event: first.map(|(position, ..)| position), unread, at }))
    }

    async fn send(&self, told: &Told) -> Result<(), Refusal> {
        #[derive(Serialize)]
        struct Body<'a> {
            notification: &'a Notification,
        }
        #[derive(Deserialize, Default)]
        struct Answer {
            #[serde(default)]
            rejected: Vec<String>,
        }
        let fault = |error: &dyn std::fmt::Display| Refusal::new(error.to_string());
        let body = serde_json::to_vec(&Body { notification: &told.notification }).map_err(|error| fault(&error))?;
        let request = Request::post(&told.url).header(header::CONTENT_TYPE, "application/json").body(Bytes::from(body));
        let request = request.map_err(|error| fault(&error))?;
        let answer = self.server.federation.outgoing.request(Reach::Public, request, LIMITS).await;
        let answer = answer.map_err(|error| Refusal::new(error.why))?;
        if !answer.status().is_success() {
            let seconds = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let retry_after = seconds.map(Duration::from_secs);
            return Err(Refusal { why: format!("it answered {}", answer.status()), retry_after });
        }
        let answer: Answer = serde_json::from_slice(answer.body()).unwrap_or_default();
        if answer.rejected.contains(&self.ids.pushkey) {
            tracing::debug!(user = %self.user, app_id = self.ids.app_id, "a push gateway rejects a pusher, which goes");
            let gone = self.server.store.write(|tx| pushers::delete(tx, &self.user, &self.ids));
            gone.map_err(|error| fault(&error))?;
        }
        Ok(())
    }

    fn sent(&self, told: Told) -> Result<()> {
        let count = Some((told.unread, told.at));
        self.server.store.write(|tx| pushers::told(tx, &self.user, &self.ids, told.event, count))
    }

    fn failed(&self, _: &Failures, why: &str) -> Result<()> {
        tracing::debug!(user = %self.user, app_id = self.ids.app_id, why, "a push gateway did not take a notification");
        Ok(())
    }
}
