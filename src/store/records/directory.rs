//! Names of rooms.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use crate::{ids::RoomNo, record};

/// A room alias of this server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Alias {
    /// The room it points to.
    pub room: RoomNo,
    /// Who made it: that user may delete it.
    pub creator: OwnedUserId,
}
record!(Alias, 1);
