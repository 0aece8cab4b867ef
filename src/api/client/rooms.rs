//! [Getting events for a room](https://spec.matrix.org/latest/client-server-api/#getting-events-for-a-room): one event,
//! the state, the members.

use std::{collections::BTreeMap, sync::Arc};

use http::StatusCode;
use ruma::{
    OwnedUserId, RoomId, UserId,
    api::client::{
        membership::{get_member_events, joined_members},
        room::get_room_event,
        state::{
            get_state_event_for_key::{self, v3::StateEventFormat},
            get_state_events,
        },
    },
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde::{Deserialize, Serialize};

use crate::{
    answers_json,
    api::{
        auth::User,
        own::{self, Json},
    },
    error::{Error, Result},
    federation::missing_members,
    reads,
    rooms::{
        self, Event, Room,
        access::{self, View},
        client_event::{self, Viewer},
        event, members,
        point::Point,
        redaction, visibility,
    },
    server::Server,
    stands_in_for,
    store::Read,
};

fn viewer(user: &User) -> Viewer<'_> {
    Some((&user.id, &user.device))
}

/// Waits for members that are missing: clients take what they get for all.
async fn all_members(server: &Server, user: &User, room: &RoomId) -> Result<()> {
    access::state_of(&server.store.read(), &user.id, room)?;
    missing_members::whole(&server.federation, room).await
}

/// A request for an event, which may ask for what a redaction took away
/// ([MSC2815](https://github.com/matrix-org/matrix-spec-proposals/pull/2815), a proposal).
pub struct EventRequest {
    request: get_room_event::v3::Request,
    unredacted: bool,
}
stands_in_for!(EventRequest, get_room_event::v3::Request);

reads!(EventRequest => get_room_event::v3::Response, |request, path_args| {
    #[derive(Deserialize)]
    struct Query {
        #[serde(rename = "fi.mau.msc2815.include_unredacted_content", default)]
        unredacted: bool,
    }
    let Query { unredacted } = own::query(&request)?;
    let request = get_room_event::v3::Request::try_from_http_request_inner(request, path_args)?;
    Self { request, unredacted }
});

/// `GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomideventeventid))
pub async fn get_one_room_event(
    server: &Server,
    user: User,
    EventRequest { request: req, unredacted }: EventRequest,
) -> Result<get_room_event::v3::Response> {
    let snapshot = server.store.read();
    let not_found = || Error::not_found("There is no such event in this room, or you may not see it.");
    let event = event::by_id(&snapshot, &req.event_id)?.ok_or_else(not_found)?;
    if event.pdu.room_id != req.room_id || !visibility::may_see_event(&snapshot, &user.id, &event)? {
        return Err(not_found());
    }
    let event = if unredacted { before_redaction(server, &snapshot, &user, event)? } else { event };
    Ok(get_room_event::v3::Response::new(client_event::room_timeline(&snapshot, &event, viewer(&user))?))
}

/// The event with what a redaction took away, for who could have redacted it.
fn before_redaction(server: &Server, read: &dyn Read, user: &User, event: Arc<Event>) -> Result<Arc<Event>> {
    if event.redacted_by.is_none() {
        return Ok(event);
    }
    if !redaction::has_power(read, event.room, &rooms::get(read, event.room)?, &user.id)? {
        return Err(Error::forbidden("You do not have the power to look at redacted events."));
    }
    redaction::original(read, &event)?.map(Arc::new).ok_or_else(|| {
        let kept_for = server.config().redaction_retention.as_secs();
        let message = format!("What was redacted is gone: this server keeps it for {kept_for} seconds.");
        Error::custom(StatusCode::NOT_FOUND, "FI.MAU.MSC2815_UNREDACTED_CONTENT_DELETED", message)
    })
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidstateeventtypestatekey))
pub async fn get_room_state_with_key(
    server: &Server,
    user: User,
    req: get_state_event_for_key::v3::Request,
) -> Result<get_state_event_for_key::v3::Response> {
    if req.event_type == StateEventType::RoomMember
        && let Ok(member) = <&UserId>::try_from(&*req.state_key)
    {
        access::state_of(&server.store.read(), &user.id, &req.room_id)?;
        missing_members::known(&server.federation, &req.room_id, member).await?;
    }
    let snapshot = server.store.read();
    let readable = access::state_of(&snapshot, &user.id, &req.room_id)?;
    let event = readable.view.get(&snapshot, &req.event_type, &req.state_key)?;
    let event = event.ok_or_else(|| Error::not_found("The room has no state with this type and key."))?;
    Ok(get_state_event_for_key::v3::Response::new(match req.format {
        StateEventFormat::Event => client_event::room_state(&snapshot, &event, viewer(&user))?.into_json(),
        _ => event.pdu.content.clone(),
    }))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidstate))
pub async fn get_room_state(
    server: &Server,
    user: User,
    req: get_state_events::v3::Request,
) -> Result<get_state_events::v3::Response> {
    all_members(server, &user, &req.room_id).await?;
    let snapshot = server.store.read();
    let readable = access::state_of(&snapshot, &user.id, &req.room_id)?;
    let view = client_event::View::new(&snapshot, viewer(&user));
    let show = |no| view.room_state(&*event::require(&snapshot, no)?);
    let events = readable.view.all(&snapshot)?.into_iter().map(show).collect::<Result<_>>()?;
    Ok(get_state_events::v3::Response::new(events))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/members`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidmembers))
pub async fn get_members_by_room(
    server: &Server,
    user: User,
    req: get_member_events::v3::Request,
) -> Result<get_member_events::v3::Response> {
    all_members(server, &user, &req.room_id).await?;
    let snapshot = server.store.read();
    let readable = access::state_of(&snapshot, &user.id, &req.room_id)?;
    let at = Point::parse_optional(req.at.as_deref())?;
    let wanted = |membership: &MembershipState| match (&req.membership, &req.not_membership) {
        (None, None) => true,
        (is, is_not) => is.as_ref() == Some(membership) || is_not.as_ref().is_some_and(|not| not != membership),
    };
    let shown = client_event::View::new(&snapshot, viewer(&user));
    let mut chunk = Vec::new();
    let mut show = |event: &Event| -> Result<()> {
        chunk.push(shown.room_state(event)?.cast_unchecked());
        Ok(())
    };
    match readable.at(&snapshot, at)? {
        View::Current(room) => {
            for row in members::all(&snapshot, room) {
                let member = row?.1;
                if wanted(&member.membership) {
                    show(&*event::require(&snapshot, member.event)?)?;
                }
            }
        }
        view => {
            for no in view.all(&snapshot)? {
                let event = event::require(&snapshot, no)?;
                let is_member = event.pdu.kind == TimelineEventType::RoomMember;
                if is_member && access::membership_of(&event).is_some_and(|membership| wanted(&membership)) {
                    show(&event)?;
                }
            }
        }
    }
    Ok(get_member_events::v3::Response::new(chunk))
}

answers_json! {
    /// A request for the joined members, whose answer has `null` for what is missing.
    pub struct JoinedMembersRequest(joined_members::v3::Request) => JoinedMembers;
}

/// The joined members with their profiles.
#[derive(Serialize)]
pub struct JoinedMembers {
    joined: BTreeMap<OwnedUserId, Profile>,
}

/// A member's profile; clients expect both keys to be there.
#[derive(Serialize)]
struct Profile {
    display_name: Option<String>,
    avatar_url: Option<String>,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/joined_members`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidjoined_members))
pub async fn get_joined_members_by_room(
    server: &Server,
    user: User,
    JoinedMembersRequest(req): JoinedMembersRequest,
) -> Result<Json<JoinedMembers>> {
    all_members(server, &user, &req.room_id).await?;
    let snapshot = server.store.read();
    let (no, _): (_, Room) = match rooms::require(&snapshot, &req.room_id) {
        Ok(room) if members::is_joined(&snapshot, room.0, &user.id)? => room,
        _ => return Err(Error::forbidden("You are not in this room.")),
    };
    let joined = members::joined(&snapshot, no).map(|row| {
        row.map(|(user, member)| (user, Profile { display_name: member.displayname, avatar_url: member.avatar_url }))
    });
    Ok(Json(JoinedMembers { joined: joined.collect::<Result<_>>()? }))
}
