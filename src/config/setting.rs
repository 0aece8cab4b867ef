//! What an option is to the code that reads, documents and prints options.
//!
//! [`options!`] declares a table of options once: its struct, its defaults, its documentation and its place in
//! `conduit-example.toml` all come from the same lines. A field's type says how its value is read ([`Scalar`]), so the
//! reason given for a wrong value is worded beside the type (`values.rs`).

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ruma::{
    OwnedRoomOrAliasId, OwnedServerName, RoomOrAliasId, RoomVersionId, ServerName,
    room_version_rules::RoomVersionDisposition,
};
use toml::Value;

use super::reload::{Changes, needs_restart};

/// A field of a table of options.
pub(crate) trait Setting {
    /// Takes the given value, or says in the words after "key: " why it cannot be taken.
    fn read(&mut self, value: &Value) -> Result<(), String>;

    /// The value as TOML; nothing for an option that is not set.
    fn write(&self) -> Option<String>;

    /// The options below this one.
    fn table(&mut self) -> Option<&mut dyn Table> {
        None
    }

    /// Whether the value must not be shown, and may also be read from a file with the key `<name>_file`.
    fn is_secret(&self) -> bool {
        false
    }

    /// Notes if the value of the option at `path` differs from the one in effect, which it then keeps if it cannot
    /// change while the server runs.
    fn succeed(&mut self, running: &Self, path: &str, changes: &mut Changes)
    where
        Self: Clone + PartialEq,
    {
        if self == running {
        } else if needs_restart(path) {
            self.clone_from(running);
            changes.at_restart.push(path.to_owned());
        } else {
            changes.at_once.push(path.to_owned());
        }
    }
}

/// A table of options.
pub(crate) trait Table {
    /// Its options, in the order in which they are declared and documented.
    fn options(&mut self) -> Vec<Entry<'_>>;
}

/// One option of a table.
pub(crate) struct Entry<'a> {
    /// The key in the configuration file.
    pub(crate) name: &'static str,
    /// The documentation, one line after another.
    pub(crate) doc: &'static str,
    /// A value to show in the example where the default is "not set".
    pub(crate) example: Option<&'static str>,
    /// The value.
    pub(crate) setting: &'a mut dyn Setting,
}

/// Declares tables of options: `name: Type = default;`, or `name: Type = default, example r#"TOML"#;` where the
/// default is "not set". The documentation of a field is also its text in `conduit-example.toml`.
macro_rules! options {
    ($(
        $(#[doc = $head:literal])+
        pub struct $table:ident {$(
            $(#[doc = $doc:literal])+
            $field:ident: $type:ty = $default:expr $(, example $example:literal)?;
        )+}
    )+) => {$(
        $(#[doc = $head])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $table {$(
            $(#[doc = $doc])+
            pub $field: $type,
        )+}

        impl Default for $table {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $crate::config::setting::Table for $table {
            fn options(&mut self) -> Vec<$crate::config::setting::Entry<'_>> {
                vec![$($crate::config::setting::Entry {
                    name: stringify!($field),
                    doc: concat!($($doc, "\n"),+),
                    example: [$($example)?].first().copied(),
                    setting: &mut self.$field,
                }),+]
            }
        }

        impl $crate::config::setting::Setting for $table {
            fn read(&mut self, value: &toml::Value) -> Result<(), String> {
                $crate::config::setting::unexpected("a table of options", value)
            }

            fn write(&self) -> Option<String> {
                None
            }

            fn table(&mut self) -> Option<&mut dyn $crate::config::setting::Table> {
                Some(self)
            }

            fn succeed(&mut self, running: &Self, path: &str, changes: &mut $crate::config::reload::Changes) {
                let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
                $($crate::config::setting::Setting::succeed(
                    &mut self.$field,
                    &running.$field,
                    &format!("{prefix}{}", stringify!($field)),
                    changes,
                );)+
            }
        }
    )+};
}
pub(crate) use options;

/// A type of value that is read from one TOML value.
pub(crate) trait Scalar: Sized {
    /// The value, or the reason why it is not one, in the words after "key: ".
    fn parse(value: &Value) -> Result<Self, String>;

    /// The value as TOML.
    fn print(&self) -> String;
}

impl<T: Scalar> Setting for T {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self = T::parse(value)?;
        Ok(())
    }

    fn write(&self) -> Option<String> {
        Some(self.print())
    }
}

/// An empty text unsets an option that need not be set.
impl<T: Scalar> Setting for Option<T> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self = if value.as_str() == Some("") { None } else { Some(T::parse(value)?) };
        Ok(())
    }

    fn write(&self) -> Option<String> {
        self.as_ref().map(T::print)
    }
}

/// A single value stands for a list of one.
impl<T: Scalar> Setting for Vec<T> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self = match value {
            Value::Array(values) => values.iter().map(T::parse).collect::<Result<_, _>>()?,
            single => vec![T::parse(single)?],
        };
        Ok(())
    }

    fn write(&self) -> Option<String> {
        let items: Vec<String> = self.iter().map(T::print).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// The reason for a value of the wrong kind.
pub(crate) fn unexpected<T>(expected: &str, value: &Value) -> Result<T, String> {
    let found = match value {
        Value::String(text) => format!("the text {}", quote(text)),
        Value::Integer(number) => format!("the number {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(flag) => format!("{flag}"),
        Value::Datetime(date) => format!("the date {date}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    };
    Err(format!("expected {expected}, found {found}"))
}

/// A TOML string.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

impl Scalar for String {
    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(text.clone()),
            other => unexpected("a text in quotes", other),
        }
    }

    fn print(&self) -> String {
        quote(self)
    }
}

impl Scalar for PathBuf {
    fn parse(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some(path) if !path.is_empty() => Ok(path.into()),
            _ => unexpected("a path in quotes", value),
        }
    }

    fn print(&self) -> String {
        quote(&self.to_string_lossy())
    }
}

impl Scalar for bool {
    fn parse(value: &Value) -> Result<Self, String> {
        match value {
            Value::Boolean(flag) => Ok(*flag),
            Value::String(text) if text == "true" => Ok(true),
            Value::String(text) if text == "false" => Ok(false),
            other => unexpected("true or false", other),
        }
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

/// Whole numbers, also in quotes, since that is how they often arrive from the environment.
macro_rules! whole_numbers {
    ($($type:ty)+) => {$(
        impl Scalar for $type {
            fn parse(value: &Value) -> Result<Self, String> {
                let number = match value {
                    Value::Integer(number) => Self::try_from(*number).ok(),
                    Value::String(text) => text.replace('_', "").parse().ok(),
                    _ => None,
                };
                match number {
                    Some(number) => Ok(number),
                    None => unexpected(&format!("a whole number from 0 to {}", <$type>::MAX), value),
                }
            }

            fn print(&self) -> String {
                self.to_string()
            }
        }
    )+};
}
whole_numbers!(u16 u32);

impl Scalar for IpAddr {
    fn parse(value: &Value) -> Result<Self, String> {
        let parsed = value.as_str().and_then(|text| text.trim_matches(['[', ']']).parse().ok());
        parsed.map_or_else(|| unexpected("an IP address such as \"127.0.0.1\" or \"::1\"", value), Ok)
    }

    fn print(&self) -> String {
        quote(&self.to_string())
    }
}

impl Scalar for SocketAddr {
    fn parse(value: &Value) -> Result<Self, String> {
        let parsed = value.as_str().and_then(|text| text.parse().ok());
        parsed.map_or_else(|| unexpected("an address and port such as \"127.0.0.1:9168\" or \"[::1]:9168\"", value), Ok)
    }

    fn print(&self) -> String {
        quote(&self.to_string())
    }
}

impl Scalar for OwnedServerName {
    fn parse(value: &Value) -> Result<Self, String> {
        let parsed = value.as_str().and_then(|text| ServerName::parse(text).ok());
        parsed.map_or_else(|| unexpected("a server name such as \"example.org\", without https://", value), Ok)
    }

    fn print(&self) -> String {
        quote(self.as_str())
    }
}

impl Scalar for OwnedRoomOrAliasId {
    fn parse(value: &Value) -> Result<Self, String> {
        let parsed = value.as_str().and_then(|text| RoomOrAliasId::parse(text).ok());
        parsed.map_or_else(|| unexpected("a room, such as \"#welcome:example.org\"", value), Ok)
    }

    fn print(&self) -> String {
        quote(self.as_str())
    }
}

impl Scalar for RoomVersionId {
    fn parse(value: &Value) -> Result<Self, String> {
        let text = value.as_integer().map_or_else(|| value.as_str().map(str::to_owned), |n| Some(n.to_string()));
        text.and_then(|text| Self::try_from(text).ok())
            .filter(|id| id.rules().is_some_and(|rules| rules.disposition == RoomVersionDisposition::Stable))
            .map_or_else(|| unexpected("a room version from \"1\" to \"12\"", value), Ok)
    }

    fn print(&self) -> String {
        quote(self.as_str())
    }
}

/// Units of time and their length in seconds; a month and a year are mean ones.
const TIME_UNITS: [(&[&str], u64); 7] = [
    (&["s", "sec", "secs", "second", "seconds"], 1),
    (&["m", "min", "mins", "minute", "minutes"], 60),
    (&["h", "hr", "hrs", "hour", "hours"], 3_600),
    (&["d", "day", "days"], 86_400),
    (&["w", "week", "weeks"], 604_800),
    (&["M", "month", "months"], 2_630_016),
    (&["y", "year", "years"], 31_557_600),
];

/// A number of seconds, or a text such as "90s", "12h", "30 days" or "1h 30min".
impl Scalar for Duration {
    fn parse(value: &Value) -> Result<Self, String> {
        let seconds = match value {
            Value::Integer(seconds) => u64::try_from(*seconds).ok(),
            Value::String(text) => seconds(text),
            _ => None,
        };
        seconds
            .map(Duration::from_secs)
            .map_or_else(|| unexpected("a number of seconds or a time such as \"12h\" or \"30d\"", value), Ok)
    }

    fn print(&self) -> String {
        let days = self.as_secs() / 86_400;
        match self.as_secs() % 86_400 {
            0 if days > 0 => format!("\"{days}d\""),
            _ => self.as_secs().to_string(),
        }
    }
}

/// The sum of the parts of a time such as "1h 30min"; a bare number counts seconds.
fn seconds(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.replace('_', "").parse() {
        return Some(seconds);
    }
    let mut rest = text.trim();
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (number, after) = leading_digits(rest)?;
        let after = after.trim_start();
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        let (_, length) = TIME_UNITS.iter().find(|(names, _)| names.contains(&unit))?;
        total = total.checked_add(number.checked_mul(*length)?)?;
        rest = after.trim_start();
    }
    (!text.trim().is_empty()).then_some(total)
}

/// The number that a text begins with, and what follows it.
pub(crate) fn leading_digits(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}
