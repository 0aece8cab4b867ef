//! Pushers: where a user wants to be told of notifications. They can be switched off, also from another device, under the
//! names of [MSC3881](https://github.com/matrix-org/matrix-spec-proposals/pull/3881), a proposal.

use ruma::api::client::push::{
    PusherKind, get_pushers as get,
    set_pusher::v3::{self as set, PusherAction},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value as JsonValue, json};

use crate::{
    answers_json,
    api::{
        auth::User,
        own::{self, Json},
    },
    error::{Error, Result},
    reads,
    server::Server,
    stands_in_for,
    users::pushers,
};

answers_json! {
    /// Ruma's type does not know whether a pusher is on.
    pub struct GetPushersRequest(get::v3::Request) => Pushers;
}

/// A user's pushers.
#[derive(Debug, Serialize)]
pub struct Pushers {
    pushers: Vec<JsonValue>,
}

/// `GET /_matrix/client/v3/pushers`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3pushers))
pub async fn get_pushers(server: &Server, user: User, _: GetPushersRequest) -> Result<Json<Pushers>> {
    let read = server.store.read();
    let shown = pushers::all(&read, &user.id).map(|row| {
        let mut row = row?;
        row.pusher["org.matrix.msc3881.enabled"] = json!(!row.disabled);
        row.pusher["org.matrix.msc3881.device_id"] = json!(row.device);
        Ok(row.pusher)
    });
    Ok(Json(Pushers { pushers: shown.collect::<Result<_>>()? }))
}

/// A request to set a pusher, which may be off.
pub struct SetPusherRequest {
    request: set::Request,
    enabled: bool,
}
stands_in_for!(SetPusherRequest, set::Request);

reads!(SetPusherRequest => set::Response, |request, path_args| {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "org.matrix.msc3881.enabled")]
        enabled: Option<bool>,
    }
    let Body { enabled } = own::body(&request)?;
    let request = set::Request::try_from_http_request_inner(request, path_args)?;
    Self { request, enabled: enabled.unwrap_or(true) }
});

/// `POST /_matrix/client/v3/pushers/set`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3pushersset))
pub async fn post_pusher(server: &Server, user: User, req: SetPusherRequest) -> Result<set::Response> {
    if let PusherAction::Post(data) = &req.request.action
        && matches!(data.pusher.kind, PusherKind::Email(_))
        && !server.mailer.is_configured()
    {
        return Err(Error::invalid_param("This server sends no mails."));
    }
    server.store.write(|tx| match &req.request.action {
        PusherAction::Post(data) => {
            pushers::set(tx, &user.id, user.require_device()?, &data.pusher, data.append, !req.enabled)
        }
        PusherAction::Delete(ids) => pushers::delete(tx, &user.id, ids),
        _ => Ok(()),
    })?;
    Ok(set::Response::new())
}
