//! Events that are to be sent later.

use super::{Checker, any};
use crate::{
    error::Result,
    rooms,
    store::{
        records::DelayedEvent,
        trees::{ACCOUNTS, DELAYED_EVENT_TIMES, DELAYED_EVENTS, DELAYED_STATE_EVENTS, USER_DELAYED_EVENTS},
    },
};

pub(super) fn check(checker: &mut Checker<'_>) -> Result<()> {
    let waits = |event: &DelayedEvent| event.over.is_none();
    checker.has(
        DELAYED_EVENT_TIMES,
        DELAYED_EVENTS,
        |(_, id), ()| id.clone(),
        |(at, _), (), event| event.due == *at,
    )?;
    checker.has(DELAYED_EVENTS, DELAYED_EVENT_TIMES, |id, event| (event.due, id.clone()), any)?;
    checker.has(USER_DELAYED_EVENTS, ACCOUNTS, |(user, _), ()| user.clone(), any)?;
    checker.has(
        USER_DELAYED_EVENTS,
        DELAYED_EVENTS,
        |(_, id), ()| id.clone(),
        |(user, _), (), event| event.user == *user && waits(event),
    )?;
    checker.has(
        DELAYED_STATE_EVENTS,
        DELAYED_EVENTS,
        |(.., id), ()| id.clone(),
        |(_, kind, key, _), (), event| event.kind == *kind && event.state_key.as_ref() == Some(key) && waits(event),
    )?;
    checker.each(DELAYED_EVENTS, |checker, id, event| {
        if !waits(&event) {
            return Ok(());
        }
        let of_user = USER_DELAYED_EVENTS.contains(checker.read, (&event.user, &id))?;
        checker.expect(of_user, format_args!("the delayed event {id} is not among those of {}", event.user));
        let room = rooms::find(checker.read, &event.room)?;
        checker.expect(room.is_some(), format_args!("the delayed event {id} is for a room that does not exist"));
        if let (Some(room), Some(key)) = (room, &event.state_key) {
            let found = DELAYED_STATE_EVENTS.contains(checker.read, (room, &event.kind, key, &id))?;
            checker.expect(found, format_args!("the delayed event {id} is not found by what it sets"));
        }
        Ok(())
    })
}
