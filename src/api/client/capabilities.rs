//! What a user may do here (spec: client-server API, "Capabilities negotiation").

use ruma::api::client::discovery::get_capabilities::v3::Request;
use serde_json::{Map, Value as JsonValue, json};

use crate::{
    answers_json,
    api::{auth::User, own::Json, uiaa},
    error::Result,
    server::Server,
    users::accounts,
};

answers_json! {
    /// Ruma's type leaves out capabilities that are as the specification assumes; clients look for them nevertheless.
    pub struct CapabilitiesRequest(Request) => JsonValue;
}

/// `GET /_matrix/client/v3/capabilities`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3capabilities))
pub async fn get_capabilities(server: &Server, user: User, _: CapabilitiesRequest) -> Result<Json<JsonValue>> {
    let account = accounts::require(&server.store.read(), &user.id)?;
    let has_password = account.password_hash.is_some();
    let room_versions: Map<_, _> = (1..=12).map(|version| (version.to_string(), json!("stable"))).collect();
    let profile_fields =
        if user.guest { json!({ "enabled": true, "allowed": ["displayname"] }) } else { json!({ "enabled": true }) };
    let mut answer = json!({
        "capabilities": {
            "m.change_password": { "enabled": has_password },
            "m.room_versions": { "default": server.config().default_room_version, "available": room_versions },
            "m.set_displayname": { "enabled": true },
            "m.set_avatar_url": { "enabled": !user.guest },
            "m.3pid_changes": { "enabled": server.mailer.is_configured() },
            "m.get_login_token": { "enabled": has_password || uiaa::is_linked(server, &account) },
            // Not under its name as a proposal as well: some clients take both for one field and refuse the answer.
            "m.profile_fields": profile_fields,
        }
    });
    // MSC4140, which has no version of the specification yet.
    let delayed = &server.config().delayed_events;
    if !delayed.max_delay.is_zero() {
        let limits = json!({ "max_delay_ms": delayed.max_delay.as_millis(), "max_scheduled": delayed.max_per_user });
        answer["capabilities"]["org.matrix.msc4140.delayed_events"] = limits.clone();
        answer["capabilities"]["m.delayed_events"] = limits;
    }
    if account.admin {
        answer["capabilities"]["m.account_moderation"] = json!({ "lock": true, "suspend": true });
    }
    Ok(Json(answer))
}
