//! With whom a user shares rooms.

use std::collections::{HashMap, HashSet};

use ruma::{OwnedUserId, UserId};

use crate::{error::Result, ids::RoomNo, rooms::members, store::Read};

/// Answers whether a user shares a room with others, for many others.
pub struct Company<'a> {
    read: &'a dyn Read,
    user: &'a UserId,
    rooms: Option<Vec<RoomNo>>,
    known: HashMap<OwnedUserId, bool>,
    everyone: Option<HashSet<OwnedUserId>>,
}

impl<'a> Company<'a> {
    /// How many users are looked up room by room before all members of all rooms are read at once.
    const FEW: usize = 16;

    /// For `user`, who belongs to this server.
    pub fn new(read: &'a dyn Read, user: &'a UserId) -> Self {
        Self { read, user, rooms: None, known: HashMap::new(), everyone: None }
    }

    /// Whether both are joined to some room. Users share with themselves.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub fn has(&mut self, other: &UserId) -> Result<bool> {
        if other == self.user {
            return Ok(true);
        }
        if let Some(everyone) = &self.everyone {
            return Ok(everyone.contains(other));
        }
        if let Some(known) = self.known.get(other) {
            return Ok(*known);
        }
        let rooms = match self.rooms.take() {
            Some(rooms) => rooms,
            None => members::joined_rooms(self.read, self.user)?,
        };
        let rooms = &*self.rooms.insert(rooms);
        if self.known.len() >= Self::FEW {
            let mut everyone = HashSet::new();
            for &room in rooms {
                for row in members::joined(self.read, room) {
                    everyone.insert(row?.0);
                }
            }
            return Ok(self.everyone.insert(everyone).contains(other));
        }
        let mut shares = false;
        for &room in rooms {
            if members::is_joined(self.read, room, other)? {
                shares = true;
                break;
            }
        }
        self.known.insert(other.to_owned(), shares);
        Ok(shares)
    }
}
