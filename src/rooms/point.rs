//! A point in a room's timeline: what clients hold as a pagination token.
//!
//! A point lies after the event with its order and before the next; since orders of live events are stream positions,
//! the position that a `/sync` answered up to is a point in every room. On the wire it is `t` and the order. Tokens of
//! `/sync` are understood as well, since `/messages`, `/relations` and `/members` take its `next_batch`.

use std::fmt;

use crate::{
    error::{Error, Result},
    ids::Position,
};

/// A place between two events of a timeline; see the module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Point(pub i64);

impl Point {
    /// The point just before the event with this order.
    pub fn before(order: i64) -> Self {
        Self(order.saturating_sub(1))
    }

    /// The point just after the event with this order.
    pub fn after(order: i64) -> Self {
        Self(order)
    }

    /// The point that a token names: a letter, the order and, in tokens of `/sync`, more after an underscore.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` when it is no token of ours.
    pub fn parse(token: &str) -> Result<Self> {
        let number = token.strip_prefix(|first: char| first.is_ascii_alphabetic()).unwrap_or(token);
        let number = number.split_once('_').map_or(number, |(number, _)| number);
        let order = number.parse().map_err(|_| Error::invalid_param("This is no pagination token of this server."))?;
        Ok(Self(order))
    }

    /// [`parse`](Self::parse) for optional parameters.
    ///
    /// # Errors
    /// As there.
    pub fn parse_optional(token: Option<&str>) -> Result<Option<Self>> {
        token.filter(|token| !token.is_empty()).map(Self::parse).transpose()
    }
}

impl From<Position> for Point {
    fn from(position: Position) -> Self {
        Self(i64::try_from(position.0).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}
