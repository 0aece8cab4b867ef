//! Rulesets as they matter in one room.
//!
//! A user's ruleset is reduced to what can match in the room, with patterns ready to match and with the user's own ID
//! replaced by a marker. Users whose reduced rules are equal are of one *class*: an event has the same outcome for all
//! of them, but for those whom it names (`m.mentions`, state key), and is matched once. Most users of most rooms are of
//! the default class, that of the server-default rules; muting a room makes one class of all who do so.
//!
//! The outcome is what ruma's `Ruleset::get_actions` gives, reduced to "notify" and "highlight" (tested against it). Its
//! own matching is not used: it takes one user at a time, compiles each pattern anew, and recurses through the text.

use std::{collections::HashSet, ops::RangeBounds};

use ring::digest;
use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::TimelineEventType,
    power_levels::NotificationPowerLevelsKey,
    push::{
        Action, AnyPushRuleRef, FlattenedJson, FlattenedJsonValue, PushCondition, RoomMemberCountIs, Ruleset,
        ScalarJsonValue,
    },
    serde::{Base64, Raw, base64::UrlSafe},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::glob::Glob;
use crate::error::Result;

/// Where an event names the users it mentions.
const MENTIONS: &str = r"content.m\.mentions.user_ids";

/// What an event does to a user's counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// It counts as a notification.
    pub notify: bool,
    /// It counts as a highlight as well.
    pub highlight: bool,
}

impl Outcome {
    fn of(actions: &[Action]) -> Self {
        let notify = actions.iter().any(Action::should_notify);
        Self { notify, highlight: notify && actions.iter().any(Action::is_highlight) }
    }
}

/// A ruleset, reduced.
#[derive(Clone, Debug)]
pub struct Compiled {
    rules: Vec<Rule>,
    /// Where in the ruleset each of `rules` stands.
    places: Vec<usize>,
    class: String,
    by_name: bool,
    by_thread: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    conditions: Vec<Condition>,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// A property of the event matches.
    Matches(String, Glob),
    /// Words of the body match.
    Words(Glob),
    /// A property of the event is this.
    Is(String, ScalarJsonValue),
    /// A list in the event holds this.
    Contains(String, ScalarJsonValue),
    /// The event's state key is the user's ID.
    OwnStateKey,
    /// The event mentions the user.
    OwnMention,
    /// The body holds the user's display name in the room.
    OwnName,
    /// The room has so many members.
    Members(RoomMemberCountIs),
    /// The sender has the power to notify in this way.
    SenderMay(NotificationPowerLevelsKey),
    /// The event is in a thread that the user follows, or one that the user does not (MSC4306, a proposal).
    Thread(bool),
}

/// An event, ready to be matched.
pub struct Facts<'a> {
    /// Its flattened properties.
    event: FlattenedJson,
    /// Its body in lower case.
    body: Option<String>,
    /// Whether it is in a thread.
    in_thread: bool,
    /// The number of joined members of its room.
    pub members: u64,
    /// Whether its sender has the power for this kind of notification.
    pub sender_may: &'a dyn Fn(&NotificationPowerLevelsKey) -> Result<bool>,
}

/// The user that an event is matched for.
#[derive(Clone, Copy)]
pub struct Me<'a> {
    /// The user's ID.
    pub id: &'a UserId,
    /// The user's display name in the room.
    pub name: Option<&'a str>,
    /// Whether the user follows the thread that the event is in.
    pub follows: bool,
}

/// The properties of an event that rules can look at, in the format of clients.
#[derive(Serialize)]
pub struct Properties<'a> {
    /// The event's ID.
    pub event_id: &'a str,
    /// Its room.
    pub room_id: &'a RoomId,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: &'a TimelineEventType,
    /// Who sent it.
    pub sender: &'a UserId,
    /// Its state key, if it is a state event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_key: Option<&'a str>,
    /// When it was sent.
    pub origin_server_ts: u64,
    /// Its content.
    pub content: &'a RawValue,
}

impl<'a> Facts<'a> {
    /// An event in a room with `members` joined members.
    ///
    /// # Errors
    /// When the event is no JSON.
    pub fn new(
        properties: &Properties<'_>,
        members: u64,
        sender_may: &'a dyn Fn(&NotificationPowerLevelsKey) -> Result<bool>,
    ) -> Result<Self> {
        let event = FlattenedJson::from_raw(&Raw::new(properties)?);
        let body = event.get_str("content.body").map(str::to_lowercase);
        let in_thread = event.get_str(r"content.m\.relates_to.rel_type") == Some("m.thread");
        Ok(Self { event, body, in_thread, members, sender_may })
    }

    /// The user IDs that the event names, for which its outcome may differ from that for their class. In lower case,
    /// since patterns ignore case.
    pub fn named(&self) -> HashSet<String> {
        let mentions = self.event.get(MENTIONS).and_then(FlattenedJsonValue::as_array).unwrap_or_default();
        let mentions = mentions.iter().filter_map(ScalarJsonValue::as_str);
        mentions
            .chain(self.event.get_str("state_key"))
            .filter(|id| id.starts_with('@'))
            .map(str::to_lowercase)
            .collect()
    }
}

impl Compiled {
    /// Reduces the rules of `user` to those that can match in `room`.
    pub fn new(ruleset: &Ruleset, user: &UserId, room: &RoomId) -> Self {
        let (mut rules, mut places) = (Vec::new(), Vec::new());
        for (place, rule) in ruleset.iter().enumerate().filter(|(_, rule)| rule.enabled()) {
            let Some(conditions) = conditions(rule, user, room) else { continue };
            let always = conditions.is_empty();
            places.push(place);
            rules.push(Rule { conditions, outcome: Outcome::of(rule.actions()) });
            if always {
                break;
            }
        }
        // Not to match is to do nothing.
        while rules.last().is_some_and(|rule| rule.outcome == Outcome::default()) {
            rules.pop();
        }
        let by_name = rules.iter().any(|rule| rule.conditions.contains(&Condition::OwnName));
        let by_thread = rules.iter().flat_map(|rule| &rule.conditions).any(|it| matches!(it, Condition::Thread(_)));
        let class = digest::digest(&digest::SHA256, format!("{rules:?}").as_bytes());
        let class = Base64::<UrlSafe, _>::new(class.as_ref().get(..12).unwrap_or_default()).encode();
        Self { rules, places, class, by_name, by_thread }
    }

    /// The name of the class of all users with equal rules: short, and not empty.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Whether two users' rules are equal.
    pub fn same(&self, other: &Self) -> bool {
        self.rules == other.rules
    }

    /// Whether the outcome depends on the user's display name, so that even users of one class must be told apart.
    pub fn by_name(&self) -> bool {
        self.by_name
    }

    /// Whether the outcome depends on what threads the user follows. Users of a class follow none, but for those of whom
    /// that is said.
    pub fn by_thread(&self) -> bool {
        self.by_thread
    }

    /// About how many bytes it takes in memory.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.rules.iter().map(|rule| 48 + rule.conditions.len() * 160).sum::<usize>()
    }

    /// What the event does for `me`, or for any user of the class whom it does not name. The sender is nobody's
    /// business here: own events never notify.
    ///
    /// # Errors
    /// Those of [`Facts::sender_may`].
    pub fn outcome(&self, facts: &Facts<'_>, me: Option<Me<'_>>) -> Result<Outcome> {
        Ok(self.matching(facts, me)?.map(|(_, outcome)| outcome).unwrap_or_default())
    }

    /// The same, with the place in the ruleset of the rule that matches.
    ///
    /// # Errors
    /// As [`outcome`](Self::outcome).
    pub fn matching(&self, facts: &Facts<'_>, me: Option<Me<'_>>) -> Result<Option<(usize, Outcome)>> {
        'rules: for (rule, place) in self.rules.iter().zip(&self.places) {
            for condition in &rule.conditions {
                if !condition.holds(facts, me)? {
                    continue 'rules;
                }
            }
            return Ok(Some((*place, rule.outcome)));
        }
        Ok(None)
    }
}

/// The conditions under which a rule matches in the room; `None` if it never does.
fn conditions(rule: AnyPushRuleRef<'_>, user: &UserId, room: &RoomId) -> Option<Vec<Condition>> {
    match rule {
        AnyPushRuleRef::Override(rule) | AnyPushRuleRef::Underride(rule) | AnyPushRuleRef::PostContent(rule) => {
            let mut conditions = Vec::new();
            for condition in &rule.conditions {
                conditions.extend(Condition::new(condition, user, room)?);
            }
            Some(conditions)
        }
        AnyPushRuleRef::Content(rule) => Some(vec![Condition::Words(Glob::new(&rule.pattern))]),
        AnyPushRuleRef::Room(rule) => matches_room(&rule.rule_id, room).then(Vec::new),
        AnyPushRuleRef::Sender(rule) => Some(vec![sender(&rule.rule_id)]),
        _ => None,
    }
}

fn matches_room(rule_id: &OwnedRoomId, room: &RoomId) -> bool {
    Glob::new(rule_id.as_str()).matches(room.as_str())
}

fn sender(rule_id: &OwnedUserId) -> Condition {
    Condition::Matches("sender".to_owned(), Glob::new(rule_id.as_str()))
}

impl Condition {
    /// `Some(None)` for a condition that always holds in the room, `None` for one that never does.
    #[allow(deprecated)] // clients still set rules with contains_display_name
    #[allow(clippy::option_option)] // the two cases are told apart by `?` and `extend`
    fn new(condition: &PushCondition, user: &UserId, room: &RoomId) -> Option<Option<Self>> {
        Some(Some(match condition {
            PushCondition::EventMatch(data) => match data.key.as_str() {
                "room_id" => return Glob::new(&data.pattern).matches(room.as_str()).then_some(None),
                "content.body" => Self::Words(Glob::new(&data.pattern)),
                "state_key" if data.pattern == user.as_str() => Self::OwnStateKey,
                key => Self::Matches(key.to_owned(), Glob::new(&data.pattern)),
            },
            PushCondition::ContainsDisplayName => Self::OwnName,
            PushCondition::RoomMemberCount(data) => Self::Members(data.is),
            PushCondition::SenderNotificationPermission(data) => Self::SenderMay(data.key.clone()),
            PushCondition::ThreadSubscription(data) => Self::Thread(data.subscribed),
            PushCondition::EventPropertyIs(data) => Self::Is(data.key.clone(), data.value.clone()),
            PushCondition::EventPropertyContains(data) => {
                if data.key == MENTIONS && data.value.as_str() == Some(user.as_str()) {
                    Self::OwnMention
                } else {
                    Self::Contains(data.key.clone(), data.value.clone())
                }
            }
            // "Unrecognised conditions MUST NOT match any events"
            _ => return None,
        }))
    }

    fn holds(&self, facts: &Facts<'_>, me: Option<Me<'_>>) -> Result<bool> {
        let event = &facts.event;
        Ok(match self {
            Self::Matches(key, glob) => event.get_str(key).is_some_and(|value| glob.matches(value)),
            Self::Words(glob) => facts.body.as_ref().is_some_and(|body| glob.matches_words(body)),
            Self::Is(key, value) => event.get(key).is_some_and(|found| found == value),
            Self::Contains(key, value) => list(event, key).contains(value),
            Self::OwnStateKey => me.is_some_and(|me| {
                event.get_str("state_key").is_some_and(|key| key.to_lowercase() == me.id.as_str().to_lowercase())
            }),
            Self::OwnMention => me
                .is_some_and(|me| list(event, MENTIONS).iter().any(|mention| mention.as_str() == Some(me.id.as_str()))),
            Self::OwnName => match (me.and_then(|me| me.name), &facts.body) {
                (Some(name), Some(body)) => Glob::new(name).matches_words(body),
                _ => false,
            },
            Self::Members(count) => ruma::UInt::try_from(facts.members).is_ok_and(|members| count.contains(&members)),
            Self::SenderMay(key) => return (facts.sender_may)(key),
            Self::Thread(wanted) => facts.in_thread && me.is_some_and(|me| me.follows) == *wanted,
        })
    }
}

fn list<'a>(event: &'a FlattenedJson, key: &str) -> &'a [ScalarJsonValue] {
    event.get(key).and_then(FlattenedJsonValue::as_array).unwrap_or_default()
}
