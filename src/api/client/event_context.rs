//! [The events around an event](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidcontexteventid).

use ruma::{
    api::client::{
        context::get_context::v3::{Request, Response},
        filter::LazyLoadOptions,
    },
    events::{AnyStateEvent, TimelineEventType},
    serde::Raw,
};

use super::message_pagination::{senders, show, view};
use crate::{
    api::auth::User,
    error::{Error, Result},
    rooms::{
        Event,
        access::{self, View},
        client_event, event, history,
        visibility::Gate,
    },
    server::Server,
    store::Read,
    sync::filter,
    users::account_data,
};

/// Events around the one at most.
const LIMIT: u64 = 200;

/// `GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidcontexteventid))
pub async fn get_event_context(server: &Server, user: User, req: Request) -> Result<Response> {
    let snapshot = server.store.read();
    let readable = access::history_of(&snapshot, &user.id, &req.room_id)?;
    let not_found = || Error::not_found("There is no such event in this room, or you may not see it.");
    let event = event::by_id(&snapshot, &req.event_id)?.ok_or_else(not_found)?;
    let gate = Gate::new(&snapshot, &user.id);
    if event.room != readable.no || event.order == 0 || !gate.may_see(&event)? {
        return Err(not_found());
    }
    let limit = usize::try_from(u64::from(req.limit).min(LIMIT)).unwrap_or(0);
    // Of an odd number, the larger part comes before.
    let limits = (limit.div_ceil(2), limit / 2);
    let ignored = account_data::ignored_users(&snapshot, &user.id)?;
    let wanted = |event: &Event| passes(&req, event) && !history::is_ignored(&ignored, event);
    let around = history::around(&snapshot, &gate, readable.no, event.order, limits, &wanted)?;

    let mut response = Response::new();
    response.start = Some(around.start.to_string());
    response.end = Some(around.end.to_string());
    let view = view(&snapshot, &user, ignored);
    response.event = Some(view.room_timeline(&event)?);
    response.events_before = show(&view, &around.before)?;
    response.events_after = show(&view, &around.after)?;
    let is_lazy = matches!(req.filter.lazy_load_options, LazyLoadOptions::Enabled { .. });
    response.state = state(&snapshot, &view, &req, around.after.last().unwrap_or(&event), is_lazy)?;
    if is_lazy {
        let shown = around.before.iter().chain([&event]).chain(&around.after);
        response.state.extend(senders(&snapshot, &view, shown)?);
    }
    Ok(response)
}

fn passes(req: &Request, event: &Event) -> bool {
    let pdu = &event.pdu;
    filter::allows_event(&req.filter, &pdu.kind.to_string(), &pdu.sender, &pdu.content)
}

/// The room's state at the last event returned, as far as the filter lets it through.
fn state(
    read: &dyn Read,
    view: &client_event::View<'_>,
    req: &Request,
    last: &Event,
    without_members: bool,
) -> Result<Vec<Raw<AnyStateEvent>>> {
    let mut state = Vec::new();
    for no in View::Past(last.state_after).all(read)? {
        let event = event::require(read, no)?;
        if !(without_members && event.pdu.kind == TimelineEventType::RoomMember) && passes(req, &event) {
            state.push(view.room_state(&event)?);
        }
    }
    Ok(state)
}
