//! Which state a client of sliding sync wants of a room.
//!
//! A rule (a list or a subscription) brings one [`Required`]; a room that several rules match gets the union, kept as
//! the list of them. In the form that clients use today, `*` stands for any type or key, `$ME` for the user, and
//! `["m.room.member", "$LAZY"]` for the members that the timeline needs; the accepted form says the same with
//! `include`, `exclude` and `lazy_members`. While members are lazy, only those named by their very ID are included
//! besides (MSC4186, "Lazy loaded memberships").

use std::sync::Arc;

use ruma::{UserId, events::StateEventType};
use serde::Deserialize;

/// The state wanted by one rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Required {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    lazy: bool,
}

/// A set of state keys: absent means any.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Pattern {
    /// The event type.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// The state key.
    state_key: Option<String>,
}

/// `required_state` of the accepted proposal.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RequiredRequest {
    #[serde(default)]
    include: Vec<Pattern>,
    #[serde(default)]
    exclude: Vec<Pattern>,
    #[serde(default)]
    lazy_members: bool,
}

const MEMBER: &str = "m.room.member";

impl Pattern {
    fn matches(&self, kind: &str, key: &str) -> bool {
        self.kind.as_ref().is_none_or(|own| own == kind) && self.state_key.as_ref().is_none_or(|own| own == key)
    }
}

impl Required {
    /// From the pairs of the unstable form, for `user`.
    pub fn from_pairs(pairs: Vec<(String, String)>, user: &UserId) -> Self {
        let mut required = Self::default();
        for (kind, key) in pairs {
            if kind == MEMBER && key == "$LAZY" {
                required.lazy = true;
                continue;
            }
            let key = if key == "$ME" { user.to_string() } else { key };
            required
                .include
                .push(Pattern { kind: (kind != "*").then_some(kind), state_key: (key != "*").then_some(key) });
        }
        required
    }

    /// From the accepted form.
    pub fn from_request(request: RequiredRequest) -> Self {
        Self { include: request.include, exclude: request.exclude, lazy: request.lazy_members }
    }

    fn matches(&self, kind: &str, key: &str) -> bool {
        let exact_only = self.lazy && kind == MEMBER;
        self.include.iter().any(|pattern| {
            pattern.matches(kind, key) && (!exact_only || (pattern.kind.is_some() && pattern.state_key.is_some()))
        }) && !self.exclude.iter().any(|pattern| pattern.matches(kind, key))
    }
}

/// What a room is to be sent with: the union of the rules that match it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoomConfig {
    /// How many events of the timeline at most.
    pub timeline_limit: usize,
    required: Vec<Arc<Required>>,
}

/// How the state that a [`RoomConfig`] wants is best found.
#[derive(Debug, PartialEq, Eq)]
pub enum Search {
    /// By looking these up.
    Keys(Vec<(StateEventType, String)>),
    /// By looking through everything but the members, and at these members.
    Others(Vec<String>),
    /// By looking through everything.
    All,
}

impl RoomConfig {
    /// The config of one rule.
    pub fn new(timeline_limit: usize, required: Arc<Required>) -> Self {
        Self { timeline_limit, required: vec![required] }
    }

    /// Adds what another rule wants (MSC4186, "Combining room configs").
    pub fn join(&mut self, other: &Self) {
        self.timeline_limit = self.timeline_limit.max(other.timeline_limit);
        for required in &other.required {
            if !self.required.contains(required) {
                self.required.push(required.clone());
            }
        }
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let patterns = |required: &Arc<Required>| required.include.len() + required.exclude.len();
        let patterns: usize = self.required.iter().map(patterns).sum();
        size_of::<Self>() + patterns * (size_of::<Pattern>() + 32)
    }

    /// Whether the state event of this type and key is wanted for its own sake.
    pub fn wants(&self, kind: &str, key: &str) -> bool {
        self.required.iter().any(|required| required.matches(kind, key))
    }

    /// Whether the members that the timeline needs are wanted; not where all are sent anyway.
    pub fn lazy_members(&self) -> bool {
        self.required.iter().any(|required| required.lazy) && !self.wants(MEMBER, "")
    }

    /// Whether all members are wanted.
    pub fn wants_all_members(&self) -> bool {
        self.search() == Search::All && self.wants(MEMBER, "")
    }

    /// How to find what is wanted without looking at more of the state than needed.
    pub fn search(&self) -> Search {
        let (mut keys, mut members) = (Vec::new(), Vec::new());
        let mut wild = false;
        for required in &self.required {
            for pattern in &required.include {
                match (&pattern.kind, &pattern.state_key) {
                    (Some(kind), Some(key)) => {
                        if kind == MEMBER {
                            members.push(key.clone());
                        }
                        keys.push((StateEventType::from(kind.as_str()), key.clone()));
                    }
                    (Some(kind), None) if kind != MEMBER => wild = true,
                    _ if required.lazy => wild = true,
                    // Any type with one key: the member with that key, and others.
                    (None, Some(key)) => {
                        wild = true;
                        members.push(key.clone());
                    }
                    _ => return Search::All,
                }
            }
        }
        if wild { Search::Others(members) } else { Search::Keys(keys) }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn config(pairs: &[(&str, &str)]) -> RoomConfig {
        let pairs = pairs.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned())).collect();
        RoomConfig::new(1, Arc::new(Required::from_pairs(pairs, user_id!("@me:x"))))
    }

    #[test]
    fn pairs() {
        let some = config(&[("m.room.name", ""), ("m.space.child", "*"), (MEMBER, "$ME"), (MEMBER, "$LAZY")]);
        assert!(some.wants("m.room.name", "") && some.wants("m.space.child", "!a") && some.wants(MEMBER, "@me:x"));
        assert!(!some.wants("m.room.topic", "") && !some.wants(MEMBER, "@you:x"));
        assert!(some.lazy_members());
        assert_eq!(some.search(), Search::Others(vec!["@me:x".to_owned()]));
        assert!(matches!(config(&[("m.room.name", "")]).search(), Search::Keys(keys) if keys.len() == 1));
        assert_eq!(config(&[("*", "*")]).search(), Search::All);
    }

    #[test]
    fn lazy_members_are_left_out_of_wildcards() {
        let lazy = config(&[("*", "*"), (MEMBER, "$LAZY"), (MEMBER, "@friend:x")]);
        assert!(lazy.wants("m.room.name", "") && lazy.wants(MEMBER, "@friend:x") && !lazy.wants(MEMBER, "@you:x"));
        let mut both = lazy.clone();
        both.join(&config(&[(MEMBER, "*")]));
        assert!(both.wants(MEMBER, "@you:x") && !both.lazy_members());
    }

    #[test]
    fn accepted_form() {
        let request: RequiredRequest = serde_json::from_str(
            r#"{"include": [{}], "exclude": [{"type": "m.room.create", "state_key": ""}], "lazy_members": false}"#,
        )
        .unwrap();
        let config = RoomConfig::new(1, Arc::new(Required::from_request(request)));
        assert!(config.wants("m.room.name", "") && !config.wants("m.room.create", ""));
        assert_eq!(config.search(), Search::All);
    }
}
