//! Glob patterns of push rules: `*` is any characters, `?` one, case is ignored
//! ([spec](https://spec.matrix.org/latest/appendices/#glob-style-matching)).
//!
//! A pattern is matched by simulating its automaton, one bit per state, so a match takes time in proportion to the text
//! whatever the pattern: patterns are users' input and are matched against others' messages.

/// The longest pattern with wildcards, in characters, since its states must fit into a `u128`.
pub const MAX_WILD: usize = 120;

/// A pattern, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Without wildcards, in lower case.
    Plain(String),
    Wild(Wild),
    /// Too long to match anything.
    Never,
}

/// The automaton of a pattern with wildcards. State `i` is "the first `i` tokens have matched"; the last is the end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wild {
    tokens: Vec<Token>,
    /// States at a `*`, which stay active.
    stars: u128,
    /// States at a `?`.
    any: u128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Star,
    Any,
    One(char),
}

impl Glob {
    /// Reads a pattern.
    pub fn new(pattern: &str) -> Self {
        let pattern = pattern.to_lowercase();
        if !pattern.contains(['*', '?']) {
            return Self(Kind::Plain(pattern));
        }
        let mut tokens = Vec::new();
        for character in pattern.chars() {
            match character {
                '*' if tokens.last() == Some(&Token::Star) => {}
                '*' => tokens.push(Token::Star),
                '?' => tokens.push(Token::Any),
                other => tokens.push(Token::One(other)),
            }
        }
        if tokens.len() > MAX_WILD {
            return Self(Kind::Never);
        }
        let states = |wanted: Token| {
            tokens.iter().enumerate().filter(|(_, token)| **token == wanted).fold(0, |bits, (at, _)| bits | (1 << at))
        };
        let (stars, any) = (states(Token::Star), states(Token::Any));
        Self(Kind::Wild(Wild { tokens, stars, any }))
    }

    /// Whether the pattern has wildcards and more characters than can be matched.
    pub fn is_too_long(&self) -> bool {
        self.0 == Kind::Never
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        match &self.0 {
            Kind::Plain(pattern) if text.is_ascii() => text.eq_ignore_ascii_case(pattern),
            Kind::Plain(pattern) => text.to_lowercase() == *pattern,
            Kind::Wild(wild) => wild.matches(&text.to_lowercase()),
            Kind::Never => false,
        }
    }

    /// Whether a part of `text` matches that starts and ends at a word boundary: `content.body` is matched so.
    /// `lower` is the text in lower case.
    pub fn matches_words(&self, lower: &str) -> bool {
        match &self.0 {
            Kind::Plain(pattern) if pattern.is_empty() => lower.is_empty(),
            Kind::Plain(pattern) => {
                let mut from = 0;
                while let Some(found) = lower.get(from..).and_then(|rest| rest.find(pattern.as_str())) {
                    let start = from + found;
                    if is_boundary(lower, start) && is_boundary(lower, start + pattern.len()) {
                        return true;
                    }
                    from = start + lower.get(start..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
                }
                false
            }
            Kind::Wild(wild) => wild.matches_words(lower),
            Kind::Never => false,
        }
    }
}

impl Wild {
    fn end(&self) -> u128 {
        1 << self.tokens.len()
    }

    /// With every state also the ones that a `*` may skip to. No two `*` follow each other.
    fn closed(&self, states: u128) -> u128 {
        states | ((states & self.stars) << 1)
    }

    fn step(&self, states: u128, character: char) -> u128 {
        let mut advancing = states & self.any;
        let mut rest = states & !self.any & !self.stars & !self.end();
        while rest != 0 {
            let at = rest.trailing_zeros();
            if self.tokens.get(at as usize) == Some(&Token::One(character)) {
                advancing |= 1 << at;
            }
            rest &= rest - 1;
        }
        self.closed((advancing << 1) | (states & self.stars))
    }

    fn matches(&self, text: &str) -> bool {
        let mut states = self.closed(1);
        for character in text.chars() {
            states = self.step(states, character);
            if states == 0 {
                return false;
            }
        }
        states & self.end() != 0
    }

    fn matches_words(&self, text: &str) -> bool {
        let mut states = 0;
        for (at, character) in text.char_indices() {
            if is_boundary(text, at) {
                if states & self.end() != 0 {
                    return true;
                }
                states |= self.closed(1);
            }
            states = self.step(states, character);
        }
        states & self.end() != 0 || (text.is_empty() && self.closed(1) & self.end() != 0)
    }
}

/// Whether there is a word boundary at byte `at` of the text: its start, its end, or a place that does not stand
/// between two characters of `[A-Za-z0-9_]`.
fn is_boundary(text: &str, at: usize) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = text.as_bytes();
    let before = at.checked_sub(1).and_then(|before| bytes.get(before));
    match (before, bytes.get(at)) {
        (Some(before), Some(after)) => !(is_word(*before) && is_word(*after)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_values() {
        for (pattern, text, matches) in [
            ("lunc?*", "Lunch plans", true),
            ("lunc?*", "LUNCH", true),
            ("lunc?*", " lunch", false),
            ("lunc?*", "lunc", false),
            ("", "", true),
            ("*", "", true),
            ("m.room.message", "M.Room.Message", true),
            ("ÄRGER", "ärger", true),
            ("a*b*c", "a--b--b-c", true),
            ("a*b*c", "a--b--b-cd", false),
            ("??", "é!", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), matches, "{pattern} on {text}");
        }
    }

    #[test]
    fn words() {
        for (pattern, text, matches) in [
            ("ex*ple", "an example event.", true),
            ("ex*ple", "exple", true),
            ("ex*ple", "an exciting triple-whammy", true),
            ("ex*ple", "examples", false),
            ("cake", "cakes and a cake", true),
            ("cake", "cupcake", false),
            ("cake", "pancake_cake cakecake", false),
            ("a?", "xa! a", false),
            ("a?", "x a! b", true),
            ("*", "", true),
            ("", "something", false),
            ("foo bar", "so foo bar it is", true),
            ("ab", "aab ab", true),
            ("é", "caf-é", true),
        ] {
            assert_eq!(Glob::new(pattern).matches_words(text), matches, "{pattern} on {text}");
        }
    }

    #[test]
    fn long_patterns_with_wildcards_match_nothing() {
        let pattern = Glob::new(&"?".repeat(MAX_WILD + 1));
        assert!(pattern.is_too_long() && !pattern.matches(&"x".repeat(MAX_WILD + 1)));
        assert!(Glob::new(&"?".repeat(MAX_WILD)).matches(&"x".repeat(MAX_WILD)));
    }
}
