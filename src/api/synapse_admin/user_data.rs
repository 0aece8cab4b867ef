//! What belongs to an account, and who has a name or an address
//! ([reference](https://element-hq.github.io/synapse/latest/admin_api/user_admin_api.html)).

use ruma::{
    OwnedUserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::{Map, json};

use super::{
    Nothing, Reply, ok, requests,
    users::{issuer, require},
};
use crate::{
    api::auth::Administrator,
    error::{Error, Result},
    ids::EventNo,
    rooms::{self, event, members, state},
    server::Server,
    store::{
        Direction, Read,
        trees::{PROVIDER_IDENTITIES, PUSHERS, SENT_INVITATIONS},
    },
    users::{account_data, accounts, devices, threepids},
};

requests! {
    /// `GET /_synapse/admin/v1/whois/{user_id}`
    WhoIs = GET "/_synapse/admin/v1/whois/{user_id}" ((OwnedUserId,), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/users/{user_id}/joined_rooms`
    JoinedRooms = GET "/_synapse/admin/v1/users/{user_id}/joined_rooms" ((OwnedUserId,), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/users/{user_id}/cumulative_joined_room_count`
    JoinedRoomCount = GET "/_synapse/admin/v1/users/{user_id}/cumulative_joined_room_count" ((OwnedUserId,), Since, Nothing);
    /// `GET /_synapse/admin/v1/users/{user_id}/sent_invite_count`
    SentInviteCount = GET "/_synapse/admin/v1/users/{user_id}/sent_invite_count" ((OwnedUserId,), Since, Nothing);
    /// `GET /_synapse/admin/v1/users/{user_id}/memberships`
    Memberships = GET "/_synapse/admin/v1/users/{user_id}/memberships" ((OwnedUserId,), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/users/{user_id}/accountdata`
    AllAccountData = GET "/_synapse/admin/v1/users/{user_id}/accountdata" ((OwnedUserId,), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/users/{user_id}/pushers`
    ListPushers = GET "/_synapse/admin/v1/users/{user_id}/pushers" ((OwnedUserId,), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/username_available`
    NameAvailable = GET "/_synapse/admin/v1/username_available" (Nothing, Username, Nothing);
    /// `GET /_synapse/admin/v1/threepid/{medium}/users/{address}`
    FindByThreepid = GET "/_synapse/admin/v1/threepid/{medium}/users/{address}" ((String, String), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/auth_providers/{provider}/users/{external_id}`
    FindByProvider = GET "/_synapse/admin/v1/auth_providers/{provider}/users/{external_id}" ((String, String), Nothing, Nothing);
}

/// A user name.
#[derive(Debug, Deserialize)]
pub struct Username {
    username: String,
}

/// From when on, in milliseconds since the Unix epoch.
#[derive(Debug, Deserialize)]
pub struct Since {
    from_ts: u64,
}

/// `GET /_synapse/admin/v1/whois/{user_id}`
pub async fn who_is(server: &Server, _: Administrator, req: WhoIs) -> Result<Reply> {
    let read = server.store.read();
    require(server, &read, &req.path.0)?;
    let mut sessions = Map::new();
    for row in devices::all(&read, &req.path.0) {
        let (id, device) = row?;
        let connection = json!({
            "ip": device.last_seen_ip,
            "last_seen": device.last_seen_ts,
            "user_agent": null,
        });
        sessions.insert(id.to_string(), json!({ "sessions": [{ "connections": [connection] }] }));
    }
    ok(json!({ "user_id": req.path.0, "devices": sessions }))
}

/// `GET /_synapse/admin/v1/users/{user_id}/joined_rooms`
pub async fn joined_rooms(server: &Server, _: Administrator, req: JoinedRooms) -> Result<Reply> {
    let read = server.store.read();
    let joined = members::joined_rooms(&read, &req.path.0)?;
    let ids = joined.into_iter().map(|no| rooms::get(&read, no).map(|room| room.id)).collect::<Result<Vec<_>>>()?;
    ok(json!({ "joined_rooms": ids, "total": ids.len() }))
}

/// `GET /_synapse/admin/v1/users/{user_id}/cumulative_joined_room_count`
pub async fn joined_room_count(server: &Server, _: Administrator, req: JoinedRoomCount) -> Result<Reply> {
    let read = server.store.read();
    require(server, &read, &req.path.0)?;
    let mut count = 0;
    for row in members::rooms_of(&read, &req.path.0) {
        count += usize::from(has_joined_since(&read, row?.1.event, req.query.from_ts)?);
    }
    ok(json!({ "cumulative_joined_room_count": count }))
}

/// Whether a join came at `from_ts` or later, among the membership event `latest` and those of the same user before it.
fn has_joined_since(read: &dyn Read, latest: EventNo, from_ts: u64) -> Result<bool> {
    let mut next = Some(latest);
    while let Some(no) = next {
        let Some(event) = event::get(read, no)?.filter(|event| event.received_ts >= from_ts) else { break };
        if event.pdu.membership() == Some(MembershipState::Join) {
            return Ok(true);
        }
        let user = event.pdu.state_key.as_deref().filter(|_| event.is_placed());
        next = match user {
            Some(user) => state::at_key(read, event.state_before, &StateEventType::RoomMember, user)?,
            None => None,
        };
    }
    Ok(false)
}

/// `GET /_synapse/admin/v1/users/{user_id}/sent_invite_count`
pub async fn sent_invite_count(server: &Server, _: Administrator, req: SentInviteCount) -> Result<Reply> {
    let (read, user) = (server.store.read(), &req.path.0);
    require(server, &read, user)?;
    let mut sent = SENT_INVITATIONS.range(&read, (user, req.query.from_ts), (user, u64::MAX), Direction::Forward);
    let count = sent.try_fold(0, |count, row| row.map(|_| count + 1))?;
    ok(json!({ "invite_count": count }))
}

/// `GET /_synapse/admin/v1/users/{user_id}/memberships`
pub async fn memberships(server: &Server, _: Administrator, req: Memberships) -> Result<Reply> {
    let read = server.store.read();
    let mut memberships = Map::new();
    for row in members::rooms_of(&read, &req.path.0) {
        let (no, own) = row?;
        memberships.insert(rooms::get(&read, no)?.id.to_string(), json!(own.membership));
    }
    ok(json!({ "memberships": memberships }))
}

/// `GET /_synapse/admin/v1/users/{user_id}/accountdata`
pub async fn all_account_data(server: &Server, _: Administrator, req: AllAccountData) -> Result<Reply> {
    let read = server.store.read();
    require(server, &read, &req.path.0)?;
    let (mut global, mut of_rooms) = (Map::new(), Map::new());
    for change in account_data::everything(&read, &req.path.0)? {
        let content = serde_json::from_str(change.content.get())?;
        match change.room {
            None => drop(global.insert(change.kind, content)),
            Some(no) => {
                let room = of_rooms.entry(rooms::get(&read, no)?.id.to_string()).or_insert_with(|| json!({}));
                room[change.kind] = content;
            }
        }
    }
    ok(json!({ "account_data": { "global": global, "rooms": of_rooms } }))
}

/// `GET /_synapse/admin/v1/users/{user_id}/pushers`
pub async fn list_pushers(server: &Server, _: Administrator, req: ListPushers) -> Result<Reply> {
    let read = server.store.read();
    require(server, &read, &req.path.0)?;
    let pushers = PUSHERS.scan(&read, (&req.path.0,), Direction::Forward);
    let pushers = pushers.map(|row| row.map(|(_, row)| row.pusher)).collect::<Result<Vec<_>>>()?;
    ok(json!({ "pushers": pushers, "total": pushers.len() }))
}

/// `GET /_synapse/admin/v1/username_available`
pub async fn name_available(server: &Server, _: Administrator, req: NameAvailable) -> Result<Reply> {
    let user = accounts::parse_new(&server.config(), &server.appservices, &req.query.username)?;
    accounts::require_free(&server.store.read(), &user)?;
    ok(json!({ "available": true }))
}

/// `GET /_synapse/admin/v1/threepid/{medium}/users/{address}`
pub async fn find_by_threepid(server: &Server, _: Administrator, req: FindByThreepid) -> Result<Reply> {
    let (medium, address) = req.path;
    let address = threepids::parse(&medium, &address)?;
    match threepids::find(&server.store.read(), &medium, &address)? {
        Some((user, _)) => ok(json!({ "user_id": user })),
        None => Err(Error::not_found("Nobody here has this address.")),
    }
}

/// `GET /_synapse/admin/v1/auth_providers/{provider}/users/{external_id}`
pub async fn find_by_provider(server: &Server, _: Administrator, req: FindByProvider) -> Result<Reply> {
    let (provider, external_id) = req.path;
    match PROVIDER_IDENTITIES.get(&server.store.read(), (&issuer(server, &provider), &external_id))? {
        Some(user) => ok(json!({ "user_id": user })),
        None => Err(Error::not_found("The provider lets this person into no account here.")),
    }
}
