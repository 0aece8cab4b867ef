//! Once more through the events that came while members of their room were missing.
//!
//! They were checked as far as the members were known, and by their own word beyond that (`auth.rs`); and where the room was
//! forked or had gaps, the states around them are approximations. With the members here, each is looked at in the order in
//! which they came: what is before it is computed anew where it depends on more than one event, and what that refuses is
//! refused, as if it had come only now. What clients were shown of it is gone from the room, as after a resolution that
//! went against it.
//!
//! In a room that was neither forked nor had gaps, nothing is computed but the checks: the states are the ones that there
//! were, completed from beneath. Each event is one transaction, after which everything fits together, so that all of it can
//! be done once more after a crash.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::OwnedEventId;

use super::{
    Event, RoomGuard, Rooms, append,
    build::Context,
    deltas, effects,
    event::{self, Status},
    extremities,
    graph::{self, Arrival, Verdict},
    partial, relations, state, timeline,
};
use crate::{
    error::Result,
    ids::{EventNo, RoomNo, StateNo},
    store::{Tx, trees},
};

impl Rooms {
    /// Goes through the room's events since the join; `states` has the states before some of them as another server has
    /// them.
    ///
    /// # Errors
    /// When a row is damaged or the database fails.
    pub(super) async fn recheck(
        &self,
        guard: &RoomGuard,
        room: RoomNo,
        states: &BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
    ) -> Result<()> {
        let Some(join) = partial::join(&self.store.read(), room)? else { return Ok(()) };
        let since: Vec<EventNo> = timeline::after(&self.store.read(), room, join.order)
            .map(|row| row.map(|row| row.1))
            .collect::<Result<_>>()?;
        for &no in &since {
            if let Some(refused) = self.recheck_one(room, no, states).await? {
                self.store.write(|tx| {
                    refuse(tx, self, refused)?;
                    extremities(tx, self, room, join.no, &since)
                })?;
            }
            tokio::task::yield_now().await;
        }
        self.recompute(guard, room).await
    }

    /// Looks at one event; gives it back if it is refused now, with what is before it.
    async fn recheck_one(
        &self,
        room: RoomNo,
        no: EventNo,
        states: &BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
    ) -> Result<Option<Event>> {
        let (mut event, mut arrival) = {
            let read = self.store.read();
            let event = Arc::unwrap_or_clone(event::require(&read, no)?);
            let context = Context { rooms: self, read: &read };
            let arrival = Arrival::new(&context, room, super::get(&read, room)?, event.pdu.clone())?;
            (event, arrival)
        };
        let given = match states.get(&event.pdu.event_id) {
            Some(given) if !arrival.missing.is_empty() => self.given_state(&arrival, given)?.ok(),
            _ => None,
        };
        arrival.states.extend(given);
        let is_known = arrival.missing.is_empty() || given.is_some();
        let state_before = match is_known {
            true => {
                let states = arrival.states.iter().copied().collect();
                self.resolve(&arrival, states).await?.unwrap_or(deltas::EMPTY)
            }
            false => event.state_before,
        };
        let is_restated = state_before != event.state_before;
        event.state_before = state_before;
        if let Verdict::Rejected(why) = graph::judge(self, &self.store.read(), &arrival, state_before, false)? {
            tracing::debug!("event {} is refused now that the members are known: {why}", event.pdu.event_id);
            return Ok(Some(event));
        }
        if is_restated {
            self.store.write(|tx| {
                event.state_after = append::state_after(tx, &event)?;
                event::put(tx, &event);
                Ok(())
            })?;
        }
        Ok(None)
    }

    /// Makes the room's current state what the states after its extremities resolve to.
    async fn recompute(&self, _guard: &RoomGuard, room_no: RoomNo) -> Result<()> {
        let (version, states) = {
            let read = self.store.read();
            let mut states: BTreeSet<StateNo> = BTreeSet::new();
            for no in extremities::of(&read, room_no)? {
                states.insert(event::require(&read, no)?.state_after);
            }
            (super::get(&read, room_no)?.version, states)
        };
        let current = self.resolver.resolve(&self.store, room_no, &version, states.into_iter().collect()).await?;
        self.store.write(|tx| {
            let mut room = super::get(tx, room_no)?;
            if room.state == current {
                return Ok(());
            }
            let position = tx.next_position()?;
            append::set_current(tx, self, room_no, &mut room, position, current, None)?;
            timeline::changed(tx, room_no, position)
        })
    }
}

/// Takes an event out of the timeline and the current state; what follows from that for later states comes with them.
fn refuse(tx: &mut Tx<'_>, rooms: &Rooms, mut event: Event) -> Result<()> {
    relations::remove(tx, &event)?;
    effects::invitation_gone(tx, &event);
    trees::TIMELINE.delete(tx, (event.room, event.order));
    (event.status, event.order, event.state_after) = (Status::Rejected, 0, event.state_before);
    event::put(tx, &event);
    let Some(key) = &event.pdu.state_key else { return Ok(()) };
    let key = state::intern_key(tx, &event.pdu.kind.to_string().into(), key)?;
    let mut room = super::get(tx, event.room)?;
    if deltas::lookup(tx, room.state, key)? != Some(event.no) {
        return Ok(());
    }
    let before = deltas::lookup(tx, event.state_before, key)?;
    let state = deltas::apply(tx, room.state, &[(key, before)])?;
    let position = tx.next_position()?;
    append::set_current(tx, rooms, event.room, &mut room, position, state, None)?;
    timeline::changed(tx, event.room, position)
}

/// The room's extremities, some of the events `since` the join being refused: what no other of them follows.
fn extremities(tx: &mut Tx<'_>, rooms: &Rooms, room_no: RoomNo, join: EventNo, since: &[EventNo]) -> Result<()> {
    let room = super::get(tx, room_no)?;
    let mut open: Vec<EventNo> = Vec::new();
    let mut followed: BTreeSet<EventNo> = BTreeSet::new();
    for no in std::iter::once(join).chain(since.iter().copied()) {
        let event = event::require(tx, no)?;
        if event.status == Status::Accepted {
            let context = Context { rooms, read: tx };
            followed.extend(Arrival::new(&context, room_no, room.clone(), event.pdu.clone())?.follows);
            open.push(no);
        }
    }
    open.retain(|no| !followed.contains(no));
    extremities::put(tx, room_no, open)
}
