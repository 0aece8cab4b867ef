//! Where users' push rules are read and written: their account data, and with it the rosters of their rooms.

use ruma::{UserId, push::Ruleset};

use super::Rosters;
use crate::{
    error::Result,
    ids::RoomNo,
    push::rules,
    store::{Direction, Read, Tx, trees},
    users::account_data,
};

/// The user's push rules.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn ruleset(read: &dyn Read, user: &UserId) -> Result<Ruleset> {
    let content = account_data::get(read, user, None, rules::ACCOUNT_DATA)?;
    Ok(rules::parse(user, content.as_deref()))
}

/// Keeps the user's push rules, which hold for events from now on. The user's devices learn of them as of any account
/// data.
///
/// # Errors
/// 413 `M_TOO_LARGE`; else as [`ruleset`].
pub fn set_ruleset(tx: &mut Tx<'_>, rosters: &Rosters, user: &UserId, ruleset: &Ruleset) -> Result<()> {
    account_data::put(tx, user, None, rules::ACCOUNT_DATA, rules::to_account_data(ruleset)?)?;
    changed(tx, rosters, user)
}

/// Follows a change of the user's push rules, or of whom they ignore.
///
/// # Errors
/// As [`ruleset`].
pub fn changed(tx: &mut Tx<'_>, rosters: &Rosters, user: &UserId) -> Result<()> {
    let rooms: Vec<RoomNo> = trees::USER_ROOMS
        .scan(tx, (user,), Direction::Forward)
        .map(|row| row.map(|((_, room), _)| room))
        .collect::<Result<_>>()?;
    let rosters = rosters.clone();
    tx.on_commit(move || rosters.forget(&rooms));
    Ok(())
}
