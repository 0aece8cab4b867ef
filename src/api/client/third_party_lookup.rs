//! Users and places of other networks, as application services know them
//! ([spec](https://spec.matrix.org/latest/client-server-api/#third-party-networks)).
//!
//! What they answer is passed on as it is, but that each instance of a network gets the ID by which
//! `POST /publicRooms` finds its rooms.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use ruma::api::client::thirdparty::{
    get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols, get_user_for_protocol,
    get_user_for_user_id,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{
    answers_json,
    api::{auth::User, own::Json},
    appservice::Registration,
    error::{Error, Result},
    outgoing::appservices::{self, encode},
    rooms::directory,
    server::Server,
};

type Object = Map<String, Value>;

answers_json! {
    /// For all protocols.
    pub struct ProtocolsRequest(get_protocols::v3::Request) => BTreeMap<String, Object>;
}
answers_json! {
    /// For one protocol.
    pub struct ProtocolRequest(get_protocol::v3::Request) => Object;
}
answers_json! {
    /// For the rooms of a place.
    pub struct LocationsRequest(get_location_for_protocol::v3::Request) => Vec<Value>;
}
answers_json! {
    /// For the users of this server who stand for somebody.
    pub struct UsersRequest(get_user_for_protocol::v3::Request) => Vec<Value>;
}
answers_json! {
    /// For the places of a room.
    pub struct AliasRequest(get_location_for_room_alias::v3::Request) => Vec<Value>;
}
answers_json! {
    /// For whom a user stands.
    pub struct UserIdRequest(get_user_for_user_id::v3::Request) => Vec<Value>;
}

/// `GET /_matrix/client/v3/thirdparty/protocols`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3thirdpartyprotocols))
pub async fn get_protocols(server: &Server, _: User, _: ProtocolsRequest) -> Result<Json<BTreeMap<String, Object>>> {
    let mut names: Vec<_> = server.appservices.all().iter().flat_map(|service| service.protocols.clone()).collect();
    names.sort();
    names.dedup();
    let found = join_all(names.into_iter().map(async |name| {
        let protocol = protocol(server, &name).await;
        (name, protocol)
    }));
    Ok(Json(found.await.into_iter().filter_map(|(name, protocol)| Some((name, protocol?))).collect()))
}

/// `GET /_matrix/client/v3/thirdparty/protocol/{protocol}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3thirdpartyprotocolprotocol))
pub async fn get_protocol_metadata(
    server: &Server,
    _: User,
    ProtocolRequest(req): ProtocolRequest,
) -> Result<Json<Object>> {
    protocol(server, &req.protocol).await.map(Json).ok_or_else(|| unknown_protocol(&req.protocol))
}

/// `GET /_matrix/client/v3/thirdparty/location/{protocol}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3thirdpartylocationprotocol))
pub async fn query_location_by_protocol(
    server: &Server,
    _: User,
    LocationsRequest(req): LocationsRequest,
) -> Result<Json<Vec<Value>>> {
    by_protocol(server, "location", &req.protocol, req.fields).await
}

/// `GET /_matrix/client/v3/thirdparty/user/{protocol}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3thirdpartyuserprotocol))
pub async fn query_user_by_protocol(
    server: &Server,
    _: User,
    UsersRequest(req): UsersRequest,
) -> Result<Json<Vec<Value>>> {
    by_protocol(server, "user", &req.protocol, req.fields).await
}

/// `GET /_matrix/client/v3/thirdparty/location`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3thirdpartylocation))
pub async fn query_location_by_alias(
    server: &Server,
    _: User,
    AliasRequest(req): AliasRequest,
) -> Result<Json<Vec<Value>>> {
    let asked = server.appservices.all().into_iter().filter(|service| service.has_alias(&req.alias)).collect();
    lookup(server, asked, &format!("thirdparty/location?alias={}", encode(req.alias.as_str()))).await
}

/// `GET /_matrix/client/v3/thirdparty/user`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3thirdpartyuser))
pub async fn query_user_by_id(server: &Server, _: User, UserIdRequest(req): UserIdRequest) -> Result<Json<Vec<Value>>> {
    let asked = server.appservices.all().into_iter().filter(|service| service.has_user(&req.userid)).collect();
    lookup(server, asked, &format!("thirdparty/user?userid={}", encode(req.userid.as_str()))).await
}

/// What is known of a protocol: of several application services, the first one's word with the instances of all.
async fn protocol(server: &Server, name: &str) -> Option<Object> {
    let path = format!("thirdparty/protocol/{}", encode(name));
    let mut merged: Option<Object> = None;
    let mut instances = Vec::new();
    for (service, mut found) in ask::<Object>(server, with_protocol(server, name), &path).await {
        if let Some(Value::Array(own)) = found.remove("instances") {
            instances.extend(own.into_iter().map(|instance| with_id(&service, instance)));
        }
        merged.get_or_insert(found);
    }
    let mut merged = merged?;
    merged.insert("instances".to_owned(), instances.into());
    Some(merged)
}

/// An instance of a network with the ID that stands for it in requests.
fn with_id(service: &Registration, mut instance: Value) -> Value {
    if let Some(network) = instance.get("network_id").and_then(Value::as_str) {
        let id = directory::instance_id(&service.id, network);
        instance["instance_id"] = json!(id);
    }
    instance
}

async fn by_protocol(
    server: &Server,
    kind: &str,
    protocol: &str,
    mut fields: BTreeMap<String, String>,
) -> Result<Json<Vec<Value>>> {
    let asked = with_protocol(server, protocol);
    if asked.is_empty() {
        return Err(unknown_protocol(protocol));
    }
    // How the client showed its token is between it and us.
    fields.remove("access_token");
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    lookup(server, asked, &format!("thirdparty/{kind}/{}?{}", encode(protocol), fields.join("&"))).await
}

fn with_protocol(server: &Server, protocol: &str) -> Vec<Arc<Registration>> {
    let all = server.appservices.all().into_iter();
    all.filter(|service| service.protocols.iter().any(|known| known == protocol)).collect()
}

/// All that those asked find.
async fn lookup(server: &Server, asked: Vec<Arc<Registration>>, path: &str) -> Result<Json<Vec<Value>>> {
    let found: Vec<Value> =
        ask::<Vec<Value>>(server, asked, path).await.into_iter().flat_map(|(_, found)| found).collect();
    if found.is_empty() {
        return Err(Error::not_found("No application service knows of this."));
    }
    Ok(Json(found))
}

/// Who of those asked answers, and what.
async fn ask<T: DeserializeOwned>(
    server: &Server,
    asked: Vec<Arc<Registration>>,
    path: &str,
) -> Vec<(Arc<Registration>, T)> {
    let answers = asked.into_iter().map(async |service| {
        let answer = match appservices::get(&server.federation.outgoing, &service, path).await {
            Ok(body) => serde_json::from_slice(&body).map_err(|error| error.to_string()),
            Err(failure) => Err(failure.to_string()),
        };
        match answer {
            Ok(answer) => Some((service, answer)),
            Err(why) => {
                tracing::debug!("the application service {} has no answer: {why}", service.id);
                None
            }
        }
    });
    join_all(answers).await.into_iter().flatten().collect()
}

fn unknown_protocol(protocol: &str) -> Error {
    Error::not_found(format!("No application service knows the protocol {protocol}."))
}
