//! Numbers that stand for long things inside the database, and positions in the stream.
//!
//! Rooms, events and state keys are interned once; rows then hold eight bytes instead of a string of up to 255. A
//! number is never reused, and never leaves the server (but for [`Position`], inside pagination tokens).

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A room that the server knows.
    RoomNo
}
number! {
    /// An event that the server has, or that an event it has refers to.
    EventNo
}
number! {
    /// A pair of event type and state key. Those of `m.room.member` have the highest bit set, so that they stand after all
    /// others: a room can have 10,000 of them, and most questions are about the others.
    StateKeyNo
}
number! {
    /// A complete room state: one entry of the delta chain in `rooms/deltas.rs`.
    StateNo
}
number! {
    /// A position in the server's one stream of changes; each change that a client can see has its own, and they only
    /// grow. Position 0 is before everything.
    Position
}

impl StateNo {
    /// Stands for a state that is not known: that around an event whose place in the graph is not known.
    pub const UNKNOWN: Self = Self(u64::MAX);
}

impl StateKeyNo {
    /// The least number of an `m.room.member` key.
    pub const MEMBERS: Self = Self(1 << 63);

    /// Whether it is an `m.room.member` key.
    pub fn is_member(self) -> bool {
        self >= Self::MEMBERS
    }
}
