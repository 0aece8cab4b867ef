//! Tokens that stand for a user for a short while: `m.login.token`, which logs in once, and OpenID tokens, with which a
//! user proves to another service who they are.
//!
//! A token carries the time of its expiry, and rows are ordered by it: so expired ones are found without a look at the
//! others, and go when the next token is made.

use std::time::Duration;

use ruma::{OwnedUserId, UserId};

use super::tokens::{hash, in_ms};
use crate::{
    clock,
    error::Result,
    store::{Direction, Read, Tree, Tx},
};

/// Of these rows: by expiry and hash.
pub type TokenTree = Tree<(u64, String), OwnedUserId>;

/// How many expired rows are removed when a token is made.
const SWEEP: usize = 100;

/// Makes a token for `user` that is good for `ttl`.
///
/// # Errors
/// When the database or the source of randomness fails.
pub fn issue(tx: &mut Tx<'_>, tree: &TokenTree, user: &UserId, ttl: Duration) -> Result<String> {
    let expired: Vec<_> = tree
        .range(tx, (0_u64,), (clock::now_ms(),), Direction::Forward)
        .take(SWEEP)
        .map(|row| row.map(|(key, _)| key))
        .collect::<Result<_>>()?;
    for key in expired {
        tree.delete(tx, key);
    }
    let expires = in_ms(ttl);
    let token = format!("{expires:x}_{}", clock::random_string(32)?);
    tree.put(tx, (expires, hash(&token)), &user.to_owned());
    Ok(token)
}

/// Whom the token stands for, if it is one and has not expired.
///
/// # Errors
/// When the database fails.
pub fn user_of(read: &dyn Read, tree: &TokenTree, token: &str) -> Result<Option<OwnedUserId>> {
    key(token).map_or(Ok(None), |key| tree.get(read, key))
}

/// As [`user_of`], and the token is spent.
///
/// # Errors
/// When the database fails.
pub fn take(tx: &mut Tx<'_>, tree: &TokenTree, token: &str) -> Result<Option<OwnedUserId>> {
    let user = user_of(tx, tree, token)?;
    if let Some(key) = key(token) {
        tree.delete(tx, key);
    }
    Ok(user)
}

fn key(token: &str) -> Option<(u64, String)> {
    let expires = u64::from_str_radix(token.split_once('_')?.0, 16).ok()?;
    (expires > clock::now_ms()).then(|| (expires, hash(token)))
}

/// Removes the tokens of `user`.
///
/// # Errors
/// When the database fails.
pub fn delete_all(tx: &mut Tx<'_>, tree: &TokenTree, user: &UserId) -> Result<()> {
    let mut own = Vec::new();
    for row in tree.scan(tx, (), Direction::Forward) {
        let (key, owner) = row?;
        if owner == user {
            own.push(key);
        }
    }
    for key in own {
        tree.delete(tx, key);
    }
    Ok(())
}
