//! Profiles of other servers' users.

use std::{sync::Arc, time::Duration};

use ruma::{UserId, api::federation::query::get_profile_information};
use serde_json::{Map, Value};

use super::{Federation, Limits};
use crate::{error::Result, outgoing::appservices, users::profiles};

/// The largest profile that is looked at, in bytes: a little more than a profile may have.
const LIMITS: Limits = Limits { body: 128 * 1024, timeout: Duration::from_secs(10), redirects: 0 };

/// The whole profile of a user, of whatever server. What shows in membership events is there only if it is a string
/// that is not empty.
///
/// # Errors
/// 404 `M_NOT_FOUND` when there is no such user; those of [`Failure`](super::Failure) when their server cannot be asked.
pub async fn profile(federation: &Federation, user: &UserId) -> Result<Map<String, Value>> {
    let server = user.server_name();
    if server == federation.server_name() {
        let store = &federation.rooms.store;
        appservices::query_user_id(&federation.outgoing, &federation.appservices, store, user).await?;
        let profile = profiles::of_account(&store.read(), user)?;
        return Ok(profile.fields.into_iter().collect());
    }
    let ask = async {
        let request = get_profile_information::v1::Request::new(user.to_owned());
        let mut fields: Map<_, _> = federation.send_with(server, request, LIMITS).await?.into_iter().collect();
        let is_set = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        fields.retain(|name, value| is_set(value) || !profiles::is_shown(name));
        let bytes = fields.iter().map(|(name, value)| name.len() + value.to_string().len() + 64).sum();
        Ok((Arc::new(fields), bytes))
    };
    Ok(Arc::unwrap_or_clone(federation.answers.profiles.get_or(user, ask).await?))
}
