//! The records that trees hold, one per entity, by the part of the domain that keeps them.
//!
//! Fields are named in the stored JSON: a new field takes `#[serde(default)]`; any other change of shape takes a new
//! version (`record!`). Rules about records live in the domain modules, not here.

mod accounts;
mod appservices;
mod delayed_events;
mod delivery;
mod directory;
mod keys;
mod media;
mod moderation;
mod push;
mod pushes;
mod rooms;
mod server_keys;
mod signing_keys;
mod transactions;

pub use self::{
    accounts::*, appservices::*, delayed_events::*, delivery::*, directory::*, keys::*, media::*, moderation::*,
    push::*, pushes::*, rooms::*, server_keys::*, signing_keys::*, transactions::*,
};
