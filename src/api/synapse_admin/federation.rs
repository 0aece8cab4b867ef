//! Other servers
//! ([reference](https://element-hq.github.io/synapse/latest/usage/administration/admin_api/federation.html)).

use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::{Nothing, Paging, Reply, ok, requests};
use crate::{
    api::auth::Administrator,
    clock,
    error::{Error, Result},
    federation::destinations::{self, Destination},
    rooms::{self, servers, timeline},
    server::Server,
};

requests! {
    /// `GET /_synapse/admin/v1/federation/destinations`
    ListDestinations = GET "/_synapse/admin/v1/federation/destinations" (Nothing, DestinationQuery, Nothing);
    /// `GET /_synapse/admin/v1/federation/destinations/{destination}`
    GetDestination = GET "/_synapse/admin/v1/federation/destinations/{destination}" ((OwnedServerName,), Nothing, Nothing);
    /// `GET /_synapse/admin/v1/federation/destinations/{destination}/rooms`
    RoomsOfDestination = GET "/_synapse/admin/v1/federation/destinations/{destination}/rooms" ((OwnedServerName,), Paging, Nothing);
    /// `POST /_synapse/admin/v1/federation/destinations/{destination}/reset_connection`
    ResetConnection = POST "/_synapse/admin/v1/federation/destinations/{destination}/reset_connection" ((OwnedServerName,), Nothing, Nothing);
}

/// Which servers to list: all, or those whose name has this part.
#[derive(Debug, Deserialize)]
pub struct DestinationQuery {
    #[serde(flatten)]
    paging: Paging,
    destination: Option<String>,
}

fn shown(name: &ServerName, destination: &Destination) -> JsonValue {
    let failures = destination.failures.as_ref();
    // When it failed last is not kept; between then and the next attempt lies the interval.
    let interval = failures.map_or(0, |failures| failures.retry_at.saturating_sub(clock::now_ms()));
    json!({
        "destination": name,
        "retry_last_ts": failures.map_or(0, |failures| failures.retry_at.saturating_sub(interval)),
        "retry_interval": interval,
        "failure_ts": failures.map(|failures| failures.since),
        "last_successful_stream_ordering": null,
    })
}

/// `GET /_synapse/admin/v1/federation/destinations`
pub async fn list_destinations(server: &Server, _: Administrator, req: ListDestinations) -> Result<Reply> {
    let all = destinations::all(&server.store.read(), server.name())?;
    let part = req.query.destination.as_deref().map(str::to_lowercase);
    let is_wanted = |name: &ServerName| part.as_deref().is_none_or(|part| name.as_str().to_lowercase().contains(part));
    let wanted = all.iter().filter(|(name, _)| is_wanted(name));
    let mut rows: Vec<_> = wanted.map(|(name, destination)| shown(name, destination)).collect();
    req.query.paging.sort(&mut rows, "destination");
    ok(req.query.paging.page("destinations", rows))
}

/// `GET /_synapse/admin/v1/federation/destinations/{destination}`
pub async fn get_destination(server: &Server, _: Administrator, req: GetDestination) -> Result<Reply> {
    let destination = destinations::get(&server.store.read(), &req.path.0)?;
    ok(shown(&req.path.0, &destination))
}

/// `GET /_synapse/admin/v1/federation/destinations/{destination}/rooms`
pub async fn rooms_of_destination(server: &Server, _: Administrator, req: RoomsOfDestination) -> Result<Reply> {
    let read = server.store.read();
    destinations::get(&read, &req.path.0)?;
    let mut rows = Vec::new();
    for no in servers::rooms_of(&read, &req.path.0) {
        let no = no?;
        let last = timeline::latest(&read, no)?;
        rows.push(json!({ "room_id": rooms::get(&read, no)?.id, "stream_ordering": last }));
    }
    req.query.sort(&mut rows, "room_id");
    ok(req.query.page("rooms", rows))
}

/// `POST /_synapse/admin/v1/federation/destinations/{destination}/reset_connection`
pub async fn reset_connection(server: &Server, _: Administrator, req: ResetConnection) -> Result<Reply> {
    if destinations::get(&server.store.read(), &req.path.0)?.failures.is_none() {
        let message = "The server took what was sent to it last: there is nothing to retry.";
        return Err(Error::bad_request(ruma::api::error::ErrorKind::Unknown, message));
    }
    server.federation.heard_from(&req.path.0);
    ok(json!({}))
}
