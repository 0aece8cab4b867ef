//! Users of this server knock on rooms of other servers
//! ([Knocking upon a room](https://spec.matrix.org/latest/server-server-api/#knocking-upon-a-room)).

use ruma::{
    OwnedServerName, RoomId, ServerName, UserId,
    api::federation::membership::{create_knock_event::v1 as send, prepare_knock_event::v1 as make},
    events::room::member::MembershipState,
};
use serde_json::{json, value::RawValue};

use super::{Failure, Federation, invite, join, policy};
use crate::{
    error::{Error, Result},
    rooms::{
        Room, blocks, membership,
        outside::{self, Told},
        template::{self, Wanted},
    },
    store::Read,
};

/// Knocks on a room's door, through other servers if this one is not in the room; `via` are servers to try first.
///
/// # Errors
/// Those of [`membership::knock`]; what the last of the other servers that knew the room said; 404 `M_NOT_FOUND` when
/// there is none to ask, 502 or 504 when none answers as it should.
pub async fn knock(
    federation: &Federation,
    room: &RoomId,
    user: &UserId,
    via: Vec<OwnedServerName>,
    reason: Option<String>,
) -> Result<()> {
    let candidates = {
        let read = federation.rooms.store.read();
        blocks::check(&read, room)?;
        if join::is_resident(&read, room)? {
            None
        } else {
            Some(join::candidates(federation, &read, room, user, &via)?)
        }
    };
    let Some(mut candidates) = candidates else {
        let draft = |read: &dyn Read, no, record: &Room| membership::knock(read, no, record, user, reason);
        return policy::send_if(federation, room, user, draft).await;
    };
    while let Some(server) = candidates.next() {
        match through(federation, &server, room, user, reason.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) => candidates.failed(&server, error),
        }
    }
    Err(candidates.refusal())
}

async fn through(
    federation: &Federation,
    server: &ServerName,
    room: &RoomId,
    user: &UserId,
    reason: Option<String>,
) -> Result<()> {
    let rooms = &*federation.rooms;
    let mut request = make::Request::new(room.to_owned(), user.to_owned());
    request.ver = join::versions();
    let answer = federation.send(server, request).await?;
    let version = answer.room_version;
    if version.rules().is_none() {
        return Err(Failure::Malformed(format!("the room has version {version}")).into());
    }
    let membership = MembershipState::Knock;
    let mut content = membership::with_profile(&rooms.store.read(), user, &membership)?;
    content.insert("reason".to_owned(), json!(reason));
    let wanted = Wanted { room, user, membership: &membership };
    let signed = template::complete(&rooms.keys, &version, &answer.event, content, &wanted)
        .map_err(|why| Error::from(Failure::Malformed(why)))?;
    let pdu = signed.pdu();
    let json = RawValue::from_string(pdu.json.clone())?;
    let request = send::Request::new(room.to_owned(), pdu.event_id.clone(), json);
    let state = federation.send(server, request).await?.knock_room_state;
    let servers = invite::servers_of(&state, server, room, federation.server_name());
    let preview = Some(invite::stripped_preview(&state));
    let _guard = rooms.lock(room).await;
    rooms.store.write(|tx| outside::note(tx, Told { version: &version, event: &signed, preview, servers }))?;
    Ok(())
}
