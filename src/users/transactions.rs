//! Transaction IDs: a client that repeats a request gets the first one's answer, and nothing happens twice
//! ([spec](https://spec.matrix.org/latest/client-server-api/#transaction-identifiers)).
//!
//! The scope of an ID is the device and the operation with its path. Rows live for a day, which is longer than any
//! client keeps repeating; the oldest go as new ones come, so there is nothing to sweep. The row is written in the same
//! transaction as what the request changed, and read under the same lock, so of two equal requests at once one waits
//! and finds the other's row.

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, TransactionId, UserId};

use crate::{
    clock,
    error::Result,
    store::{Direction, Read, Tx, records::Transaction, trees},
};

/// The key of a transaction: user, device, operation with its path, and the ID.
pub type TransactionKey = (OwnedUserId, OwnedDeviceId, String, String);

/// How long an answer is kept.
const KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// Old rows are removed with one of so many new ones, and at most so many at once.
const SWEEP_EVERY: u64 = 64;
const SWEEP_AT_MOST: usize = 256;

/// The answer to the first request with this ID for this operation from this device, if there was one.
///
/// # Errors
/// When the store fails.
pub fn answer(
    read: &dyn Read,
    user: &UserId,
    device: &DeviceId,
    operation: &str,
    id: &TransactionId,
) -> Result<Option<String>> {
    let row = trees::TRANSACTIONS.get(read, (user, device, operation, id.as_str()))?;
    Ok(row.map(|row| row.answer))
}

/// Remembers what the request was answered with.
///
/// # Errors
/// When the store fails.
pub fn remember(
    tx: &mut Tx<'_>,
    user: &UserId,
    device: &DeviceId,
    operation: &str,
    id: &TransactionId,
    answer: &str,
) -> Result<()> {
    let at = clock::now_ms();
    let key = (user, device, operation, id.as_str());
    trees::TRANSACTIONS.put(tx, key, &Transaction { answer: answer.to_owned(), at });
    trees::TRANSACTION_TIMES.put(tx, (at, key), &());
    // By the clock, so that no counter need be kept.
    if at.is_multiple_of(SWEEP_EVERY) { sweep(tx, at.saturating_sub(KEPT_MS)) } else { Ok(()) }
}

/// Removes some of the rows from before `until`.
fn sweep(tx: &mut Tx<'_>, until: u64) -> Result<()> {
    let old: Vec<(u64, TransactionKey)> = trees::TRANSACTION_TIMES
        .range(&*tx, (0_u64,), (until,), Direction::Forward)
        .take(SWEEP_AT_MOST)
        .map(|row| row.map(|(key, ())| key))
        .collect::<Result<_>>()?;
    for (at, key) in old {
        trees::TRANSACTION_TIMES.delete(tx, (at, &key));
        trees::TRANSACTIONS.delete(tx, &key);
    }
    Ok(())
}
