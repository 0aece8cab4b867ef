//! Whose invitations a user wants: none
//! ([spec](https://spec.matrix.org/latest/client-server-api/#invite-permission)), or by lists of users and servers
//! ([MSC4155](https://github.com/matrix-org/matrix-spec-proposals/pull/4155), a proposal). Both are account data.

use ruma::{UserId, api::error::ErrorKind};
use serde::Deserialize;

use super::account_data;
use crate::{
    config::matches,
    error::{Error, Result},
    store::Read,
};

/// What becomes of an invitation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permission {
    /// It comes.
    Allowed,
    /// It comes, but the user is not told.
    Ignored,
    /// It is refused.
    Blocked,
}

/// The lists of MSC4155, of patterns in which `*` is any text and `?` any character.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Lists {
    enabled: Option<bool>,
    allowed_users: Vec<String>,
    ignored_users: Vec<String>,
    blocked_users: Vec<String>,
    allowed_servers: Vec<String>,
    ignored_servers: Vec<String>,
    blocked_servers: Vec<String>,
}

impl Lists {
    /// What they say of `sender`: users before servers, and who is allowed before who is not.
    fn of(&self, sender: &UserId) -> Permission {
        if self.enabled == Some(false) {
            return Permission::Allowed;
        }
        let (user, server) = (sender.as_str(), sender.server_name().host());
        let rules = [
            (&self.allowed_users, user, Permission::Allowed),
            (&self.ignored_users, user, Permission::Ignored),
            (&self.blocked_users, user, Permission::Blocked),
            (&self.allowed_servers, server, Permission::Allowed),
            (&self.ignored_servers, server, Permission::Ignored),
            (&self.blocked_servers, server, Permission::Blocked),
        ];
        let fits = |patterns: &[String], name: &str| patterns.iter().any(|pattern| matches(pattern, name));
        let rule = rules.into_iter().find(|(patterns, name, _)| fits(patterns, name));
        rule.map_or(Permission::Allowed, |(_, _, permission)| permission)
    }
}

/// What becomes of an invitation of `user`, of this server, by `sender`.
///
/// # Errors
/// When the database fails or a row is damaged.
pub fn of(read: &dyn Read, user: &UserId, sender: &UserId) -> Result<Permission> {
    #[derive(Deserialize)]
    struct Config {
        default_action: Option<String>,
    }
    let stable = account_data::get(read, user, None, "m.invite_permission_config")?;
    let mut content = stable.filter(|content| !account_data::is_deleted(content));
    // Who has set it under its stable name may have left the other as it was.
    if content.is_none() {
        content = account_data::get(read, user, None, "org.matrix.msc4380.invite_permission_config")?;
    }
    let config: Option<Config> = content.and_then(|content| serde_json::from_str(content.get()).ok());
    if config.is_some_and(|config| config.default_action.as_deref() == Some("block")) {
        return Ok(Permission::Blocked);
    }
    let content = account_data::get(read, user, None, "org.matrix.msc4155.invite_permission_config")?;
    let lists: Option<Lists> = content.and_then(|content| serde_json::from_str(content.get()).ok());
    Ok(lists.map_or(Permission::Allowed, |lists| lists.of(sender)))
}

/// Refuses an invitation that the user does not want.
///
/// # Errors
/// 403 `M_INVITE_BLOCKED`.
pub fn check(read: &dyn Read, user: &UserId, sender: &UserId) -> Result<()> {
    if of(read, user, sender)? == Permission::Blocked {
        let message = format!("{user} accepts no invitations, or none of yours.");
        return Err(Error::new(http::StatusCode::FORBIDDEN, ErrorKind::InviteBlocked, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn users_come_before_servers_and_who_is_allowed_before_who_is_not() {
        let lists = Lists {
            allowed_users: vec!["@friend:*".to_owned()],
            ignored_users: vec!["@bore:ok.example".to_owned()],
            blocked_users: vec!["@spam*:*".to_owned()],
            allowed_servers: vec!["ok.example".to_owned()],
            blocked_servers: vec!["*".to_owned()],
            ..Lists::default()
        };
        for (user, permission) in [
            (user_id!("@friend:bad.example"), Permission::Allowed),
            (user_id!("@bore:ok.example"), Permission::Ignored),
            (user_id!("@spam1:ok.example"), Permission::Blocked),
            (user_id!("@someone:ok.example:8448"), Permission::Allowed),
            (user_id!("@someone:bad.example"), Permission::Blocked),
        ] {
            assert_eq!(lists.of(user), permission, "{user}");
        }
        let off = Lists { enabled: Some(false), ..lists };
        assert_eq!(off.of(user_id!("@spam1:bad.example")), Permission::Allowed);
        assert_eq!(Lists::default().of(user_id!("@a:b")), Permission::Allowed);
    }
}
