//! The names that an application service is interested in, as regular expressions
//! ([spec](https://spec.matrix.org/latest/application-service-api/#registration)).
//!
//! An expression must fit from the beginning of a name on and need not reach its end, as bridges expect. They are matched
//! in linear time, whatever the expression; what such a matcher cannot do (looking around, references back) is refused
//! with the registration. `\d`, `\w` and the like mean ASCII, of which the names of users consist.

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

/// How much memory a compiled expression may take, in bytes.
const MAX_COMPILED: usize = 1024 * 1024;

/// One expression of a registration.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Whether nobody else can make what has such a name.
    pub exclusive: bool,
    /// What all names that fit begin with; empty if that is not obvious.
    pub prefix: String,
    regex: Regex,
}

/// An expression as a registration writes it.
#[derive(Deserialize)]
pub(super) struct Written {
    #[serde(default)]
    exclusive: bool,
    regex: String,
}

impl Namespace {
    /// Compiles what stands in a registration.
    ///
    /// # Errors
    /// A sentence about the expression, if it is none.
    pub(super) fn new(written: &Written) -> Result<Self, String> {
        let Written { exclusive, regex } = written;
        let whole = format!("^(?:{regex})");
        match RegexBuilder::new(&whole).unicode(false).size_limit(MAX_COMPILED).build() {
            Ok(compiled) => Ok(Self { exclusive: *exclusive, prefix: literal_prefix(regex), regex: compiled }),
            Err(_) => Err(format!("the expression {regex:?} is not understood")),
        }
    }

    /// Whether the name is in the namespace.
    pub fn has(&self, name: &str) -> bool {
        self.regex.is_match(name.as_bytes())
    }
}

/// What everything that the expression fits begins with: its characters up to the first that is more than itself.
fn literal_prefix(regex: &str) -> String {
    let mut prefix = String::new();
    if regex.contains('|') {
        return prefix;
    }
    let mut characters = regex.strip_prefix('^').unwrap_or(regex).chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped) if escaped.is_ascii_punctuation() => prefix.push(escaped),
                _ => break,
            },
            // These say how often the character before them comes.
            '*' | '?' | '{' => {
                prefix.pop();
                break;
            }
            '.' | '+' | '(' | ')' | '[' | ']' | '}' | '^' | '$' => break,
            literal => prefix.push(literal),
        }
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(regex: &str) -> Namespace {
        Namespace::new(&Written { exclusive: true, regex: regex.to_owned() }).unwrap()
    }

    #[test]
    fn expressions_fit_from_the_beginning() {
        let ghosts = namespace(r"@irc_.*:example\.org");
        assert!(ghosts.has("@irc_alice:example.org"));
        assert!(ghosts.has("@irc_alice:example.org.evil"), "the end is up to the expression");
        assert!(!ghosts.has("@not_@irc_alice:example.org"));
        assert!(!namespace("@a|@b").has("x@b"), "both branches are bound to the beginning");
    }

    #[test]
    fn prefixes_are_those_of_all_names() {
        for (regex, prefix) in [
            (r"@irc_.*", "@irc_"),
            (r"^@irc\-bridge\.x_\d+$", "@irc-bridge.x_"),
            (r"@ircs?_.*", "@irc"),
            (r"@a{2}", "@"),
            (r"@a+b", "@a"),
            (r"@(a|b)", ""),
            (r"(@a)?", ""),
            (r"[@]a", ""),
        ] {
            assert_eq!(namespace(regex).prefix, prefix, "{regex}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for regex in ["@(", r"(?=@a)", r"(@a)\1", "a{1000}{1000}"] {
            assert!(Namespace::new(&Written { exclusive: true, regex: regex.to_owned() }).is_err(), "{regex}");
        }
    }
}
