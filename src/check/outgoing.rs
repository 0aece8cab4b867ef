//! What other servers are to be told.

use super::{Checker, any};
use crate::{
    error::Result,
    store::{
        Direction,
        records::Outgoing,
        trees::{KEYS_CHANGED, OUTGOING, OUTGOING_LATEST, ROOMS, TO_SERVERS, TO_SERVERS_WAITING, UNREACHED_SERVERS},
    },
};

pub(super) fn check(checker: &mut Checker<'_>) -> Result<()> {
    checker.has(OUTGOING_LATEST, ROOMS, |room, _| *room, any)?;
    checker.has(
        OUTGOING_LATEST,
        OUTGOING,
        |_, position| *position,
        |room, _, change| matches!(change, Outgoing::Event { room: of, .. } if of == room),
    )?;
    checker.each(OUTGOING, |checker, position, change| {
        if let Outgoing::Keys { user, .. } = change {
            let latest = KEYS_CHANGED.get(checker.read, &user)?;
            checker.expect(latest == Some(position), format_args!("OUTGOING has an earlier change of {user}'s keys"));
        }
        checker.given_out("position", position.0)
    })?;
    checker.each(UNREACHED_SERVERS, |checker, _, row| checker.given_out("position", row.has.0))?;
    checker.has(TO_SERVERS, TO_SERVERS_WAITING, |(server, _), _| server.clone(), any)?;
    checker.each(TO_SERVERS_WAITING, |checker, server, noted| {
        let waiting = TO_SERVERS.scan(checker.read, (&server,), Direction::Forward).count() as u64;
        let fault = format_args!("{waiting} messages wait for the server {server}, not {noted}").to_string();
        checker.expect(waiting == noted, fault);
        Ok(())
    })
}
