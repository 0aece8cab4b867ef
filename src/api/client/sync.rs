//! Syncing: `GET /sync` ([spec](https://spec.matrix.org/latest/client-server-api/#syncing)). What goes into the answer
//! is made in `src/sync/`.

use std::time::Duration;

use ruma::{
    api::client::{filter::FilterDefinition, sync::sync_events},
    exports::http,
    presence::PresenceState,
};
use serde::Deserialize;

use crate::{
    api::{
        auth::User,
        own::{self, Json},
    },
    error::{Error, Result},
    reads,
    server::Server,
    stands_in_for,
    store::{Snapshot, Store},
    sync::{
        self as syncing, Live, View,
        response::Response,
        v3::{self, Query, StateNames, Token},
    },
    users::{filters, to_device},
};

/// The query of `GET /sync`. A type of our own, for the unstable name of `use_state_after` (MSC4222), and so that a
/// filter which is neither an ID nor JSON is refused.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Request {
    filter: Option<String>,
    since: Option<String>,
    full_state: bool,
    set_presence: Option<String>,
    timeout: u64,
    use_state_after: bool,
    #[serde(rename = "org.matrix.msc4222.use_state_after")]
    use_state_after_unstable: bool,
}

stands_in_for!(Request, sync_events::v3::Request);

reads!(Request => Json<Response>, |request, _args| own::query(&request)?);

/// `GET /_matrix/client/v3/sync`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3sync)).
pub async fn sync(server: &Server, user: User, request: Request) -> Result<Json<Response>> {
    let since = request.since.as_deref().filter(|since| !since.is_empty()).map(str::parse::<Token>).transpose()?;
    let query = Query {
        since,
        filter: filter(&server.store, &user, request.filter.as_deref())?,
        full_state: request.full_state,
        state_names: match (request.use_state_after, request.use_state_after_unstable) {
            (true, _) => StateNames::After,
            (false, true) => StateNames::AfterUnstable,
            (false, false) => StateNames::Before,
        },
    };
    note_presence(server, &user, request.set_presence.as_deref())?;
    if let Some(since) = since {
        note_delivered(&server.store, &user, since)?;
    }
    let live = Live { typing: &server.typing, presence: &server.presence };
    let timeout = Duration::from_millis(request.timeout);
    let build = |snapshot: &Snapshot<'_>| v3::build(&View::new(snapshot, live, &user.id, &user.device)?, &query);
    let response = if query.since.is_none() || query.full_state {
        syncing::at_once(&server.whole_syncs, &server.store, build).await?
    } else {
        syncing::long_poll(&server.store, &user.id, &user.device, timeout, build).await?
    };
    Ok(Json(response))
}

/// The definition that the `filter` parameter gives or names: JSON if it begins with a brace.
fn filter(store: &Store, user: &User, parameter: Option<&str>) -> Result<FilterDefinition> {
    match parameter {
        None | Some("") => Ok(FilterDefinition::default()),
        Some(json) if json.starts_with('{') => serde_json::from_str(json)
            .map_err(|error| Error::invalid_param(format!("The filter is not what a filter must be: {error}."))),
        Some(id) => filters::require(&store.read(), &user.id, id).map_err(|error| {
            if error.is_not_found() { Error::invalid_param("You have no filter with this ID.") } else { error }
        }),
    }
}

/// Notes that the user's client waits for events, with `set_presence` as it came.
///
/// # Errors
/// 400 `M_INVALID_PARAM` for an unknown presence.
pub(super) fn note_presence(server: &Server, user: &User, set_presence: Option<&str>) -> Result<()> {
    let presence = match set_presence {
        None | Some("" | "online") => PresenceState::Online,
        Some("unavailable") => PresenceState::Unavailable,
        Some("offline") => PresenceState::Offline,
        Some(_) => return Err(Error::invalid_param("set_presence must be online, unavailable or offline.")),
    };
    server.presence.seen(&server.store, &user.id, &user.device, &presence)
}

/// What came before `since` is with the client: it need not be kept.
fn note_delivered(store: &Store, user: &User, since: Token) -> Result<()> {
    let upto = since.to_device;
    if to_device::any_until(&store.read(), &user.id, &user.device, upto)? {
        store.write(|tx| to_device::delivered(tx, &user.id, &user.device, upto))?;
    }
    Ok(())
}
