//! Features that single users have or not
//! ([reference](https://element-hq.github.io/synapse/latest/admin_api/experimental_features.html)): here there are none,
//! since what there is everybody has.

use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Map, Value as JsonValue, json};

use super::{Nothing, Reply, ok, requests, users::require};
use crate::{
    api::auth::Administrator,
    error::{Error, Result},
    server::Server,
};

requests! {
    /// `GET /_synapse/admin/v1/experimental_features/{user_id}`
    GetFeatures = GET "/_synapse/admin/v1/experimental_features/{user_id}" ((OwnedUserId,), Nothing, Nothing);
    /// `PUT /_synapse/admin/v1/experimental_features/{user_id}`
    PutFeatures = PUT "/_synapse/admin/v1/experimental_features/{user_id}" ((OwnedUserId,), Nothing, Features);
}

/// Which features a user is to have.
#[derive(Debug, Deserialize)]
pub struct Features {
    #[serde(default)]
    features: Map<String, JsonValue>,
}

/// `GET /_synapse/admin/v1/experimental_features/{user_id}`
pub async fn get_features(server: &Server, _: Administrator, req: GetFeatures) -> Result<Reply> {
    require(server, &server.store.read(), &req.path.0)?;
    ok(json!({ "features": {} }))
}

/// `PUT /_synapse/admin/v1/experimental_features/{user_id}`: refused, whatever it is.
pub async fn put_features(server: &Server, _: Administrator, req: PutFeatures) -> Result<Reply> {
    require(server, &server.store.read(), &req.path.0)?;
    let message = match req.body.features.keys().next() {
        Some(name) => format!("{name} is no feature that single users have or not here."),
        None => "Say which features the user is to have.".to_owned(),
    };
    Err(Error::bad_request(ruma::api::error::ErrorKind::Unknown, message))
}
