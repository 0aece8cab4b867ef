//! A user's ruleset: how it is kept, and the changes that the API knows
//! ([spec](https://spec.matrix.org/latest/client-server-api/#push-rules-api)).
//!
//! The ruleset is the user's `m.push_rules` account data: that is how clients see it in `/sync`. Users who changed
//! nothing have none, and the server-default rules apply. Stored default rules keep what the user changed about them
//! (enabled, actions); for the rest the rules of this version of the program hold.
//!
//! All functions are pure: who reads and writes the account data is `rooms/notifications/rules.rs`.

use ruma::{
    UserId,
    api::error::ErrorKind,
    push::{
        Action, AnyPushRuleRef, ConditionalPushRule, ConditionalPushRuleInit, EventMatchConditionData, NewPushRule,
        PushCondition, RemovePushRuleError, RuleKind, Ruleset,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::glob::{self, Glob};
use crate::error::{Error, Result};

/// The type of the account data that holds a user's ruleset.
pub const ACCOUNT_DATA: &str = "m.push_rules";

/// How many rules a user can have, those by default included.
const MAX_RULES: usize = 1000;

/// The longest ruleset, in bytes of JSON.
const MAX_BYTES: usize = 256 * 1024;

/// The longest ID of a rule, in bytes.
const MAX_ID: usize = 255;

/// The one default rule that stands above the users' own.
const MASTER: &str = ".m.rule.master";

#[derive(Serialize, Deserialize)]
struct Content {
    global: Ruleset,
}

/// The server-default rules for `user`, as the specification lists them; with those of proposals: for polls (MSC3930), and
/// one, disabled, by which clients that look at encrypted events themselves are pushed all of them (MSC4028).
pub fn defaults(user: &UserId) -> Ruleset {
    let mut rules = Ruleset::server_default(user);
    // Those of MSC4306, a proposal as well, are for users who follow threads (`rooms/thread_subscriptions.rs`).
    rules.postcontent.clear();
    let (at, _) = rules.override_.insert_full(encrypted_event());
    // Next below the master rule.
    rules.override_.move_index(at, 1);
    rules
}

fn encrypted_event() -> ConditionalPushRule {
    let is_encrypted = EventMatchConditionData::new("type".to_owned(), "m.room.encrypted".to_owned());
    ConditionalPushRuleInit {
        rule_id: ".org.matrix.msc4028.encrypted_event".to_owned(),
        default: true,
        enabled: false,
        conditions: vec![PushCondition::EventMatch(is_encrypted)],
        actions: vec![Action::Notify],
    }
    .into()
}

/// The ruleset that the user's account data holds, or the default one.
pub fn parse(user: &UserId, content: Option<&RawValue>) -> Ruleset {
    let stored = content.and_then(|content| serde_json::from_str::<Content>(content.get()).ok());
    match stored {
        Some(Content { global: mut rules }) => {
            rules.update_with_server_default(defaults(user));
            rules
        }
        None => defaults(user),
    }
}

/// The ruleset as account data.
///
/// # Errors
/// 413 `M_TOO_LARGE` when it has grown beyond what a user can have.
pub fn to_account_data(rules: &Ruleset) -> Result<Box<RawValue>> {
    let content = serde_json::value::to_raw_value(&Content { global: rules.clone() })?;
    if rules.iter().count() > MAX_RULES || content.get().len() > MAX_BYTES {
        return Err(Error::too_large("These are more push rules than a user can have."));
    }
    Ok(content)
}

/// The rule of this kind and ID.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn find<'a>(rules: &'a Ruleset, kind: RuleKind, id: &str) -> Result<AnyPushRuleRef<'a>> {
    rules.get(kind, id).ok_or_else(not_found)
}

fn not_found() -> Error {
    Error::not_found("There is no such push rule.")
}

/// Adds a rule, or changes the one with its kind and ID. It goes next above the rule `before`, or next below `after`;
/// with neither, a new rule goes to the top and an old one stays where it is. Whether it is enabled stays as it was.
///
/// # Errors
/// 400 `M_INVALID_PARAM` for an ID or pattern that cannot be, or a place relative to a default rule; `M_UNKNOWN` when
/// there is no rule `before` or `after`.
pub fn insert(rules: &mut Ruleset, rule: NewPushRule, before: Option<&str>, after: Option<&str>) -> Result<()> {
    check(&rule, before, after)?;
    macro_rules! place {
        ($list:ident, $rule:expr) => {{
            let mut rule = $rule;
            let mut list: Vec<_> = std::mem::take(&mut rules.$list).into_iter().collect();
            let id = |index: usize| list.get(index).map_or("", |rule| AsRef::<str>::as_ref(&rule.rule_id));
            let old = (0..list.len()).find(|index| id(*index) == AsRef::<str>::as_ref(&rule.rule_id));
            let ids = (0..list.len()).filter(|index| Some(*index) != old).map(id);
            let place = place(&ids.collect::<Vec<_>>(), old, before, after)?;
            if let Some(old) = old {
                rule.enabled = list.remove(old).enabled;
            }
            list.insert(place, rule.into());
            rules.$list = list.into_iter().collect();
        }};
    }
    match rule {
        NewPushRule::Override(rule) => place!(override_, ruma::push::ConditionalPushRule::from(rule)),
        NewPushRule::Underride(rule) => place!(underride, ruma::push::ConditionalPushRule::from(rule)),
        NewPushRule::Content(rule) => place!(content, ruma::push::PatternedPushRule::from(rule)),
        NewPushRule::Room(rule) => place!(room, ruma::push::SimplePushRule::from(rule)),
        NewPushRule::Sender(rule) => place!(sender, ruma::push::SimplePushRule::from(rule)),
        _ => return Err(Error::invalid_param("The server does not know this kind of push rule.")),
    }
    Ok(())
}

/// Where among the other rules, given by their IDs, a rule goes that stood at `old`.
fn place(others: &[&str], old: Option<usize>, before: Option<&str>, after: Option<&str>) -> Result<usize> {
    let find = |id: &str| {
        let message = || format!("before/after rule not found: {id}");
        others.iter().position(|other| *other == id).ok_or_else(|| Error::bad_request(ErrorKind::Unknown, message()))
    };
    let above = after.map(find).transpose()?;
    Ok(match (before, above, old) {
        (Some(before), ..) => find(before)?,
        (None, Some(above), _) => above + 1,
        (None, None, Some(old)) => old,
        (None, None, None) => usize::from(others.first() == Some(&MASTER)),
    })
}

/// Checks what the specification forbids about new rules.
fn check(rule: &NewPushRule, before: Option<&str>, after: Option<&str>) -> Result<()> {
    let id = rule.rule_id();
    if id.starts_with('.') {
        return Err(Error::invalid_param("IDs that start with a dot are those of the server-default rules."));
    }
    if id.is_empty() || id.len() > MAX_ID || id.contains(['/', '\\']) {
        return Err(Error::invalid_param(format!(
            "The ID of a push rule has between 1 and {MAX_ID} bytes, none of them a slash or backslash."
        )));
    }
    if before.into_iter().chain(after).any(|id| id.starts_with('.')) {
        return Err(Error::invalid_param("A rule cannot be placed relative to a server-default rule."));
    }
    let too_long = match rule {
        NewPushRule::Content(rule) => Glob::new(&rule.pattern).is_too_long(),
        NewPushRule::Override(rule) | NewPushRule::Underride(rule) => rule.conditions.iter().any(
            |condition| matches!(condition, PushCondition::EventMatch(data) if Glob::new(&data.pattern).is_too_long()),
        ),
        _ => false,
    };
    if too_long {
        let message = format!("A pattern with wildcards must not have more than {} characters.", glob::MAX_WILD);
        return Err(Error::invalid_param(message));
    }
    Ok(())
}

/// Removes a rule that the user made.
///
/// # Errors
/// 404 `M_NOT_FOUND`; 400 `M_INVALID_PARAM` for a server-default rule.
pub fn remove(rules: &mut Ruleset, kind: RuleKind, id: &str) -> Result<()> {
    rules.remove(kind, id).map_err(|error| match error {
        RemovePushRuleError::ServerDefault => {
            Error::invalid_param("Server-default rules cannot be deleted, only disabled.")
        }
        _ => not_found(),
    })
}

/// Enables or disables a rule.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn set_enabled(rules: &mut Ruleset, kind: RuleKind, id: &str, enabled: bool) -> Result<()> {
    rules.set_enabled(kind, id, enabled).map_err(|_| not_found())
}

/// Changes what a rule does.
///
/// # Errors
/// 404 `M_NOT_FOUND`.
pub fn set_actions(rules: &mut Ruleset, kind: RuleKind, id: &str, actions: Vec<Action>) -> Result<()> {
    rules.set_actions(kind, id, actions).map_err(|_| not_found())
}

#[cfg(test)]
mod tests {
    use ruma::push::{NewPatternedPushRule, NewSimplePushRule};
    use ruma::user_id;

    use super::*;

    fn content(id: &str) -> NewPushRule {
        NewPushRule::Content(NewPatternedPushRule::new(id.to_owned(), id.to_owned(), vec![Action::Notify]))
    }

    fn order(rules: &Ruleset) -> Vec<&str> {
        rules.content.iter().map(|rule| rule.rule_id.as_str()).collect()
    }

    #[test]
    fn rules_go_where_they_are_told() {
        let mut rules = defaults(user_id!("@a:b"));
        insert(&mut rules, content("a"), None, None).unwrap();
        insert(&mut rules, content("b"), None, None).unwrap();
        assert_eq!(order(&rules), ["b", "a"]);
        insert(&mut rules, content("c"), None, Some("a")).unwrap();
        insert(&mut rules, content("d"), Some("a"), None).unwrap();
        assert_eq!(order(&rules), ["b", "d", "a", "c"]);
        insert(&mut rules, content("b"), None, Some("c")).unwrap();
        assert_eq!(order(&rules), ["d", "a", "c", "b"]);
        insert(&mut rules, content("b"), Some("d"), Some("d")).unwrap();
        assert_eq!(order(&rules), ["b", "d", "a", "c"]);
        insert(&mut rules, content("d"), None, None).unwrap();
        assert_eq!(order(&rules), ["b", "d", "a", "c"]);
        assert!(insert(&mut rules.clone(), content("e"), Some("nobody"), None).is_err());
        assert!(insert(&mut rules.clone(), content(".e"), None, None).is_err());
        assert!(insert(&mut rules.clone(), content("e"), Some(".m.rule.master"), None).is_err());
    }

    #[test]
    fn own_rules_stand_below_master_only_and_survive_storage() {
        let user = user_id!("@a:b");
        let mut rules = defaults(user);
        let new = ruma::push::NewConditionalPushRule::new("mine".to_owned(), vec![], vec![]);
        insert(&mut rules, NewPushRule::Override(new), None, None).unwrap();
        let sender = NewSimplePushRule::new(user.to_owned(), vec![Action::Notify]);
        insert(&mut rules, NewPushRule::Sender(sender), None, None).unwrap();
        set_enabled(&mut rules, RuleKind::Override, MASTER, true).unwrap();
        let stored = to_account_data(&rules).unwrap();
        let back = parse(user, Some(&stored));
        let heads: Vec<_> = back.override_.iter().map(|rule| rule.rule_id.as_str()).take(4).collect();
        let wanted = [MASTER, "mine", ".org.matrix.msc4028.encrypted_event", ".m.rule.suppress_notices"];
        assert_eq!(heads, wanted);
        assert!(back.override_[0].enabled && back.sender.len() == 1);
        assert_eq!(to_account_data(&back).unwrap().get(), stored.get());
        assert!(remove(&mut rules, RuleKind::Override, MASTER).is_err());
        remove(&mut rules, RuleKind::Override, "mine").unwrap();
        assert!(find(&rules, RuleKind::Override, "mine").is_err());
    }
}
