//! Simplified sliding sync (MSC4186), in the form that clients use today and in the accepted one. What goes into the
//! answer is made in `src/sync/sliding/`.

use ruma::{
    api::{auth_scheme::AccessToken, client::sync::sync_events},
    exports::http,
};
use serde::Deserialize;

use super::sync::note_presence;
use crate::{
    api::{
        auth::User,
        own::{self, Json},
    },
    error::Result,
    ids::Position,
    operation, reads,
    rooms::point::Point,
    server::Server,
    stands_in_for,
    store::Snapshot,
    sync::{
        self as syncing, Live, View,
        sliding::{
            self,
            request::{AcceptedBody, Request, UnstableBody},
            response::Response,
        },
    },
    users::to_device,
};

/// Today's form: some parameters are in the query.
#[derive(Debug, Default)]
pub struct UnstableRequest {
    query: UnstableQuery,
    body: UnstableBody,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UnstableQuery {
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<String>,
}

stands_in_for!(UnstableRequest, sync_events::v5::Request);

reads!(UnstableRequest => Json<Response>, |request, _args| {
    Self { query: own::query(&request)?, body: own::body(&request)? }
});

/// The accepted form: all parameters are in the body.
#[derive(Debug, Default)]
pub struct AcceptedRequest {
    body: AcceptedBody,
}

operation!(
    POST "/_matrix/client/v4/sync", AccessToken: AcceptedRequest => Json<Response>,
    |request, _args| Self { body: own::body(&request)? }
);

/// `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync`
/// ([MSC4186](https://github.com/matrix-org/matrix-spec-proposals/pull/4186)).
pub async fn sliding_sync(server: &Server, user: User, request: UnstableRequest) -> Result<Json<Response>> {
    note_presence(server, &user, request.query.set_presence.as_deref())?;
    let request = request.body.into_request(request.query.pos, request.query.timeout, &user.id)?;
    answer(server, &user, request).await
}

/// `POST /_matrix/client/v4/sync`
/// ([MSC4186](https://github.com/matrix-org/matrix-spec-proposals/pull/4186)).
pub async fn sliding_sync_v4(server: &Server, user: User, request: AcceptedRequest) -> Result<Json<Response>> {
    note_presence(server, &user, request.body.presence())?;
    answer(server, &user, request.body.into_request()?).await
}

async fn answer(server: &Server, user: &User, mut request: Request) -> Result<Json<Response>> {
    note_delivered(server, user, &request)?;
    let key = (user.id.clone(), user.device.clone(), request.conn_id.clone());
    let pos = request.pos.take().filter(|pos| !pos.is_empty());
    let hold = server.sliding.begin(key, pos.as_deref())?;
    let live = Live { typing: &server.typing, presence: &server.presence };
    let build = |snapshot: &Snapshot<'_>| {
        let view = View::new(snapshot, live, &user.id, &user.device)?;
        let (built, has_news) = sliding::build(&view, &request, &mut *hold.connection()?)?;
        Ok(((view.now, built), has_news))
    };
    let (position, built) = match pos {
        None => syncing::at_once(&server.whole_syncs, &server.store, build).await?,
        Some(_) => syncing::long_poll(&server.store, &user.id, &user.device, request.timeout, build).await?,
    };
    let mut response = built.response;
    response.pos = server.sliding.answered(&hold, position, built.sent, built.told_of)?;
    Ok(Json(response))
}

/// The messages before the to-device extension's `since` are with the client: they need not be kept.
fn note_delivered(server: &Server, user: &User, request: &Request) -> Result<()> {
    let wanted = &request.extensions.to_device;
    let Some(since) = wanted.since.as_deref().filter(|_| wanted.is_on()) else { return Ok(()) };
    let upto = Position(u64::try_from(Point::parse(since)?.0).unwrap_or(0));
    if to_device::any_until(&server.store.read(), &user.id, &user.device, upto)? {
        server.store.write(|tx| to_device::delivered(tx, &user.id, &user.device, upto))?;
    }
    Ok(())
}
