//! Push rules: which events notify whom, and how.
//!
//! - `rules.rs` keeps each user's ruleset and changes it as the API asks.
//! - `compile.rs` reduces a ruleset to what can matter in one room, in a form that is quick to match and equal for
//!   users whose rules do the same; `glob.rs` matches its patterns.
//!
//! Counting what notified is `rooms/notifications`. Deliberately absent: sending to push gateways.

pub mod compile;
pub mod glob;
pub mod rules;
