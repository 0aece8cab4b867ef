//! [Setting state](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey).

use std::collections::BTreeSet;

use futures_util::future::join_all;
use ruma::{
    OwnedEventId, OwnedRoomAliasId, OwnedUserId, RoomAliasId, RoomId, UserId,
    api::{client::state::send_state_event::v3::Request, error::ErrorKind},
    canonical_json::try_from_json_map,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{
    delayed_events::{Sent, Timed, schedule},
    room_send::check_encryption,
};
use crate::{
    api::{auth::User, own::Json},
    error::{Error, Result},
    federation::{directory, invite, missing_members, policy},
    ids::RoomNo,
    outgoing::appservices,
    rooms::{
        self, Event, Room, blocks,
        build::Draft,
        members,
        membership::{self, Content},
        power_levels, server_notices, state,
        sticky::Sticky,
    },
    server::Server,
    store::{Read, Tx},
    users::invite_permissions,
};

/// How many aliases an `m.room.canonical_alias` event can add.
const NEW_ALIASES: usize = 20;

/// `PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey))
pub async fn set_room_state_with_key(
    server: &Server,
    user: User,
    Timed { request: req, delay }: Timed<Request>,
) -> Result<Json<Sent>> {
    check_encryption(server, &req.event_type.to_string())?;
    let mut draft = Draft::raw_state(req.event_type, req.state_key, req.body.into_json());
    draft.sticky = req.sticky_duration_ms.map(Sticky::from);
    draft.timestamp = req.timestamp.filter(|_| user.appservice.is_some());
    Ok(Json(match delay {
        Some(delay) => Sent::Later { delay_id: schedule(server, &user, &req.room_id, draft, delay, None)? },
        None => Sent::Now { event_id: set(server, &user.id, &req.room_id, draft, |_, _| Ok(())).await? },
    }))
}

/// Sets state of a room as `draft` says; gives the event that has set it, which may have been there. `also` is written with
/// a new one, but not with the invitation of a user of another server, which is there when that server has signed it.
///
/// # Errors
/// Those of sending an event; 400 `M_BAD_JSON`, `M_BAD_ALIAS`, `M_INVALID_PARAM` for what the state's type forbids; what
/// `also` returns.
pub(super) async fn set(
    server: &Server,
    user: &UserId,
    room: &RoomId,
    mut draft: Draft,
    also: impl FnOnce(&mut Tx<'_>, &Event) -> Result<()>,
) -> Result<OwnedEventId> {
    let kind = StateEventType::from(draft.kind.to_string());
    let key = draft.state_key.clone().unwrap_or_default();
    let mut content: Content = serde_json::from_str(draft.content.get())
        .map_err(|_| Error::bad_json("The content of an event must be a JSON object."))?;
    match &kind {
        StateEventType::RoomCanonicalAlias if key.is_empty() => check_aliases(server, room, &content).await?,
        StateEventType::RoomMember => find_out_about(server, room, &key, &content).await?,
        _ => {}
    }
    let guard = server.rooms.lock(room).await;
    {
        let snapshot = server.store.read();
        let (no, room) = match rooms::require(&snapshot, room) {
            Err(error) if error.is_not_found() => return Err(Error::forbidden("You are not in this room.")),
            found => found?,
        };
        if is_own_join(&kind, &key, user, &content) {
            membership::set_authoriser(&snapshot, no, &room, user, &mut content)?;
            draft.content = to_raw_value(&content)?;
        }
        if let Some(event) = state::get(&snapshot, no, &kind, &key)?
            && event.pdu.sender == *user
            && is_equal(&event.pdu.content, &content)
        {
            // Who may no longer set it is to hear that, though nothing would change.
            server.rooms.prepare(&guard, user, draft)?;
            return Ok(event.pdu.event_id.clone());
        }
        Change { no, room: &room, user, key: &key, content: &content }.check(&snapshot, &kind)?;
    }
    if let Some(target) = invited(&kind, &key, &content).filter(|target| target.server_name() != server.name()) {
        drop(guard); // that server is asked without it
        return invite::send(&server.federation, room, user, &target, draft).await;
    }
    let event = policy::send_and(&server.federation, &guard, user, draft, also).await?;
    Ok(event.pdu.event_id)
}

/// Aliases that are new in an `m.room.canonical_alias` event must exist and point to this room; those of other servers are
/// looked up there.
async fn check_aliases(server: &Server, room: &RoomId, content: &Content) -> Result<()> {
    let old: Option<Content> = {
        let read = server.store.read();
        let no = rooms::find(&read, room)?;
        no.map(|no| state::content(&read, no, &StateEventType::RoomCanonicalAlias, "")).transpose()?.flatten()
    };
    let old = old.and_then(|old| listed_aliases(&old).ok()).unwrap_or_default();
    let bad = |message| Error::bad_request(ErrorKind::BadAlias, message);
    let new: BTreeSet<_> = listed_aliases(content)?.into_iter().filter(|alias| !old.contains(alias)).collect();
    if new.len() > NEW_ALIASES {
        return Err(bad(format!("At most {NEW_ALIASES} aliases can be added at once.")));
    }
    let found = join_all(new.iter().map(|alias| directory::locate(&server.federation, alias))).await;
    for (alias, found) in new.iter().zip(found) {
        match found {
            Ok(located) if located.room_id == *room => {}
            Ok(_) => return Err(bad(format!("{alias} points to another room."))),
            Err(error) if error.is_not_found() => return Err(bad(format!("There is no alias {alias}."))),
            Err(error) => return Err(bad(format!("Where {alias} points to cannot be found out: {error}."))),
        }
    }
    Ok(())
}

/// Asks others who may know more of the one whom a member event is about.
async fn find_out_about(server: &Server, room: &RoomId, key: &str, content: &Content) -> Result<()> {
    let Ok(target) = UserId::parse(key) else { return Ok(()) };
    let federation = &server.federation;
    if membership_in(content) == Some(MembershipState::Invite) {
        appservices::query_user_id(&federation.outgoing, &server.appservices, &server.store, &target).await?;
    }
    missing_members::known(federation, room, &target).await
}

/// The membership that the content of a member event names.
fn membership_in(content: &Content) -> Option<MembershipState> {
    content.get("membership").and_then(Value::as_str).map(MembershipState::from)
}

fn is_own_join(kind: &StateEventType, key: &str, user: &UserId, content: &Content) -> bool {
    *kind == StateEventType::RoomMember && user == key && membership_in(content) == Some(MembershipState::Join)
}

/// Whom a state event invites.
fn invited(kind: &StateEventType, key: &str, content: &Content) -> Option<OwnedUserId> {
    let invites = *kind == StateEventType::RoomMember && membership_in(content) == Some(MembershipState::Invite);
    UserId::parse(key).ok().filter(|_| invites)
}

/// Whether the content is the same; the order of keys does not matter.
fn is_equal(old: &RawValue, new: &Content) -> bool {
    let canonical = |content: Content| try_from_json_map(content).ok();
    serde_json::from_str(old.get()).is_ok_and(|old| canonical(old) == canonical(new.clone()))
}

/// A state event that a client wants to send.
struct Change<'a> {
    no: RoomNo,
    room: &'a Room,
    user: &'a UserId,
    key: &'a str,
    content: &'a Content,
}

impl Change<'_> {
    /// What the authorization rules do not check, or would refuse with a less fitting error.
    fn check(&self, read: &dyn Read, kind: &StateEventType) -> Result<()> {
        match kind {
            StateEventType::RoomCreate => {
                Err(Error::bad_request(ErrorKind::BadJson, "The create event of a room cannot be replaced."))
            }
            StateEventType::RoomPowerLevels if self.key.is_empty() => self.check_power_levels(read),
            StateEventType::RoomMember => self.check_member(read),
            _ => Ok(()),
        }
    }

    /// Where creators stand above all levels, they must not be listed: 400 rather than the rules' 403.
    fn check_power_levels(&self, read: &dyn Read) -> Result<()> {
        let privileges =
            |rules: ruma::room_version_rules::RoomVersionRules| rules.authorization.explicitly_privilege_room_creators;
        let Some(Value::Object(users)) = self.content.get("users") else { return Ok(()) };
        if !self.room.version.rules().is_some_and(privileges) {
            return Ok(());
        }
        let creators: Vec<OwnedUserId> = power_levels::creators(read, self.room)?;
        if let Some(creator) = creators.iter().find(|creator| users.contains_key(creator.as_str())) {
            let message = format!("{creator} is a creator of this room, whose power is not set by power levels.");
            return Err(Error::bad_json(message));
        }
        Ok(())
    }

    fn check_member(&self, read: &dyn Read) -> Result<()> {
        let target = UserId::parse(self.key)
            .map_err(|_| Error::invalid_param("The state key of a member event must be a user ID."))?;
        match membership_in(self.content) {
            Some(MembershipState::Invite) => {
                blocks::check(read, &self.room.id)?;
                invite_permissions::check(read, &target, self.user)
            }
            Some(MembershipState::Join | MembershipState::Knock) if !members::is_joined(read, self.no, &target)? => {
                blocks::check(read, &self.room.id)
            }
            Some(MembershipState::Leave) if target == self.user => {
                server_notices::check_leave(read, self.user, &self.room.id)
            }
            _ => Ok(()),
        }
    }
}

/// The aliases in the content of an `m.room.canonical_alias` event.
fn listed_aliases(content: &Content) -> Result<Vec<OwnedRoomAliasId>> {
    let invalid = || Error::invalid_param("alias must be a room alias, alt_aliases a list of them.");
    let parse = |alias: &Value| alias.as_str().and_then(|alias| RoomAliasId::parse(alias).ok()).ok_or_else(invalid);
    let canonical = content.get("alias").filter(|alias| !alias.is_null() && *alias != "");
    let others = match content.get("alt_aliases") {
        None | Some(Value::Null) => &[][..],
        Some(Value::Array(aliases)) => aliases,
        Some(_) => return Err(invalid()),
    };
    canonical.into_iter().chain(others).map(parse).collect()
}
