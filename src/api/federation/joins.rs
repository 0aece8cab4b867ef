//! [Joining rooms](https://spec.matrix.org/latest/server-server-api/#joining-rooms) through this server.

use std::collections::BTreeSet;

use ruma::{
    ServerName,
    api::federation::membership::{create_join_event::v2 as send, prepare_join_event::v1 as make},
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;

use super::event_lists;
use crate::{
    answers_json,
    api::{auth::Origin, own::Json},
    error::{Error, Result},
    federation::handshake,
    ids::EventNo,
    rooms::{Event, auth_chains, members, servers, state, summary},
    server::Server,
    store::{Read, trees::EVENTS},
};

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1make_joinroomiduserid))
pub async fn make_join(server: &Server, origin: Origin, req: make::Request) -> Result<make::Response> {
    let federation = &server.federation;
    let versions = Some(&*req.ver);
    let (version, event) =
        handshake::template(federation, &origin.server, &req.room_id, &req.user_id, MembershipState::Join, versions)
            .await?;
    let mut response = make::Response::new(event);
    response.room_version = Some(version);
    Ok(response)
}

/// How many members a room has at most whose joins are told all of them whatever is asked for: another request would cost
/// more than it saves.
const FEW: usize = 50;

answers_json! {
    /// A request to join, whose answer can be so large that it is written once only.
    pub struct SendJoinRequest(send::Request) => Box<RawValue>;
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2send_joinroomideventid))
pub async fn send_join_v2(
    server: &Server,
    origin: Origin,
    SendJoinRequest(req): SendJoinRequest,
) -> Result<Json<Box<RawValue>>> {
    let federation = &server.federation;
    let join =
        handshake::admit(federation, &origin.server, &req.room_id, &req.event_id, &req.pdu, MembershipState::Join)
            .await?;
    event_lists::made(server, move |read| answer(read, &origin.server, &join, req.omit_members)).await.map(Json)
}

/// What a server that joined is told ([`send::RoomState`]), written straight from the rows: the events of a large room
/// are tens of megabytes.
fn answer(read: &dyn Read, origin: &ServerName, join: &Event, omit_members: bool) -> Result<Box<RawValue>> {
    let whole = state::at(read, join.state_before)?;
    let omits = omit_members && whole.keys().filter(|key| key.is_member()).count() > FEW;
    let kept = if omits { named_members(read, join)? } else { BTreeSet::new() };
    let is_told = |no: &EventNo, is_member: bool| !(omits && is_member) || kept.contains(no);
    let told: BTreeSet<EventNo> =
        whole.iter().filter(|(key, no)| is_told(no, key.is_member())).map(|(_, no)| *no).collect();
    let mut chain = auth_chains::of(read, told.iter().copied().chain([join.no]))?;
    if omit_members {
        chain.retain(|no| !told.contains(no));
    }
    let members_omitted = told.len() < whole.len();
    let mut out = format!("{{\"members_omitted\":{members_omitted},\"event\":{}", join.pdu.json);
    if omit_members {
        let servers = serde_json::to_string(&servers_before(read, origin, join)?)?;
        out.push_str(",\"servers_in_room\":");
        out.push_str(&servers);
    }
    list(&mut out, read, "state", &told)?;
    list(&mut out, read, "auth_chain", &chain)?;
    out.push('}');
    Ok(RawValue::from_string(out)?)
}

/// Writes a field that lists events.
fn list(out: &mut String, read: &dyn Read, name: &str, events: &BTreeSet<EventNo>) -> Result<()> {
    out.push_str(&format!(",\"{name}\":"));
    let mut separator = '[';
    for no in events {
        let event = EVENTS.get(read, *no)?.ok_or_else(|| Error::corrupt(EVENTS.name, no.0.to_be_bytes()))?;
        out.push(separator);
        out.push_str(&event.json);
        separator = ',';
    }
    out.push_str(if events.is_empty() { "[]" } else { "]" });
    Ok(())
}

/// The member events without which a room that has no name cannot be called anything.
fn named_members(read: &dyn Read, join: &Event) -> Result<BTreeSet<EventNo>> {
    if summary::name(read, join.room)?.is_some() {
        return Ok(BTreeSet::new());
    }
    let heroes = members::heroes(read, join.room, &join.pdu.sender)?;
    let events = heroes.iter().filter_map(|user| members::get(read, join.room, user).transpose());
    events.map(|member| member.map(|member| member.event)).collect()
}

/// The servers in the room, without `origin` if it has just come.
fn servers_before(read: &dyn Read, origin: &ServerName, join: &Event) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for row in servers::joined(read, join.room) {
        let (server, users) = row?;
        if server != origin || users > 1 {
            names.push(server.to_string());
        }
    }
    Ok(names)
}
