//! Push rules: reading and changing them.

use ruma::{
    api::client::push::{
        PushRule, delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled, get_pushrules_all,
        get_pushrules_global_scope, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
    },
    push::{
        Action, NewConditionalPushRule, NewPatternedPushRule, NewPushRule, NewSimplePushRule, PushCondition, Ruleset,
    },
};
use serde::Deserialize;

use crate::{
    api::{auth::User, own},
    error::Result,
    push::rules,
    reads,
    rooms::notifications,
    server::Server,
    stands_in_for,
};

/// The caller's rules.
fn ruleset(server: &Server, user: &User) -> Result<Ruleset> {
    notifications::ruleset(&server.store.read(), &user.id)
}

/// Changes the caller's rules.
fn change(server: &Server, user: &User, change: impl FnOnce(&mut Ruleset) -> Result<()>) -> Result<()> {
    server.store.write(|tx| {
        let mut ruleset = notifications::ruleset(tx, &user.id)?;
        change(&mut ruleset)?;
        notifications::set_ruleset(tx, &server.rooms.rosters, &user.id, &ruleset)
    })
}

/// `GET /_matrix/client/v3/pushrules/`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3pushrules))
pub async fn get_push_rules(
    server: &Server,
    user: User,
    _: get_pushrules_all::v3::Request,
) -> Result<get_pushrules_all::v3::Response> {
    Ok(get_pushrules_all::v3::Response::new(ruleset(server, &user)?))
}

/// `GET /_matrix/client/v3/pushrules/global/`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3pushrulesglobal))
pub async fn get_push_rules_global(
    server: &Server,
    user: User,
    _: get_pushrules_global_scope::v3::Request,
) -> Result<get_pushrules_global_scope::v3::Response> {
    Ok(get_pushrules_global_scope::v3::Response::new(ruleset(server, &user)?))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3pushrulesglobalkindruleid))
pub async fn get_push_rule(
    server: &Server,
    user: User,
    req: get_pushrule::v3::Request,
) -> Result<get_pushrule::v3::Response> {
    let ruleset = ruleset(server, &user)?;
    let rule = rules::find(&ruleset, req.kind, &req.rule_id)?;
    Ok(get_pushrule::v3::Response::new(PushRule::from(rule)))
}

/// `DELETE /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3pushrulesglobalkindruleid))
pub async fn delete_push_rule(
    server: &Server,
    user: User,
    req: delete_pushrule::v3::Request,
) -> Result<delete_pushrule::v3::Response> {
    change(server, &user, |ruleset| rules::remove(ruleset, req.kind, &req.rule_id))?;
    Ok(delete_pushrule::v3::Response::new())
}

/// A push rule to set. Ruma's type wants the conditions of override and underride rules, which can be absent.
pub struct SetPushRuleRequest {
    rule: NewPushRule,
    before: Option<String>,
    after: Option<String>,
}

stands_in_for!(SetPushRuleRequest, set_pushrule::v3::Request);

reads!(SetPushRuleRequest => set_pushrule::v3::Response, |request, path_args| {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Override,
        Underride,
        Sender,
        Room,
        Content,
    }
    #[derive(Deserialize)]
    struct Query {
        before: Option<String>,
        after: Option<String>,
    }
    #[derive(Deserialize)]
    struct Body {
        actions: Vec<Action>,
        #[serde(default)]
        conditions: Vec<PushCondition>,
    }
    #[derive(Deserialize)]
    struct PatternBody {
        pattern: String,
    }
    let (kind, id): (Kind, String) = own::path(path_args)?;
    let Query { before, after } = own::query(&request)?;
    let Body { actions, conditions } = own::body(&request)?;
    let rule = match kind {
        Kind::Override => NewPushRule::Override(NewConditionalPushRule::new(id, conditions, actions)),
        Kind::Underride => NewPushRule::Underride(NewConditionalPushRule::new(id, conditions, actions)),
        Kind::Sender => NewPushRule::Sender(NewSimplePushRule::new(id.try_into()?, actions)),
        Kind::Room => NewPushRule::Room(NewSimplePushRule::new(id.try_into()?, actions)),
        Kind::Content => {
            let PatternBody { pattern } = own::body(&request)?;
            NewPushRule::Content(NewPatternedPushRule::new(id, pattern, actions))
        }
    };
    Self { rule, before, after }
});

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3pushrulesglobalkindruleid))
pub async fn set_push_rule(server: &Server, user: User, req: SetPushRuleRequest) -> Result<set_pushrule::v3::Response> {
    let SetPushRuleRequest { rule, before, after } = req;
    change(server, &user, |ruleset| rules::insert(ruleset, rule, before.as_deref(), after.as_deref()))?;
    Ok(set_pushrule::v3::Response::new())
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3pushrulesglobalkindruleidenabled))
pub async fn is_push_rule_enabled(
    server: &Server,
    user: User,
    req: get_pushrule_enabled::v3::Request,
) -> Result<get_pushrule_enabled::v3::Response> {
    let ruleset = ruleset(server, &user)?;
    let enabled = rules::find(&ruleset, req.kind, &req.rule_id)?.enabled();
    Ok(get_pushrule_enabled::v3::Response::new(enabled))
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3pushrulesglobalkindruleidenabled))
pub async fn set_push_rule_enabled(
    server: &Server,
    user: User,
    req: set_pushrule_enabled::v3::Request,
) -> Result<set_pushrule_enabled::v3::Response> {
    change(server, &user, |ruleset| rules::set_enabled(ruleset, req.kind, &req.rule_id, req.enabled))?;
    Ok(set_pushrule_enabled::v3::Response::new())
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3pushrulesglobalkindruleidactions))
pub async fn get_push_rule_actions(
    server: &Server,
    user: User,
    req: get_pushrule_actions::v3::Request,
) -> Result<get_pushrule_actions::v3::Response> {
    let ruleset = ruleset(server, &user)?;
    let actions = rules::find(&ruleset, req.kind, &req.rule_id)?.actions().to_vec();
    Ok(get_pushrule_actions::v3::Response::new(actions))
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3pushrulesglobalkindruleidactions))
pub async fn set_push_rule_actions(
    server: &Server,
    user: User,
    req: set_pushrule_actions::v3::Request,
) -> Result<set_pushrule_actions::v3::Response> {
    change(server, &user, |ruleset| rules::set_actions(ruleset, req.kind, &req.rule_id, req.actions))?;
    Ok(set_pushrule_actions::v3::Response::new())
}
