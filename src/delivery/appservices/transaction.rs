//! What a transaction for an application service holds: all that happened between two positions and concerns it.
//!
//! The second position is the newest, unless there is more than one transaction holds; then it is that of the last event
//! or message that does fit, so that the next transaction begins behind it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use ruma::{OneTimeKeyAlgorithm, OwnedDeviceId, OwnedUserId, UInt, events::room::member::MembershipState};
use serde::{Deserialize, Serialize};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::interest::{Interest, ranges};
use crate::{
    appservice::EphemeralName,
    error::Result,
    ids::{EventNo, Position, RoomNo},
    rooms::{Event, client_event, event, members, receipts, timeline},
    server::Server,
    store::{
        Direction, Snapshot,
        trees::{ACCOUNTS, KEY_SUPPLIES, MEMBERSHIP_CHANGES, TO_DEVICE},
    },
    users::{device_keys, one_time_keys},
};

/// How many events are looked at for one transaction.
const MAX_LOOKED_AT: usize = 1000;

/// How many events, and how many messages to devices, one transaction holds at most.
const MAX_EVENTS: usize = 100;

/// How many bytes of events, or of messages, are enough for one transaction.
const ENOUGH: usize = 1024 * 1024;

type Json = Box<RawValue>;

/// By user and device.
type ByDevice<T> = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, T>>;

#[derive(Serialize, Default)]
struct Body {
    events: Vec<Json>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ephemeral: Vec<Json>,
    #[serde(rename = "de.sorunome.msc2409.ephemeral", skip_serializing_if = "Vec::is_empty")]
    unstable_ephemeral: Vec<Json>,
    /// [MSC4203](https://github.com/matrix-org/matrix-spec-proposals/pull/4203)
    #[serde(rename = "de.sorunome.msc2409.to_device", skip_serializing_if = "Vec::is_empty")]
    to_device: Vec<Json>,
    // What follows is MSC3202.
    #[serde(rename = "org.matrix.msc3202.device_lists", skip_serializing_if = "DeviceLists::is_empty")]
    device_lists: DeviceLists,
    #[serde(rename = "org.matrix.msc3202.device_one_time_keys_count", skip_serializing_if = "BTreeMap::is_empty")]
    one_time_keys: ByDevice<BTreeMap<OneTimeKeyAlgorithm, UInt>>,
    #[serde(
        rename = "org.matrix.msc3202.device_unused_fallback_key_types",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    unused_fallback: ByDevice<Vec<OneTimeKeyAlgorithm>>,
}

#[derive(Serialize, Default)]
struct DeviceLists {
    changed: BTreeSet<OwnedUserId>,
    left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

impl Body {
    fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.ephemeral.is_empty()
            && self.unstable_ephemeral.is_empty()
            && self.to_device.is_empty()
            && self.device_lists.is_empty()
            && self.one_time_keys.is_empty()
    }
}

/// The body of the next transaction after `since`, none if it would be empty; and up to where it holds everything.
///
/// # Errors
/// When the database fails or a row is damaged; so for all functions here.
pub(super) fn since(
    server: &Server,
    read: &Snapshot<'_>,
    interest: &Interest<'_>,
    since: Position,
) -> Result<(Option<Json>, Position)> {
    let mut span = Span { interest, since, until: read.position()? };
    if span.since >= span.until {
        return Ok((None, span.until));
    }
    let changed: Vec<RoomNo> =
        timeline::changed_since(read, since).map(|row| row.map(|(_, room)| room)).collect::<Result<_>>()?;
    span.note_left_rooms()?;
    let mut events = span.events(&changed)?;
    events.extend(span.outside(&changed)?);
    events.sort_by_key(|(position, _)| *position);
    let messages = if span.wants_messages() { span.messages()? } else { Vec::new() };
    let mut body = Body::default();
    body.events.extend(span.cut(events));
    body.to_device.extend(span.cut(messages));
    // Where old messages alone fill it, the rest is for the next one.
    if span.until > span.since {
        match interest.service.ephemeral {
            Some(EphemeralName::Stable) => body.ephemeral = span.ephemeral(server, &changed)?,
            Some(EphemeralName::Unstable) => body.unstable_ephemeral = span.ephemeral(server, &changed)?,
            None => {}
        }
        if interest.service.device_changes {
            body.device_lists = span.device_lists()?;
            (body.one_time_keys, body.unused_fallback) = span.keys()?;
        }
    }
    let body = if body.is_empty() { None } else { Some(to_raw_value(&body)?) };
    Ok((body, span.until))
}

/// What lies after one position, up to another.
struct Span<'a> {
    interest: &'a Interest<'a>,
    since: Position,
    until: Position,
}

impl Span<'_> {
    /// A message to a device may be in a list of its own, or wait for the device to sync.
    fn wants_messages(&self) -> bool {
        self.interest.service.ephemeral.is_some() || self.interest.service.device_changes
    }

    /// Rooms that the last user of the application service left since then concern it up to there.
    fn note_left_rooms(&self) -> Result<()> {
        for row in MEMBERSHIP_CHANGES.scan_after(self.interest.read, (), self.since) {
            let (position, change) = row?;
            if self.interest.service.has_user(&change.user) {
                self.interest.note_left(change.room, position)?;
            }
        }
        Ok(())
    }

    /// The events that concern the application service, in the order of the stream, each with its position. Ends the span
    /// where they are too many.
    fn events(&mut self, changed: &[RoomNo]) -> Result<Vec<(Position, Json)>> {
        let read = self.interest.read;
        let mut first = BinaryHeap::new();
        for &room in changed {
            if !self.interest.may_concern(room)? {
                continue;
            }
            for row in timeline::after(read, room, timeline::order_of(self.since)) {
                let (order, no) = row?;
                if order > timeline::order_of(self.until) {
                    break;
                }
                first.push((order, no));
                if first.len() > MAX_LOOKED_AT && first.pop().is_some_and(|last| last == (order, no)) {
                    break;
                }
            }
        }
        let first: Vec<(i64, EventNo)> = first.into_sorted_vec();
        if first.len() == MAX_LOOKED_AT
            && let Some((order, _)) = first.last()
        {
            self.end_at(position_of(*order));
        }
        let (mut shown, mut bytes) = (Vec::new(), 0);
        for (order, no) in first {
            let Some(event) = event::get(read, no)? else { continue };
            if !self.interest.in_event(&event)? {
                continue;
            }
            let json = self.event(&event)?;
            bytes += json.get().len();
            shown.push((position_of(order), json));
            if shown.len() == MAX_EVENTS || bytes >= ENOUGH {
                self.end_at(position_of(order));
                break;
            }
        }
        Ok(shown)
    }

    /// An event as clients see it; an invitation with what whoever is invited may know of the room.
    fn event(&self, event: &Event) -> Result<Json> {
        let read = self.interest.read;
        let json = client_event::room_timeline(read, event, None)?.into_json();
        let Some(target) = self.interest.target(event) else { return Ok(json) };
        let stripped = match members::user_room(read, &target, event.room)? {
            Some(own) if own.event == event.no && own.membership == MembershipState::Invite => own.stripped,
            _ => None,
        };
        let Some(stripped) = stripped else { return Ok(json) };
        let mut json: serde_json::Value = serde_json::from_str(json.get())?;
        json["unsigned"]["invite_room_state"] = json!(stripped);
        Ok(to_raw_value(&json)?)
    }

    /// What other servers told of the memberships of its users in rooms that this server is not in, such as invitations;
    /// there these are all that is known, and stand in no timeline (`rooms/outside.rs`).
    fn outside(&self, changed: &[RoomNo]) -> Result<Vec<(Position, Json)>> {
        let Interest { read, service, .. } = *self.interest;
        let mut shown = Vec::new();
        for &no in changed {
            let room = crate::rooms::get(read, no)?;
            if room.local_joined > 0 {
                continue;
            }
            for (from, to) in ranges(service) {
                for row in ACCOUNTS.range(read, &*from, &*to, Direction::Forward) {
                    let (user, _) = row?;
                    let own = members::user_room(read, &user, no)?
                        .filter(|own| own.outside.is_some() && own.position > self.since && own.position <= self.until);
                    if let Some(own) = own.filter(|_| service.has_user(&user)) {
                        let pdu = &event::require(read, own.event)?.pdu;
                        let json = json!({
                            "type": pdu.kind, "room_id": room.id, "event_id": pdu.event_id, "sender": pdu.sender,
                            "state_key": user, "origin_server_ts": pdu.origin_server_ts, "content": pdu.content,
                            "unsigned": { "invite_room_state": own.stripped.unwrap_or_default() },
                        });
                        shown.push((own.position, to_raw_value(&json)?));
                    }
                }
            }
        }
        Ok(shown)
    }

    /// The messages to devices of the application service's users, as [`events`](Self::events).
    fn messages(&mut self) -> Result<Vec<(Position, Json)>> {
        let read = self.interest.read;
        let mut first = BTreeMap::new();
        for (from, to) in ranges(self.interest.service) {
            for row in TO_DEVICE.range(read, (from,), (to,), Direction::Forward) {
                let ((user, device, position), message) = row?;
                let service = self.interest.service;
                // What is deleted once it was told was not told if it is there, however old it is.
                let is_new = position > self.since || (service.device_changes && service.owns_user(&user));
                if !is_new || position > self.until || !service.has_user(&user) {
                    continue;
                }
                first.insert(position, (user, device, message));
                if first.len() > MAX_EVENTS {
                    first.pop_last();
                }
            }
        }
        if first.len() == MAX_EVENTS
            && let Some((last, _)) = first.last_key_value()
        {
            self.end_at(*last);
        }
        let mut shown = Vec::new();
        let mut bytes = 0;
        for (position, (user, device, message)) in first {
            bytes += message.get().len();
            shown.push((position, addressed(&user, &device, &message)?));
            if bytes >= ENOUGH {
                self.end_at(position);
                break;
            }
        }
        Ok(shown)
    }

    fn end_at(&mut self, position: Position) {
        self.until = self.until.min(position);
    }

    /// Those that lie in the span as it ends now.
    fn cut(&self, events: Vec<(Position, Json)>) -> impl Iterator<Item = Json> {
        let until = self.until;
        events.into_iter().filter(move |(position, _)| *position <= until).map(|(_, json)| json)
    }

    /// Typing, receipts and presence
    /// ([spec](https://spec.matrix.org/latest/application-service-api/#pushing-ephemeral-data)).
    fn ephemeral(&self, server: &Server, changed: &[RoomNo]) -> Result<Vec<Json>> {
        let Interest { read, service, .. } = *self.interest;
        let mut shown = Vec::new();
        for &room in changed {
            if !self.interest.in_room(room)? {
                continue;
            }
            let room_id = crate::rooms::get(read, room)?.id;
            if let Some(users) = server.typing.since(room, self.since) {
                let content = json!({ "user_ids": users });
                shown.push(to_raw_value(&json!({ "type": "m.typing", "room_id": room_id, "content": content }))?);
            }
            let receipts = receipts::since_for(read, room, self.since, |owner| service.has_user(owner))?;
            if !receipts.is_empty() {
                shown.push(to_raw_value(&json!({ "type": "m.receipt", "room_id": room_id, "content": receipts }))?);
            }
        }
        for event in server.presence.changed(self.since, self.until) {
            if self.interest.in_user(&event.sender)? {
                shown.push(to_raw_value(&event)?);
            }
        }
        Ok(shown)
    }

    /// Whose keys changed or came into a room that concerns the application service, and who left the last such room.
    fn device_lists(&self) -> Result<DeviceLists> {
        let read = self.interest.read;
        let mut lists = DeviceLists::default();
        for row in device_keys::changes(read, self.since) {
            let (position, user) = row?;
            if position <= self.until && self.interest.in_user(&user)? {
                lists.changed.insert(user);
            }
        }
        for row in MEMBERSHIP_CHANGES.scan_after(read, (), self.since) {
            let (position, change) = row?;
            if position > self.until {
                break;
            }
            if !self.interest.in_room(change.room)? {
                continue;
            }
            if change.joined {
                lists.changed.insert(change.user);
            } else if !self.interest.in_user(&change.user)? {
                lists.changed.remove(&change.user);
                lists.left.insert(change.user);
            }
        }
        Ok(lists)
    }

    /// The one-time keys and unused fallback keys of devices where these changed.
    #[allow(clippy::type_complexity)] // two maps of one shape
    fn keys(&self) -> Result<(ByDevice<BTreeMap<OneTimeKeyAlgorithm, UInt>>, ByDevice<Vec<OneTimeKeyAlgorithm>>)> {
        let read = self.interest.read;
        let (mut counts, mut fallback) = (ByDevice::new(), ByDevice::new());
        for (from, to) in ranges(self.interest.service) {
            for row in KEY_SUPPLIES.range(read, (from,), (to,), Direction::Forward) {
                let ((user, device), supply) = row?;
                let changed = supply.changed > self.since && supply.changed <= self.until;
                if !changed || !self.interest.service.has_user(&user) {
                    continue;
                }
                let count = one_time_keys::counts(read, &user, &device)?;
                let unused = one_time_keys::unused_fallback(read, &user, &device)?;
                counts.entry(user.clone()).or_default().insert(device.clone(), count);
                fallback.entry(user).or_default().insert(device, unused);
            }
        }
        Ok((counts, fallback))
    }
}

/// A message with the device that it is for.
fn addressed(user: &OwnedUserId, device: &OwnedDeviceId, message: &RawValue) -> Result<Json> {
    #[derive(Serialize, Deserialize)]
    struct Message<'a> {
        #[serde(rename = "type", borrow)]
        kind: Cow<'a, str>,
        #[serde(borrow)]
        sender: Cow<'a, str>,
        #[serde(borrow)]
        content: &'a RawValue,
        #[serde(skip_deserializing)]
        to_user_id: &'a str,
        #[serde(skip_deserializing)]
        to_device_id: &'a str,
    }
    let message: Message<'_> = serde_json::from_str(message.get())?;
    Ok(to_raw_value(&Message { to_user_id: user.as_str(), to_device_id: device.as_str(), ..message })?)
}

/// The position of a live event's place in its room's timeline.
fn position_of(order: i64) -> Position {
    Position(order.max(0).cast_unsigned())
}
