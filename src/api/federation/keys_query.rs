//! The keys of other servers, passed on to those who cannot reach them.

use futures_util::{StreamExt, stream};
use ruma::{
    CanonicalJsonObject, OwnedServerName,
    api::federation::discovery::{ServerSigningKeys, get_remote_server_keys, get_remote_server_keys_batch},
    serde::Raw,
};

use crate::{api::auth::Anyone, error::Result, server::Server};

/// How many servers can be asked about at once; the rest is not answered.
const MAX_SERVERS: usize = 200;

/// How many servers are asked at once for one request.
const AT_ONCE: usize = 16;

/// `GET /_matrix/key/v2/query/{serverName}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixkeyv2queryservername))
pub async fn perspectives_key_query(
    server: &Server,
    _: Anyone,
    req: get_remote_server_keys::v2::Request,
) -> Result<get_remote_server_keys::v2::Response> {
    let wanted = vec![(req.server_name, req.minimum_valid_until_ts.get().into())];
    Ok(get_remote_server_keys::v2::Response::new(documents(server, wanted).await?))
}

/// `POST /_matrix/key/v2/query`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#post_matrixkeyv2query))
pub async fn bulk_perspectives_key_query(
    server: &Server,
    _: Anyone,
    req: get_remote_server_keys_batch::v2::Request,
) -> Result<get_remote_server_keys_batch::v2::Response> {
    let wanted = req.server_keys.into_iter().take(MAX_SERVERS).map(|(name, keys)| {
        let minimum = keys.values().filter_map(|criteria| criteria.minimum_valid_until_ts).max();
        (name, minimum.map_or(0, |minimum| minimum.get().into()))
    });
    Ok(get_remote_server_keys_batch::v2::Response::new(documents(server, wanted.collect()).await?))
}

/// The documents of these servers, each signed by this one too. Servers whose keys are not known are left out.
async fn documents(server: &Server, wanted: Vec<(OwnedServerName, u64)>) -> Result<Vec<Raw<ServerSigningKeys>>> {
    let federation = &server.federation;
    let found = wanted.into_iter().map(|(name, minimum)| async move {
        let document = federation.keys.document(federation, &name, minimum).await?;
        document.map(|document| passed_on(server, &name, document)).transpose()
    });
    let found: Vec<Result<Option<_>>> = stream::iter(found).buffered(AT_ONCE).collect().await;
    found.into_iter().filter_map(Result::transpose).collect()
}

fn passed_on(
    server: &Server,
    name: &OwnedServerName,
    mut document: CanonicalJsonObject,
) -> Result<Raw<ServerSigningKeys>> {
    if name != server.name() {
        server.keys.sign_json(&mut document)?;
    }
    Ok(Raw::from_json(serde_json::value::to_raw_value(&document)?))
}
