//! Profiles: display name, avatar, and any other field.

use http::StatusCode;
use ruma::{
    OwnedUserId, UserId,
    api::{
        auth_scheme::AccessTokenOptional,
        client::profile::{
            delete_profile_field as delete, get_profile, get_profile_field as get_field, set_profile_field,
        },
        error::ErrorKind,
    },
};
use serde_json::{Map, Value as JsonValue};

use crate::{
    answers_json,
    api::{
        auth::User,
        own::{self, Json},
    },
    error::{Error, Result},
    federation::{self, chores},
    reads,
    server::Server,
    stands_in_for,
    sync::company::Company,
    users::profiles,
};

/// A request to set a field. Ruma's refuses bodies with more than the field, and display names that are `null`; clients
/// send both.
pub struct SetFieldRequest {
    user_id: OwnedUserId,
    field: String,
    body: Map<String, JsonValue>,
}
stands_in_for!(SetFieldRequest, set_profile_field::v3::Request);

reads!(SetFieldRequest => set_profile_field::v3::Response, |request, path_args| {
    let (user_id, field) = own::path(path_args)?;
    Self { user_id, field, body: own::body(&request)? }
});

answers_json! {
    /// The fields are answered as they are kept, whatever ruma knows of their types. Who asks may matter, as the
    /// configuration says.
    pub struct GetProfileRequest(get_profile::v3::Request, AccessTokenOptional) => Map<String, JsonValue>;
}
answers_json! {
    /// As [`GetProfileRequest`].
    pub struct GetFieldRequest(get_field::v3::Request, AccessTokenOptional) => Map<String, JsonValue>;
}

/// `PUT /_matrix/client/v3/profile/{userId}/{keyName}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3profileuseridkeyname))
pub async fn set_profile_field(
    server: &Server,
    user: User,
    mut req: SetFieldRequest,
) -> Result<set_profile_field::v3::Response> {
    let value = req.body.remove(&req.field);
    profiles::check_name(&req.field)?;
    let value = value.ok_or_else(|| Error::missing_param(format!("The body must have the field {}.", req.field)))?;
    change(server, &user, &req.user_id, &req.field, Some(value)).await?;
    Ok(set_profile_field::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/profile/{userId}/{keyName}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3profileuseridkeyname))
pub async fn delete_profile_field(
    server: &Server,
    user: User,
    req: delete::v3::Request,
) -> Result<delete::v3::Response> {
    change(server, &user, &req.user_id, req.field.as_str(), None).await?;
    Ok(delete::v3::Response::new())
}

async fn change(server: &Server, user: &User, target: &UserId, field: &str, value: Option<JsonValue>) -> Result<()> {
    user.require_self(target, "You can change your own profile only.")?;
    if user.guest && field != "displayname" {
        let message = "Guests can change their display name only.";
        return Err(Error::new(StatusCode::FORBIDDEN, ErrorKind::GuestAccessForbidden, message));
    }
    let shown = server.store.write(|tx| profiles::set(tx, target, field, value))? && profiles::is_shown(field);
    if shown && !chores::show_profile(&server.federation, target, chores::AT_ONCE).await? {
        server.rooms.chores.notify_one();
    }
    Ok(())
}

/// Refuses a look-up that the administrator does not want. Bridges look up whomever they like.
fn check_lookup(server: &Server, user: Option<&User>, target: &UserId) -> Result<()> {
    let config = server.config();
    let shared_only = config.profile_lookup_in_shared_rooms_only;
    match user {
        None if shared_only || !config.allow_profile_lookup_without_auth => {
            let message = "Log in to look up profiles on this server.";
            Err(Error::new(StatusCode::UNAUTHORIZED, ErrorKind::MissingToken, message))
        }
        Some(user) if shared_only && user.appservice.is_none() => {
            match Company::new(&server.store.read(), &user.id).has(target)? {
                true => Ok(()),
                false => Err(Error::forbidden("You see the profiles of those only with whom you share a room.")),
            }
        }
        _ => Ok(()),
    }
}

/// `GET /_matrix/client/v3/profile/{userId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3profileuserid))
pub async fn get_user_profile(
    server: &Server,
    user: Option<User>,
    req: GetProfileRequest,
) -> Result<Json<Map<String, JsonValue>>> {
    check_lookup(server, user.as_ref(), &req.0.user_id)?;
    federation::profiles::profile(&server.federation, &req.0.user_id).await.map(Json)
}

/// `GET /_matrix/client/v3/profile/{userId}/{keyName}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3profileuseridkeyname))
pub async fn get_profile_field(
    server: &Server,
    user: Option<User>,
    req: GetFieldRequest,
) -> Result<Json<Map<String, JsonValue>>> {
    check_lookup(server, user.as_ref(), &req.0.user_id)?;
    let field = req.0.field.as_str();
    profiles::check_name(field)?;
    let mut profile = federation::profiles::profile(&server.federation, &req.0.user_id).await?;
    match profile.remove(field) {
        Some(value) => Ok(Json([(field.to_owned(), value)].into_iter().collect())),
        // Before there were other fields, these two were answered with an empty object. Clients still count on that: some take
        // a 404 for a fault, and go on showing a picture that was removed.
        None if profiles::is_shown(field) => Ok(Json(Map::new())),
        None => Err(Error::not_found("This user's profile has no such field.")),
    }
}
