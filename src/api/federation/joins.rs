//! [Joining rooms](https://spec.matrix.org/latest/server-server-api/#joining-rooms) through this server.

use std::collections::BTreeSet;

use http::{Request, Response};
use ruma::{
    ServerName,
    api::federation::membership::{create_join_event::v2 as send, prepare_join_event::v1 as make},
    events::room::member::MembershipState,
};

use super::event_lists;
use crate::{
    api::auth::Origin,
    error::Result,
    federation::handshake,
    http::Body,
    ids::EventNo,
    rooms::{Event, auth_chains, members, servers, state, summary},
    server::Server,
    store::Read,
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

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2send_joinroomideventid))
///
/// The answer can be so large that it is written straight from the rows, as the other side reads it.
pub async fn send_join_v2(
    server: &Server,
    origin: Origin,
    req: send::Request,
    _: Request<Body>,
) -> Result<Response<Body>> {
    let federation = &server.federation;
    let join =
        handshake::admit(federation, &origin.server, &req.room_id, &req.event_id, &req.pdu, MembershipState::Join)
            .await?;
    let make = move |read: &dyn Read, origin: &ServerName| answer(read, origin, &join, req.omit_members);
    let Answer { head, state, chain } = event_lists::made(server, origin.server, make).await?;
    Ok(event_lists::answer(server, head, vec![("state", state), ("auth_chain", chain)]))
}

/// What a server that joined is told ([`send::RoomState`]).
struct Answer {
    /// All fields but the lists of events.
    head: String,
    state: Vec<EventNo>,
    chain: Vec<EventNo>,
}

fn answer(read: &dyn Read, origin: &ServerName, join: &Event, omit_members: bool) -> Result<Answer> {
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
    let mut head = format!("\"members_omitted\":{members_omitted},\"event\":{}", join.pdu.json);
    if omit_members {
        let servers = serde_json::to_string(&servers_before(read, origin, join)?)?;
        head.push_str(",\"servers_in_room\":");
        head.push_str(&servers);
    }
    Ok(Answer { head, state: told.into_iter().collect(), chain: chain.into_iter().collect() })
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
