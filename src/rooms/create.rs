//! Making a room: all its first events, in the order of the specification, in one transaction
//! ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3createroom)).
//!
//! The authorization rules check each event against the ones before it, so a room that they would not allow is not made
//! at all.

use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId,
    api::{client::room::create_room::v3::RoomPreset, error::ErrorKind},
    events::{StateEventType, room::member::MembershipState},
};
use serde::{Deserialize, Serialize};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    Rooms, aliases, append,
    build::{self, Draft},
    directory,
    event::Event,
    membership::{self, Content},
};
use crate::{
    error::{Error, Reason, Result},
    ids::RoomNo,
    store::Tx,
};

/// How many users can be invited into a new room, and how much state set in it; each costs an event while everyone else
/// waits to write.
pub const MAX_INVITES: usize = 1_000;
/// See [`MAX_INVITES`].
pub const MAX_STATE: usize = 1_000;

/// A room to be made.
pub struct Creation {
    /// Who makes it.
    pub creator: OwnedUserId,
    /// Its version.
    pub version: RoomVersionId,
    /// What its create event holds beyond creator and version.
    pub content: Content,
    /// Which defaults it starts with.
    pub preset: RoomPreset,
    /// Whether it is listed in the room directory.
    pub published: bool,
    /// Its alias.
    pub alias: Option<OwnedRoomAliasId>,
    /// Its name.
    pub name: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// State to set.
    pub initial_state: Vec<InitialState>,
    /// Fields of the power levels that differ from the defaults.
    pub power_levels: Content,
    /// Whom to invite; users of other servers are invited by the caller, once the room is there.
    pub invites: Vec<OwnedUserId>,
    /// Whether the invitations are for direct chats.
    pub is_direct: bool,
}

/// A state event to set in a new room.
#[derive(Deserialize)]
pub struct InitialState {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    state_key: String,
    content: Content,
}

/// Sends the first events of a room, or the last ones of an old one, in a running transaction.
pub(super) struct Author<'a> {
    pub rooms: &'a Rooms,
    pub room: RoomNo,
    pub sender: &'a UserId,
}

impl Author<'_> {
    /// Appends an event.
    pub fn send(&self, tx: &mut Tx<'_>, draft: Draft) -> Result<Event> {
        let authorized = build::prepare(self.rooms, tx, self.room, self.sender, draft)?;
        append::append(tx, self.rooms, authorized)
    }

    /// Appends a state event with an empty state key.
    pub fn set(&self, tx: &mut Tx<'_>, kind: StateEventType, content: impl Serialize) -> Result<Event> {
        self.send(tx, Draft::state(kind, "", &content)?)
    }
}

/// Makes the room; gives its ID.
///
/// # Errors
/// 400 `M_ROOM_IN_USE` when the alias is taken, `M_UNSUPPORTED_ROOM_VERSION`, `M_INVALID_ROOM_STATE` when the rules of the
/// version refuse what is asked for, or it is not for initial state to say; 403 `M_INVITE_BLOCKED` when somebody accepts no
/// invitations.
pub fn create(tx: &mut Tx<'_>, rooms: &Rooms, creation: &Creation) -> Result<OwnedRoomId> {
    creation.check_state()?;
    let alias = creation.alias.as_deref();
    if let Some(alias) = alias
        && aliases::get(tx, alias)?.is_some()
    {
        return Err(Error::bad_request(ErrorKind::RoomInUse, format!("The alias {alias} is taken.")));
    }
    let (room, create) = build::create(rooms, tx, &creation.version, &creation.creator, &creation.create_content()?)?;
    let author = Author { rooms, room, sender: &creation.creator };
    if let Some(alias) = alias {
        aliases::set(tx, alias, room, &creation.creator)?;
    }
    creation.send_state(tx, &author).map_err(invalid_state)?;
    creation.send_invites(tx, &author).map_err(invalid_state)?;
    if creation.published {
        directory::set_published(tx, room, true);
    }
    Ok(create.pdu.room_id)
}

/// What the authorization rules forbid in a room of one's own is a wrong wish, not a lack of rights.
fn invalid_state(error: Error) -> Error {
    match error.reason() {
        Reason::Matrix { kind: ErrorKind::Forbidden, message, .. } => {
            Error::bad_request(ErrorKind::InvalidRoomState, format!("The room cannot be made like this. {message}"))
        }
        _ => error,
    }
}

impl Creation {
    fn privileges_creators(&self) -> bool {
        self.version.rules().is_some_and(|rules| rules.authorization.explicitly_privilege_room_creators)
    }

    /// The content of the create event: in versions whose creators stand above all, those invited into a trusted chat
    /// are creators too.
    fn create_content(&self) -> Result<Box<RawValue>> {
        let mut content = self.content.clone();
        let has_additional = self.version.rules().is_some_and(|rules| rules.authorization.additional_room_creators);
        if !has_additional {
            return Ok(to_raw_value(&content)?);
        }
        let mut creators: Vec<OwnedUserId> = match content.remove("additional_creators") {
            None => Vec::new(),
            Some(creators) => serde_json::from_value(creators)
                .map_err(|_| Error::bad_json("additional_creators must be a list of user IDs."))?,
        };
        if self.preset == RoomPreset::TrustedPrivateChat {
            creators.extend(self.invites.iter().cloned());
        }
        let mut seen = std::collections::HashSet::new();
        creators.retain(|creator| *creator != self.creator && seen.insert(creator.clone()));
        if !creators.is_empty() {
            content.insert("additional_creators".to_owned(), json!(creators));
        }
        Ok(to_raw_value(&content)?)
    }

    /// The room is made by its create event, and people come into it by invitations, which they may refuse.
    fn check_state(&self) -> Result<()> {
        let refused = ["m.room.create", "m.room.member"];
        match self.initial_state.iter().find(|state| refused.contains(&&*state.kind)) {
            Some(state) => {
                let message = format!("initial_state cannot have {} events.", state.kind);
                Err(Error::bad_request(ErrorKind::InvalidRoomState, message))
            }
            None => Ok(()),
        }
    }

    /// The member, power levels, alias, preset, initial state, name and topic, in this order.
    fn send_state(&self, tx: &mut Tx<'_>, author: &Author<'_>) -> Result<()> {
        let join = membership::with_profile(tx, &self.creator, &MembershipState::Join)?;
        author.send(tx, membership::draft(&self.creator, join)?)?;
        author.set(tx, StateEventType::RoomPowerLevels, self.power_levels())?;
        if let Some(alias) = &self.alias {
            author.set(tx, StateEventType::RoomCanonicalAlias, json!({ "alias": alias }))?;
        }
        for (kind, content) in self.preset_state() {
            if !self.initial_state.iter().any(|state| state.is(&kind)) {
                author.set(tx, kind, content)?;
            }
        }
        for state in &self.initial_state {
            let kind = StateEventType::from(&*state.kind);
            let overridden = match &kind {
                StateEventType::RoomPowerLevels => true, // went into the first ones
                StateEventType::RoomName => self.name.is_some(),
                StateEventType::RoomTopic => self.topic.is_some(),
                _ => false,
            };
            if !(overridden && state.state_key.is_empty()) {
                author.send(tx, Draft::state(kind, &*state.state_key, &state.content)?)?;
            }
        }
        if let Some(name) = &self.name {
            author.set(tx, StateEventType::RoomName, json!({ "name": name }))?;
        }
        if let Some(topic) = &self.topic {
            let content = json!({ "topic": topic, "m.topic": { "m.text": [{ "body": topic }] } });
            author.set(tx, StateEventType::RoomTopic, content)?;
        }
        Ok(())
    }

    /// Invites the users of this server; those of others must be asked there first.
    fn send_invites(&self, tx: &mut Tx<'_>, author: &Author<'_>) -> Result<()> {
        let mut seen = std::collections::HashSet::from([&self.creator]);
        let local = self.invites.iter().filter(|user| user.server_name() == author.rooms.server_name);
        for user in local.filter(|user| seen.insert(user)) {
            let draft = membership::invitation(tx, &self.creator, user, None, self.is_direct)?;
            author.send(tx, draft)?;
        }
        Ok(())
    }

    /// The first power levels: the defaults or those of `initial_state`, with the fields that the client overrides.
    fn power_levels(&self) -> Content {
        let given = self.initial_state.iter().find(|state| state.is(&StateEventType::RoomPowerLevels));
        let mut content = match given {
            Some(given) => given.content.clone(),
            None => self.default_power_levels(),
        };
        content.extend(self.power_levels.clone());
        content
    }

    fn default_power_levels(&self) -> Content {
        let mut users = serde_json::Map::new();
        // Creators who stand above all power levels must not be listed, and the tombstone is to be theirs alone.
        let tombstone = if self.privileges_creators() { 150 } else { 100 };
        if !self.privileges_creators() {
            users.insert(self.creator.to_string(), json!(100));
            if self.preset == RoomPreset::TrustedPrivateChat {
                users.extend(self.invites.iter().map(|user| (user.to_string(), json!(100))));
            }
        }
        let invite = if self.preset == RoomPreset::PublicChat { 50 } else { 0 };
        let content = json!({
            "users": users,
            "users_default": 0,
            "events": {
                "m.room.name": 50,
                "m.room.avatar": 50,
                "m.room.canonical_alias": 50,
                "m.room.power_levels": 100,
                "m.room.history_visibility": 100,
                "m.room.encryption": 100,
                "m.room.server_acl": 100,
                "m.room.tombstone": tombstone,
            },
            "events_default": 0,
            "state_default": 50,
            "invite": invite,
            "kick": 50,
            "ban": 50,
            "redact": 50,
            "notifications": { "room": 50 },
        });
        match content {
            Value::Object(content) => content,
            _ => Content::new(),
        }
    }

    /// Guest access is set only to allow it: a room without it lets no guests in.
    fn preset_state(&self) -> Vec<(StateEventType, Value)> {
        let is_public = self.preset == RoomPreset::PublicChat;
        let join_rule = if is_public { "public" } else { "invite" };
        let mut state = vec![
            (StateEventType::RoomJoinRules, json!({ "join_rule": join_rule })),
            (StateEventType::RoomHistoryVisibility, json!({ "history_visibility": "shared" })),
        ];
        if !is_public {
            state.push((StateEventType::RoomGuestAccess, json!({ "guest_access": "can_join" })));
        }
        state
    }
}

impl InitialState {
    /// Whether it is the room's one event of type `kind`.
    fn is(&self, kind: &StateEventType) -> bool {
        self.state_key.is_empty() && StateEventType::from(&*self.kind) == *kind
    }
}
