//! What other servers are to be told of a room.
//!
//! Each change is one row of `OUTGOING`, written in the change's own transaction, however many servers are in the room;
//! `delivery/servers.rs` finds out which and sends it. A room that only this server is in has no rows.

use ruma::{
    ServerName, UserId,
    events::{TimelineEventType, receipt::ReceiptType},
};

use super::{Event, Room, Rooms, event::Status, sticky};
use crate::{
    clock,
    error::Result,
    ids::{Position, RoomNo},
    store::{Read, Tx, records::Outgoing, trees},
};

/// The counter that says up to where all servers have `OUTGOING` that can be reached.
pub const DELIVERED: &str = "outgoing_delivered";

/// The counter that says up to where `OUTGOING` holds no more than what stays.
pub const TRIMMED: &str = "outgoing_trimmed";

/// Notes an event that is being appended: one of a user of this server, or one of another server that this one passes on,
/// as it does with memberships that came about through it.
///
/// # Errors
/// When a row is damaged or the database fails; so for all functions here.
pub(super) fn event(tx: &mut Tx<'_>, rooms: &Rooms, room: &Room, event: &Event) -> Result<()> {
    let target = target(rooms, event);
    if event.status != Status::Accepted || event.order <= 0 || (is_local(room) && target.is_none()) {
        return Ok(());
    }
    let position = Position(event.order.unsigned_abs());
    if let Some(earlier) = trees::OUTGOING_LATEST.get(tx, event.room)?
        && is_trimmed(tx, earlier)?
        && !sticky::is_noted(tx, event.room, earlier)?
    {
        trees::OUTGOING.delete(tx, earlier);
    }
    trees::OUTGOING_LATEST.put(tx, event.room, &position);
    let target = target.map(|user| user.server_name().to_owned());
    let sender = event.pdu.sender.server_name();
    let from = (sender != rooms.server_name).then(|| sender.to_owned());
    trees::OUTGOING.put(tx, position, &Outgoing::Event { room: event.room, event: event.no, target, from });
    Ok(())
}

/// Whether the log holds no more than what stays up to `position`.
fn is_trimmed(read: &dyn Read, position: Position) -> Result<bool> {
    Ok(position.0 <= trees::COUNTERS.get(read, TRIMMED)?.unwrap_or(0))
}

/// Lets go of the row that stayed because the event at `position` stuck to the room.
///
/// # Errors
/// As for all functions here.
pub(super) fn unstuck(tx: &mut Tx<'_>, room: RoomNo, position: Position) -> Result<()> {
    let row = trees::OUTGOING.get(tx, position)?;
    let is_of_room = matches!(row, Some(Outgoing::Event { room: of, .. }) if of == room);
    if is_of_room && is_trimmed(tx, position)? && trees::OUTGOING_LATEST.get(tx, room)? != Some(position) {
        trees::OUTGOING.delete(tx, position);
    }
    Ok(())
}

/// Notes for a server that came into the room what sticks to it of this server's users
/// ([MSC4354](https://github.com/matrix-org/matrix-spec-proposals/pull/4354), a proposal).
///
/// # Errors
/// As for all functions here.
pub(super) fn newcomer(tx: &mut Tx<'_>, rooms: &Rooms, room: RoomNo, server: &ServerName) -> Result<()> {
    if server == rooms.server_name {
        return Ok(());
    }
    let sticky: Vec<_> = sticky::after(tx, room, Position(0)).collect::<Result<_>>()?;
    for (_, event) in sticky.iter().filter(|(_, event)| event.pdu.sender.server_name() == rooms.server_name) {
        let position = tx.next_position()?;
        trees::OUTGOING.put(tx, position, &Outgoing::Sticky { room, event: event.no, server: server.to_owned() });
    }
    Ok(())
}

/// The user of another server whose membership the event is.
fn target<'a>(rooms: &Rooms, event: &'a Event) -> Option<&'a UserId> {
    let is_member = event.pdu.kind == TimelineEventType::RoomMember;
    let user = event.pdu.state_key.as_deref().filter(|_| is_member)?;
    <&UserId>::try_from(user).ok().filter(|user| user.server_name() != rooms.server_name)
}

/// Whether only this server is in the room. While members are missing, others are.
fn is_local(room: &Room) -> bool {
    room.partial.is_none() && room.joined == room.local_joined
}

/// Notes at `position` that a user of this server types, or no longer does.
///
/// # Errors
/// As for all functions here.
pub(super) fn typing(
    tx: &mut Tx<'_>,
    rooms: &Rooms,
    room: RoomNo,
    user: &UserId,
    typing: bool,
    position: Position,
) -> Result<()> {
    if user.server_name() != rooms.server_name || is_local(&super::get(tx, room)?) {
        return Ok(());
    }
    let row = Outgoing::Typing { room, user: user.to_owned(), typing, ts: clock::now_ms() };
    trees::OUTGOING.put(tx, position, &row);
    Ok(())
}

/// Notes at `position` that a receipt moved: whose, of which type, in which thread. It came at `earlier` before.
///
/// # Errors
/// As for all functions here.
pub(super) fn receipt(
    tx: &mut Tx<'_>,
    rooms: &Rooms,
    room: RoomNo,
    (user, kind, thread): (&UserId, &ReceiptType, &str),
    position: Position,
    earlier: Option<Position>,
) -> Result<()> {
    let is_told = *kind == ReceiptType::Read && user.server_name() == rooms.server_name;
    if !is_told || is_local(&super::get(tx, room)?) {
        return Ok(());
    }
    if let Some(earlier) = earlier {
        trees::OUTGOING.delete(tx, earlier);
    }
    trees::OUTGOING.put(tx, position, &Outgoing::Receipt { room, user: user.to_owned(), thread: thread.to_owned() });
    Ok(())
}

/// Notes that a user of this server came into a room, so that the servers there learn of the user's devices
/// ([spec](https://spec.matrix.org/latest/server-server-api/#device-management)).
///
/// # Errors
/// As for all functions here.
pub fn devices(tx: &mut Tx<'_>, room: RoomNo, user: &UserId) -> Result<()> {
    if is_local(&super::get(tx, room)?) {
        return Ok(());
    }
    let position = tx.next_position()?;
    trees::OUTGOING.put(tx, position, &Outgoing::Devices { room, user: user.to_owned() });
    Ok(())
}
