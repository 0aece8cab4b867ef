//! The rooms of a user as sliding sync lists them.
//!
//! The server's list (MSC4186, "Lists") has the rooms that the user is joined to, invited to or knocked on, those they
//! were kicked or banned from, and, until the client was told, those they left. A room's place is by its latest change,
//! so whatever happens in a room brings it into a window at the top.
//!
//! [`RoomList`] is kept with the connection and brought up to date from the logs of changes, so that a request costs what
//! changed and not what rooms there are. It holds nothing that the database does not say.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use ruma::events::{StateEventType, room::member::MembershipState};

use super::{connections::KnownAs, request::Filters};
use crate::{
    error::Result,
    ids::{Position, RoomNo},
    rooms::{self, event, members, state, timeline},
    store::records::UserRoom,
    sync::{View, parts},
    users::account_data,
};

/// A user's rooms with what lists need to know of them.
#[derive(Default)]
pub struct RoomList {
    rooms: HashMap<RoomNo, Facts>,
    /// What it shows; `None` before it was loaded.
    upto: Option<Position>,
}

/// What lists need to know of a room. Fields in options are found out when first asked for.
#[derive(Clone, Debug)]
pub struct Facts {
    /// As what the user is to know it.
    pub membership: KnownAs,
    /// Whether it is in lists though the user is not in it: kicked or banned.
    removed: bool,
    /// When something in it last changed for this user.
    pub changed: Position,
    /// Its place in lists.
    place: Position,
    encrypted: Option<bool>,
    kind: Option<Option<String>>,
    tags: Option<Vec<String>>,
    name: Option<String>,
}

/// What the filters of one request look at beyond single rooms.
pub struct Filtering {
    /// The rooms that `m.direct` names.
    direct: HashSet<RoomNo>,
}

impl Filtering {
    /// What `m.direct` says.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub fn new(view: &View<'_>) -> Result<Self> {
        let mut direct = HashSet::new();
        for room in parts::direct_rooms(view)? {
            direct.extend(rooms::find(view.read, &room)?);
        }
        Ok(Self { direct })
    }

    /// Whether a room is a direct chat.
    pub fn is_direct(&self, room: RoomNo) -> bool {
        self.direct.contains(&room)
    }
}

impl RoomList {
    /// Brings the list up to what `view` shows.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub fn update(&mut self, view: &View<'_>) -> Result<()> {
        match self.upto {
            None => self.load(view)?,
            Some(upto) if upto >= view.now => {}
            Some(upto) => {
                // Beyond this many changes in rooms, most of them other people's, looking at one's own is cheaper.
                let enough = 64 + 2 * self.rooms.len();
                let changed: Vec<_> = timeline::changed_since(view.read, upto).take(enough).collect::<Result<_>>()?;
                if changed.len() == enough {
                    self.load(view)?;
                } else {
                    for (position, room) in changed {
                        let own = members::user_room(view.read, view.user, room)?;
                        self.set(view, room, own, position)?;
                    }
                    for change in account_data::changes(view.read, view.user, upto)? {
                        if let Some(facts) = change.room.and_then(|room| self.rooms.get_mut(&room)) {
                            facts.changed = facts.changed.max(change.position);
                            facts.tags = None;
                        }
                    }
                }
            }
        }
        self.upto = Some(view.now);
        Ok(())
    }

    /// Looks at all of the user's rooms.
    fn load(&mut self, view: &View<'_>) -> Result<()> {
        let reload = self.upto.is_some();
        let mut gone: HashSet<RoomNo> = self.rooms.keys().copied().collect();
        for row in members::rooms_of(view.read, view.user) {
            let (room, own) = row?;
            gone.remove(&room);
            let place = timeline::last_change(view.read, room)?.unwrap_or(own.position);
            self.set(view, room, Some(own), place)?;
            if let Some(facts) = self.rooms.get_mut(&room).filter(|_| reload) {
                // Account data may have changed as well: every room is to be looked at.
                facts.changed = view.now;
                facts.tags = None;
            }
        }
        for room in gone {
            self.rooms.remove(&room);
        }
        Ok(())
    }

    /// The room changed at `changed`; `own` is what the user has to do with it now.
    fn set(&mut self, view: &View<'_>, room: RoomNo, own: Option<UserRoom>, changed: Position) -> Result<()> {
        // A client that knows a room is to be told that the user left it, although they forgot it right after that.
        let Some(own) = own.filter(|own| !own.forgotten || self.rooms.contains_key(&room)) else {
            self.rooms.remove(&room);
            return Ok(());
        };
        let membership = match own.membership {
            MembershipState::Join => KnownAs::Joined,
            MembershipState::Invite | MembershipState::Knock => KnownAs::Invited,
            _ => KnownAs::Left,
        };
        if membership == KnownAs::Invited && parts::is_ignored_invite(view, &own)? {
            self.rooms.remove(&room);
            return Ok(());
        }
        // What happens while the user is not in the room is not theirs to see.
        let changed = if membership == KnownAs::Joined { changed.max(own.position) } else { own.position };
        match self.rooms.entry(room) {
            Entry::Occupied(mut known) if known.get().membership == membership => {
                let known = known.get_mut();
                // Creation and encryption stay; the name may change.
                known.name = None;
                known.encrypted = known.encrypted.filter(|encrypted| *encrypted);
                (known.changed, known.place) = (changed, changed);
                if membership == KnownAs::Left {
                    known.removed = !own.forgotten && is_removed(view, &own)?;
                }
            }
            entry => {
                let removed = membership == KnownAs::Left && !own.forgotten && is_removed(view, &own)?;
                entry.insert_entry(Facts {
                    membership,
                    removed,
                    changed,
                    place: changed,
                    encrypted: None,
                    kind: None,
                    tags: None,
                    name: None,
                });
            }
        }
        Ok(())
    }

    /// What is known of a room, if it is one of the user's.
    pub fn facts(&self, room: RoomNo) -> Option<&Facts> {
        self.rooms.get(&room)
    }

    /// The rooms that pass `filters`, with their places in lists. `shown_as` says as what the client knows a room.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub fn filtered(
        &mut self,
        view: &View<'_>,
        filters: &Filters,
        filtering: &Filtering,
        shown_as: impl Fn(RoomNo) -> Option<KnownAs>,
    ) -> Result<Vec<(Position, RoomNo)>> {
        let in_spaces = match &filters.spaces {
            Some(spaces) => Some(parts::children_of_spaces(view, spaces)?),
            None => None,
        };
        let mut passed = Vec::new();
        for (&room, facts) in &mut self.rooms {
            let listed = match facts.membership {
                KnownAs::Left => facts.removed || shown_as(room).is_some_and(|known| known != KnownAs::Left),
                _ => true,
            };
            if listed
                && in_spaces.as_ref().is_none_or(|children| children.contains(&room))
                && facts.pass(view, room, filters, filtering)?
            {
                passed.push((facts.place, room));
            }
        }
        Ok(passed)
    }

    /// About how many bytes the list takes.
    pub fn bytes(&self) -> usize {
        self.rooms.len() * (size_of::<(RoomNo, Facts)>() + 32)
    }
}

/// Whether someone else made the user leave: a kick or a ban of one who was in the room.
fn is_removed(view: &View<'_>, own: &UserRoom) -> Result<bool> {
    let Some(event) = event::get(view.read, own.event)? else { return Ok(false) };
    if event.pdu.sender == view.user {
        return Ok(false);
    }
    parts::was_joined_before(view, &event)
}

impl Facts {
    /// Whether someone else made the user leave.
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    fn pass(&mut self, view: &View<'_>, room: RoomNo, filters: &Filters, filtering: &Filtering) -> Result<bool> {
        if filters.is_invite.is_some_and(|wanted| wanted != (self.membership == KnownAs::Invited))
            || filters.is_dm.is_some_and(|wanted| wanted != filtering.is_direct(room))
        {
            return Ok(false);
        }
        if let Some(wanted) = filters.is_encrypted
            && self.is_encrypted(view, room)? != wanted
        {
            return Ok(false);
        }
        if filters.room_types.is_some() || filters.not_room_types.is_some() {
            let kind = self.kind(view, room)?;
            if filters.not_room_types.as_ref().is_some_and(|not| not.contains(kind))
                || filters.room_types.as_ref().is_some_and(|only| !only.contains(kind))
            {
                return Ok(false);
            }
        }
        if filters.tags.is_some() || filters.not_tags.is_some() {
            let tags = self.tags(view, room)?;
            let has_one = |wanted: &Vec<String>| wanted.iter().any(|wanted| tags.contains(wanted));
            if filters.not_tags.as_ref().is_some_and(has_one) || !filters.tags.as_ref().is_none_or(has_one) {
                return Ok(false);
            }
        }
        if let Some(part) = &filters.room_name_like {
            return Ok(self.name(view, room)?.to_lowercase().contains(&part.to_lowercase()));
        }
        Ok(true)
    }

    fn is_encrypted(&mut self, view: &View<'_>, room: RoomNo) -> Result<bool> {
        if let Some(known) = self.encrypted {
            return Ok(known);
        }
        let encrypted = match self.membership {
            KnownAs::Invited => parts::stripped_content(view, room, "m.room.encryption")?.is_some(),
            _ => state::event_no(view.read, room, &StateEventType::RoomEncryption, "")?.is_some(),
        };
        self.encrypted = Some(encrypted);
        Ok(encrypted)
    }

    fn kind(&mut self, view: &View<'_>, room: RoomNo) -> Result<&Option<String>> {
        let kind = match self.kind.take() {
            Some(kind) => kind,
            None if self.membership == KnownAs::Invited => parts::stripped_content(view, room, "m.room.create")?
                .and_then(|content| Some(content.get("type")?.as_str()?.to_owned())),
            None => parts::room_type(view, room)?,
        };
        Ok(self.kind.insert(kind))
    }

    fn tags(&mut self, view: &View<'_>, room: RoomNo) -> Result<&Vec<String>> {
        let tags = match self.tags.take() {
            Some(tags) => tags,
            None => parts::tags(view, room)?,
        };
        Ok(self.tags.insert(tags))
    }

    fn name(&mut self, view: &View<'_>, room: RoomNo) -> Result<&str> {
        let name = match self.name.take() {
            Some(name) => name,
            None => parts::room_name(view, room)?.unwrap_or_default(),
        };
        Ok(self.name.insert(name))
    }
}

/// The rooms at the wanted places of a list. Sorted only as far as needed.
pub fn windowed(mut rooms: Vec<(Position, RoomNo)>, ranges: Option<&[(u64, u64)]>) -> Vec<RoomNo> {
    let Some(ranges) = ranges else { return rooms.into_iter().map(|(_, room)| room).collect() };
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let covers_all = |&(from, to): &(u64, u64)| from == 0 && place(to).saturating_add(1) >= rooms.len();
    if ranges.iter().any(covers_all) {
        return rooms.into_iter().map(|(_, room)| room).collect();
    }
    // The latest first; of equals, the newer room.
    rooms.sort_unstable_by(|a, b| b.cmp(a));
    let wanted = |at: usize| ranges.iter().any(|&(from, to)| (place(from)..=place(to)).contains(&at));
    rooms.into_iter().enumerate().filter(|(at, _)| wanted(*at)).map(|(_, (_, room))| room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_include_their_ends() {
        let rooms: Vec<_> = (1..=5).map(|n| (Position(n), RoomNo(n))).collect();
        let numbers = |ranges: &[(u64, u64)]| {
            windowed(rooms.clone(), Some(ranges)).into_iter().map(|room| room.0).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&[(0, 1)]), [5, 4]);
        assert_eq!(numbers(&[(3, 9)]), [2, 1]);
        assert_eq!(numbers(&[(0, 0), (2, 2)]), [5, 3]);
        assert_eq!(numbers(&[(0, 4)]).len(), 5);
        assert!(numbers(&[]).is_empty());
        assert_eq!(windowed(rooms.clone(), None).len(), 5);
    }
}
