//! A second look at sticky events that soft-failed
//! ([MSC4354](https://github.com/matrix-org/matrix-spec-proposals/pull/4354), a proposal).
//!
//! Whether an event soft-fails depends on what a server knew when it came: of two concurrent kicks, one undoes the other.
//! `sticky.rs` notes which events may be allowed after a change of the room's state; `federation/chores.rs` has them
//! judged again, in the background and also after a crash. One that is allowed now is part of the room from then on, and
//! new when that was found out. Deliberately absent: taking back what was accepted.

use std::sync::Arc;

use super::{
    Event, Rooms,
    build::Context,
    event, extremities,
    graph::{Arrival, Verdict, judge},
    sticky,
};
use crate::{
    error::Result,
    ids::{EventNo, RoomNo},
    store::{
        Direction, Read,
        trees::{SOFT_FAILED_STICKY_EVENTS, STICKY_RECHECKS},
    },
};

impl Rooms {
    /// Looks again at the sticky events that are noted for it.
    ///
    /// # Errors
    /// When a row is damaged or the database fails.
    pub async fn look_again(&self) -> Result<()> {
        let due = STICKY_RECHECKS.scan(&self.store.read(), (), Direction::Forward).collect::<Result<Vec<_>>>()?;
        for ((room, event), ()) in due {
            let id = super::get(&self.store.read(), room)?.id;
            let _guard = self.lock(&id).await;
            self.look_again_at(room, event).await?;
        }
        Ok(())
    }

    /// Looks again at one event. Its room is locked.
    async fn look_again_at(&self, room: RoomNo, no: EventNo) -> Result<()> {
        let (event, allowed) = {
            let read = self.store.read();
            let row = SOFT_FAILED_STICKY_EVENTS.get(&read, (room, no))?;
            let event = row.map(|row| event::get(&read, row.event)).transpose()?.flatten();
            let event = event.filter(|event| sticky::sticks(&event.pdu, event.received_ts));
            let allowed = event.as_ref().map(|event| self.allowed_now(&read, event)).transpose()?.flatten();
            (event, allowed)
        };
        if let Some((event, arrival)) = event.as_ref().zip(allowed) {
            self.settle(arrival, event.state_before, Verdict::Accepted, None).await?;
            return Ok(());
        }
        self.store.write(|tx| {
            match event {
                Some(_) => STICKY_RECHECKS.delete(tx, (room, no)),
                None => sticky::forget_soft_failed(tx, room, no),
            }
            Ok(())
        })
    }

    /// The event as if it came now, if the room's current state allows it.
    fn allowed_now(&self, read: &dyn Read, event: &Arc<Event>) -> Result<Option<Arrival>> {
        let context = Context { rooms: self, read };
        let mut arrival = Arrival::new(&context, event.room, super::get(read, event.room)?, event.pdu.clone())?;
        // Whoever followed it took over what it followed: that is an extremity only while nobody did.
        let extremities = extremities::of(read, event.room)?;
        arrival.followed = !arrival.follows.iter().any(|no| extremities.contains(no));
        let verdict = judge(self, read, &arrival, event.state_before, true)?;
        Ok(matches!(verdict, Verdict::Accepted).then_some(arrival))
    }
}
