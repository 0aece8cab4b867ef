//! The end of an account of this server, whoever wants it: the user or an administrator.
//!
//! The account ends in one transaction (`users/accounts.rs`), which queues what takes longer: the user leaves the first
//! rooms at once and the others in the background (`chores.rs`). Identity servers are asked once to forget the user's
//! addresses; what they do about it is theirs.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use ruma::UserId;

use super::{Federation, chores, identity};
use crate::{
    error::{Error, Result},
    store::records::Binding,
    users::accounts,
};

/// How long identity servers may take.
const LONGEST: Duration = Duration::from_secs(30);

/// How far it is when the account has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whether the user has left all rooms.
    pub left_all: bool,
    /// Whether no identity server knows an address as the user's any more, as far as this server had told one.
    pub unbound_all: bool,
}

/// Deactivates an account. `erase` notes that the user wants to be forgotten.
///
/// # Errors
/// 404 `M_NOT_FOUND`; when the database fails.
pub async fn deactivate(federation: &Arc<Federation>, user: &UserId, erase: bool) -> Result<Ended> {
    let bindings = federation.rooms.store.write(|tx| {
        let bindings = accounts::require(tx, user)?.bindings;
        accounts::deactivate(tx, user, erase)?;
        Ok(bindings)
    })?;
    let (federation, user) = (federation.clone(), user.to_owned());
    // To its end, also when the client goes away.
    tokio::spawn(async move { follow(&federation, &user, bindings).await }).await.map_err(Error::internal)?
}

/// Does what follows from the end of an account.
async fn follow(federation: &Federation, user: &UserId, bindings: Vec<Binding>) -> Result<Ended> {
    let rooms = &federation.rooms;
    rooms.deletions.notify_one();
    let left_all = chores::leave_all(federation, user, chores::AT_ONCE).await?;
    if !left_all {
        rooms.chores.notify_one();
    }
    let unbind = async move |binding: Binding| identity::unbind(federation, user, &binding).await;
    // Side by side: one that cannot be reached does not keep the others from being asked.
    let unbound =
        async { join_all(bindings.into_iter().map(unbind)).await.iter().all(|done| matches!(done, Ok(true))) };
    let unbound_all = tokio::time::timeout(LONGEST, unbound).await.unwrap_or(false);
    Ok(Ended { left_all, unbound_all })
}
