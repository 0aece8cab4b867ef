//! Telling the administrators of something bad. Reports are kept, and each is a line in the log.

use ruma::api::client::{
    reporting::report_user as report_a_user,
    room::{report_content, report_room as report_a_room},
};

use crate::{
    api::auth::User,
    clock,
    error::{Error, Result},
    rooms::{self, event, members},
    server::Server,
    store::{records::Report, trees::REPORTS},
    users::accounts,
};

/// The longest reason, in bytes.
const MAX_REASON: usize = 4096;

/// `POST /_matrix/client/v3/rooms/{roomId}/report`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidreport))
pub async fn report_room(
    server: &Server,
    user: User,
    req: report_a_room::v3::Request,
) -> Result<report_a_room::v3::Response> {
    rooms::require(&server.store.read(), &req.room_id)?;
    keep(server, Report { room: Some(req.room_id), ..report(&user, req.reason) })?;
    Ok(report_a_room::v3::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/report/{eventId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidreporteventid))
pub async fn report_event(
    server: &Server,
    user: User,
    req: report_content::v3::Request,
) -> Result<report_content::v3::Response> {
    let read = server.store.read();
    let room = rooms::find(&read, &req.room_id)?;
    let event = event::by_id(&read, &req.event_id)?;
    let known = match (room, event) {
        (Some(room), Some(event)) => event.room == room && members::is_joined(&read, room, &user.id)?,
        _ => false,
    };
    if !known {
        return Err(Error::not_found("There is no such event in a room that you are in."));
    }
    let report = report(&user, req.reason.unwrap_or_default());
    keep(server, Report { room: Some(req.room_id), event: Some(req.event_id), ..report })?;
    Ok(report_content::v3::Response::new())
}

/// `POST /_matrix/client/v3/users/{userId}/report`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3usersuseridreport))
pub async fn report_user(
    server: &Server,
    user: User,
    req: report_a_user::v3::Request,
) -> Result<report_a_user::v3::Response> {
    if req.user_id.server_name() == server.name() {
        accounts::require(&server.store.read(), &req.user_id)?;
    }
    keep(server, Report { user: Some(req.user_id), ..report(&user, req.reason) })?;
    Ok(report_a_user::v3::Response::new())
}

fn report(user: &User, reason: String) -> Report {
    Report { reporter: user.id.clone(), room: None, event: None, user: None, reason, received_ts: clock::now_ms() }
}

fn keep(server: &Server, report: Report) -> Result<()> {
    if report.reason.len() > MAX_REASON {
        return Err(Error::invalid_param(format!("The reason must not be longer than {MAX_REASON} bytes.")));
    }
    server.store.write(|tx| {
        let number = tx.next("report")?;
        REPORTS.put(tx, number, &report);
        tx.wake(&accounts::server_user(server.name())?);
        Ok(())
    })?;
    let Report { reporter, room, event, user, reason, .. } = report;
    tracing::warn!(?room, ?event, ?user, ?reason, "{reporter} reports something");
    Ok(())
}
