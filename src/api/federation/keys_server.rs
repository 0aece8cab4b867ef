//! The keys that this server signs with.

use ruma::{
    api::federation::discovery::{
        ServerSigningKeys,
        get_server_keys::v2::{Request, Response},
    },
    serde::Raw,
};

use crate::{api::auth::Anyone, error::Result, server::Server};

/// `GET /_matrix/key/v2/server`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#get_matrixkeyv2server))
///
/// Also with a key's ID behind it, which is how servers asked before Matrix 1.6, and which some still do.
pub async fn get_server_key(server: &Server, _: Anyone, _: Request) -> Result<Response> {
    let document = server.federation.keys.published()?;
    Ok(Response::new(Raw::<ServerSigningKeys>::from_json(serde_json::value::to_raw_value(&document)?)))
}
