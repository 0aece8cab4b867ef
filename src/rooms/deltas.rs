//! Complete room states as chains of differences.
//!
//! A state is a layer of entries over a parent state, down to the empty state 0. Making a state out of another by a few
//! changes writes one layer, and merges into it the layers beneath that are less than twice as long, as a
//! log-structured tree does. So lengths at least double on the way down: a chain over n changes has at most about
//! log2 n layers, each change is rewritten about log2 n times in all, and a room of 10,000 members costs rows per
//! change, not per member. Layers never change once written, so a state stays what it was.
//!
//! Removed keys are entries with event number 0; they are dropped where a layer lies on the empty state.
//!
//! A layer without entries is a *floor*: the place for what is not known yet beneath what is ([`floor`]). It is merged into
//! nothing, so that once it is filled, every state above is complete with that one row. This is the one case in which a
//! layer changes.

use std::collections::BTreeMap;

use crate::{
    error::{Error, Result},
    ids::{EventNo, StateKeyNo, StateNo},
    store::{Family, Read, Tx, records::StateLayer, trees},
};

/// The state of nothing set.
pub const EMPTY: StateNo = StateNo(0);

/// The event number that means "not set".
const UNSET: EventNo = EventNo(0);

fn corrupt(state: StateNo) -> Error {
    Error::corrupt(trees::STATES.name, state.0.to_be_bytes())
}

/// The layer of a state. Parents are older than their children; a row that says otherwise is damaged, and would lead in
/// circles.
fn layer(read: &dyn Read, state: StateNo) -> Result<StateLayer> {
    trees::STATES.get(read, state)?.filter(|layer| layer.parent < state).ok_or_else(|| corrupt(state))
}

/// The state that a state lies on.
///
/// # Errors
/// When the state is damaged or the database fails.
pub fn parent(read: &dyn Read, state: StateNo) -> Result<StateNo> {
    Ok(layer(read, state)?.parent)
}

/// The state that `changes` make of `base`; `None` unsets a key. No changes give `base` itself.
///
/// # Errors
/// When `base` is damaged or the database fails.
pub fn apply(tx: &mut Tx<'_>, base: StateNo, changes: &[(StateKeyNo, Option<EventNo>)]) -> Result<StateNo> {
    if changes.is_empty() {
        return Ok(base);
    }
    let mut entries: BTreeMap<_, _> = changes.iter().map(|&(key, event)| (key, event.unwrap_or(UNSET))).collect();
    let mut parent = base;
    while parent != EMPTY {
        let beneath = layer(tx, parent)?;
        if beneath.entries.is_empty() || beneath.entries.len() >= 2 * entries.len() {
            break;
        }
        for (key, event) in beneath.entries {
            entries.entry(key).or_insert(event);
        }
        parent = beneath.parent;
    }
    if parent == EMPTY {
        entries.retain(|_, event| *event != UNSET);
        if entries.is_empty() {
            return Ok(EMPTY);
        }
    }
    let state = StateNo(tx.next("state")?);
    trees::STATES.put(tx, state, &StateLayer { parent, entries: entries.into_iter().collect() });
    Ok(state)
}

/// A new state of which nothing is known. What is made of it by [`apply`] is known in part, until [`fill`].
///
/// # Errors
/// When the database fails.
pub fn floor(tx: &mut Tx<'_>) -> Result<StateNo> {
    let state = StateNo(tx.next("state")?);
    trees::STATES.put(tx, state, &StateLayer { parent: EMPTY, entries: Vec::new() });
    Ok(state)
}

/// Says what is set in a [`floor`], and so in all states above that do not say otherwise; at least one key.
///
/// # Errors
/// When it is none, or was filled before.
pub fn fill(tx: &mut Tx<'_>, floor: StateNo, entries: BTreeMap<StateKeyNo, EventNo>) -> Result<()> {
    if layer(tx, floor)? != StateLayer::default() || entries.is_empty() {
        return Err(Error::internal(format_args!("state {floor} is not to be filled like this")));
    }
    trees::STATES.put(tx, floor, &StateLayer { parent: EMPTY, entries: entries.into_iter().collect() });
    Ok(())
}

/// Whether all of a state is known: it does not stand on a floor that is not filled.
///
/// # Errors
/// As [`lookup`].
pub fn is_whole(read: &dyn Read, mut state: StateNo) -> Result<bool> {
    while state != EMPTY {
        let mut row = vec![trees::STATES.prefix];
        row.extend_from_slice(&state.0.to_be_bytes());
        let mut found = None;
        read.get_raw(Family::Lookup, &row, &mut |bytes| {
            let parent = bytes.first_chunk::<{ StateLayer::HEADER }>();
            found = parent.map(|parent| (StateNo(u64::from_be_bytes(*parent)), bytes.len() > StateLayer::HEADER));
        })?;
        match found.filter(|(parent, _)| *parent < state).ok_or_else(|| corrupt(state))? {
            (_, false) => return Ok(false),
            (parent, true) => state = parent,
        }
    }
    Ok(true)
}

/// The event that `key` is set to in `state`. Reads no more of a layer than a binary search needs.
///
/// # Errors
/// When the state is damaged or the database fails.
pub fn lookup(read: &dyn Read, mut state: StateNo, key: StateKeyNo) -> Result<Option<EventNo>> {
    while state != EMPTY {
        let mut row = vec![trees::STATES.prefix];
        row.extend_from_slice(&state.0.to_be_bytes());
        let mut found = None;
        read.get_raw(Family::Lookup, &row, &mut |bytes| found = search(bytes, key))?;
        match found.ok_or_else(|| corrupt(state))? {
            Found::Set(event) => return Ok((event != UNSET).then_some(event)),
            Found::Beneath(parent) if parent < state => state = parent,
            Found::Beneath(_) => return Err(corrupt(state)),
        }
    }
    Ok(None)
}

enum Found {
    Set(EventNo),
    Beneath(StateNo),
}

fn search(bytes: &[u8], key: StateKeyNo) -> Option<Found> {
    let (parent, entries) = bytes.split_first_chunk::<{ StateLayer::HEADER }>()?;
    let (entries, []) = entries.as_chunks::<{ StateLayer::ENTRY }>() else { return None };
    let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    match entries.binary_search_by_key(&key.0, |entry| number(entry)) {
        Ok(at) => Some(Found::Set(EventNo(number(entries.get(at)?.get(8..)?)))),
        Err(_) => Some(Found::Beneath(StateNo(u64::from_be_bytes(*parent)))),
    }
}

/// Everything that is set in `state`.
///
/// # Errors
/// As [`lookup`].
pub fn all(read: &dyn Read, mut state: StateNo) -> Result<BTreeMap<StateKeyNo, EventNo>> {
    let mut whole = BTreeMap::new();
    while state != EMPTY {
        let layer = layer(read, state)?;
        for (key, event) in layer.entries {
            whole.entry(key).or_insert(event);
        }
        state = layer.parent;
    }
    whole.retain(|_, event| *event != UNSET);
    Ok(whole)
}

/// A key whose value differs between two states, with its value in the one and in the other.
pub type Change = (StateKeyNo, Option<EventNo>, Option<EventNo>);

/// What differs from `from` to `to`, in order of keys. Layers that both chains share are not read, so neighbours cost
/// what they differ in.
///
/// # Errors
/// As [`lookup`].
pub fn diff(read: &dyn Read, from: StateNo, to: StateNo) -> Result<Vec<Change>> {
    let (mut low, mut high) = (from, to);
    let mut keys = BTreeMap::new();
    // A parent is always older than its child, so lowering the newer end meets at the newest shared layer.
    while low != high {
        let newer = low.max(high);
        let layer = layer(read, newer)?;
        keys.extend(layer.entries.into_iter().map(|(key, _)| (key, ())));
        if low == newer { low = layer.parent } else { high = layer.parent }
    }
    let mut changes = Vec::new();
    for key in keys.into_keys() {
        let (before, after) = (lookup(read, from, key)?, lookup(read, to, key)?);
        if before != after {
            changes.push((key, before, after));
        }
    }
    Ok(changes)
}
